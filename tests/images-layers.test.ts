// Layers applied over each other: the tree is, entry by entry, the one that umoci(1) makes of the same image.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chownSync, lstatSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Member } from './helpers/archives.ts';
import { loneBundle, run, Sandbox } from './helpers/fetch.ts';
import { archiveOf, type Layer, layer, layoutOf, treeOf, writeFiles } from './helpers/images.ts';
import { needs } from './helpers/needs.ts';
import { test } from './helpers/slow.ts';

const program = loneBundle();
const top = { name: './', type: '5', mode: 0o755 };
const folder = (name: string, more: Member = {}): Member => ({ name, type: '5', mode: 0o755, ...more });
const file = (name: string, data = name, more: Member = {}): Member => ({ name, data, ...more });
const link = (name: string, target: string): Member => ({ name, type: '2', link: target });
const hard = (name: string, target: string): Member => ({ name, type: '1', link: target });
const whiteout = (name: string): Member => ({ name });
const later = { mtime: 1_800_000_000 };

/** The base of most images here. */
const base: Member[] = [
  top,
  folder('bin/'),
  file('bin/sh', '#!', { mode: 0o4755 }),
  folder('d/'),
  folder('d/sub/'),
  file('d/sub/x'),
  file('d/y'),
  folder('empty/'),
  folder('etc/', { uid: 1000, gid: 2_000_000, mode: 0o1777 }),
  file('etc/a'),
  file('etc/b', 'b', { mode: 0o640, uid: 33 }),
  hard('etc/b2', 'etc/b'),
  link('l', 'd'),
  link('root', '/'),
];

/** Images by what they show: the entries of their layers. */
const images: [what: string, ...layers: Member[][]][] = [
  ['one layer', base],
  [
    'a file, a directory and a link are hidden',
    base,
    [whiteout('etc/.wh.a'), whiteout('.wh.d'), whiteout('.wh.l')],
  ],
  ['one name of a hard link is hidden', base, [whiteout('etc/.wh.b')]],
  [
    'what is hidden is not there',
    base,
    [whiteout('etc/.wh.none'), whiteout('none/.wh.none'), whiteout('etc/a/.wh.x')],
  ],
  [
    'a whiteout hides nothing of its own layer, wherever it stands',
    base,
    [
      top,
      folder('etc/', later),
      file('etc/a', 'new'),
      whiteout('etc/.wh.a'),
      whiteout('etc/.wh.b'),
      file('etc/b', 'new'),
    ],
  ],
  [
    'an opaque directory hides nothing of its own layer, wherever it stands',
    base,
    [
      top,
      folder('d/', later),
      file('d/new'),
      whiteout('d/.wh..wh..opq'),
      folder('d/sub/'),
      file('d/sub/new'),
    ],
  ],
  ['an opaque directory is not there', base, [whiteout('none/.wh..wh..opq'), whiteout('etc/a/.wh..wh..opq')]],
  ['a whiteout below a link hides what is behind it', base, [whiteout('l/.wh.y'), whiteout('root/.wh.etc')]],
  ['an opaque directory behind a link', base, [whiteout('l/.wh..wh..opq')]],
  [
    'a file hidden, there again, and hidden again',
    base,
    [whiteout('etc/.wh.a')],
    [file('etc/a', '2')],
    [whiteout('etc/.wh.a')],
  ],
  ['a directory becomes a file', base, [top, file('d')], [file('empty')]],
  ['a directory becomes a link', base, [top, link('d', 'etc'), link('empty', '/nowhere')]],
  ['a directory becomes a hard link', base, [top, hard('d', 'bin/sh')]],
  ['a directory behind a link becomes a file', base, [file('l/sub')]],
  ['a link becomes a directory', base, [top, folder('l/'), file('l/new')]],
  ['a link becomes a file', base, [top, file('l', 'new')]],
  ['a file becomes a directory', base, [top, folder('etc/a/'), file('etc/a/new')]],
  [
    'a file is written through a link of the layer below',
    base,
    [file('l/new'), folder('root/etc/deep/'), file('root/etc/deep/x')],
  ],
  [
    'hard links into the layers below',
    base,
    [top, hard('sh', 'bin/sh'), folder('new/'), hard('new/b', 'etc/b2')],
  ],
  ['a file with another name becomes another file', base, [top, file('etc/b', 'new')]],
  [
    'duplicates in a layer: the last one counts',
    [...base, file('etc/a', '2'), link('etc/b2', 'a')],
    [file('x', '1'), file('x', '2'), folder('d/', { mode: 0o700 }), folder('d/', { mode: 0o711 })],
  ],
  [
    'a directory gets the attributes of the last layer',
    base,
    [top, folder('d/', { mode: 0o2750, uid: 5, gid: 6, ...later }), folder('empty/', later)],
  ],
  [
    'a directory that the layer does not list keeps its time',
    base,
    [file('d/sub/new'), whiteout('etc/.wh.a'), file('bin/sh', 'new'), file('l/other')],
  ],
  [
    'entries of a directory that are not together',
    base,
    [top, folder('d/'), file('x'), file('d/z'), file('y'), whiteout('d/.wh.y')],
  ],
  [
    'names that are not UTF-8',
    [...base, file('etc/\xff\xfe'), folder('\xe9/'), file('\xe9/x'), file('etc/gr\xc3\xbcn')],
    [
      top,
      whiteout('etc/.wh.\xff\xfe'),
      folder('\xe9/'),
      whiteout('\xe9/.wh.x'),
      file('\xe9/new'),
      link('etc/\xfd', '\xff'),
      whiteout('etc/.wh.gr\xc3\xbcn'),
    ],
  ],
  [
    'names with blanks, dashes and quotes',
    [...base, file('-rf'), folder('a b/'), file("a b/'c'"), file('$(x)'), file('etc/*')],
    [top, whiteout('.wh.-rf'), whiteout("a b/.wh.'c'"), whiteout('.wh.$(x)'), whiteout('etc/.wh.*')],
  ],
  [
    'long names',
    base,
    [
      top,
      folder(`${'n'.repeat(90)}/`),
      { ...file('x', 'x'), pax: { path: `${'n'.repeat(90)}/${'m'.repeat(200)}` } },
    ],
  ],
  [
    'a FIFO and a usual device',
    base,
    [top, { name: 'fifo', type: '6' }, { name: 'null', type: '3', device: [1, 3], mode: 0o666 }],
  ],
  ['the layers in between are empty', base, [], [top], [file('x')], []],
];

