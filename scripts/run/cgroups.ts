// The cgroups of a container, `barehand/NAME` in each hierarchy. They also reserve the container's name.
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { typedLine } from '../helpers/called.ts';
import {
  cgroupDirectory,
  cgroupPath,
  cgroupsBelow,
  findHierarchy,
  type Hierarchy,
  isPidName,
  lockDirectory,
  parent,
  processesIn,
  readHierarchies,
} from '../helpers/cgroups.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { labelFile, notesFolder, writeArgv } from '../helpers/containers.ts';
import { type Lock, lock } from '../helpers/lock.ts';
import { attempt, openDirectories, readProc } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import { makeDirectory, perform, type Step } from '../helpers/steps.ts';
import { findDelegation, whyNoCgroups } from '../limit/delegation.ts';
import { deviceNumber } from '../limit/disk.ts';
import { controllersOf, type Limits, launchWrites, namesOf, type Write } from '../limit/table.ts';
import { type Launch, needsNotes } from './container.ts';
import type { Device } from './furnish.ts';

/** Directories and values of a container's cgroups. */
export interface CgroupPlan {
  /** the directory to lock while a name of root's containers is reserved; undefined for other users */
  lock: string | undefined;
  /**
   * a delegated v2 cgroup: its own processes are moved to another cgroup first, since a cgroup that enables controllers
   * for its children can have no processes
   */
  leave: string | undefined;
  /** `…/barehand/NAME` in each hierarchy */
  directories: string[];
  /** values that are written, in this order, before PID 1 joins the cgroups */
  before: Write[];
  /** values that are written just before the command starts: limits that would hinder the launch */
  last: Write[];
  /** version of the first hierarchy; 2: the container gets a mount of its own tree */
  version: 1 | 2;
}

/** Files of limits that would hinder the launch: a wait for the CPU or for a disk, or no process for a shell of it. */
const hindering = /^(cpu\.max|cpu\.cfs_|io\.max|blkio\.throttle|pids\.max)/;

/**
 * Values for v1's devices controller that deny the container access to its devices, admin-guide/cgroup-v1/devices. Throws
 * Failure if access is to be denied and that controller is missing: v2 takes a BPF program in its place.
 */
function denials(hierarchies: Hierarchy[], name: string, devices: Device[]): Write[] {
  const v1 = hierarchies.find(({ controllers }) => controllers.includes('devices'));
  return devices.flatMap(({ source, denied }) => {
    if (!denied) return [];
    if (!v1)
      throw new Failure(
        `--device ${source}: only root on a host with the devices controller of cgroup v1 can deny ${denied}, since v2 takes a BPF program: leave out the access, and choose -u by: ls -l ${source}`,
      );
    const stats = statSync(source);
    const [major, minor] = deviceNumber(stats.rdev);
    const kind = stats.isBlockDevice() ? 'b' : 'c';
    return {
      write: `${kind} ${major}:${minor} ${denied}`,
      to: join(v1.mountPoint, parent, name, 'devices.deny'),
    };
  });
}

/** Plans the cgroups of a container in these hierarchies, of which there is at least one. */
function planCgroups(
  hierarchies: Hierarchy[],
  name: string,
  limits: Limits,
  devices: Device[] = [],
): CgroupPlan {
  const writes = [...launchWrites(hierarchies, name, limits), ...denials(hierarchies, name, devices)];
  const isHindering = ({ to }: Write) => hindering.test(basename(to));
  const lock = lockDirectory(hierarchies);
  const first = hierarchies.find(({ mountPoint }) => mountPoint === lock) as Hierarchy;
  const ordered = [first, ...hierarchies.filter((hierarchy) => hierarchy !== first)];
  return {
    lock,
    leave: undefined,
    directories: ordered.map(({ mountPoint }) => join(mountPoint, parent, name)),
    before: writes.filter((write) => !isHindering(write)),
    last: writes.filter(isHindering),
    version: first.version,
  };
}

/**
 * Plans the cgroups of a container that is started by root, in all hierarchies, or by another user, below delegated
 * cgroups and only if limits are given. Throws Failure if they can't be made.
 */
export function findCgroups(name: string, limits: Limits, devices: Device[]): CgroupPlan | undefined {
  const hierarchies = readHierarchies();
  if (process.getuid?.() !== 0) {
    denials([], name, devices);
    return findDelegatedCgroups(hierarchies, name, limits);
  }
  const obstacle = whyNoCgroups(hierarchies);
  if (obstacle) throw new Failure(obstacle);
  return planCgroups(hierarchies, name, limits, devices);
}

