// Compressed archives: their first bytes tell how they are compressed, and what undoes it.
import { spawn } from 'node:child_process';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { Failure } from '../helpers/cli.ts';
import { installCommand, missingPrograms } from '../helpers/programs.ts';
import { sh } from '../helpers/shell.ts';
import { feed, outcome } from './confine.ts';
import { checkHeader } from './inspector.ts';

/** How many of the first bytes tell what a file is: those of an ISO 9660 image begin with 32 KiB of zeros. */
export const startBytes = 33 << 10;

/** A compression that fetch-rootfs.ts undoes: by which program, or by node's zlib, which is faster than gzip(1). */
export interface Compression {
  name: string;
  magic: RegExp;
  command: string[];
}

const compressions: Compression[] = [
  { name: 'gzip', magic: /^\x1f\x8b/, command: sh`gzip -dc` },
  { name: 'compress', magic: /^\x1f\x9d/, command: sh`gzip -dc` },
  // xz -9 needs less than this limit; without it an archive could make xz allocate gigabytes
  { name: 'xz', magic: /^\xfd7zXZ\0/, command: sh`xz -dc --memlimit-decompress=100MiB` },
  { name: 'zstd', magic: /^\x28\xb5\x2f\xfd/, command: sh`zstd -dcq` },
  { name: 'bzip2', magic: /^BZh/, command: sh`bzip2 -dc` },
];

/** Whether a file that begins so is a tar archive. */
export const isTar = (start: Buffer) => {
  try {
    checkHeader(start.subarray(0, 512));
    return true;
  } catch {
    return false;
  }
};

/** The compression of a file that begins so; undefined for a tar archive, whatever the name of its first entry. */
export const findCompression = (start: Buffer): Compression | undefined =>
  isTar(start) ? undefined : compressions.find(({ magic }) => magic.test(start.toString('latin1')));

/** The first bytes of a stream, and all of it. */
async function peek(source: AsyncIterable<Buffer>): Promise<{ start: Buffer; all: AsyncIterable<Buffer> }> {
  const iterator = source[Symbol.asyncIterator]();
  let start: Buffer = Buffer.alloc(0);
  while (start.length < startBytes) {
    const { value, done } = await iterator.next();
    if (done) break;
    start = Buffer.concat([start, value]);
  }
  async function* all() {
    yield start;
    yield* { [Symbol.asyncIterator]: () => iterator };
  }
  return { start, all: all() };
}

/**
 * Decompresses an archive. Its first bytes tell the format. `judge` may refuse how it begins, and is told which
 * compression was undone. Throws a Failure if the data is damaged.
 */
export async function* decompress(
  source: AsyncIterable<Buffer>,
  judge: (start: Buffer, outer?: Compression) => void = () => {},
): AsyncGenerator<Buffer> {
  const { start, all } = await peek(source);
  const compression = findCompression(start);
  if (!compression) {
    judge(start);
    return yield* all;
  }
  const plain = await peek(compression.name === 'gzip' ? gunzip(all) : filter(compression, all));
  judge(plain.start, compression);
  yield* plain.all;
}

async function* gunzip(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let fed = 0;
  async function* counted() {
    for await (const chunk of source) {
      fed += chunk.length;
      yield chunk;
    }
  }
  const unzip = createGunzip({ chunkSize: 1 << 17 });
  // an error of the source ends `unzip` too
  const feeding = pipeline(counted(), unzip);
  feeding.catch(() => undefined);
  try {
    yield* unzip as AsyncIterable<Buffer>;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'Z_BUF_ERROR') throw new Failure('it is truncated: the gzip data has no end');
    throw code?.startsWith('Z_') ? new Failure(`the gzip data is damaged: ${message}`) : error;
  }
  // zlib ignores all data after the last member
  if (unzip.bytesWritten !== fed) throw new Failure('other data follow the end of the gzip data');
  await feeding;
}

/** Runs a decompressor. Any message of it, such as one about trailing garbage, refuses the archive. */
async function* filter(
  { name, command: [tool = '', ...args] }: Compression,
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  if (missingPrograms([tool])) {
    const needed = tool === name ? '' : `, for which ${tool} is needed`;
    throw new Failure(
      `it is compressed with ${name}${needed}, which is not installed here: ${installCommand([tool])}`,
    );
  }
  const child = spawn(tool, args, { stdio: 'pipe', env: { PATH: process.env.PATH, LC_ALL: 'C' } });
  const ended = Promise.all([outcome(child), feed(child, source)]);
  ended.catch(() => undefined);
  try {
    yield* child.stdout as AsyncIterable<Buffer>;
    const [{ end, said }] = await ended;
    if (end !== 0 || said.length > 0)
      throw new Failure(`the ${name} data is damaged: ${said[0] ?? `exit code ${end}`}`);
  } finally {
    child.kill();
  }
}
