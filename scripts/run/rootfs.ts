// The root file system that a container is started in.
import { readdirSync, statSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { scriptPath } from '../helpers/called.ts';
import { Failure, reason, UsageError } from '../helpers/cli.ts';
import { statsInRoot, withRoot } from '../helpers/in-root.ts';
import { didYouMean } from '../helpers/messages.ts';
import { attempt } from '../helpers/pids.ts';
import { rootfsFolder } from '../helpers/rootfs.ts';
import { quote } from '../helpers/shell.ts';

/** Whether a path is a directory. Throws Failure if this user may not know. */
function isDirectory(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch (error) {
    const hint =
      (error as NodeJS.ErrnoException).code === 'EACCES'
        ? `: a directory above it is closed to you: namei -l ${quote(path)}`
        : '';
    throw new Failure(`cannot use ${path} as a root file system: ${reason(error)}${hint}`);
  }
}

/** The directory that a ROOTFS operand means: a path, or a name under rootfs/. Throws UsageError if there is none. */
export function findRootfs(operand: string): string {
  const named = join(rootfsFolder, operand);
  for (const path of operand.includes('/') ? [operand] : [operand, named])
    if (isDirectory(path)) return resolve(path);
  throw new UsageError(noRootfs(operand));
}

/** Alpine's smallest root file system, whose URL is stable. */
const alpine = () => {
  const arch = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  return `https://dl-cdn.alpinelinux.org/alpine/v3.20/releases/${arch}/alpine-minirootfs-3.20.3-${arch}.tar.gz`;
};

/** Why there is no root file system by that name or path, and what to type to get one. */
function noRootfs(operand: string): string {
  const fetch = scriptPath('fetch-rootfs');
  // it may be a path that this user may not search, or that is none at all
  if (attempt(() => statSync(operand).isFile()))
    return `${operand} is a file: to unpack a tarball, type ${fetch} ${quote(operand)}`;
  const missing = `no root file system at ${operand}`;
  const entries = attempt(() => readdirSync(rootfsFolder, { withFileTypes: true })) ?? [];
  const known = entries
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'))
    .map(({ name }) => name);
  const inFolder = resolve(dirname(operand)) === resolve(rootfsFolder) && operand.includes('/');
  const meant = didYouMean(basename(operand), known, inFolder ? `${dirname(operand)}/` : '');
  if (meant) return missing + meant;
  const folder = relative('', rootfsFolder);
  const there = `${missing}; ${folder.startsWith('..') ? rootfsFolder : folder || '.'} has ${known.slice(0, 5).join(', ') || 'none'}`;
  if (operand === 'alpine') return `${there}: type ${fetch} ${alpine()} alpine`;
  return `${there}: to make one of this host's programs, type ${fetch} host: ${quote(operand)}`;
}

/** The command that a container gets where none is named: /bin/bash if ROOTFS has it, else /bin/sh. */
export const defaultShell = (rootfs: string): string =>
  withRoot(rootfs, (root) => statsInRoot(root, '/bin/bash')) ? '/bin/bash' : '/bin/sh';
