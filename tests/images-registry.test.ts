// fetch-rootfs.ts docker://… and pushImage with Debian's docker-registry; images that skopeo has pushed, and umoci's trees.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { hostPlatform } from '../scripts/images/choose.ts';
import { pushImage } from '../scripts/images/push.ts';
import { parseReference } from '../scripts/images/reference.ts';
import { loneBundle, run, type Sandbox, sandbox, start } from './helpers/fetch.ts';
import { digestOf, layer, layoutOf, treeOf, writeFiles } from './helpers/images.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { fakeRegistry, password, push, send, startRegistry, user } from './helpers/registry.ts';
import { until } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';

const skip = { skip: needs('root', 'namespaces', 'docker-registry', 'skopeo') };
const program = loneBundle();
const folder = scratchFolder('images-registry');
const compress = (tar: Buffer) => gzipSync(tar);
const directory = { type: '5', mode: 0o755 };

const base = layer(
  [
    { name: './', ...directory },
    { name: 'bin', ...directory },
    { name: 'bin/sh', data: 'a shell', mode: 0o4755 },
    { name: 'etc', ...directory },
    { name: 'etc/gone', data: 'x' },
    { name: 'etc/kept', data: 'x', uid: 1000, gid: 1000 },
    { name: 'opt', ...directory },
    { name: 'opt/old', data: 'x' },
    { name: 'home', type: '2', link: '/etc' },
  ],
  compress,
);
const upper = layer(
  [
    { name: 'etc', ...directory },
    { name: 'etc/.wh.gone', data: '' },
    { name: 'etc/new', data: 'y' },
    { name: 'opt', ...directory },
    { name: 'opt/.wh..wh..opq', data: '' },
    { name: 'opt/young', type: '1', link: 'etc/kept' },
  ],
  compress,
);
const twenty = [
  base,
  ...Array.from({ length: 19 }, (_, index) =>
    layer([{ name: `etc/file-${index}`, data: randomBytes(2000 + index) }], compress),
  ),
];

/** An OCI layout of an image, as skopeo names it: DIR:TAG. */
const layout = (name: string, layers: ReturnType<typeof layer>[], config = {}) =>
  `${writeFiles(join(folder, name), layoutOf(layers, '1', { config }))}:1`;

let open = '';
let closed = '';
before(async () => {
  if (skip.skip) return;
  [open, closed] = await Promise.all([startRegistry(), startRegistry(true)]);
  push(layout('two', [base, upper]), `${open}/team/two:1`);
  push(layout('two', [base, upper]), `${closed}/team/two:1`, ['--dest-creds', `${user}:${password}`]);
  push(layout('twenty', twenty), `${open}/team/twenty:1`);
});

/** Runs fetch-rootfs.ts with a cache and a home of the sandbox's own. */
const fetch = (made: Sandbox, words: string[], env: Record<string, string> = {}) =>
  run(words, {
    program,
    cwd: made.work,
    env: { HOME: made.top, DOCKER_CONFIG: made.top, XDG_CACHE_HOME: join(made.top, 'cache'), ...env },
  });

/** What umoci makes of an image that skopeo has copied. */
function unpackedByUmoci(reference: string): string {
  const copied = join(folder, `umoci-${randomBytes(4).toString('hex')}`);
  execFileSync('skopeo', [
    '--insecure-policy',
    'copy',
    '--quiet',
    '--src-tls-verify=false',
    `docker://${reference}`,
    `oci:${copied}:1`,
  ]);
  execFileSync('umoci', ['raw', 'unpack', '--image', `${copied}:1`, `${copied}-tree`]);
  return `${copied}-tree`;
}

test('an image of a registry is the tree that umoci makes of it', {
  skip: skip.skip || needs('umoci', 'getfattr'),
}, async (t) => {
  for (const name of ['two', 'twenty']) {
    const made = sandbox(t);
    const { code, stdout, stderr } = await fetch(made, [`docker://${open}/team/${name}:1`, made.dest]);
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `${made.dest}\n`);
    assert.deepEqual(treeOf(made.dest), treeOf(unpackedByUmoci(`${open}/team/${name}:1`)));
    assert.deepEqual(JSON.parse(readFileSync(join(made.dest, '.image.json'), 'utf8')).config, {
      Cmd: ['/bin/sh'],
    });
    assert.deepEqual(made.left(), ['dest']);
  }
});

