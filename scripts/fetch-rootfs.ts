#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
fetch-rootfs.ts: fetch a root file system (just a tarball), check it, unpack it

USAGE
  fetch-rootfs.ts [OPTION...] [SOURCE | --article] [DEST]
  fetch-rootfs.ts ls [--json]
  fetch-rootfs.ts rm [--dry-run] NAME...

  SOURCE  https://… or http://…: download a tarball
          FILE: a local tarball, plain or compressed with gzip, xz, zstd, bzip2
          or compress. The content decides, not the name.
          -: a tarball on standard input
          docker://IMAGE[:TAG][@DIGEST]: an image in a registry. Names are those
          of Docker: docker://alpine means docker.io/library/alpine:latest.
          docker-archive:FILE[:IMAGE]: an image that docker save or podman save
          wrote; it may be compressed
          oci:DIR[:TAG], oci-archive:FILE[:TAG]: an image in the OCI layout
          FILE is - for standard input
          host:  (default) copy programs of this host and their libraries; needs
          no network
          host:python3,/opt/tool  copy these programs too
  DEST    a path (with a / in it) that does not exist or is an empty directory;
          or the name of a folder in rootfs/. The default is derived from the
          name of SOURCE.

  Prints the path of the root file system.

  ls lists the root file systems in rootfs/: size, age, digest of the manifest
  or tarball, and SOURCE. rm removes them, unless a process or a mount uses
  them. If SOURCE is a file with the name ls or rm, write ./ls or ./rm.

EXAMPLES
  fetch-rootfs.ts                         programs of this host: rootfs/host
  fetch-rootfs.ts host:python3 ./py
  fetch-rootfs.ts docker://alpine:3.20    rootfs/alpine
  fetch-rootfs.ts docker-archive:web.tar  what docker save wrote: rootfs/web
  fetch-rootfs.ts https://example.org/alpine.tar.gz alpine --sha256 5b1c…
  tar -C debian -c . | fetch-rootfs.ts - debian

OPTIONS
* --article         fetch the example root file system of the article
                    "DIY a Linux container in 5 minutes without Docker"
* --sha256 HEX      refuse SOURCE if its SHA-256 sum differs
  --strip auto|N    remove N leading components from each name
                    auto (default) removes a single top directory such as
                    rootfs/
  --skip-devices    leave out device nodes other than null, zero and the like
                    without this option fetch-rootfs.ts refuses an archive that
                    has others
  --max-size SIZE   refuse an archive that unpacks to more (default 20G)
  --max-entries N   refuse an archive with more entries (default 1000000)
* --platform NAME   take the image for linux/arm64, linux/arm/v7 and so on
                    (default: for this host)
  --no-cache        do not use ~/.cache/barehand, and keep no layers in it
  --registry-mirror URL
                    try this mirror first for images of Docker Hub; may be
                    repeated, mirrors are tried in this order
  --insecure-registry HOST[:PORT]
                    use http for this registry if it has no https; without this
                    option only registries on this host (localhost, 127.0.0.1)
                    may use http
* -q, --quiet       print nothing but errors on standard error
* --dry-run         print the steps as shell, and make nothing
                    A FILE is read and checked
  --json            ls: print an array of objects
  -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

CHANGES
  Makes DEST completely or not at all: a call that fails or is interrupted
  leaves no DEST. Until DEST is complete, its name is .NAME.partial-PID. The
  next call removes what a killed call has left. tar runs in a mount namespace
  and a chroot of its own: no name in an archive leads out of DEST. Without
  root, all files belong to the calling user; device nodes, set-user-ID bits and
  extended attributes (file capabilities) are lost.

  Keeps the layers of images in $XDG_CACHE_HOME/barehand, or
  ~/.cache/barehand: up to 10 GB; the least recently used are removed first.
  Writes the source of rootfs/NAME to rootfs/.NAME.json, and the configuration
  of an image to DEST/.image.json, for run.ts.

UNDO
  fetch-rootfs.ts rm NAME; rm -rf DEST ~/.cache/barehand

EXIT CODES
  0 done; 1 failed: DEST was not made; 2 wrong usage.

SEE ALSO
  tar(1), unshare(1), chroot(1), mount_namespaces(7), debootstrap(8), ldd(1)
