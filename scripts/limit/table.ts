// All limits: how run.ts, limit-*.ts and ps.ts call them, which files of cgroup v1 and v2 hold them, and what is written
// there in which order. See cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { findHierarchy, type Hierarchy, offeredControllers, parent } from '../helpers/cgroups.ts';
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
    label: '', // limit-memory.ts tells it in words of its own
    json: 'swapLimitBytes',
    unit: 'bytes',
    1: { files: [memoryFiles[1].swap], none: '-1' },
    2: { files: [memoryFiles[2].swap], none: 'max' },
  },
  high: {
    controller: 'memory',
    label: 'high',
    json: 'highBytes',
    unit: 'bytes',
    2: { files: ['memory.high'], none: 'max' },
  },
  reserve: {
    controller: 'memory',
    label: 'soft limit',
    json: 'reserveBytes',
    unit: 'bytes',
    // v1: above it the kernel reclaims from this cgroup first; v2: below it last
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

/** A cgroup, which exists or will. */
export interface Cgroup {
  version: 1 | 2;
  directory: string;
}

/** A limit's place in one version. undefined: that version does not have it. */
export const limitFile = (limit: LimitName, version: 1 | 2): LimitFile | undefined =>
  (limits[limit] as Limit)[version];

const readText = (file: string) => attempt(() => readFileSync(file, 'utf8').trim());

/** What v1 says for no limit: the largest multiple of a page in 63 bits. */
const isUnlimited = (text: string) => text === 'max' || Number(text) >= 2 ** 62;

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
  if (key === undefined) return [{ limit, text: isUnlimited(text) ? (none ?? text) : text }];
  return text.split('\n').flatMap((line) => {
    const [device = '', ...values] = line.split(' ');
    const value = values.find((word) => word.startsWith(key))?.slice(key.length);
    return value === undefined || value === none || !device.includes(':')
      ? []
      : [{ limit, device, text: value }];
  });
}

/**
 * A limit as a number that can be compared: CPUs, bytes, a count; a weight in v2's scale. null: no limit; undefined: the
 * limit is a list of CPUs.
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
 * Converts v2's cpu.weight, 1 to 10000, to v1's cpu.shares. The defaults are 100 and 1024, and the kernel itself
 * converts with weight * 1024 / 100 (sched_weight_from_cgroup).
 */
export const weightToShares = (weight: number) => Math.max(2, Math.round((weight * 1024) / 100));

const sharesAsWeight = (shares: number) => Math.max(1, Math.round((shares * 100) / 1024));

/**
 * v1's cpu.shares, 2 to 262144, as v2's cpu.weight, as runc and crun convert it (opencontainers/cgroups since 0.0.3): a
 * curve through both ends and through the two defaults.
 */
export function sharesToWeight(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const log = Math.log2(shares);
  // what is a whole number already may be off by the last bit
  return Math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34) - 1e-9);
}

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
  /** of whole disks, MAJ:MIN */
  devices?: Rate[] | undefined;
}

/** A limit of one disk, in bytes or operations a second. */
export interface Rate {
  limit: 'readBps' | 'writeBps' | 'readIops' | 'writeIops';
  device: string;
  value: number;
}

/** The values of the requested limits, except those of disks; `cpuNow`: the current quota and period. */
const valuesOf = (wanted: Limits, version: 1 | 2, cpuNow?: string) => {
  const { memoryBytes, swapBytes = 0, weight, cpuShares } = wanted;
  const values: Partial<Record<LimitName, number | string | undefined>> = {
    memory: memoryBytes,
    // v1 counts memory and swap together, v2 swap alone
    swap: memoryBytes === undefined ? undefined : swapBytes + (version === 1 ? memoryBytes : 0),
    high: wanted.highBytes,
    reserve: wanted.reserveBytes,
    oomGroup: wanted.oomGroup ? 1 : undefined,
    cpu: quota(wanted, cpuNow),
    weight:
      version === 1
        ? (cpuShares ?? (weight && weightToShares(weight)))
        : (weight ?? (cpuShares && sharesToWeight(cpuShares))),
    cpuset: wanted.cpuset,
    mems: wanted.mems,
    pids: wanted.pids,
  };
  return values;
};

