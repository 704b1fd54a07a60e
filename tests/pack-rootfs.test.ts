// pack-rootfs.ts: tarballs of directories and of containers, always the same bytes, and back by fetch-rootfs.ts.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { attempt } from '../scripts/helpers/pids.ts';
import { cgroups, container, newName, start, startByHand } from './helpers/container.ts';
import { makeBundle, withEngine, withRunc } from './helpers/engines.ts';
import { treeOf } from './helpers/images.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { allocated, makeOddTree, oddTreeNeeds, sh } from './helpers/odd-tree.ts';
import { pack, pathsIn, refused, small } from './helpers/pack.ts';
import { become, call, execute, rootfs, script, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

// before the first test: node:test may see the end of all tests while a file still awaits, and run its hooks
const mappedIds = await needsMappedIds();
const root = { skip: needs('root', 'namespaces') };
const odd = { skip: needs('namespaces', ...oddTreeNeeds) };

const sumOf = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex');

/** The names in a tarball, sorted. */
const namesIn = (file: string) => sh('tar -tf "$1"', file).trim().split('\n').sort();

/** The text of a file in a tarball. */
const textIn = (file: string, name: string) => sh('tar -xOf "$1" "$2"', file, name);

test(
  'the same content gives the same bytes: again, and from a copy with inodes and attributes in another order',
  odd,
  async () => {
    const folder = scratchFolder('pack');
    const tree = makeOddTree(join(folder, 'tree'));
    const [one, again, other] = pathsIn(folder, 'one.tar', 'again.tar', 'other.tar');
    const copy = join(folder, 'copy');
    sh(
      `mkdir "$2" && tar -C "$1" --xattrs --xattrs-include='*' --numeric-owner --sparse --format=posix -c . >"$2.tar"
     cd "$1" && find . -mindepth 1 ! -type d -print0 | LC_ALL=C sort -zr >"$2.names"
     tar -C "$2" -xpf "$2.tar" --xattrs --xattrs-include='*' --null --files-from="$2.names"
     tar -C "$2" -xpf "$2.tar" --xattrs --xattrs-include='*'
     cd "$2" && setfattr -x user.a -x user.b bin/attributes 2>/dev/null || setfattr -x user.a bin/attributes
     setfattr -x user.c bin/attributes
     for name in user.a user.c user.b; do setfattr -n $name -v 0x610062ff0a bin/attributes; done
     touch -d @1 "$2.now"`,
      tree,
      copy,
    );
    const { stdout } = await pack([tree, one]);
    assert.equal(stdout, `sha256:${sumOf(one)}\n`);
    await pack([tree, again]);
    await pack([copy, other]);
    assert.equal(sumOf(again), sumOf(one));
    assert.deepEqual(treeOf(copy), treeOf(tree), 'the copy is one');
    assert.equal(sumOf(other), sumOf(one));
    const names = namesIn(one);
    assert(names.includes('./bin/one') && !names.some((name) => name.includes('PaxHeaders')));
    // nothing of the moment: neither access nor change times, nor a process
    const bytes = readFileSync(one);
    for (const word of ['atime=', 'ctime=', `.${process.pid}/`]) assert(!bytes.includes(word), word);
  },
);

test('what fetch-rootfs.ts makes of a tarball is what was packed, in each compression', odd, async (t) => {
  const folder = scratchFolder('pack');
  const tree = makeOddTree(join(folder, 'tree'));
  const expected = treeOf(tree);
  for (const [name, missing] of [
    ['a.tar', false],
    ['a.tar.gz', false],
    ['a.tgz', false],
    ['a.tar.zst', needs('zstd')],
    ['a.tar.xz', needs('xz')],
  ] as const)
    await t.test(name, { skip: missing }, async () => {
      const [file, dest] = [join(folder, name), join(folder, `${name}.d`)];
      const { stdout, stderr } = await pack([tree, file]);
      const sum = stdout.trim().slice('sha256:'.length);
      assert.equal(sum, sumOf(file));
      assert.equal(statSync(file).mode & 0o777, 0o600, 'it may hold password hashes');
      const fetched = await call('fetch-rootfs', ['--sha256', sum, file, dest]);
      assert.equal(fetched.code, 0, fetched.stderr);
      assert.equal(stderr.match(/(\d+) entries/)?.[0], fetched.stderr.match(/(\d+) entries/)?.[0]);
      assert.deepEqual(treeOf(dest), expected);
      assert.equal(sh('stat -c %t:%T "$1/null"', dest), '1:3\n');
      assert(allocated(dest, 'sparse') <= allocated(tree, 'sparse'), 'holes are kept');
      assert.equal(statSync(join(dest, 'bin/two')).ino, statSync(join(dest, 'three')).ino);
    });
});

test('- is standard output, and --json has what was made', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  const file = join(folder, 'a.tar');
  const made = JSON.parse((await pack(['--json', tree, file])).stdout);
  assert.deepEqual(made, {
    out: file,
    digest: `sha256:${sumOf(file)}`,
    size: statSync(file).size,
    entries: 3,
    layers: null,
  });
  const words = `${script('pack-rootfs')} --quiet ${tree} -`;
  assert.equal(sh(`${words} | sha256sum`), `${sumOf(file)}  -\n`);
  assert.equal(sh(`${words} --compression gzip | gunzip | sha256sum`), `${sumOf(file)}  -\n`);
  // a reader that goes is no error
  assert.equal(sh(`{ { ${words}; echo $? >&3; } | head -c 9 >/dev/null; } 3>&1`), '0\n');
});

