// pack-rootfs.ts: images, as other programs read them: skopeo, umoci, podman, docker-registry, and fetch-rootfs.ts.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { findDifference } from '../scripts/pack-rootfs/difference.ts';
import { layer, treeOf } from './helpers/images.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { makeOddTree, oddTreeNeeds, sh } from './helpers/odd-tree.ts';
import { small as fresh, pack, pathsIn, refused } from './helpers/pack.ts';
import { fakeRegistry, startRegistry } from './helpers/registry.ts';
import { schemaErrors } from './helpers/schema.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const root = { skip: needs('root', 'namespaces') };
const by = (...programs: string[]) => ({ skip: needs('root', 'namespaces', ...programs) });

const json = (file: string) => JSON.parse(readFileSync(file, 'utf8'));
const digestOf = (file: string) => `sha256:${createHash('sha256').update(readFileSync(file)).digest('hex')}`;

/** The index, manifest and configuration of a layout with one image, whose digests and sizes are right. */
function readLayout(layout: string) {
  const blob = ({ digest, size }: { digest: string; size: number }) => {
    const file = join(layout, 'blobs', digest.replace(':', '/'));
    assert.equal(digestOf(file), digest);
    assert.equal(statSync(file).size, size);
    return file;
  };
  const index = json(join(layout, 'index.json'));
  assert.equal(index.manifests.length, 1);
  const manifest = json(blob(index.manifests[0]));
  const config = json(blob(manifest.config));
  const layers: string[] = manifest.layers.map(blob);
  const known = [
    index.manifests[0].digest,
    manifest.config.digest,
    ...manifest.layers.map((one: { digest: string }) => one.digest),
  ];
  const found = readdirSync(join(layout, 'blobs/sha256')).map((name) => `sha256:${name}`);
  assert.deepEqual(found.sort(), [...new Set(known)].sort(), 'no blob that belongs to nothing');
  return { index, manifest, config, layers };
}

/** What umoci(1) makes of an image. */
function unpack(layout: string, into: string, tag = 'latest'): string {
  sh('umoci unpack --image "$1:$2" "$3" >&2', layout, tag, into);
  return join(into, 'rootfs');
}

/** A small root file system, with times that are always the same. */
function small(folder: string, name?: string): string {
  const tree = fresh(folder, name);
  utimesSync(join(tree, 'etc/motd'), 1_600_000_000, 1_600_000_000);
  for (const path of ['etc', '.']) utimesSync(join(tree, path), 1_500_000_000, 1_500_000_000);
  return tree;
}

const configOptions = [
  ...['--entrypoint', '["/bin/sh","-c"]', '--cmd', 'true', '--env', 'A=1=2', '-e', 'B=', '--user', 'www:33'],
  ...['--workdir', '/srv', '--label', 'org.example.x=y z', '--expose', '80', '--expose', '53/udp'],
  ...['--stop-signal', 'quit', '--platform', 'linux/arm64', '--tag', 'registry.example.org/team/web:1'],
];
const configured = {
  User: 'www:33',
  ExposedPorts: { '53/udp': {}, '80/tcp': {} },
  Env: ['A=1=2', 'B='],
  Entrypoint: ['/bin/sh', '-c'],
  Cmd: ['true'],
  WorkingDir: '/srv',
  Labels: { 'org.example.x': 'y z' },
  StopSignal: 'SIGQUIT',
};

