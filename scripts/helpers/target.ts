// Whom a script acts on: a container by its name, or any process by its PID; and the cgroup that is to be limited.
import {
  accessSync,
  constants,
  existsSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  cgroupDirectory,
  cgroupPath,
  type Hierarchy,
  type LimitName,
  ownCgroup,
  parent,
  processesIn,
  type Setting,
} from './cgroups.ts';
import { Failure, UsageError } from './cli.ts';
import {
  type Container,
  findContainers,
  heldContainer,
  identify,
  notesFolder,
  runFolder,
} from './containers.ts';
import {
  attempt,
  descendants,
  type Process,
  readProc,
  readProcess,
  readProcesses,
  startTicks,
  type Table,
} from './pids.ts';

/** A cgroup of one hierarchy, and who is in it or is to go there. */
export interface Target {
  directory: string;
  /** the first process of the tree; undefined for a container that was named */
  top: Process | undefined;
  /** when that started: a later process may get its PID */
  startTicks: number | undefined;
  /** the cgroup is still to be made, and these have to be moved there, `top` first, parents before children */
  toMove: Process[];
  /** the directory of the cgroup that `top` is to be moved out of, or was */
  origin: string | undefined;
  /** those of the others that are or were in another cgroup than that, in the same order */
  elsewhere: Place[];
  /** the cgroup is another engine's or a service's: its limits are to be put back one day */
  borrowed: boolean;
}

/** Whether a word can be a container's name: no path leads out of the folder of the cgroups. */
export const isName = (text: string) => /^[a-z0-9][\w.-]*$/i.test(text);

/** A process, told from a later one with its PID, and the directory of a cgroup. */
export interface Place {
  pid: number;
  startTicks: number;
  directory: string;
}

/**
 * The folder for what the kernel does not keep about a cgroup barehand/pid-N, or about one that is limited in place
 * for the sake of process N: `HIERARCHY.cgroup` in it is where its processes came from, `CONTROLLER.limit` what the
 * limits were.
 */
export const notes = ({ directory, top, borrowed }: Pick<Target, 'directory' | 'top' | 'borrowed'>) =>
  join(runFolder(), borrowed && top ? `pid-${top.pid}` : basename(directory));

/** The name of the note about a hierarchy: each of v1's has a cgroup of its own for the same process. */
export const cgroupNoteName = ({ controllers }: Pick<Hierarchy, 'controllers'>) =>
  `${controllers.join() || 'v2'}.cgroup`;

/** The text of a limit note: since when the process runs, then what its limits were. */
export const limitNote = ({ startTicks }: Pick<Target, 'startTicks'>, settings: Setting[]) =>
  [startTicks, ...settings.map(({ limit, device, text }) => `${limit} ${device ?? '-'} ${text}`)].join('\n');

/** What the limits of a controller were before this project changed them, if there is a note of that. */
export function previousLimits(target: Target, controller: string): Setting[] | undefined {
  const note =
    target.borrowed && attempt(() => readFileSync(join(notes(target), `${controller}.limit`), 'utf8'));
  const [ticks, ...lines] = note ? note.replace(/\n$/, '').split('\n') : [];
  if (ticks === undefined || Number(ticks) !== target.startTicks) return undefined;
  return lines.map((line) => {
    const [, limit, device, text = ''] = /^(\S+) (\S+) ?(.*)$/.exec(line) ?? [];
    return { limit: limit as LimitName, ...(device !== '-' && { device }), text };
  });
}

/** The text of `cgroup` in the notes: the first line where the tree comes from, then who comes from elsewhere. */
export const cgroupNote = ({ origin, elsewhere }: Pick<Target, 'origin' | 'elsewhere'>) =>
  [origin, ...elsewhere.map((place) => `${place.pid} ${place.startTicks} ${place.directory}`)].join('\n');

