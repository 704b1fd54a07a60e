// OOM kills in the kernel's log, and the limit that caused each.
import { constants, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupDirectory, type Hierarchy } from '../helpers/cgroups.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';

/** The limit that caused a kill: the container's own, one above it, one of a cgroup inside it, or the host's memory. */
export type Level = 'own' | 'parent' | 'inside' | 'host';

/** An OOM kill in the kernel's log. `limitCgroup` is null if the whole host was short of memory. */
export interface LoggedKill {
  sinceBootSeconds: number;
  limitCgroup: string | null;
  taskCgroup: string;
  name: string;
  pid: number;
}

/**
 * The OOM kill in a record of the kernel's log, if there is one. The form of a record is `6,1234,MICROSECONDS,-;TEXT` in
 * /dev/kmsg, and `<6>[SECONDS] TEXT` from `dmesg --raw`.
 */
export function parseLoggedKill(record: string): LoggedKill | undefined {
  // a name or a cgroup may contain anything but a newline, so the expression is greedy: it finds the last match
  const [, microseconds, seconds, , limitCgroup = null, taskCgroup = '', name = '', pid] =
    /^(?:\d+,\d+,(\d+),[^;]*;|<\d+>\[ *([\d.]+)\] )oom-kill:constraint=\w+,.*?,(global_oom|oom_memcg=(.*)),task_memcg=(.*),task=(.*),pid=(\d+),uid=\d+/.exec(
      record,
    ) ?? [];
  if (pid === undefined) return undefined;
  return {
    sinceBootSeconds: seconds === undefined ? Number(microseconds) / 1e6 : Number(seconds),
    limitCgroup,
    taskCgroup,
    name,
    pid: Number(pid),
  };
}

/** The size of a killed process; null if no record has it. */
export interface Size {
  bytes: number | null;
}

/**
 * The OOM kills among records of the kernel's log, in their order. One record has the limit, a later one the size: the
 * memory that the process alone had, without that of files.
 */
export function parseLoggedKills(records: string[]): (LoggedKill & Size)[] {
  return records.flatMap((record, index) => {
    const kill = parseLoggedKill(record);
    if (!kill) return [];
    const size = records.slice(index).find((line) => line.includes(`Killed process ${kill.pid} `)) ?? '';
    const parts = [...size.matchAll(/(?:anon|shmem)-rss:(\d+)kB/g)].map((match) => Number(match[1]) * 1024);
    return [{ ...kill, bytes: parts.length > 0 ? parts.reduce((sum, part) => sum + part) : null }];
  });
}

/**
 * A function that gives the records about OOM kills that the kernel's log has got since the last call, the oldest first.
 * undefined: this user may not read the log.
 */
export function followKernelLog(): (() => string[]) | undefined {
  // the log has no end: a read that would wait fails with EAGAIN
  const file = attempt(() => openSync('/dev/kmsg', constants.O_RDONLY | constants.O_NONBLOCK));
  if (file === undefined) return undefined;
  const buffer = Buffer.alloc(8192);
  return () => {
    const records: string[] = [];
    for (;;)
      try {
        const record = buffer.toString('utf8', 0, readSync(file, buffer));
        if (record === '') return records;
        if (/oom-kill:|Killed process \d/.test(record)) records.push(record);
      } catch (error) {
        // EPIPE: the record has been overwritten; the next read gives the next one
        if ((error as NodeJS.ErrnoException).code !== 'EPIPE') return records;
      }
  };
}

/** A cgroup's path in the whole tree, as the kernel's log has it; undefined for a directory that is not in it. */
export function pathOf(hierarchy: Hierarchy, directory: string): string | undefined {
  const { mountPoint, root } = hierarchy;
  const path = directory.startsWith(`${mountPoint}/`)
    ? join(root, directory.slice(mountPoint.length))
    : undefined;
  return path !== undefined && cgroupDirectory(hierarchy, path) === directory ? path : undefined;
}

/** Where a limit is, relative to the container's own cgroup. Both are paths from the root of the tree. */
export function levelOf(limitCgroup: string | null, own: string): Level {
  if (limitCgroup === null) return 'host';
  if (limitCgroup === own) return 'own';
  return isBelow(limitCgroup, own) ? 'inside' : 'parent';
}
