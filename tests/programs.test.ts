// Programs of the host that are missing: every script says so before it begins, and which package has them.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { findInPath, findProgram, quote } from '../scripts/helpers/shell.ts';
import { alive, cgroups, container, newName, start } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, rootfs, script } from './helpers/script.ts';

const scratch = scratchFolder('programs');

const osReleases = {
  debian: 'ID=debian\n',
  ubuntu: 'ID=ubuntu\nID_LIKE=debian\n',
  fedora: 'ID=fedora\n',
  rocky: 'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
  alpine: "ID='alpine'\n",
  arch: 'ID=arch\n',
};
type Distribution = keyof typeof osReleases;

const none = join(scratch, 'none');
writeFileSync(none, '', { mode: 0o644 });

/** The words that start a command where these programs are none: a file that can't be executed lies over each. */
function without(programs: string[], like: Distribution): string[] {
  const osRelease = join(scratch, like);
  writeFileSync(osRelease, osReleases[like]);
  // in PATH, and where the distribution has it, which may be another one
  const places = programs.flatMap((name) =>
    [...new Set([findInPath(name), findProgram(name)])].flatMap((path) => (path ? [realpathSync(path)] : [])),
  );
  const hide = [
    `mount --bind ${quote(osRelease)} ${realpathSync('/etc/os-release')}`,
    // mount(8) itself comes last
    ...places
      .sort((path) => (path.endsWith('/mount') ? 1 : -1))
      .map((path) => `mount --bind ${quote(none)} ${quote(path)}`),
    'exec "$@"',
  ];
  return ['unshare', '--mount', '--propagation', 'private', 'sh', '-ec', hide.join('\n'), 'hide'];
}

/** Calls a script where programs are missing: it is to fail with one line. Returns that. */
async function refused(
  programs: string[],
  like: Distribution,
  name: string,
  words: string[],
  code: number,
): Promise<string> {
  const result = await execute([...without(programs, like), script(name), ...words]);
  assert.equal(result.code, code, result.stderr);
  // what is weaker here is said as well
  const said = result.stderr.replace(/^run: no seccomp filter: .*\n/, '');
  assert.match(said, /^.*\n$/, 'one line, which is not of the shell');
  return said;
}

const advice: Record<Distribution, string> = {
  debian: 'apt-get install util-linux-extra',
  ubuntu: 'apt-get install util-linux-extra',
  fedora: 'dnf install util-linux',
  rocky: 'dnf install util-linux',
  alpine: 'apk add util-linux',
  arch: 'apt-get install util-linux-extra, or dnf install util-linux, or apk add util-linux',
};

for (const like of Object.keys(advice) as Distribution[])
  test(`a launch without pivot_root says what to type on ${like}`, container, async () => {
    const said = await refused(['pivot_root'], like, 'run', [rootfs, 'true'], 125);
    assert.equal(said, `run: cannot start a container: pivot_root is missing: ${advice[like]}\n`);
  });

for (const program of ['unshare', 'setpriv', 'mount', 'umount', 'nsenter', 'flock'])
  test(`a launch without ${program} does not begin`, container, async () => {
    const name = newName();
    const said = await refused([program], 'debian', 'run', ['--name', name, rootfs, 'true'], 125);
    assert.match(
      said,
      new RegExp(`^run: cannot start a container: ${program} is missing: apt-get install \\S+\n$`),
    );
    for (const directory of cgroups(name)) assert.equal(existsSync(directory), false);
  });

test('several that are missing are told at once, each package once', container, async () => {
  const said = await refused(['nsenter', 'setpriv', 'umount'], 'debian', 'run', [rootfs, 'true'], 125);
  const [, names = '', packages = ''] =
    /container: (.*) are missing: apt-get install (.*)\n/.exec(said) ?? [];
  assert.deepEqual(names.split(', ').sort(), ['nsenter', 'setpriv', 'umount']);
  assert.deepEqual(packages.split(' ').sort(), ['mount', 'util-linux']);
});

test('what is not going to be run is not asked for', container, async () => {
  const hidden = without(['pivot_root', 'script', 'prlimit', 'perl', 'ip'], 'debian');
  const chroot = await execute([...hidden, script('run'), '--isolate', 'pid', rootfs, 'echo', 'started']);
  assert.equal(chroot.stdout, 'started\n', chroot.stderr);
  const limited = await refused(['prlimit'], 'debian', 'run', ['--ulimit', 'core=0', rootfs, 'true'], 125);
  assert.match(limited, /prlimit is missing: apt-get install util-linux\n/);
});

test('--dry-run prints the launch for a host that has them', container, async () => {
  const { code, stdout } = await execute([
    ...without(['pivot_root'], 'debian'),
    script('run'),
    '--dry-run',
    rootfs,
  ]);
  assert.equal(code, 0);
  assert.match(stdout, /pivot_root/);
});

test('without perl the runbook loads its filter of system calls by python', {
  skip: container.skip || needs('python3'),
}, async () => {
  const hidden = without(['perl'], 'debian');
  const words = ['--dry-run', '--name', newName(), rootfs, 'grep', '^Seccomp:', '/proc/self/status'];
  const { stdout: text } = await execute([...hidden, script('run'), ...words]);
  assert.match(text, /load\.py/);
  const { stdout, stderr } = await execute([...hidden, 'sh'], { input: text });
  assert.deepEqual([stdout, stderr], ['Seccomp:\t2\n', '']);
});

