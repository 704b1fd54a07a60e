// What the kernel does not keep about limits: where the processes of a cgroup barehand/pid-N come from, and what the
// limits of a cgroup were before limit-*.ts changed them. --reset reads both.
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type Hierarchy, parent, processesIn } from '../helpers/cgroups.ts';
import { runFolder } from '../helpers/containers.ts';
import { attempt, type Process, startTicks } from '../helpers/pids.ts';
import type { Step } from '../helpers/steps.ts';
import { controllersOf, isSame, type LimitName, limits, type Setting } from './table.ts';

/** A cgroup that there are notes about. */
export interface Noted {
  directory: string;
  /** the first process of the tree or the container; undefined where that has ended */
  top: Process | undefined;
  /** when that started: a later process may get its PID */
  startTicks: number | undefined;
  /** the cgroup is a container's, another engine's or a service's: --reset puts its limits back to what they were */
  inPlace: boolean;
}

/** The folder of the notes about a cgroup. It is called after the process that the cgroup belongs to. */
const folderOf = ({ directory, top, inPlace }: Noted) =>
  inPlace ? top && join(runFolder(), `pid-${top.pid}`) : join(runFolder(), basename(directory));

/** The file about where processes come from: each of v1's hierarchies has a cgroup of its own for the same process. */
export const originFile = ({ controllers }: Pick<Hierarchy, 'controllers'>) =>
  `${controllers.join() || 'v2'}.cgroup`;

/** The file about what the limits of a controller were. */
export const limitsFile = (controller: string) => `${controller}.before`;

/** A process, told from a later one with its PID, and the directory of a cgroup. */
export interface Place {
  pid: number;
  startTicks: number;
  directory: string;
}

/** Where the processes of a cgroup come from. */
export interface Origin {
  /** the directory of the cgroup that the first process is to be moved out of, or was */
  origin: string | undefined;
  /** those of the others that are or were in another cgroup than that, parents before children */
  elsewhere: Place[];
}

/** The folder of the notes about a container of ours, whose first process has this PID: it goes with the container. */
export const notesAbout = (pid: number) => join(runFolder(), `pid-${pid}`);

/** The steps that note where processes come from: first the whole tree, then those that come from elsewhere. */
export function noteOrigin(hierarchy: Hierarchy, target: Noted & Origin): Step[] {
  const folder = folderOf(target) ?? '';
  const lines = target.elsewhere.map(({ pid, startTicks, directory }) => `${pid} ${startTicks} ${directory}`);
  return [
    { why: 'for --reset: where they come from', mkdir: folder },
    { write: [target.origin, ...lines].join('\n'), to: join(folder, originFile(hierarchy)) },
  ];
}

