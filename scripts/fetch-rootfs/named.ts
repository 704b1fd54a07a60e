// The root file systems in rootfs/: where they come from, what uses them, and their removal.
import {
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { scriptPath } from '../helpers/called.ts';
import { Failure } from '../helpers/cli.ts';
import { findContainers, heldContainer, readRoot } from '../helpers/containers.ts';
import { identify } from '../helpers/engine.ts';
import { didYouMean } from '../helpers/messages.ts';
import { isBelow, type Mount, mountOf, overlayDirectories, readMounts } from '../helpers/mounts.ts';
import { partialOf } from '../helpers/partial.ts';
import { attempt, namespaceInode, readProcesses } from '../helpers/pids.ts';
import { rootfsFolder, rootfsNames } from '../helpers/rootfs.ts';
import { quote, runProgram, sh } from '../helpers/shell.ts';
import { removeTree } from '../images/confine.ts';

/** Where a root file system comes from. */
export interface Origin {
  /** SOURCE, without a password */
  source: string;
  /** of the manifest of an image, or of the tarball */
  digest: string | null;
}

/** A root file system in rootfs/. null: nobody knows; it was not made by fetch-rootfs.ts, or cannot be read. */
export interface Named {
  name: string;
  path: string;
  bytes: number | null;
  source: string | null;
  digest: string | null;
  /** when it was fetched, ISO 8601 */
  fetchedAt: string | null;
}

/** Beside the root file system: a container can write to everything that is in it. */
const noteOf = (path: string) => join(dirname(path), `.${basename(path)}.json`);

/** What tells a directory from a later one of the same name: an inode is used again, its time of birth is not. */
function identityOf(path: string): string {
  const { ino, birthtimeNs } = lstatSync(path, { bigint: true });
  return `${ino} ${birthtimeNs}`;
}

/** Remembers where a root file system in rootfs/ comes from. Others are not remembered. */
export function writeOrigin(path: string, { source, digest }: Origin): void {
  if (dirname(path) !== rootfsFolder) return;
  const note = { source, digest, fetchedAt: new Date().toISOString(), identity: identityOf(path) };
  const partial = `${noteOf(path)}.${process.pid}`;
  writeFileSync(partial, `${JSON.stringify(note)}\n`, { mode: 0o644 });
  renameSync(partial, noteOf(path));
}

/** Where a root file system comes from, and when; nothing if it is another directory than the one that was noted. */
function readOrigin(path: string): Pick<Named, 'source' | 'digest' | 'fetchedAt'> {
  const note = attempt(() => JSON.parse(readFileSync(noteOf(path), 'utf8'))) ?? {};
  const isSame = note.identity === attempt(() => identityOf(path));
  const text = (value: unknown) => (isSame && typeof value === 'string' ? value : null);
  return { source: text(note.source), digest: text(note.digest), fetchedAt: text(note.fetchedAt) };
}

/** The root file systems in rootfs/, by name. */
export async function listNamed(): Promise<Named[]> {
  const list: Named[] = [];
  for (const name of rootfsNames()) {
    const path = join(rootfsFolder, name);
    // of one file system, and hard links once, du(1); directories that this user may not read are left out
    const { stdout } = await runProgram(sh`du -skx -- ${path}`);
    const [, kibibytes] = /^(\d+)\s/.exec(stdout) ?? [];
    list.push({ name, path, bytes: kibibytes ? Number(kibibytes) * 1024 : null, ...readOrigin(path) });
  }
  return list;
}

/** The path of a directory in rootfs/. Throws a Failure if there is none of this name. */
export function findNamed(name: string): string {
  const path = join(rootfsFolder, name);
  const stats = name.includes('/') ? undefined : attempt(() => lstatSync(path));
  if (stats?.isDirectory() && rootfsNames().includes(name)) return path;
  if (stats?.isSymbolicLink()) throw new Failure(`${path} is a symlink: type rm ${quote(path)}`);
  const hint = didYouMean(name, rootfsNames()) || `: type ${scriptPath()} ls`;
  throw new Failure(`there is no root file system ${quote(name)} in ${rootfsFolder}${hint}`);
}

/**
 * Removes a root file system in rootfs/. Throws a Failure, and leaves it as it is, if a process or a mount uses it; a user
 * other than root cannot see what other users run.
 */
export async function removeNamed(name: string): Promise<void> {
  const path = findNamed(name);
  const refuse = (why: string | undefined) => {
    if (why) throw new Failure(why);
  };
  refuse(findUse([path]));
  // no container can begin to use it under this name; what a killed call leaves, the next one removes
  const hidden = partialOf(path);
  renameSync(path, hidden);
  try {
    refuse(findUse([hidden, path]));
  } catch (error) {
    renameSync(hidden, path);
    throw error;
  }
  rmSync(noteOf(path), { force: true });
  await removeTree(hidden);
}

/** Removes notes whose root file systems are gone. */
export function sweepNotes(): void {
  for (const entry of readdirSync(rootfsFolder)) {
    const [, name] = /^\.(.+)\.json$/.exec(entry) ?? [];
    if (name && !existsSync(join(rootfsFolder, name))) rmSync(join(rootfsFolder, entry), { force: true });
  }
}

/**
 * What uses a directory, and how to end that; undefined if nothing does: processes whose root directory it is or is in it,
 * mount namespaces and the host's mount table with a mount of it, also as a layer of an overlay. `paths`: the directory,
 * and what it was called before.
 */
function findUse(paths: [string, ...string[]]): string | undefined {
  const all = paths.map((path) => join(realpathSync(dirname(path)), basename(path)));
  const [path = ''] = all;
  const own = statSync(path);
  const isIn = (one: string) => all.some((path) => isBelow(one, path));
  const hostMounts = readMounts('self');
  const around = mountOf(dirname(path), hostMounts);
  // the directory as mountinfo names it: its path in its file system, not in the mount tree
  const place = around && join(around.root, relative(around.mountPoint, path));
  const isOf = (mount: Mount) =>
    (place !== undefined && mount.device === around?.device && isBelow(mount.root, place)) ||
    (mount.type === 'overlay' && [mount.source, ...overlayDirectories(mount)].some(isIn));

  const mounted = hostMounts.find((mount) => isOf(mount) || isIn(mount.mountPoint));
  if (mounted)
    return `it is mounted, or has a mount, at ${mounted.mountPoint}: type umount ${quote(mounted.mountPoint)}`;

  const table = readProcesses();
  const ownNamespace = attempt(() => statSync('/proc/self/ns/mnt').ino);
  const byNamespace = new Map<number | undefined, boolean>([[ownNamespace, false]]);
  const isUser = (pid: number) => {
    const root = attempt(() => readRoot(pid));
    if (root && root.stats.dev === own.dev && (root.stats.ino === own.ino || isIn(root.path))) return true;
    const namespace = namespaceInode(pid, 'mnt');
    if (namespace === undefined) return false;
    const known = byNamespace.get(namespace) ?? readMounts(pid).some(isOf);
    byNamespace.set(namespace, known);
    return known;
  };
  const users = [...table.values()].filter(
    ({ pid, kernelThread, zombie }) => !kernelThread && !zombie && isUser(pid),
  );
  if (users.length === 0) return undefined;

  const { containers } = findContainers(table);
  const targets = new Map<string, string>();
  for (const { pid, name: command } of users) {
    const container =
      containers.findLast(({ members }) => members.has(pid)) ?? heldContainer(containers, pid);
    const { engine, name } = container ? identify(table, container) : {};
    const first = container?.first.pid ?? pid;
    if (engine === 'barehand' && name) targets.set(name, name);
    else targets.set(String(first), `process ${first} (${name ?? table.get(first)?.name ?? command})`);
  }
  const shown = [...targets.values()].slice(0, 5).join(', ');
  const targetWords = [...targets.keys()].slice(0, 5).map(quote).join(' ');
  return `${shown}${targets.size > 5 ? ' and others' : ''} ${targets.size === 1 ? 'uses' : 'use'} it: type ${scriptPath('stop')} ${targetWords}`;
}
