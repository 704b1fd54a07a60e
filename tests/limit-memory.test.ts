import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { cgroupDirectory, cgroupPath, memoryFiles, parent } from '../scripts/helpers/cgroup.ts';
import { toShell } from '../scripts/helpers/plan.ts';
import { descendants, readProcesses } from '../scripts/helpers/proc.ts';
import { planLimitMemory } from '../scripts/limit-memory.ts';
import { alive, container, memory, memoryFile, start, startByHand } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, until } from './helpers/script.ts';

const MiB = 1024 * 1024;
const limit = (...words: string[]) => call('limit-memory', words);
const files = memoryFiles[memory.version];

const limited = async (...words: string[]) => {
  const { code, stdout, stderr } = await limit(...words);
  assert.equal(code, 0, stderr);
  return stdout;
};

/** The directory of a process's memory cgroup. */
const cgroupOf = (pid: number) =>
  cgroupDirectory(
    memory,
    cgroupPath(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), memory) as string,
  ) as string;
const read = (directory: string, file: keyof typeof files) =>
  readFileSync(join(directory, files[file]), 'utf8').trim();
const pidCgroup = (pid: number) => join(memory.mountPoint, parent, `pid-${pid}`);
const countsSwap = existsSync(memory.version === 1 ? join(memory.mountPoint, files.swap) : '/proc/swaps');

const trees: ChildProcess[] = [];
/** A tree of ordinary processes: a shell, and what it starts. It says on stdout when it is complete. */
async function startTree(program: string): Promise<number> {
  // should the test be killed, so is the shell
  const shell = spawn('setpriv', ['--pdeathsig=KILL', 'sh', '-c', program], {
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  });
  trees.push(shell);
  if (shell.stdout) await once(shell.stdout, 'data');
  return shell.pid as number;
}
after(async () => {
  for (const shell of trees) {
    if (shell.exitCode === null && shell.signalCode === null) {
      process.kill(-(shell.pid as number), 'SIGKILL');
      await once(shell, 'exit');
    }
  }
  // what they were in is empty now; a reset of another process has no part in it
  for (const { pid } of trees) {
    const directory = pidCgroup(pid as number);
    if (existsSync(directory)) await execute(['rmdir', directory]);
    await execute(['rm', '-rf', `/run/barehand/pid-${pid}`]);
  }
});

test('a plan for a container of ours is two values, in the order that the kernel takes them', () => {
  const target = { directory: '/cg/barehand/web', top: undefined, toMove: [], origin: undefined };
  const plan = (version: 1 | 2, swapLimitBytes: number | null | undefined, size: number | null, swap = 0) =>
    toShell(planLimitMemory({ version, mountPoint: '/cg' }, target, { swapLimitBytes }, size, swap));
  const v1 = (...lines: [string, string][]) =>
    lines.map(([value, file]) => `echo ${value} > /cg/barehand/web/memory.${file}\n`).join('');
  assert.equal(plan(1, null, 100), v1(['100', 'limit_in_bytes'], ['100', 'memsw.limit_in_bytes']));
  assert.equal(plan(1, 50, 100), v1(['100', 'memsw.limit_in_bytes'], ['100', 'limit_in_bytes']));
  assert.equal(plan(1, 200, 100, 50), v1(['100', 'limit_in_bytes'], ['150', 'memsw.limit_in_bytes']));
  assert.equal(plan(1, undefined, 100), v1(['100', 'limit_in_bytes']));
  assert.equal(plan(1, 100, null), v1(['-1', 'memsw.limit_in_bytes'], ['-1', 'limit_in_bytes']));
  assert.equal(plan(1, 100, 100, Infinity), v1(['-1', 'memsw.limit_in_bytes'], ['100', 'limit_in_bytes']));
  assert.equal(plan(2, null, 100), v1(['100', 'max'], ['0', 'swap.max']));
  assert.equal(plan(2, 0, 100, 50), v1(['100', 'max'], ['50', 'swap.max']));
  assert.equal(plan(2, 0, null), v1(['max', 'max'], ['max', 'swap.max']));
});

test('wrong usage ends with 2 and a clear line', { skip: needs('speed') }, async () => {
  for (const [words, expected] of [
    [[], /operand is missing/],
    [['web'], /SIZE is missing/],
    [['web', 'much'], /not a size: "much"/],
    [['web', '0'], /out of range/],
    [['--reset', 'web', '1M'], /--reset takes neither SIZE/],
    [['../web', '1M'], /neither a name nor a PID/],
    [['..', '1M'], /neither a name nor a PID/],
    [['--swap', 'some', 'web', '1M'], /not a size/],
    [['web', '1M', '2M'], /one operand too many/],
  ] as [string[], RegExp][]) {
    const { code, stderr, stdout } = await limit(...words);
    assert.match(stderr, expected);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, '');
  }
});

