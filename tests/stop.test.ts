import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { attempt, readProcesses } from '../scripts/helpers/pids.ts';
import {
  alive,
  cgroups,
  container,
  newName,
  signals,
  start,
  startByHand,
  stat,
} from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';
import { shells } from './helpers/slow.ts';

const stop = (...words: string[]) => call('stop', words);
const isGone = (name: string) => !cgroups(name).some((path) => existsSync(path));
const waiting = 'while :; do sleep 0.1; done';

/** A container whose shell handles a signal by a command of its own, from the moment this returns. */
async function startHandler(signal: 'TERM' | 'INT' | 'USR1', command: string) {
  const running = await start([], ['/bin/sh', '-c', `trap '${command}' ${signal}; ${waiting}`]);
  const number = { TERM: 15, INT: 2, USR1: 10 }[signal];
  await until('the handler', () => signals(running.first, 'SigCgt').has(number));
  return running;
}

test('a container that handles SIGTERM ends by itself, and nothing of it is left', container, async () => {
  const { name, end } = await startHandler('TERM', 'exit 3');
  const { code, stdout, stderr } = await stop(name);
  assert.deepEqual([code, stdout, stderr], [0, `${name}: ended after SIGTERM\n`, '']);
  assert.deepEqual(await end, [3, null]);
  assert.ok(isGone(name));
});

test('one that does not handle it is killed without waiting', container, async () => {
  const { name, end, first } = await start([], ['sleep', '100']);
  const { code, stdout } = await stop('--time', '1000', name);
  assert.deepEqual([code, stdout], [0, `${name}: killed, for its first process does not handle SIGTERM\n`]);
  assert.deepEqual(await end, [137, null]);
  assert.ok(!alive(first) && isGone(name));
});

test('one that handles it and goes on is killed after --timeout', container, async () => {
  const { name, end } = await startHandler('TERM', ': not yet');
  const { code, stdout } = await stop(name, '-t', '1');
  assert.deepEqual([code, stdout], [0, `${name}: killed, 1 s after SIGTERM\n`]);
  assert.deepEqual(await end, [137, null]);
  assert.ok(isGone(name));
});

test('--signal asks with another signal', container, async () => {
  for (const [signal, given] of [
    ['INT', 'int'],
    ['USR1', 'SIGUSR1'],
  ] as const) {
    const { name, end } = await startHandler(signal, 'exit 8');
    const { stdout } = await stop('-s', given, name);
    assert.equal(stdout, `${name}: ended after SIG${signal}\n`);
    assert.deepEqual(await end, [8, null]);
  }
});

test('a container that starts processes without pause ends whole', container, async () => {
  const bomb = 'while :; do sleep 50 & sleep 0.01; done';
  const { name, end } = await start([], ['/bin/sh', '-c', `trap : TERM; ${bomb}`]);
  const procs = join(cgroups(name)[0] as string, 'cgroup.procs');
  const members = await until('many processes', () => {
    const pids = readFileSync(procs, 'utf8').trim().split('\n').map(Number);
    return pids.length > 20 && pids;
  });
  assert.equal((await stop(name, '--timeout', '0')).code, 0);
  await end;
  for (const pid of members) assert.ok(!alive(pid), String(pid));
  assert.ok(isGone(name));
});

test('without a PID namespace all of the tree ends', container, async () => {
  const { name, end } = await start(['--isolate', 'mount'], ['/bin/sh', '-c', 'sleep 100 & sleep 101']);
  const procs = join(cgroups(name)[0] as string, 'cgroup.procs');
  const members = await until('its processes', () => {
    const pids = readFileSync(procs, 'utf8').trim().split('\n').map(Number);
    return pids.length === 3 && pids;
  });
  assert.equal((await stop(name)).code, 0);
  await end;
  for (const pid of members) assert.ok(!alive(pid), String(pid));
  assert.ok(isGone(name));
});

test(
  'one made by hand is stopped through either of its two PIDs, and nobody else is',
  container,
  async () => {
    const other = await startByHand(['sleep', '100']);
    for (const which of ['first', 'unshare'] as const) {
      const byHand = await startByHand(['sleep', '100']);
      const { code, stdout } = await stop(String(byHand[which]));
      assert.equal(code, 0);
      assert.match(stdout, /killed, for its first process does not handle SIGTERM/);
      await byHand.end;
      assert.ok(!alive(byHand.first));
    }
    assert.ok(alive(other.first));
  },
);

