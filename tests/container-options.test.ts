// What people write after run.ts's options and what it means; and the other facts that a launch is planned from.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure, UsageError } from '../scripts/helpers/cli.ts';
import { parseSignal } from '../scripts/helpers/units.ts';
import { parseVariable, parseWorkdir } from '../scripts/run/command.ts';
import type { Volume } from '../scripts/run/furnish.ts';
import { readImageConfig } from '../scripts/run/image.ts';
import { findInit, shellInit } from '../scripts/run/init.ts';
import * as options from '../scripts/run/options.ts';
import { freeNamespace, lockedBy, rootlessNamespace, subordinateRange } from '../scripts/run/userns.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute, until } from './helpers/script.ts';

const scratch = scratchFolder('container-options');
const make = (name: string, text: string | Buffer = '') => {
  writeFileSync(join(scratch, name), text);
  return join(scratch, name);
};

/** What a parser makes of each text. */
function take<T>(parse: (text: string) => T, rows: [text: string, result: T][]): void {
  for (const [text, result] of rows) assert.deepEqual(parse(text), result, text);
}

/** What it says, in one line, to each of these texts, which are divided by `|`. */
function refuse(parse: (text: string) => unknown, expected: RegExp, texts: string): void {
  for (const text of texts.split('|')) {
    const check = (error: unknown) => {
      assert.ok(error instanceof UsageError, `${text}: ${error}`);
      assert.match(error.message, expected, text);
      assert.ok(text.includes('\n') || !error.message.includes('\n'), error.message);
      return true;
    };
    assert.throws(() => parse(text), check, text);
  }
}

test("a name is a directory's, a host name's and a word of the shell's at once", () => {
  for (const name of ['web', 'Web_1.b-2', 'a'.repeat(63), 'pid-x'])
    assert.equal(options.parseName(name), name);
  refuse(options.parseName, /^not a name: ".*": up to 63 of/s, '|.|-a|_a|a b|a/b|ä|a\n|pid-1');
  refuse(options.parseName, /^not a name/, 'a'.repeat(64));
});

