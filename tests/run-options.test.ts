// The options of run.ts beyond those that run.test.ts is about, each in a real container.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { attempt } from '../scripts/helpers/pids.ts';
import { backgroundName, detach, ended, kept, keptFile } from './helpers/background.ts';
import { cgroups, container, newName, start } from './helpers/container.ts';
import { link, needsAttributes, state } from './helpers/folders.ts';
import { each, inside, launch, mounted, refused, said, says, without } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();
const scratch = scratchFolder('run-options');
const slow = { skip: container.skip || needs('speed') };

/** A root file system that a test may change, and whose path has all that shells and mount(8) trip over. */
const root = join(scratch, 'it\'s 1 "root", \\040 $HOME:*');
const copy = async (to: string) => {
  await execute(['cp', '-a', `${rootfs}/.`, to]);
  // a mount point that --dns has left there would get the host's name servers
  rmSync(join(to, 'etc/resolv.conf'), { force: true });
};
/** What the host shows in there: a file, and an empty directory. */
const source = join(scratch, 'source');
const below = join(source, 'be low 1');
before(async () => {
  if (container.skip) return;
  await copy(root);
  mkdirSync(below, { recursive: true });
  writeFileSync(join(source, 'file'), 'of the host\n');
});

test('options that contradict each other are refused', slow, async () => {
  for (const [options, expected] of [
    ['--disk 1M', /--disk needs --ephemeral/],
    ['--log-size 1M', /--log-size needs --detach/],
    ['--init --isolate mount', /--init needs --isolate pid/],
    ['--userns --isolate pid', /--userns needs --isolate mount/],
    [`-v ${scratch}:/x --isolate chroot`, /--volume needs --isolate mount/],
    ['--ulimit nofile=2:1', /nofile|NOFILE/],
    ['--env-file /no/such', /\/no\/such: ENOENT/],
    ['--env-file /etc', /\/etc/],
  ] as const)
    await refused(expected, options);
});

test('a volume is writable, or read-only with all below it; its flags stay', container, async () => {
  const memory = `mount -t tmpfs -o nosuid,noexec,mode=755 t '${below}'; echo >'${below}/deep'`;
  const places = ['/rw', '/ro d/1:ro', '/none:noexec,nosuid'].map((place) => `${source}:${place}`);
  const output = await said(
    each('-v', [...places, `${source}/file:/etc/a file:ro`]),
    `cat /rw/file '/etc/a file'; echo new >/rw/new; cat '/ro d/1/new'; ls '/ro d/1/be low 1'
    refused touch '/ro d/1/x'; refused touch '/ro d/1/be low 1/x'; refused sh -c 'echo x >/etc/a\\ file'
    mknod /rw/device c 1 5 || echo no mknod; refused head -c 1 /rw/device; touch '/rw/be low 1/x'
    cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(rw|ro|none|etc)' | sort`,
    { root, launch: mounted(memory) },
  );
  const expected = `of the host|of the host|new|deep|/etc/a_file ro,nodev|
    /none rw,nosuid,nodev,noexec|/none/be_low_1 rw,nosuid,nodev,noexec|
    /ro_d/1 ro,nodev|/ro_d/1/be_low_1 ro,nosuid,nodev,noexec|
    /rw rw,nodev|/rw/be_low_1 rw,nosuid,nodev,noexec`;
  const lines = output.replaceAll('\\040', '_').replaceAll(',relatime', '').trim().split('\n');
  assert.deepEqual(lines, expected.split(/\|\s*/));
  assert.equal(readFileSync(join(source, 'new'), 'utf8'), 'new\n');
});

test('paths may have any character; what is inside another volume comes after it', slow, async () => {
  const odd = 'a b|a 1|,c=1|"q"|it\'s|back\\slash|$HOME `id`|*?[a]|#1|-o|ä\u2028|\\040|line\nfeed'.split('|');
  const volumes = odd.map((name, index) => {
    mkdirSync(join(scratch, 'odd', name), { recursive: true });
    writeFileSync(join(scratch, 'odd', name, 'file'), `${index}\n`);
    return `${join(scratch, 'odd', name)}:/odd/${name.replace('\n', ' ')}:ro`;
  });
  const nested = [':/n/a/be low 1/c:ro', '/file:/n/a/be low 1/f', ':/n/a'].map((rest) => source + rest);
  const output = await said(
    [...each('-v', [...volumes, ...nested]), ...each('--tmpfs', ['/n', '/n/a/be low 1:size=1m'])],
    `cd /odd; for name in *; do cat "./$name/file"; refused touch "./$name/x"; done | sort -n
    cd '/n/a/be low 1'; cat c/file f; cut -d' ' -f5 /proc/self/mountinfo | grep -c ^/n`,
    { root },
  );
  assert.equal(output, `${[...odd.keys()].join('\n')}\nof the host\nof the host\n5\n`);
  assert.equal(existsSync(join(below, 'c')), false);
});

