// Images in files: docker archives and OCI layouts as their programs write them, by every way to name one.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Member } from './helpers/archives.ts';
import { loneBundle, run, Sandbox } from './helpers/fetch.ts';
import { archiveOf, digestOf, type Layer, layer, layoutOf, treeOf, writeFiles } from './helpers/images.ts';
import { needs } from './helpers/needs.ts';
import { test } from './helpers/slow.ts';

const program = loneBundle();
const skip = needs('root', 'namespaces', 'getfattr');

const folder = (name: string): Member => ({ name, type: '5', mode: 0o755 });
const layers = [
  layer([folder('./'), folder('etc/'), { name: 'etc/a', data: 'a' }, { name: 'etc/b', data: 'b' }]),
  layer([
    folder('./'),
    folder('etc/'),
    { name: 'etc/.wh.a' },
    folder('bin/'),
    { name: 'bin/sh', mode: 0o755 },
  ]),
];
const zipped = layers.map(({ tar }) => layer(tar, gzipSync));

/** The tree of both layers, as one layout gives it: the other forms have to give the same. */
async function fetched(made: Sandbox, source: string, dest: string, input?: Buffer): Promise<string[]> {
  const { code, stdout, stderr } = await run([source, dest], { program, ...(input && { input }) });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${dest}\n`);
  assert(existsSync(join(dest, '.image.json')));
  const names = treeOf(dest).map((line) => line.split(' ')[0]);
  assert.deepEqual(names, ['', 'bin', 'bin/sh', 'etc', 'etc/b'], made.top);
  return names as string[];
}

/** The files of docker save before version 25: a directory for each layer, which may be a link to that of another image. */
function oldDocker(
  names: string[][],
  config: Buffer,
  blobs: Layer[],
  linked = false,
): [Record<string, Buffer>, Member[]] {
  const hex = (bytes: Buffer) => digestOf(bytes).slice('sha256:'.length);
  const paths = blobs.map((_, index) => `${String(index).repeat(64)}/layer.tar`);
  const files: Record<string, Buffer> = {
    [`${hex(config)}.json`]: config,
    'manifest.json': Buffer.from(
      JSON.stringify(names.map((RepoTags) => ({ Config: `${hex(config)}.json`, RepoTags, Layers: paths }))),
    ),
    ...Object.fromEntries(
      blobs.map(({ blob }, index) => [linked ? `${hex(blob)}.tar` : (paths[index] ?? ''), blob]),
    ),
  };
  const links = blobs.map(({ blob }, index) => ({
    name: paths[index] ?? '',
    type: '2',
    link: `../${hex(blob)}.tar`,
  }));
  return [files, linked ? links : []];
}

const files = layoutOf(zipped, 'v1');
/** The file of a layout that is the configuration, or another JSON object with this field. */
const blobWith = (field: string) =>
  Object.entries(files).find(
    ([name, bytes]) =>
      name.startsWith('blobs/') && bytes[0] === 0x7b && field in JSON.parse(bytes.toString()),
  );
const config = blobWith('rootfs')?.[1] as Buffer;

const dockerFiles = (names: string[] | null) => ({
  ...files,
  'manifest.json': Buffer.from(
    JSON.stringify([
      {
        Config: blobWith('rootfs')?.[0],
        RepoTags: names,
        Layers: zipped.map(({ blob }) => `blobs/sha256/${digestOf(blob).slice('sha256:'.length)}`),
      },
    ]),
  ),
});

const forms: [what: string, transport: string, bytes: () => Buffer][] = [
  ['docker save', 'docker-archive', () => archiveOf(dockerFiles(['web:latest']))],
  ['docker save, an image without a name', 'docker-archive', () => archiveOf(dockerFiles(null))],
  ['docker save of old', 'docker-archive', () => archiveOf(oldDocker([['web:latest']], config, layers)[0])],
  [
    'docker save by podman and skopeo, with links',
    'docker-archive',
    () => {
      const [first, links] = oldDocker([['web:latest']], config, layers, true);
      return archiveOf(first, ...links);
    },
  ],
  [
    'docker save of old, with compressed layers',
    'docker-archive',
    () => archiveOf(oldDocker([['web:latest']], config, zipped)[0]),
  ],
  ['docker save, gzip', 'docker-archive', () => gzipSync(archiveOf(dockerFiles(['web:latest'])))],
  ['an OCI archive', 'oci-archive', () => archiveOf(files)],
  ['an OCI archive, gzip', 'oci-archive', () => gzipSync(archiveOf(files))],
  ['docker save as an OCI archive', 'oci-archive', () => archiveOf(dockerFiles(['web:latest']))],
];

test('images in files', { skip }, async (t) => {
  for (const [what, transport, bytes] of forms)
    await t.test(what, async () => {
      const made = new Sandbox();
      await fetched(made, `${transport}:${made.file('image.tar', bytes())}`, made.dest);
      assert.deepEqual(made.left(), ['dest'], 'nothing else is left');
      made.remove();
    });
});

test('the image is on standard input', { skip }, async () => {
  const made = new Sandbox();
  await fetched(made, 'docker-archive:-', `${made.dest}-1`, archiveOf(dockerFiles(['web:latest'])));
  await fetched(made, 'oci-archive:-', `${made.dest}-2`, gzipSync(archiveOf(files)));
  const { code, stderr } = await run(['docker-archive:-'], { program });
  assert.match(
    stderr,
    /^fetch-rootfs: no name for a root file system: "-": type \S+ docker-archive:- NAME\n$/,
  );
  assert.equal(code, 2);
});

test('of several images one is to be chosen, by its name, a part of it, or its number', {
  skip,
}, async () => {
  const made = new Sandbox();
  const names = [['docker.io/library/web:latest', 'web:v1'], ['localhost/db:latest'], []];
  const path = made.file('all.tar', archiveOf(oldDocker(names, config, layers)[0]));
  for (const [index, name] of [
    'docker.io/library/web:latest',
    'web:v1',
    'web',
    'db',
    'localhost/db',
    '@2',
  ].entries())
    await fetched(made, `docker-archive:${path}:${name}`, `${made.dest}-${index}`);
  const refused: [reference: string, why: RegExp][] = [
    [
      '',
      /: it has 3 images, "docker\.io\/library\/web:latest", "localhost\/db:latest", "@2": choose one, such as docker-archive:\S+:docker\.io\/library\/web:latest\n$/,
    ],
    [
      ':web:v2',
      /: it has no image "web:v2", but "docker\.io\/library\/web:latest", .*: type docker-archive:\S+all\.tar:REFERENCE\n$/,
    ],
    [':@3', /: it has no image "@3", but /],
  ];
  for (const [reference, why] of refused) {
    const { code, stderr } = await run([`docker-archive:${path}${reference}`, made.dest], { program });
    assert.match(stderr, why);
    assert.equal(code, 1);
  }
});

test('a layout with tags, and one whose tag is an index of platforms', { skip }, async () => {
  const made = new Sandbox();
  const other = layoutOf([layer([{ name: 'bin/other' }])], 'v2');
  const parse = (one: Record<string, Buffer>) => JSON.parse(one['index.json']?.toString() ?? '').manifests;
  const both = [...parse(files), ...parse(other)];
  const layout = (name: string, manifests: unknown, more: Record<string, Buffer> = {}) =>
    writeFiles(join(made.top, name), {
      ...other,
      ...files,
      ...more,
      'index.json': Buffer.from(JSON.stringify({ schemaVersion: 2, manifests })),
    });
  const tagged = layout('tagged', both);
  await fetched(made, `oci:${tagged}:v1`, `${made.dest}-1`);
  const { stderr } = await run([`oci:${tagged}`, made.dest], { program });
  assert.match(stderr, /: it has 2 images, "v1", "v2": choose one, such as oci:\S+\/tagged:v1\n$/);
  const digest = both[0].digest;
  await fetched(made, `oci:${tagged}:${digest}`, `${made.dest}-2`);

  const architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';
  const platforms = both.map(({ annotations: _, ...one }, index) => ({
    ...one,
    platform: { os: 'linux', architecture: index === 0 ? architecture : 's390x' },
  }));
  await fetched(made, `oci:${layout('flat', platforms)}`, `${made.dest}-3`);
  const index = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: platforms,
    }),
  );
  const nested = {
    mediaType: 'application/vnd.oci.image.index.v1+json',
    digest: digestOf(index),
    size: index.length,
    annotations: { 'org.opencontainers.image.ref.name': 'all' },
  };
  const more = { [`blobs/sha256/${digestOf(index).slice(7)}`]: index };
  await fetched(made, `oci:${layout('nested', [nested], more)}:all`, `${made.dest}-4`);
  const missing = await run(
    ['--platform', 'linux/riscv64', `oci:${join(made.top, 'nested')}:all`, made.dest],
    { program },
  );
  assert.match(missing.stderr, /there is no image for linux\/riscv64, but for linux\/\w+, linux\/s390x/);
  assert.equal(missing.code, 1);
});

test('a path may have colons and blanks', { skip }, async () => {
  const made = new Sandbox();
  mkdirSync(join(made.top, 'a:b c'));
  const layout = writeFiles(join(made.top, 'a:b c', 'layout:v1'), files);
  await fetched(made, `oci:${layout}`, `${made.dest}-1`);
  await fetched(made, `oci:${layout}:v1`, `${made.dest}-2`);
});

test('DEST is named after the file', { skip }, async () => {
  const made = new Sandbox();
  writeFileSync(join(made.work, 'web.tar.gz'), gzipSync(archiveOf(dockerFiles(['other:latest']))));
  const { code, stdout, stderr } = await run(['docker-archive:web.tar.gz:other'], {
    program,
    cwd: made.work,
  });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${made.work}/rootfs/web\n`);
});

