// cgroup directories of v1, v2 and hybrid hosts: where they are, what their files are called. See cgroups(7).
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure, isGiven } from './cli.ts';
import { attempt, groupBy, readProc } from './pids.ts';

/** One mounted cgroup hierarchy. A v1 one has its controllers (or `name=…`); the v2 one has none listed here. */
export interface Hierarchy {
  version: 1 | 2;
  controllers: string[];
  mountPoint: string;
  /** the cgroup that is seen at the mount point: `/`, or in a container perhaps a part of the tree */
  root: string;
}

/** The folder that holds all cgroups of barehand in each hierarchy. A container `web` is `barehand/web`. */
export const parent = 'barehand';

/** Undoes the octal escapes of mountinfo, proc(5): `\040` is a space. Bytes above 127 come as they are. */
export function unescapeMountinfo(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/**
 * The directory whose flock(2) guards the names of our containers: while it is held, a container that exists has
 * processes in all of its cgroups. It is the root of the memory controller's hierarchy, else the first one's.
 */
export function lockDirectory(hierarchies: Hierarchy[]): string | undefined {
  return (findHierarchy(hierarchies, 'memory') ?? hierarchies[0])?.mountPoint;
}

/** The cgroup hierarchies in the text of a mountinfo; of two mounts of one hierarchy the first, of the whole tree. */
export function parseHierarchies(mountinfo: string): Hierarchy[] {
  const found = new Map<string, Hierarchy>();
  for (const line of mountinfo.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const [, , , root = '', mountPoint = ''] = left.split(' ');
    const [type, , superOptions = ''] = right.split(' ');
    if (type !== 'cgroup' && type !== 'cgroup2') continue;
    const notControllers = new Set([
      'rw',
      'ro',
      'xattr',
      'noprefix',
      'clone_children',
      'cpuset_v2_mode',
      'none',
    ]);
    const controllers =
      type === 'cgroup2'
        ? []
        : superOptions
            .split(',')
            .filter((word) => !notControllers.has(word) && !word.startsWith('release_agent='));
    const key = type === 'cgroup2' ? 'v2' : controllers.join();
    if (found.has(key)) continue;
    found.set(key, {
      version: type === 'cgroup2' ? 2 : 1,
      controllers,
      mountPoint: unescapeMountinfo(mountPoint),
      root: unescapeMountinfo(root),
    });
  }
  return [...found.values()];
}

/** The hierarchies mounted on this host. */
export function readHierarchies(): Hierarchy[] {
  return parseHierarchies(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** The hierarchy whose cgroups limit `controller` (`memory`): v1's where it is mounted, else v2's if it offers it. */
export function findHierarchy(hierarchies: Hierarchy[], controller: string): Hierarchy | undefined {
  const name = controller === 'io' ? 'blkio' : controller; // what v2 calls io
  const v1 = hierarchies.find((hierarchy) => hierarchy.controllers.includes(name));
  if (v1) return v1;
  const v2 = hierarchies.find((hierarchy) => hierarchy.version === 2);
  return v2 && offeredControllers(v2.mountPoint).includes(controller) ? v2 : undefined;
}

/** The controllers that a v2 cgroup has, which it may hand on. */
export function offeredControllers(directory: string): string[] {
  return readFileSync(join(directory, 'cgroup.controllers'), 'utf8').trim().split(/\s+/).filter(Boolean);
}

/**
 * The cgroup of a process in a hierarchy, as its path from the root of the tree, from the text of /proc/PID/cgroup.
 * undefined where the process is in none of it.
 */
export function cgroupPath(procCgroup: string, hierarchy: Hierarchy): string | undefined {
  for (const line of procCgroup.split('\n')) {
    const [, controllers = '', path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path !== undefined && controllers === hierarchy.controllers.join()) return path;
  }
  return undefined;
}

/** The directory of a cgroup path. undefined where it lies outside of what is mounted. */
export function cgroupDirectory(hierarchy: Hierarchy, path: string): string | undefined {
  // cgroups(7): /.. stands for what lies above the root of the reader's cgroup namespace
  if (path.startsWith('/..')) return undefined;
  if (hierarchy.root === '/') return join(hierarchy.mountPoint, path);
  if (path !== hierarchy.root && !path.startsWith(`${hierarchy.root}/`)) return undefined;
  return join(hierarchy.mountPoint, path.slice(hierarchy.root.length));
}

/** A cgroup's path in the whole tree, as the kernel's log has it; undefined for a directory that is not in it. */
export function pathOf(hierarchy: Hierarchy, directory: string): string | undefined {
  const { mountPoint, root } = hierarchy;
  const path = directory.startsWith(`${mountPoint}/`)
    ? join(root, directory.slice(mountPoint.length))
    : undefined;
  return path !== undefined && cgroupDirectory(hierarchy, path) === directory ? path : undefined;
}

/** Names of the memory controller's files, and the word that lifts a limit; see cgroups(7) and the kernel's admin guide. */
export const memoryFiles = {
  1: {
    limit: 'memory.limit_in_bytes',
    // v1 limits memory and swap together
    swap: 'memory.memsw.limit_in_bytes',
    usage: 'memory.usage_in_bytes',
    oomKills: 'memory.oom_control',
    unlimited: '-1',
  },
  2: {
    limit: 'memory.max',
    swap: 'memory.swap.max',
    usage: 'memory.current',
    oomKills: 'memory.events',
    unlimited: 'max',
  },
} as const;

/** A limit as one version of cgroups has it. */
export interface LimitFile {
  /** its file; each of several takes a word of the value */
  files: [string, ...string[]];
  /** the value without a limit; undefined: the value that the cgroup above has */
  none?: string;
  /** the file has a line for each device: what stands between the device's number and the value */
  device?: string;
}

/** A limit: what people and --json call it, what its value counts, and where v1 and v2 have it. */
export interface Limit {
  controller: 'memory' | 'cpu' | 'cpuset' | 'pids' | 'io';
  label: string;
  json: string;
  unit: 'bytes' | 'bytes/s' | 'CPUs' | 'number' | 'list';
  1?: LimitFile;
  2?: LimitFile;
}

/**
 * All limits, and their files and values in v1 and v2: the kernel's admin-guide/cgroup-v2, and admin-guide/cgroup-v1
 * and scheduler/sched-bwc for v1. A controller more is a few lines here, and a script.
 */
export const limits = {
  memory: {
    controller: 'memory',
    label: 'memory limit',
    json: 'limitBytes',
    unit: 'bytes',
    1: { files: [memoryFiles[1].limit], none: '-1' },
    2: { files: [memoryFiles[2].limit], none: 'max' },
  },
  swap: {
    controller: 'memory',
    label: 'swap limit',
    json: 'swapLimitBytes',
    unit: 'bytes',
    1: { files: [memoryFiles[1].swap], none: '-1' },
    2: { files: [memoryFiles[2].swap], none: 'max' },
  },
  high: {
    controller: 'memory',
    label: 'throttled above',
    json: 'highBytes',
    unit: 'bytes',
    2: { files: ['memory.high'], none: 'max' },
  },
  reserve: {
    controller: 'memory',
    label: 'reserve',
    json: 'reserveBytes',
    unit: 'bytes',
    // v1: above it it is the first to be reclaimed from; v2: below it the last
    1: { files: ['memory.soft_limit_in_bytes'], none: '-1' },
    2: { files: ['memory.low'], none: '0' },
  },
  oomGroup: {
    controller: 'memory',
    label: 'killed as a whole',
    json: 'oomGroup',
    unit: 'number',
    2: { files: ['memory.oom.group'], none: '0' },
  },
  cpu: {
    controller: 'cpu',
    label: 'CPU limit',
    json: 'cpus',
    unit: 'CPUs',
    // microseconds in each period, and the period
    1: { files: ['cpu.cfs_quota_us', 'cpu.cfs_period_us'], none: '-1 100000' },
    2: { files: ['cpu.max'], none: 'max 100000' },
  },
  weight: {
    controller: 'cpu',
    label: 'weight',
    json: 'weight',
    unit: 'number',
    1: { files: ['cpu.shares'], none: '1024' },
    2: { files: ['cpu.weight'], none: '100' },
  },
  cpuset: {
    controller: 'cpuset',
    label: 'CPUs',
    json: 'cpuset',
    unit: 'list',
    1: { files: ['cpuset.cpus'] },
    2: { files: ['cpuset.cpus'], none: '' },
  },
  mems: {
    controller: 'cpuset',
    label: 'memory nodes',
    json: 'mems',
    unit: 'list',
    1: { files: ['cpuset.mems'] },
    2: { files: ['cpuset.mems'], none: '' },
  },
  pids: {
    controller: 'pids',
    label: 'process limit',
    json: 'pidsLimit',
    unit: 'number',
    1: { files: ['pids.max'], none: 'max' },
    2: { files: ['pids.max'], none: 'max' },
  },
  readBps: ioLimit('read', 'bytes/s', 'readBps', 'read_bps', 'rbps'),
  writeBps: ioLimit('write', 'bytes/s', 'writeBps', 'write_bps', 'wbps'),
  readIops: ioLimit('reads/s', 'number', 'readIops', 'read_iops', 'riops'),
  writeIops: ioLimit('writes/s', 'number', 'writeIops', 'write_iops', 'wiops'),
} as const satisfies Record<string, Limit>;

export type LimitName = keyof typeof limits;

function ioLimit(label: string, unit: Limit['unit'], json: string, v1: string, v2: string) {
  return {
    controller: 'io' as const,
    label,
    json,
    unit,
    1: { files: [`blkio.throttle.${v1}_device`] as [string], none: '0', device: '' },
    2: { files: ['io.max'] as [string], none: 'max', device: `${v2}=` },
  };
}

/** A limit's value as its file has it; `device` is MAJ:MIN where the file has a line for each. */
export interface Setting {
  limit: LimitName;
  device?: string;
  text: string;
}

/** A limit's place in one version. undefined: that version does not have it. */
export const limitFile = (limit: LimitName, version: 1 | 2): LimitFile | undefined =>
  (limits[limit] as Limit)[version];

const readText = (file: string) => attempt(() => readFileSync(file, 'utf8').trim());

/** The value of a limit that a cgroup without it has. */
export function noLimit(limit: LimitName, version: 1 | 2, directory: string): string {
  const form = limitFile(limit, version);
  return form?.none ?? readText(join(dirname(directory), form?.files[0] ?? '')) ?? '';
}

/**
 * What a limit is in a cgroup: one value, or one for each device that has it. None where the cgroup has no such file,
 * the host no such version of it.
 */
export function readLimit(limit: LimitName, version: 1 | 2, directory: string): Setting[] {
  const form = limitFile(limit, version);
  if (!form) return [];
  const words = form.files.map((file) => readText(join(directory, file)));
  if (words.includes(undefined)) return [];
  const text = words.join(' ');
  const { none, device: key } = form;
  // v1 says the largest multiple of a page that fits 63 bits
  if (key === undefined) return [{ limit, text: Number(text) >= 2 ** 62 ? (none ?? text) : text }];
  return text.split('\n').flatMap((line) => {
    const [device = '', ...values] = line.split(' ');
    const value = values.find((word) => word.startsWith(key))?.slice(key.length);
    return value === undefined || value === none || !device.includes(':')
      ? []
      : [{ limit, device, text: value }];
  });
}

/** What is written where to give a cgroup a limit, in this order; `before`: what the limit is there now. */
export function settingWrites(
  directory: string,
  version: 1 | 2,
  { limit, device, text }: Setting,
  before?: string,
): [file: string, text: string][] {
  const form = limitFile(limit, version) as LimitFile;
  const [first = '', ...others] = form.files.map((file) => join(directory, file));
  if (form.device !== undefined) return [[first, `${device} ${form.device}${text}`]];
  if (others.length === 0) return [[first, text]];
  const [value = '', ...rest] = text.split(' ');
  if (rest.join(' ') === before?.split(' ').slice(1).join(' ')) return [[first, value]];
  // v1: with the new period the old quota might be more than the cgroup above allows, EINVAL: it goes and comes back
  const none = form.none?.split(' ')[0] as string;
  const writes = others.map((file, index): [string, string] => [file, rest[index] as string]);
  return [[first, none], ...writes, ...(value === none ? [] : [[first, value] as [string, string]])];
}

/**
 * A limit as a number, to compare it: CPUs, bytes, what it counts; a weight as v2 has it. null: no limit; undefined:
 * it is a list of CPUs.
 */
export function amount(version: 1 | 2, { limit, text }: Setting): number | null | undefined {
  const { unit } = limits[limit];
  if (unit === 'list') return undefined;
  const none = limitFile(limit, version)?.none?.split(' ')[0];
  const [value, period] = text.split(' ');
  if (limit === 'weight') return version === 1 ? sharesAsWeight(Number(value)) : Number(value);
  if (value === none) return null;
  return unit === 'CPUs' ? Number(value) / Number(period) : Number(value);
}

/**
 * cpu.weight of v2, 1 to 10000, as v1's cpu.shares: 100 and 1024 are what a cgroup has that nobody gave one, and the
 * kernel itself reckons with weight * 1024 / 100 (sched_weight_from_cgroup).
 */
export const weightToShares = (weight: number) => Math.max(2, Math.round((weight * 1024) / 100));

const sharesAsWeight = (shares: number) => Math.max(1, Math.round((shares * 100) / 1024));

/**
 * v1's cpu.shares, 2 to 262144, as v2's cpu.weight, as runc and crun reckon (opencontainers/cgroups since 0.0.3): a curve
 * through both ends and through what a cgroup has that nobody gave one.
 */
export function sharesToWeight(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const log = Math.log2(shares);
  // what is a whole number already may be off by the last bit
  return Math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34) - 1e-9);
}

/** Limits of a container that is to be launched, as Docker has them. Infinity: none. */
export interface LaunchLimits {
  memoryBytes?: number | undefined;
  /** --memory-swap: memory and swap together; undefined: no swap */
  memorySwapBytes?: number | undefined;
  memoryReservationBytes?: number | undefined;
  cpus?: number | undefined;
  cpuset?: string | undefined;
  mems?: string | undefined;
  cpuShares?: number | undefined;
  pids?: number | undefined;
  /** of whole disks, MAJ:MIN */
  devices?: { limit: 'readBps' | 'writeBps' | 'readIops' | 'writeIops'; device: string; value: number }[];
}

const launchLimits: Record<keyof LaunchLimits, LimitName> = {
  memoryBytes: 'memory',
  memorySwapBytes: 'swap',
  memoryReservationBytes: 'reserve',
  cpus: 'cpu',
  cpuset: 'cpuset',
  mems: 'mems',
  cpuShares: 'weight',
  pids: 'pids',
  devices: 'readBps',
};

/** The controllers that limits take; none where no limit is given. */
export const controllersOf = (wanted: LaunchLimits): string[] =>
  Object.entries(launchLimits).flatMap(([key, limit]) =>
    isGiven(wanted[key as keyof LaunchLimits]) ? limits[limit].controller : [],
  );

/**
 * What is written to limit the container `name`, in an order that the kernel takes: to its own cgroups only, which
 * exist, with controllers switched on and cpusets filled. Throws Failure where this host can't limit so.
 */
export function limitWrites(
  hierarchies: Hierarchy[],
  name: string,
  wanted: LaunchLimits,
): [file: string, value: string][] {
  const { memoryBytes, memorySwapBytes, memoryReservationBytes, cpus, cpuset, mems, cpuShares, pids } =
    wanted;
  const memory = findHierarchy(hierarchies, 'memory');
  const canSwap = memory !== undefined && countsSwap(memory);
  const v1 = (limit: LimitName) => findHierarchy(hierarchies, limits[limit].controller)?.version === 1;
  // v1 counts memory and swap together, as Docker does; v2 swap alone
  const swapBytes = memorySwapBytes === undefined && !canSwap ? undefined : (memorySwapBytes ?? memoryBytes);
  const values: [LimitName, number | string | undefined, device?: string][] = [
    ['memory', memoryBytes],
    ['swap', swapBytes && (v1('swap') ? swapBytes : swapBytes - (memoryBytes ?? 0))],
    ['reserve', memoryReservationBytes],
    ['cpu', cpus && (cpus === Infinity ? cpus : `${Math.max(1000, Math.round(cpus * 100_000))} 100000`)],
    ['weight', cpuShares && (v1('weight') ? cpuShares : sharesToWeight(cpuShares))],
    ['cpuset', cpuset],
    ['mems', mems],
    ['pids', pids],
    ...(wanted.devices ?? []).map(
      ({ limit, device, value }) => [limit, value, device] as [LimitName, number, string],
    ),
  ];
  if (memorySwapBytes !== undefined && !canSwap)
    throw new Failure('cannot limit swap: this kernel does not account for it: boot it with swapaccount=1');
  return values.flatMap(([limit, value, device]) => {
    if (value === undefined) return [];
    const { controller } = limits[limit];
    const hierarchy = findHierarchy(hierarchies, controller);
    if (!hierarchy)
      throw new Failure(
        `cannot limit ${controller}: this host has no such controller${process.getuid?.() === 0 ? '' : ' that is delegated to you'}, cgroups(7)`,
      );
    const directory = join(hierarchy.mountPoint, parent, name);
    const text = value === Infinity ? noLimit(limit, hierarchy.version, directory) : String(value);
    return settingWrites(directory, hierarchy.version, { limit, text, ...(device && { device }) });
  });
}

/** The cgroups below one, each before those below it. */
export function cgroupsBelow(directory: string): string[] {
  // a directory of cgroupfs has a link for each directory in it, which is quicker than listing its many files
  if ((attempt(() => statSync(directory).nlink) ?? 0) <= 2) return [];
  const entries = attempt(() => readdirSync(directory, { withFileTypes: true })) ?? [];
  return entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(directory, entry.name))
    .flatMap((below) => [below, ...cgroupsBelow(below)]);
}

