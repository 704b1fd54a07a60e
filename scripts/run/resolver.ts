// Name servers for a container that shares the host's network, if its root file system names none that answers.
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { placeInRoot, readTextInRoot, statsInRoot, withRoot } from '../helpers/in-root.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';
import { readResolver, serversIn } from '../network/resolver.ts';
import type { Text, Tmpfs, Volume } from './furnish.ts';

const file = '/etc/resolv.conf';

/**
 * The host's name servers as the container's /etc/resolv.conf. undefined if that file names a server that can be reached,
 * or an option mounts something there. undefined also if there is no such file, since nothing is created in ROOTFS; a
 * dangling link can be mounted on.
 */
export function hostResolver(launch: {
  rootfs: string;
  volumes: Volume[];
  tmpfs: Tmpfs[];
}): Text | undefined {
  const own = withRoot(launch.rootfs, (root) => ownServers(root, launch.volumes, launch.tmpfs));
  if (!own) return undefined;
  const hosts = attempt(() => readFileSync(file, 'utf8')) ?? '';
  // the loopback is the host's, but a server may not listen there
  if (own.some((server) => !/^127\.|^::1$/.test(server) || serversIn(hosts).includes(server)))
    return undefined;
  const text = readResolver();
  if (serversIn(text).length === 0) return undefined;
  const lines = text.split('\n').filter((line) => /^[ \t]*[a-z]+[ \t]/.test(line));
  return { path: file, text: lines.join('\n') };
}

/** The name servers that the root has itself; undefined where its file stays as it is in any case. */
function ownServers(root: number, volumes: Volume[], tmpfs: Tmpfs[]): string[] | undefined {
  const folder = placeInRoot(root, '/etc');
  const itself = statsInRoot(root, file, { lastLink: true });
  if (folder === undefined) return undefined;
  if (!itself?.isSymbolicLink() && !itself?.isFile()) return undefined;
  const target = placeInRoot(root, file);
  const there = statsInRoot(root, file);
  if (there && !there.isFile()) return undefined;

  for (const { path, source } of [...volumes, ...tmpfs.map(({ path }) => ({ path, source: undefined }))]) {
    const place = placeInRoot(root, path);
    if (place === undefined) continue;
    if (isBelow(join(folder, 'resolv.conf'), place)) return undefined;
    // a volume that the link leads into, as -v /run/systemd/resolve:/run/systemd/resolve
    if (source && target && isBelow(target, place))
      if (statSync(source + target.slice(place.length), { throwIfNoEntry: false })) return undefined;
  }
  return serversIn(readTextInRoot(root, file) ?? '');
}
