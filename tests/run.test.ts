import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { test as quick, test } from 'node:test';
import { cgroupDirectory, cgroupPath, parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { memoryFiles } from '../scripts/limit/table.ts';
import {
  alive,
  cgroups,
  container,
  found,
  memory,
  namespace,
  newName,
  type Running,
  signals,
  start,
  stat,
} from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';
import { shells, test as slow } from './helpers/slow.ts';

const scratch = scratchFolder('run');

const run = (...words: string[]) => call('run', words);
const stdout = async (...words: string[]) => {
  const result = await run(...words);
  assert.equal(result.stderr.replace(/^run: --privileged: .*\n/, ''), '');
  assert.equal(result.code, 0);
  return result.stdout;
};

/** Where a launch without a mount namespace can load its filter of system calls, and so has nothing to say. */
const unwarned = { skip: container.skip || needs('perl') };

for (const [command, code] of [
  [['true'], 0],
  [['sh', '-c', 'exit 42'], 42],
  [['no-such-command'], 127],
  [['/no/such/command'], 127],
  [['/etc/passwd'], 126],
  [['/etc'], 126],
  [['sh', '-c', '(kill -9 $(sh -c "echo \\$PPID"))'], 137],
  [['sh', '-c', "sh -c 'kill -TERM $$'; exit $?"], 143], // bash would become the last command, as PID 1
  [['sh', '-c', 'kill -TERM $$; exit 7'], 7], // the kernel spares PID 1
] as [string[], number][]) {
  test(`${command.join(' ')} ends with ${code}`, container, async () => {
    assert.equal((await run(rootfs, ...command)).code, code);
  });
}

test('wrong usage and a missing rootfs end with 125 and one clear line', {
  skip: needs('speed'),
}, async () => {
  for (const [words, expected] of [
    [[], /operand is missing/],
    [['--no-such-option', rootfs], /unknown option --no-such-option/],
    [['/no/such/rootfs'], /no root file system at \/no\/such\/rootfs/],
    [['--memory', '12X', '/tmp'], /not a size/],
    [['--name', '../etc', '/tmp'], /not a name/],
    [['--name', 'pid-1', '/tmp'], /not a name/],
    [['-e', '=x', '/tmp'], /not KEY=VALUE/],
    [['-w', 'tmp', '/tmp'], /must begin with \//],
    [['--network', 'bride', '/tmp'], /host, none, bridge or container:NAME/],
    [['--cap-add', 'fly', '/tmp'], /no such capability: fly/],
    [['--isolate', 'time-and-space', '/tmp'], /unknown word time-and-space/],
    [['--isolate', 'pid', '--hostname', 'x', '/tmp'], /needs --isolate uts/],
    [['--isolate', 'chroot', '-u', '1', '/tmp'], /needs --isolate mount/],
    [['--isolate', 'chroot', '--cap-drop', 'sys_chroot', '/tmp'], /needs CAP_SYS_CHROOT/],
    [['/'], /the root directory of the host/],
    [['-u', 'nobody-i-know', '/tmp'], /no user nobody-i-know/],
  ] as [string[], RegExp][]) {
    const { code, stderr, stdout } = await run(...words);
    assert.match(stderr, expected);
    assert.equal(code, 125);
    assert.equal(stdout, '');
    assert.ok(stderr.trim().split('\n').length === 1, stderr);
  }
});

test('arguments and standard input arrive byte for byte', container, async () => {
  const words = [
    "it's",
    '"$release"',
    '$HOME `id`',
    'a  b',
    '*',
    '',
    '--name',
    '--',
    'line\nline',
    '\\',
    '"',
  ];
  const output = await stdout(
    rootfs,
    'sh',
    '-c',
    'for word; do printf "<%s>\\0" "$word"; done',
    'sh',
    ...words,
  );
  assert.deepEqual(
    output.split('\0').slice(0, -1),
    words.map((word) => `<${word}>`),
  );
  const input = String.fromCharCode(...Array(256).keys()).repeat(1000);
  const { stdout: back } = await call('run', [rootfs, 'cat'], { input });
  assert.equal(back, input);
});

test('without a command it is the shell, bash where there is one', container, async () => {
  const { stdout } = await call('run', [rootfs], { input: 'echo "$0 $PPID"' });
  assert.equal(stdout, '/bin/bash 0\n');
});

test('ps sees the container alone, and its PID 1', { skip: container.skip || needs('ps') }, async () => {
  const output = await stdout(rootfs, 'ps', '-e', '-o', 'pid=,args=');
  assert.deepEqual(output.trim().split(/\s+/), ['1', 'ps', '-e', '-o', 'pid=,args=']);
});

test('namespaces of its own: all but the network, and that too if asked', container, async () => {
  const own = async (...options: string[]) => {
    const kinds = ['mnt', 'pid', 'uts', 'ipc', 'cgroup', 'net', 'user'];
    const links = await stdout(
      ...options,
      rootfs,
      'sh',
      '-c',
      `for kind in ${kinds.join(' ')}; do readlink /proc/self/ns/$kind; done`,
    );
    return kinds.filter((kind, index) => links.split('\n')[index] !== namespace('self', kind));
  };
  assert.deepEqual(await own(), ['mnt', 'pid', 'uts', 'ipc', 'cgroup']);
  assert.deepEqual(await own('--network', 'none'), ['mnt', 'pid', 'uts', 'ipc', 'cgroup', 'net']);
  assert.deepEqual(await own('--network', 'host'), ['mnt', 'pid', 'uts', 'ipc', 'cgroup']);
  assert.deepEqual(await own('--isolate', 'pid,mount'), ['mnt', 'pid']);
  assert.deepEqual(await own('--isolate', 'mount,net,uts'), ['mnt', 'uts', 'net']);
});

test('--network none leaves a loopback that is up, and nothing else', {
  skip: needs('root', 'namespaces', 'ip'),
}, async () => {
  const links = await stdout('--network', 'none', rootfs, 'ip', '-o', 'link');
  assert.match(links, /^1: lo: <LOOPBACK,UP,LOWER_UP>[^\n]*\n$/);
});

test('its root is the rootfs, and no host file system is left in its mount table', container, async () => {
  const mounts = (await stdout(rootfs, 'cat', '/proc/self/mountinfo'))
    .trim()
    .split('\n')
    .map((line) => line.split(' '));
  assert.equal(mounts[0]?.[3]?.endsWith('/rootfs/host'), true);
  const places = mounts.map((fields) => fields[4] as string);
  assert.equal(places.filter((place) => place === '/').length, 1);
  for (const place of places) assert.match(place, /^\/$|^\/(proc|sys|dev)(\/|$)/);
  assert.equal(
    await stdout(rootfs, 'stat', '-c', '%d:%i', '/'),
    await execute(['stat', '-c', '%d:%i', rootfs]).then((r) => r.stdout),
  );
});

test('the host name, the environment and the directory are as asked', container, async () => {
  const output = await call(
    'run',
    [
      '--hostname',
      'box',
      '-e',
      'A=it\'s "$A"',
      '-e',
      'FROM_CALLER',
      '-e',
      'NOT_THERE',
      '-e',
      'HOME=/tmp',
      '-e',
      'LD_PRELOAD=',
      '-w',
      '/usr/bin',
      rootfs,
      'env',
    ],
    {
      env: { ...process.env, FROM_CALLER: 'yes', SECRET: 'hidden', TERM: 'dumb', A: 'no' },
    },
  );
  assert.equal(output.stderr, '');
  assert.deepEqual(output.stdout.trim().split('\n').sort(), [
    'A=it\'s "$A"',
    'FROM_CALLER=yes',
    'HOME=/tmp',
    'HOSTNAME=box',
    'LD_PRELOAD=',
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'TERM=dumb',
    'container=barehand',
  ]);
  assert.equal(
    await stdout('--hostname', 'box', '-w', '/usr/bin', rootfs, 'sh', '-c', 'hostname; pwd'),
    'box\n/usr/bin\n',
  );
  assert.equal(await stdout('--name', 'run-test-named', rootfs, 'hostname'), 'run-test-named\n');
  const odd = await stdout('-e', 'discovery.type=single-node', rootfs, 'env');
  assert.match(odd, /^discovery.type=single-node$/m);
  const missing = await run('-w', '/etc/passwd', rootfs, 'true');
  assert.match(missing.stderr, /etc\/passwd/);
  assert.equal(missing.code, 125);
});

test(
  '-u takes names of the container, numbers, and groups; nobody keeps capabilities',
  container,
  async () => {
    assert.equal(
      await stdout('-u', '1234:4321', rootfs, 'sh', '-c', 'id -u; id -g; id -G'),
      '1234\n4321\n4321\n',
    );
    const passwd = readFileSync(join(rootfs, 'etc/passwd'), 'utf8').match(/^nobody:[^:]*:(\d+):(\d+)/m);
    assert.ok(passwd);
    const status = await stdout(
      '-u',
      'nobody',
      rootfs,
      'sh',
      '-c',
      'id -u; id -g; grep CapEff /proc/self/status',
    );
    assert.equal(status, `${passwd[1]}\n${passwd[2]}\nCapEff:\t0000000000000000\n`);
  },
);

test('capabilities are those of Docker, less or more as asked', container, async () => {
  const bounding = async (...options: string[]) =>
    /CapBnd:\t0*(\w+)/.exec(await stdout(...options, rootfs, 'cat', '/proc/self/status'))?.[1];
  const all = /CapBnd:\t0*(\w+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  assert.equal(await bounding(), 'a80425fb');
  assert.equal(await bounding('--cap-add', 'NET_ADMIN', '--cap-drop', 'cap_mknod,chown'), 'a00435fa');
  assert.equal(await bounding('--cap-drop', 'ALL', '--cap-add', 'kill'), '20');
  assert.equal(await bounding('--cap-drop', 'ALL'), '0');
  assert.equal(await bounding('--cap-add', 'ALL'), all);
  assert.equal(await bounding('--privileged'), all);
});

test('no new privileges, but for --privileged', container, async () => {
  assert.match(await stdout(rootfs, 'cat', '/proc/self/status'), /NoNewPrivs:\t1/);
  assert.match(await stdout('--privileged', rootfs, 'cat', '/proc/self/status'), /NoNewPrivs:\t0/);
});

test("no descriptor of the caller's gets in", container, async () => {
  const list = 'exec 7</etc/passwd 200</etc/passwd; exec "$@"';
  const { stdout } = await execute([
    'bash',
    '-c',
    list,
    'bash',
    script('run'),
    rootfs,
    'ls',
    '/proc/self/fd',
  ]);
  assert.equal(stdout, '0\n1\n2\n3\n'); // 3 is the directory that ls reads
  const control = await execute(['bash', '-c', list, 'bash', 'ls', '/proc/self/fd']);
  assert.match(control.stdout, /\b200\b/);
});

test('the host is out of reach by default: kernel settings, disks, masked files', container, async () => {
  const refused = async (command: string) => {
    const { code, stderr } = await run(rootfs, 'sh', '-c', command);
    assert.notEqual(code, 0, command);
    assert.match(stderr, /Read-only|not permitted|denied|must be superuser/i, command);
  };
  await refused('echo x >/proc/sys/kernel/core_pattern');
  await refused('echo x >/proc/irq/default_smp_affinity');
  await refused('touch /sys/x');
  await refused('echo mem >/sys/power/state');
  await refused('mount -t tmpfs none /tmp');
  await refused('umount /proc/sys');
  // CAP_MKNOD is Docker's default, so the device can be made, but it opens nothing
  const device = join(rootfs, 'run-test-device');
  try {
    assert.equal((await run(rootfs, 'mknod', '/run-test-device', 'c', '1', '3')).code, 0);
    await refused('cat /run-test-device');
    assert.equal((await run('--privileged', rootfs, 'cat', '/run-test-device')).code, 0);
  } finally {
    rmSync(device, { force: true });
  }
  for (const file of ['/proc/keys', '/proc/timer_list', '/proc/kcore'])
    if (existsSync(file)) assert.equal(await stdout(rootfs, 'head', '-c', '1', file), '', file);
  assert.equal(await stdout(rootfs, 'ls', '/sys/firmware'), '');
});

test('/dev has its own terminals, six harmless devices, and no other', container, async () => {
  const listing = await stdout(rootfs, 'ls', '/dev');
  assert.deepEqual(
    listing.trim().split('\n').sort(),
    'fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero'.split(' '),
  );
  assert.equal(
    await stdout(
      rootfs,
      'sh',
      '-c',
      'echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo ok | cat /dev/stdin; ls /dev/pts',
    ),
    '3\n3\nok\nptmx\n',
  );
});

test(
  'a container is in its cgroups from its first moment, at the root of its cgroup namespace',
  container,
  async () => {
    const { name, first } = await start(['--memory', '64M'], ['sleep', '100']);
    const procCgroup = readFileSync(`/proc/${first}/cgroup`, 'utf8');
    for (const hierarchy of readHierarchies()) {
      assert.equal(cgroupPath(procCgroup, hierarchy), `/${parent}/${name}`);
    }
    assert.match(await stdout(rootfs, 'cat', '/proc/self/cgroup'), /^(\d+:[^:]*:\/\n)+$/);
    const directory = cgroupDirectory(memory, `/${parent}/${name}`) as string;
    assert.equal(
      readFileSync(join(directory, memoryFiles[memory.version].limit), 'utf8').trim(),
      String(64 * 1024 * 1024),
    );
  },
);

test('what eats more than --memory is killed: 137', container, async () => {
  const { code } = await run(
    '--memory',
    '20M',
    rootfs,
    'awk',
    'BEGIN { s = "0123456789"; while (1) s = s s }',
  );
  assert.equal(code, 137);
});

test('a name is taken once, and the error says by which PID', container, async () => {
  const { name, first, unshare } = await start([], ['sleep', '100']);
  const second = await run('--name', name, rootfs, 'true');
  assert.equal(second.code, 125);
  const pid = Number(/in use by PID (\d+)/.exec(second.stderr)?.[1]);
  assert.ok(pid === first || pid === unshare, second.stderr);
  assert.ok(alive(first), 'the first one lives on');
});

slow(
  'of many that want a name at the same moment one gets it',
  {
    skip: container.skip || needs('speed'),
  },
  async () => {
    const name = newName();
    const results = await Promise.all(
      Array.from({ length: 6 }, () => run('--name', name, rootfs, 'sleep', '3')),
    );
    assert.deepEqual(results.map(({ code }) => code).sort(), [0, 125, 125, 125, 125, 125]);
  },
);

test('SIGTERM ends a command that has no handler with 143, and reaches one that has', container, async () => {
  const plain = await start([], ['sleep', '100']);
  plain.launcher.kill('SIGTERM');
  assert.deepEqual(await plain.end, [143, null]);
  const handler = await start([], ['/bin/sh', '-c', 'trap "exit 9" TERM; while :; do sleep 0.1; done']);
  await until('the handler', () => signals(handler.first, 'SigCgt').has(constants.signals.SIGTERM));
  handler.launcher.kill('SIGTERM');
  assert.deepEqual(await handler.end, [9, null]);
  const ignoring = await start([], ['/bin/sh', '-c', 'trap "" HUP; sleep 0.7; sleep 0.7; exit 5']);
  await until('it to be ignored', () => signals(ignoring.first, 'SigIgn').has(constants.signals.SIGHUP));
  ignoring.launcher.kill('SIGHUP');
  assert.deepEqual(await ignoring.end, [5, null]);
});

for (const victim of ['launcher', 'shell', 'unshare', 'first'] as const) {
  for (const [test, options] of [
    [quick, []],
    [slow, ['-u', '1000']],
  ] as [typeof quick, string[]][]) {
    test(`SIGKILL of the ${victim} ends all of a container ${options.join(' ')}`, container, async () => {
      const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
      const { name, first, unshare, launcher, end } = await start(options, [
        '/bin/sh',
        '-c',
        'sleep 99 & sleep 98',
      ]);
      const inside = await until('its processes', () => {
        const pids = readFileSync(`${cgroups(name)[0]}/cgroup.procs`, 'utf8')
          .trim()
          .split('\n')
          .map(Number);
        return pids.length === 3 && pids;
      });
      const shell = Number(stat(unshare)[1]);
      const pids = { launcher: launcher.pid as number, shell, unshare, first };
      process.kill(pids[victim], 'SIGKILL');
      await until('the end of all', () =>
        [...inside, unshare, shell, launcher.pid as number].every((pid) => !alive(pid)),
      );
      const [code, signal] = await end;
      assert.ok(signal === 'SIGKILL' || code === 137, `${code} ${signal}`);
      assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), mounts);
      await stdout(rootfs, 'true'); // sweeps
      assert.deepEqual(
        cgroups(name).filter((path) => existsSync(path)),
        [],
      );
    });
  }
}

test("the host's mount table is the same before, during and after", container, async () => {
  const before = readFileSync('/proc/self/mountinfo', 'utf8');
  const { launcher, end, first } = await start([], ['sleep', '100']);
  assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), before);
  assert.notEqual(readFileSync(`/proc/${first}/mountinfo`, 'utf8'), before);
  launcher.kill('SIGTERM');
  await end;
  assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), before);
});

