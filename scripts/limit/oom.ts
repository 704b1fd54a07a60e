// OOM kills in the kernel's log, and whose limit each was.
import { constants, openSync, readSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';

/** Where memory was short: the container's own limit, one above it, one of a cgroup inside of it, or the host. */
export type Level = 'own' | 'parent' | 'inside' | 'host';

/** An OOM kill as the kernel's log tells it. `limitCgroup` is null where the whole host was short of memory. */
export interface LoggedKill {
  sinceBootSeconds: number;
  limitCgroup: string | null;
  taskCgroup: string;
  name: string;
  pid: number;
}

/** The OOM kill that a record of /dev/kmsg tells of, if it does. Its form: `6,1234,MICROSECONDS,-;TEXT`. */
export function parseLoggedKill(record: string): LoggedKill | undefined {
  // a name or a cgroup may contain anything but a newline, so what is told last is looked for from the end
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
 * A function that gives what the kernel's log has had since it was last called: the records with `word` in them, the
 * oldest first. undefined where this user may not read the log.
 */
export function followKernelLog(word: string): (() => string[]) | undefined {
  // it has no end, so a read that would wait must not: EAGAIN
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
        // EPIPE: that record has been overwritten meanwhile, the next one is read
        if ((error as NodeJS.ErrnoException).code !== 'EPIPE') return records;
      }
  };
}

/** Where a limit lies, seen from a container's own cgroup; both are paths from the root of the tree. */
export function levelOf(limitCgroup: string | null, own: string): Level {
  if (limitCgroup === null) return 'host';
  if (limitCgroup === own) return 'own';
  return limitCgroup.startsWith(`${own}/`) ? 'inside' : 'parent';
}