/**
 * The processes of a cgroup and of all cgroups below it, without those in `except` and below; 0 for one that the reader's
 * PID namespace does not show.
 */
export function processesIn(directory: string, except?: string): number[] {
  const all = [directory, ...cgroupsBelow(directory)];
  const cgroups = except ? all.filter((cgroup) => !`${cgroup}/`.startsWith(`${except}/`)) : all;
  return cgroups.flatMap((cgroup) =>
    readFileSync(join(cgroup, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number),
  );
}

/**
 * The directory of the nearest cgroup, from `path` upwards, that holds all of `members` and no stranger. undefined
 * where they share theirs with others, or are in the root; the folder of all our containers is nobody's own either.
 */
export function ownCgroup(
  hierarchy: Hierarchy,
  path: string,
  members: number[],
  isStranger: (pid: number) => boolean,
): string | undefined {
  for (let at = path; at !== '/' && at !== hierarchy.root && basename(at) !== parent; at = dirname(at)) {
    const directory = cgroupDirectory(hierarchy, at);
    if (directory === undefined || !existsSync(directory)) return undefined;
    const inside = new Set(processesIn(directory));
    if ([...inside].some(isStranger)) return undefined;
    if (members.every((pid) => inside.has(pid))) return directory;
  }
  return undefined;
}

/** A number of bytes in a file of the memory controller; null for no limit, undefined where there is no such file. */
export function readBytes(file: string): number | null | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
  // v1 says the largest multiple of a page that fits 63 bits
  return text === 'max' || Number(text) >= 2 ** 62 ? null : Number(text);
}

