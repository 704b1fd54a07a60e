// The init of a container: a PID 1 that starts the command, forwards signals, reaps orphans, and returns the exit code
// of the command.
import { closeSync, openSync, readSync } from 'node:fs';
import { embedded } from '../helpers/embedded.ts';
import { findInPath, findProgram } from '../helpers/shell.ts';
import { withoutComments } from './hold.ts';

/** Whether a program is statically linked, which means that it runs in any root file system. See elf(5). */
function isStatic(path: string): boolean {
  const file = openSync(path, 'r');
  try {
    const header = Buffer.alloc(4096);
    const length = readSync(file, header, 0, header.length, 0);
    // magic number, 64-bit, little-endian
    if (length < 64 || header.readUInt32BE(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1)
      return false;
    const offset = Number(header.readBigUInt64LE(32)); // e_phoff
    const [size, count] = [header.readUInt16LE(54), header.readUInt16LE(56)]; // e_phentsize, e_phnum
    const types = Array.from({ length: count }, (_, index) => offset + index * size)
      .filter((at) => at + 4 <= length)
      .map((at) => header.readUInt32LE(at));
    return types.length === count && !types.includes(3); // PT_INTERP
  } finally {
    closeSync(file);
  }
}

/** Names and paths of init programs. catatonit is left out: its exit code is 1 if the command is not found. */
const candidates = [
  'tini-static',
  'tini',
  'dumb-init',
  '/usr/bin/docker-init',
  '/usr/libexec/docker/docker-init',
];

/** Path of an init program of this host that is statically linked, or undefined. */
export function findInit(find: (program: string) => string | undefined = findProgram): string | undefined {
  return candidates.map((name) => find(name)).find((path) => path !== undefined && isStatic(path));
}

/** The init that the container's own sh runs. The words of the command follow these. */
export const shellInit = ['/bin/sh', '-c', withoutComments(embedded(import.meta.url, './init.sh')), 'init'];

/** What --init adds to a launch: the host's init program, if there is one, and the words before the command. */
export function planInit(): { init: string | undefined; words: string[] } {
  const init = findInit(findInPath);
  // a signal is for the whole process group of the command, as dumb-init has it by default, and tini by -g
  const group = init?.endsWith('/dumb-init') ? [] : ['-g'];
  return { init, words: init ? ['/dev/init', ...group, '--'] : shellInit };
}
