// The cache of images: blobs by digest, manifests and configurations among them, and which manifest a reference names.
//
//   DIRECTORY/blobs/sha256/HEX          a blob; verified whenever it is used
//   DIRECTORY/blobs/sha256/HEX.partial  its beginning, and the lock (flock(2)) of who reads the rest of it
//   DIRECTORY/references/HEX            the digest of the manifest that a reference and a platform name
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statfsSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { lock } from '../helpers/lock.ts';
import { attempt } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import { formatSize } from '../helpers/units.ts';
import { chooseImage, maxManifestBytes, showPlatform } from './choose.ts';
import { collect } from './http.ts';
import {
  blobName,
  checkDigest,
  type Descriptor,
  type Image,
  type ImageSource,
  type Platform,
} from './image.ts';
import type { Progress } from './progress.ts';
import { type Reference, showReference, wantedOf } from './reference.ts';
import { openRegistry, type RegistryOptions } from './registry.ts';
import { readPart } from './spool.ts';
import { digestOf, shortDigest, verified, WrongBlob } from './verify.ts';

/** The least recently used blobs go when all are larger. */
const maxCacheBytes = 10e9;
/** Docker reads as many layers at a time. */
const parallelLayers = 3;
/** the rest of a blob that nobody has gone on reading for so long goes first */
const stalePartialMilliseconds = 24 * 3600 * 1000;

const { O_RDONLY, O_RDWR, O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

/** `barehand` in $XDG_CACHE_HOME or ~/.cache. Throws a Failure if the user has neither. */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  if (env.XDG_CACHE_HOME) return resolve(env.XDG_CACHE_HOME, 'barehand');
  // sudo may leave HOME that of the user
  const isOwn = env.HOME && attempt(() => statSync(env.HOME as string))?.uid === process.geteuid?.();
  const home = isOwn ? env.HOME : attempt(() => userInfo().homedir); // passwd(5) need not have this user
  if (!home) throw new Failure('this user has no home directory for the cache: set XDG_CACHE_HOME');
  return resolve(home, '.cache/barehand');
}

/**
 * The directory of the cache, made if it is missing. Throws a Failure if another user could change it, or a directory
 * above it.
 */
export function openCache(env: NodeJS.ProcessEnv = process.env): string {
  const uid = process.geteuid?.() ?? 0;
  const directory = cacheDirectory(env);
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    if (statSync(directory).uid === uid) chmodSync(directory, 0o700);
  } catch (error) {
    throw new Failure(
      `cannot make the cache ${directory}: ${reason(error)}: use --no-cache, or set XDG_CACHE_HOME`,
    );
  }
  const real = realpathSync(directory);
  for (const path of new Set([...parentsOf(directory), ...parentsOf(real)]))
    if (!isSafe(lstatSync(path), uid, path === directory || path === real))
      throw new Failure(
        `another user can change ${path}, so ${directory} is not a safe cache: chmod go-w ${quote(path)}, use --no-cache, or set XDG_CACHE_HOME`,
      );
  for (const name of ['blobs/sha256', 'references'])
    mkdirSync(join(directory, name), { recursive: true, mode: 0o700 });
  return directory;
}

/** A path, and those above it. */
const parentsOf = (path: string): string[] => (path === '/' ? ['/'] : [path, ...parentsOf(dirname(path))]);

/** Whether no other user can replace what is in a directory. A user's private group may, as with umask 002; not root's. */
function isSafe(stats: Stats, uid: number, isCache: boolean): boolean {
  if (stats.uid !== uid && (stats.uid !== 0 || isCache)) return false;
  const others = uid === 0 ? 0o022 : 0o002;
  const isSticky = (stats.mode & 0o1000) !== 0;
  return stats.isSymbolicLink() || isSticky || (stats.mode & others) === 0;
}

const blobPath = (directory: string, digest: string) => join(directory, blobName(digest));

