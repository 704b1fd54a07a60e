// Looking into a root file system from outside, as a process whose root it is would see it.
import { existsSync, lstatSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Failure, UsageError } from './cli.ts';

const scriptFolder = dirname(realpathSync(process.argv[1] ?? '.'));

/** The folder where named root file systems live: beside scripts/ and dist/, or where a lone script is called. */
export const rootfsFolder = /\/(scripts|dist)$/.test(scriptFolder)
  ? join(scriptFolder, '..', 'rootfs')
  : resolve('rootfs');

/** The directory that a ROOTFS operand means: a path, or a name under rootfs/. Throws UsageError if there is none. */
export function findRootfs(operand: string): string {
  const named = join(rootfsFolder, operand);
  for (const path of operand.includes('/') ? [operand] : [operand, named]) {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return resolve(path);
  }
  throw new UsageError(`no root file system at ${operand}: make one: fetch-rootfs.ts host: ${operand}`);
}

/**
 * Resolves a path inside `rootfs` with the symlinks that are there, as a chroot(2)ed process would: neither `..` nor
 * an absolute link leads out. Returns a host path without symlinks, or undefined if it is missing. What can be
 * changed meanwhile by others may have changed since: for reading, not for deciding what to mount.
 */
export function resolveInRoot(rootfs: string, path: string): string | undefined {
  const todo = path.split('/').reverse();
  const done: string[] = [];
  let links = 0;
  while (todo.length > 0) {
    const name = todo.pop();
    if (!name || name === '.') continue;
    if (name === '..') {
      done.pop();
      continue;
    }
    const here = join(rootfs, ...done, name);
    const stat = lstatSync(here, { throwIfNoEntry: false });
    if (!stat) return undefined;
    if (stat.isSymbolicLink()) {
      if (++links > 40) return undefined; // ELOOP, path_resolution(7)
      const target = readlinkSync(here);
      if (target.startsWith('/')) done.length = 0;
      todo.push(...target.split('/').reverse());
    } else done.push(name);
  }
  return join(rootfs, ...done);
}

/** The text of a file inside `rootfs`, or '' if there is none, or what is there is larger than such files are. */
export function readInRoot(rootfs: string, path: string): string {
  const file = resolveInRoot(rootfs, path);
  const stat = file ? statSync(file) : undefined;
  // proc(5)'s files have no size, and reading one may wait for ever
  return file && stat?.isFile() && stat.size > 0 && stat.size <= 1024 ** 2 ? readFileSync(file, 'utf8') : '';
}

/** Who a process runs as: numbers only, for the host knows nothing of the container's names. */
export interface User {
  uid: number;
  gid: number;
  groups: number[];
  home: string;
}

/**
 * Finds a `USER[:GROUP]`, names or numbers, in the container's own passwd(5) and group(5).
 * A number needs no entry. Throws Failure for a name that is not there.
 */
export function findUser(rootfs: string, text: string): User {
  const [userText = '', groupText] = text.split(':');
  const rows = (path: string) =>
    readInRoot(rootfs, path)
      .split('\n')
      .map((line) => line.split(':'));
  const number = (word: string | undefined) => (word && /^\d{1,10}$/.test(word) ? Number(word) : undefined);
  const passwd = rows('/etc/passwd').find(([name, , uid]) => name === userText || uid === userText);
  const group = rows('/etc/group');
  const uid = number(passwd?.[2]) ?? number(userText);
  if (uid === undefined) throw new Failure(`no user ${userText} in ${rootfs}/etc/passwd: give a number`);
  const gid =
    groupText === undefined
      ? (number(passwd?.[3]) ?? 0)
      : (number(group.find(([name]) => name === groupText)?.[2]) ?? number(groupText));
  if (gid === undefined) throw new Failure(`no group ${groupText} in ${rootfs}/etc/group: give a number`);
  // as Docker does: named supplementary groups only where no group was asked for
  const groups =
    passwd && groupText === undefined
      ? group
          .filter((row) => row[3]?.split(',').includes(passwd[0] as string))
          .flatMap((row) => number(row[2]) ?? [])
      : [];
  return { uid, gid, groups, home: passwd?.[5] || '/' };
}

/** The command that a container gets where none is named: the article's bash where it is, else sh. */
export function defaultShell(rootfs: string): string {
  const bash = resolveInRoot(rootfs, '/bin/bash');
  return bash && existsSync(bash) ? '/bin/bash' : '/bin/sh';
}