test('where a volume goes is found as a process of the container would find it', container, async () => {
  link(
    root,
    `absolute:/target/absolute relative:etc/../target/relative chain:relative/../chained
    self:/proc/1/root/target/self empty:/target//./empty/ new-file:/target/new-file
    upwards:../../../../../../..${scratch}/upwards`,
  );
  const before = await state(source);
  const folders = '/absolute /relative/x /upwards/x /chain /self /empty /../../../up /etc/../target/./dots/';
  const volumes = folders.split(' ').map((path) => `${source}:${path}`);
  for (const path of ['/new-file', '/target/a-file', '/upwards/file']) volumes.push(`${source}/file:${path}`);
  const list = "cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/($|proc|sys|dev)' | sort";
  const targets = 'a-file absolute chained dots empty new-file relative/x self'.split(' ');
  const expected = [...targets.map((name) => `/target/${name}`), '/up'];
  for (const name of ['file', 'x']) expected.push(`${scratch}/upwards/${name}`);
  const found = (await said(each('-v', volumes), list, { root })).trim().split('\n');
  assert.deepEqual(found.sort(), expected.sort());
  assert.equal(existsSync(join(scratch, 'upwards')), false);
  assert.equal(await state(source), before);
});

test('where nothing can be mounted is refused, and what was to be shown stays whole', slow, async () => {
  link(root, 'to-proc:/proc loop:/loop');
  await execute(['mkfifo', join(root, 'fifo')]);
  const before = await state(source);
  const how = { root, launch: ['timeout', '-k', '1', '60', ...launch] };
  const paths = '/ /etc/.. /proc /proc/sys /proc/self/root/x /to-proc/1/x';
  for (const path of paths.split(' ')) {
    await refused(/cannot mount at |mkdir: cannot create/, `-v ${source}:${path}`, how);
    assert.equal(await state(source), before, path);
  }
  await refused(/cannot mount at /, '--tmpfs /proc/fs', how);
  await refused(/: \/loop\/x: too many symlinks/, `-v ${source}:/loop/x`, how);
  await refused(/passwd/, `-v ${source}:/etc/passwd`, how);
  for (const path of ['/', '/etc', '/fifo', '/proc/version'])
    await refused(
      /cannot mount at |is a file, and .* is a directory in the container|nothing can be mounted there/,
      `-v ${source}/file:${path}`,
      how,
    );
  assert.equal(await state(source), before);
});

test('a link that is put where a file is to be mounted leads nowhere', {
  skip: slow.skip || needs('perl'),
}, async () => {
  const outside = join(scratch, 'outside');
  await execute(['install', '-D', '/dev/null', join(outside, 'file')]);
  await execute(['install', '-D', '/dev/null', join(root, 'race/file')]);
  link(root, `race/link:${outside}/file`);
  const before = await state(outside);
  // renameat2(2), RENAME_EXCHANGE
  const flip =
    'chdir shift; for (;;) { syscall 316, -100, "file", -100, "link", 2; select "", "", "", .001 }';
  const flipping = spawn('perl', ['-e', flip, join(root, 'race')]);
  const end = once(flipping, 'exit');
  try {
    const where = "cut -d' ' -f5 /proc/self/mountinfo | grep -E 'race|outside'";
    for (let round = 0; round < 20; round++) {
      const { stdout, stderr } = await inside(`-v ${source}/file:/race/file`, where, { root });
      // in the root it may have followed the link, to a file of the same path
      assert.match(stdout + stderr, /^(\/race\/(file|link)|.*\/outside\/file|run: .*|mount: .*)\n/);
      assert.equal(await state(outside), before);
    }
  } finally {
    flipping.kill();
    await end;
  }
});

