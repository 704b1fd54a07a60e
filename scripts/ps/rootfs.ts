// The path on the host of a container's root directory.
import { type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Container, readRoot } from '../helpers/containers.ts';
import { type Mount, overlayDirectory, pathsOnHost, readMounts } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';

/**
 * The path on the host of a container's root directory. Every candidate is tried; only one that leads to the same
 * directory counts. For an overlay, ROOTFS of run.ts --ephemeral, or the upper directory. undefined if the host has no
 * path to it, or this user may not read it.
 */
export function rootfsPath(container: Container, hostMounts: Mount[]): string | undefined {
  const { pid } = container.first;
  const root = attempt(() => readRoot(pid));
  if (!root) return undefined;
  const isRoot = (path: string) => {
    const stats: Stats | undefined = attempt(() => statSync(path));
    return stats?.dev === root.stats.dev && stats.ino === root.stats.ino;
  };
  if (root.path !== '/') {
    // chroot(2): the path is relative to the mount namespace of its caller, the host's or the enclosing container's
    const outer = container.enclosing && rootfsPath(container.enclosing, hostMounts);
    return [root.path, outer && join(outer, root.path)].find((path) => path && isRoot(path));
  }
  if (isRoot('/')) return '/';
  // pivot_root(2): the root is a mount; the host may have the same directory of the same file system at another path
  const mount = readMounts(pid).findLast(({ mountPoint }) => mountPoint === '/');
  if (!mount) return undefined;
  const path = pathsOnHost(mount, hostMounts).find(isRoot);
  return path ?? (mount.type === 'overlay' ? overlayPath(mount) : undefined);
}

/** The directory that an overlay stands for. A path in /proc is one of the process that mounted it. */
function overlayPath(mount: Mount): string | undefined {
  return [mount.source, overlayDirectory(mount, 'upperdir')].find(
    (path) => path?.startsWith('/') && !path.startsWith('/proc/'),
  );
}
