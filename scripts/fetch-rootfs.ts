#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
fetch-rootfs.ts: get a root file system, which is just a tarball: check, unpack

USAGE
  fetch-rootfs.ts [OPTION...] [SOURCE | --article] [DEST]
  fetch-rootfs.ts ls [--json]
  fetch-rootfs.ts rm [--dry-run] NAME...

  SOURCE  https://… or http://…: download a tarball
          FILE: a local tarball, plain or compressed with gzip, xz, zstd, bzip2
          or compress; its content tells which
          -: a tarball on standard input
          docker://IMAGE[:TAG][@DIGEST]: an image of a registry, as for docker:
          docker://alpine is docker://docker.io/library/alpine:latest
          docker-archive:FILE[:IMAGE]: an image that docker save or podman save
          wrote, also compressed
          oci:DIR[:TAG], oci-archive:FILE[:TAG]: an image in the OCI layout
          FILE is - for standard input
          host:  (default) copy programs of this host and their libraries; needs
          no network
          host:python3,/opt/tool  copy these programs too
  DEST    a path (with a / in it) that does not exist or is an empty directory;
          or the name of a folder in rootfs/. The default is derived from the
          name of SOURCE.

  Prints the path of the root file system.

  ls lists those in rootfs/: size, age, digest of the manifest or tarball, and
  SOURCE. rm removes those that no process and no mount uses. A SOURCE of this
  name is ./ls or ./rm.

EXAMPLES
  fetch-rootfs.ts                         programs of this host: rootfs/host
  fetch-rootfs.ts host:python3 ./py
  fetch-rootfs.ts docker://alpine:3.20    rootfs/alpine
  fetch-rootfs.ts docker-archive:web.tar  what docker save wrote: rootfs/web
  fetch-rootfs.ts https://example.org/alpine.tar.gz alpine --sha256 5b1c…
  tar -C debian -c . | fetch-rootfs.ts - debian

OPTIONS
* --article         get the example root file system of containers-from-scratch
                    which the article "DIY a Linux container in 5 minutes
                    without Docker" unpacks
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
  --no-cache        neither use nor keep layers in ~/.cache/barehand
  --registry-mirror URL
                    ask it for images of Docker Hub first, in this order if
                    given several times
  --insecure-registry HOST[:PORT]
                    ask this registry by http where it has no https; without
                    this option fetch-rootfs.ts does so on this host only
                    (localhost, 127.0.0.1)
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
  ~/.cache/barehand: up to 10 GB, the least recently used go first. Keeps where
  rootfs/NAME comes from in rootfs/.NAME.json, and the configuration of an image
  in DEST/.image.json, for run.ts.

UNDO
  fetch-rootfs.ts rm NAME; rm -rf DEST ~/.cache/barehand

EXIT CODES
  0 done; 1 failed: DEST was not made; 2 wrong usage.

SEE ALSO
  tar(1), unshare(1), chroot(1), mount_namespaces(7), debootstrap(8), ldd(1)
*/
import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  type Stats,
  statfsSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { planByHand, printArchive, printImage } from './fetch-rootfs/by-hand.ts';
import { describeImage, refuseOthers } from './fetch-rootfs/formats.ts';
import { planHostRootfs } from './fetch-rootfs/host-rootfs.ts';
import {
  findNamed,
  listNamed,
  type Named,
  removeNamed,
  removeTree,
  sweepNotes,
  writeOrigin,
} from './fetch-rootfs/named.ts';
import { scriptPath } from './helpers/called.ts';
import { Failure, HelpNeeded, isGiven, kebab, main, reason, UsageError, type Values } from './helpers/cli.ts';
import { didYouMean, escapeControls } from './helpers/messages.ts';
import { toJson } from './helpers/output.ts';
import { findLeftovers, partialOf, untilInterrupted } from './helpers/partial.ts';
import { attempt } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { quote, sh } from './helpers/shell.ts';
import { makeDirectory, perform, type Step, toShell } from './helpers/steps.ts';
import { formatDuration, formatSize, parseSize } from './helpers/units.ts';
import { type ArchiveName, openArchive, parseArchiveName } from './images/archives.ts';
import { openCache, resolveImage } from './images/cache.ts';
import { chooseImage, hostPlatform, parsePlatform } from './images/choose.ts';
import { type Compression, decompress } from './images/compression.ts';
import { asRoot, isRoot } from './images/confine.ts';
import { fillFromImage } from './images/fill.ts';
import { download, shown } from './images/http.ts';
import type { Image } from './images/image.ts';
import { TarInspector } from './images/inspector.ts';
import { type Applied, applyLayers } from './images/layers.ts';
import { Progress } from './images/progress.ts';
import { parseReference, type Reference, showReference, wantedOf } from './images/reference.ts';
import { openRegistry, parseMirror, parseRegistry } from './images/registry.ts';
import { mayMakeDevices, unpack } from './images/unpack.ts';
import { shortDigest, verified } from './images/verify.ts';

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

