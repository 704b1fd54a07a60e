// Waits for the kernel to kill processes of a target for lack of memory: which, how large, and whose limit it was.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupDirectory, type Hierarchy, processesIn, readNumber } from '../helpers/cgroups.ts';
import {
  attempt,
  descendants,
  type Process,
  readProcess,
  readProcesses,
  startTicks,
} from '../helpers/pids.ts';
import { followKernelLog, type Level, levelOf, parseLoggedKill } from './oom.ts';
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

/** The kills in the cgroup `own` among records of the log: one record has the limit, a later one the size. */
export function parseKills(records: string[], own: string): Kill[] {
  return records.flatMap((record, index) => {
    const kill = parseLoggedKill(record);
    if (!kill || !`${kill.taskCgroup}/`.startsWith(own === '/' ? '/' : `${own}/`)) return [];
    const { pid, name, limitCgroup } = kill;
    const size = records.slice(index).find((line) => line.includes(`Killed process ${pid} `)) ?? '';
    const parts = [...size.matchAll(/(?:anon|shmem)-rss:(\d+)kB/g)].map((match) => Number(match[1]) * 1024);
    const bytes = parts.length > 0 ? parts.reduce((sum, part) => sum + part) : null;
    return { pid, name, bytes, level: levelOf(limitCgroup, own), cgroup: limitCgroup, logged: true };
  });
}

/** How often a cgroup and those above it have run into their limits; v1 also says whether they ever were full. */
function readHits(hierarchy: Hierarchy, path: string) {
  const parts = path.split('/');
  const levels = parts.map((_, index) => parts.slice(0, index + 1).join('/') || '/');
  return levels.map((cgroup) => {
    const at = cgroupDirectory(hierarchy, cgroup) ?? '';
    if (hierarchy.version === 2)
      return { cgroup, count: readNumber(join(at, 'memory.events.local'), 'oom') ?? 0, isFull: false };
    // Linux 6.18 counts no failures of the sum of memory and swap
    const files = [memoryFiles[1].swap, 'memory.memsw.max_usage_in_bytes'];
    const [limit, peak] = files.map((file) => readBytes(join(at, file)));
    const isFull = typeof limit === 'number' && typeof peak === 'number' && peak > limit - 256 * 1024;
    return { cgroup, count: readBytes(join(at, 'memory.failcnt')) ?? 0, isFull };
  });
}

/** Without the log: the only cgroup that has run into its limit since. None: the host; several: not to be told. */
function whoseLimit(before: ReturnType<typeof readHits>, now: ReturnType<typeof readHits>, own: string) {
  const isNew = ({ count, isFull }: (typeof now)[number], index: number) =>
    count > (before[index]?.count ?? 0) || (isFull && !before[index]?.isFull);
  const newly = now.filter(isNew);
  const [hit, ...others] = newly.length > 0 ? newly : now.filter(({ isFull }) => isFull);
  if (others.length > 0) return { level: null, cgroup: null };
  return { level: levelOf(hit?.cgroup ?? null, own), cgroup: hit?.cgroup ?? null };
}

/**
 * Waits until a target has ended, and calls `report` for each process of it that the kernel kills for want of memory.
 * The counter says that there was one, the kernel's log which; without that, who has vanished since the last look.
 */
export async function watchKills(
  hierarchy: Hierarchy,
  { directory: its, toMove, origin, top, startTicks: started }: Target,
  onReady: (directory: string) => void,
  report: (kill: Kill) => void,
): Promise<void> {
  // a tree without a cgroup of its own is watched where it is, among others: of their kills nothing is said
  const isShared = toMove.length > 0 && origin !== undefined;
  const directory = isShared ? origin : its;
  const path = join(hierarchy.root, directory.slice(hierarchy.mountPoint.length)).replace(/(.)\/$/, '$1');
  const readLog = followKernelLog('');
  readLog?.(); // what was before does not count
  const look = () => ({
    count: readNumber(join(directory, memoryFiles[hierarchy.version].oomKills), 'oom_kill') ?? 0,
    pids: isShared
      ? descendants(readProcesses(), [top?.pid ?? 0]).map(({ pid }) => pid)
      : (attempt(() => processesIn(directory)) ?? []),
  });
  let seen = look();
  let counted = seen.count;
  let hits = readHits(hierarchy, path); // a limit is run into for some time before somebody is killed
  let records: string[] = [];
  const members = new Map<number, Process | undefined>(seen.pids.map((pid) => [pid, readProcess(pid)]));
  onReady(directory);
  for (let late = 0; ; ) {
    const hasEnded = top
      ? startTicks(top.pid) !== started || readProcess(top.pid)?.zombie
      : seen.pids.length === 0;
    records.push(...(readLog?.() ?? []));
    const now = look();
    const kills = parseKills(records, path).filter(({ pid }) => !isShared || members.has(pid ?? 0));
    const vanished = seen.pids.filter((pid) => !now.pids.includes(pid));
    const untold = now.count - counted - kills.length;
    const missing = isShared ? Math.min(untold, readLog ? 0 : vanished.length) : untold;
    // the counter is ahead of the log, and of the process's end
    if (missing > 0 && (readLog || vanished.length < missing) && late++ < 5 && !hasEnded) {
      await sleep(20);
      continue;
    }
    for (const kill of kills) report(kill);
    const bySize = vanished
      .flatMap((pid) => members.get(pid) ?? [])
      .sort((one, other) => other.rssBytes - one.rssBytes);
    for (let index = 0; index < missing; index++) {
      const { pid = null, name = null, rssBytes: bytes = null } = bySize[index] ?? {};
      report({ pid, name, bytes, ...whoseLimit(hits, readHits(hierarchy, path), path), logged: false });
    }
    if (hasEnded && (now.pids.length === 0 || isShared)) return;
    if (now.count > seen.count) hits = readHits(hierarchy, path);
    counted = isShared ? now.count : counted + kills.length + Math.max(0, missing);
    seen = now;
    late = 0;
    records = [];
    for (const pid of vanished) members.delete(pid);
    for (const pid of now.pids) members.set(pid, readProcess(pid));
    await sleep(readLog ? 100 : 20); // without the log only what was seen before can be told of
  }
}
