// Sizes, numbers and signals as people write them, and as they read them.
import { constants } from 'node:os';
import { UsageError } from './cli.ts';
import { didYouMean } from './messages.ts';
import { realTime } from './signals.ts';

const [firstRealTime, lastRealTime] = realTime;

const multipliers: Record<string, number> = {
  '': 1,
  b: 1,
  ...Object.fromEntries(
    ['k', 'm', 'g', 't'].flatMap((letter, index) => [
      [letter, 1024 ** (index + 1)],
      [`${letter}ib`, 1024 ** (index + 1)],
      [`${letter}b`, 1000 ** (index + 1)],
    ]),
  ),
};

/**
 * Parses a size into bytes: `100M` and `100MiB` are 100·1024², `100MB` is 100·1000², `100000000` what it says;
 * letters in either case. Throws UsageError for anything else, zero, or more than can be counted exactly.
 */
export function parseSize(text: string): number {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text) ?? [];
  const multiplier = multipliers[unit.toLowerCase()];
  if (number === undefined || multiplier === undefined)
    throw new UsageError(`not a size: "${text}": write 100M (100·1024²), 100MB (100·1000²) or bytes`);
  const bytes = Math.floor(Number(number) * multiplier);
  if (bytes < 1 || !Number.isSafeInteger(bytes)) throw new UsageError(`size out of range: ${text}`);
  return bytes;
}

/** Bytes for people: `512 B`, `9.5 MiB`, `100 MiB`. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 100 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

/** A duration in its two largest units: `42s`, `5m 3s`, `3h 20m`, `12d 4h`. */
export function formatDuration(seconds: number): string {
  const counts = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  const parts = counts.map((count, unit) => `${count}${'dhms'[unit]}`);
  // none: the last
  const first = counts.findIndex((count) => count > 0);
  return parts.slice(first).slice(0, 2).join(' ');
}

/** Parses a whole number from `min` to `max`. `what` is what the message calls it. */
export function parseNumber(what: string, text: string, min: number, max: number): number {
  const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(`${what} is a whole number from ${min} to ${max}, not "${text}"`);
}

/**
 * `TERM`, `SIGTERM` or `15` as `TERM`. Real-time signals, `RTMIN+3`, `RTMAX-27` or `37`, as `RTMIN+3`, which is the stop
 * signal of systemd in a container.
 */
export function parseSignal(text: string): string {
  const word = text.toUpperCase().replace(/^SIG/, '');
  const [name] =
    Object.entries(constants.signals).find(
      ([name, number]) => name === `SIG${word}` || String(number) === word,
    ) ?? [];
  if (name) return name.slice('SIG'.length);
  const [, start, distance = '0'] = /^(RTMIN(?=\+|$)|RTMAX(?=-|$)|(?=\d))[+-]?(\d{1,2})?$/.exec(word) ?? [];
  const number =
    start === 'RTMAX'
      ? lastRealTime - Number(distance)
      : Number(distance) + (start === 'RTMIN' ? firstRealTime : 0);
  if (start !== undefined && number >= firstRealTime && number <= lastRealTime)
    return number === firstRealTime ? 'RTMIN' : `RTMIN+${number - firstRealTime}`;
  const prefix = /^sig/i.test(text) ? 'SIG' : '';
  const usual = Object.keys(constants.signals).map((name) => name.slice('SIG'.length));
  const known = [...usual, 'RTMIN', 'RTMAX', ...Array.from({ length: 30 }, (_, at) => `RTMIN+${at + 1}`)];
  throw new UsageError(
    `no such signal: ${text}${didYouMean(word, known, prefix) || ': kill -l lists their names'}`,
  );
}

/** The number of a signal that parseSignal has returned. */
export const signalNumber = (name: string): number =>
  constants.signals[`SIG${name}` as NodeJS.Signals] ?? firstRealTime + Number(name.slice('RTMIN+'.length));
