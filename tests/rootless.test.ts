// run.ts without root: a user that has nothing but a node, a rootfs and dist's file, in a folder of its own.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { attempt } from '../scripts/helpers/pids.ts';
import { newName, processesWith } from './helpers/container.ts';
import { needsAttributes, state } from './helpers/folders.ts';
import { each, inside, mounted, refused, said, says } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, execute, rootfs, top, until } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';

const id = 65534;
const folder = scratchFolder('rootless');
const root = join(folder, 'root');
const source = join(folder, 'source');
const file = join(folder, 'run.mjs');
const kept = (name: string, what = '') => join(folder, 'barehand', name, what);

/** run.ts as a user, whose folder it is. */
const words = become(id, folder);
const launch = [...words, process.execPath, '--', file];
const how = { root, launch };

const skip =
  needs('root', 'namespaces', 'user-namespaces') ||
  ((await execute([...words, process.execPath, '--version'])).code !== 0 &&
    'needs a node that every user may run');
const rootless = { skip };

before(async () => {
  if (skip) return;
  await execute(['cp', '-a', `${rootfs}/.`, root]);
  // a mount point that --dns has left there would get the host's name servers
  rmSync(join(root, 'etc/resolv.conf'), { force: true });
  copyFileSync(join(top, 'dist/run.mjs'), file);
  mkdirSync(join(source, 'below'), { recursive: true });
  writeFileSync(join(source, 'file'), 'of the host\n');
  await execute(['chown', '-R', `${id}:${id}`, folder]);
  await execute(['chmod', '700', folder]);
});

test("without root the exit code is the command's", rootless, async () => {
  const codes =
    'true:0|exit 42:42|exec no-such:127|exec /etc/passwd:126|sh -c "kill -9 \\$\\$":137|sh -c "kill \\$\\$":143';
  for (const [command = '', code] of codes.split('|').map((row) => row.split(':')))
    assert.equal((await inside('', command, how)).code, Number(code), command);
  for (const [command, code] of [
    ['no-such', 127],
    ['/etc/passwd', 126],
    ['true', 0],
  ] as const)
    assert.equal((await execute([...launch, root, command])).code, code, command);
});

test(
  'root in it is the user, alone, with the capabilities and calls of any container',
  rootless,
  async () => {
    const output = await said(
      '--hostname box',
      `ps -e -o pid=,comm=; id -u; id -g; tr -s ' ' </proc/self/uid_map; hostname; stat -c %u / /etc/passwd; pwd
    awk '/^(CapInh|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):/ { print $2 }' /proc/self/status
    echo x >/dev/null; head -c 3 /dev/zero | wc -c; echo x >/dev/shm/x; ls -d /dev/mqueue; echo ours >/made
    head -c 1 /proc/keys; ls /sys/firmware /sys/fs/cgroup | grep -v :; refused touch /sys/x
    refused sh -c 'echo x >/proc/sys/kernel/core_pattern'; refused mount -t tmpfs t /mnt; refused umount /proc/sys
    refused unshare --user true; refused mknod /device c 1 3; refused chown 1 /etc/passwd`,
      how,
    );
    const [first, , ...lines] = output
      .trim()
      .split(/\n+/)
      .map((line) => line.trim());
    assert.equal(first, '1 sh');
    const capabilities = ['0000000000000000', '00000000a80425fb', '00000000a80425fb', '0000000000000000'];
    const expected = `0|0|0 ${id} 1|box|0|0|/|${capabilities.join('|')}|1|2|3|/dev/mqueue`;
    assert.equal(lines.join('|'), expected);
    const { stdout } = await execute(['stat', '-c', '%u:%g', join(root, 'made')]);
    assert.equal(stdout, `${id}:${id}\n`);
  },
);

test("no file system of the host's is left in its mount table", rootless, async () => {
  const mounts = (await said('', 'cut -d" " -f4,5,6 /proc/self/mountinfo', how)).trim().split('\n');
  const places = mounts.map((line) => line.split(' ') as [from: string, place: string, options: string]);
  assert.deepEqual(
    places
      .filter(([, place]) => !/^\/(proc|sys|dev)(\/|$)/.test(place))
      .map(([from, place]) => [from.slice(-5), place]),
    [['/root', '/']],
  );
  for (const [from, place, options] of places)
    if (/^\/(sys|proc\/.*)$/.test(place) && from !== '/null')
      assert.match(options, /^ro,nosuid,nodev,noexec/, place);
});

