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
const O_PATH = 0o10000000;

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

/**
 * Opens what `path` leads to for a process whose root directory the descriptor `root` is. The caller closes `fd`.
 * undefined where it is missing and not to be made. Throws Failure for more than 40 links, path_resolution(7), for a
 * link where there may be none, and for what can't be made.
 */
export function openInRoot(root: number, path: string, walk: Walk = {}): InRoot | undefined {
  const { make, links = true, lastLink = false } = walk;
  const todo = path.split('/').reverse();
  const names: string[] = [];
  const opened = [open(ofDescriptor(root, '.'))];
  const above = () => opened.at(-1) as number;
  let followed = 0;
  try {
    while (todo.length > 0) {
      const name = todo.pop() as string;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (names.pop() !== undefined) closeSync(opened.pop() as number);
        continue;
      }
      const isLast = todo.every((word) => word === '' || word === '.');
      const fd = openOrMake(above(), name, make && (isLast ? make : 'directory'), path);
      if (fd === undefined) return undefined;
      const stats = fstatSync(fd);
      if (stats.isSymbolicLink() && !(isLast && lastLink)) {
        closeSync(fd);
        if (!links) throw new Failure(`${path} is a symlink`);
        if (++followed > 40) throw new Failure(`${path}: too many symlinks`);
        const target = readLink(above(), name, path);
        if (target.startsWith('/')) for (; names.length > 0; names.pop()) closeSync(opened.pop() as number);
        todo.push(...target.split('/').reverse());
        continue;
      }
      opened.push(fd);
      names.push(name);
      if (!isLast && !stats.isDirectory()) {
        if (make) throw new Failure(`${path}: /${names.join('/')} is no directory`);
        return undefined;
      }
    }
    const fd = opened.pop() as number;
    return { fd, path: `/${names.join('/')}`, stats: fstatSync(fd) };
  } finally {
    for (const fd of opened) closeSync(fd);
  }
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

/**
 * The text of a small file in a root, or undefined where there is none, or what is there is no plain file of at most
 * `limitBytes`: proc(5)'s files have no size, and reading one may wait for ever.
 */
export function readTextInRoot(root: number, path: string, limitBytes = 1024 ** 2): string | undefined {
  const found = openInRoot(root, path);
  if (!found) return undefined;
  try {
    const { stats, fd } = found;
    if (!stats.isFile() || stats.size === 0 || stats.size > limitBytes) return undefined;
    return readFileSync(ofDescriptor(fd), 'utf8');
  } finally {
    closeSync(found.fd);
  }
}
