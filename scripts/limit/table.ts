// All limits of run.ts, limit-*.ts and ps.ts: their names, the files of cgroup v1 and v2 that hold them, and the order in
// which these are written. See cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  findHierarchy,
  type Hierarchy,
  noHierarchy,
  offeredControllers,
  parent,
} from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, groupBy } from '../helpers/pids.ts';

/** The memory controller's files. */
export const memoryFiles = {
  1: {
    limit: 'memory.limit_in_bytes',
    // v1 limits memory and swap together
    swap: 'memory.memsw.limit_in_bytes',
    usage: 'memory.usage_in_bytes',
    oomKills: 'memory.oom_control',
  },
  2: {
    limit: 'memory.max',
    swap: 'memory.swap.max',
    usage: 'memory.current',
    oomKills: 'memory.events',
  },
} as const;

/**
 * All limits: their names for people and in --json, and the units of their values. To add a controller, add its lines
 * here and in `limitFiles`, and a script.
 */
export const limits = {
  memory: { controller: 'memory', label: 'memory limit', json: 'limitBytes', unit: 'bytes' },
  // limit-memory.ts prints it in words of its own
  swap: { controller: 'memory', label: '', json: 'swapLimitBytes', unit: 'bytes' },
  high: { controller: 'memory', label: 'high', json: 'highBytes', unit: 'bytes' },
  reserve: { controller: 'memory', label: 'soft limit', json: 'reserveBytes', unit: 'bytes' },
  oomGroup: { controller: 'memory', label: 'killed as a whole', json: 'oomGroup', unit: 'number' },
  cpu: { controller: 'cpu', label: 'CPU limit', json: 'cpus', unit: 'CPUs' },
  weight: { controller: 'cpu', label: 'weight', json: 'weight', unit: 'number' },
  cpuset: { controller: 'cpuset', label: 'CPUs', json: 'cpuset', unit: 'list' },
  mems: { controller: 'cpuset', label: 'memory nodes', json: 'mems', unit: 'list' },
  pids: { controller: 'pids', label: 'process limit', json: 'pidsLimit', unit: 'number' },
  readBps: { controller: 'io', label: 'read', json: 'readBps', unit: 'bytes/s' },
  writeBps: { controller: 'io', label: 'write', json: 'writeBps', unit: 'bytes/s' },
  readIops: { controller: 'io', label: 'reads/s', json: 'readIops', unit: 'number' },
  writeIops: { controller: 'io', label: 'writes/s', json: 'writeIops', unit: 'number' },
  ioWeight: { controller: 'io', label: 'I/O weight', json: 'ioWeight', unit: 'number' },
} as const;

export type LimitName = keyof typeof limits;

export const limitNames = Object.keys(limits) as LimitName[];

/** The name of a limit in --json: v1's limit for swap is that of memory and swap together, as Docker's --memory-swap. */
export const jsonName = (version: 1 | 2, limit: LimitName): string =>
  limit === 'swap' && version === 1 ? 'memorySwapLimitBytes' : limits[limit].json;

/**
 * The file of a limit, and its value without a limit; undefined: the value of the parent cgroup. A file with `key` has a
 * line for each device: the device's number, and the key directly before the value.
 */
type LimitFile = [file: string, none?: string, key?: string];

/**
 * The files of all limits in v1 and v2: the kernel's admin-guide/cgroup-v2, and admin-guide/cgroup-v1 and
 * scheduler/sched-bwc for v1.
 */
