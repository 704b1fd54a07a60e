import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import { cgroupDirectory, cgroupPath, memoryFiles, parent } from '../scripts/helpers/cgroup.ts';
import { toShell } from '../scripts/helpers/plan.ts';
import { descendants, readProcesses } from '../scripts/helpers/proc.ts';
import type { Target } from '../scripts/helpers/target.ts';
import { planLimitMemory } from '../scripts/limit-memory.ts';
import {
  alive,
  container,
  memory,
  memoryFile,
  newName,
  start,
  startByHand,
  stat,
} from './helpers/container.ts';
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
async function startTree(program: string, stdin: 'ignore' | 'pipe' = 'ignore'): Promise<number> {
  // should the test be killed, so is the shell
  const shell = spawn('setpriv', ['--pdeathsig=KILL', 'sh', '-c', program], {
    stdio: [stdin, 'pipe', 'ignore'],
    detached: true,
  });
  trees.push(shell);
  if (shell.stdout) await once(shell.stdout, 'data');
  return shell.pid as number;
}
afterEach(async () => {
  for (const shell of trees.splice(0)) {
    const pid = shell.pid as number;
    if (shell.exitCode === null && shell.signalCode === null) {
      const exit = once(shell, 'exit');
      process.kill(-pid, 'SIGKILL');
      await exit;
    }
    // what it was in is empty now, or will be in a moment
    await execute([
      'sh',
      '-c',
      'for i in 1 2 3 4 5; do [ ! -d "$1" ] || rmdir "$1" || sleep 0.2; done 2>/dev/null',
      'sh',
      pidCgroup(pid),
    ]);
    await execute(['rm', '-rf', `/run/barehand/pid-${pid}`]);
  }
});

