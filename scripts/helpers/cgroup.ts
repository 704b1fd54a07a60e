// cgroup directories of v1, v2 and hybrid hosts: where they are, what their files are called. See cgroups(7).
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { descendants, readProcesses } from './proc.ts';

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
  const v1 = hierarchies.find((hierarchy) => hierarchy.controllers.includes(controller));
  if (v1) return v1;
  const v2 = hierarchies.find((hierarchy) => hierarchy.version === 2);
  return v2 && offeredControllers(v2).includes(controller) ? v2 : undefined;
}

/** The controllers that a v2 hierarchy has at its mount point. */
export function offeredControllers(v2: Hierarchy): string[] {
  return readFileSync(join(v2.mountPoint, 'cgroup.controllers'), 'utf8').trim().split(/\s+/).filter(Boolean);
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

/** The processes of a cgroup and of all cgroups below it; 0 for one that the reader's PID namespace does not show. */
export function processesIn(directory: string): number[] {
  const own = readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  // a directory of cgroupfs has a link for each directory in it, which is quicker than listing its many files
  if (statSync(directory).nlink <= 2) return own;
  const below = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [...own, ...below.flatMap((entry) => processesIn(join(directory, entry.name)))];
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

/** Moves one process, all its threads with it. What ends meanwhile is left out; other errors are the kernel's. */
function moveProcess(pid: number, directory: string): void {
  try {
    // cgroups(7): `tasks` would move one thread only
    writeFileSync(join(directory, 'cgroup.procs'), String(pid));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/**
 * Moves a process and all its descendants, parents first, so that what a parent starts after that is born inside.
 * Then looks again, until a reading of /proc shows no one of the tree outside. Throws if that takes too long.
 */
export function moveTree(pid: number, directory: string): void {
  for (let round = 0; round < 100; round++) {
    // at first all of it: a cgroup of v1 that has one thread of a process lists that process too
    const inside = new Set(round === 0 ? [] : processesIn(directory));
    const outside = descendants(readProcesses(), [pid]).filter(
      (process) => !process.zombie && !inside.has(process.pid),
    );
    if (outside.length === 0) return;
    for (const process of outside) moveProcess(process.pid, directory);
  }
  throw new Error('it starts processes faster than they can be moved: freeze it first');
}

/** Moves all processes of a cgroup to another, until none is left. Throws if that takes too long. */
export function moveAll(from: string, directory: string): void {
  for (let round = 0; round < 100; round++) {
    const inside = processesIn(from);
    if (inside.length === 0) return;
    for (const pid of inside) moveProcess(pid, directory);
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
