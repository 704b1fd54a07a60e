// What the kernel does not keep about limits: the cgroups that the processes of a barehand/pid-N came from, and the
// limits of a cgroup before limit-*.ts changed them. --reset reads both.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type Hierarchy, isPidName, parent, processesIn } from '../helpers/cgroups.ts';
import { runFolder } from '../helpers/containers.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt, startTicks } from '../helpers/pids.ts';
import { explain, perform, type Step } from '../helpers/steps.ts';
import { controllersOf, isSame, type LimitName, limits, type Setting } from './table.ts';
import type { Target } from './target.ts';

/** The folder of the notes about a container of ours, whose first process has this PID. run.ts removes both together. */
export const notesAbout = (pid: number) => join(runFolder(), `pid-${pid}`);

/** The folder of the notes about a cgroup, pid-N. N is the first process of the cgroup. */
const folderOf = ({ directory, top, inPlace }: Target) =>
  join(runFolder(), inPlace ? `pid-${top?.pid}` : basename(directory));

/** The file that notes where processes came from. In v1 a process has a cgroup, and so a note, in each hierarchy. */
export const originFile = ({ controllers }: Pick<Hierarchy, 'controllers'>) =>
  `${controllers.join() || 'v2'}.cgroup`;

/** The file that notes the previous limits of a controller. */
const limitsFile = (controller: string) => `${controller}.before`;

/** A process and the directory of its cgroup. The start time tells the process from a later one with its PID. */
export interface Place {
  pid: number;
  startTicks: number;
  directory: string;
}

/** The steps that note where processes come from: first the cgroup of the tree, then processes in other cgroups. */
export function noteOrigin(target: Target): Step[] {
  const lines = target.elsewhere.map(({ pid, startTicks, directory }) => `${pid} ${startTicks} ${directory}`);
  const to = join(folderOf(target), originFile(target));
  return [
    { why: 'for --reset: where they come from', mkdir: dirname(to) },
    { write: [target.origin, ...lines].join('\n'), to },
  ];
}

/** Reads where the processes of a cgroup barehand/pid-N came from. Those that have ended are left out. */
export function readOrigin(hierarchy: Hierarchy, directory: string): Pick<Target, 'origin' | 'elsewhere'> {
  const note = join(runFolder(), basename(directory), originFile(hierarchy));
  const [origin, ...lines] = readNote(note).split('\n');
  const elsewhere = lines.map((line) => {
    const [pid = '', ticks = '', ...words] = line.split(' ');
    return { pid: Number(pid), startTicks: Number(ticks), directory: nearest(words.join(' ')) };
  });
  return {
    origin: origin ? nearest(origin) : undefined,
    elsewhere: elsewhere.filter((place) => startTicks(place.pid) === place.startTicks),
  };
}

/**
 * The directories `barehand/NAME`, NAME being pid-N, that exist in a hierarchy: at its top, and in the cgroup that the
 * processes came from or in one above that, as for a part of a container.
 */
export function placesOf(hierarchy: Hierarchy, name: string): string[] {
  const { mountPoint } = hierarchy;
  const [origin = ''] = readNote(join(runFolder(), name, originFile(hierarchy))).split('\n');
  const levels = [mountPoint];
  for (let at = origin; isBelow(at, mountPoint) && at !== mountPoint; at = dirname(at)) levels.push(at);
  return levels.map((level) => join(level, parent, name)).filter(existsSync);
}

/** A note without the newline that ends it, '' where there is none. */
const readNote = (file: string) => (attempt(() => readFileSync(file, 'utf8')) ?? '').replace(/\n$/, '');

/** The cgroup itself; if it has been removed, the nearest one above it that takes processes. */
function nearest(directory: string): string {
  let at = directory;
  while (!existsSync(at) || basename(at) === parent) at = dirname(at);
  return at;
}

/**
 * The steps that note the limits `old`, except those that are `known`, which is what the notes hold already. Each
 * controller has a file, which begins with the start time of the first process.
 */
export function noteLimits(target: Target, old: Setting[], known: Setting[]): Step[] {
  if (!target.top) return [];
  const added = old.filter((setting) => !known.some(isSame(setting)));
  return controllersOf(added.map(({ limit }) => limit)).flatMap((controller): Step[] => {
    const its = [...known, ...added].filter(({ limit }) => limits[limit].controller === controller);
    const lines = its.map(({ limit, device = '-', text }) => `${limit} ${device} ${text}`);
    const to = join(folderOf(target), limitsFile(controller));
    return [
      { why: 'for --reset: the start time of the process, and its previous limits', mkdir: dirname(to) },
      { write: [target.startTicks, ...lines].join('; '), to },
    ];
  });
}

