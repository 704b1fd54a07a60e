import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { clockOf, formatTime, parseTime, readNotes } from '../scripts/logs/times.ts';
import { lastLines, selectLines } from '../scripts/logs.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

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

test('lines are chosen by the time at which their end was written', () => {
  const text = Buffer.from('a\nbb\nccc\nd');
  const notes = [
    { length: 2, seconds: 100 },
    { length: 9, seconds: 110 },
  ];
  for (const [choice, expected] of [
    [{}, 'a\nbb\nccc\nd'],
    [{ since: 100.9 }, 'a\nbb\nccc\nd'],
    [{ since: 101 }, 'bb\nccc\nd'],
    [{ since: 101, until: 110 }, 'bb\nccc\n'],
    [{ until: 99 }, ''],
    [{ since: 120, stamps: true }, '1970-01-01T00:02:00Z d'],
  ] as const)
    assert.equal(
      selectLines(text, clockOf(notes, 120), { stamps: false, ...choice }).toString(),
      expected,
      JSON.stringify(choice),
    );
});

test('a TIME is an age, a date, a clock or a number of seconds', () => {
  const now = Date.parse('2026-01-31T12:00:00Z');
  const parse = (text: string) => parseTime('--since', now)(text);
  const zone = new Date(now).getTimezoneOffset() * 60;
  for (const [typed, expected] of [
    ['90s', '2026-01-31T11:58:30Z'],
    ['1h30m', '2026-01-31T10:30:00Z'],
    ['1.5d', '2026-01-30T00:00:00Z'],
    ['2026-01-30T01:02:03Z', '2026-01-30T01:02:03Z'],
    ['2026-01-30 01:02:03.5+01:00', '2026-01-30T00:02:03Z'],
    ['1769829320', '2026-01-31T03:15:20Z'],
  ] as const)
    assert.equal(formatTime(parse(typed)), expected, typed);
  assert.equal(parse('2026-01-30'), Date.parse('2026-01-30T00:00:00Z') / 1000 + zone);
  assert.equal(parse('2026-01-30T23:15'), Date.parse('2026-01-30T23:15:00Z') / 1000 + zone);
  const clock = parse('3:15');
  assert.ok(clock <= now / 1000 && clock > now / 1000 - 86_400, String(clock));
  assert.equal(new Date(clock * 1000).toTimeString().slice(0, 5), '03:15');
  for (const typed of ['', '10', '10x', 'yesterday', '25:61', '2026-13-01', '-1h', '1769829320123', 'Z'])
    assert.throws(() => parse(typed), /--since is 10m/, typed);
});

slow('--timestamps prints when each line was written, --since and --until choose', container, async () => {
  const before = Math.floor(Date.now() / 1000);
  const name = await detach('echo one; echo two; sleep 4; printf half; sleep 2; echo line; exec sleep 600');
  const read = async (...words: string[]) => (await call('logs', [...words, name])).stdout;
  await until('the last line', async () => (await read()).includes('halfline'));
  const after = Math.ceil(Date.now() / 1000);
  const lines = (await read('-t')).split('\n');
  assert.deepEqual(
    lines.map((line) => line.replace(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ /, '')),
    ['one', 'two', 'halfline', ''],
  );
  const [one = 0, two = 0, half = 0] = lines.map((line) => Date.parse(line.split(' ', 1)[0] ?? '') / 1000);
  assert.ok(before <= one && one <= two && two < half && half <= after, lines.join('\n'));
  assert.ok(half - two >= 4, lines.join('\n'));
  assert.equal(await read('--since', String(half - 1)), 'halfline\n');
  assert.equal(await read('--until', String(half - 1)), 'one\ntwo\n');
  assert.equal(await read('--until', String(half - 1), '-n', '1'), 'two\n');
  assert.equal(await read('--since', String(after + 60)), '');
});

slow('--follow --timestamps stamps a line when it is complete', container, async () => {
  const name = await detach('printf be; sleep 1; echo gun; sleep 1; printf end');
  const { stdout } = await call('logs', ['-ft', name]);
  assert.match(stdout, /^\S+T\S+Z begun\n\S+T\S+Z end$/);
});

slow('both files of a long log have their times', container, async () => {
  const name = await detach('seq 3000; sleep 3; seq 3000; echo end; exec sleep 600', '--log-size', '32k');
  const folder = `/run/barehand/${name}`;
  await until('all output', async () => (await call('logs', ['-n', '1', name])).stdout === 'end\n');
  // 13,893 bytes each time: the first file has all of the first, and the begin of the second
  const size = statSync(join(folder, 'log')).size;
  await until('its time', () => readNotes(folder)?.newer.at(-1)?.length === size);
  const { stdout } = await call('logs', ['-t', name]);
  const [first, last] = [stdout.split('\n').at(0), stdout.trimEnd().split('\n').at(-1)];
  const seconds = [first, last].map((line) => Date.parse(line?.split(' ')[0] ?? '') / 1000);
  assert.ok((seconds[1] as number) - (seconds[0] as number) >= 2, `${first} ${last}`);
  assert.ok(readNotes(folder)?.older.every(({ length }) => length <= 16 * 1024));
});

test('a log without times is printed without them, and says so', container, async () => {
  const name = newName();
  const folder = `/run/barehand/${name}`;
  mkdirSync(folder, { recursive: true });
  try {
    writeFileSync(join(folder, 'log'), 'old\n');
    writeFileSync(join(folder, 'status'), '0\n');
    assert.equal((await call('logs', [name])).stdout, 'old\n');
    for (const words of [['-t'], ['--since', '1h'], ['--until', '1h'], ['-ft']]) {
      const { code, stderr } = await call('logs', [...words, name]);
      assert.equal(code, 1);
      assert.match(stderr, /^logs: the log of \S+ has no times, as an older run\.ts started it: leave out /);
    }
    // no line is younger than the log
    writeFileSync(join(folder, 'times.0'), '0\n');
    utimesSync(join(folder, 'log'), 1_769_829_320, 1_769_829_320);
    assert.equal((await call('logs', ['-t', name])).stdout, '2026-01-31T03:15:20Z old\n');
  } finally {
    rmSync(folder, { recursive: true });
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
    [['--status', '-t', 'web'], 2, /goes alone/],
    [['--until', '1h', '-f', 'web'], 2, /does not go with --follow/],
    [[], 2, /operand is missing/],
  ] as [string[], number, RegExp][]) {
    const result = await call('logs', words);
    assert.match(result.stderr, expected);
    assert.equal(result.code, code);
  }
});
