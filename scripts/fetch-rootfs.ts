#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
fetch-rootfs.ts: get a root file system, which is just a tarball: check, unpack

USAGE
  fetch-rootfs.ts [OPTION...] [SOURCE] [DEST]
  fetch-rootfs.ts [OPTION...] --article [DEST]

  SOURCE  https://… or http://…: download a tarball
          FILE: a local tarball, plain or compressed with gzip, xz, zstd or
          bzip2; its content tells which
          -: a tarball on standard input
          host:  (default) copy programs of this host and their libraries; needs
          no network
          host:python3,/opt/tool  copy these programs too
  DEST    a path (with a / in it) that does not exist or is an empty directory;
          or the name of a folder in rootfs/. The default is derived from the
          name of SOURCE.

  Prints the path of the root file system.

EXAMPLES
  fetch-rootfs.ts                         programs of this host: rootfs/host
  fetch-rootfs.ts host:python3 ./py
  fetch-rootfs.ts --article               the tarball of the article
  fetch-rootfs.ts https://example.org/alpine.tar.gz alpine --sha256 5b1c…
  tar -C debian -c . | fetch-rootfs.ts - debian

OPTIONS
* --article         get the tarball of the article "Containers from Scratch"
* --sha256 HEX      refuse SOURCE if its SHA-256 sum differs
* --strip auto|N    remove N leading components from each name
                    auto (default) removes a single top directory such as
                    rootfs/
* --skip-devices    leave out device nodes other than null, zero and the like
                    without this option fetch-rootfs.ts refuses an archive that
                    has others
* --max-size SIZE   refuse an archive that unpacks to more (default 20G)
  --max-entries N   refuse an archive with more entries (default 1000000)
* -q, --quiet       print nothing but errors on standard error
* --dry-run         print the steps as shell, and make nothing
                    A FILE is read and checked
  -h, --help        print the usual options; --help all: print all of this

CHANGES
  Makes DEST completely or not at all: a call that fails or is interrupted
  leaves no DEST. Until DEST is complete, its name is .NAME.partial-PID. The
  next call removes what a killed call has left. tar runs in a mount namespace
  and a chroot of its own: no name in an archive leads out of DEST. Without
  root, all files belong to the calling user; device nodes, set-user-ID bits and
  extended attributes (file capabilities) are lost.

UNDO
  rm -rf DEST

EXIT CODES
  0 done; 1 failed, DEST does not exist; 2 wrong usage.

SEE ALSO
  tar(1), unshare(1), chroot(1), mount_namespaces(7), debootstrap(8), ldd(1)
*/
import { createHash, type Hash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Limits } from './fetch-rootfs/archive.ts';
import { planByHand } from './fetch-rootfs/by-hand.ts';
import { download, shown, withProgress } from './fetch-rootfs/download.ts';
import { asRoot, planHostRootfs } from './fetch-rootfs/host-rootfs.ts';
import { inspect, unpack } from './fetch-rootfs/unpack.ts';
import { Failure, main, reason, UsageError, type Values } from './helpers/cli.ts';
import { requirePrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { quote, sh } from './helpers/shell.ts';
import { makeDirectory, perform, type Step, toShell } from './helpers/steps.ts';
import { formatSize, parseSize } from './helpers/units.ts';

const articleUrl =
  'https://github.com/ericchiang/containers-from-scratch/releases/download/v0.1.0/rootfs.tar.gz';

export const options = {
  article: {},
  sha256: { parse: parseSum },
  strip: { parse: (text: string) => (text === 'auto' ? text : parseCount(text)) },
  skipDevices: {},
  maxSize: { parse: parseSize },
  maxEntries: { parse: parseCount },
  quiet: { short: 'q' },
  dryRun: {},
} as const;

function parseSum(text: string): string {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
  throw new UsageError(`not a sha256 sum, which is 64 hexadecimal digits: ${JSON.stringify(text)}`);
}

function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`not a number: ${JSON.stringify(text)}`);
}

/** SOURCE and the path of DEST. Throws UsageError if DEST is missing and the name of SOURCE gives none. */
export function planFetch(
  article: boolean,
  operands: string[],
  folder: string,
): { source: string; dest: string } {
  const [source = 'host:', given] = article ? [articleUrl, ...operands] : operands;
  if (isUrl(source) && !URL.canParse(source)) throw new UsageError(`no URL: ${source}`);
  if (operands.length > 1 && article) throw new UsageError(`one operand too many: ${operands[1]}`);
  const dest = given ?? defaultName(source);
  if (dest.includes('/') || /^\.\.?$/.test(dest)) return { source, dest: resolve(dest) };
  if (!/^\w[\w.+-]*$/.test(dest))
    throw new UsageError(`no name for a root file system: ${JSON.stringify(dest)}: give DEST`);
  return { source, dest: join(folder, dest) };
}