/** Moves processes, each with all its threads. What ends meanwhile is left out; other errors are the kernel's. */
function moveProcesses(pids: number[], directory: string): void {
  // cgroups(7): `tasks` would move one thread only
  const file = openSync(join(directory, 'cgroup.procs'), 'w');
  try {
    for (const pid of pids)
      try {
        writeSync(file, String(pid));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
  } finally {
    closeSync(file);
  }
}

/**
 * Moves a process and all its descendants, parents first, so that what a parent starts after that is born inside.
 * Then looks again, until a reading of /proc shows no one of the tree outside. Throws if that takes too long.
 *
 * Whoever was seen in the tree once belongs to it even if its parent ends meanwhile; so does what is born meanwhile in
 * a session or process group that one of the tree leads, credentials(7). Where that is not enough soon, those inside
 * are frozen until it is (v2): then none of them ends and orphans a child that is outside still.
 */
export function moveTree(pid: number, directory: string): void {
  const freezer = join(directory, 'cgroup.freeze');
  const interrupts = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  const later = () => {}; // nothing that is frozen is to stay so
  const began = ticksNow() - 1;
  const seen = new Map<number, number>(); // who was seen in the tree, and when first: PIDs are given again
  let frozen = false;
  try {
    for (let round = 0; round < 100; round++) {
      const now = ticksNow();
      // at first all of it: a cgroup of v1 that has one thread of a process lists that process too
      const table = readStats(new Set(round === 0 ? [] : processesIn(directory)));
      const children = groupBy(table.keys(), (other) => table.get(other)?.ppid ?? 0);
      const isStray = (other: number, { ticks, session, group }: Stat) =>
        round > 0 && !seen.has(other) && ticks >= began && (seen.has(session) || seen.has(group));
      const strays = [...table].flatMap(([other, stat]) => (isStray(other, stat) ? other : []));
      const known = [...seen].flatMap(([other, when]) =>
        (table.get(other)?.ticks ?? 0) <= when ? other : [],
      );
      const tree = new Set([pid, ...known, ...strays]);
      for (const one of tree) for (const child of children.get(one) ?? []) tree.add(child);
      const outside = [...tree].filter((one) => table.get(one)?.zombie === false);
      if (outside.length === 0) return;
      if (round === 3 && existsSync(freezer) && readText(freezer) === '0') {
        frozen = true;
        for (const signal of interrupts) process.on(signal, later);
        writeFileSync(freezer, '1');
      }
      for (const one of outside) if (!seen.has(one)) seen.set(one, now + 1);
      moveProcesses(outside, directory);
    }
  } finally {
    if (frozen) writeFileSync(freezer, '0');
    for (const signal of interrupts) process.off(signal, later);
  }
  throw new Error('it starts processes faster than they can be moved: freeze it first');
}

/** The time since boot in ticks, as /proc/PID/stat has it. */
const ticksNow = () => Math.floor(Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 100);

/** What /proc/PID/stat says of a process, in one short read; times in ticks since boot. */
interface Stat {
  ppid: number;
  group: number;
  session: number;
  ticks: number;
  zombie: boolean;
}

/** All processes but those in `skip`. */
function readStats(skip: Set<number>): Map<number, Stat> {
  const pids = readdirSync('/proc').map(Number);
  return new Map(
    pids.flatMap((pid): [number, Stat][] => {
      const stat = !pid || skip.has(pid) ? undefined : readProc(pid, 'stat');
      if (stat === undefined) return [];
      // the fields behind the name, which may contain anything; proc(5) counts from 1, and the state is its third
      const [state = '', ...numbers] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const field = (number: number) => Number(numbers[number - 4]);
      // one whose first thread has ended is shown as a zombie though its other threads run
      const zombie = /[ZX]/.test(state) && field(20) <= 1;
      return [[pid, { ppid: field(4), group: field(5), session: field(6), ticks: field(22), zombie }]];
    }),
  );
}

/**
 * Moves all processes of a cgroup and of those below it to another, which may be one of these, until none is left.
 * Throws if that takes too long.
 */
export function moveAll(from: string, directory: string): void {
  for (let round = 0; round < 100; round++) {
    const inside = processesIn(from, directory);
    if (inside.length === 0) return;
    moveProcesses(inside, directory);
  }
  throw new Error('its processes start others faster than they can be moved: freeze them first');
}

/**
 * Whether a cgroup that is made in this hierarchy will have a limit for swap: not every kernel counts it. v2's root
 * cgroup has no limits at all, so there it is not to be seen.
 */
export function countsSwap({ version, mountPoint }: Pick<Hierarchy, 'version' | 'mountPoint'>): boolean {
  return existsSync(version === 1 ? join(mountPoint, memoryFiles[1].swap) : '/proc/swaps');
}
