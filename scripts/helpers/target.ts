// The container that a script acts on, by its name or by the PID of any of its processes.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { scriptPath } from './called.ts';
import {
  cgroupPath,
  type Hierarchy,
  isPidName,
  noHierarchy,
  ownCgroup,
  parent,
  processesIn,
} from './cgroups.ts';
import { Failure, UsageError } from './cli.ts';
import {
  type Container,
  findContainers,
  heldContainer,
  notesFolder,
  ownContainerName,
  runFolder,
  strangers,
} from './containers.ts';
import { identify } from './engine.ts';
import { didYouMean } from './messages.ts';
import {
  attempt,
  isInit,
  type Process,
  printable,
  readProc,
  readProcess,
  readProcesses,
  startTicks,
  type Table,
} from './pids.ts';

/** Whether a word can be the name of a container. Such a word is not a path. */
export const isName = (text: string) => /^[a-z0-9][\w.-]*$/i.test(text);

/** The name of our container that a process is in; undefined for processes elsewhere, and in barehand/pid-N. */
export function ownName(hierarchy: Hierarchy, pid: number): string | undefined {
  const path = cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy) ?? '';
  const name = new RegExp(`^/${parent}/([^/]+)`).exec(path)?.[1];
  return name && isPidName(name) ? undefined : name;
}

/** A container as a whole: its first process, and the cgroups that it has to itself. */
export interface WholeContainer {
  /** the name or PID that the user gave */
  label: string;
  /** undefined: no process is left */
  first: Process | undefined;
  startTicks: number | undefined;
  cgroups: { hierarchy: Hierarchy; directory: string }[];
  /** its name, if it is ours, and its cgroups are ours to remove */
  name: string | undefined;
  /** which container it is, if the user gave the PID of another of its processes */
  remark?: string | undefined;
}

/** The names of all our containers, including those of which only cgroups or a log are left. */
export function ownContainers(hierarchies: Hierarchy[]): string[] {
  const folders = [...hierarchies.map(({ mountPoint }) => join(mountPoint, parent)), runFolder()];
  const entries = folders.flatMap(
    (folder) => attempt(() => readdirSync(folder, { withFileTypes: true })) ?? [],
  );
  const names = entries.filter((entry) => entry.isDirectory() && !isPidName(entry.name));
  return [...new Set(names.map(({ name }) => name))];
}

/**
 * The first process among the processes of a container's cgroup: PID 1 of the outermost PID namespace in it, else the
 * top of the tree below the unshare(1) that holds it.
 */
export function firstOf(pids: number[]): Process | undefined {
  const processes = pids.flatMap((pid) => readProcess(pid) ?? []).filter(({ zombie }) => !zombie);
  const inits = processes.filter(isInit);
  return (
    inits.sort((one, other) => one.nsPids.length - other.nsPids.length)[0] ??
    processes.find(({ ppid, name }) => name !== 'unshare' && pids.includes(ppid)) ??
    processes[0]
  );
}

/** Throws UsageError for a word that is no name. */
export function checkName(text: string): void {
  if (!isName(text)) throw new UsageError(`neither a name nor a PID: "${text}"`);
}

/** The error for a PID that no process has. */
export const noProcess = (pid: number | string): Failure =>
  new Failure(`there is no process ${pid}: ${scriptPath('ps')} shows containers, ps(1) processes`);

/** The error for a name that no container of ours has. */
export const noContainer = (hierarchies: Hierarchy[], name: string): Failure =>
  new Failure(
    `there is no container ${name}${didYouMean(name, ownContainers(hierarchies)) || `: ${hierarchies.length > 0 ? `${scriptPath('ps')} shows those there are` : noHierarchy}`}`,
  );

/** A container without cgroups: it has ended and left a log, or its user could not create cgroups. */
function withoutCgroups(hierarchies: Hierarchy[], name: string): WholeContainer {
  const note = attempt(() => readFileSync(join(notesFolder(name), 'pid'), 'utf8')) ?? '';
  const [pid = 0, ticks] = note.split(' ').map(Number);
  const found = note && startTicks(pid) === ticks ? readProcess(pid) : undefined;
  const first = found?.zombie ? undefined : found;
  if (!existsSync(notesFolder(name))) throw noContainer(hierarchies, name);
  return { label: name, first, startTicks: first && ticks, cgroups: [], name };
}

