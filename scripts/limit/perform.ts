// Performs the plans of limit-*.ts, and reports the limits before and after.
import { existsSync, rmdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { processesIn } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, startTicks } from '../helpers/pids.ts';
import { perform } from '../helpers/steps.ts';
import { formatSize } from '../helpers/units.ts';
import type { Change, Part } from './plan.ts';
import { amount, isSame, limits, noLimit, readLimit, type Setting, valueBefore } from './table.ts';

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
  for (const { part } of changes) if (part.target.refusal) throw new Failure(part.target.refusal);
  const lost = changes.flatMap(({ part, settings = [] }) => {
    const { toMove, origin, elsewhere } = part.target;
    const places = toMove.length > 0 ? [origin ?? '', ...elsewhere.map(({ directory }) => directory)] : [];
    return places.flatMap((place) => settings.flatMap((setting) => limitsFrom(part, place, setting)));
  });
  for (const { part, steps } of changes)
    await perform(steps).catch((error) => {
      // remove a new cgroup that no process has been moved to
      const { toMove, directory } = part.target;
      if (toMove.length > 0)
        for (const made of [directory, dirname(directory)]) attempt(() => rmdirSync(made));
      const cause = causes[error.cause?.code ?? ''];
      throw cause === undefined ? error : new Failure(`${error.message}: ${cause}`);
    });
  for (const { part, settings } of changes) checkEnd(part, text, settings === undefined);
  const remarks = changes.flatMap(({ part, settings }) =>
    settings
      ? [...systemdRemark(part, text), ...settings.flatMap((setting) => tighterAbove(part, setting))]
      : [],
  );
  if (lost.length > 0) remarks.push(`no longer limited by ${[...new Set(lost)].join(', ')}`);
  return remarks;
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

/** Limits of a cgroup and of those above it that are below the value `below`, as text: `50 MiB of /sys/fs/…`. */
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

/** Limits of the cgroups above that are tighter than what was set. */
function tighterAbove(part: Part, setting: Setting): string[] {
  const number = amount(part.hierarchy.version, setting);
  const tighter = number == null ? [] : limitsFrom(part, dirname(part.target.directory), setting, number);
  return tighter.length > 0 ? [`still limited by ${tighter.join(', ')}`] : [];
}

/** What systemd does if a unit of its own is changed: it tracks a unit's processes, and writes its limits. */
function systemdRemark({ target, hierarchy }: Part, text: string): string[] {
  const from = target.toMove.length > 0 ? target.origin : target.inPlace ? target.directory : undefined;
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

/** What a script reports beside the limits: as text, and as fields of --json. */
export interface Usage {
  text: string;
  fields: Record<string, unknown>;
}

/** Prints the limits before and after, and where how many processes are: in two lines of text, or as JSON. */
export function report(text: string, changes: Change[], json: boolean, usage: Usage): void {
  const results = changes.map(result);
  const processes = Math.max(...results.map((one) => one.processes));
  if (json) {
    const merged = (values: object[]) => Object.assign({}, ...values) as object;
    const object = {
      cgroups: changes.map(({ part }) => part.target.directory),
      processes,
      ...usage.fields,
      ...merged(results.map(({ after }) => after)),
      before: merged(results.map(({ before }) => before)),
    };
    console.log(JSON.stringify(object, null, 2));
    return;
  }
  const lines = results.flatMap((one) => one.lines);
  const [first] = changes[0]?.part.names ?? [];
  if (lines.length === 0 && first) lines.push(`${limits[first].label} none -> none`);
  const where = [...new Set(results.map(({ how }) => how))].map((how) => {
    const places = results.filter((one) => one.how === how).map(({ place }) => place);
    return `${how} ${places.join(' and ')}`;
  });
  console.log(`${text}: ${[...lines, usage.text].filter(Boolean).join('; ')}
${processes} process${processes === 1 ? '' : 'es'} ${where.join(', ')}`);
}

/** What became of a part. */
function result({ part, settings }: Change) {
  const { hierarchy, target, before, previous, isShared } = part;
  const { version } = hierarchy;
  const { directory, toMove, origin, inPlace } = target;
  const isReset = settings === undefined;
  const isBack = isReset && origin !== undefined && !isShared;
  const none = (setting: Setting) => ({ ...setting, text: noLimit(setting.limit, version, directory) });
  const now = (setting: Setting) =>
    (isBack ? undefined : readLimit(setting.limit, version, directory).find(isSame(setting))) ??
    none(setting);
  const lifted = before.filter((setting) => setting.text !== none(setting).text);
  const changed = settings ?? (inPlace ? previous : lifted);
  const pairs = changed.map((one) => [valueBefore(one, { version, directory }, before), now(one)] as const);
  return {
    lines: pairs.flatMap(([from, to]) => {
      const { label } = limits[from.limit];
      const device = from.device ? `${from.device} ` : '';
      return label ? [`${device}${label} ${showLimit(version, from)} -> ${showLimit(version, to)}`] : [];
    }),
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