test('volumes, files and memory are mounted; what is below keeps its flags', rootless, async () => {
  const memory = `mount -t tmpfs -o nosuid,noexec,mode=777 t '${source}/below'`;
  const places = [
    `${source}:/rw`,
    `${source}:/ro:ro`,
    `${source}/file:/etc/a file:ro`,
    `${source}:/memory/in it`,
  ];
  const output = await said(
    [...each('-v', places), '--tmpfs', '/memory:size=100k', '--add-host', 'db:10.1.2.3'],
    `cat /rw/file '/etc/a file'; echo new >/rw/new; cat '/memory/in it/new'; getent hosts db | tr -s ' '
    refused touch /ro/x; refused touch /ro/below/x; refused sh -c 'echo x >/etc/a\\ file'; touch /rw/below/x
    head -c 200000 /dev/zero 2>&1 >/memory/big | grep -o 'No space.*'
    cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(rw|ro|memory|etc)' | sort`,
    { root, launch: mounted(memory, launch) },
  );
  const expected = `of the host|of the host|new|10.1.2.3 db|No space left on device|
    /etc/a_file ro,nodev|/etc/hosts rw,nosuid,nodev,noexec|
    /memory rw,nosuid,nodev,noexec|/memory/in_it rw,nodev|/memory/in_it/below rw,nosuid,nodev,noexec|
    /ro ro,nodev|/ro/below ro,nosuid,nodev,noexec|/rw rw,nodev|/rw/below rw,nosuid,nodev,noexec`;
  const lines = output.replaceAll('\\040', '_').replaceAll(',relatime', '').trim().split('\n');
  assert.deepEqual(lines, expected.split(/\|\s*/));
  // with the root in it: some of its mounts are covered by others
  await says('ls /mnt/root/usr | grep bin', [[`-v ${folder}:/mnt:ro`, 'bin', 'sbin']], how);
  for (const path of ['/proc/x', '/'])
    await refused(/cannot mount at |mkdir: cannot create/, `-v ${source}:${path}`, how);
});

test('--ephemeral leaves the root as it was, and may replace its directories', {
  skip: skip || needsAttributes,
}, async () => {
  const before = await state(root);
  const program = `rmdir /mnt; mkdir /mnt; touch /mnt/new; rm -r /usr/share /etc; mkdir /etc /usr/share; ls -A /etc /usr/share /mnt
    head -c 2M /dev/zero 2>&1 >/big | grep -o 'No space.*'`;
  const run = () => said('--ephemeral --disk 1M', program, how);
  for (const output of await Promise.all([run(), run(), run()]))
    assert.equal(output, '/etc:\n\n/mnt:\nnew\n\n/usr/share:\nNo space left on device\n');
  await says(
    'refused touch /x; touch /dev/shm/x',
    [
      ['--ephemeral --read-only', ''],
      ['--read-only', ''],
    ],
    how,
  );
  assert.equal(await state(root), before);
});

test('--network none leaves a loopback, and a sysfs that shows no more', {
  skip: skip || needs('ip'),
}, async () => {
  const program = 'ip -o link | cut -c 1-29; ls /sys/class/net; refused touch /sys/x; ls -A /sys/fs/cgroup';
  await says(program, [['--network none', '1: lo: <LOOPBACK,UP,LOWER_UP>', 'lo']], how);
});

test('--init, --device and --stop-signal', rootless, async () => {
  const program = `test $$ != 1 && head -c 3 /dev/a/zero | wc -c; exit 42`;
  const { code, stdout, stderr } = await inside(
    '--init --device /dev/zero:/dev/a/zero --stop-signal INT',
    program,
    how,
  );
  assert.deepEqual({ code, stdout, stderr }, { code: 42, stdout: '3\n', stderr: '' });
  assert.deepEqual(readdirSync(join(folder, 'barehand')), []);
});

