// Who a command in a container is, and what it may do: what the container's first process is and may do.
import { capabilities } from '../helpers/capabilities.ts';
import { Failure } from '../helpers/cli.ts';
import { fieldOf, hasBit, readProc } from '../helpers/pids.ts';
import { seccompRules } from '../helpers/seccomp/seccomp.ts';
import { findHome, findUser, type User, type UserChoice } from '../run/command.ts';
import { containerId, hostId, parseIdMap } from '../run/userns.ts';

/**
 * Limits of a command's privileges: those of the first process, whose /proc/PID/status is `status`. `isRoot`: that process
 * and the command are root in the container.
 */
function planLimits(pid: number, status: string, isRoot: boolean) {
  // root gets the whole bounding set at each execve(2): if the first process is root and has less, that is the limit
  const sets = ['CapBnd', ...(isRoot ? ['CapPrm'] : [])].map((name) => fieldOf(status, name));
  const bits = Array.from({ length: 64 }, (_, bit) => bit);
  const bounding = bits.filter((bit) => sets.every((set) => hasBit(set, bit)));
  const names = bounding.flatMap((bit) => capabilities[bit] ?? []);
  const rules = fieldOf(status, 'Seccomp') === '2' ? seccompRules(process.arch, names) : [];
  if (!rules)
    throw new Failure(
      `the container has a seccomp filter, and exec.ts has none for ${process.arch}: --privileged runs COMMAND without one`,
    );
  const label = readProc(pid, 'attr/current');
  return {
    /** the capabilities of the bounding set, by their bits */
    bounding,
    noNewPrivileges: fieldOf(status, 'NoNewPrivs') === '1',
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
  const status = readProc(pid, 'status') ?? '';
  const numbers = (name: string) => fieldOf(status, name).split(/\s+/).filter(Boolean).map(Number);
  const [, ownUid] = numbers('Uid');
  const [, ownGid] = numbers('Gid');
  if (ownUid === undefined || ownGid === undefined) throw new Failure(`process ${pid} has ended`);
  // user_namespaces(7); without a user namespace of its own, the IDs are those of the host
  const readMap = (file: 'uid_map' | 'gid_map') =>
    inUserNamespace ? parseIdMap(readProc(pid, file) ?? '') : undefined;
  const [uids, gids] = [readMap('uid_map'), readMap('gid_map')];
  const ownUser = (): User => {
    const [uid, gid] = [containerId(uids, ownUid), containerId(gids, ownGid)];
    if (uid === undefined || gid === undefined)
      throw new Failure(
        `the user of process ${pid} has no ID in its own user namespace: choose another with -u`,
      );
    const groups = numbers('Groups').flatMap((group) => containerId(gids, group) ?? []);
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
  const hostUid = hostId(uids, user.uid);
  if (hostUid === undefined || hostId(gids, user.gid) === undefined)
    throw new Failure(
      `user ${user.uid}:${user.gid} is not mapped in the container's user namespace: see /proc/${pid}/uid_map`,
    );
  const isRoot = ownUid === hostUid && ownUid === hostId(uids, 0);
  return {
    /** IDs in the container; `hostUid` is the same user on the host */
    user,
    hostUid,
    /** user_namespaces(7): setgroups(2) is denied in the namespace */
    setgroupsDenied: inUserNamespace && readProc(pid, 'setgroups')?.trim() === 'deny',
    limits: privileged ? undefined : planLimits(pid, status, isRoot),
  };
}

export type Inside = ReturnType<typeof planInside>;
