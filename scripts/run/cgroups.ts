// The cgroups of a container that is launched, and its name, which they hold: `barehand/NAME` in every hierarchy.
import { existsSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Hierarchy, lockDirectory, parent, processesIn } from '../helpers/cgroups.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { type Lock, lock } from '../helpers/lock.ts';
import { attempt } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import { makeDirectory, perform, type Step, toShell } from '../helpers/steps.ts';
import { type Limits, launchWrites, type Write } from '../limit/table.ts';

/** Directories and values of the container's cgroups; every directory is `…/barehand/NAME` in one hierarchy. */
export interface CgroupPlan {
  /** the mount point whose lock guards the names; undefined: a user's, whose names are guarded elsewhere */
  lock: string | undefined;
  /** whose processes have to go elsewhere first: a v2 cgroup that hands on controllers can't have any of its own */
  leave: string | undefined;
  directories: string[];
  /** written in this order before the container joins */
  before: Write[];
  /** written when all is ready for its command: what would only slow the launch down */
  last: Write[];
  /** v2: mounted in the container as its own tree */
  version: 1 | 2;
}

/** Files of limits that make a process wait: for the processor, for a disk. */
const slowing = /^(cpu\.max|cpu\.cfs_|io\.max|blkio\.throttle)/;

/** The cgroups of a container in every hierarchy, and what is written before it joins them. */
export function planCgroups(hierarchies: Hierarchy[], name: string, limits: Limits): CgroupPlan {
  const all = launchWrites(hierarchies, name, limits);
  const isSlowing = ({ to }: Write) => slowing.test(basename(to));
  const lock = lockDirectory(hierarchies);
  const first = hierarchies.find(({ mountPoint }) => mountPoint === lock);
  if (!lock || !first)
    throw new Failure('no cgroup hierarchy is mounted on this host: mount -t cgroup2 cgroup2 /sys/fs/cgroup');
  const ordered = [first, ...hierarchies.filter((hierarchy) => hierarchy !== first)];
  return {
    lock,
    leave: undefined,
    directories: ordered.map(({ mountPoint }) => join(mountPoint, parent, name)),
    before: all.filter((write) => !isSlowing(write)),
    last: all.filter(isSlowing),
    version: first.version,
  };
}

/** Where what stands in a delegated cgroup itself goes meanwhile. */
const asideOf = ({ directories }: CgroupPlan, name: string) =>
  join(dirname(directories[0] as string), `${name}.launch`);

/** The steps that make a container's cgroups. Pure. */
export function makingSteps(plan: CgroupPlan, name: string): Step[] {
  const { directories, before, leave } = plan;
  return [
    ...directories.map((mkdir): Step => ({ mkdir })),
    ...(leave === undefined
      ? []
      : [{ mkdir: asideOf(plan, name) }, { moveAll: leave, to: asideOf(plan, name) }]),
    ...before,
  ];
}

/** The steps by which a process joins them. `pid` is its PID on the host. Pure. */
export const joiningSteps = ({ directories }: CgroupPlan, pid: string): Step[] =>
  directories.map((directory) => ({ write: pid, to: join(directory, 'cgroup.procs') }));

/** The steps that write what would have slowed the launch down. Pure. */
export const lastSteps = ({ last }: CgroupPlan): Step[] => last;

/** The steps that remove them, when nothing is in there any more. Pure. */
export function removingSteps(plan: CgroupPlan, name: string): Step[] {
  const { directories, leave } = plan;
  if (leave === undefined) return directories.map((rmdir) => ({ rmdir, withParent: true, unlessUsed: true }));
  const [folder] = directories.map((directory) => dirname(directory)) as [string];
  const aside = asideOf(plan, name);
  // switched off from the inside outwards; then the cgroup may have processes again
  const off = ['-cpu', '-cpuset', '-io', '-memory', '-pids'];
  return [
    ...directories.map((rmdir): Step => ({ rmdir, unlessUsed: true })),
    ...[folder, leave].flatMap((level) =>
      off.map((write): Step => ({ write, to: join(level, 'cgroup.subtree_control'), ignore: true })),
    ),
    { moveAll: aside, to: leave },
    ...[aside, ...new Set(directories.map((directory) => dirname(directory)))].map(
      (rmdir): Step => ({ rmdir, unlessUsed: true }),
    ),
  ];
}

/** The program that removes them under the lock, for when no node is there any more: it fails while one is in use. */
export const removingProgram = (plan: CgroupPlan, name: string) =>
  toShell([...removingSteps(plan, name), { run: sh`test ! -d ${plan.directories[0] as string}` }]);

