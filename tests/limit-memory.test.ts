import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { parent } from '../scripts/helpers/cgroups.ts';
import { descendants, readProcesses } from '../scripts/helpers/pids.ts';
import { originFile } from '../scripts/limit/notes.ts';
import { parseKills } from '../scripts/limit/oom-watch.ts';
import { memoryFiles } from '../scripts/limit/table.ts';
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
import { call, execute, script, until } from './helpers/script.ts';
import { shells } from './helpers/slow.ts';
import {
  cgroupIn,
  enable,
  lastTree,
  makeCgroup as makeCgroupIn,
  pidCgroupIn,
  startTree,
} from './helpers/trees.ts';

const MiB = 1024 * 1024;
const limit = (...words: string[]) => call('limit-memory', words);
const files = memoryFiles[memory.version];

const limited = async (...words: string[]) => {
  const { code, stdout, stderr } = await limit(...words);
  assert.equal(code, 0, stderr);
  return stdout;
};

const cgroupOf = (pid: number) => cgroupIn(memory, pid);
const pidCgroup = (pid: number) => pidCgroupIn(memory, pid);
const read = (directory: string, file: keyof typeof files) =>
  readFileSync(join(directory, files[file]), 'utf8').trim();
const countsSwap = existsSync(memory.version === 1 ? join(memory.mountPoint, files.swap) : '/proc/swaps');

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
    [['no-such-container', '1M'], /no container no-such-container: \S+ shows/],
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
      assert.match(output, new RegExp(`limit .* -> ${size} MiB; no swap beyond it; in use now`));
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
  'what a process has before it is moved is not counted: the limit and the real ceiling are told',
  container,
  async () => {
    // in the cgroup of this test, which is not its own: it is moved; then it eats more than what mawk can reuse of the first
    const eater =
      'BEGIN { for (s = "x"; length(s) < 4e7;) s = s s; print "full"; fflush(); getline; for (t = "x"; length(t) < 2e8;) t = t t; print "more"; fflush(); getline }';
    const child = spawn('awk', [eater], { stdio: ['pipe', 'pipe', 'ignore'] });
    const end = once(child, 'exit');
    try {
      await once(child.stdout, 'data');
      const pid = child.pid as number;
      const origin = cgroupOf(pid);
      const told = new RegExp(
        `: 20 MiB from now on, about ([\\d.]+) MiB in all: ([\\d.]+) MiB that it has already stays counted in ${origin}\n`,
      );
      const dry = await limit('--dry-run', String(pid), '20M');
      assert.match(dry.stderr, told);
      // less than it has, and not refused: nothing of that is counted
      const { code, stdout, stderr } = await limit('--json', String(pid), '20M');
      assert.equal(code, 0, stderr);
      const [, all, before] = told.exec(stderr) ?? [];
      assert.ok(Number(before) > 60 && Math.abs(Number(all) - 20 - Number(before)) < 1, stderr);
      const { usedBytes, uncountedBytes } = JSON.parse(stdout);
      assert.ok(
        usedBytes === uncountedBytes && Math.abs(uncountedBytes - Number(before) * MiB) < MiB,
        stdout,
      );
      assert.ok(Number(read(pidCgroup(pid), 'usage')) < 10 * MiB);
      // a later call tells the same
      const again = await limit(String(pid), '30M');
      assert.match(again.stderr, /: 30 MiB from now on, about [\d.]+ MiB in all: /);
      // and what it takes from now on ends it
      child.stdin.end('\n'); // mawk reads to the end, unless there is much
      assert.deepEqual(await end, [null, 'SIGKILL']);
    } finally {
      child.kill('SIGKILL');
      await end;
    }
  },
);

