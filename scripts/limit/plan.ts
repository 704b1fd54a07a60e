// The plans of limit-*.ts: the facts about a target in each hierarchy, the steps that limit it, and those that undo this.
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { cgroupsBelow, type Hierarchy, processesIn, readHierarchies } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, groupBy } from '../helpers/pids.ts';
import type { Step } from '../helpers/steps.ts';
import { forget, noteLimits, noteOrigin, readLimitNotes } from './notes.ts';
import {
  controllersOf,
  hierarchyOf,
  isSet,
  type LimitName,
  type Limits,
  levelsAbove,
  limitNames,
  limitPath,
  limits,
  namesOf,
  newLimits,
  prepare,
  readLimit,
  type Setting,
  toSettings,
  valueIn,
  type Write,
  writes,
} from './table.ts';
import { findTarget, type Target } from './target.ts';

/** The options that all of limit-*.ts take. */
export const commonOptions = { reset: {}, json: {}, dryRun: {} } as const;

/** A target, and what a plan needs to know of it: v1 has a hierarchy for each controller, v2 one for all. */
export interface Part extends Target {
  /** the limits to set, or for --reset all limits of the script, as far as they are in this hierarchy */
  names: LimitName[];
  /** their values now, or those that a new cgroup has */
  before: Setting[];
  /** what is written before the limits: controllers are enabled above the cgroup, a cpuset is filled */
  prepare: Write[];
  /** the values before limit-*.ts changed them, as far as they are noted */
  previous: Setting[];
  /** the cgroup has other limits than these too */
  isShared: boolean;
  /** v2: controllers that are enabled in the cgroup to which the processes go back */
  enabled: string[];
  /** how many processes are in the cgroup */
  processes: number;
  /** the cgroups in it, inner ones first; some may be of limited parts of the tree */
  below: string[];
}

/** A part, and what is done to it. */
export interface Change extends Part {
  /** the new values of the limits */
  settings: Setting[];
  isReset: boolean;
  steps: Step[];
}

/**
 * Plans the limits `wanted` for the target `text`, in each hierarchy that has some of them. undefined is --reset: `all`
 * limits of the script are planned, where there is something to reset. Throws Failure if there is nothing to do.
 */
export function planChanges(text: string, all: LimitName[], wanted: Limits | undefined): Change[] {
  const hierarchies = readHierarchies();
  const existing = all.filter((name) => attempt(() => hierarchyOf(hierarchies, name)));
  const names = wanted ? namesOf(wanted) : existing.length > 0 ? existing : all;
  const byHierarchy = groupBy(names, (name) => hierarchyOf(hierarchies, name));
  const parts = [...byHierarchy].map(([hierarchy, its]) => findPart(hierarchy, text, its, !wanted));
  if (!wanted) for (const part of parts) refuseLimitedParts(part, text);
  const changes = parts.map((part) => planChange(part, wanted)).filter(({ steps }) => steps.length > 0);
  const [first] = parts;
  if (changes.length === 0 && first)
    throw new Failure(
      `${text} was not limited by this script: its cgroup is ${first.toMove.length > 0 ? first.origin : first.directory}`,
    );
  return changes;
}

/** Throws Failure if --reset would move processes back that have limits of their own in there. */
function refuseLimitedParts(part: Part, text: string): void {
  const limited = part.inPlace || part.toMove.length > 0 || !isBack(part) ? [] : part.below;
  for (const directory of limited) {
    const [, pid] = /\/barehand\/pid-(\d+)$/.exec(directory) ?? [];
    if (pid && processesIn(directory).length > 0)
      throw new Failure(`${pid}, a part of ${text}, has limits of its own: first --reset ${pid}`);
  }
}

