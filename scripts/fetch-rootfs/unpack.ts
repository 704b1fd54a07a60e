// Unpacking. tar(1) runs confined: whatever the archive contains, tar writes only to the new root. The archive is
// streamed through node:child_process, because zx keeps the whole output of a program in memory.
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

// The first bytes of compressed files, and the programs that decompress them. Node's zlib is faster than gzip(1).
const compressions: { magic: number[]; tool: string; args: string[] }[] = [
  { magic: [0x1f, 0x8b], tool: 'gzip', args: [] },
  // xz -9 needs less than this limit; without it an archive could make xz allocate gigabytes
  {
    magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
    tool: 'xz',
    args: ['-dc', '--memlimit-decompress=100MiB'],
  },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], tool: 'zstd', args: ['-dcq'] },
  { magic: [0x42, 0x5a, 0x68], tool: 'bzip2', args: ['-dc'] },
];

/** Decompresses a stream. Its first bytes tell the format. Throws a Failure if the data is damaged or truncated. */
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
    // zlib ignores all data after the last member
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

/** Runs a decompressor. Any message of it, such as one about trailing garbage, refuses the archive. */
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
    // the decompressor's own message tells why it stopped reading
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
  : // a set-user-ID file that belongs to the user would run with the user's rights for everybody
    sh`--numeric-owner --no-same-permissions --no-same-owner`;

// tar and its libraries are on a read-only tmpfs in the new root, in a mount namespace of their own: after the chroot no
// path leads to the host. The tmpfs ends with the mount namespace.
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
  // the garbage here is buffers: with a small young generation V8 collects them early
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
  // the inspector holds the first bytes back until it knows what tar has to strip
  const first = await Promise.race([good.next(), rejection(signal)]);
  const tools = `.tar-${randomBytes(8).toString('hex')}`;
  const tar = spawn(
    'unshare',
    [
      ...[...asRoot.slice(1), '--mount', '--propagation', 'private', 'sh', '-ec', confine, 'confine'],
      ...confinedTar.argv(`/${tools}`),
      ...sh`--extract --file=- --strip-components=${inspector.strip ?? 0} ${tarOptions}`,
      // / is the new root: absolute names and links need no change
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
    // an interruption, or the end of tar, does not wait for a slow source
    await Promise.race([pipeline(all, tar.stdin), ended, rejection(signal)]);
  } catch (error) {
    // after a broken pipe the message of tar tells more
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

/** Waits for the end of a child. Returns the lines that it wrote on stderr, and the failure if it failed. */
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

/** This host's GNU tar: the files that it needs, and its command line if these are in one directory. */
async function findTar() {
  const tar = findProgram('tar');
  const version = tar && (await runProgram(sh`${tar} --version`)).stdout;
  if (!version?.startsWith('tar (GNU tar)'))
    throw new Failure(
      'cannot find GNU tar: other tar programs do not restore all attributes of a root file system: install it',
    );
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

/** The steps that set mode, owner and time of the root directory as in the archive. */
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