function findDelegatedCgroups(
  hierarchies: Hierarchy[],
  name: string,
  limits: Limits,
): CgroupPlan | undefined {
  const controllers = controllersOf(namesOf(limits));
  if (controllers.length === 0) return undefined;
  const procCgroup = readProc('self', 'cgroup') ?? '';
  let leave: string | undefined;
  let refusal: string | undefined;
  // each delegated cgroup counts as a hierarchy that is mounted there
  const delegated = hierarchies.flatMap((hierarchy) => {
    const origin = cgroupDirectory(hierarchy, cgroupPath(procCgroup, hierarchy) ?? '');
    const needed = controllers.filter((name) => findHierarchy(hierarchies, name) === hierarchy);
    const found = origin && findDelegation(hierarchy, origin, new Set([process.pid]), needed);
    if (!found) return [];
    if (found.base === undefined) {
      if (needed.length > 0) refusal ??= found.refusal;
      return [];
    }
    if (found.base === origin && hierarchy.version === 2) leave = origin;
    return [{ ...hierarchy, mountPoint: found.base }];
  });
  if (refusal) throw new Failure(`cannot limit a container: ${refusal}`);
  if (delegated.length === 0)
    throw new Failure(
      `cannot limit a container without root, unless a cgroup is delegated to you: type systemd-run --user --scope -p Delegate=yes ${typedLine()}, or sudo in its place`,
    );
  return { ...planCgroups(delegated, name, limits), lock: undefined, leave };
}

/** The cgroup for the processes of the delegated cgroup `leave`, while the container exists. */
const siblingOf = (directories: string[]) => {
  const [directory = ''] = directories;
  return join(dirname(directory), `${basename(directory)}.launch`);
};

/** Steps that make a container's cgroups. Pure. */
export function makingSteps({ directories, before, leave }: CgroupPlan): Step[] {
  const sibling = siblingOf(directories);
  return [
    ...directories.map((mkdir) => ({ mkdir })),
    ...(leave === undefined ? [] : [{ mkdir: sibling }, { moveAll: leave, to: sibling }]),
    ...before,
  ];
}

/** The step that notes a container's labels. Pure. */
export const labelStep = ({ runDirectory, labels }: Launch): Step => ({
  write: `${labels.join('\n')}\n`,
  to: join(runDirectory, labelFile),
});

/** Steps that move PID 1 into the cgroups. `pid` is its PID on the host. Pure. */
export const joiningSteps = ({ directories }: CgroupPlan, pid: string): Step[] =>
  directories.map((directory) => ({ write: pid, to: join(directory, 'cgroup.procs') }));

/** Steps that remove the cgroups when no process is left in them. Pure. */
export function removingSteps({ directories, leave }: CgroupPlan): Step[] {
  if (leave === undefined) return directories.map((rmdir) => ({ rmdir, withParent: true, unlessUsed: true }));
  const parents = [...new Set(directories.map((directory) => dirname(directory)))];
  const sibling = siblingOf(directories);
  // controllers are disabled from the innermost cgroup outwards; then the delegated cgroup may have processes again
  const off = ['-cpu', '-cpuset', '-io', '-memory', '-pids'];
  return [
    ...directories.map((rmdir): Step => ({ rmdir, unlessUsed: true })),
    ...[parents[0] as string, leave].flatMap((level) =>
      off.map((write): Step => ({ write, to: join(level, 'cgroup.subtree_control'), ignore: true })),
    ),
    { moveAll: sibling, to: leave },
    ...[sibling, ...parents].map((rmdir): Step => ({ rmdir, unlessUsed: true })),
  ];
}

/** Removes a cgroup and those in it, such as those of limit-*.ts for a part of the container, as far as they are empty. */
const removeTree = (directory: string) => {
  for (const cgroup of [directory, ...cgroupsBelow(directory)].reverse()) attempt(() => rmdirSync(cgroup));
};

/** The command that removes the cgroups in those of a container, before removingSteps. */
export const removingInner = ({ directories }: CgroupPlan): Step => ({
  run: sh`find ${directories} -mindepth 1 -depth -type d -exec rmdir {} +`,
  ignore: true,
});

/** Removes the cgroups without processes that killed launches have left. The caller holds the lock. */
function sweep(directories: string[]): void {
  const [first = '', ...others] = directories.map((directory) => dirname(directory));
  const entries = attempt(() => readdirSync(first, { withFileTypes: true })) ?? [];
  let isOpen: ((directory: string) => boolean) | undefined;
  for (const { name } of entries.filter((entry) => entry.isDirectory())) {
    // pid-N belongs to limit-*.ts
    if (isPidName(name) || attempt(() => processesIn(join(first, name)).length) !== 0) continue;
    // its launcher, or the keeper of its log, has yet to read what the kernel has killed
    isOpen ??= openDirectories();
    if (isOpen(join(first, name)) || isOpen(notesFolder(name))) continue;
    for (const folder of [first, ...others]) removeTree(join(folder, name));
  }
}

