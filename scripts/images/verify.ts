// Verification: bytes are those that a descriptor names.
import { createHash, type Hash } from 'node:crypto';
import { Failure } from '../helpers/cli.ts';
import { collect } from './http.ts';
import type { Descriptor, ImageSource } from './image.ts';

/** The digest of bytes. */
export const digestOf = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** `sha256:0123456789ab` and so on, for people: 12 digits as Docker shows them. */
export const shortDigest = (digest: string) => digest.slice('sha256:'.length).slice(0, 12);

/** What was read is not the blob that was asked for. */
export class WrongBlob extends Failure {}

/**
 * Passes on the bytes of a blob. Throws a Failure as soon as there are more than its size, and at the end if there are
 * fewer, or their digest differs: what was passed on must not be used before that. `before`: hash and number of the
 * bytes that came earlier.
 */
export async function* verified(
  chunks: AsyncIterable<Buffer>,
  { digest, size }: Descriptor,
  before: { hash: Hash; bytes: number } = { hash: createHash('sha256'), bytes: 0 },
): AsyncGenerator<Buffer> {
  const { hash } = before;
  let { bytes } = before;
  const wrong = (what: string) =>
    new WrongBlob(`${what}: it was damaged or replaced on its way, or where it is kept`);
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > size) throw wrong(`${digest} has more than its ${size} bytes`);
    hash.update(chunk);
    yield chunk;
  }
  if (bytes < size) throw wrong(`${digest} has ${bytes} of its ${size} bytes`);
  const found = `sha256:${hash.digest('hex')}`;
  if (found !== digest) throw wrong(`${digest} has the digest ${found}`);
}

/** A small blob, verified. */
export async function readBlob(source: ImageSource, blob: Descriptor, maxBytes: number): Promise<Buffer> {
  if (blob.size > maxBytes) throw new Failure(`${blob.digest} is larger than ${maxBytes} bytes`);
  return collect(verified(source.openBlob(blob, 0), blob), maxBytes);
}