/** Writes a small file, as a whole or not at all. */
function writeWhole(path: string, bytes: Buffer | string): void {
  const partial = `${path}.${randomBytes(8).toString('hex')}`;
  writeFileSync(partial, bytes, { mode: 0o600, flag: 'wx' });
  renameSync(partial, path);
}

/** Opens a blob of the cache, which then counts as used now; undefined if there is none. It is not verified. */
async function openBlobFile(directory: string, digest: string): Promise<FileHandle | undefined> {
  const file = await open(blobPath(directory, digest), O_RDONLY | O_NOFOLLOW).catch(() => undefined);
  await file?.utimes(new Date(), new Date()).catch(() => undefined);
  return file;
}

const readFrom = (file: FileHandle, startBytes = 0) =>
  readPart({ file, start: 0, size: Infinity }, startBytes);

/** The cache as a source of images: it has manifests by their digests only. */
function openCached(directory: string, name: string): ImageSource {
  async function* read(digest: string, offsetBytes = 0) {
    const file = await openBlobFile(directory, digest);
    if (!file) throw new Failure(`the cache ${directory} has no ${digest}`);
    try {
      yield* readFrom(file, offsetBytes);
    } finally {
      await file.close();
    }
  }
  return {
    name,
    openManifest: async (digest) => ({ mediaType: '', bytes: await collect(read(digest), maxManifestBytes) }),
    openBlob: ({ digest }, offsetBytes) => read(digest, offsetBytes),
    close: async () => {},
  };
}

/** The file that tells which manifest a reference names. */
const referencePath = (directory: string, reference: Reference, platform: Platform) =>
  join(
    directory,
    'references',
    createHash('sha256')
      .update(`${showReference(reference)} ${showPlatform(platform)}`)
      .digest('hex'),
  );

/** What resolveImage takes. */
export interface ResolveOptions extends RegistryOptions {
  platform: Platform;
  /** of openCache; undefined: there is none */
  directory: string | undefined;
  /**
   * As docker run --pull: `always` asks the registry; `missing` takes the image as it is in the cache, if all of it is
   * there; `never` asks no registry.
   */
  pull?: 'always' | 'missing' | 'never';
}

/**
 * The image that a reference names, and remembers it, so that it is found in the cache the next time. Throws a Failure
 * where there is none.
 */
export async function resolveImage(reference: Reference, options: ResolveOptions): Promise<Image> {
  const { directory, platform, pull = 'always' } = options;
  // what a digest names never changes
  const known = pull !== 'always' || reference.digest ? await recall(reference, options) : undefined;
  if (known) return known;
  if (pull === 'never')
    throw new Failure(`the cache has no ${showReference(reference)} for ${showPlatform(platform)}`);
  const registry = openRegistry(reference, options);
  if (directory === undefined) return chooseImage(registry, wantedOf(reference), platform);
  const source: ImageSource = {
    ...registry,
    async openManifest(wanted) {
      const opened = await registry.openManifest(wanted);
      put(directory, opened.bytes);
      return opened;
    },
  };
  const image = await chooseImage(source, wantedOf(reference), platform);
  put(directory, image.config);
  writeWhole(
    referencePath(directory, reference, platform),
    `${image.manifestDigest} ${showReference(reference)}\n`,
  );
  return image;
}

/** The image that was remembered, if its manifest, configuration and layers are in the cache. */
async function recall(
  reference: Reference,
  { directory, platform }: ResolveOptions,
): Promise<Image | undefined> {
  if (directory === undefined) return undefined;
  const note = attempt(() => readFileSync(referencePath(directory, reference, platform), 'utf8'));
  const digest = attempt(() => checkDigest(note?.split(' ')[0]));
  if (!digest) return undefined;
  const source = openCached(directory, showReference(reference));
  const image = await chooseImage(source, digest, platform).catch(() => undefined);
  const isThere = ({ digest: name, size }: Descriptor) =>
    attempt(() => lstatSync(blobPath(directory, name)))?.size === size;
  return image?.manifest.layers.every(isThere) ? image : undefined;
}

