// Who was killed for lack of memory, and whose limit it was: from the memory controller's counters and the kernel's log.
import { uptime } from 'node:os';
import { dirname, join } from 'node:path';
import { cgroupsBelow, type Hierarchy } from '../helpers/cgroups.ts';
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

const kills: LoggedKill[] = [];
let readLog: (() => string[]) | undefined;

/** All OOM kills in the kernel's log so far, the oldest first. The log is opened at the first call. */
function loggedKills(): LoggedKill[] {
  readLog ??= followKernelLog('oom-kill:') ?? (() => []);
  kills.push(...readLog().flatMap((record) => parseLoggedKill(record) ?? []));
  return kills;
}

/** The level of a kill that is not in the log. `hit`: the cgroups that reached their limits; none: the host's memory. */
export function guessLevel(hit: string[], own: string): Pick<OomKills, 'level' | 'cgroup'> {
  const [cgroup = null] = hit;
  return hit.length > 1 ? { level: null, cgroup: null } : { level: levelOf(cgroup, own), cgroup };
}

/** Whether a cgroup reached its own limit: in v2 with an OOM kill, in v1 perhaps without. */
function hasHit(version: 1 | 2, directory: string): boolean {
  if (version === 2) return (readNumber(join(directory, 'memory.events.local'), 'oom') ?? 0) > 0;
  // v1 limits memory, and memory and swap together, and has a high-water mark of each. Some kernels leave failcnt at 0;
  // the kernel charges memory in batches of up to 64 pages
  return ['memory', 'memory.memsw'].some((kind) => {
    const [failures, most, limit] = ['failcnt', 'max_usage_in_bytes', 'limit_in_bytes'].map((file) =>
      readBytes(join(directory, `${kind}.${file}`)),
    );
    return Boolean(failures) || (most ?? 0) >= (limit ?? Number.POSITIVE_INFINITY) - 64 * 4096;
  });
}

/**
 * The OOM kills in a container's own memory cgroup; null if it has none. Records of the log from before the container's
 * start belong to an earlier container of that name.
 */
export function readOomKills(
  place: Places['memory'],
  hierarchy: Hierarchy | undefined,
  startedBootSeconds: number,
): OomKills | null {
  if (!place || !hierarchy) return null;
  const { version, directory } = place;
  const countOf = (cgroup: string) => readNumber(join(cgroup, memoryFiles[version].oomKills), 'oom_kill');
  const own = countOf(directory);
  if (own === undefined) return null; // Linux before 4.13
  // v2's counter includes the cgroups below
  const below = version === 1 ? cgroupsBelow(directory) : [];
  const count = below.reduce((sum, cgroup) => sum + (countOf(cgroup) ?? 0), own);
  const unknown = { count, level: null, cgroup: null, process: null, at: null };
  if (count === 0) return unknown;

  const path = pathOf(hierarchy, directory) ?? '';
  const last = loggedKills().findLast(
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
  const suspects = [...cgroupsBelow(directory), directory];
  for (let at = dirname(directory); at.startsWith(hierarchy.mountPoint); at = dirname(at)) suspects.push(at);
  const hit = suspects
    .filter((at) => hasHit(version, at))
    .map((at) => pathOf(hierarchy, at) ?? hierarchy.root);
  return { ...unknown, ...guessLevel(hit, path) };
}