test('--dry-run prints commands that make the same tree', { skip }, async (t) => {
  const hidden = layer([
    folder('./'),
    { name: 'etc/.wh..wh..opq' },
    folder('etc/'),
    { name: 'etc/c', data: 'c' },
  ]);
  const more = layoutOf([...zipped, hidden], 'v1');
  for (const [transport, source] of [
    ['oci', 'layout'],
    ['oci-archive', 'image.tar'],
    ['docker-archive', 'docker.tar'],
  ] as const)
    await t.test(transport, async () => {
      const made = new Sandbox();
      const expected = join(made.top, 'expected');
      writeFiles(join(made.top, 'layout'), more);
      made.file('image.tar', gzipSync(archiveOf(more)));
      const [old, links] = oldDocker([['web:latest']], config, layers, true);
      made.file('docker.tar', archiveOf(old, ...links));
      const name = `${transport}:${join(made.top, source)}`;
      const printed = await run(['--dry-run', name, made.dest], { program });
      assert.equal(printed.code, 0, printed.stderr);
      assert.deepEqual(made.left(), [], 'nothing is made');
      execFileSync('sh', ['-e'], {
        input: printed.stdout,
        stdio: ['pipe', 'pipe', 'inherit'],
        cwd: made.work,
      });
      assert.deepEqual(made.left(), ['dest']);
      assert.equal((await run([name, expected], { program })).code, 0);
      assert.deepEqual(treeOf(made.dest).slice(1), treeOf(expected).slice(1));
      const read = (root: string) => readFileSync(join(root, '.image.json'), 'utf8');
      assert.equal(read(made.dest), read(expected));
    });
});

