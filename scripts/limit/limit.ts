// What all limit-*.ts have in common: find the target's cgroups, plan, limit or --reset, tell what it was and is now.
import { accessSync, constants, existsSync, readFileSync, rmdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  amount,
  countsSwap,
  findHierarchy,
  type Hierarchy,
  type LimitName,
  limitFile,
  limits,
  noLimit,
  parent,
  processesIn,
  readHierarchies,
  readLimit,
  type Setting,
  settingWrites,
} from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, startTicks } from '../helpers/pids.ts';
import { perform, type Step, toShell } from '../helpers/steps.ts';
import {
  cgroupNote,
  cgroupNoteName,
  findTarget,
  limitNote,
  notes,
  previousLimits,
  sweepTargets,
  type Target,
} from '../helpers/target.ts';
import { formatSize } from '../helpers/units.ts';

/** The options that all of them take. */
export const commonOptions = { reset: {}, json: {}, dryRun: {} } as const;

/** One hierarchy's share of the work: v1 has a hierarchy for each controller, v2 one for all. */
export interface Part {
  hierarchy: Hierarchy;
  target: Target;
  /** how the limits are now, or will be when the cgroup is new */
  before: Setting[];
  /** v2: controllers that are to be switched on first, in the cgroups above */
  enable: string[];
  /** v1: what a new cpuset needs before it takes a process, cpuset(7) */
  fill: [file: string, text: string][];
  /** what the limits were before this project changed them, where there are notes of that */
  previous: Setting[];
  /** controllers that are limited in this cgroup too, by others of these scripts */
  others: string[];
  /** v2: controllers that the cgroup hands on which the processes came from and are to go back to */
  handedOn: string[];
  /** how many there are in the cgroup, or will be */
  processes: number;
}

/** What a script wants, and what it has to say of itself. */
export interface Limiter {
  script: string;
  /** all limits of the script: those that --reset lifts */
  all: LimitName[];
  /** those that are asked for now */
  asked: LimitName[];
  /** the new values of those that are in this part, given how they are; in the order in which they are told */
  wanted: (part: Part) => Setting[];
  /** looks at the target first, before --reset too; throws Failure where it is better not limited so */
  check?: (part: Part) => void;
  /** limits that are told of by `usage` */
  quiet?: LimitName[];
  /** what else is to be told, behind the values; as text and for --json */
  usage?: (part: Part, wanted: Setting[]) => { text: string; json: Record<string, unknown> };
  /** warnings, once it is done */
  remarks?: (part: Part, wanted: Setting[]) => string[];
  /** the likely cause, and what to do, of an error of the kernel's */
  explain?: (code: string, part: Part) => string | undefined;
}

/** A word for a value: `100 MiB`, `1.5`, `none`. */
export function showLimit(version: 1 | 2, setting: Setting): string {
  const { unit } = limits[setting.limit];
  const number = amount(version, setting);
  if (setting.limit === 'oomGroup') return number === 1 ? 'yes' : 'no';
  if (number === undefined) return setting.text || 'any';
  if (number === null) return 'none';
  if (unit === 'bytes') return formatSize(number);
  if (unit === 'bytes/s') return `${formatSize(number)}/s`;
  const period = Number(setting.text.split(' ')[1] ?? 100_000) / 1000;
  return `${Math.round(number * 1000) / 1000}${period === 100 ? '' : ` by ${period} ms`}`;
}

const isSame = (one: Setting) => (other: Setting) => one.limit === other.limit && one.device === other.device;

/** How a limit was that is to be set: what was read, or none. */
const valueBefore = ({ hierarchy, target, before }: Part, setting: Setting): Setting =>
  before.find(isSame(setting)) ?? {
    ...setting,
    text: noLimit(setting.limit, hierarchy.version, target.directory),
  };

/**
 * The steps that set limits, in an order that the kernel takes and that kills nobody between: v1's sum of memory and
 * swap is never less than the memory in it, so it is raised before that and lowered after; so is v2's swap.
 */
