// run.ts with an image as ROOTFS: unpacked once, shared, never changed.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { trim } from '../scripts/run/image-root.ts';
import { container, newName, newSeconds } from './helpers/container.ts';
import { treeOf } from './helpers/images.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { push, startRegistry } from './helpers/registry.ts';
import { become, call, execute, rootfs, script } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';

const { skip } = container;
const fromRegistry = skip || needs('docker-registry', 'skopeo');
const scratch = scratchFolder('run-images', 0o755);
const layout = join(scratch, 'layout');
const archive = join(scratch, 'image.tar');

/** A cache of its own for each test. */
const newCache = () => {
  const cache = join(scratch, newName());
  mkdirSync(cache, { mode: 0o700 });
  return { cache, env: { ...process.env, XDG_CACHE_HOME: cache }, roots: join(cache, 'barehand/roots') };
};

// here, since a registry that a hook starts ends with it
const reference = fromRegistry ? '' : `${await startRegistry()}/team/host:1`;
before(async () => {
  if (skip) return;
  const command = '["sh","-c","echo of the image; touch /of-run-images"]';
  const made = await call('pack-rootfs', [
    ...[rootfs, '--oci', layout, '--tag', 'host:1', '--cmd', command],
    ...['--env', 'OF=image'],
  ]);
  assert.equal(made.code, 0, made.stderr);
  const packed = await call('pack-rootfs', [
    rootfs,
    '--docker',
    archive,
    '--tag',
    'host:1',
    '--cmd',
    command,
  ]);
  assert.equal(packed.code, 0, packed.stderr);
  if (!fromRegistry) push(`${layout}:1`, reference);
});

test('an image of a registry runs, the second time without the network', { skip: fromRegistry }, async () => {
  const { env, roots } = newCache();
  const image = `docker://${reference}`;
  const first = await call('run', ['--network', 'none', image], { env });
  assert.deepEqual([first.code, first.stdout], [0, 'of the image\n'], first.stderr);
  assert.match(first.stderr, /^run: unpacked \d+ entries, /m);
  assert.equal(readdirSync(roots).length, 1);
  const again = ['unshare', '--net', script('run'), '--network', 'none', image];
  const second = await execute([...again, 'sh', '-c', 'echo $OF; ls /of-run-images'], { env });
  assert.deepEqual([second.stdout, second.code], ['image\n', 2], 'changes are discarded');
  assert.match(second.stderr, /^ls: /);
  // --pull decides whether the registry is asked
  const asked = await execute([...again.slice(0, 3), '--pull', 'always', image], { env });
  assert.equal(asked.code, 125);
  assert.match(asked.stderr, /^run: cannot fetch docker:\/\/\S+: /m);
  const never = await call('run', ['--pull', 'never', image], { env: newCache().env });
  assert.equal(never.code, 125);
  assert.match(never.stderr, /^run: cannot fetch docker:\/\/\S+: the cache has no \S+team\/host:1 /);
});

test('images in files run too', { skip }, async () => {
  const { env, roots } = newCache();
  for (const image of [`oci:${layout}`, `oci:${layout}:1`, `docker-archive:${archive}`]) {
    const { code, stdout, stderr } = await call('run', ['--network', 'none', image], { env });
    assert.deepEqual([code, stdout], [0, 'of the image\n'], stderr);
  }
  assert.ok(readdirSync(roots).length <= 2);
});

test('the root file system of an image never changes', { skip }, async () => {
  const { env, roots } = newCache();
  const image = `oci:${layout}`;
  await call('run', [image, 'true'], { env });
  const [digits = ''] = readdirSync(roots);
  const root = join(roots, digits, 'root');
  const before = treeOf(root);
  const options = ['-v', '/etc:/not/there/before', '--tmpfs', '/nor/this', '--dns', '192.0.2.1'];
  for (const more of [['-w', '/nor/that'], ['--read-only'], ['--sandbox']]) {
    const { code, stderr } = await call(
      'run',
      [...more, ...options, image, 'sh', '-c', 'rm /etc/passwd; true'],
      { env },
    );
    assert.equal(code, 0, stderr);
  }
  assert.deepEqual(treeOf(root), before);
});

