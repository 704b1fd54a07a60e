#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
pack-rootfs.ts: pack a root file system: a tarball, or an image for other engines

USAGE
  pack-rootfs.ts [OPTION...] ROOTFS OUT
  pack-rootfs.ts [OPTION...] ROOTFS --oci DIR|FILE | --docker FILE

  ROOTFS  a path (with a / in it), or the name of a folder in rootfs/
          NAME or PID of a container that runs: its root file system as it is
          now. The container is paused meanwhile. What is mounted in it is left
          out, such as /proc and volumes.
  OUT     a new file: .tar, .tar.gz, .tar.zst or .tar.xz
          -: standard output, not compressed

  The same content gives the same bytes. Prints the digest of what was made.

EXAMPLES
  pack-rootfs.ts alpine alpine.tar.gz
  pack-rootfs.ts web --docker web.tar --tag web:1 --cmd '["httpd","-f"]'
  pack-rootfs.ts --oci layout --base debian ./debian-with-nginx

OPTIONS
* --oci DIR|FILE    make an image: the directory of an OCI layout, or an archive
                    of one if the name ends in .tar
* --docker FILE     make an image: an archive that docker load, podman load and
                    skopeo take
* --tag NAME[:TAG]  the name of the image (default: none, and the tag latest)
* --base BASE       make a layer only of what differs from BASE, which becomes
                    the layers below: another ROOTFS, or an image as
                    docker://IMAGE, docker-archive:FILE, oci:DIR or
                    oci-archive:FILE, whose layers stay as they are
* --entrypoint WORD|JSON  what a container starts: one word, or a JSON list of
                    words; without --cmd, its arguments are then none
* --cmd WORD|JSON   what it starts without an entrypoint, or the arguments of
                    that
* -e, --env KEY=VALUE  set this variable; may be repeated
  -u, --user USER   start it as this user, USER or USER:GROUP
  -w, --workdir DIR start it in this directory
  -l, --label KEY=VALUE  a label of the image; may be repeated
  --expose PORT     the image listens on this port, 80 or 53/udp; may be repeated
  --stop-signal NAME  the signal that stops it
  --platform OS/ARCH[/VARIANT]  what it runs on (default: this host)
                    Defaults of all these are in ROOTFS/.image.json, which
                    fetch-rootfs.ts has written and which is not packed itself
  --compression gzip|zstd|xz|none  how to compress: layers of an image (default:
                    gzip, not xz), or OUT, whose name tells it otherwise
  --no-pause        do not pause the container: what is written meanwhile may be
                    packed in part
* --force           replace OUT if it exists
* -q, --quiet       print nothing but errors on standard error
  --json            print digest, size, and more as JSON
* --dry-run         print the steps as shell, and make nothing
  -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

ENVIRONMENT
  SOURCE_DATE_EPOCH  seconds since 1970: files that are newer get this time, and
                    so does the image, else that of its newest file

CHANGES
  Makes OUT completely or not at all, readable for its owner only: it may hold
  password hashes and keys. Until OUT is complete, it is in .OUT.partial-PID.
  The next call removes what a killed call has left. tar runs in a mount
  namespace and a chroot of its own. The container goes on in any case, also
  when pack-rootfs.ts is killed.

UNDO
  rm -r OUT

EXIT CODES
  0 done; 1 failed: OUT was not made; 2 wrong usage.

SEE ALSO
  tar(1), mount_namespaces(7), nsenter(1), the OCI image specification, and
  reproducible-builds.org (SOURCE_DATE_EPOCH)