test('--tmpfs is memory, nosuid, noexec and nodev unless it says otherwise', container, async () => {
  const output = await said(
    '--tmpfs /a --tmpfs /usr/new/b:size=100k,mode=700,exec,suid',
    `cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(a|usr)'; stat -c %a /a /usr/new/b
    cp /bin/true /a; cp /bin/true /usr/new/b; refused /a/true; /usr/new/b/true
    head -c 200000 /dev/zero 2>&1 >/usr/new/b/big | grep -o 'No space.*'; head -c 200000 /dev/zero >/a/big`,
    { root },
  );
  const expected = '/a rw,nosuid,nodev,noexec|/usr/new/b rw,nodev|1777|700|No space left on device|';
  assert.equal(output.replaceAll(',relatime', ''), expected.replaceAll('|', '\n'));
});

test('--tmpfs over a directory has its mode and owner, unless it says otherwise', container, async () => {
  const there = join(root, 'was there');
  await execute(['install', '-d', '-m', '2750', '-o', '33', '-g', '44', there, `${there}/in it`]);
  const before = await state(there);
  const look = (...places: string[]) =>
    `stat -c %a:%u:%g ${places.map((place) => `'${place}'`).join(' ')}; ls -A '/was there'`;
  const rows: [options: string[], path: string, expected: string][] = [
    [['/was there'], '/was there', '2750:33:44'],
    [['/was there/in it'], '/was there/in it', '2750:33:44'],
    [['/was there:mode=711'], '/was there', '711:33:44'],
    [['/was there:uid=7'], '/was there', '2750:7:44'],
    [['/was there:gid=8,mode=1777,uid=7'], '/was there', '1777:7:8'],
    [['/was there:rw,nodev,relatime,size=1m'], '/was there', '2750:33:44'],
    [['/new/one'], '/new/one', '1777:0:0'],
    [['/was there:mode=755', '/was there/new'], '/was there/new', '1777:0:0'],
  ];
  for (const ephemeral of [[], ['--ephemeral'], ['--read-only']])
    for (const [values, path, expected] of rows) {
      const output = await said([...ephemeral, ...each('--tmpfs', values)], look(path), { root });
      assert.equal(output.split('\n')[0], expected, `${ephemeral} ${values}`);
    }
  assert.equal(await state(there), before);
});

test('--tmpfs in a user namespace: an owner that it does not know is left out', {
  skip: container.skip || needs('user-namespaces', 'perl'),
}, async () => {
  const how = { root: join(scratch, 'owned') };
  await copy(how.root);
  await execute(['chmod', '755', scratch]);
  for (const [id, name] of [
    [33, 'known'],
    [700_000, 'unknown'],
  ] as const)
    await execute(['install', '-d', '-m', '750', '-o', String(id), '-g', '0', join(how.root, name)]);
  const output = await said(
    '--userns --tmpfs /known --tmpfs /unknown',
    'stat -c %a:%u:%g /known /unknown',
    how,
  );
  assert.match(output, /^750:33:0\n750:(0|65534):0\n$/);
});

test('the same place is given to one thing only', container, async () => {
  const twice = (path: string) => new RegExp(`${path} is the target of two mounts, by `);
  const [there, file] = [source, join(source, 'file')];
  await refused(twice('/a'), `-v ${there}:/a -v ${there}:/a`, { root });
  await refused(twice('/a'), `-v ${there}:/a --tmpfs /a/`, { root });
  await refused(twice('/a/b'), '--tmpfs /a/b --tmpfs //a/./c/../b/.:size=1m', { root });
  await refused(twice('/dev/x'), '--device /dev/null:/dev/x --device /dev/zero:/dev/x', { root });
  await refused(twice('/dev/x'), `--device /dev/null:/dev/x -v ${file}:/dev/x`, { root });
  await refused(twice('/etc/hosts'), `-v ${file}:/etc/hosts --add-host a:1.2.3.4`, { root });
  await refused(twice('/etc/resolv.conf'), `-v ${file}:/etc/resolv.conf --dns 9.9.9.9`, { root });
  await refused(twice('/a'), `-d -v ${there}:/a -v ${there}:/a`, { root });
  assert.equal(
    await said(`-v ${there}:/a -v ${there}:/a/b -v ${there}:/ab`, 'cat /ab/file', { root }),
    'of the host\n',
  );
});