/** The names of the requested limits. A memory limit sets the swap limit too: without a request, to no swap. */
export function namesOf(wanted: Limits): LimitName[] {
  const values = Object.entries(valuesOf(wanted, 2)) as [LimitName, unknown][];
  const given = values.filter(([, value]) => value !== undefined).map(([name]) => name);
  return [...given, ...new Set(wanted.devices?.map(({ limit }) => limit))];
}

/** The controllers that limits take. */
export const controllersOf = (names: LimitName[]) => [
  ...new Set(names.map((name) => limits[name].controller)),
];

/** The hierarchy of a limit. Throws Failure where this host does not have the limit. */
export function hierarchyOf(hierarchies: Hierarchy[], limit: LimitName): Hierarchy {
  const { controller } = limits[limit];
  const hierarchy = findHierarchy(hierarchies, controller);
  const delegated = process.getuid?.() === 0 ? '' : ' that is delegated to you';
  if (!hierarchy)
    throw new Failure(
      `cannot limit ${controller}: this host has no such controller${delegated}, cgroups(7): see /proc/cgroups`,
    );
  if (!limitFile(limit, hierarchy.version))
    throw new Failure(
      `cgroup v1 has nothing like ${limitFile(limit, 2)?.files[0]}, and this host has the ${controller} controller there: boot it with systemd.unified_cgroup_hierarchy=1`,
    );
  return hierarchy;
}

/** The values that the named limits have in a new cgroup of a hierarchy. */
export function newLimits({ version, mountPoint }: Hierarchy, names: LimitName[]): Setting[] {
  return names.flatMap((limit) => {
    const form = limitFile(limit, version);
    // the values of a new cpuset are filled in from the root
    const text = form?.none ?? readText(join(mountPoint, form?.files[0] ?? '')) ?? '';
    const exists = form && form.device === undefined && (limit !== 'swap' || countsSwap(version, mountPoint));
    return exists ? [{ limit, text }] : [];
  });
}

/**
 * The values that a cgroup's files get for the requested limits, as far as they are among `names`; `before`: the current
 * values. Throws Failure if swap is to be limited and the kernel does not account for it.
 */
export function toSettings(wanted: Limits, names: LimitName[], version: 1 | 2, before: Setting[]): Setting[] {
  const now = (name: LimitName) => before.find(({ limit }) => limit === name)?.text;
  const countsSwap = now('swap') !== undefined;
  if (names.includes('swap') && wanted.swapBytes !== undefined && !countsSwap)
    throw new Failure(
      'cannot limit swap: this kernel does not account for it: boot it with swapaccount=1, or leave swap out',
    );
  const values = valuesOf(wanted, version, now('cpu'));
  const settings = names.flatMap((limit): Setting[] => {
    const value = values[limit];
    if (value === undefined || (limit === 'swap' && !countsSwap)) return [];
    return [{ limit, text: value === Infinity ? (limitFile(limit, version)?.none ?? '') : String(value) }];
  });
  const rates = (wanted.devices ?? []).filter(({ limit }) => names.includes(limit));
  return [...settings, ...rates.map(({ limit, device, value }) => ({ limit, device, text: String(value) }))];
}

/** Quota and period in microseconds. With a period alone the number of CPUs stays as it is in `now`. */
function quota({ cpus, periodMicroseconds }: Limits, now = 'max 100000'): string | number | undefined {
  if (cpus === Infinity || (cpus === undefined && periodMicroseconds === undefined)) return cpus;
  const [old = '', oldPeriod] = now.split(' ');
  const period = periodMicroseconds ?? 100_000;
  const isLimited = cpus !== undefined || Number(old) > 0;
  const share = cpus ?? Number(old) / Number(oldPeriod);
  // kernel/sched: a quota is a millisecond at least
  return `${isLimited ? Math.max(1000, Math.round(share * period)) : old} ${period}`;
}

