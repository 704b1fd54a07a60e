#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
pack-rootfs.ts: pack a root file system as a tarball, or as an image for engines

USAGE
  pack-rootfs.ts [OPTION...] ROOTFS OUT
  pack-rootfs.ts [OPTION...] ROOTFS --oci PATH|--docker FILE|--push IMAGE

  ROOTFS  a path (with a / in it), or the name of a folder in rootfs/
          NAME or PID of a running container: its root file system as it is
          now. The container is paused during that time. Mounts in it, such as
          /proc and volumes, are left out.
  OUT     a new file: .tar, .tar.gz, .tar.zst or .tar.xz
          -: standard output, not compressed

  pack-rootfs.ts --manifest KIND --image IMAGE NAME | -- WORD...

  The same content gives the same bytes. Prints the digest of what was made.
  If SOURCE_DATE_EPOCH (seconds since 1970) is in the environment, later times
  of files are set to it, and so is the time of an image. Without it, an image
  has the time of its newest file.

EXAMPLES
  pack-rootfs.ts alpine alpine.tar.gz
  pack-rootfs.ts web --docker web.tar --tag web:1 --cmd '["httpd","-f"]'
  pack-rootfs.ts --oci layout --base debian ./debian-with-nginx

OPTIONS
* --oci PATH        make an image: a directory in the OCI layout
                    a PATH that ends in .tar is an archive of that
* --docker FILE     make an image: an archive for docker load and podman load
                    its name ends in .tar
* --push IMAGE      make an image, and push it to docker://HOST/NAME[:TAG]
                    with the credentials of ~/.docker/config.json
  --compression gzip|zstd|xz|none  compression of OUT (default: by its name), or
                    of the layers of an image (default: gzip; xz is not allowed)
  --no-pause        do not pause the container: a file that a process writes at
                    this time may be incomplete
  --force           replace OUT if it exists
* -q, --quiet       print nothing but errors on standard error
  --json            print digest, size, and more as JSON
* --dry-run         print the steps as shell, and make nothing
  --manifest KIND   print a manifest, and make nothing: kubernetes or nomad
                    kubernetes: a Pod in YAML, or in JSON with --json; nomad: a
                    job in JSON. It describes the container NAME, or the one
                    that "run.ts WORD..." would start, with the same limits.
                    Options that the engine does not have are listed on stderr.
  --image IMAGE     with --manifest: the name of the image in a registry
  -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

IMAGE OPTIONS
* --tag NAME[:TAG]  name the image (default: no name, and the tag latest)
* --base BASE       make a layer only of what differs from BASE
                    BASE becomes the lower layers: another ROOTFS, or an image,
                    whose layers are not changed: docker://IMAGE, oci:DIR,
                    docker-archive:FILE or oci-archive:FILE
* --cmd WORD|JSON   default command: one word, or a JSON list of words
                    with an entrypoint: its default arguments
  --entrypoint WORD|JSON  program that every container of the image starts
                    its default arguments are only those of --cmd
* -e, --env KEY=VALUE  set a variable; may be repeated
  -u, --user USER   run the command as this user: USER or USER:GROUP
  -w, --workdir DIR  working directory of the command
  -l, --label KEY=VALUE  label the image; may be repeated
  --expose PORT     the command listens on this port: 80 or 53/udp; may be
                    repeated
  --stop-signal NAME  signal that stops the command
  --platform NAME   platform of the image, such as linux/arm64 (default: this
                    host)
                    Defaults of all these are read from ROOTFS/.image.json,
                    which fetch-rootfs.ts writes. This file is not packed.
  --insecure-registry HOST[:PORT]  ask this registry by http if it has no https

CHANGES
  Makes OUT completely or not at all. Only its owner can read it: it may hold
  password hashes and keys. Until OUT is complete, its name is .OUT.partial-PID.
  The next call removes what a killed call has left. tar runs in a mount
  namespace and a chroot of its own. A paused container is always resumed, also
  when pack-rootfs.ts is killed.

UNDO
  rm -r OUT

EXIT CODES
  0 done; 1 failed: OUT was not made; 2 wrong usage.

SEE ALSO
  tar(1), mount_namespaces(7), nsenter(1), the OCI image specification, and
  reproducible-builds.org (SOURCE_DATE_EPOCH)
