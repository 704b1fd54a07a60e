// Ownership of the command's standard streams.
import { chownSync, constants, fstatSync, type Stats } from 'node:fs';
import { attempt } from '../helpers/pids.ts';
import { descriptorFlags } from '../helpers/shell.ts';
import type { Launch } from './container.ts';
import { hostShell } from './held.ts';
import { hostId } from './userns.ts';

// open(2), on x86-64 and arm64
const O_ACCMODE = 0o3;

/**
 * Makes the container's user the owner of the command's standard streams, as runc does: of pipes and files among them,
 * and of the container's own terminal. Otherwise open(2) of /dev/stdout would fail with EACCES for this user. The
 * caller's terminal and device files keep their owner.
 */
export async function giveStreams(launch: Launch, pid: number): Promise<void> {
  const { user, userNamespace, isolate, terminal, detached } = launch;
  const uid = hostId(userNamespace?.uids, user.uid);
  if (!isolate.has('mount') || uid === undefined || (uid === process.getuid?.() && !terminal)) return;
  // descriptor of PID 1 that becomes a standard stream of the command, and the descriptor of node that it comes from
  const [stdin, stdout, stderr] = [[3, 0] as const, [1, 1] as const, [4, 2] as const];
  const $ = await hostShell();
  for (const [fd, callers] of terminal ? [stdin] : detached ? [stdout] : [stdin, stdout, stderr]) {
    const isOwnPipe = terminal || detached; // made for the container
    const stats = isOwnPipe ? undefined : fstatSync(callers);
    if (stats && (stats.uid === uid || !isGiven(callers, stats))) continue;
    const path = `/proc/${pid}/fd/${fd}`;
    // without root, only the root of the user namespace may change the owner
    if (userNamespace && !userNamespace.byRoot)
      await $`exec nsenter --target ${pid} --user --preserve-credentials chown ${user.uid} ${path}`.catch(
        () => {},
      );
    else attempt(() => chownSync(path, uid, -1));
  }
}

/** Whether the container's user becomes the owner of a stream: a pipe, a socket, or a file that is open for writing. */
function isGiven(fd: number, stats: Stats): boolean {
  const isRead = (descriptorFlags(fd) & O_ACCMODE) === constants.O_RDONLY;
  return stats.isFIFO() || stats.isSocket() || (stats.isFile() && !isRead);
}
