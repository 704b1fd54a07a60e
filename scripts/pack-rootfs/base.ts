// What an image is built upon: the layers of another image as they are, and the root file system that they make.
import { closeSync, createReadStream, mkdirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../helpers/cli.ts';
import { openArchive, parseArchiveName } from '../images/archives.ts';
import { fetchLayers, openCache, resolveImage } from '../images/cache.ts';
import { chooseImage } from '../images/choose.ts';
import { findCompression, startBytes } from '../images/compression.ts';
import type { Image, Platform } from '../images/image.ts';
import { applyLayers } from '../images/layers.ts';
import { parseReference } from '../images/reference.ts';
import { mayMakeDevices } from '../images/unpack.ts';
import { type Layer, layerTypes } from '../images/write.ts';
import { type Inherited, parseInherited } from './config.ts';
import { openDirectory, type Source } from './source.ts';

/** Whether a word names an image, and no directory. */
export const isImage = (text: string) => /^(docker:\/\/|(docker-archive|oci-archive|oci):)/.test(text);

/** An image that another one is built upon. */
export interface Base {
  layers: Layer[];
  root: Source;
  inherited: Inherited;
}

/**
 * Reads an image, verifies it, and unpacks it into a directory in `folder`. Throws a Failure, or what `interrupted`
 * throws.
 */
export async function openBaseImage(
  text: string,
  platform: Platform,
  folder: string,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Base> {
  const name = parseArchiveName(text);
  // who packs an image has the disk for it
  const limits = { maxBytes: Infinity, maxBytesReason: '', maxEntries: Infinity };
  const image = name
    ? await chooseImage(
        await openArchive(name, { scratch: join(folder, 'archive'), maxBytes: Infinity }),
        name.reference ?? 'latest',
        platform,
      )
    : await resolveImage(parseReference(text), { platform, directory: openCache() });
  const directory = name ? undefined : openCache();
  const files = await fetchLayers(image, { directory, scratch: folder, quiet: true });
  const root = join(folder, 'base');
  mkdirSync(root);
  const open = files.map((file) => () => createReadStream(file));
  const skipDevices = mayMakeDevices ? undefined : ('all' as const);
  await applyLayers(image, open, root, { ...limits, skipDevices }, say, interrupted);
  return {
    layers: files.map((file, index) => layerOf(image, index, file)),
    root: openDirectory(root),
    inherited: parseInherited(image.config.toString(), text),
  };
}

/** A layer of another image. Its media type follows from its bytes: that of Docker's types is none of OCI's. */
function layerOf({ manifest, diffIds, config }: Image, index: number, file: string): Layer {
  const { digest, size } = manifest.layers[index] as { digest: string; size: number };
  const start = Buffer.alloc(startBytes);
  const fd = openSync(file, 'r');
  const compression =
    findCompression(start.subarray(0, readSync(fd, start, 0, startBytes, 0)))?.name ?? 'none';
  closeSync(fd);
  if (!(compression in layerTypes))
    throw new Failure(`layer ${index + 1} is compressed with ${compression}, which is not for images`);
  const mediaType = layerTypes[compression as keyof typeof layerTypes];
  const { history } = JSON.parse(config.toString()) as { history?: { empty_layer?: boolean }[] };
  const own = Array.isArray(history) ? history.filter((one) => one && !one.empty_layer)[index] : undefined;
  return {
    descriptor: { mediaType, digest, size },
    diffId: diffIds[index] as string,
    file,
    history: typeof own === 'object' ? own : {},
  };
}