test('words for what holds anyway are no errors', container, async () => {
  const options = `-v ${source}:/v:ro,nodev,rbind,private -v ${source}:/w:rw,nocopy --tmpfs /t:rw,nodev,relatime,async`;
  const list = "cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/[vwt] ' | sort";
  const output = await said(options, list, { root });
  assert.match(output, /^\/t rw,nosuid,nodev,noexec,relatime\n\/v ro,nodev\S*\n\/w rw,nodev\S*\n$/);
  const { stdout } = await inside(`--privileged -v ${source}:/v:nodev --tmpfs /t:nodev`, list, { root });
  assert.match(stdout, /^\/t rw,nosuid,nodev,\S*\n\/v rw,nodev\S*\n$/);
});

test('--read-only is the root; volumes, /dev and tmpfs stay writable', container, async () => {
  const program = `refused touch /x; refused rm /etc/passwd; touch /mnt/x /srv/x /dev/x /dev/shm/x
    awk '$5 == "/" { print $6 }' /proc/self/mountinfo`;
  const options = `--read-only --tmpfs /mnt -v ${source}:/srv`;
  await says(program, [
    [options, 'ro,nodev,relatime'],
    [`${options} --ephemeral`, 'ro,nodev,relatime'],
  ]);
});

test('--ephemeral: one root is enough for many, and stays as it was', container, async () => {
  const before = await state(root);
  const program = `cat /own 2>/dev/null; hostname >/own; hostname >>/etc/passwd; tail -n 1 /etc/passwd
    rm -r /usr/share /etc/group; mkdir /usr/share; ls -A /usr/share | wc -l; mv /etc /etc2
    chmod 700 /; sleep 0.5; cat /own; df -k --output=fstype,size / | tail -n 1 | tr -s ' '
    head -c 3M /dev/zero 2>&1 >/big | grep -o 'No space.*'`;
  const run = (name: string) =>
    said(`--ephemeral --disk 2M --hostname ${name} --tmpfs /new/x`, program, { root });
  const names = [...'abcdef'];
  assert.deepEqual(
    await Promise.all(names.map(run)),
    names.map((name) => `${name}\n0\n${name}\noverlay 2048\nNo space left on device\n`),
  );
  assert.equal(await state(root), before);
});

test('--userns: root in the container is nobody on the host, and the files are its own', {
  skip: container.skip || needs('user-namespaces', 'perl'),
}, async () => {
  const how = { root: join(scratch, 'plain') };
  await copy(how.root);
  await execute(['chmod', '755', scratch]);
  const program = `id -u; stat -c %u:%g / /etc/passwd; hostname; touch /made; chown 33:44 /made; mkdir /folder
    refused sh -c 'echo x >/proc/sys/kernel/core_pattern'; refused touch /sys/x; refused mknod /device c 1 3
    refused mount -t tmpfs t /mnt; refused unshare --user true; head -c 1 /proc/keys; ls /sys/firmware
    echo x >/dev/null; head -c 3 /dev/zero | wc -c`;
  await says(program, [['--userns --hostname box', '0', '0:0', '0:0', 'box', '3']], how);
  const { stdout } = await execute(['stat', '-c', '%u:%g', join(how.root, 'made'), join(how.root, 'folder')]);
  assert.equal(stdout, '33:44\n0:0\n');
  const asUser = `--userns -u nobody -v ${source}:/v:ro --device /dev/full`;
  const show = 'id -un; stat -c %U /etc /v; cat /v/file; test -c /dev/full && echo full';
  await says(show, [[asUser, 'nobody', 'root', 'nobody', 'of the host', 'full']], how);
  const change = 'rm -r /usr/share; mkdir /usr/share; stat -c %u:%g /usr/share /etc/passwd; touch /more';
  if (!needsAttributes) await says(change, [['--userns --ephemeral', '0:0', '0:0']], how);
  assert.equal(existsSync(join(how.root, 'more')), false);
  const inTime = { ...how, launch: ['timeout', '60', ...launch] };
  await refused(/NOFILE/, '--userns --ulimit nofile=2:1', inTime);
  // a volume with the root in it: some of its mounts are covered by others
  await says('ls /v/plain/usr | grep bin', [[`--userns -v ${scratch}:/v:ro`, 'bin', 'sbin']], inTime);
  const shared = join(scratch, 'shared');
  await execute(['mkdir', '-m', '1777', shared]);
  const base = async (name: string) => {
    const program = `touch /v/${name}; cat /proc/self/uid_map; sleep 1`;
    const map = await said(`--userns --name ${name} -v ${shared}:/v`, program, how);
    const [inside, outside, count] = map.trim().split(/\s+/).map(Number);
    assert.deepEqual([inside, outside, count], [0, statSync(join(shared, name)).uid, 65536]);
    return outside as number;
  };
  const [one = 0, other = 0] = await Promise.all([base(newName()), base(newName())]);
  assert.ok(Math.abs(one - other) >= 65536, `${one} ${other}`);
});

