// run.ts --bundle: what it writes and refuses, and that a runtime makes a container of it. tests/runc.test.ts compares such
// a container with one of run.ts.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { schemaErrors } from './helpers/schema.ts';
import { become, call, execute, onTerminal, rootfs, script, until } from './helpers/script.ts';

const skip = container.skip || needs('runc');
const scratch = scratchFolder('bundle', 0o755);

/** The schema of the runtime specification, of Debian's golang-github-opencontainers-specs-dev. */
const schema =
  process.env.BAREHAND_RUNTIME_SCHEMA ??
  '/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema';

/** Option sets that together have everything that a bundle can hold. */
const sets: Record<string, string[]> = {
  nothing: [],
  most: [
    ...['-m', '64M', '--memory-swap', '-1', '--memory-reservation', '32M', '--cpus', '0.5', '-c', '512'],
    ...['--pids-limit', '-1', '--cpuset-cpus', '0', '--cpuset-mems', '0', '--oom-score-adj', '300'],
    ...['--ulimit', 'nofile=100:unlimited', '--umask', '077', '-l', 'tier=front', '-l', 'empty', '--init'],
    ...[
      '--device',
      '/dev/zero:/dev/more',
      '--add-host',
      'other:192.0.2.1',
      '--dns',
      '192.0.2.2',
      '-u',
      'nobody',
    ],
    ...['--network', 'none', '--sysctl', 'net.ipv4.ip_forward=1', '--stop-signal', 'INT', '--tmpfs', '/run'],
    ...['-v', '/etc/passwd:/etc/issue:ro', '--read-only', '--group-add', '7', '-d'],
  ],
  userns: ['--userns', '--device', '/dev/zero:/dev/more'],
  privileged: ['--privileged'],
};

/** The parts of a configuration that are compared here. */
interface Config {
  process: { terminal: boolean; rlimits: unknown[]; user: { umask: number } };
  root: { path: string };
  mounts: { destination: string; source: string; options: string[] }[];
  annotations: Record<string, string>;
  linux: {
    namespaces: { type: string; path?: string }[];
    uidMappings: unknown[];
    cgroupsPath: string;
    sysctl: Record<string, string>;
    resources: { memory: Record<string, number>; pids: { limit: number }; devices: unknown[] };
    seccomp: { syscalls: { names: string[]; action: string }[] };
  };
}

/** Writes a bundle; what run.ts says, the directory, and the text of config.json. */
async function bundle(options: string[], command: string[] = ['true']) {
  const name = newName();
  const directory = join(scratch, name);
  const result = await call('run', ['--bundle', directory, '--name', name, ...options, rootfs, ...command]);
  assert.deepEqual([result.code, result.stdout], [0, ''], result.stderr);
  const text = readFileSync(join(directory, 'config.json'), 'utf8');
  return { name, directory, said: result.stderr, text, config: JSON.parse(text) as Config };
}

/** Runs a bundle to its end. */
const runc = (name: string, directory: string) =>
  execute(['runc', 'run', '--bundle', directory, name]).finally(() =>
    execute(['runc', 'delete', '--force', name]),
  );

for (const [name, options] of Object.entries(sets))
  test(`config.json is valid by the schema of the runtime specification: ${name}`, {
    skip:
      container.skip ||
      (!existsSync(schema) && 'needs golang-github-opencontainers-specs-dev, its JSON schema'),
  }, async () => {
    const { config } = await bundle(options);
    assert.deepEqual(schemaErrors(schema, 'config-schema.json', config), []);
    // what the schema is asked is asked for
    (config.linux as unknown as Record<string, unknown>).namespace = [];
    (config.process as unknown as Record<string, unknown>).terminal = 'yes';
    assert.equal(schemaErrors(schema, 'config-schema.json', config).length, 2);
  });

