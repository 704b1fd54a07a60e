// The disk of a device file or of a path: the kernel limits the I/O of whole disks. See lsblk(8), sysfs(5).
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure } from '../helpers/cli.ts';
import { mountOf, overlayDirectory, readMounts } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';

/** A disk whose I/O can be limited, and how it was found. */
interface Disk {
  /** MAJ:MIN */
  device: string;
  name: string;
  /** the file system that led to it, such as btrfs, which may span several disks; '' if /sys has the device number */
  type: string;
}

/** Major and minor number of a dev_t, makedev(3). */
export const deviceNumber = (number: number): [major: number, minor: number] => [
  (number >> 8) & 0xfff,
  (number & 0xff) | ((number >> 12) & 0xfff00),
];

/**
 * The whole disk of a device file, or of the file system of a path: v2 refuses a partition, v1 ignores it. An overlay
 * stands for its upper directory, to which writes go. Throws Failure if there is no disk.
 */
export function findDisk(path: string, type = ''): Disk {
  const stats = attempt(() => statSync(path));
  if (!stats)
    throw new Failure(`there is no ${path}: name a device, as /dev/sda, or a path on its file system`);
  if (stats.isCharacterDevice())
    throw new Failure(`${path} is a character device: only disks can be limited`);
  const [major, minor] = deviceNumber(stats.isBlockDevice() ? stats.rdev : stats.dev);
  const folder = attempt(() => realpathSync(`/sys/dev/block/${major}:${minor}`));
  if (folder !== undefined) {
    const disk = existsSync(join(folder, 'partition')) ? dirname(folder) : folder;
    return { device: readFileSync(join(disk, 'dev'), 'utf8').trim(), name: basename(disk), type };
  }
  // /sys does not have the device number, as on btrfs and overlay: the mount names the device
  const mount = mountOf(realpathSync(path), readMounts('self'));
  if (mount?.type === 'overlay') {
    const below = overlayDirectory(mount, 'upperdir') ?? overlayDirectory(mount, 'lowerdir') ?? '';
    if (existsSync(below)) return findDisk(below, 'overlay');
  }
  if (mount?.source.startsWith('/') && attempt(() => statSync(mount.source).isBlockDevice()))
    return findDisk(mount.source, mount.type);
  throw new Failure(
    `${path} is on ${mount?.type ?? 'a file system'}, which has no disk of its own${mount?.type === 'tmpfs' ? ': it is in memory' : ''}: name the device, as /dev/sda`,
  );
}