test('an OCI layout is what the specification says, and always the same bytes', root, async (t) => {
  const folder = scratchFolder('pack-image');
  const tree = small(folder);
  const layout = join(folder, 'layout');
  const { stdout } = await pack([tree, '--oci', layout, ...configOptions]);
  const { index, manifest, config, layers } = readLayout(layout);
  assert.equal(stdout, `${index.manifests[0].digest}\n`);
  assert.deepEqual(json(join(layout, 'oci-layout')), { imageLayoutVersion: '1.0.0' });
  assert.deepEqual(index.manifests[0].platform, { os: 'linux', architecture: 'arm64' });
  assert.deepEqual(index.manifests[0].annotations, {
    'io.containerd.image.name': 'registry.example.org/team/web:1',
    'org.opencontainers.image.ref.name': '1',
  });
  assert.deepEqual(config.config, configured);
  assert.deepEqual([config.os, config.architecture], ['linux', 'arm64']);
  assert.equal(config.created, '2020-09-13T12:26:40Z', 'the time of the newest file');
  assert.equal(manifest.layers[0].mediaType, 'application/vnd.oci.image.layer.v1.tar+gzip');
  const layer = layers[0] as string;
  assert.equal(`sha256:${sh('gunzip <"$1" | sha256sum', layer).slice(0, 64)}`, config.rootfs.diff_ids[0]);
  assert.equal(sh('tar -tzf "$1"', layer), './\n./etc/\n./etc/motd\n');
  assert.equal(statSync(layout).mode & 0o777, 0o700, 'it may hold password hashes');

  const [again, masked, epoch] = pathsIn(folder, 'again', 'masked', 'epoch');
  await pack([tree, '--oci', again, ...configOptions]);
  sh('umask 077; "$@"', script('pack-rootfs'), '--quiet', tree, '--oci', masked, ...configOptions);
  for (const other of [again, masked]) assert.equal(sh('diff -r "$1" "$2"', layout, other), '');
  await pack([tree, '--oci', epoch], { SOURCE_DATE_EPOCH: '1000000000' });
  assert.equal(readLayout(epoch).config.created, '2001-09-09T01:46:40Z');

  const folderOfSchemas = '/usr/share/gocode/src/github.com/opencontainers/image-spec/schema';
  const missing =
    !existsSync(folderOfSchemas) && 'needs golang-github-opencontainers-image-spec-dev, its JSON schemas';
  await t.test('by the JSON schemas of the specification', { skip: missing }, () => {
    for (const [file, value] of [
      ['image-layout-schema.json', json(join(layout, 'oci-layout'))],
      ['image-index-schema.json', index],
      ['image-manifest-schema.json', manifest],
      ['config-schema.json', config],
    ] as const)
      assert.deepEqual(schemaErrors(folderOfSchemas, file, value), [], file);
    const broken = { ...manifest, layers: [{ ...manifest.layers[0], digest: 'sha256' }] };
    assert.notDeepEqual(schemaErrors(folderOfSchemas, 'image-manifest-schema.json', broken), []);
  });
});

test('layers are compressed as asked', root, async () => {
  const folder = scratchFolder('pack-image');
  const tree = small(folder);
  for (const [compression, suffix, undo] of [
    ['none', '', 'cat'],
    ['zstd', '+zstd', 'zstd -dc'],
  ] as const) {
    if (needs(undo.split(' ')[0] as string)) continue;
    const layout = join(folder, compression);
    await pack([tree, '--oci', layout, '--compression', compression]);
    const { manifest, config, layers } = readLayout(layout);
    assert.equal(manifest.layers[0].mediaType, `application/vnd.oci.image.layer.v1.tar${suffix}`);
    const sum = sh(`${undo} <"$1" | sha256sum`, layers[0] as string).slice(0, 64);
    assert.equal(config.rootfs.diff_ids[0], `sha256:${sum}`);
  }
  assert.match(await refused([tree, '--oci', join(folder, 'x'), '--compression', 'xz'], 2), /xz/);
});

test('umoci unpacks the same tree from a layout', by('umoci', ...oddTreeNeeds), async () => {
  const folder = scratchFolder('pack-image');
  const tree = makeOddTree(join(folder, 'tree'));
  await pack([tree, '--oci', join(folder, 'layout')]);
  assert.deepEqual(treeOf(unpack(join(folder, 'layout'), join(folder, 'bundle'))), treeOf(tree));
});

