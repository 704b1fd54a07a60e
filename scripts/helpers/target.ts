// Whom a script acts on: a container by its name, or any process by its PID; and the cgroup that is to be limited.
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cgroupDirectory, cgroupPath, type Hierarchy, ownCgroup, parent, processesIn } from './cgroup.ts';
import { Failure, UsageError } from './cli.ts';
import { findContainers, heldContainer } from './containers.ts';
import {
  attempt,
  descendants,
  type Process,
  readProc,
  readProcess,
  readProcesses,
  startTicks,
  type Table,
} from './proc.ts';

/** A cgroup of one hierarchy, and who is in it or is to go there. */
export interface Target {
  directory: string;
  /** the first process of the tree; undefined for a container that was named */
  top: Process | undefined;
  /** the cgroup is still to be made, and these have to be moved there, `top` first */
  toMove: Process[];
  /** the directory of the cgroup that those to be moved are in, or that those who were moved came from */
  origin: string | undefined;
}

/** Whether a word can be a container's name: no path leads out of the folder of the cgroups. */
const isName = (text: string) => /^[a-z0-9][\w.-]*$/i.test(text);

/** What the kernel does not keep about a cgroup barehand/pid-N: `cgroup` in here is where its processes came from. */
export const notes = (directory: string) => join('/run', parent, basename(directory));

/** The name of the container of ours that a process is in; undefined for others, and for a barehand/pid-N. */
function ownName(hierarchy: Hierarchy, pid: number): string | undefined {
  const path = cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy) ?? '';
  const name = new RegExp(`^/${parent}/([^/]+)`).exec(path)?.[1];
  return name?.startsWith('pid-') ? undefined : name;
}

/** The process that a PID means: for the one that holds a container, unshare(1) say, the container's first. */
function findTop(table: Table, pid: number): Process {
  const process = readProcess(pid);
  if (!process || process.zombie)
    throw new Failure(`there is no process ${pid}: ps.ts shows containers, ps(1) processes`);
  if (process.kernelThread)
    throw new Failure(`${pid} (${process.name}) is a thread of the kernel: no cgroup limits it`);
  if (process.pid === 1) throw new Failure('1 is the init of this host: what limits it limits everything');
  return heldContainer(findContainers(table).containers, process.pid)?.first ?? process;
}

/** The container of ours that the tree below `top` is, or undefined. Throws Failure where it has several. */
function findOwn(hierarchy: Hierarchy, table: Table, top: Process): string | undefined {
  const name = ownName(hierarchy, top.pid);
  if (name) return name;
  const tree = descendants(table, [top.pid]);
  const names = [...new Set(tree.flatMap(({ pid }) => ownName(hierarchy, pid) ?? []))];
  if (names.length === 0) return undefined;
  // run.ts and its shell: a single chain of processes that ends in the container
  const above = tree.filter(({ pid }) => ownName(hierarchy, pid) === undefined);
  const isChain = above.every(({ pid }) => tree.filter(({ ppid }) => ppid === pid).length === 1);
  if (names.length === 1 && isChain) return names[0];
  throw new Failure(
    `containers with cgroups of their own descend from ${top.pid}: take them by name: ${names.join(', ')}`,
  );
}

/**
 * Finds what `text` means, a name or a PID. A container and any tree that has a cgroup to itself is limited there;
 * for any other the directory is one that is still to be made, barehand/pid-N.
 * Throws UsageError for what is neither name nor PID, Failure for what does not exist or can't be limited.
 */
export function findTarget(hierarchy: Hierarchy, text: string): Target {
  const named = (name: string) => join(hierarchy.mountPoint, parent, name);
  const existing = (directory: string, top?: Process): Target => {
    const note = join(notes(directory), 'cgroup');
    const origin = existsSync(note) ? readFileSync(note, 'utf8').trim() : undefined;
    return { directory, top, toMove: [], origin };
  };
  if (!/^\d+$/.test(text)) {
    if (!isName(text)) throw new UsageError(`neither a name nor a PID: ${JSON.stringify(text)}`);
    if (!existsSync(named(text)))
      throw new Failure(`there is no container ${text}: ps.ts shows those there are`);
    return existing(named(text));
  }

  const table = readProcesses();
  const top = findTop(table, Number(text));
  const name = findOwn(hierarchy, table, top);
  if (name) return existing(named(name), top);
  const path = cgroupPath(readProc(top.pid, 'cgroup') ?? '', hierarchy);
  if (path === undefined) throw new Failure(`process ${top.pid} has ended`);
  const tree = descendants(table, [top.pid]).filter(({ zombie }) => !zombie);
  const members = new Set(tree.map(({ pid }) => pid));
  const { containers } = findContainers(table);
  const isStranger = (pid: number) =>
    !members.has(pid) && table.has(pid) && heldContainer(containers, pid)?.first.pid !== top.pid;
  const own = ownCgroup(hierarchy, path, [...members], isStranger);
  if (own) return existing(own, top);
  return { directory: named(`pid-${top.pid}`), top, toMove: tree, origin: cgroupDirectory(hierarchy, path) };
}

