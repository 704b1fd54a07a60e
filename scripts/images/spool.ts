// Parts of open files, and files without a name, for what must be read more than once.
import { unlinkSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Failure } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';

/** A part of an open file: where it begins, and how many bytes it has. */
export interface Part {
  file: FileHandle;
  start: number;
  size: number;
}

const chunkBytes = 1 << 18;

/**
 * The bytes of a part from `offsetBytes` on; fewer if the file is shorter. The file stays open: node's streams close it
 * when they are not read to their end.
 */
export async function* readPart({ file, start, size }: Part, offsetBytes = 0): AsyncGenerator<Buffer> {
  for (let at = start + offsetBytes; at < start + size; ) {
    const length = Math.min(chunkBytes, start + size - at);
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, at);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}

/**
 * Writes chunks to a new file, whose name `path` is gone at once: the caller closes `file`, and it is gone too. Throws a
 * Failure if there are more than `maxBytes`.
 */
export async function spool(chunks: AsyncIterable<Buffer>, path: string, maxBytes: number): Promise<Part> {
  const file = await open(path, 'wx+', 0o600);
  try {
    unlinkSync(path);
    let size = 0;
    for await (const chunk of chunks) {
      size += chunk.length;
      if (size > maxBytes)
        throw new Failure(`it has more than ${formatSize(maxBytes)}: --max-size allows more`);
      await file.writeFile(chunk);
    }
    return { file, start: 0, size };
  } catch (error) {
    await file.close();
    throw error;
  }
}