const limitFiles: Record<LimitName, { 1?: LimitFile; 2: LimitFile }> = {
  memory: { 1: [memoryFiles[1].limit, '-1'], 2: [memoryFiles[2].limit, 'max'] },
  swap: { 1: [memoryFiles[1].swap, '-1'], 2: [memoryFiles[2].swap, 'max'] },
  high: { 2: ['memory.high', 'max'] },
  // v1: the kernel reclaims first from cgroups above it; v2: last from cgroups below it
  reserve: { 1: ['memory.soft_limit_in_bytes', '-1'], 2: ['memory.low', '0'] },
  oomGroup: { 2: ['memory.oom.group', '0'] },
  // microseconds in each period, and the period, for which v1 has a file of its own
  cpu: { 1: ['cpu.cfs_quota_us', '-1 100000'], 2: ['cpu.max', 'max 100000'] },
  weight: { 1: ['cpu.shares', '1024'], 2: ['cpu.weight', '100'] },
  cpuset: { 1: ['cpuset.cpus'], 2: ['cpuset.cpus', ''] },
  mems: { 1: ['cpuset.mems'], 2: ['cpuset.mems', ''] },
  pids: { 1: ['pids.max', 'max'], 2: ['pids.max', 'max'] },
  readBps: { 1: ['blkio.throttle.read_bps_device', '0', ''], 2: ['io.max', 'max', 'rbps='] },
  writeBps: { 1: ['blkio.throttle.write_bps_device', '0', ''], 2: ['io.max', 'max', 'wbps='] },
  readIops: { 1: ['blkio.throttle.read_iops_device', '0', ''], 2: ['io.max', 'max', 'riops='] },
  writeIops: { 1: ['blkio.throttle.write_iops_device', '0', ''], 2: ['io.max', 'max', 'wiops='] },
  get ioWeight() {
    return ioWeightFiles();
  },
};

let bfq: { isThere: boolean; isUsed: boolean } | undefined;

/** Whether this kernel has the I/O scheduler bfq, which adds its files to cgroups, and whether a disk uses it. */
export function readBfq(): { isThere: boolean; isUsed: boolean } {
  if (bfq) return bfq;
  const names = attempt(() => readdirSync('/sys/block')) ?? [];
  const schedulers = names.map((name) => readText(`/sys/block/${name}/queue/scheduler`) ?? '');
  bfq = {
    isThere: schedulers.some((words) => /\bbfq\b/.test(words)),
    isUsed: schedulers.some((words) => words.includes('[bfq]')),
  };
  return bfq;
}

/** The files of the I/O weight: those of bfq, as in runc; else that of v2's io.cost, admin-guide/cgroup-v2. */
const ioWeightFiles = (): (typeof limitFiles)[LimitName] => ({
  1: ['blkio.bfq.weight', '100'],
  2: [readBfq().isThere ? 'io.bfq.weight' : 'io.weight', 'default 100'],
});

const periodFile = 'cpu.cfs_period_us';

/** A limit's value, as the file has it; `device` is MAJ:MIN if the file has a line for each device. */
export interface Setting {
  limit: LimitName;
  device?: string;
  text: string;
}

/** A cgroup, which exists or will be made. */
export interface Cgroup {
  version: 1 | 2;
  directory: string;
}

/** The path of a limit's file in a cgroup, whose version has the limit. */
export const limitPath = (limit: LimitName, { version, directory }: Cgroup): string =>
  join(directory, limitFiles[limit][version]?.[0] ?? '');

const readText = (file: string) => attempt(() => readFileSync(file, 'utf8').trim());

/** Without a limit, v1 says the largest multiple of a page in 63 bits. */
const isUnlimited = (text: string) => text === 'max' || Number(text) >= 2 ** 62;

/** The value that stands for no limit in a cgroup. */
export function noLimit(limit: LimitName, version: 1 | 2, directory: string): string {
  const [file = '', none] = limitFiles[limit][version] ?? [];
  return none ?? readText(join(dirname(directory), file)) ?? '';
}

/**
 * Reads a limit of a cgroup: one value, or one for each device with a limit. None if the cgroup has no such file, or its
 * version no such limit.
 */
export function readLimit(limit: LimitName, version: 1 | 2, directory: string): Setting[] {
  const [file, none, key] = limitFiles[limit][version] ?? [];
  const content = file && readText(join(directory, file));
  if (content === undefined) return [];
  if (key === undefined) {
    const period = file === 'cpu.cfs_quota_us' ? ` ${readText(join(directory, periodFile))}` : '';
    return [{ limit, text: (isUnlimited(content) ? (none ?? content) : content) + period }];
  }
  return content.split('\n').flatMap((line) => {
    const [device = '', ...words] = line.split(' ');
    const text = words.find((word) => word.startsWith(key))?.slice(key.length);
    return text === undefined || text === none || !device.includes(':') ? [] : [{ limit, device, text }];
  });
}

/**
 * A limit as a number that can be compared: CPUs, bytes, a count; a weight is on v2's scale. null: no limit;
 * undefined: the limit is a list, of CPUs or memory nodes.
 */