test('SOURCE_DATE_EPOCH is the latest time in a tarball', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  utimesSync(join(tree, 'etc/motd'), 1_000_000_000, 1_000_000_000);
  utimesSync(join(tree, 'etc'), 1_600_000_000, 1_600_000_000);
  const [one, other] = pathsIn(folder, 'one.tar', 'other.tar');
  const env = { SOURCE_DATE_EPOCH: '1500000000' };
  await pack([tree, one], env);
  const times = sh('tar --utc --full-time -tvf "$1"', one);
  assert.match(times, /2001-09-09 01:46:40 \.\/etc\/motd/);
  assert.equal(times.match(/2017-07-14 02:40:00 \.\/(etc\/)?\n/g)?.length, 2, times);
  utimesSync(join(tree, 'etc'), 1_700_000_000, 1_700_000_000);
  await pack([tree, other], env);
  assert.equal(sumOf(other), sumOf(one), 'what is newer does not matter');
  assert.match(await refused([tree, join(folder, 'x.tar')], 2, { SOURCE_DATE_EPOCH: 'now' }), /"now"/);
});

slow('--dry-run prints commands that make the same tarball', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  mkdirSync(join(tree, 'mnt'));
  const [file, byHand] = pathsIn(folder, 'it is.tar', 'by hand.tar');
  await pack([tree, file]);
  const { stdout } = await pack(['--dry-run', tree, byHand]);
  assert(!existsSync(byHand), 'nothing is made');
  sh(stdout);
  assert.equal(sumOf(byHand), sumOf(file));
});

test('what is mounted in ROOTFS is left out: the directory below it is packed', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  mkdirSync(join(tree, 'proc'), { mode: 0o700 });
  writeFileSync(join(tree, 'etc/shadow'), '');
  writeFileSync(join(folder, 'secret'), 'of the host');
  const file = join(folder, 'a.tar');
  // a bind mount of the same file system is no other file system to tar(1)
  const line = `mount --bind "$1" "$2/proc"; mount --bind "$1/secret" "$2/etc/shadow"; exec "$3" "$2" "$4"`;
  const words = ['unshare', '--mount', 'sh', '-ec', line, 'sh', folder, tree, script('pack-rootfs'), file];
  const { code, stderr } = await execute(words);
  assert.equal(code, 0, stderr);
  assert.deepEqual(namesIn(file), ['./', './etc/', './etc/motd', './etc/shadow', './proc/']);
  assert.equal(textIn(file, './etc/shadow'), '');
  assert.match(sh('tar -tvf "$1" ./proc/', file), /^drwx------ /);
});

