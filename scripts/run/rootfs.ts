// The root file system that a container is started in.
import { statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { UsageError } from '../helpers/cli.ts';
import { statsInRoot, withRoot } from '../helpers/in-root.ts';
import { rootfsFolder } from '../helpers/rootfs.ts';

/** The directory that a ROOTFS operand means: a path, or a name under rootfs/. Throws UsageError if there is none. */
export function findRootfs(operand: string): string {
  const named = join(rootfsFolder, operand);
  for (const path of operand.includes('/') ? [operand] : [operand, named]) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return resolve(path);
  }
  throw new UsageError(`no root file system at ${operand}: make one: fetch-rootfs.ts host: ${operand}`);
}

/** The command that a container gets where none is named: the article's bash where it is, else sh. */
export const defaultShell = (rootfs: string): string =>
  withRoot(rootfs, (root) => statsInRoot(root, '/bin/bash')) ? '/bin/bash' : '/bin/sh';
