// The directory of named root file systems.
import { realpathSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

const scriptFolder = dirname(realpathSync(process.argv[1] ?? '.'));

/**
 * The directory of named root file systems: beside scripts/ and dist/; for a script elsewhere, in the working
 * directory.
 */
export const rootfsFolder = /\/(scripts|dist)$/.test(scriptFolder)
  ? join(scriptFolder, '..', 'rootfs')
  : resolve('rootfs');
