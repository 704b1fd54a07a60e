// What is left of a container that has ended, and of launches that have crashed: cgroups, logs, networks.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupsBelow, lockDirectory, parent, processesIn, readHierarchies } from '../helpers/cgroups.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { notesFolder } from '../helpers/containers.ts';
import { lock } from '../helpers/lock.ts';
import { attempt, openDirectories } from '../helpers/pids.ts';
import { requirePrograms } from '../helpers/programs.ts';
import { sh } from '../helpers/shell.ts';
import { explain, perform, type Step } from '../helpers/steps.ts';
import { namedContainer, ownContainers, type WholeContainer } from '../helpers/target.ts';
import { planSweepTargets, sweepTargets } from '../limit/notes.ts';

export const hierarchies = readHierarchies();

/** All containers of ours, also those of which only cgroups or a log are left. */
export const ourContainers = (): WholeContainer[] =>
  // one may end meanwhile
  ownContainers(hierarchies).flatMap((name) => attempt(() => namedContainer(hierarchies, name)) ?? []);

/** The steps that remove cgroups of a container of ours, from the innermost outwards. */
const planCgroups = (directories: string[]): Step[] => [
  ...directories
    .flatMap((directory) => [directory, ...cgroupsBelow(directory)].reverse())
    .map((rmdir) => ({ rmdir, unlessUsed: true })),
  ...explain(
    "the parent of all containers' cgroups, unless it has others",
    hierarchies.map(({ mountPoint }) => ({ rmdir: join(mountPoint, parent), unlessUsed: true })),
  ),
];

/** The cgroups of a container that still exist and have no process. */
const emptyCgroups = ({ cgroups }: WholeContainer) =>
  cgroups
    .map(({ directory }) => directory)
    .filter((directory) => attempt(() => processesIn(directory).length) === 0);

/** Removes the cgroups of a container of ours. Returns those that could not be removed. */
async function removeCgroups(container: WholeContainer): Promise<string[]> {
  const directory = lockDirectory(hierarchies);
  // EBUSY while the last process exits
  for (let tries = 0; directory && tries < 50 && emptyCgroups(container).length > 0; tries++) {
    if (tries > 0) await sleep(20);
    // run.ts takes the same lock: a new container with this name keeps its cgroups
    const { release } = await lock(directory);
    await perform(planCgroups(emptyCgroups(container))).finally(release);
  }
  return emptyCgroups(container);
}

/** The step that waits for the keeper of a log: until all of it is written, and the network of the container is removed. */
const planLogWait = (folder: string): Step => ({ run: sh`flock --timeout 5 ${folder} true`, ignore: true });

/** The steps that remove what is left of a container of ours after its end, for --dry-run. */
export function planRemoval({ name, label, first, cgroups }: WholeContainer): Step[] {
  if (!name) return [];
  const folder = notesFolder(name);
  const hasNotes = existsSync(folder);
  return explain(`${label}: its cgroups and its log`, [
    ...(hasNotes && first ? [planLogWait(folder)] : []),
    ...(cgroups.length > 0 ? planCgroups(cgroups.map(({ directory }) => directory)) : []),
    ...(hasNotes ? [{ remove: folder }] : []),
  ]);
}

/** Removes what is left of a container of ours after its end. Throws Failure if a cgroup cannot be removed. */
export async function remove(container: WholeContainer): Promise<void> {
  if (!container.name) return;
  const folder = notesFolder(container.name);
  if (existsSync(folder) && container.first) await perform([planLogWait(folder)]);
  const busy = await removeCgroups(container);
  if (busy.length > 0)
    throw new Failure(`${container.label} has ended, but its cgroups cannot be removed: ${busy.join(', ')}`);
  if (existsSync(folder)) await perform([{ remove: folder }]);
}

/** Whether a container in the background has ended in good order: its keeper has noted the exit status. */
const hasStatus = (name: string) => existsSync(join(notesFolder(name), 'status'));

/**
 * The containers of ours of which nothing runs, and which have not just ended: their launcher, or the keeper of their log,
 * then has one of their directories open.
 */
function crashedContainers(): WholeContainer[] {
  const ended = ourContainers().filter(
    ({ first, cgroups, label }) => !first && (cgroups.length > 0 || !hasStatus(label)),
  );
  if (ended.length === 0) return [];
  const isOpen = openDirectories();
  return ended.filter(
    ({ cgroups, label }) =>
      !isOpen(notesFolder(label)) && !cgroups.some(({ directory }) => isOpen(directory)),
  );
}

/** The step that removes the log of a crashed launch. A launch without cgroups holds a lock on the folder while it runs. */
const planCrashedNotes = ({ label }: WholeContainer): Step[] =>
  !hasStatus(label) && existsSync(notesFolder(label))
    ? [{ run: sh`flock --nonblock ${notesFolder(label)} rm -r ${notesFolder(label)}`, ignore: true }]
    : [];

/** Removes what crashed launches, calls of limit-*.ts and of network.ts have left. Prints what it has removed. */
export async function sweep(): Promise<void> {
  requirePrograms(['flock'], 'sweep');
  for (const container of crashedContainers()) {
    await removeCgroups(container);
    // a new container has this name, or a cgroup cannot be removed
    if (container.cgroups.some(({ directory }) => existsSync(directory))) continue;
    await perform(planCrashedNotes(container));
    console.log(`${container.label}: removed`);
  }
  await sweepTargets(hierarchies);
  const { sweepNetworks } = await import('../network/network.ts'); // not loaded where it is not needed
  const networks = await sweepNetworks().catch((error) => [`networks: ${reason(error)}`]);
  for (const what of networks) console.log(what);
}

/** The steps of `sweep`, for --dry-run. */
export async function planSweep(): Promise<Step[]> {
  const { printSweep } = await import('../network/network.ts');
  const crashed = crashedContainers().flatMap((container) =>
    explain(`${container.label}: left by a crashed launch`, [
      ...planCgroups(container.cgroups.map(({ directory }) => directory)),
      ...planCrashedNotes(container),
    ]),
  );
  return [...crashed, ...planSweepTargets(hierarchies), ...(await printSweep())];
}