function planWrites(part: Part, wanted: Setting[]): Step[] {
  const { hierarchy, target } = part;
  const number = (setting: Setting) => amount(hierarchy.version, setting) ?? Infinity;
  const raised = wanted.filter(
    (setting) => setting.limit === 'swap' && number(setting) > number(valueBefore(part, setting)),
  );
  const ordered = [...raised, ...wanted.filter((setting) => !raised.includes(setting))];
  return ordered
    .flatMap((setting) =>
      settingWrites(target.directory, hierarchy.version, setting, valueBefore(part, setting).text),
    )
    .map(([to, write]) => ({ write, to }));
}

/** The cgroups in which controllers have to be switched on for one of ours: its parent, and the one above that. */
const levelsAbove = (directory: string) => [dirname(dirname(directory)), dirname(directory)];

/** The steps that limit a target. Pure. */
export function planLimit(part: Part, wanted: Setting[]): Step[] {
  const { hierarchy, target, enable, fill, previous } = part;
  const { directory, top, toMove, origin, borrowed } = target;
  const folder = notes(target);
  const moves = toMove.length > 0 && origin !== undefined;
  const steps: Step[] = moves ? [{ why: 'a cgroup of its own', mkdir: directory }] : [];
  const switches = levelsAbove(directory).flatMap((level) =>
    enable.length === 0
      ? []
      : [{ write: enable.map((word) => `+${word}`).join(' '), to: join(level, 'cgroup.subtree_control') }],
  );
  const values = [...fill.map(([to, write]) => ({ write, to })), ...planWrites(part, wanted)];
  // a v2 cgroup that hands on controllers can't have processes of its own: those of a delegated one go first
  const movesFirst = moves && origin === levelsAbove(directory)[0] && hierarchy.version === 2;
  if (!movesFirst) steps.push(...switches);
  if (borrowed && top) {
    const controllers = [...new Set(wanted.map(({ limit }) => limits[limit].controller))];
    for (const controller of controllers) {
      const isOf = ({ limit }: Setting) => limits[limit].controller === controller;
      const known = previous.filter(isOf);
      const changed = wanted.filter((setting) => isOf(setting) && !known.some(isSame(setting)));
      if (changed.length === 0) continue;
      const old = [...known, ...changed.map((setting) => valueBefore(part, setting))];
      steps.push(
        { why: 'for --reset: since when the process runs, and what its limits were', mkdir: folder },
        { write: limitNote(target, old), to: join(folder, `${controller}.limit`) },
      );
    }
  }
  if (!movesFirst) steps.push(...values);
  if (moves) {
    const members = new Set(toMove.map(({ pid }) => pid));
    const tops = toMove.filter(({ pid, ppid }) => pid === top?.pid || !members.has(ppid));
    steps.push(
      { why: 'for --reset: where they come from', mkdir: folder },
      { write: cgroupNote(target), to: join(folder, cgroupNoteName(hierarchy)) },
      ...tops.map(({ pid }, index) => ({
        ...(index === 0 && { why: 'the process and its descendants; once more, for those born meanwhile' }),
        moveTree: pid,
        members: index === 0 ? toMove.map((one) => one.pid) : [pid],
        to: directory,
      })),
    );
  }
  if (movesFirst) steps.push(...switches, ...values);
  return steps;
}

