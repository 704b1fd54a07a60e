// Whom a script acts on: a container by its name, or any process by its PID; and the cgroup that is to be limited.
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cgroupDirectory, cgroupPath, type Hierarchy, ownCgroup, parent } from './cgroup.ts';
import { Failure, UsageError } from './cli.ts';
import { findContainers, heldContainer } from './containers.ts';
import { descendants, type Process, readProc, readProcess, readProcesses, type Table } from './proc.ts';

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
    if (!/^[\w.-]+$/.test(text) || /^\.+$/.test(text))
      throw new UsageError(`neither a name nor a PID: ${JSON.stringify(text)}`);
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
