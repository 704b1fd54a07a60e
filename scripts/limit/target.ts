// The cgroup to limit: that of a container, given by its name or a PID, or of any process with its descendants.
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  cgroupDirectory,
  cgroupPath,
  type Hierarchy,
  isPidName,
  ownCgroup,
  parent,
  processesIn,
} from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import {
  type Container,
  findContainers,
  heldContainer,
  ownContainerName,
  strangers,
} from '../helpers/containers.ts';
import { isBelow } from '../helpers/mounts.ts';
import {
  attempt,
  descendants,
  type Process,
  readProc,
  readProcess,
  readProcesses,
  startTicks,
  type Table,
} from '../helpers/pids.ts';
import { checkName, containerAround, firstOf, noContainer, noProcess, ownName } from '../helpers/target.ts';
import { type Delegation, findDelegation, findWithin, isWritable } from './delegation.ts';
import { type Place, placesOf, readOrigin } from './notes.ts';
import { controllersOf, type LimitName, limitPath } from './table.ts';

/** A target in one hierarchy: its cgroup there, which exists or will be made. */
export interface Target extends Hierarchy {
  directory: string;
  /** the first process of the tree or the container; undefined if it has ended */
  top: Process | undefined;
  /** when it started, in ticks since boot: a later process may get its PID */
  startTicks: number | undefined;
  /** the cgroup is that of a container or a service: --reset restores its previous limits, and moves nothing */
  inPlace: boolean;
  /** the processes to move to a new cgroup, `top` first, parents before children; none if the cgroup exists */
  toMove: Process[];
  /** the directory of the cgroup that `top` is moved out of, or was */
  origin: string | undefined;
  /** the other processes whose cgroup is or was not `origin`, parents before children */
  elsewhere: Place[];
  /** why this user can't limit it, and what to do; undefined: nothing is in the way */
  refusal: string | undefined;
}

/**
 * The process that a PID means; and the container, if the process is its first, or the unshare(1) that holds it. Throws
 * Failure for a process that must not be limited.
 */
function findProcess(containers: Container[], pid: number) {
  const process_ = readProcess(pid);
  if (!process_ || process_.zombie) throw noProcess(pid);
  if (process_.kernelThread)
    throw new Failure(`${pid} (${process_.name}) is a thread of the kernel: no cgroup limits it`);
  if (process_.pid === 1)
    throw new Failure('1 is the init of this host: its limits would apply to all processes');
  if (process_.pid === process.pid) throw new Failure(`${pid} is this script itself`);
  const container =
    heldContainer(containers, process_.pid) ?? containers.find(({ first }) => first.pid === process_.pid);
  return { top: container?.first ?? process_, container };
}

/**
 * The container of ours at the end of the tree below `top`, which is then a single chain of processes: run.ts and its
 * shell. undefined: there is none. Throws Failure if there are several, or other processes besides.
 */
function findBelow(hierarchy: Hierarchy, tree: Process[], top: Process): string | undefined {
  const names = [...new Set(tree.flatMap(({ pid }) => ownName(hierarchy, pid) ?? []))];
  if (names.length === 0) return undefined;
  const above = tree.filter(({ pid }) => ownName(hierarchy, pid) === undefined);
  const isChain = above.every(({ pid }) => tree.filter(({ ppid }) => ppid === pid).length === 1);
  if (names.length === 1 && isChain) return names[0];
  throw new Failure(
    `containers with cgroups of their own descend from ${top.pid}: limit each by its name: ${names.join(', ')}`,
  );
}

/**
 * The cgroup of the container that the tree below `top` is a part of: the limits of the innermost container that has a
 * cgroup to itself must hold for the tree. `container`: the tree is all of this one. undefined: there is no such cgroup,
 * or the tree is outside of it.
 */
function findEnclosing(
  hierarchy: Hierarchy,
  table: Table,
  containers: Container[],
  container: Container | undefined,
  top: Process,
): string | undefined {
  const pathOf = (pid: number) => cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy) ?? '/';
  const origin = cgroupDirectory(hierarchy, pathOf(top.pid)) ?? '/';
  const innermost = container ? container.enclosing : containerAround(containers, top.pid);
  for (let outer = innermost; outer; outer = outer.enclosing) {
    const name = ownContainerName(outer);
    const named = name && join(hierarchy.mountPoint, parent, name);
    if (named && existsSync(named) && isBelow(origin, named)) return named;
    const { first, members } = outer;
    const isStranger = strangers(table, containers, members, outer);
    const directory = ownCgroup(hierarchy, pathOf(first.pid), [first.pid, top.pid], isStranger);
    if (directory) return directory;
  }
  return undefined;
}

