#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
fetch-rootfs.ts: a root file system is just a tarball: get one, check it, unpack it

USAGE
  fetch-rootfs.ts [OPTIONS] [SOURCE] [DEST]
  fetch-rootfs.ts [OPTIONS] --article [DEST]

  SOURCE  https://… or http://…: a tarball from the network
          FILE: a tarball here, plain or compressed with gzip, xz, zstd or bzip2 (told by its content)
          -: a tarball on standard input
          host:  (the default) made of this host's own programs and their libraries; needs no network
          host:python3,/opt/tool  the same, and these programs too
  DEST    a path (with a / in it) that is not there yet or an empty directory; or the name of a folder in
          rootfs/. By default the name is SOURCE's.

  Prints the path of the root file system.

OPTIONS
  --article         SOURCE is the tarball of the article "Containers from Scratch"
  --sha256 HEX      refuse a SOURCE with another sum
  --strip auto|N    leading parts to take off every name; auto (default): a single top directory like rootfs/
  --skip-devices    leave out device nodes but the harmless ones; without it an archive with such is refused
  --max-size SIZE   refuse what unpacks to more (default 20G)
  --max-entries N   refuse more files than this (default 1000000)
  -q, --quiet       say nothing but errors
  -h, --help

EXAMPLES
  fetch-rootfs.ts                                  # rootfs/host
  fetch-rootfs.ts host:python3 ./py
  fetch-rootfs.ts --article                        # rootfs/article
  fetch-rootfs.ts https://example.org/alpine.tar.gz alpine --sha256 5b1c…
  debootstrap --variant=minbase bookworm d && tar -C d -c . | fetch-rootfs.ts - debian

CHANGES
  Makes DEST, all of it or nothing: a refused or interrupted call leaves no DEST. Until it is complete it is
  .NAME.partial-PID beside it; what a killed call left of those is removed by the next one.
  tar runs in a mount namespace and a chroot of its own: nothing an archive names is outside DEST.
  As a user without root every file becomes yours; device nodes, set-user-ID bits and extended attributes
  (file capabilities) are lost.

UNDO
  rm -rf DEST

SEE ALSO
  tar(1), unshare(1), chroot(1), mount_namespaces(7), debootstrap(8), ldd(1)
*/
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
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
import { download, shown, withProgress } from './fetch-rootfs/download.ts';
import { makeHostRootfs } from './fetch-rootfs/host-rootfs.ts';
import { asRoot, unpack } from './fetch-rootfs/unpack.ts';
import { Failure, main, reason, UsageError, type Values } from './helpers/cli.ts';
import { requirePrograms } from './helpers/programs.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { quote } from './helpers/shell.ts';
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
} as const;

function parseSum(text: string): string {
  if (/^[0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
  throw new UsageError(`not a sha256 sum, which is 64 hexadecimal digits: ${JSON.stringify(text)}`);
}

function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`not a number: ${JSON.stringify(text)}`);
}

/** What to fetch and where to put it. Throws UsageError where SOURCE's name makes none for DEST. */
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

/** The bytes of SOURCE, and how many they are going to be, as soon as that is known. */
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

