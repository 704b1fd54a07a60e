import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { descendants, readProcesses } from '../scripts/helpers/pids.ts';
import { formatDuration } from '../scripts/helpers/units.ts';
import { levelOf, parseLoggedKill } from '../scripts/limit/oom.ts';
import { guessLevel } from '../scripts/limit/oom-kills.ts';
import { memoryFiles } from '../scripts/limit/table.ts';
import { readLimits } from '../scripts/ps/usage.ts';
import { type Row, toTable } from '../scripts/ps.ts';
import { container, memory, namespace, newName, start, startByHand } from './helpers/container.ts';
import { engines, makeBundle, programOf, withEngine, withRunc } from './helpers/engines.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, rootfs, top, until } from './helpers/script.ts';

const scratch = scratchFolder('ps');

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

const plain: Row = {
  name: 'web',
  pid: 4711,
  processes: 3,
  command: 'nginx -g daemon off; master process',
  rootfs: '/var/lib/barehand/rootfs/debian-12-with-nginx/rootfs',
  startedAt: new Date(0).toISOString(),
  memory: { usedBytes: 100 * 1024 * 1024, limitBytes: null, source: 'cgroup' },
  limits: { memoryBytes: null, cpus: null, pids: null },
  pids: 5,
  cpuSeconds: 1,
  oomKills: { count: 0, level: null, cgroup: null, limitBytes: null, process: null, at: null },
  labels: {},
  namespaces: {},
  ports: [],
  engine: 'barehand',
};

test('limits and OOM kills have a column only where there are some', () => {
  const head = (row: Row) => toTable([plain, row], 0, true, { width: 120 }).split('\n', 1)[0]?.split(/ +/);
  const always = ['NAME', 'PID', 'PROCS', 'COMMAND', 'ROOTFS', 'UP', 'MEMORY'];
  assert.deepEqual(head(plain), always);
  const limits = { memoryBytes: 1, cpus: 0.5, pids: null };
  assert.deepEqual(head({ ...plain, limits }), [...always, 'CPUS']);
  assert.deepEqual(head({ ...plain, limits: { ...limits, cpus: null, pids: 10 } }), [...always, 'PIDS']);
  const killed = {
    ...plain,
    limits: { memoryBytes: 1, cpus: 1.5, pids: 10 },
    oomKills: { count: 2, level: 'parent' as const, cgroup: '/a', limitBytes: null, process: null, at: null },
  };
  assert.deepEqual(head(killed), [...always, 'CPUS', 'PIDS', 'OOM']);
  const [, one, other] = toTable([plain, killed], 0, true, { width: 200 }).split('\n');
  assert.match(one ?? '', / {3}none +5 \/ none +0$/);
  assert.match(other ?? '', / {3}1\.5 +5 \/ 10 +2 \(parent\)$/);
});

test('the table is no wider than it may be, commands and paths give way', () => {
  for (const width of [90, 100, 120, 140])
    for (const line of toTable([plain, { ...plain, name: 'a-longer-name' }], 0, true, { width }).split('\n'))
      assert.ok(line.length <= width, `${line.length}: ${line}`);
  assert.match(toTable([plain], 0, true, { width: 120 }), /nginx -g daemon off; master pro… +…/);
  assert.match(
    toTable([plain], 0, true, { width: 100 }),
    /nginx -g daemon off; master pro… {3}…hand\/|nginx.* {3}…/,
  );
  assert.ok(toTable([plain], 0, false, { width: 90 }).includes(plain.command));
  assert.ok(toTable([plain], 0, false, { width: 90 }).includes(plain.rootfs ?? ''));
});