test('nothing of ROOTFS leads outside, or is run', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  writeFileSync(join(folder, 'secret'), 'of the host');
  symlinkSync(join(folder, 'secret'), join(tree, 'link'));
  symlinkSync(folder, join(tree, 'directory'));
  symlinkSync('../secret', join(tree, '.image.json'));
  for (const name of ['unshare', 'sh', 'mount', 'cp', 'tar', 'chroot', 'ld.so.preload']) {
    writeFileSync(join(tree, name), `#!/bin/sh\ntouch ${folder}/pwned\n`);
    chmodSync(join(tree, name), 0o755);
  }
  const file = join(folder, 'a.tar');
  await pack([tree, file], { PATH: `.::bin:${process.env.PATH}` });
  assert(!existsSync(join(folder, 'pwned')));
  assert.match(sh('tar -tvf "$1"', file), / \.\/link -> \/[^\n]*secret\n/);
  assert(!readFileSync(file).includes('of the host'));
  // nor is a file of the host taken for the configuration of an image
  writeFileSync(join(folder, 'secret'), '{"config": {"Env": ["SECRET=1"]}}');
  await pack([tree, '--oci', join(folder, 'layout')]);
  assert(!sh('cat "$1"/blobs/sha256/*', join(folder, 'layout')).includes('SECRET'));
});

test('sockets are left out, which is said', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  const server = createServer().listen(join(tree, 'etc/socket'));
  await once(server, 'listening');
  try {
    const { stderr } = await pack([tree, join(folder, 'a.tar')]);
    assert.match(stderr, /a socket left out: \/etc\/socket\n/);
    assert.equal((await pack(['--quiet', tree, join(folder, 'b.tar')])).stderr, '');
  } finally {
    server.close();
  }
  assert.deepEqual(namesIn(join(folder, 'a.tar')), ['./', './etc/', './etc/motd']);
});

slow('OUT is refused where it exists, is no new file, or lies in ROOTFS', root, async () => {
  const folder = scratchFolder('pack');
  const tree = small(folder);
  const file = join(folder, 'a.tar');
  writeFileSync(file, 'mine');
  assert.match(await refused([tree, file]), /EEXIST: .* --force/);
  assert.equal(readFileSync(file, 'utf8'), 'mine');
  await pack(['--force', tree, file]);
  assert.equal(namesIn(file).length, 3);
  assert.match(await refused([tree, join(tree, 'a.tar')]), /it is inside of /);
  assert.match(await refused([tree, join(folder, 'no/such/a.tar')]), /ENOENT: .*: mkdir -p /);
  assert.match(await refused([tree, join(folder, 'a.zip')], 2), /\.tar\.gz/);
  mkdirSync(join(folder, 'd.tar'));
  assert.match(await refused(['--force', tree, join(folder, 'd.tar')]), /not a regular file/);
  mkdirSync(join(folder, 'precious'));
  assert.match(await refused(['--force', tree, '--oci', join(folder, 'precious')]), /not an OCI layout/);
  assert.match(await refused([join(folder, 'nothing'), join(folder, 'b.tar')]), /no such directory/);
  assert.match(await refused([file, join(folder, 'b.tar')]), /not a directory/);
  assert.match(await refused(['no-such-name-at-all', join(folder, 'b.tar')]), /no container and no folder/);
  assert.deepEqual(readdirSync(folder).sort(), ['a.tar', 'd.tar', 'precious', 'small']);
});

test('a full disk is named, and leaves nothing', root, async () => {
  const folder = scratchFolder('pack');
  const [tree, disk] = [small(folder), join(folder, 'disk')];
  sh('dd if=/dev/urandom of="$1/big" bs=1M count=4 status=none', tree);
  mkdirSync(disk);
  const line = `mount -t tmpfs -o size=1m disk "$1"; "$2" "$3" "$1/a.tar"; code=$?; ls -A "$1"; exit $code`;
  const words = ['unshare', '--mount', 'sh', '-c', line, 'sh', disk, script('pack-rootfs'), tree];
  const { code, stdout, stderr } = await execute(words);
  assert.match(stderr, /^pack-rootfs: cannot pack .*: ENOSPC: [^\n]*\n$/);
  assert.equal(code, 1);
  assert.equal(stdout, '');
});

test('a user without root packs what is his; all of it is of root in the tarball', {
  skip: needs('root', 'namespaces', 'user-namespaces'),
}, async () => {
  const folder = scratchFolder('pack', 0o755);
  const tree = small(folder);
  sh('chown -R 4321:4321 "$1" && install -d -o 4321 -m 700 "$2"', tree, join(folder, 'out'));
  const file = join(folder, 'out/a.tar');
  const { code, stderr } = await execute([...become(4321), script('pack-rootfs'), tree, file]);
  assert.equal(code, 0, stderr);
  assert.match(sh('tar -tvf "$1"', file), /^-rw-r--r-- 0\/0 .* \.\/etc\/motd$/m);
});

