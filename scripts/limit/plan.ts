// The plans of limit-*.ts: the parts of a target, one for each hierarchy; the steps that limit it, and that undo this.
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { findHierarchy, type Hierarchy, parent, processesIn, readHierarchies } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { groupBy } from '../helpers/pids.ts';
import type { Step } from '../helpers/steps.ts';
import {
  forget,
  limitsFile,
  noteLimits,
  noteOrigin,
  originFile,
  readLimitNotes,
  sweepTargets,
} from './notes.ts';
import {
  controllersOf,
  hierarchyOf,
  type LimitName,
  type Limits,
  levelsAbove,
  limitFile,
  limits,
  namesOf,
  newLimits,
  noLimit,
  prepare,
  readLimit,
  type Setting,
  toSettings,
  valueBefore,
  type Write,
  writes,
} from './table.ts';
import { findTarget, type Target } from './target.ts';

/** The options that all of limit-*.ts take. */
export const commonOptions = { reset: {}, json: {}, dryRun: {} } as const;

/** One hierarchy's share of the work: v1 has a hierarchy for each controller, v2 one for all. */
export interface Part {
  hierarchy: Hierarchy;
  target: Target;
  /** the script's limits that are in this hierarchy */
  names: LimitName[];
  /** how they are now, or will be when the cgroup is new */
  before: Setting[];
  /** what the cgroup needs first: controllers enabled above it, a cpuset filled */
  prepare: Write[];
  /** what the limits were before limit-*.ts changed them, where there are notes of that */
  previous: Setting[];
  /** other scripts limit something in this cgroup too */
  isShared: boolean;
  /** v2: controllers that are enabled in the cgroup which the processes came from and are to go back to */
  enabled: string[];
  /** how many there are in the cgroup, or will be */
  processes: number;
}

/** A part, and what is to be done: `settings` undefined is --reset. */
export interface Change {
  part: Part;
  settings: Setting[] | undefined;
  steps: Step[];
}

/**
 * The parts of the target `text` that the limits `wanted` are set in; if `wanted` is undefined, for --reset, those with
 * limits to put back. `all`: the limits of the script. Throws Failure if there is none.
 */
export function findParts(
  text: string,
  all: LimitName[],
  wanted: Limits | undefined,
  dryRun: boolean,
): Part[] {
  const hierarchies = readHierarchies();
  const existing = all.filter((name) => {
    const hierarchy = findHierarchy(hierarchies, limits[name].controller);
    return hierarchy && limitFile(name, hierarchy.version);
  });
  // swap goes with memory, where the kernel counts it
  const asked = wanted ? namesOf(wanted).filter((name) => name !== 'swap') : existing;
  if (asked.length === 0) hierarchyOf(hierarchies, all[0] as LimitName);
  const byHierarchy = groupBy(asked, (name) => hierarchyOf(hierarchies, name));
  if (process.getuid?.() === 0 && !dryRun)
    for (const hierarchy of byHierarchy.keys()) sweepTargets(hierarchy);
  const parts = [...byHierarchy].map(([hierarchy, needed]) => {
    const names = existing.filter((name) => hierarchyOf(hierarchies, name) === hierarchy);
    return findPart(hierarchy, findTarget(hierarchy, text, wanted ? needed : []), names, needed);
  });
  const limited = wanted ? parts : parts.filter(isLimited);
  const [first] = parts;
  if (limited.length === 0 && first) {
    const { toMove, origin, directory } = first.target;
    throw new Failure(
      `${text} was not limited by this script: its cgroup is ${toMove.length > 0 ? origin : directory}`,
    );
  }
  return limited;
}

/** Whether there is something for --reset to do. */
function isLimited({ target, previous, before, isShared, hierarchy: { version } }: Part): boolean {
  if (target.toMove.length > 0) return false;
  if (target.inPlace) return previous.length > 0;
  return !isShared || before.some(({ limit, text }) => text !== noLimit(limit, version, target.directory));
}