/** An entry of one of them, in a directory of its own: all of them are one image. */
function within(directory: number, entry: Member): Member {
  const { name = '', type, link: target = '', pax } = entry;
  const inside = (path: string) => `${directory}/${path.replace('./', '')}`;
  return {
    ...entry,
    name: inside(name),
    ...(type === '1' && { link: inside(target) }),
    ...(target === '/' && { link: `/${directory}` }),
    ...(pax && { pax: { ...pax, path: inside((pax as Record<string, string>).path ?? '') } }),
  };
}

/** Fetches an image of these layers, and unpacks it with umoci. Returns both trees. */
async function bothTrees(layers: Layer[]) {
  const made = new Sandbox();
  const layout = writeFiles(join(made.top, 'layout'), layoutOf(layers));
  const { code, stdout, stderr } = await run([`oci:${layout}`, made.dest], { program });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${made.dest}\n`);
  assert.deepEqual(made.left(), ['dest']);
  const bundle = join(made.top, 'bundle');
  execFileSync('umoci', ['unpack', '--image', `${layout}:latest`, bundle], { stdio: 'pipe' });
  return { ours: treeOf(made.dest), theirs: treeOf(join(bundle, 'rootfs')), made };
}

const skip = needs('root', 'namespaces', 'umoci', 'getfattr');

test('the tree is the one that umoci unpack makes', { skip }, async (t) => {
  const count = Math.max(...images.map(([, ...layers]) => layers.length));
  const layers = Array.from({ length: count }, (_, index) =>
    images.flatMap(([, ...layers], at) => (layers[index] ?? []).map((entry) => within(at, entry))),
  );
  const whole = layers.map((entries, index) => layer(index === 0 ? [top, ...entries] : entries, gzipSync));
  const { ours, theirs } = await bothTrees(whole);
  for (const [at, [what]] of images.entries())
    await t.test(what, () => {
      const [own, expected] = [ours, theirs].map((tree) =>
        tree.filter((line) => line.startsWith(`${at}/`) || line.startsWith(`${at} `)),
      );
      assert(expected && expected.length > 1, 'there is something to compare');
      assert.deepEqual(own, expected);
    });
  assert.deepEqual(ours, theirs);
  assert(!ours.some((line) => line.includes('.wh.')));
});

test('the root directory has the attributes of the last layer that has it', { skip }, async () => {
  const { ours, theirs } = await bothTrees([
    layer(base),
    layer([{ ...top, mode: 0o711, uid: 7, ...later }]),
    layer([file('x')]),
  ]);
  assert.deepEqual(ours, theirs);
  assert.match(ours[0] ?? '', /^ d 711 7:0 1800000000\./);
});

test('an opaque whiteout of the root hides all layers below', { skip }, async () => {
  const { ours, theirs } = await bothTrees([layer(base), layer([top, whiteout('.wh..wh..opq'), file('x')])]);
  assert.deepEqual(ours, theirs);
  assert.deepEqual(
    ours.map((line) => line.split(' ')[0]),
    ['', 'x'],
  );
});

test('the tree is the one that podman load makes', {
  skip: needs('root', 'namespaces', 'getfattr', 'podman'),
}, () => {
  const made = new Sandbox();
  // unlike tar(1), podman gives a file the owner and mode that the entry of its hard link has
  const owned = (entry: Member) => (entry.type === '1' ? { ...entry, mode: 0o640, uid: 33 } : entry);
  const upper = [
    top,
    folder('etc/'),
    whiteout('etc/.wh.a'),
    hard('etc/b3', 'etc/b'),
    folder('d/'),
    whiteout('d/.wh..wh..opq'),
    file('d/new'),
    link('empty', 'etc'),
    file('l', 'new'),
    whiteout('.wh.\xff'),
  ];
  const layers = [[...base, file('\xff')], upper].map((entries) => layer(entries.map(owned), gzipSync));
  const path = made.file('image.tar', archiveOf(layoutOf(layers)));
  const store = ['--root', join(made.top, 'store'), '--runroot', join(made.top, 'run')];
  const podman = (...words: string[]) =>
    execFileSync('podman', [...store, '--storage-driver=vfs', ...words], { encoding: 'utf8', stdio: 'pipe' });
  const id = podman('load', '--quiet', '--input', path).trim().replace(/^.*: /s, '');
  const mounted = podman('image', 'mount', id).trim();
  execFileSync(program, ['--quiet', `oci-archive:${path}`, made.dest]);
  const [ours, theirs] = [made.dest, mounted].map(treeOf);
  podman('image', 'umount', id);
  // the root directory has the time of podman's copy
  assert.deepEqual(ours?.slice(1), theirs?.slice(1));
  assert(ours && ours.length > 10);
});

test('extended attributes, capabilities and sparse files are as in the layers', { skip }, async () => {
  const made = new Sandbox();
  const source = join(made.top, 'source');
  execFileSync('sh', ['-ec', script, 'sh', source], { stdio: 'pipe' });
  const tar = (directory: string) =>
    execFileSync('tar', [...tarWords, '-C', join(source, directory), '-cf', '-', '.'], {
      maxBuffer: 1 << 28,
    });
  const { ours, theirs, made: fetched } = await bothTrees([layer(tar('1')), layer(tar('2'), gzipSync)]);
  assert.deepEqual(ours, theirs);
  assert(
    ours.some((line) => /^ping .*security\.capability=0x0.*user\.x=0x31$/.test(line)),
    ours.join('\n'),
  );
  const { size, blocks } = statSync(join(fetched.dest, 'sparse'));
  assert.equal(size, 50 << 20);
  assert(blocks * 512 < 10 << 20, 'its holes take no space');
});

const tarWords = ['--xattrs', '--xattrs-include=*', '--sparse', '--format=posix', '--sort=name'];
const script = `mkdir "$1" "$1/1" "$1/2"
  touch "$1/1/ping" "$1/1/plain"; setfattr -n user.x -v 1 "$1/1/ping"
  setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 "$1/1/ping"
  mkdir "$1/1/d"; setfattr -n user.d -v 1 "$1/1/d"
  truncate -s 50M "$1/2/sparse"; printf x | dd of="$1/2/sparse" bs=1 seek=20000000 conv=notrunc
  touch "$1/2/plain"; setfattr -n user.new -v 2 "$1/2/plain"`;

for (const [name, ...command] of [
  ['zstd', 'zstd', '-qc'],
  ['plain'],
  ['gzip in parts', 'sh', '-c', 'cat > part; head -c 999 part | gzip; tail -c +1000 part | gzip'],
] as [string, ...string[]][])
  test(`a layer can be ${name}`, {
    skip: needs('root', 'namespaces', 'getfattr', ...command.slice(0, 1)),
  }, async () => {
    const made = new Sandbox();
    const compress = (input: Buffer) =>
      execFileSync(command[0] ?? '', command.slice(1), { input, cwd: made.top });
    const dests = [gzipSync, command.length > 0 ? compress : undefined].map(async (compression, index) => {
      const layers = [base, [whiteout('etc/.wh.a'), file('new')]].map((entries) =>
        layer(entries, compression, index ? '' : '+gzip'),
      );
      const layout = writeFiles(join(made.top, `layout-${index}`), layoutOf(layers));
      const dest = `${made.dest}-${index}`;
      const { code, stderr } = await run([`oci:${layout}`, dest], { program });
      assert.equal(code, 0, stderr);
      assert.match(stderr, /^\d+ entries, \d+ B, 2 layers\n$/);
      return treeOf(dest);
    });
    const [gzipped, other] = await Promise.all(dests);
    assert.deepEqual(other?.slice(1), gzipped?.slice(1));
  });

test('the configuration is /.image.json, whatever the layers have there', {
  skip: needs('root', 'namespaces'),
}, async () => {
  const made = new Sandbox();
  for (const [index, entries] of [
    [file('.image.json', 'of the layer')],
    [link('.image.json', '/etc/passwd')],
    [folder('.image.json/'), file('.image.json/x')],
  ].entries()) {
    const files = layoutOf([
      layer([...base, ...entries]),
      layer(entries),
      layer([whiteout('.wh..image.json')]),
    ]);
    const layout = writeFiles(join(made.top, `layout-${index}`), files);
    const dest = `${made.dest}-${index}`;
    const { code, stderr } = await run([`oci:${layout}`, dest], { program });
    assert.equal(code, 0, stderr);
    const path = join(dest, '.image.json');
    const { mode, uid, gid } = lstatSync(path);
    assert.deepEqual({ mode, uid, gid }, { mode: 0o100644, uid: 0, gid: 0 });
    assert.deepEqual(JSON.parse(readFileSync(path, 'utf8')).config, { Cmd: ['/bin/sh'] });
  }
});

test("as a user without root all files are the user's", {
  skip: needs('root', 'user-namespaces'),
}, async () => {
  const made = new Sandbox();
  const layers = [
    base,
    [whiteout('etc/.wh.a'), file('d')],
    [whiteout('d'), folder('locked/', { mode: 0o500 }), file('locked/x')],
    [whiteout('locked/.wh.x')],
  ];
  const layout = writeFiles(
    join(made.top, 'layout'),
    layoutOf(layers.map((entries) => layer(entries, gzipSync))),
  );
  chownSync(made.work, 12345, 12345);
  const words = ['--reuid=12345', '--regid=12345', '--clear-groups', program, `oci:${layout}`, made.dest];
  const { code, stderr } = await run(words, { program: 'setpriv', cwd: made.work });
  assert.equal(code, 0, stderr);
  const tree = treeOf(made.dest);
  assert.deepEqual(tree.map((line) => line.split(' ')[0]).sort(), [
    '',
    'bin',
    'bin/sh',
    'd',
    'empty',
    'etc',
    'etc/b',
    'etc/b2',
    'l',
    'locked',
    'root',
  ]);
  assert(
    tree.every((line) => / 12345:12345 /.test(line)),
    tree.join('\n'),
  );
});
