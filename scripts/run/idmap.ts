// ID-mapped mounts: the files of the host's root belong to the root of a user namespace. See mount_setattr(2).
import { Failure } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { installCommand } from '../helpers/programs.ts';
import { findProgram, runProgram } from '../helpers/shell.ts';
import { withoutComments } from './hold.ts';

/** The program for hosts whose mount(8) is older, and the form in which it is an argument. */
export const idmapProgram = embedded(import.meta.url, './idmap.pl');
export const idmapPerl = withoutComments(idmapProgram);

const mount = `mount --bind -o X-mount.idmap="$1" -- "$2" "$2" && shift 2 && exec "$@"`;

/**
 * A command that makes an ID-mapped mount. Its arguments are the file of a user namespace, a directory, and another
 * command: it mounts the directory over itself with the ID maps of the namespace, then becomes the other command. It is
 * mount(8) of util-linux 2.39 or later, or perl. Throws Failure if this host has neither.
 */
export const idmapCommand = () => {
  found ??= findCommand();
  return found;
};
let found: Promise<string[]> | undefined;

async function findCommand(): Promise<string[]> {
  const { stdout } = await runProgram(['mount', '--version']);
  const [, major = '0', minor = '0'] = /util-linux (\d+)\.(\d+)/.exec(stdout) ?? [];
  if (Number(major) > 2 || Number(minor) >= 39) return ['sh', '-c', mount, 'run'];
  if (findProgram('perl')) return ['perl', '-e', idmapPerl];
  throw new Failure(
    `--userns needs mount(8) of util-linux 2.39 or later, or perl: ${installCommand(['perl'])}`,
  );
}