function put(directory: string, bytes: Buffer): void {
  const path = blobPath(directory, digestOf(bytes));
  try {
    if (!existsSync(path)) writeWhole(path, bytes);
  } catch (error) {
    throw cannotWrite(path, error);
  }
}

const cannotWrite = (path: string, error: unknown) =>
  new Failure(`cannot write ${path}: ${reason(error)}`, { cause: error });

/** Where layers go, and what is told of them. */
export interface LayerOptions {
  /** of openCache; undefined: files without a name in `scratch`, which are gone with this process */
  directory: string | undefined;
  scratch: string;
  /** bars and lines about each layer; undefined: none */
  progress?: Progress | undefined;
}

/**
 * Starts to read the layers of an image, three at a time. Returns what opens each of them, the base layer first, and may
 * be called once: it waits until digest and size of the whole layer are verified, and throws a Failure if they are wrong.
 */
export function fetchLayers(image: Image, options: LayerOptions): (() => AsyncIterable<Buffer>)[] {
  const { layers } = image.manifest;
  const unique = [...new Map(layers.map((layer) => [layer.digest, layer])).values()];
  checkSpace(unique, options);
  const running = new Set<Promise<FileHandle>>();
  const start = async (layer: Descriptor): Promise<FileHandle> => {
    while (running.size >= parallelLayers) await Promise.race(running);
    const file = cached(image, layer, options);
    running.add(file);
    // one that has failed stays: no other is begun
    return file.finally(() => file.then(() => running.delete(file)).catch(() => options.progress?.end()));
  };
  const files = new Map(unique.map((layer) => [layer.digest, start(layer)]));
  for (const file of files.values()) file.catch(() => undefined);
  if (options.directory !== undefined) {
    const { directory } = options;
    Promise.all(files.values())
      .then(() => trim(directory))
      .catch(() => undefined);
  }
  return layers.map(
    ({ digest }, index) =>
      async function* read() {
        const file = (await files.get(digest)) as FileHandle;
        yield* readFrom(file);
        if (!layers.some((layer, at) => at > index && layer.digest === digest)) await file.close();
      },
  );
}

/** Throws a Failure if there is less space than the layers need that are not in the cache. */
function checkSpace(layers: Descriptor[], { directory, scratch }: LayerOptions): void {
  const { bavail, bsize } = statfsSync(directory ?? scratch);
  const missing = layers.filter(({ digest }) => !directory || !existsSync(blobPath(directory, digest)));
  const bytes = missing.reduce((sum, { size }) => sum + size, 0);
  if (bytes > bavail * bsize)
    throw new Failure(
      `its layers have ${formatSize(bytes)}, and only ${formatSize(bavail * bsize)} are free in ${directory ?? scratch}`,
    );
}

/**
 * Opens a verified layer of an image as a file for reading: of the cache, or read from where the image comes from. It
 * stays the same, whatever happens to the cache. Throws a Failure.
 */