test('what a user cannot have is refused in one line', rootless, async () => {
  await refused(/^run: cannot limit .*without root.*: type systemd-run --user/, '--memory 10M', how);
  for (const user of ['1', '01', '0:1', '2147483647'])
    await refused(
      /^run: there is only one user in this container, 0: .*subuid.*newuidmap/,
      `-u ${user}`,
      how,
    );
  for (const user of ['2147483648', '4294967295', '4294967296', '0:4294967296'])
    await refused(/is a number from 0 to 2147483647/, `-u ${user}`, how);
  await says('id -u; id -g', [['-u 00:0', '0', '0']], how);
  await refused(/^run: without root --isolate must have mount and pid/, '--isolate chroot', how);
  await refused(/NOFILE|nofile/, '--ulimit nofile=1000000000', how);
  // user_namespaces(7): the sysctl is its own in each user namespace
  const own = ['unshare', '--user', `--map-user=${id}`, '--keep-caps', 'sh', '-c'];
  const lock = [
    ...own,
    'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"',
    'sh',
    process.execPath,
    '--',
    // this is the host's root without its capabilities, who may not look into the folder of a user
    join(top, 'dist/run.mjs'),
  ];
  const expected =
    /^run: this host forbids user namespaces to .*: as root: sysctl user.max_user_namespaces=10000$/m;
  await refused(expected, '', { root: rootfs, launch: lock });
  await refused(
    /^run: cannot use \S+ as a root file system: EACCES: permission denied: a directory above it is closed to you: namei -l \S+$/m,
    '',
    { root, launch: lock },
  );
  const noFolder = [...words, 'XDG_RUNTIME_DIR=/proc/none', process.execPath, '--', file];
  await refused(/\/proc\/none/, '-d', { root, launch: noFolder });
});

test(
  'an XDG_RUNTIME_DIR that is not of the user is not used, and what is used instead is said',
  rootless,
  async () => {
    const open = join(folder, 'open');
    mkdirSync(open);
    await execute(['chown', String(id), open]);
    const shown = join(folder, 'shown');
    mkdirSync(shown, { mode: 0o755 });
    await execute(['chown', String(id), shown]);
    await execute(['chmod', '777', open]);
    const instead = `: /run/user/${id} is used instead\n`;
    for (const [path, obstacle] of [
      ['', 'it is empty'],
      ['relative', 'it is not an absolute path: relative'],
      ['/', `/ belongs to user 0, not to ${id}`],
      ['/dev/null', '/dev/null is not a directory'],
      [open, `${open} has mode 777, and must have 700`],
      [shown, `${shown} has mode 755, and must have 700`],
    ]) {
      const { code, stderr } = await inside('', 'exit 3', {
        root,
        launch: [...become(id), 'env', `XDG_RUNTIME_DIR=${path}`, ...launch.slice(words.length)],
      });
      assert.deepEqual([code, stderr], [3, `run: XDG_RUNTIME_DIR is not used, for ${obstacle}${instead}`]);
    }
  },
);

/** Starts one in the background. Its programs on the host have the name in their environment. */
async function detach(name: string, options: string, program: string, words = launch): Promise<void> {
  const marked = ['env', `MARK=${name}`, ...words];
  const named = `${program} # ${name}`;
  assert.equal(await said(`-d --name ${name} ${options}`, named, { root, launch: marked }), `${name}\n`);
}

/** What is alive of a container on the host, and in it, where its command has the name among its words. */
const alive = (name: string) => [
  ...processesWith('environ', `MARK=${name}\0`),
  ...processesWith('cmdline', `# ${name}\0`),
];

