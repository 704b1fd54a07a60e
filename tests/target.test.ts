// The container that a script acts on, by the PID of any of its processes.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { descendants, readProcesses, type Table } from '../scripts/helpers/pids.ts';
import { whileRuns } from '../scripts/helpers/target.ts';
import { alive, container, start, startByHand } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, until } from './helpers/script.ts';

/** The PID of a process of this name below another. */
const processBelow = (top: number, word: string) =>
  until(word, () => descendants(readProcesses(), [top]).find(({ name }) => name === word)?.pid);

const program = ['/bin/sh', '-c', 'sleep 100 & sleep 101; true'];

test('a process that ends while its container is looked for is refused: another may have its PID', async () => {
  const shell = spawn('sh', ['-c', 'sleep 100 & echo $!; wait'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const end = once(shell, 'exit');
  const pid = Number((await once(shell.stdout, 'data'))[0]);
  const nameOf = (table: Table) => table.get(pid)?.name;
  assert.equal(await until('its sleep', () => whileRuns(pid, nameOf) === 'sleep'), true);
  const killIt = () => {
    process.kill(pid, 'SIGKILL');
    while (existsSync(`/proc/${pid}`)); // until the shell has fetched its exit status
  };
  assert.throws(() => whileRuns(pid, killIt), new RegExp(`process ${pid} has ended`));
  assert.throws(() => whileRuns(pid, killIt), new RegExp(`there is no process ${pid}`));
  await end;
});

test(
  'a PID in the middle of a container of ours means the container, which is named',
  container,
  async () => {
    const { name, first } = await start([], program);
    const middle = await processBelow(first, 'sleep');
    const remark = `PID ${middle} belongs to the container ${name} (first process ${first})\n`;
    const { stdout, stderr, code } = await call('exec', [String(middle), 'hostname']);
    assert.deepEqual([code, stdout, stderr], [0, `${name}\n`, `exec: ${remark}`]);
    assert.equal((await call('exec', [String(first), 'true'])).stderr, '');
    const inside = await call('stop', ['--timeout', '0', String(middle), String(first)]);
    assert.deepEqual(
      [inside.code, inside.stdout.split('\n').length, inside.stderr],
      [0, 2, `stop: ${remark}`],
      'once, although both mean the same container',
    );
    assert.equal(alive(first), false);
  },
);

test('a PID in the middle of a container made by hand means that container', container, async () => {
  const { first, unshare } = await startByHand(program);
  const middle = await processBelow(first, 'sleep');
  const remark = `PID ${middle} belongs to the container whose first process is ${first} (sh)\n`;
  assert.equal((await call('exec', [String(unshare), 'true'])).stderr, '');
  assert.equal((await call('exec', [String(middle), 'true'])).stderr, `exec: ${remark}`);
  assert.equal((await call('stop', ['--timeout', '0', String(middle)])).stderr, `stop: ${remark}`);
  assert.equal(alive(first), false);
});

test('a PID in the middle of a container inside another means the inner one', container, async () => {
  const inner = 'unshare --pid --fork --mount-proc sh -c "sleep 77; true"; true';
  const { first } = await start(['--privileged'], ['/bin/sh', '-c', inner]);
  const middle = await processBelow(first, 'sleep');
  const { stderr } = await call('exec', [String(middle), 'true']);
  assert.match(stderr, /belongs to the container whose first process is \d+ \(sh\)\n$/);
  assert.doesNotMatch(stderr, new RegExp(` ${first} `));
});

test('network.ts attaches the container of a PID in its middle, under its name', {
  skip: container.skip || needs('ip', 'nft'),
}, async () => {
  const { name, first } = await start(['--network', 'none'], program);
  const middle = await processBelow(first, 'sleep');
  const plan = await call('network', ['attach', '--dry-run', String(middle)]);
  assert.equal(plan.code, 0, plan.stderr);
  assert.equal(
    plan.stderr,
    `network: PID ${middle} belongs to the container ${name} (first process ${first})\n`,
  );
  assert.match(plan.stdout, new RegExp(`barehand ${name} ${first} `));
});
