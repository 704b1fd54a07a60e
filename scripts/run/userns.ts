// User namespaces: how IDs in a container map to IDs of the host. See user_namespaces(7), subuid(5).
import { readdirSync, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { Failure } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { findProgram } from '../helpers/shell.ts';

/** One line of uid_map: `count` IDs from `inside` on are those of the host from `outside` on. */
export interface Range {
  inside: number;
  outside: number;
  count: number;
}

/** The ID on the host of an ID in the container; undefined if it is not mapped. */
export function outsideId(ranges: Range[], id: number): number | undefined {
  const range = ranges.find(({ inside, count }) => id >= inside && id < inside + count);
  return range && id - range.inside + range.outside;
}

/** The container's user namespace. */
export interface UserNamespace {
  uids: Range[];
  gids: Range[];
  /** only the caller's own IDs are mapped: the container has no other user */
  single: boolean;
  /** the caller is root, who may write the maps; others need newuidmap(1) */
  byRoot: boolean;
}

/** The first range of a user, given by name or ID, in the text of subuid(5) or subgid(5). */
export function subordinateRange(text: string, user: string, uid: number): Range | undefined {
  for (const line of text.split('\n')) {
    const [owner, first, count] = line.trim().split(':');
    if ((owner === user || owner === String(uid)) && Number(count) > 0)
      return { inside: 1, outside: Number(first), count: Number(count) };
  }
  return undefined;
}

/** The namespace of a container that a user without root starts: that user is root inside. */
export function rootlessNamespace(): UserNamespace {
  const uid = process.getuid?.() ?? 0;
  const gid = process.getgid?.() ?? 0;
  const user = attempt(() => userInfo().username) ?? String(uid);
  const range = (file: string) =>
    subordinateRange(attempt(() => readFileSync(file, 'utf8')) ?? '', user, uid);
  const uids = range('/etc/subuid');
  const gids = range('/etc/subgid');
  const mapped = uids && gids && findProgram('newuidmap') && findProgram('newgidmap');
  return {
    uids: [{ inside: 0, outside: uid, count: 1 }, ...(mapped ? [uids] : [])],
    gids: [{ inside: 0, outside: gid, count: 1 }, ...(mapped ? [gids] : [])],
    single: !mapped,
    byRoot: false,
  };
}

/** Number of IDs of a container that root starts, and the first and last base on the host, as in systemd-nspawn(1). */
const idCount = 65536;
const [firstBase, lastBase] = [0x80000, 0x6fff0000];

/**
 * A range of IDs for `--userns` that neither a user namespace of a running process nor subuid(5) uses. The search begins
 * at a hash of the name, so that a container gets the same IDs each time, if they are free.
 */
export function freeNamespace(name: string): UserNamespace {
  const read = (file: string) => attempt(() => readFileSync(file, 'utf8')) ?? '';
  const taken: [first: number, end: number][] = [];
  for (const pid of readdirSync('/proc').filter((word) => /^\d+$/.test(word)))
    for (const line of read(`/proc/${pid}/uid_map`).trim().split('\n')) {
      const [, first = 0, count = 0] = line.trim().split(/\s+/).map(Number);
      if (count < 2 ** 32 - 1) taken.push([first, first + count]);
    }
  for (const line of `${read('/etc/subuid')}\n${read('/etc/subgid')}`.split('\n').filter(Boolean)) {
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

/** Sysctls that forbid user namespaces to users: file, value that forbids, command that allows. */
const locks: [file: string, forbids: string, fix: string][] = [
  ['/proc/sys/kernel/unprivileged_userns_clone', '0', 'sysctl kernel.unprivileged_userns_clone=1'],
  ['/proc/sys/user/max_user_namespaces', '0', 'sysctl user.max_user_namespaces=10000'],
  [
    '/proc/sys/kernel/apparmor_restrict_unprivileged_userns',
    '1',
    'sysctl kernel.apparmor_restrict_unprivileged_userns=0',
  ],
];

/** An error message if a sysctl of this host forbids user namespaces to users; it names the command that allows them. */
export function lockedBy(
  read = (file: string) => attempt(() => readFileSync(file, 'utf8')),
): string | undefined {
  const lock = locks.find(([file, forbids]) => read(file)?.trim() === forbids);
  return lock && `this host forbids user namespaces to users other than root: as root: ${lock[2]}`;
}