/** What run.ts --init takes on this host, in its order; dumb-init and the like are seldom static. */
const inits = ['tini-static', 'catatonit', 'tini', 'dumb-init', 'docker-init'];
for (const [what, hidden] of [
  ['tini-static', []],
  ["the root's shell", inits],
] as const) {
  const skip = container.skip || needs(what === 'tini-static' ? what : 'speed');
  const how = { root, launch: without(...hidden) };

  test(`--init, ${what}: exit codes, input, orphans, signals`, { skip }, async () => {
    const codes = 'true:0|exit 42:42|exec no-such:127|exec /etc/passwd:126|kill -9 $$:137|kill $$:143';
    for (const [program = '', code] of codes.split('|').map((row) => row.split(':')))
      assert.equal((await inside('--init', program, how)).code, Number(code), program);
    for (const [code, command] of Object.entries({ 127: 'no-such', 126: '/etc/passwd' }))
      assert.equal((await execute([...how.launch, '--init', root, command])).code, Number(code), command);

    const program = `cat; test $$ != 1; (sleep 0.2 & exec true); sleep 0.5; ps -e -o stat= | grep -c Z
      [ ! -e /dev/init ] || refused sh -c ': >>/proc/1/exe'; readlink /proc/1/exe
      awk '$5 == "/dev/init" { print $6 }' /proc/1/mountinfo`;
    const { stdout } = await inside('--init', program, { ...how, input: 'input\n' });
    // of the root that test is made of
    const ownShell = realpathSync(join(rootfs, 'bin/sh')).slice(rootfs.length);
    const first = what === 'tini-static' ? '/dev/init\nro,nosuid,nodev,relatime' : ownShell;
    assert.equal(stdout, `input\n0\n${first}\n`);

    const kill =
      '"$@" >"$0" & until grep -q ready "$0" || ! kill -0 $!; do sleep 0.1; done; kill $!; wait $!';
    const asked = { root, launch: ['sh', '-c', kill, join(scratch, what), ...how.launch] };
    const handler = 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done';
    assert.equal((await inside('--init', handler, asked)).code, 9);
  });
}

test('the environment: --env-file, then -e; it is for the container alone', slow, async () => {
  const [file, spy, spied] = [join(scratch, 'env'), join(scratch, 'spy.cjs'), join(scratch, 'spied')];
  writeFileSync(spy, `require('node:fs').writeFileSync(${JSON.stringify(spied)}, '')`);
  writeFileSync(file, `# no\nA=file\nB=file\nCALLER\nLD_DEBUG=help\nNODE_OPTIONS=--require=${spy}\n`);
  const options = ['-e', 'B=option', '--env-file', file, ...each('-e', ['C=1', 'C=2', 'LD_DEBUG='])];
  const env = { ...process.env, CALLER: 'yes', A: 'caller' };
  const output = await said(options, 'echo "$A,$B,$C,$CALLER,$NODE_OPTIONS"', { env });
  assert.equal(output, `file,option,2,yes,--require=${spy}\n`);
  assert.equal(existsSync(spied), false);
});

test('--add-host and --dns are files of its own', slow, async () => {
  const paths = ['hosts', 'resolv.conf'].map((name) => join(root, 'etc', name));
  for (const path of paths) writeFileSync(path, 'nameserver 192.0.2.1\n');
  const files = () => paths.map((path) => readFileSync(path, 'utf8'));
  const before = files();
  const options = '--hostname box --add-host db:10.1.2.3 --add-host six:fe80::1 --dns 9.9.9.9 --dns ::1';
  const program = "cat /etc/resolv.conf; getent hosts db box | tr -s ' '; grep six /etc/hosts";
  const lines = ['nameserver 9.9.9.9', 'nameserver ::1', '10.1.2.3 db', '127.0.1.1 box', 'fe80::1\tsix'];
  await says(program, [[options, ...lines]], { root });
  assert.deepEqual(files(), before);
});

