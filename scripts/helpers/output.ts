// Standard output and standard error: written at once, errors noticed.
import { Console } from 'node:console';
import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { isatty } from 'node:tty';
import { attempt } from './pids.ts';

/** Standard output could not be written. `code` is the kernel's error, such as EPIPE. */
export class OutputError extends Error {
  code: string;
  constructor(error: NodeJS.ErrnoException) {
    super(`cannot write standard output: ${error.message.replace(/, write$/, '')}`);
    this.code = error.code ?? '';
  }
}

/** Writes a whole text to a descriptor. If another process has made it non-blocking, waits until it takes more. */
function writeAll(fd: number, text: string | Uint8Array): void {
  const bytes = typeof text === 'string' ? Buffer.from(text) : text;
  for (let written = 0; written < bytes.length; )
    try {
      written += writeSync(fd, bytes, written);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
}

/** Writes to standard output. Throws OutputError. */
export function print(text: string | Uint8Array): void {
  try {
    writeAll(1, text);
  } catch (error) {
    throw new OutputError(error as NodeJS.ErrnoException);
  }
}

/** JSON that is safe on a terminal: JSON.stringify escapes control characters, but not DEL, C1 and invisible ones. */
export const toJson = (value: unknown, indent?: number) =>
  JSON.stringify(value, null, indent).replace(/[\x7f-\x9f\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    character
      .split('') // those beyond U+FFFF are two units
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join(''),
  );

/**
 * Writes to standard error. A failure is ignored: it can't be reported, and should not keep the script from its work.
 */
const complain = (text: string | Uint8Array) => attempt(() => writeAll(2, text));

/** A stream whose write() is synchronous, and throws its errors. */
function streamTo(write: (text: string | Uint8Array) => void): Writable {
  const stream = new Writable();
  stream.write = (chunk: string | Uint8Array, ...rest: unknown[]) => {
    write(chunk);
    const done = rest.at(-1);
    if (typeof done === 'function') process.nextTick(done);
    return true;
  };
  return stream;
}

/**
 * Makes console use such streams, and replaces process.stdout and process.stderr by them if they are not terminals.
 * Node's own streams make a pipe non-blocking, fcntl(2), for all processes that share it, such as the caller's shell;
 * and its console ignores errors, so that a full disk looks like success.
 */
export function useOutput(): void {
  const [stdout, stderr] = [streamTo(print), streamTo(complain)];
  globalThis.console = new Console({ stdout, stderr, ignoreErrors: false });
  for (const [fd, name] of (['stdin', 'stdout', 'stderr'] as const).entries()) {
    const stream = isatty(fd) ? undefined : [undefined, stdout, stderr][fd];
    // not enumerable: an import of node:process, as in zx, reads all enumerable properties, which opens the streams
    Object.defineProperty(process, name, { ...(stream && { value: stream }), enumerable: false });
  }
}