test('on a terminal the table fits: columns go in one order, the name is cut last', () => {
  const row = {
    ...plain,
    name: 'a-name-of-twenty-one',
    memory: { usedBytes: 96 * 1024 * 1024, limitBytes: 100 * 1024 * 1024, source: 'cgroup' as const },
    limits: { memoryBytes: 1, cpus: 1.5, pids: 10 },
    ports: [{ host: undefined, hostPort: 8080, port: 80, protocol: 'tcp' as const }],
    oomKills: { count: 2, level: 'own' as const, cgroup: '/a', limitBytes: null, process: null, at: null },
  };
  const at = (width: number, colour = false) =>
    toTable([row], 0, true, { width, terminal: true, colour }).split('\n');
  const titles = (width: number) => at(width)[0]?.split(/ +/) ?? [];
  const all = titles(200);
  const gone: string[] = [];
  for (let width = 199; width > 50; width--) {
    for (const title of all) if (!titles(width).includes(title) && !gone.includes(title)) gone.push(title);
    if (width > 65) for (const line of at(width)) assert.ok(line.length <= width, `${width}: ${line}`);
  }
  assert.deepEqual(gone, ['ROOTFS', 'CPUS', 'PROCS', 'PIDS', 'UP', 'PORTS']);
  assert.match(at(80)[1] ?? '', /^a-name-of-twenty-one /);
  assert.match(at(80, true)[1] ?? '', /\x1b\[31m96 MiB \/ 100 MiB\x1b\[m +\x1b\[31m2 \(own\)\x1b\[m$/);
  assert.deepEqual(toTable([row], 0, true, { width: 80 }).split('\n')[0]?.split(/ +/), all, 'a pipe has all');
});

test("an OOM kill is read from a record of the kernel's log", () => {
  const record = (text: string) => `6,6793,16496990573,-;${text}\n SUBSYSTEM=x\n`;
  const kill = { sinceBootSeconds: 16496.990573, taskCgroup: '/barehand/web/a', name: 'a,b', pid: 26822 };
  const rest = 'task_memcg=/barehand/web/a,task=a,b,pid=26822,uid=0';
  const memcg = 'oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=web,mems_allowed=0';
  assert.deepEqual(parseLoggedKill(record(`${memcg},oom_memcg=/barehand,${rest}`)), {
    ...kill,
    limitCgroup: '/barehand',
  });
  const none = 'oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0';
  assert.deepEqual(parseLoggedKill(record(`${none},global_oom,${rest}`)), { ...kill, limitCgroup: null });
  for (const text of ['', 'Memory cgroup out of memory: Killed process 26822 (awk)', 'oom-kill:constraint=X'])
    assert.equal(parseLoggedKill(record(text)), undefined);
});

test('the level of an OOM kill is where the limit lies', () => {
  const levels = [null, '/', '/a', '/a/b', '/a/b/c', '/a/bc'].map((cgroup) => levelOf(cgroup, '/a/b'));
  assert.deepEqual(levels, ['host', 'parent', 'parent', 'own', 'inside', 'parent']);
  assert.deepEqual(guessLevel([], '/a/b'), { level: 'host', cgroup: null });
  assert.deepEqual(guessLevel(['/a/b/c'], '/a/b'), { level: 'inside', cgroup: '/a/b/c' });
  assert.deepEqual(guessLevel(['/a'], '/a/b'), { level: 'parent', cgroup: '/a' });
  assert.deepEqual(guessLevel(['/a/b', '/a'], '/a/b'), { level: null, cgroup: null });
});

test('limits are said in bytes, CPUs and processes, whatever version of cgroups has them', () => {
  const directory = scratchFolder('limits');
  const limitsOf = (version: 1 | 2, files: Record<string, string>) => {
    for (const [file, text] of Object.entries(files)) writeFileSync(join(directory, file), `${text}\n`);
    const place = { version, directory };
    return Object.values(readLimits({ memory: place, cpu: place, pids: place }));
  };
  const v1 = (memory: string, quota: string, pids: string) =>
    limitsOf(1, {
      'memory.limit_in_bytes': memory,
      'cpu.cfs_quota_us': quota,
      'cpu.cfs_period_us': '100000',
      'pids.max': pids,
    });
  const v2 = (memory: string, cpu: string, pids: string) =>
    limitsOf(2, { 'memory.max': memory, 'cpu.max': cpu, 'pids.max': pids });
  assert.deepEqual(v1('9223372036854771712', '-1', 'max'), [null, null, null]);
  assert.deepEqual(v1('1048576', '150000', '20'), [1048576, 1.5, 20]);
  assert.deepEqual(v2('max', 'max 100000', 'max'), [null, null, null]);
  assert.deepEqual(v2('4096', '50000 100000', '1'), [4096, 0.5, 1]);
  assert.deepEqual(readLimits({}), { memoryBytes: null, cpus: null, pids: null });
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
  const { startedAt, memory, namespaces, pids, cpuSeconds, ...rest } = row;
  assert.deepEqual(rest, {
    name,
    pid: first,
    processes: 3,
    command: '/bin/sh -c sleep 100 & sleep 101',
    rootfs,
    limits: { memoryBytes: 64 * 1024 * 1024, cpus: null, pids: null },
    oomKills: { count: 0, level: null, cgroup: null, limitBytes: null, process: null, at: null },
    engine: 'barehand',
    labels: {},
    ports: [],
  });
  assert.ok(pids >= 3 && pids < 10, String(pids));
  assert.ok(cpuSeconds !== null && cpuSeconds > 0 && cpuSeconds < 60, String(cpuSeconds));
  assert.ok(Math.abs(Date.parse(startedAt ?? '') - before) < 60_000, String(startedAt));
  assert.equal(memory.limitBytes, 64 * 1024 * 1024);
  assert.equal(memory.source, 'cgroup');
  assert.ok(memory.usedBytes > 0 && memory.usedBytes < 64 * 1024 * 1024);
  for (const [kind, inode] of Object.entries(namespaces))
    assert.equal(`${kind}:[${inode}]`, namespace(first, kind));
  assert.equal(Object.keys(namespaces).length, 7);

  const { stdout } = await call('ps', ['--no-trunc']);
  const [head, ...lines] = stdout.split('\n');
  // containers of others may have limits of more kinds
  assert.match(head as string, /^NAME +PID +PROCS +COMMAND +ROOTFS +UP +MEMORY\b/);
  const line = lines.find((line) => line.includes(name)) as string;
  const expected = new RegExp(
    `^${name} +${first} +3 +/bin/sh -c sleep 100 & sleep 101 +${rootfs} +\\d+\\w.* [\\d.]+ [KM]iB / 64 MiB\\b`,
  );
  assert.match(line, expected);
});

const hog = 'head -c 60000000 /dev/zero | tail >/dev/null; sleep 100';

test('an OOM kill is shown, with its own limit as the cause', container, async () => {
  const before = Date.now();
  const { first, name } = await start(['--memory', '20M'], ['sh', '-c', hog]);
  const row = await until('the OOM kill', async () => {
    const row = await rowOf(first);
    return row.oomKills?.count === 1 && row;
  });
  const { level, cgroup, process: killed, at } = row.oomKills as NonNullable<Row['oomKills']>;
  assert.deepEqual([level, cgroup?.endsWith(`/${name}`), killed?.name], ['own', true, 'tail']);
  assert.ok(Math.abs(Date.parse(at ?? '') - before) < 60_000, String(at));
  const table = (await call('ps', [])).stdout.split('\n');
  assert.match(table[0] ?? '', / OOM$/);
  assert.match(table.find((line) => line.includes(name)) ?? '', / 1 \(own\)$/);

  // where the log may not be read the counters tell the level, but neither whom nor when
  const ps = ['node', join(top, 'dist/ps.mjs'), '--json'];
  const blind = ['unshare', '-m', 'sh', '-c', 'mount --bind /dev/null /dev/kmsg && exec "$@"', 'sh', ...ps];
  const rows: Row[] = JSON.parse((await execute(blind)).stdout);
  assert.deepEqual(rows.find(({ pid }) => pid === first)?.oomKills, {
    ...{ count: 1, level: 'own', cgroup, limitBytes: 20 * 1024 ** 2, process: null, at: null },
  });
});

test('an OOM kill for want of what a cgroup above may use is told from that', container, async () => {
  const outer = join(memory.mountPoint, newName());
  const inner = join(outer, 'inner');
  const write = (file: string, text: string) => writeFileSync(file, text);
  if (memory.version === 2) write(join(memory.mountPoint, 'cgroup.subtree_control'), '+memory');
  mkdirSync(inner, { recursive: true });
  const files = memoryFiles[memory.version];
  if (memory.version === 2) write(join(outer, 'cgroup.subtree_control'), '+memory');
  write(join(outer, files.limit), '20000000');
  if (existsSync(join(outer, files.swap)))
    write(join(outer, files.swap), memory.version === 2 ? '0' : '20000000');
  const joined = 'echo 0 >"$0/cgroup.procs" && exec "$@"';
  const words = [
    'unshare',
    '--pid',
    '--fork',
    '--kill-child',
    `--mount-proc=${rootfs}/proc`,
    'chroot',
    rootfs,
  ];
  const held = spawn('sh', ['-c', joined, inner, ...words, 'sh', '-c', hog], { stdio: 'ignore' });
  const end = once(held, 'exit');
  try {
    const row = await until('the OOM kill', async () =>
      (await list()).find(({ oomKills }) =>
        oomKills?.cgroup?.endsWith(outer.slice(memory.mountPoint.length)),
      ),
    );
    assert.deepEqual([row.oomKills?.count, row.oomKills?.level, row.memory.source], [1, 'parent', 'cgroup']);
    assert.equal(row.limits.memoryBytes, null);
  } finally {
    held.kill('SIGKILL');
    await end;
    await until('its end', () => readFileSync(join(inner, 'cgroup.procs'), 'utf8') === '');
    rmdirSync(inner);
    rmdirSync(outer);
  }
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

for (const engine of engines)
  test(`a container of ${engine} is told from others`, {
    skip: container.skip || needs(programOf(engine)),
  }, async () => {
    const name = newName();
    await withEngine(engine, name, async (sleep) => {
      const row = (await list()).find(
        ({ namespaces }) => `pid:[${namespaces.pid}]` === namespace(sleep, 'pid'),
      );
      assert.equal(row?.engine, engine);
      if (engine === 'systemd-nspawn') assert.equal(row?.name, name);
      assert.equal(row?.rootfs, rootfs);
    });
  });

test('a container of runc is told from others, with its ID and limit', {
  skip: container.skip || needs('runc'),
}, async () => {
  const bundle = join(scratch, 'bundle');
  await makeBundle(bundle, ['sleep', '99'], { resources: { memory: { limit: 77 * 1024 * 1024 } } });
  const id = newName();
  await withRunc(bundle, id, async () => {
    const row = await until('its row', async () => (await list()).find(({ name }) => name === id));
    assert.equal(row.engine, 'runc');
    assert.equal(row.command, 'sleep 99');
    assert.equal(row.memory.limitBytes, 77 * 1024 * 1024);
  });
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
  let locale = 'C.UTF-8';
  const lineOf = async (...words: string[]) =>
    (await call('ps', words, { env: { ...process.env, LC_ALL: locale } })).stdout
      .split('\n')
      .find((line) => line.includes(name)) ?? '';
  assert.match(await lineOf(), /…/);
  locale = 'C';
  assert.match(await lineOf(), /^[ -~]*> +[ -~]*$/);
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
  const asUser = [...become(65534), readlinkSync('/proc/self/exe'), copy, '--json'];
  const { code, stdout, stderr } = await execute(asUser, { cwd: '/' });
  assert.equal(code, 0, stderr);
  assert.match(stderr, /could not look into \d+ processes of other users.*run it as root/);
  const row = (JSON.parse(stdout) as Row[]).find(({ pid }) => pid === first);
  assert.equal(row?.command, 'sleep 100');
  assert.equal(row?.rootfs, null);
});

test('wrong usage ends with 2', { skip: needs('speed') }, async () => {
  const wrong =
    '--all web|--watch web|--all --watch|--count 2|--interval 1|--watch --interval 0|--watch --count x|--watch --no-trunc';
  await Promise.all(
    wrong.split('|').map(async (words) => assert.equal((await call('ps', words.split(' '))).code, 2, words)),
  );
});
