// The host's own programs: where they are, and running them.
import { existsSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Where the distribution puts its programs. PATH may lead to wrappers that work only on this host. */
export const systemDirectories = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];

/** The directories of PATH: where the programs that this host is to run are looked for. */
export const pathDirectories = () => (process.env.PATH ?? '').split(delimiter);

/** Where a program is in these directories, or undefined. A name with a slash is where it is. */
export function findProgram(name: string, directories = systemDirectories): string | undefined {
  const candidates = name.includes('/') ? [name] : directories.map((directory) => join(directory, name));
  return candidates.find((path) => existsSync(path) && statSync(path).isFile());
}

/** Quotes a word for any POSIX shell. zx's own quote() writes $'…', which dash does not know. */
export function quote(word: string): string {
  return /^[\w/.:=,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** What a program came to. */
export interface Outcome {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, without standard input. Throws nothing: the outcome says what became of it. */
export async function runProgram(argv: string[]): Promise<Outcome> {
  // zx takes longer to load than most scripts to run, so only those that run a program pay for it
  const { $ } = await import('zx/core');
  // said in full: zx would look for bash, and take what is not said from ZX_* variables
  const posix = { shell: '/bin/sh', prefix: '', postfix: '', quote, quiet: true, nothrow: true };
  return $({ ...posix, stdio: ['ignore', 'pipe', 'pipe'] })`${argv}`;
}
