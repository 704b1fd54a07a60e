// Programs that work on a root file system run confined: nothing of the host has a name there. Bulk data are streamed
// through node:child_process, because zx keeps the whole output of a program in memory.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Failure, reason } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { requirePrograms } from '../helpers/programs.ts';
import { type Command, findProgram, runProgram, sh } from '../helpers/shell.ts';
import { perform } from '../helpers/steps.ts';

export const isRoot = process.getuid?.() === 0;

/** What makes a user root of a namespace, in which unshare(1), mount(8) and chroot(1) are allowed. */
export const asRoot = isRoot ? [] : ['unshare', '--user', '--map-root-user'];

/** Removes a tree with rm(1), which takes paths of any depth; root of a user namespace may remove read-only directories. */
export async function removeTree(path: string): Promise<void> {
  if (existsSync(path)) await perform([{ run: sh`${asRoot} rm -rf --one-file-system -- ${path}` }]);
}

const confine = embedded(import.meta.url, './confine.sh');

/** Copies of programs of this host, with all that they need to run in a root directory that has nothing of it. */
export interface Tools {
  /** the programs and their libraries on the host */
  files: string[];
  /** their directory in the root, which exists while they run */
  folder: string;
  /** the words before the name of a program there: `/FOLDER/ld.so --library-path /FOLDER /FOLDER` */
  run: string;
}

/** Finds programs and their libraries. Throws Failure if one is missing. */
export async function findTools(...names: string[]): Promise<Tools> {
  requirePrograms(names, 'work on a root file system');
  const programs = names.map((name) => findProgram(name) as string);
  const files = [...programs, ...(await lddLibraries(programs))];
  const folder = `.tar-${randomBytes(8).toString('hex')}`;
  const loader = files.map((path) => basename(path)).find((name) => /^ld[\w.-]*$/.test(name));
  return {
    files,
    folder,
    run: `${loader ? `/${folder}/${loader} --library-path /${folder} ` : ''}/${folder}`,
  };
}

/** The words that start a program of `tools`. */
export const toolWords = ({ run }: Tools, name: string): Command => `${run}/${name}`.split(' ');

/**
 * Runs one of `tools` with `root` as its root directory, and writes `input` to its standard input. Returns what it says
 * on standard error, in lines. Throws Failure if it fails, or what `interrupted` throws; nothing runs any more then. The
 * time of `root` changes.
 */
export async function runConfined(
  root: string,
  tools: Tools,
  command: Command,
  input: AsyncIterable<Buffer>,
  interrupted: Promise<never>,
): Promise<string[]> {
  let complete = false;
  async function* whole() {
    yield* input;
    complete = true;
  }
  const child = spawn(
    'unshare',
    [
      ...sh`${asRoot.slice(1)} --mount --propagation private sh -c ${confine} confine`,
      ...sh`${root} ${tools.folder} ${tools.files.join(' ')} ${command}`,
    ],
    // no TAR_OPTIONS, no LD_PRELOAD
    { stdio: ['pipe', 'ignore', 'pipe'], env: { PATH: process.env.PATH, LC_ALL: 'C' } },
  );
  const ended = outcome(child);
  try {
    // an interruption, or a failure of the program, does not wait for a slow source
    const feeding = feed(child, whole());
    const all = Promise.all([ended.then((outcome) => warningsOf(outcome, tools)), feeding]);
    const [warnings] = await Promise.race([all, interrupted]);
    if (!complete) throw new Failure('tar ended before the archive did');
    await perform([{ run: sh`${asRoot} rmdir ${join(root, tools.folder)}` }]);
    return warnings;
  } catch (error) {
    child.kill('SIGKILL');
    await ended.catch(() => undefined);
    throw error;
  }
}

/** The lines that a program, or what confines it, wrote. Throws a Failure of them if it failed. */
function warningsOf({ end, said }: Awaited<ReturnType<typeof outcome>>, { folder }: Tools): string[] {
  // xargs(1) misses /dev/null in there, and goes on without it
  const lines = said
    .map((line) => line.replace(`/${folder}/`, ''))
    .filter((line) => !/^xargs: \W?\/dev\/null/.test(line));
  if (end === 0) return lines;
  const why = lines.find((line) => !line.startsWith('tar: Removing')) ?? `tar ended with ${end}`;
  throw new Failure(withNeeds(why));
}

/** What was said why a program failed, and what confining it needs if that failed. */
export function withNeeds(why: string): string {
  if (!/^(nsenter|unshare|mount|chroot):/.test(why)) return why;
  return `${why}: tar runs only confined, which needs ${isRoot ? 'CAP_SYS_ADMIN' : 'root, or user namespaces'}`;
}

/** Writes all to a child's standard input. That the child does not read on is no error: its end tells why. */
export const feed = (child: ChildProcess, source: AsyncIterable<Buffer>) =>
  pipeline(source, child.stdin as NonNullable<typeof child.stdin>).catch((error) => {
    if (!['EPIPE', 'ECONNRESET', 'ERR_STREAM_PREMATURE_CLOSE'].includes(error.code)) throw error;
  });

/** The exit code or signal of a child, and the lines that it wrote on standard error. Throws if it cannot be run. */
export async function outcome(child: ChildProcess): Promise<{ end: number | string; said: string[] }> {
  let text = '';
  child.stderr?.on('data', (more) => {
    if (text.length < 10_000) text += more;
  });
  const [code, signal] = await once(child, 'close').catch((error) => {
    throw new Failure(`cannot run ${child.spawnfile}: ${reason(error)}`);
  });
  return { end: signal ?? code, said: text.split('\n').filter(Boolean) };
}

/** The libraries that ldd(1) names for these programs, the loader among them. Static programs and scripts have none. */
export async function lddLibraries(programs: string[]): Promise<string[]> {
  const { exitCode, stdout, stderr } = await runProgram(
    sh`env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C ldd ${programs}`,
  );
  // 1: one of them is no dynamic executable
  if (exitCode !== 0 && exitCode !== 1) throw new Failure(`cannot run ldd: ${stderr.trim()}`);
  return [...new Set([...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path as string))];
}
