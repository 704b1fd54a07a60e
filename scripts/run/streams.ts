import { chownSync, closeSync, constants, fstatSync, readdirSync, type Stats } from 'node:fs';
import { attempt } from '../helpers/pids.ts';
import { descriptorFlags } from '../helpers/shell.ts';
import type { Launch } from './container.ts';
import { hostShell } from './held.ts';
import { outsideId } from './userns.ts';

// open(2), on x86-64 and arm64
const O_CLOEXEC = 0o2000000;
const O_ACCMODE = 0o3;

/** Closes the caller's descriptors above 2, which would be handed on: node's own are O_CLOEXEC, open(2). */
export function closeInherited(): void {
  for (const fd of readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => fd > 2)) {
    // what readdir(3) had open is gone by now
    const flags = attempt(() => descriptorFlags(fd)) ?? O_CLOEXEC;
    if ((flags & O_CLOEXEC) === 0) closeSync(fd);
  }
}

/**
 * Gives the user of the container what he is to write to and read from: pipes and files among his standard streams, and
 * his own terminal, as runc does. Else opening /dev/stdout is EACCES for him. The caller's terminal and the null device
 * stay whose they are.
 */
export async function giveStreams(launch: Launch, pid: number): Promise<void> {
  const { user, userNamespace, isolate } = launch;
  const owns = launch.terminal;
  const uid = userNamespace ? outsideId(userNamespace.uids, user.uid) : user.uid;
  if (!isolate.has('mount') || uid === undefined || (uid === process.getuid?.() && !owns)) return;
  // those of ours that it has as its 3, 1 and 4; in the background it has a pipe of its own
  const streams: [fd: number, ours: number][] = owns
    ? [[3, 0]]
    : [
        [3, 0],
        [1, 1],
        [4, 2],
      ];
  const $ = await hostShell();
  for (const [fd, ours] of launch.detached ? streams.slice(1, 2) : streams) {
    const path = `/proc/${pid}/fd/${fd}`;
    const stats = launch.detached || owns ? undefined : fstatSync(ours);
    if (stats && (stats.uid === uid || !isGiven(ours, stats))) continue;
    // a user may do it only as root of his namespace
    if (userNamespace && !userNamespace.byRoot)
      await $`exec nsenter --target ${pid} --user --preserve-credentials chown ${user.uid} ${path}`.catch(
        () => {},
      );
    else attempt(() => chownSync(path, uid, -1));
  }
}

/** Whether a stream of ours is handed on with its ownership: not a file that is only read, nor a terminal or a device. */
function isGiven(fd: number, stats: Stats): boolean {
  const isRead = (descriptorFlags(fd) & O_ACCMODE) === constants.O_RDONLY;
  return stats.isFIFO() || stats.isSocket() || (stats.isFile() && !isRead);
}