test(
  "--isolate chroot is the article's step 2: another root, and every process of the host",
  unwarned,
  async () => {
    const host = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry)).length;
    const seen = (
      await stdout(
        '--isolate',
        'chroot',
        rootfs,
        'sh',
        '-c',
        'for process in /proc/[0-9]*; do echo "$process"; done',
      )
    )
      .trim()
      .split('\n').length;
    assert.ok(seen > host / 2 && seen > 3, `${seen} of ${host}`);
    assert.equal(
      await stdout('--isolate', 'chroot', rootfs, 'sh', '-c', 'test -e /etc/passwd && ls /'),
      await stdout(rootfs, 'ls', '/'),
    );
  },
);

test("--isolate pid,mount is its step 3: PID 1, and none of the host's", {
  skip: unwarned.skip || needs('ps'),
}, async () => {
  assert.equal((await stdout('--isolate', 'pid,mount', rootfs, 'ps', '-e', '-o', 'pid=')).trim(), '1');
  assert.equal((await stdout('--isolate', 'pid,chroot', rootfs, 'ps', '-e', '-o', 'pid=')).trim(), '1');
});

test('what a command without a PID namespace leaves running ends with it', container, async () => {
  const name = newName();
  const { code, stdout } = await run(
    '--name',
    name,
    '--isolate',
    'chroot',
    rootfs,
    'sh',
    '-c',
    'sleep 987 >/dev/null 2>&1 & echo $!',
  );
  assert.equal(code, 0);
  await until('its end', () => !alive(Number(stdout)));
  assert.deepEqual(
    cgroups(name).filter((path) => existsSync(path)),
    [],
  );
});

