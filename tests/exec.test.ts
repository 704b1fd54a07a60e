import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, test as quick } from 'node:test';
import { checkRoom } from '../scripts/exec/room.ts';
import { readHierarchies } from '../scripts/helpers/cgroups.ts';
import { attempt, readProcesses, statusField } from '../scripts/helpers/pids.ts';
import { findProgram, quote } from '../scripts/helpers/shell.ts';
import {
  alive,
  cgroups,
  commandOf,
  findCommand,
  found,
  container as hosts,
  memoryFile,
  namespace,
  newName,
  newSeconds,
  type Running,
  start,
  startByHand,
  stat,
} from './helpers/container.ts';
import { engines, makeBundle, programOf, withEngine, withRunc } from './helpers/engines.ts';
import { enter as enterBy, left, paste, signalArrives } from './helpers/enter.ts';
import { hiding } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, rootfs, script, top, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const scratch = scratchFolder('exec', 0o755);

/** What enters: perl, or where exec-python.test.ts says that there is none, python3. */
const tool = process.env.BAREHAND_LACKS === 'perl' ? 'python3' : 'perl';
const toolPath = attempt(() => realpathSync(findProgram(tool) as string)) ?? tool;
const launch = tool === 'perl' ? [script('exec')] : hiding(['perl'], [script('exec')]);
const container = { skip: hosts.skip || needs(tool) };

/** `npm test` asks little of python3: most hosts have perl. */
const test = tool === 'perl' ? quick : slow;

/** The same as one word, for a shell. */
const starter = join(scratch, 'start');
writeFileSync(starter, `#!/bin/sh\nexec ${launch.map(quote).join(' ')} "$@"\n`, { mode: 0o755 });

const exec = (...words: string[]) => execute([...launch, ...words]);
/** What a shell program prints in a container. */
async function printed(target: string, program: string, ...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await exec(...words, target, '/bin/sh', '-c', program);
  assert.deepEqual([code, stderr], [0, ''], program);
  return stdout;
}

/** The container that most tests look into. */
let web: Running;
before(async () => {
  if (container.skip) return;
  web = await start(
    ['--network', 'none', '--ulimit', 'nofile=100:200', '-e', 'COLOUR=blue', '-w', '/tmp'],
    ['sleep', '1000'],
  );
});

/** Starts a command that lasts, and gives what it is on the host. */
const enter = (target: string, options: string[] = [], by = launch) => enterBy(by, target, options);

const commandLine = (pid: number) => attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')) ?? '';
/** The PIDs of the processes with this command line. */
const processesOf = (line: string) =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && commandLine(Number(name)) === line)
    .join(' ');

const kinds = ['mnt', 'pid', 'uts', 'ipc', 'net', 'cgroup', 'user', 'time'];
const privileges = ['CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp'];

/** What one process is in, and what it may do. */
function standing(pid: number) {
  const root = statSync(`/proc/${pid}/root`);
  return {
    namespaces: Object.fromEntries(
      kinds.filter((kind) => existsSync(`/proc/self/ns/${kind}`)).map((kind) => [kind, namespace(pid, kind)]),
    ),
    root: [root.dev, root.ino, readlinkSync(`/proc/${pid}/root`)],
    directory: readlinkSync(`/proc/${pid}/cwd`),
    cgroups: readFileSync(`/proc/${pid}/cgroup`, 'utf8'),
    privileges: Object.fromEntries(privileges.map((name) => [name, statusField(pid, name)])),
    user: [statusField(pid, 'Uid'), statusField(pid, 'Gid'), statusField(pid, 'Groups')],
    limits: readFileSync(`/proc/${pid}/limits`, 'utf8'),
  };
}

/** That a command has all that the container's first process has, and gets no more. */
async function assertAlike(target: string, first: number, expected = standing(first)): Promise<void> {
  const { pid, child, end } = await enter(target);
  assert.deepEqual(standing(pid), expected);
  child.kill('SIGTERM');
  assert.deepEqual(await end, [143, null]);
  assert.ok(!alive(pid));
}