test(
  '--pause stops all of it where it is, --resume lets it go on, and what is paused can be stopped',
  container,
  async () => {
    const { name, end, first } = await start([], ['/bin/sh', '-c', 'while :; do :; done']);
    const ticks = () =>
      Number(
        readFileSync(`/proc/${first}/stat`, 'utf8')
          .replace(/^.*\) /s, '')
          .split(' ')[11],
      );
    assert.deepEqual((await stop('--pause', name)).stdout, `${name}: paused\n`);
    const paused = ticks();
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(ticks(), paused);
    assert.deepEqual((await stop('--resume', name)).stdout, `${name}: resumed\n`);
    await until('it to go on', () => ticks() > paused);
    await stop('--pause', name);
    assert.equal((await stop(name)).code, 0);
    await end;
    assert.ok(isGone(name));
  },
);

test('--sweep removes what a killed launch has left, and nothing that lives', container, async () => {
  const dead = await start([], ['sleep', '100']);
  const living = await start([], ['sleep', '100']);
  const shell = readProcesses().get(dead.unshare)?.ppid as number;
  process.kill(shell, 'SIGKILL');
  await dead.end;
  await until('its end', () => !alive(dead.first));
  // cgroups in one hierarchy only, and one inside of another, are left overs as well
  const half = newName();
  mkdirSync(join(cgroups(half).at(-1) as string, 'inner'), { recursive: true });
  const { code } = await stop('--sweep');
  assert.equal(code, 0);
  assert.ok(isGone(dead.name));
  assert.ok(isGone(half));
  assert.ok(alive(living.first));
});

test('several at once: each is told of, one failure is the exit code', container, async () => {
  const one = await start([], ['sleep', '100']);
  const two = await start([], ['sleep', '100']);
  const wrong = await stop(one.name, '../web', two.name);
  assert.deepEqual([wrong.code, wrong.stdout], [2, ''], 'a slip of the hand stops nothing');
  const { code, stdout, stderr } = await stop(one.name, 'no-such-container', two.name);
  assert.deepEqual(
    [code, stderr],
    [1, `stop: there is no container no-such-container: ${script('ps')} shows those there are\n`],
  );
  assert.deepEqual(
    stdout.split('\n').map((line) => line.split(':')[0]),
    [one.name, two.name, ''],
  );
  await Promise.all([one.end, two.end]);
});

test('wrong usage ends with 2, what does not exist with 1, each with a clear line', {
  skip: container.skip || needs('speed'),
}, async () => {
  for (const [words, code, expected] of [
    [[], 2, /name a TARGET, or give --all or --sweep/],
    [['--all', 'web'], 2, /name a TARGET, or give --all or --sweep/],
    [['--all', '--sweep'], 2, /name a TARGET, or give --all or --sweep/],
    [['--dry-run'], 2, /name a TARGET, or give --all or --sweep/],
    [['--pause', '--resume', 'web'], 2, /either --pause or --resume/],
    [['--pause', '--timeout', '3', 'web'], 2, /go with stopping/],
    [['--signal', 'NOPE', 'web'], 2, /no such signal: NOPE/],
    [['--timeout', 'soon', 'web'], 2, /number of seconds/],
    [['../web'], 2, /neither a name nor a PID/],
    [['no-such-container'], 1, /no container no-such-container: \S+ shows/],
    [['1'], 1, /1 is in no container, and holds none: \S+ shows/],
    [[String(process.pid)], 1, /is in no container/],
    [['4194305'], 1, /there is no process 4194305: \S+ shows/],
  ] as [string[], number, RegExp][]) {
    const result = await stop(...words);
    assert.match(result.stderr, expected);
    assert.equal(result.code, code, words.join(' '));
    assert.equal(result.stdout, '');
  }
});

/** Has a shell read what --dry-run prints. */
async function paste(words: string[], shell = 'sh') {
  const { code, stdout, stderr } = await stop('--dry-run', ...words);
  assert.deepEqual([code, stderr], [0, ''], words.join(' '));
  const pasted = await execute([shell, '-c', stdout]);
  assert.equal(pasted.stdout, '', stdout);
  return stdout;
}

for (const shell of shells)
  test(`--dry-run changes nothing; ${shell} ends with it what stop.ts ends, and leaves nothing`, {
    skip: container.skip || needs(shell),
  }, async () => {
    const polite = await startHandler('TERM', 'exit 3');
    const deaf = await start([], ['sleep', '100']);
    const stubborn = await startHandler('TERM', ': not yet');
    const usr1 = await startHandler('USR1', 'exit 8');
    const tree = await start(
      ['--isolate', 'mount'],
      ['/bin/sh', '-c', 'trap "" TERM; sleep 100 & sleep 101'],
    );
    const other = await start([], ['sleep', '100']);
    const state = () => readFileSync(`/proc/${deaf.first}/status`, 'utf8').match(/^State:.*/m)?.[0];
    const before = state();
    await stop('--dry-run', '--timeout', '0', deaf.name, polite.name);
    assert.deepEqual([state(), alive(polite.first)], [before, true]);
    for (const [{ name, first, end }, words, expected] of [
      [polite, [], 3],
      [deaf, [], 137],
      [stubborn, ['--timeout', '1'], 137],
      [usr1, ['--signal', 'USR1'], 8],
      [tree, ['--timeout', '0.2'], 137],
    ] as const) {
      const members = readFileSync(join(cgroups(name)[0] as string, 'cgroup.procs'), 'utf8');
      await paste([...words, name], shell);
      assert.deepEqual(await end, [expected, null], name);
      for (const pid of members.trim().split('\n')) assert.ok(!alive(Number(pid)), `${name}: ${pid}`);
      assert.ok(!alive(first) && isGone(name), name);
    }
    assert.ok(alive(other.first));
  });