slow('--dry-run prints what has the same effect when it is pasted', container, async () => {
  const words = [
    '--memory',
    '50M',
    '--hostname',
    'box',
    '-e',
    "Q=it's",
    '--cap-drop',
    'mknod',
    '--network',
    'none',
  ];
  const command = ['sleep', '100'];
  const state = ({ first, name }: Running) => ({
    namespaces: ['mnt', 'pid', 'uts', 'ipc', 'cgroup', 'net', 'user', 'time'].filter(
      (kind) => namespace(first, kind) !== namespace('self', kind),
    ),
    mounts: readFileSync(`/proc/${first}/mountinfo`, 'utf8')
      .replaceAll(name, 'NAME')
      .trim()
      .split('\n')
      .map((line) => {
        const fields = line.split(' ');
        return [...fields.slice(3, 6), ...fields.slice(fields.indexOf('-'))].join(' ');
      }),
    cgroup: readFileSync(`/proc/${first}/cgroup`, 'utf8').replaceAll(name, 'NAME'),
    limit: readFileSync(
      `${cgroups(name).find((path) => path.startsWith(memory.mountPoint))}/${memoryFiles[memory.version].limit}`,
      'utf8',
    ),
    status: readFileSync(`/proc/${first}/status`, 'utf8').match(
      /^(Uid|Gid|Groups|Cap\w+|NoNewPrivs|Sig(Ign|Cgt|Blk)):.*$/gm,
    ),
    environment: readFileSync(`/proc/${first}/environ`, 'utf8').replaceAll(name, 'NAME').split('\0').sort(),
    descriptors: readdirSync(`/proc/${first}/fd`),
    root: readlinkSync(`/proc/${first}/root`),
    directory: readlinkSync(`/proc/${first}/cwd`),
  });
  const launched = state(await start(words, command));
  for (const shell of shells) {
    const name = newName();
    const { stdout: program } = await run('--dry-run', '--name', name, ...words, rootfs, ...command);
    // what else is open here is this test's, and not for the shell to hand on
    const close =
      'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done; exec "$@"';
    const launcher = spawn('bash', ['-c', close, 'bash', shell], { stdio: ['pipe', 'ignore', 'inherit'] });
    launcher.stdin.end(program);
    const end = once(launcher, 'exit') as Running['end'];
    const pasted = await found(name, launcher, end, command);
    assert.deepEqual(state(pasted), launched, shell);
  }
});

