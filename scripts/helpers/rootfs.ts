// The directory of named root file systems.
import { readdirSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { attempt } from './pids.ts';

const scriptFolder = dirname(realpathSync(process.argv[1] ?? '.'));

/** Where an installed package keeps data: npm replaces its own folder at each update. XDG Base Directory Specification. */
const dataFolder = () =>
  process.getuid?.() === 0
    ? '/var/lib/barehand'
    : join(process.env.XDG_DATA_HOME || join(homedir(), '.local/share'), 'barehand');

/**
 * The directory of named root file systems: beside scripts/ and dist/; for a package that npm has installed, in
 * /var/lib/barehand, or in the user's data directory; for a script elsewhere, in the working directory.
 */
export const rootfsFolder = scriptFolder.endsWith('/node_modules/barehand/dist')
  ? join(dataFolder(), 'rootfs')
  : /\/(scripts|dist)$/.test(scriptFolder)
    ? join(scriptFolder, '..', 'rootfs')
    : resolve('rootfs');

/** The names of the directories in it; none if there is no such directory. */
export const rootfsNames = (): string[] =>
  (attempt(() => readdirSync(rootfsFolder, { withFileTypes: true })) ?? [])
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'))
    .map(({ name }) => name)
    .sort();