test('targets that do not exist or must not be limited are refused with what to do', {
  skip: container.skip || needs('speed'),
}, async () => {
  for (const [words, expected] of [
    [['no-such-container', '1M'], /no container no-such-container: ps.ts shows/],
    [['4194304', '1M'], /no process 4194304/],
    [['1', '1M'], /init of this host/],
    [['2', '1M'], /thread of the kernel/],
  ] as [string[], RegExp][]) {
    if (words[0] === '2' && readProcesses().get(2)?.kernelThread !== true) continue;
    const { code, stderr } = await limit(...words);
    assert.match(stderr, expected);
    assert.equal(code, 1);
  }
});

test(
  'a container is limited in its own cgroup, by name, first PID, unshare PID, launching shell or node',
  container,
  async () => {
    const { name, first, unshare, launcher } = await start([], ['sleep', '100']);
    const shell = readProcesses().get(unshare)?.ppid as number;
    let size = 40;
    for (const target of [name, first, unshare, shell, launcher.pid]) {
      const output = await limited(String(target), `${++size}M`);
      assert.match(output, new RegExp(`limit .* -> ${size} MiB, no swap beyond it; in use now`));
      assert.equal(memoryFile(name, 'limit'), String(size * MiB));
      if (countsSwap) assert.equal(memoryFile(name, 'swap'), memory.version === 1 ? String(size * MiB) : '0');
      assert.equal(existsSync(pidCgroup(first)), false);
    }
    const { code, stdout } = await limit('--reset', name);
    assert.equal(code, 0);
    assert.match(stdout, /limit 45 MiB -> none/);
    assert.ok(Number(memoryFile(name, 'limit').replace('max', 'Infinity')) > 2 ** 62);
  },
);

test(
  'a container made by hand, as the article does, is limited through either of its two PIDs',
  container,
  async () => {
    for (const which of ['unshare', 'first'] as const) {
      const byHand = await startByHand(['sleep', '100']);
      const origin = cgroupOf(byHand.first);
      const { code, stdout, stderr } = await limit(String(byHand[which]), '100MB');
      assert.equal(code, 0, stderr);
      assert.match(stdout, /1 process moved to/);
      assert.ok(stderr.includes(`stays counted in ${origin}`), stderr);
      assert.equal(cgroupOf(byHand.first), pidCgroup(byHand.first));
      const bytes = Number(read(pidCgroup(byHand.first), 'limit'));
      assert.ok(bytes <= 100_000_000 && bytes > 100_000_000 - 65536, String(bytes)); // whole pages
      // a second call finds it in place
      assert.match(await limited(String(byHand[which]), '90M'), /1 process in /);
      assert.match(await limited('--reset', String(byHand[which])), /back in/);
      assert.equal(cgroupOf(byHand.first), origin);
      assert.equal(existsSync(pidCgroup(byHand.first)), false);
      assert.equal(existsSync(`/run/barehand/pid-${byHand.first}`), false);
    }
  },
);

test(
  'a tree is limited whole: children, grandchildren, threads; and all of it comes back',
  container,
  async () => {
    const thread = `node -e 'new Worker("setInterval(() => {}, 1000)", { eval: true })' & `.replace(
      'new Worker',
      'new (require("worker_threads").Worker)',
    );
    const top = await startTree(
      `(sleep 100 & sleep 101) & ${thread} sleep 102 & sleep 1; echo complete; wait`,
    );
    const tree = descendants(readProcesses(), [top]).map(({ pid }) => pid);
    assert.ok(tree.length >= 5, String(tree));
    const origin = cgroupOf(top);
    assert.match(await limited(String(top), '500M'), new RegExp(`${tree.length} processes moved to`));
    for (const pid of tree) assert.equal(cgroupOf(pid), pidCgroup(top));
    const tasks = tree.flatMap((pid) => readTasks(pid));
    assert.ok(tasks.length > tree.length, 'one of them has threads');
    for (const task of tasks) assert.equal(cgroupOf(task), pidCgroup(top));
    await limited('--reset', String(top));
    for (const pid of tree) assert.equal(cgroupOf(pid), origin);
  },
);

const readTasks = (pid: number) => readdirSync(`/proc/${pid}/task`).map(Number);

test('of a tree that starts processes without pause none stays outside', container, async () => {
  const top = await startTree('echo complete; while :; do sleep 0.2 & sleep 0.01; done');
  const origin = cgroupOf(top);
  await limited(String(top), '200M');
  for (let look = 0; look < 20; look++) {
    const outside = descendants(readProcesses(), [top]).filter(({ pid, zombie }) => {
      try {
        return !zombie && cgroupOf(pid) === origin; // of one that is ending, v1 says the root
      } catch {
        return false; // it has ended
      }
    });
    assert.deepEqual(outside, []);
  }
});