/** Where a root file system comes from, and where it is made. */
interface Fetch {
  source: string;
  dest: string;
  /** SOURCE, if it is one */
  url: URL | undefined;
  image: Reference | undefined;
  archive: ArchiveName | undefined;
  /** programs to copy besides the default ones, if SOURCE is this host */
  programs: string[] | undefined;
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
      : [
          basename(url ? decodeURIComponent(url.pathname) : (archive?.path ?? source)).replace(
            /\.tar(\.\w+)?$|\.t[gxb]z2?$|\.tzst$/,
            '',
          ),
        ];
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

/** The status of a file that is SOURCE. Throws a Failure with the nearest name if there is none. */
function statSource(source: string): Stats {
  try {
    return statSync(source);
  } catch (error) {
    const folder = source.slice(0, source.lastIndexOf('/') + 1);
    const names = attempt(() => readdirSync(folder || '.')) ?? [];
    const near = didYouMean(source.slice(folder.length), folder ? names : ['host:', ...names], folder);
    throw new Failure(`${reason(error)}${near}`, { cause: error });
  }
}

/** The bytes of SOURCE. `total` gets their number as soon as it is known. */
function openSource(
  fetch: Fetch,
  total: { length?: number | undefined },
  onRetry: (text: string) => void,
): AsyncIterable<Buffer> {
  const { source, url, dest } = fetch;
  if (url) return download(url, { total, onRetry });
  if (source === '-') {
    if (process.stdin.isTTY)
      throw new UsageError(
        'standard input is a terminal: redirect it, as by <FILE, or give the path of a tarball as SOURCE',
      );
    return process.stdin;
  }
  const stat = statSource(source);
  if (stat.isDirectory() && existsSync(join(source, 'oci-layout')))
    throw new Failure(describeImage('oci', fetch));
  if (stat.isDirectory())
    throw new Failure(
      `EISDIR: it is a directory: pack it: tar -C ${quote(source)} -c . | ${scriptPath()} - ${quote(dest)}`,
    );
  if (stat.isFile()) total.length = stat.size;
  return createReadStream(source, { highWaterMark: 1 << 18 });
}

/**
 * Reads and checks the archive SOURCE. `checked` is what tar(1) may read of it; it throws at its end if --sha256 is
 * another sum. No archive may unpack to more than `freeBytes`.
 */
function openTarball(
  fetch: Fetch,
  values: Values<typeof options>,
  freeBytes: number,
  say: (text: string) => void,
) {
  const inspector = new TarInspector({ ...limitsOf(values, freeBytes), strip: values.strip ?? 'auto' });
  const hash = createHash('sha256');
  const total = {};
  async function* read() {
    for await (const chunk of openSource(fetch, total, say)) {
      hash.update(chunk);
      yield chunk;
    }
  }
  const archive = { inspector, sha256: '', checked: check() };
  const judge = (start: Buffer, outer?: Compression) => refuseOthers(start, fetch, outer);
  async function* check() {
    const bytes = values.quiet ? read() : new Progress().show(read(), basename(fetch.source), total);
    try {
      for await (const chunk of decompress(bytes, judge)) yield* inspector.push(chunk);
      inspector.end();
    } catch (error) {
      throw inspector.image ? new Failure(describeImage(inspector.image, fetch)) : error;
    }
    if (inspector.image) throw new Failure(describeImage(inspector.image, fetch));
    archive.sha256 = hash.digest('hex');
    if (values.sha256 && archive.sha256 !== values.sha256)
      throw new Failure(`its sha256 is ${archive.sha256}, not ${values.sha256}`);
  }
  return archive;
}

/** What was made: a sentence that describes it, and the digest of what it was made of. */
interface Made {
  summary: string;
  digest: string | null;
}

/** Makes the root file system in the empty directory `root`. */
async function fill(
  root: string,
  fetch: Fetch,
  values: Values<typeof options>,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Made> {
  if (fetch.programs) {
    const { steps, summary } = await planHostRootfs(root, fetch.programs);
    await perform(steps);
    return { summary, digest: null };
  }
  if (fetch.image) return fillImage(fetch.image, root, values, say, interrupted);
  if (fetch.archive) return fillArchive(fetch.archive, root, values, say, interrupted);
  const { bavail, bsize } = statfsSync(root);
  const archive = openTarball(fetch, values, bavail * bsize, say);
  const { inspector } = archive;
  const warnings = await unpack(archive.checked, inspector, root, interrupted);
  if (readdirSync(root).length === 0)
    throw new Failure(`--strip ${inspector.strip} leaves nothing of it: choose a smaller number`);
  for (const warning of warnings) say(warning);
  remark(root, inspector, say);
  const summary = `${inspector.entries} entries, ${formatSize(inspector.bytes)}, sha256 ${archive.sha256}`;
  return { summary, digest: `sha256:${archive.sha256}` };
}

/** Says what is missing in a root file system that was unpacked. */
function remark(
  root: string,
  { skippedDevices }: { skippedDevices: number },
  say: (text: string) => void,
): void {
  if (!isRoot)
    say(
      'without root: every file is yours; set-user-ID bits, extended attributes and device nodes are left out',
    );
  else if (skippedDevices > 0) say(`${skippedDevices} device nodes left out`);
  if (!['bin', 'usr', 'sbin'].some((name) => lstatSync(join(root, name), { throwIfNoEntry: false })))
    say('warning: neither /bin nor /usr in it: is it a root file system?');
}

/** What may be unpacked, and no more than `freeBytes`. */
function limitsOf(
  { maxSize = parseSize('20G'), maxEntries = 1_000_000, skipDevices }: Values<typeof options>,
  freeBytes: number,
) {
  return {
    maxBytes: Math.min(maxSize, freeBytes),
    maxBytesReason:
      maxSize <= freeBytes ? ': --max-size allows more' : ', and no more is free on this file system',
    maxEntries,
    skipDevices: !mayMakeDevices ? ('all' as const) : skipDevices ? ('unusual' as const) : undefined,
  };
}

/** How the registry of an image is asked. */
const registryOptions = (values: Values<typeof options>, say: (text: string) => void) => ({
  platform: values.platform ?? hostPlatform(),
  mirrors: values.registryMirror,
  insecure: values.insecureRegistry,
  say,
});

/** Makes the root file system of an image in the empty directory `root`. */
async function fillImage(
  reference: Reference,
  root: string,
  values: Values<typeof options>,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Made> {
  const directory = values.noCache ? undefined : openCache();
  const progress = values.quiet ? undefined : new Progress();
  const tell = (text: string) => (progress ? progress.say(text) : undefined);
  const resolving = resolveImage(reference, { ...registryOptions(values, tell), directory });
  const image = await Promise.race([resolving, interrupted]);
  tell(`${showReference(reference)} is ${image.manifestDigest}`);
  const { bavail, bsize } = statfsSync(root);
  const layers = { directory, scratch: dirname(root), progress, limits: limitsOf(values, bavail * bsize) };
  const applied = await fillFromImage(image, root, layers, tell, interrupted).finally(() => progress?.end());
  remark(root, applied, say);
  return madeOf(image, applied);
}

const madeOf = ({ manifest: { layers }, manifestDigest }: Image, { entries, bytes }: Applied): Made => ({
  summary: `${entries} entries, ${formatSize(bytes)}, ${layers.length} ${layers.length === 1 ? 'layer' : 'layers'}`,
  digest: manifestDigest,
});

/** The same for an image in a file. */
async function fillArchive(
  archive: ArchiveName,
  root: string,
  values: Values<typeof options>,
  say: (text: string) => void,
  interrupted: Promise<never>,
): Promise<Made> {
  const { bavail, bsize } = statfsSync(root);
  const limits = limitsOf(values, bavail * bsize);
  const opening = openImage(archive, `${root}.image`, limits.maxBytes, values);
  const { source, image } = await Promise.race([opening, interrupted]);
  const progress = new Progress();
  const layers = image.manifest.layers.map((layer, index) => () => {
    const bytes = verified(source.openBlob(layer, 0), layer);
    const label = `layer ${index + 1} of ${image.manifest.layers.length}`;
    return values.quiet ? bytes : progress.show(bytes, label, { length: layer.size });
  });
  const applied = await applyLayers(image, layers, root, limits, say, interrupted);
  await source.close();
  remark(root, applied, say);
  return madeOf(image, applied);
}

/** Opens an image in a file. Throws a Failure with the nearest name if there is no such file. */
async function openImage(
  archive: ArchiveName,
  scratch: string,
  maxBytes: number,
  { platform = hostPlatform() }: Values<typeof options>,
) {
  if (archive.path !== '-') statSource(archive.path);
  else if (process.stdin.isTTY) throw new UsageError('standard input is a terminal, no image');
  const source = await openArchive(archive, { scratch, maxBytes });
  return { source, image: await chooseImage(source, archive.reference ?? '', platform) };
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
    throw new Failure(`EEXIST: it is there already: choose another DEST, ${remedy}`);
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

/** Throws UsageError for an option that `ls` or `rm` does not have. */
function allowOnly(command: string, allowed: string[], values: Values<typeof options>): void {
  const [name] =
    Object.entries(values).find(([key, value]) => !allowed.includes(key) && isGiven(value)) ?? [];
  if (name) throw new UsageError(`--${kebab(name)} does not go with ${command}`);
}

/** Prints the root file systems in rootfs/. */
async function list(values: Values<typeof options>, operands: string[]): Promise<number> {
  allowOnly('ls', ['json'], values);
  if (operands.length > 0) throw new HelpNeeded(`one operand too many: ${operands[0]}`);
  const all = await listNamed();
  if (values.json) console.log(toJson(all, 2));
  else if (all.length === 0) console.error(`${rootfsFolder} has no root file system`);
  else console.log(await listText(all, Date.now()));
  return 0;
}

/** The table that ls prints. `now`: milliseconds, as Date.now(). */
async function listText(all: Named[], now: number): Promise<string> {
  const { table } = await import('./helpers/table.ts');
  const rows = all.map(({ name, bytes, source, digest, fetchedAt }) => [
    name,
    bytes === null ? '?' : formatSize(bytes),
    fetchedAt ? formatDuration(Math.max(0, (now - Date.parse(fetchedAt)) / 1000)) : '?',
    digest ? shortDigest(digest) : '',
    source ?? '?',
  ]);
  return table(
    ['NAME', 'SIZE', 'AGE', 'DIGEST', 'SOURCE'],
    rows.map((row) => row.map(escapeControls)),
    { align: ['left', 'right', 'right'] },
  );
}

/** Removes root file systems in rootfs/ that nothing uses. Goes on after a failure. */
async function remove(values: Values<typeof options>, operands: string[]): Promise<number> {
  allowOnly('rm', ['dryRun', 'quiet'], values);
  if (operands.length === 0) throw new HelpNeeded('rm needs a NAME');
  let failed = false;
  for (const name of operands)
    try {
      if (values.dryRun) process.stdout.write(toShell([{ run: sh`rm -rf -- ${findNamed(name)}` }]));
      else {
        await removeNamed(name);
        if (!values.quiet) console.error(escapeControls(`removed ${join(rootfsFolder, name)}`));
      }
    } catch (error) {
      failed = true;
      console.error(escapeControls(`fetch-rootfs: cannot remove ${name}: ${reason(error)}`));
    }
  return failed ? 1 : 0;
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