/** The name of a container, with its cgroups and its directory in /run, while it is reserved. */
export interface ReservedName {
  /** called when PID 1 is in the cgroups, which then show that the name is in use */
  unlock: () => void;
  /** the descriptor by which a user other than root holds the lock on the directory in /run */
  lockDescriptor: number | undefined;
  /** kills all processes in the cgroups, and removes these and the directory in /run */
  giveBack: () => Promise<void>;
}

/**
 * Reserves the name of a container: makes its cgroups, and its directory in /run if that is needed. Throws Failure if
 * the name is in use, or if the directories can't be made.
 */
export async function reserveName(launch: Launch): Promise<ReservedName> {
  const { name, cgroups, runDirectory, stopSignal, umask, labels } = launch;
  const hasNotes = needsNotes(launch);
  const lockPath = cgroups?.lock;
  let held: Lock | undefined;
  if (lockPath) held = await lock(lockPath);
  else if (hasNotes) held = await lockRunDirectory(runDirectory, name);
  const lockDescriptor = lockPath ? undefined : held?.descriptor;
  const release = () => {
    held?.release();
    held = undefined;
  };
  let claim: number | undefined;
  const giveBack = async () => {
    if (claim !== undefined) closeSync(claim);
    claim = undefined;
    if (lockPath) held ??= await lock(lockPath);
    if (cgroups) await removeCgroups(cgroups);
    if (hasNotes) rmSync(runDirectory, { recursive: true, force: true });
    release();
  };
  try {
    if (cgroups && lockPath) sweep(cgroups.directories);
    for (const directory of cgroups?.directories ?? []) {
      removeTree(directory); // a killed launch may have left an empty one
      if (existsSync(directory))
        throw new Failure(
          `the name ${name} is in use by PID ${attempt(() => processesIn(directory)[0]) ?? '?'}: choose another --name, or end that one`,
        );
    }
  } catch (error) {
    release();
    throw error;
  }
  try {
    // an earlier container of this name may have left files
    if (lockPath) rmSync(runDirectory, { recursive: true, force: true });
    if (hasNotes) {
      makeRunDirectory(runDirectory);
      for (const file of readdirSync(runDirectory)) rmSync(join(runDirectory, file));
      if (stopSignal) writeFileSync(join(runDirectory, 'stop-signal'), `${stopSignal}\n`);
      if (umask !== undefined) writeFileSync(join(runDirectory, 'umask'), `${umask}\n`);
      if (labels.length > 0) await perform([labelStep(launch)]);
      writeArgv(runDirectory, process.cwd(), process.argv.slice(2));
    }
    if (cgroups) await perform(makingSteps(cgroups));
    // while it is open, no other launch takes it for one that is left, see sweep
    const [directory] = cgroups?.directories ?? [];
    if (directory) claim = openSync(directory, 'r');
  } catch (error) {
    await giveBack();
    throw error;
  }
  // the lock of another user shows that the name is in use, so it is held as long as the container lives
  return { unlock: lockPath ? release : () => {}, lockDescriptor, giveBack };
}

/** Kills all processes in the cgroups, and removes these. */
async function removeCgroups(cgroups: CgroupPlan): Promise<void> {
  for (let tries = 0; tries < 50; tries++) {
    for (const directory of cgroups.directories)
      for (const pid of attempt(() => processesIn(directory)) ?? [])
        attempt(() => process.kill(pid, 'SIGKILL'));
    for (const below of cgroups.directories.flatMap(cgroupsBelow).reverse()) attempt(() => rmdirSync(below));
    await perform(removingSteps(cgroups)).catch(() => {});
    if (!cgroups.directories.some((directory) => existsSync(directory))) break;
    await sleep(20);
  }
}

function makeRunDirectory(runDirectory: string): void {
  try {
    makeDirectory(runDirectory);
  } catch (error) {
    const hint =
      process.getuid?.() === 0
        ? ''
        : ': mkdir -m 700 ~/.barehand && export XDG_RUNTIME_DIR=~/.barehand takes a directory of yours';
    throw new Failure(`cannot make the directory ${runDirectory}: ${reason(error)}${hint}`);
  }
}

async function lockRunDirectory(runDirectory: string, name: string): Promise<Lock> {
  makeRunDirectory(runDirectory);
  return lock(runDirectory, { waitSeconds: 0 }).catch(() => {
    throw new Failure(`the name ${name} is in use: choose another --name`);
  });
}