test('--dry-run changes nothing', container, async () => {
  const name = newName();
  assert.match(await stdout('--dry-run', '--name', name, rootfs, 'true'), /pivot_root/);
  assert.equal(existsSync(cgroups(name)[0] as string), false);
});

slow(
  'a chroot escape from a privileged container ends in its own root',
  {
    skip: needs('root', 'namespaces', 'cgroup', 'perl'),
  },
  async () => {
    const withPerl = join(scratch, 'with-perl');
    assert.equal((await call('fetch-rootfs', ['host:perl', withPerl])).code, 0);
    writeFileSync(join(withPerl, 'inside'), '');
    // chroot(2): root may escape by staying outside of a second root and climbing up from there
    const climb =
      'mkdir "/x"; opendir(my $out, "/"); chroot "/x" or die; chdir $out or die; chdir ".." for 1 .. 100; chroot "." or die; opendir($out, "/"); print join " ", sort readdir $out';
    const inside = await stdout('--privileged', withPerl, 'perl', '-e', climb);
    assert.match(inside, /\binside\b/);
    // it does work where there is only a chroot
    const control = await stdout('--privileged', '--isolate', 'chroot', withPerl, 'perl', '-e', climb);
    assert.doesNotMatch(control, /\binside\b/);
  },
);

test(
  'a rootfs whose /proc is a symlink is refused, and what it points to is not touched',
  container,
  async () => {
    const trap = join(scratch, 'trap');
    const target = join(scratch, 'target');
    mkdirSync(trap);
    symlinkSync(target, join(trap, 'proc'));
    const { code, stderr } = await run(trap, 'true');
    assert.equal(code, 125);
    assert.match(stderr, /proc is a symlink/);
    assert.equal(existsSync(target), false);
  },
);