*/
import { readdirSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { scriptPath } from './helpers/called.ts';
import { readHierarchies } from './helpers/cgroups.ts';
import { Failure, HelpNeeded, main, reason, UsageError, type Values } from './helpers/cli.ts';
import { readTextInRoot } from './helpers/in-root.ts';
import { didYouMean, escapeControls } from './helpers/messages.ts';
import { OutputError } from './helpers/output.ts';
import { attempt } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { findContainer, isName, ownContainers, type WholeContainer } from './helpers/target.ts';
import { formatSize, parseSignal } from './helpers/units.ts';
import { hostPlatform, parsePlatform } from './images/choose.ts';
import type { Platform } from './images/image.ts';
import { parseReference, showReference } from './images/reference.ts';
import { findTar } from './images/unpack.ts';
import {
  type ImageName,
  packImage,
  writeDockerArchive,
  writeOciArchive,
  writeOciLayout,
} from './images/write.ts';
import {
  type Compression,
  compressions,
  imageFile,
  type Making,
  readArchive,
  write,
} from './pack-rootfs/archive.ts';
import { isImage, openBaseImage } from './pack-rootfs/base.ts';
import { planByHand } from './pack-rootfs/by-hand.ts';
import {
  makeConfig,
  parseDirectory,
  parseInherited,
  parsePair,
  parsePort,
  parseUser,
  parseWords,
} from './pack-rootfs/config.ts';
import type { Entry } from './pack-rootfs/entries.ts';
import { type LayerCompression, makeLayer, readEntriesOf } from './pack-rootfs/layers.ts';
import { checkOut, intoPlace, untilInterrupted } from './pack-rootfs/out.ts';
import { whilePaused } from './pack-rootfs/pause.ts';
import { openContainer, openDirectory, type Source } from './pack-rootfs/source.ts';

export const options = {
  oci: { parse: String },
  docker: { parse: parseArchiveName },
  tag: { parse: parseReference },
  base: { parse: String },
  entrypoint: { parse: parseWords },
  cmd: { parse: parseWords },
  env: { short: 'e', parse: parsePair, many: true },
  user: { short: 'u', parse: parseUser },
  workdir: { short: 'w', parse: parseDirectory },
  label: { short: 'l', parse: parsePair, many: true },
  expose: { parse: parsePort, many: true },
  stopSignal: { parse: parseSignal },
  platform: { parse: parsePlatform },
  compression: { parse: parseCompression },
  noPause: {},
  force: {},
  quiet: { short: 'q' },
  json: {},
  dryRun: {},
} as const;

function parseArchiveName(text: string): string {
  if (text.endsWith('.tar')) return text;
  throw new UsageError(`an archive of docker load is not compressed: its name ends in .tar, not "${text}"`);
}

function parseCompression(text: string): Compression {
  if (text in compressions) return text as Compression;
  throw new UsageError(`no compression: "${text}": choose ${Object.keys(compressions).join(', ')}`);
}

/** What is to be made. */
export type Out = { path: string; compression: Compression } & (
  | { kind: 'tarball' }
  | { kind: 'layout' | 'oci-archive' | 'docker-archive'; compression: LayerCompression; name: ImageName }
);

/** What the options and the operand OUT mean. Throws UsageError where they mean nothing, or several things. */
export function planOut(values: Values<typeof options>, out: string | undefined): Out {
  const { oci, docker, tag, compression, base } = values;
  const given = [out, oci, docker].filter((path) => path !== undefined);
  if (given.length === 0) throw new HelpNeeded('an operand is missing: OUT, or --oci or --docker');
  if (given.length > 1) throw new UsageError('either OUT, or --oci, or --docker');
  const path = given[0] as string;
  if (out !== undefined) {
    const imageOptions = { base, tag, entrypoint: values.entrypoint, cmd: values.cmd, user: values.user };
    const lone = Object.entries(imageOptions).find(([, value]) => value !== undefined);
    if (lone)
      throw new UsageError(`--${lone[0]} is for an image: a tarball has none: give --oci or --docker`);
    if (path === '-') return { kind: 'tarball', path, compression: compression ?? 'none' };
    const found = Object.entries(compressions).find(([, { form }]) => form.test(path));
    if (!found && !compression)
      throw new UsageError(`OUT ends in .tar, .tar.gz, .tar.zst or .tar.xz, not "${basename(path)}"`);
    return { kind: 'tarball', path: resolve(path), compression: compression ?? (found?.[0] as Compression) };
  }
  if (compression === 'xz') throw new UsageError('engines take no layers that are compressed with xz');
  if (tag?.digest)
    throw new UsageError('--tag is NAME[:TAG]: the digest of an image follows from its content');
  const kind = docker ? 'docker-archive' : path.endsWith('.tar') ? 'oci-archive' : 'layout';
  const name = { full: tag && showReference(tag), tag: tag?.tag ?? 'latest' };
  return { kind, path: resolve(path), compression: compression ?? 'gzip', name };
}

/** SOURCE_DATE_EPOCH. Throws UsageError if it is no number: the same bytes are expected then. */
function readEpoch(text = process.env.SOURCE_DATE_EPOCH): number | undefined {
  if (text === undefined || text === '') return undefined;
  if (/^\d{1,11}$/.test(text)) return Number(text);
  throw new UsageError(`SOURCE_DATE_EPOCH is a number of seconds since 1970, not "${text}"`);
}

/** What a ROOTFS operand means: a directory, or a container that runs. Throws Failure if it is neither. */
function findRootfs(operand: string): { directory: string } | { container: WholeContainer } {
  const isDirectory = (path: string) => attempt(() => statSync(path).isDirectory());
  if (!isName(operand)) {
    if (isDirectory(operand)) return { directory: resolve(operand) };
    const what = attempt(() => statSync(operand)) ? 'it is no directory' : 'there is no such directory';
    throw new Failure(`cannot pack ${operand}: ${what}`);
  }
  const hierarchies = readHierarchies();
  const directory = join(rootfsFolder, operand);
  const isContainer = /^\d+$/.test(operand) || ownContainers(hierarchies).includes(operand);
  const container = isContainer ? attempt(() => findContainer(hierarchies, operand)) : undefined;
  if (container?.first) return { container };
  if (isDirectory(directory)) return { directory };
  if (isContainer) return { container: findContainer(hierarchies, operand) };
  const folders = attempt(() => readdirSync(rootfsFolder, { withFileTypes: true })) ?? [];
  const names = folders.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  const near = didYouMean(operand, [...names, ...ownContainers(hierarchies)]);
  throw new Failure(
    `there is no container and no folder in rootfs/ with the name ${operand}${near || `: ${scriptPath('ps')} shows containers; a path has a / in it: ./${operand}`}`,
  );
}

/** What was made, as --json prints it. */
interface Made {
  out: string;
  /** of the file; of an image that of its manifest */
  digest: string;
  /** bytes of the file; of an image those of its layers together */
  size: number;
  entries: number;
  layers: { digest: string; size: number; diffId: string }[] | null;
}

/** Does some work while the container is paused, if ROOTFS is one. */
type WhileStill = <Result>(work: () => Promise<Result>) => Promise<Result>;

/** Makes a tarball at `file`. */
async function makeTarball(
  source: Source,
  making: Making,
  still: WhileStill,
  out: Out,
  file: string,
): Promise<Made> {
  let entries = 0;
  const archive = readArchive(source, making, () => {
    entries++;
  });
  const { sha256, bytes } = await still(() => write(archive, out.compression, file));
  return { out: out.path, digest: `sha256:${sha256}`, size: bytes, entries, layers: null };
}

/** Makes an image at `file`, with all that it needs meanwhile in `folder`. */
async function makeImage(
  source: Source,
  making: Making,
  still: WhileStill,
  out: Exclude<Out, { kind: 'tarball' }>,
  values: Values<typeof options>,
  folder: string,
  file: string,
): Promise<Made> {
  const { compression, name, kind, path } = out;
  const { base: below } = values;
  const text = readTextInRoot(source.root, `/${imageFile}`);
  const own = text === undefined ? undefined : parseInherited(text, `${source.label}/${imageFile}`);
  const wanted = values.platform ?? own?.platform ?? hostPlatform();
  const base = below === undefined ? undefined : await readBase(below, wanted, making, compression, folder);
  const inherited = own ?? base?.inherited ?? { config: {} };
  const top = await still(() =>
    makeLayer(source, making, compression, folder, base && { before: base.entries }),
  );
  if (!top.layer) making.say(`it does not differ from ${below}`);
  const layers = [...(base?.layers ?? []), ...(top.layer ? [top.layer] : [])];

  const created = making.latestSeconds ?? newest(top.entries);
  const image = packImage(layers, wanted, makeConfig(inherited, values), new Date(created * 1000));
  const scratch = join(folder, 'layout');
  const writing =
    kind === 'layout'
      ? writeOciLayout(image, name, file)
      : (kind === 'docker-archive' ? writeDockerArchive : writeOciArchive)(image, name, file, scratch);
  await Promise.race([writing, making.interrupted]);
  return {
    out: path,
    digest: image.manifestDigest,
    size: layers.reduce((sum, { descriptor }) => sum + descriptor.size, 0),
    entries: top.entries.length,
    layers: layers.map(({ descriptor: { digest, size }, diffId }) => ({ digest, size, diffId })),
  };
}

/** The latest time of these entries that is a date, in whole seconds: for what has to have a date, and always the same. */
const newest = (entries: Entry[]) =>
  entries.reduce(
    (latest, { mtimeSeconds }) => Math.max(latest, Math.min(Math.floor(mtimeSeconds), 253402300799)),
    0,
  );

/** The layers that an image is built upon, with the entries of the root file system that they make. */
async function readBase(
  operand: string,
  platform: Platform,
  making: Making,
  compression: LayerCompression,
  folder: string,
) {
  if (isImage(operand)) {
    const { layers, root, inherited } = await openBaseImage(
      operand,
      platform,
      folder,
      making.say,
      making.interrupted,
    );
    return { layers, inherited, entries: await readEntriesOf(root, making) };
  }
  const found = findRootfs(operand);
  if ('container' in found)
    throw new UsageError(`--base ${operand} is a container: it changes while it runs`);
  const root = openDirectory(found.directory);
  const { layer, entries } = await makeLayer(root, making, compression, folder, { sums: true });
  return { layers: layer ? [layer] : [], inherited: undefined, entries };
}

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [operand = '', outOperand]) => {
  const out = planOut(values, outOperand);
  const latestSeconds = readEpoch();
  const say = (text: string) => values.quiet || console.error(`pack-rootfs: ${escapeControls(text)}`);
  const found = findRootfs(operand);
  const container = 'container' in found ? found.container : undefined;
  if (container?.remark) say(container.remark);
  const source = 'container' in found ? openContainer(found.container) : openDirectory(found.directory);
  const paused = values.noPause ? undefined : container;
  const still: WhileStill = (work) => (paused ? whilePaused(paused, work) : work());
  if (out.path !== '-')
    checkOut(
      out.path,
      out.kind === 'layout' ? 'layout' : 'file',
      values.force,
      'directory' in found ? found.directory : undefined,
    );
  if (values.dryRun) {
    process.stdout.write(planByHand(source, paused, out, values, latestSeconds));
    return 0;
  }
  if (out.path === '-' && process.stdout.isTTY) throw new UsageError('standard output is a terminal: > FILE');
  requirePrograms(
    ['unshare', 'mount', 'chroot', 'cp', 'tar', 'ldd', ...(container ? ['nsenter'] : [])],
    `pack ${operand}`,
  );
  const tools = await findTar();

  try {
    const made = await untilInterrupted(async (interrupted) => {
      const making: Making = {
        tools,
        latestSeconds,
        sparse: out.kind === 'tarball',
        changing: container !== undefined && values.noPause,
        interrupted,
        say,
      };
      const make = (folder: string, file: string) =>
        out.kind === 'tarball'
          ? makeTarball(source, making, still, out, file)
          : makeImage(source, making, still, out, values, folder, file);
      return out.path === '-' ? make('', '-') : intoPlace(out.path, make);
    });
    say(`${made.entries} entries, ${formatSize(made.size)}, ${made.digest}`);
    if (out.path === '-') return 0;
    console.log(values.json ? JSON.stringify(made, null, 2) : made.digest);
    return 0;
  } catch (error) {
    if (error instanceof UsageError || error instanceof OutputError) throw error;
    throw new Failure(`cannot pack ${operand}: ${reason(error)}`, { cause: error });
  }
});