test('it says what it fetches, line by line, and --quiet says nothing', skip, async (t) => {
  const made = sandbox(t);
  const first = await fetch(made, [`docker://${open}/team/two:1`, './a']);
  assert.equal(first.code, 0, first.stderr);
  assert.match(
    first.stderr,
    new RegExp(
      `^${open}/team/two:1 is sha256:\\w{64}\n(layer \\w{12}: \\d+ B\n){2}\\d+ entries, .*, 2 layers\n$`,
    ),
  );
  const second = await fetch(made, [`docker://${open}/team/two:1`, './b']);
  assert.match(second.stderr, /\n(layer \w{12}: \d+ B, in the cache already\n){2}/);
  const third = await fetch(made, ['--no-cache', `docker://${open}/team/two:1`, './c']);
  assert.match(third.stderr, /\n(layer \w{12}: \d+ B\n){2}/);
  const quiet = await fetch(made, ['-q', `docker://${open}/team/two:1`, './d']);
  assert.deepEqual([quiet.code, quiet.stderr], [0, '']);
  assert.deepEqual(made.left(), ['a', 'b', 'c', 'd']);
});

test('an image without a login is told from one with it, and which file has none', skip, async (t) => {
  const made = sandbox(t);
  const source = `docker://${closed}/team/two:1`;
  const without = await fetch(made, [source, made.dest]);
  assert.equal(without.code, 1);
  assert.match(
    without.stderr,
    new RegExp(
      `^fetch-rootfs: cannot fetch ${source}: ${closed}/team/two is private or not there \\(401\\), and ${made.top}/config\\.json has no login for it: \\w+ login ${closed}\n$`,
    ),
  );
  writeFileSync(
    join(made.top, 'config.json'),
    JSON.stringify({ auths: { [closed]: { auth: Buffer.from(`${user}:${password}`).toString('base64') } } }),
  );
  const { code, stderr } = await fetch(made, [source, made.dest]);
  assert.equal(code, 0, stderr);
  assert(existsSync(join(made.dest, 'bin/sh')));
  // what skopeo login writes is read as well
  const other = sandbox(t);
  const file = join(other.top, 'containers/auth.json');
  mkdirSync(join(other.top, 'containers'));
  execFileSync(
    'skopeo',
    ['login', '--tls-verify=false', '--authfile', file, '-u', user, '--password-stdin', closed],
    { input: password },
  );
  const again = await fetch(other, [source, other.dest], { XDG_RUNTIME_DIR: other.top });
  assert.equal(again.code, 0, again.stderr);
  // a wrong password
  writeFileSync(
    join(made.top, 'config.json'),
    JSON.stringify({ auths: { [closed]: { auth: Buffer.from('anna:falsch').toString('base64') } } }),
  );
  const wrong = await fetch(made, [source, './x']);
  assert.match(
    wrong.stderr,
    new RegExp(
      `refuses ${closed}/team/two to the login in ${made.top}/config\\.json: authentication required: \\w+ login ${closed}\n$`,
    ),
  );
});

test('of an index the image of the platform is taken', skip, async (t) => {
  const { architecture } = hostPlatform();
  const other = architecture === 's390x' ? 'arm64' : 's390x';
  const layouts = [architecture, other].map((name) =>
    layoutOf(
      [
        layer(
          [
            { name: 'bin', ...directory },
            { name: `bin/${name}`, data: name },
          ],
          compress,
        ),
      ],
      '1',
      { config: { architecture: name } },
    ),
  );
  const manifests = layouts.map((files, index) => ({
    ...JSON.parse(`${files['index.json']}`).manifests[0],
    platform: { os: 'linux', architecture: [architecture, other][index] },
  }));
  const list = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests }),
  );
  const files = { ...layouts[0], ...layouts[1], [`blobs/sha256/${digestOf(list).slice(7)}`]: list };
  files['index.json'] = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          mediaType: 'application/vnd.oci.image.index.v1+json',
          digest: digestOf(list),
          size: list.length,
          annotations: { 'org.opencontainers.image.ref.name': '1' },
        },
      ],
    }),
  );
  push(`${writeFiles(join(folder, 'index'), files)}:1`, `${open}/team/index:1`);
  const made = sandbox(t);
  const source = `docker://${open}/team/index:1`;
  assert.equal((await fetch(made, [source, './a'])).code, 0);
  assert.deepEqual(readdirSync(join(made.work, 'a/bin')), [architecture]);
  assert.equal((await fetch(made, ['--platform', `linux/${other}`, source, './b'])).code, 0);
  assert.deepEqual(readdirSync(join(made.work, 'b/bin')), [other]);
  const { code, stderr } = await fetch(made, ['--platform', 'mips64le', source, './c']);
  assert.equal(code, 1);
  assert.match(
    stderr,
    new RegExp(
      `there is no image for linux/mips64le, but for linux/${architecture}, linux/${other}: choose one with --platform\n$`,
    ),
  );
  // by digest, of the index
  const named = await fetch(made, [`docker://${open}/team/index@${digestOf(list)}`, './d']);
  assert.equal(named.code, 0, named.stderr);
});