test('skopeo reads all forms, and podman loads and runs them', by('skopeo'), async (t) => {
  const folder = scratchFolder('pack-image');
  const forms: [string, string][] = [
    ['oci', join(folder, 'layout')],
    ['oci-archive', join(folder, 'oci.tar')],
    ['docker-archive', join(folder, 'docker.tar')],
  ];
  const words = [
    '--tag',
    'packed:2',
    '--cmd',
    '["/bin/sh","-c","echo $GREETING from $(pwd)"]',
    '-e',
    'GREETING=hello',
  ];
  for (const [form, path] of forms) {
    const option = form === 'docker-archive' ? '--docker' : '--oci';
    await pack([rootfs, option, path, ...words, '-w', '/srv']);
    const { Os, Env } = JSON.parse(sh('skopeo inspect "$1:$2"', form, path));
    assert.deepEqual([Os, Env], ['linux', ['GREETING=hello']], form);
    if (form === 'oci') continue;
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const again = `${path}.again.tar`;
    sh('umask 077; "$@"', script('pack-rootfs'), '-q', rootfs, option, again, ...words, '-w', '/srv');
    assert.equal(digestOf(again), digestOf(path), `${form}: the same bytes`);
  }
  const copy = join(folder, 'copy');
  sh(
    'skopeo --insecure-policy copy --quiet "docker-archive:$1" "oci:$2:x"',
    join(folder, 'docker.tar'),
    copy,
  );
  assert.deepEqual(readLayout(copy).config.config.Cmd, ['/bin/sh', '-c', 'echo $GREETING from $(pwd)']);

  // its --runroot has to be short
  const engine = [
    ...['unshare', '--mount', 'sh', '-ec', 'mount -t tmpfs run /mnt; exec podman --runroot /mnt "$@"', 'sh'],
    ...['--root', join(folder, 'podman'), '--storage-driver', 'vfs', '--tmpdir', '/mnt/tmp'],
    ...['--runtime', 'runc', '--cgroup-manager', 'cgroupfs', '--events-backend', 'file'],
  ];
  // podman raises limits, which not every root may
  const cgroup = `test-podman-${process.pid}`;
  const limits = [
    '--ulimit',
    'nofile=1024:1024',
    '--ulimit',
    'nproc=1024:1024',
    '--cgroup-parent',
    `/${cgroup}`,
  ];
  for (const [form, path] of forms.slice(1))
    await t.test(`podman load takes ${form}`, { skip: needs('podman', 'runc') }, async () => {
      const loaded = await execute([...engine, 'load', '--quiet', '--input', path]);
      assert.equal(loaded.code, 0, loaded.stderr);
      assert.match(loaded.stdout, /docker\.io\/library\/packed:2/);
      const run = await execute([...engine, 'run', '--rm', '--net=none', ...limits, 'packed:2']);
      assert.equal(run.stdout, 'hello from /srv\n', run.stderr);
      await execute([...engine, 'rmi', '--all', '--force']);
      const cgroups = 'find /sys/fs/cgroup -depth -type d -path "*/$1*" -exec rmdir {} + 2>/dev/null || :';
      sh(cgroups, cgroup);
    });
});

test(
  'fetch-rootfs.ts gets back what was packed, with its configuration, which is packed again by default',
  by(...oddTreeNeeds),
  async () => {
    const folder = scratchFolder('pack-image');
    const tree = makeOddTree(join(folder, 'tree'));
    const [file, back, again] = pathsIn(folder, 'a.tar', 'back', 'again.tar');
    await pack([tree, '--docker', file, ...configOptions]);
    const fetched = await call('fetch-rootfs', ['--platform', 'linux/arm64', `docker-archive:${file}`, back]);
    assert.equal(fetched.code, 0, fetched.stderr);
    assert.deepEqual(treeOf(back), treeOf(tree));
    await pack([back, '--docker', again, '--tag', 'registry.example.org/team/web:1']);
    assert.equal(digestOf(again), digestOf(file), '.image.json has all of it, and is not packed');
  },
);