/** Reads the facts that a plan needs. */
function findPart(hierarchy: Hierarchy, text: string, names: LimitName[], isReset: boolean): Part {
  // the cgroup must have the files of these; the file for swap is there if the kernel accounts for it
  const needed = isReset ? [] : names.filter((name) => name !== 'swap');
  const target = findTarget(hierarchy, text, needed);
  const { version, mountPoint, directory, origin } = target;
  const isNew = target.toMove.length > 0;
  const missing = controllersOf(needed.filter((name) => isNew || !existsSync(limitPath(name, target))));
  const read = (name: LimitName) => readLimit(name, version, directory);
  const isOther = (name: LimitName) => !names.includes(name) && read(name).some((one) => isSet(one, target));
  const [base] = levelsAbove(directory);
  const goesBack = version === 2 && origin === base && base !== mountPoint;
  const control = goesBack ? readFileSync(join(base, 'cgroup.subtree_control'), 'utf8') : '';
  return {
    ...target,
    names,
    before: names.flatMap((name) =>
      missing.includes(limits[name].controller) ? newLimits(hierarchy, [name]) : read(name),
    ),
    prepare: isNew || version === 2 ? prepare(hierarchy, directory, missing) : [],
    previous: readLimitNotes(target, controllersOf(names)),
    isShared: limitNames.some(isOther),
    enabled: control.trim().split(' ').filter(Boolean),
    processes: attempt(() => processesIn(directory).length) ?? 0,
    below: cgroupsBelow(directory).reverse(),
  };
}

/** Plans the limits `wanted` for a part; undefined is --reset. Pure. */
export function planChange(part: Part, wanted: Limits | undefined): Change {
  if (!wanted) return { ...part, settings: settingsBefore(part), isReset: true, steps: planReset(part) };
  const settings = toSettings(wanted, part.names, part.version, part.before);
  return { ...part, settings, isReset: false, steps: planLimit(part, settings) };
}

/** The steps that limit a target. Pure. */
export function planLimit(part: Part, settings: Setting[]): Step[] {
  const { version, directory, top, toMove, origin, before } = part;
  // v1 refuses this one after the mkdir
  const first = part.prepare.filter(({ to }) => basename(to) === 'memory.use_hierarchy');
  const values = [...part.prepare.filter((one) => !first.includes(one)), ...writes(settings, part, before)];
  if (toMove.length === 0) {
    const old = settings.map((setting) => valueIn(before, setting, part));
    return [...(part.inPlace ? noteLimits(part, old, part.previous) : []), ...values];
  }
  const members = toMove.map(({ pid }) => pid);
  const tops = toMove.filter(({ pid, ppid }) => pid === top?.pid || !members.includes(ppid));
  const moves: Step[] = [
    ...noteOrigin(part),
    ...tops.map(({ pid }, index) => ({
      ...(index === 0 && { why: 'the process and its descendants; once more, for those born meanwhile' }),
      moveTree: pid,
      members: index === 0 ? members : [pid],
      to: directory,
    })),
  ];
  // a v2 cgroup that enables controllers can't have processes of its own: a delegated one is emptied first
  const movesFirst = version === 2 && origin === levelsAbove(directory)[0];
  const make: Step = { why: 'a cgroup of its own', mkdir: directory };
  return movesFirst ? [make, ...moves, ...values] : [...first, make, ...values, ...moves];
}

/** Whether --reset moves the processes back to where they came from: no other limit is left. */
export const isBack = ({ origin, isShared }: Part) => origin !== undefined && !isShared;

/** The values to which --reset sets the limits of a part. */
function settingsBefore(part: Part): Setting[] {
  if (part.inPlace) return part.previous;
  return part.before.filter((one) => isSet(one, part)).map((one) => valueIn([], one, part));
}

/** The steps that restore the previous limits of a target, or lift them; none if it has no limit of this script. Pure. */
export function planReset(part: Part): Step[] {
  const { directory, inPlace, origin, elsewhere, enabled, before, below } = part;
  if (part.toMove.length > 0) return [];
  if (!isBack(part)) {
    const settings = settingsBefore(part);
    const steps = writes(settings, part, before);
    return inPlace && settings.length > 0 ? [...steps, ...forget(part, settings)] : steps;
  }
  // v2 moves no process into a cgroup that enables controllers: they are disabled in a delegated one
  const write = enabled.map((word) => `-${word}`).join(' ');
  const levels = write === '' ? [] : levelsAbove(directory).reverse();
  return [
    ...levels.map((level) => ({ write, to: join(level, 'cgroup.subtree_control') })),
    ...elsewhere.map(({ pid, directory }) => ({ moveTree: pid, members: [pid], to: directory })),
    { why: 'back to where they came from', moveAll: directory, to: origin as string },
    ...below.map((rmdir) => ({ rmdir })),
    { rmdir: directory },
    { rmdir: dirname(directory), unlessUsed: true },
    ...forget(part, []),
  ];
}