quick(
  'a command is where the first process of the container is, and may do what that one may',
  container,
  async () => {
    const { privileges, directory, limits } = standing(web.first);
    // else there would be little to compare
    assert.deepEqual([privileges.CapBnd, privileges.NoNewPrivs], ['00000000a80425fb', '1']);
    assert.equal(directory, '/tmp');
    assert.match(limits, /open files +100 +200 /);
    await assertAlike(web.name, web.first);
    await assertAlike(String(web.first), web.first);
    await assertAlike(String(web.unshare), web.first);
  },
);

test(
  "a command has the umask of --umask, else the first process's, but none that permits more",
  container,
  async () => {
    for (const [options, program, expected] of [
      [['--umask', '007'], 'umask 0', '0007'],
      [[], 'umask 077', '0077'],
      [[], 'umask 0', '0022'],
      [[], 'umask 0002', '0022'],
    ] as const) {
      const seconds = newSeconds();
      const name = newName();
      const run = ['-d', '--name', name, ...options, rootfs, 'sh', '-c', `${program}; exec sleep ${seconds}`];
      assert.equal((await call('run', run)).code, 0);
      try {
        await until('its command', () => findCommand('sleep', seconds));
        const { stdout, stderr } = await exec(name, 'sh', '-c', 'umask');
        assert.deepEqual([stdout, stderr], [`${expected}\n`, ''], program);
        await paste(launch, name, 'umask', expected);
      } finally {
        await call('stop', ['--signal', 'KILL', name]);
      }
    }
  },
);

test('a container without room for another process is named, with what makes room', container, async () => {
  const seconds = newSeconds();
  const { name } = await start(['--pids-limit', '2'], ['sleep', seconds]);
  const pids = cgroups(name).find((directory) => existsSync(join(directory, 'pids.max'))) as string;
  const { code, stderr } = await exec(name, 'true');
  assert.equal(code, 125);
  const [, command] =
    /^exec: no room for COMMAND: \S+ has 1 of at most 2 processes, and entering takes 2: type (.*)\n$/.exec(
      stderr,
    ) ?? [];
  assert.ok(command, stderr);
  assert.equal((await execute(['sh', '-c', command])).code, 0, command);
  assert.equal((await exec(name, 'true')).code, 0);
  // the limit of one above it
  const inner = join(pids, 'inner');
  mkdirSync(inner);
  try {
    writeFileSync(join(pids, 'pids.max'), '2');
    assert.throws(
      () => checkRoom(readHierarchies(), [inner], 'web'),
      (error: Error) =>
        error.message.includes(`the cgroup ${pids}, around web, has 1 of at most 2 processes`),
    );
  } finally {
    rmdirSync(inner);
  }
});

test('-d returns when the command runs, which stays; what cannot be started is told', container, async () => {
  const seconds = newSeconds();
  const words = ['-d', '-it', '-w', '/usr', web.name, 'sh', '-c', `sleep ${seconds}; echo said >&2`];
  const { code, stdout, stderr } = await exec(...words);
  assert.deepEqual([code, stdout, stderr], [0, '', '']);
  const pid = Number(await until('the command', () => /^\d+/.exec(processesOf(`sleep\0${seconds}\0`))?.[0]));
  assert.equal(namespace(pid, 'pid'), namespace(web.first, 'pid'));
  assert.equal(readlinkSync(`/proc/${pid}/cwd`), '/usr');
  for (const fd of [0, 1, 2]) assert.equal(statSync(`/proc/${pid}/fd/${fd}`).rdev, 0x103);
  process.kill(pid, 'SIGTERM');
  await assertEnds([
    [['-d', web.name, 'no-such'], 127, 'exec: no-such: not found in PATH /'],
    [
      ['-d', web.name, '/etc/passwd'],
      126,
      'exec: /etc/passwd is not executable for this user: its mode is 644',
    ],
    [['-d', '-w', '/no/such', web.name, 'true'], 125, 'exec: cannot enter the directory /no/such'],
    [['-d', web.name, 'sh', '-c', 'exit 3'], 0, ''],
  ]);
});