/** Our container of this name. Throws Failure if there is none. */
export function namedContainer(hierarchies: Hierarchy[], name: string): WholeContainer {
  const cgroups = hierarchies
    .map((hierarchy) => ({ hierarchy, directory: join(hierarchy.mountPoint, parent, name) }))
    .filter(({ directory }) => existsSync(directory));
  if (cgroups.length === 0) return withoutCgroups(hierarchies, name);
  const first = firstOf(cgroups.flatMap(({ directory }) => processesIn(directory)));
  return { label: name, first, startTicks: first && startTicks(first.pid), cgroups, name };
}

/**
 * The innermost container that a process is in, and this process is not: to a script in a chroot the tree outside looks
 * like a container that contains the script. `containers`: outer ones before inner ones.
 */
export const containerAround = (containers: Container[], pid: number): Container | undefined =>
  containers.findLast(({ members }) => members.has(pid) && !members.has(process.pid));

/** A sentence for the user who gave the PID of a process in the middle of a container: which container that is. */
export const belongsTo = (pid: number, name: string | undefined, first: Process): string =>
  name === undefined
    ? `PID ${pid} belongs to the container whose first process is ${first.pid} (${printable(first.name)})`
    : `PID ${pid} belongs to the container ${printable(name)} (first process ${first.pid})`;

/**
 * Calls `find` with the table of processes. Throws Failure if there is no process `pid`, or if it ends meanwhile, since
 * the table may then mix it with a later process of its PID. While a process runs, PID 1 of its namespace runs too, so
 * that what `find` reads of this one is true as well.
 */
export function whileRuns<Found>(pid: number, find: (table: Table) => Found): Found {
  const started = startTicks(pid);
  const process_ = readProcess(pid);
  if (started === undefined || !process_ || process_.zombie) throw noProcess(pid);
  const found = find(readProcesses());
  if (startTicks(pid) !== started) throw new Failure(`process ${pid} has ended`);
  return found;
}

/**
 * The container of a name, or of the PID of a process in it or of one that holds it. Throws UsageError for what is
 * neither a name nor a PID, Failure if there is no such container.
 */
export function findContainer(hierarchies: Hierarchy[], text: string): WholeContainer {
  if (!/^\d+$/.test(text)) {
    checkName(text);
    return namedContainer(hierarchies, text);
  }
  const pid = Number(text);
  return whileRuns(pid, (table) => {
    const { containers } = findContainers(table);
    const held = heldContainer(containers, pid);
    const container = held ?? containerAround(containers, pid);
    if (!container)
      throw new Failure(
        `${text} is in no container, and holds none: ${scriptPath('ps')} shows those there are`,
      );
    const found = wholeContainer(hierarchies, table, containers, container, text);
    const isMiddle = !held && found.first && found.first.pid !== pid;
    const name = found.name ?? identify(table, container).name;
    return { ...found, remark: isMiddle ? belongsTo(pid, name, found.first as Process) : undefined };
  });
}

/** A container that was found among the processes, with its cgroups. */
function wholeContainer(
  hierarchies: Hierarchy[],
  table: Table,
  containers: Container[],
  container: Container,
  label: string,
): WholeContainer {
  const { first, members } = container;
  // a container inside one of ours is in the same cgroups
  const isOurs = ownContainerName(container) !== undefined;
  const own = isOurs ? hierarchies.flatMap((hierarchy) => ownName(hierarchy, first.pid) ?? []) : [];
  if (own[0] !== undefined) return { ...namedContainer(hierarchies, own[0]), label };
  const procCgroup = readProc(first.pid, 'cgroup') ?? '';
  const living = [...members].filter((pid) => table.get(pid)?.zombie === false);
  const isStranger = strangers(table, containers, members, container);
  const cgroups = hierarchies.flatMap((hierarchy) => {
    const path = cgroupPath(procCgroup, hierarchy);
    const directory = path === undefined ? undefined : ownCgroup(hierarchy, path, living, isStranger);
    return directory === undefined ? [] : { hierarchy, directory };
  });
  return { label, first, startTicks: startTicks(first.pid), cgroups, name: undefined };
}
