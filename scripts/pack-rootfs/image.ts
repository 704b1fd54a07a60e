// An image of a root file system.
import { readTextInRoot } from '../helpers/in-root.ts';
import { hostPlatform } from '../images/choose.ts';
import { imageFile, type Platform } from '../images/image.ts';
import { type Layer, packImage } from '../images/write.ts';
import type { Making } from './archive.ts';
import { readBase } from './base.ts';
import { type ConfigOptions, makeConfig, parseInherited } from './config.ts';
import type { Entry } from './entries.ts';
import { type LayerCompression, makeLayer } from './layers.ts';
import type { Source } from './source.ts';

/** What the options say of an image. */
export interface ImageOptions extends ConfigOptions {
  base: string | undefined;
  platform: Platform | undefined;
  insecureRegistry: string[];
}

/** Makes an image; its layers are files in `folder`, which has all else that is needed meanwhile too. Throws Failure. */
export async function makeImage(
  source: Source,
  making: Making,
  compression: LayerCompression,
  options: ImageOptions,
  folder: string,
) {
  const text = readTextInRoot(source.root, `/${imageFile}`);
  const own = text === undefined ? undefined : parseInherited(text, `${source.label}/${imageFile}`);
  const platform = options.platform ?? own?.platform ?? hostPlatform();
  const how = { platform, compression, insecure: options.insecureRegistry };
  const base = options.base === undefined ? undefined : await readBase(options.base, how, making, folder);
  const { layer, entries } = await making.still(() =>
    makeLayer(source, making, compression, folder, base && { before: base.entries }),
  );
  if (!layer) making.say(`nothing differs from ${options.base}: no layer is added`);
  const layers: Layer[] = [...(base?.layers ?? []), ...(layer ? [layer] : [])];
  const config = makeConfig(own ?? base?.inherited ?? { config: {} }, options);
  const created = new Date((making.latestSeconds ?? newest(entries)) * 1000);
  return { image: packImage(layers, platform, config, created), layers, entries: entries.length };
}

/** The last second of the year 9999, the last one of a date with four digits (RFC 3339). */
const lastSecond = 253_402_300_799;

/** The time of the newest entry in whole seconds: an image has to have a date, and always the same one. */
const newest = (entries: Entry[]) =>
  entries.reduce(
    (latest, { mtimeSeconds }) => Math.max(latest, Math.min(Math.floor(mtimeSeconds), lastSecond)),
    0,
  );