/** Removes the cgroups barehand/pid-N whose processes have all ended, but for those that are being made just now. */
export function sweepTargets({ mountPoint }: Hierarchy): void {
  const folder = join(mountPoint, parent);
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    if (!/^pid-\d+$/.test(name)) continue;
    const directory = join(folder, name);
    try {
      if (Date.now() - statSync(directory).mtimeMs < 10_000) continue;
      rmdirSync(directory); // EBUSY: somebody is in it
      rmSync(notes(directory), { recursive: true, force: true });
      rmdirSync(folder); // ENOTEMPTY: there are others
      rmdirSync(join('/run', parent));
    } catch {}
  }
}

/** A container as a whole: its first process, and the cgroups that it has to itself. */
export interface WholeContainer {
  /** what the user called it */
  label: string;
  /** undefined: nothing of it is running, only cgroups of a crashed launch are left */
  first: Process | undefined;
  startTicks: number | undefined;
  cgroups: { hierarchy: Hierarchy; directory: string }[];
  /** made by run.ts, so that the cgroups are ours to remove */
  ours: boolean;
}

/** The names of all containers of ours, also of those that nothing is left of but cgroups. */
export function ownContainers(hierarchies: Hierarchy[]): string[] {
  const folders = hierarchies
    .map(({ mountPoint }) => join(mountPoint, parent))
    .filter((path) => existsSync(path));
  const entries = folders.flatMap((folder) => readdirSync(folder, { withFileTypes: true }));
  const names = entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('pid-'));
  return [...new Set(names.map(({ name }) => name))];
}

/** The first process of those in a cgroup: PID 1 of a namespace, else the top of the tree below what holds it. */
function firstOf(pids: number[]): Process | undefined {
  const processes = pids.flatMap((pid) => readProcess(pid) ?? []).filter(({ zombie }) => !zombie);
  return (
    processes.find(({ nsPids }) => nsPids.length > 1 && nsPids.at(-1) === 1) ??
    processes.find(({ ppid, name }) => name !== 'unshare' && pids.includes(ppid)) ??
    processes[0]
  );
}

/** The container of ours that has this name. Throws Failure where there is none. */
export function namedContainer(hierarchies: Hierarchy[], name: string): WholeContainer {
  const cgroups = hierarchies
    .map((hierarchy) => ({ hierarchy, directory: join(hierarchy.mountPoint, parent, name) }))
    .filter(({ directory }) => existsSync(directory));
  if (cgroups.length === 0) throw new Failure(`there is no container ${name}: ps.ts shows those there are`);
  const first = firstOf(cgroups.flatMap(({ directory }) => processesIn(directory)));
  return { label: name, first, startTicks: first && startTicks(first.pid), cgroups, ours: true };
}

/** The container that a name or a PID means: its first process's, or that of what holds it. Throws as findTarget. */
export function findContainer(hierarchies: Hierarchy[], text: string): WholeContainer {
  if (!/^\d+$/.test(text)) {
    if (!isName(text)) throw new UsageError(`neither a name nor a PID: ${JSON.stringify(text)}`);
    return namedContainer(hierarchies, text);
  }
  const table = readProcesses();
  const { containers } = findContainers(table);
  const container =
    containers.find(({ first }) => first.pid === Number(text)) ?? heldContainer(containers, Number(text));
  if (!container) throw new Failure(`${text} is not the first process of a container: ps.ts shows which are`);
  const { first, members } = container;
  const own = hierarchies.flatMap((hierarchy) => ownName(hierarchy, first.pid) ?? []);
  if (own[0] !== undefined) return { ...namedContainer(hierarchies, own[0]), label: text };
  const procCgroup = readProc(first.pid, 'cgroup') ?? '';
  const living = [...members].filter((pid) => table.get(pid)?.zombie === false);
  const isStranger = (pid: number) =>
    !members.has(pid) && table.has(pid) && heldContainer(containers, pid) !== container;
  const cgroups = hierarchies.flatMap((hierarchy) => {
    const path = cgroupPath(procCgroup, hierarchy);
    const directory = path === undefined ? undefined : ownCgroup(hierarchy, path, living, isStranger);
    return directory === undefined ? [] : { hierarchy, directory };
  });
  return { label: text, first, startTicks: startTicks(first.pid), cgroups, ours: false };
}

/** The living processes of a container: those in its cgroups, and those of its first process's namespace or tree. */
export function livingProcesses({ cgroups, first, startTicks: started }: WholeContainer): Process[] {
  const table = readProcesses();
  const pids = new Set(cgroups.flatMap(({ directory }) => attempt(() => processesIn(directory)) ?? []));
  // its PID may have been given to another process by now
  if (first && startTicks(first.pid) === started) {
    const container = findContainers(table).containers.find((found) => found.first.pid === first.pid);
    for (const pid of container?.members ?? descendants(table, [first.pid]).map(({ pid }) => pid))
      pids.add(pid);
  }
  return [...pids].flatMap((pid) => table.get(pid) ?? []).filter(({ zombie }) => !zombie);
}
