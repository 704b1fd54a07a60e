// Unpacking: whatever is in the archive, tar(1) can write nowhere but into the new root. The archive goes through
// node:child_process, as all that is bulk: zx keeps what a program writes.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { lstatSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setFlagsFromString } from 'node:v8';
import { createGunzip } from 'node:zlib';
import { Failure, reason } from '../helpers/cli.ts';
import { installCommand } from '../helpers/programs.ts';
import { findProgram, runProgram, sh } from '../helpers/shell.ts';
import { perform, type Step } from '../helpers/steps.ts';
import { type Attributes, type Limits, TarInspector } from './archive.ts';
import { asRoot, lddLibraries } from './host-rootfs.ts';

const isRoot = process.getuid?.() === 0;

/** Only the root of the first user namespace may make device nodes, user_namespaces(7). */
const mayMakeDevices =
  isRoot && /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'utf8'));

// What a compressed file begins with, and the program that undoes it. gzip is node's own zlib: faster than gzip(1).
const compressions: { magic: number[]; tool: string; args: string[] }[] = [
  { magic: [0x1f, 0x8b], tool: 'gzip', args: [] },
  // the limit is above what xz -9 needs: an archive cannot make it take a gigabyte
  {
    magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
    tool: 'xz',
    args: ['-dc', '--memlimit-decompress=100MiB'],
  },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], tool: 'zstd', args: ['-dcq'] },
  { magic: [0x42, 0x5a, 0x68], tool: 'bzip2', args: ['-dc'] },
];

/** Undoes the compression that the first bytes tell, whatever the name says. Throws a Failure for bad or cut data. */
export async function* decompress(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const iterator = source[Symbol.asyncIterator]();
  let start: Buffer = Buffer.alloc(0);
  while (start.length < 6) {
    const { value, done } = await iterator.next();
    if (done) break;
    start = Buffer.concat([start, value]);
  }
  async function* whole() {
    yield start;
    yield* { [Symbol.asyncIterator]: () => iterator };
  }
  const compression = compressions.find(({ magic }) => magic.every((byte, index) => start[index] === byte));
  if (!compression) yield* whole();
  else if (compression.tool === 'gzip') yield* gunzip(whole());
  else yield* filter(compression.tool, compression.args, whole());
}

async function* gunzip(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let fed = 0;
  async function* counted() {
    for await (const chunk of source) {
      fed += chunk.length;
      yield chunk;
    }
  }
  const unzip = createGunzip({ chunkSize: 1 << 17 });
  let sourceError: unknown;
  const feeding = pipeline(counted(), unzip).catch((error: NodeJS.ErrnoException) => {
    sourceError = error;
  });
  try {
    yield* unzip as AsyncIterable<Buffer>;
    // zlib takes no notice of what follows the last member, be it zeros
    if (unzip.bytesWritten !== fed) throw new Failure('something follows the end of the gzip data');
    await feeding;
    if (sourceError) throw sourceError;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'Z_BUF_ERROR') throw new Failure('it is cut: the gzip data has no end');
    if (code?.startsWith('Z_')) throw new Failure(`the gzip data is damaged: ${(error as Error).message}`);
    throw error;
  }
}

/** Runs a decompressor as a child. Whatever it has to say, trailing garbage for example, refuses the archive. */
async function* filter(tool: string, args: string[], source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const child = spawn(tool, args, { stdio: 'pipe', env: { PATH: process.env.PATH, LC_ALL: 'C' } });
  let failure: unknown;
  let said = '';
  child.on('error', (error: NodeJS.ErrnoException) => {
    failure = new Failure(
      error.code === 'ENOENT'
        ? `it is compressed with ${tool}, which is not installed here: ${installCommand([tool])}`
        : `cannot run ${tool}: ${reason(error)}`,
    );
  });
  child.stderr.on('data', (text) => {
    said = (said + text).slice(0, 1000);
  });
  const closed = once(child, 'close').catch(() => [1]);
  const feeding = pipeline(source, child.stdin).catch((error: NodeJS.ErrnoException) => {
    // a decompressor that gives up says why
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_PREMATURE_CLOSE') failure ??= error;
  });
  try {
    yield* child.stdout as AsyncIterable<Buffer>;
    await feeding;
    const [code] = await closed;
    if (failure) throw failure;
    if (code !== 0 || said)
      throw new Failure(`the ${tool} data is damaged: ${said.trim().split('\n')[0] || `exit code ${code}`}`);
  } finally {
    child.kill();
  }
}

/** How tar(1) is to restore owners, modes and extended attributes. */
export const tarOptions = isRoot
  ? sh`--numeric-owner --preserve-permissions --same-owner --xattrs --xattrs-include=*`
  : // set-user-ID bits of files that are no longer root's would lend the user's rights to others
    sh`--numeric-owner --no-same-permissions --no-same-owner`;

// tar and its libraries lie on a tmpfs inside the new root, which is there for this process alone and cannot be
// written to: after the chroot nothing of the host has a name any more. The tmpfs goes with the mount namespace.
const confine = `
cd "$root"
mkdir "$tools"
mount -t tmpfs -o mode=755,size=64m tar "$tools"
cp -L $files "$tools"
mount -o remount,ro tar "$tools"
exec chroot . "$@"
`;

/**
 * Unpacks a tar archive, plain or compressed, into the empty directory `root`, as GNU tar does. As a user without root
 * all files become the user's. Throws a Failure where something is wrong, or the signal's reason; `root` is to be
 * thrown away then, and nothing writes to it any more.
 */