test('a limit below what is in use is refused with the figures, unless forced', container, async () => {
  const { name, first, end } = await start(
    [],
    [
      'awk',
      'BEGIN { for (s = "x"; length(s) < 3e7;) s = s s; print "full"; fflush(); while (1) system("sleep 1") }',
    ],
  );
  await until('it to use 30 MiB', () => Number(memoryFile(name, 'usage')) > 30 * MiB);
  const before = memoryFile(name, 'limit');
  const { code, stderr } = await limit(name, '10M');
  assert.equal(code, 1);
  assert.match(
    stderr,
    new RegExp(`${name} uses \\d+(\\.\\d)? MiB now, more than 10 MiB: choose more, or --force`),
  );
  assert.equal(memoryFile(name, 'limit'), before);
  const forced = await limit('--force', name, '10M');
  if (memory.version === 1) {
    // v1 takes no limit below what it can't reclaim, and there may be swap to reclaim it to
    assert.ok(forced.code === 0 || /EBUSY/.test(forced.stderr), forced.stderr);
  } else {
    // v2 takes it, and kills for it what it can't reclaim
    await until('it to be killed', () => !alive(first));
    assert.equal((await end)[0], 137);
  }
});

test(
  'what eats more is killed at the limit, by the kernel, while the container lives on',
  container,
  async () => {
    // limited from outside, by PID, before the eater starts: it waits for a file
    const eater =
      'until [ -e /tmp/go-$HOSTNAME ]; do sleep 0.1; done; rm /tmp/go-$HOSTNAME; awk \'BEGIN { s = "x"; while (1) s = s s }\'; echo $?; sleep 100';
    const { name, first } = await start([], ['sh', '-c', eater]);
    await limited(String(first), '50M');
    const kills = () => Number(/^oom_kill (\d+)$/m.exec(memoryFile(name, 'oomKills'))?.[1]);
    assert.equal(kills(), 0);
    await execute(['touch', `/proc/${first}/root/tmp/go-${name}`]);
    await until('the kernel to kill', () => kills() >= 1);
    assert.ok(alive(first));
    assert.ok(Number(memoryFile(name, 'usage')) <= 50 * MiB);
  },
);

test('--swap allows as much beyond', {
  skip: container.skip || (!countsSwap && 'needs a kernel that counts swap'),
}, async () => {
  const { name } = await start([], ['sleep', '100']);
  assert.match(await limited(name, '50M', '--swap', '30M'), /swap 30 MiB beyond it/);
  assert.equal(memoryFile(name, 'swap'), String((memory.version === 1 ? 80 : 30) * MiB));
  assert.match(await limited(name, '20M', '--swap', 'max'), /swap at will/);
  assert.ok(Number(memoryFile(name, 'swap').replace('max', 'Infinity')) > 2 ** 62);
  assert.equal(memoryFile(name, 'limit'), String(20 * MiB));
  await limited(name, '40M');
  assert.equal(memoryFile(name, 'swap'), memory.version === 1 ? String(40 * MiB) : '0');
});

test('--json tells the same', container, async () => {
  const { name } = await start(['--memory', '60M'], ['sleep', '100']);
  const { usedBytes, ...result } = JSON.parse(await limited('--json', name, '50M'));
  assert.ok(usedBytes > 0 && usedBytes < 50 * MiB);
  const swap = (size: number) => (!countsSwap ? null : memory.version === 1 ? size * MiB : 0);
  assert.deepEqual(result, {
    cgroup: join(memory.mountPoint, parent, name),
    processes: 2,
    limitBytes: 50 * MiB,
    swapLimitBytes: swap(50),
    before: { limitBytes: 60 * MiB, swapLimitBytes: swap(60) },
  });
});

for (const shell of ['dash', 'bash'])
  test(`--dry-run changes nothing, and ${shell} does with it what the script does`, {
    skip: container.skip || needs(shell),
  }, async () => {
    const top = await startTree('(sleep 100 & sleep 101) & sleep 102 & sleep 0.5; echo complete; wait');
    const origin = cgroupOf(top);
    const state = () => ({
      where: descendants(readProcesses(), [top]).map(({ pid }) => cgroupOf(pid)),
      limit: read(pidCgroup(top), 'limit'),
      swap: countsSwap ? read(pidCgroup(top), 'swap') : '',
      note: readFileSync(`/run/barehand/pid-${top}/cgroup`, 'utf8').trim(),
    });
    const plan = await limited('--dry-run', String(top), '64M');
    assert.equal(cgroupOf(top), origin);
    await limited(String(top), '64M');
    const done = state();
    const undo = await limited('--dry-run', '--reset', String(top));
    assert.deepEqual(state(), done);
    assert.equal((await execute([shell, '-c', undo])).code, 0);
    assert.equal(cgroupOf(top), origin);
    assert.equal(existsSync(pidCgroup(top)), false);
    assert.equal(existsSync(`/run/barehand/pid-${top}`), false);
    const pasted = await execute([shell], { input: plan });
    assert.equal(pasted.stderr, '');
    assert.deepEqual(state(), done);
    await limited('--reset', String(top));
  });

test('several containers under one process are to be named', container, async () => {
  const one = await start([], ['sleep', '100']);
  const two = await start([], ['sleep', '100']);
  const { code, stderr } = await limit(String(process.pid), '1G');
  assert.equal(code, 1);
  assert.ok(stderr.includes(one.name) && stderr.includes(two.name), stderr);
});
