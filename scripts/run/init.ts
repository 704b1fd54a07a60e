// The init of a container: a PID 1 that starts the command, forwards signals, reaps orphans, and returns the exit code
// of the command.
import { embedded } from '../helpers/embedded.ts';
import { findInPath, findProgram } from '../helpers/shell.ts';
import { withoutComments } from './hold.ts';
import { PT_INTERP, programHeaders, readBegin } from './program.ts';

/** Whether a program is statically linked, which means that it runs in any root file system. See elf(5). */
function isStatic(path: string): boolean {
  return programHeaders(readBegin(path))?.every(({ type }) => type !== PT_INTERP) ?? false;
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
