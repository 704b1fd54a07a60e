// Where this user may make cgroups, and what to type if that is not possible. See cgroups(7), Delegation.
import { accessSync, constants, existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { hasCapability } from '../helpers/capabilities.ts';
import { type Hierarchy, noHierarchy, offeredControllers, parent, processesOf } from '../helpers/cgroups.ts';
import { reason } from '../helpers/cli.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt, readProc } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import { limitNames, limits, readLimit } from './table.ts';

/** Whether this user may write to a file, or create files in a directory. */
export const isWritable = (path: string) => attempt(() => accessSync(path, constants.W_OK) ?? true) ?? false;

/** The command that moves the processes of a v2 cgroup to one below it, called `name`. */
function clearCommand(directory: string, pids: number[], name: string): string {
  const to = join(directory, name);
  const isCaller = pids.every((pid) => pid === process.ppid);
  const move = isCaller
    ? `echo $$ > ${to}/cgroup.procs`
    : `for pid in ${pids.join(' ')}; do echo $pid > ${to}/cgroup.procs; done`;
  return `mkdir -p ${to} && ${move}`;
}

/**
 * Why root can't make containers' cgroups in these hierarchies: a sentence that ends with what to do. undefined: nothing
 * is in the way.
 */
export function whyNoCgroups(hierarchies: Hierarchy[]): string | undefined {
  const elsewhere = 'in a container, start that with --privileged; else run this on the host';
  if (!hasCapability('self', 'CapEff', 'sys_admin'))
    return `a container needs CAP_SYS_ADMIN, which root does not have here, capabilities(7): ${elsewhere}`;
  if (hierarchies.length === 0) return noHierarchy;
  for (const { mountPoint } of hierarchies)
    try {
      accessSync(mountPoint, constants.W_OK);
    } catch (error) {
      const remount = `mount -o remount,bind,rw ${mountPoint}`;
      const { code } = error as NodeJS.ErrnoException;
      return `cannot make cgroups in ${mountPoint}: ${reason(error)}: ${code === 'EROFS' ? `${remount}; ` : ''}${elsewhere}`;
    }
  // only the root of the whole tree, which has no cgroup.events, may have processes and enable controllers
  const v2 = hierarchies.find(({ version }) => version === 2)?.mountPoint;
  const pids = v2 && existsSync(join(v2, 'cgroup.events')) ? processesOf(v2) : [];
  const others = pids.filter((pid) => pid !== process.pid);
  if (!v2 || pids.length === 0 || offeredControllers(v2).length === 0) return undefined;
  return `cannot make cgroups in ${v2}: processes are in it, and such a cgroup enables no controllers for those below it, cgroups(7): ${clearCommand(v2, others, 'init')}`;
}

/** Where a user may make cgroups, or why not. Both are undefined if nothing is delegated to this user. */
export interface Delegation {
  base?: string | undefined;
  refusal?: string | undefined;
}

/**
 * The cgroup below which this user may make one for the processes `members` of the cgroup `origin`. For root it is the
 * top of the hierarchy. For other users it is the nearest one, from `origin` upwards, that is delegated to them, has
 * the controllers, and in v2 no processes but these, cgroups(7).
 */
export function findDelegation(
  { mountPoint, version }: Hierarchy,
  origin: string,
  members: Set<number>,
  controllers: string[],
): Delegation {
  if (process.getuid?.() === 0) return { base: mountPoint };
  let refusal: string | undefined;
  let shared: string | undefined;
  for (let at = origin; at.startsWith(mountPoint); at = dirname(at)) {
    if (!isWritable(at) || !isWritable(join(at, 'cgroup.procs'))) break;
    if (basename(at) === parent) continue;
    const offered = version === 1 ? controllers : offeredControllers(at);
    const missing = controllers.filter((word) => !offered.includes(word));
    const strangers = processesOf(at).filter((pid) => !members.has(pid));
    if (missing.length === 0 && strangers.length === 0) return { base: at };
    const names = strangers.map((pid) => `${readProc(pid, 'comm')?.trim() ?? '?'} (PID ${pid})`);
    if (missing.length > 0)
      refusal = `${at} is delegated to you without ${missing.join(', ')}: as root, systemctl edit user@.service with [Service] Delegate=cpu cpuset io memory pids`;
    else {
      shared ??= at;
      refusal = `${at} is delegated to you, but ${names.join(', ')} ${names.length > 1 ? 'are' : 'is'} in it, and a cgroup with processes enables no controllers for those below it, cgroups(7): ${clearCommand(at, strangers, 'shell')}`;
    }
  }
  return { base: version === 1 ? shared : undefined, refusal };
}

/**
 * The cgroup below which one is made for the processes `members`, which are a part of a container. It is in the
 * container's cgroup `within`, whose limits then hold for the part too: the nearest cgroup, from `origin` upwards, that
 * this user may write to and that can limit cgroups below it. In v2 that one has no processes but these, cgroups(7).
 */
export function findWithin(
  { version, mountPoint }: Hierarchy,
  origin: string,
  within: string,
  members: Set<number>,
  controllers: string[],
): Delegation {
  if (version === 1) return findWithinV1(mountPoint, origin, controllers);
  let refusal: string | undefined;
  for (let at = origin; isBelow(at, within); at = dirname(at)) {
    if (!isWritable(at) || !isWritable(join(at, 'cgroup.procs'))) break;
    if (basename(at) === parent) continue;
    const offered = offeredControllers(at);
    const missing = controllers.filter((word) => !offered.includes(word));
    const isShared = processesOf(at).some((pid) => !members.has(pid));
    if (missing.length === 0 && !isShared) return { base: at };
    const [to, from] = [quote(join(at, 'init')), quote(join(at, 'cgroup.procs'))];
    const clear = `mkdir -p ${to} && for pid in $(cat ${from}); do echo $pid > ${to}/cgroup.procs; done`;
    refusal =
      missing.length > 0
        ? `the cgroup of its container, ${at}, is without ${missing.join(', ')}: limit the container as a whole`
        : `a part of a container needs a cgroup in the container's, but processes are in ${at} itself, and such a cgroup enables no controllers for those below it, cgroups(7): limit the container as a whole, or first: ${clear}`;
  }
  return { refusal };
}

/** v1 limits any cgroup below another, except that a limit of I/O does not apply to those below, blkio-controller. */
function findWithinV1(mountPoint: string, origin: string, controllers: string[]): Delegation {
  if (!isWritable(origin)) return {};
  const names = limitNames.filter((name) => limits[name].controller === 'io');
  for (let at = origin; controllers.includes('io') && at !== mountPoint; at = dirname(at))
    if (names.some((name) => readLimit(name, 1, at).length > 0))
      return {
        refusal: `cgroup v1 does not apply a limit of I/O to cgroups below: a part of the container would escape that of ${at}: limit the container as a whole`,
      };
  return { base: origin };
}