/** The steps that lift the limits `all` of a target, or put back what they were. Pure. */
export function planReset(part: Part, all: LimitName[]): Step[] {
  const { hierarchy, target, before, previous, others } = part;
  const { directory, origin, elsewhere, borrowed } = target;
  const { version } = hierarchy;
  const folder = notes(target);
  const forget: Step[] = [
    { rmdir: folder, unlessUsed: true },
    { rmdir: dirname(folder), unlessUsed: true },
  ];
  if (origin && others.length === 0) {
    // v2 takes no processes back into a cgroup that hands on controllers: a delegated one no longer does
    const words = part.handedOn.map((word) => `-${word}`).join(' ');
    const levels = words === '' ? [] : levelsAbove(directory).reverse();
    return [
      ...levels.map((level) => ({ write: words, to: join(level, 'cgroup.subtree_control') })),
      ...elsewhere.map((place) => ({ moveTree: place.pid, members: [place.pid], to: place.directory })),
      { why: 'back to where they came from', moveAll: directory, to: origin },
      { rmdir: directory },
      { rmdir: dirname(directory), unlessUsed: true },
      { remove: join(folder, cgroupNoteName(hierarchy)) },
      ...forget,
    ];
  }
  const lifted = borrowed
    ? previous
    : before.flatMap((setting) => {
        const text = noLimit(setting.limit, version, directory);
        return text === setting.text ? [] : [{ ...setting, text }];
      });
  const controllers = [...new Set(all.map((limit) => limits[limit].controller))];
  const isNoted = (controller: string) =>
    previous.some(({ limit }) => limits[limit].controller === controller);
  return [
    ...planWrites(part, lifted),
    ...(borrowed
      ? [...controllers.filter(isNoted).map((word) => ({ remove: join(folder, `${word}.limit`) })), ...forget]
      : []),
  ];
}

/** The limits among `names` that a cgroup has. */
export function limitsOf(version: 1 | 2, directory: string, names: LimitName[]): Setting[] {
  return names.flatMap((name) =>
    readLimit(name, version, directory).filter(({ text }) => text !== noLimit(name, version, directory)),
  );
}

const allLimits = Object.keys(limits) as LimitName[];

/** The hierarchy of a limit. Throws Failure where this host does not have the limit. */
function hierarchyOf(hierarchies: Hierarchy[], limit: LimitName): Hierarchy {
  const { controller } = limits[limit];
  const hierarchy = findHierarchy(hierarchies, controller);
  if (!hierarchy)
    throw new Failure(`this host has no ${controller} controller in any cgroup hierarchy, cgroups(7)`);
  if (!limitFile(limit, hierarchy.version))
    throw new Failure(
      `cgroup v1 has nothing like ${limitFile(limit, 2)?.files[0]}, and this host has the ${controller} controller there: boot it with systemd.unified_cgroup_hierarchy=1`,
    );
  return hierarchy;
}

/**
 * Reads what a plan needs to know of each hierarchy that `names` are in. To have them set a target's own cgroup must
 * have all their files; for --reset it is its own with those that it has.
 */
export function findParts(
  hierarchies: Hierarchy[],
  text: string,
  names: LimitName[],
  all: LimitName[],
  reset: boolean,
): Part[] {
  const found = new Map<Hierarchy, LimitName[]>();
  for (const name of names) {
    const hierarchy = hierarchyOf(hierarchies, name);
    found.set(hierarchy, [...(found.get(hierarchy) ?? []), name]);
  }
  return [...found].map(([hierarchy, ofPart]) => {
    const { version, mountPoint } = hierarchy;
    const inPart = all.filter((name) => findHierarchy(hierarchies, limits[name].controller) === hierarchy);
    const controllers = [...new Set(ofPart.map((name) => limits[name].controller))];
    const files = ofPart.map((name) => limitFile(name, version)?.files[0] as string);
    const target = findTarget(hierarchy, text, reset ? [] : files);
    const { directory, toMove, borrowed } = target;
    const isNew = toMove.length > 0;
    const ours = levelsAbove(directory)[0] as string;
    const isMissing = (word: string) =>
      ofPart.some(
        (name, index) => limits[name].controller === word && !existsSync(join(directory, files[index] ?? '')),
      );
    const cpuset = version === 1 && isNew && hierarchy.controllers.includes('cpuset');
    const enable = version === 2 && !borrowed ? controllers.filter((word) => isNew || isMissing(word)) : [];
    return {
      hierarchy,
      target,
      before: inPart.flatMap((limit) =>
        isNew || enable.includes(limits[limit].controller)
          ? foreseen(hierarchy, target, limit)
          : readLimit(limit, version, directory),
      ),
      enable,
      fill: cpuset
        ? [join(ours, parent), directory].flatMap((level) =>
            ['cpuset.cpus', 'cpuset.mems'].map((file): [string, string] => [
              join(level, file),
              readFileSync(join(ours, file), 'utf8').trim(),
            ]),
          )
        : [],
      previous: controllers.flatMap((word) => previousLimits(target, word) ?? []),
      others: isNew
        ? []
        : limitsOf(
            version,
            directory,
            allLimits.filter((name) => !all.includes(name)),
          ).map(({ limit }) => limits[limit].controller),
      handedOn:
        version === 2 && !isNew && target.origin === ours && ours !== mountPoint
          ? readFileSync(join(ours, 'cgroup.subtree_control'), 'utf8').trim().split(' ').filter(Boolean)
          : [],
      processes: isNew ? toMove.length : processesIn(directory).length,
    };
  });
}

