// Unpacking. tar(1) runs confined: whatever the archive contains, tar writes only to the new root. The archive is
// streamed through node:child_process, because zx keeps the whole output of a program in memory.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setFlagsFromString } from 'node:v8';
import { createGunzip } from 'node:zlib';
import { Failure, reason } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { installCommand, missingPrograms } from '../helpers/programs.ts';
import { findProgram, runProgram, sh } from '../helpers/shell.ts';
import { perform, type Step } from '../helpers/steps.ts';
import type { Attributes, TarInspector } from './archive.ts';
import { type Compression, findCompression, type Operands, refuseOthers, startBytes } from './formats.ts';
import { asRoot, isRoot, lddLibraries } from './host-rootfs.ts';

/** Only the root of the first user namespace may make device nodes, user_namespaces(7). */
export const mayMakeDevices =
  isRoot && /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'utf8'));

const confine = embedded(import.meta.url, './confine.sh');

/** The first bytes of a stream, and all of it. */
async function peek(source: AsyncIterable<Buffer>): Promise<{ start: Buffer; all: AsyncIterable<Buffer> }> {
  const iterator = source[Symbol.asyncIterator]();
  let start: Buffer = Buffer.alloc(0);
  while (start.length < startBytes) {
    const { value, done } = await iterator.next();
    if (done) break;
    start = Buffer.concat([start, value]);
  }
  async function* all() {
    yield start;
    yield* { [Symbol.asyncIterator]: () => iterator };
  }
  return { start, all: all() };
}

/** Decompresses a tarball. Its first bytes tell the format. Throws a Failure if the data is damaged or another format. */
export async function* decompress(source: AsyncIterable<Buffer>, operands: Operands): AsyncGenerator<Buffer> {
  const { start, all } = await peek(source);
  const compression = findCompression(start);
  if (!compression) {
    refuseOthers(start, operands);
    return yield* all;
  }
  const plain = await peek(compression.name === 'gzip' ? gunzip(all) : filter(compression, all));
  refuseOthers(plain.start, operands, compression);
  yield* plain.all;
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
  // an error of the source ends `unzip` too
  const feeding = pipeline(counted(), unzip);
  feeding.catch(() => undefined);
  try {
    yield* unzip as AsyncIterable<Buffer>;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'Z_BUF_ERROR') throw new Failure('it is cut: the gzip data has no end');
    throw code?.startsWith('Z_') ? new Failure(`the gzip data is damaged: ${message}`) : error;
  }
  // zlib ignores all data after the last member
  if (unzip.bytesWritten !== fed) throw new Failure('other data follow the end of the gzip data');
  await feeding;
}

/** Runs a decompressor. Any message of it, such as one about trailing garbage, refuses the archive. */
async function* filter(
  { name, command: [tool = '', ...args] }: Compression,
  source: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  if (missingPrograms([tool])) {
    const needed = tool === name ? '' : `, for which ${tool} is needed`;
    throw new Failure(
      `it is compressed with ${name}${needed}, which is not installed here: ${installCommand([tool])}`,
    );
  }
  const child = spawn(tool, args, { stdio: 'pipe', env: { PATH: process.env.PATH, LC_ALL: 'C' } });
  const ended = Promise.all([outcome(child), feed(child, source)]);
  ended.catch(() => undefined);
  try {
    yield* child.stdout as AsyncIterable<Buffer>;
    const [{ end, said }] = await ended;
    if (end !== 0 || said.length > 0)
      throw new Failure(`the ${name} data is damaged: ${said[0] ?? `exit code ${end}`}`);
  } finally {
    child.kill();
  }
}

/** Writes all to a child's standard input. That the child does not read on is no error: its end tells why. */
const feed = (child: ChildProcess, source: AsyncIterable<Buffer>) =>
  pipeline(source, child.stdin as NonNullable<typeof child.stdin>).catch((error) => {
    if (!['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'].includes(error.code)) throw error;
  });

/** The exit code or signal of a child, and the lines that it wrote on standard error. Throws if it cannot be run. */
async function outcome(child: ChildProcess): Promise<{ end: number | string; said: string[] }> {
  let text = '';
  child.stderr?.on('data', (more) => {
    if (text.length < 10_000) text += more;
  });
  const [code, signal] = await once(child, 'close').catch((error) => {
    throw new Failure(`cannot run ${child.spawnfile}: ${reason(error)}`);
  });
  return { end: signal ?? code, said: text.split('\n').filter(Boolean) };
}

