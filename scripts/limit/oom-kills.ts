// OOM kills in a container's memory cgroup: how many, of whom, whose limit it was, and what raises it. From the memory
// controller's counters and the kernel's log.
import { existsSync } from 'node:fs';
import { uptime } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { scriptPath } from '../helpers/called.ts';
import { cgroupDirectory, cgroupsBelow, type Hierarchy } from '../helpers/cgroups.ts';
import { isBelow } from '../helpers/mounts.ts';
import { printable } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import { formatSize } from '../helpers/units.ts';
import { numberOf, readNumber } from './counters.ts';
import {
  followKernelLog,
  type Level,
  type LoggedKill,
  levelOf,
  parseLoggedKills,
  pathOf,
  type Size,
} from './oom.ts';
import { type Cgroup, memoryFiles, readBytes } from './table.ts';

export interface OomKills {
  count: number;
  /** of the last kill; null if unknown */
  level: Level | null;
  /** the cgroup whose limit was exceeded */
  cgroup: string | null;
  /** the limit of this cgroup; null if it has none, or is unknown */
  limitBytes: number | null;
  /** residentBytes: null if the kernel's log does not have it */
  process: { pid: number; name: string; residentBytes: number | null } | null;
  at: string | null;
}

const records: string[] = [];
let parsed: (LoggedKill & Size)[] = [];
let readLog: (() => string[]) | undefined;

/** All OOM kills in the kernel's log so far, the oldest first. The log is opened at the first call. */
function loggedKills(): (LoggedKill & Size)[] {
  readLog ??= followKernelLog() ?? (() => []);
  const news = readLog();
  records.push(...news);
  if (news.length > 0) parsed = parseLoggedKills(records);
  return parsed;
}

/**
 * The last kill in the cgroup `own` since a container has started: an earlier container may have had the same name. The
 * log's clock is not adjusted by NTP, which shifts the other clocks by 500 ppm at most, adjtimex(2).
 */
function lastKill(kills: (LoggedKill & Size)[], own: string, startedBootSeconds: number) {
  const since = startedBootSeconds - uptime() * 0.0005;
  return kills.findLast(
    ({ taskCgroup, sinceBootSeconds }) => sinceBootSeconds >= since && isBelow(taskCgroup, own),
  );
}

/** A kill of the log, in the cgroup `own`. */
const fromLog = (kill: LoggedKill & Size, own: string) => ({
  level: levelOf(kill.limitCgroup, own),
  cgroup: kill.limitCgroup,
  process: { pid: kill.pid, name: kill.name, residentBytes: kill.bytes },
  at: new Date(Date.now() - (uptime() - kill.sinceBootSeconds) * 1000).toISOString(),
});

/** The memory limit of a cgroup, given by its path in the tree; null if it has none, or is unknown. */
function limitOf(hierarchy: Hierarchy, cgroup: string | null): number | null {
  const directory = cgroup === null ? undefined : cgroupDirectory(hierarchy, cgroup);
  return (directory && readBytes(join(directory, memoryFiles[hierarchy.version].limit))) || null;
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
  place: Cgroup | undefined,
  hierarchy: Hierarchy | undefined,
  startedBootSeconds: number,
): OomKills | null {
  if (!place || !hierarchy) return null;
  const { version, directory } = place;
  const count = countKills(place);
  if (count === undefined) return null; // Linux before 4.13
  const unknown = { count, level: null, cgroup: null, limitBytes: null, process: null, at: null };
  if (count === 0) return unknown;

  const path = pathOf(hierarchy, directory) ?? '';
  const last = lastKill(loggedKills(), path, startedBootSeconds);
  if (last) return { ...unknown, limitBytes: limitOf(hierarchy, last.limitCgroup), ...fromLog(last, path) };
  const suspects = [...cgroupsBelow(directory), directory];
  for (let at = dirname(directory); at.startsWith(hierarchy.mountPoint); at = dirname(at)) suspects.push(at);
  const hit = suspects
    .filter((at) => hasHit(version, at))
    .map((at) => pathOf(hierarchy, at) ?? hierarchy.root);
  const guess = guessLevel(hit, path);
  return { ...unknown, ...guess, limitBytes: limitOf(hierarchy, guess.cgroup) };
}

/** How many processes the kernel has killed in a memory cgroup and below; undefined if it does not count them. */
export function countKills({ version, directory }: Cgroup): number | undefined {
  const countOf = (cgroup: string) => readNumber(join(cgroup, memoryFiles[version].oomKills), 'oom_kill');
  const own = countOf(directory);
  // v2's counter includes the cgroups below
  const below = own !== undefined && version === 1 ? cgroupsBelow(directory) : [];
  return own && below.reduce((sum, cgroup) => sum + (countOf(cgroup) ?? 0), own);
}

