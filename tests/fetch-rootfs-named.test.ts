// fetch-rootfs.ts ls and rm: what is in rootfs/, where it comes from, and its removal, if nothing uses it.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { archive, type Member } from './helpers/archives.ts';
import { findCommand, newName, newSeconds } from './helpers/container.ts';
import { bundle, run } from './helpers/fetch.ts';
import { digestOf, layer, layoutOf, writeFiles } from './helpers/images.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, rootfs as hostRootfs, until } from './helpers/script.ts';

const skip = needs('root', 'namespaces');
const directory = (name: string): Member => ({ name, type: '5', mode: 0o755 });
const tarball = archive(directory('bin/'), { name: 'bin/sh', data: Buffer.alloc(100_000, 'x') });

/** A project of its own: its script, and what is in its rootfs/. */
function project() {
  const top = scratchFolder('named', 0o755);
  mkdirSync(join(top, 'dist'));
  const program = bundle(join(top, 'dist'));
  const folder = join(top, 'rootfs');
  mkdirSync(folder);
  writeFileSync(join(top, 'web.tar'), tarball);
  return {
    top,
    folder,
    place: (name: string) => join(folder, name),
    fetch: (...args: string[]) => run(args, { program, cwd: top }),
    left: () => readdirSync(folder).sort(),
    list: async () => JSON.parse((await run(['ls', '--json'], { program })).stdout),
  };
}

test('ls tells size, source, digest and age', { skip }, async () => {
  const { top, fetch, place, list, folder } = project();
  assert.deepEqual(await list(), []);
  const none = await fetch('ls');
  assert.equal(none.stderr, `${folder} has no root file system\n`);
  assert.equal(none.code, 0);

  const layout = writeFiles(join(top, 'layout'), layoutOf([layer([directory('bin/')])]));
  assert.equal((await fetch('web.tar', 'web')).code, 0);
  assert.equal((await fetch(`oci:${layout}`, 'image')).code, 0);
  mkdirSync(place('by-hand'));
  writeFileSync(place('a-file'), '');
  symlinkSync('web', place('a-link'));
  const [byHand, image, web, ...more] = await list();
  assert.deepEqual(more, []);
  assert.deepEqual(
    [byHand.name, byHand.source, byHand.digest, byHand.fetchedAt],
    ['by-hand', null, null, null],
  );
  assert.equal(image.source, `oci:${layout}`);
  const index = JSON.parse(layoutOf([layer([directory('bin/')])])['index.json']?.toString() ?? '');
  assert.equal(image.digest, index.manifests[0].digest);
  assert.equal(web.path, place('web'));
  assert.equal(web.source, 'web.tar');
  assert.equal(web.digest, digestOf(tarball));
  assert(web.bytes >= 100_000 && web.bytes < 300_000, `${web.bytes}`);
  const seconds = (Date.now() - Date.parse(web.fetchedAt)) / 1000;
  assert(seconds >= 0 && seconds < 600);

  const { stdout, code } = await fetch('ls');
  assert.equal(code, 0);
  assert.match(stdout, /^NAME +SIZE +AGE +DIGEST +SOURCE\n/);
  assert.match(
    stdout,
    new RegExp(`^web +1\\d\\d KiB +\\d+s +${digestOf(tarball).slice(7, 19)} +web\\.tar$`, 'm'),
  );
  assert.match(stdout, /^by-hand +.* \? +\?$/m);
});

test('another directory of the same name has no source', { skip }, async () => {
  const { fetch, place, list, left } = project();
  assert.equal((await fetch('web.tar', 'web')).code, 0);
  execFileSync('rm', ['-r', place('web')]);
  mkdirSync(place('web'));
  assert.deepEqual(
    (await list()).map(({ source }: { source: unknown }) => source),
    [null],
  );
  execFileSync('rm', ['-r', place('web')]);
  assert.equal((await fetch('web.tar', 'other')).code, 0);
  assert.deepEqual(left(), ['.other.json', 'other'], 'notes without a root file system are swept');
});

test('what a container writes does not change what ls tells', { skip }, async () => {
  const { fetch, place, list } = project();
  assert.equal((await fetch('web.tar', 'web')).code, 0);
  const [before] = await list();
  for (const name of ['.image.json', '.web.json'])
    writeFileSync(join(place('web'), name), '{"source":"a lie"}');
  const [after] = await list();
  assert.deepEqual({ ...after, bytes: 0 }, { ...before, bytes: 0 });
});

test('rm removes what nothing uses, and tells what is not there', { skip }, async () => {
  const { fetch, place, left } = project();
  for (const name of ['one', 'two', 'three']) assert.equal((await fetch('web.tar', name)).code, 0);
  symlinkSync('/etc', place('link'));
  const printed = await fetch('rm', '--dry-run', 'one');
  assert.equal(printed.stdout, `rm -rf -- ${place('one')}\n`);
  assert(existsSync(place('one')));
  const { code, stdout, stderr } = await fetch('rm', 'one', 'tow', 'link', '../dist', '.', '..', 'two');
  assert.equal(stdout, '');
  const lines = stderr.trimEnd().split('\n');
  assert.equal(lines.shift(), `removed ${place('one')}`);
  assert.equal(lines.pop(), `removed ${place('two')}`);
  assert.match(
    lines[0] ?? '',
    /^fetch-rootfs: cannot remove tow: there is no root file system tow in \S+: did you mean two\?$/,
  );
  assert.match(lines[1] ?? '', /^fetch-rootfs: cannot remove link: \S+ is a symlink: type rm \S+$/);
  assert.deepEqual(
    lines.slice(2).map((line) => /^fetch-rootfs: cannot remove \S+ there is no root file system/.test(line)),
    [true, true, true],
  );
  assert.equal(code, 1);
  assert.deepEqual(left(), ['.three.json', 'link', 'three']);
  const quiet = await fetch('rm', '-q', 'three');
  assert.deepEqual([quiet.code, quiet.stderr], [0, '']);
});