*/
import { existsSync, lstatSync, mkdirSync, readdirSync, renameSync, statfsSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { planByHand, printArchive, printImage } from './fetch-rootfs/by-hand.ts';
import { list, remove } from './fetch-rootfs/commands.ts';
import { planHostRootfs } from './fetch-rootfs/host-rootfs.ts';
import { fillArchive, fillImage, type Made, openImage, registryOptions } from './fetch-rootfs/image.ts';
import { sweepNotes, writeOrigin } from './fetch-rootfs/named.ts';
import { type Fetch, limitsOf, openTarball } from './fetch-rootfs/source.ts';
import { scriptPath } from './helpers/called.ts';
import { Failure, HelpNeeded, isGiven, kebab, main, reason, UsageError, type Values } from './helpers/cli.ts';
import { escapeControls } from './helpers/messages.ts';
import { findLeftovers, partialOf, untilInterrupted } from './helpers/partial.ts';
import { requirePrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { quote, sh } from './helpers/shell.ts';
import { makeDirectory, perform, type Step, toShell } from './helpers/steps.ts';
import { formatSize, parseSize } from './helpers/units.ts';
import { parseArchiveName, stemOf } from './images/archives.ts';
import { chooseImage, parsePlatform } from './images/choose.ts';
import { asRoot, isRoot, removeTree } from './images/confine.ts';
import { shown } from './images/http.ts';
import { parseReference, wantedOf } from './images/reference.ts';
import { openRegistry, parseMirror, parseRegistry } from './images/registry.ts';
import { unpack } from './images/unpack.ts';

const articleUrl =
  'https://github.com/ericchiang/containers-from-scratch/releases/download/v0.1.0/rootfs.tar.gz';

export const options = {
  article: {},
  sha256: { parse: parseSum },
  strip: { parse: (text: string) => (text === 'auto' ? text : parseCount(text)) },
  platform: { parse: parsePlatform },
  noCache: {},
  registryMirror: { parse: parseMirror, many: true },
  insecureRegistry: { parse: parseRegistry, many: true },
  skipDevices: {},
  maxSize: { parse: parseSize },
  maxEntries: { parse: parseCount },
  quiet: { short: 'q' },
  dryRun: {},
  json: {},
} as const;

function parseSum(text: string): string {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
  throw new UsageError(`not a sha256 sum, which is 64 hexadecimal digits: "${text}"`);
}

function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`not a number: "${text}"`);
}

/** What the operands mean. Throws UsageError if DEST is missing and the name of SOURCE gives none. */
export function planFetch(article: boolean, operands: string[], folder: string): Fetch {
  const [source = 'host:', given, excess] = article ? [articleUrl, ...operands] : operands;
  if (excess !== undefined) throw new HelpNeeded(`one operand too many: ${excess}`);
  refuseSchemes(source, given);
  const isUrl = /^https?:/i.test(source);
  if (isUrl && !URL.canParse(source)) throw new UsageError(`not a URL: ${source}`);
  const url = isUrl ? new URL(source) : undefined;
  const image = /^docker:\/\//i.test(source) ? parseReference(source) : undefined;
  const archive = parseArchiveName(source);
  const programs = /^host:(.*)$/s.exec(source)?.[1]?.split(',').filter(Boolean);
  const names = programs
    ? ['host', ...programs.map((path) => basename(path))]
    : image
      ? [basename(image.repository)]
      : [stemOf(url ? decodeURIComponent(url.pathname) : (archive?.path ?? source))];
  const dest = given ?? (source === articleUrl ? 'article' : names.join('-'));
  const isPath = dest.includes('/') || /^\.\.?$/.test(dest);
  if (!isPath && !/^\w[\w.+-]*$/.test(dest))
    throw new UsageError(
      `no name for a root file system: "${dest}": type ${scriptPath()} ${quote(source)} NAME`,
    );
  return { source, url, image, archive, programs, dest: isPath ? resolve(dest) : join(folder, dest) };
}