test('a limit in which nothing goes on is refused, unless forced', container, async () => {
  const { name } = await start([], ['sleep', '100']);
  const before = memoryFile(name, 'limit');
  const tiny = await limit(name, '100');
  assert.equal(tiny.code, 2);
  assert.match(
    tiny.stderr,
    /^limit-memory: no process goes on in 100 B, 1 MiB is the least: did you mean 100M\?; --force sets it, and makes the kernel reclaim/,
  );
  assert.match(
    (await limit('--dry-run', name, '500k')).stderr,
    /500 KiB, 1 MiB is the least: did you mean 500M\?/,
  );
  assert.equal(memoryFile(name, 'limit'), before);
  assert.equal((await limit('--dry-run', '--force', name, '900k')).code, 0);
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
  const { usedBytes, uncountedBytes, ...result } = JSON.parse(await limited('--json', name, '50M'));
  assert.ok(usedBytes > 0 && usedBytes < 50 * MiB);
  assert.equal(uncountedBytes, 0);
  const swap = (size: number) =>
    !countsSwap ? {} : memory.version === 1 ? { memorySwapLimitBytes: size * MiB } : { swapLimitBytes: 0 };
  assert.deepEqual(result, {
    cgroups: [join(memory.mountPoint, parent, name)],
    processes: 1,
    limitBytes: 50 * MiB,
    ...swap(50),
    before: { limitBytes: 60 * MiB, ...swap(60) },
  });
});

