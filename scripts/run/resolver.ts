// Name servers for a container that shares the host's network, if its root file system names none that answers.
import { lstatSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { attempt } from '../helpers/pids.ts';
import { placeInRoot, readInRoot } from '../helpers/rootfs.ts';
import { readResolver, serversIn } from '../network/resolver.ts';
import type { Text, Tmpfs, Volume } from './furnish.ts';

const file = '/etc/resolv.conf';

/** Whether `place` is `folder` or below it; neither contains links. */
const isIn = (place: string, folder: string) => place === folder || place.startsWith(`${folder}/`);

/**
 * The host's name servers as the container's /etc/resolv.conf. undefined if that file names a server that can be reached,
 * or an option mounts something there. undefined also if there is no such file, since nothing is created in ROOTFS; a
 * dangling link can be mounted on.
 */
export function hostResolver({
  rootfs,
  volumes,
  tmpfs,
}: {
  rootfs: string;
  volumes: Volume[];
  tmpfs: Tmpfs[];
}): Text | undefined {
  const folder = placeInRoot(rootfs, '/etc');
  if (folder === undefined) return undefined;
  const own = lstatSync(join(rootfs, folder, 'resolv.conf'), { throwIfNoEntry: false });
  if (!own?.isSymbolicLink() && !own?.isFile()) return undefined;
  const target = placeInRoot(rootfs, file);
  const there = target && statSync(join(rootfs, target), { throwIfNoEntry: false });
  if (there && !there.isFile()) return undefined;

  for (const { path, source } of [...volumes, ...tmpfs.map(({ path }) => ({ path, source: undefined }))]) {
    const place = placeInRoot(rootfs, path);
    if (place === undefined) continue;
    if (isIn(`${folder}/resolv.conf`, place)) return undefined;
    // a volume that contains the target of the link, as -v /run/systemd/resolve:/run/systemd/resolve
    if (source && target && isIn(target, place))
      if (statSync(source + target.slice(place.length), { throwIfNoEntry: false })) return undefined;
  }

  const servers = serversIn(readInRoot(rootfs, file));
  const hosts = attempt(() => readFileSync(file, 'utf8')) ?? '';
  // the loopback is the host's, but a server may not listen there
  if (servers.some((server) => !/^127\.|^::1$/.test(server) || serversIn(hosts).includes(server)))
    return undefined;
  const text = readResolver();
  if (serversIn(text).length === 0) return undefined;
  const lines = text.split('\n').filter((line) => /^[ \t]*[a-z]+[ \t]/.test(line));
  return { path: file, text: lines.join('\n') };
}