function defaultName(source: string): string {
  if (source === articleUrl) return 'article';
  if (source.startsWith('host:'))
    return ['host', ...hostPrograms(source).map((path) => basename(path))].join('-');
  const name = isUrl(source) ? decodeURIComponent(basename(new URL(source).pathname)) : basename(source);
  return name.replace(/\.tar(\.\w+)?$|\.t[gxb]z2?$|\.tzst$/, '');
}

const isUrl = (source: string) => /^https?:/i.test(source);
const hostPrograms = (source: string) => source.slice('host:'.length).split(',').filter(Boolean);

/** The bytes of SOURCE, and their number as soon as it is known. */
function openSource(
  source: string,
  say: (text: string) => void,
): { chunks: AsyncIterable<Buffer>; length?: number } {
  if (isUrl(source)) {
    const opened: { chunks: AsyncIterable<Buffer>; length?: number } = {
      chunks: download(new URL(source), {
        onLength: (bytes) => {
          opened.length = bytes;
        },
        onRetry: say,
      }),
    };
    return opened;
  }
  if (source === '-') {
    if (process.stdin.isTTY) throw new UsageError('standard input is a terminal, no tarball');
    return { chunks: process.stdin };
  }
  const stat = statSync(source);
  if (stat.isDirectory())
    throw new Failure(
      `EISDIR: it is a directory: pack it: tar -C ${quote(source)} -c . | fetch-rootfs.ts - NAME`,
    );
  return {
    chunks: createReadStream(source, { highWaterMark: 1 << 18 }),
    ...(stat.isFile() && { length: stat.size }),
  };
}

/** The limits that the options set. No archive may unpack to more than `freeBytes`. */
function readLimits(values: Values<typeof options>, freeBytes = Infinity): Limits {
  const maxBytes = values.maxSize ?? parseSize('20G');
  return {
    maxBytes: Math.min(maxBytes, freeBytes),
    maxBytesReason:
      maxBytes <= freeBytes ? ': --max-size allows more' : ', and no more is free on this file system',
    maxEntries: values.maxEntries ?? 1_000_000,
    strip: values.strip ?? 'auto',
    skipDevices: values.skipDevices ? 'unusual' : undefined,
  };
}

async function* hashing(chunks: AsyncIterable<Buffer>, hash: Hash): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    hash.update(chunk);
    yield chunk;
  }
}

/** The sum of what was read. Throws a Failure if another one was expected. */
function checkedSum(hash: Hash, expected: string | undefined): string {
  const sum = hash.digest('hex');
  if (expected && sum !== expected) throw new Failure(`its sha256 is ${sum}, not ${expected}`);
  return sum;
}

/** Makes the root file system in the empty directory `root`. Returns a sentence that describes it. */
async function fill(
  root: string,
  source: string,
  values: Values<typeof options>,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<string> {
  if (source.startsWith('host:')) {
    const made = await planHostRootfs(root, hostPrograms(source));
    await perform(made.steps);
    const lacks = made.missing.length > 0 ? `; this host has no ${made.missing.join(', ')}` : '';
    return `${made.programs.length} programs of this host, ${made.files} files, ${formatSize(made.bytes)}${lacks}`;
  }
  const { bavail, bsize } = statfsSync(root);
  const opened = openSource(source, say);
  const hash = createHash('sha256');
  const hashed = hashing(opened.chunks, hash);
  const chunks = values.quiet ? hashed : withProgress(hashed, opened, basename(source));
  const { inspector, warnings } = await unpack(chunks, root, readLimits(values, bavail * bsize), signal);
  const sum = checkedSum(hash, values.sha256);
  if (readdirSync(root).length === 0)
    throw new Failure(`nothing is left of it after --strip ${inspector.strip}`);
  for (const warning of warnings) say(warning);
  if (asRoot.length > 0)
    say(
      'without root: every file is yours; set-user-ID bits, extended attributes and device nodes are left out',
    );
  else if (inspector.skippedDevices > 0) say(`${inspector.skippedDevices} device nodes left out`);
  if (!['bin', 'usr', 'sbin'].some((name) => lstatSync(join(root, name), { throwIfNoEntry: false })))
    say('warning: neither /bin nor /usr in it: is it a root file system?');
  return `${inspector.entries} entries, ${formatSize(inspector.bytes)}, sha256 ${sum}`;
}

/** Has `dest` made under another name beside it, then renames it: it exists completely or not at all, even after SIGKILL. */
async function intoPlace(
  dest: string,
  make: (partial: string, signal: AbortSignal) => Promise<string>,
): Promise<string> {
  const partial = join(dirname(dest), `.${basename(dest)}.partial-${process.pid}`);
  const abort = new AbortController();
  let interruption: NodeJS.Signals | undefined;
  const interrupt = (signal: NodeJS.Signals) => {
    interruption = signal;
    abort.abort(new Failure('interrupted'));
  };
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
  mkdirSync(partial, { mode: 0o755 });
  try {
    const made = await make(partial, abort.signal);
    abort.signal.throwIfAborted();
    renameSync(partial, dest);
    return made;
  } finally {
    await remove(partial);
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
    // end by the signal: a shell that runs a script ends its script too then
    if (interruption) process.kill(process.pid, interruption);
  }
}

/** Removes a tree with rm(1), which takes paths of any depth; root of a user namespace may remove read-only directories. */
async function remove(path: string): Promise<void> {
  if (existsSync(path)) await perform([{ run: sh`${asRoot} rm -rf -- ${path}` }]);
}

/** Removes what killed calls have left: those for this DEST, and all in the project's own rootfs/. */
async function sweep(dest: string): Promise<void> {
  const folder = dirname(dest);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const [, name, pid] = /^\.(.+)\.partial-(\d+)$/.exec(entry.name) ?? [];
    const ours = name === basename(dest) || (name && folder === rootfsFolder);
    const isDead = Number(pid) === process.pid || !existsSync(`/proc/${pid}`);
    if (ours && entry.isDirectory() && isDead) await remove(join(folder, entry.name));
  }
}

