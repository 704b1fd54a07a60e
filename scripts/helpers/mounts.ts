// Mounts in /proc/PID/mountinfo. See proc(5).
import { readProc } from './pids.ts';

/** A mount in /proc/PID/mountinfo. */
export interface Mount {
  device: string;
  /** the directory of the file system that is mounted */
  root: string;
  mountPoint: string;
  /** of this mount: ro, nosuid, nodev ... */
  options: string[];
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
      const [, , device = '', root = '', mountPoint = '', options = ''] = left.split(' ');
      const [type = '', source = '', superOptions = ''] = right.split(' ');
      return {
        device,
        options: options.split(','),
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
