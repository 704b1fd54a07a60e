// What run.ts --dry-run prints: a runbook that people can read, and that makes the same container when it is pasted.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test as quick, test } from 'node:test';
import { cgroups, container, found, namespace, newName, type Running, start } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, rootfs, script, top } from './helpers/script.ts';
import { shells, test as slow } from './helpers/slow.ts';

const scratch = scratchFolder('print');

const volume = join(scratch, 'volume');
mkdirSync(volume);
writeFileSync(join(volume, 'file'), 'of the host\n');

/** The runbook of a container of rootfs. */
async function print(options: string[], command: string[], program = script('run')): Promise<string> {
  const { code, stdout, stderr } = await execute([program, '--dry-run', ...options, rootfs, ...command]);
  assert.equal(code, 0, stderr);
  return stdout;
}

/** Throws where a text is nothing to read, or to paste. */
function assertReadable(text: string, mostLines: number): void {
  const lines = text.trimEnd().split('\n');
  assert.ok(lines.length <= mostLines, `${lines.length} lines, more than ${mostLines}:\n${text}`);
  for (const line of lines) assert.ok(line.length <= 200, `${line.length} columns: ${line}`);
  assert.doesNotMatch(text, /\beval\b/);
  assert.ok(!text.includes('\0'));
  assert.doesNotMatch(text, /[0-9a-f]{17}/i);
  assert.doesNotMatch(text, /(\\[0-7]{1,3}){4}|(\\x[0-9a-f]{2}){4}/i);
  for (const shell of ['dash', 'bash']) {
    const { status, stderr } = spawnSync(shell, ['-n'], { input: text, encoding: 'utf8' });
    assert.deepEqual([status, stderr], [0, ''], shell);
  }
}

const command = ['/bin/sh', '-c', 'echo hi'];
const full = ['-u', '1000:1000', '-v', `${volume}:/srv`, '-p', '8080:80'];
for (const [what, options, mostLines] of [
  ['limited', ['--memory', '100M'], 60],
  ['with a user namespace', ['--memory', '100M', '--userns'], 60],
  ['with a network of its own', ['--memory', '100M', '--network', 'none'], 60],
  ['as a chroot', ['--isolate', 'chroot'], 60],
  [
    'with most options',
    ['--memory', '100M', '--cpus', '1', ...full.slice(0, 4), '--ephemeral', '--tmpfs', '/tmp'],
    80,
  ],
] as [string, string[], number][])
  test(`the runbook of a container ${what} can be read`, container, async () => {
    const words = ['--name', 'postgres-1', ...options];
    for (const program of [script('run'), join(top, 'scripts/run.ts')])
      assertReadable(await print(words, command, program), mostLines);
  });

test('the runbook of a container on a bridge, with its volume, port and user, can be read', {
  skip: container.skip || needs('ip', 'nft'),
}, async () => {
  const words = ['--name', 'web', '--memory', '100M', '--network', 'bridge', ...full];
  assertReadable(await print(words, command), 110);
});

test('the runbook of a user without root can be read', {
  skip: needs('root', 'user-namespaces'),
}, async () => {
  const words = [...become(65534), script('run'), '--dry-run', '--name', 'web', rootfs, ...command];
  const { code, stdout, stderr } = await execute(words);
  assert.equal(code, 0, stderr);
  assertReadable(stdout, 60);
});