/** What a limit will be in a cgroup that is still to be made. None where there will be no such limit. */
function foreseen({ version, mountPoint }: Hierarchy, target: Target, limit: LimitName): Setting[] {
  const form = limitFile(limit, version);
  if (!form || form.device !== undefined) return [];
  // not every kernel counts swap; v2's root has no limits at all, so there it is not to be seen
  const swap = join(target.origin ?? '', form.files[0]);
  if (limit === 'swap' && !existsSync(swap) && !countsSwap({ version, mountPoint })) return [];
  // cpuset of v1: the cgroup above it is filled from the root
  const text = form.none ?? attempt(() => readFileSync(join(mountPoint, form.files[0]), 'utf8').trim()) ?? '';
  return [{ limit, text }];
}

/** Limits of a cgroup and of those above it that bind tighter than `setting`, for people: `50 MiB of /sys/fs/…`. */
function limitsFrom(part: Part, directory: string, setting: Setting, below = Infinity): string[] {
  const { version, mountPoint } = part.hierarchy;
  const found: string[] = [];
  if (['weight', 'oomGroup', 'reserve'].includes(setting.limit)) return found;
  for (let at = directory; at.startsWith(`${mountPoint}/`); at = dirname(at))
    for (const other of readLimit(setting.limit, version, at)) {
      const number = other.device === setting.device ? amount(version, other) : null;
      if (typeof number === 'number' && number < below) found.push(`${showLimit(version, other)} of ${at}`);
    }
  return found;
}

/** What systemd thinks of a change to what is its own: it counts a unit's processes, and sets a unit's limits. */
function systemdRemark({ target, hierarchy }: Part, text: string): string[] {
  const from = target.toMove.length > 0 ? target.origin : target.borrowed ? target.directory : undefined;
  const unit = basename(from ?? '');
  if (!/\.(service|scope)$/.test(unit) || !existsSync('/run/systemd/system')) return [];
  const instead = `systemctl set-property --runtime ${unit}`;
  return target.toMove.length > 0 &&
    (hierarchy.version === 2 || hierarchy.controllers.includes('name=systemd'))
    ? [
        `systemd no longer counts ${text} to ${unit} and will not end it with that: ${instead} limits it there`,
      ]
    : [`systemd may put its own value back: ${instead} makes it systemd's`];
}

/** Whether this user may do it: root; others in a cgroup that was delegated to them, cgroups(7). */
function checkRights(part: Part, text: string): void {
  if (process.getuid?.() === 0) return;
  const { target, enable } = part;
  const [ours = ''] = levelsAbove(target.directory);
  const place = target.toMove.length > 0 ? ours : target.directory;
  if (!attempt(() => accessSync(place, constants.W_OK) ?? true))
    throw new Failure(
      `needs root, or a cgroup that is delegated to you: sudo, or start ${text} with systemd-run --user --scope -p Delegate=yes`,
    );
  const offered =
    attempt(() => readFileSync(join(ours, 'cgroup.controllers'), 'utf8').trim().split(' ')) ?? [];
  const missing = enable.filter((word) => !offered.includes(word));
  if (missing.length > 0)
    throw new Failure(
      `${ours} is delegated to you without ${missing.join(', ')}: as root, systemctl edit user@.service with [Service] Delegate=cpu cpuset io memory pids`,
    );
}