/** Reads that note: of those that came from elsewhere, the ones that still live. */
export function readOrigin(hierarchy: Hierarchy, target: Noted): Origin {
  const file = join(folderOf(target) ?? '', originFile(hierarchy));
  const [origin, ...lines] = (attempt(() => readFileSync(file, 'utf8')) ?? '').trim().split('\n');
  if (!origin) return { origin: undefined, elsewhere: [] };
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

/**
 * The steps that note what limits were, `old`, unless they are among the `known` ones: a file for each controller, that
 * begins with the time at which the process started.
 */
export function noteLimits(target: Noted, old: Setting[], known: Setting[]): Step[] {
  const folder = folderOf(target);
  if (!folder) return [];
  return controllersOf(old.map(({ limit }) => limit)).flatMap((controller): Step[] => {
    const isOf = ({ limit }: Setting) => limits[limit].controller === controller;
    const added = old.filter((setting) => isOf(setting) && !known.some(isSame(setting)));
    const lines = [...known.filter(isOf), ...added].map(
      ({ limit, device, text }) => `${limit} ${device ?? '-'} ${text}`,
    );
    if (added.length === 0) return [];
    return [
      { why: 'for --reset: since when the process runs, and what its limits were', mkdir: folder },
      { write: [target.startTicks, ...lines].join('; '), to: join(folder, limitsFile(controller)) },
    ];
  });
}

/** What the limits of controllers were before limit-*.ts changed them, as far as there is a note of that. */
export function readLimitNotes(target: Noted, controllers: string[]): Setting[] {
  const folder = target.inPlace ? folderOf(target) : undefined;
  return controllers.flatMap((controller) => {
    const note = folder && attempt(() => readFileSync(join(folder, limitsFile(controller)), 'utf8'));
    const [ticks, ...lines] = note ? note.replace(/\n$/, '').split('; ') : [];
    if (ticks === undefined || Number(ticks) !== target.startTicks) return [];
    return lines.map((line): Setting => {
      const [, limit, device = '', text = ''] = /^(\S+) (\S+) ?(.*)$/.exec(line) ?? [];
      return { limit: limit as LimitName, ...(device !== '-' && { device }), text };
    });
  });
}

/** The steps that remove the notes about a target that are in `files`. */
export function forget(target: Noted, files: string[]): Step[] {
  const folder = folderOf(target);
  if (!folder) return [];
  return [
    ...files.map((file) => ({ remove: join(folder, file) })),
    { rmdir: folder, unlessUsed: true },
    { rmdir: dirname(folder), unlessUsed: true },
  ];
}

// what is younger may belong to a call that is at work
const isNew = (path: string) => Date.now() - (attempt(() => statSync(path).mtimeMs) ?? 0) < 10_000;
const namesIn = (folder: string) =>
  (attempt(() => readdirSync(folder)) ?? []).filter((name) => /^pid-\d+$/.test(name));

/** The cgroups barehand/pid-N of a hierarchy, but for those that are being made just now. */
function oldTargets({ mountPoint }: Hierarchy): string[] {
  const directories = namesIn(join(mountPoint, parent)).map((name) => join(mountPoint, parent, name));
  return directories.filter((directory) => !isNew(directory));
}

/** The notes about limits of processes that have ended. */
const staleNotes = (): string[] =>
  namesIn(runFolder()).flatMap((name) => {
    const folder = join(runFolder(), name);
    const files = (attempt(() => readdirSync(folder)) ?? []).filter((file) => file.endsWith('.before'));
    return files
      .map((file) => join(folder, file))
      .filter((file) => {
        const ticks = attempt(() => readFileSync(file, 'utf8'))?.split('; ')[0];
        return Number(ticks) !== startTicks(Number(name.slice('pid-'.length)));
      });
  });

/**
 * Removes the cgroups barehand/pid-N whose processes have all ended, but for those that are being made just now; and
 * the notes of processes that have ended.
 */
export function sweepTargets(hierarchy: Hierarchy): void {
  for (const directory of oldTargets(hierarchy))
    try {
      rmdirSync(directory); // EBUSY: somebody is in it
      rmSync(join(runFolder(), basename(directory), originFile(hierarchy)), { force: true });
      rmdirSync(dirname(directory)); // ENOTEMPTY: there are others
    } catch {}
  for (const file of staleNotes()) rmSync(file, { force: true });
  for (const name of namesIn(runFolder()))
    if (!isNew(join(runFolder(), name))) attempt(() => rmdirSync(join(runFolder(), name)));
  attempt(() => rmdirSync(runFolder()));
}

/** What sweepTargets does in these hierarchies now, as steps to be printed. */
export function planSweepTargets(hierarchies: Hierarchy[]): Step[] {
  const empty = hierarchies.flatMap((hierarchy) =>
    oldTargets(hierarchy)
      .filter((directory) => attempt(() => processesIn(directory).length) === 0)
      .map((directory) => ({ hierarchy, directory })),
  );
  const origins = empty.map(({ hierarchy, directory }) =>
    join(runFolder(), basename(directory), originFile(hierarchy)),
  );
  const folders = new Set([...empty.map(({ directory }) => dirname(directory))]);
  const notes = namesIn(runFolder()).map((name) => join(runFolder(), name));
  const steps: Step[] = [
    ...empty.map(({ directory }) => ({ rmdir: directory, unlessUsed: true })),
    ...[...folders].map((folder) => ({ rmdir: folder, unlessUsed: true })),
    ...[...origins.filter((file) => existsSync(file)), ...staleNotes()].map((file) => ({ remove: file })),
    ...notes.filter((folder) => !isNew(folder)).map((folder) => ({ rmdir: folder, unlessUsed: true })),
  ];
  return steps.map((step, index) =>
    index > 0 ? step : { ...step, why: 'limit-*.ts: cgroups and notes of processes that have ended' },
  );
}