test('a bundle holds what the options say', { skip: container.skip }, async () => {
  const { config, text, directory, said, name } = await bundle(sets.most as string[]);
  // 2^64 - 1 is beyond what JSON.parse keeps
  assert.match(text, /"type": "RLIMIT_NOFILE",\s+"soft": 100,\s+"hard": 18446744073709551615\s/);
  assert.equal(config.process.user.umask, 0o77);
  assert.deepEqual(config.linux.resources.memory.limit, 64 * 1024 ** 2);
  assert.equal(config.linux.resources.pids.limit, -1);
  assert.deepEqual(config.annotations, {
    tier: 'front',
    empty: '',
    'org.opencontainers.image.stopSignal': 'SIGINT',
  });
  assert.deepEqual(config.linux.sysctl, { 'net.ipv4.ip_forward': '1' });
  assert.equal(config.linux.cgroupsPath, `/barehand/${name}`);
  assert.deepEqual(readdirSync(directory).sort(), ['config.json', 'hosts', 'resolv.conf']);
  assert.deepEqual(config.mounts.find(({ destination }) => destination === '/etc/hosts')?.source, 'hosts');
  const modes = ['.', 'config.json', 'hosts'].map((file) =>
    (statSync(join(directory, file)).mode & 0o777).toString(8),
  );
  assert.deepEqual(modes, ['755', '600', '644']);
  // nothing is left out without a word
  assert.match(said, /^run: not in the bundle: --detach: /m);
  assert.match(
    said,
    /^run: not in the bundle: --stop-signal: .*: to stop the container, type runc kill \S+ INT$/m,
  );
  assert.match(said, /^run: to run it, type runc run --detach --bundle \S+ (\S+) >\1\.log 2>&1$/m);
});

test('only a volume with rslave gets later mounts of the host', { skip: container.skip }, async () => {
  const directory = join(scratchFolder('bundle-rslave'), 'bundle');
  const program = 'mount --make-rshared / && exec "$@"';
  const words = [
    '--bundle',
    directory,
    '--cap-drop',
    'mknod',
    '-v',
    '/usr:/a:rslave',
    '-v',
    '/usr:/b',
    rootfs,
  ];
  const { code, stderr } = await execute([
    ...['unshare', '--mount', 'sh', '-c', program, 'sh', script('run'), ...words, 'true'],
  ]);
  assert.equal(code, 0, stderr);
  const { mounts } = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as {
    mounts: { destination: string; options: string[] }[];
  };
  const propagation = (path: string) =>
    mounts
      .find(({ destination }) => destination === path)
      ?.options.filter((word) => /slave|private/.test(word));
  assert.deepEqual([propagation('/a'), propagation('/b')], [['rslave'], ['rprivate']]);
});

test('a device has the access that was given', { skip: container.skip || needs('cgroup-v1') }, async () => {
  const { config } = await bundle(['--device', '/dev/kmsg:/dev/log-of-it:r']);
  assert.deepEqual(config.linux.resources.devices, [
    { allow: false, access: 'rwm' },
    { allow: true, type: 'c', major: 1, minor: 11, access: 'r' },
  ]);
});

test('a network that a bundle cannot hold is told, with what to type', { skip: container.skip }, async () => {
  const bridged = await bundle(['--network', 'bridge', '-p', '18080:80', '-p', '127.0.0.1:18081:81/udp']);
  assert.ok(bridged.config.linux.namespaces.some(({ type }) => type === 'network'));
  assert.match(
    bridged.said,
    /^run: not in the bundle: --network bridge: .* once it runs, type \S+network\.mjs attach -p 18080:80 -p 127\.0\.0\.1:18081:81\/udp test-\S+$/m,
  );
});

test('what no bundle can be made of is refused, and nothing is written', {
  skip: container.skip,
}, async () => {
  const full = join(scratch, 'full');
  const file = join(scratch, 'file');
  const closed = join(scratch, 'closed');
  mkdirSync(full);
  mkdirSync(closed, 0o700);
  writeFileSync(join(full, 'there'), '');
  writeFileSync(file, '');
  const missing = join(scratch, 'missing');
  const cases: [words: string[], message: RegExp][] = [
    [
      ['--bundle', missing, '--ephemeral', rootfs],
      /--ephemeral does: leave it out, choose --read-only, or take a copy: cp -a /,
    ],
    [['--bundle', missing, '--isolate', 'chroot', rootfs], /needs --isolate mount/],
    [['--bundle', missing, '--dry-run', rootfs], /choose one/],
    [['--bundle', full, rootfs], /full is not empty: choose/],
    [['--bundle', file, rootfs], /file is there, and no directory/],
    [['--bundle', join(rootfs, 'bundle'), rootfs], /lies in ROOTFS, where the container could change it/],
    [['--bundle', join(missing, 'below'), rootfs], /cannot write .*ENOENT/],
    [['--bundle', join(closed, 'bundle'), '--userns', rootfs], /may not enter \S*closed, .*chmod o\+x/],
  ];
  for (const [words, message] of cases) {
    const { code, stdout, stderr } = await call('run', words);
    assert.deepEqual([code, stdout], [125, ''], stderr);
    assert.match(stderr, message);
    assert.equal(stderr.split('\n').length, 2, stderr);
  }
  assert.deepEqual(
    readdirSync(scratch).filter((name) => name.includes('partial') || name === 'missing'),
    [],
  );
  assert.deepEqual(readdirSync(full), ['there']);
  assert.equal(existsSync(join(rootfs, 'bundle')), false);
});

