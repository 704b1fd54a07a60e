// The layers of an image, applied one over the other to a root file system, as the image specification has it:
// https://github.com/opencontainers/image-spec/blob/main/layer.md
import { createHash } from 'node:crypto';
import { closeSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { ofDescriptor, openInRoot, statsInRoot, withRoot } from '../helpers/in-root.ts';
import { attempt } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import { perform } from '../helpers/steps.ts';
import { decompress } from './compression.ts';
import { runConfined, type Tools, toolWords } from './confine.ts';
import { type Image, imageFile } from './image.ts';
import { type Limits, show, TarInspector } from './inspector.ts';
import { type Part, readPart, spool } from './spool.ts';
import { findTar, unpack } from './unpack.ts';

const clear = embedded(import.meta.url, './clear.sh');

/** What all layers of an image together may not exceed. */
export type LayerLimits = Pick<Limits, 'maxBytes' | 'maxBytesReason' | 'maxEntries' | 'skipDevices'>;

/** What was applied. */
export interface Applied {
  entries: number;
  bytes: number;
  skippedDevices: number;
}

/** The parent of a path in a layer; '' is the root. */
const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')));
const nameOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);

/**
 * What a layer does besides adding entries. Paths are bytes in latin1, '' is the root. `directoryNames` gets the names of
 * the directories of all layers so far: only an entry with one of these names can replace a directory.
 */
class Changes {
  /** paths that whiteouts hide */
  hidden: string[] = [];
  /** directories whose contents opaque whiteouts hide */
  opaque: string[] = [];
  /** what is no directory here, but may be one in the layers below */
  replacing: string[] = [];
  /** directories that have an entry, those above an entry, and those above a whiteout */
  #listed = new Set<string>();
  #above = new Set<string>();
  #marked = new Set<string>();
  #directoryNames: Set<string>;

  constructor(directoryNames: Set<string>) {
    this.#directoryNames = directoryNames;
  }

  /** Whether a directory has an entry. */
  isListed = (path: string) => this.#listed.has(path);

