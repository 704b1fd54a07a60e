// Performs the plans of limit-*.ts, and reports the limits before and after.
import { existsSync, rmdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { processesIn } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, groupBy, startTicks } from '../helpers/pids.ts';
import { perform, toShell } from '../helpers/steps.ts';
import { formatSize } from '../helpers/units.ts';
import { sweepTargets } from './notes.ts';
import { type Change, isBack } from './plan.ts';
import { amount, isSame, limits, readLimit, type Setting, valueIn } from './table.ts';

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

/** Prints the steps of the plan as shell, for --dry-run. Returns the exit code. */
export function printSteps(changes: Change[]): number {
  process.stdout.write(toShell(changes.flatMap(({ steps }) => steps)));
  return 0;
}

/**
 * Performs the plan for the target `text`. `causes`: likely cause and remedy for the kernel's error codes. Returns remarks:
 * effects that the user may not expect.
 */
export async function carryOut(
  text: string,
  changes: Change[],
  causes: Record<string, string> = {},
): Promise<string[]> {
  for (const { refusal } of changes) if (refusal) throw new Failure(refusal);
  // read before the move: systemd removes a scope that has no processes any more
  const lost = changes.flatMap((change) => {
    const places = [change.origin ?? '', ...change.elsewhere.map(({ directory }) => directory)];
    return change.toMove.length > 0 ? places.flatMap((place) => limitsFrom(change, place, false)) : [];
  });
  if (process.getuid?.() === 0) await sweepTargets(changes);
  for (const { steps, toMove, directory } of changes)
    await perform(steps).catch((error) => {
      // remove a new cgroup that no process has been moved to
      if (toMove.length > 0)
        for (const made of [directory, dirname(directory)]) attempt(() => rmdirSync(made));
      const cause = causes[error.cause?.code ?? ''];
      throw cause === undefined ? error : new Failure(`${error.message}: ${cause}`);
    });
  for (const { top, startTicks: started, directory, isReset } of changes) {
    // the PID may be another process's by now
    if (top && startTicks(top.pid) !== started)
      throw new Failure(`process ${top.pid} ended meanwhile: see what ${directory} holds`);
    // v2 kills at once what is above a limit that was forced upon it
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
 * The limits in a cgroup and in those above it, of the same kinds as those that are set: all, or only the `tighter` ones.
 * As text: `50 MiB of /sys/fs/…`.
 */
function limitsFrom(
  { version, mountPoint, settings }: Change,
  directory: string,
  tighter: boolean,
): string[] {
  const found: string[] = [];
  for (const setting of settings.filter(({ limit }) => !['weight', 'oomGroup', 'reserve'].includes(limit)))
    for (let at = directory; at.startsWith(`${mountPoint}/`); at = dirname(at))
      for (const other of readLimit(setting.limit, version, at).filter(isSame(setting))) {
        const below = tighter ? (amount(version, setting) ?? 0) : Infinity;
        if ((amount(version, other) ?? Infinity) < below) found.push(`${showLimit(version, other)} of ${at}`);
      }
  return found;
}

/** What systemd does if a unit of its own is changed: it tracks a unit's processes, and writes its limits. */
function systemdRemark({ toMove, origin, inPlace, directory, version, controllers }: Change, text: string) {
  const unit = basename((inPlace ? directory : toMove.length > 0 && origin) || '');
  if (!/\.(service|scope)$/.test(unit) || !existsSync('/run/systemd/system')) return [];
  const instead = `systemctl set-property --runtime ${unit}`;
  return !inPlace && (version === 2 || controllers.includes('name=systemd'))
    ? [
        `systemd no longer counts ${text} to ${unit} and will not end it with that: ${instead} limits it there`,
      ]
    : [`systemd may put its own value back: ${instead} makes it systemd's`];
}

/**
 * Prints the limits before and after, and where how many processes are: in two lines of text, or as JSON. `usage` is what
 * a script says beside that, and `fields` the same for JSON.
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
      ...toJson(values.map(({ version, to }) => [version, to])),
      before: toJson(values.map(({ version, from }) => [version, from])),
    };
    console.log(JSON.stringify(object, null, 2));
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

/** How the processes of a change have come where they are, and how many there are. */
function whereNow(change: Change) {
  const { isReset, directory, origin, toMove, processes } = change;
  if (isReset && isBack(change)) return { how: 'back in', place: origin, count: processes };
  const count = attempt(() => processesIn(directory).length) ?? 0;
  return { how: toMove.length > 0 ? 'moved to' : 'in', place: directory, count };
}

/** Limits as --json prints them: numbers, null for none; those of devices under the device's number. */
function toJson(values: [version: 1 | 2, setting: Setting][]): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (const [version, setting] of values) {
    const number = amount(version, setting);
    const value = number === undefined ? setting.text : number;
    const { json } = limits[setting.limit];
    if (setting.device === undefined) object[json] = value;
    else object[setting.device] = { ...(object[setting.device] as object), [json]: value };
  }
  return object;
}
