// User namespaces: maps from a container's user and group IDs to those of the host, user_namespaces(7), subuid(5).
import { readFileSync, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import { dirname } from 'node:path';
import { Failure, UsageError } from '../helpers/cli.ts';
import { attempt, readPids } from '../helpers/pids.ts';
import { findProgram, quote } from '../helpers/shell.ts';
import type { User } from './command.ts';

/** One line of uid_map: `count` IDs of the container, from `inside` on, are the host's IDs from `outside` on. */
export interface Range {
  inside: number;
  outside: number;
  count: number;
}

/** The container's user namespace. */
export interface UserNamespace {
  uids: Range[];
  gids: Range[];
  /** the maps have the caller's own IDs only: the container's only user is root */
  single: boolean;
  /** the caller is root, who may write any map; other users need newuidmap(1) */
  byRoot: boolean;
}

/** The ID on the host of a container's ID. undefined if the maps do not have it. Without maps the IDs are the same. */
export function hostId(ranges: Range[] | undefined, id: number): number | undefined {
  if (!ranges) return id;
  const range = ranges.find(({ inside, count }) => id >= inside && id < inside + count);
  return range && id - range.inside + range.outside;
}

/** The container's ID of an ID on the host: the inverse of hostId. */
export const containerId = (ranges: Range[] | undefined, id: number): number | undefined =>
  hostId(
    ranges?.map(({ inside, outside, count }) => ({ inside: outside, outside: inside, count })),
    id,
  );

/** The ranges in the text of a uid_map or gid_map. */
export const parseIdMap = (text: string): Range[] =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [inside = 0, outside = 0, count = 0] = line.trim().split(/\s+/).map(Number);
      return { inside, outside, count };
    });

/** The ranges as words of newuidmap(1). */
export const mapWords = (ranges: Range[]): string[] =>
  ranges.flatMap(({ inside, outside, count }) => [inside, outside, count].map(String));

/** The ranges as the text of uid_map or gid_map, which is written at once, user_namespaces(7). */
export const mapText = (ranges: Range[]): string =>
  ranges.map((range) => mapWords([range]).join(' ')).join('\n');

/** The text of a file, or an empty text if the file can't be read. */
const readText = (file: string) => attempt(() => readFileSync(file, 'utf8')) ?? '';

/** The first range of a user, whom subuid(5) or subgid(5) names by name or ID, in the text of such a file. */
export function subordinateRange(text: string, user: string, uid: number): Range | undefined {
  for (const line of text.split('\n')) {
    const [owner, first, count] = line.trim().split(':');
    if ((owner === user || owner === String(uid)) && Number(count) > 0)
      return { inside: 1, outside: Number(first), count: Number(count) };
  }
  return undefined;
}

/**
 * The user namespace of a container. undefined: the container shares the host's, since root starts it without --userns.
 * Throws Failure if this host forbids user namespaces to this user.
 */
export function findUserNamespace(
  name: string,
  userns: boolean,
  uidmap: Range[] = [],
  gidmap: Range[] = [],
): UserNamespace | undefined {
  const isMapped = uidmap.length + gidmap.length > 0;
  if (process.getuid?.() === 0)
    return isMapped ? givenNamespace(uidmap, gidmap) : userns ? freeNamespace(name) : undefined;
  if (isMapped)
    throw new UsageError(
      '--uidmap and --gidmap need root: other users have the IDs of /etc/subuid and /etc/subgid',
    );
  const locked = lockedBy();
  if (locked) throw new Failure(locked);
  return rootlessNamespace();
}

/** The user namespace with these maps. As in Podman, one map without the other is for both. Throws UsageError. */
function givenNamespace(uidmap: Range[], gidmap: Range[]): UserNamespace {
  const uids = uidmap.length > 0 ? uidmap : gidmap;
  const gids = gidmap.length > 0 ? gidmap : uidmap;
  for (const [option, ranges] of [
    ['--uidmap', uids],
    ['--gidmap', gids],
  ] as const) {
    if (hostId(ranges, 0) === undefined)
      throw new UsageError(`${option}: the container has no ID 0: add 0:HOST-ID:1, for its root`);
    // uid_map takes 340 lines, user_namespaces(7)
    if (ranges.length > 340) throw new UsageError(`${option}: ${ranges.length} ranges: at most 340`);
    for (const side of ['inside', 'outside'] as const)
      for (const [index, one] of ranges.entries())
        for (const other of ranges.slice(0, index))
          if (one[side] < other[side] + other.count && other[side] < one[side] + one.count)
            throw new UsageError(
              `${option}: ${mapWords([other]).join(':')} and ${mapWords([one]).join(':')} overlap`,
            );
  }
  return { uids, gids, single: false, byRoot: true };
}

/** The user namespace of a container that a user other than root starts. This user is root in the container. */
export function rootlessNamespace(): UserNamespace {
  const uid = process.getuid?.() ?? 0;
  const gid = process.getgid?.() ?? 0;
  const user = attempt(() => userInfo().username) ?? String(uid);
  const uids = subordinateRange(readText('/etc/subuid'), user, uid);
  const gids = subordinateRange(readText('/etc/subgid'), user, uid);
  const mapped = uids && gids && findProgram('newuidmap') && findProgram('newgidmap');
  return {
    uids: [{ inside: 0, outside: uid, count: 1 }, ...(mapped ? [uids] : [])],
    gids: [{ inside: 0, outside: gid, count: 1 }, ...(mapped ? [gids] : [])],
    single: !mapped,
    byRoot: false,
  };
}

