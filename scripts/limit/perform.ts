// Performs the plans of limit-*.ts, and reports the limits before and after.
import { existsSync, rmdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { processesIn } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, groupBy, startTicks } from '../helpers/pids.ts';
import { perform } from '../helpers/steps.ts';
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

/**
 * Performs the plan for the target `text`. `causes`: likely cause and remedy for the kernel's error codes. Returns remarks:
 * effects that the user may not expect.
 */
export async function carryOut(
  text: string,
  changes: Change[],
  causes: Record<string, string | undefined> = {},
): Promise<string[]> {
  for (const { refusal } of changes) if (refusal) throw new Failure(refusal);
  // systemd removes a scope that has no processes any more, and with it the limits that are read here
  const lost = new Set(changes.flatMap(limitsLeft));
  if (process.getuid?.() === 0) await sweepTargets(changes);
  for (const { steps, toMove, directory } of changes)
    await perform(steps).catch((error) => {
      // remove a new cgroup that no process has been moved to
      if (toMove.length > 0)
        for (const made of [directory, dirname(directory)]) attempt(() => rmdirSync(made));
      const cause = causes[error.cause?.code ?? ''];
      throw cause === undefined ? error : new Failure(`${error.message}: ${cause}`);
    });
  for (const change of changes) checkEnd(change, text);
  const remarks = changes.flatMap((change) =>
    change.isReset ? [] : [...systemdRemark(change, text), ...tighterAbove(change)],
  );
  if (lost.size > 0) remarks.push(`no longer limited by ${[...lost].join(', ')}`);
  return remarks;
}

/** Throws Failure where the target ended while it was limited: its PID may be another process's by now. */
function checkEnd({ top, startTicks: started, directory, isReset }: Change, text: string): void {
  if (top && startTicks(top.pid) !== started)
    throw new Failure(`process ${top.pid} ended meanwhile: see what ${directory} holds`);
  // v2 kills at once what is above a limit that was forced upon it
  if (!isReset && !existsSync(directory))
    throw new Failure(`${text} has ended meanwhile, and with it its cgroup`);
}

/** Limits of a cgroup and of those above it that are below the value `below`, as text: `50 MiB of /sys/fs/…`. */
function limitsFrom(change: Change, directory: string, setting: Setting, below = Infinity): string[] {
  const { version, mountPoint } = change;
  const found: string[] = [];
  if (['weight', 'oomGroup', 'reserve'].includes(setting.limit)) return found;
  for (let at = directory; at.startsWith(`${mountPoint}/`); at = dirname(at))
    for (const other of readLimit(setting.limit, version, at).filter(isSame(setting))) {
      const number = amount(version, other);
      if (typeof number === 'number' && number < below) found.push(`${showLimit(version, other)} of ${at}`);
    }
  return found;
}

/** Limits of the cgroups that processes are moved out of. */
function limitsLeft(change: Change): string[] {
  const { toMove, origin = '', elsewhere, settings } = change;
  const places = toMove.length > 0 ? [origin, ...elsewhere.map(({ directory }) => directory)] : [];
  return places.flatMap((place) => settings.flatMap((setting) => limitsFrom(change, place, setting)));
}

/** Limits of the cgroups above that are tighter than what was set. */
function tighterAbove(change: Change): string[] {
  return change.settings.flatMap((setting) => {
    const number = amount(change.version, setting);
    const tighter = number == null ? [] : limitsFrom(change, dirname(change.directory), setting, number);
    return tighter.length > 0 ? [`still limited by ${tighter.join(', ')}`] : [];
  });
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

/** What a script reports beside the limits: as text, and as fields of --json. */
interface Usage {
  text: string;
  fields: Record<string, unknown>;
}

/** Prints the limits before and after, and where how many processes are: in two lines of text, or as JSON. */
export function report(text: string, changes: Change[], json: boolean, usage?: Usage): void {
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
      ...usage?.fields,
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
  console.log(`${text}: ${[...lines, usage?.text].filter(Boolean).join('; ')}
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
