// What the kernel does not keep about limits: where the processes of a cgroup barehand/pid-N come from, and what the
// limits of a cgroup were before limit-*.ts changed them. --reset reads both.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type Hierarchy, parent, processesIn } from '../helpers/cgroups.ts';
import { runFolder } from '../helpers/containers.ts';
import { attempt, startTicks } from '../helpers/pids.ts';
import { perform, type Step } from '../helpers/steps.ts';
import { controllersOf, isSame, type LimitName, limits, type Setting } from './table.ts';
import type { Target } from './target.ts';

/** The folder of the notes about a container of ours, whose first process has this PID: it goes with the container. */
export const notesAbout = (pid: number) => join(runFolder(), `pid-${pid}`);

/** The folder of the notes about a cgroup. It is called after the process that the cgroup belongs to. */
const folderOf = ({ directory, top, inPlace }: Target) =>
  join(runFolder(), inPlace ? `pid-${top?.pid}` : basename(directory));

/** The file about where processes come from: each of v1's hierarchies has a cgroup of its own for the same process. */
export const originFile = ({ controllers }: Pick<Hierarchy, 'controllers'>) =>
  `${controllers.join() || 'v2'}.cgroup`;

/** The file about what the limits of a controller were. */
const limitsFile = (controller: string) => `${controller}.before`;

/** A process, told from a later one with its PID, and the directory of a cgroup. */
export interface Place {
  pid: number;
  startTicks: number;
  directory: string;
}

/** The steps that note where processes come from: first the whole tree, then those that come from elsewhere. */
export function noteOrigin(target: Target): Step[] {
  const lines = target.elsewhere.map(({ pid, startTicks, directory }) => `${pid} ${startTicks} ${directory}`);
  const to = join(folderOf(target), originFile(target));
  return [
    { why: 'for --reset: where they come from', mkdir: dirname(to) },
    { write: [target.origin, ...lines].join('\n'), to },
  ];
}

/** Reads the note about a cgroup barehand/pid-N: of those that came from elsewhere, the ones that still live. */
export function readOrigin(hierarchy: Hierarchy, directory: string): Pick<Target, 'origin' | 'elsewhere'> {
  const [origin, ...lines] = readNote(join(runFolder(), basename(directory), originFile(hierarchy))).split(
    '\n',
  );
  const elsewhere = lines.map((line) => {
    const [pid = '', ticks = '', ...words] = line.split(' ');
    return { pid: Number(pid), startTicks: Number(ticks), directory: nearest(words.join(' ')) };
  });
  return {
    origin: origin ? nearest(origin) : undefined,
    elsewhere: elsewhere.filter((place) => startTicks(place.pid) === place.startTicks),
  };
}

/** A note without the newline that ends it, '' where there is none. */
const readNote = (file: string) => (attempt(() => readFileSync(file, 'utf8')) ?? '').replace(/\n$/, '');

/** A cgroup that has been removed meanwhile is replaced by the next one above it that takes processes. */
function nearest(directory: string): string {
  let at = directory;
  while (!existsSync(at) || basename(at) === parent) at = dirname(at);
  return at;
}

/**
 * The steps that note what limits were, `old`, unless they are among the `known` ones: a file for each controller, that
 * begins with the time at which the process started.
 */
export function noteLimits(target: Target, old: Setting[], known: Setting[]): Step[] {
  if (!target.top) return [];
  return controllersOf(old.map(({ limit }) => limit)).flatMap((controller): Step[] => {
    const isOf = ({ limit }: Setting) => limits[limit].controller === controller;
    const added = old.filter((setting) => isOf(setting) && !known.some(isSame(setting)));
    const lines = [...known.filter(isOf), ...added].map(
      ({ limit, device = '-', text }) => `${limit} ${device} ${text}`,
    );
    const to = join(folderOf(target), limitsFile(controller));
    if (added.length === 0) return [];
    return [
      { why: 'for --reset: since when the process runs, and what its limits were', mkdir: dirname(to) },
      { write: [target.startTicks, ...lines].join('; '), to },
    ];
  });
}

/** What the limits of controllers were before limit-*.ts changed them, as far as there is a note of that. */
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

/** The steps that remove the notes about a target: those about these limits, or about where processes come from. */
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
  namesIn(folder).flatMap((name) => (/^pid-\d+$/.test(name) ? join(folder, name) : []));

// what is younger may belong to a call that is at work
const isOld = (path: string) => Date.now() - (attempt(() => statSync(path).mtimeMs) ?? 0) >= 10_000;

/** Whether the notes about limits in a file are of a process that has ended. */
const isStale = (file: string) =>
  Number(readNote(file).split('; ')[0]) !== startTicks(Number(basename(dirname(file)).slice('pid-'.length)));

/**
 * Steps that remove the cgroups barehand/pid-N whose processes have all ended, but for those that are being made just
 * now; and the notes of processes that have ended. What a step depends on is read when the step is asked for.
 */
function* sweepSteps(hierarchies: Hierarchy[]): Generator<Step> {
  const folders = pidFolders(runFolder());
  const oldFolders = folders.filter(isOld);
  const isUsed = (directory: string) => attempt(() => processesIn(directory).length) !== 0;
  for (const hierarchy of hierarchies) {
    const own = join(hierarchy.mountPoint, parent);
    const empty = pidFolders(own).filter((directory) => isOld(directory) && !isUsed(directory));
    for (const directory of empty) {
      yield { rmdir: directory, unlessUsed: true };
      const note = join(runFolder(), basename(directory), originFile(hierarchy));
      // a process that was moved there meanwhile needs its note
      if (existsSync(note) && !(existsSync(directory) && isUsed(directory))) yield { remove: note };
    }
    if (empty.length > 0) yield { rmdir: own, unlessUsed: true };
  }
  const notes = folders.flatMap((folder) => namesIn(folder).map((name) => join(folder, name)));
  for (const note of notes) if (note.endsWith('.before') && isStale(note)) yield { remove: note };
  for (const folder of oldFolders) yield { rmdir: folder, unlessUsed: true };
  if (oldFolders.length > 0) yield { rmdir: runFolder(), unlessUsed: true };
}

/** Removes what calls of limit-*.ts have left. */
export async function sweepTargets(hierarchies: Hierarchy[]): Promise<void> {
  for (const step of sweepSteps(hierarchies)) await perform([step]);
}

/** What sweepTargets does in these hierarchies now, as steps to be printed. */
export function planSweepTargets(hierarchies: Hierarchy[]): Step[] {
  const why = 'limit-*.ts: cgroups and notes of processes that have ended';
  return [...sweepSteps(hierarchies)].map((step, index) => (index > 0 ? step : { ...step, why }));
}
