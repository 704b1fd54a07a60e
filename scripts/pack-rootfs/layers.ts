// The layers of an image: a root file system as one, or what it has beyond another one.
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { type Layer, layerTypes } from '../images/write.ts';
import { type Making, readArchive, type Written, write } from './archive.ts';
import { findDifference, refuseWhiteouts } from './difference.ts';
import { type Entry, emptyFile } from './entries.ts';
import type { Source } from './source.ts';

export type LayerCompression = keyof typeof layerTypes;

/** A layer that was made in `folder`; undefined: there is no difference. And all entries of what it was made from. */
export interface Made {
  layer: Layer | undefined;
  entries: Entry[];
}

/** All entries of a root file system, with their sums. */
export async function readEntriesOf(source: Source, making: Making): Promise<Entry[]> {
  const entries: Entry[] = [];
  for await (const _ of readArchive(source, making, (entry) => entries.push(entry), { sums: true }));
  return entries;
}

/**
 * Makes a layer of a root file system. With `before`, the entries of another one, it has what is to be done to that; the
 * root file system is read twice then, and may not change in between. `sums`: the entries get their sums.
 */
export async function makeLayer(
  source: Source,
  making: Making,
  compression: LayerCompression,
  folder: string,
  { before, sums = false }: { before?: Entry[]; sums?: boolean } = {},
): Promise<Made> {
  const entries: Entry[] = [];
  const see = (entry: Entry) => entries.push(entry);
  const file = join(folder, 'layer');
  let written: Written;
  if (before) {
    for (const entry of await readEntriesOf(source, making)) see(entry);
    refuseWhiteouts(entries);
    const { names, whiteouts } = findDifference(before, entries);
    if (names.length === 0) return { layer: undefined, entries };
    const archive = async function* () {
      for (const name of whiteouts) yield emptyFile(name, 0);
      yield* readArchive(source, making, () => {}, { names });
    };
    written = await write(archive(), compression, file);
  } else {
    written = await write(readArchive(source, making, see, { sums }), compression, file);
    refuseWhiteouts(entries);
  }
  const { sha256, plainSha256, bytes } = written;
  const digest = `sha256:${sha256}`;
  renameSync(file, join(folder, sha256));
  const layer = {
    descriptor: { mediaType: layerTypes[compression], digest, size: bytes },
    diffId: `sha256:${plainSha256}`,
    file: join(folder, sha256),
    history: { created_by: 'pack-rootfs.ts' },
  };
  return { layer, entries };
}
