// Which disk a device file or a path is on: limits of reading and writing are for whole disks. See lsblk(8), sysfs(5).
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { unescapeMountinfo } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { mountOf, parseMounts } from '../helpers/containers.ts';
import { attempt } from '../helpers/pids.ts';

/** A disk that limits can be set for, and how it was found. */
export interface Disk {
  /** MAJ:MIN */
  device: string;
  name: string;
  /** btrfs and the like: there may be more disks below the file system */
  type: string;
}

/**
 * The whole disk of a device file, or below the file system that a path is on: limits are for whole disks, a partition
 * is refused by v2 and counts for nothing in v1. An overlay is as its upper directory, where writing goes. Throws
 * Failure where there is no disk.
 */
export function findDisk(path: string, type = ''): Disk {
  const stats = attempt(() => statSync(path));
  if (!stats)
    throw new Failure(`there is no ${path}: name a device, as /dev/sda, or a path on its file system`);
  if (stats.isCharacterDevice())
    throw new Failure(`${path} is a character device: only disks can be limited`);
  const number = stats.isBlockDevice() ? stats.rdev : stats.dev;
  // the encoding of dev_t, makedev(3)
  const major = (number >> 8) & 0xfff;
  const minor = (number & 0xff) | ((number >> 12) & 0xfff00);
  const folder = attempt(() => realpathSync(`/sys/dev/block/${major}:${minor}`));
  if (folder !== undefined) {
    const disk = existsSync(join(folder, 'partition')) ? dirname(folder) : folder;
    return { device: readFileSync(join(disk, 'dev'), 'utf8').trim(), name: basename(disk), type };
  }
  // a file system without a device number of its own disk's: the mount says what it is made of
  const mount = mountOf(realpathSync(path), parseMounts(readFileSync('/proc/self/mountinfo', 'utf8')));
  if (mount?.type === 'overlay') {
    const upper = /(?:^|,)upperdir=([^,]*)/.exec(mount.superOptions)?.[1];
    const lower = /(?:^|,)lowerdir=([^,:]*)/.exec(mount.superOptions)?.[1];
    const below = unescapeMountinfo(upper ?? lower ?? '');
    if (existsSync(below)) return findDisk(below, 'overlay');
  }
  if (mount?.source.startsWith('/') && attempt(() => statSync(mount.source).isBlockDevice()))
    return findDisk(mount.source, mount.type);
  throw new Failure(
    `${path} is on ${mount?.type ?? 'a file system'}, which has no disk of its own${mount?.type === 'tmpfs' ? ': it is in memory' : ''}: name the device, as /dev/sda`,
  );
}
