// Commands that exec.ts has entered containers with: seen from the host, or pasted from what --dry-run prints.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { after } from 'node:test';
import { findCommand, newSeconds, type Running } from './container.ts';
import { execute, until } from './script.ts';

/** What is ended with the test file. */
export const left: ChildProcess[] = [];
after(() => {
  for (const child of left) child.kill('SIGKILL');
});

/** Starts a command that lasts, by a call of exec.ts and its options, and gives what it is on the host. */
export async function enter(launch: string[], target: string, options: string[] = []) {
  const command = ['sleep', newSeconds()];
  const [program = '', ...words] = launch;
  const child = spawn(program, [...words, ...options, target, ...command], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  left.push(child);
  const end = once(child, 'exit') as Running['end'];
  let said = '';
  child.stderr?.on('data', (data) => {
    said += data;
  });
  const { pid } = await until(command.join(' '), () => {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${said}`);
    return findCommand(...command);
  });
  return { pid, child, end };
}

/**
 * Has sh and bash run what --dry-run prints for a shell program, to which the variable A is `it's`: it has to say `expected`
 * in a line, and to end with 5. Returns what is printed.
 */
export async function paste(launch: string[], target: string, program: string, expected: string) {
  const command = ['/bin/sh', '-c', `${program}; exit 5`];
  const { stdout } = await execute([...launch, '--dry-run', '-e', "A=it's", target, ...command]);
  for (const shell of ['sh', 'bash']) {
    const pasted = await execute([shell, '-c', `${stdout}echo "code $?"`]);
    assert.deepEqual([pasted.stdout, pasted.stderr], [`${expected}\ncode 5\n`, ''], shell);
  }
  return stdout;
}

/** A command that handles SIGTERM gets it when exec.ts does, and what it says and its exit code arrive. */
export async function signalArrives(launch: string[], target: string): Promise<void> {
  const trap = 'trap "echo got it; exit 3" TERM; echo ready; while :; do sleep 0.1; done';
  const [program = '', ...words] = [...launch, target, '/bin/sh', '-c', trap];
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'ignore'] });
  left.push(child);
  let shown = '';
  child.stdout.on('data', (data) => {
    shown += data;
    if (shown === 'ready\n') child.kill('SIGTERM');
  });
  assert.deepEqual(await once(child, 'exit'), [3, null]);
  assert.equal(shown, 'ready\ngot it\n');
}
