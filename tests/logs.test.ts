import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { lastLines } from '../scripts/logs.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';

const names: string[] = [];
after(async () => {
  for (const name of names) if (existsSync(`/run/barehand/${name}`)) await call('stop', [name]);
});

/** Starts a container in the background. */
async function detach(command: string, ...options: string[]): Promise<string> {
  const name = newName();
  names.push(name);
  const { code, stdout } = await call('run', ['-d', '--name', name, ...options, rootfs, 'sh', '-c', command]);
  assert.deepEqual([code, stdout], [0, `${name}\n`]);
  return name;
}

const ended = (name: string) =>
  until('its end', async () => (await call('logs', ['--status', name])).stdout !== 'running\n');

test('the last lines of a text are found, with or without a newline at the end', () => {
  for (const [content, count, expected] of [
    ['a\nb\nc\n', 1, 'c\n'],
    ['a\nb\nc\n', 2, 'b\nc\n'],
    ['a\nb\nc\n', 9, 'a\nb\nc\n'],
    ['a\nb\nc', 1, 'c'],
    ['a\n\n\n', 2, '\n\n'],
    ['a\nb\n', 0, ''],
    ['', 3, ''],
    ['\n', 1, '\n'],
  ] as const) {
    const bytes = Buffer.from(content);
    assert.equal(
      bytes.subarray(lastLines(bytes, count)).toString(),
      expected,
      JSON.stringify([content, count]),
    );
  }
});

test('output and errors are in the log, in their order, with the exit code', container, async () => {
  const name = await detach('echo one; echo two >&2; printf "three\\0"; exit 7');
  await ended(name);
  assert.equal((await call('logs', [name])).stdout, 'one\ntwo\nthree\0');
  for (const words of [['--tail', '2'], ['-n', '2'], ['-n2'], ['--lines=2'], ['-fn', '2']])
    assert.equal((await call('logs', [...words, name])).stdout, 'two\nthree\0', words.join(' '));
  assert.equal((await call('logs', ['--tail', 'all', name])).stdout, 'one\ntwo\nthree\0');
  assert.equal((await call('logs', ['--status', name])).stdout, '7\n');
});

test('--follow shows what comes, as it comes, until the end', container, async () => {
  const gate = scratchFolder('gate');
  const program =
    'for word in begin middle end; do echo $word; until rmdir /gate/$word; do sleep 0.05; done; done';
  const name = await detach(`${program} 2>/dev/null; exit 3`, '-v', `${gate}:/gate`);
  assert.equal((await call('logs', ['--status', name])).stdout, 'running\n');
  const logs = spawn(script('logs'), ['-f', name], { stdio: ['ignore', 'pipe', 'inherit'] });
  let all = '';
  logs.stdout.on('data', (bytes) => {
    all += bytes;
  });
  const end = once(logs, 'close');
  // it goes on when its last word has come
  for (const [word, lines] of [
    ['begin', 'begin\n'],
    ['middle', 'begin\nmiddle\n'],
    ['end', 'begin\nmiddle\nend\n'],
  ] as const) {
    await until(word, () => all === lines);
    mkdirSync(join(gate, word));
  }
  assert.deepEqual(await end, [0, null]);
  assert.equal(all, 'begin\nmiddle\nend\n');
});

test('a long log is bounded, and its end is kept, also for --follow', container, async () => {
  const name = await detach(
    'i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); echo "line $i of a long log ................"; done; sleep 0.5; echo last',
    '--log-size',
    '32k',
  );
  const followed = call('logs', ['-f', name]);
  await ended(name);
  const kept = (await call('logs', [name])).stdout;
  assert.match(kept, /line 3000 of a long log \.+\nlast\n$/);
  assert.ok(kept.length <= 32 * 1024 && kept.length > 8 * 1024, String(kept.length));
  for (const file of ['log', 'log.1'])
    assert.ok(statSync(`/run/barehand/${name}/${file}`).size <= 16 * 1024, file);
  // a flood may be rotated away between two looks, but the end is there
  assert.match((await followed).stdout, /line 3000 of a long log \.+\nlast\n$/);
});

test(
  'a log that can not be written holds nobody up: its folder is full, or has gone',
  container,
  async () => {
    const seen = scratchFolder('logs');
    for (const [what, before, meanwhile] of [
      ['full', 'mount -t tmpfs -o size=16k tmpfs /run/barehand', ':'],
      ['gone', 'mount -t tmpfs tmpfs /run/barehand', 'rm -r /run/barehand/*'],
    ] as const) {
      // more than a pipe holds
      const command = `sleep 0.5; seq 100000; touch /seen/${what}`;
      const run = `${script('run')} -d --name ${newName()} -v ${seen}:/seen ${rootfs} sh -c '${command}'`;
      const mounts = `mkdir -p /run/barehand; ${before}; ${run} && ${meanwhile}`;
      const { code, stderr } = await execute(['unshare', '--mount', 'sh', '-c', mounts]);
      assert.deepEqual([code, stderr], [0, '']);
      await until(`the end of one whose folder is ${what}`, () => existsSync(join(seen, what)));
      // nobody keeps the log any more
      await until('the end of all', async () => {
        const { stdout } = await execute(['sh', '-c', `grep -ls -- '${seen} /seen' /proc/[0-9]*/environ`]);
        return stdout === '';
      });
    }
  },
);

test('what has no log is told apart', { skip: container.skip || needs('speed') }, async () => {
  for (const [words, code, expected] of [
    [['no-such-container'], 1, /there is no log of no-such-container/],
    [['../etc'], 2, /not a name/],
    [['--tail', 'x', 'web'], 2, /number of lines/],
    [['--status', '-f', 'web'], 2, /goes alone/],
    [[], 2, /operand is missing/],
  ] as [string[], number, RegExp][]) {
    const result = await call('logs', words);
    assert.match(result.stderr, expected);
    assert.equal(result.code, code);
  }
});