*/
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { Failure, HelpNeeded, isGiven, kebab, main, reason, UsageError, type Values } from './helpers/cli.ts';
import { escapeControls } from './helpers/messages.ts';
import { OutputError, toJson } from './helpers/output.ts';
import { untilInterrupted } from './helpers/partial.ts';
import { requirePrograms } from './helpers/programs.ts';
import { formatSize, parseSignal } from './helpers/units.ts';
import { parsePlatform } from './images/choose.ts';
import { pushImage } from './images/push.ts';
import { parseReference, type Reference, showReference } from './images/reference.ts';
import { parseRegistry } from './images/registry.ts';
import { findTar } from './images/unpack.ts';
import { type ImageName, writeDockerArchive, writeOciArchive, writeOciLayout } from './images/write.ts';
import { type Compression, compressions, type Making, readArchive, write } from './pack-rootfs/archive.ts';
import { planByHand } from './pack-rootfs/by-hand.ts';
import { parseDirectory, parsePair, parsePort, parseUser, parseWords } from './pack-rootfs/config.ts';
import { makeImage } from './pack-rootfs/image.ts';
import { parseManifest, printManifest } from './pack-rootfs/launched.ts';
import type { LayerCompression } from './pack-rootfs/layers.ts';
import { checkOut, intoPlace, withFolder } from './pack-rootfs/out.ts';
import { whilePaused } from './pack-rootfs/pause.ts';
import { findRootfs, openContainer, openDirectory, type Source } from './pack-rootfs/source.ts';

export const options = {
  oci: { parse: String },
  docker: { parse: parseArchiveName },
  push: { parse: parsePush },
  tag: { parse: parseReference },
  manifest: { parse: parseManifest },
  image: { parse: parseReference },
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
  insecureRegistry: { parse: parseRegistry, many: true },
  compression: { parse: parseCompression },
  noPause: {},
  force: {},
  quiet: { short: 'q' },
  json: {},
  dryRun: {},
} as const;

function parseArchiveName(text: string): string {
  if (text.endsWith('.tar')) return text;
  throw new UsageError(
    `docker load takes an archive that is not compressed: its name ends in .tar, not "${text}"`,
  );
}

