// Limits and usage of a container: counters of the kernel, and rates from two readings. See
// cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
import { readFileSync } from 'node:fs';
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
export type Resource = 'memory' | 'cpu' | 'time' | 'pids' | 'io';

/** The hierarchy of each kind, if this host has it. */
export type Accounting = Partial<Record<Resource, Hierarchy>>;

/** The cgroups that a container has to itself. */
export type Places = Partial<Record<Resource, Cgroup>>;

/** null: no limit. */
export interface Limits {
  memoryBytes: number | null;
  cpus: number | null;
  pids: number | null;
}

export interface Memory {
  usedBytes: number;
  limitBytes: number | null;
  source: 'cgroup' | 'rss';
}

/** CPU time and I/O bytes so far, of a process or a container; null if they cannot be read. */
export interface Work {
  cpuSeconds: number | null;
  readBytes: number | null;
  writeBytes: number | null;
}

/** One reading of a container's counters. */
export interface Counters extends Work {
  /** time of the reading, as of performance.now() */
  atMilliseconds: number;
  /** time of the reading since boot, as start times of processes */
  atBootSeconds: number;
  throttledSeconds: number | null;
  /** without a cgroup for CPU time or I/O: counters of each process, by its PID and start time */
  processes: Map<string, Work & { startedBootSeconds: number }> | undefined;
}

/** null: unknown, as for a container that is new. */
export interface Rates {
  cpuPercent: number | null;
  throttledPercent: number | null;
  readBytesPerSecond: number | null;
  writeBytesPerSecond: number | null;
}

/** Finds the hierarchies that count each kind on this host. */
export function readAccounting(hierarchies = readHierarchies()): Accounting {
  const names = { memory: 'memory', cpu: 'cpu', time: 'cpuacct', pids: 'pids', io: 'io' };
  const accounting: Accounting = {};
  for (const [resource, controller] of Object.entries(names) as [Resource, string][]) {
    const hierarchy = findHierarchy(hierarchies, controller);
    if (hierarchy) accounting[resource] = hierarchy;
  }
  // v2 counts CPU time in every cgroup, even without the controller
  const time = accounting.time ?? hierarchies.find(({ version }) => version === 2);
  return { ...accounting, ...(time && { time }) };
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
  const cgroups = readProc(first.pid, 'cgroup') ?? '';
  let living = [...members].filter((pid) => table.get(pid)?.zombie === false);
  // a process that has ended is in no cgroup
  const find = (hierarchy: Hierarchy, path: string) => {
    const directory = ownCgroup(hierarchy, path, living, isStranger);
    if (directory !== undefined) return directory;
    const still = living.filter((pid) => readProcess(pid)?.zombie === false);
    if (still.length === living.length) return undefined;
    living = still;
    return ownCgroup(hierarchy, path, living, isStranger);
  };
  const isOther = strangers(table, containers, members, container);
  const isStranger = (pid: number) => !isOurs && isOther(pid);
  const places: Places = {};
  let own: { first: string; path: string } | undefined;
  for (const [resource, hierarchy] of Object.entries(accounting) as [Resource, Hierarchy][]) {
    const path = cgroupPath(cgroups, hierarchy);
    if (path === undefined) continue;
    // v2 has one hierarchy; in v1, a cgroup of the same name is taken for the same one, which saves most of the time
    const isKnown = own !== undefined && own.first === path;
    const directory = isKnown ? cgroupDirectory(hierarchy, own?.path ?? '') : find(hierarchy, path);
    if (directory === undefined) continue;
    places[resource] = { version: hierarchy.version, directory };
    own ??= { first: path, path: pathOf(hierarchy, directory) ?? path };
  }
  return places;
}

const read = (directory: string, file: string) => attempt(() => readFileSync(`${directory}/${file}`, 'utf8'));

/** Sum of bytes over all devices, from `io.stat` or v1's blkio.throttle.io_service_bytes. */
export function parseIo(text: string): { readBytes: number; writeBytes: number } {
  const sum = (pattern: RegExp) =>
    [...text.matchAll(pattern)].reduce((total, [, bytes]) => total + Number(bytes), 0);
  return {
    readBytes: sum(/ (?:Read |rbytes=)(\d+)/g),
    writeBytes: sum(/ (?:Write |wbytes=)(\d+)/g),
  };
}

/** The limits of a container's own cgroups. */
export function readLimits({ memory, cpu, pids }: Places): Limits {
  const limit = (place: Places[Resource], name: LimitName) => {
    const [setting] = place ? readLimit(name, place.version, place.directory) : [];
    return (place && setting && amount(place.version, setting)) ?? null;
  };
  return { memoryBytes: limit(memory, 'memory'), cpus: limit(cpu, 'cpu'), pids: limit(pids, 'pids') };
}