test('--dry-run of what runs in the background: the log goes as well', container, async () => {
  const name = newName();
  await call('run', [
    '-d',
    '--name',
    name,
    rootfs,
    'sh',
    '-c',
    'trap "echo asked; exit 3" TERM; while :; do sleep 0.1; done',
  ]);
  const [first = 0] = readFileSync(join(cgroups(name)[0] as string, 'cgroup.procs'), 'utf8')
    .split('\n')
    .map(Number);
  await until('the handler', () => signals(first, 'SigCgt').has(15));
  await paste([name]);
  assert.deepEqual([alive(first), isGone(name), existsSync(`/run/barehand/${name}`)], [false, true, false]);
  // and of one that has ended, only that is left
  await call('run', ['-d', '--name', name, rootfs, 'true']);
  await until('its end', async () => (await call('logs', ['--status', name])).stdout === '0\n');
  await until('the end of its cgroups', () => isGone(name));
  await paste([name]);
  assert.ok(!existsSync(`/run/barehand/${name}`));
  assert.match((await stop('--dry-run', name)).stderr, /there is no container/);
});

test('--dry-run of one made by hand ends it through its PID, and nobody else', container, async () => {
  const other = await startByHand(['sleep', '100']);
  const byHand = await startByHand(['sleep', '100']);
  await paste([String(byHand.first)]);
  await byHand.end;
  assert.deepEqual([alive(byHand.first), alive(other.first)], [false, true]);
});

test(
  '--dry-run --pause freezes, --resume thaws, and what is frozen can be stopped with it',
  container,
  async () => {
    const { name, end, first } = await start(
      [],
      ['/bin/sh', '-c', 'trap "exit 3" TERM; while :; do :; done'],
    );
    await until('the handler', () => signals(first, 'SigCgt').has(15));
    const ticks = () => Number(stat(first)[11]);
    await paste(['--pause', name]);
    const paused = ticks();
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(ticks(), paused);
    await paste(['--resume', name]);
    await until('it to go on', () => ticks() > paused);
    await paste(['--pause', name]);
    await paste([name]);
    assert.deepEqual(await end, [3, null]);
    assert.ok(isGone(name));
  },
);

test(
  '--dry-run --sweep removes what a killed launch has left, and nothing that lives',
  container,
  async () => {
    const living = await start([], ['sleep', '100']);
    const half = newName();
    mkdirSync(join(cgroups(half).at(-1) as string, 'inner'), { recursive: true });
    const crashed = newName();
    await call('run', ['-d', '--name', crashed, rootfs, 'sleep', '100']);
    const [first = 0] = readFileSync(`${cgroups(crashed)[0]}/cgroup.procs`, 'utf8')
      .split('\n')
      .map(Number);
    const keeper = Number(stat(Number(stat(first)[1]))[1]);
    process.kill(keeper, 'SIGKILL');
    await until('the end of all', () => !alive(first) && !alive(keeper));
    await until('the sweep', async () => {
      await paste(['--sweep']);
      return !existsSync(`/run/barehand/${crashed}`);
    });
    assert.deepEqual([isGone(crashed), isGone(half), alive(living.first)], [true, true, true]);
  },
);