/** Reads what a plan needs to know. `needed`: those of `names` whose files the cgroup has to have. */
function findPart(hierarchy: Hierarchy, target: Target, names: LimitName[], needed: LimitName[]): Part {
  const { version, mountPoint } = hierarchy;
  const { directory } = target;
  const isNew = target.toMove.length > 0;
  const isOurs = basename(dirname(directory)) === parent;
  const [base] = levelsAbove(directory);
  const has = (name: LimitName) => existsSync(join(directory, limitFile(name, version)?.files[0] ?? ''));
  const missing = isOurs && version === 2 ? controllersOf(needed.filter((name) => !has(name))) : [];
  const isComing = (name: LimitName) => isNew || missing.includes(limits[name].controller);
  const others = (Object.keys(limits) as LimitName[]).filter((name) => !names.includes(name));
  const controlFile = join(base, 'cgroup.subtree_control');
  const goesBack = version === 2 && !isNew && target.origin === base && base !== mountPoint;
  return {
    hierarchy,
    target,
    names,
    before: names.flatMap((name) =>
      isComing(name) ? newLimits(hierarchy, [name]) : readLimit(name, version, directory),
    ),
    prepare: isNew || version === 2 ? prepare(hierarchy, directory, missing) : [],
    previous: readLimitNotes(target, controllersOf(names)),
    isShared: !isNew && others.some((name) => hasLimit(name, version, directory)),
    enabled: goesBack ? readFileSync(controlFile, 'utf8').trim().split(' ').filter(Boolean) : [],
    processes: isNew ? target.toMove.length : processesIn(directory).length,
  };
}

const hasLimit = (name: LimitName, version: 1 | 2, directory: string) =>
  readLimit(name, version, directory).some(({ text }) => text !== noLimit(name, version, directory));

/** What is to be done to a part for `wanted`; undefined is --reset. */
export function planChange(part: Part, wanted: Limits | undefined): Change {
  if (!wanted) return { part, settings: undefined, steps: planReset(part) };
  const settings = toSettings(wanted, part.names, part.hierarchy.version, part.before);
  return { part, settings, steps: planLimit(part, settings) };
}

/** The steps that limit a target. Pure. */
export function planLimit(part: Part, settings: Setting[]): Step[] {
  const { hierarchy, target, before, previous } = part;
  const { directory, toMove, origin } = target;
  const cgroup = { version: hierarchy.version, directory };
  const values = [...part.prepare, ...writes(settings, cgroup, before)];
  if (toMove.length === 0 || origin === undefined) {
    const old = settings.map((setting) => valueBefore(setting, cgroup, before));
    return [...(target.inPlace ? noteLimits(target, old, previous) : []), ...values];
  }
  const members = toMove.map(({ pid }) => pid);
  const tops = toMove.filter(({ pid, ppid }) => pid === target.top?.pid || !members.includes(ppid));
  const moves: Step[] = [
    ...noteOrigin(hierarchy, target),
    ...tops.map(({ pid }, index) => ({
      ...(index === 0 && { why: 'the process and its descendants; once more, for those born meanwhile' }),
      moveTree: pid,
      members: index === 0 ? members : [pid],
      to: directory,
    })),
  ];
  // a v2 cgroup that enables controllers can't have processes of its own: those of a delegated one go first
  const movesFirst = hierarchy.version === 2 && origin === levelsAbove(directory)[0];
  const make: Step = { why: 'a cgroup of its own', mkdir: directory };
  return movesFirst ? [make, ...moves, ...values] : [make, ...values, ...moves];
}

/** The steps that put back what the limits of a target were, or lift them. Pure. */
export function planReset({ hierarchy, target, before, previous, isShared, enabled }: Part): Step[] {
  const { directory, origin } = target;
  const { version } = hierarchy;
  if (origin && !isShared) {
    // v2 takes no processes back into a cgroup that enables controllers: a delegated one no longer does
    const write = enabled.map((word) => `-${word}`).join(' ');
    const levels = write === '' ? [] : levelsAbove(directory).reverse();
    return [
      ...levels.map((level) => ({ write, to: join(level, 'cgroup.subtree_control') })),
      ...target.elsewhere.map(({ pid, directory }) => ({ moveTree: pid, members: [pid], to: directory })),
      { why: 'back to where they came from', moveAll: directory, to: origin },
      { rmdir: directory },
      { rmdir: dirname(directory), unlessUsed: true },
      ...forget(target, [originFile(hierarchy)]),
    ];
  }
  const lifted = before.flatMap((setting) => {
    const text = noLimit(setting.limit, version, directory);
    return text === setting.text ? [] : [{ ...setting, text }];
  });
  const noted = controllersOf(previous.map(({ limit }) => limit)).map(limitsFile);
  return [
    ...writes(target.inPlace ? previous : lifted, { version, directory }, before),
    ...(target.inPlace ? forget(target, noted) : []),
  ];
}