/** Memory usage: that of the container's own cgroup, else the sum over its processes. */
export function readMemory({ memory }: Places, limits: Limits, table: Table, container: Container): Memory {
  const usedBytes = memory && readBytes(join(memory.directory, memoryFiles[memory.version].usage));
  if (typeof usedBytes === 'number') return { usedBytes, limitBytes: limits.memoryBytes, source: 'cgroup' };
  const sum = [...container.members].reduce((total, pid) => total + (table.get(pid)?.rssBytes ?? 0), 0);
  return { usedBytes: sum, limitBytes: null, source: 'rss' };
}

/** Number of processes and threads: that of the container's own cgroup, else counted over its processes. */
export function readTasks({ pids }: Places, table: Table, container: Container): number {
  const counted = pids && attempt(() => Number(readFileSync(join(pids.directory, 'pids.current'), 'utf8')));
  return counted ?? [...container.members].reduce((sum, pid) => sum + (table.get(pid)?.threads ?? 0), 0);
}

/** The CPU time that a cgroup has used so far, in seconds. */
export function readCpuSeconds(place: Places['time']): number | null {
  if (!place) return null;
  const used =
    place.version === 1
      ? Number(read(place.directory, 'cpuacct.usage') ?? Number.NaN) / 1e9
      : (numberOf(read(place.directory, 'cpu.stat'), 'usage_usec') ?? Number.NaN) / 1e6;
  return Number.isNaN(used) ? null : used;
}

/** Reads all counters that rates are computed from. */
export function readCounters(
  { cpu, time, io }: Places,
  container: Container,
  atBootSeconds: number,
): Counters {
  const atMilliseconds = performance.now();
  const cpuSeconds = readCpuSeconds(time);
  const stat = cpu && read(cpu.directory, 'cpu.stat');
  const throttled =
    cpu?.version === 1
      ? (numberOf(stat, 'throttled_time') ?? Number.NaN) / 1e9
      : (numberOf(stat, 'throttled_usec') ?? Number.NaN) / 1e6;
  // counters of v1 exclude the cgroups below, except for files named _recursive
  const ioText =
    io &&
    (io.version === 2
      ? read(io.directory, 'io.stat')
      : (read(io.directory, 'blkio.throttle.io_service_bytes_recursive') ??
        read(io.directory, 'blkio.throttle.io_service_bytes')));
  const bytes = ioText === undefined ? { readBytes: null, writeBytes: null } : parseIo(ioText);
  return {
    atMilliseconds,
    atBootSeconds,
    cpuSeconds,
    ...bytes,
    throttledSeconds: Number.isNaN(throttled) ? null : throttled,
    processes:
      cpuSeconds === null || ioText === undefined
        ? new Map([...container.members].flatMap((pid) => readWork(pid)))
        : undefined,
  };
}

/** Counters of one process, proc(5): undefined if it has ended, without I/O if this user may not read that. */
function readWork(pid: number): [string, Work & { startedBootSeconds: number }][] {
  const stat = readStat(pid);
  if (stat === undefined) return [];
  const io = readProc(pid, 'io');
  const bytes = (key: string) => numberOf(io, `${key}_bytes:`) ?? null;
  return [
    [
      `${pid} ${stat.startTicks}`,
      {
        cpuSeconds: stat.cpuTicks / 100,
        readBytes: bytes('read'),
        writeBytes: bytes('write'),
        startedBootSeconds: stat.startTicks / 100,
      },
    ],
  ];
}

/**
 * Rates per second between two readings, by the time that has actually passed. A counter that is new or has decreased
 * gives null, never a negative rate.
 */
export function rates(before: Counters | undefined, now: Counters): Rates {
  const seconds = before ? (now.atMilliseconds - before.atMilliseconds) / 1000 : 0;
  const rate = (key: keyof Work | 'throttledSeconds') => {
    if (!before || seconds <= 0) return null;
    const done =
      key === 'throttledSeconds' ? difference(before[key], now[key]) : workBetween(before, now, key);
    return done === null || done < 0 ? null : done / seconds;
  };
  const percent = (share: number | null) => (share === null ? null : share * 100);
  return {
    cpuPercent: percent(rate('cpuSeconds')),
    throttledPercent: percent(rate('throttledSeconds')),
    readBytesPerSecond: rate('readBytes'),
    writeBytesPerSecond: rate('writeBytes'),
  };
}

const difference = (before: number | null, now: number | null) =>
  before === null || now === null ? null : now - before;

function workBetween(before: Counters, now: Counters, key: keyof Work): number | null {
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