test('options win over ROOTFS/.image.json; another entrypoint gets none of its arguments', root, async () => {
  const folder = scratchFolder('pack-image');
  const tree = small(folder);
  const before = {
    architecture: 'arm64',
    os: 'linux',
    config: {
      Env: ['A=0', 'PATH=/bin'],
      Entrypoint: ['/init'],
      Cmd: ['x'],
      Labels: { b: '1' },
      User: '5',
      Healthcheck: { Test: ['NONE'] },
      Unknown: 1,
    },
    rootfs: { type: 'layers', diff_ids: [] },
  };
  writeFileSync(join(tree, '.image.json'), JSON.stringify(before));
  const configOf = async (name: string, ...words: string[]) => {
    await pack([tree, '--oci', join(folder, name), ...words]);
    return readLayout(join(folder, name)).config;
  };
  const kept = await configOf('a');
  assert.deepEqual(kept.config, {
    User: '5',
    Env: ['A=0', 'PATH=/bin'],
    Entrypoint: ['/init'],
    Cmd: ['x'],
    Labels: { b: '1' },
    Healthcheck: { Test: ['NONE'] },
  });
  assert.equal(kept.architecture, 'arm64');
  const changed = await configOf(
    'b',
    '--entrypoint',
    '/bin/sh',
    '-e',
    'A=1',
    '-l',
    'a=2',
    '--platform',
    'linux/amd64',
  );
  assert.deepEqual(changed.config.Env, ['A=1', 'PATH=/bin']);
  assert.deepEqual(changed.config.Labels, { a: '2', b: '1' });
  assert.deepEqual([changed.config.Entrypoint, changed.config.Cmd], [['/bin/sh'], undefined]);
  assert.equal(changed.architecture, 'amd64');
  assert.deepEqual((await configOf('c', '--entrypoint', '[]', '--cmd', '["a","b c"]')).config.Cmd, [
    'a',
    'b c',
  ]);

  for (const [wrong, message] of [
    ['{', /is not an OCI image configuration/],
    ['{"config": {"Env": "A=1"}}', /Env is not a list of strings/],
    ['{"config": {"Labels": {"a": 1}}}', /Labels is not/],
    ['[]', /is not an OCI/],
  ] as const) {
    writeFileSync(join(tree, '.image.json'), wrong);
    assert.match(await refused([tree, '--oci', join(folder, 'x')]), message);
  }
  assert(!existsSync(join(folder, 'x')));
});