/** Limits a target, or with `reset` lifts its limits; tells what they were and are. Returns the exit code. */
export async function limitTarget(
  text: string,
  { reset, json, dryRun }: { reset: boolean; json: boolean; dryRun: boolean },
  limiter: Limiter,
): Promise<number> {
  const { script, all, asked } = limiter;
  const hierarchies = readHierarchies();
  const names = reset
    ? all.filter((name) => {
        const version = findHierarchy(hierarchies, limits[name].controller)?.version;
        return version && limitFile(name, version);
      })
    : asked;
  if (names.length === 0) hierarchyOf(hierarchies, all[0] as LimitName);
  if (process.getuid?.() === 0 && !dryRun)
    for (const hierarchy of new Set(names.map((name) => hierarchyOf(hierarchies, name))))
      sweepTargets(hierarchy);

  let parts = findParts(hierarchies, text, names, all, reset);
  if (reset) {
    const isLimited = ({ target, previous, before, others, hierarchy }: Part) =>
      target.toMove.length === 0 &&
      (target.borrowed
        ? previous.length > 0
        : others.length === 0 ||
          before.some(
            (setting) => setting.text !== noLimit(setting.limit, hierarchy.version, target.directory),
          ));
    const [first] = parts;
    parts = parts.filter(isLimited);
    if (parts.length === 0 && first)
      throw new Failure(
        `${text} was not limited by this script: its cgroup is ${first.target.toMove.length > 0 ? first.target.origin : first.target.directory}`,
      );
  }
  const work = parts.map((part) => ({ part, wanted: reset ? [] : limiter.wanted(part) }));
  for (const { part } of work) limiter.check?.(part);
  const steps = ({ part, wanted }: (typeof work)[number]) =>
    reset ? planReset(part, all) : planLimit(part, wanted);
  if (dryRun) {
    process.stdout.write(toShell(work.flatMap(steps)));
    return 0;
  }
  for (const { part } of work) checkRights(part, text);

  const lost = work.flatMap(({ part, wanted }) => {
    const { toMove, origin, elsewhere } = part.target;
    const places = toMove.length > 0 ? [origin ?? '', ...elsewhere.map(({ directory }) => directory)] : [];
    return places.flatMap((place) => wanted.flatMap((setting) => limitsFrom(part, place, setting)));
  });
  for (const one of work)
    await perform(steps(one)).catch((error) => {
      // a cgroup that nobody has been moved to yet goes again
      const { toMove, directory } = one.part.target;
      if (toMove.length > 0)
        for (const made of [directory, dirname(directory)]) attempt(() => rmdirSync(made));
      const why = limiter.explain?.(error.cause?.code ?? '', one.part);
      throw why === undefined ? error : new Failure(`${error.message}: ${why}`);
    });

  for (const { part } of work) checkEnd(part, text, reset);
  const results = work.map(({ part, wanted }) => result(part, wanted, limiter, reset));
  console.log(json ? asJson(results) : asText(text, results, all[0] as LimitName));
  const remarks = work.flatMap(({ part, wanted }) => [
    ...(limiter.remarks?.(part, wanted) ?? []),
    ...(reset ? [] : systemdRemark(part, text)),
    ...wanted.flatMap((setting) => {
      const number = amount(part.hierarchy.version, setting);
      const above = dirname(part.target.directory);
      const tighter = number == null ? [] : limitsFrom(part, above, setting, number);
      return tighter.length > 0 ? [`still limited by ${tighter.join(', ')}`] : [];
    }),
  ]);
  if (lost.length > 0) remarks.push(`no longer limited by ${[...new Set(lost)].join(', ')}`);
  for (const remark of new Set(remarks)) console.error(`${script}: ${remark}`);
  return 0;
}