/** The limits of these controllers before limit-*.ts changed them, as far as they are noted. */
export function readLimitNotes(target: Target, controllers: string[]): Setting[] {
  if (!target.inPlace) return [];
  return controllers.flatMap((controller) => {
    const [ticks, ...lines] = readNote(join(folderOf(target), limitsFile(controller))).split('; ');
    if (Number(ticks) !== target.startTicks) return [];
    return lines.map((line): Setting => {
      const [, limit, device = '', text = ''] = /^(\S+) (\S+) ?(.*)$/.exec(line) ?? [];
      return { limit: limit as LimitName, ...(device !== '-' && { device }), text };
    });
  });
}

/** The steps that remove the notes about a target: of its `previous` limits, or of where its processes came from. */
export function forget(target: Target, previous: Setting[]): Step[] {
  const folder = folderOf(target);
  const controllers = controllersOf(previous.map(({ limit }) => limit));
  const files = target.inPlace ? controllers.map(limitsFile) : [originFile(target)];
  return [
    ...files.map((file) => ({ remove: join(folder, file) })),
    { rmdir: folder, unlessUsed: true },
    { rmdir: dirname(folder), unlessUsed: true },
  ];
}

const namesIn = (folder: string) => attempt(() => readdirSync(folder)) ?? [];

/** The directories pid-N in another, of cgroups or notes. */
const pidFolders = (folder: string) =>
  namesIn(folder).flatMap((name) => (isPidName(name) ? join(folder, name) : []));

// a younger one may be in the making by another call
const isOld = (path: string) => Date.now() - (attempt(() => statSync(path).mtimeMs) ?? 0) >= 10_000;

/** Whether the process whose limits a file notes has ended. */
const isStale = (file: string) =>
  Number(readNote(file).split('; ')[0]) !== startTicks(Number(basename(dirname(file)).slice('pid-'.length)));

/**
 * The steps that remove the cgroups barehand/pid-N whose processes have all ended, and the notes about processes that
 * have ended. A cgroup or folder that may still be in the making stays. Each step is made from the facts at that moment.
 */
function* sweepSteps(hierarchies: Hierarchy[]): Generator<Step> {
  const folders = pidFolders(runFolder());
  const oldFolders = folders.filter(isOld);
  const isUsed = (directory: string) => attempt(() => processesIn(directory).length) !== 0;
  for (const hierarchy of hierarchies) {
    const noted = folders.flatMap((folder) => placesOf(hierarchy, basename(folder)));
    const all = new Set([...pidFolders(join(hierarchy.mountPoint, parent)), ...noted]);
    const empty = [...all].filter((directory) => isOld(directory) && !isUsed(directory));
    for (const directory of empty) {
      yield { rmdir: directory, unlessUsed: true };
      const note = join(runFolder(), basename(directory), originFile(hierarchy));
      // a process that another call has moved there meanwhile needs the note
      if (existsSync(note) && !(existsSync(directory) && isUsed(directory))) yield { remove: note };
    }
    for (const own of new Set(empty.map(dirname))) yield { rmdir: own, unlessUsed: true };
    // a part of a container that has ended: its cgroup has been removed with that of the container
    for (const folder of oldFolders) {
      const note = join(folder, originFile(hierarchy));
      if (existsSync(note) && placesOf(hierarchy, basename(folder)).length === 0) yield { remove: note };
    }
  }
  const notes = folders.flatMap((folder) => namesIn(folder).map((name) => join(folder, name)));
  for (const note of notes) if (note.endsWith('.before') && isStale(note)) yield { remove: note };
  for (const folder of oldFolders) yield { rmdir: folder, unlessUsed: true };
  if (oldFolders.length > 0) yield { rmdir: runFolder(), unlessUsed: true };
}

/** Removes the cgroups and notes of limit-*.ts whose processes have ended. */
export async function sweepTargets(hierarchies: Hierarchy[]): Promise<void> {
  for (const step of sweepSteps(hierarchies)) await perform([step]);
}

/** The steps of sweepTargets, to be printed. */
export function planSweepTargets(hierarchies: Hierarchy[]): Step[] {
  const why = 'left by limit-*.ts: cgroups and notes of processes that have ended';
  return explain(why, [...sweepSteps(hierarchies)]);
}