test('wrong options are refused', root, async () => {
  const folder = scratchFolder('pack-image');
  const tree = small(folder);
  const image = ['--oci', join(folder, 'x')];
  for (const [words, message] of [
    [[join(folder, 'a.tar'), ...image], /either OUT, or --oci/],
    [[], /OUT, or --oci/],
    [['--docker', join(folder, 'x.tar.gz')], /ends in \.tar/],
    [[...image, '--cmd', 'nginx -g'], /JSON list: '\["nginx","-g"\]'/],
    [[...image, '--cmd', '["a",1]'], /JSON list/],
    [[...image, '--env', 'A'], /KEY=VALUE/],
    [[...image, '--expose', '70000'], /not a port/],
    [[...image, '--expose', '80/http'], /not a port/],
    [[...image, '--workdir', 'srv'], /absolute path/],
    [[...image, '--user', 'a b'], /USER:GROUP/],
    [[...image, '--stop-signal', 'NONE'], /no such signal/],
    [[...image, '--tag', 'Web'], /capital/],
    [[...image, '--platform', 'linux'], /platform/],
    [['--push', 'web:1'], /docker:\/\//],
    [[join(folder, 'a.tar'), '--label', 'a=b'], /--label is for an image/],
    [[join(folder, 'a.tar'), '--base', tree], /--base is for an image/],
  ] as const)
    assert.match(await refused([tree, ...words], 2), message);
  assert.deepEqual(readdirSync(folder), ['small']);
});

test('a name that would be a whiteout is refused in an image, and packed in a tarball', root, async () => {
  const folder = scratchFolder('pack-image');
  const tree = small(folder);
  writeFileSync(join(tree, 'etc/.wh.motd'), '');
  assert.match(await refused([tree, '--oci', join(folder, 'x')]), /\/etc\/\.wh\.motd: .*tarball/);
  await pack([tree, join(folder, 'a.tar')]);
  assert.deepEqual(readdirSync(folder).sort(), ['a.tar', 'small']);
});

test('--force replaces a layout and an archive', root, async () => {
  const folder = scratchFolder('pack-image');
  const tree = small(folder);
  for (const [option, path] of [
    ['--oci', join(folder, 'layout')],
    ['--docker', join(folder, 'a.tar')],
  ] as const) {
    await pack([tree, option, path, '--cmd', 'one']);
    assert.match(await refused([tree, option, path]), /EEXIST/);
    await pack([tree, option, path, '--cmd', 'other', '--force']);
  }
  assert.deepEqual(readLayout(join(folder, 'layout')).config.config.Cmd, ['other']);
  assert.deepEqual(readdirSync(folder).sort(), ['a.tar', 'layout', 'small']);
});

/** Changes a tree in every way that a layer can tell of. */
function change(tree: string): void {
  const at = (name: string) => join(tree, name);
  writeFileSync(at('new'), 'new');
  writeFileSync(at('bin/listed'), 'other content');
  writeFileSync(at('etc/plain'), 'x');
  rmSync(at('empty'));
  sh('rm -r "$1"/deep*', tree); // a directory, with all that is in it
  rmSync(at('absolute'));
  mkdirSync(at('absolute')); // a directory instead of a link
  writeFileSync(at('absolute/in'), '');
  rmSync(at('tmp'), { recursive: true });
  symlinkSync('etc', at('tmp')); // a link instead of a directory
  sh(
    'cd "$1" && rm fifo && mkdir fifo && chmod 0701 closed && chown 9:9 bin/setuid && chmod 4755 bin/setuid',
    tree,
  );
  sh(
    'cd "$1" && setfattr -n user.new -v x bin/one && ln bin/capable capable-too && setfattr -x user.a bin/attributes',
    tree,
  );
  renameSync(at('ro/in'), at('ro/out'));
  sh(
    'cd "$1" && rm "$(printf \'latin-\\351\')" && : >"$(printf \'new-\\377\')" && mv three "$(printf %200s | tr " " w)"',
    tree,
  );
  sh('cd "$1" && for n in 1 2; do mkdir -p many/$n; : >many/$n/x; done', tree);
}

for (const kind of ['a directory', 'a docker archive', 'an OCI layout'] as const)
  test(
    `--base, ${kind}: a layer of the difference, whose whiteouts umoci applies`,
    by('umoci', ...oddTreeNeeds),
    async () => {
      const folder = scratchFolder('pack-image');
      const base = makeOddTree(join(folder, 'base'));
      const tree = join(folder, 'tree');
      sh('cp -a "$1" "$2"', base, tree);
      change(tree);
      const words: Record<string, string[]> = {
        'a docker archive': ['--docker', join(folder, 'base.tar'), '--tag', 'base:1'],
        'an OCI layout': ['--oci', join(folder, 'base-layout'), '--tag', 'base:1', '--cmd', 'below'],
      };
      const names: Record<string, string> = {
        'a directory': base,
        'a docker archive': `docker-archive:${folder}/base.tar`,
        'an OCI layout': `oci:${folder}/base-layout:1`,
      };
      if (words[kind]) await pack([base, ...words[kind]]);
      await pack([base, '--oci', join(folder, 'plain')]);
      const layout = join(folder, 'layout');
      await pack([tree, '--base', names[kind] as string, '--oci', layout]);
      const { manifest, config, layers } = readLayout(layout);
      assert.equal(layers.length, 2);
      assert.deepEqual(
        manifest.layers[0],
        readLayout(join(folder, 'plain')).manifest.layers[0],
        'the base as it is',
      );
      assert.deepEqual(config.config.Cmd, kind === 'an OCI layout' ? ['below'] : undefined);
      const packed = sh('tar -tzf "$1"', layers[1] as string).split('\n');
      assert(packed.includes('./.wh.empty') && packed.includes('./ro/.wh.in'), packed.join());
      assert(
        !packed.includes('./sparse') && !packed.includes('./bin/huge-owner'),
        'what is as it was is not there',
      );
      assert(packed.includes('./bin/capable'), 'all names of a file with a new one');
      const unpacked = unpack(layout, join(folder, 'bundle'));
      assert.deepEqual(treeOf(unpacked), treeOf(tree));
      assert.equal(statSync(join(unpacked, 'capable-too')).ino, statSync(join(unpacked, 'bin/capable')).ino);
    },
  );

test('--base that is the same gives an image of its layers alone', root, async () => {
  const folder = scratchFolder('pack-image');
  const [tree, base] = [small(folder), small(folder, 'base')];
  const { stderr } = await pack([tree, '--base', base, '--oci', join(folder, 'layout')]);
  assert.match(stderr, /nothing differs from /);
  assert.equal(readLayout(join(folder, 'layout')).layers.length, 1);
  assert.match(
    await refused([tree, '--base', join(folder, 'none'), '--oci', join(folder, 'x')]),
    /no such directory/,
  );
});

test('what a difference consists of', () => {
  const entry = (name: string, sha256 = '', type = name.endsWith('/') ? '5' : '0', link = '') => ({
    name,
    type,
    link,
    sha256,
    mtimeSeconds: 0,
  });
  const before = ['./', './a/', './a/b/', './a/b/c', './a/d', './e', './f'].map((name) => entry(name));
  assert.deepEqual(findDifference(before, before), { names: [], whiteouts: [] });
  // a directory that is gone takes one whiteout, and its parent its time; a file that became a directory none
  const now = [
    entry('./'),
    entry('./a/'),
    entry('./a/d/'),
    entry('./a/d/g'),
    entry('./e', 'x'),
    entry('./f'),
  ];
  assert.deepEqual(findDifference(before, now), {
    names: ['./', './a/', './a/d/', './a/d/g', './e'],
    whiteouts: ['./a/.wh.b'],
  });
  // a directory that is no more one takes nothing
  assert.deepEqual(
    findDifference(before, [entry('./'), entry('./a', 'x'), entry('./e'), entry('./f')]).whiteouts,
    [],
  );
});

test(
  'the layers of --base are read at the same time, and neither a signal nor an error waits for them',
  root,
  async (t) => {
    const folder = scratchFolder('pack-image');
    const tree = small(folder);
    const layers = ['a', 'b'].map((name) => layer([{ name }]));
    let fails = false;
    const registry = await fakeRegistry(t, layers, (_, response, path) => {
      const [first, second] = registry.digests.layers as [string, string];
      if (path.endsWith(first) && fails) return response.writeHead(404).end();
      return path.endsWith(first) || path.endsWith(second) ? undefined : false; // without an answer
    });
    for (const signal of ['SIGINT', undefined] as const) {
      registry.requests.length = 0;
      const words = [tree, '--base', `docker://${registry.image}`, '--oci', join(folder, 'layout')];
      const env = { ...process.env, XDG_CACHE_HOME: join(folder, 'cache') };
      fails = signal === undefined;
      const child = spawn(script('pack-rootfs'), words, { env, stdio: 'ignore' });
      const ended = once(child, 'close');
      const isAsked = () =>
        registry.digests.layers.every((digest) => registry.requests.some((one) => one.endsWith(digest)));
      await until('both layers are asked for', isAsked);
      if (signal) child.kill(signal);
      assert.deepEqual(await ended, signal ? [null, signal] : [1, null]);
      assert.deepEqual(readdirSync(folder).sort(), ['cache', 'small']);
    }
  },
);

test(
  '--push sends to a registry, what skopeo and fetch-rootfs.ts get from it',
  by('docker-registry', 'skopeo', 'umoci'),
  async () => {
    const folder = scratchFolder('pack-image');
    const tree = small(folder);
    const host = await startRegistry();
    const { stdout } = await pack([tree, '--push', `docker://${host}/team/web:1`, '--cmd', 'true']);
    const inspected = JSON.parse(sh('skopeo inspect --tls-verify=false "docker://$1/team/web:1"', host));
    assert.equal(inspected.Digest, stdout.trim());
    writeFileSync(join(tree, 'etc/more'), 'more');
    await pack([tree, '--base', `docker://${host}/team/web:1`, '--push', `docker://${host}/team/web:2`], {
      XDG_CACHE_HOME: join(folder, 'cache'),
    });
    sh(
      'skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$1/team/web:2" "oci:$2:2"',
      host,
      join(folder, 'layout'),
    );
    const { layers, config } = readLayout(join(folder, 'layout'));
    assert.equal(layers.length, 2);
    assert.deepEqual(config.config.Cmd, ['true']);
    assert.deepEqual(treeOf(unpack(join(folder, 'layout'), join(folder, 'bundle'), '2')), treeOf(tree));
    assert.match(
      await refused([tree, '--push', `docker://${host.replace(/\d+$/, '1')}/team/web:1`]),
      /cannot pack .*ECONNREFUSED/,
    );
  },
);