test('an empty directory is taken', { skip }, async () => {
  const directory = join(scratch, 'empty');
  mkdirSync(directory);
  const { code } = await call('run', [
    '--bundle',
    directory,
    '--name',
    newName(),
    rootfs,
    'sh',
    '-c',
    'exit 7',
  ]);
  assert.equal(code, 0);
  assert.equal((await runc(newName(), directory)).code, 7);
});

test('a running container of a bundle is found by its name, and limited', { skip }, async () => {
  const { name, directory } = await bundle(['-m', '64M', '-d'], ['sleep', '1000']);
  const log = join(scratch, `${name}.log`);
  try {
    const started = await execute([
      'sh',
      '-c',
      `runc run --detach --bundle ${directory} ${name} >${log} 2>&1`,
    ]);
    assert.equal(started.code, 0, readFileSync(log, 'utf8'));
    const { stdout } = await call('exec', [name, 'cat', '/proc/1/cmdline']);
    assert.equal(stdout, 'sleep\0' + '1000\0');
    const limited = await call('limit-memory', [name, '80M']);
    assert.equal(limited.code, 0, limited.stderr);
    const shown = JSON.parse((await call('ps', ['--json', name])).stdout);
    assert.equal(shown[0].limits[0].value, 80 * 1024 ** 2);
  } finally {
    await execute(['runc', 'delete', '--force', name]);
  }
});

/** Says what the kernel answers to calls: the error, or 0. */
const perl = `
for (["unshare", 272, 0x10000000], ["keyctl", 250, 0, 0], ["clone3", 435, 0, 0], ["bpf", 321, 100, 0, 0], ["getpid", 39],
  ["personality", 135, 0xffffffff], ["personality", 135, 0x40000], ["socket", 41, 1, 1, 0], ["socket", 41, 40, 1, 0],
  ["socket", 41, 46, 1, 0], ["clone", 56, 0x10000000], ["none", 1000], ["futex_waitv", 449, 0, 0, 0, 0, 0]) {
  my ($name, @words) = @$_;
  $! = 0;
  syscall $words[0], @words[1 .. $#words];
  print "$name $words[1]: ", $! + 0, "\\n";
}`;

test('the seccomp filter answers as that of run.ts', { skip: skip || needs('perl') }, async () => {
  const command = ['/usr/bin/perl', '-e', perl];
  const options = ['-v', '/usr:/usr:ro'];
  const { name, directory } = await bundle(options, command);
  const theirs = await runc(name, directory);
  const ours = await call('run', [...options, rootfs, ...command]);
  assert.equal(ours.stderr, '');
  assert.equal(theirs.stdout, ours.stdout);
  assert.match(ours.stdout, /^unshare \d+: 1$/m);
  assert.match(ours.stdout, /^none : 38$/m);
});

