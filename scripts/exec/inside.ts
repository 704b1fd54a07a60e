// Who a command in a container is, and what it may do: what the container's first process is and may do.
import { capabilities } from '../helpers/capabilities.ts';
import { Failure } from '../helpers/cli.ts';
import { hasBit, readProc, statusField } from '../helpers/pids.ts';
import { seccompRules } from '../helpers/seccomp/seccomp.ts';
import { findHome, findUser, type User, type UserChoice } from '../run/command.ts';

/** Maps an ID by the text of a uid_map, user_namespaces(7); undefined if the map does not have it. */
function mapped(map: string, id: number, from: 'inside' | 'outside'): number | undefined {
  for (const line of map.trim().split('\n')) {
    const [inside = 0, outside = 0, count = 0] = line.trim().split(/\s+/).map(Number);
    const [first, other] = from === 'inside' ? [inside, outside] : [outside, inside];
    if (id >= first && id < first + count) return id - first + other;
  }
  return undefined;
}

/** Limits of a command's privileges. `isRoot`: the first process and the command are root in the container. */
function planLimits(pid: number, isRoot: boolean) {
  // root gets the whole bounding set at each execve(2): if the first process is root and has less, that is the limit
  const sets = ['CapBnd', ...(isRoot ? ['CapPrm'] : [])].map((name) => statusField(pid, name));
  const bits = Array.from({ length: 64 }, (_, bit) => bit);
  const bounding = bits.filter((bit) => sets.every((set) => hasBit(set, bit)));
  const names = bounding.flatMap((bit) => capabilities[bit] ?? []);
  const rules = statusField(pid, 'Seccomp') === '2' ? seccompRules(process.arch, names) : [];
  if (!rules)
    throw new Failure(
      `the container has a seccomp filter, and exec.ts has none for ${process.arch}: --privileged runs COMMAND without one`,
    );
  const label = readProc(pid, 'attr/current');
  return {
    /** the capabilities of the bounding set, by their bits */
    bounding,
    noNewPrivileges: statusField(pid, 'NoNewPrivs') === '1',
    /** rules of the seccomp filter; none: no filter */
    rules,
    /** the first process has another profile of AppArmor or label of SELinux than the caller */
    confined: Boolean(label) && label !== readProc('self', 'attr/current'),
  };
}

/**
 * User and privileges of a command in a container: those of its first process, `pid`, unless options say otherwise.
 * `needsHome`: its environment has no HOME. Throws Failure.
 */
export function planInside(
  pid: number,
  inUserNamespace: boolean,
  needsHome: boolean,
  choice: UserChoice | undefined,
  privileged: boolean,
) {
  const root = `/proc/${pid}/root`;
  const numbers = (name: string) => statusField(pid, name).split(/\s+/).filter(Boolean).map(Number);
  const [, ownUid] = numbers('Uid');
  const [, ownGid] = numbers('Gid');
  if (ownUid === undefined || ownGid === undefined) throw new Failure(`process ${pid} has ended`);
  const map = (file: 'uid_map' | 'gid_map', id: number, from: 'inside' | 'outside') =>
    inUserNamespace ? mapped(readProc(pid, file) ?? '', id, from) : id;
  const ownUser = (): User => {
    const [uid, gid] = [map('uid_map', ownUid, 'outside'), map('gid_map', ownGid, 'outside')];
    if (uid === undefined || gid === undefined)
      throw new Failure(
        `the user of process ${pid} has no ID in its own user namespace: choose another with -u`,
      );
    const groups = numbers('Groups').flatMap((group) => map('gid_map', group, 'outside') ?? []);
    return { uid, gid, groups, home: needsHome ? findHome(root, uid) : '' };
  };
  const chosenUser = (): User | undefined => {
    try {
      return choice && findUser(root, choice);
    } catch (error) {
      throw new Failure((error as Error).message.replace(root, 'the container: '));
    }
  };
  const user = chosenUser() ?? ownUser();
  const hostUid = map('uid_map', user.uid, 'inside');
  if (hostUid === undefined || map('gid_map', user.gid, 'inside') === undefined)
    throw new Failure(
      `user ${user.uid}:${user.gid} is not mapped in the container's user namespace: see /proc/${pid}/uid_map`,
    );
  const isRoot = ownUid === hostUid && ownUid === map('uid_map', 0, 'inside');
  return {
    /** IDs in the container; `hostUid` is the same user on the host */
    user,
    hostUid,
    /** user_namespaces(7): setgroups(2) is denied in the namespace */
    setgroupsDenied: inUserNamespace && readProc(pid, 'setgroups')?.trim() === 'deny',
    limits: privileged ? undefined : planLimits(pid, isRoot),
  };
}

export type Inside = ReturnType<typeof planInside>;