quick('it has nothing of the caller: descriptors, environment, signals, keys', container, async () => {
  const inherited = ['bash', '-c', 'trap "" TERM; exec 5</etc/passwd 200</etc/passwd; exec "$0" "$@"'];
  const program = '/bin/ls /proc/self/fd | xargs; env | sort; grep -E "^Sig(Blk|Ign)" /proc/self/status';
  const { stdout } = await execute(
    [...inherited, ...launch, '-e', 'PATH=/bin', web.name, '/bin/sh', '-c', program],
    { env: { ...process.env, SECRET: 'of the caller' } },
  );
  assert.deepEqual(stdout.split('\n'), [
    '0 1 2 3', // the last is ls reading the folder
    'COLOUR=blue',
    'HOME=/root',
    `HOSTNAME=${web.name}`,
    'PATH=/bin',
    'PWD=/tmp',
    `TERM=${process.env.TERM ?? 'xterm'}`,
    'container=barehand',
    'SigBlk:\t0000000000000000',
    'SigIgn:\t0000000000000000',
    '',
  ]);
});

test('-u, -e and -w say otherwise, in the names of the container', container, async () => {
  const program = 'id; pwd; echo $COLOUR-$HOME-$MINE; grep CapEff /proc/self/status';
  const words = ['-u', 'nobody', '-w', '/usr/bin', '-e', 'COLOUR=red', '-e', 'MINE=a = "b"'];
  assert.deepEqual((await printed(web.name, program, ...words)).split('\n'), [
    'uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)',
    '/usr/bin',
    'red-/nonexistent-a = "b"',
    'CapEff:\t0000000000000000',
    '',
  ]);
  assert.equal(await printed(web.name, 'id -u; id -g; pwd', '-u', '12:34'), '12\n34\n/tmp\n');
});

/** That calls end with these codes, and say what begins with these messages, if anything. */
async function assertEnds(calls: [words: string[], code: number, message: string][]): Promise<void> {
  const results = await Promise.all(calls.map(([words]) => exec(...words)));
  for (const [index, [words, code, message]] of calls.entries()) {
    const { code: ended, stderr, stdout } = results[index] as (typeof results)[0];
    assert.equal(stderr.slice(0, message.length), message);
    assert.deepEqual([ended, stdout, stderr === ''], [code, '', message === ''], words.join(' '));
  }
}

quick("the exit code is the command's own, and tells what could not be", container, async () => {
  const calls: [words: string[], code: number, message: string][] = [
    [[web.name, '/bin/sh', '-c', 'exit 42'], 42, ''],
    [[web.name, '/bin/sh', '-c', 'kill -KILL $$'], 137, ''],
    [[web.name, '/bin/sh', '-c', 'kill -TERM $$'], 143, ''],
    [[web.name, 'no-such'], 127, 'exec: no-such: not found in PATH /'],
    [[web.name, '/etc/passwd'], 126, 'exec: /etc/passwd is not executable for this user: its mode is 644\n'],
    [['-w', '/no/such', web.name, 'true'], 125, 'exec: cannot enter the directory /no/such: No such file'],
    [['-u', 'alice', web.name, 'true'], 125, 'exec: no user alice in the container: /etc/passwd'],
  ];
  await assertEnds(calls);
});

/** Runs a shell program of the host's that calls exec.ts as $EXEC: only a shell makes pipes, node makes sockets. */
const inShell = (program: string, env: NodeJS.ProcessEnv = {}) =>
  execute(['sh', '-c', program], {
    cwd: scratch,
    env: { ...process.env, EXEC: starter, NAME: web.name, ...env },
  });

test('standard streams can be opened by name by a user without root', container, async () => {
  const program = `'cat /dev/stdin; echo out >>/dev/stdout; echo err >>/dev/stderr'`;
  const piped = await inShell(`{ echo in | $EXEC -u nobody $NAME sh -c ${program}; } 2>&1 | cat`);
  assert.deepEqual([piped.stdout, piped.stderr], ['in\nout\nerr\n', '']);
  writeFileSync(join(scratch, 'in'), 'in\n');
  const { code, stderr } = await inShell(`$EXEC -u nobody $NAME sh -c ${program} <in >out 2>err`);
  assert.deepEqual([code, stderr], [0, '']);
  assert.equal(readFileSync(join(scratch, 'out'), 'utf8'), 'in\nout\n');
  assert.equal(readFileSync(join(scratch, 'err'), 'utf8'), 'err\n');
  assert.equal(statSync(join(scratch, 'out')).uid, 65534);
  assert.equal(statSync(join(scratch, 'in')).uid, 0, 'a file that is only read stays whose it is');
  // root may open them as they are
  assert.equal((await inShell('$EXEC $NAME sh -c "echo out >/dev/stdout" >roots')).code, 0);
  await inShell('chown 1234 roots; $EXEC $NAME sh -c "echo out >/dev/stdout" >>roots');
  assert.equal(statSync(join(scratch, 'roots')).uid, 1234);
});

