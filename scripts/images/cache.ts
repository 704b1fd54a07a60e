// The cache of images: blobs by digest, manifests and configurations among them, and which manifest a reference names.
//
//   DIRECTORY/blobs/sha256/HEX          a blob; verified whenever it is used
//   DIRECTORY/blobs/sha256/HEX.partial  its beginning, and the lock (flock(2)) of who reads the rest of it
//   DIRECTORY/references/HEX            the digest of the manifest that a reference and a platform name
import { createHash, type Hash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  constants,
  createReadStream,
  createWriteStream,
  existsSync,
  fstatSync,
  ftruncateSync,
  futimesSync,
  lstatSync,
  mkdirSync,
  openSync,
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
import { userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Failure, reason } from '../helpers/cli.ts';
import { lock } from '../helpers/lock.ts';
import { attempt } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import { formatSize } from '../helpers/units.ts';
import { chooseImage, maxManifestBytes, showPlatform } from './choose.ts';
import { collect } from './http.ts';
import { checkDigest, type Descriptor, type Image, type ImageSource, type Platform } from './image.ts';
import type { Progress } from './progress.ts';
import { type Reference, showReference, wantedOf } from './reference.ts';
import { openRegistry, type RegistryOptions } from './registry.ts';
import { digestOf, shortDigest, verified, WrongBlob } from './verify.ts';

/** The least recently used blobs go when all are larger. */
const maxCacheBytes = 10e9;
/** Docker reads as many layers at a time. */
const parallelLayers = 3;
/** the rest of a blob that nobody has gone on reading for so long goes first */
const stalePartialMilliseconds = 24 * 3600 * 1000;

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

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
        `another user can change ${path}, so ${directory} is no safe cache: chmod go-w ${quote(path)}, use --no-cache, or set XDG_CACHE_HOME`,
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

const blobPath = (directory: string, digest: string) =>
  join(directory, 'blobs/sha256', checkDigest(digest).slice('sha256:'.length));

/** Writes a small file, as a whole or not at all. */
function writeWhole(path: string, bytes: Buffer | string): void {
  const partial = `${path}.${randomBytes(8).toString('hex')}`;
  writeFileSync(partial, bytes, { mode: 0o600, flag: 'wx' });
  renameSync(partial, path);
}

/** Opens a blob of the cache, which then counts as used now; undefined if there is none of this size. */
function openBlobFile(directory: string, { digest, size }: Descriptor): number | undefined {
  const fd = attempt(() => openSync(blobPath(directory, digest), O_RDONLY | O_NOFOLLOW));
  if (fd === undefined) return undefined;
  const stats = fstatSync(fd);
  if (stats.isFile() && stats.size === size) {
    attempt(() => futimesSync(fd, new Date(), new Date()));
    return fd;
  }
  closeSync(fd);
  return undefined;
}

const readFrom = (fd: number, startBytes = 0): AsyncIterable<Buffer> =>
  createReadStream('', { fd, autoClose: false, start: startBytes, highWaterMark: 1 << 18 });

/** The cache as a source of images: it has manifests by their digests only. */
function openCached(directory: string, name: string): ImageSource {
  return {
    name,
    async openManifest(digest) {
      const path = blobPath(directory, digest);
      const size = attempt(() => lstatSync(path))?.size ?? 0;
      const fd =
        size > maxManifestBytes ? undefined : openBlobFile(directory, { digest, size, mediaType: '' });
      if (fd === undefined) throw new Failure(`the cache ${directory} has no ${digest}`);
      try {
        return { mediaType: '', bytes: await collect(readFrom(fd), maxManifestBytes) };
      } finally {
        closeSync(fd);
      }
    },
    async *openBlob(blob, offsetBytes) {
      const fd = openBlobFile(directory, blob);
      if (fd === undefined) throw new Failure(`the cache ${directory} has no ${blob.digest}`);
      try {
        yield* readFrom(fd, offsetBytes);
      } finally {
        closeSync(fd);
      }
    },
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
  const running = new Set<Promise<number>>();
  const start = async (layer: Descriptor): Promise<number> => {
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
        const fd = (await files.get(digest)) as number;
        yield* readFrom(fd);
        if (!layers.some((layer, at) => at > index && layer.digest === digest)) closeSync(fd);
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
): Promise<number> {
  const label = `layer ${shortDigest(layer.digest)}`;
  const say = (text: string) => progress?.say(`${label}: ${text}`);
  const show = (chunks: AsyncIterable<Buffer>, startBytes: number) =>
    progress?.show(chunks, label, { length: layer.size }, startBytes) ?? chunks;
  const fill = (fd: number, path: string) => fillFile(fd, path, image.source, layer, show, say);
  if (directory === undefined) {
    const path = join(scratch, `.layer-${randomBytes(8).toString('hex')}`);
    const fd = openSync(path, O_RDWR | O_CREAT | O_EXCL, 0o600);
    unlinkSync(path);
    await fill(fd, scratch);
    say(formatSize(layer.size));
    return fd;
  }
  const path = blobPath(directory, layer.digest);
  for (;;) {
    const found = await openVerified(directory, layer);
    if (found !== undefined) {
      say(`${formatSize(layer.size)}, in the cache already`);
      return found;
    }
    const partial = `${path}.partial`;
    const fd = openSync(partial, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    const held = await lock(partial, { waitSeconds: 24 * 3600 }).catch((error) => {
      if (existsSync(partial)) throw error;
    });
    try {
      // who had the lock before has finished the blob, and renamed it
      if (held && existsSync(path)) rmSync(partial, { force: true });
      else if (held && fstatSync(held.descriptor).ino === fstatSync(fd).ino) {
        await fill(fd, partial);
        renameSync(partial, path);
        say(formatSize(layer.size));
        return fd;
      }
      closeSync(fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    } finally {
      held?.release();
    }
  }
}

/** Opens a blob of the cache, verified: a disk, or a crash of the machine, can damage it. A damaged one is removed. */
async function openVerified(directory: string, layer: Descriptor): Promise<number | undefined> {
  const path = blobPath(directory, layer.digest);
  const fd = attempt(() => openSync(path, O_RDONLY | O_NOFOLLOW));
  if (fd === undefined) return undefined;
  try {
    for await (const _ of verified(readFrom(fd), layer));
    attempt(() => futimesSync(fd, new Date(), new Date()));
    return fd;
  } catch {
    closeSync(fd);
    rmSync(path, { force: true });
    return undefined;
  }
}

/** The bytes that a file has already, hashed; those of another blob make no difference, since the whole is verified. */
async function hashStart(fd: number, maxBytes: number): Promise<{ hash: Hash; bytes: number }> {
  const hash = createHash('sha256');
  const { size } = fstatSync(fd);
  if (size > maxBytes) ftruncateSync(fd);
  else for await (const chunk of readFrom(fd)) hash.update(chunk);
  return { hash, bytes: size > maxBytes ? 0 : size };
}

/** Writes a blob to a file, after what is in it already. The file at `path` is emptied where that does not verify. */
async function fillFile(
  fd: number,
  path: string,
  source: ImageSource,
  layer: Descriptor,
  show: (chunks: AsyncIterable<Buffer>, startBytes: number) => AsyncIterable<Buffer>,
  say: (text: string) => void,
): Promise<void> {
  const before = await hashStart(fd, layer.size);
  const { bytes } = before;
  if (bytes > 0) say(`going on at ${formatSize(bytes)}`);
  // all of it is there if only the rename was missing
  const rest = bytes < layer.size ? source.openBlob(layer, bytes) : readFrom(fd, bytes);
  const checked = verified(show(rest, bytes), layer, before);
  try {
    await pipeline(checked, createWriteStream('', { fd, autoClose: false, start: bytes }));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EIO') throw cannotWrite(path, error);
    if (!(error instanceof WrongBlob)) throw error;
    ftruncateSync(fd);
    if (bytes === 0) throw error;
    // the beginning, from an earlier call, may be what is wrong
    return fillFile(fd, path, source, layer, show, say);
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
