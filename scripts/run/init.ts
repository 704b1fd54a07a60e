// An init for a container: PID 1 that forwards signals, reaps orphans, and ends with the exit code of its child.
import { closeSync, openSync, readSync } from 'node:fs';
import { findProgram } from '../helpers/shell.ts';

/** Whether a program is statically linked, elf(5), so that it runs in any root file system. */
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

/** Names and paths of such programs. Not catatonit, which ends with 1 if the command is not found. */
const candidates = [
  'tini-static',
  'tini',
  'dumb-init',
  '/usr/bin/docker-init',
  '/usr/libexec/docker/docker-init',
];

/** An init of this host that runs in any root file system, or undefined. */
export function findInit(find: (program: string) => string | undefined = findProgram): string | undefined {
  return candidates.map((name) => find(name)).find((path) => path !== undefined && isStatic(path));
}

/**
 * An init as a script for the container's own sh: words before those of the command. A background job of sh ignores
 * SIGINT and SIGQUIT and has no input: env(1) resets the signals if it can, a copy of the descriptor restores the input.
 */
export const shellInit = [
  '/bin/sh',
  '-c',
  `for signal in HUP INT QUIT USR1 USR2 TERM; do trap "kill -$signal \\$child 2>/dev/null" $signal; done
! env --default-signal=INT,QUIT true 2>/dev/null || set -- env --default-signal=INT,QUIT "$@"
exec 3<&0; "$@" <&3 3<&- & child=$!; exec 3<&-
while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done
[ "$code" -le 128 ] || { wait "$child" 2>/dev/null; again=$?; [ "$again" = 127 ] || code=$again; }
exit "$code"`,
  'init',
];
