// Who was killed for want of memory, and whose limit it was: from the memory controller's counters and the kernel's log.
import { uptime } from 'node:os';
import { dirname, join } from 'node:path';
import { cgroupDirectory, cgroupsBelow, type Hierarchy } from '../helpers/cgroups.ts';
import { readNumber } from '../limit/counters.ts';
import {
  followKernelLog,
  type Level,
  type LoggedKill,
  levelOf,
  parseLoggedKill,
  pathOf,
} from '../limit/oom.ts';
import { memoryFiles, readBytes } from '../limit/table.ts';
import type { Places } from './usage.ts';

export interface OomKills {
  count: number;
  /** of the last kill; null if unknown */
  level: Level | null;
  /** the cgroup whose limit was exceeded */
  cgroup: string | null;
  process: { pid: number; name: string } | null;
  at: string | null;
}

/** A function that gives all OOM kills in the kernel's log so far, the oldest first. The log is opened when it is asked. */
export function openKernelLog(): () => LoggedKill[] {
  const kills: LoggedKill[] = [];
  let read: (() => string[]) | undefined;
  return () => {
    read ??= followKernelLog('oom-kill:') ?? (() => []);
    kills.push(...read().flatMap((record) => parseLoggedKill(record) ?? []));
    return kills;
  };
}

/** Where the log says nothing. `hit`: the cgroups that have run into their limits: one, none for the host, or who knows. */
export function guessLevel(hit: string[], own: string): Pick<OomKills, 'level' | 'cgroup'> {
  const [cgroup = null, other] = hit;
  return other === undefined ? { level: levelOf(cgroup, own), cgroup } : { level: null, cgroup: null };
}

/** Whether a cgroup ran into its own limit: in v2 with an OOM kill, in v1 perhaps without. */
function hasHit(version: 1 | 2, directory: string): boolean {
  if (version === 2) return (readNumber(join(directory, 'memory.events.local'), 'oom') ?? 0) > 0;
  // v1 limits memory, and memory and swap together, and for each has the most that it was. Some kernels leave
  // failcnt at 0; memory is counted in lots of up to 64 pages
  return ['memory', 'memory.memsw'].some((kind) => {
    const [failures, most, limit] = ['failcnt', 'max_usage_in_bytes', 'limit_in_bytes'].map((file) =>
      readBytes(join(directory, `${kind}.${file}`)),
    );
    return Boolean(failures) || (most ?? 0) >= (limit ?? Number.POSITIVE_INFINITY) - 64 * 4096;
  });
}

/**
 * The OOM kills in a container's own memory cgroup; null if it has none. `logged` is called only if there are kills.
 * Records from before the container's start belong to an earlier container of that name.
 */
export function readOomKills(
  place: Places['memory'],
  hierarchy: Hierarchy | undefined,
  startedBootSeconds: number,
  logged: () => LoggedKill[],
): OomKills | null {
  if (!place || !hierarchy) return null;
  const { version, directory } = place;
  const countOf = (cgroup: string) => readNumber(join(cgroup, memoryFiles[version].oomKills), 'oom_kill');
  const own = countOf(directory);
  if (own === undefined) return null; // Linux before 4.13
  // v2's counter includes the cgroups below
  const below = version === 1 ? cgroupsBelow(directory) : [];
  const count = below.reduce((sum, cgroup) => sum + (countOf(cgroup) ?? 0), own);
  if (count === 0) return { count, level: null, cgroup: null, process: null, at: null };

  const path = pathOf(hierarchy, directory) ?? '';
  const last = logged().findLast(
    ({ taskCgroup, sinceBootSeconds }) =>
      sinceBootSeconds >= startedBootSeconds && (taskCgroup === path || taskCgroup.startsWith(`${path}/`)),
  );
  if (last)
    return {
      count,
      level: levelOf(last.limitCgroup, path),
      cgroup: last.limitCgroup,
      process: { pid: last.pid, name: last.name },
      at: new Date(Date.now() - (uptime() - last.sinceBootSeconds) * 1000).toISOString(),
    };
  const paths = [...cgroupsBelow(directory).map((cgroup) => pathOf(hierarchy, cgroup) ?? ''), path];
  for (let at = dirname(path); at !== '/' && at.startsWith(hierarchy.root); at = dirname(at)) paths.push(at);
  const hit = paths.flatMap((cgroup) => {
    const at = cgroupDirectory(hierarchy, cgroup);
    return at !== undefined && hasHit(version, at) ? [cgroup] : [];
  });
  return { count, ...guessLevel(hit, path), process: null, at: null };
}
