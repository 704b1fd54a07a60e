// Limits and usage of a container: counters of the kernel, and rates from two readings. See
// cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
import { readFileSync } from 'node:fs';
import { uptime } from 'node:os';
import { join } from 'node:path';
import {
  cgroupDirectory,
  cgroupPath,
  findHierarchy,
  type Hierarchy,
  ownCgroup,
  readHierarchies,
} from '../helpers/cgroups.ts';
import { type Container, strangers } from '../helpers/containers.ts';
import { attempt, readProc, readProcess, readStat, type Table } from '../helpers/pids.ts';
import { numberOf } from '../limit/counters.ts';
import { pathOf } from '../limit/oom.ts';
import { amount, type Cgroup, type LimitName, memoryFiles, readBytes, readLimit } from '../limit/table.ts';

/** Kinds of accounting: `cpu` has quota and throttling, `time` the CPU time, which v1 may keep in another hierarchy. */
type Resource = 'memory' | 'cpu' | 'time' | 'pids' | 'io';

/** The hierarchy of each kind; undefined: this host does not have it. */
export type Accounting = Record<Resource, Hierarchy | undefined>;

/** The cgroups that a container has to itself. */
export type Places = Partial<Record<Resource, Cgroup>>;

/** null: no limit. */
export type Limits = Record<'memoryBytes' | 'cpus' | 'pids', number | null>;

interface Memory {
  usedBytes: number;
  limitBytes: number | null;
  source: 'cgroup' | 'rss';
}

/** What a cgroup or a process has done so far; null: it cannot be read. */
export type Work = Record<'cpuSeconds' | 'throttledSeconds' | 'readBytes' | 'writeBytes', number | null>;

/** One reading of a container's counters. */
export interface Counters extends Work {
  /** time of the reading, as of performance.now() */
  atMilliseconds: number;
  /** time of the reading since boot, as start times of processes */
  atBootSeconds: number;
  /** without a cgroup for CPU time or I/O: counters of each process, by its PID and start time */
  processes: Map<string, Work & { startedBootSeconds: number }> | undefined;
}

/** null: unknown, as for a container that is new. */
export type Rates = Record<
  'cpuPercent' | 'throttledPercent' | 'readBytesPerSecond' | 'writeBytesPerSecond',
  number | null
>;

/** Finds the hierarchies that count each kind on this host. */
export function readAccounting(): Accounting {
  const hierarchies = readHierarchies();
  const of = (controller: string) => findHierarchy(hierarchies, controller);
  // v2 counts CPU time in every cgroup, even without the controller
  const time = of('cpuacct') ?? hierarchies.find(({ version }) => version === 2);
  return { memory: of('memory'), cpu: of('cpu'), time, pids: of('pids'), io: of('io') };
}

/**
 * Finds the cgroups that a container has to itself. `isOurs`: a container of barehand, whose cgroups contain only
 * processes of run.ts and exec.ts.
 */
export function findPlaces(
  accounting: Accounting,
  table: Table,
  containers: Container[],
  container: Container,
  isOurs: boolean,
): Places {
  const { first, members } = container;
  const isOther = strangers(table, containers, members, container);
  const isStranger = (pid: number) => !isOurs && isOther(pid);
  let living = [...members].filter((pid) => table.get(pid)?.zombie === false);
  const find = (hierarchy: Hierarchy, path: string): string | undefined => {
    const directory = ownCgroup(hierarchy, path, living, isStranger);
    // a process that has ended meanwhile is in no cgroup
    const still =
      directory === undefined ? living.filter((pid) => readProcess(pid)?.zombie === false) : living;
    if (still.length === living.length) return directory;
    living = still;
    return find(hierarchy, path);
  };
  const cgroups = readProc(first.pid, 'cgroup') ?? '';
  const places: Places = {};
  // v2 has one hierarchy; in v1, a cgroup of the same name is taken for the same one, which saves most of the time
  const known = new Map<string, string>();
  for (const [resource, hierarchy] of Object.entries(accounting) as [Resource, Hierarchy | undefined][]) {
    const path = hierarchy && cgroupPath(cgroups, hierarchy);
    if (!hierarchy || path === undefined) continue;
    const own = known.get(path);
    const directory = own === undefined ? find(hierarchy, path) : cgroupDirectory(hierarchy, own);
    if (directory === undefined) continue;
    places[resource] = { version: hierarchy.version, directory };
    known.set(path, pathOf(hierarchy, directory) ?? path);
  }
  return places;
}

/** The limits of a container's own cgroups. */
export function readLimits({ memory, cpu, pids }: Places): Limits {
  const limit = (place: Cgroup | undefined, name: LimitName) => {
    const [setting] = place ? readLimit(name, place.version, place.directory) : [];
    return (place && setting && amount(place.version, setting)) ?? null;
  };
  return { memoryBytes: limit(memory, 'memory'), cpus: limit(cpu, 'cpu'), pids: limit(pids, 'pids') };
}

const readText = (place: Cgroup | undefined, file: string) =>
  place && attempt(() => readFileSync(join(place.directory, file), 'utf8'));

/**
 * Memory, processes and threads of a container, and its limits: those of its own cgroups. Without such a cgroup, a value
 * is the sum over its processes.
 */
