// The host's own programs: where they are, and running them.
import { once } from 'node:events';
import { existsSync, statSync } from 'node:fs';
import { constants } from 'node:os';
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

/** A program of this host's, where its PATH leads; undefined where there is none. */
export const findInPath = (name: string) => findProgram(name, pathDirectories());

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

/**
 * Becomes a shell that runs a program, where node can (process.execve), else stays its parent. `title` is what ps(1)
 * shows of it; `passesKeys`: SIGINT and SIGQUIT are passed on as well, as a terminal does not send them to the shell.
 * Returns the exit code.
 */
export async function becomeShell(program: string, title: string, passesKeys: boolean): Promise<number> {
  // by name, in a variable that is nobody's afterwards: the text itself would be all that ps(1) shows
  const argv = ['sh', '-c', 'program=$launch; unset launch; eval "$program"', title];
  const env = { ...process.env, launch: program };
  const execve = (process as { execve?: (file: string, argv: string[], env: NodeJS.ProcessEnv) => never })
    .execve;
  if (execve) {
    process.removeAllListeners('warning'); // it says on stderr that execve is experimental
    execve('/bin/sh', argv, env);
  }
  const { spawn } = await import('node:child_process'); // not loaded where it is not needed
  // prctl(2): should node be killed, so is the shell, and with it what it holds
  const shell = spawn('setpriv', ['--pdeathsig=KILL', ...argv], { stdio: 'inherit', env });
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const)
    process.on(signal, () => {
      if (passesKeys || (signal !== 'SIGINT' && signal !== 'SIGQUIT')) shell.kill(signal);
    });
  const [code, signal] = (await once(shell, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + constants.signals[signal as NodeJS.Signals];
}