export async function unpack(
  chunks: AsyncIterable<Buffer>,
  root: string,
  limits: Limits,
  signal: AbortSignal,
): Promise<{ inspector: TarInspector; warnings: string[] }> {
  // what is thrown away here is buffers: a young generation that stays small has them collected before they pile up
  setFlagsFromString('--semi-space-growth-factor=1');
  const inspector = new TarInspector(mayMakeDevices ? limits : { ...limits, skipDevices: 'all' });
  let complete = false;
  async function* inspected() {
    for await (const chunk of decompress(chunks)) yield* inspector.push(chunk);
    inspector.end();
    complete = true;
  }
  const confinedTar = await findTar();
  const good = inspected();
  // the first bytes come when it is known what tar has to strip
  const first = await Promise.race([good.next(), rejection(signal)]);
  const tools = `.tar-${randomBytes(8).toString('hex')}`;
  const tar = spawn(
    'unshare',
    [
      ...[...asRoot.slice(1), '--mount', '--propagation', 'private', 'sh', '-ec', confine, 'confine'],
      ...confinedTar.argv(`/${tools}`),
      ...sh`--extract --file=- --strip-components=${inspector.strip ?? 0} ${tarOptions}`,
      // where / is the new root, links and names that begin with it are to be taken as they are
      '--absolute-names',
    ],
    {
      stdio: ['pipe', 'ignore', 'pipe'],
      // no TAR_OPTIONS, no LD_PRELOAD
      env: { PATH: process.env.PATH, LC_ALL: 'C', root, tools, files: confinedTar.files.join(' ') },
    },
  );
  const ended = end(tar, (line) => line.replace(/^\/\.tar-\w+\/tar:/, 'tar:'));
  async function* all() {
    if (!first.done) yield first.value;
    yield* good;
  }
  try {
    // neither an interruption nor tar's end has to wait for a source that is slow
    await Promise.race([pipeline(all, tar.stdin), ended, rejection(signal)]);
  } catch (error) {
    // where tar gave up, what it said tells more
    if (!brokenPipe(error)) {
      tar.kill('SIGKILL');
      await ended;
      throw error;
    }
  }
  const { failure, said } = await ended;
  if (failure) throw new Failure(failure);
  if (!complete) throw new Failure('tar ended before the archive did');
  await finishRoot(root, tools, inspector.rootAttributes);
  return { inspector, warnings: said };
}

const rejection = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => {
    signal.throwIfAborted();
    signal.addEventListener('abort', () => reject(signal.reason));
  });

const brokenPipe = (error: unknown) =>
  ['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'].includes((error as NodeJS.ErrnoException).code ?? '');

/** Waits for a child's end: the lines that it wrote on stderr, and what to tell if it failed. */
function end(
  child: ChildProcess,
  clean: (line: string) => string,
): Promise<{ failure?: string; said: string[] }> {
  let text = '';
  child.stderr?.on('data', (more) => {
    if (text.length < 10_000) text += more;
  });
  return new Promise((resolve) => {
    child.on('error', (error) =>
      resolve({ failure: `cannot run ${child.spawnfile}: ${reason(error)}`, said: [] }),
    );
    child.on('close', (code, signal) => {
      const said = text
        .split('\n')
        .map(clean)
        .filter((line) => line && !line.startsWith('tar: Exiting'));
      if (code === 0) return resolve({ said });
      const why =
        said.find((line) => !line.startsWith('tar: Removing')) ?? `tar ended with ${signal ?? code}`;
      const hint = /^(unshare|mount|chroot):/.test(why)
        ? `: tar is not run unconfined, which needs ${isRoot ? 'CAP_SYS_ADMIN' : 'root, or user namespaces'}`
        : '';
      resolve({ failure: why + hint, said });
    });
  });
}

/** GNU tar of this host, the files it needs, and how to call it where these lie in one directory. */
async function findTar() {
  const tar = findProgram('tar');
  const version = tar && (await runProgram(sh`${tar} --version`)).stdout;
  if (!version?.startsWith('tar (GNU tar)'))
    throw new Failure('cannot find GNU tar, which alone restores a root file system rightly: install it');
  const libraries = await lddLibraries([tar as string]);
  const loader = libraries.map((path) => basename(path)).find((name) => /^ld[\w.-]*$/.test(name));
  return {
    files: [tar as string, ...libraries],
    argv: (directory: string) => [
      ...(loader ? [join(directory, loader), '--library-path', directory] : []),
      join(directory, 'tar'),
    ],
  };
}

/** The steps that give the root directory what the archive says of it: mode, owner, time. */
export const planRoot = (root: string, { mode, uid, gid, mtime }: Attributes): Step[] => [
  ...(isRoot ? [{ run: sh`chown ${uid}:${gid} ${root}` }] : []),
  { run: sh`chmod ${(mode & (isRoot ? 0o7777 : 0o755)).toString(8)} ${root}` },
  { run: sh`touch -d @${mtime} ${root}` },
];

/** Removes the mount point, and gives the root directory its attributes: those of the archive, or the time that tar gave it. */
async function finishRoot(root: string, tools: string, attributes: Attributes | undefined): Promise<void> {
  const { mtimeNs } = lstatSync(root, { bigint: true });
  const mtime = `${mtimeNs / 1_000_000_000n}.${`${mtimeNs % 1_000_000_000n}`.padStart(9, '0')}`;
  await perform([{ run: sh`${asRoot} rmdir ${join(root, tools)}` }]);
  await perform(attributes ? planRoot(root, attributes) : [{ run: sh`touch -d @${mtime} ${root}` }]);
}

/** Checks a whole archive, and writes nothing. Throws a Failure as `unpack`. */
export async function inspect(chunks: AsyncIterable<Buffer>, limits: Limits): Promise<TarInspector> {
  const inspector = new TarInspector(mayMakeDevices ? limits : { ...limits, skipDevices: 'all' });
  for await (const chunk of decompress(chunks)) inspector.push(chunk);
  inspector.end();
  return inspector;
}
