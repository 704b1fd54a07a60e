// Reading a root file system: tar(1) writes the archive. Bulk data are streamed through node:child_process, because zx
// keeps the whole output of a program in memory.
import { spawn } from 'node:child_process';
import { createHash, type Hash } from 'node:crypto';
import { createWriteStream, write as writeTo } from 'node:fs';
import { delimiter, isAbsolute } from 'node:path';
import { Duplex, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { createGzip } from 'node:zlib';
import { Failure } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { OutputError } from '../helpers/output.ts';
import { requirePrograms } from '../helpers/programs.ts';
import { type Command, pathDirectories, sh } from '../helpers/shell.ts';
import { feed, outcome, type Tools, toolWords, withNeeds } from '../images/confine.ts';
import { imageFile } from '../images/image.ts';
import { type Entry, readEntries } from './entries.ts';
import { type Source, workingDirectory } from './source.ts';

const confine = embedded(import.meta.url, './confine.sh');

/** How an archive is made. */
export interface Making {
  tools: Tools;
  /** SOURCE_DATE_EPOCH: no file is newer in the archive */
  latestSeconds: number | undefined;
  /** holes of files as holes; an image's layer has none (image-spec, layer.md) */
  sparse: boolean;
  /** the archive may change while it is read: that is a warning */
  changing: boolean;
  /** does some work while ROOTFS stands still: pauses the container that it is of */
  still: <Result>(work: () => Promise<Result>) => Promise<Result>;
  /** settles only if the work is interrupted, with an error */
  interrupted: Promise<never>;
  say: (text: string) => void;
}

/**
 * The options of tar(1) that make an archive: all attributes, and nothing that depends on the host or the moment, as
 * reproducible-builds.org has them. A SELinux label is of the host's policy.
 */
export const tarOptions = (latestSeconds: number | undefined, sparse: boolean): Command => [
  ...sh`--format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime`,
  ...sh`--sort=name --numeric-owner --xattrs --xattrs-include=* --xattrs-exclude=security.selinux`,
  ...(sparse ? sh`--sparse --sparse-version=0.0` : []), // later versions put the PID of tar into names
  ...(latestSeconds === undefined ? [] : sh`--clamp-mtime --mtime=@${latestSeconds}`),
  ...sh`--anchored --no-wildcards --exclude=./${imageFile}`,
];

/**
 * The archive of a root file system, or of the entries `names` alone. `see` is called for each entry. Throws Failure if
 * tar fails, or something has changed while it was read.
 */
export async function* readArchive(
  source: Source,
  making: Making,
  see: (entry: Entry) => void,
  { names, sums = false }: { names?: string[]; sums?: boolean } = {},
): AsyncGenerator<Buffer> {
  const { tools, latestSeconds, sparse, interrupted } = making;
  const what = names ? sh`--null --no-recursion --verbatim-files-from --files-from=-` : ['.'];
  const [program = '', ...words] = [
    ...sh`${source.enter} sh -c ${confine} confine ${tools.folder} ${tools.files.join(' ')}`,
    ...sh`${toolWords(tools, 'tar')} --create --file=- --directory=/rootfs`,
    ...sh`${tarOptions(latestSeconds, sparse)} ${what}`,
  ];
  const child = spawn(program, words, {
    cwd: workingDirectory(source),
    stdio: [names ? 'pipe' : 'ignore', 'pipe', 'pipe', ...source.namespaces],
    // no TAR_OPTIONS, no LD_PRELOAD; no program of the root file system, for which a PATH with . would look; and sh does
    // not look for the path of a directory that has none here
    env: { PATH: pathDirectories().filter(isAbsolute).join(delimiter), LC_ALL: 'C', PWD: '/proc/self/cwd' },
  });
  const ended = outcome(child);
  ended.catch(() => undefined);
  interrupted.catch(() => child.kill('SIGKILL'));
  let complete = false;
  try {
    const list = Buffer.from((names ?? []).map((name) => `${name}\0`).join(''), 'latin1');
    const feeding = names && feed(child, Readable.from([list]));
    feeding?.catch(() => undefined);
    yield* readEntries(child.stdout as Readable, see, sums);
    await feeding;
    complete = true;
  } finally {
    if (!complete) child.stdout?.destroy();
    // what tar, or what confines it, says of an archive that is cut
    const result = await ended;
    if (complete || typeof result.end === 'number') tell(result, source, making);
  }
}

/** Says what tar left out. Throws a Failure of what it said if it failed, or if what it read has changed. */
function tell(
  { end, said }: Awaited<ReturnType<typeof outcome>>,
  { label }: Source,
  { tools, changing, say }: Making,
): void {
  const lines = said.map((line) => line.replace(`/${tools.folder}/`, ''));
  const isSocket = (line: string) => line.endsWith(': socket ignored');
  const sockets = lines
    .filter(isSocket)
    .map((line) => line.slice('tar: .'.length, -': socket ignored'.length));
  if (sockets.length > 0)
    say(
      `${sockets.length === 1 ? 'a socket' : `${sockets.length} sockets`} left out: ${sockets.slice(0, 3).join(', ')}${sockets.length > 3 ? ', …' : ''}`,
    );
  const others = lines.filter((line) => !isSocket(line) && !/^tar: Exiting with/.test(line));
  const why = others[0]?.replace(/^tar: \.\//, '/') ?? `tar ended with ${end}`;
  if (end === 0 || (end === 1 && changing)) {
    for (const line of others) say(`warning: ${line.replace(/^tar: \.\//, '/')}`);
    return;
  }
  if (end === 1) throw new Failure(`${why}: something writes to ${label}: stop it, or pack it again`);
  throw new Failure(withNeeds(why));
}

/** How a file is compressed: by a program, by node's zlib, which is faster than gzip(1), or not. */
export const compressions = {
  none: { form: /\.tar$/, command: undefined },
  gzip: { form: /\.(tar\.gz|tgz)$/, command: sh`gzip --no-name` },
  // more threads make no other bytes
  zstd: { form: /\.(tar\.zst|tzst)$/, command: sh`zstd --quiet --stdout --threads=0` },
  // xz 5.6 and later would take all processors, and make other bytes than with one
  xz: { form: /\.(tar\.xz|txz)$/, command: sh`xz --stdout --threads=1` },
} as const;
export type Compression = keyof typeof compressions;

/** What was written: the sum and the size of it, and the sum before it was compressed. */
export interface Written {
  sha256: string;
  plainSha256: string;
  bytes: number;
}

/** Writes a stream to a new file, or to standard output if `file` is `-`. Throws the kernel's error. */
export async function write(
  archive: AsyncIterable<Buffer>,
  compression: Compression,
  file: string,
): Promise<Written> {
  const [plain, packed] = [createHash('sha256'), createHash('sha256')];
  let bytes = 0;
  async function* counted(source: AsyncIterable<Buffer>) {
    for await (const chunk of source) {
      bytes += chunk.length;
      packed.update(chunk);
      yield chunk;
    }
  }
  const sink =
    file === '-'
      ? async (source: AsyncIterable<Buffer>) => {
          for await (const chunk of source) await toStandardOutput(chunk);
        }
      : // it may hold password hashes and keys: docker save gives it to nobody else either
        createWriteStream(file, { flags: 'wx', mode: 0o600 });
  const source = hashed(archive, plain);
  if (compression === 'none') await pipeline(source, counted, sink);
  else await pipeline(source, compressor(compression), counted, sink);
  return { sha256: packed.digest('hex'), plainSha256: plain.digest('hex'), bytes };
}

/** Writes to standard output. A reader that does not read on keeps no signal from ending this process. */
async function toStandardOutput(chunk: Buffer): Promise<void> {
  for (let at = 0; at < chunk.length; )
    try {
      at += await new Promise<number>((resolve, reject) =>
        writeTo(1, chunk, at, (error, bytes) => (error ? reject(error) : resolve(bytes))),
      );
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw new OutputError(error as Error);
      await sleep(10); // another process has made it non-blocking
    }
}

async function* hashed(source: AsyncIterable<Buffer>, hash: Hash): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

/** A stream that compresses: the same bytes for the same bytes, without name and time. */
function compressor(compression: Exclude<Compression, 'none'>): Duplex {
  if (compression === 'gzip') return createGzip({ chunkSize: 1 << 17 });
  const [program = '', ...words] = compressions[compression].command;
  requirePrograms([program], `compress with ${program}`);
  const child = spawn(program, words, {
    stdio: 'pipe',
    env: { PATH: process.env.PATH, LC_ALL: 'C' }, // no ZSTD_CLEVEL, no XZ_DEFAULTS
  });
  const ended = outcome(child);
  return Duplex.from(async function* (source: AsyncIterable<Buffer>) {
    const feeding = feed(child, source);
    feeding.catch(() => undefined);
    try {
      yield* child.stdout as AsyncIterable<Buffer>;
      await feeding;
      const { end, said } = await ended;
      if (end !== 0) throw new Failure(`${program} failed: ${said[0] ?? `exit code ${end}`}`);
    } finally {
      child.kill('SIGKILL');
      await ended.catch(() => undefined);
    }
  });
}