for (const node of [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean))
  test(`standard streams block as they did, on ${node}`, container, async () => {
    const start = [...launch.slice(0, -1), node, script('exec')].map(quote).join(' ');
    const run = (program: string) => inShell(program.replace('$EXEC', start));
    const late = await run(
      'head -c 3000000 /dev/zero | { $EXEC $NAME cat; head -c 1000000 /dev/zero; } | (sleep 0.5; wc -c)',
    );
    assert.deepEqual([late.stdout, late.stderr], ['4000000\n', '']);
    const waits = await run('(sleep 0.5; echo late) | { $EXEC $NAME cat; }');
    assert.deepEqual([waits.stdout, waits.stderr], ['late\n', '']);
  });

test("what can't be is refused in a clear line, with 125", {
  skip: container.skip || needs('speed'),
}, async () => {
  await assertEnds([
    [['-e', '=x', web.name, 'true'], 125, 'exec: not KEY=VALUE: "=x"'],
    [['--host-tools', '-u', '0', web.name, 'true'], 125, 'exec: --host-tools keeps the user and privileges'],
    [[web.name], 125, 'exec: COMMAND is missing'],
    [
      ['no-such-container', 'true'],
      125,
      `exec: there is no container no-such-container: ${script('ps')} shows`,
    ],
    [[String(process.pid), 'true'], 125, `exec: ${process.pid} is in no container, and holds none`],
  ]);
});

test("what goes in and out goes byte for byte, and -- is a word of the command's own", container, () => {
  const input = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7 + (index >> 8)) & 255));
  const { stdout, stderr } = spawnSync(
    launch[0] as string,
    [
      ...launch.slice(1),
      web.name,
      '/bin/sh',
      '-c',
      'cat; printf "%s\\377" "$@" >&2',
      'sh',
      '-u',
      '--',
      'a\nb',
    ],
    { input, maxBuffer: 1e7 },
  );
  assert.ok(stdout.equals(input));
  assert.deepEqual(stderr, Buffer.from('-u\xff--\xffa\nb\xff', 'latin1'));
});

test(
  'a signal reaches the command, and SIGKILL of exec.ts or of what waits for it kills it',
  container,
  async () => {
    await signalArrives(launch, web.name);

    for (const whom of ['exec.ts', 'its waiting process']) {
      const { pid, child, end } = await enter(web.name);
      const waiting = Number(stat(pid)[1]);
      process.kill(whom === 'exec.ts' ? (child.pid as number) : waiting, 'SIGKILL');
      await end;
      await until('its end', () => !alive(pid) && !alive(waiting));
    }
  },
);

test('a command that eats memory is killed by the limit of the container', container, async () => {
  const { name, first } = await start(['--memory', '32M'], ['sleep', '1000']);
  const { code } = await exec(name, 'tail', '/dev/zero');
  assert.equal(code, 137);
  assert.match(memoryFile(name, 'oomKills'), /oom_kill [1-9]/);
  assert.ok(alive(first));
});