/** What a container's first process has, as the host sees it. */
function stateOf({ first, name }: Running) {
  // IDs of the host are those of a name's own range
  const [, , base = ''] = readFileSync(`/proc/${first}/uid_map`, 'utf8').split(/\s+/);
  const isOwn = (id: number) => Number(base) > 0 && id >= Number(base) && id < Number(base) + 65536;
  const inside = (text: string) =>
    text.replace(/\d{6,}/g, (id) => (isOwn(Number(id)) ? `ID ${Number(id) - Number(base)}` : id));
  const read = (path: string) =>
    inside(readFileSync(`/proc/${first}/${path}`, 'utf8').replaceAll(new RegExp(`${name}\\b`, 'g'), 'NAME'));
  const dev = spawnSync(
    'nsenter',
    ['-t', `${first}`, '-m', '--root', '-S', '0', '-G', '0', 'ls', '-ln', '/dev'],
    {
      encoding: 'utf8',
    },
  );
  return {
    namespaces: ['mnt', 'pid', 'uts', 'ipc', 'cgroup', 'net', 'user'].filter(
      (kind) => namespace(first, kind) !== namespace('self', kind),
    ),
    mounts: read('mountinfo')
      .trim()
      .split('\n')
      .map((line) => {
        const fields = line.split(' ');
        return [...fields.slice(3, 6), ...fields.slice(fields.indexOf('-'))]
          .join(' ')
          .replaceAll(/(dir=)(\/proc\/self\/fd\/3|\.)\//g, '$1'); // an overlay's, as it was mounted
      }),
    cgroup: read('cgroup'),
    status: read('status').match(/^(Uid|Gid|Groups|Cap\w+|NoNewPrivs|Seccomp|Sig(Ign|Cgt|Blk)):.*$/gm),
    uids: read('uid_map'),
    environment: read('environ').split('\0').sort(),
    descriptors: readdirSync(`/proc/${first}/fd`),
    root: readlinkSync(`/proc/${first}/root`),
    directory: readlinkSync(`/proc/${first}/cwd`),
    limits: read('limits'),
    dev: inside(dev.stdout).replaceAll(/\w{3} +\d+ [\d:]+ /g, ''),
    hosts: existsSync(`/proc/${first}/root/etc/hosts`) && read('root/etc/hosts'),
  };
}

/** Has a shell read a runbook; waits until its container runs. */
async function paste(shell: string, name: string, text: string, command: string[]): Promise<Running> {
  // what else is open here is this test's, and not for the shell to hand on
  const close =
    'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done; exec "$@"';
  const launcher = spawn('bash', ['-c', close, 'bash', shell], { stdio: ['pipe', 'ignore', 'ignore'] });
  launcher.stdin.end(text);
  return found(name, launcher, once(launcher, 'exit') as Running['end'], command);
}

for (const [test, what, options] of [
  [quick, 'that is plain', []],
  [quick, 'with a user namespace', ['--userns', '--memory', '50M']],
  [slow, 'whose changes are kept in memory', ['--ephemeral', '--read-only', '--tmpfs', '/tmp:size=1m']],
  [
    quick,
    'with volumes',
    ['-v', `${volume}:/new/volume:ro`, '-v', `${join(volume, 'file')}:/new/volume/file`],
  ],
  [
    quick,
    'with files and a user of its own',
    ['--add-host', 'a:10.1.2.3', '-u', '1000:1000', '-w', '/etc', '--init'],
  ],
  [
    slow,
    'with a device, limits and variables for the loader',
    [...['--device', '/dev/null:/dev/mine/x', '--ulimit', 'nofile=1000', '-e', 'LD_BIND_NOW=1']],
  ],
  [slow, 'that is privileged', ['--privileged', '--network', 'none']],
  [slow, 'that is a chroot', ['--isolate', 'chroot,pid']],
] as [typeof quick, string, string[]][])
  test(`what is pasted makes the same container: one ${what}`, container, async () => {
    const launched = stateOf(await start(options, ['sleep', '100']));
    for (const shell of shells) {
      const name = newName();
      const text = await print(['--name', name, ...options], ['sleep', '100']);
      assert.deepEqual(stateOf(await paste(shell, name, text, ['sleep', '100'])), launched, shell);
    }
  });

/** Has a shell read a runbook to its end. */
const type = (text: string) => execute(['dash'], { input: text });
const seccomp = ['/bin/sh', '-c', 'grep ^Seccomp: /proc/self/status; exit 7'];
const filtered = { code: 7, signal: null, stdout: 'Seccomp:\t2\n', stderr: '' };

test('the filter of system calls is printed by a script that is alone in its folder too', {
  skip: container.skip || needs('perl'),
}, async () => {
  const alone = join(scratch, 'alone');
  mkdirSync(alone);
  copyFileSync(join(top, 'dist/run.mjs'), join(alone, 'run.mjs'));
  for (const options of [[], ['--userns']]) {
    const text = await print(['--name', newName(), ...options], seccomp, join(alone, 'run.mjs'));
    assert.doesNotMatch(text, /left out/);
    assert.ok(!text.includes(join(top, 'scripts')));
    assert.deepEqual(await type(text), filtered);
  }
});

test('files beside a script that are not its own are not used', {
  skip: container.skip || needs('perl'),
}, async () => {
  const folder = join(scratch, 'other');
  mkdirSync(join(folder, 'dist'), { recursive: true });
  copyFileSync(join(top, 'dist/run.mjs'), join(folder, 'dist/run.mjs'));
  cpSync(join(top, 'scripts/helpers/seccomp'), join(folder, 'scripts/helpers/seccomp'), { recursive: true });
  const words = ['--name', newName()];
  const program = join(folder, 'dist/run.mjs');
  assert.ok((await print(words, seccomp, program)).includes(join(folder, 'scripts')));
  writeFileSync(join(folder, 'scripts/helpers/seccomp/load.pl'), 'exec @ARGV;\n');
  const text = await print(words, seccomp, program);
  assert.ok(!text.includes(join(folder, 'scripts')));
  assert.deepEqual(await type(text), filtered);
});

test('a runbook that fails says why, starts nothing and leaves nothing', container, async () => {
  const name = newName();
  const gone = join(scratch, 'gone');
  mkdirSync(gone);
  const text = await print(['--name', name, '-v', `${gone}:/data`], ['echo', 'started']);
  rmSync(gone, { recursive: true });
  const { code, stdout, stderr } = await type(text);
  assert.notEqual(code, 0);
  assert.equal(stdout, '');
  assert.match(stderr, /gone/);
  assert.deepEqual(
    [...cgroups(name), `/run/barehand/${name}`].filter((path) => existsSync(path)),
    [],
  );
});

test(
  'a runbook ends where a mount point is a symlink, and does nothing to what that leads to',
  container,
  async () => {
    const [root, target] = [join(scratch, 'linked'), join(scratch, 'target')];
    mkdirSync(root);
    const { stdout: text } = await call('run', ['--dry-run', '--name', newName(), root, 'true']);
    symlinkSync(target, join(root, 'dev'));
    const { code, stderr } = await type(text);
    assert.notEqual(code, 0, stderr);
    assert.equal(existsSync(target), false);
  },
);

for (const [name, ...words] of [
  ['limit-memory', '100M'],
  ['limit-cpu', '1.5'],
  ['limit-pids', '10'],
] as [string, ...string[]][])
  test(`what ${name}.ts --dry-run prints can be read`, container, async () => {
    const { name: target } = await start([], ['sleep', '100']);
    const { stdout, stderr } = await call(name, ['--dry-run', target, ...words]);
    assert.ok(stdout, stderr);
    assertReadable(stdout, 20);
  });

test('what stop.ts --dry-run prints can be read', container, async () => {
  const { name } = await start([], ['sleep', '100']);
  const { stdout } = await call('stop', ['--dry-run', name]);
  assert.ok(stdout);
  assertReadable(stdout, 30);
});

test('what network.ts attach --dry-run prints can be read', {
  skip: container.skip || needs('ip', 'nft'),
}, async () => {
  const { name } = await start(['--network', 'none'], ['sleep', '100']);
  const { stdout, stderr } = await call('network', ['attach', '--dry-run', '--publish', '8080:80', name]);
  assert.ok(stdout, stderr);
  assertReadable(stdout, 90);
});

test('what fetch-rootfs.ts --dry-run prints can be read', { skip: needs('root', 'tar') }, async () => {
  const archive = join(scratch, 'root.tar');
  assert.equal((await execute(['tar', '-C', scratch, '-cf', archive, 'volume'])).code, 0);
  // host: has a file of the host in each line
  for (const [source, mostLines] of [
    [archive, 60],
    ['https://example.org/rootfs.tar.gz', 60],
    ['host:', 200],
  ] as [string, number][]) {
    const { stdout, stderr } = await call('fetch-rootfs', ['--dry-run', source, join(scratch, 'made')]);
    assert.ok(stdout, stderr);
    assertReadable(stdout.replace(/^[0-9a-f]{64} {2}/gm, ''), mostLines); // sha256sum(1) has it so
  }
});