/** Reads that text: of those that came from elsewhere, the ones that still live. */
function parseCgroupNote(text: string): Pick<Target, 'origin' | 'elsewhere'> {
  const [origin = '', ...lines] = text.trim().split('\n');
  const elsewhere = lines.map((line) => {
    const [pid = '', ticks = '', ...words] = line.split(' ');
    return { pid: Number(pid), startTicks: Number(ticks), directory: nearest(words.join(' ')) };
  });
  return {
    origin: nearest(origin),
    elsewhere: elsewhere.filter((place) => startTicks(place.pid) === place.startTicks),
  };
}

/** A cgroup that has been removed meanwhile is replaced by the next one above it that takes processes. */
function nearest(directory: string): string {
  let at = directory;
  while (!existsSync(at) || basename(at) === parent) at = dirname(at);
  return at;
}

/** The name of the container of ours that a process is in; undefined for others, and for a barehand/pid-N. */
function ownName(hierarchy: Hierarchy, pid: number): string | undefined {
  const path = cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy) ?? '';
  const name = new RegExp(`^/${parent}/([^/]+)`).exec(path)?.[1];
  return name && /^pid-\d+$/.test(name) ? undefined : name;
}

/** The process that a PID means, or the container whose first it is or that it holds, as unshare(1) does. */
function findProcess(
  table: Table,
  containers: Container[],
  pid: number,
): { top: Process; container: Container | undefined } {
  const process_ = readProcess(pid);
  if (!process_ || process_.zombie)
    throw new Failure(`there is no process ${pid}: ps.ts shows containers, ps(1) processes`);
  if (process_.kernelThread)
    throw new Failure(`${pid} (${process_.name}) is a thread of the kernel: no cgroup limits it`);
  if (process_.pid === 1) throw new Failure('1 is the init of this host: what limits it limits everything');
  if (process_.pid === process.pid) throw new Failure(`${pid} is this script itself`);
  const container =
    heldContainer(containers, process_.pid) ??
    containers.find(({ first }) => first.pid === process_.pid && table.has(first.pid));
  return { top: container?.first ?? process_, container };
}

/**
 * The container of ours that the tree below `top` consists of: run.ts and its shell are a single chain of processes
 * that ends in it. undefined where it has none. Throws Failure where it has several, or other processes besides.
 */
function findBelow(hierarchy: Hierarchy, tree: Process[], top: Process): string | undefined {
  const names = [...new Set(tree.flatMap(({ pid }) => ownName(hierarchy, pid) ?? []))];
  if (names.length === 0) return undefined;
  const above = tree.filter(({ pid }) => ownName(hierarchy, pid) === undefined);
  const isChain = above.every(({ pid }) => tree.filter(({ ppid }) => ppid === pid).length === 1);
  if (names.length === 1 && isChain) return names[0];
  throw new Failure(
    `containers with cgroups of their own descend from ${top.pid}: take them by name: ${names.join(', ')}`,
  );
}

/** Whether this user may write a file. */
const isWritable = (file: string) => attempt(() => accessSync(file, constants.W_OK) ?? true) ?? false;

/**
 * The cgroup below which a user may make some for the processes `members` of the cgroup `origin`: for root the top of
 * the hierarchy; for others the next one that was delegated to them, `isFit`, and has no processes but these, cgroups(7).
 */
export function delegatedTo(
  { mountPoint }: Hierarchy,
  origin: string,
  members: Set<number>,
  isFit: (directory: string) => boolean = () => true,
): string | undefined {
  if (process.getuid?.() === 0) return mountPoint;
  for (let at = origin; at.startsWith(mountPoint); at = dirname(at)) {
    const procs = join(at, 'cgroup.procs');
    if (!isWritable(at) || !isWritable(procs)) return undefined;
    const inIt =
      attempt(() => readFileSync(procs, 'utf8'))
        ?.split('\n')
        .filter(Boolean) ?? [];
    if (basename(at) !== parent && isFit(at) && inIt.every((pid) => members.has(Number(pid)))) return at;
  }
  return undefined;
}