test('what skopeo and podman write', { skip: skip || needs('skopeo') }, async (t) => {
  const made = new Sandbox();
  const layout = writeFiles(join(made.top, 'layout'), files);
  const copies: [target: string, more?: string[]][] = [
    [`docker-archive:${made.top}/docker.tar:web:latest`],
    [`oci-archive:${made.top}/oci.tar:v1`],
    [`oci:${made.top}/copy:v1`, ['--dest-oci-accept-uncompressed-layers']],
    [`oci:${made.top}/zstd:v1`, ['--dest-compress-format=zstd', '--dest-compress']],
  ];
  for (const [index, [target, more = []]] of copies.entries())
    await t.test(target.replace(made.top, ''), async () => {
      const policy = ['--insecure-policy', 'copy', ...more, `oci:${layout}:v1`, target];
      execFileSync('skopeo', policy, { stdio: 'pipe', env: { ...process.env, TMPDIR: made.top } });
      await fetched(made, target.replace(/:web:latest$|:v1$/, ''), `${made.dest}-${index}`);
    });
});

test('the file may be a pipe', { skip }, async () => {
  const made = new Sandbox();
  const path = join(made.top, 'fifo');
  execFileSync('mkfifo', [path]);
  const words = ['-c', 'cat "$1" > "$2"', 'sh', made.file('image.tar', archiveOf(files)), path];
  const writer = spawn('sh', words);
  await fetched(made, `oci-archive:${path}`, made.dest);
  writer.kill();
});
