// Cgroup directories of v1, v2 and hybrid hosts: finding them, reading their processes, moving processes. See
// cgroups(7).
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
import { isBelow, parseMounts } from './mounts.ts';
import { attempt, groupBy, readPids, readProc, readStat, type Stat } from './pids.ts';

/** A mounted cgroup hierarchy. `controllers`: in v1 its controllers, or `name=…`; empty in v2. */
export interface Hierarchy {
  version: 1 | 2;
  controllers: string[];
  mountPoint: string;
  /** the cgroup at the mount point: `/`, or inside a container perhaps a part of the tree */
  root: string;
}

/** The folder that holds all cgroups of barehand in each hierarchy. A container `web` is `barehand/web`. */
export const parent = 'barehand';

/**
 * The directory whose flock(2) guards the names of our containers: while it is held, a container that exists has
 * processes in all of its cgroups. It is the root of the memory controller's hierarchy, else the first one's.
 */
export function lockDirectory(hierarchies: Hierarchy[]): string | undefined {
  return (findHierarchy(hierarchies, 'memory') ?? hierarchies[0])?.mountPoint;
}

/** Mount options of a v1 cgroup file system that are not controllers. */
const notControllers = /^(rw|ro|xattr|noprefix|clone_children|cpuset_v2_mode|none|release_agent=.*)$/;

/** The cgroup hierarchies in the text of a mountinfo. If a hierarchy has several mounts, the first one counts. */
export function parseHierarchies(mountinfo: string): Hierarchy[] {
  const found = new Map<string, Hierarchy>();
  for (const { type, superOptions, mountPoint, root } of parseMounts(mountinfo)) {
    if (type !== 'cgroup' && type !== 'cgroup2') continue;
    const version = type === 'cgroup2' ? 2 : 1;
    const controllers =
      version === 2 ? [] : superOptions.split(',').filter((word) => !notControllers.test(word));
    const key = controllers.join();
    if (!found.has(key)) found.set(key, { version, controllers, mountPoint, root });
  }
  return [...found.values()];
}

/** Why there are no cgroups where no hierarchy is found, and what to type. */
export const noHierarchy =
  'no cgroup hierarchy is mounted on this host: mount -t cgroup2 cgroup2 /sys/fs/cgroup';

/** Whether a name in `parent` is that of a cgroup of limit-*.ts, pid-N; all others are names of containers. */
export const isPidName = (name: string) => /^pid-\d+$/.test(name);

/** The hierarchies mounted on this host. */
export const readHierarchies = () =>
  // a mount on top may hide one
  parseHierarchies(readProc('self', 'mountinfo') ?? '').filter(({ mountPoint }) =>
    existsSync(join(mountPoint, 'cgroup.procs')),
  );

/** The hierarchy of a controller such as `memory`: that of v1 if it is mounted, else v2 if it offers the controller. */
export function findHierarchy(hierarchies: Hierarchy[], controller: string): Hierarchy | undefined {
  const name = controller === 'io' ? 'blkio' : controller; // v1's name
  const v1 = hierarchies.find((hierarchy) => hierarchy.controllers.includes(name));
  if (v1) return v1;
  const v2 = hierarchies.find((hierarchy) => hierarchy.version === 2);
  return v2 && offeredControllers(v2.mountPoint).includes(controller) ? v2 : undefined;
}

/** The controllers that a v2 cgroup can enable for the cgroups below it. */
export function offeredControllers(directory: string): string[] {
  return readFileSync(join(directory, 'cgroup.controllers'), 'utf8').trim().split(/\s+/).filter(Boolean);
}

/**
 * The cgroup of a process in a hierarchy, as its path from the root of the tree, from the text of /proc/PID/cgroup.
 * undefined if the process is in no cgroup of this hierarchy.
 */
export function cgroupPath(procCgroup: string, hierarchy: Hierarchy): string | undefined {
  for (const line of procCgroup.split('\n')) {
    const [, controllers = '', path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path !== undefined && controllers === hierarchy.controllers.join()) return path;
  }
  return undefined;
}

/** The directory of a cgroup path. undefined if it lies outside of what is mounted. */
export function cgroupDirectory(hierarchy: Hierarchy, path: string): string | undefined {
  // cgroups(7): a path that begins with /.. lies above the root of the reader's cgroup namespace
  if (path.startsWith('/..')) return undefined;
  if (!isBelow(path, hierarchy.root)) return undefined;
  return join(hierarchy.mountPoint, hierarchy.root === '/' ? path : path.slice(hierarchy.root.length));
}

/** The one of these cgroups that is in the hierarchy of a controller, and the hierarchy; undefined if none of them is. */
export function cgroupIn(hierarchies: Hierarchy[], controller: string, directories: string[]) {
  const hierarchy = findHierarchy(hierarchies, controller);
  const directory = hierarchy && directories.find((one) => isBelow(one, hierarchy.mountPoint));
  return hierarchy && directory !== undefined ? { hierarchy, directory } : undefined;
}