test('a tag or a repository that is not there', skip, async (t) => {
  const made = sandbox(t);
  for (const name of ['team/two:2', 'team/three:1']) {
    const { code, stderr } = await fetch(made, [`docker://${open}/${name}`, made.dest]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      new RegExp(
        `^fetch-rootfs: cannot fetch docker://${open}/${name}: ${open} has no ${open}/${name}: (manifest unknown|repository name not known to registry)\n$`,
      ),
    );
  }
  assert.deepEqual(made.left(), []);
});

test('--dry-run prints curl, sha256sum and tar for each layer, and sh makes the same tree', {
  skip: skip.skip || needs('curl', 'getfattr'),
}, async (t) => {
  const made = sandbox(t);
  const source = `docker://${open}/team/two:1`;
  const { code, stdout, stderr } = await fetch(made, ['--dry-run', source, './by-hand']);
  assert.equal(code, 0, stderr);
  assert.deepEqual(made.left(), []);
  const { status, stderr: said } = spawnSync('sh', ['-eu'], {
    input: stdout,
    cwd: made.work,
    encoding: 'utf8',
  });
  assert.equal(status, 0, said);
  assert.equal((await fetch(made, [source, './fetched'])).code, 0);
  const withoutTimes = (tree: string) =>
    treeOf(join(made.work, tree)).map((line) => line.replace(/^((?:etc|opt)? d\S* .*?) \d+\.\d+/, '$1'));
  assert.deepEqual(
    withoutTimes('by-hand').filter((line) => !line.startsWith(' ')),
    withoutTimes('fetched').filter((line) => !line.startsWith(' ')),
  );
  assert.deepEqual(
    readFileSync(join(made.work, 'by-hand/.image.json')),
    readFileSync(join(made.work, 'fetched/.image.json')),
  );
  assert.deepEqual(made.left(), ['by-hand', 'fetched']);
});

test('a call that is killed leaves what it has read, and the next one goes on there', {
  skip: needs('root', 'namespaces'),
}, async (t) => {
  const big = layer(
    [
      { name: 'bin', ...directory },
      { name: 'bin/big', data: randomBytes(3_000_000) },
    ],
    compress,
  );
  const ranges: (string | undefined)[] = [];
  const fake = await fakeRegistry(t, [big], (request, response, path) => {
    if (!path.includes(`/blobs/${digestOf(big.blob)}`)) return false;
    ranges.push(request.headers.range);
    if (ranges.length > 1) return send(request, response, big.blob);
    response.writeHead(200, { 'Content-Length': big.blob.length });
    return response.write(big.blob.subarray(0, 1_000_000));
  });
  const made = sandbox(t);
  const env = { HOME: made.top, DOCKER_CONFIG: made.top, XDG_CACHE_HOME: join(made.top, 'cache') };
  const words = [`docker://${fake.image}`, made.dest];
  const { child, result } = start(words, { program, cwd: made.work, env });
  const partial = join(made.top, 'cache/barehand/blobs/sha256', `${digestOf(big.blob).slice(7)}.partial`);
  await until('a million bytes', () => existsSync(partial) && readFileSync(partial).length === 1_000_000);
  child.kill('SIGKILL');
  await result;
  const { code, stderr } = await fetch(made, words);
  assert.equal(code, 0, stderr);
  assert.deepEqual(ranges, [undefined, 'bytes=1000000-']);
  assert.match(stderr, /\nlayer \w{12}: resuming at 977 KiB\n/);
  assert(readFileSync(join(made.dest, 'bin/big')).length === 3_000_000);
  assert.deepEqual(made.left(), ['dest'], 'what the killed call had begun is gone');
});

