// What an image is built upon: the layers of another image as they are, and the root file system that they make.
import { closeSync, constants, copyFileSync, createReadStream, mkdirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, UsageError } from '../helpers/cli.ts';
import { ofDescriptor } from '../helpers/in-root.ts';
import { openArchive, parseArchiveName } from '../images/archives.ts';
import { cached, openCache, resolveImage } from '../images/cache.ts';
import { chooseImage } from '../images/choose.ts';
import { findCompression, startBytes } from '../images/compression.ts';
import type { Image, Platform } from '../images/image.ts';
import { applyLayers } from '../images/layers.ts';
import { parseReference } from '../images/reference.ts';
import { mayMakeDevices } from '../images/unpack.ts';
import { type Layer, layerTypes } from '../images/write.ts';
import type { Making } from './archive.ts';
import { type Inherited, parseInherited } from './config.ts';
import type { Entry } from './entries.ts';
import { type LayerCompression, makeLayer, readEntriesOf } from './layers.ts';
import { findRootfs, openDirectory } from './source.ts';

/** What an image is built upon. */
export interface Base {
  layers: Layer[];
  /** the entries of the root file system that they make */
  entries: Entry[];
  /** the configuration, if it is an image */
  inherited: Inherited | undefined;
}

/** How a base is read. */
export interface BaseOptions {
  platform: Platform;
  compression: LayerCompression;
  /** registries that may be asked without encryption */
  insecure: string[];
}

/** Reads a base: an image, as fetch-rootfs.ts names it, or a directory, which becomes a layer in `folder`. Throws Failure. */
export async function readBase(
  text: string,
  options: BaseOptions,
  making: Making,
  folder: string,
): Promise<Base> {
  if (/^(docker:\/\/|(docker-archive|oci-archive|oci):)/.test(text))
    return readImage(text, options, making, folder);
  const found = findRootfs(text);
  if ('container' in found) throw new UsageError(`--base ${text} is a container: it changes while it runs`);
  const root = openDirectory(found.directory);
  const { layer, entries } = await makeLayer(root, making, options.compression, folder, { sums: true });
  return { layers: layer ? [layer] : [], entries, inherited: undefined };
}

/** Reads an image, verifies it, and unpacks it into a directory in `folder`. */
async function readImage(
  text: string,
  { platform, insecure }: BaseOptions,
  making: Making,
  folder: string,
): Promise<Base> {
  const { say, interrupted } = making;
  const name = parseArchiveName(text);
  const directory = name ? undefined : openCache();
  const scratch = { scratch: join(folder, 'archive'), maxBytes: Infinity };
  const image = name
    ? await chooseImage(await openArchive(name, scratch), name.reference ?? 'latest', platform)
    : await resolveImage(parseReference(text), { platform, directory, insecure, say });
  const files: string[] = [];
  for (const layer of image.manifest.layers) {
    const blob = await cached(image, layer, { directory, scratch: folder });
    const file = join(folder, layer.digest.slice('sha256:'.length));
    copyFileSync(ofDescriptor(blob.fd), file, constants.COPYFILE_FICLONE);
    await blob.close();
    files.push(file);
  }
  const root = join(folder, 'base');
  mkdirSync(root);
  const open = files.map((file) => () => createReadStream(file));
  const limits = {
    // who packs an image has the disk for it
    maxBytes: Infinity,
    maxBytesReason: '',
    maxEntries: Infinity,
    skipDevices: mayMakeDevices ? undefined : ('all' as const),
  };
  await applyLayers(image, open, root, limits, say, interrupted);
  return {
    layers: files.map((file, index) => layerOf(image, index, file)),
    entries: await readEntriesOf(openDirectory(root), making),
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
    throw new Failure(`layer ${index + 1} is compressed with ${compression}, which images must not use`);
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
