// cgroup directories of v1, v2 and hybrid hosts: where they are, who is in them, moving processes. See cgroups(7).
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
import { attempt, groupBy, readProc, readStat, type Stat } from './pids.ts';

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

/**
 * The directory whose flock(2) guards the names of our containers: while it is held, a container that exists has
 * processes in all of its cgroups. It is the root of the memory controller's hierarchy, else the first one's.
 */
export function lockDirectory(hierarchies: Hierarchy[]): string | undefined {
  return (findHierarchy(hierarchies, 'memory') ?? hierarchies[0])?.mountPoint;
}

/** What a v1 cgroup file system can be mounted with that is no controller. */
const notControllers = /^(rw|ro|xattr|noprefix|clone_children|cpuset_v2_mode|none|release_agent=.*)$/;

/** The cgroup hierarchies in the text of a mountinfo; of two mounts of one hierarchy the first, of the whole tree. */
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

/** The hierarchies mounted on this host. */
export const readHierarchies = () => parseHierarchies(readProc('self', 'mountinfo') ?? '');

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
  if (!isBelow(path, hierarchy.root)) return undefined;
  return join(hierarchy.mountPoint, hierarchy.root === '/' ? path : path.slice(hierarchy.root.length));
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

/** The processes of a cgroup and of all cgroups below it; 0 for one that the reader's PID namespace does not show. */
export const processesIn = (directory: string): number[] =>
  [directory, ...cgroupsBelow(directory)].flatMap(processesOf);

/** The processes of a cgroup itself. */
export const processesOf = (directory: string): number[] =>
  readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);

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

/** All processes but those in `skip`. */
function readStats(skip: Set<number>): Map<number, Stat> {
  const pids = readdirSync('/proc').map(Number);
  return new Map(
    pids.flatMap((pid): [number, Stat][] => {
      const stat = !pid || skip.has(pid) ? undefined : readStat(pid);
      return stat ? [[pid, stat]] : [];
    }),
  );
}

/**
 * Moves all processes of a cgroup and of those below it to another, which may be one of these, until none is left.
 * Throws if that takes too long.
 */
export function moveAll(from: string, directory: string): void {
  for (let round = 0; round < 100; round++) {
    // the other may lie below it, or above
    const isThere = (cgroup: string) => isBelow(cgroup, directory) && !isBelow(from, directory);
    const inside = [from, ...cgroupsBelow(from)].filter((cgroup) => !isThere(cgroup)).flatMap(processesOf);
    if (inside.length === 0) return;
    moveProcesses(inside, directory);
  }
  throw new Error('its processes start others faster than they can be moved: freeze them first');
}