/**
 * Why the kernel makes no cgroup in a directory, EAGAIN, and what lets it: the number or the depth of the cgroups below one
 * that is there, or one above it, is limited, cgroups(7). undefined if none of these limits is reached.
 */
export function fullCgroup(directory: string): string | undefined {
  const read = (at: string, file: string) => attempt(() => readFileSync(join(at, file), 'utf8')) ?? '';
  let depth = 1;
  for (let at = directory; at !== dirname(at); at = dirname(at), depth++) {
    const [, count] = /^nr_descendants (\d+)/m.exec(read(at, 'cgroup.stat')) ?? [];
    for (const [file, found, what] of [
      ['cgroup.max.descendants', Number(count ?? Number.NaN) + 1, 'cgroups below it'],
      ['cgroup.max.depth', depth, 'levels of cgroups below it'],
    ] as const) {
      const limit = read(at, file).trim();
      // NaN: it has no limit, or is no cgroup
      if (limit !== '' && found > Number(limit))
        return `${join(at, file)} allows only ${limit} ${what}: echo max >${join(at, file)}`;
    }
  }
  return undefined;
}

/** The directories of all cgroups below one, outer ones before inner ones. */
export function cgroupsBelow(directory: string): string[] {
  // the link count of a cgroupfs directory counts its subdirectories: reading it is faster than listing the many files
  if ((attempt(() => statSync(directory).nlink) ?? 0) <= 2) return [];
  const entries = attempt(() => readdirSync(directory, { withFileTypes: true })) ?? [];
  return entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(directory, entry.name))
    .flatMap((below) => [below, ...cgroupsBelow(below)]);
}

/** The processes of a cgroup and of all cgroups below it; 0 for one that the reader's PID namespace does not show. */
export const processesIn = (directory: string): number[] =>
  [directory, ...cgroupsBelow(directory)].flatMap(processesOf);

/** The processes of a cgroup itself. */
export const processesOf = (directory: string): number[] =>
  readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);

/**
 * The directory of the nearest cgroup, from `path` upwards, that contains all of `members` and no stranger. undefined
 * if there is none. The root does not count, nor does the parent of all our containers.
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

/** Moves processes with all their threads. Ignores processes that have ended; throws the kernel's other errors. */
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
 * Moves a process and all its descendants. Parents are moved first, so that their later children are born inside.
 * Reads /proc again until no process of the tree is outside. Throws if that takes too long.
 *
 * A process that was seen in the tree once belongs to it even if its parent has ended. So does a process that was born
 * meanwhile in a session or process group led by a process of the tree, credentials(7). After three rounds the cgroup
 * is frozen (v2) until all are inside: a frozen process does not end and leave a child outside without a parent.
 */
export function moveTree(pid: number, directory: string): void {
  const freezer = join(directory, 'cgroup.freeze');
  const interrupts = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  const later = () => {}; // a signal must not end this process while the cgroup is frozen
  const began = ticksNow() - 1;
  const seen = new Map<number, number>(); // processes seen in the tree, and when first: a PID can be reused
  let frozen = false;
  try {
    for (let round = 0; round < 100; round++) {
      const now = ticksNow();
      // the first round skips none: a v1 cgroup also lists a process of which it has only one thread
      const table = readStats(new Set(round === 0 ? [] : processesIn(directory)));
      const children = groupBy(table.keys(), (other) => table.get(other)?.ppid ?? 0);
      const isStray = (other: number, { startTicks, session, group }: Stat) =>
        round > 0 && !seen.has(other) && startTicks >= began && (seen.has(session) || seen.has(group));
      const strays = [...table].flatMap(([other, stat]) => (isStray(other, stat) ? other : []));
      const known = [...seen].flatMap(([other, when]) =>
        (table.get(other)?.startTicks ?? 0) <= when ? other : [],
      );
      const tree = new Set([pid, ...known, ...strays]);
      for (const one of tree) for (const child of children.get(one) ?? []) tree.add(child);
      const outside = [...tree].filter((one) => table.get(one)?.zombie === false);
      if (outside.length === 0) return;
      if (round === 3 && attempt(() => readFileSync(freezer, 'utf8').trim()) === '0') {
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

/** /proc/PID/stat of all processes except those in `skip`. */
function readStats(skip: Set<number>): Map<number, Stat> {
  return new Map(
    readPids().flatMap((pid): [number, Stat][] => {
      const stat = skip.has(pid) ? undefined : readStat(pid);
      return stat ? [[pid, stat]] : [];
    }),
  );
}

/**
 * Moves all processes of a cgroup and of those below it to another cgroup, which may lie below it or above it, until
 * none is left. Throws if that takes too long.
 */
export function moveAll(from: string, directory: string): void {
  for (let round = 0; round < 100; round++) {
    const isThere = (cgroup: string) => isBelow(cgroup, directory) && !isBelow(from, directory);
    const inside = [from, ...cgroupsBelow(from)].filter((cgroup) => !isThere(cgroup)).flatMap(processesOf);
    if (inside.length === 0) return;
    moveProcesses(inside, directory);
  }
  throw new Error('its processes start others faster than they can be moved: freeze them first');
}