test(
  'interrupted, it leaves nothing and ends by the signal; killed, the next call removes what it left',
  root,
  async () => {
    const folder = scratchFolder('pack');
    const tree = small(folder);
    sh('truncate -s 2G "$1/etc/dense"', tree); // a layer has no holes: this takes long
    const begin = async () => {
      const child = spawn(script('pack-rootfs'), [tree, '--docker', join(folder, 'a.tar')], {
        stdio: 'ignore',
      });
      await until('its partial file', () => readdirSync(folder).some((name) => name.includes('.partial-')));
      return child;
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      const child = await begin();
      child.kill(signal);
      assert.deepEqual(await once(child, 'exit'), [null, signal]);
      assert.deepEqual(readdirSync(folder).sort(), ['small'], signal);
    }
    const child = await begin();
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal(readdirSync(folder).filter((name) => name.includes('.partial-')).length, 1);
    rmSync(join(tree, 'etc/dense'));
    await pack([tree, '--docker', join(folder, 'a.tar')]);
    assert.deepEqual(readdirSync(folder).sort(), ['a.tar', 'small']);
  },
);

/** Whether a container is paused, by v2 or v1. */
const isPaused = (name: string) =>
  cgroups(name).some((directory) =>
    ['cgroup.freeze', 'freezer.self_freezing'].some(
      (file) => attempt(() => readFileSync(join(directory, file), 'utf8').trim()) === '1',
    ),
  );

const hasFreezer = container.skip || (!existsSync('/sys/fs/cgroup/freezer') && needs('cgroup-v2'));

// two files that are never equal for longer than a moment
const writing = 'n=0; while :; do n=$((n + 1)); echo $n >/tmp/one; echo $n >/tmp/other; done';

for (const [what, options, missing] of [
  ['--ephemeral', ['--ephemeral'], false],
  ['--ephemeral --userns', ['--ephemeral', '--userns'], mappedIds],
] as const)
  slow(
    `a container (${what}) that writes all the time is packed as of one moment, and goes on`,
    {
      skip: hasFreezer || missing,
    },
    async () => {
      const folder = scratchFolder('pack', 0o755);
      writeFileSync(join(folder, 'secret'), 'of the host');
      const { name } = await start(
        [...options, '-v', `${folder}/secret:/srv/secret`, '-v', `${folder}:/mnt`],
        ['/bin/sh', '-c', writing],
      );
      await until(
        'its first file',
        async () => (await call('exec', [name, 'cat', '/tmp/other'])).stdout !== '',
      );
      for (let round = 0; round < 3; round++) {
        const file = join(folder, `${round}.tar`);
        await pack([name, file]);
        assert(!isPaused(name));
        const [one, other] = [textIn(file, './tmp/one'), textIn(file, './tmp/other')].map(Number) as [
          number,
          number,
        ];
        assert(
          one === other ||
            one === other + 1 ||
            textIn(file, './tmp/one') === '' ||
            textIn(file, './tmp/other') === '',
          `${one} ${other}`,
        );
        const names = namesIn(file);
        for (const left of ['./proc/1/', './dev/pts/', './sys/kernel/', './mnt/secret'])
          assert(!names.includes(left), left);
        for (const there of ['./proc/', './dev/', './sys/', './mnt/', './etc/passwd', './srv/secret'])
          assert(names.includes(there), there);
        assert.equal(textIn(file, './srv/secret'), '');
        assert.match(sh('tar --numeric-owner -tvf "$1" ./etc/passwd', file), / 0\/0 /);
      }
      const before = (await call('exec', [name, 'cat', '/tmp/other'])).stdout;
      await until(
        'its next file',
        async () => (await call('exec', [name, 'cat', '/tmp/other'])).stdout !== before,
      );
      // the same content: what it is made of
      await call('stop', ['--pause', name]);
      const [one, again] = [join(folder, 'one.tar'), join(folder, 'again.tar')];
      await pack([name, one]);
      assert(isPaused(name), 'it was paused by somebody else, and stays so');
      await pack([name, again]);
      assert.equal(sumOf(one), sumOf(again));
      await call('stop', ['--resume', name]);
    },
  );

