import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readlinkSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { Failure } from '../scripts/helpers/cli.ts';
import { lock } from '../scripts/helpers/lock.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { execute, stripTypes, top, until } from './helpers/script.ts';

const folder = scratchFolder('lock');
const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

const isFree = async (path = folder) => (await execute(['flock', '--nonblock', path, 'true'])).code === 0;
const module = (body: string) => [
  ...[process.execPath, ...stripTypes, '--input-type=module'],
  ...['--eval', `import { lock } from '${join(top, 'scripts/helpers/lock.ts')}';\n${body}`],
];

/** Starts another process that holds the lock until it is killed. */
async function other(path = folder): Promise<ChildProcess> {
  const [program = '', ...words] = module(`await lock('${path}'); setInterval(() => {}, 1000)`);
  const child = spawn(program, words, { stdio: 'inherit' });
  children.push(child);
  await until('the lock to be held', async () => !(await isFree(path)));
  return child;
}

test('a lock is held until it is released, on a directory and on a namespace', async () => {
  for (const path of [folder, '/proc/self/ns/net']) {
    const held = await lock(path);
    assert.equal(await isFree(path), false);
    held.release();
    assert.equal(await isFree(path), true);
  }
});

test('no program that starts meanwhile inherits the descriptor', async () => {
  const { descriptor, release } = await lock(folder);
  assert.equal(readlinkSync(`/proc/self/fd/${descriptor}`), folder);
  const { stdout } = await execute(['sh', '-c', 'ls -l /proc/$$/fd']);
  assert.doesNotMatch(stdout, new RegExp(folder));
  release();
});

test('one at a time, and a holder that is killed holds nothing', async () => {
  const child = await other();
  const waiting = lock(folder);
  const first = await Promise.race([waiting, new Promise((resolve) => setTimeout(resolve, 300, 'waits'))]);
  assert.equal(first, 'waits');
  child.kill('SIGKILL');
  (await waiting).release();
});

test('whoever waits says for whom, and gives up after a bounded time', async () => {
  const { pid } = await other();
  const waiter = spawn(process.execPath, [
    ...module(
      `await lock('${folder}', { waitSeconds: 1.5 }).catch((error) => console.log(error.message))`,
    ).slice(1),
  ]);
  const [stdout, stderr] = await Promise.all([
    text(waiter.stdout),
    text(waiter.stderr),
    once(waiter, 'exit'),
  ]);
  const line = new RegExp(`lock on ${folder}, which PID ${pid} \\(.*lock\\.ts.* holds\n$`);
  assert.match(stderr, line);
  assert.equal(stderr.split('\n').length, 2);
  assert.match(
    stdout,
    new RegExp(`^the lock on ${folder} has not come free in 1.5 s: end PID ${pid} \\(.*, if it hangs\n$`),
  );
  const before = readdirSync('/proc/self/fd').length;
  await assert.rejects(lock(folder, { waitSeconds: 0 }), Failure);
  assert.equal(readdirSync('/proc/self/fd').length, before);
  children.at(-1)?.kill('SIGKILL');
});

test('a directory that is made anew while one waits is locked as it is now', async () => {
  const path = join(folder, 'again');
  mkdirSync(path);
  const child = await other(path);
  const waiting = lock(path);
  await new Promise((resolve) => setTimeout(resolve, 200));
  rmdirSync(path);
  mkdirSync(path);
  child.kill('SIGKILL');
  const { release } = await waiting;
  assert.equal(await isFree(path), false);
  release();
});

test('what cannot be locked is said in a line', async () => {
  await assert.rejects(
    lock(join(folder, 'none')),
    /^Error: cannot lock .*none: ENOENT: no such file or directory$/,
  );
  const path = process.env.PATH;
  process.env.PATH = '/nowhere';
  await assert.rejects(lock(folder), /flock\(1\) is missing/);
  process.env.PATH = path;
});