test('on a terminal each layer that is read has a bar', {
  skip: needs('root', 'namespaces', 'script'),
}, async (t) => {
  const two = [base, upper].map(() =>
    layer(
      [
        { name: 'bin', ...directory },
        { name: 'bin/x', data: randomBytes(9000) },
      ],
      compress,
    ),
  );
  const asked: (() => void)[] = [];
  const fake = await fakeRegistry(t, two, (_, response, path) => {
    const found = two.find(({ blob }) => path.endsWith(digestOf(blob)));
    if (!found) return false;
    const parts = Array.from({ length: 9 }, (_, index) =>
      found.blob.subarray(index * 1000, (index + 1) * 1000),
    );
    response.writeHead(200, { 'Content-Length': found.blob.length });
    asked.push(() => {
      const timer = setInterval(() => {
        response.write(parts.shift() ?? '');
        if (parts.length === 0) response.end(found.blob.subarray(9000));
        if (parts.length === 0) clearInterval(timer);
      }, 150);
    });
    // both are under way at the same time
    return asked.length === 2 ? asked.map((begin) => begin()) : undefined;
  });
  const made = sandbox(t);
  const env = { HOME: made.top, DOCKER_CONFIG: made.top, XDG_CACHE_HOME: join(made.top, 'cache') };
  const words = ['-qec', `'${program}' 'docker://${fake.image}' '${made.dest}'`, '/dev/null'];
  const { code, stdout } = await run(words, { program: '/usr/bin/script', env });
  assert.equal(code, 0, stdout);
  const bar = (digest = '') =>
    `${digest.slice(7, 19)} \\[#* *\\] [\\d.]+ [KMi]*B of [\\d.]+ KiB, [^\x1b]*\x1b\\[K`;
  const [one = '', other = ''] = fake.digests.layers.map(bar);
  const both = new RegExp(`\r\x1b\\[1A(${one}\r\n${other}|${other}\r\n${one})\x1b\\[J`);
  assert.match(stdout, both, JSON.stringify(stdout));
  assert.match(stdout, /\x1b\[J(layer \w{12}: [\d.]+ KiB\r\n[\s\S]*){2}\d+ entries/);
});

/** An image as pushImage takes it, its layers in files. */
function packed(name: string, layers: ReturnType<typeof layer>[]) {
  const files = layoutOf(layers, '1');
  const top = writeFiles(join(folder, name), files);
  const path = (digest: string) => join(top, 'blobs/sha256', digest.slice('sha256:'.length));
  const manifestDigest = JSON.parse(`${files['index.json']}`).manifests[0].digest;
  const manifestBytes = readFileSync(path(manifestDigest));
  const manifest = JSON.parse(`${manifestBytes}`);
  const blobs = new Map<string, string>(
    manifest.layers.map(({ digest }: { digest: string }) => [digest, path(digest)]),
  );
  return {
    manifest,
    manifestBytes,
    manifestDigest,
    config: readFileSync(path(manifest.config.digest)),
    blobs,
  };
}

/** What pushImage says. */
function listener() {
  const said: string[] = [];
  const progress = {
    say: (text: string) => said.push(text),
    show: (chunks: AsyncIterable<Buffer>) => chunks,
    end: () => {},
  };
  return {
    said,
    options: {
      progress: progress as never,
      backoffMilliseconds: 5,
      env: { HOME: folder, DOCKER_CONFIG: join(folder, 'no-login') },
    },
  };
}

test(
  'what is pushed is what skopeo and fetch-rootfs.ts get; and blobs that are there are not sent again',
  skip,
  async (t) => {
    const image = packed('pushed', [
      base,
      upper,
      layer([{ name: 'big', data: randomBytes(1_000_000) }], compress),
    ]);
    const { said, options } = listener();
    await pushImage(parseReference(`${open}/made/here:1`), image, options);
    assert.equal(said.filter((line) => /^\w{12}: [\d.]+ (B|KiB)$/.test(line)).length, 4, `${said}`);
    const raw = execFileSync('skopeo', [
      'inspect',
      '--raw',
      '--tls-verify=false',
      `docker://${open}/made/here:1`,
    ]);
    assert(raw.equals(image.manifestBytes));
    const made = sandbox(t);
    const { code, stderr } = await fetch(made, [
      `docker://${open}/made/here@${image.manifestDigest}`,
      made.dest,
    ]);
    assert.equal(code, 0, stderr);

    const again = listener();
    await pushImage(parseReference(`${open}/made/here:2`), image, again.options);
    assert.equal(
      again.said.filter((line) => line.endsWith(': in the registry already')).length,
      4,
      `${again.said}`,
    );

    const mounted = listener();
    await pushImage(parseReference(`${open}/made/there:1`), image, {
      ...mounted.options,
      mountFrom: 'made/here',
    });
    assert.equal(
      mounted.said.filter((line) => line.endsWith(': in the registry already, in made/here')).length,
      4,
      `${mounted.said}`,
    );
    execFileSync('skopeo', ['inspect', '--tls-verify=false', `docker://${open}/made/there:1`]);
  },
);

test('a push needs the login; a file that is another blob is not pushed', skip, async () => {
  const image = packed('private', [base]);
  const reference = parseReference(`${closed}/made/here:1`);
  const { options } = listener();
  await assert.rejects(pushImage(reference, image, options), /made\/here is private or not there \(401\)/);
  const home = scratchFolder('login');
  writeFileSync(
    join(home, 'config.json'),
    JSON.stringify({ auths: { [closed]: { auth: Buffer.from(`${user}:${password}`).toString('base64') } } }),
  );
  await pushImage(reference, image, { ...options, env: { DOCKER_CONFIG: home } });
  execFileSync('skopeo', [
    'inspect',
    '--tls-verify=false',
    '--creds',
    `${user}:${password}`,
    `docker://${reference.registry}/made/here:1`,
  ]);

  const wrong = packed('wrong', [upper]);
  const [[digest = '', file = ''] = []] = [...wrong.blobs];
  const bytes = readFileSync(file);
  for (const changed of [bytes.fill(0, 20, 30), Buffer.concat([bytes, bytes]), bytes.subarray(1)]) {
    writeFileSync(file, changed);
    await assert.rejects(
      pushImage(parseReference(`${open}/made/wrong:1`), wrong, options),
      new RegExp(`^Error: ${digest} has `),
    );
  }
  await assert.rejects(
    pushImage(parseReference(`${open}/made/wrong@sha256:${'0'.repeat(64)}`), wrong, options),
    /push it by a tag/,
  );
});

test('a push that breaks off is begun again, and says where a registry lies', async (t) => {
  const image = packed('broken', [base]);
  let breaks = 2;
  let digest = image.manifestDigest;
  const stored = new Map<string, Buffer>();
  const fake = await fakeRegistry(t, [base], async (request, response, path) => {
    if (request.method === 'HEAD') return response.writeHead(404).end();
    if (request.method === 'POST')
      return response.writeHead(202, { Location: '/v2/upload?state=a%20b' }).end();
    if (request.method !== 'PUT') return response.end();
    if (breaks > 0 && path.includes('upload')) {
      breaks -= 1;
      return request.socket.destroy();
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    stored.set(path, Buffer.concat(chunks));
    return response
      .writeHead(201, path.includes('manifests') ? { 'Docker-Content-Digest': digest } : {})
      .end();
  });
  const { options } = listener();
  await pushImage(parseReference(fake.image), image, options);
  assert.equal(breaks, 0);
  const [name = ''] = image.blobs.keys();
  const upload = `/v2/upload?state=a+b&digest=${encodeURIComponent(name)}`;
  assert(stored.get(upload)?.equals(base.blob), [...stored.keys()].join());
  assert(stored.get('/v2/team/app/manifests/1')?.equals(image.manifestBytes));
  digest = `sha256:${'0'.repeat(64)}`;
  await assert.rejects(
    pushImage(parseReference(fake.image), image, options),
    /has stored sha256:0+, not sha256:/,
  );
});
