// Name servers of the host for a container that shares the host's network, if its own resolv.conf(5) is useless.
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { placeInRoot, readTextInRoot, statsInRoot, withRoot } from '../helpers/in-root.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';
import { readResolver, serversIn } from '../network/resolver.ts';
import type { Text, Tmpfs, Volume } from './furnish.ts';

const file = '/etc/resolv.conf';

/**
 * A file for the container's /etc/resolv.conf with the host's name servers. undefined if the container's own file names
 * a server that the container can reach, or if an option mounts something there. undefined also if there is no such
 * file, since a mount point would be created in ROOTFS; a dangling symlink can be a mount point.
 */
export function hostResolver(rootfs: string, volumes: Volume[], tmpfs: Tmpfs[]): Text | undefined {
  const own = withRoot(rootfs, (root) => ownServers(root, volumes, tmpfs));
  if (!own) return undefined;
  const hosts = attempt(() => readFileSync(file, 'utf8')) ?? '';
  // the container shares the host's loopback interface: a server there answers only if the host uses it too
  if (own.some((server) => !/^127\.|^::1$/.test(server) || serversIn(hosts).includes(server)))
    return undefined;
  const text = readResolver();
  if (serversIn(text).length === 0) return undefined;
  const lines = text.split('\n').filter((line) => /^[ \t]*[a-z]+[ \t]/.test(line));
  return { path: file, text: lines.join('\n') };
}

/** The name servers in the container's own file. undefined if that file must not be replaced. */
function ownServers(root: number, volumes: Volume[], tmpfs: Tmpfs[]): string[] | undefined {
  const itself = statsInRoot(root, file, { lastLink: true });
  const target = itself?.isSymbolicLink() ? statsInRoot(root, file) : itself;
  if (!itself || (target && !target.isFile())) return undefined;
  const mounts = [...volumes, ...tmpfs.map(({ path }) => ({ path, source: undefined }))];
  if (mounts.some((mount) => isMountedOver(root, mount))) return undefined;
  return serversIn(readTextInRoot(root, file) ?? '');
}

/** Whether a mount covers the file, or brings the file that it is a symlink to. */
function isMountedOver(
  root: number,
  { path, source }: { path: string; source: string | undefined },
): boolean {
  const place = placeInRoot(root, path);
  const folder = placeInRoot(root, dirname(file));
  if (place === undefined || folder === undefined) return false;
  if (isBelow(join(folder, basename(file)), place)) return true;
  // the symlink leads into a volume, as with -v /run/systemd/resolve:/run/systemd/resolve
  const target = placeInRoot(root, file);
  if (source === undefined || target === undefined || !isBelow(target, place)) return false;
  return existsSync(source + target.slice(place.length));
}
