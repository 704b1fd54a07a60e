// What all limit-*.ts share: values and files of each version, plans, whole trees, several limits of one process.
import assert from 'node:assert/strict';
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { type Hierarchy, moveTree, processesIn } from '../scripts/helpers/cgroups.ts';
import { descendants, readProcesses } from '../scripts/helpers/pids.ts';
import { quote } from '../scripts/helpers/shell.ts';
import { toShell } from '../scripts/helpers/steps.ts';
import { showLimit } from '../scripts/limit/perform.ts';
import { type Part, planChange, planLimit, planReset } from '../scripts/limit/plan.ts';
import {
  amount,
  type LimitName,
  type Limits,
  launchWrites,
  limits,
  noLimit,
  prepare as prepared,
  readLimit,
  type Setting,
  sharesToWeight,
  toSettings,
  type Write,
  weightToShares,
  writes,
} from '../scripts/limit/table.ts';
import { container, start } from './helpers/container.ts';
import { makeBundle, withRunc } from './helpers/engines.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, rootfs, script, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';
import {
  cgroupIn,
  enable,
  hierarchies,
  hierarchyOf,
  lacks,
  lastTree,
  makeCgroup,
  pidCgroupIn,
  readIn,
  startTree,
  succeed,
} from './helpers/trees.ts';

const folder = scratchFolder('limit', 0o755);