test('the names of calls are those of the kernel', () => {
  const file = '/usr/include/x86_64-linux-gnu/asm/unistd_64.h';
  if (!existsSync(file)) return;
  const list = readFileSync(new URL('../scripts/helpers/seccomp/names.txt', import.meta.url), 'utf8');
  const names = list.trim().split(/\s+/);
  assert.deepEqual(names, [...new Set(names)].sort());
  const known = [...readFileSync(file, 'utf8').matchAll(/^#define __NR_(\w+)\s+(\d+)$/gm)]
    .filter(([, , number]) => Number(number) < 467)
    .map(([, name]) => name as string);
  assert.deepEqual(
    known.filter((name) => !names.includes(name)),
    [],
  );
});

test('on a terminal the bundle has one', { skip }, async () => {
  const directory = join(scratch, 'terminal');
  const name = newName();
  await execute(onTerminal([script('run'), '--bundle', directory, '--name', name, rootfs, 'tty']));
  const config: Config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'));
  assert.equal(config.process.terminal, true);
  const { stdout } = await execute(onTerminal(['runc', 'run', '--bundle', directory, name])).finally(() =>
    execute(['runc', 'delete', '--force', name]),
  );
  assert.match(stdout, /\/dev\/(console|pts\/0)\r?$/m);
});

test('root in a user namespace has the files of ROOTFS, where these are mounted as the message says', {
  skip: skip || needs('perl'),
}, async (t) => {
  const program = 'id -u; stat -c %u /etc; cat /proc/self/uid_map';
  const { name, directory, config, said } = await bundle(
    ['--userns', '--network', 'none'],
    ['sh', '-c', program],
  );
  const [, map = '', host] = /type mount --bind -o 'X-mount\.idmap=(\S+) g:\S+' \S+ (\S+)$/m.exec(said) ?? [];
  assert.equal(host, join(directory, 'rootfs'));
  const [, inside, outside, count] = map.split(':').map(Number);
  assert.deepEqual(config.linux.uidMappings, [{ containerID: inside, hostID: outside, size: count }]);
  // as mount(8) of util-linux 2.39 does it
  const steps = `
    unshare --user sleep 60 & holder=$!
    while [ /proc/self/ns/user -ef "/proc/$holder/ns/user" ]; do sleep 0.1; done
    echo "$1" >/proc/$holder/uid_map; echo "$1" >/proc/$holder/gid_map
    mount --bind "$2" "$3"; idmap=$4 bundle=$5 name=$6
    perl "$idmap" /proc/$holder/ns/user "$3" runc run --bundle "$bundle" "$name"; kill "$holder"`;
  const words = [`${inside} ${outside} ${count}`, rootfs, host as string];
  const idmap = new URL('../scripts/run/idmap.pl', import.meta.url).pathname;
  const { stdout, stderr } = await execute([
    ...['unshare', '--mount', 'sh', '-c', steps, 'sh', ...words, idmap, directory, name],
  ]).finally(() => execute(['runc', 'delete', '--force', name]));
  if (stderr.includes("can't be mounted with mapped IDs")) return t.skip('needs ID-mapped mounts');
  assert.equal(stderr, '');
  assert.match(stdout, new RegExp(`^0\n0\n\\s+${inside}\\s+${outside}\\s+${count}\n$`));
});

test('without root, a bundle has the user namespace of the caller', {
  skip: skip || needs('user-namespaces'),
}, async () => {
  const folder = scratchFolder('bundle-of-user', 0o755);
  const own = join(folder, 'rootfs');
  await execute(['cp', '-a', `${rootfs}/.`, own]);
  await execute(['cp', script('run'), join(folder, 'run.mjs')]);
  await execute(['chown', '-R', '1234:1234', folder]);
  const user = become(1234, folder);
  const launch = [...user, process.execPath, '--', join(folder, 'run.mjs')];
  for (const network of ['none', 'host']) {
    const directory = join(folder, network);
    const name = newName();
    const words = ['--bundle', directory, '--name', name, '--network', network, own, 'sh', '-c'];
    const made = await execute([...launch, ...words, 'id -u; touch /made; stat -c %u /made; ls /sys/class']);
    assert.equal(made.code, 0, made.stderr);
    const config: Config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'));
    assert.deepEqual(config.linux.uidMappings[0], { containerID: 0, hostID: 1234, size: 1 });
    assert.equal(config.linux.cgroupsPath, undefined);
    const { stdout, stderr } = await execute([
      ...[...user, 'runc', '--root', join(folder, 'runc'), 'run', '--bundle', directory, name],
    ]);
    assert.match(stdout, /^0\n0\n.*^net$/ms, stderr);
  }
});

test('a directory that appears meanwhile is not replaced', { skip: container.skip }, async () => {
  // rename(2) replaces empty directories only
  const directory = join(scratch, 'race');
  const runs = [1, 2, 3].map(() => call('run', ['--bundle', directory, '--name', newName(), rootfs, 'true']));
  const codes = (await Promise.all(runs)).map(({ code }) => code);
  assert.deepEqual(codes.sort(), [0, 125, 125]);
  await until('the bundle', () => existsSync(join(directory, 'config.json')));
  assert.deepEqual(readdirSync(directory), ['config.json']);
});