/** The same as readOomKills, after a short wait for the kernel's log, which gets the size after the process has ended. */
export async function settledOomKills(...[place, ...rest]: Parameters<typeof readOomKills>) {
  for (let tries = 0; ; tries++) {
    const kills = readOomKills(place, ...rest);
    const isComplete = !kills?.count || typeof kills.process?.residentBytes === 'number';
    if (isComplete || records.length === 0 || tries === 5) return kills;
    await sleep(20);
  }
}

/** The OOM kills in the text that run/oom-kills.sh has written at the end of a container; null if there were none. */
export function parseOomKills(text: string, hierarchy: Hierarchy | undefined): OomKills | null {
  const count = numberOf(text, 'oom_kill');
  if (!count) return null;
  const own = /^cgroup (.*)$/m.exec(text)?.[1] ?? '';
  const ownLimit = numberOf(text, 'limit') ?? null;
  const last = lastKill(parseLoggedKills(text.split('\n')), own, Number(/^since (.*)$/m.exec(text)?.[1]));
  const isOwn = last ? last.limitCgroup === own : (numberOf(text, 'oom') ?? 0) > 0;
  const limitBytes = isOwn ? ownLimit : hierarchy && last ? limitOf(hierarchy, last.limitCgroup) : null;
  const unlogged = { level: isOwn ? ('own' as const) : null, cgroup: isOwn ? own : null };
  return { count, ...unlogged, limitBytes, process: null, at: null, ...(last && fromLog(last, own)) };
}

/** Whether a memory cgroup, or one above it, has a limit. */
export function hasMemoryLimit({ version, directory }: Cgroup, { mountPoint }: Hierarchy): boolean {
  for (let at = directory; at.startsWith(`${mountPoint}/`); at = dirname(at))
    if (readBytes(join(at, memoryFiles[version].limit))) return true;
  return false;
}

/** A size above this one, as options take it: `200M`. */
function largerSize(bytes: number): string {
  const mebibytes = Math.ceil(bytes / 1024 ** 2) * 2;
  return mebibytes % 1024 === 0 ? `${mebibytes / 1024}G` : `${mebibytes}M`;
}

/** The command by which a limit is raised while the container lives. */
export const raiseCommand = (target: string) => (size: string) =>
  `${scriptPath('limit-memory')} ${target} ${size}`;

/**
 * OOM kills for people, in one line: which process, how large, whose limit, and what to type to raise it. `raise` gives
 * the words that raise the container's own limit to a size.
 */
export function describeOomKills(
  { count, level, cgroup, limitBytes, process: killed }: OomKills,
  raise: (size: string) => string,
  hierarchy: Hierarchy | undefined,
): string {
  const last = killed && `${printable(killed.name)} (PID ${killed.pid})`;
  const whom = count === 1 ? (last ?? 'a process') : `${count} processes${last ? `, at last ${last},` : ''}`;
  const use = killed?.residentBytes ? `, with ${formatSize(killed.residentBytes)} in use` : '';
  const limit = limitBytes === null ? 'a memory limit' : `the memory limit of ${formatSize(limitBytes)}`;
  const larger = largerSize(limitBytes ?? 0);
  const text = `the kernel killed ${whom}`;
  if (level === 'own')
    return `${text} at ${limit}${use}: raise it with ${raise(limitBytes === null ? 'SIZE' : larger)}`;
  if (level === 'host')
    return `${text} because the host is out of memory, not at a limit${use}: free memory, ${scriptPath('ps')} shows who uses it`;
  if (level === null)
    return `${text} at a memory limit${use}, but the kernel's log does not say whose: if it was its own, raise it with ${raise('SIZE')}`;
  const directory = hierarchy && cgroup !== null ? cgroupDirectory(hierarchy, cgroup) : undefined;
  const where = level === 'parent' ? 'above the container' : 'inside the container';
  const files = hierarchy && directory ? limitFilesOf(hierarchy.version, directory) : [];
  const remedy =
    limitBytes === null || files.length === 0
      ? 'raise that one'
      : `raise that one with echo ${larger} | tee ${files.map(quote).join(' ')}`;
  return `${text} at ${limit} of ${printable(cgroup ?? '')}, a cgroup ${where}${use}: ${remedy}`;
}

/** The files to write to raise a limit, in this order: v1's limit of memory and swap must not be less than the other. */
const limitFilesOf = (version: 1 | 2, directory: string): string[] =>
  (version === 1 ? [memoryFiles[1].swap, memoryFiles[1].limit] : [memoryFiles[2].limit])
    .map((file) => join(directory, file))
    .filter((file) => existsSync(file));
