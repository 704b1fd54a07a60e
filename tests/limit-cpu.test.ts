import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { processesIn } from '../scripts/helpers/cgroups.ts';
import { readLimit } from '../scripts/limit/table.ts';
import { container, newName, start, stat } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, until } from './helpers/script.ts';
import {
  cgroupIn,
  enable,
  hierarchyOf,
  lacks,
  makeCgroup,
  pidCgroupIn,
  startTree,
  succeed,
} from './helpers/trees.ts';

const cpu = hierarchyOf('cpu');
const cpuset = hierarchyOf('cpuset');
const skip = container.skip || lacks('cpu') || lacks('cpuset');
const valueIn = (hierarchy: typeof cpu, limit: 'cpu' | 'weight' | 'cpuset' | 'mems', pid: number) =>
  readLimit(limit, hierarchy.version, cgroupIn(hierarchy, pid))[0]?.text;

/** CPU time that processes get while so much time passes on the wall, of one processor's. */
async function shares(pids: number[], milliseconds: number): Promise<number[]> {
  const ticks = () => pids.map((pid) => Number(stat(pid)[11]) + Number(stat(pid)[12]));
  const before = ticks();
  const began = performance.now();
  await sleep(milliseconds);
  const after = ticks();
  const seconds = (performance.now() - began) / 1000;
  return after.map((now, index) => (now - (before[index] as number)) / 100 / seconds);
}

const busy = 'echo complete; while :; do :; done';

test('wrong usage ends with 2 and a clear line', { skip: needs('speed') }, async () => {
  for (const [words, expected] of [
    [['web'], /CPUS is missing/],
    [['web', 'all'], /not a number of CPUs from 0.01 on, as 1.5: "all"/],
    [['web', '0'], /not a number of CPUs/],
    [['web', '--weight', '0'], /--weight is a whole number from 1 to 10000/],
    [['web', '--cpuset', '3-1'], /--cpuset is a list as 0-2,5, not "3-1"/],
    [['web', '--cpuset-mems', 'x'], /--cpuset-mems is a list as 0-2,5, not "x"/],
    [['--reset', 'web', '--cpuset-mems', '0'], /--reset takes neither CPUS/],
    [['web', '1', '--period', '2s'], /--period is from 1ms to 1s, not 2s/],
    [['--reset', 'web', '1'], /--reset takes neither CPUS/],
    [['--reset', 'web', '--weight', '5'], /--reset takes neither CPUS/],
  ] as [string[], RegExp][]) {
    const { code, stderr, stdout } = await call('limit-cpu', words);
    assert.match(stderr, expected);
    assert.deepEqual([code, stdout], [2, '']);
  }
});

test('a busy loop is held to its share of a CPU, and let go again', { skip }, async () => {
  const pid = await startTree(busy);
  const { stdout } = await succeed('limit-cpu', String(pid), '0.05');
  assert.match(stdout, /CPU limit none -> 0.05\n1 process moved to/);
  const [share = 0] = await shares([pid], 1000);
  assert.ok(share > 0.01 && share < 0.1, `0.05 CPUs are ${share}`);
  const throttled = () =>
    Number(/^nr_throttled (\d+)$/m.exec(readFileSync(join(cgroupIn(cpu, pid), 'cpu.stat'), 'utf8'))?.[1]);
  await until('the kernel to hold it up', () => throttled() > 3);
  await succeed('limit-cpu', '--reset', String(pid));
  const [free = 0] = await shares([pid], 1000);
  assert.ok(free > share * 1.3, `without a limit it has ${free}, with one ${share}`);
});

test('weights divide one CPU as 1 to 3', { skip }, async () => {
  const pids = [await startTree(busy), await startTree(busy)];
  for (const [index, pid] of pids.entries())
    await succeed('limit-cpu', String(pid), '--weight', index === 0 ? '100' : '300', '--cpuset', '0');
  const [one = 0, three = 0] = await shares(pids, 1500);
  assert.ok(three / one > 2.2 && three / one < 4, `100 and 300 got ${one} and ${three}`);
  for (const pid of pids) {
    assert.equal(valueIn(cpuset, 'cpuset', pid), '0');
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^Cpus_allowed_list:\t0$/m);
    await succeed('limit-cpu', '--reset', String(pid));
  }
});

test('quota, period, weight and CPUs are changed one by one, and go together', { skip }, async () => {
  const pid = await startTree('echo complete; sleep 100; true');
  const origins = [cgroupIn(cpu, pid), cgroupIn(cpuset, pid)];
  const change = async (...words: string[]) => (await succeed('limit-cpu', String(pid), ...words)).stdout;
  assert.match(await change('0.5', '--period', '20ms'), /CPU limit none -> 0.5 by 20 ms\n/);
  assert.equal(valueIn(cpu, 'cpu', pid), '10000 20000');
  assert.match(await change('--period', '50ms'), /0.5 by 20 ms -> 0.5 by 50 ms\n/);
  assert.equal(valueIn(cpu, 'cpu', pid), '25000 50000');
  assert.match(await change('1.5'), /0.5 by 50 ms -> 1.5\n/);
  assert.match(await change('--weight', '250'), /weight 100 -> 250\n/);
  assert.equal(valueIn(cpu, 'weight', pid), cpu.version === 1 ? '2560' : '250');
  assert.match(await change('--cpuset', '0'), /CPUs \S+ -> 0\n/);
  const { stdout } = await succeed('limit-cpu', '--json', '--reset', String(pid));
  const { cpus, weight, before } = JSON.parse(stdout);
  assert.deepEqual([cpus, weight, before.cpus, before.weight, before.cpuset], [null, 100, 1.5, 250, '0']);
  assert.deepEqual([cgroupIn(cpu, pid), cgroupIn(cpuset, pid)], origins);
});