/** A value that is written to a file of a cgroup: a step of helpers/steps.ts. */
export interface Write {
  write: string;
  to: string;
}

/**
 * What is written to set a cgroup's limits, in an order that the kernel accepts and that kills no process on the way: v1's
 * limit of memory plus swap must not be less than that of memory, so it is raised first and lowered last; v2's swap
 * limit likewise. `before`: the current values.
 */
export function writes(settings: Setting[], cgroup: Cgroup, before: Setting[]): Write[] {
  const { version, directory } = cgroup;
  const old = (setting: Setting) => valueBefore(setting, cgroup, before);
  const number = (setting: Setting) => amount(version, setting) ?? Infinity;
  const isRaised = (setting: Setting) => setting.limit === 'swap' && number(setting) > number(old(setting));
  const ordered = [...settings.filter(isRaised), ...settings.filter((setting) => !isRaised(setting))];
  return ordered.flatMap((setting) => {
    const { files, device, none = '' } = limitFile(setting.limit, version) as LimitFile;
    const [first = '', second] = files.map((file) => join(directory, file));
    if (device !== undefined) return [{ write: `${setting.device} ${device}${setting.text}`, to: first }];
    if (second === undefined) return [{ write: setting.text, to: first }];
    const [value = '', period = ''] = setting.text.split(' ');
    if (period === old(setting).text.split(' ')[1]) return [{ write: value, to: first }];
    // v1: with the new period the old quota might be more than the cgroup above allows, EINVAL: it goes and comes back
    const unlimited = none.split(' ')[0] as string;
    const values = [unlimited, period, value].slice(0, value === unlimited ? 2 : 3);
    return values.map((write, index) => ({ write, to: index === 1 ? second : first }));
  });
}

/** Whether another setting is of the same limit, and of the same disk. */
export const isSame = (one: Setting) => (other: Setting) =>
  one.limit === other.limit && one.device === other.device;

/** The current value of a limit: the one that was read, or none. */
export const valueBefore = (setting: Setting, { version, directory }: Cgroup, before: Setting[]): Setting =>
  before.find(isSame(setting)) ?? { ...setting, text: noLimit(setting.limit, version, directory) };

/** The cgroups above one of ours, `barehand/NAME`: the one that our folder is in, and that folder. */
export const levelsAbove = (directory: string): [string, string] => [
  dirname(dirname(directory)),
  dirname(directory),
];

/**
 * What a new cgroup of ours, `barehand/NAME`, needs before it takes processes or limits: v2's controllers are enabled in
 * the cgroups above, from the top; v1's cpuset gets CPUs and memory nodes, cpuset(7).
 */
export function prepare(hierarchy: Hierarchy, directory: string, controllers: string[]): Write[] {
  const levels = levelsAbove(directory);
  if (hierarchy.version === 2) {
    const write = controllers.map((word) => `+${word}`).join(' ');
    return write === '' ? [] : levels.map((level) => ({ write, to: join(level, 'cgroup.subtree_control') }));
  }
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
 * Throws Failure where this host can't limit so.
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

/** A number in a file of the memory controller; null for no limit, undefined where there is no such file. */
export function readBytes(file: string): number | null | undefined {
  const text = readText(file);
  return text === undefined ? undefined : isUnlimited(text) ? null : Number(text);
}

/** Whether a new cgroup has a limit for swap: not every kernel counts it. v2's root has no limits, which would show it. */
const countsSwap = (version: 1 | 2, mountPoint: string) =>
  existsSync(version === 1 ? join(mountPoint, memoryFiles[1].swap) : '/proc/swaps');