const needsRoot = (text: string) =>
  `needs root, or a cgroup that is delegated to you: sudo, or start ${text} with systemd-run --user --scope -p Delegate=yes`;

/** A target whose cgroup exists: a container, a service, or a tree that has a barehand/pid-N. */
function inCgroup(hierarchy: Hierarchy, directory: string, text: string, process_?: Process): Target {
  const isOurs = basename(dirname(directory)) === parent;
  const inPlace = !(isOurs && isPidName(basename(directory)));
  // the PID that means a container of ours need not be that of its first process
  const top = isOurs && inPlace ? firstOf(processesIn(directory)) : process_;
  return {
    ...hierarchy,
    directory,
    top,
    startTicks: top && startTicks(top.pid),
    inPlace,
    toMove: [],
    ...(inPlace ? { origin: undefined, elsewhere: [] } : readOrigin(hierarchy, directory)),
    refusal: isWritable(directory) ? undefined : needsRoot(text),
  };
}

/**
 * Finds the target that `text` means, a name or a PID. A container of ours is limited in its cgroup; so is any tree that
 * has a cgroup to itself, with the files of these limits. For any other the cgroup is a new one, barehand/pid-N; for a
 * part of a container it is made in the container's cgroup. Throws UsageError if `text` is neither name nor PID, Failure
 * if the target does not exist or must not be limited.
 */
export function findTarget(hierarchy: Hierarchy, text: string, limits: LimitName[]): Target {
  const named = (name: string) => join(hierarchy.mountPoint, parent, name);
  if (!/^\d+$/.test(text)) {
    checkName(text);
    if (!existsSync(named(text))) throw noContainer([hierarchy], text);
    return inCgroup(hierarchy, named(text), text);
  }

  // the first process may have ended before its descendants
  const left = placesOf(hierarchy, `pid-${text}`).find((place) => attempt(() => processesIn(place).length));
  if (left && !readProcess(Number(text))) return inCgroup(hierarchy, left, text);
  const table = readProcesses();
  const { containers } = findContainers(table);
  const { top, container } = findProcess(containers, Number(text));
  const name = container && ownContainerName(container);
  if (name && existsSync(named(name))) return inCgroup(hierarchy, named(name), text);
  const pathOf = (pid: number) => cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy);
  const path = pathOf(top.pid);
  if (path === undefined) throw new Failure(`process ${top.pid} has ended`);
  const origin = cgroupDirectory(hierarchy, path);
  // a process that has left the tree since, as daemons do, is still in there
  if (origin && basename(origin) === `pid-${top.pid}` && basename(dirname(origin)) === parent)
    return inCgroup(hierarchy, origin, text, top);

  // a process that nsenter(1) brought into a container has its parent outside
  const inside = container?.members ?? new Set<number>();
  const entered = [...inside].filter((pid) => !inside.has(table.get(pid)?.ppid ?? 0));
  const tree = descendants(table, [top.pid, ...entered]).filter(({ zombie }) => !zombie);
  const members = new Set(tree.map(({ pid }) => pid));
  const own = ownCgroup(hierarchy, path, [...members], strangers(table, containers, members, container));
  const within = findEnclosing(hierarchy, table, containers, container, top);
  const controllers = controllersOf(limits);
  const { base, refusal = needsRoot(text) }: Delegation = !origin
    ? {}
    : within
      ? findWithin(hierarchy, origin, within, members, controllers)
      : findDelegation(hierarchy, origin, members, controllers);
  const files = limits.map((limit) => limitPath(limit, { ...hierarchy, directory: own ?? '' }));
  if (own && files.every(base ? isWritable : existsSync)) return inCgroup(hierarchy, own, text, top);
  const below = ownName(hierarchy, top.pid) ? undefined : findBelow(hierarchy, tree, top);
  if (below) return inCgroup(hierarchy, named(below), text);

  const elsewhere = tree.flatMap(({ pid }) => {
    const directory = cgroupDirectory(hierarchy, pathOf(pid) ?? '/..');
    return directory && directory !== origin ? { pid, startTicks: startTicks(pid) ?? 0, directory } : [];
  });
  return {
    ...hierarchy,
    directory: join(base ?? within ?? hierarchy.mountPoint, parent, `pid-${top.pid}`),
    top,
    startTicks: startTicks(top.pid),
    inPlace: false,
    toMove: tree,
    origin,
    elsewhere,
    refusal: base === undefined ? refusal : undefined,
  };
}
