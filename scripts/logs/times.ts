// Times of the lines of a log. keep.sh of run/ notes every few seconds how long the log is and when it was written last.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';

/** When the first `length` bytes of a log were written, in seconds since 1970. */
interface Note {
  length: number;
  seconds: number;
}

/** What keep.sh has noted about log, and about log.1, which is older; undefined if there is nothing of the kind. */
export function readNotes(folder: string): { newer: Note[]; older: Note[] } | undefined {
  const files = ['times.0', 'times.1'].flatMap((name) => {
    const [count, ...lines] = (attempt(() => readFileSync(join(folder, name), 'utf8')) ?? '').split('\n');
    // a line may be half written
    const notes = lines.slice(0, -1).map((line) => line.split(' ').map(Number));
    return count ? { count: Number(count), notes } : [];
  });
  if (files.length === 0) return undefined;
  const [newer = [], older = []] = files
    .sort((one, other) => other.count - one.count)
    .map(({ notes }) => notes.map(([length = 0, seconds = 0]) => ({ length, seconds })));
  return { newer, older };
}

/**
 * A function that tells when the bytes before an offset had been written. It is called with ascending offsets. `last`: when
 * the log was written to last.
 */
export function clockOf(notes: Note[], last: number): (end: number) => number {
  let at = 0;
  return (end) => {
    while (at < notes.length && (notes[at] as Note).length < end) at++;
    return notes[at]?.seconds ?? last;
  };
}

/** A time for people and programs: 2026-01-31T12:34:56Z, ISO 8601 in UTC. */
export const formatTime = (seconds: number) => new Date(seconds * 1000).toISOString().replace(/\.\d+/, '');

const unitSeconds: Record<string, number> = { d: 86_400, h: 3600, m: 60, s: 1 };

/**
 * A parser of a time, in seconds since 1970: how long ago, `90s`, `10m`, `1h30m`, `2d`; a date, `2026-01-31`, with or
 * without a time, `2026-01-31T12:34:56`, and a zone, `Z` or `+01:00`, without which it is local time; a time of the last 24
 * hours, `03:15`; or seconds since 1970.
 */
export const parseTime =
  (option: string, now = Date.now()) =>
  (text: string): number => {
    const parts = /^(\d+(\.\d+)?[dhms])+$/.test(text) ? (text.match(/[\d.]+[dhms]/g) ?? []) : [];
    if (parts.length > 0)
      return (
        now / 1000 -
        parts.reduce((sum, part) => sum + Number.parseFloat(part) * (unitSeconds[part.slice(-1)] ?? 0), 0)
      );
    if (/^\d{9,10}(\.\d+)?$/.test(text)) return Number(text);
    const [, date, clock, zone = ''] =
      /^(?:(\d{4}-\d\d-\d\d)(?:[T ](?=\d)|$))?(\d?\d:\d\d(?::\d\d(?:\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?$/i.exec(
        text,
      ) ?? [];
    if (date !== undefined || clock !== undefined) {
      const day = new Date(now);
      const today = [day.getFullYear(), day.getMonth() + 1, day.getDate()].map((number) =>
        String(number).padStart(2, '0'),
      );
      const time = Date.parse(`${date ?? today.join('-')}T${(clock ?? '00:00').padStart(5, '0')}${zone}`);
      if (!Number.isNaN(time)) return (date === undefined && time > now ? time - 86_400_000 : time) / 1000;
    }
    throw new UsageError(
      `${option} is 10m, 03:15, 2026-01-31 or 2026-01-31T12:34:56Z, not ${JSON.stringify(text)}`,
    );
  };
