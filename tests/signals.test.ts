// Signals to run.ts, exec.ts and an init reach the command.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { canBecome } from '../scripts/exec/become.ts';
import { findProgram } from '../scripts/helpers/shell.ts';
import { findSignalClass } from '../scripts/helpers/signals.ts';
import { parseSignal, signalNumber } from '../scripts/helpers/units.ts';
import { container, newName, signals, start, stat } from './helpers/container.ts';
import { hiding, without } from './helpers/inside.ts';
import { call, rootfs, script, until } from './helpers/script.ts';

/** A shell program that prints the numbers of the signals that it gets. */
const tells = (numbers: number[], ready = 'echo ready') =>
  `for n in ${numbers.join(' ')}; do trap "echo $n" "$n"; done; ${ready}; while :; do sleep 0.02; done`;

/** Those that a node, a perl and a python can catch, and that no kernel sends them for what they do themselves. */
const { SIGCONT, SIGTSTP, SIGUSR1, SIGWINCH } = constants.signals;
const numbers = [1, 2, 3, 10, 12, 14, 15, 16, SIGCONT, 23, 24, 25, 26, 27, SIGWINCH, 29, 30];
const realTime = [34, 37, 64];
/** run.ts stays a node; exec.ts becomes another program where node can do that. */
const caught = [...numbers, ...(findSignalClass() ? realTime : [])];

const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

/** Starts a program, which is ended with the test file, and gives what it prints as it comes. */
function started(argv: string[]) {
  const [program = '', ...words] = argv;
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'ignore'] });
  children.push(child);
  const printed = { text: '' };
  child.stdout.on('data', (data) => {
    printed.text += data;
  });
  const end = once(child, 'exit');
  return { child, printed, end };
}

/** Sends signals one after the other, and waits until each of them is told of. */
async function send(child: ChildProcess, printed: { text: string }, sent: number[]): Promise<void> {
  await until('the traps', () => printed.text.includes('ready\n'));
  for (const number of sent) {
    printed.text = '';
    process.kill(child.pid as number, number);
    await until(`signal ${number}`, () => printed.text.split('\n').includes(String(number)));
  }
}

test('a signal has a number, a name, and a distance from the first or last real-time one', () => {
  for (const [text, name, number] of [
    ['RTMIN', 'RTMIN', 34],
    ['34', 'RTMIN', 34],
    ['sigrtmin+3', 'RTMIN+3', 37],
    ['37', 'RTMIN+3', 37],
    ['RTMAX-27', 'RTMIN+3', 37],
    ['RTMAX', 'RTMIN+30', 64],
    ['64', 'RTMIN+30', 64],
    ['28', 'WINCH', 28],
  ] as const) {
    assert.equal(parseSignal(text), name);
    assert.equal(signalNumber(name), number);
  }
  for (const text of ['32', '33', '65', 'RTMIN+31', 'RTMAX-31', 'RTMIN-1', 'RTMAX+1', 'RTMIN3', '+37', 'RT'])
    assert.throws(() => parseSignal(text), /^Error: no such signal/, text);
});

test('run.ts passes on all signals that it can catch', container, async () => {
  const words = ['--name', newName(), rootfs, 'sh', '-c', tells([...caught, SIGTSTP])];
  const { child, printed, end } = started([script('run'), ...words]);
  await send(child, printed, caught);
  // it stops with the command, and both go on
  process.kill(child.pid as number, 'SIGTSTP');
  await until('its stop', () => stat(child.pid as number)[0] === 'T');
  // SIGCONT takes back a SIGTSTP that the command has not had yet (POSIX, signal generation)
  const has = (number: string) => printed.text.split('\n').includes(number);
  await until('SIGTSTP', () => has('20'));
  process.kill(child.pid as number, 'SIGCONT');
  await until('SIGCONT', () => has('18'));
  child.kill('SIGKILL');
  await end;
});

test('a signal that the command does not handle does what it does by default', container, async () => {
  for (const [number, code] of [
    [constants.signals.SIGALRM, 142],
    ...(findSignalClass() ? [[37, 165] as const] : []), // else a node can't catch it
  ] as const) {
    const { launcher, end } = await start([], ['sleep', '100']);
    for (const harmless of [SIGWINCH, SIGCONT]) process.kill(launcher.pid as number, harmless);
    await sleep(100);
    assert.equal(launcher.exitCode, null);
    process.kill(launcher.pid as number, number);
    assert.deepEqual(await end, [code, null]);
  }
});

for (const [what, tool] of [
  ['perl', [script('exec')]],
  ['python3', hiding(['perl'], [script('exec')])],
] as const)
  test(`exec.ts passes on all signals that it can catch, by ${what}`, {
    skip: container.skip || (findProgram(what) ? false : `needs ${what}`),
  }, async () => {
    const all = [...numbers, ...(canBecome || findSignalClass() ? realTime : [])];
    const { name } = await start([], ['sleep', '100']);
    const { child, printed, end } = started([...tool, name, 'sh', '-c', tells(all)]);
    await send(child, printed, all);
    child.kill('SIGKILL');
    await end;
  });

test('with --init a signal is for the process group of the command', container, async () => {
  const inits = ['tini', 'tini-static', 'dumb-init', 'docker-init'];
  for (const launch of [[script('run')], without(...inits)]) {
    const name = newName();
    const words = ['--name', name, '--init', rootfs, 'sh', '-c'];
    const member = `sh -c 'trap : WINCH; trap "echo member; exit" USR1; echo ready; while :; do sleep 0.02; done' & ${tells([SIGUSR1, SIGWINCH], ':')}`;
    const { child, printed, end } = started([...launch, ...words, member]);
    await send(child, printed, [SIGWINCH]);
    printed.text = '';
    process.kill(child.pid as number, SIGUSR1);
    await until('both', () => printed.text.includes('member\n') && printed.text.includes('10\n'));
    child.kill('SIGTERM');
    await end;
  }
});

test('--stop-signal and stop.ts take numbers and real-time signals', container, async () => {
  for (const [option, words, told] of [
    [['--stop-signal', 'RTMAX-27'], [], 'RTMIN+3'],
    [[], ['-s', '37'], 'RTMIN+3'],
    [[], ['-s', 'RTMIN+30'], 'RTMIN+30'],
  ] as const) {
    const program = `trap 'exit 4' 37 64; while :; do sleep 0.02; done`;
    const { name, first, end } = await start([...option], ['sh', '-c', program]);
    await until('the trap', () => signals(first, 'SigCgt').has(37));
    assert.equal((await call('stop', [...words, name])).stdout, `${name}: ended after SIG${told}\n`);
    assert.deepEqual(await end, [4, null]);
  }
});
