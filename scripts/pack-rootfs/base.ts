// What an image is built upon: the layers of another image as they are, and the root file system that they make.
import { closeSync, createReadStream, createWriteStream, mkdirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Failure, UsageError } from '../helpers/cli.ts';
import { openArchive, parseArchiveName } from '../images/archives.ts';
import { fetchLayers, openCache, resolveImage } from '../images/cache.ts';
import { chooseImage } from '../images/choose.ts';
import { findCompression, startBytes } from '../images/compression.ts';
import { type Image, isObject, type Platform } from '../images/image.ts';
import { applyLayers } from '../images/layers.ts';
import { parseReference } from '../images/reference.ts';
import { mayMakeDevices } from '../images/unpack.ts';
import { verified } from '../images/verify.ts';
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
  const blobs = name
    ? image.manifest.layers.map((layer) => () => verified(image.source.openBlob(layer, 0), layer))
    : fetchLayers(image, { directory, scratch: folder });
  const files: string[] = [];
  for (const [index, read] of blobs.entries()) {
    const file = join(folder, `base-${index + 1}`);
    const copying = pipeline(read(), createWriteStream(file, { flags: 'wx', mode: 0o600 }));
    await Promise.race([copying, interrupted]);
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
  const history = historyOf(image);
  return {
    layers: files.map((file, index) => layerOf(image, index, file, history[index])),
    entries: await readEntriesOf(openDirectory(root), making),
    inherited: parseInherited(image.config.toString(), text),
  };
}

/** What the configuration of an image tells of each of its layers, as far as it does. */
function historyOf({ config }: Image): unknown[] {
  const { history } = JSON.parse(config.toString());
  return Array.isArray(history) ? history.filter((one) => one && !one.empty_layer) : [];
}

/** A layer of another image. Its media type follows from its bytes: that of Docker's types is none of OCI's. */
function layerOf({ manifest, diffIds }: Image, index: number, file: string, history: unknown): Layer {
  const { digest, size } = manifest.layers[index] as { digest: string; size: number };
  const start = Buffer.alloc(startBytes);
  const fd = openSync(file, 'r');
  const compression =
    findCompression(start.subarray(0, readSync(fd, start, 0, startBytes, 0)))?.name ?? 'none';
  closeSync(fd);
  if (!(compression in layerTypes))
    throw new Failure(`layer ${index + 1} is compressed with ${compression}, which images must not use`);
  const mediaType = layerTypes[compression as keyof typeof layerTypes];
  return {
    descriptor: { mediaType, digest, size },
    diffId: diffIds[index] as string,
    file,
    history: isObject(history) ? history : {},
  };
}