export function amount(version: 1 | 2, { limit, text }: Setting): number | null | undefined {
  const { unit } = limits[limit];
  if (unit === 'list') return undefined;
  const [, none] = limitFiles[limit][version] ?? [];
  const [value = '', period] = text.split(' ');
  if (limit === 'weight') return version === 1 ? sharesAsWeight(Number(value)) : Number(value);
  if (value === none?.split(' ')[0]) return null;
  if (limit === 'ioWeight') return Number(text.replace('default ', ''));
  return unit === 'CPUs' ? Number(value) / Number(period) : Number(value);
}

/**
 * Converts v2's cpu.weight, 1 to 10000, to v1's cpu.shares. The defaults are 100 and 1024, and the kernel itself
 * converts with weight * 1024 / 100 (sched_weight_from_cgroup).
 */
export const weightToShares = (weight: number) => Math.max(2, Math.round((weight * 1024) / 100));

const sharesAsWeight = (shares: number) => Math.max(1, Math.round((shares * 100) / 1024));

/**
 * Converts v1's cpu.shares, 2 to 262144, to v2's cpu.weight, as runc and crun do (opencontainers/cgroups since 0.0.3):
 * by a curve through both ends and through the two defaults.
 */
export function sharesToWeight(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const log = Math.log2(shares);
  // a whole number may be off by the last bit
  return Math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34) - 1e-9);
}

/** The I/O weight, 10 to 1000, for a file of v1 or v2. That of io.cost goes to 10000, and is converted as in runc. */
const ioWeightText = (weight: number, version: 1 | 2) => {
  if (version === 1) return String(weight);
  return `default ${readBfq().isThere ? weight : Math.floor(1 + ((weight - 10) * 9999) / 990)}`;
};

/** Requested limits, the same for both versions. undefined: unchanged; Infinity: no limit. */
export interface Limits {
  memoryBytes?: number | undefined;
  /** beyond memoryBytes; undefined: none, if memoryBytes is given */
  swapBytes?: number | undefined;
  highBytes?: number | undefined;
  reserveBytes?: number | undefined;
  oomGroup?: boolean | undefined;
  cpus?: number | undefined;
  periodMicroseconds?: number | undefined;
  /** as v2's cpu.weight */
  weight?: number | undefined;
  /** as v1's cpu.shares */
  cpuShares?: number | undefined;
  cpuset?: string | undefined;
  mems?: string | undefined;
  pids?: number | undefined;
  /** Docker's, 10 to 1000 */
  ioWeight?: number | undefined;
  /** of whole disks, MAJ:MIN */
  devices?: Rate[] | undefined;
}

/** A limit of one disk, in bytes or operations a second. */
interface Rate {
  limit: 'readBps' | 'writeBps' | 'readIops' | 'writeIops';
  device: string;
  value: number;
}

/** The names of the requested limits. A memory limit sets the swap limit too: without a request, to no swap. */
export function namesOf(wanted: Limits): LimitName[] {
  const before: Setting[] = [{ limit: 'swap', text: 'max' }];
  return [...new Set(toSettings(wanted, limitNames, 2, before).map(({ limit }) => limit))];
}

/** The controllers of limits. */
export const controllersOf = (names: LimitName[]) => [
  ...new Set(names.map((name) => limits[name].controller)),
];

/** The hierarchy of a limit. Throws Failure where this host does not have the limit. */
export function hierarchyOf(hierarchies: Hierarchy[], limit: LimitName): Hierarchy {
  const { controller } = limits[limit];
  const hierarchy = findHierarchy(hierarchies, controller);
  const delegated = process.getuid?.() === 0 ? '' : ', or it is not delegated to you';
  if (!hierarchy)
    throw new Failure(
      `cannot limit ${controller}: this host has no such controller${delegated}, cgroups(7): ${hierarchies.length === 0 ? noHierarchy : 'cat /proc/cgroups'}`,
    );
  if (!limitFiles[limit][hierarchy.version])
    throw new Failure(
      `cgroup v1 has nothing like ${limitFiles[limit][2][0]}, and this host has the ${controller} controller there: boot it with systemd.unified_cgroup_hierarchy=1`,
    );
  const hasFile =
    limit !== 'ioWeight' ||
    readBfq().isThere ||
    (hierarchy.version === 2 && existsSync(join(hierarchy.mountPoint, 'io.cost.qos')));
  if (!hasFile)
    throw new Failure(
      'this kernel has no I/O weights: modprobe bfq; echo bfq >/sys/block/DISK/queue/scheduler',
    );
  return hierarchy;
}

