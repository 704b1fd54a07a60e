// Access to a root file system from outside, by descriptors only. A path is walked one component at a time, and
// symlinks are resolved inside the root, as by openat2(2) with RESOLVE_IN_ROOT. If a process replaces a directory by a
// symlink meanwhile, the walk still ends inside the same root.
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

/**
 * open(2): the descriptor is only a reference to a file. Node has no constant; this is the value on x86-64 and arm64.
 */
export const O_PATH = 0o10000000;

/** An open file in a root, and its path there without symlinks. */
export interface InRoot {
  fd: number;
  path: string;
  stats: Stats;
}

/**
 * Options of a walk. `make`: a missing path is created, the last component as this kind. `links: false` refuses a
 * symlink in any component. `lastLink` does not follow a symlink that is the last component, and opens it itself.
 */
export interface Walk {
  make?: 'directory' | 'file' | undefined;
  links?: boolean;
  lastLink?: boolean;
}

const open = (path: string) => openSync(path, O_PATH | constants.O_NOFOLLOW);

/** Opens a directory of the host with O_PATH, as the start of walks. Follows symlinks. Throws the kernel's error. */
export const openRoot = (path: string) => openSync(path, O_PATH | constants.O_DIRECTORY);

/** The path in proc(5) of the file that a descriptor refers to, or of a name in that directory. */
export const ofDescriptor = (fd: number, name?: string) =>
  `/proc/self/fd/${fd}${name === undefined ? '' : `/${name}`}`;

/** Calls `use` with a descriptor of the host's directory `rootfs`. Throws Failure if it can't be opened. */
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
 * The end of a walk: the path without symlinks, and if it exists the open file. Missing components stay in the path as
 * they are written.
 */
type Found = InRoot | { fd: undefined; path: string };

/** Walks a path. undefined: it has more than 40 symlinks, path_resolution(7). Throws as openInRoot. */
function walk(root: number, path: string, { make, links = true, lastLink = false }: Walk): Found | undefined {
  const todo = path.split('/').reverse();
  const names: string[] = []; // of the components in `opened`, which also has the root
  const missing: string[] = []; // components below those
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
      exists = false; // a file is no directory: not even its `..` exists
    }
    if (!exists) return { fd: undefined, path: `/${[...names, ...missing].join('/')}` };
    const fd = opened.pop() as number;
    return { fd, path: `/${names.join('/')}`, stats: fstatSync(fd) };
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/**
 * Opens the file at `path` in the root directory `root`, a descriptor. The caller closes `fd`. undefined if it does not
 * exist and `make` is not given. Throws Failure for more than 40 symlinks, for a refused symlink, and if a component
 * can't be created or read.
 */
export function openInRoot(root: number, path: string, how: Walk = {}): InRoot | undefined {
  const found = walk(root, path, how);
  if (!found) throw new Failure(`${path}: too many symlinks`);
  return found.fd === undefined ? undefined : found;
}

/** A path in a root without symlinks; missing components stay as they are written. undefined: too many symlinks. */
export function placeInRoot(root: number, path: string): string | undefined {
  const found = walk(root, path, {});
  if (found?.fd !== undefined) closeSync(found.fd);
  return found?.path;
}

/** Opens one component, and does not follow it if it is a symlink. */
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
      // O_EXCL does not follow a symlink, open(2)
      else closeSync(openSync(at, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o644));
    } catch (error) {
      // another process has created it meanwhile: it is opened in the next round
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        throw new Failure(`cannot make ${path}: ${reason(error)}`);
    }
  }
  throw new Failure(`${path} is being replaced by another process: try again`);
}

function readLink(directory: number, name: string, path: string): string {
  try {
    return readlinkSync(ofDescriptor(directory, name));
  } catch {
    throw new Failure(`${path} is being replaced by another process: try again`);
  }
}

/** The result of `read` for the open file at a path in a root; undefined if there is none. */
function look<Result>(root: number, path: string, how: Walk, read: (found: InRoot) => Result) {
  const found = walk(root, path, how);
  if (found?.fd === undefined) return undefined;
  try {
    return read(found);
  } finally {
    closeSync(found.fd);
  }
}

/** The state of the file at a path in a root; undefined if there is none. */
export const statsInRoot = (root: number, path: string, how: Walk = {}): Stats | undefined =>
  look(root, path, how, ({ stats }) => stats);

/**
 * The text of a small file in a root. undefined if there is none, or if it is not a regular file of 1 to `limitBytes`
 * bytes: files of proc(5) have size 0, and reading one may never end. Throws Failure if it can't be read.
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
