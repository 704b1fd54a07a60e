// The reason, in words, why the kernel can't execute a container's program, execve(2). The program is examined in the
// furnished root before the shell of PID 1 tries to execute it, since the shell's own message would say less.
import { closeSync, openSync, readSync } from 'node:fs';
import { ofDescriptor, openInRoot, statsInRoot } from '../helpers/in-root.ts';

/** Why a program can't be executed, and the exit code of run.ts for that: 127 not found, 126 all else. */
interface Obstacle {
  exitCode: 126 | 127;
  text: string;
}

/** The type of a program header, elf(5): the path of the loader. */
export const PT_INTERP = 3;

/** The program headers of a 64-bit little-endian ELF file, elf(5); undefined if the bytes are not the start of such a file. */
export function programHeaders(begin: Buffer): { type: number; offset: number; size: number }[] | undefined {
  // magic number, 64-bit, little-endian
  if (begin.length < 64 || begin.readUInt32BE(0) !== 0x7f454c46 || begin[4] !== 2 || begin[5] !== 1)
    return undefined;
  const first = Number(begin.readBigUInt64LE(32)); // e_phoff
  const [size, count] = [begin.readUInt16LE(54), begin.readUInt16LE(56)]; // e_phentsize, e_phnum
  const all = Array.from({ length: count }, (_, index) => first + index * size);
  if (all.some((at) => at + 40 > begin.length)) return undefined;
  return all.map((at) => ({
    type: begin.readUInt32LE(at),
    offset: Number(begin.readBigUInt64LE(at + 8)),
    size: Number(begin.readBigUInt64LE(at + 32)),
  }));
}

/** The first bytes of a file. */
export function readBegin(path: string, most = 4096): Buffer {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(most);
    return bytes.subarray(0, readSync(file, bytes, 0, most, 0));
  } finally {
    closeSync(file);
  }
}

/** The program that the kernel executes to run this file: a script's interpreter, an ELF file's loader; or undefined. */
function interpreterOf(begin: Buffer): { kind: string; path: string } | undefined {
  const script = /^#![ \t]*([^ \t\n]+)/.exec(begin.toString('latin1', 0, 256));
  if (script) return { kind: 'interpreter', path: Buffer.from(script[1] as string, 'latin1').toString() };
  const loader = programHeaders(begin)?.find(({ type }) => type === PT_INTERP);
  if (!loader || loader.offset + loader.size > begin.length) return undefined;
  const path = begin.toString('utf8', loader.offset, loader.offset + loader.size).replace(/\0.*/s, '');
  return { kind: 'loader', path };
}

/** The result for one path; undefined: it can be executed, as far as that can be told from outside. */
type Seen = Obstacle | 'missing' | 'unknown' | undefined;

/** Examines a path in the container. */
function lookAt(root: number, path: string, workdir: string): Seen {
  const found = openInRoot(root, inDirectory(workdir, path));
  // a link may be one of proc(5) to a file without a path
  if (!found)
    return statsInRoot(root, inDirectory(workdir, path), { lastLink: true }) ? 'unknown' : 'missing';
  try {
    const { stats } = found;
    const refuse = (what: string): Obstacle => ({ exitCode: 126, text: `${path} ${what}` });
    if (stats.isDirectory()) return refuse('is a directory');
    if (!stats.isFile()) return refuse('is not a regular file');
    if ((stats.mode & 0o111) === 0)
      return refuse(`is not executable: its mode is ${(stats.mode & 0o7777).toString(8)}`);
    const interpreter = interpreterOf(readBegin(ofDescriptor(found.fd)));
    if (!interpreter || lookAt(root, interpreter.path, workdir) !== 'missing') return undefined;
    if (interpreter.path.endsWith('\r'))
      return refuse('has Windows line ends: its first line ends in \\r\\n');
    const why = interpreter.kind === 'loader' ? ', so it was built for another C library' : '';
    return refuse(
      `needs the ${interpreter.kind} ${interpreter.path}, which is missing in the container${why}`,
    );
  } finally {
    closeSync(found.fd);
  }
}

const inDirectory = (directory: string, path: string) =>
  path.startsWith('/') ? path : `${directory}/${path}`;

/**
 * Why the program `name` can't be executed in the directory `root`, a descriptor; undefined if it can, or if that can't be
 * told from here: whether its user may execute it shows later. `environment`: KEY=VALUE. Follows execvp(3).
 */
export function findObstacle(
  root: number,
  name: string,
  environment: string[],
  workdir: string,
): Obstacle | undefined {
  const notFound = (where: string): Obstacle => ({
    exitCode: 127,
    text: `${name || "''"}: not found in ${where}`,
  });
  const look = (path: string): Seen => {
    try {
      return lookAt(root, path, workdir);
    } catch {
      return 'unknown'; // such as what the caller may not read
    }
  };
  if (name.includes('/')) {
    const seen = look(name);
    if (seen === 'missing') return notFound('the container');
    return seen === 'unknown' ? undefined : seen;
  }
  const path = environment.findLast((pair) => pair.startsWith('PATH='))?.slice('PATH='.length) ?? '';
  let obstacle: Obstacle | undefined;
  for (const folder of name === '' ? [] : path.split(':')) {
    const seen = look(`${folder || '.'}/${name}`);
    if (seen === undefined || seen === 'unknown') return undefined;
    if (seen !== 'missing') obstacle ??= seen;
  }
  return obstacle ?? notFound(`the container's PATH ${path}`);
}
