// What is said when the kernel kills processes of a container for lack of memory, and of limits that are too small.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { findHierarchy, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { attempt } from '../scripts/helpers/pids.ts';
import { parseLoggedKill } from '../scripts/limit/oom.ts';
import { describeOomKills, type OomKills, parseOomKills } from '../scripts/limit/oom-kills.ts';
import { memoryFiles } from '../scripts/limit/table.ts';
import type { Launch } from '../scripts/run/container.ts';
import { limitFailure } from '../scripts/run/killed.ts';
import { backgroundName, ended, kept } from './helpers/background.ts';
import { cgroups, commandOf, container, memory, newName, start } from './helpers/container.ts';
import { call, execute, rootfs, script, top, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const kill: OomKills = {
  count: 1,
  level: 'own',
  cgroup: '/barehand/web',
  limitBytes: 100 * 1024 ** 2,
  process: { pid: 123, name: 'tail', residentBytes: 99.6 * 1024 ** 2 },
  at: null,
};
const raise = (size: string) => `--memory ${size}`;
const described = (fields: Partial<OomKills>) =>
  describeOomKills({ ...kill, ...fields }, raise, {
    version: 2,
    controllers: [],
    mountPoint: '/no/such',
    root: '/',
  });

test('a kill is told in one line, with its process, its limit, and what raises that', () => {
  const who = 'the kernel killed tail (PID 123)';
  const use = ', with 99.6 MiB in use: ';
  assert.equal(described({}), `${who} at the memory limit of 100 MiB${use}raise it with --memory 200M`);
  assert.equal(
    described({ count: 3, limitBytes: 1024 ** 3 }),
    `the kernel killed 3 processes, at last tail (PID 123), at the memory limit of 1 GiB${use}raise it with --memory 2G`,
  );
  assert.match(described({ limitBytes: 99999744 }), /--memory 192M$/);
  assert.equal(
    described({ process: null }),
    'the kernel killed a process at the memory limit of 100 MiB: raise it with --memory 200M',
  );
  assert.equal(
    described({ level: 'parent', cgroup: '/pods' }),
    `${who} at the memory limit of 100 MiB of /pods, a cgroup above the container${use}raise that one`,
  );
  assert.match(described({ level: 'host', cgroup: null, limitBytes: null }), /the host is out of memory/);
  assert.match(described({ level: null, cgroup: null, limitBytes: null }), /does not say whose/);
  assert.ok(!described({ process: { pid: 1, name: 'a\nb', residentBytes: 1 } }).includes('\n'));
});

test('what oom-kills.sh has kept is read, with records of this container only', () => {
  const log = (seconds: number, cgroup: string, pid: number) =>
    `<6>[${seconds}.5] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=${cgroup},task_memcg=/barehand/web,task=tail,pid=${pid},uid=0`;
  const facts = 'oom_kill 2\ncgroup /barehand/web\nsince 5000\nlimit 104857600\n';
  const size =
    '<3>[5001.6] Memory cgroup out of memory: Killed process 9 (tail) total-vm:9kB, anon-rss:100kB, file-rss:7kB, shmem-rss:20kB, UID:0';
  assert.equal(parseLoggedKill(log(5, '/a', 7))?.sinceBootSeconds, 5.5);
  assert.equal(parseOomKills('137\n', undefined), null);
  const { at, ...own } =
    parseOomKills(`137\n${facts}${log(1e9, '/barehand/web', 9)}\n${size}\n`, undefined) ?? {};
  assert.ok(at);
  assert.deepEqual(own, {
    count: 2,
    level: 'own',
    cgroup: '/barehand/web',
    limitBytes: 104857600,
    process: { pid: 9, name: 'tail', residentBytes: 120 * 1024 },
  });
  assert.equal(parseOomKills(`137\n${facts}${log(1e9, '/', 9)}\n`, undefined)?.level, 'parent');
  const unknown = { count: 2, process: null, at: null };
  const early = parseOomKills(`137\n${facts}${log(1, '/barehand/web', 9)}\n`, undefined);
  assert.deepEqual(early, { ...unknown, level: null, cgroup: null, limitBytes: null });
  const counted = parseOomKills(`137\n${facts}oom 1\n`, undefined);
  assert.deepEqual(counted, { ...unknown, level: 'own', cgroup: '/barehand/web', limitBytes: 104857600 });
});

const run = (...words: string[]) => call('run', words);
/** Runs a program of sh in a container with 20 MiB. */
const runShell = (options: string[], program: string) =>
  run(...options, '--memory', '20M', rootfs, 'sh', '-c', program);
const line = (before: string, after: string) =>
  new RegExp(
    `^${before}the kernel killed tail \\(PID \\d+\\) at the memory limit of 20 MiB, with 1\\d(\\.\\d)? MiB in use: raise it with ${after}$`,
    'm',
  );

test(
  'run.ts tells of a kill, whatever becomes of the command; of another SIGKILL it says nothing',
  container,
  async () => {
    const name = newName();
    const said = line(`run: ${name}: `, '--memory 40M');
    const eater = await run('--name', name, '--memory', '20M', rootfs, 'tail', '/dev/zero');
    assert.equal(eater.code, 137);
    assert.match(eater.stderr, said);
    const swaps = await run('--memory', '20M', '--memory-swap', '21M', rootfs, 'tail', '/dev/zero');
    const countsSwap = memory.version === 2 ? '/proc/swaps' : join(memory.mountPoint, memoryFiles[1].swap);
    if (existsSync(countsSwap)) assert.match(swaps.stderr, / with --memory 40M --memory-swap 42991616\n$/);
    const handles = await runShell(['--name', name], 'tail /dev/zero; exit 5');
    assert.equal(handles.code, 5);
    assert.match(handles.stderr, said);
    const other = await runShell([], 'kill -KILL $$; sleep 9 & kill -KILL $!; exit 137');
    assert.deepEqual([other.code, /kernel/.test(other.stderr)], [137, false], other.stderr);
  },
);

test('without the log, run.ts tells that there was one, and the limit', container, async () => {
  const words = [script('run'), '--memory', '20M', rootfs, 'tail', '/dev/zero'];
  const blind = ['unshare', '-m', 'sh', '-c', 'mount --bind /dev/null /dev/kmsg && exec "$@"', 'sh'];
  const { code, stderr } = await execute([...blind, process.execPath, '--', ...words]);
  assert.equal(code, 137);
  assert.match(
    stderr,
    /the kernel killed a process at the memory limit of 20 MiB: raise it with --memory 40M\n$/,
  );
});

test('logs.ts --status tells of a kill after the end, and while the container lives', container, async () => {
  const name = backgroundName();
  const { stderr } = await runShell(['-d', '--name', name], 'sleep 0.3; exec tail /dev/zero');
  assert.ok(!stderr.includes('kernel'), stderr);
  await ended(name);
  const status = await call('logs', ['--status', name]);
  assert.equal(status.stdout, '137\n');
  assert.match(status.stderr, line(`logs: ${name}: `, '--memory 40M'));
  assert.equal((await call('logs', [name])).stdout, '');
  const { oomKills, ...rest } = JSON.parse((await call('logs', ['--json', '--status', name])).stdout);
  assert.deepEqual(rest, { name, status: 'ended', exitCode: 137, oomKilled: true });
  assert.deepEqual([oomKills.count, oomKills.level, oomKills.process.name], [1, 'own', 'tail']);
  assert.match(kept(name, 'status'), /^137\noom_kill 1\n/);
  // ps.ts lists it, and says the same
  const list = await call('ps', ['-a', '--json']);
  const row = JSON.parse(list.stdout).find((one: { name: string }) => one.name === name);
  assert.deepEqual([row.ended.code, row.ended.oomKilled], [137, true]);
  // the clock since boot has hundredths of a second
  assert.deepEqual({ ...row.oomKills, at: null }, { ...oomKills, at: null });
  assert.ok(Math.abs(Date.parse(row.oomKills.at) - Date.parse(oomKills.at)) < 1000);
  assert.match(list.stderr, line(`ps: ${name}: `, '--memory 40M'));
  assert.match(
    (await call('ps', [name])).stderr,
    / has ended, .*; the kernel killed tail .* --memory 40M\n$/,
  );

  const living = backgroundName();
  const started = await runShell(['-d', '--name', living], 'tail /dev/zero; sleep 1000');
  assert.equal(started.code, 0, started.stderr);
  const json = async () => JSON.parse((await call('logs', ['--json', '--status', living])).stdout);
  await until('the kill', async () => (await json()).oomKilled);
  const running = await call('logs', ['--status', living]);
  assert.equal(running.stdout, 'running\n');
  const [, remedy] = /raise it with (.*)\n$/.exec(running.stderr) ?? [];
  assert.match(running.stderr, line(`logs: ${living}: `, `\\S*limit-memory\\.\\w+ ${living} 40M`));
  // exec.ts says it too, by the relative path that was typed, though it leaves the working directory
  const relative = await execute(['scripts/exec.ts', living, 'tail', '/dev/zero']);
  assert.equal(relative.code, 137, relative.stderr);
  assert.match(relative.stderr, line(`exec: ${living}: `, `scripts/limit-memory\\.ts ${living} 40M`));
  const { code, stderr: failed } = await execute(['sh', '-c', remedy as string]);
  assert.equal(code, 0, failed);
  const calm = await json();
  assert.deepEqual([calm.status, calm.exitCode], ['running', null]);
});

test(
  'what a launcher has yet to read is not swept by another launch, nor by stop.ts',
  container,
  async () => {
    const name = newName();
    const words = ['--name', name, '--memory', '20M', rootfs, 'sh', '-c', 'read _; exec tail /dev/zero'];
    const launcher = spawn(script('run'), words, { stdio: ['pipe', 'ignore', 'pipe'] });
    const said = text(launcher.stderr);
    const end = once(launcher, 'exit');
    try {
      const [directory = ''] = cgroups(name);
      const members = () => attempt(() => readFileSync(join(directory, 'cgroup.procs'), 'utf8').trim());
      await until('the shell', () => {
        const pid = members();
        return commandOf(Number(pid)).join(' ') === words.slice(-3).join(' ');
      });
      // and the end of the launch, with which the lock comes free
      const lockPath = join(directory, '../..');
      await until(
        'the lock',
        async () => (await execute(['flock', '--nonblock', lockPath, 'true'])).code === 0,
      );
      launcher.kill('SIGSTOP');
      launcher.stdin.end('\n');
      await until('the kill', () => members() === '');
      const other = await run(rootfs, 'true');
      assert.equal(other.code, 0, other.stderr);
      const { stdout } = await call('stop', ['--sweep']);
      assert(!stdout.includes(name), stdout);
    } finally {
      launcher.kill('SIGCONT');
    }
    assert.deepEqual(await end, [137, null]);
    assert.match(await said, line(`run: ${name}: `, '--memory 40M'));
    assert.deepEqual(cgroups(name).filter(existsSync), []);
  },
);

test(
  'of a container in the background without kills the status is its exit code only',
  container,
  async () => {
    const name = backgroundName();
    await runShell(['-d', '--name', name], 'kill -KILL $$; exit 137');
    await ended(name);
    assert.equal(kept(name, 'status'), '137\n');
    const { stdout, stderr } = await call('logs', ['--json', '--status', name]);
    assert.deepEqual(JSON.parse(stdout), {
      name,
      status: 'ended',
      exitCode: 137,
      oomKilled: false,
      oomKills: null,
    });
    assert.equal(stderr, '');
  },
);

test('exec.ts tells of what was killed while its command ran, and of nothing before', container, async () => {
  const { name } = await start(['--memory', '20M'], ['sleep', '1000']);
  const eater = await call('exec', [name, 'tail', '/dev/zero']);
  assert.equal(eater.code, 137);
  assert.match(eater.stderr, line(`exec: ${name}: `, `\\S*limit-memory\\.\\w+ ${name} 40M`));
  const other = await call('exec', [name, 'sh', '-c', 'kill -KILL $$']);
  assert.ok(!other.stderr.includes('kernel'), other.stderr);
  const again = await call('exec', [name, 'sh', '-c', 'tail /dev/zero; exit 3']);
  assert.equal(again.code, 3);
  assert.match(again.stderr, line(`exec: ${name}: `, '.*'));
});

test('a launch that its own limits end says so', container, async () => {
  const launch = (directory: string) => ({ name: 'web', cgroups: { directories: [directory] } }) as Launch;
  const within = async (controller: string, file: string, value: string, program: string) => {
    const hierarchy = findHierarchy(readHierarchies(), controller);
    if (!hierarchy) return undefined;
    const directory = join(hierarchy.mountPoint, newName());
    if (hierarchy.version === 2)
      writeFileSync(join(hierarchy.mountPoint, 'cgroup.subtree_control'), `+${controller}`);
    mkdirSync(directory);
    try {
      writeFileSync(join(directory, file), value);
      const swap = join(directory, memoryFiles[memory.version].swap);
      if (existsSync(swap)) writeFileSync(swap, memory.version === 1 ? value : '0');
      await execute(['sh', '-c', `echo 0 >${directory}/cgroup.procs; ${program}`]);
      await until('its end', () => readFileSync(join(directory, 'cgroup.procs'), 'utf8') === '');
      return (await limitFailure(launch(directory), 0))?.message;
    } finally {
      rmdirSync(directory);
    }
  };
  const { limit } = memoryFiles[memory.version];
  assert.match(
    (await within('memory', limit, String(20 * 1024 ** 2), 'exec tail /dev/zero')) ?? '',
    /^web could not start: the kernel killed tail .* at the memory limit of 20 MiB.*: raise it with --memory 40M$/,
  );
  const pids = await within('pids', 'pids.max', '1', 'sleep 0; true');
  assert.match(pids ?? 'reached its limit of 1 processes', /reached its limit of 1 processes/);
  assert.equal(await within('memory', limit, String(20 * 1024 ** 2), 'true'), undefined);
});

test('a limit in which nothing starts is refused, and nothing is made', container, async () => {
  const refused = async (pattern: RegExp, ...words: string[]) => {
    const name = newName();
    const { code, stderr } = await run('--name', name, ...words, rootfs, 'true');
    assert.equal(code, 125);
    assert.match(stderr, pattern);
    assert.ok(cgroups(name).every((directory) => !existsSync(directory)));
  };
  const least = 'no container starts in';
  await refused(
    new RegExp(`^run: --memory: ${least} 100 B, 6 MiB is the least: did you mean 100M\\?\\n`),
    '--memory',
    '100',
  );
  await refused(/100 KiB, 6 MiB is the least: did you mean 100M\?/, '--memory', '100k');
  await refused(/5 MiB, 6 MiB is the least\n/, '--memory', '5M');
  await refused(/^run: --pids-limit 1 with --init: .* 2 processes/, '--pids-limit', '1', '--init');
});

slow('a container starts in the smallest limits', container, async () => {
  for (const words of [
    ['--memory', '6M', '--init'],
    ['--pids-limit', '2', '--init'],
    ['--pids-limit', '1'],
  ]) {
    const { code, stderr } = await run(...words, rootfs, 'true');
    assert.equal(code, 0, `${words.join(' ')}: ${stderr}`);
  }
  // with python3 the filter is loaded by a larger program
  const hidden = 'mount --bind /dev/null "$(readlink -f /usr/bin/perl)" && exec "$@"';
  if (!existsSync('/usr/bin/perl') || !existsSync('/usr/bin/python3')) return;
  const words = ['unshare', '-m', 'sh', '-c', hidden, 'sh', process.execPath, '--', script('run')];
  const { code, stderr } = await execute([...words, '--memory', '6M', rootfs, '/bin/true'], { cwd: top });
  assert.equal(code, 0, stderr);
});
