import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { cgroupDirectory, cgroupPath, readHierarchies } from '../scripts/helpers/cgroup.ts';
import { descendants, readProcesses } from '../scripts/helpers/proc.ts';
import { formatDuration, type Row } from '../scripts/ps.ts';
import { alive, container, namespace, start, startByHand } from './helpers/container.ts';
import { cgroupVersion, needs } from './helpers/needs.ts';
import { call, execute, rootfs, top, until } from './helpers/script.ts';

const scratch = mkdtempSync(join(tmpdir(), 'barehand-ps-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

async function list(): Promise<Row[]> {
  const { code, stdout } = await call('ps', ['--json']);
  assert.equal(code, 0);
  return JSON.parse(stdout);
}

async function rowOf(pid: number): Promise<Row> {
  const row = (await list()).find((row) => row.pid === pid);
  assert.ok(row, `no row with PID ${pid}`);
  return row;
}

test('a duration is said in its two largest units', () => {
  assert.deepEqual([0, 42, 303, 12_000, 1_050_000].map(formatDuration), [
    '0s',
    '42s',
    '5m 3s',
    '3h 20m',
    '12d 3h',
  ]);
});

test('a container of ours is shown with all there is to know', container, async () => {
  const before = Date.now();
  const { name, first } = await start(
    ['--memory', '64M', '--network', 'none'],
    ['/bin/sh', '-c', 'sleep 100 & sleep 101'],
  );
  await until(
    'both sleeps',
    () => [...readProcesses().values()].filter(({ ppid }) => ppid === first).length === 2 || undefined,
  );
  const row = await rowOf(first);
  const { startedAt, memory, namespaces, ...rest } = row;
  assert.deepEqual(rest, {
    name,
    pid: first,
    processes: 3,
    command: '/bin/sh -c sleep 100 & sleep 101',
    rootfs,
    engine: 'barehand',
  });
  assert.ok(Math.abs(Date.parse(startedAt ?? '') - before) < 60_000, String(startedAt));
  assert.equal(memory.limitBytes, 64 * 1024 * 1024);
  assert.equal(memory.source, 'cgroup');
  assert.ok(memory.usedBytes > 0 && memory.usedBytes < 64 * 1024 * 1024);
  for (const [kind, inode] of Object.entries(namespaces))
    assert.equal(`${kind}:[${inode}]`, namespace(first, kind));
  assert.equal(Object.keys(namespaces).length, 7);

  const { stdout } = await call('ps', ['--no-trunc']);
  const [head, ...lines] = stdout.split('\n');
  assert.match(head as string, /^NAME +PID +PROCS +COMMAND +ROOTFS +UP +MEMORY$/);
  const line = lines.find((line) => line.includes(name)) as string;
  const expected = new RegExp(
    `^${name} +${first} +3 +/bin/sh -c sleep 100 & sleep 101 +${rootfs} +\\d+\\w.* [\\d.]+ [KM]iB / 64 MiB$`,
  );
  assert.match(line, expected);
});

test("one made by hand, with the article's commands, is shown too", container, async () => {
  const { first, unshare } = await startByHand(['/bin/sh', '-c', 'sleep 100; true']);
  const row = await rowOf(first);
  assert.deepEqual(
    [row.name, row.processes, row.command, row.rootfs, row.engine],
    [null, 2, '/bin/sh -c sleep 100; true', rootfs, 'unshare'],
  );
  assert.equal(row.memory.limitBytes, null);
  assert.equal(row.memory.source, 'rss');
  assert.ok(row.memory.usedBytes > 100_000);
  assert.equal(
    (await list()).some(({ pid }) => pid === unshare),
    false,
    'what holds it is not in it',
  );
});

test('a chroot without any namespace is shown, as one tree', container, async () => {
  const chroot = spawn('chroot', [rootfs, '/bin/sh', '-c', 'sleep 101; true'], {
    stdio: 'ignore',
    detached: true,
  });
  const end = once(chroot, 'exit');
  try {
    const pid = chroot.pid as number;
    await until(
      'its sleep',
      () => [...readProcesses().values()].filter(({ ppid }) => ppid === pid).length === 1 || undefined,
    );
    const row = await rowOf(pid);
    assert.deepEqual([row.processes, row.rootfs, row.engine], [2, rootfs, 'chroot']);
    assert.equal(row.namespaces.pid, Number(/\d+/.exec(namespace('self', 'pid'))?.[0]));
  } finally {
    process.kill(-(chroot.pid as number), 'SIGKILL');
    await end;
  }
});

test('one of ours without a PID namespace has its cgroup all the same', container, async () => {
  const { name, first } = await start(['--isolate', 'chroot', '--memory', '70M'], ['sleep', '100']);
  const row = await rowOf(first);
  assert.deepEqual([row.name, row.engine, row.rootfs], [name, 'barehand', rootfs]);
  assert.deepEqual([row.memory.source, row.memory.limitBytes], ['cgroup', 70 * 1024 * 1024]);
});

test('a container in a container is shown below it', container, async () => {
  const inner = ['unshare', '--pid', '--fork', '--mount-proc', 'sleep', '77'];
  const { first, name } = await start(['--privileged'], ['/bin/sh', '-c', `${inner.join(' ')}; true`]);
  const nested = await until('the inner one', () =>
    descendants(readProcesses(), [first]).find(
      ({ nsPids, name }) => nsPids.length === 3 && name === 'sleep' && nsPids[2] === 1,
    ),
  );
  const rows = await list();
  const outer = rows.findIndex(({ pid }) => pid === first);
  assert.equal(rows[outer]?.name, name);
  assert.equal(rows[outer]?.processes, 3);
  assert.equal(rows[outer + 1]?.pid, nested.pid);
  assert.equal(rows[outer + 1]?.processes, 1);
});

for (const [engine, program, words] of [
  [
    'bubblewrap',
    'bwrap',
    [
      '--bind',
      rootfs,
      '/',
      '--proc',
      '/proc',
      '--dev',
      '/dev',
      '--unshare-pid',
      '--die-with-parent',
      'sleep',
      '88',
    ],
  ],
  [
    'systemd-nspawn',
    'systemd-nspawn',
    ['-q', '--register=no', '--keep-unit', '-M', 'ps-test', '-D', rootfs, 'sleep', '88'],
  ],
] as [string, string, string[]][])
  test(`a container of ${engine} is told from others`, {
    skip: container.skip || needs(program),
  }, async () => {
    // systemd-nspawn guesses from the rootfs which cgroup version the container needs, and misses the host's
    const env = { ...process.env, ...(cgroupVersion === 2 && { SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' }) };
    const child = spawn(program, words, { stdio: 'ignore', detached: true, env });
    const end = once(child, 'exit');
    try {
      const sleep = await until('its sleep', () =>
        [...readProcesses().values()].find(
          ({ name, nsPids, pid }) => name === 'sleep' && nsPids.length > 1 && commandLine(pid).includes('88'),
        ),
      );
      const row = (await list()).find(
        ({ namespaces }) => `pid:[${namespaces.pid}]` === namespace(sleep.pid, 'pid'),
      );
      assert.equal(row?.engine, engine);
      if (engine === 'systemd-nspawn') assert.equal(row?.name, 'ps-test');
      assert.equal(row?.rootfs, rootfs);
    } finally {
      // SIGKILL of systemd-nspawn would leave the container running
      child.kill('SIGTERM');
      await end;
      await until(
        'its end',
        () =>
          ![...readProcesses().values()].some(
            ({ pid, name }) => name === 'sleep' && alive(pid) && commandLine(pid).includes('\0' + '88\0'),
          ) || undefined,
      );
      removeCgroupsOfNspawn();
    }
  });

/** The words of a process; none of one that has ended meanwhile. */
function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

/** systemd-nspawn --keep-unit leaves these below the cgroup that it was started in. */
function removeCgroupsOfNspawn(): void {
  const own = readFileSync('/proc/self/cgroup', 'utf8');
  for (const hierarchy of readHierarchies()) {
    const directory = cgroupDirectory(hierarchy, cgroupPath(own, hierarchy) ?? '');
    for (const name of ['payload', 'supervisor'])
      if (directory && existsSync(join(directory, name))) rmdirSync(join(directory, name));
  }
}

test('a container of runc is told from others, with its ID and limit', {
  skip: container.skip || needs('runc'),
}, async () => {
  const bundle = join(scratch, 'bundle');
  mkdirSync(bundle);
  await execute(['runc', 'spec'], { cwd: bundle });
  const config = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'));
  Object.assign(config.process, { terminal: false, args: ['sleep', '99'] });
  config.root = { path: rootfs, readonly: true };
  config.linux.resources = { memory: { limit: 77 * 1024 * 1024 } };
  rmSync(join(bundle, 'config.json'));
  await execute(['sh', '-c', 'cat >"$1"', 'sh', join(bundle, 'config.json')], {
    input: JSON.stringify(config),
  });
  const id = `ps-test-${process.pid}`;
  const run = spawn('runc', ['run', '--bundle', bundle, id], { stdio: 'ignore' });
  const end = once(run, 'exit');
  try {
    const row = await until('its row', async () => (await list()).find(({ name }) => name === id));
    assert.equal(row.engine, 'runc');
    assert.equal(row.command, 'sleep 99');
    assert.equal(row.memory.limitBytes, 77 * 1024 * 1024);
  } finally {
    await execute(['runc', 'kill', id, 'KILL']);
    await end;
    await execute(['runc', 'delete', '--force', id]);
  }
});

test('what a container writes into its command line does not reach the terminal', container, async () => {
  const { first } = await start([], ['sh', '-c', 'sleep 100; : \u001b[31mred\u0007']);
  const { stdout } = await call('ps', ['--no-trunc']);
  assert.doesNotMatch(stdout, /[\x00-\x09\x0b-\x1f]/);
  assert.match(stdout, /\\x1b\[31mred\\x07/);
  assert.equal((await rowOf(first)).command, 'sh -c sleep 100; : \u001b[31mred\u0007');
});

test('a long command is cut, unless asked not to', { skip: container.skip || needs('speed') }, async () => {
  const long = `sleep 100; : ${'long '.repeat(50)}`;
  const { name } = await start([], ['sh', '-c', long]);
  const lineOf = async (...words: string[]) =>
    (await call('ps', words)).stdout.split('\n').find((line) => line.includes(name)) ?? '';
  assert.match(await lineOf(), /…/);
  assert.ok((await lineOf('--no-trunc')).includes(`sh -c ${long}`.trim()));
});

test('where there is nothing to show it says so', { skip: needs('root', 'namespaces') }, async () => {
  // in a PID namespace of its own, with its own /proc, it can see no container of others
  const alone = ['unshare', '--pid', '--fork', '--mount-proc', process.execPath, join(top, 'dist/ps.mjs')];
  const table = await execute(alone);
  assert.equal(table.code, 0);
  assert.equal(table.stdout, '');
  assert.match(table.stderr, /^ps: no containers: nothing here runs in a PID namespace/);
  assert.equal((await execute([...alone, '--json'])).stdout, '[]\n');
});

test('a user without root sees what there is to see, and is told what is not', container, async () => {
  const { first } = await start([], ['sleep', '100']);
  const copy = join(scratch, 'ps.mjs');
  cpSync(join(top, 'dist/ps.mjs'), copy);
  await execute(['chmod', '755', scratch, copy]);
  const asUser = [
    'setpriv',
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    readlinkSync('/proc/self/exe'),
    copy,
    '--json',
  ];
  const { code, stdout, stderr } = await execute(asUser, { cwd: '/' });
  assert.equal(code, 0, stderr);
  assert.match(stderr, /could not look into \d+ processes of other users.*run it as root/);
  const row = (JSON.parse(stdout) as Row[]).find(({ pid }) => pid === first);
  assert.equal(row?.command, 'sleep 100');
  assert.equal(row?.rootfs, null);
});

test('wrong usage ends with 2', { skip: needs('speed') }, async () => {
  assert.equal((await call('ps', ['--all'])).code, 2);
  assert.equal((await call('ps', ['web'])).code, 2);
});