test('ls and rm refuse options and operands of a fetch', async () => {
  const { fetch } = project();
  const wrong: [words: string[], message: RegExp][] = [
    [['ls', 'web'], /one operand too many: web/],
    [['ls', '--dry-run'], /--dry-run does not go with ls/],
    [['rm'], /rm needs a NAME/],
    [['rm', '--json', 'web'], /--json does not go with rm/],
    [['rm', '--max-size=1M', 'web'], /--max-size does not go with rm/],
    [['--json', 'web.tar'], /--json goes with ls/],
    [['web.tar', 'a', 'b'], /one operand too many: b/],
  ];
  for (const [words, message] of wrong) {
    const { code, stderr } = await fetch(...words);
    assert.match(stderr, message);
    assert.equal(code, 2);
  }
});

/** A process that uses a root file system in some way; ends with the test. */
async function starts(t: TestContext, words: string[]): Promise<number> {
  const child = spawn(words[0] as string, words.slice(1), { stdio: ['ignore', 'pipe', 'ignore'] });
  t.after(() => child.kill('SIGKILL'));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return child.pid as number;
}

const lasting = newSeconds();
const says = `echo; exec sleep ${lasting}`;
const uses: [what: string, words: (path: string) => string[]][] = [
  ['chroot', (path) => ['chroot', path, '/bin/sh', '-c', says]],
  ['chroot to a directory in it', (path) => ['chroot', join(path, 'usr/..'), '/bin/sh', '-c', says]],
  [
    'a mount namespace with a mount of it',
    (path) => ['unshare', '-m', 'sh', '-c', `mount --bind "$0" /mnt; ${says}`, path],
  ],
  [
    'a mount namespace with a mount of a directory in it',
    (path) => ['unshare', '-m', 'sh', '-c', `mount --bind "$0/etc" /mnt; ${says}`, path],
  ],
  [
    'an overlay',
    (path) => [
      'unshare',
      '-m',
      'sh',
      '-c',
      `mount -t tmpfs x /mnt; mkdir /mnt/a /mnt/u /mnt/w; mount -t overlay -o "lowerdir=$0,upperdir=/mnt/u,workdir=/mnt/w" none /mnt/a; ${says}`,
      path,
    ],
  ],
];

test('rm refuses what a process or a mount uses, and leaves it as it is', { skip }, async (t) => {
  const { fetch, place, left } = project();
  execFileSync('cp', ['-a', hostRootfs, place('used')]);
  const before = left();
  for (const [what, words] of uses)
    await t.test(what, async (t) => {
      const pid = await starts(t, words(place('used')));
      const { code, stderr } = await fetch('rm', 'used');
      assert.match(
        stderr,
        new RegExp(
          `^fetch-rootfs: cannot remove used: process ${pid} \\(\\w+\\) uses it: type \\S*stop\\S* ${pid}\n$`,
        ),
      );
      assert.equal(code, 1);
      assert.deepEqual(left(), before);
    });
  await t.test('a mount of the host', async () => {
    const { code, stdout } = await run(
      [
        '--mount',
        '--propagation=private',
        'sh',
        '-c',
        'mount --bind "$1/etc" /mnt; shift; "$@" 2>&1 || true',
        'sh',
        place('used'),
        join(place('used'), '../../dist/fetch-rootfs.mjs'),
        'rm',
        'used',
      ],
      { program: 'unshare' },
    );
    assert.equal(code, 0);
    assert.match(stdout, /cannot remove used: it is mounted, or has a mount, at \/mnt: type umount \/mnt\n/);
    assert.deepEqual(left(), before);
  });
  await until('the processes to end', () => !findCommand('sleep', lasting));
  const { code, stderr } = await fetch('rm', 'used');
  assert.equal(code, 0, stderr);
  assert.deepEqual(left(), []);
});

test('rm names the containers that run on it', { skip: skip || needs('cgroup') }, async (t) => {
  const { fetch, place, left } = project();
  execFileSync('cp', ['-a', hostRootfs, place('used')]);
  for (const options of [[], ['--ephemeral']]) {
    const name = newName();
    t.after(() => call('stop', ['-t', '0', name]));
    assert.equal(
      (await call('run', ['-d', '--name', name, ...options, place('used'), 'sleep', '1234'])).code,
      0,
    );
    const { code, stderr } = await fetch('rm', 'used');
    assert.match(
      stderr,
      new RegExp(`^fetch-rootfs: cannot remove used: ${name} uses it: type \\S*stop\\S* ${name}\n$`),
    );
    assert.equal(code, 1);
    assert.equal((await call('stop', ['-t', '0', name])).code, 0);
  }
  assert.equal((await fetch('rm', 'used')).code, 0);
  assert.deepEqual(left(), []);
});