/** Throws a Failure where DEST exists and is not an empty directory that can be replaced. */
function check(dest: string): void {
  const stat = lstatSync(dest, { throwIfNoEntry: false });
  if (stat && (!stat.isDirectory() || readdirSync(dest).length > 0)) {
    // DEST can be any path: a command that removes it is named only for the project's own rootfs/
    const remedy = dirname(dest) === rootfsFolder ? `or: rm -rf ${quote(dest)}` : 'or remove it yourself';
    throw new Failure(`EEXIST: it is there already: choose another DEST, ${remedy}`);
  }
  if (stat && stat.dev !== statSync(dirname(dest)).dev)
    throw new Failure('EBUSY: it is a mount point: give a new folder in it');
}

/** What --dry-run prints: the steps of `host:`; for an archive what an engineer would type. */
async function planDest(dest: string, source: string, values: Values<typeof options>): Promise<Step[]> {
  const making: Step = { run: sh`mkdir -p -m 755 ${dest}` };
  if (source.startsWith('host:')) {
    const { steps } = await planHostRootfs(dest, hostPrograms(source));
    return [making, ...steps];
  }
  const { sha256, skipDevices } = values;
  const isFile = source !== '-' && !isUrl(source);
  const known = isFile ? await inspectFile(source, values) : undefined;
  const strip = source === articleUrl ? 1 : undefined; // it has all below rootfs/
  const given = typeof values.strip === 'number' ? values.strip : strip;
  const archive = {
    ...{ file: isUrl(source) ? `${dest}.tar` : isFile ? resolve(source) : source, sha256, skipDevices },
    ...{ url: isUrl(source) ? source : undefined, strip: given, rootAttributes: undefined },
    ...known,
    isChecked: known !== undefined,
  };
  return [making, ...planByHand(dest, archive)];
}

/** Checks an archive that is a file, as a call without --dry-run does. Returns what its steps depend on. */
async function inspectFile(source: string, values: Values<typeof options>) {
  const { chunks } = openSource(source, () => {});
  const hash = createHash('sha256');
  const inspector = await inspect(hashing(chunks, hash), readLimits(values));
  const sha256 = checkedSum(hash, values.sha256);
  return { strip: inspector.strip, rootAttributes: inspector.rootAttributes, sha256 };
}

await main(import.meta.url, { options, operands: [0, 2] }, async (values, operands) => {
  const { source, dest } = planFetch(values.article, operands, rootfsFolder);
  const say = (text: string) => values.quiet || console.error(text);
  process.umask(0o022);
  const isArchive = !source.startsWith('host:');
  const programs = isArchive ? ['unshare', 'mount', 'chroot', 'tar', 'ldd'] : ['ldd', ...asRoot.slice(0, 1)];
  if (!values.dryRun || !isArchive) requirePrograms(programs, `make ${dest}`);
  try {
    check(dest);
    if (!values.dryRun) {
      makeDirectory(dirname(dest));
      await sweep(dest);
    }
  } catch (error) {
    throw new Failure(`cannot make ${dest}: ${reason(error)}`, { cause: error });
  }
  try {
    if (values.dryRun) {
      process.stdout.write(toShell(await planDest(dest, source, values)));
      return 0;
    }
    say(await intoPlace(dest, (partial, signal) => fill(partial, source, values, say, signal)));
  } catch (error) {
    // an open source, or a child that reads it, would keep this process alive
    setImmediate(() => process.exit());
    if (error instanceof UsageError) throw error;
    const what = isUrl(source) ? shown(new URL(source)) : source;
    throw new Failure(`cannot fetch ${what}: ${reason(error)}`, { cause: error });
  }
  console.log(dest);
  return 0;
});