/** The values of these limits in a new cgroup of a hierarchy. */
export function newLimits({ version, mountPoint }: Hierarchy, names: LimitName[]): Setting[] {
  // v2's root has no limits, which would show whether the kernel accounts for swap
  const swapFile = version === 1 ? join(mountPoint, memoryFiles[1].swap) : '/proc/swaps';
  const found = names.filter((limit) => limit !== 'swap' || existsSync(swapFile));
  // a new cpuset is filled with the values of the root, cpuset(7)
  return found.map((limit) => ({ limit, text: noLimit(limit, version, join(mountPoint, parent)) }));
}

/**
 * The values to write for the requested limits, as far as they are among `names`; `before` has the current ones. Throws
 * Failure if swap is to be limited and the kernel does not account for it.
 */
export function toSettings(wanted: Limits, names: LimitName[], version: 1 | 2, before: Setting[]): Setting[] {
  const { memoryBytes, swapBytes, weight, cpuShares, devices = [] } = wanted;
  const now = (name: LimitName) => before.find(({ limit }) => limit === name)?.text;
  const countsSwap = now('swap') !== undefined;
  if (names.includes('swap') && swapBytes !== undefined && !countsSwap)
    throw new Failure(
      'cannot limit swap: this kernel does not account for it: boot it with swapaccount=1, or leave swap out',
    );
  // v1 counts memory and swap together, v2 swap alone
  const swap = memoryBytes && (swapBytes ?? 0) + (version === 1 ? memoryBytes : 0);
  const values: Partial<Record<LimitName, number | string | undefined>> = {
    memory: memoryBytes,
    swap: countsSwap ? swap : undefined,
    high: wanted.highBytes,
    reserve: wanted.reserveBytes,
    oomGroup: wanted.oomGroup ? 1 : undefined,
    cpu: quota(wanted, now('cpu') ?? noLimit('cpu', version, '')),
    weight:
      version === 1
        ? (cpuShares ?? (weight && weightToShares(weight)))
        : (weight ?? (cpuShares && sharesToWeight(cpuShares))),
    cpuset: wanted.cpuset,
    mems: wanted.mems,
    pids: wanted.pids,
    ioWeight: wanted.ioWeight && ioWeightText(wanted.ioWeight, version),
  };
  const settings = names.flatMap((limit) => {
    const value = values[limit] === Infinity ? noLimit(limit, version, '') : values[limit];
    return value === undefined ? [] : { limit, text: String(value) };
  });
  const rates = devices.filter(({ limit }) => names.includes(limit));
  return [...settings, ...rates.map(({ limit, device, value }) => ({ limit, device, text: String(value) }))];
}

/** Quota and period in microseconds. With a period alone the number of CPUs stays as it is in `now`. */
function quota({ cpus, periodMicroseconds }: Limits, now: string): string | number | undefined {
  if (cpus === Infinity || (cpus === undefined && periodMicroseconds === undefined)) return cpus;
  const [old = '', oldPeriod] = now.split(' ');
  const period = periodMicroseconds ?? 100_000;
  const share = cpus ?? Number(old) / Number(oldPeriod); // not above 0 without a limit
  // kernel/sched: a quota is a millisecond at least
  return `${share > 0 ? Math.max(1000, Math.round(share * period)) : old} ${period}`;
}

/** A value to write to a file of a cgroup: a step of helpers/steps.ts. */
export interface Write {
  write: string;
  to: string;
}

/**
 * What to write to set a cgroup's limits, in an order that the kernel accepts and that kills no process on the way: v1's
 * limit of memory plus swap must not be less than that of memory, so it is raised first and lowered last; v2's swap
 * limit likewise. `before` has the current values.
 */
