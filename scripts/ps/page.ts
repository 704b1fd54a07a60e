// One process on a page: its container, who started that, and the limits in force.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  cgroupDirectory,
  cgroupPath,
  findHierarchy,
  type Hierarchy,
  readHierarchies,
} from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { heldContainer, readLabels } from '../helpers/containers.ts';
import { isBelow, type Mount } from '../helpers/mounts.ts';
import {
  commandLine,
  type Process,
  printable,
  readProc,
  readProcess,
  readStat,
  startTicks,
} from '../helpers/pids.ts';
import { containerAround, noProcess } from '../helpers/target.ts';
import { formatSize } from '../helpers/units.ts';
import { pathOf } from '../limit/oom.ts';
import { showLimit } from '../limit/perform.ts';
import { amount, type LimitName, limits, memoryFiles, readBytes, readLimit } from '../limit/table.ts';
import type { Reading } from './containers.ts';
import { rootfsPath } from './rootfs.ts';
import { type Places, readCpuSeconds } from './usage.ts';

/** A process that has started another. */
export interface Ancestor {
  pid: number;
  command: string;
  /** the service or scope of systemd whose cgroup it is in */
  unit: string | null;
}

/**
 * Whose cgroup sets a limit: `own` is the container's, or the process's if it is in no container; `parent`: one above;
 * `inside`: one in the container's, as for a part of it; `other`: one that the container's is not in.
 */
type LimitLevel = 'own' | 'parent' | 'inside' | 'other';

/** A limit in force, and how much is used of it. */
export interface LimitInForce {
  limit: LimitName;
  /** MAJ:MIN of a disk */
  device: string | null;
  /** a number in the unit of the limit, or a list of CPUs or memory nodes */
  value: number | string;
  /** of the same cgroup; null: the kernel does not count it */
  used: number | null;
  level: LimitLevel;
  /** the directory of the cgroup */
  cgroup: string;
  /** the value for people */
  text: string;
}

/** What there is to know of a process and its container. null: there is none, or it cannot be read. */
export interface Page {
  pid: number;
  command: string;
  container: {
    name: string | null;
    engine: string;
    pid: number;
    command: string;
    rootfs: string | null;
    /** `first` process, `member`, or `holder`, which is not in it: unshare(1) */
    role: 'first' | 'member' | 'holder';
  } | null;
  /** of its container */
  labels: Record<string, string>;
  /** the ancestors of a process in a container up to the first process, or all if another program brought it in */
  parents: Ancestor[];
  /** the ancestors of the container's first process, or of a process in no container */
  startedBy: Ancestor[];
  unit: string | null;
  cgroups: { controllers: string[]; path: string }[];
  limits: LimitInForce[];
  usage: {
    /** of the container, or of the cgroup of a process in no container */
    memoryBytes: number | null;
    pids: number | null;
    cpuSeconds: number | null;
    /** where memory and processes are counted; null: sums over the processes of the container */
    memoryCgroup: string | null;
    pidsCgroup: string | null;
  };
}

/** The limits on the page. A weight is none, nor is a soft limit. */
const shown: LimitName[] = [
  'memory',
  'swap',
  'high',
  'cpu',
  'cpuset',
  'mems',
  'pids',
  'readBps',
  'writeBps',
  'readIops',
  'writeIops',
];

/** The unit of systemd whose cgroup a process is in: the innermost .service or .scope of its path, systemd.unit(5). */
export function unitOf(procCgroup: string): string | null {
  const [, path = ''] = /^(?:0:|\d+:name=systemd):(.*\.(?:service|scope)\b.*)$/m.exec(procCgroup) ?? [];
  return path.split('/').findLast((name) => /\.(service|scope)$/.test(name)) ?? null;
}

/** The command line of a process. Of a word that is a program, as after sh -c, the first line. */
const briefCommand = (process_: Process): string =>
  (readProc(process_.pid, 'cmdline') ?? '')
    .split('\0')
    .map((word) => word.replace(/\n[\s\S]*/, '…'))
    .join(' ')
    .trim() || commandLine(process_);

/** The ancestors of a process, the parent first, up to `last`, which is not among them. */
function ancestors(pid: number, last?: number): Ancestor[] {
  const found: Ancestor[] = [];
  const seen = new Set([pid]);
  for (let at = readStat(pid)?.ppid ?? 0; at > 0 && at !== last && !seen.has(at); ) {
    const process_ = readProcess(at);
    if (!process_) break;
    seen.add(at);
    found.push({
      pid: at,
      command: briefCommand(process_),
      unit: unitOf(readProc(at, 'cgroup') ?? ''),
    });
    at = process_.ppid;
  }
  return found;
}

/** How much of a limit is used in a cgroup. */
function usedOf(limit: LimitName, version: 1 | 2, directory: string): number | null {
  const { usage } = memoryFiles[version];
  const file = {
    memory: usage,
    high: usage,
    swap: version === 1 ? 'memory.memsw.usage_in_bytes' : 'memory.swap.current',
    pids: 'pids.current',
  }[limit as string];
  return file === undefined ? null : (readBytes(join(directory, file)) ?? null);
}

