// Pushing an image to a registry. What is there already is not sent again.
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push
import { createReadStream } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';
import { Final, follow, Retries } from './http.ts';
import type { Descriptor } from './image.ts';
import type { Progress } from './progress.ts';
import { type Reference, showReference } from './reference.ts';
import { named, Registry, type RegistryOptions } from './registry.ts';
import { shortDigest, verified } from './verify.ts';
import type { PackedImage } from './write.ts';

/** An image to push. */
export type Pushed = Omit<PackedImage, 'platform'>;

/** How an image is pushed. */
export interface PushOptions extends Omit<RegistryOptions, 'mirrors'> {
  /** a repository of the same registry that may have some of the layers, such as that of the base image */
  mountFrom?: string;
  /** bars, and lines about each blob */
  progress?: Progress;
}

/** Docker sends more at a time; a registry limits them by address. */
const parallelBlobs = 3;

/**
 * Pushes an image under a tag: layers and configuration first, since a registry refuses a manifest without them. Throws a
 * Failure; blobs that were sent stay in the registry then, and are not sent again the next time.
 */
export async function pushImage(
  reference: Reference,
  image: Pushed,
  options: PushOptions = {},
): Promise<void> {
  const { manifest, manifestBytes, manifestDigest, config, blobs } = image;
  if (reference.digest && reference.digest !== manifestDigest)
    throw new Failure(
      `the digest of the image is ${manifestDigest}: push it by a tag, not as ${reference.digest}`,
    );
  const registry = new Registry(reference, options);
  const layers = new Map(manifest.layers.map((layer) => [layer.digest, layer]));
  const left = [...layers.values()].map((blob): [Descriptor, () => AsyncIterable<Buffer>] => {
    const file = blobs.get(blob.digest);
    if (file === undefined) throw new Failure(`there is no file of the layer ${blob.digest}`);
    return [blob, () => createReadStream(file, { highWaterMark: 1 << 18 })];
  });
  async function* bytesOf() {
    yield config;
  }
  left.push([manifest.config, bytesOf]);
  const work = async () => {
    for (let next = left.shift(); next; next = left.shift()) await pushBlob(registry, ...next, options);
  };
  try {
    await Promise.all(Array.from({ length: parallelBlobs }, work));
  } finally {
    left.length = 0;
    options.progress?.end();
  }
  const { repository, tag } = reference;
  const response = await repeat(registry, () =>
    registry.ask(
      `/v2/${repository}/manifests/${tag ?? manifestDigest}`,
      {
        method: 'PUT',
        headers: { 'Content-Type': manifest.mediaType },
        body: () => ({ bytes: manifestBytes.length, chunks: [manifestBytes] }),
      },
      [201],
    ),
  );
  response.destroy();
  checkStored(response.headers['docker-content-digest'], manifestDigest, registry);
}

/** Throws a Failure if a registry has stored something else than was sent. */
function checkStored(digest: string | string[] | undefined, expected: string, { host }: Registry): void {
  if (digest !== undefined && digest !== expected)
    throw new Final(`${host} has stored ${digest}, not ${expected}`);
}

/** Repeats an attempt as long as that can help. */
async function repeat<Result>(registry: Registry, attempt: () => Promise<Result>): Promise<Result> {
  const retries = new Retries(registry.downloadOptions());
  for (;;)
    try {
      return await attempt();
    } catch (error) {
      await retries.wait(error, 0, true, 'once more').catch((last) => {
        throw named(last, registry);
      });
    }
}

/** Sends a blob, unless the registry has it. */
async function pushBlob(
  registry: Registry,
  blob: Descriptor,
  read: () => AsyncIterable<Buffer>,
  { progress, mountFrom }: PushOptions,
): Promise<void> {
  const label = shortDigest(blob.digest);
  const say = (text: string) => progress?.say(`${label}: ${text}`);
  const { repository } = registry.reference;
  const what = blob.digest;
  await repeat(registry, async () => {
    const found = await registry.ask(
      `/v2/${repository}/blobs/${blob.digest}`,
      { method: 'HEAD', what },
      [200, 404],
    );
    found.destroy();
    if (found.statusCode === 200) return say('in the registry already');
    const mount = mountFrom ? `?${new URLSearchParams({ mount: blob.digest, from: mountFrom })}` : '';
    const begun = await registry.ask(
      `/v2/${repository}/blobs/uploads/${mount}`,
      { method: 'POST', what: showReference(registry.reference), body: () => ({ bytes: 0, chunks: [] }) },
      mount ? [201, 202] : [202],
    );
    begun.destroy();
    if (begun.statusCode === 201) return say(`in the registry already, in ${mountFrom}`);
    const { location } = begun.headers;
    if (!location) throw new Final(`${registry.host} does not tell where to send ${blob.digest}`);
    const place = follow(location, await registry.base());
    place.searchParams.append('digest', blob.digest);
    const stored = await registry.ask(
      place,
      {
        method: 'PUT',
        headers: { 'Content-Type': 'application/octet-stream' },
        what,
        body: () => {
          const chunks = verified(read(), blob);
          return { bytes: blob.size, chunks: progress?.show(chunks, label, { length: blob.size }) ?? chunks };
        },
      },
      [201],
    );
    stored.destroy();
    checkStored(stored.headers['docker-content-digest'], blob.digest, registry);
    say(formatSize(blob.size));
  });
}