/**
 * Finds what `text` means, a name or a PID. A container and any tree that has a cgroup to itself, with `files` in it,
 * is limited there; for any other the directory is one that is still to be made, barehand/pid-N.
 * Throws UsageError for what is neither name nor PID, Failure for what does not exist or can't be limited.
 */
export function findTarget(hierarchy: Hierarchy, text: string, files: string[]): Target {
  const named = (name: string) => join(hierarchy.mountPoint, parent, name);
  const ticksOf = (process_?: Process) => process_ && startTicks(process_.pid);
  const existing = (directory: string, top?: Process): Target => {
    const borrowed = basename(dirname(directory)) !== parent;
    const folder = notes({ directory, top, borrowed });
    const note = attempt(() => readFileSync(join(folder, cgroupNoteName(hierarchy)), 'utf8'));
    return {
      directory,
      top,
      startTicks: ticksOf(top),
      toMove: [],
      ...(note && !borrowed ? parseCgroupNote(note) : { origin: undefined, elsewhere: [] }),
      borrowed,
    };
  };
  if (!/^\d+$/.test(text)) {
    if (!isName(text)) throw new UsageError(`neither a name nor a PID: ${JSON.stringify(text)}`);
    if (!existsSync(named(text)))
      throw new Failure(`there is no container ${text}: ps.ts shows those there are`);
    return existing(named(text));
  }

  // the process that it is called after may have ended before those it left behind
  const left = named(`pid-${text}`);
  if (!readProcess(Number(text)) && attempt(() => processesIn(left).length)) return existing(left);
  const table = readProcesses();
  const { containers } = findContainers(table);
  const { top, container } = findProcess(table, containers, Number(text));
  if (container) {
    const { engine, name } = identify(table, container);
    if (engine === 'barehand' && name && existsSync(named(name))) return existing(named(name), top);
  }
  const path = cgroupPath(readProc(top.pid, 'cgroup') ?? '', hierarchy);
  if (path === undefined) throw new Failure(`process ${top.pid} has ended`);
  const origin = cgroupDirectory(hierarchy, path);
  // what has left the tree since, as daemons do, is still in there
  if (origin && basename(origin) === `pid-${top.pid}` && basename(dirname(origin)) === parent)
    return existing(origin, top);

  const inside = container ? [...container.members] : descendants(table, [top.pid]).map(({ pid }) => pid);
  const tops = inside.filter((pid) => !inside.includes(table.get(pid)?.ppid ?? 0));
  const tree = descendants(table, [top.pid, ...tops]).filter(({ zombie }) => !zombie);
  const members = new Set(tree.map(({ pid }) => pid));
  const isStranger = (pid: number) =>
    !members.has(pid) &&
    (pid === 0 || table.has(pid)) &&
    !(container && heldContainer(containers, pid) === container);
  const own = ownCgroup(hierarchy, path, [...members], isStranger);
  const base = origin && delegatedTo(hierarchy, origin, members);
  const isFit = (file: string) => existsSync(file) && (!base || isWritable(file));
  if (own && files.every((file) => isFit(join(own, file)))) return existing(own, top);
  const below = ownName(hierarchy, top.pid) ? undefined : findBelow(hierarchy, tree, top);
  if (below) return existing(named(below), top);

  const elsewhere = tree.flatMap(({ pid }) => {
    const at = cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy);
    const directory = at === undefined ? undefined : cgroupDirectory(hierarchy, at);
    return directory === undefined || directory === origin
      ? []
      : { pid, startTicks: startTicks(pid) ?? 0, directory };
  });
  return {
    directory: join(base ?? hierarchy.mountPoint, parent, `pid-${top.pid}`),
    top,
    startTicks: ticksOf(top),
    toMove: tree,
    origin,
    elsewhere,
    borrowed: false,
  };
}

/**
 * Removes the cgroups barehand/pid-N whose processes have all ended, but for those that are being made just now; and
 * the notes of processes that have ended.
 */
