// Mounts in /proc/PID/mountinfo. See proc(5).
import { join } from 'node:path';
import { groupBy, readProc } from './pids.ts';

/** A mount in /proc/PID/mountinfo. */
export interface Mount {
  /** of the mount itself, as in /proc/PID/fdinfo */
  id: number;
  /** of the mount that it is on */
  parent: number;
  device: string;
  /** the directory of the file system that is mounted */
  root: string;
  mountPoint: string;
  /** of this mount: ro, nosuid, nodev ... */
  options: string[];
  /** later mounts of others come in: it is shared or a slave, mount_namespaces(7) */
  receives: boolean;
  type: string;
  /** a device file, or a word */
  source: string;
  superOptions: string;
}

/** Parses the text of a mountinfo, proc(5). */
export function parseMounts(mountinfo: string): Mount[] {
  return mountinfo
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [left = '', right = ''] = line.split(' - ');
      const [id, parent, device = '', root = '', mountPoint = '', options = '', ...peers] = left.split(' ');
      const [type = '', source = '', superOptions = ''] = right.split(' ');
      return {
        id: Number(id),
        parent: Number(parent),
        device,
        options: options.split(','),
        receives: peers.some((peer) => /^(shared|master):/.test(peer)),
        root: unescapeMountinfo(root),
        mountPoint: unescapeMountinfo(mountPoint),
        type,
        source: unescapeMountinfo(source),
        superOptions,
      };
    });
}

/** The mounts of a process; none if it has ended, or this user may not read them. */
export const readMounts = (pid: number | 'self') => parseMounts(readProc(pid, 'mountinfo') ?? '');

/** The mount that a path without symlinks is on: the deepest one above it; of several at the same place, the last. */
export function mountOf(path: string, mounts: Mount[]): Mount | undefined {
  const around = mounts.filter(({ mountPoint }) => isBelow(path, mountPoint));
  const deepest = Math.max(...around.map(({ mountPoint }) => mountPoint.length));
  return around.findLast(({ mountPoint }) => mountPoint.length === deepest);
}

/** The mounts that a path leads to: without those that others hide, on top of them or over a directory above. */
export function visibleMounts(mounts: Mount[]): Mount[] {
  const byId = new Map(mounts.map((mount) => [mount.id, mount]));
  const on = groupBy(mounts, ({ parent }) => parent);
  const isUnder = ({ id, mountPoint }: Mount) =>
    (on.get(id) ?? []).some((top) => top.mountPoint === mountPoint);
  const known = new Map<Mount, boolean>();
  const isReached = (mount: Mount): boolean => {
    const before = known.get(mount);
    if (before !== undefined) return before;
    known.set(mount, true); // the root of a mount namespace may be on itself
    const { parent, mountPoint } = mount;
    const below = byId.get(parent);
    const isOver = (other: Mount) => other.mountPoint !== mountPoint && isBelow(mountPoint, other.mountPoint);
    const result =
      !(on.get(parent) ?? []).some((other) => other !== mount && isOver(other)) &&
      (!below || (isReached(below) && (mountPoint === below.mountPoint || !isUnder(below))));
    known.set(mount, result);
    return result;
  };
  return mounts.filter((mount) => isReached(mount) && !isUnder(mount));
}

/** The paths at which the host has the directory or file that a mount shows: other mounts may hide some of them. */
export const pathsOnHost = ({ device, root }: Mount, hostMounts: Mount[]): string[] =>
  hostMounts
    .filter((host) => host.device === device && isBelow(root, host.root))
    .map((host) =>
      join(host.mountPoint, host.root === '/' ? root : root.slice(host.root.length)).replace(/(?<=.)\/$/, ''),
    );

/** The upper or the first lower directory of an overlay, as whoever mounted it saw it; undefined if it has none. */
export function overlayDirectory(
  { superOptions }: Mount,
  which: 'upperdir' | 'lowerdir',
): string | undefined {
  const path = new RegExp(`(?:^|,)${which}=([^,:]*)`).exec(superOptions)?.[1];
  return path && unescapeMountinfo(path);
}

/** All directories of an overlay, as whoever mounted it saw them. */
export const overlayDirectories = ({ superOptions }: Mount): string[] =>
  [...superOptions.matchAll(/(?:^|,)(?:lowerdir|upperdir|workdir)\+?=([^,]*)/g)]
    .flatMap(([, paths = '']) => paths.split(':'))
    .map(unescapeMountinfo);

/** Undoes the octal escapes of mountinfo, proc(5): `\040` is a space. Bytes above 127 come as they are. */
export function unescapeMountinfo(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Whether a path is a folder or lies in it. */
export const isBelow = (path: string, folder: string) =>
  folder === '/' || path === folder || path.startsWith(`${folder}/`);
