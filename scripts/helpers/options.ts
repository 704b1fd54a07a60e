// Values of options of several scripts: variables, paths in a container, signals. Parsers throw UsageError, whose
// message says what is accepted. Numbers and sizes are in units.ts, users in rootfs.ts.
import { constants } from 'node:os';
import { UsageError } from './cli.ts';

/** `KEY=VALUE`, or `KEY` for the caller's variable of that name; '' if the caller has none. */
export function parseVariable(text: string): string {
  const [key = ''] = text.split('=', 1);
  if (key === '' || text.includes('\0')) throw new UsageError(`not KEY=VALUE: ${JSON.stringify(text)}`);
  if (text.includes('=')) return text;
  const value = process.env[key];
  return value === undefined ? '' : `${key}=${value}`;
}

/** An absolute path in the container. Symlinks and `..` are resolved inside the container's root, later. */
export function parsePath(option: string, text: string): string {
  if (text.startsWith('/') && !/[\0\n]/.test(text)) return text;
  throw new UsageError(
    `--${option}: a path in the container must begin with / and contain no newline, not ${JSON.stringify(text)}`,
  );
}

/** The working directory of a command in the container. */
export const parseWorkdir = (text: string) => parsePath('workdir', text);

/** `TERM`, `SIGTERM` or `15` as `TERM`; also RTMIN+3, the stop signal of systemd in a container. */
export function parseSignal(text: string): string {
  const word = text.toUpperCase().replace(/^SIG/, '');
  const [name] =
    Object.entries(constants.signals).find(
      ([name, number]) => name === `SIG${word}` || String(number) === word,
    ) ?? [];
  if (name) return name.slice('SIG'.length);
  if (/^RTMIN(\+\d{1,2})?$/.test(word) && signalNumber(word) <= 64) return word;
  throw new UsageError(`no such signal: ${text}: see signal(7)`);
}

/** The number of a signal that parseSignal has returned. In the C library RTMIN is 34, signal(7). */
export const signalNumber = (name: string): number =>
  constants.signals[`SIG${name}` as NodeJS.Signals] ?? 34 + Number(name.slice('RTMIN+'.length));
