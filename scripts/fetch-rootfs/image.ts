// SOURCE as an image, of a registry or in a file.
import { statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { UsageError } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';
import { type ArchiveName, openArchive } from '../images/archives.ts';
import { openCache, resolveImage } from '../images/cache.ts';
import { chooseImage, hostPlatform } from '../images/choose.ts';
import { fillFromImage } from '../images/fill.ts';
import type { Image } from '../images/image.ts';
import { type Applied, applyLayers } from '../images/layers.ts';
import { Progress } from '../images/progress.ts';
import { type Reference, showReference } from '../images/reference.ts';
import { verified } from '../images/verify.ts';
import { limitsOf, type Settings, statSource } from './source.ts';

/** What was made. */
export interface Made {
  /** a sentence that describes it */
  summary: string;
  /** of what it was made of: the manifest of an image, or the tarball */
  digest: string | null;
  skippedDevices: number;
}

/** How the registry of an image is asked. `say` gets its warnings. */
export const registryOptions = (values: Settings, say: (text: string) => void) => ({
  platform: values.platform ?? hostPlatform(),
  mirrors: values.registryMirror,
  insecure: values.insecureRegistry,
  say,
});

/** Makes the root file system of an image in the empty directory `root`. */
export async function fillImage(
  reference: Reference,
  root: string,
  values: Settings,
  interrupted: Promise<never>,
): Promise<Made> {
  const directory = values.noCache ? undefined : openCache();
  const progress = values.quiet ? undefined : new Progress();
  const tell = (text: string) => (progress ? progress.say(text) : undefined);
  const resolving = resolveImage(reference, { ...registryOptions(values, tell), directory });
  const image = await Promise.race([resolving, interrupted]);
  tell(`${showReference(reference)} is ${image.manifestDigest}`);
  const { bavail, bsize } = statfsSync(root);
  const layers = { directory, scratch: dirname(root), progress, limits: limitsOf(values, bavail * bsize) };
  const applied = await fillFromImage(image, root, layers, tell, interrupted).finally(() => progress?.end());
  return madeOf(image, applied);
}

function madeOf({ manifest: { layers }, manifestDigest }: Image, applied: Applied): Made {
  const { entries, bytes, skippedDevices } = applied;
  return {
    summary: `${entries} entries, ${formatSize(bytes)}, ${layers.length} ${layers.length === 1 ? 'layer' : 'layers'}`,
    digest: manifestDigest,
    skippedDevices,
  };
}

/** The same for an image in a file. `say` gets the warnings of tar(1). */
export async function fillArchive(
  archive: ArchiveName,
  root: string,
  values: Settings,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Made> {
  const { bavail, bsize } = statfsSync(root);
  const limits = limitsOf(values, bavail * bsize);
  const opening = openImage(archive, `${root}.image`, limits.maxBytes, values);
  const { source, image } = await Promise.race([opening, interrupted]);
  const progress = new Progress();
  const layers = image.manifest.layers.map((layer, index) => () => {
    const bytes = verified(source.openBlob(layer, 0), layer);
    const label = `layer ${index + 1} of ${image.manifest.layers.length}`;
    return values.quiet ? bytes : progress.show(bytes, label, { length: layer.size });
  });
  const applied = await applyLayers(image, layers, root, limits, say, interrupted);
  await source.close();
  return madeOf(image, applied);
}

/** Opens an image in a file. Throws a Failure with the nearest name if there is no such file. */
export async function openImage(
  archive: ArchiveName,
  scratch: string,
  maxBytes: number,
  { platform = hostPlatform() }: Settings,
) {
  if (archive.path !== '-') statSource(archive.path);
  else if (process.stdin.isTTY) throw new UsageError('standard input is a terminal, not an image');
  const source = await openArchive(archive, { scratch, maxBytes });
  return { source, image: await chooseImage(source, archive.reference ?? '', platform) };
}