/** The limits in force of a kind: those of the process's cgroup, and of all above it. */
function limitsOf(
  limit: LimitName,
  hierarchy: Hierarchy,
  path: string,
  own: string | undefined,
): LimitInForce[] {
  const { version, mountPoint, root } = hierarchy;
  const start = cgroupDirectory(hierarchy, path)?.replace(/\/$/, '');
  if (start === undefined) return [];
  const base = own ?? start;
  const found: LimitInForce[] = [];
  for (let at = start; isBelow(at, mountPoint); at = dirname(at)) {
    const level = at === base ? 'own' : isBelow(base, at) ? 'parent' : isBelow(at, base) ? 'inside' : 'other';
    // the root of the tree limits nothing; in v1 each cpuset has a list, which may be that of the cgroup above
    const isTop = at === mountPoint;
    const above = () => (isTop ? undefined : readLimit(limit, version, dirname(at))[0]?.text);
    for (const setting of isTop && root === '/' ? [] : readLimit(limit, version, at)) {
      const number = amount(version, setting);
      const isInherited = number === undefined && (setting.text === '' || setting.text === above());
      if (number === null || isInherited) continue;
      found.push({
        limit,
        device: setting.device ?? null,
        value: number ?? setting.text,
        used: usedOf(limit, version, at),
        level,
        cgroup: at,
        // v1 limits memory and swap together
        text: showLimit(version, setting) + (limit === 'swap' && version === 1 ? ' with memory' : ''),
      });
    }
  }
  return found;
}

/** The cgroup that a container has to itself in the hierarchy of a controller. */
function ownIn(
  hierarchies: Hierarchy[],
  hierarchy: Hierarchy,
  controller: string,
  places: Places,
): string | undefined {
  const place = places[controller as keyof Places];
  if (place) return place.directory;
  // usage has no cpuset: the cgroup of the same path
  for (const { directory } of Object.values(places))
    for (const other of hierarchies) {
      const path = isBelow(directory, other.mountPoint) ? pathOf(other, directory) : undefined;
      const same = path === undefined ? undefined : cgroupDirectory(hierarchy, path);
      if (same && same !== hierarchy.mountPoint && existsSync(same)) return same;
    }
  return undefined;
}

/**
 * Makes the page of a process. Throws Failure if there is no such process,
 * or if it ends meanwhile: another may have its PID.
 */
export function readPage(
  pid: number,
  started: number | undefined,
  reading: Reading,
  hostMounts: Mount[],
): Page {
  const process_ = readProcess(pid);
  if (started === undefined || !process_ || process_.zombie) throw noProcess(pid);
  const containers = reading.containers.map(({ container }) => container);
  const held = heldContainer(containers, pid);
  const around = held ?? containerAround(containers, pid);
  const found = reading.containers.find(({ container }) => container === around);
  const first = found?.container.first.pid;
  const subject = held ? held.first.pid : pid;
  const procCgroup = readProc(subject, 'cgroup') ?? '';
  const hierarchies = readHierarchies();
  const placeOf = (controller: string) => {
    const hierarchy = findHierarchy(hierarchies, controller);
    const path = hierarchy && cgroupPath(procCgroup, hierarchy);
    return hierarchy && path !== undefined ? { hierarchy, path } : undefined;
  };
  const limitsInForce = shown.flatMap((limit) => {
    const { controller } = limits[limit];
    const place = placeOf(controller);
    if (!place) return [];
    const own = found && ownIn(hierarchies, place.hierarchy, controller, found.places);
    // the limits of the cgroups that a container shares with others are above it
    const its = limitsOf(limit, place.hierarchy, place.path, own);
    return found && !own ? its.map((one) => ({ ...one, level: 'parent' as const })) : its;
  });
  const usageOf = (controller: 'memory' | 'pids') => {
    const place = placeOf(controller);
    const its = place && cgroupDirectory(place.hierarchy, place.path)?.replace(/\/$/, '');
    const own = found ? found.places[controller]?.directory : its;
    const used = own && place ? usedOf(controller, place.hierarchy.version, own) : null;
    return { own: own ?? null, used };
  };
  const [memory, pids] = [usageOf('memory'), usageOf('pids')];
  const byPath = new Map<string, string[]>();
  for (const line of procCgroup.trim().split('\n')) {
    const [, controllers = '', path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path) byPath.set(path, [...(byPath.get(path) ?? []), ...controllers.split(',').filter(Boolean)]);
  }
  const page: Page = {
    pid,
    command: found && pid === first ? found.shown.command : commandLine(process_),
    container: found
      ? {
          name: found.shown.name,
          engine: found.shown.engine,
          pid: found.shown.pid,
          command: found.shown.command,
          rootfs: rootfsPath(found.container, hostMounts) ?? null,
          role: held ? 'holder' : pid === first ? 'first' : 'member',
        }
      : null,
    labels: found ? readLabels(found.shown) : {},
    parents: first === undefined || pid === first || held ? [] : ancestors(pid, first),
    startedBy: ancestors(first ?? pid),
    unit: unitOf(procCgroup),
    cgroups: [...byPath].map(([path, controllers]) => ({ controllers, path })),
    limits: limitsInForce,
    usage: {
      memoryBytes: memory.used ?? found?.shown.memory.usedBytes ?? process_.rssBytes,
      pids: pids.used ?? found?.shown.pids ?? process_.threads,
      cpuSeconds: found ? readCpuSeconds(found.places.time) : (readStat(pid)?.cpuTicks ?? 0) / 100,
      memoryCgroup: memory.used === null ? null : memory.own,
      pidsCgroup: pids.used === null ? null : pids.own,
    },
  };
  if (startTicks(pid) !== started) throw new Failure(`process ${pid} has ended`);
  return page;
}

