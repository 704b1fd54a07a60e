// Waits until the kernel kills processes of a target for lack of memory: which, how large, and whose limit it was.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupDirectory, type Hierarchy, processesIn } from '../helpers/cgroups.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt, descendants, readProcess, readProcesses, startTicks } from '../helpers/pids.ts';
import { readNumber } from './counters.ts';
import { followKernelLog, type Level, levelOf, parseLoggedKills, pathOf } from './oom.ts';
import { guessLevel } from './oom-kills.ts';
import { memoryFiles, readBytes } from './table.ts';
import type { Target } from './target.ts';

/** A process that the kernel killed for lack of memory. null: unknown without the kernel's log. */
export interface Kill {
  pid: number | null;
  name: string | null;
  bytes: number | null;
  level: Level | null;
  /** the cgroup whose limit it was, as its path from the root of the tree */
  cgroup: string | null;
  /** false: guessed from which process has ended, without the kernel's log */
  logged: boolean;
}

/** The kills in the cgroup `own` among records of the log. */
export function parseKills(records: string[], own: string): Kill[] {
  return parseLoggedKills(records)
    .filter(({ taskCgroup }) => isBelow(taskCgroup, own))
    .map(({ pid, name, bytes, limitCgroup }) => {
      return { pid, name, bytes, level: levelOf(limitCgroup, own), cgroup: limitCgroup, logged: true };
    });
}

/** How often a cgroup and those above it have reached their limits; for v1 also whether they were ever full. */
function readHits(hierarchy: Hierarchy, path: string) {
  const parts = path === '/' ? [''] : path.split('/');
  return parts.map((_, index) => {
    const cgroup = parts.slice(0, index + 1).join('/') || '/';
    const at = cgroupDirectory(hierarchy, cgroup) ?? '';
    if (hierarchy.version === 2)
      return { cgroup, count: readNumber(join(at, 'memory.events.local'), 'oom') ?? 0, isFull: false };
    // Linux 6.18 counts no failures of the sum of memory and swap
    const limit = readBytes(join(at, memoryFiles[1].swap)) ?? Infinity;
    const peak = readBytes(join(at, 'memory.memsw.max_usage_in_bytes')) ?? 0;
    const count = readBytes(join(at, 'memory.failcnt')) ?? 0;
    return { cgroup, count, isFull: peak > limit - 256 * 1024 };
  });
}

/** Without the log: the only cgroup that has reached its limit since. If there is none, the host; several: unknown. */
function whoseLimit(before: ReturnType<typeof readHits>, now: ReturnType<typeof readHits>, own: string) {
  const newly = now.filter(({ count, isFull }, index) => {
    const old = before[index];
    return count > (old?.count ?? 0) || (isFull && !old?.isFull);
  });
  const hit = newly.length > 0 ? newly : now.filter(({ isFull }) => isFull);
  return guessLevel(
    hit.map(({ cgroup }) => cgroup),
    own,
  );
}

/**
 * Waits until a target has ended, and yields each of its processes that the kernel kills for lack of memory. The counter
 * says that there was one, the kernel's log which. Without the log, it is the largest that has ended since the last look.
 */
export async function* watchKills(target: Target, text: string): AsyncGenerator<Kill> {
  const { version, top, toMove, origin } = target;
  // a tree without a cgroup of its own is watched in one that it shares: kills of other processes are left out
  const isShared = toMove.length > 0 && origin !== undefined;
  const directory = isShared ? origin : target.directory;
  const path = pathOf(target, directory) ?? target.root;
  const readLog = followKernelLog();
  readLog?.(); // earlier records do not count
  const readCount = () => readNumber(join(directory, memoryFiles[version].oomKills), 'oom_kill') ?? 0;
  const readMembers = () => {
    const pids = isShared
      ? descendants(readProcesses(), [top?.pid ?? 0]).map(({ pid }) => pid)
      : (attempt(() => processesIn(directory)) ?? []);
    return new Map(pids.map((pid) => [pid, readProcess(pid)]));
  };
  let count = readCount();
  let members = readMembers();
  let hits = readHits(target, path); // a limit is reached some time before a process is killed
  let told = count;
  let records: string[] = [];
  console.error(`limit-memory: watching ${directory} until ${text} ends`);
  for (let late = 0; ; ) {
    const hasEnded = top
      ? startTicks(top.pid) !== target.startTicks || readProcess(top.pid)?.zombie
      : members.size === 0;
    records.push(...(readLog?.() ?? []));
    const countNow = readCount();
    const membersNow = readMembers();
    const kills = parseKills(records, path).filter(({ pid }) => !isShared || members.has(pid ?? 0));
    const vanished = [...members].filter(([pid]) => !membersNow.has(pid));
    const size = ([, process]: (typeof vanished)[number]) => process?.rssBytes ?? 0;
    // the kernel mostly kills the largest: one that has ended by itself meanwhile must not be taken for it
    const hasLargest = Math.max(0, ...vanished.map(size)) >= Math.max(0, ...[...members].map(size));
    const untold = countNow - told - kills.length;
    const missing = isShared ? Math.min(untold, readLog ? 0 : vanished.length) : untold;
    // the counter changes before the log does, and before the process has ended
    if (missing > 0 && (readLog || vanished.length < missing || !hasLargest) && late++ < 5 && !hasEnded) {
      await sleep(20);
      continue;
    }
    yield* kills;
    const bySize = vanished
      .flatMap(([, process]) => process ?? [])
      .sort((one, other) => other.rssBytes - one.rssBytes);
    for (let index = 0; index < missing; index++) {
      const { pid = null, name = null, rssBytes: bytes = null } = bySize[index] ?? {};
      yield { pid, name, bytes, ...whoseLimit(hits, readHits(target, path), path), logged: false };
    }
    if (hasEnded && (membersNow.size === 0 || isShared)) return;
    if (countNow > count) hits = readHits(target, path);
    told = isShared ? countNow : Math.max(countNow, told + kills.length);
    count = countNow;
    members = membersNow;
    records = [];
    late = 0;
    await sleep(readLog ? 100 : 20); // without the log, only a process that was seen alive can be named
  }
}