export async function cached(
  image: Image,
  layer: Descriptor,
  { directory, scratch, progress }: LayerOptions,
): Promise<FileHandle> {
  const label = `layer ${shortDigest(layer.digest)}`;
  const say = (text: string) => progress?.say(`${label}: ${text}`);
  const fill = async (file: FileHandle, path: string) => {
    try {
      await fillFile(file, path, image.source, layer, say, progress);
      say(formatSize(layer.size));
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  };
  if (directory === undefined) {
    const path = join(scratch, `.layer-${randomBytes(8).toString('hex')}`);
    const file = await open(path, O_RDWR | O_APPEND | O_CREAT | O_EXCL, 0o600);
    unlinkSync(path);
    return fill(file, scratch);
  }
  const path = blobPath(directory, layer.digest);
  const partial = `${path}.partial`;
  for (;;) {
    const found = await openVerified(directory, layer);
    if (found) {
      say(`${formatSize(layer.size)}, in the cache already`);
      return found;
    }
    const file = await open(partial, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
    const held = await lock(partial, { waitSeconds: 24 * 3600 }).catch((error) => {
      if (existsSync(partial)) throw error;
    });
    try {
      // who had the lock before has finished the blob, and renamed it
      if (held && existsSync(path)) rmSync(partial, { force: true });
      else if (held && fstatSync(held.descriptor).ino === (await file.stat()).ino) {
        await fill(file, partial);
        renameSync(partial, path);
        return file;
      }
      await file.close();
    } finally {
      held?.release();
    }
  }
}

/** Opens a blob of the cache, verified: a disk, or a crash of the machine, can damage it. A damaged one is removed. */
async function openVerified(directory: string, layer: Descriptor): Promise<FileHandle | undefined> {
  const file = await openBlobFile(directory, layer.digest);
  try {
    if (file) for await (const _ of verified(readFrom(file), layer));
    return file;
  } catch {
    await file?.close();
    rmSync(blobPath(directory, layer.digest), { force: true });
    return undefined;
  }
}

/** Appends to a file what is missing of a blob, and verifies all of it. Where it is wrong, the file is emptied. */
async function fillFile(
  file: FileHandle,
  path: string,
  source: ImageSource,
  layer: Descriptor,
  say: (text: string) => void,
  progress: Progress | undefined,
): Promise<void> {
  const hash = createHash('sha256');
  let { size: bytes } = await file.stat();
  if (bytes > layer.size) {
    await file.truncate();
    bytes = 0;
  }
  for await (const chunk of readFrom(file)) hash.update(chunk);
  if (bytes > 0) say(`resuming at ${formatSize(bytes)}`);
  // all of it is there if only the rename was missing
  const rest = bytes < layer.size ? source.openBlob(layer, bytes) : readFrom(file, bytes);
  const label = shortDigest(layer.digest); // a line of a terminal is short
  const shown = progress?.show(rest, label, { length: layer.size }, bytes) ?? rest;
  try {
    for await (const chunk of verified(shown, layer, { hash, bytes }))
      await file.writeFile(chunk).catch((error) => {
        throw cannotWrite(path, error);
      });
  } catch (error) {
    if (!(error instanceof WrongBlob)) throw error;
    await file.truncate();
    if (bytes === 0) throw error;
    // the beginning, from an earlier call, may be what is wrong
    await fillFile(file, path, source, layer, say, progress);
  }
}

/**
 * Removes what was not used for longest, until the cache is no larger than `maxBytes`: never what was used in the last
 * hour. Processes that have a blob open keep it.
 */
export function trim(directory: string, maxBytes = maxCacheBytes): void {
  const folder = join(directory, 'blobs/sha256');
  const now = Date.now();
  const entries = readdirSync(folder)
    .flatMap((name) => {
      const path = join(folder, name);
      const stats = attempt(() => lstatSync(path));
      return stats
        ? [{ path, size: stats.size, age: now - stats.mtimeMs, isWhole: /^[0-9a-f]{64}$/.test(name) }]
        : [];
    })
    .sort((one, other) => other.age - one.age);
  let bytes = entries.reduce((sum, { size }) => sum + size, 0);
  for (const { path, size, age, isWhole } of entries) {
    const isOld = isWhole ? bytes > maxBytes : age > stalePartialMilliseconds;
    if (!isOld || age < 3600 * 1000) continue;
    rmSync(path, { force: true });
    bytes -= size;
  }
  for (const name of readdirSync(join(directory, 'references'))) {
    const path = join(directory, 'references', name);
    const digest = attempt(() => checkDigest(readFileSync(path, 'utf8').split(' ')[0]));
    if (!digest || !existsSync(blobPath(directory, digest))) rmSync(path, { force: true });
  }
}
