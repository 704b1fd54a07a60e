// Standard output and standard error, as this project writes them: at once, and with an error that is noticed.
import { Console } from 'node:console';
import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { isatty } from 'node:tty';
import { attempt } from './pids.ts';

/** Standard output could not be written. `code` is the kernel's name for the reason. */
export class OutputError extends Error {
  code: string;
  constructor(error: NodeJS.ErrnoException) {
    super(`cannot write standard output: ${error.message.replace(/, write$/, '')}`);
    this.code = error.code ?? '';
  }
}

/** Writes all of it to a descriptor, which may be non-blocking, as its other users want it: then this waits. */
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

/**
 * Writes to standard error. That this fails can be told to nobody, nor is it a reason to leave undone what the script is
 * for.
 */
const complain = (text: string | Uint8Array) => attempt(() => writeAll(2, text));

/** A stream whose write has happened when it returns, and throws what went wrong. */
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
 * Puts such streams under console, and in place of process.stdout and process.stderr where they are not terminals.
 * Node's own make a pipe non-blocking, fcntl(2), for all who share it, such as the caller's shell; and its console
 * passes over errors, so that a full disk looks like success.
 */
export function useOutput(): void {
  const [stdout, stderr] = [streamTo(print), streamTo(complain)];
  globalThis.console = new Console({ stdout, stderr, ignoreErrors: false });
  for (const [fd, name] of (['stdin', 'stdout', 'stderr'] as const).entries()) {
    const stream = isatty(fd) ? undefined : [undefined, stdout, stderr][fd];
    // not enumerable: an import of node:process, as zx has it, looks at all that is, and so opens it
    Object.defineProperty(process, name, { ...(stream && { value: stream }), enumerable: false });
  }
}