test('--ulimit, --shm-size and --device', container, async () => {
  const limits = '--ulimit nofile=100:200 --ulimit core=0 --ulimit stack=-1';
  const devices = '--device /dev/zero:/dev/a/b/zero --device /dev/full';
  const program = `ulimit -n; ulimit -Hn; ulimit -c; ulimit -s; head -c 3 /dev/a/b/zero | wc -c; ls /dev/a
    df -k --output=size /dev/shm | tail -n 1 | tr -d ' '`;
  const limited = ['100', '200', '0', 'unlimited', '3', 'b'];
  await says(program, [
    [`${limits} --shm-size 1M ${devices} -u 1000`, ...limited, '1024'],
    [`${limits} ${devices}`, ...limited, '65536'],
  ]);
});

test('--stop-signal is noted for stop.ts, for as long as the container lives', container, async () => {
  const { name, launcher, end } = await start(['--stop-signal', 'SIGUSR1'], ['sleep', '100']);
  assert.equal(readFileSync(`/run/barehand/${name}/stop-signal`, 'utf8'), 'USR1\n');
  launcher.kill('SIGTERM');
  await end;
  assert.equal(existsSync(`/run/barehand/${name}`), false);
});

test("what is not said is as the root's image says", { skip: slow.skip || needs('perl') }, async () => {
  const image = join(scratch, 'image');
  await copy(image);
  const configure = (config: object) => writeFileSync(join(image, '.image.json'), JSON.stringify({ config }));
  const ran = async (...words: string[]) => {
    const { code, stdout, stderr } = await call('run', words);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    return stdout;
  };
  configure({ Entrypoint: ['/bin/echo', 'a  b'], Cmd: ['c', '$d'] });
  assert.equal(await ran(image), 'a  b c $d\n');
  assert.equal(await ran(image, 'e'), 'a  b e\n');
  assert.equal(await ran('--entrypoint', '/bin/pwd', image), '/\n');
  assert.equal(await ran('--entrypoint', 'printf', image, '%s', 'x'), 'x');
  const Cmd = ['sh', '-c', 'id -un; pwd; echo "$A,$B"; echo $HOME'];
  const others = { Env: ['A=1', 'B=2'], User: 'nobody', WorkingDir: '/usr', StopSignal: 'SIGRTMIN+3' };
  configure({ Entrypoint: null, Cmd, ...others });
  assert.equal(await ran(image), 'nobody\n/usr\n1,2\n/nonexistent\n');
  assert.equal(await ran('-u', '0', '-w', '/etc', '-e', 'B=3', image), 'root\n/etc\n1,3\n/root\n');
  assert.equal(await ran('--isolate', 'chroot', image, 'sh', '-c', 'id -u; pwd; echo $A'), '0\n/\n1\n');
  for (const config of [{ Cmd: 'sh' }, { User: 'who' }, { StopSignal: 'NOW' }, { Env: [1] }]) {
    configure(config);
    await refused(/Cmd is not a list|no user who|NOW|Env is not a list/, [], { root: image });
  }
});

test('system calls are filtered, no privileges gained, unless that is lifted', {
  skip: container.skip || needs('perl'),
}, async () => {
  const program = "awk '/^(Seccomp|NoNewPrivs):/ { print $2 }' /proc/self/status";
  const inherited = /Seccomp:\t(\d)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] as string;
  await says(program, [
    ['', '1', '2'],
    ['--security-opt seccomp=unconfined', '1', inherited],
    ['--security-opt no-new-privileges=false', '0', '2'],
    ['--security-opt seccomp=unconfined --security-opt no-new-privileges:false', '0', inherited],
    ['--security-opt no-new-privileges --isolate chroot', '1', '2'],
  ]);
  const { stdout, stderr } = await inside('--privileged', program);
  assert.equal(stdout, `0\n${inherited}\n`);
  assert.match(
    stderr,
    /^run: --privileged: root in this container has all privileges of root on the host\n$/,
  );
});

test('a host that can load no filter is told of it, and the container runs', container, async () => {
  const { stdout, stderr } = await inside('', 'echo runs', { launch: without('perl', 'python3') });
  if (stderr === '') assert.match((await execute(['setpriv', '--help'])).stdout, /--seccomp-filter/);
  else assert.match(stderr, /^run: no seccomp filter: that needs perl, python3 or util-linux 2.4\d\n$/);
  assert.equal(stdout, 'runs\n');
});