/** Unpacks, or makes, the root file system in the empty directory `root`. Returns a sentence on what it is. */
async function fill(
  root: string,
  source: string,
  values: Values<typeof options>,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<string> {
  if (source.startsWith('host:')) {
    const made = await makeHostRootfs(root, hostPrograms(source));
    const lacks = made.missing.length > 0 ? `; this host has no ${made.missing.join(', ')}` : '';
    return `${made.programs.length} programs of this host, ${made.files} files, ${formatSize(made.bytes)}${lacks}`;
  }
  const { bavail, bsize } = statfsSync(root);
  const maxBytes = values.maxSize ?? parseSize('20G');
  const limits = {
    maxBytes: Math.min(maxBytes, bavail * bsize),
    maxBytesReason:
      maxBytes <= bavail * bsize ? ': --max-size allows more' : ', and no more is free on this file system',
    maxEntries: values.maxEntries ?? 1_000_000,
    strip: values.strip ?? ('auto' as const),
    skipDevices: values.skipDevices ? ('unusual' as const) : undefined,
  };
  const opened = openSource(source, say);
  const hash = createHash('sha256');
  const hashed = async function* () {
    for await (const chunk of opened.chunks) {
      hash.update(chunk);
      yield chunk;
    }
  };
  const chunks = values.quiet ? hashed() : withProgress(hashed(), opened, basename(source));
  const { inspector, warnings } = await unpack(chunks, root, limits, signal);
  const sum = hash.digest('hex');
  if (values.sha256 && sum !== values.sha256) throw new Failure(`its sha256 is ${sum}, not ${values.sha256}`);
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

/** Has `dest` made beside itself and renamed, so that it is there whole or not at all, even after SIGKILL. */
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
    remove(partial);
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
    // die by the signal after all: a shell that runs a script wants to know
    if (interruption) process.kill(process.pid, interruption);
  }
}

/** rm(1), since it takes paths of any depth; in a user namespace also directories that their owner may not write. */
function remove(path: string): void {
  const [command = '', ...words] = [...asRoot, 'rm', '-rf', '--', path];
  if (existsSync(path)) execFileSync(command, words);
}

/** Removes what calls left behind that were killed: of this DEST, and in the project's own folder of any. */
function sweep(dest: string): void {
  const folder = dirname(dest);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const [, name, pid] = /^\.(.+)\.partial-(\d+)$/.exec(entry.name) ?? [];
    const ours = name === basename(dest) || (name && folder === rootfsFolder);
    const isDead = Number(pid) === process.pid || !existsSync(`/proc/${pid}`);
    if (ours && entry.isDirectory() && isDead) remove(join(folder, entry.name));
  }
}

/** Makes room for DEST: the folder it is in. Throws a Failure where DEST is there and not empty. */
function prepare(dest: string): void {
  const stat = lstatSync(dest, { throwIfNoEntry: false });
  if (stat && (!stat.isDirectory() || readdirSync(dest).length > 0)) {
    // a path may be anything: only what is ours gets a line to be pasted that removes it
    const remedy = dirname(dest) === rootfsFolder ? `or: rm -rf ${quote(dest)}` : 'or remove it yourself';
    throw new Failure(`EEXIST: it is there already: choose another DEST, ${remedy}`);
  }
  if (stat && stat.dev !== statSync(dirname(dest)).dev)
    throw new Failure('EBUSY: it is a mount point: give a new folder in it');
  mkdirSync(dirname(dest), { recursive: true });
  sweep(dest);
}

await main(import.meta.url, { options, operands: [0, 2] }, async (values, operands) => {
  const { source, dest } = planFetch(values.article, operands, rootfsFolder);
  const say = (text: string) => values.quiet || console.error(text);
  process.umask(0o022);
  const isArchive = !source.startsWith('host:');
  const programs = isArchive ? ['unshare', 'mount', 'chroot', 'tar', 'ldd'] : ['ldd', ...asRoot.slice(0, 1)];
  requirePrograms(programs, `make ${dest}`);
  try {
    prepare(dest);
  } catch (error) {
    throw new Failure(`cannot make ${dest}: ${reason(error)}`, { cause: error });
  }
  try {
    say(await intoPlace(dest, (partial, signal) => fill(partial, source, values, say, signal)));
  } catch (error) {
    // a source that has more to send, or a child that waits for it, must not keep this process alive
    setImmediate(() => process.exit());
    if (error instanceof UsageError) throw error;
    const what = isUrl(source) ? shown(new URL(source)) : source;
    throw new Failure(`cannot fetch ${what}: ${reason(error)}`, { cause: error });
  }
  console.log(dest);
  return 0;
});
