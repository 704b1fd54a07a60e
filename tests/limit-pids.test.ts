import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { processesIn } from '../scripts/helpers/cgroups.ts';
import { container, start } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, until } from './helpers/script.ts';
import { hierarchyOf, lacks, lastTree, pidCgroupIn, readIn, startTree, succeed } from './helpers/trees.ts';

const pids = hierarchyOf('pids');
const skip = container.skip || lacks('pids');

test('wrong usage ends with 2 and a clear line', { skip: needs('speed') }, async () => {
  for (const [words, expected] of [
    [[], /operand is missing/],
    [['web'], /NUMBER is missing/],
    [['web', 'many'], /NUMBER is a whole number from 1 to 4194304, not "many"/],
    [['web', '0'], /NUMBER is a whole number/],
    [['web', '-5'], /unknown option -5/],
    [['--reset', 'web', '5'], /--reset takes no NUMBER/],
  ] as [string[], RegExp][]) {
    const { code, stderr, stdout } = await call('limit-pids', words);
    assert.match(stderr, expected);
    assert.deepEqual([code, stdout], [2, '']);
  }
});

test('a fork bomb stops at the limit, and the host goes on', { skip }, async () => {
  // system(3) that fails is tried again, without end
  const bomb = `awk 'BEGIN { while (1) system("sleep 100 & :") }'`;
  const pid = await startTree(`echo complete; read -r _; ${bomb} & ${bomb} & wait`, 'pipe');
  await succeed('limit-pids', String(pid), '30');
  lastTree()?.stdin?.end('go\n');
  const refused = () => Number(/^max (\d+)$/m.exec(readIn(pids, pid, 'pids.events'))?.[1]);
  await until('the kernel to refuse', () => refused() > 10);
  const began = Date.now();
  assert.equal((await execute(['true'])).code, 0);
  assert.ok(Date.now() - began < 3000, 'the host answers');
  const current = Number(readIn(pids, pid, 'pids.current'));
  assert.ok(current > 25 && current <= 30, String(current));
  assert.ok(processesIn(pidCgroupIn(pids, pid)).length <= 30);
});

test('threads count; a limit below what is there ends nobody, and is told of', { skip }, async () => {
  const pid = await startTree(`exec node -e 'console.log("complete"); setInterval(() => {}, 1000)'`);
  await until('threads', () => /^Threads:\t([4-9]|\d\d)/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')));
  const { stdout, stderr } = await succeed('limit-pids', String(pid), '2');
  assert.match(stdout, /process limit none -> 2; \d+ there now\n1 process moved to/);
  assert.match(stderr, /more than 2 exist already: none is ended/);
  assert.ok(Number(readIn(pids, pid, 'pids.current')) > 2);
});

test('a container is limited by its name, in place; --json and --dry-run tell the same', {
  skip,
}, async () => {
  const { name } = await start([], ['sleep', '100']);
  const file = join(pids.mountPoint, 'barehand', name, 'pids.max');
  const { stdout } = await succeed('limit-pids', '--json', name, '20');
  assert.deepEqual(JSON.parse(stdout), {
    cgroups: [join(pids.mountPoint, 'barehand', name)],
    processes: 1,
    pids: 1,
    pidsLimit: 20,
    before: { pidsLimit: null },
  });
  assert.equal(readFileSync(file, 'utf8'), '20\n');
  assert.equal((await succeed('limit-pids', '--dry-run', name, '25')).stdout, `echo 25 > ${file}\n`);
  assert.match(
    (await succeed('limit-pids', '--reset', name)).stdout,
    /process limit 20 -> none; 1 there now\n1 process in/,
  );
  assert.equal(readFileSync(file, 'utf8'), 'max\n');
});
