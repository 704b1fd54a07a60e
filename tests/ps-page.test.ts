// ps.ts PID|NAME...: what a process belongs to.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { attempt, descendants, readProcesses } from '../scripts/helpers/pids.ts';
import { memoryFiles } from '../scripts/limit/table.ts';
import { type Page, unitOf } from '../scripts/ps/page.ts';
import { cgroups, container, memory, newName, start, startByHand } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, rootfs, until } from './helpers/script.ts';

const MiB = 1024 * 1024;

async function pageOf(word: number | string): Promise<Page> {
  const { code, stdout, stderr } = await call('ps', ['--json', String(word)]);
  assert.deepEqual([code, stderr], [0, '']);
  const [page] = JSON.parse(stdout) as [Page];
  return page;
}

/** The value of each level of a limit, as `own 100`. */
const levels = ({ limits }: Page, limit: string) =>
  limits.filter((one) => one.limit === limit).map(({ level, value }) => `${level} ${value}`);

const childOf = (pid: number, word: string) =>
  until(
    word,
    () => [...readProcesses().values()].find(({ ppid, name }) => ppid === pid && name === word)?.pid,
  );

test('the unit of systemd is the innermost service or scope in the path of a cgroup', () => {
  assert.equal(unitOf('0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope\n'), 'a.scope');
  assert.equal(unitOf('0::/system.slice/web.service/workers\n'), 'web.service');
  assert.equal(
    unitOf('5:memory:/x.service\n1:name=systemd:/user.slice/session-3.scope\n0::/\n'),
    'session-3.scope',
  );
  assert.equal(unitOf('0::/barehand/web\n'), null);
});

test('a process in the middle of a container of ours: container, parents, limits', container, async () => {
  const limits = ['--memory', '64M', '--cpus', '0.5', '--pids-limit', '50', '--cpuset-cpus', '0'];
  const { name, first, unshare, launcher } = await start(limits, [
    '/bin/sh',
    '-c',
    'sh -c "sleep 100; true" & sleep 101; true',
  ]);
  const shell = await childOf(first, 'sh');
  const middle = await childOf(shell, 'sleep');
  const page = await pageOf(middle);
  assert.deepEqual(
    [page.pid, page.command, page.container],
    [
      middle,
      'sleep 100',
      {
        name,
        engine: 'barehand',
        pid: first,
        command: '/bin/sh -c sh -c "sleep 100; true" & sleep 101; true',
        rootfs,
        role: 'member',
      },
    ],
  );
  assert.deepEqual(
    page.parents.map(({ pid, command }) => [pid, command]),
    [[shell, 'sh -c sleep 100; true']],
  );
  const pids = page.startedBy.map(({ pid }) => pid);
  assert.deepEqual(pids.slice(0, 2), [unshare, launcher.pid]);
  assert.ok(pids.includes(process.pid));
  assert.ok(page.startedBy.every(({ command }) => !command.includes('\n')));
  assert.deepEqual(
    ['memory', 'cpu', 'pids', 'cpuset'].map((limit) => levels(page, limit)[0]),
    [`own ${64 * MiB}`, 'own 0.5', 'own 50', 'own 0'],
  );
  const own = page.limits.find(({ limit }) => limit === 'memory');
  assert.ok(own && cgroups(name).includes(own.cgroup));
  assert.ok((own?.used ?? 0) > 0 && (own?.used ?? 0) < 64 * MiB);

  const byName = await call('ps', [name]);
  const line = (key: string) => byName.stdout.split('\n').filter((text) => text.startsWith(`${key}: `));
  assert.deepEqual(line('pid'), [`pid: ${first}`]);
  assert.deepEqual(line('container'), [
    `container: ${name}, made by barehand; ${first} is its first process`,
  ]);
  assert.match(line('memory')[0] ?? '', /^memory: [\d.]+ [KM]iB \/ 64 MiB \(own: \/sys\/fs\/cgroup.*\)$/);
  assert.ok(
    byName.stdout.split('\n').every((text) => /^[a-z][a-z ]*: ./.test(text) || text === ''),
    byName.stdout,
  );

  const holder = await pageOf(unshare);
  assert.deepEqual([holder.container?.name, holder.container?.role], [name, 'holder']);
});