test('a plan for a container of ours is two values, in the order that the kernel takes them', () => {
  const target: Target = {
    directory: '/cg/barehand/web',
    top: undefined,
    startTicks: undefined,
    toMove: [],
    origin: undefined,
    elsewhere: [],
    borrowed: false,
    previous: undefined,
  };
  const plan = (version: 1 | 2, swapLimitBytes: number | null | undefined, size: number | null, swap = 0) =>
    toShell(
      planLimitMemory(
        { version, mountPoint: '/cg' },
        target,
        { limitBytes: null, swapLimitBytes },
        size,
        swap,
      ),
    );
  const v1 = (...lines: [string, string][]) =>
    lines.map(([value, file]) => `echo ${value} > /cg/barehand/web/memory.${file}\n`).join('');
  assert.equal(plan(1, null, 100), v1(['100', 'limit_in_bytes'], ['100', 'memsw.limit_in_bytes']));
  assert.equal(plan(1, 50, 100), v1(['100', 'memsw.limit_in_bytes'], ['100', 'limit_in_bytes']));
  assert.equal(plan(1, 200, 100, 50), v1(['100', 'limit_in_bytes'], ['150', 'memsw.limit_in_bytes']));
  assert.equal(plan(1, undefined, 100), v1(['100', 'limit_in_bytes']));
  assert.equal(plan(1, 100, null), v1(['-1', 'memsw.limit_in_bytes'], ['-1', 'limit_in_bytes']));
  assert.equal(plan(1, 100, 100, Infinity), v1(['-1', 'memsw.limit_in_bytes'], ['100', 'limit_in_bytes']));
  assert.equal(plan(2, null, 100), v1(['100', 'max'], ['0', 'swap.max']));
  assert.equal(plan(2, 0, 100, 50), v1(['50', 'swap.max'], ['100', 'max']));
  assert.equal(plan(2, 0, null), v1(['max', 'swap.max'], ['max', 'max']));
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
        // of one that is ending (PF_EXITING) v1 says the root, which may be where they came from
        return !zombie && cgroupOf(pid) === origin && !(Number(stat(pid)[6]) & 4);
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
    assert.ok(
      forced.code === 0 || /EBUSY.* in use, and the kernel could not reclaim enough/.test(forced.stderr),
      forced.stderr,
    );
  } else {
    assert.match(forced.stderr, /the kernel reclaims, or kills for it/);
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

/** Cgroups of somebody else's, as an engine or systemd makes them; removed when the tests and their trees have ended. */
const foreign: string[] = [];
function makeCgroup(name: string, limitBytes?: number): string {
  const directory = join(memory.mountPoint, name);
  mkdirSync(directory);
  foreign.unshift(directory);
  if (limitBytes !== undefined) writeFileSync(join(directory, files.limit), String(limitBytes));
  return directory;
}
const enableMemory = (directory: string) => {
  if (memory.version === 2) writeFileSync(join(directory, 'cgroup.subtree_control'), '+memory');
};
after(() => {
  for (const directory of foreign) rmdirSync(directory);
});
test('what has a cgroup to itself is limited there, and gets its own limit back', container, async () => {
  enableMemory(memory.mountPoint);
  const directory = makeCgroup(newName(), 300 * MiB);
  const top = await startTree(`echo $$ >${directory}/cgroup.procs; sleep 100 & echo complete; wait`);
  assert.match(await limited(String(top), '100M'), /limit 300 MiB -> 100 MiB.*\n2 processes in /);
  assert.match(await limited(String(top), '90M'), /limit 100 MiB -> 90 MiB/);
  assert.equal(existsSync(pidCgroup(top)), false);
  assert.match(await limited('--reset', String(top)), /limit 90 MiB -> 300 MiB/);
  assert.equal(cgroupOf(top), directory);
  assert.equal(existsSync(`/run/barehand/pid-${top}`), false);
  const { code, stderr } = await limit('--reset', String(top));
  assert.equal(code, 1);
  assert.match(stderr, /was not limited by this script/);
  assert.equal(read(directory, 'limit'), String(300 * MiB));
});

test(
  'the limit of a cgroup that is left no longer holds, one above the own still does: both are said',
  container,
  async () => {
    enableMemory(memory.mountPoint);
    const shared = makeCgroup(newName(), 200 * MiB);
    const program = `echo $$ >${shared}/cgroup.procs; sleep 100 & echo complete; wait`;
    const top = await startTree(program);
    await startTree(program);
    const moved = await limit(String(top), '300M');
    assert.equal(moved.code, 0, moved.stderr);
    assert.ok(moved.stderr.includes(`no longer limited by 200 MiB of ${shared}\n`), moved.stderr);
    await limited('--reset', String(top));
    assert.equal(cgroupOf(top), shared);

    const outer = makeCgroup(newName(), 50 * MiB);
    enableMemory(outer);
    const inner = makeCgroup(`${basename(outer)}/inner`);
    const below = await startTree(`echo $$ >${inner}/cgroup.procs; echo complete; sleep 100; true`);
    const { code, stderr } = await limit(String(below), '60M');
    assert.equal(code, 0, stderr);
    assert.ok(stderr.includes(`still limited by 50 MiB of ${outer}\n`), stderr);
  },
);

test('a cgroup without the memory controller is no place for a limit', {
  skip: container.skip || needs('cgroup-v2'),
}, async () => {
  const outer = makeCgroup(newName());
  const inner = makeCgroup(`${basename(outer)}/inner`);
  const top = await startTree(`echo $$ >${inner}/cgroup.procs; echo complete; sleep 100; true`);
  assert.match(await limited(String(top), '100M'), /moved to/);
  assert.equal(read(pidCgroup(top), 'limit'), String(100 * MiB));
  await limited('--reset', String(top));
  assert.equal(cgroupOf(top), inner);
});

test('a process inside a container is limited alone, and comes back', container, async () => {
  const { name, first } = await start(['--memory', '80M'], ['sh', '-c', 'sleep 100 & sleep 101; true']);
  // run.ts's own shell is the first process until it becomes the command
  const child = await until(
    'its sleep',
    () =>
      descendants(readProcesses(), [first]).find(({ name, ppid }) => name === 'sleep' && ppid === first)?.pid,
  );
  const origin = cgroupOf(first);
  const { code, stdout, stderr } = await limit(String(child), '40M');
  assert.equal(code, 0, stderr);
  assert.match(stdout, /1 process moved to/);
  assert.match(stderr, /no longer limited by 80 MiB of/);
  assert.equal(memoryFile(name, 'limit'), String(80 * MiB));
  assert.equal(cgroupOf(first), origin);
  assert.equal(cgroupOf(child), pidCgroup(child));
  await limited('--reset', String(child));
  assert.equal(cgroupOf(child), origin);
});

test(
  'what nsenter brought into a container is limited with it, and goes back to where it was',
  container,
  async () => {
    enableMemory(memory.mountPoint);
    const { first, unshare } = await startByHand(['sleep', '100']);
    const origin = cgroupOf(first);
    const other = makeCgroup(newName());
    const holder = await startTree(
      `echo $$ >${other}/cgroup.procs; echo complete; nsenter --target ${first} --pid --mount sleep 102; true`,
    );
    const entered = await until('what nsenter starts', () =>
      descendants(readProcesses(), [holder]).find(({ nsPids }) => nsPids.length > 1),
    );
    assert.match(await limited(String(unshare), '100M'), /2 processes moved to/);
    assert.equal(cgroupOf(first), pidCgroup(first));
    assert.equal(cgroupOf(entered.pid), pidCgroup(first));
    assert.equal(cgroupOf(holder), other);
    await limited('--reset', String(first));
    assert.equal(cgroupOf(first), origin);
    assert.equal(cgroupOf(entered.pid), other);
  },
);

test('what has left the tree since is still limited, and comes back with it', container, async () => {
  const top = await startTree('echo complete; read -r _; (sleep 100 & echo $!); sleep 100', 'pipe');
  const origin = cgroupOf(top);
  await limited(String(top), '100M');
  const shell = trees.at(-1);
  shell?.stdin?.end('go\n');
  const [line] = shell?.stdout ? await once(shell.stdout, 'data') : [];
  const orphan = Number(line);
  assert.equal(cgroupOf(orphan), pidCgroup(top));
  await until('its adoption', () => readProcesses().get(orphan)?.ppid !== top);
  assert.match(await limited(String(top), '120M'), /limit 100 MiB -> 120 MiB.*\n3 processes in /);
  await limited('--reset', String(top));
  assert.deepEqual([cgroupOf(top), cgroupOf(orphan)], [origin, origin]);
  assert.equal(existsSync(pidCgroup(top)), false);
});

test('a process that has one thread in the cgroup already, as by v1 tasks, is moved whole', {
  skip: container.skip || needs('cgroup-v1'),
}, async () => {
  const top = await startTree(`exec node -e 'console.log("complete"); setInterval(() => {}, 1000)'`);
  const [, thread] = await until('threads', () => {
    const tasks = readTasks(top);
    return tasks.length > 1 && tasks;
  });
  const origin = cgroupOf(top);
  mkdirSync(pidCgroup(top), { recursive: true });
  writeFileSync(join(pidCgroup(top), 'tasks'), String(thread));
  assert.equal(cgroupOf(top), origin);
  // the PID of a thread stands for its process
  await limited(String(thread), '500M');
  for (const task of readTasks(top)) assert.equal(cgroupOf(task), pidCgroup(top));
  await limited('--reset', String(top));
});