  /** Directories that may change without having an entry: their times are to stay as they are. */
  get unlisted(): string[] {
    return [...new Set([...this.#above, ...this.#marked])].filter((path) => !this.#listed.has(path));
  }

  /** Notes an entry. false: it is no part of the file system. Throws Failure if it can't be part of a layer. */
  visit(type: string, path: string): boolean {
    if (path === imageFile || path.startsWith(`${imageFile}/`)) return false;
    const parts = path.split('/');
    const marked = parts.findIndex((part) => part.startsWith('.wh.'));
    const directories = marked < 0 ? this.#above : this.#marked;
    for (let above = path; above !== '' && !directories.has(parentOf(above)); ) {
      above = parentOf(above);
      directories.add(above);
      this.#directoryNames.add(nameOf(above));
    }
    if (marked >= 0) {
      this.#visitWhiteout(path, parts, marked);
      return false;
    }
    if (type === '5') {
      this.#listed.add(path);
      this.#directoryNames.add(nameOf(path));
    } else {
      if (this.#listed.has(path) || this.#above.has(path))
        throw new Failure(`entry ${show(path)}: it replaces a directory of the same layer`);
      if (this.#directoryNames.has(nameOf(path))) this.replacing.push(path);
    }
    return true;
  }

  #visitWhiteout(path: string, parts: string[], marked: number): void {
    // names that begin so are reserved: AUFS has kept files of its own below them
    if (parts[marked]?.startsWith('.wh..wh.')) {
      if (path.endsWith('.wh..wh..opq')) this.opaque.push(parentOf(path));
      return;
    }
    const name = nameOf(path).slice('.wh.'.length);
    if (marked < parts.length - 1 || ['', '.', '..'].includes(name))
      throw new Failure(`entry ${show(path)}: a whiteout that hides nothing`);
    this.hidden.push([...parts.slice(0, -1), name].join('/'));
  }
}

/** A layer that is being read: `checked` is what tar(1) may read of it. */
interface Reading {
  changes: Changes;
  inspector: TarInspector;
  checked: AsyncGenerator<Buffer>;
  /** once all of it is read and verified: `checked`, in a file without a name */
  spooled?: Part;
}

/**
 * Applies the layers of an image, the base first, to the empty directory `root`, and writes the configuration of the
 * image into it. `layers` open the blobs of the layers, compressed or not, whose digests the caller verifies; the digests
 * of the uncompressed layers are verified here. `say` gets the warnings of tar(1). Throws a Failure if a layer is damaged
 * or unsafe, or what `interrupted` throws; `root` is to be thrown away then.
 */
export async function applyLayers(
  image: Image,
  layers: (() => AsyncIterable<Buffer>)[],
  root: string,
  limits: LayerLimits,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Applied> {
  const { diffIds, config } = image;
  if (layers.length !== diffIds.length)
    throw new Failure(`it has ${layers.length} layers, but its configuration has ${diffIds.length}`);
  const tools = await findTar(...['sh', 'xargs', 'find', 'rm', 'touch']);
  const applied: Applied = { entries: 0, bytes: 0, skippedDevices: 0 };
  const directoryNames = new Set<string>();
  let isOver = false;

  const read = (index: number): Reading => {
    const changes = new Changes(directoryNames);
    const inspector = new TarInspector({
      ...limits,
      maxBytes: limits.maxBytes - applied.bytes,
      maxEntries: limits.maxEntries - applied.entries,
      strip: 0,
      layer: (type, path) => changes.visit(type, path),
    });
    async function* check() {
      const hash = createHash('sha256');
      try {
        for await (const chunk of decompress((layers[index] as () => AsyncIterable<Buffer>)())) {
          if (isOver) return;
          hash.update(chunk);
          yield* inspector.push(chunk);
        }
        inspector.end();
        const digest = `sha256:${hash.digest('hex')}`;
        if (digest !== diffIds[index])
          throw new Failure(`its digest is ${digest}, but the configuration has ${diffIds[index]}`);
      } catch (error) {
        throw new Failure(`layer ${index + 1} of ${layers.length}: ${reason(error)}`, { cause: error });
      }
      applied.entries += inspector.entries;
      applied.bytes += inspector.bytes;
      applied.skippedDevices += inspector.skippedDevices;
    }
    return { changes, inspector, checked: check() };
  };

  // whiteouts can stand anywhere in a layer and hide nothing of it, so they are applied before it is unpacked
  const spoolLayer = async (index: number): Promise<Reading> => {
    const reading = read(index);
    return { ...reading, spooled: await spool(reading.checked, `${root}.layer`, Infinity) };
  };

  let next: Promise<Reading> | undefined;
  try {
    for (const index of layers.keys()) {
      const layer = index === 0 ? read(0) : await Promise.race([next ?? spoolLayer(index), interrupted]);
      // the next layer is decompressed while this one is unpacked; but not beside the base, since it needs the names in it
      next = index > 0 && index + 1 < layers.length ? spoolLayer(index + 1) : undefined;
      next?.catch(() => undefined);
      const { spooled, checked, inspector } = layer;
      const warnings = spooled
        ? await applyOver(layer, spooled, root, tools, interrupted)
        : await unpack(checked, inspector, root, interrupted, tools);
      for (const warning of warnings) say(warning);
      await spooled?.file.close();
    }
  } finally {
    isOver = true;
    next?.then(({ spooled }) => spooled?.file.close()).catch(() => undefined);
  }
  await keepTime(root, () => writeConfig(root, config));
  return applied;
}

/** Applies a layer over the ones below it. */
async function applyOver(
  { changes, inspector }: Reading,
  part: Part,
  root: string,
  tools: Tools,
  interrupted: Promise<never>,
): Promise<string[]> {
  const times = readTimes(root, changes);
  const remove = async (kind: string, paths: string[]) => {
    const words = [...sh`-0 -r`, ...toolWords(tools, 'sh'), '-c', clear, 'clear'];
    const command = [...toolWords(tools, 'xargs'), ...words, kind, tools.folder, tools.run];
    if (paths.length > 0)
      await runConfined(root, tools, command, list(paths.map((path) => `/${path}`)), interrupted);
  };
  const work = async () => {
    await remove('contents', changes.opaque);
    await remove('path', changes.hidden);
    await remove('directory', changes.replacing);
    const warnings = await unpack(readPart(part), inspector, root, interrupted, tools);
    const touch = [...toolWords(tools, 'xargs'), ...sh`-0 -n 2`, ...toolWords(tools, 'touch'), ...sh`-c -d`];
    // the layer may have replaced a directory
    const left = withRoot(root, (top) =>
      times.filter(({ path }) => statsInRoot(top, path, { lastLink: true })?.isDirectory()),
    );
    const words = list(left.flatMap(({ time, path }) => [time, latin1(path)]));
    if (left.length > 0) await keepTime(root, () => runConfined(root, tools, touch, words, interrupted));
    return warnings;
  };
  return changes.isListed('') ? work() : keepTime(root, work);
}

/** The times of directories that a layer changes but does not list, and their paths in the root without symlinks. */
function readTimes(root: string, changes: Changes): { time: string; path: string }[] {
  return withRoot(root, (top) =>
    changes.unlisted.flatMap((path) => {
      const name = Buffer.from(path, 'latin1').toString();
      // a name that is not UTF-8 has no path for node: its directory gets the time of now
      const found = path === '' || latin1(name) !== path ? undefined : attempt(() => openInRoot(top, name));
      if (!found) return [];
      try {
        const isListed = changes.isListed(latin1(found.path.slice(1)));
        return isListed ? [] : [{ time: timeOf(ofDescriptor(found.fd)), path: found.path }];
      } finally {
        closeSync(found.fd);
      }
    }),
  );
}

/** The time of a file, to the nanosecond, as touch(1) takes it. */
function timeOf(path: string): string {
  const { mtimeNs } = statSync(path, { bigint: true });
  const digits = `${mtimeNs < 0 ? -mtimeNs : mtimeNs}`.padStart(10, '0');
  return `@${mtimeNs < 0 ? '-' : ''}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

/** Does something to a directory, which keeps its time. */
async function keepTime<Result>(directory: string, work: () => Result): Promise<Awaited<Result>> {
  const time = timeOf(directory);
  const result = await work();
  await perform([{ run: sh`touch --date ${time} ${directory}` }]);
  return result;
}

function writeConfig(root: string, config: Buffer): void {
  try {
    writeFileSync(join(root, imageFile), config, { flag: 'wx', mode: 0o644 });
  } catch (error) {
    throw new Failure(`cannot write its configuration to /${imageFile}: ${reason(error)}`, { cause: error });
  }
}

/** The bytes of a text, as characters of latin1. */
const latin1 = (text: string) => Buffer.from(text).toString('latin1');

/** Words of bytes in latin1, each of which ends with a NUL. */
async function* list(words: string[]): AsyncGenerator<Buffer> {
  yield Buffer.from(words.map((word) => `${word}\0`).join(''), 'latin1');
}