test('a variable is KEY=VALUE, or a KEY of the caller', () => {
  process.env.BAREHAND_TEST_VARIABLE = 'of the caller';
  take(parseVariable, [
    ['A=b', 'A=b'],
    ['A=', 'A='],
    ['A=b=c\n d', 'A=b=c\n d'],
    ['discovery.type=x', 'discovery.type=x'],
    ['BAREHAND_TEST_VARIABLE', 'BAREHAND_TEST_VARIABLE=of the caller'],
    ['BAREHAND_TEST_NONE', ''],
  ]);
  refuse(parseVariable, /^not KEY=VALUE: "/, '|=b|A=b\0c');
});

test('a file of variables has one a line; quotes mean nothing, # begins a comment', () => {
  process.env.BAREHAND_TEST_VARIABLE = 'mine';
  const lines = '# A=0\nA=1\r\n\n  B="two words" # none\nBAREHAND_TEST_VARIABLE\n \nC=#3\nD=  d ';
  take(options.parseVariableFile, [
    [make('env', lines), ['A=1', 'B="two words" # none', 'BAREHAND_TEST_VARIABLE=mine', 'C=#3', 'D=  d ']],
    [make('empty'), []],
  ]);
  refuse(options.parseVariableFile, /^--env-file: cannot read \/no\/such\/file: ENOENT/, '/no/such/file');
  refuse(options.parseVariableFile, /not KEY=VALUE: "=2"/, make('wrong', 'A=1\n=2\n'));
});

test('a working directory is an absolute path', () => {
  for (const path of ['/', '/a b/../c']) assert.equal(parseWorkdir(path), path);
  refuse(
    parseWorkdir,
    /^--workdir: a path in the container must begin with \/ and contain no newline, not "/,
    '|a|./a|/a\nb',
  );
});

test('a volume is SRC:DST[:OPTIONS], where SRC is on this host and found without symlinks', () => {
  const odd = join(scratch, 'a:b, c');
  mkdirSync(odd);
  symlinkSync('a:b, c', join(scratch, 'link'));
  const file = make('file');
  const volume = (source: string, path: string, ...words: string[]): Volume => ({
    source,
    path,
    options: words,
  });
  const before = process.cwd();
  process.chdir(scratch);
  take(options.parseVolume, [
    ['/:/mnt', volume('/', '/mnt')],
    [`${file}:/mnt:ro`, volume(file, '/mnt', 'ro')],
    [`${file}:/mnt:rw`, volume(file, '/mnt')],
    [`${file}:/mnt:noexec,ro,nosuid`, volume(file, '/mnt', 'noexec', 'ro', 'nosuid')],
    [`${file}:/mnt:rw,rbind,rprivate,private,nocopy`, volume(file, '/mnt')],
    [`${file}:/mnt:ro,nodev`, volume(file, '/mnt', 'ro', 'nodev')],
    // sysfs(5) has no other times
    ['/sys:/mnt:relatime,ro', volume('/sys', '/mnt', 'ro')],
    ['/tmp:/x:ro,rslave', { ...volume('/tmp', '/x', 'ro'), receives: true }],
    ['/tmp:/x:ro,Z', { ...volume('/tmp', '/x', 'ro'), relabels: true }],
    [`${odd.replace(':', '\\:')}:/a\\:b`, volume(odd, '/a:b')],
    ['./link:/x', volume(odd, '/x')],
    ['.:/x', volume(scratch, '/x')],
    ['../..:/x/../y', volume(join(scratch, '../..'), '/x/../y')],
  ]);
  process.chdir(before);
  refuse(options.parseVolume, /^--volume is SRC:DST\[:ro\], not \//, '/tmp|/tmp:|/tmp::ro|/tmp:/a:ro:x');
  refuse(
    options.parseVolume,
    /^--volume: SRC is a path of this host, and must begin with/,
    'data:/x|:/x|~/a:/x',
  );
  refuse(
    options.parseVolume,
    /^--volume: a path in the container must begin with \/ and contain no newline, not "x/,
    '/tmp:x|/tmp:x/y:ro',
  );
  refuse(options.parseVolume, /^--volume: there is no \/no on this host: mkdir -p \/no$/, '/no:/x');
  refuse(
    options.parseVolume,
    /^--volume: unknown option .*: use ro, nosuid, noexec or rslave; rw, nodev, .* are accepted/,
    '/tmp:/x:exec|/tmp:/x:|/tmp:/x:ro,|/tmp:/x:dev|/tmp:/x:zZ|/tmp:/x:noatime',
  );
  refuse(
    options.parseVolume,
    /^--volume: r?shared would show the container's mounts on the host: rslave /,
    '/tmp:/x:shared|/tmp:/x:ro,rshared',
  );
  refuse(options.parseVolume, /^--volume: slave is for one mount .*: type rslave$/, '/tmp:/x:slave');
  refuse(options.parseVolume, /^--volume: ro and rw exclude each other$/, '/tmp:/x:ro,rw');
});

test('a tmpfs is nosuid and noexec unless it says otherwise', () => {
  const tmpfs = (path: string, ...words: string[]) => ({ path, options: ['nosuid', 'noexec', ...words] });
  const all = ['suid', 'exec', 'ro', 'mode=1777', 'uid=1', 'gid=2147483647', 'nr_inodes=3', 'size=50%'];
  all.push('rw', 'nodev', 'relatime', 'async');
  take(options.parseTmpfs, [
    ['/a', tmpfs('/a')],
    ['/a b:', tmpfs('/a b')],
    ['/a:size=10m', tmpfs('/a', 'size=10m')],
    [`/a:${all}`, tmpfs('/a', ...all)],
  ]);
  refuse(
    options.parseTmpfs,
    /^--tmpfs: a path in the container must begin with \/ and contain no newline, not "/,
    '|a|a:exec|/a\nb',
  );
  const wrong = 'dev|size=|size=1q|mode=8|bind|a b|huge=always|uid=0;x|size=1\nexec|size=1:exec';
  refuse(
    (word) => options.parseTmpfs(`/a:${word}`),
    /^--tmpfs: unknown option .*: use size=, mode=, /s,
    wrong,
  );
  const ids = 'uid=2147483648|gid=4294967295|uid=4294967296|GID=99999999999999999999';
  refuse((word) => options.parseTmpfs(`/a:${word}`), /^--tmpfs: [ug]id is a number from 0 to 2147/i, ids);
});

test('a device is one of this host, and its path is below /dev', () => {
  const link = join(scratch, 'null');
  symlinkSync('/dev/null', link);
  take(options.parseDevice, [
    ['/dev/null', { source: '/dev/null', path: '/dev/null' }],
    ['/dev/null:/dev/a/b', { source: '/dev/null', path: '/dev/a/b' }],
    ['/dev/null:/dev/x:rwm', { source: '/dev/null', path: '/dev/x' }],
    [`${link}:/dev/x`, { source: '/dev/null', path: '/dev/x' }],
    ['/dev/null:/dev/x:r', { source: '/dev/null', path: '/dev/x', denied: 'wm' }],
    ['/dev/null:mr', { source: '/dev/null', path: '/dev/null', denied: 'w' }],
  ]);
  const below = /^--device: the path in the container must be a plain path below \/dev\/, not /;
  const wrong = '/etc/x|/dev|/dev/|x|/dev/../etc/x|/dev//x|/dev/x/../../y|/devil|/dev/a\nb';
  refuse((path) => options.parseDevice(`/dev/null:${path}`), below, wrong);
  refuse(options.parseDevice, below, link);
  refuse(
    options.parseDevice,
    /^--device is SRC\[:DST\[:ACCESS\]\] with ACCESS of r, w and m/,
    '/dev/null:/dev/x:x|/dev/null:/dev/x:|/dev/null:/dev/x:rr|/dev/null:/dev/x:r:w',
  );
  refuse(
    options.parseDevice,
    /^--device: \/.* is not a device of this host$/,
    '/no:/dev/x|/etc/passwd:/dev/x|/dev:/dev/x',
  );
});

test('a limit is an option of prlimit(1)', () => {
  take(options.parseLimit, [
    ['nofile=1024', '--nofile=1024:1024'],
    ['nproc=10:20', '--nproc=10:20'],
    ['core=-1', '--core=unlimited:unlimited'],
    ['memlock=0:unlimited', '--memlock=0:unlimited'],
  ]);
  const expected = /^--ulimit is NAME=SOFT\[:HARD\], not .*: NAME is one of core .* stack$/;
  refuse(options.parseLimit, expected, '|nofile|nofile=|nofile=x|nofile=1:2:3|files=1|nofile=1K|-n=1|as=1');
});

test('a host is NAME:ADDRESS, a name server an address', () => {
  take(options.parseHost, [
    ['db:10.0.0.2', '10.0.0.2\tdb'],
    ['db=10.0.0.2', '10.0.0.2\tdb'],
    ['a.b-c:::1', '::1\ta.b-c'],
    ['db:[fe80::1]', 'fe80::1\tdb'],
  ]);
  const wrong = '|db|db:|db:x|:1.2.3.4|a b:1.2.3.4|db:1.2.3.4\n|10.0.0.2:db|db:host-gateway';
  refuse(options.parseHost, /^--add-host is NAME:ADDRESS, not /, wrong);
  take(options.parseNameserver, [
    ['9.9.9.9', 'nameserver 9.9.9.9'],
    ['2620:fe::fe', 'nameserver 2620:fe::fe'],
  ]);
  const expected = /^--dns is the address of a name server, not /;
  refuse(options.parseNameserver, expected, '|dns.example|9.9.9|9.9.9.9 x|9.9.9.9\n');
});

test('a signal is a name, with or without SIG, or a number', () => {
  for (const text of 'TERM SIGTERM sigterm term 15'.split(' ')) assert.equal(parseSignal(text), 'TERM');
  assert.equal(parseSignal('9'), 'KILL');
  refuse(
    parseSignal,
    /^no such signal: .*: (kill -l lists their names|did you mean \S+\?)$/,
    '|SIG|0|99|-1|TERMINATE|TERM ',
  );
});

test('--security-opt takes what Docker has for lifting a restriction, and for what is on anyway', () => {
  take(options.parseSecurity, [
    ['seccomp=unconfined', { seccomp: false }],
    ['seccomp:unconfined', { seccomp: false }],
    ['no-new-privileges', { newPrivileges: false }],
    ['no-new-privileges=true', { newPrivileges: false }],
    ['no-new-privileges:false', { newPrivileges: true }],
  ]);
  const wrong = '|seccomp|seccomp=/profile.json|no-new-privileges=0|apparmor=unconfined|label=disable';
  refuse(
    options.parseSecurity,
    /^--security-opt is seccomp=unconfined, no-new-privileges=false, mask=PATH or unmask=PATH, not /,
    wrong,
  );
});

test('the first line of subuid(5) that is of the user counts, by name or number', () => {
  const text =
    'root:1:2\nwebmaster:100000:65536\n\nweb:200000:10\nweb:300000:20\n1234:400000:30\nempty:5:0\n';
  const range = (outside: number, count: number) => ({ inside: 1, outside, count });
  assert.deepEqual(subordinateRange(text, 'web', 1000), range(200000, 10));
  assert.deepEqual(subordinateRange(text, 'webmaster', 1000), range(100000, 65536));
  assert.deepEqual(subordinateRange(text, 'unnamed', 1234), range(400000, 30));
  for (const user of ['we', 'empty', '']) assert.equal(subordinateRange(text, user, 123), undefined);
  for (const odd of ['', '\n', 'web', 'web:', 'web:1', 'web:1:x', ' # web:1:2'])
    assert.equal(subordinateRange(odd, 'web', 1000), undefined, odd);
});

test('a user is root in his own container', () => {
  const { uids, gids, byRoot } = rootlessNamespace();
  assert.equal(byRoot, false);
  assert.deepEqual(uids[0], { inside: 0, outside: process.getuid?.(), count: 1 });
  assert.deepEqual(gids[0], { inside: 0, outside: process.getgid?.(), count: 1 });
});

test('a container has the same free IDs each time, and others while somebody has them', {
  skip: needs('root', 'user-namespaces'),
}, async () => {
  const range = () => freeNamespace('container-options-test').uids[0] as { outside: number; count: number };
  const { outside, count } = range();
  assert.equal(count, 65536);
  assert.equal(outside % 65536, 0);
  assert.ok(outside >= 0x80000 && outside + count <= 2 ** 31, `${outside}`);
  assert.deepEqual(range(), { inside: 0, outside, count });
  assert.notEqual(freeNamespace('another').uids[0]?.outside, outside);
  // somebody who has the last of these IDs only
  const holder = spawn('unshare', ['--user', 'sleep', '60'], { stdio: 'ignore' });
  const end = once(holder, 'exit');
  try {
    const own = () => readlinkSync(`/proc/${holder.pid}/ns/user`) !== readlinkSync('/proc/self/ns/user');
    await until('its namespace', own);
    writeFileSync(`/proc/${holder.pid}/uid_map`, `0 ${outside + count - 1} 1`);
    assert.equal(range().outside, outside + count);
  } finally {
    holder.kill('SIGKILL');
    await end;
  }
  assert.equal(range().outside, outside);
});

test('the sysctl that forbids user namespaces is named, with what lifts it', () => {
  const values = (clone: string, max: string, apparmor: string): Record<string, string> => ({
    '/proc/sys/kernel/unprivileged_userns_clone': clone,
    '/proc/sys/user/max_user_namespaces': max,
    '/proc/sys/kernel/apparmor_restrict_unprivileged_userns': apparmor,
  });
  const said = (files: Record<string, string>) => lockedBy((file) => files[file])?.split(': ');
  assert.equal(said({}), undefined);
  assert.equal(said(values('1\n', '1000\n', '0\n')), undefined);
  const what = 'this host forbids user namespaces to users other than root';
  const lifts = (sysctl: string) => [what, 'as root', `sysctl ${sysctl}`];
  assert.deepEqual(said(values('0\n', '1000\n', '0\n')), lifts('kernel.unprivileged_userns_clone=1'));
  assert.deepEqual(said(values('1\n', '0\n', '0\n')), lifts('user.max_user_namespaces=10000'));
  const apparmor = 'kernel.apparmor_restrict_unprivileged_userns=0';
  assert.deepEqual(said(values('1\n', '1000\n', '1\n')), lifts(apparmor));
});

/** A rootfs that holds nothing but a configuration. */
let images = 0;
function image(text: string): string {
  const folder = join(scratch, `image-${++images}`);
  mkdirSync(folder);
  writeFileSync(join(folder, '.image.json'), text);
  return folder;
}

test("an image's configuration is read, and what is not in it is empty", () => {
  const read = (folder: string) => {
    const { entrypoint, command, environment, user, workdir, stopSignal } = readImageConfig(folder);
    return [...[entrypoint, command, environment].map((words) => words.join('|')), user, workdir, stopSignal];
  };
  const nothing = ['', '', '', undefined, undefined, undefined];
  mkdirSync(join(scratch, 'no-image'));
  assert.deepEqual(read(join(scratch, 'no-image')), nothing);
  for (const text of ['', '{}', '{"config": null}', '{"config": {"Cmd": null, "User": ""}}'])
    assert.deepEqual(read(image(text)), nothing, text);
  const words = {
    Entrypoint: ['/bin/sh', '-c'],
    Cmd: ['echo "$A"', ''],
    Env: ['A=b c', 'B=', 'no', '=x', 'C=d=e'],
  };
  const config = { ...words, User: 'nobody:tty', WorkingDir: '/srv', StopSignal: 'SIGINT', ExposedPorts: {} };
  assert.deepEqual(read(image(JSON.stringify({ architecture: 'amd64', config }))), [
    ...['/bin/sh|-c', 'echo "$A"|', 'A=b c|B=|C=d=e'],
    ...['nobody:tty', '/srv', 'SIGINT'],
  ]);
});

test('a configuration that is none is refused, with the file and what is wrong', () => {
  for (const [text, expected] of [
    ['{', /JSON/],
    ['{"config": {"Cmd": "echo"}}', /Cmd is not a list of strings/],
    ['{"config": {"Entrypoint": ["a", 1]}}', /Entrypoint is not a list of strings/],
    ['{"config": {"Env": {"A": "b"}}}', /Env is not a list of strings/],
    ['{"config": {"Cmd": ["a\\u0000b"]}}', /Cmd is not a list of strings/],
    ['{"config": {"User": 0}}', /User is not a string/],
    ['{"config": {"WorkingDir": ["/"]}}', /WorkingDir is not a string/],
    ['{"config": {"StopSignal": 15}}', /StopSignal is not a string/],
  ] as const) {
    const folder = image(text);
    assert.throws(
      () => readImageConfig(folder),
      (error) => {
        assert.ok(error instanceof Failure, `${text}: ${error}`);
        assert.ok(error.message.startsWith(`${folder}/.image.json is not an OCI image configuration: `));
        assert.match(error.message, expected);
        return true;
      },
    );
  }
});

test("a link to another file of the image is followed, but not to one of the host's", () => {
  const outside = make('outside.json', '{"config": {"User": "from outside"}}');
  const folder = image('{"config": {"User": "inside"}}');
  mkdirSync(join(folder, 'etc'));
  writeFileSync(join(folder, 'etc/image.json'), '{"config": {"User": "linked"}}');
  for (const [target, user] of [
    ['/etc/image.json', 'linked'],
    [outside, undefined],
    ['../outside.json', undefined],
    ['/etc', undefined],
    ['/.image.json', undefined],
  ] as const) {
    rmSync(join(folder, '.image.json'));
    symlinkSync(target, join(folder, '.image.json'));
    assert.equal(readImageConfig(folder).user, user, target);
  }
});

/** An elf(5) file with program headers of these types, at an offset. */
function elf(types: number[], { bits = 2, order = 1, offset = 64 } = {}): Buffer {
  const file = Buffer.alloc(offset + 56 * types.length);
  file.write('\x7fELF', 'latin1');
  file[4] = bits;
  file[5] = order;
  file.writeBigUInt64LE(BigInt(offset), 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(types.length, 56);
  for (const [index, type] of types.entries()) file.writeUInt32LE(type, offset + 56 * index);
  return file;
}

test('an init is the first that is there and needs nothing of the root that it runs in', () => {
  const found = (files: Record<string, Buffer | string>) => {
    const asked: string[] = [];
    const path = findInit((name) => {
      asked.push(name);
      return files[name] === undefined ? undefined : make(name.replaceAll('/', '_'), files[name]);
    });
    return { path: path?.slice(scratch.length + 1), asked };
  };
  const [dynamic, isStatic] = [elf([6, 3, 1]), elf([1, 4])]; // PT_PHDR, PT_INTERP, PT_LOAD; PT_LOAD, PT_NOTE
  const { path, asked } = found({});
  assert.equal(path, undefined);
  assert.equal(asked[0], 'tini-static');
  assert.ok(asked.includes('/usr/libexec/docker/docker-init'));
  assert.equal(found({ tini: isStatic, 'dumb-init': isStatic }).path, 'tini');
  assert.equal(found({ tini: dynamic, 'dumb-init': isStatic }).path, 'dumb-init');
  assert.equal(found({ '/usr/bin/docker-init': isStatic }).path, '_usr_bin_docker-init');
  for (const [what, file] of Object.entries({
    dynamic,
    'a script': '#!/bin/sh\nexec tini "$@"\n'.padEnd(100, '#'),
    empty: '',
    short: isStatic.subarray(0, 63),
    'of 32 bits': elf([1], { bits: 1 }),
    'of the other byte order': elf([1], { order: 2 }),
    'with its headers elsewhere': elf([1], { offset: 5000 }),
    'cut in its headers': elf([1, 1]).subarray(0, 64 + 56),
  }))
    assert.equal(found({ tini: file }).path, undefined, what);
});

test("the shell's init ends as its child ends, passes signals on and hands down what is read", async () => {
  const end = async (...command: string[]) => (await execute([...shellInit, ...command])).code;
  assert.equal(await end('true'), 0);
  assert.equal(await end('sh', '-c', 'exit 42'), 42);
  assert.equal(await end('/no/such/command'), 127);
  assert.equal(await end('/etc/passwd'), 126);
  assert.equal(await end('sh', '-c', 'kill -KILL $$'), 137);
  const { stdout } = await execute([...shellInit, 'cat', '-', '/dev/null'], { input: 'read' });
  assert.equal(stdout, 'read');
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const) {
    const program = `trap 'exit 9' ${signal.slice(3)}; echo ready; while :; do sleep 0.05; done`;
    const [shell = '', ...words] = [...shellInit, 'sh', '-c', program];
    const child = spawn(shell, words, { stdio: ['ignore', 'pipe', 'ignore'] });
    const exit = once(child, 'exit');
    await once(child.stdout, 'data');
    child.kill(signal);
    assert.deepEqual(await exit, [9, null], signal);
  }
});