/** Number of IDs in a range for --userns. Lowest and highest start of a range on the host, as in systemd-nspawn(1). */
const idCount = 65536;
const [firstBase, lastBase] = [0x80000, 0x6fff0000];

/**
 * The user namespace for `--userns`. Its range of IDs is in no user namespace of a running process and in no line of
 * subuid(5) and subgid(5). The search begins at a hash of the name, so a container gets the same IDs each time, if they
 * are free. Throws Failure if all ranges are in use.
 */
export function freeNamespace(name: string): UserNamespace {
  const taken: [first: number, end: number][] = [];
  for (const pid of readPids())
    for (const { outside, count } of parseIdMap(readText(`/proc/${pid}/uid_map`)))
      if (count < 2 ** 32 - 1) taken.push([outside, outside + count]);
  for (const line of `${readText('/etc/subuid')}\n${readText('/etc/subgid')}`.split('\n').filter(Boolean)) {
    const [, first = 0, count = 0] = line.split(':').map(Number);
    taken.push([first, first + count]);
  }
  const slots = Math.floor((lastBase - firstBase) / idCount) + 1;
  const start = [...name].reduce((hash, letter) => (hash * 31 + letter.charCodeAt(0)) >>> 0, 7) % slots;
  for (let tries = 0; tries < slots; tries++) {
    const base = firstBase + ((start + tries) % slots) * idCount;
    if (taken.some(([first, end]) => first < base + idCount && base < end)) continue;
    const map = [{ inside: 0, outside: base, count: idCount }];
    return { uids: map, gids: map, single: false, byRoot: true };
  }
  throw new Failure(
    'no range of 65536 user IDs is free on this host: see /proc/*/uid_map, /etc/subuid and /etc/subgid',
  );
}

/** Sysctls that can forbid user namespaces to users: file, value that forbids them, command that allows them. */
const locks: [file: string, forbids: string, fix: string][] = [
  ['/proc/sys/kernel/unprivileged_userns_clone', '0', 'sysctl kernel.unprivileged_userns_clone=1'],
  ['/proc/sys/user/max_user_namespaces', '0', 'sysctl user.max_user_namespaces=10000'],
  [
    '/proc/sys/kernel/apparmor_restrict_unprivileged_userns',
    '1',
    'sysctl kernel.apparmor_restrict_unprivileged_userns=0',
  ],
];

/** The message if a sysctl of this host forbids user namespaces to users. It names the command that allows them. */
export function lockedBy(
  read = (file: string) => attempt(() => readFileSync(file, 'utf8')),
): string | undefined {
  const lock = locks.find(([file, forbids]) => read(file)?.trim() === forbids);
  return lock && `this host forbids user namespaces to users other than root: as root: ${lock[2]}`;
}

/**
 * Calls `act` with the effective user and group of the container's root, for root of the host. Without supplementary
 * groups: a group of the host's root would open directories that are closed to the container's.
 */
export function asContainerRoot<Value>({ uids, gids }: UserNamespace, act: () => Value): Value {
  const groups = process.getgroups?.() ?? [];
  try {
    process.setgroups?.([]);
    process.setegid?.(hostId(gids, 0) as number);
    process.seteuid?.(hostId(uids, 0) as number);
    return act();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(groups);
  }
}

/**
 * The message if a directory above one of these paths is closed to the container's root, who is an unprivileged user of
 * the host and has to enter all of them, path_resolution(7). The caller is root.
 */
export function unreachable(paths: string[], namespace: UserNamespace): string | undefined {
  const above = (path: string): string[] => (path === '/' ? [] : [...above(dirname(path)), dirname(path)]);
  const isClosed = (directory: string) => {
    try {
      statSync(`${directory}/.`);
      return false;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'EACCES';
    }
  };
  const directories = [...new Set(paths.flatMap(above))];
  // root of a user namespace may not have these users: the launch says that
  const closed = attempt(() => asContainerRoot(namespace, () => directories.find(isClosed)));
  if (closed === undefined) return undefined;
  const path = paths.find((one) => above(one).includes(closed));
  return `the container's root is user ${hostId(namespace.uids, 0)} of this host, who may not enter ${closed}, which ${path} lies below: chmod o+x ${quote(closed)}`;
}

/** Throws Failure if the container's user namespace does not map the user and the user's groups. */
export function checkUser({ uid, gid, groups }: User, namespace: UserNamespace | undefined): void {
  if (!namespace) return;
  const { uids, gids, single } = namespace;
  // with a single user, setgroups(2) is denied, and the other groups are not set
  const usedGroups = [gid, ...(single ? [] : groups)];
  if (hostId(uids, uid) !== undefined && usedGroups.every((group) => hostId(gids, group) !== undefined))
    return;
  if (single)
    throw new Failure(
      'there is only one user in this container, 0: for others you need a line in /etc/subuid and /etc/subgid, and newuidmap(1)',
    );
  const list = (ranges: Range[]) =>
    ranges.map(({ inside, count }) => `${inside} to ${inside + count - 1}`).join(', ');
  throw new Failure(
    `user ${uid} with the groups ${[gid, ...groups]} is not in this container's user namespace: it has the users ${list(uids)} and the groups ${list(gids)}`,
  );
}