test('-d prints the name at once; output and the exit code are kept; no node stays', container, async () => {
  const mark = `MARK=${newName()}`;
  const wait = 'until [ -e /go/on ]; do sleep 0.1; done';
  const program = `read -r line || echo no input; echo error >&2; ${wait}; echo end; exit 42`;
  const name = await detach(`-v ${source}:/go:ro`, program, { root, launch: ['env', mark, ...launch] });
  assert.equal(existsSync(keptFile(name, 'status')), false);
  // programs of the host; those in the container have an environment of their own
  const list =
    'cd /proc; for pid in $(grep -lsz "^$1$" */environ); do cat "${pid%environ}comm"; done | sort -u';
  const { stdout } = await execute(['sh', '-c', list, 'sh', mark]);
  assert.deepEqual(stdout.trim().split('\n'), ['flock', 'head', 'sh', 'unshare']);
  await refused(new RegExp(`the name ${name} is in use by PID \\d+`), `-d --name ${name}`);
  writeFileSync(join(source, 'on'), '');
  await ended(name);
  assert.equal(kept(name, 'log'), 'no input\nerror\nend\n');
  assert.equal(kept(name, 'status'), '42\n');
});

test('--log-size bounds what is kept of the output, and the end of it is there', slow, async () => {
  const name = await detach('--log-size 64k', 'seq 1 450000; echo the end');
  const exact = await detach('--log-size 64k', 'head -c 65536 /dev/zero');
  await ended(name);
  await ended(exact);
  const log = kept(name, 'log.1') + kept(name, 'log');
  assert.ok(log.length > 32768 && log.length <= 65536, `${log.length}`);
  assert.match(log, /\n449999\n450000\nthe end\n$/);
  assert.ok(kept(exact, 'log').length + kept(exact, 'log.1').length <= 65536);
});

test("-d outlives the caller's terminal, and ends when it is asked to", container, async () => {
  const name = backgroundName();
  const signals = '"$@"; trap "" HUP INT QUIT; kill -HUP 0; kill -INT 0; kill -QUIT 0; echo sent';
  const how = { launch: ['setsid', 'sh', '-c', signals, 'sh', ...launch] };
  const program = 'trap "exit 3" TERM; while :; do sleep 0.1; done';
  assert.equal(await said(`-d --name ${name}`, program, how), `${name}\nsent\n`);
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(existsSync(keptFile(name, 'status')), false);
  assert.equal((await call('stop', ['--timeout', '20', name])).code, 0);
});

test('-d says at once why it fails, if it does before the command starts', container, async () => {
  const failing = backgroundName();
  await refused(/cannot mount at /, `-d --name ${failing} -v ${source}:/`);
  assert.equal(existsSync(keptFile(failing, '')), false);

  await refused(/\/etc\/passwd/, `-d --name ${failing} -w /etc/passwd`);
  assert.equal(existsSync(keptFile(failing, '')), false);
});

test('with --init Ctrl-C reaches the command', {
  skip: slow.skip || needs('expect'),
}, async () => {
  const command = [rootfs, 'sh', '-c', 'trap "exit 5" INT; echo re""ady; while :; do sleep 0.1; done'];
  for (const hidden of [[], inits]) {
    const words = [...without(...hidden), '--init', ...command].map((word) => `{${word}}`).join(' ');
    const dialogue = `spawn ${words}; expect ready; send "\\003"; expect eof; puts "code [lindex [wait] 3]"`;
    assert.match((await execute(['expect', '-c', `set timeout 60; ${dialogue}`])).stdout, /code 5\n$/);
  }
});

test('-1 is no limit', container, async () => {
  const options = '--memory 50M --memory-swap -1 --pids-limit -1 --network none';
  assert.equal(await said(options, 'echo runs'), 'runs\n');
  await refused(/--cpus|not a number/, '--cpus -1');
});

test('--cpu-shares of everybody is what everybody has', { skip: needs('cgroup-v2') }, async () => {
  for (const [shares, weight] of [
    ['2', '1'],
    ['1024', '100'],
    ['262144', '10000'],
  ] as const) {
    const { name, first } = await start(['--cpu-shares', shares], ['sleep', '1000']);
    const files = cgroups(name).map((folder) => join(folder, 'cpu.weight'));
    const file = files.find((path) => existsSync(path)) as string;
    assert.equal(readFileSync(file, 'utf8'), `${weight}\n`);
    process.kill(first, 'SIGKILL');
  }
});