/** Waits until a detached one has ended, and says what there is if it doesn't. */
async function ended(name: string): Promise<void> {
  const hasStatus = () => existsSync(kept(name, 'status'));
  try {
    await until(`the end of ${name}`, () => hasStatus() && alive(name).length === 0);
  } catch (error) {
    const words = alive(name).map((pid) => attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')));
    const log = attempt(() => readFileSync(kept(name, 'log'), 'utf8'));
    throw new Error(JSON.stringify({ hasStatus: hasStatus(), log, words }), { cause: error });
  }
}

/** One that has ended, whose log is still there. */
const logged = newName();

test('-d keeps output and exit code below XDG_RUNTIME_DIR, and a name is taken once', rootless, async () => {
  const name = logged;
  const wait = 'until [ -e /go/on ]; do sleep 0.1; done';
  const program = `read -r line || echo no input; echo error >&2; ${wait}; exit 42`;
  await detach(name, `-v ${source}:/go:ro`, program);
  assert.equal(existsSync(kept(name, 'status')), false);
  await refused(new RegExp(`the name ${name} is in use`), `-d --name ${name}`, how);
  writeFileSync(join(source, 'on'), '');
  await ended(name);
  assert.equal(readFileSync(kept(name, 'log'), 'utf8'), 'no input\nerror\n');
  assert.equal(readFileSync(kept(name, 'status'), 'utf8'), '42\n');
  await detach(name, '', 'echo again');
  await ended(name);
  assert.equal(readFileSync(kept(name, 'log'), 'utf8'), 'again\n');
});

test('SIGKILL of the launcher leaves nothing, SIGTERM reaches the command', rootless, async () => {
  for (const [signal, expected] of [
    ['SIGKILL', [null, 'SIGKILL']],
    ['SIGTERM', [9, null]],
  ] as const) {
    const name = `lives-${signal}`;
    const words = ['sh', '-c', `trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done # ${name}`];
    const [program = '', ...rest] = [
      'env',
      `MARK=${name}`,
      ...launch,
      '--ephemeral',
      '-v',
      `${source}:/mnt`,
      root,
      ...words,
    ];
    const launcher = spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
    const end = once(launcher, 'exit');
    await once(launcher.stdout, 'data');
    assert.ok(alive(name).length > 2);
    launcher.kill(signal);
    assert.deepEqual(await end, expected);
    await until('the end of all', () => alive(name).length === 0);
  }
});

test('with subordinate IDs there are other users in it', {
  skip: skip || needs('newuidmap', 'newgidmap'),
}, async () => {
  writeFileSync(join(folder, 'subordinate'), `${id}:300000:65536\n`);
  const give = ['uid', 'gid'].map(
    (kind) => `touch /etc/sub${kind}; mount --bind '${folder}/subordinate' /etc/sub${kind}`,
  );
  const withIds = { root, launch: mounted(give.join('\n'), launch) };
  const program = `tr -s ' ' <"/proc/self/uid_map"; id -un; id -G; touch /tmp/own; stat -c %U /tmp/own /etc`;
  const map = [` 0 ${id} 1`, ' 1 300000 65536'];
  await says(
    `cd /; ${program}; chown 33:44 /tmp/own; stat -c %u:%g /tmp/own; cut -c 1-9 /proc/self/setgroups`,
    [
      [
        '--ephemeral',
        ...map.map((line, index) => (index === 0 ? line.trim() : line)),
        'root',
        '0',
        'root',
        'root',
        '33:44',
        'allow',
      ],
    ],
    withIds,
  );
  await says(
    'id -un; id -u; touch /tmp/theirs; stat -c %U /tmp/theirs; refused touch /etc/x',
    [['-u nobody', 'nobody', `${id}`, 'nobody']],
    withIds,
  );
  const { stdout } = await execute(['stat', '-c', '%u', join(root, 'tmp/theirs')]);
  assert.equal(stdout, `${300000 + 65534 - 1}\n`);
});

test('a terminal is one of its own', { skip: skip || needs('expect', 'speed') }, async () => {
  const words = [
    ...launch,
    root,
    'sh',
    '-c',
    'tty; stat -c %u /dev/console; echo here >/dev/tty; read -r line; exit "$line"',
  ];
  const dialogue = `set timeout 60; spawn ${words.map((word) => `{${word}}`).join(' ')}
    expect "/dev/console\\r\\n0\\r\\nhere" { send "42\\r" }; expect eof; puts "code [lindex [wait] 3]"`;
  assert.match((await execute(['expect', '-c', dialogue])).stdout, /code 42\n$/);
});

test('nothing is left of them, nor of launches that failed', rootless, async () => {
  await until('the end of all', () => processesWith('environ', `XDG_RUNTIME_DIR=${folder}\0`).length === 0);
  assert.deepEqual(readdirSync(join(folder, 'barehand')), [logged]);
});