function parsePush(text: string): Reference {
  if (/^docker:\/\//.test(text)) return parseReference(text);
  throw new UsageError(`"${text}" is not an image of a registry: write docker://HOST/NAME[:TAG]`);
}

function parseCompression(text: string): Compression {
  if (text in compressions) return text as Compression;
  throw new UsageError(`unknown compression: "${text}": choose ${Object.keys(compressions).join(', ')}`);
}

/** What is to be made. */
export type Out = { path: string; compression: Compression } & (
  | { kind: 'tarball' }
  | {
      kind: 'layout' | 'oci-archive' | 'docker-archive' | 'push';
      compression: LayerCompression;
      name: ImageName;
    }
);

/** The options that mean nothing for a tarball. */
const imageOptions = [
  ...(['tag', 'base', 'entrypoint', 'cmd', 'env', 'user', 'workdir', 'label', 'expose'] as const),
  ...(['stopSignal', 'platform', 'insecureRegistry'] as const),
];

/** What the options and the operand OUT mean. Throws UsageError where they mean nothing, or several things. */
export function planOut(values: Values<typeof options>, out: string | undefined): Out {
  const { oci, docker, push, compression } = values;
  const given = [out, oci, docker, push && showReference(push)].filter((path) => path !== undefined);
  if (given.length === 0) throw new HelpNeeded('an operand is missing: OUT, or --oci, --docker or --push');
  if (given.length > 1) throw new UsageError('either OUT, or --oci, --docker or --push');
  const path = given[0] as string;
  const tag = values.tag ?? push;
  if (out !== undefined) {
    const lone = imageOptions.find((name) => isGiven(values[name]));
    if (lone)
      throw new UsageError(`--${kebab(lone)} is for an image: give --oci, --docker or --push, and no OUT`);
    if (path === '-') return { kind: 'tarball', path, compression: compression ?? 'none' };
    const found = Object.entries(compressions).find(([, { form }]) => form.test(path));
    if (!found && !compression)
      throw new UsageError(`OUT ends in .tar, .tar.gz, .tar.zst or .tar.xz, not "${basename(path)}"`);
    return { kind: 'tarball', path: resolve(path), compression: compression ?? (found?.[0] as Compression) };
  }
  if (compression === 'xz') throw new UsageError('engines accept no layers compressed with xz');
  if (tag?.digest)
    throw new UsageError('--tag is NAME[:TAG]: the digest of an image follows from its content');
  const name = { full: tag && showReference(tag), tag: tag?.tag ?? 'latest' };
  const image = { compression: compression ?? 'gzip', name } as const;
  if (push) return { kind: 'push', path, ...image };
  const kind = docker ? 'docker-archive' : path.endsWith('.tar') ? 'oci-archive' : 'layout';
  return { kind, path: resolve(path), ...image };
}

/** SOURCE_DATE_EPOCH. Throws UsageError if it is no number: the same bytes are expected then. */
function readEpoch(text = process.env.SOURCE_DATE_EPOCH): number | undefined {
  if (text === undefined || text === '') return undefined;
  if (/^\d{1,11}$/.test(text)) return Number(text);
  throw new UsageError(`SOURCE_DATE_EPOCH is a number of seconds since 1970, not "${text}"`);
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

/** Makes a tarball at `file`. */
async function makeTarball(source: Source, making: Making, out: Out, file: string): Promise<Made> {
  let entries = 0;
  const archive = readArchive(source, making, () => {
    entries++;
  });
  const { sha256, bytes } = await making.still(() => write(archive, out.compression, file));
  return { out: out.path, digest: `sha256:${sha256}`, size: bytes, entries, layers: null };
}

/** Makes an image, and writes it to `file` or sends it to a registry. */
async function deliverImage(
  source: Source,
  making: Making,
  out: Exclude<Out, { kind: 'tarball' }>,
  values: Values<typeof options>,
  folder: string,
  file: string,
): Promise<Made> {
  const { image, layers, entries } = await makeImage(source, making, out.compression, values, folder);
  const { push, insecureRegistry: insecure } = values;
  const scratch = join(folder, 'layout');
  const delivered = {
    layout: async () => writeOciLayout(image, out.name, file),
    'oci-archive': () => writeOciArchive(image, out.name, file, scratch),
    'docker-archive': () => writeDockerArchive(image, out.name, file, scratch),
    push: () => pushImage(push as Reference, image, { insecure, say: making.say }),
  }[out.kind]();
  await Promise.race([delivered, making.interrupted]);
  return {
    out: out.path,
    digest: image.manifestDigest,
    size: layers.reduce((sum, { descriptor }) => sum + descriptor.size, 0),
    entries,
    layers: layers.map(({ descriptor: { digest, size }, diffId }) => ({ digest, size, diffId })),
  };
}

await main(import.meta.url, { options, operands: [0, 2], rest: true }, async (values, operands, rest) => {
  const say = (text: string) => values.quiet || console.error(`pack-rootfs: ${escapeControls(text)}`);
  if (values.manifest) return printManifest(values.manifest, values, operands, rest, say);
  if (values.image) throw new UsageError('--image is for --manifest');
  const [operand, outOperand, ...more] = [...operands, ...rest];
  if (operand === undefined) throw new HelpNeeded('an operand is missing');
  if (more.length > 0) throw new HelpNeeded(`one operand too many: ${more[0]}`);
  const out = planOut(values, outOperand);
  const latestSeconds = readEpoch();
  const found = findRootfs(operand);
  const container = 'container' in found ? found.container : undefined;
  if (container?.remark) say(container.remark);
  const source = 'container' in found ? openContainer(found.container) : openDirectory(found.directory);
  const paused = values.noPause ? undefined : container;
  if (out.path !== '-' && out.kind !== 'push')
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
        still: (work) => (paused ? whilePaused(paused, interrupted, work) : work()),
        interrupted,
        say,
      };
      const make = (folder: string, file: string) =>
        out.kind === 'tarball'
          ? makeTarball(source, making, out, file)
          : deliverImage(source, making, out, values, folder, file);
      if (out.path === '-') return make('', '-');
      if (out.kind !== 'push') return intoPlace(out.path, make);
      return withFolder(join(tmpdir(), 'barehand-push'), (folder) => make(folder, ''));
    });
    say(`${made.entries} entries, ${formatSize(made.size)}, ${made.digest}`);
    if (out.path === '-') return 0;
    console.log(values.json ? toJson(made, 2) : made.digest);
    return 0;
  } catch (error) {
    // layers of a base that are still read would keep this process alive
    setImmediate(() => process.exit());
    if (error instanceof UsageError || error instanceof OutputError) throw error;
    throw new Failure(`cannot pack ${operand}: ${reason(error)}`, { cause: error });
  }
});