/** How tar(1) is to restore owners, modes and extended attributes. */
export const tarOptions = isRoot
  ? sh`--numeric-owner --preserve-permissions --same-owner --xattrs --xattrs-include=*`
  : // a set-user-ID file that belongs to the user would run with the user's rights for everybody
    sh`--numeric-owner --no-same-permissions --no-same-owner`;

/**
 * Unpacks a tar archive into the empty directory `root`, as GNU tar does; as a user without root all files become the
 * user's. `checked` is the archive as the inspector passes it on. Returns the warnings of tar. Throws where something is
 * wrong, or what `interrupted` throws; `root` is to be thrown away then, and nothing writes to it any more.
 */
export async function unpack(
  checked: AsyncGenerator<Buffer>,
  inspector: TarInspector,
  root: string,
  interrupted: Promise<never>,
): Promise<string[]> {
  // the garbage here is buffers: with a small young generation V8 collects them early
  setFlagsFromString('--semi-space-growth-factor=1');
  const files = await tarFiles();
  // the inspector holds the first bytes back until it knows what tar has to strip
  const first = await Promise.race([checked.next(), interrupted]);
  let complete = false;
  async function* archive() {
    if (!first.done) yield first.value;
    yield* checked;
    complete = true;
  }
  const tools = `.tar-${randomBytes(8).toString('hex')}`;
  const loader = files.map((path) => basename(path)).find((name) => /^ld[\w.-]*$/.test(name));
  const loading = loader ? [`/${tools}/${loader}`, '--library-path', `/${tools}`] : [];
  const tar = spawn(
    'unshare',
    [
      ...sh`${asRoot.slice(1)} --mount --propagation private sh -c ${confine} confine`,
      ...sh`${root} ${tools} ${files.join(' ')} ${loading} /${tools}/tar`,
      // / is the new root: absolute names and links need no change
      ...sh`--extract --file=- --strip-components=${inspector.strip ?? 0} ${tarOptions} --absolute-names`,
    ],
    // no TAR_OPTIONS, no LD_PRELOAD
    { stdio: ['pipe', 'ignore', 'pipe'], env: { PATH: process.env.PATH, LC_ALL: 'C' } },
  );
  const ended = outcome(tar);
  try {
    // an interruption, or a failure of tar, does not wait for a slow source
    const feeding = feed(tar, archive());
    const all = Promise.all([ended.then(warningsOf), feeding]);
    const [warnings] = await Promise.race([all, interrupted]);
    if (!complete) throw new Failure('tar ended before the archive did');
    await perform([{ run: sh`${asRoot} rmdir ${join(root, tools)}` }]);
    // the mount point has changed the time of the root directory
    if (inspector.rootAttributes) await perform(planRoot(root, inspector.rootAttributes));
    return warnings;
  } catch (error) {
    tar.kill('SIGKILL');
    await ended.catch(() => undefined);
    throw error;
  }
}

/** The lines that tar, or what confines it, wrote. Throws a Failure of them if it failed. */
function warningsOf({ end, said }: { end: number | string; said: string[] }): string[] {
  const lines = said.map((line) => line.replace(/^\/\.tar-\w+\/tar:/, 'tar:'));
  if (end === 0) return lines;
  const why = lines.find((line) => !line.startsWith('tar: Removing')) ?? `tar ended with ${end}`;
  const needs = isRoot ? 'CAP_SYS_ADMIN' : 'root, or user namespaces';
  const hint = /^(unshare|mount|chroot):/.test(why)
    ? `: tar is not run unconfined, which needs ${needs}`
    : '';
  throw new Failure(why + hint);
}

/** This host's GNU tar, and its libraries. */
async function tarFiles(): Promise<string[]> {
  const tar = findProgram('tar');
  const version = tar && (await runProgram(sh`${tar} --version`)).stdout;
  if (!version?.startsWith('tar (GNU tar)'))
    throw new Failure(
      'cannot find GNU tar: other tar programs do not restore all attributes of a root file system: install it',
    );
  return [tar as string, ...(await lddLibraries([tar as string]))];
}

/** The steps that set mode, owner and time of the root directory as in the archive. */
export const planRoot = (root: string, { mode, uid, gid, mtime }: Attributes): Step[] => [
  ...(isRoot ? [{ run: sh`chown ${uid}:${gid} ${root}` }] : []),
  { run: sh`chmod ${(mode & (isRoot ? 0o7777 : 0o755)).toString(8)} ${root}` },
  { run: sh`touch -d @${mtime} ${root}` },
];