test('it is in the cgroups before it is anywhere else', container, async () => {
  const { name, first } = await start([], ['sleep', '1000']);
  const { stdout } = await exec('--dry-run', name, 'true');
  const folders = cgroups(name);
  const inside = () =>
    new Set(folders.flatMap((path) => readFileSync(join(path, 'cgroup.procs'), 'utf8').trim().split('\n')));
  const known = inside();
  // what joins a frozen cgroup stands still, and can be looked at
  assert.equal((await call('stop', ['--pause', name])).code, 0);
  const { code, stderr } = await exec(name, 'true');
  assert.deepEqual(
    [code, stderr],
    [125, `exec: ${first} is paused: type ${script('stop')} --resume ${first}\n`],
  );
  const child = spawn('sh', ['-c', stdout], { stdio: 'ignore' });
  left.push(child);
  const end = once(child, 'exit');
  const pid = Number(await until('it to join', () => [...inside()].find((pid) => !known.has(pid))));
  for (const kind of ['pid_for_children', 'uts', 'ipc', 'cgroup'])
    assert.equal(namespace(pid, kind), namespace('self', kind));
  assert.notEqual(namespace(pid, 'mnt'), namespace(first, 'mnt'));
  assert.equal(readlinkSync(`/proc/${pid}/exe`), toolPath);
  await call('stop', ['--resume', name]);
  assert.deepEqual(await end, [0, null]);
});

test("where the cgroup can't be joined nothing is run", {
  skip: container.skip || needs('unshare'),
}, async () => {
  const blind = 'umount -R -l /sys/fs/cgroup; exec "$@"';
  const words = [...launch, String(web.first), 'touch', '/ran'];
  const { code, stderr } = await execute(['unshare', '--mount', 'sh', '-c', blind, 'sh', ...words]);
  assert.match(stderr, /^exec: cannot join the cgroup .*: it is not mounted here$/m);
  assert.equal(code, 125);
  assert.equal(existsSync(join(rootfs, 'ran')), false);
});

test('--privileged lifts what holds the container back', container, async () => {
  const { pid, child, end } = await enter(web.name, ['--privileged']);
  assert.deepEqual(standing(pid).namespaces, standing(web.first).namespaces);
  assert.deepEqual(standing(pid).cgroups, standing(web.first).cgroups);
  const caller = Object.fromEntries(privileges.map((name) => [name, statusField(process.pid, name)]));
  assert.deepEqual(standing(pid).privileges, caller);
  child.kill();
  await end;
});

test('--dry-run prints what has the same effect, and that of one process only', container, async () => {
  const stdout = await paste(launch, web.name, 'echo "$A" $PPID', "it's 0");
  const others = stdout.replace(/("\$\{20\}" = )\d+/, '$11');
  const later = await execute(['sh', '-c', others]);
  assert.match(later.stderr, /^exec: process \d+ has ended, and another has its PID$/m);
  assert.equal(later.code, 125);

  const { first, end } = await startByHand(['sleep', '1000']);
  const ended = (await exec('--dry-run', String(first), 'true')).stdout;
  process.kill(first, 'SIGKILL');
  await end;
  const { code, stderr } = await execute(['sh', '-c', ended]);
  assert.deepEqual([code, stderr], [125, `exec: process ${first} has ended\n`]);
});

test('--host-tools: the programs of the host, in the network and among the processes of the container', {
  skip: container.skip || needs('ip', 'ps'),
}, async () => {
  const program =
    'ls -d /work /proc/[0-9]* | wc -l; ip -brief link | cut -d" " -f1; hostname; pwd; ps -e -o pid=,args=';
  const { stdout, stderr } = await call(
    'exec',
    ['--host-tools', web.name, 'sh', '-c', program.replace('/work ', `${scratch} `)],
    { cwd: scratch },
  );
  assert.equal(stderr, '');
  assert.match(stdout, new RegExp(`^\\d\nlo\n${web.name}\n${scratch}\n +1 sleep 1000\n`));
  const { pid, child, end } = await enter(web.name, ['--host-tools']);
  const { cgroups, privileges } = standing(pid);
  assert.equal(cgroups, standing(process.pid).cgroups);
  assert.deepEqual(privileges, standing(process.pid).privileges);
  child.kill();
  assert.deepEqual(await end, [143, null]);
  await until('its end', () => !alive(pid));
});

