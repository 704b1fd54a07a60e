// The user, variables and working directory of a command in a container, as options give them.
import { Failure, UsageError } from '../helpers/cli.ts';
import { readTextInRoot, withRoot } from '../helpers/in-root.ts';
import { countInherited } from '../helpers/shell.ts';
import { parseNumber } from '../helpers/units.ts';

/** The PATH of a command whose container has none. */
export const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** `KEY=VALUE`, or `KEY` for the caller's variable of that name; '' if the caller has none. */
export function parseVariable(text: string): string {
  const [key = ''] = text.split('=', 1);
  if (key === '' || text.includes('\0')) throw new UsageError(`not KEY=VALUE: "${text}"`);
  if (text.includes('=')) return text;
  const value = process.env[key];
  return value === undefined ? '' : `${key}=${value}`;
}

/** An absolute path in the container. Symlinks and `..` are resolved inside the container's root, later. */
export function parsePath(option: string, text: string): string {
  if (text.startsWith('/') && !/[\0\n]/.test(text)) return text;
  throw new UsageError(
    `--${option}: a path in the container must begin with / and contain no newline, not "${text}"`,
  );
}

/** The working directory of a command in the container. */
export const parseWorkdir = (text: string) => parsePath('workdir', text);

/** The number of descriptors of the caller, from 3 on, that a command keeps. */
export const parseDescriptors = (text: string) => parseNumber('--preserve-fds', text, 0, 100);

/** Throws UsageError if the caller has not opened one of these descriptors, from 3 on. */
export function checkDescriptors(count: number): void {
  const missing = 3 + countInherited();
  if (missing < 3 + count)
    throw new UsageError(
      `--preserve-fds ${count}: descriptor ${missing} is not open: open it in the shell, as by ${missing}<FILE at the end of the line`,
    );
}

/** The text of a small file inside `rootfs`; '' if there is none. */
export const readInRoot = (rootfs: string, path: string): string =>
  withRoot(rootfs, (root) => readTextInRoot(root, path)) ?? '';

/** The user of a process, in numbers: the host does not know the names of the container. */
export interface User {
  uid: number;
  gid: number;
  groups: number[];
  home: string;
}

/**
 * The options of setpriv(1) by which a command becomes a user. `keepsGroups`: setgroups(2) is denied, as in some user
 * namespaces. The change of user clears the death signal, prctl(2); setpriv(1) sets it after that.
 */
export function userOptions({ uid, gid, groups }: User, keepsGroups: boolean): string[] {
  const others = groups.length > 0 ? `--groups=${groups}` : '--clear-groups';
  return [`--reuid=${uid}`, `--regid=${gid}`, keepsGroups ? '--keep-groups' : others, '--pdeathsig=KILL'];
}

/** `USER[:GROUP]` as the user gave it: numbers are IDs, strings are names. */
export interface UserChoice {
  user: number | string;
  /** undefined: the groups that the user has */
  group: number | string | undefined;
}

/**
 * The largest ID: runc and podman go as far, and from 4294967295 on setresuid(2) and setpriv(1) mean something else.
 */
export const maxId = 2_147_483_647;

/** A decimal ID, perhaps with leading zeros; undefined if the word is not an ID. */
function parseId(word: string | undefined): number | undefined {
  const id = word && /^\d+$/.test(word) ? Number(word) : Number.NaN;
  return id <= maxId ? id : undefined;
}

/**
 * Parses `USER[:GROUP]`. A number is an ID, never a name, as in runc and podman. Throws UsageError for an ID out of
 * range, and for an empty user or group.
 */
export function parseUser(text: string): UserChoice {
  const [user = '', group, ...more] = text.split(':');
  const wrong = (what: string) => new UsageError(`not USER[:GROUP]: "${text}": ${what}`);
  if (more.length > 0 || /[\0-\x1f\x7f]/.test(text))
    throw wrong('a name has no control character, and there is one colon at most');
  const read = (what: string, word: string) => {
    if (word === '') throw wrong(`the ${what} is empty`);
    if (!/^[-+]?\d+$/.test(word)) return word;
    const id = parseId(word);
    if (id === undefined) throw wrong(`the ID of a ${what} is a number from 0 to ${maxId}`);
    return id;
  };
  return { user: read('user', user), group: group === undefined ? undefined : read('group', group) };
}

/** A group, by name or ID. Throws UsageError. */
export function parseGroup(text: string): number | string {
  const { group = text } = parseUser(`0:${text}`);
  return group;
}

/** The lines of a container's passwd(5) or group(5), split into fields. The container may have written anything. */
const readRows = (rootfs: string, path: string) =>
  readInRoot(rootfs, path)
    .split('\n')
    .filter((line) => !line.includes('\0'))
    .map((line) => line.split(':'));

/** The users of a container. Lines without valid IDs are ignored, as in the C library. */
const readAccounts = (rootfs: string) =>
  readRows(rootfs, '/etc/passwd').flatMap(([name, , uidText, gidText, , home]) => {
    const [uid, gid] = [parseId(uidText), parseId(gidText)];
    return name && uid !== undefined && gid !== undefined ? [{ name, uid, gid, home: home || '/' }] : [];
  });

/** The groups of a container, in the same way. */
const readGroups = (rootfs: string) =>
  readRows(rootfs, '/etc/group').flatMap(([name, , gidText, members = '']) => {
    const gid = parseId(gidText);
    return name && gid !== undefined ? [{ name, gid, members: members.split(',') }] : [];
  });

/**
 * Finds a user in the container's passwd(5) and group(5). An ID needs no entry; without an entry its group is 0, as in
 * Docker. Throws Failure for an unknown name.
 */
export function findUser(rootfs: string, { user, group }: UserChoice): User {
  const account = readAccounts(rootfs).find(
    ({ name, uid }) => user === (typeof user === 'number' ? uid : name),
  );
  const uid = account?.uid ?? user;
  if (typeof uid !== 'number')
    throw new Failure(`no user ${uid} in ${rootfs}/etc/passwd with IDs from 0 to ${maxId}: give a number`);
  const groups = typeof group === 'number' ? [] : readGroups(rootfs);
  const gid =
    group === undefined ? (account?.gid ?? 0) : (groups.find(({ name }) => name === group)?.gid ?? group);
  if (typeof gid !== 'number')
    throw new Failure(`no group ${gid} in ${rootfs}/etc/group with an ID from 0 to ${maxId}: give a number`);
  // as in Docker, a user has supplementary groups only if no group was given
  const others = groups.filter(
    ({ members }) => group === undefined && account && members.includes(account.name),
  );
  return { uid, gid, groups: [...new Set(others.map((other) => other.gid))], home: account?.home ?? '/' };
}

/** The IDs of groups, by the container's group(5). Throws Failure for an unknown name. */
export function findGroups(rootfs: string, choices: (number | string)[]): number[] {
  const known = choices.some((choice) => typeof choice === 'string') ? readGroups(rootfs) : [];
  return choices.map((choice) => {
    const gid = known.find(({ name }) => name === choice)?.gid ?? choice;
    if (typeof gid === 'number') return gid;
    throw new Failure(`no group ${gid} in ${rootfs}/etc/group with an ID from 0 to ${maxId}: give a number`);
  });
}

/** The name of a user of the container; undefined if passwd(5) has none. */
export const findName = (rootfs: string, uid: number): string | undefined =>
  readAccounts(rootfs).find((account) => account.uid === uid)?.name;

/** The home directory of a user of the container; `/` if passwd(5) has none. */
export const findHome = (rootfs: string, uid: number): string =>
  readAccounts(rootfs).find((account) => account.uid === uid)?.home ?? '/';