test('a name is free only if it is in every hierarchy', { skip: needs('cgroup-v1') }, async () => {
  for (const [index] of cgroups('any').entries()) {
    const name = newName();
    const folder = cgroups(name)[index] as string;
    // another launch may sweep up what is empty
    const make = () => attempt(() => mkdirSync(folder, { recursive: true }) !== '');
    await until('the cgroup', make);
    // what is empty is what a killed launch has left
    assert.equal(await said(`--name ${name}`, 'echo runs'), 'runs\n');
    assert.equal(existsSync(folder), false);
    const other = spawn('sleep', ['1000'], { stdio: 'ignore' });
    const end = once(other, 'exit');
    const join = () => {
      for (const file of ['cpuset.cpus', 'cpuset.mems'])
        for (const level of [`${folder}/..`, folder])
          if (existsSync(`${level}/${file}`))
            writeFileSync(`${level}/${file}`, readFileSync(`${level}/../${file}`, 'utf8'));
      writeFileSync(`${folder}/cgroup.procs`, `${other.pid}`);
      return true;
    };
    try {
      await until('a process in it', () => make() && attempt(join));
      await refused(new RegExp(`the name ${name} is in use by PID ${other.pid}`), `--name ${name}`);
      for (const path of cgroups(name)) assert.equal(existsSync(path), path === folder, path);
      assert.equal(other.exitCode ?? other.signalCode, null);
    } finally {
      other.kill('SIGKILL');
      await end;
      await until('the cgroup to be empty', () => attempt(() => rmdirSync(folder)) ?? !existsSync(folder));
    }
  }
});

test('limits are in its cgroups before it runs, as Docker names them', container, async () => {
  const name = newName();
  const options =
    '--memory 50M --memory-swap 60M --cpus 0.5 --cpuset-cpus 0 --cpu-shares 512 --pids-limit 20';
  await call('run', ['-d', '--name', name, ...options.split(' '), rootfs, 'sleep', '100']);
  try {
    const [row] = JSON.parse((await call('ps', ['--json'])).stdout).filter(
      (one: { name: string }) => one.name === name,
    );
    assert.deepEqual(row.limits, { memoryBytes: 50 * 1024 ** 2, cpus: 0.5, pids: 20 });
    const status = readFileSync(`/proc/${row.pid}/status`, 'utf8');
    assert.match(status, /^Cpus_allowed_list:\t0$/m);
  } finally {
    await call('stop', [name]);
  }
  await refused(/--memory-swap limits memory and swap together/, '--memory 50M --memory-swap 40M', {});
  await refused(/PATH:RATE/, '--device-read-bps nonsense', {});
});

test('with rslave a volume shows what the host mounts later, and nothing else does', container, async () => {
  const seen = join(scratchFolder('rslave', 0o755), 'seen');
  mkdirSync(seen);
  // a host whose mounts are shared, as systemd makes them
  const program = `set -e
    mount --make-rprivate /; mount -t tmpfs source ${seen}; mount --make-rshared ${seen}
    mkdir ${seen}/sub; cp -a ${rootfs} ${seen}/root; mkdir -p ${seen}/root/sub
    chmod 1777 ${seen}; chmod 755 ${seen}/root
    "$@" -v ${seen}:/a:rslave -v ${seen}:/b ${seen}/root sh -c 'touch /a/ready
      until [ -e /a/sub/later ]; do sleep 0.1; done; ls /b/sub /sub
      while [ -e /a/sub/later ]; do sleep 0.1; done; echo gone' &
    until [ -e ${seen}/ready ]; do kill -0 $!; sleep 0.1; done
    for folder in root/sub sub; do mount -t tmpfs later ${seen}/$folder; touch ${seen}/$folder/later; done
    sleep 1; umount ${seen}/sub; wait`;
  for (const options of ['--cap-drop mknod', '--userns --ephemeral', '--privileged']) {
    if (options.startsWith('--userns') && mappedIds) continue;
    const words = ['sh', '-c', program, 'sh', script('run'), ...options.split(' ')];
    const { code, stdout, stderr } = await execute(['unshare', '--mount', ...words]);
    assert.deepEqual([code, stdout], [0, '/b/sub:\n\n/sub:\ngone\n'], `${options}: ${stderr}`);
  }
  await refused(
    /^run: --volume: rslave lets later mounts .*: add --cap-drop mknod, or --userns$/m,
    '-v /tmp:/x:rslave',
  );
  await refused(
    /^run: --volume: rslave: \/ is a private mount, .*: mount --make-rshared \/$/m,
    '-v /usr:/x:rslave --cap-drop mknod',
    { launch: mounted('mount --make-rprivate /') },
  );
});
