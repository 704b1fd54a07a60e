// From an image to a root file system: its layers, verified, one over the other.
import { fetchLayers, type LayerOptions } from './cache.ts';
import type { Image } from './image.ts';
import { type Applied, applyLayers, type LayerLimits } from './layers.ts';

/**
 * Makes a root file system of an image in the empty directory `root`. A layer is unpacked while those above it are still
 * read. Throws a Failure, or what `interrupted` throws; `root` is to be thrown away then.
 */
export const fillFromImage = (
  image: Image,
  root: string,
  options: LayerOptions & { limits: LayerLimits },
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Applied> =>
  applyLayers(image, fetchLayers(image, options), root, options.limits, say, interrupted);