test('the name that a container has by default is one that --name would take', container, async () => {
  for (const [folder, expected] of [
    ['.hidden', /barehand\/hidden-\d+\b/],
    ['-x y', /barehand\/xy-\d+\b/],
    ['...', /barehand\/c-\d+\b/],
  ] as const) {
    mkdirSync(join(scratch, folder));
    assert.match(await stdout('--dry-run', join(scratch, folder), 'true'), expected);
  }
});

test('paths with blanks, quotes, commas, colons and backslashes work', container, async () => {
  const odd = join(scratch, 'it\'s a "root", #1: \\040 $HOME');
  mkdirSync(odd);
  for (const name of ['bin', 'sbin', 'lib', 'lib64', 'usr', 'etc'])
    if (existsSync(join(rootfs, name))) await execute(['cp', '-a', join(rootfs, name), odd]);
  const result = await run(odd, 'sh', '-c', 'ls -d /usr /proc/1 /dev/null');
  assert.deepEqual(result, { code: 0, signal: null, stdout: '/dev/null\n/proc/1\n/usr\n', stderr: '' });
});

test('in a terminal of its own Ctrl-C, Ctrl-Z, job control and the exit code work', {
  skip: needs('root', 'namespaces', 'cgroup', 'expect', 'speed'),
}, async () => {
  const dialogue = `
    set timeout 60
    proc need {what} { expect $what {} timeout { puts "no $what"; exit 1 } eof { puts "end before $what"; exit 1 } }
    set stty_init "rows 33 cols 77"
    spawn ${script('run')} ${rootfs}
    need "# "; send "stty size\\r"; need "33 77"
    need "# "; send "sleep 100\\r"; sleep 1; send "\\003"
    need "# "; send "echo code=$?\\r"; need "code=130"
    need "# "; send "sleep 100\\r"; sleep 1; send "\\032"; need "Stopped"
    need "# "; send "kill -9 %1; sleep 0.5; exit 7\\r"; need eof
    if {[lindex [wait] 3] != 7} { puts "wrong exit code"; exit 1 }
    spawn ${script('run')} ${rootfs} sh -c "echo ready; exec sleep 100"
    need "ready"; sleep 0.5; send "\\003"; need eof
    if {[lindex [wait] 3] != 130} { puts "Ctrl-C did not end it"; exit 1 }
    spawn ${script('run')} ${rootfs} sh -c "tty; echo here >/dev/console; stty -a </dev/tty"
    need "/dev/console"; need "here"; need "rows 33; columns 77"; need eof
    puts "all well"`;
  const { stdout } = await execute(['expect', '-c', dialogue]);
  assert.match(stdout, /all well/);
});