export function readUsage(places: Places, table: Table, { members }: Container) {
  const { memory, pids } = places;
  const limits = readLimits(places);
  const sum = (key: 'rssBytes' | 'threads') =>
    [...members].reduce((total, pid) => total + (table.get(pid)?.[key] ?? 0), 0);
  const usedBytes = memory && readBytes(join(memory.directory, memoryFiles[memory.version].usage));
  const used: Memory =
    typeof usedBytes === 'number'
      ? { usedBytes, limitBytes: limits.memoryBytes, source: 'cgroup' }
      : { usedBytes: sum('rssBytes'), limitBytes: null, source: 'rss' };
  return { memory: used, limits, pids: Number(readText(pids, 'pids.current') ?? sum('threads')) };
}

/** A time in a file of a cgroup, in seconds: v1 counts nanoseconds, v2 microseconds. null if there is none. */
function readSeconds(place: Cgroup | undefined, file: string, form: RegExp): number | null {
  const [, count] = form.exec(readText(place, file) ?? '') ?? [];
  return count === undefined ? null : Number(count) / (place?.version === 1 ? 1e9 : 1e6);
}

/** The CPU time that a cgroup has used so far, in seconds. */
export const readCpuSeconds = (time: Places['time']): number | null =>
  time?.version === 1
    ? readSeconds(time, 'cpuacct.usage', /^(\d+)$/m)
    : readSeconds(time, 'cpu.stat', /^usage_usec (\d+)$/m);

/** Sum of bytes over all devices, from `io.stat` or v1's blkio.throttle.io_service_bytes. */
export function parseIo(text: string): { readBytes: number; writeBytes: number } {
  const sum = (pattern: RegExp) =>
    [...text.matchAll(pattern)].reduce((total, [, bytes]) => total + Number(bytes), 0);
  return {
    readBytes: sum(/ (?:Read |rbytes=)(\d+)/g),
    writeBytes: sum(/ (?:Write |wbytes=)(\d+)/g),
  };
}

/** Reads all counters that rates are computed from. */
export function readCounters({ cpu, time, io }: Places, { members }: Container): Counters {
  const atBootSeconds = uptime();
  const atMilliseconds = performance.now();
  const cpuSeconds = readCpuSeconds(time);
  // counters of v1 exclude the cgroups below, except for files named _recursive
  const bytes =
    io?.version === 1
      ? (readText(io, 'blkio.throttle.io_service_bytes_recursive') ??
        readText(io, 'blkio.throttle.io_service_bytes'))
      : readText(io, 'io.stat');
  const hasAll = cpuSeconds !== null && bytes !== undefined;
  return {
    atMilliseconds,
    atBootSeconds,
    cpuSeconds,
    ...(bytes === undefined ? { readBytes: null, writeBytes: null } : parseIo(bytes)),
    throttledSeconds: readSeconds(cpu, 'cpu.stat', /^throttled_(?:time|usec) (\d+)$/m),
    processes: hasAll ? undefined : new Map([...members].flatMap(readWork)),
  };
}

/** Counters of one process, proc(5): none if it has ended; without I/O if this user may not read that. */
function readWork(pid: number): [string, Work & { startedBootSeconds: number }][] {
  const stat = readStat(pid);
  if (stat === undefined) return [];
  const io = readProc(pid, 'io');
  const work = {
    cpuSeconds: stat.cpuTicks / 100,
    throttledSeconds: null,
    readBytes: numberOf(io, 'read_bytes:') ?? null,
    writeBytes: numberOf(io, 'write_bytes:') ?? null,
    startedBootSeconds: stat.startTicks / 100,
  };
  return [[`${pid} ${stat.startTicks}`, work]];
}

/**
 * Rates per second between two readings, by the time that has actually passed. A counter that is new or has decreased
 * gives null, never a negative rate.
 */
export function rates(before: Counters | undefined, now: Counters): Rates {
  const seconds = before ? (now.atMilliseconds - before.atMilliseconds) / 1000 : 0;
  const rate = (key: keyof Work, factor = 1) => {
    const done = before && seconds > 0 ? workBetween(before, now, key) : null;
    return done === null || done < 0 ? null : (done / seconds) * factor;
  };
  return {
    cpuPercent: rate('cpuSeconds', 100),
    throttledPercent: rate('throttledSeconds', 100),
    readBytesPerSecond: rate('readBytes'),
    writeBytesPerSecond: rate('writeBytes'),
  };
}

function workBetween(before: Counters, now: Counters, key: keyof Work): number | null {
  const difference = (one: number | null, other: number | null) =>
    one === null || other === null ? null : other - one;
  if (now[key] !== null) return difference(before[key], now[key]);
  if (!before.processes || !now.processes) return null;
  let sum: number | null = null;
  for (const [name, work] of now.processes) {
    const earlier = before.processes.get(name);
    // a process born since the last reading counts in full; one that only became a member does not count
    const isNew = !earlier && work.startedBootSeconds >= before.atBootSeconds - 0.01;
    const done = difference(earlier ? earlier[key] : isNew ? 0 : work[key], work[key]);
    if (done !== null) sum = (sum ?? 0) + Math.max(0, done);
  }
  return sum;
}