/** A tree of files as a host of each kind has them, and its hierarchies. */
function fakeHost(kind: 'v1' | 'hybrid' | 'v2', files: Record<string, string>): Hierarchy[] {
  const top = join(folder, `${kind}-${readdirSync(folder).length}`);
  const v2 = (mountPoint: string, controllers: string): Hierarchy => {
    mkdirSync(mountPoint, { recursive: true });
    writeFileSync(join(mountPoint, 'cgroup.controllers'), `${controllers}\n`);
    return { version: 2, controllers: [], mountPoint, root: '/' };
  };
  const v1 = ['memory', 'cpu,cpuacct', 'cpuset', 'pids', 'blkio'].map(
    (controllers): Hierarchy => ({
      version: 1,
      controllers: controllers.split(','),
      mountPoint: join(top, controllers),
      root: '/',
    }),
  );
  const found =
    kind === 'v2'
      ? [v2(top, 'cpuset cpu io memory pids')]
      : [...v1, ...(kind === 'hybrid' ? [v2(join(top, 'unified'), '')] : [])];
  for (const { mountPoint } of found) mkdirSync(join(mountPoint, 'barehand/web'), { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(top, file), `${text}\n`);
  return found;
}

const short = (writes: Write[]) => writes.map(({ to, write }) => [to.replace(/^.*\/barehand\//, ''), write]);

test('what a launch asks for goes to the files of the version that the host has', () => {
  const wanted = {
    memoryBytes: 100,
    swapBytes: 50,
    reserveBytes: 50,
    cpus: 1.5,
    cpuset: '0-1',
    mems: '0',
    cpuShares: 512,
    pids: 20,
    devices: [
      { limit: 'readBps' as const, device: '8:0', value: 1000 },
      { limit: 'writeIops' as const, device: '8:0', value: 10 },
    ],
  };
  const v1 = [
    ['cpuset.cpus', '0-3'],
    ['cpuset.mems', '0'],
    ['web/cpuset.cpus', '0-3'],
    ['web/cpuset.mems', '0'],
    ['web/memory.limit_in_bytes', '100'],
    ['web/memory.memsw.limit_in_bytes', '150'],
    ['web/memory.soft_limit_in_bytes', '50'],
    ['web/cpu.cfs_quota_us', '150000'],
    ['web/cpu.shares', '512'],
    ['web/cpuset.cpus', '0-1'],
    ['web/cpuset.mems', '0'],
    ['web/pids.max', '20'],
    ['web/blkio.throttle.read_bps_device', '8:0 1000'],
    ['web/blkio.throttle.write_iops_device', '8:0 10'],
  ];
  const swap = {
    'memory/memory.memsw.limit_in_bytes': '9223372036854771712',
    'cpuset/cpuset.cpus': '0-3',
    'cpuset/cpuset.mems': '0',
  };
  for (const kind of ['v1', 'hybrid'] as const)
    assert.deepEqual(short(launchWrites(fakeHost(kind, swap), 'web', wanted)), v1);
  const v2 = fakeHost('v2', {});
  const [top, folder, ...of] = launchWrites(v2, 'web', wanted);
  for (const level of [top, folder]) assert.equal(level?.write, '+cpuset +cpu +io +memory +pids');
  const { mountPoint } = v2[0] as Hierarchy;
  assert.deepEqual(
    [top?.to, folder?.to],
    ['', 'barehand/'].map((level) => join(mountPoint, `${level}cgroup.subtree_control`)),
  );
  const ofWeb = (wanted: Limits) => short(launchWrites(v2, 'web', wanted).slice(2));
  assert.deepEqual(short(of), [
    ['web/memory.max', '100'],
    ['web/memory.swap.max', '50'],
    ['web/memory.low', '50'],
    ['web/cpu.max', '150000 100000'],
    ['web/cpu.weight', '59'],
    ['web/cpuset.cpus', '0-1'],
    ['web/cpuset.mems', '0'],
    ['web/pids.max', '20'],
    ['web/io.max', '8:0 rbps=1000'],
    ['web/io.max', '8:0 wiops=10'],
  ]);
  assert.deepEqual(ofWeb({ memoryBytes: 9, swapBytes: Infinity, pids: Infinity }), [
    ['web/memory.max', '9'],
    ['web/memory.swap.max', 'max'],
    ['web/pids.max', 'max'],
  ]);
  assert.deepEqual(ofWeb({ memoryBytes: 9 }), [
    ['web/memory.max', '9'],
    ['web/memory.swap.max', '0'],
  ]);
  assert.deepEqual(ofWeb({}), []);
  assert.throws(
    () => launchWrites([], 'web', { pids: 3 }),
    /cannot limit pids: this host has no such controller/,
  );
});

test('limits are read from the files of either version', () => {
  const [memory, cpu, cpuset, , io] = fakeHost('v1', {
    'memory/barehand/web/memory.limit_in_bytes': '9223372036854771712',
    'memory/barehand/web/memory.soft_limit_in_bytes': '4096',
    'cpu,cpuacct/barehand/web/cpu.cfs_quota_us': '-1',
    'cpu,cpuacct/barehand/web/cpu.cfs_period_us': '100000',
    'cpu,cpuacct/barehand/web/cpu.shares': '512',
    'cpuset/barehand/web/cpuset.cpus': '1',
    'cpuset/barehand/cpuset.cpus': '0-3',
    'blkio/barehand/web/blkio.throttle.read_bps_device': '8:0 1048576\n8:16 5',
  }) as [Hierarchy, Hierarchy, Hierarchy, Hierarchy, Hierarchy];
  const texts = (hierarchy: Hierarchy, limit: LimitName) =>
    readLimit(limit, hierarchy.version, join(hierarchy.mountPoint, 'barehand/web')).map(({ device, text }) =>
      device ? `${device} ${text}` : text,
    );
  assert.deepEqual(texts(memory, 'memory'), ['-1']);
  assert.deepEqual(texts(memory, 'swap'), []);
  assert.deepEqual(texts(memory, 'reserve'), ['4096']);
  assert.deepEqual(texts(memory, 'high'), []);
  assert.deepEqual(texts(cpu, 'cpu'), ['-1 100000']);
  assert.deepEqual(texts(cpuset, 'cpuset'), ['1']);
  assert.equal(noLimit('cpuset', 1, join(cpuset.mountPoint, 'barehand/web')), '0-3');
  assert.deepEqual(texts(io, 'readBps'), ['8:0 1048576', '8:16 5']);
  const [v2] = fakeHost('v2', {
    'barehand/web/memory.max': 'max',
    'barehand/web/cpu.max': '50000 20000',
    'barehand/web/cpuset.cpus': '',
    'barehand/web/io.max':
      '8:0 rbps=1000 wbps=max riops=max wiops=7\n8:16 rbps=max wbps=max riops=max wiops=max',
  }) as [Hierarchy];
  assert.deepEqual(texts(v2, 'memory'), ['max']);
  assert.deepEqual(texts(v2, 'cpu'), ['50000 20000']);
  assert.deepEqual(texts(v2, 'cpuset'), ['']);
  assert.deepEqual(texts(v2, 'readBps'), ['8:0 1000']);
  assert.deepEqual(texts(v2, 'writeBps'), []);
  assert.deepEqual(texts(v2, 'writeIops'), ['8:0 7']);
});

test('values are shown as people read them, whatever the version', () => {
  const shown = (version: 1 | 2, limit: LimitName, text: string) => showLimit(version, { limit, text });
  assert.equal(shown(1, 'memory', '-1'), 'none');
  assert.equal(shown(2, 'memory', '104857600'), '100 MiB');
  assert.equal(shown(2, 'cpu', 'max 100000'), 'none');
  assert.equal(shown(1, 'cpu', '150000 100000'), '1.5');
  assert.equal(shown(2, 'cpu', '5000 20000'), '0.25 by 20 ms');
  assert.equal(shown(1, 'weight', '1024'), '100');
  assert.equal(shown(2, 'weight', '100'), '100');
  assert.equal(shown(2, 'cpuset', ''), 'any');
  assert.equal(shown(2, 'oomGroup', '0'), 'no');
  assert.equal(shown(2, 'reserve', '0'), 'none');
  assert.equal(shown(1, 'writeBps', '1048576'), '1 MiB/s');
  assert.equal(amount(1, { limit: 'cpuset', text: '0' }), undefined);
  assert.deepEqual([1, 100, 10_000].map(weightToShares), [10, 1024, 102_400]);
  // what runc writes
  const weights = { 2: 1, 3: 2, 10: 4, 512: 59, 1023: 100, 1024: 100, 1025: 101, 2048: 174, 262143: 10_000 };
  for (const [shares, weight] of Object.entries({ ...weights, 0: 1, 1: 1, 262144: 10_000, 300000: 10_000 }))
    assert.equal(sharesToWeight(Number(shares)), weight, shares);
});

const part = (version: 1 | 2, some: Partial<Part>): Part => ({
  version,
  controllers: version === 1 ? ['memory'] : [],
  mountPoint: '/cg',
  root: '/',
  directory: '/cg/barehand/web',
  top: undefined,
  startTicks: undefined,
  toMove: [],
  origin: undefined,
  elsewhere: [],
  inPlace: false,
  refusal: undefined,
  before: [],
  names: [],
  prepare: [],
  previous: [],
  isShared: false,
  enabled: [],
  processes: 1,
  below: [],
  ...some,
});
const top = { ...readProcesses().get(process.pid), pid: 7, ppid: 1 } as NonNullable<Part['top']>;

test('a v1 cgroup applies its limits to those below before one is made there', () => {
  const [memory] = fakeHost('v1', { 'memory/barehand/web/memory.use_hierarchy': '0' }) as [Hierarchy];
  const web = join(memory.mountPoint, 'barehand/web');
  const directory = join(web, 'barehand/pid-7');
  const its = { ...part(1, {}), directory, toMove: [top], top, origin: web };
  const steps = planLimit({ ...its, prepare: prepared(memory, directory, ['memory']) }, []);
  assert.deepEqual(steps.slice(0, 2), [
    { write: '1', to: join(web, 'memory.use_hierarchy') },
    { why: 'a cgroup of its own', mkdir: directory },
  ]);
});

test('memory is set in the order that the kernel takes, and that kills nobody between', () => {
  const none = { 1: '-1', 2: 'max' } as const;
  const plan = (version: 1 | 2, swap: string | undefined, size: number, swapBytes = 0) => {
    const before: Setting[] = [{ limit: 'memory', text: none[version] }];
    if (swap !== undefined) before.push({ limit: 'swap', text: swap });
    const one = part(version, { before, names: ['memory', 'swap'] });
    return toShell(planChange(one, { memoryBytes: size, ...(swapBytes && { swapBytes }) }).steps);
  };
  const lines = (...lines: [string, string][]) =>
    lines.map(([value, file]) => `echo ${value} > /cg/barehand/web/memory.${file}\n`).join('');
  assert.equal(plan(1, '-1', 100), lines(['100', 'limit_in_bytes'], ['100', 'memsw.limit_in_bytes']));
  assert.equal(plan(1, '50', 100), lines(['100', 'memsw.limit_in_bytes'], ['100', 'limit_in_bytes']));
  assert.equal(plan(1, '200', 100, 50), lines(['100', 'limit_in_bytes'], ['150', 'memsw.limit_in_bytes']));
  assert.equal(plan(1, undefined, 100), lines(['100', 'limit_in_bytes']));
  assert.equal(
    plan(1, '100', 100, Infinity),
    lines(['-1', 'memsw.limit_in_bytes'], ['100', 'limit_in_bytes']),
  );
  assert.equal(plan(2, 'max', 100), lines(['100', 'max'], ['0', 'swap.max']));
  assert.equal(plan(2, '0', 100, 50), lines(['50', 'swap.max'], ['100', 'max']));
  const reset = (version: 1 | 2, memory: string, swap: string) =>
    toShell(
      planReset(
        part(version, {
          before: [
            { limit: 'memory', text: memory },
            { limit: 'swap', text: swap },
          ],
        }),
      ),
    );
  assert.equal(reset(1, '100', '100'), lines(['-1', 'memsw.limit_in_bytes'], ['-1', 'limit_in_bytes']));
  assert.equal(reset(2, '100', '0'), lines(['max', 'swap.max'], ['max', 'max']));
  assert.equal(reset(2, 'max', 'max'), '');
});

test('a period goes with its quota, and what is not asked for is left as it is', () => {
  const settings = (version: 1 | 2, text: string, wanted: Limits) =>
    toSettings(wanted, ['cpu', 'weight'], version, [{ limit: 'cpu', text }]).map(
      ({ limit, text }) => `${limit} ${text}`,
    );
  assert.deepEqual(settings(2, 'max 100000', { cpus: 1.5 }), ['cpu 150000 100000']);
  assert.deepEqual(settings(2, '50000 100000', { periodMicroseconds: 20_000 }), ['cpu 10000 20000']);
  assert.deepEqual(settings(1, '-1 100000', { periodMicroseconds: 20_000 }), ['cpu -1 20000']);
  assert.deepEqual(settings(1, '-1 100000', { weight: 50, cpuset: '0' }), ['weight 512']);
  assert.deepEqual(settings(2, 'max 100000', { cpus: 0.01, periodMicroseconds: 1000 }), ['cpu 1000 1000']);
  const written = (before: string, text: string) =>
    writes([{ limit: 'cpu', text }], { version: 1, directory: '/c' }, [{ limit: 'cpu', text: before }]).map(
      ({ to, write }) => `${to.slice(11)} ${write}`,
    );
  assert.deepEqual(written('-1 100000', '50000 100000'), ['quota_us 50000']);
  assert.deepEqual(written('50000 100000', '5000 10000'), [
    'quota_us -1',
    'period_us 10000',
    'quota_us 5000',
  ]);
  assert.deepEqual(written('50000 20000', '-1 100000'), ['quota_us -1', 'period_us 100000']);
});

test('v2: controllers are switched on from the top; the last limit that is lifted takes the cgroup with it', () => {
  const directory = '/cg/barehand/pid-7';
  const moved = { directory, top, startTicks: 5, toMove: [top], origin: '/cg/user.slice' };
  const before: Setting[] = [{ limit: 'pids', text: 'max' }];
  const prepare = prepared(part(2, {}), directory, ['pids']);
  assert.equal(
    toShell(planLimit(part(2, { ...moved, before, prepare }), [{ limit: 'pids', text: '9' }])).split(
      '# the process',
    )[0],
    `# a cgroup of its own
mkdir -p /cg/barehand/pid-7
echo +pids > /cg/cgroup.subtree_control
echo +pids > /cg/barehand/cgroup.subtree_control
echo 9 > /cg/barehand/pid-7/pids.max
# for --reset: where they come from
mkdir -p /run/barehand/pid-7
echo /cg/user.slice > /run/barehand/pid-7/v2.cgroup
`,
  );
  const there = { directory, top, startTicks: 5, origin: '/cg/user.slice' };
  const limited = part(2, { ...there, before: [{ limit: 'pids', text: '9' }] });
  assert.equal(toShell(planReset({ ...limited, isShared: true })), `echo max > ${directory}/pids.max\n`);
  assert.match(
    toShell(planReset(limited)),
    /> \/cg\/user.slice\/cgroup.procs[\s\S]*rmdir \/cg\/barehand\/pid-7\n/,
  );
});

test('v1: a new cpuset is filled before use', () => {
  const [, , hierarchy] = fakeHost('v1', { 'cpuset/cpuset.cpus': '0-3', 'cpuset/cpuset.mems': '0' });
  const directory = join(hierarchy?.mountPoint ?? '', 'barehand/pid-7');
  const moved = { directory, top, startTicks: 5, toMove: [top], origin: '/cg' };
  const prepare = prepared(hierarchy as Hierarchy, directory, []);
  const plan = toShell(planLimit(part(1, { ...moved, prepare }), [{ limit: 'cpuset', text: '1' }]));
  assert.match(
    plan,
    /0-3 > \S+\/barehand\/cpuset.cpus\necho 0 > \S+\/barehand\/cpuset.mems\necho 0-3 > \S+7\/cpuset.cpus\necho 0 > \S+7\/cpuset.mems\necho 1 > \S+pid-7\/cpuset.cpus\n/,
  );
});

test('limits of a cgroup of others are noted once for each controller, and put back', () => {
  const borrowed = { directory: '/cg/docker/x', top, startTicks: 5, inPlace: true };
  const before: Setting[] = [
    { limit: 'cpu', text: 'max 100000' },
    { limit: 'weight', text: '100' },
  ];
  const weight: Setting = { limit: 'weight', text: '300' };
  const first = planLimit(part(2, { ...borrowed, before }), [weight]);
  assert.ok(first.some((step) => 'write' in step && step.write === '5; weight - 100'));
  const previous: Setting[] = [{ limit: 'weight', text: '100' }];
  const again = planLimit(part(2, { ...borrowed, before, previous }), [weight]);
  assert.ok(!again.some((step) => 'mkdir' in step));
  const more = planLimit(part(2, { ...borrowed, before, previous }), [{ limit: 'cpu', text: '5000 100000' }]);
  assert.ok(more.some((step) => 'write' in step && step.write === '5; weight - 100; cpu - max 100000'));
  assert.equal(
    toShell(planReset(part(2, { ...borrowed, before: [weight], previous }))),
    `echo 100 > /cg/docker/x/cpu.weight
rm -r /run/barehand/pid-7/cpu.before
rmdir /run/barehand/pid-7 2>/dev/null || :
rmdir /run/barehand 2>/dev/null || :
`,
  );
});

const pids = hierarchyOf('pids');
const cpu = hierarchyOf('cpu');
const memory = hierarchyOf('memory');
const pidsSkip = container.skip || lacks('pids');

test('one process may have several limits; lifting one leaves the others', {
  skip: pidsSkip || lacks('cpu'),
}, async () => {
  const pid = await startTree('sleep 100 & echo complete; wait');
  const origin = { pids: cgroupIn(pids, pid), cpu: cgroupIn(cpu, pid), memory: cgroupIn(memory, pid) };
  await succeed('limit-pids', String(pid), '50');
  await succeed('limit-memory', String(pid), '100M');
  await succeed('limit-cpu', String(pid), '0.5');
  assert.equal(readIn(pids, pid, 'pids.max'), '50');
  await succeed('limit-pids', '--reset', String(pid));
  assert.equal(cgroupIn(pids, pid), pids.version === 1 ? origin.pids : pidCgroupIn(pids, pid));
  if (pids.version === 2) assert.equal(readIn(pids, pid, 'pids.max'), 'max');
  assert.deepEqual(
    readLimit('cpu', cpu.version, pidCgroupIn(cpu, pid)).map(({ text }) => text),
    ['50000 100000'],
  );
  await succeed('limit-cpu', '--reset', String(pid));
  const again = await call('limit-cpu', ['--reset', String(pid)]);
  assert.match(again.stderr, /was not limited by this script/);
  assert.deepEqual(
    readLimit('memory', memory.version, pidCgroupIn(memory, pid)).map(({ text }) => text),
    [String(100 * 1024 * 1024)],
  );
  await succeed('limit-memory', '--reset', String(pid));
  for (const [hierarchy, directory] of [
    [pids, origin.pids],
    [cpu, origin.cpu],
    [memory, origin.memory],
  ] as const) {
    assert.equal(cgroupIn(hierarchy, pid), directory);
    assert.equal(existsSync(pidCgroupIn(hierarchy, pid)), false);
  }
  assert.equal(existsSync(`/run/barehand/pid-${pid}`), false);
});

test('--reset puts back what a container was started with, whoever it is named by', {
  skip: pidsSkip || lacks('cpu') || lacks('cpuset') || lacks('memory'),
}, async () => {
  const given = ['--memory', '90M', '--cpus', '0.2', '--cpu-shares', '512', '--pids-limit', '40'];
  const { name, first, unshare, end } = await start([...given, '--cpuset-cpus', '0'], ['sleep', '100']);
  const names: LimitName[] = ['memory', 'swap', 'reserve', 'cpu', 'weight', 'cpuset', 'pids'];
  const values = () =>
    names.flatMap((limit) => {
      const hierarchy = hierarchyOf(limits[limit].controller);
      return readLimit(limit, hierarchy.version, join(hierarchy.mountPoint, 'barehand', name));
    });
  const started = values();
  assert.equal((await call('limit-cpu', ['--reset', name])).code, 1, 'there is nothing to put back yet');
  // two changes, through several words for the same container; the first values are those that count
  for (const [script, ...words] of [
    ['limit-memory', name, '50M', '--reserve', '20M'],
    ['limit-memory', String(first), '60M'],
    ['limit-cpu', String(unshare), '0.1', '--weight', '300'],
    ['limit-cpu', name, '0.5', '--period', '20ms'],
    ['limit-pids', String(first), '30'],
  ] as string[][])
    await succeed(script as string, ...(words as string[]));
  assert.match(
    (await succeed('limit-cpu', '--reset', String(first))).stdout,
    /CPU limit 0.5 by 20 ms -> 0.2;/,
  );
  assert.match((await succeed('limit-memory', '--reset', name)).stdout, /memory limit 60 MiB -> 90 MiB/);
  assert.match((await succeed('limit-pids', '--reset', String(unshare))).stdout, /process limit 30 -> 40/);
  assert.deepEqual(values(), started);
  assert.equal(existsSync(`/run/barehand/pid-${first}`), false);
  assert.equal(existsSync(`/run/barehand/${name}`), false);
  const again = await call('limit-pids', ['--reset', name]);
  assert.deepEqual([again.code, again.stdout], [1, '']);
  assert.match(again.stderr, /was not limited by this script/);
  // what is noted of one that ends goes with it
  await succeed('limit-pids', name, '30');
  assert.equal(existsSync(`/run/barehand/pid-${first}`), true);
  process.kill(first, 'SIGKILL');
  await end;
  assert.equal(existsSync(`/run/barehand/pid-${first}`), false);
});

test('a tree of 1000 processes is limited whole, and goes back whole', {
  skip: pidsSkip || needs('speed'),
}, async () => {
  const pid = await startTree(
    'i=0; while [ $i -lt 20 ]; do sh -c "j=0; while [ \\$j -lt 49 ]; do sleep 100 & j=\\$((j + 1)); done; wait" & i=$((i + 1)); done; sleep 1; echo complete; wait',
  );
  const tree = await until('1001 processes', () => {
    const found = descendants(readProcesses(), [pid]);
    return found.length === 1001 && found;
  });
  const origin = cgroupIn(pids, pid);
  const { stdout } = await succeed('limit-pids', String(pid), '2000');
  assert.match(stdout, /1001 processes moved to/);
  for (const one of tree) assert.equal(cgroupIn(pids, one.pid), pidCgroupIn(pids, pid));
  await succeed('limit-pids', '--reset', String(pid));
  for (const one of tree) assert.equal(cgroupIn(pids, one.pid), origin);
});

test('of one that forks without pause all is inside, what its parent left behind meanwhile too', {
  skip: pidsSkip || needs('speed'),
}, async () => {
  // every child starts one of its own and ends before that does
  const pid = await startTree('echo complete; while :; do (sleep 0.3 & sleep 0.1; exit) & sleep 0.005; done');
  await succeed('limit-pids', String(pid), '1000');
  const began = Date.now();
  while (Date.now() - began < 500) {
    const inside = new Set(processesIn(pidCgroupIn(pids, pid)));
    // of one that is ending v1 says the root
    const outside = descendants(readProcesses(), [pid]).filter(
      ({ pid, zombie }) =>
        !zombie && !inside.has(pid) && existsSync(`/proc/${pid}/exe`) && cgroupOf(pid) !== undefined,
    );
    assert.deepEqual(
      outside.filter(({ pid: one }) => cgroupOf(one) !== pidCgroupIn(pids, pid)),
      [],
    );
  }
  if (existsSync(join(pidCgroupIn(pids, pid), 'cgroup.freeze')))
    assert.equal(readIn(pids, pid, 'cgroup.freeze'), '0');
});

/** The cgroup of a process that is not just ending (PF_EXITING, of which v1 says the root). */
function cgroupOf(pid: number): string | undefined {
  try {
    const flags = Number(
      readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')[6],
    );
    return flags & 4 ? undefined : cgroupIn(pids, pid);
  } catch {
    return undefined;
  }
}

test('a fork bomb that is going off already is moved whole', {
  skip: pidsSkip || needs('perl', 'speed'),
}, async () => {
  // each process starts another every 10 ms; this cgroup keeps them from being more than 120
  enable(pids, pids.mountPoint, 'pids');
  const shared = makeCgroup(pids, `test-${process.pid}-bomb`, { 'pids.max': '120' });
  await startTree(`echo $$ >${shared}/cgroup.procs; echo complete; sleep 100; true`);
  const bomb = `$SIG{CHLD} = "IGNORE"; for (;;) { fork; select undef, undef, undef, 0.01 }`;
  const pid = await startTree(`echo $$ >${shared}/cgroup.procs; echo complete; exec perl -e '${bomb}'`);
  await until('the bomb to fill its cgroup', () => processesIn(shared).length === 120);
  await succeed('limit-pids', String(pid), '50');
  assert.equal(processesIn(shared).length, 2); // the shell that was there before, and its sleep
  assert.ok(processesIn(pidCgroupIn(pids, pid)).length >= 118);
});

test('what is frozen while stragglers are moved is thawed, whatever becomes of that', {
  skip: needs('speed'),
}, async () => {
  const pid = await startTree('sleep 100 & echo complete; wait');
  // a folder in which nobody is to be found who was moved there, but for the last one
  const directory = join(folder, 'never');
  mkdirSync(directory);
  writeFileSync(join(directory, 'cgroup.procs'), '');
  writeFileSync(join(directory, 'cgroup.freeze'), '0');
  const { mtimeNs } = statSync(join(directory, 'cgroup.freeze'), { bigint: true });
  assert.throws(() => moveTree(pid, directory), /it starts processes faster than they can be moved/);
  assert.equal(readFileSync(join(directory, 'cgroup.freeze'), 'utf8'), '0');
  assert.ok(statSync(join(directory, 'cgroup.freeze'), { bigint: true }).mtimeNs > mtimeNs);
});

test('what a process left behind is let go by the PID of the one that has ended', {
  skip: pidsSkip,
}, async () => {
  const pid = await startTree('sleep 100 & echo complete; read -r _', 'pipe');
  const origin = cgroupIn(pids, pid);
  const [, child] = descendants(readProcesses(), [pid]).map(({ pid }) => pid) as [number, number];
  await succeed('limit-pids', String(pid), '50');
  lastTree()?.stdin?.end('go\n');
  await until('its end', () => !existsSync(`/proc/${pid}`));
  assert.match((await succeed('limit-pids', '--reset', String(pid))).stdout, /1 process back in/);
  assert.equal(cgroupIn(pids, child), origin);
  assert.equal(existsSync(`/run/barehand/pid-${pid}`), false);
});

/** A user's own part of the cgroups, as systemd delegates one: he may make cgroups there, and move between them. */
function delegate(name: string, uid: number): { top: string; leaf: string } {
  enable(pids, pids.mountPoint, 'pids');
  const top = makeCgroup(pids, name);
  const leaf = makeCgroup(pids, `${name}/leaf`);
  for (const directory of [top, leaf])
    for (const file of ['', 'cgroup.procs', 'cgroup.subtree_control'])
      if (existsSync(join(directory, file))) chownSync(join(directory, file), uid, uid);
  return { top, leaf };
}

test('a user without root limits what is in a cgroup that was delegated to him', {
  skip: pidsSkip,
}, async () => {
  const uid = 65_534;
  const { top, leaf } = delegate(`test-${process.pid}-delegated`, uid);
  const runtime = join(folder, 'runtime');
  mkdirSync(runtime, { mode: 0o700 });
  chownSync(runtime, uid, uid);
  // who else is in there keeps it from being the tree's own
  const other = await startTree(`echo $$ >${leaf}/cgroup.procs; echo complete; sleep 100; true`);
  const program = `echo $$ >${leaf}/cgroup.procs; exec setpriv --reuid=${uid} --regid=${uid} --clear-groups sh -c 'sleep 100 & echo complete; wait'`;
  const pid = await startTree(program);
  const limit = (...words: string[]) =>
    execute([...become(uid, runtime), process.execPath, script('limit-pids'), ...words]);
  const { code, stdout, stderr } = await limit(String(pid), '20');
  assert.equal(code, 0, stderr);
  const own = join(top, `barehand/pid-${pid}`);
  assert.ok(stdout.includes(`2 processes moved to ${own}\n`), stdout);
  assert.equal(readIn(pids, pid, 'pids.max'), '20');
  assert.equal((await limit(String(pid), '30')).code, 0);
  assert.equal(readIn(pids, pid, 'pids.max'), '30');
  const reset = await limit('--reset', String(pid));
  assert.equal(reset.code, 0, reset.stderr);
  assert.equal(cgroupIn(pids, pid), leaf);
  assert.equal(existsSync(join(top, 'barehand')), false);
  assert.deepEqual(readdirSync(runtime), []);

  // the cgroup itself was delegated, and nobody else is in it
  if (pids.version === 2) writeFileSync(join(top, 'cgroup.subtree_control'), '-pids');
  const alone = await startTree(program.replace(leaf, top));
  const moved = await limit(String(alone), '20');
  assert.equal(moved.code, 0, moved.stderr);
  assert.equal(readIn(pids, alone, 'pids.max'), '20');
  const back = await limit('--reset', String(alone));
  assert.equal(back.code, 0, back.stderr);
  assert.equal(cgroupIn(pids, alone), top);

  // one that is not his to move
  const { code: refused, stderr: why } = await limit(String(other), '20');
  assert.equal(refused, 1, why);
  const outside = await startTree('echo complete; sleep 100; true');
  const sentence = await limit(String(outside), '20');
  assert.equal(sentence.code, 1);
  assert.match(
    sentence.stderr,
    /^limit-pids: needs root, or a cgroup that is delegated to you: sudo, or start \d+ with systemd-run .*\n$/,
  );
});

test('run.ts without root limits a container where a cgroup was delegated, and says so where none was', {
  skip: pidsSkip || needs('user-namespaces'),
}, async () => {
  const uid = 65_533;
  const { top, leaf } = delegate(`test-${process.pid}-delegated-run`, uid);
  const own = join(folder, 'own');
  mkdirSync(own, { mode: 0o700 });
  await execute(['cp', '-a', rootfs, join(own, 'root')]);
  await execute(['chown', '-R', `${uid}:${uid}`, own]);
  const program = 'for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 5 & done; echo all';
  const run = (cgroup: string) =>
    execute([
      ...['sh', '-c', `echo $$ >${cgroup}/cgroup.procs; exec "$@"`, 'run', ...become(uid, own)],
      ...[process.execPath, '--', script('run'), '--pids-limit', '10'],
      ...[join(own, 'root'), 'sh', '-c', program],
    ]);
  // in a cgroup below what was delegated, and in that itself
  for (const cgroup of [leaf, top]) {
    // in v2 processes go only where no controllers are handed on
    const control = join(top, 'cgroup.subtree_control');
    if (cgroup === top && pids.version === 2)
      for (const word of readFileSync(control, 'utf8').trim().split(' ')) writeFileSync(control, `-${word}`);
    const { stderr } = await run(cgroup);
    assert.match(stderr, /[Cc]annot fork/, cgroup);
    assert.deepEqual(
      existsSync(join(top, 'barehand'))
        ? readdirSync(join(top, 'barehand')).filter((name) => name.startsWith('root'))
        : [],
      [],
    );
  }
  const outside = await run(pids.mountPoint);
  const line = [script('run'), '--pids-limit', '10', join(own, 'root'), 'sh', '-c', quote(program)].join(' ');
  assert.deepEqual(
    [outside.code, outside.stderr],
    [
      125,
      `run: cannot limit a container without root, unless a cgroup is delegated to you: type systemd-run --user --scope -p Delegate=yes ${line}, or sudo in its place\n`,
    ],
  );
});

test('runc sets the same limits: the files hold the same, and its own are put back', {
  skip: container.skip || needs('runc', 'speed') || lacks('cpu') || lacks('pids') || lacks('cpuset'),
}, async () => {
  const id = `test-${process.pid}-runc`;
  const bundle = join(folder, 'bundle');
  await makeBundle(bundle, ['sleep', '100'], {
    cgroupsPath: `/${id}`,
    resources: {
      memory: { limit: 64 * 1024 * 1024, swap: 64 * 1024 * 1024, reservation: 32 * 1024 * 1024 },
      cpu: { shares: 512, quota: 150_000, period: 100_000, cpus: '0' },
      pids: { limit: 33 },
    },
  });
  await withRunc(bundle, id, async (pid) => {
    const names: LimitName[] = ['memory', 'swap', 'reserve', 'cpu', 'weight', 'cpuset', 'pids'];
    const values = (directoryOf: (hierarchy: Hierarchy) => string) =>
      names.flatMap((name) => {
        const hierarchy = hierarchyOf(limits[name].controller);
        return readLimit(name, hierarchy.version, directoryOf(hierarchy)).map(
          ({ text }) => `${name} ${text}`,
        );
      });
    const its = values((hierarchy) => cgroupIn(hierarchy, pid));
    const wanted = launchWrites(hierarchies, 'x', {
      memoryBytes: 64 * 1024 * 1024,
      reserveBytes: 32 * 1024 * 1024,
      cpus: 1.5,
      cpuset: '0',
      cpuShares: 512,
      pids: 33,
    });
    for (const { to: file, write: value } of wanted.filter(({ to }) => dirname(to).endsWith('/x'))) {
      const [name = ''] = file.split('/').slice(-1);
      const controller = name.split('.')[0] as string;
      const hierarchy = hierarchyOf(controller);
      if (name !== 'cpuset.cpus' || value === '0')
        // it is filled first
        assert.equal(readFileSync(join(cgroupIn(hierarchy, pid), name), 'utf8').trim(), value, file);
    }
    // in place, and back
    await succeed('limit-memory', String(pid), '40M');
    await succeed('limit-cpu', String(pid), '0.7', '--weight', '70');
    await succeed('limit-pids', String(pid), '22');
    assert.equal(readIn(pids, pid, 'pids.max'), '22');
    assert.notDeepEqual(
      values((hierarchy) => cgroupIn(hierarchy, pid)),
      its,
    );
    for (const name of ['limit-memory', 'limit-cpu', 'limit-pids'])
      await succeed(name, '--reset', String(pid));
    assert.deepEqual(
      values((hierarchy) => cgroupIn(hierarchy, pid)),
      its,
    );
    assert.equal(existsSync(`/run/barehand/pid-${pid}`), false);
  });
});
