// What of a root file system differs from another: the entries of a layer on top of it (image-spec, layer.md).
import { Failure } from '../helpers/cli.ts';
import { groupBy } from '../helpers/pids.ts';
import type { Entry } from './entries.ts';

/** What a layer holds. */
export interface Difference {
  /** the names of entries that are new or other than before, in the order of the archive */
  names: string[];
  /** the names of empty files, each of which removes something */
  whiteouts: string[];
}

/** A name without the / at the end of a directory's. */
const pathOf = ({ name }: { name: string }) => (name === './' ? '.' : name.replace(/\/$/, ''));
const parentOf = (path: string) => path.slice(0, path.lastIndexOf('/')) || '.';
const lastOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);

const isWhiteout = (name: string) => /(^|\/)\.wh\./.test(name);

/** Throws Failure if an entry of a root file system would remove another one when it is in a layer. */
export function refuseWhiteouts(entries: Entry[]): void {
  const found = entries.find(({ name }) => isWhiteout(name));
  if (found)
    throw new Failure(
      `${found.name.slice(1)}: in an image a name that begins with .wh. removes a file: pack a tarball, or rename it`,
    );
}

/**
 * What makes `now` of `before`. Entries are compared by their sums, which are about attributes, data and links. Each
 * removed entry has a whiteout of its own, as the specification recommends, and no directory is opaque.
 */
export function findDifference(before: Entry[], now: Entry[]): Difference {
  const [old, current] = [before, now].map(
    (entries) => new Map(entries.map((entry) => [pathOf(entry), entry])),
  ) as [Map<string, Entry>, Map<string, Entry>];
  const isDirectory = (path: string) => current.get(path)?.type === '5';
  const removed = [...old.keys()].filter((path) => !current.has(path) && isDirectory(parentOf(path)));
  const changed = new Set(
    [...current].flatMap(([path, { sha256 }]) => (old.get(path)?.sha256 === sha256 ? [] : path)),
  );
  // a file with several names is one file only if all of them are in the same layer
  const links = now.filter(({ type }) => type === '1');
  for (const [target, names] of groupBy(links, ({ link }) => link)) {
    const all = [target, ...names.map(pathOf)];
    if (all.some((path) => changed.has(path))) for (const path of all) changed.add(path);
  }
  // whoever applies the layer changes the time of these directories
  for (const path of [...changed, ...removed]) if (path !== '.') changed.add(parentOf(path));
  if (changed.size === 0) return { names: [], whiteouts: [] };
  return {
    names: now.filter((entry) => changed.has(pathOf(entry))).map(({ name }) => name),
    whiteouts: removed.map((path) => `${parentOf(path)}/.wh.${lastOf(path)}`),
  };
}