slow('--dry-run for a container pauses it, and makes the same tarball', { skip: hasFreezer }, async () => {
  const folder = scratchFolder('pack');
  const { name } = await start(
    ['--ephemeral', ...(mappedIds ? [] : ['--userns'])],
    ['/bin/sh', '-c', 'echo mine >/root/mine; sleep 100; true'],
  );
  const [file, byHand] = [join(folder, 'a.tar'), join(folder, 'b.tar')];
  await until('its file', async () => (await call('exec', [name, 'cat', '/root/mine'])).stdout !== '');
  await pack([name, file]);
  const { stdout } = await pack(['--dry-run', name, byHand]);
  assert.match(stdout, /FROZEN|cgroup\.freeze/);
  spawnSync('sh', ['-e'], { input: stdout });
  assert.equal(sumOf(byHand), sumOf(file));
  assert(!isPaused(name));
});

test('a container goes on after SIGKILL of pack-rootfs.ts, and after each other signal', {
  skip: hasFreezer,
}, async () => {
  const { name } = await start(['--ephemeral'], ['sleep', '1000']);
  for (const signal of ['SIGKILL', 'SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    // nobody reads what it writes: it waits, with the container paused
    const child = spawn(script('pack-rootfs'), [name, '-'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    });
    await until('the pause', () => isPaused(name));
    // as a terminal does it: to all processes of the group
    process.kill(-(child.pid as number), signal);
    assert.deepEqual(await once(child, 'exit'), [null, signal]);
    child.stdout.destroy();
    await until(`its end after ${signal}`, () => !isPaused(name));
  }
});

slow('two at once pack a container one after the other', { skip: hasFreezer }, async () => {
  const folder = scratchFolder('pack');
  const { name } = await start(['--ephemeral'], ['sleep', '1000']);
  const stuck = spawn(script('pack-rootfs'), [name, '-'], { stdio: ['ignore', 'pipe', 'ignore'] });
  await until('the pause', () => isPaused(name));
  const other = pack([name, join(folder, 'a.tar')]);
  const first = await Promise.race([other, new Promise((resolve) => setTimeout(resolve, 3000, 'waits'))]);
  assert.equal(first, 'waits');
  assert(isPaused(name));
  stuck.kill('SIGKILL');
  stuck.stdout.destroy();
  await other;
  await until('its end', () => !isPaused(name));
});

test(
  'a container without a freezer of its own is packed only with --no-pause; its PID will do',
  root,
  async () => {
    const folder = scratchFolder('pack');
    const { first } = await startByHand(['sleep', '1000']);
    const file = join(folder, 'a.tar');
    const message = await refused([String(first), file]);
    assert.match(message, /no cgroup to itself with a freezer.*--no-pause/);
    await pack(['--no-pause', String(first), file]);
    assert(namesIn(file).includes('./etc/passwd'));
    assert(!namesIn(file).some((name) => /^\.\/proc\/./.test(name)), 'proc(5) is mounted there');
  },
);

slow("runc's, bubblewrap's and systemd-nspawn's containers are packed by a PID", container, async (t) => {
  const folder = scratchFolder('pack');
  const check = async (pid: number, name: string) => {
    const file = join(folder, `${name}.tar`);
    await pack(['--no-pause', String(pid), file]);
    const names = namesIn(file);
    assert(names.includes('./etc/passwd') && names.includes('./proc/'));
    assert(!names.some((name) => /^\.\/(proc|sys)\/./.test(name)));
  };
  await t.test('runc', { skip: needs('runc') }, async () => {
    const bundle = join(folder, 'bundle');
    await makeBundle(bundle, ['sleep', String(process.pid * 1000 + 7)]);
    await withRunc(bundle, newName(), (first) => check(first, 'runc'));
  });
  for (const [engine, program] of [
    ['bubblewrap', 'bwrap'],
    ['systemd-nspawn', 'systemd-nspawn'],
  ] as const)
    await t.test(engine, { skip: needs(program) }, async () => {
      await withEngine(engine, newName(), (sleep) => check(sleep, engine));
    });
});

test('a container that has ended is no root file system', container, async () => {
  const folder = scratchFolder('pack');
  const name = newName();
  assert.equal((await call('run', ['-d', '--name', name, rootfs, 'true'])).code, 0);
  await until(
    'its end',
    async () =>
      /ended|exit/.test((await call('logs', ['--status', name])).stdout) ||
      !existsSync(cgroups(name)[0] as string),
  );
  assert.match(await refused([name, join(folder, 'a.tar')]), /has ended/);
  await call('stop', [name]);
});
