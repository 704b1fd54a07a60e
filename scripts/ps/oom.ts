// OOM kills of a container, and the limit that was exceeded: counters of the memory controller, and the kernel's log.
import { constants, openSync, readFileSync, readSync } from 'node:fs';
import { uptime } from 'node:os';
import { dirname, join } from 'node:path';
import { cgroupDirectory, cgroupsBelow, type Hierarchy, pathOf } from '../helpers/cgroups.ts';
import { attempt } from '../helpers/pids.ts';
import { memoryFiles, readBytes } from '../limit/table.ts';
import { numberOf, type Places } from './usage.ts';

/** The limit that was exceeded: the container's own, that of a cgroup above or below it, or the host's memory. */
export type Level = 'own' | 'parent' | 'inside' | 'host';

export interface OomKills {
  count: number;
  /** of the last kill; null if unknown */
  level: Level | null;
  /** the cgroup whose limit was exceeded */
  cgroup: string | null;
  process: { pid: number; name: string } | null;
  at: string | null;
}

/** An OOM kill in the kernel's log. `limitCgroup` is null if the host was out of memory. */
export interface LoggedKill {
  sinceBootSeconds: number;
  limitCgroup: string | null;
  taskCgroup: string;
  name: string;
  pid: number;
}

/** Parses a record of /dev/kmsg, `6,1234,MICROSECONDS,-;TEXT`; undefined if it is not of an OOM kill. */
export function parseLoggedKill(record: string): LoggedKill | undefined {
  // names of processes and cgroups may contain anything but a newline, so the last fields are matched from the end
  const [, microseconds, , limitCgroup = null, taskCgroup = '', name = '', pid] =
    /^\d+,\d+,(\d+),[^;]*;oom-kill:constraint=\w+,.*?,(global_oom|oom_memcg=(.*)),task_memcg=(.*),task=(.*),pid=(\d+),uid=\d+/.exec(
      record,
    ) ?? [];
  if (pid === undefined) return undefined;
  return {
    sinceBootSeconds: Number(microseconds) / 1e6,
    limitCgroup,
    taskCgroup,
    name,
    pid: Number(pid),
  };
}

/**
 * A function that returns the records of the kernel's log since its last call that contain `word`, oldest first.
 * undefined if this user may not read the log.
 */
export function followKernelLog(word: string): (() => string[]) | undefined {
  // the log has no end: O_NONBLOCK makes a read at its end fail with EAGAIN
  const file = attempt(() => openSync('/dev/kmsg', constants.O_RDONLY | constants.O_NONBLOCK));
  if (file === undefined) return undefined;
  const buffer = Buffer.alloc(8192);
  return () => {
    const records: string[] = [];
    for (;;)
      try {
        const record = buffer.subarray(0, readSync(file, buffer));
        if (record.length === 0) return records;
        if (record.includes(word)) records.push(record.toString());
      } catch (error) {
        // EPIPE: the record has been overwritten; the next read continues after it
        if ((error as NodeJS.ErrnoException).code !== 'EPIPE') return records;
      }
  };
}

/** A function that returns all OOM kills in the kernel's log, oldest first. Its first call opens the log. */
export function openKernelLog(): () => LoggedKill[] {
  const kills: LoggedKill[] = [];
  let read: (() => string[]) | undefined;
  return () => {
    read ??= followKernelLog('oom-kill:') ?? (() => []);
    kills.push(...read().flatMap((record) => parseLoggedKill(record) ?? []));
    return kills;
  };
}

/** The level of a limit relative to a container's own cgroup; both are paths from the root of the hierarchy. */
export function levelOf(limitCgroup: string | null, own: string): Level {
  if (limitCgroup === null) return 'host';
  if (limitCgroup === own) return 'own';
  return limitCgroup.startsWith(`${own}/`) ? 'inside' : 'parent';
}

/** The level without the log. `hit`: cgroups that have reached their limits; none means the host, several are ambiguous. */
export function guessLevel(hit: string[], own: string): Pick<OomKills, 'level' | 'cgroup'> {
  const [cgroup = null, other] = hit;
  return other === undefined ? { level: levelOf(cgroup, own), cgroup } : { level: null, cgroup: null };
}

const numberIn = (file: string, key: string) =>
  numberOf(
    attempt(() => readFileSync(file, 'utf8')),
    key,
  );

/** Whether a cgroup has reached its own limit: on v2 with an OOM kill, on v1 perhaps without. */
function hasHit(version: 1 | 2, directory: string): boolean {
  if (version === 2) return (numberIn(join(directory, 'memory.events.local'), 'oom') ?? 0) > 0;
  // v1 has a limit and a maximum for memory, and for memory and swap together. Some kernels leave failcnt at 0; memory
  // is charged in batches of up to 64 pages
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
  const countOf = (cgroup: string) => numberIn(join(cgroup, memoryFiles[version].oomKills), 'oom_kill');
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
