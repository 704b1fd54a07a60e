// Files without a name, for what must be read more than once.
import { closeSync, createReadStream, createWriteStream, openSync, unlinkSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { Failure } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';

/** A part of an open file: where it begins, and how many bytes it has. */
export interface Part {
  fd: number;
  start: number;
  size: number;
}

/** The bytes of a part from `offsetBytes` on. */
export async function* readPart({ fd, start, size }: Part, offsetBytes = 0): AsyncGenerator<Buffer> {
  if (offsetBytes >= size) return; // node takes an end before the start for an error
  const range = { start: start + offsetBytes, end: start + size - 1 };
  yield* createReadStream('', { fd, autoClose: false, highWaterMark: 1 << 18, ...range });
}

/**
 * Writes chunks to a new file, whose name `path` is gone at once: the caller closes `fd`, and the file is gone too. Throws
 * a Failure if there are more than `maxBytes`.
 */
export async function spool(chunks: AsyncIterable<Buffer>, path: string, maxBytes: number): Promise<Part> {
  const fd = openSync(path, 'wx+', 0o600);
  unlinkSync(path);
  let size = 0;
  async function* counted() {
    for await (const chunk of chunks) {
      size += chunk.length;
      if (size > maxBytes)
        throw new Failure(`it has more than ${formatSize(maxBytes)}: --max-size allows more`);
      yield chunk;
    }
  }
  try {
    await pipeline(counted(), createWriteStream('', { fd, autoClose: false }));
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return { fd, start: 0, size };
}