test('on a terminal script(1) is needed', { skip: container.skip || needs('script') }, async () => {
  const words = [...without(['script'], 'fedora'), script('run'), rootfs, 'true'];
  const line = words.map(quote).join(' ');
  const { code, stdout } = await execute(['script', '-qec', line, '/dev/null']);
  assert.equal(code, 125, stdout);
  assert.match(stdout, /^run: cannot start .*: script is missing: dnf install util-linux-script\r\n$/);
});

test("a program of BusyBox's without the options is none", {
  skip: container.skip || needs('busybox'),
}, async () => {
  const folder = mkdtempSync(join(scratch, 'bin-'));
  symlinkSync(realpathSync(findInPath('busybox') as string), join(folder, 'setpriv'));
  const { code, stderr } = await execute([...without(['setpriv'], 'alpine'), script('run'), rootfs, 'true'], {
    env: { ...process.env, PATH: `${folder}:${process.env.PATH}` },
  });
  assert.equal(code, 125);
  assert.match(stderr, /: setpriv is missing: apk add util-linux\n/);
});

test('a directory of PATH that is closed to the user is passed over', {
  skip: needs('root', 'user-namespaces'),
}, async () => {
  const closed = mkdtempSync(join(scratch, 'closed-')); // mode 700
  const words = [...become(65534), script('run'), '--dry-run', rootfs, 'true'];
  const { code, stderr } = await execute(words, {
    env: { ...process.env, PATH: `${closed}:${process.env.PATH}` },
  });
  assert.equal(code, 0, stderr);
});

test('exec.ts without anything that can enter', { skip: container.skip || needs('perl') }, async () => {
  const { name } = await start([], ['sleep', '100']);
  const said = await refused(['perl', 'python3', 'nsenter'], 'fedora', 'exec', [name, 'true'], 125);
  assert.match(said, /^exec: .*perl.*: dnf install perl-interpreter/);
});

test('stop.ts without flock stops nothing', container, async () => {
  const { name, first } = await start([], ['sleep', '100']);
  const said = await refused(['flock'], 'debian', 'stop', [name], 1);
  assert.match(said, /^stop: cannot stop a container: flock is missing: apt-get install util-linux\n$/);
  assert.equal(alive(first), true);
  assert.equal((await call('stop', [name])).code, 0);
});

test('logs.ts without flock, or setpriv, does not guess', container, async () => {
  const name = newName();
  assert.equal((await call('run', ['-d', '--name', name, rootfs, 'sleep', '100'])).code, 0);
  const said = await refused(['flock'], 'debian', 'logs', ['--status', name], 1);
  assert.match(said, /: flock is missing: apt-get install util-linux\n$/);
  const follow = await refused(['flock', 'setpriv'], 'debian', 'logs', ['-f', name], 1);
  assert.match(follow, /: flock, setpriv are missing: apt-get install util-linux\n$/);
  assert.equal((await call('stop', [name])).code, 0);
});

test('network.ts without ip', { skip: container.skip || needs('ip') }, async () => {
  const said = await refused(['ip'], 'fedora', 'network', ['ls'], 1);
  assert.match(said, /^network: cannot .*: ip is missing: dnf install iproute\n$/);
});

test('fetch-rootfs.ts without ldd, or tar, makes nothing', container, async () => {
  const dest = join(scratch, 'made');
  const host = await refused(['ldd'], 'alpine', 'fetch-rootfs', ['host:', dest], 1);
  assert.match(host, /: ldd is missing: apk add musl-utils\n$/);
  const archive = await refused(['tar'], 'debian', 'fetch-rootfs', [join(scratch, 'a.tar'), dest], 1);
  assert.match(archive, /: tar is missing: apt-get install tar\n$/);
  assert.equal(existsSync(dest), false);
});

test('the packages are those of this host', { skip: needs('dpkg') }, async () => {
  const { installCommand } = await import('../scripts/helpers/programs.ts');
  const source = readFileSync(new URL('../scripts/helpers/programs.ts', import.meta.url), 'utf8');
  const names = [...source.matchAll(/^ {2}\['([a-z_ ]+)', '/gm)].flatMap(([, words = '']) =>
    words.split(' '),
  );
  assert.ok(names.length > 20);
  // a package may have a file under the name that it had before /bin was merged into /usr/bin
  const namesOf = (path: string) => [path, path.replace(/^\/usr/, '')];
  const files = names.flatMap((name) => {
    const path = findInPath(name);
    return path ? [{ name, paths: namesOf(realpathSync(path)) }] : [];
  });
  // one call: each reads the lists of all packages
  const { stdout } = await execute(['dpkg', '-S', ...files.flatMap(({ paths }) => paths)]);
  const owned = [...stdout.matchAll(/^([^/]+): (\/.*)$/gm)];
  let compared = 0;
  for (const { name, paths } of files) {
    const owners = owned
      .filter(([, , path = '']) => paths.includes(path))
      .flatMap(([, packages = '']) => packages.split(', ').map((word) => word.replace(/:.*/, '')));
    const [, wanted = ''] = /install (\S+)$/.exec(installCommand([name], 'ID=debian')) ?? [];
    if (owners.length === 0 || name === 'pivot_root') continue; // see the table
    assert.ok(owners.includes(wanted), `${name} is in ${owners}, not in ${wanted}`);
    compared++;
  }
  assert.ok(compared > 10, `${compared} programs compared`);
});