// --all means all of this host: it is tried where there is no other, under cgroup mounts that begin at a cgroup of ours
test('--all stops every container of ours', { skip: container.skip || needs('unshare') }, async () => {
  const name = `${parent}-${newName()}`;
  const folders = readHierarchies().map((hierarchy) => ({
    ...hierarchy,
    folder: join(hierarchy.mountPoint, name),
  }));
  const mounts = folders.map(({ version, controllers, mountPoint }) => {
    const option = controllers.map((word) => (word.startsWith('name=') ? `none,${word}` : word)).join();
    const type = version === 2 ? '-t cgroup2' : `-t cgroup -o ${option}`;
    return `mkdir -p ${mountPoint}; mount ${type} cgroup ${mountPoint}`;
  });
  const join_ = folders.map(({ folder, mountPoint, controllers, version }) => [
    `mkdir ${folder}`,
    ...(controllers.includes('cpuset')
      ? ['cpus', 'mems'].map((file) => `cat ${mountPoint}/cpuset.${file} >${folder}/cpuset.${file}`)
      : []),
    // v2: a cgroup that has controllers below it has no processes, so they go to one inside
    version === 2
      ? `mkdir ${folder}/test; echo 0 >${folder}/test/cgroup.procs`
      : `echo 0 >${folder}/cgroup.procs`,
  ]);
  const inside = `
    set -e
    mount -t tmpfs tmpfs /sys/fs/cgroup
    ${mounts.join('\n')}
    for i in 1 2 3; do "$1" --name all-$i "$2" sleep 100 & done
    until [ "$("$3" --json | grep -c '"engine": "barehand"')" = 3 ]; do sleep 0.2; done
    "$4" --all
    wait
    for i in 1 2; do "$1" --name all-$i "$2" sleep 100 & done
    until [ "$("$3" --json | grep -c '"engine": "barehand"')" = 2 ]; do sleep 0.2; done
    "$4" --all --dry-run >/dev/shm/$$
    sh /dev/shm/$$
    rm /dev/shm/$$
    wait
    "$4" --all`;
  const around = `
    set -e
    ${join_.flat().join('\n')}
    exec unshare --cgroup --mount --pid --fork --kill-child --mount-proc sh -c "$0" sh "$@"`;
  try {
    const words = [script('run'), rootfs, script('ps'), script('stop')];
    const { stdout, stderr, code } = await execute(['sh', '-c', around, inside, ...words]);
    assert.equal(code, 0, stderr);
    assert.deepEqual(
      stdout.trim().split('\n').sort(),
      [1, 2, 3].map((i) => `all-${i}: killed, for its first process does not handle SIGTERM`),
    );
    assert.match(stderr, /stop: there is no container of barehand here/);
  } finally {
    await execute([
      'find',
      ...folders.map(({ folder }) => folder),
      '-depth',
      '-type',
      'd',
      '-exec',
      'rmdir',
      '{}',
      ';',
    ]);
  }
});

test('the stop signal is the one that run.ts was told, and reaches what an init has started', {
  skip: container.skip || needs('tini-static'),
}, async () => {
  const name = newName();
  const command = 'trap "echo asked; exit 3" USR1; echo ready; while :; do sleep 0.1; done';
  const words = ['-d', '--init', '--stop-signal', 'USR1', '--name', name, rootfs, 'sh', '-c', command];
  assert.equal((await call('run', words)).stdout, `${name}\n`);
  await until('it to be ready', async () => (await call('logs', [name])).stdout === 'ready\n');
  assert.equal(readFileSync(`/run/barehand/${name}/stop-signal`, 'utf8'), 'USR1\n');
  const { stdout } = await stop(name);
  assert.equal(stdout, `${name}: ended after SIGUSR1\n`);
  assert.equal(existsSync(`/run/barehand/${name}`), false);
});

test(
  'what ended in the background is known until stop.ts removes its log; --sweep leaves it alone',
  container,
  async () => {
    const name = newName();
    await call('run', ['-d', '--name', name, rootfs, 'sh', '-c', 'echo done; exit 4']);
    await until('its end', async () => (await call('logs', ['--status', name])).stdout === '4\n');
    assert.equal((await stop('--sweep')).code, 0);
    assert.equal((await call('logs', [name])).stdout, 'done\n');
    assert.equal((await stop(name)).stdout, `${name}: had ended, its log is removed\n`);
    assert.match((await stop(name)).stderr, /there is no container/);
  },
);

test('--sweep removes the log of one whose launcher was killed', container, async () => {
  const name = newName();
  await call('run', ['-d', '--name', name, rootfs, 'sleep', '100']);
  const [first] = readFileSync(`${cgroups(name)[0]}/cgroup.procs`, 'utf8')
    .split('\n')
    .map(Number);
  // it has the folder of the log open, under a lock
  const holdsNotes = (pid: string) =>
    attempt(() => readdirSync(`/proc/${pid}/fd`))?.some(
      (fd) => attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`)) === `/run/barehand/${name}`,
    );
  const keeper = Number(readdirSync('/proc').find((pid) => /^\d+$/.test(pid) && holdsNotes(pid)));
  process.kill(keeper, 'SIGKILL');
  await until('the end of all', () => !alive(first as number) && !alive(keeper));
  assert.match((await call('logs', ['--status', name])).stderr, /was killed/);
  await until('the sweep', async () => {
    await stop('--sweep');
    return !existsSync(`/run/barehand/${name}`);
  });
  assert.deepEqual(
    cgroups(name).filter((path) => existsSync(path)),
    [],
  );
});
