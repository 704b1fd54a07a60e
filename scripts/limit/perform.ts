// Performs the plans of limit-*.ts, and reports the limits before and after.
import { existsSync, rmdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { processesIn } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { isBelow } from '../helpers/mounts.ts';
import { toJson } from '../helpers/output.ts';
import { attempt, groupBy, startTicks } from '../helpers/pids.ts';
import { perform, toShell } from '../helpers/steps.ts';
import { formatSize } from '../helpers/units.ts';
import { sweepTargets } from './notes.ts';
import { type Change, isBack } from './plan.ts';
import { amount, isSame, jsonName, limits, readLimit, type Setting, valueIn } from './table.ts';

/** A value for people: `100 MiB`, `1.5`, `none`. */
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

/** Prints the steps of the plan as shell, for --dry-run. Returns the exit code. */
export function printSteps(changes: Change[]): number {
  process.stdout.write(toShell(changes.flatMap(({ steps }) => steps)));
  return 0;
}

/**
 * Performs the changes of the target `text`. `causes` has the likely cause and the remedy for error codes of the kernel.
 * Returns remarks: effects that the user may not expect. Throws Failure.
 */
export async function carryOut(
  text: string,
  changes: Change[],
  causes: Record<string, string> = {},
): Promise<string[]> {
  for (const { refusal } of changes) if (refusal) throw new Failure(refusal);
  // these are read before the move, since systemd removes a scope without processes
  const lost = changes.flatMap((change) => {
    const places = [change.origin ?? '', ...change.elsewhere.map(({ directory }) => directory)];
    return change.toMove.length > 0 ? places.flatMap((place) => limitsFrom(change, place, false)) : [];
  });
  if (process.getuid?.() === 0) await sweepTargets(changes);
  for (const { steps, toMove, directory } of changes)
    await perform(steps).catch((error) => {
      // a new cgroup goes too, unless a process has been moved to it: EBUSY
      if (toMove.length > 0)
        for (const made of [directory, dirname(directory)]) attempt(() => rmdirSync(made));
      const cause = causes[error.cause?.code ?? ''];
      throw cause === undefined ? error : new Failure(`${error.message}: ${cause}`);
    });
  for (const { top, startTicks: started, directory, isReset } of changes) {
    // another process may have the PID by now
    if (top && startTicks(top.pid) !== started)
      throw new Failure(`process ${top.pid} ended meanwhile: see what ${directory} holds`);
    // v2 kills processes at once if --force sets a limit below what they use
    if (!isReset && !existsSync(directory))
      throw new Failure(`${text} has ended meanwhile, and with it its cgroup`);
  }
  const limited = changes.filter(({ isReset }) => !isReset);
  const tighter = limited.flatMap((change) => limitsFrom(change, dirname(change.directory), true));
  return [
    ...limited.flatMap((change) => systemdRemark(change, text)),
    ...(tighter.length > 0 ? [`still limited by ${[...new Set(tighter)].join(', ')}`] : []),
    ...(lost.length > 0 ? [`no longer limited by ${[...new Set(lost)].join(', ')}`] : []),
  ];
}

/**
 * The limits of a cgroup and of those above it, of the kinds that the change sets: all, or only those that are `tighter`
 * than the new values; without `tighter` up to the first one that the change's own cgroup is below. Each is text: `50 MiB of /sys/fs/…`.
 */
function limitsFrom(
  { version, mountPoint, settings, directory: own }: Change,
  directory: string,
  tighter: boolean,
): string[] {
  const found: string[] = [];
  for (const setting of settings.filter(({ limit }) => !['weight', 'oomGroup', 'reserve'].includes(limit)))
    for (
      let at = directory;
      at.startsWith(`${mountPoint}/`) && (tighter || !isBelow(own, at));
      at = dirname(at)
    )
      for (const other of readLimit(setting.limit, version, at).filter(isSame(setting))) {
        const below = tighter ? (amount(version, setting) ?? 0) : Infinity;
        if ((amount(version, other) ?? Infinity) < below) found.push(`${showLimit(version, other)} of ${at}`);
      }
  return found;
}

/** What to know if the cgroup is a unit of systemd, which tracks the processes of its units and writes their limits. */
function systemdRemark({ toMove, origin, inPlace, directory, version, controllers }: Change, text: string) {
  // a cgroup below that of a unit belongs to the unit
  const isMoved = toMove.length > 0 && origin !== undefined && !isBelow(directory, origin);
  const unit = basename((inPlace ? directory : isMoved && origin) || '');
  if (!/\.(service|scope)$/.test(unit) || !existsSync('/run/systemd/system')) return [];
  const instead = `systemctl set-property --runtime ${unit}`;
  return !inPlace && (version === 2 || controllers.includes('name=systemd'))
    ? [
        `systemd no longer counts ${text} as part of ${unit}, and does not stop it with ${unit}: ${instead} limits it there`,
      ]
    : [`systemd may restore its own value: ${instead} sets the limit in systemd`];
}

/**
 * Prints the limits before and after, how many processes there are, and in which cgroups: two lines of text, or JSON. A
 * script adds its `usage` to the text, and `fields` to the JSON.
 */
export function report(text: string, changes: Change[], json: boolean, usage = '', fields = {}): void {
  const values = changes.flatMap((change) =>
    change.settings.map((setting) => {
      const { version, directory, before } = change;
      const now = readLimit(setting.limit, version, directory);
      return { version, from: valueIn(before, setting, change), to: valueIn(now, setting, change) };
    }),
  );
  const places = changes.map(whereNow);
  const processes = Math.max(...places.map(({ count }) => count));
  if (json) {
    const object = {
      cgroups: changes.map(({ directory }) => directory),
      processes,
      ...fields,
      ...limitFields(values.map(({ version, to }) => [version, to])),
      before: limitFields(values.map(({ version, from }) => [version, from])),
    };
    console.log(toJson(object, 2));
    return;
  }
  const lines = values.flatMap(({ version, from, to }) => {
    const { label } = limits[from.limit];
    const device = from.device ? `${from.device} ` : '';
    return label ? `${device}${label} ${showLimit(version, from)} -> ${showLimit(version, to)}` : [];
  });
  const [first] = changes[0]?.names ?? [];
  if (lines.length === 0 && first) lines.push(`${limits[first].label} none -> none`);
  const where = [...groupBy(places, ({ how }) => how)].map(
    ([how, its]) => `${how} ${its.map(({ place }) => place).join(' and ')}`,
  );
  console.log(`${text}: ${[...lines, usage].filter(Boolean).join('; ')}
${processes} process${processes === 1 ? '' : 'es'} ${where.join(', ')}`);
}

/** Where the processes are after a change, how they got there, and how many they are. */
function whereNow(change: Change) {
  const { isReset, directory, origin, toMove, processes } = change;
  if (isReset && isBack(change)) return { how: 'back in', place: origin, count: processes };
  const count = attempt(() => processesIn(directory).length) ?? 0;
  return { how: toMove.length > 0 ? 'moved to' : 'in', place: directory, count };
}

/** Limits as --json prints them: numbers, or null for no limit. Those of a device are under its number. */
function limitFields(values: [version: 1 | 2, setting: Setting][]): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (const [version, setting] of values) {
    const number = amount(version, setting);
    const value = number === undefined ? setting.text : number;
    const json = jsonName(version, setting.limit);
    if (setting.device === undefined) object[json] = value;
    else object[setting.device] = { ...(object[setting.device] as object), [json]: value };
  }
  return object;
}
