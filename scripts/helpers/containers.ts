// Containers: finding them among the processes; which of them are ours.
import { readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { parent as ownFolder } from './cgroups.ts';
import { scriptName } from './cli.ts';
import {
  attempt,
  groupBy,
  isInit,
  namespaceInode,
  type Process,
  printable,
  readProc,
  type Table,
} from './pids.ts';

/** A container, whoever made it: the processes of a PID namespace, or a tree with a root directory of its own. */
export interface Container {
  /** PID 1 of the namespace, or the top of the tree */
  first: Process;
  /** the inode of a PID namespace of its own; undefined: it has none, or it may not be seen */
  pidNamespace: number | undefined;
  /** the container that this one runs in */
  enclosing: Container | undefined;
  /** all its processes, those of containers inside it included */
  members: Set<number>;
}

/**
 * Why XDG_RUNTIME_DIR of a user can't be used: it must be absolute, belong to the user, and have mode 0700, XDG Base
 * Directory Specification. A missing one may yet be made.
 */
function runtimeObstacle(path: string, uid: number): string | undefined {
  if (path === '') return 'it is empty';
  if (!isAbsolute(path)) return `it is not an absolute path: ${printable(path)}`;
  const stats = attempt(() => statSync(path));
  if (!stats) return undefined;
  if (!stats.isDirectory()) return `${printable(path)} is not a directory`;
  if (stats.uid !== uid) return `${printable(path)} belongs to user ${stats.uid}, not to ${uid}`;
  const mode = stats.mode & 0o777;
  return mode === 0o700 ? undefined : `${printable(path)} has mode ${mode.toString(8)}, and must have 700`;
}

let userFolder: string | undefined;

/** The directory in which a user other than root keeps sockets and the like. Prints once if it is not XDG_RUNTIME_DIR. */
function userRuntimeFolder(uid: number): string {
  const path = process.env.XDG_RUNTIME_DIR;
  const usual = `/run/user/${uid}`;
  if (userFolder !== undefined) return userFolder;
  const obstacle = path === undefined ? undefined : runtimeObstacle(path, uid);
  userFolder = obstacle === undefined && path !== undefined ? path : usual;
  if (obstacle !== undefined)
    console.error(`${scriptName()}: XDG_RUNTIME_DIR is not used, for ${obstacle}: ${usual} is used instead`);
  return userFolder;
}

/** The directory for what the kernel does not keep about containers; for users other than root in XDG_RUNTIME_DIR. */
export function runFolder(): string {
  const uid = process.getuid?.() ?? 0;
  return join(uid === 0 ? '/run' : userRuntimeFolder(uid), ownFolder);
}

/** The directory of one of our containers in there: its log, exit status and stop signal. */
export const notesFolder = (name: string) => join(runFolder(), name);

/** The file in there that holds the labels of a container, KEY=VALUE, one per line. */
export const labelFile = 'labels';

/** The file in there that holds the words that a container was started with, by run.ts. */
const argvFile = 'argv';

/** Notes the words that run.ts was called with, for its owner only: they may hold passwords. */
export const writeArgv = (folder: string, directory: string, words: string[]): void =>
  writeFileSync(join(folder, argvFile), [directory, ...words].join('\0'), { mode: 0o600 });

/** The words that run.ts was called with, without its own name, and its working directory; undefined: there is no note. */
export function readArgv(name: string): { directory: string; words: string[] } | undefined {
  const text = attempt(() => readFileSync(join(notesFolder(name), argvFile), 'utf8'));
  const [directory, ...words] = text?.split('\0') ?? [];
  return directory === undefined ? undefined : { directory, words };
}

/** The labels of a container, if it is ours; the last one of a key counts. */
export function readLabels({
  name,
  engine,
}: {
  name: string | null;
  engine: string;
}): Record<string, string> {
  if (engine !== 'barehand' || name === null) return {};
  const text = attempt(() => readFileSync(join(notesFolder(name), labelFile), 'utf8')) ?? '';
  const lines = text.split('\n').filter(Boolean);
  return Object.fromEntries(lines.map((line) => /^([^=]*)=(.*)$/.exec(line)?.slice(1) ?? [line, '']));
}

/**
 * The root directory of a process, and its path as far as the kernel knows it. Throws the kernel's error: EACCES if
 * this user may not read it.
 */
export const readRoot = (pid: number | 'self') => ({
  stats: statSync(`/proc/${pid}/root`),
  path: readlinkSync(`/proc/${pid}/root`),
});

/** A key that is equal for processes with the same root directory. */
function rootWord(pid: number | 'self'): string {
  const { stats, path } = readRoot(pid);
  return `${stats.dev} ${stats.ino} ${path}`;
}

/**
 * The containers among the processes, outer ones before inner ones. `hidden` counts the processes whose root directory
 * this user may not read; a PID namespace of theirs is found all the same. The reader's own namespaces and kernel
 * threads are not containers.
 */
export function findContainers(table: Table): { containers: Container[]; hidden: number } {
  const ownRoot = rootWord('self');
  const roots = new Map<number, string>();
  let hidden = 0;
  for (const { pid, kernelThread, zombie } of table.values()) {
    if (kernelThread || zombie) continue;
    try {
      roots.set(pid, rootWord(pid));
    } catch (error) {
      if (['EACCES', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) hidden++;
    }
  }

  const containers = new Map<number, Container>();
  const add = (first: Process, pidNamespace?: number) => {
    const container = { first, pidNamespace, enclosing: undefined, members: new Set<number>() };
    containers.set(first.pid, container);
    return container;
  };
  const byNamespace = new Map<number, Container>();
  const namespaces = new Map<number, number | undefined>();
  for (const process of table.values()) {
    if (process.nsPids.length < 2 || process.zombie) continue;
    const pidNamespace = namespaceInode(process.pid, 'pid');
    namespaces.set(process.pid, pidNamespace);
    if (!isInit(process)) continue;
    const container = add(process, pidNamespace);
    if (pidNamespace !== undefined) byNamespace.set(pidNamespace, container);
  }

  // a process that holds or has entered a container's mount namespace has its root, but not its PID namespace
  const placeOf = (pid: number) => `${namespaceInode(pid, 'mnt')} ${roots.get(pid)}`;
  const places = new Set([...byNamespace.values()].map(({ first }) => placeOf(first.pid)));
  const isTop = ({ pid, ppid, nsPids }: Process) => {
    const around = byNamespace.get(namespaces.get(pid) ?? 0);
    const others = [ownRoot, roots.get(ppid), around && roots.get(around.first.pid)];
    if (others.includes(roots.get(pid)) || (nsPids.length === 1 && pid === 1)) return false;
    return !places.has(placeOf(pid));
  };
  for (const process of table.values())
    if (roots.has(process.pid) && !containers.has(process.pid) && isTop(process)) add(process);

  const around = (process: Process, seen = new Set<Process>()): Container | undefined => {
    const own = containers.get(process.pid);
    if (own || seen.has(process)) return own;
    const namespace = namespaces.get(process.pid);
    const parent = table.get(process.ppid);
    // the parent of a process that nsenter(1) has started is outside
    if (namespace !== undefined && (!parent || namespaces.get(parent.pid) !== namespace))
      return byNamespace.get(namespace);
    return parent && around(parent, seen.add(process));
  };
  for (const container of containers.values()) {
    const parent = table.get(container.first.ppid);
    const namespace = isInit(container.first) ? undefined : namespaces.get(container.first.pid);
    container.enclosing = (parent && around(parent)) ?? (namespace ? byNamespace.get(namespace) : undefined);
  }
  for (const process of table.values())
    for (let container = around(process); container; container = container.enclosing)
      container.members.add(process.pid);

  const inside = groupBy(containers.values(), (container) => container.enclosing);
  const inOrder = (outer: Container | undefined): Container[] =>
    (inside.get(outer) ?? []).flatMap((container) => [container, ...inOrder(container)]);
  return { containers: inOrder(undefined), hidden };
}

/**
 * The container that a process holds without being in it: `unshare --pid --fork` stays outside of the namespace
 * that it made for its children.
 */
export function heldContainer(containers: Container[], pid: number): Container | undefined {
  const namespace = namespaceInode(pid, 'pid_for_children');
  if (namespace === undefined || namespace === namespaceInode(pid, 'pid')) return undefined;
  return containers.find((container) => container.pidNamespace === namespace);
}

/**
 * A function that tells whether a process does not belong to `members`, the processes of a tree or a container. A
 * process that holds the container belongs to it. So does a process that is not in `table`, since it is new. PID 0 is a
 * process of another PID namespace, and a stranger.
 */
export const strangers =
  (table: Table, containers: Container[], members: Set<number>, container: Container | undefined) =>
  (pid: number): boolean =>
    !members.has(pid) &&
    (pid === 0 || table.has(pid)) &&
    !(container && heldContainer(containers, pid) === container);

/**
 * A function that finds the last match of a form in the paths of a container's cgroups. undefined if there is none, or
 * if the enclosing container has the same: a container inside another is in the cgroups of both.
 */
export function cgroupWords({ first, enclosing }: Container): (form: RegExp) => string | undefined {
  const [cgroups, outer] = [first, enclosing?.first].map((one) => one && readProc(one.pid, 'cgroup'));
  const last = (text: string | undefined, form: RegExp) => [...(text ?? '').matchAll(form)].at(-1)?.[1];
  return (form) => {
    const found = last(cgroups, form);
    return found === last(outer, form) ? undefined : found;
  };
}

/** The form of the name of one of our containers in the path of a cgroup, for cgroupWords. */
export const ownForm = new RegExp(`/${ownFolder}/(?!pid-\\d+(?:/|\n|$))([^/\n]+)`, 'g');

/** The name of one of our containers; undefined for containers of others. */
export const ownContainerName = (container: Container): string | undefined => cgroupWords(container)(ownForm);