type Result = ReturnType<typeof result>;

/** Two lines for people: what was and is, and how many processes are where. `first` is told of where nothing was. */
function asText(text: string, results: Result[], first: LimitName): string {
  const lines = results.flatMap((one) => one.lines);
  if (lines.length === 0) lines.push(`${limits[first].label} none -> none`);
  const processes = Math.max(...results.map((one) => one.processes));
  const where = [...new Set(results.map(({ how }) => how))].map((how) => {
    const places = results.filter((one) => one.how === how).map(({ place }) => place);
    return `${how} ${places.join(' and ')}`;
  });
  return `${text}: ${[...lines, ...results.flatMap(({ tail }) => tail || [])].join('; ')}
${processes} process${processes === 1 ? '' : 'es'} ${where.join(', ')}`;
}

function asJson(results: Result[]): string {
  const merged = (values: (object | undefined)[]) => Object.assign({}, ...values) as object;
  const object = {
    cgroups: results.map(({ directory }) => directory),
    processes: Math.max(...results.map(({ processes }) => processes)),
    ...merged(results.map(({ json }) => json)),
    ...merged(results.map(({ after }) => after)),
    before: merged(results.map(({ before }) => before)),
  };
  return JSON.stringify(object, null, 2);
}

/** Throws Failure where the target ended while it was limited: its PID may be another process's by now. */
function checkEnd({ target }: Part, text: string, reset: boolean): void {
  const { top, directory } = target;
  if (top && startTicks(top.pid) !== target.startTicks)
    throw new Failure(`process ${top.pid} ended meanwhile: see what ${directory} holds`);
  // v2 kills at once what is above a limit that was forced upon it
  if (!reset && !existsSync(directory))
    throw new Failure(`${text} has ended meanwhile, and with it its cgroup`);
}

/** What became of a part. */
function result(part: Part, wanted: Setting[], { usage, quiet = [] }: Limiter, reset: boolean) {
  const { hierarchy, target, before, others } = part;
  const { version } = hierarchy;
  const { directory, toMove, origin } = target;
  const isBack = reset && origin !== undefined && others.length === 0;
  const none = (setting: Setting): Setting => ({
    ...setting,
    text: noLimit(setting.limit, version, directory),
  });
  const now = (setting: Setting) =>
    (isBack ? undefined : readLimit(setting.limit, version, directory).find(isSame(setting))) ??
    none(setting);
  const told = reset ? before.filter((setting) => setting.text !== none(setting).text) : wanted;
  const pairs = told.map((setting) => [valueBefore(part, setting), now(setting)] as const);
  const extra = usage?.(part, wanted);
  return {
    lines: pairs
      .filter(([{ limit }]) => !quiet.includes(limit))
      .map(([from, to]) => {
        const device = from.device ? `${from.device} ` : '';
        return `${device}${limits[from.limit].label} ${showLimit(version, from)} -> ${showLimit(version, to)}`;
      }),
    directory,
    tail: extra?.text,
    json: extra?.json,
    before: toJson(
      version,
      pairs.map(([from]) => from),
    ),
    after: toJson(
      version,
      pairs.map(([, to]) => to),
    ),
    processes: isBack ? part.processes : (attempt(() => processesIn(directory).length) ?? 0),
    how: isBack ? 'back in' : toMove.length > 0 ? 'moved to' : 'in',
    place: isBack ? origin : directory,
  };
}

/** Limits as --json prints them: numbers, null for none; those of devices under the device's number. */
function toJson(version: 1 | 2, settings: Setting[]): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const setting of settings) {
    const number = amount(version, setting);
    const value = number === undefined ? setting.text : number;
    const { json } = limits[setting.limit];
    if (setting.device === undefined) values[json] = value;
    else values[setting.device] = { ...(values[setting.device] as object), [json]: value };
  }
  return values;
}
