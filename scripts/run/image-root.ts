// ROOTFS as an image of a registry or in a file. Its root file system is unpacked once, into the cache of images, and is
// only ever the lower directory of overlays: `roots/HEX/root`, where HEX is the digest of the manifest.
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statfsSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure, reason, UsageError } from '../helpers/cli.ts';
import { escapeControls } from '../helpers/messages.ts';
import { attempt, readPids, readProc } from '../helpers/pids.ts';
import { requirePrograms } from '../helpers/programs.ts';
import { sh } from '../helpers/shell.ts';
import { perform } from '../helpers/steps.ts';
import { formatSize, parseSize } from '../helpers/units.ts';
import { openArchive, parseArchiveName, stemOf } from '../images/archives.ts';
import { openCache, type ResolveOptions, resolveImage } from '../images/cache.ts';
import { chooseImage, hostPlatform } from '../images/choose.ts';
import { asRoot } from '../images/confine.ts';
import { fillFromImage } from '../images/fill.ts';
import type { Image } from '../images/image.ts';
import { Progress } from '../images/progress.ts';
import { parseReference, showReference } from '../images/reference.ts';
import { mayMakeDevices } from '../images/unpack.ts';

/** When a registry is asked, as --pull says. */
export type Pull = NonNullable<ResolveOptions['pull']>;

/** The least recently used root file systems go when all are larger than this. */
const maxRootBytes = 20e9;
/** what was used since then stays in any case: it may be about to be mounted */
const recentMilliseconds = 3600 * 1000;

/** The root file system of an image. */
interface ImageRoot {
  /** its path in the cache: nobody may write there */
  rootfs: string;
  /** what a container of it is called by default */
  name: string;
}

/**
 * Finds an image. `scratch` is the path of a file that is made for what has to be decompressed. `layers` is the cache that
 * keeps its layers; undefined: they are in a file already.
 */
async function findImage(operand: string, pull: Pull, directory: string, scratch: string) {
  const platform = hostPlatform();
  const archive = parseArchiveName(operand);
  if (!archive) {
    const reference = parseReference(operand);
    const say = (text: string) => console.error(escapeControls(`run: ${showReference(reference)}: ${text}`));
    const image = await resolveImage(reference, { platform, directory, pull, say });
    return { image, name: basename(reference.repository), layers: directory };
  }
  if (archive.path === '-')
    throw new UsageError(
      `${operand}: standard input is the command's: name a file, or unpack it with fetch-rootfs.ts`,
    );
  const source = await openArchive(archive, { scratch, maxBytes: parseSize('20G') });
  const image = await chooseImage(source, archive.reference ?? '', platform);
  return { image, name: stemOf(archive.path), layers: undefined };
}

/** Unpacks an image into the directory `partial`, which is then renamed: another call may have done so meanwhile. */
async function unpackImage(
  image: Image,
  directory: string | undefined,
  partial: string,
  root: string,
): Promise<void> {
  requirePrograms(['unshare', 'mount', 'chroot', 'tar', 'ldd'], 'unpack an image');
  const progress = new Progress();
  const { bavail, bsize } = statfsSync(dirname(partial));
  const limits = {
    maxBytes: Math.min(parseSize('20G'), bavail * bsize),
    maxBytesReason: ', and no more is allowed or free',
    maxEntries: 1_000_000,
    skipDevices: mayMakeDevices ? undefined : ('all' as const),
  };
  const umask = process.umask(0o022);
  try {
    const folder = join(partial, 'root');
    mkdirSync(folder, { recursive: true });
    const layers = { directory, scratch: partial, progress, limits };
    // a signal ends this process, and the next one removes what is left
    const forever = new Promise<never>(() => {});
    const applied = await fillFromImage(
      image,
      folder,
      layers,
      (text) => progress.say(`run: ${text}`),
      forever,
    );
    writeFileSync(join(partial, 'size'), `${applied.bytes}\n`);
    renameSync(partial, root);
    console.error(`run: unpacked ${applied.entries} entries, ${formatSize(applied.bytes)}, into ${root}`);
  } catch (error) {
    if (!existsSync(root)) throw error;
  } finally {
    process.umask(umask);
  }
}

/** Removes a tree. */
const remove = (path: string) => perform([{ run: sh`${asRoot} rm -rf -- ${path}` }]);

/** Whether a process has a mount of a root file system of the cache: its overlay names the path. */
const isMounted = (digits: string) => readPids().some((pid) => readProc(pid, 'mountinfo')?.includes(digits));

/** Removes what killed calls have left, and the least recently used roots while all are larger than the cache may be. */
export async function trim(roots: string, maxBytes = maxRootBytes): Promise<void> {
  const entries = readdirSync(roots).flatMap((name) => {
    const path = join(roots, name);
    const stats = attempt(() => lstatSync(path));
    const bytes = Number(attempt(() => readFileSync(join(path, 'size'), 'utf8')) ?? 0);
    return stats ? [{ name, path, bytes, age: Date.now() - stats.mtimeMs }] : [];
  });
  let bytes = entries.reduce((sum, one) => sum + one.bytes, 0);
  for (const one of entries.sort((first, second) => second.age - first.age)) {
    const [, pid] = /^\.partial-(\d+)$/.exec(one.name) ?? [];
    if (pid && Number(pid) !== process.pid && !existsSync(`/proc/${pid}`)) await remove(one.path);
    if (pid || bytes <= maxBytes || one.age < recentMilliseconds || isMounted(one.name)) continue;
    const gone = join(roots, `.partial-${process.pid}`);
    renameSync(one.path, gone);
    await remove(gone);
    bytes -= one.bytes;
  }
}

/**
 * The root file system of the image that `operand` names, as docker://IMAGE or an image in a file. Unpacks it if that has
 * not been done. Throws a Failure.
 */
export async function openImageRoot(operand: string, pull: Pull): Promise<ImageRoot> {
  try {
    const directory = openCache();
    const roots = join(directory, 'roots');
    mkdirSync(roots, { recursive: true, mode: 0o700 });
    const partial = join(roots, `.partial-${process.pid}`);
    if (existsSync(partial)) await remove(partial); // of an earlier process with this PID
    const { image, name, layers } = await findImage(operand, pull, directory, `${partial}.image`);
    const root = join(roots, image.manifestDigest.slice('sha256:'.length));
    if (!existsSync(root)) {
      await trim(roots);
      await unpackImage(image, layers, partial, root).finally(() => remove(partial));
    }
    await image.source.close();
    utimesSync(root, new Date(), new Date());
    return { rootfs: join(root, 'root'), name };
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new Failure(`cannot fetch ${operand}: ${reason(error)}`, { cause: error });
  }
}