test('a limit of a cgroup above and one inside the container are told from its own', {
  skip: container.skip || needs('cgroup-v1'),
}, async () => {
  const { first, name } = await start(['--memory', '64M'], ['/bin/sh', '-c', 'sleep 100; true']);
  const part = await childOf(first, 'sleep');
  assert.equal((await call('limit-memory', [String(part), '30M'])).code, 0);
  assert.deepEqual(levels(await pageOf(part), 'memory').slice(0, 2), [
    `inside ${30 * MiB}`,
    `own ${64 * MiB}`,
  ]);
  assert.deepEqual(levels(await pageOf(name), 'memory')[0], `own ${64 * MiB}`);
  assert.equal((await call('limit-memory', ['--reset', String(part)])).code, 0);
});

test(
  'a container that shares a cgroup has the limits of that, and one in no container those of its own',
  container,
  async () => {
    const directory = join(memory.mountPoint, newName());
    if (memory.version === 2) writeFileSync(join(memory.mountPoint, 'cgroup.subtree_control'), '+memory');
    mkdirSync(directory);
    writeFileSync(join(directory, memoryFiles[memory.version].limit), String(90 * MiB));
    const inner = `unshare --pid --fork --kill-child chroot '${rootfs}' sleep 100 & sleep 101`;
    const shell = spawn('sh', ['-c', `echo 0 >'${directory}/cgroup.procs'; ${inner}`], { stdio: 'ignore' });
    const end = once(shell, 'exit');
    try {
      const first = await until(
        'its first process',
        () =>
          descendants(readProcesses(), [shell.pid ?? 0]).find(
            ({ nsPids, name }) => nsPids.length > 1 && name === 'sleep',
          )?.pid,
      );
      const its = await pageOf(first);
      assert.deepEqual([its.container?.engine, its.container?.role], ['unshare', 'first']);
      assert.equal(levels(its, 'memory')[0], `parent ${90 * MiB}`);
      const plain = await pageOf(shell.pid ?? 0);
      assert.deepEqual([plain.container, levels(plain, 'memory')[0]], [null, `own ${90 * MiB}`]);
      assert.equal(plain.startedBy[0]?.pid, process.pid);
      const { stdout } = await call('ps', [String(shell.pid)]);
      assert.match(stdout, /^container: none$/m);
      assert.match(stdout, new RegExp(`^memory: .* / 90 MiB \\(own: ${directory}\\)$`, 'm'));
    } finally {
      for (const { pid } of descendants(readProcesses(), [shell.pid ?? 0]).reverse())
        attempt(() => process.kill(pid, 'SIGKILL')); // it may have ended with the one before
      await end;
      await until('its end', () => readFileSync(join(directory, 'cgroup.procs'), 'utf8') === '');
      rmdirSync(directory);
    }
  },
);

test('what another program brought into a container has parents outside of it', container, async () => {
  const { first } = await startByHand(['/bin/sleep', '100']);
  const nsenter = spawn(
    'nsenter',
    ['--target', String(first), '--pid', '--mount', '--root', '/bin/sleep', '99'],
    {
      stdio: 'ignore',
    },
  );
  const end = once(nsenter, 'exit');
  const entered = await childOf(nsenter.pid ?? 0, 'sleep');
  const page = await pageOf(entered);
  assert.deepEqual([page.container?.pid, page.container?.role], [first, 'member']);
  assert.deepEqual(
    page.parents.slice(0, 2).map(({ pid }) => pid),
    [nsenter.pid, process.pid],
  );
  process.kill(entered, 'SIGKILL');
  await end;
});

test('a word that means nothing is reported, and does not keep the others from being shown', async () => {
  const { code, stdout, stderr } = await call('ps', ['4194305', 'no-such-container', String(process.pid)]);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^ps: there is no process 4194305: .*\nps: there is no container no-such-container: .*\n$/,
  );
  assert.match(stdout, new RegExp(`^pid: ${process.pid}\n`));
  for (const [words, expected] of [
    [['../x'], /neither a name nor a PID: "\.\.\/x"/],
    [['--watch', '1'], /--watch takes no PID or NAME/],
  ] as [string[], RegExp][]) {
    const refused = await call('ps', words);
    assert.deepEqual([refused.code, refused.stdout], [2, '']);
    assert.match(refused.stderr, expected);
  }
});