export function sweepTargets(hierarchy: Hierarchy): void {
  const folder = join(hierarchy.mountPoint, parent);
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    if (!/^pid-\d+$/.test(name)) continue;
    const directory = join(folder, name);
    try {
      if (Date.now() - statSync(directory).mtimeMs < 10_000) continue;
      rmdirSync(directory); // EBUSY: somebody is in it
      rmSync(join(runFolder(), name, cgroupNoteName(hierarchy)), { force: true });
      rmdirSync(folder); // ENOTEMPTY: there are others
    } catch {}
  }
  for (const name of attempt(() => readdirSync(runFolder())) ?? []) {
    if (!/^pid-\d+$/.test(name)) continue;
    const files = attempt(() => readdirSync(join(runFolder(), name))) ?? [];
    for (const file of files.filter((file) => file.endsWith('.limit'))) {
      const ticks = attempt(() => readFileSync(join(runFolder(), name, file), 'utf8'))?.split('\n')[0];
      if (Number(ticks) !== startTicks(Number(name.slice('pid-'.length))))
        rmSync(join(runFolder(), name, file), { force: true });
    }
    const isNew = Date.now() - (attempt(() => statSync(join(runFolder(), name)).mtimeMs) ?? 0) < 10_000;
    if (!isNew) attempt(() => rmdirSync(join(runFolder(), name)));
  }
  attempt(() => rmdirSync(runFolder()));
}

/** A container as a whole: its first process, and the cgroups that it has to itself. */
export interface WholeContainer {
  /** what the user called it */
  label: string;
  /** undefined: nothing of it is running, only cgroups of a crashed launch are left */
  first: Process | undefined;
  startTicks: number | undefined;
  cgroups: { hierarchy: Hierarchy; directory: string }[];
  /** what run.ts calls it, so that the cgroups are ours to remove; undefined: others have made it */
  name: string | undefined;
}

/** The names of all containers of ours, also of those that nothing is left of but cgroups or a log. */
export function ownContainers(hierarchies: Hierarchy[]): string[] {
  const folders = [...hierarchies.map(({ mountPoint }) => join(mountPoint, parent)), runFolder()];
  const entries = folders.flatMap(
    (folder) => attempt(() => readdirSync(folder, { withFileTypes: true })) ?? [],
  );
  const names = entries.filter((entry) => entry.isDirectory() && !/^pid-\d+$/.test(entry.name));
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

/** A container without cgroups: it has ended and left a log, or a user has made it who can make no cgroups. */
function withoutCgroups(name: string): WholeContainer {
  const note = attempt(() => readFileSync(join(notesFolder(name), 'pid'), 'utf8')) ?? '';
  const [pid = 0, ticks] = note.split(' ').map(Number);
  const found = note && startTicks(pid) === ticks ? readProcess(pid) : undefined;
  const first = found?.zombie ? undefined : found;
  if (!existsSync(notesFolder(name)))
    throw new Failure(`there is no container ${name}: ps.ts shows those there are`);
  return { label: name, first, startTicks: first && ticks, cgroups: [], name };
}

/** The container of ours that has this name. Throws Failure where there is none. */
export function namedContainer(hierarchies: Hierarchy[], name: string): WholeContainer {
  const cgroups = hierarchies
    .map((hierarchy) => ({ hierarchy, directory: join(hierarchy.mountPoint, parent, name) }))
    .filter(({ directory }) => existsSync(directory));
  if (cgroups.length === 0) return withoutCgroups(name);
  const first = firstOf(cgroups.flatMap(({ directory }) => processesIn(directory)));
  return { label: name, first, startTicks: first && startTicks(first.pid), cgroups, name };
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
  // what runs inside of one of ours is in its cgroups too, but is not the container
  const isOurs = identify(table, container).engine === 'barehand';
  const own = isOurs ? hierarchies.flatMap((hierarchy) => ownName(hierarchy, first.pid) ?? []) : [];
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
  return { label: text, first, startTicks: startTicks(first.pid), cgroups, name: undefined };
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
