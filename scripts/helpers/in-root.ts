// A root file system looked at and changed from outside, through descriptors only: a path is walked one component at a
// time, and links are followed inside of it, as openat2(2) does with RESOLVE_IN_ROOT. Whoever swaps a directory for a
// link meanwhile leads nowhere but to another place in the same root.
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  type Stats,
} from 'node:fs';
import { Failure, reason } from './cli.ts';

/** open(2): a descriptor that only names a place. Node has no word for it; the value is that of x86-64 and arm64. */
export const O_PATH = 0o10000000;

/** A descriptor of a place in a root, and the path that it has there, without links. */
export interface InRoot {
  fd: number;
  path: string;
  stats: Stats;
}

/**
 * How a path is walked: what is missing is made as this kind; `links: false` refuses a link in any component;
 * `lastLink` stops at a link that is the last component, and gives that itself.
 */
export interface Walk {
  make?: 'directory' | 'file' | undefined;
  links?: boolean;
  lastLink?: boolean;
}

const open = (path: string) => openSync(path, O_PATH | constants.O_NOFOLLOW);

/** Opens a directory of the host, following links: O_PATH, to be walked from. Throws the kernel's error. */
export const openRoot = (path: string) => openSync(path, O_PATH | constants.O_DIRECTORY);

/** The path under which proc(5) has what a descriptor is open on. */
export const ofDescriptor = (fd: number, name?: string) =>
  `/proc/self/fd/${fd}${name === undefined ? '' : `/${name}`}`;

/** Calls `use` with a descriptor of the host's directory `rootfs`. Throws Failure where there is none. */
export function withRoot<Result>(rootfs: string, use: (root: number) => Result): Result {
  let root: number;
  try {
    root = openRoot(rootfs);
  } catch (error) {
    throw new Failure(`cannot open ${rootfs}: ${reason(error)}`);
  }
  try {
    return use(root);
  } finally {
    closeSync(root);
  }
}

/**
 * Where a path leads: the path without links, of which what is missing is as it is written, and the open descriptor and
 * its state where nothing is missing.
 */
type Found = InRoot | { fd: undefined; path: string };

/** Walks a path. Returns undefined where it leads over more than 40 links, path_resolution(7). Throws as openInRoot. */
function walk(root: number, path: string, { make, links = true, lastLink = false }: Walk): Found | undefined {
  const todo = path.split('/').reverse();
  const names: string[] = []; // of what is open, the root itself aside
  const missing: string[] = []; // below that
  const opened = [open(ofDescriptor(root, '.'))];
  const above = () => opened.at(-1) as number;
  let followed = 0;
  let exists = true;
  try {
    while (todo.length > 0) {
      const name = todo.pop() as string;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (missing.pop() === undefined && names.pop() !== undefined) closeSync(opened.pop() as number);
        continue;
      }
      const isLast = todo.every((word) => word === '' || word === '.');
      const fd =
        missing.length > 0
          ? undefined
          : openOrMake(above(), name, make && (isLast ? make : 'directory'), path);
      if (fd === undefined) {
        exists = false;
        missing.push(name);
        continue;
      }
      const stats = fstatSync(fd);
      if (stats.isSymbolicLink() && !(isLast && lastLink)) {
        closeSync(fd);
        if (!links) throw new Failure(`${path} is a symlink`);
        if (++followed > 40) return undefined;
        const target = readLink(above(), name, path);
        if (target.startsWith('/')) for (; names.length > 0; names.pop()) closeSync(opened.pop() as number);
        todo.push(...target.split('/').reverse());
        continue;
      }
      opened.push(fd);
      names.push(name);
      if (isLast || stats.isDirectory()) continue;
      if (make) throw new Failure(`${path}: /${names.join('/')} is no directory`);
      exists = false; // not even its `..`
    }
    if (!exists) return { fd: undefined, path: `/${[...names, ...missing].join('/')}` };
    const fd = opened.pop() as number;
    return { fd, path: `/${names.join('/')}`, stats: fstatSync(fd) };
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/**
 * Opens what `path` leads to for a process whose root directory the descriptor `root` is. The caller closes `fd`.
 * undefined where it is missing and not to be made. Throws Failure for more than 40 links, for a link where there may be
 * none, and for what can't be made or looked at.
 */
export function openInRoot(root: number, path: string, how: Walk = {}): InRoot | undefined {
  const found = walk(root, path, how);
  if (!found) throw new Failure(`${path}: too many symlinks`);
  return found.fd === undefined ? undefined : found;
}

/** The path that a path in a root leads to, without links; what is missing is as it is written. undefined: too many links. */
export function placeInRoot(root: number, path: string): string | undefined {
  const found = walk(root, path, {});
  if (found?.fd !== undefined) closeSync(found.fd);
  return found?.path;
}

/** Opens one component, which is not followed if it is a link. */
function openOrMake(directory: number, name: string, make: Walk['make'], path: string): number | undefined {
  const at = ofDescriptor(directory, name);
  for (let tries = 0; tries < 3; tries++) {
    try {
      return open(at);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOTDIR' && !make) return undefined;
      if (code !== 'ENOENT') throw new Failure(`cannot look at ${path}: ${reason(error)}`);
      if (!make) return undefined;
    }
    try {
      if (make === 'directory') mkdirSync(at);
      // O_EXCL follows no link, open(2)
      else closeSync(openSync(at, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o644));
    } catch (error) {
      // somebody was quicker: what is there now is looked at again
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        throw new Failure(`cannot make ${path}: ${reason(error)}`);
    }
  }
  throw new Failure(`${path} changes while it is looked at`);
}

function readLink(directory: number, name: string, path: string): string {
  try {
    return readlinkSync(ofDescriptor(directory, name));
  } catch {
    throw new Failure(`${path} changes while it is looked at`);
  }
}

/** What `read` makes of the open file that a path in a root leads to; undefined where there is none. */
function look<Result>(root: number, path: string, how: Walk, read: (found: InRoot) => Result) {
  const found = walk(root, path, how);
  if (found?.fd === undefined) return undefined;
  try {
    return read(found);
  } finally {
    closeSync(found.fd);
  }
}

/** What is at a path in a root, or undefined where there is nothing. */
export const statsInRoot = (root: number, path: string, how: Walk = {}): Stats | undefined =>
  look(root, path, how, ({ stats }) => stats);

/**
 * The text of a small file in a root, or undefined where there is none, or what is there is no plain file of at most
 * `limitBytes`: proc(5)'s files have no size, and reading one may wait for ever. Throws Failure where it can't be read.
 */
export function readTextInRoot(root: number, path: string, limitBytes = 1024 ** 2): string | undefined {
  return look(root, path, {}, ({ stats, fd }) => {
    if (!stats.isFile() || stats.size === 0 || stats.size > limitBytes) return undefined;
    try {
      return readFileSync(ofDescriptor(fd), 'utf8');
    } catch (error) {
      throw new Failure(`cannot read ${path}: ${reason(error)}`);
    }
  });
}