test('CPUs that are not there are refused, or v2 takes what is there; nothing is left of it', {
  skip,
}, async () => {
  const pid = await startTree('echo complete; sleep 100; true');
  const origin = cgroupIn(cpuset, pid);
  const { code, stderr } = await call('limit-cpu', [String(pid), '--cpuset', '4000']);
  if (code === 1) {
    assert.match(stderr, /^limit-cpu: cannot write 4000 to .*: E\w+: .*: the cgroup above has less to give/);
    assert.equal(cgroupIn(cpuset, pid), origin);
    assert.throws(() => readFileSync(join(pidCgroupIn(cpuset, pid), 'cgroup.procs')));
  } else await succeed('limit-cpu', '--reset', String(pid));
});

test('a container is limited by its name, in place', { skip }, async () => {
  const { name, first } = await start([], ['sleep', '100']);
  const { stdout } = await succeed('limit-cpu', name, '0.5', '--cpuset-cpus', '0', '--cpuset-mems', '0');
  assert.match(
    stdout,
    new RegExp(`^${name}: CPU limit none -> 0.5; CPUs \\S+ -> 0; memory nodes \\S+ -> 0\n1 process in `),
  );
  assert.equal(valueIn(cpu, 'cpu', first), '50000 100000');
  assert.equal(valueIn(cpuset, 'cpuset', first), '0');
  assert.equal(valueIn(cpuset, 'mems', first), '0');
  await succeed('limit-cpu', '--reset', name);
  assert.match(valueIn(cpu, 'cpu', first) ?? '', /^(-1|max) 100000$/);
});

test('a cgroup of others that has cpu, but not cpuset, is limited in place, and gets its own back', {
  skip,
}, async () => {
  enable(cpu, cpu.mountPoint, 'cpu');
  const outer = makeCgroup(cpu, newName());
  enable(cpu, outer, 'cpu');
  const weight: Record<string, string> = cpu.version === 1 ? { 'cpu.shares': '512' } : { 'cpu.weight': '50' };
  const inner = makeCgroup(cpu, `${basename(outer)}/inner`, weight);
  const pid = await startTree(`echo $$ >${inner}/cgroup.procs; echo complete; sleep 100; true`);
  assert.match(
    (await succeed('limit-cpu', String(pid), '0.5', '--weight', '70')).stdout,
    /weight 50 -> 70\n2 processes in /,
  );
  assert.equal(cgroupIn(cpu, pid), inner);
  assert.match(
    (await succeed('limit-cpu', '--reset', String(pid))).stdout,
    /CPU limit 0.5 -> none; weight 70 -> 50\n2 /,
  );
  assert.equal(valueIn(cpu, 'weight', pid), Object.values(weight)[0]);
  assert.match((await call('limit-cpu', ['--reset', String(pid)])).stderr, /was not limited by this script/);
});

test('what --dry-run prints does the same in a shell, in two hierarchies as in one', { skip }, async () => {
  const pid = await startTree('sleep 100 & echo complete; wait');
  const origins = [cgroupIn(cpu, pid), cgroupIn(cpuset, pid)];
  const state = () => [
    ...(['cpu', 'weight'] as const).map((limit) => valueIn(cpu, limit, pid)),
    ...(['cpuset', 'mems'] as const).map((limit) => valueIn(cpuset, limit, pid)),
    ...[cpu, cpuset].map((hierarchy) => processesIn(pidCgroupIn(hierarchy, pid)).length),
    ...readdirSync(`/run/barehand/pid-${pid}`),
  ];
  const words = [String(pid), '0.5', '--weight', '70', '--cpuset', '0', '--cpuset-mems', '0'];
  const { stdout: plan } = await succeed('limit-cpu', '--dry-run', ...words);
  assert.deepEqual([cgroupIn(cpu, pid), cgroupIn(cpuset, pid)], origins);
  await succeed('limit-cpu', ...words);
  const done = state();
  const { stdout: undo } = await succeed('limit-cpu', '--dry-run', '--reset', String(pid));
  assert.deepEqual(await execute(['sh', '-eu'], { input: undo }), {
    code: 0,
    signal: null,
    stdout: '',
    stderr: '',
  });
  assert.deepEqual([cgroupIn(cpu, pid), cgroupIn(cpuset, pid)], origins);
  assert.deepEqual(await execute(['sh', '-eu'], { input: plan }), {
    code: 0,
    signal: null,
    stdout: '',
    stderr: '',
  });
  assert.deepEqual(state(), done);
  await succeed('limit-cpu', '--reset', String(pid));
});