slow(
  'once it is in the container, what enters opens nothing there',
  {
    skip: container.skip || needs('strace'),
  },
  async () => {
    const trace = join(scratch, 'trace');
    for (const words of [['true'], ['no-such'], ['-w', '/no/such', 'true']]) {
      const command = words.pop() as string;
      const strace = ['strace', '-f', '-o', trace, '-e', 'trace=open,openat,openat2,execve,chroot'];
      await execute([...strace, ...launch, '-u', 'nobody', ...words, web.name, command]);
      const lines = readFileSync(trace, 'utf8').split('\n');
      const entered = lines.findIndex((line) => line.includes('chroot(".")'));
      assert.ok(entered > 0, 'it is in the container at some time');
      const executed = lines.findIndex((line, index) => index > entered && / execve\(.* = 0$/.test(line));
      const within = lines.slice(entered, executed < 0 ? undefined : executed);
      assert.deepEqual(
        within.filter((line) => / open/.test(line)),
        [],
      );
    }
  },
);

slow(
  'what has lost its parent on the way in starts nothing',
  {
    skip: container.skip || needs('speed'),
  },
  async () => {
    const { stdout } = await exec('--dry-run', web.name, 'sh', '-c', 'echo started');
    const orphan = stdout.replace('\n  enter=', '\n  parent=1 enter=');
    assert.notEqual(orphan, stdout);
    const { code, stdout: said } = await execute(['sh', '-c', orphan]);
    assert.deepEqual([code, said], [125, '']);

    const seconds = newSeconds();
    for (let delay = 0; delay < 200; delay += 10) {
      const [program = '', ...words] = [...launch, web.name, 'sleep', seconds];
      const child = spawn(program, words, { stdio: 'ignore' });
      const end = once(child, 'exit');
      await new Promise((resolve) => setTimeout(resolve, delay));
      child.kill('SIGKILL');
      await end;
    }
    const isOurs = (pid: number) => commandOf(pid).includes(seconds);
    await until(
      'the end of all',
      () => ![...readProcesses().keys()].some((pid) => alive(pid) && isOurs(pid)),
    );
  },
);

test('containers made by hand: their first process has more, and so has the command', container, async () => {
  const chroot = spawn('chroot', [rootfs, 'sleep', '1001'], { stdio: 'ignore' });
  left.push(chroot);
  const byHand = await startByHand(['sleep', '1003']);
  await until('the chroot', () => commandOf(chroot.pid as number).join(' ') === 'sleep 1001');
  assert.equal(statusField(byHand.first, 'NoNewPrivs'), '0');
  await Promise.all([byHand.first, chroot.pid as number].map((pid) => assertAlike(String(pid), pid)));
});

test("one of root's in a user namespace", container, async (t) => {
  const { code, stderr } = await execute(['timeout', '20', script('run'), '--userns', rootfs, 'true']);
  if (code !== 0) return t.skip(stderr); // not every file system can be mounted with mapped IDs
  const { first, name } = await start(['--userns'], ['sleep', '1002']);
  await assertAlike(name, first);
  assert.equal(await printed(name, 'id -u; id -G', '-u', 'nobody'), '65534\n65534\n');
});

test('one in a user namespace is entered by the user whose it is, and by root', {
  skip: container.skip || needs('user-namespaces'),
}, async () => {
  const copy = join(scratch, 'exec.mjs');
  cpSync(join(top, 'dist/exec.mjs'), copy);
  const unshare = ['unshare', '--user', '--map-root-user', '--mount-proc', '--pid', '--fork', '--kill-child'];
  const holder = spawn('setpriv', [...become(65534).slice(1), ...unshare, 'sleep', '1004'], {
    stdio: 'ignore',
    cwd: '/',
  });
  left.push(holder);
  const first = await until('its first process', () =>
    [...readProcesses().values()].find(
      ({ pid, ppid }) => ppid === holder.pid && commandOf(pid).join(' ') === 'sleep 1004',
    ),
  );
  const words = [...(tool === 'perl' ? [] : hiding(['perl'], [])), ...become(65534), process.execPath, copy];
  const { pid, child, end } = await enter(String(first.pid), [], words);
  assert.deepEqual(standing(pid), standing(first.pid));
  child.kill();
  await end;
  await assertAlike(String(first.pid), first.pid);
  const { code, stderr } = await execute([...words, String(web.first), 'true']);
  assert.deepEqual(
    [code, stderr],
    [125, `exec: process ${web.first} belongs to another user: needs root: try sudo\n`],
  );
});

test('a container of runc', { skip: container.skip || needs('runc') }, async () => {
  const bundle = join(scratch, 'bundle');
  await makeBundle(bundle, ['sleep', '1005']);
  await withRunc(bundle, newName(), async (first) => {
    const expected = standing(first);
    // not what is for programs that know nothing of capabilities
    expected.privileges.CapAmb = '0'.repeat(16);
    await assertAlike(String(first), first, expected);
  });
});

for (const engine of engines)
  test(`a container of ${engine}`, { skip: container.skip || needs(programOf(engine)) }, () =>
    withEngine(engine, newName(), async (sleep) => {
      const first = [...readProcesses().values()].find(
        ({ pid, nsPids }) =>
          nsPids.at(-1) === 1 && attempt(() => namespace(pid, 'pid')) === namespace(sleep, 'pid'),
      ) as { pid: number };
      const expected = standing(first.pid);
      // as root it has less than all of its bounding set, which is what root gets at every execve(2)
      expected.privileges.CapBnd = expected.privileges.CapPrm as string;
      await assertAlike(String(first.pid), first.pid, expected);
    }),
  );

/** Starts a container on a root of its own, which is out to get the host. */
async function startHostile(options: string[]): Promise<Running & { root: string }> {
  const name = newName();
  const root = join(scratch, name);
  await execute(['cp', '-a', rootfs, root]);
  // what the host's perl would need, if it ran in there
  for (const [path] of (await execute(['ldd', toolPath])).stdout.matchAll(/\/\S+/g))
    await execute(['cp', '-nL', path, join(root, path)]);
  const command = ['/bin/bash', '-c', 'while :; do read -t 1; done'];
  const launcher = spawn(script('run'), ['--name', name, ...options, root, ...command], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const end = once(launcher, 'exit') as Running['end'];
  return { ...(await found(name, launcher, end, command)), root };
}

/** A hostile container with no more capabilities than others. */
let plain: Pick<Running & { root: string }, 'name' | 'root'>;

quick('a hostile container: none of its programs but COMMAND is run', container, async () => {
  const { name, root } = await startHostile([]);
  plain = { name, root };
  for (const program of 'sh env setpriv nsenter unshare mount chroot setsid perl python3 script'.split(' ')) {
    const path = join(root, 'usr/bin', program);
    rmSync(path, { force: true });
    writeFileSync(path, '#!/bin/bash\necho "$0 $(id)" >>/caught\n', { mode: 0o755 });
  }
  const { code } = await exec('-u', 'nobody', '-e', 'A=b', '-w', '/tmp', name, '/bin/true');
  assert.deepEqual([code, existsSync(join(root, 'caught'))], [0, false]);
  await exec(name, 'perl');
  assert.match(readFileSync(join(root, 'caught'), 'utf8'), /^\/usr\/bin\/perl uid=0/);
});

test(
  "what enters can't be looked into from inside, nor the host's program be written to",
  container,
  async () => {
    const tracing = await startHostile(['--cap-add', 'SYS_PTRACE']);
    /** Tries all that could be of use with the process that enters, which is halted just before it is the command. */
    const attack = async (name: string) => {
      const { stdout: text } = await exec('--dry-run', name, 'true');
      const halted = text
        .replace('sysread $go,', 'select undef, undef, undef, 99; sysread $go,')
        .replace('if not os.read(go, 1)', 'select.select([], [], [], 99)\n    if not os.read(go, 1)');
      assert.notEqual(halted, text);
      const child = spawn('sh', ['-c', halted], { stdio: 'ignore' });
      left.push(child);
      const end = once(child, 'exit');
      const { nsPids } = await until('it to be inside', () =>
        [...readProcesses().values()].find(
          ({ pid, nsPids }) =>
            nsPids.length > 1 &&
            commandOf(pid)[0]?.startsWith('exec.ts: true') &&
            standing(pid).cgroups.includes(name),
        ),
      );
      const tries = `cd /proc/${nsPids.at(-1)}; for at in exe cwd root fd/0; do readlink $at || echo no $at; done
      cat environ maps || echo no memory; : >exe || :`;
      const { stdout, stderr } = await exec(name, '/bin/bash', '-c', tries);
      child.kill('SIGKILL');
      await end;
      return { stdout, stderr };
    };
    const seen = await Promise.all([attack(plain.name), attack(tracing.name)]);
    assert.equal(seen[0].stdout, 'no exe\nno cwd\nno root\nno fd/0\nno memory\n');
    assert.match(seen[0].stderr, /exe: Permission denied/);
    // who may trace it sees it, and that is all
    assert.ok(seen[1].stdout.startsWith(`${toolPath}\n/\n/\n/dev/null\n`), seen[1].stdout);
    assert.match(seen[1].stderr, /exe: Read-only file system/);

    // python3 can't be an interpreter without its library
    if (tool !== 'perl') return;
    // CVE-2019-5736: the container has the entering program itself run as an interpreter
    writeFileSync(
      join(plain.root, 'trap'),
      `#!/proc/self/exe
$^F = 99; open my $self, "<", "/proc/self/exe";
print readlink("/proc/self/exe"), "\n"; $| = 1; print "";
exec "/bin/bash", "-c", ": >/proc/self/fd/" . fileno $self;`,
      { mode: 0o755 },
    );
    const { stdout, stderr } = await exec(plain.name, '/trap');
    assert.equal(stdout, '/usr/bin/perl\n');
    assert.match(stderr, /Read-only file system/);
  },
);

/** What expect(1) sees of exec.ts on a terminal. */
async function onTerminal(steps: string): Promise<string> {
  const { stdout, stderr, code } = await execute(['expect', '-c', `set timeout 20\n${steps}`], {
    env: { ...process.env, TERM: 'vt220', SCRIPT: starter, NAME: web.name },
  });
  assert.deepEqual([code, stderr], [0, ''], stdout);
  return stdout;
}

test('on a terminal the command has one of its own, with the size, keys and job control of a terminal', {
  skip: container.skip || needs('expect'),
}, async () => {
  const shown = await onTerminal(String.raw`
    spawn -noecho sh -c {stty rows 33 cols 99; stty -g; echo "of the caller: $(stat -Lc %d:%t:%T /dev/stdin)"
      $SCRIPT -e PS1=ready: $NAME bash --norc --noediting; echo "code $?"; stty -g}
    expect ready:
    send {echo "tty $(tty)" $TERM $(stty size) "job control $-"; stat -Lc "device %d:%t:%T" /dev/stdin}
    send "\r"; expect ready:
    send "sleep 1007\r"; sleep 0.5; send "\032"; expect Stopped; expect ready:
    send "fg\r"; sleep 0.3; send "\003"; expect ready:
    send "echo status \$?\r"; expect ready:
    exec stty rows 44 cols 111 < $spawn_out(slave,name)
    sleep 0.3
    send "echo now \$(stty size)\r"; expect ready:
    send "exit 9\r"; expect eof`);
  assert.match(shown, /^tty \/dev\/pts\/\d+ vt220 33 99 job control \w*m/m);
  assert.match(shown, /^status 130\r$/m);
  assert.match(shown, /^now 44 111\r$/m);
  assert.match(shown, /^code 9\r$/m);
  const [, callers] = /^of the caller: (\S+)\r$/m.exec(shown) ?? [];
  const [, its] = /^device (\S+)\r$/m.exec(shown) ?? [];
  assert.ok(its && callers && its !== callers, `${its} ${callers}`);
  const modes = [...shown.matchAll(/^[0-9a-f]+(:[0-9a-f]+){20,}\r$/gm)].map(([line]) => line);
  assert.equal(modes.length, 2);
  assert.equal(modes[0], modes[1]);
});

test("when the terminal goes, or is not for both directions, the command can't use it", {
  skip: container.skip || needs('expect'),
}, async () => {
  // with output elsewhere the terminal is there to be read, but nobody's controlling terminal
  const shown = await onTerminal(String.raw`
    spawn -noecho sh -c {$SCRIPT $NAME sh -c 'read line; echo "got $line"; echo x >/dev/tty' 2>&1 | cat}
    sleep 1; send "words\r"; expect eof`);
  assert.match(shown, /^got words\r$/m);
  assert.match(shown, /cannot (create|open) \/dev\/tty: No such device or address/);
  const seconds = newSeconds();
  await onTerminal(`spawn -noecho sh -c {exec $SCRIPT $NAME sleep ${seconds}}; sleep 1.5; close; wait`);
  await until('its end', () => !findCommand('sleep', seconds));
});