test('two at once unpack it safely, and what a killed one has left goes', { skip }, async () => {
  const { env, roots } = newCache();
  mkdirSync(join(roots, '.partial-4194305/root'), { recursive: true }); // beyond the largest PID
  const runs = [1, 2, 3].map(() => call('run', ['--network', 'none', `oci:${layout}`], { env }));
  for (const { code, stdout, stderr } of await Promise.all(runs))
    assert.deepEqual([code, stdout], [0, 'of the image\n'], stderr);
  assert.match(readdirSync(roots).join(' '), /^[0-9a-f]{64}$/);
});

test('a container in the background is called as its image is, and found', { skip }, async () => {
  const { env } = newCache();
  const seconds = newSeconds();
  const { code, stdout, stderr } = await call(
    'run',
    ['-d', '--network', 'none', `oci:${layout}`, 'sleep', seconds],
    { env },
  );
  assert.equal(code, 0, stderr);
  const name = stdout.trim();
  try {
    assert.match(name, /^layout-\d+$/);
    const inside = await call('exec', [name, 'cat', '/proc/1/cmdline']);
    assert.equal(inside.stdout, `sleep\0${seconds}\0`);
  } finally {
    await call('stop', ['--time', '0', name]);
  }
});

test('the least recently used roots go when all are too large, but none that is in use', {
  skip,
}, async () => {
  const { env, roots } = newCache();
  const seconds = newSeconds();
  const started = await call('run', ['-d', '--network', 'none', `oci:${layout}`, 'sleep', seconds], { env });
  assert.equal(started.code, 0, started.stderr);
  const [used = ''] = readdirSync(roots);
  const names = ['a', 'b', 'c'].map((letter) => letter.repeat(64));
  for (const [index, name] of names.entries()) {
    mkdirSync(join(roots, name, 'root'), { recursive: true });
    writeFileSync(join(roots, name, 'size'), '100\n');
    const hoursAgo = new Date(Date.now() - (5 - index) * 3600 * 1000);
    utimesSync(join(roots, name), hoursAgo, hoursAgo);
  }
  writeFileSync(join(roots, used, 'size'), '100\n');
  utimesSync(join(roots, used), new Date(0), new Date(0));
  try {
    await trim(roots, 300);
    assert.deepEqual(readdirSync(roots).sort(), [used, ...names.slice(1)].sort());
    await trim(roots, 100);
    assert.deepEqual(readdirSync(roots), [used]);
  } finally {
    await call('stop', ['--time', '0', started.stdout.trim()]);
  }
  await trim(roots, 50);
  assert.deepEqual(readdirSync(roots), []);
});

test('what an image cannot do is refused in one line', { skip }, async () => {
  const { env } = newCache();
  const image = `oci:${layout}`;
  const cases: [words: string[], message: RegExp][] = [
    [['--bundle', join(scratch, 'bundle'), image], /type \S+fetch-rootfs\S* oci:\S+ NAME, then give NAME/],
    [['--isolate', 'chroot', image], /an image needs --isolate mount/],
    [['--pull', 'never', rootfs], /--pull is for an image/],
    [['--pull', 'sometimes', image], /--pull is always, missing or never/],
    [[`oci:${scratch}/none`], /cannot fetch oci:\S+: /],
    [['docker://UPPER CASE'], /not the name of an image/],
    [['oci-archive:-'], /standard input is the command's/],
  ];
  for (const [words, message] of cases) {
    const { code, stdout, stderr } = await call('run', words, { env });
    assert.deepEqual([code, stdout], [125, ''], stderr);
    assert.match(stderr, message);
    assert.equal(stderr.split('\n').length, 2, stderr);
  }
  const mapped = await call('run', ['--userns', image, 'true'], { env });
  assert.equal(mapped.code, 125);
  assert.match(
    mapped.stderr,
    /--userns: the cache of images is closed to all users but root: type \S+fetch-rootfs/,
  );
  assert.equal(existsSync(join(scratch, 'bundle')), false);
});

test('a user without root has a cache too', { skip: skip || needs('user-namespaces') }, async () => {
  const folder = scratchFolder('run-images-of-user', 0o755);
  await execute(['cp', '-a', layout, script('run'), folder]);
  await execute(['chown', '-R', '1234:1234', folder]);
  const user = [...become(1234, folder), 'env', `XDG_CACHE_HOME=${folder}`, process.execPath, '--'];
  const words = [...user, join(folder, 'run.mjs'), `oci:${folder}/layout`];
  for (const _ of [1, 2]) {
    const { code, stdout, stderr } = await execute(words);
    assert.deepEqual([code, stdout], [0, 'of the image\n'], stderr);
  }
});