for (const shell of shells)
  test(`--dry-run changes nothing, and ${shell} does with it what the script does`, {
    skip: container.skip || needs(shell),
  }, async () => {
    const top = await startTree('(sleep 100 & sleep 101) & sleep 102 & sleep 0.5; echo complete; wait');
    const origin = cgroupOf(top);
    const state = () => ({
      where: descendants(readProcesses(), [top]).map(({ pid }) => cgroupOf(pid)),
      limit: read(pidCgroup(top), 'limit'),
      swap: countsSwap ? read(pidCgroup(top), 'swap') : '',
      note: readFileSync(`/run/barehand/pid-${top}/${originFile(memory)}`, 'utf8').trim(),
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

const makeCgroup = (name: string, limitBytes?: number) =>
  makeCgroupIn(memory, name, limitBytes === undefined ? {} : { [files.limit]: String(limitBytes) });
const enableMemory = (directory: string) => enable(memory, directory, 'memory');

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

/** A container with a limit, and the PID of a process in its middle. */
async function startWithPart(program: string) {
  const { name, unshare } = await start(['--memory', '80M'], ['sh', '-c', program]);
  // run.ts's own shells are called sh too, until one of them becomes the command
  const { pid, ppid } = await until('its sleep', () =>
    descendants(readProcesses(), [unshare]).find(({ name }) => name === 'sleep'),
  );
  return { name, first: ppid, part: pid, origin: cgroupOf(ppid) };
}

/** Moves the processes of a v2 cgroup down by the command in a refusal, so that it can limit cgroups below it. */
async function makeRoom(origin: string, part: number): Promise<string> {
  if (memory.version === 1) return origin;
  const { code, stderr } = await limit(String(part), '40M');
  assert.equal(code, 1);
  const [, command = ''] = /limit the container as a whole, or first: (mkdir .*)\n$/.exec(stderr) ?? [];
  assert.deepEqual(await execute(['sh', '-c', command]), { code: 0, signal: null, stdout: '', stderr: '' });
  return join(origin, 'init');
}

test(
  'a part of a container is limited below the cgroup of the container, and comes back',
  container,
  async () => {
    const { name, first, part, origin } = await startWithPart('sleep 100 & sleep 101; true');
    const now = await makeRoom(origin, part);
    const { code, stdout, stderr } = await limit(String(part), '40M');
    assert.equal(code, 0, stderr);
    const own = pidCgroupIn({ ...memory, mountPoint: origin }, part);
    assert.ok(stdout.includes(`1 process moved to ${own}\n`), stdout);
    assert.doesNotMatch(stderr, /no longer limited/);
    assert.equal(memoryFile(name, 'limit'), String(80 * MiB));
    assert.deepEqual([cgroupOf(first), cgroupOf(part)], [now, own]);
    assert.equal(read(own, 'limit'), String(40 * MiB));
    assert.match((await limit(String(part), '90M')).stderr, /still limited by 80 MiB of/);
    await limited('--reset', String(part));
    assert.equal(cgroupOf(part), now);
    assert.equal(existsSync(own), false);
  },
);

test('the limit of a container holds for a part with a limit of its own', container, async () => {
  // the part has more than the container, and takes memory when it is told to
  const hog = 'sleep 100 & read -r _ </dev/shm/go; head -c 200M /dev/zero | tail >/dev/null';
  const program = `mkfifo /dev/shm/go; sh -c '${hog}; sleep 102' & sleep 101; true`;
  const { name, first, origin } = await startWithPart(program);
  const part = await until('the part', () =>
    descendants(readProcesses(), [first]).find(
      ({ pid, ppid, name }) => name === 'sh' && pid !== first && ppid === first,
    ),
  );
  await makeRoom(origin, part.pid);
  await limited(String(part.pid), '500M');
  const oomKills = () => {
    const own = [origin, cgroupOf(part.pid)].map((directory) =>
      readFileSync(join(directory, files.oomKills), 'utf8'),
    );
    return own.map((text) => Number(/oom_kill (\d+)/.exec(text)?.[1]));
  };
  writeFileSync(`/proc/${part.pid}/root/dev/shm/go`, 'go\n');
  await until('the OOM kill', () => oomKills().some((count) => count > 0));
  assert.ok(descendants(readProcesses(), [first]).length > 0, name);
  assert.equal((await call('stop', ['--timeout', '0', name])).code, 0);
  assert.equal(existsSync(origin), false, 'the cgroups of the part are removed with it');
});

test('limits of a part of a limited container are lifted before those of the container', {
  skip: container.skip || needs('cgroup-v1'),
}, async () => {
  const { first } = await startByHand(['/bin/sh', '-c', 'sleep 100; true']);
  const origin = cgroupOf(first);
  const part = await until('its sleep', () =>
    [...readProcesses().values()].find(({ ppid, name }) => ppid === first && name === 'sleep'),
  );
  await limited(String(first), '40M');
  await limited(String(part.pid), '30M');
  assert.equal(cgroupOf(part.pid), pidCgroupIn({ ...memory, mountPoint: pidCgroup(first) }, part.pid));
  const { code, stderr } = await limit('--reset', String(first));
  const refusal = `limit-memory: ${part.pid}, a part of ${first}, has limits of its own: first --reset ${part.pid}\n`;
  assert.deepEqual([code, stderr], [1, refusal]);
  await limited('--reset', String(part.pid));
  await limited('--reset', String(first));
  assert.deepEqual([cgroupOf(first), cgroupOf(part.pid)], [origin, origin]);
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
  const shell = lastTree();
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

test('--high, --reserve and --oom-group are set beside the limit, and all lifted; v1 refuses what it has not', {
  skip: container.skip,
}, async () => {
  const { name } = await start([], ['sleep', '100']);
  const fileOf = (file: string) => readFileSync(join(memory.mountPoint, parent, name, file), 'utf8').trim();
  assert.match(
    await limited(name, '60M', '--reserve', '20M'),
    /limit none -> 60 MiB; soft limit none -> 20 MiB; /,
  );
  const reserve = memory.version === 1 ? 'memory.soft_limit_in_bytes' : 'memory.low';
  assert.equal(fileOf(reserve), String(20 * MiB));
  for (const option of [['--high', '40M'], ['--oom-group']]) {
    const { code, stdout, stderr } = await limit(name, ...option);
    if (memory.version === 1) {
      assert.match(
        stderr,
        /: cgroup v1 has nothing like memory\.\S+, and this host has the memory controller there: boot it with/,
      );
      assert.deepEqual([code, stdout], [1, '']);
    } else assert.equal(code, 0, stderr);
  }
  if (memory.version === 2)
    assert.deepEqual(['memory.high', 'memory.oom.group'].map(fileOf), [String(40 * MiB), '1']);
  await limited('--reset', name);
  assert.ok(memory.version === 2 ? fileOf(reserve) === '0' : Number(fileOf(reserve)) > 2 ** 62);
  if (memory.version === 2)
    assert.deepEqual(['memory.max', 'memory.high', 'memory.oom.group'].map(fileOf), ['max', 'max', '0']);
});

/** What --watch says until the target has ended, of a tree that waits for a line and then eats. */
async function watch(directory: string, ...asUser: string[]) {
  // a shell keeps it that ends without being killed
  const eater = `awk 'BEGIN { for (s = "x"; length(s) < 1e7;) s = s s; system("sleep 0.5"); while (1) s = s s }'`;
  const top = await startTree(
    `echo $$ >${directory}/cgroup.procs; echo complete; read -r _; ${eater}; sleep 0.5; true`,
    'pipe',
  );
  const argv = [...asUser, process.execPath, script('limit-memory'), '--json', '--watch', String(top)];
  const watcher = spawn(argv[0] as string, argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const)
    watcher[stream].on('data', (data) => {
      said[stream] += data;
    });
  const end = once(watcher, 'close');
  await until('the watch', () => said.stderr.includes('watching'));
  lastTree()?.stdin?.end('go\n');
  const [code] = await end;
  const { stdout, stderr } = said;
  assert.equal(code, 0, stderr);
  assert.match(stderr, new RegExp(`limit-memory: ${top} has ended`));
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
}

const path = (directory: string) => directory.slice(memory.mountPoint.length);

test('--watch tells who was killed, how large it was, and whose limit that was', container, async () => {
  enableMemory(memory.mountPoint);
  const outer = makeCgroup(newName(), 40 * MiB);
  if (countsSwap) writeFileSync(join(outer, files.swap), memory.version === 1 ? String(40 * MiB) : '0');
  enableMemory(outer);
  const inner = makeCgroup(`${basename(outer)}/inner`);
  const [above, ...more] = await watch(inner);
  assert.deepEqual([above.name, above.level, above.cgroup, more], ['awk', 'parent', path(outer), []]);
  assert.ok(above.bytes > 20 * MiB && above.bytes < 41 * MiB, String(above.bytes));
  writeFileSync(join(inner, files.limit), String(30 * MiB));
  const [own] = await watch(inner);
  assert.deepEqual([own.name, own.level, own.cgroup, own.logged], ['awk', 'own', path(inner), true]);
  // without the kernel's log, as users see it
  const [seen] = await watch(inner, 'setpriv', '--reuid=65534', '--clear-groups');
  assert.deepEqual([seen.name, seen.level, seen.cgroup, seen.logged], ['awk', 'own', path(inner), false]);
});

test("what the kernel's log says of a kill is read, of this cgroup's only", () => {
  const record = (limit: string, task: string, pid: number) =>
    `6,1,5000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,${limit},task_memcg=${task},task=a b,pid=${pid},uid=0\n`;
  const killed = (pid: number) =>
    `3,2,5000001,-;Memory cgroup out of memory: Killed process ${pid} (a b) total-vm:9kB, anon-rss:100kB, file-rss:7kB, shmem-rss:20kB, UID:0\n`;
  const records = [
    record('oom_memcg=/barehand/web', '/barehand/web', 7),
    killed(7),
    record('oom_memcg=/barehand', '/barehand/web/inner', 8),
    record('oom_memcg=/barehand/website', '/barehand/website', 9),
    killed(9),
    record('global_oom', '/barehand/web', 10),
  ];
  const kill = { name: 'a b', logged: true };
  assert.deepEqual(parseKills(records, '/barehand/web'), [
    { ...kill, pid: 7, bytes: 120 * 1024, level: 'own', cgroup: '/barehand/web' },
    { ...kill, pid: 8, bytes: null, level: 'parent', cgroup: '/barehand' },
    { ...kill, pid: 10, bytes: null, level: 'host', cgroup: null },
  ]);
  assert.equal(parseKills(records, '/').length, 4);
});