/**
 * The limits in force and the usage, as keys and values. `whose` tells whose a limit is, by default its level and cgroup.
 */
export function limitLines<Limit extends LimitInForce>(
  { container, usage, limits: inForce }: Pick<Page, 'container' | 'usage'> & { limits: Limit[] },
  whose: (limit: Limit) => string = ({ level, cgroup }) => `${level}: ${cgroup}`,
): [key: string, value: string][] {
  const lines: [key: string, value: string][] = [];
  const kind = (keys: LimitName[]) => inForce.filter(({ limit }) => keys.includes(limit));
  const add = (key: string, its: Limit[], format: (used: number) => string, none: string) => {
    for (const one of its) {
      const { used, text, device, limit } = one;
      const what = device ? `${device} ${limits[limit].label} ` : '';
      const value = used === null ? text : `${format(used)} / ${text}`;
      lines.push([key, `${what}${value} (${whose(one)})`]);
    }
    if (its.length === 0 && none) lines.push([key, none]);
  };
  const none = (used: string, cgroup: string | null) => {
    const where = cgroup ? ` (${cgroup})` : '';
    return `${cgroup || !container ? '' : '~'}${used} / none${where}`;
  };
  const { memoryBytes, memoryCgroup, pids, pidsCgroup, cpuSeconds } = usage;
  add('memory', kind(['memory']), formatSize, none(formatSize(memoryBytes ?? 0), memoryCgroup));
  add('memory high', kind(['high']), formatSize, '');
  add('swap', kind(['swap']), formatSize, 'no limit');
  add('cpu', kind(['cpu']), String, 'no limit');
  if (cpuSeconds !== null) lines.push(['cpu time', `${cpuSeconds.toFixed(2)} s`]);
  add('cpuset', kind(['cpuset']), String, 'no limit');
  add('memory nodes', kind(['mems']), String, '');
  add('pids', kind(['pids']), String, none(`${pids ?? '?'}`, pidsCgroup));
  add('io', kind(['readBps', 'writeBps', 'readIops', 'writeIops']), String, 'no limit');
  return lines;
}

/** What a process is in its container. */
const roles = {
  first: 'its first process',
  member: 'one of its processes',
  holder: 'outside of it, and keeps it running',
};

/** The container of a process and its first process, as keys and values. `short` truncates a long command. */
export function containerLines(
  { pid, container }: Pick<Page, 'pid' | 'container'>,
  short: (command: string) => string,
): [key: string, value: string][] {
  if (!container) return [['container', 'none']];
  const { name, engine, role } = container;
  const lines: [string, string][] = [
    ['container', `${name ?? 'without a name'}, made by ${engine}; ${pid} is ${roles[role]}`],
  ];
  if (role !== 'first') lines.push(['first process', `${container.pid} ${short(container.command)}`]);
  return lines;
}

/** The page as lines `key: value`, a key of several values in several lines. `short` truncates a long command. */
export function pageText(page: Page, short: (command: string) => string): string {
  const { pid, container } = page;
  const one = (ancestor: Ancestor) =>
    `${ancestor.pid} ${short(ancestor.command)}${ancestor.unit ? ` (${ancestor.unit})` : ''}`;
  const lines: [key: string, value: string][] = [
    ['pid', `${pid}`],
    ['command', short(page.command)],
    ...containerLines(page, short),
  ];
  if (container) lines.push(['root directory', container.rootfs ?? '?']);
  for (const [key, value] of Object.entries(page.labels)) lines.push(['label', `${key}=${value}`]);
  lines.push(...page.parents.map((parent): [string, string] => ['parent', one(parent)]));
  lines.push(...page.startedBy.map((parent): [string, string] => ['started by', one(parent)]));
  if (page.unit) lines.push(['unit', page.unit]);
  for (const { controllers, path } of page.cgroups)
    lines.push(['cgroup', path + (controllers.length > 0 ? ` (${controllers.join(', ')})` : '')]);
  lines.push(...limitLines(page));
  // names, commands and paths of others may hold anything
  return lines.map(([key, value]) => `${key}: ${printable(value)}`).join('\n');
}
