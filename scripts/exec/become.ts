// The command in place of node: node becomes the program that enters, or waits for it.
import { once } from 'node:events';
import { writeSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter } from 'node:path';
import { text } from 'node:stream/consumers';
import { Failure } from '../helpers/cli.ts';
import { blockStreams, type Command, findProgram } from '../helpers/shell.ts';
import { onSignals } from '../helpers/signals.ts';

/**
 * Starts a program on node's own standard streams, passes on signals, and returns the exit code. Not through zx: what
 * comes and goes on the streams is the program's own business, and nothing here may touch them, as node would make them
 * non-blocking for all who have them. `passesKeys`: SIGINT and SIGQUIT are passed on too, which a terminal sends to all
 * its processes. `preserved`: the program keeps so many more of the caller's descriptors. `target`: who gets the signals, if it is not the program itself.
 */
export async function startAndWait(
  [program = '', ...words]: Command,
  env: NodeJS.ProcessEnv,
  passesKeys: boolean,
  preserved: number,
  target = (pid: number) => pid,
): Promise<number> {
  const { spawn } = await import('node:child_process'); // not loaded where it is not needed
  const stdio = Array.from({ length: 3 + preserved }, (_, fd) => fd);
  const child = spawn(program, words, { stdio, env });
  const { SIGCONT, SIGINT, SIGQUIT, SIGTSTP, SIGWINCH } = constants.signals;
  const send = (signal: number) => {
    try {
      if (child.pid) process.kill(target(child.pid), signal);
    } catch {} // it has just ended
  };
  onSignals((signal) => {
    // who is on the terminal gets the signals of its keys too
    if (passesKeys || ![SIGINT, SIGQUIT, SIGTSTP, SIGWINCH].includes(signal)) send(signal);
    if (signal !== SIGTSTP) return;
    // this process stops too, for the shell that has started it, and goes on by SIGCONT
    process.kill(process.pid, 'SIGSTOP');
    send(SIGCONT);
  });
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + constants.signals[signal as NodeJS.Signals];
}

/**
 * Starts a program that stays when node ends, in a session of its own, with /dev/null as standard input and output.
 * Waits until it closes its standard error. Returns 0, or, if it has ended with a message, prints that and returns its
 * exit code.
 */
export async function startDetached(argv: Command, env: NodeJS.ProcessEnv): Promise<number> {
  const { spawn } = await import('node:child_process');
  const [program = '', ...words] = argv;
  const child = spawn(program, words, { stdio: ['ignore', 'ignore', 'pipe'], env, detached: true });
  const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const message = await text(child.stderr);
  if (message === '') {
    child.unref();
    return 0;
  }
  writeSync(2, message);
  return (await ended)[0] ?? 125;
}

/** Whether node can become another program: execve(2), from Node 22.15 on. */
export const canBecome = 'execve' in process;

/** Becomes a program; canBecome says whether node can. */
export function become(argv: Command, env: NodeJS.ProcessEnv): never {
  const { execve } = process as unknown as {
    execve: (file: string, argv: string[], env: NodeJS.ProcessEnv) => never;
  };
  const file = findProgram(argv[0] ?? '', env.PATH?.split(delimiter));
  if (!file) throw new Failure(`there is no ${argv[0]} in PATH: ${env.PATH}`);
  process.removeAllListeners('warning'); // it says on stderr that execve is experimental
  blockStreams();
  return execve.call(process, file, argv, env);
}
