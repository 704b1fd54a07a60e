// OUT is made under another name beside it, then renamed: it exists completely or not at all, even after SIGKILL.
import { existsSync, lstatSync, mkdirSync, realpathSync, renameSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { isBelow } from '../helpers/mounts.ts';
import { findLeftovers, partialOf } from '../helpers/partial.ts';
import { attempt } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import { removeTree } from '../images/confine.ts';

/**
 * Calls `make` with a new directory beside `path`, for what is needed meanwhile. Removes what killed calls of this user for
 * the same path have left.
 */
export async function withFolder<Result>(
  path: string,
  make: (folder: string) => Promise<Result>,
): Promise<Result> {
  const folder = partialOf(path);
  for (const left of findLeftovers(dirname(path), (name) => name === basename(path)))
    if (attempt(() => lstatSync(left).uid) === process.geteuid?.()) await removeTree(left);
  mkdirSync(folder, { mode: 0o700 });
  try {
    return await make(folder);
  } finally {
    await removeTree(folder);
  }
}

/** Has `make` make the file or directory `out` in a directory of its own beside `path`, then puts that in its place. */
export const intoPlace = <Result>(
  path: string,
  make: (folder: string, out: string) => Promise<Result>,
): Promise<Result> =>
  withFolder(path, async (folder) => {
    const out = join(folder, 'out');
    const result = await make(folder, out);
    // rename(2) replaces a file, but no directory that has files
    if (attempt(() => statSync(path).isDirectory())) renameSync(path, join(folder, 'old'));
    renameSync(out, path);
    return result;
  });

/** Throws a Failure where OUT can't be made: it exists, unless `force`, or lies in ROOTFS and would be packed itself. */
export function checkOut(
  path: string,
  kind: 'file' | 'layout',
  force: boolean,
  rootfs: string | undefined,
): void {
  const fail = (why: string) => new Failure(`cannot make ${path}: ${why}`);
  let folder: string;
  try {
    folder = realpathSync(dirname(path));
  } catch (error) {
    throw fail(`${reason(error)}: mkdir -p ${quote(dirname(path))}`);
  }
  if (rootfs && isBelow(folder, realpathSync(rootfs)) && statSync(folder).dev === statSync(rootfs).dev)
    throw fail(`it is inside of ${rootfs}, which is to be packed: choose a path outside`);
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (!stat) return;
  if (!force) throw fail('EEXIST: it already exists: choose another path, or replace it with --force');
  const isLayout = stat.isDirectory() && existsSync(join(path, 'oci-layout'));
  if (kind === 'file' && !stat.isFile())
    throw fail('it exists and is not a regular file: --force replaces nothing else');
  if (kind === 'layout' && !isLayout)
    throw fail('it exists and is not an OCI layout: --force replaces nothing else');
}