/** Throws UsageError for a SOURCE that begins like a URL, but is none that can be fetched. */
function refuseSchemes(source: string, dest = 'NAME'): void {
  const [, scheme = '', slashes = ''] = /^([a-z][a-z0-9+.-]*):(\/*)/i.exec(source) ?? [];
  if (/^docker$/i.test(scheme) && slashes !== '//') {
    const name = source.slice('docker:'.length + slashes.length);
    throw new UsageError(
      `an image of a registry is docker://IMAGE: type ${scriptPath()} ${quote(`docker://${name}`)}`,
    );
  }
  if (slashes.length < 2 || /^(https?|docker|host|docker-archive|oci|oci-archive)$/i.test(scheme)) return;
  throw new UsageError(
    `SOURCE is https://, http:// or docker://, not ${scheme}://: type curl -fL ${quote(source)} | ${scriptPath()} - ${quote(dest)}`,
  );
}

/** Throws UsageError for an option that means nothing for this SOURCE. */
function refuseOptions({ source, image, archive }: Fetch, values: Values<typeof options>): void {
  const { platform, noCache, registryMirror, insecureRegistry, sha256, strip } = values;
  const ofTarballs = image || archive ? { sha256, strip } : { platform };
  const given = { ...ofTarballs, ...(image ? {} : { noCache, registryMirror, insecureRegistry }) };
  const [name] = Object.entries(given).find(([, value]) => isGiven(value)) ?? [];
  if (name === 'sha256' && image)
    throw new UsageError(
      `--sha256 is for a tarball: type ${scriptPath()} ${quote(`${source.replace(/@.*/s, '')}@sha256:${sha256}`)}`,
    );
  if (!name) return;
  const what = name in { sha256, strip } ? 'a tarball' : name === 'platform' ? 'an image' : 'docker://IMAGE';
  throw new UsageError(`--${kebab(name)} is for ${what}, not for ${source}`);
}

/** Makes the root file system in the empty directory `root`. */
async function fill(
  root: string,
  fetch: Fetch,
  values: Values<typeof options>,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Made> {
  const { programs, image, archive } = fetch;
  if (programs) {
    const { steps, summary } = await planHostRootfs(root, programs);
    await perform(steps);
    return { summary, digest: null, skippedDevices: 0 };
  }
  const made = image
    ? await fillImage(image, root, values, interrupted)
    : archive
      ? await fillArchive(archive, root, values, say, interrupted)
      : await fillTarball(fetch, root, values, say, interrupted);
  remark(root, made.skippedDevices, say);
  return made;
}

/** Unpacks a tarball into the empty directory `root`. */
async function fillTarball(
  fetch: Fetch,
  root: string,
  values: Values<typeof options>,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Made> {
  const { bavail, bsize } = statfsSync(root);
  const archive = openTarball(fetch, values, bavail * bsize, say);
  const { inspector } = archive;
  const warnings = await unpack(archive.checked, inspector, root, interrupted);
  if (readdirSync(root).length === 0)
    throw new Failure(`--strip ${inspector.strip} leaves nothing of it: choose a smaller number`);
  for (const warning of warnings) say(warning);
  return {
    summary: `${inspector.entries} entries, ${formatSize(inspector.bytes)}, sha256 ${archive.sha256}`,
    digest: `sha256:${archive.sha256}`,
    skippedDevices: inspector.skippedDevices,
  };
}

/** Says what is missing in a root file system that was unpacked. */
function remark(root: string, skippedDevices: number, say: (text: string) => void): void {
  if (!isRoot)
    say(
      'without root: every file is yours; set-user-ID bits, extended attributes and device nodes are left out',
    );
  else if (skippedDevices > 0) say(`${skippedDevices} device nodes left out`);
  if (!['bin', 'usr', 'sbin'].some((name) => lstatSync(join(root, name), { throwIfNoEntry: false })))
    say('warning: neither /bin nor /usr in it: is it a root file system?');
}

/** Has `dest` made under another name, then renames it. */
const intoPlace = (
  dest: string,
  make: (partial: string, interrupted: Promise<never>) => Promise<Made>,
): Promise<Made> =>
  untilInterrupted(async (interrupted) => {
    const partial = partialOf(dest);
    mkdirSync(partial, { mode: 0o755 });
    try {
      const made = await make(partial, interrupted);
      await Promise.race([interrupted, made]);
      renameSync(partial, dest);
      return made;
    } finally {
      await removeTree(partial);
    }
  });

/** Removes what killed calls have left: those for this DEST, and all in the project's own rootfs/. */
async function sweep(dest: string): Promise<void> {
  const folder = dirname(dest);
  const isOurs = (name: string) => name === basename(dest) || folder === rootfsFolder;
  for (const left of findLeftovers(folder, isOurs)) await removeTree(left);
  if (folder === rootfsFolder) sweepNotes();
}

/** Makes the directory of DEST if it is missing, and says so: it may be a mistyped path. */
function makeParents(dest: string, say: (text: string) => void): void {
  const missing: string[] = [];
  for (let path = dirname(dest); !existsSync(path); path = dirname(path)) missing.unshift(path);
  makeDirectory(dirname(dest));
  if (missing.length > 0) say(`made ${missing.join(' and ')}, which did not exist`);
}

/** Throws a Failure where DEST exists and is not an empty directory that can be replaced. */
function check(dest: string): void {
  const stat = lstatSync(dest, { throwIfNoEntry: false });
  if (stat && (!stat.isDirectory() || readdirSync(dest).length > 0)) {
    // DEST can be any path: a command that removes it is named only for the project's own rootfs/
    const remedy =
      dirname(dest) === rootfsFolder
        ? `or: ${scriptPath()} rm ${quote(basename(dest))}`
        : 'or remove it yourself';
    throw new Failure(`EEXIST: it already exists: choose another DEST, ${remedy}`);
  }
  if (stat && stat.dev !== statSync(dirname(dest)).dev)
    throw new Failure('EBUSY: it is a mount point: give a new folder in it');
}

/**
 * What --dry-run prints: the steps of `host:`; for an archive or an image what an engineer would type. A file, and the
 * manifest of an image, is read and checked first.
 */
async function printDest(fetch: Fetch, values: Values<typeof options>): Promise<string> {
  const { source, dest, url, image: reference, archive: named, programs } = fetch;
  const making: Step = { run: sh`mkdir -p -m 755 ${dest}` };
  if (programs) return toShell([making, ...(await planHostRootfs(dest, programs)).steps]);
  if (reference) {
    const settings = registryOptions(values, () => {});
    const registry = openRegistry(reference, settings);
    const image = await chooseImage(registry, wantedOf(reference), settings.platform);
    return toShell([making]) + printImage(dest, image, await registry.byHand());
  }
  if (named) {
    const { transport, path } = named;
    const { source, image } = await openImage(
      named,
      join(tmpdir(), `barehand-${process.pid}`),
      limitsOf(values, Infinity).maxBytes,
      values,
    );
    const layers = await Promise.all(image.manifest.layers.map(({ digest }) => source.fileOf(digest)));
    const config = await source.fileOf(image.manifest.config.digest);
    const place = transport === 'oci' ? { directory: resolve(path) } : {};
    return (
      toShell([making]) +
      printArchive(dest, { file: path === '-' ? path : resolve(path), ...place, layers, config })
    );
  }
  const isFile = !url && source !== '-';
  const archive = isFile ? openTarball(fetch, values, Infinity, () => {}) : undefined;
  if (archive) for await (const _ of archive.checked);
  const { inspector, sha256 = values.sha256 } = archive ?? {};
  const given = typeof values.strip === 'number' ? values.strip : undefined;
  const strip = inspector?.strip ?? given ?? (source === articleUrl ? 1 : undefined); // it has all below rootfs/
  const file = url ? `${dest}.tar` : isFile ? resolve(source) : source;
  const steps = planByHand(dest, { file, url: url && source, sha256, strip, inspector }, values.skipDevices);
  return toShell([making, ...steps]);
}

await main(import.meta.url, { options, operands: [0, Infinity] }, async (values, operands) => {
  const [command, ...names] = values.article ? [] : operands;
  if (command === 'ls') return list(values, names);
  if (command === 'rm') return remove(values, names);
  if (values.json) throw new UsageError('--json goes with ls');
  const fetch = planFetch(values.article, operands, rootfsFolder);
  const { source, dest, url, programs } = fetch;
  refuseOptions(fetch, values);
  const say = (text: string) => values.quiet || console.error(escapeControls(text));
  process.umask(0o022);
  const needed = programs ? ['ldd', ...asRoot.slice(0, 1)] : ['unshare', 'mount', 'chroot', 'tar', 'ldd'];
  if (!values.dryRun || programs) requirePrograms(needed, `make ${dest}`);
  try {
    check(dest);
    if (!values.dryRun) {
      makeParents(dest, say);
      await sweep(dest);
    }
  } catch (error) {
    throw new Failure(escapeControls(`cannot make ${dest}: ${reason(error)}`), { cause: error });
  }
  try {
    if (values.dryRun) {
      process.stdout.write(await printDest(fetch, values));
      return 0;
    }
    const { summary, digest } = await intoPlace(dest, (partial, interrupted) =>
      fill(partial, fetch, values, say, interrupted),
    );
    say(summary);
    writeOrigin(dest, { source: url ? shown(url) : source, digest });
  } catch (error) {
    // an open source, or a child that reads it, would keep this process alive
    setImmediate(() => process.exit());
    if (error instanceof UsageError) throw error;
    const what = url ? shown(url) : source;
    throw new Failure(escapeControls(`cannot fetch ${what}: ${reason(error)}`), { cause: error });
  }
  console.log(dest);
  return 0;
});