export function writes(settings: Setting[], cgroup: Cgroup, before: Setting[]): Write[] {
  const { version, directory } = cgroup;
  const old = (setting: Setting) => valueIn(before, setting, cgroup);
  const number = (setting: Setting) => amount(version, setting) ?? Infinity;
  const isRaised = (setting: Setting) => setting.limit === 'swap' && number(setting) > number(old(setting));
  const ordered = [...settings.filter(isRaised), ...settings.filter((setting) => !isRaised(setting))];
  return ordered.flatMap((setting) => {
    const { limit, device, text } = setting;
    const [file = '', , key] = limitFiles[limit][version] ?? [];
    const to = join(directory, file);
    if (key !== undefined) return { write: `${device} ${key}${text}`, to };
    if (file !== 'cpu.cfs_quota_us') return { write: text, to };
    const [value = '', period = ''] = text.split(' ');
    const last = { write: value, to };
    if (period === old(setting).text.split(' ')[1]) return last;
    // with the new period the old quota might be more than the parent allows, EINVAL: it is lifted first
    const lift = { write: '-1', to };
    return [lift, { write: period, to: join(directory, periodFile) }, ...(value === '-1' ? [] : [last])];
  });
}

/** Whether a setting of a cgroup limits anything. */
export const isSet = ({ limit, text }: Setting, { version, directory }: Cgroup): boolean =>
  text !== noLimit(limit, version, directory);

/** Whether another setting is of the same limit and the same disk. */
export const isSame = (one: Setting) => (other: Setting) =>
  one.limit === other.limit && one.device === other.device;

/** The value of a setting's limit among those that were `read` in a cgroup; no limit, if it is not among them. */
export const valueIn = (read: Setting[], setting: Setting, { version, directory }: Cgroup): Setting =>
  read.find(isSame(setting)) ?? { ...setting, text: noLimit(setting.limit, version, directory) };

/** The two cgroups above one of ours, `barehand/NAME`: the one that has the folder `barehand`, and that folder. */
export const levelsAbove = (directory: string): [string, string] => [
  dirname(dirname(directory)),
  dirname(directory),
];

/**
 * What to write before a new cgroup of ours, `barehand/NAME`, takes processes or limits: v2's controllers are enabled in
 * the cgroups above, from the top; v1's cpuset gets CPUs and memory nodes, cpuset(7).
 */
export function prepare(hierarchy: Hierarchy, directory: string, controllers: string[]): Write[] {
  const levels = levelsAbove(directory);
  if (hierarchy.version === 2) {
    const write = controllers.map((word) => `+${word}`).join(' ');
    return write === '' ? [] : levels.map((level) => ({ write, to: join(level, 'cgroup.subtree_control') }));
  }
  // before Linux 5.11, a v1 memory limit applies to cgroups below only if this is set
  const toBelow = join(levels[0], 'memory.use_hierarchy');
  if (levels[0] !== hierarchy.mountPoint && readText(toBelow) === '0') return [{ write: '1', to: toBelow }];
  if (!hierarchy.controllers.includes('cpuset')) return [];
  return [levels[1], directory].flatMap((level) =>
    ['cpuset.cpus', 'cpuset.mems'].map((file) => ({
      write: readFileSync(join(levels[0], file), 'utf8').trim(),
      to: join(level, file),
    })),
  );
}

/**
 * All that is written to the new cgroups of the container `name` before it joins them: they are prepared, and limited.
 * Throws Failure if this host does not have a limit.
 */
export function launchWrites(hierarchies: Hierarchy[], name: string, wanted: Limits): Write[] {
  const directoryIn = ({ mountPoint }: Hierarchy) => join(mountPoint, parent, name);
  const prepared = hierarchies.flatMap((hierarchy) => {
    const offered = hierarchy.version === 2 ? offeredControllers(hierarchy.mountPoint) : [];
    const used = offered.filter((word) => ['cpu', 'cpuset', 'io', 'memory', 'pids'].includes(word));
    return prepare(hierarchy, directoryIn(hierarchy), used);
  });
  const byHierarchy = groupBy(namesOf(wanted), (limit) => hierarchyOf(hierarchies, limit));
  const limited = [...byHierarchy].flatMap(([hierarchy, names]) => {
    const before = newLimits(hierarchy, names);
    const settings = toSettings(wanted, names, hierarchy.version, before);
    return writes(settings, { version: hierarchy.version, directory: directoryIn(hierarchy) }, before);
  });
  return [...prepared, ...limited];
}

/** The number in a file of a cgroup; null: no limit; undefined: there is no such file. */
export function readBytes(file: string): number | null | undefined {
  const text = readText(file);
  return text === undefined ? undefined : isUnlimited(text) ? null : Number(text);
}
