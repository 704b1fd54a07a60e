// An init for a container: PID 1 that passes signals on, reaps orphans, and ends as its child ends.
import { closeSync, openSync, readSync } from 'node:fs';
import { findProgram } from '../helpers/shell.ts';

/** A program without an interpreter, elf(5): it needs nothing of the root that it runs in. */
function isStatic(path: string): boolean {
  const file = openSync(path, 'r');
  try {
    const header = Buffer.alloc(4096);
    const length = readSync(file, header, 0, header.length, 0);
    // little-endian, 64 bit: program headers at e_phoff, e_phentsize apart, e_phnum of them
    if (length < 64 || header.readUInt32BE(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1)
      return false;
    const [offset, size, count] = [
      Number(header.readBigUInt64LE(32)),
      header.readUInt16LE(54),
      header.readUInt16LE(56),
    ];
    const types = Array.from({ length: count }, (_, index) => offset + index * size)
      .filter((at) => at + 4 <= length)
      .map((at) => header.readUInt32LE(at));
    return types.length === count && !types.includes(3); // PT_INTERP
  } finally {
    closeSync(file);
  }
}

/** Where Docker and the distributions keep such programs. Not catatonit: it ends with 1 where a command is not found. */
const candidates = [
  'tini-static',
  'tini',
  'dumb-init',
  '/usr/bin/docker-init',
  '/usr/libexec/docker/docker-init',
];

/** An init of this host's that runs in any root, or undefined. */
export function findInit(find: (program: string) => string | undefined = findProgram): string | undefined {
  return candidates.map((name) => find(name)).find((path) => path !== undefined && isStatic(path));
}

/**
 * An init for the root's own sh, before the words of the command. A background job of sh ignores SIGINT and SIGQUIT
 * and has no input: the one is undone where the root has an env(1) that can, the other by a copy of the descriptor.
 */
export const shellInit = [
  '/bin/sh',
  '-c',
  `for signal in HUP INT QUIT USR1 USR2 TERM; do trap "kill -$signal \\$child" $signal; done
! env --default-signal=INT,QUIT true 2>/dev/null || set -- env --default-signal=INT,QUIT "$@"
exec 3<&0; "$@" <&3 3<&- & child=$!; exec 3<&-
while :; do wait "$child"; code=$?; kill -0 "$child" 2>/dev/null || exit "$code"; done`,
  'init',
];