/** Removes the cgroups that killed launches have left: those without a process. The lock is held. */
function sweep({ directories }: CgroupPlan): void {
  const [first, ...others] = directories.map((directory) => dirname(directory)) as [string, ...string[]];
  const names = attempt(() => readdirSync(first, { withFileTypes: true })) ?? [];
  for (const { name } of names.filter((entry) => entry.isDirectory())) {
    // pid-N is of the limit scripts
    if (/^pid-\d+$/.test(name) || attempt(() => processesIn(join(first, name)).length) !== 0) continue;
    for (const folder of [first, ...others]) attempt(() => rmdirSync(join(folder, name)));
  }
}

/** Who has a name that is taken, for people. */
const owner = (directory: string) => attempt(() => processesIn(directory)[0]) ?? '?';

/** A name that is taken, with its cgroups and its folder in /run. */
export interface Name {
  /** the container has processes in its cgroups now, so that nobody takes it for a leftover */
  unlock: () => void;
  /** a user's lock on the folder of the name */
  folder: number | undefined;
  /** gives it back: ends what is still in there, and removes all but what is to be kept */
  giveBack: (keepsNotes: boolean) => Promise<void>;
}

/** What takes a name. `notes`: it needs its folder in /run. */
export interface NameWishes {
  name: string;
  cgroups: CgroupPlan | undefined;
  runDirectory: string;
  notes: boolean;
  /** what stop.ts is to send, which is noted there */
  stopSignal: string | undefined;
}

/** Takes a name and makes the cgroups that hold it. Throws Failure where it is in use, or what can't be made. */
export async function takeName({
  name,
  cgroups,
  runDirectory,
  notes,
  stopSignal,
}: NameWishes): Promise<Name> {
  const isRoots = cgroups?.lock !== undefined;
  const held = isRoots
    ? await lock(cgroups.lock as string)
    : notes
      ? await lockOwn(runDirectory, name)
      : undefined;
  let isHeld = held !== undefined;
  const unlock = (always: boolean) => {
    // a user's lock is what shows that the name is in use: it is held as long as the container lives
    if (isHeld && (isRoots || always)) held?.release();
    if (isRoots || always) isHeld = false;
  };
  const giveBack = async (keepsNotes: boolean) => {
    if (cgroups) {
      const again = isRoots && !isHeld ? await lock(cgroups.lock as string) : undefined;
      for (let tries = 0; tries < 50; tries++) {
        for (const directory of cgroups.directories)
          for (const pid of attempt(() => processesIn(directory)) ?? [])
            attempt(() => process.kill(pid, 'SIGKILL'));
        await perform(removingSteps(cgroups, name)).catch(() => {});
        if (!cgroups.directories.some((directory) => existsSync(directory))) break;
        await sleep(20);
      }
      again?.release();
    }
    if (notes && !keepsNotes) rmSync(runDirectory, { recursive: true, force: true });
    unlock(true);
  };
  try {
    if (cgroups && isRoots) sweep(cgroups);
    for (const directory of cgroups?.directories ?? []) {
      attempt(() => rmdirSync(directory)); // an empty one is what a killed launch has left
      if (existsSync(directory))
        throw new Failure(
          `the name ${name} is in use by PID ${owner(directory)}: choose another --name, or end that one`,
        );
    }
  } catch (error) {
    unlock(true);
    throw error;
  }
  try {
    // what is left of an earlier one
    if (isRoots) rmSync(runDirectory, { recursive: true, force: true });
    if (notes) {
      makeFolder(runDirectory);
      for (const file of readdirSync(runDirectory)) rmSync(join(runDirectory, file));
      if (stopSignal) writeFileSync(join(runDirectory, 'stop-signal'), `${stopSignal}\n`);
    }
    if (cgroups) await perform(makingSteps(cgroups, name));
  } catch (error) {
    await giveBack(false);
    throw error;
  }
  return { unlock: () => unlock(false), folder: isRoots ? undefined : held?.descriptor, giveBack };
}

/** Makes the folder of a name. Throws Failure. */
function makeFolder(runDirectory: string): void {
  try {
    makeDirectory(runDirectory);
  } catch (error) {
    throw new Failure(`cannot make the directory ${runDirectory}: ${reason(error)}`);
  }
}

async function lockOwn(runDirectory: string, name: string): Promise<Lock> {
  makeFolder(runDirectory);
  return lock(runDirectory, { waitSeconds: 0 }).catch(() => {
    throw new Failure(`the name ${name} is in use: choose another --name`);
  });
}

/** Has a process join a container's cgroups. Throws Failure where it can't. */
export function joinCgroups({ directories }: CgroupPlan, pid: number): void {
  for (const directory of directories)
    try {
      writeFileSync(join(directory, 'cgroup.procs'), String(pid));
    } catch (error) {
      throw new Failure(`cannot move ${pid} to the cgroup ${directory}: ${reason(error)}`);
    }
}
