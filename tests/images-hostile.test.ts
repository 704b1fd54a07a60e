// Registries that lie, break, or ask for a login, in this process: nothing is used before it is verified, and each failure
// is said in words.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync as chown,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import {
  cacheDirectory,
  fetchLayers,
  openCache,
  type ResolveOptions,
  resolveImage,
  trim,
} from '../scripts/images/cache.ts';
import { hostPlatform } from '../scripts/images/choose.ts';
import { parseReference } from '../scripts/images/reference.ts';
import { digestOf, layer } from './helpers/images.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { type Answer, type Fake, fakeRegistry, send } from './helpers/registry.ts';
import { test } from './helpers/slow.ts';

const folder = scratchFolder('hostile-registry');
const compress = (tar: Buffer) => gzipSync(tar);
const one = layer([{ name: 'a', data: 'one' }], compress);
const small = [one, layer([{ name: 'b', data: 'two' }], compress)];
// not to be compressed, so that it takes many chunks
const big = layer([{ name: 'big', data: randomBytes(400_000) }], compress);

/** What a fetch is given: a cache of its own, no credentials, short waits. */
function options(more: Partial<ResolveOptions> = {}): ResolveOptions & { directory: string; said: string[] } {
  const home = mkdtempSync(join(folder, 'home-'));
  const said: string[] = [];
  return {
    platform: hostPlatform(),
    directory: openCache({ XDG_CACHE_HOME: home }),
    env: { HOME: home, DOCKER_CONFIG: home },
    backoffMilliseconds: 5,
    timeoutMilliseconds: 2000,
    say: (text) => said.push(text),
    said,
    ...more,
  } as ReturnType<typeof options>;
}

/** Fetches an image, and returns the bytes of its layers. */
async function fetchAll(image: string, settings: ReturnType<typeof options>): Promise<Buffer[]> {
  const found = await resolveImage(parseReference(image), settings);
  const layers = fetchLayers(found, { directory: settings.directory, scratch: folder });
  return Promise.all(
    layers.map(async (open) => {
      const chunks: Buffer[] = [];
      for await (const chunk of open()) chunks.push(chunk);
      return Buffer.concat(chunks);
    }),
  );
}

/** The names of whole blobs, and of beginnings, in a cache. */
const blobsIn = ({ directory }: { directory: string }) => readdirSync(join(directory, 'blobs/sha256')).sort();
const nameOf = (digest: string) => digest.slice('sha256:'.length);

/** Writes a configuration of docker login for a host into the HOME of these options. */
const login = ({ env }: ReturnType<typeof options>, host: string, fields: object) =>
  writeFileSync(join(env?.HOME as string, 'config.json'), JSON.stringify({ auths: { [host]: fields } }));

const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`;
const isBlob = (path: string, { digests }: Fake, index = 0) =>
  path.endsWith(`/blobs/${digests.layers[index]}`);

test('an image is fetched, and the second time without the network', async (t) => {
  const fake = await fakeRegistry(t, small);
  const settings = options();
  const blobs = await fetchAll(fake.image, settings);
  assert.deepEqual(
    blobs,
    small.map(({ blob }) => blob),
  );
  assert.equal(new Set(fake.requests).size, fake.requests.length, `twice: ${fake.requests}`);
  const asked = fake.requests.length;
  assert.deepEqual(await fetchAll(fake.image, { ...settings, pull: 'missing' }), blobs);
  assert.deepEqual(await fetchAll(fake.image, { ...settings, pull: 'never' }), blobs);
  assert.equal(fake.requests.length, asked);
  // a digest names the same for ever
  const named = `${fake.image}@${fake.digests.manifest}`;
  await fetchAll(named, settings);
  const before = fake.requests.length;
  await fetchAll(named, settings);
  assert.equal(fake.requests.length, before);
  // a tag may have moved: the registry is asked, and no blob is read again
  fake.requests.length = 0;
  await fetchAll(fake.image, settings);
  assert.deepEqual(
    fake.requests.filter((line) => line.includes('/blobs/sha256:') && !line.includes(fake.digests.config)),
    [],
  );
  assert(fake.requests.some((line) => line.endsWith('/manifests/1')));
});

test('what is not in the cache is said where no registry may be asked', async () => {
  await assert.rejects(
    fetchAll('127.0.0.1:1/team/app:1', options({ pull: 'never' })),
    /the cache has no 127\.0\.0\.1:1\/team\/app:1 for linux\/\w+$/,
  );
});

test('without a cache nothing stays', async (t) => {
  const fake = await fakeRegistry(t, small);
  const settings = { ...options(), directory: undefined } as unknown as ReturnType<typeof options>;
  const before = readdirSync(folder);
  assert.deepEqual(
    await fetchAll(fake.image, settings),
    small.map(({ blob }) => blob),
  );
  assert.deepEqual(readdirSync(folder), before);
});

/** What a registry does that no registry should, and what is said of it. */
const lies: [what: string, answer: (fake: () => Fake) => Answer, message: RegExp][] = [
  [
    'a layer with a byte changed',
    (fake) => (request, response, path) => {
      if (!isBlob(path, fake())) return false;
      const bytes = Buffer.from(one.blob);
      bytes[40] = (bytes[40] as number) ^ 1;
      return send(request, response, bytes);
    },
    /^sha256:\w+ has the digest sha256:\w+: it was damaged or replaced/,
  ],
  [
    'a layer that is shorter than announced',
    (fake) => (request, response, path) =>
      isBlob(path, fake()) && send(request, response, one.blob.subarray(0, 50)),
    /the server has 50 bytes of it, not \d+$/,
  ],
  [
    'a layer that is longer than announced',
    (fake) => (request, response, path) =>
      isBlob(path, fake()) && send(request, response, Buffer.concat([one.blob, Buffer.alloc(9)])),
    /the server has \d+ bytes of it, not \d+$/,
  ],
  [
    'a layer without an end',
    (fake) => (_, response, path) => {
      if (!isBlob(path, fake())) return false;
      const more = () =>
        response.write(Buffer.alloc(1 << 16), () => response.destroyed || setImmediate(more));
      response.writeHead(200);
      return more();
    },
    /has more than its \d+ bytes/,
  ],
  [
    'another configuration',
    (fake) => (request, response, path) =>
      path.endsWith(fake().digests.config) &&
      send(request, response, Buffer.alloc(fake().blobs.get(fake().digests.config)?.length ?? 0, ' ')),
    /has the digest/,
  ],
  [
    'a manifest that is an HTML page',
    () => (_, response, path) =>
      path.includes('/manifests/') &&
      response.writeHead(200, { 'Content-Type': 'text/html' }).end('<html>log in</html>'),
    /its manifest is an HTML page, such as a login; it begins with "<html>log in<\/ht"$/,
  ],
  [
    'a manifest that is no JSON',
    () => (_, response, path) => path.includes('/manifests/') && response.end('\x1b[2Jhello'),
    /its manifest is not JSON; it begins with "\\u001b\[2Jhello"$/,
  ],
  [
    'a manifest that is null',
    () => (_, response, path) => path.includes('/manifests/') && response.end('null'),
    /its manifest is not a JSON object$/,
  ],
  [
    'a manifest without an end',
    () => (_, response, path) => {
      if (!path.includes('/manifests/')) return false;
      const more = () =>
        response.write('{"a":"'.padEnd(1 << 16, 'x'), () => response.destroyed || setImmediate(more));
      return more();
    },
    /its manifest is larger than 4194304 bytes$/,
  ],
  [
    'a manifest of schema 1',
    () => (_, response, path) =>
      path.includes('/manifests/') &&
      response
        .writeHead(200, { 'Content-Type': 'application/vnd.docker.distribution.manifest.v1+prettyjws' })
        .end('{"schemaVersion":1,"fsLayers":[]}'),
    /its manifest has schema 1, which Docker has given up/,
  ],
  [
    'a manifest with another digest than its header says',
    () => (_, response, path) => {
      if (path.includes('/manifests/'))
        response.setHeader('Docker-Content-Digest', `sha256:${'0'.repeat(64)}`);
      return false;
    },
    /its manifest has the digest sha256:\w+, not sha256:0+, as 127\.0\.0\.1:\d+ says$/,
  ],
  [
    'a server that is no registry',
    () => (_, response) =>
      response.writeHead(404, { 'Content-Type': 'text/html' }).end('<html>nothing here</html>'),
    /^127\.0\.0\.1:\d+ answers 404 Not Found: it has no 127\.0\.0\.1:\d+\/team\/app:1, or is not a registry$/,
  ],
  [
    'no such tag',
    () => (_, response, path) =>
      path.includes('/manifests/') &&
      response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'),
    /^127\.0\.0\.1:\d+ has no 127\.0\.0\.1:\d+\/team\/app:1: manifest unknown$/,
  ],
  [
    'no such layer',
    (fake) => (_, response, path) =>
      isBlob(path, fake()) &&
      response.writeHead(404).end('{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}'),
    /has no sha256:\w{64}: blob unknown$/,
  ],
  [
    'a private repository',
    () => (_, response) => response.writeHead(401, { 'WWW-Authenticate': 'Basic realm="x"' }).end(),
    /^127\.0\.0\.1:\d+\/team\/app is private or not there \(401\), and .*config\.json has no login for it: \w+ login 127\.0\.0\.1:\d+$/,
  ],
  [
    'a forbidden repository',
    () => (_, response) => response.writeHead(403).end('{"errors":[{"code":"DENIED","message":"denied"}]}'),
    /is private or not there \(403\)/,
  ],
  [
    'a login of an unknown kind',
    () => (_, response) => response.writeHead(401, { 'WWW-Authenticate': 'Digest realm="x"' }).end(),
    /asks for a login of an unknown kind: Digest realm="x"$/,
  ],
  [
    'a quota that is used up',
    () => (_, response) =>
      response
        .writeHead(429)
        .end(
          '{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase it."}]}',
        ),
    /^the limit of requests to 127\.0\.0\.1:\d+ is reached: You have reached your pull rate limit\. You may increase it: wait, or log in: \w+ login/,
  ],
  [
    'a pause of an hour',
    () => (_, response) => response.writeHead(429, { 'Retry-After': '3600' }).end(),
    /^the limit of requests to 127\.0\.0\.1:\d+ is reached: it asks to wait 3600 s$/,
  ],
  [
    'a token that is a line of a header',
    () => (_, response, path) => {
      if (path.startsWith('/token')) return response.end('{"token":"a\\r\\nX-Evil: 1"}');
      const realm = `http://${_.headers.host}/token`;
      return response.writeHead(401, { 'WWW-Authenticate': `Bearer realm="${realm}"` }).end();
    },
    /which is to give a token for 127\.0\.0\.1:\d+, gives none$/,
  ],
  [
    'a redirect to a host without encryption',
    (fake) => (_, response, path) =>
      isBlob(path, fake()) && response.writeHead(307, { Location: 'http://blobs.example.org/x' }).end(),
    /it leads to http:\/\/blobs\.example\.org\/x, without encryption: if you trust the network, --insecure-registry blobs\.example\.org$/,
  ],
  [
    'a redirect to a file',
    (fake) => (_, response, path) =>
      isBlob(path, fake()) && response.writeHead(307, { Location: 'file:///etc/shadow' }).end(),
    /it leads to file:\/\/\/etc\/shadow$/,
  ],
];

for (const [what, answer, message] of lies)
  test(`${what} is said, and nothing of it stays in the cache`, async (t) => {
    const fake: Fake = await fakeRegistry(t, small, (...request) => answer(() => fake)(...request));
    const settings = options();
    await assert.rejects(fetchAll(fake.image, settings), (error: Error) => {
      assert.match(error.message, message);
      return true;
    });
    for (const name of blobsIn(settings)) {
      if (!/^\w{64}$/.test(name)) continue;
      assert.equal(digestOf(readFileSync(join(settings.directory, 'blobs/sha256', name))), `sha256:${name}`);
    }
    // what an honest registry has then is taken
    const honest = await fakeRegistry(t, small);
    assert.deepEqual(
      await fetchAll(honest.image, settings),
      small.map(({ blob }) => blob),
    );
  });

/** Manifests that must not be used, and what is said of them. */
const manifests: [what: string, change: (manifest: Record<string, unknown>) => unknown, message: RegExp][] = [
  [
    'both an index and a manifest',
    (one) => ({ ...one, manifests: [] }),
    /neither an index nor an image, or both/,
  ],
  [
    'of another type than it says',
    (one) => ({ ...one, mediaType: 'application/vnd.oci.image.index.v1+json' }),
    /or both/,
  ],
  ['without layers', ({ config }) => ({ schemaVersion: 2, config }), /no list of up to/],
  [
    'with a digest that is a path',
    (one) => ({ ...one, layers: [{ ...(one.layers as object[])[0], digest: 'sha256:../../x' }] }),
    /not a sha256 digest: "sha256:\.\.\/\.\.\/x"/,
  ],
  [
    'with a size below zero',
    (one) => ({ ...one, layers: [{ ...(one.layers as object[])[0], size: -1 }] }),
    /layer 1 has no size/,
  ],
  [
    'with a layer larger than any disk',
    (one) => ({ ...one, layers: (one.layers as object[]).map((layer) => ({ ...layer, size: 2 ** 52 })) }),
    /its layers have .*TiB, and only .* are free in /,
  ],
  [
    'with a huge configuration',
    (one) => ({ ...one, config: { ...(one.config as object), size: 1 << 30 } }),
    /is larger than 4194304 bytes/,
  ],
  [
    'of a chart',
    (one) => ({
      ...one,
      layers: [
        { ...(one.layers as object[])[0], mediaType: 'application/vnd.cncf.helm.chart.content.v1.tar+gzip' },
      ],
    }),
    /it is not an image of a root file system: a layer is of the type application\/vnd\.cncf\.helm/,
  ],
  [
    'of Windows',
    (one) => ({
      ...one,
      layers: [
        {
          ...(one.layers as object[])[0],
          mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
        },
      ],
    }),
    /stored outside of the registry, as for Windows/,
  ],
  [
    'with a layer less than its configuration',
    (one) => ({ ...one, layers: (one.layers as object[]).slice(1) }),
    /it has 1 layers, but 2 in its configuration/,
  ],
];

for (const [what, change, message] of manifests)
  test(`a manifest ${what} is refused`, async (t) => {
    const fake: Fake = await fakeRegistry(t, small, (_, response, path) => {
      if (!path.endsWith('/manifests/1')) return false;
      const manifest = JSON.parse(`${fake.blobs.get(fake.digests.manifest)}`);
      return response
        .writeHead(200, { 'Content-Type': 'application/vnd.oci.image.manifest.v1+json' })
        .end(JSON.stringify(change(manifest)));
    });
    await assert.rejects(fetchAll(fake.image, options()), message);
  });

test('an index gives the image of the platform, and names the others where there is none', async (t) => {
  const types = {
    index: 'application/vnd.oci.image.index.v1+json',
    manifest: 'application/vnd.oci.image.manifest.v1+json',
  };
  let change = (entry: Record<string, unknown>) => entry;
  const fake: Fake = await fakeRegistry(t, small, (_, response, path) => {
    if (!path.endsWith('/manifests/1')) return false;
    const right = {
      mediaType: types.manifest,
      digest: fake.digests.manifest,
      size: fake.blobs.get(fake.digests.manifest)?.length,
    };
    const wrong = { ...right, digest: `sha256:${'0'.repeat(64)}` };
    const { os, architecture } = hostPlatform();
    const manifests = [
      { ...wrong, platform: { os: 'unknown', architecture: 'unknown' } },
      { ...wrong, platform: { os: 'windows', architecture } },
      { ...wrong, platform: { os, architecture: 's390x' } },
      { ...wrong, platform: { os, architecture: 'arm', variant: 'v5' } },
      { ...wrong, platform: { os, architecture: 'arm', variant: 'v6' } },
      change({ ...right, platform: { os, architecture } }),
    ];
    return response
      .writeHead(200, { 'Content-Type': types.index })
      .end(JSON.stringify({ schemaVersion: 2, manifests }));
  });
  const blobs = small.map(({ blob }) => blob);
  assert.deepEqual(await fetchAll(fake.image, options()), blobs);
  const of = (architecture: string, variant?: string) =>
    options({ platform: { os: 'linux', architecture, ...(variant && { variant }) } });
  await assert.rejects(
    fetchAll(fake.image, of('riscv64')),
    /no image for linux\/riscv64, but for linux\/s390x, linux\/arm\/v5, linux\/arm\/v6, linux\/\w+: choose one with --platform$/,
  );
  // v7 runs what is for v6, rather than what is for v5
  fake.requests.length = 0;
  await assert.rejects(fetchAll(fake.image, of('arm', 'v7')), /has no .*manifest unknown|not there|has no/);
  change = (entry) => ({ ...entry, size: 5 });
  await assert.rejects(
    fetchAll(fake.image, options()),
    /its manifest has \d+ bytes and the digest sha256:\w+, not 5 and/,
  );
  change = (entry) => ({
    ...entry,
    digest: fake.digests.config,
    size: fake.blobs.get(fake.digests.config)?.length,
  });
  await assert.rejects(fetchAll(fake.image, options()), /its manifest has no list of up to/);
});

test('an image for another processor is refused by name', async (t) => {
  const fake = await fakeRegistry(t, small);
  const { architecture } = hostPlatform();
  await assert.rejects(
    fetchAll(fake.image, options({ platform: { os: 'linux', architecture: 's390x' } })),
    new RegExp(`no image for linux/s390x, but for linux/${architecture}: choose one with --platform$`),
  );
});

test('a connection that breaks is mended where it broke', async (t) => {
  let breaks = 2;
  const fake: Fake = await fakeRegistry(t, [big], (request, response, path) => {
    if (!isBlob(path, fake) || breaks-- <= 0) return false;
    const start = Number(/\d+/.exec(request.headers.range ?? '0')?.[0]);
    const headers = { 'Content-Range': `bytes ${start}-${big.blob.length - 1}/${big.blob.length}` };
    response.writeHead(start > 0 ? 206 : 200, {
      'Content-Length': big.blob.length - start,
      ...(start > 0 && headers),
    });
    return response.write(big.blob.subarray(start, start + 100_000), () =>
      setTimeout(() => response.destroy(), 20),
    );
  });
  const settings = options();
  assert.deepEqual(await fetchAll(fake.image, settings), [big.blob]);
  assert.equal(fake.requests.filter((line) => line.includes(fake.digests.layers[0] as string)).length, 3);
  assert.equal(settings.said.length, 2, `${settings.said}`);
  assert.match(settings.said[1] ?? '', /resuming at byte 200000 \(attempt 3\)$/);
});

test('what an earlier call has read is not read again, and thrown away if it is wrong', async (t) => {
  const ranges: (string | undefined)[] = [];
  const fake: Fake = await fakeRegistry(t, [big], (request, _, path) => {
    if (isBlob(path, fake)) ranges.push(request.headers.range);
    return false;
  });
  const [digest = ''] = fake.digests.layers;
  const settings = options();
  const partial = join(settings.directory, 'blobs/sha256', `${nameOf(digest)}.partial`);
  writeFileSync(partial, big.blob.subarray(0, 123_456));
  assert.deepEqual(await fetchAll(fake.image, settings), [big.blob]);
  assert.deepEqual(ranges, ['bytes=123456-']);
  assert(!existsSync(partial));

  const again = options();
  writeFileSync(join(again.directory, 'blobs/sha256', `${nameOf(digest)}.partial`), Buffer.alloc(1000));
  assert.deepEqual(await fetchAll(fake.image, again), [big.blob]);
  assert.deepEqual(ranges.slice(1), ['bytes=1000-', undefined]);

  // only the rename was missing; and one that is longer than the layer
  for (const bytes of [big.blob, Buffer.alloc(big.blob.length + 1)]) {
    const last = options();
    writeFileSync(join(last.directory, 'blobs/sha256', `${nameOf(digest)}.partial`), bytes);
    assert.deepEqual(await fetchAll(fake.image, last), [big.blob]);
  }
  assert.deepEqual(ranges.slice(3), [undefined]);
});

test('a registry without Range sends it again, and what is known is passed over', async (t) => {
  const fake: Fake = await fakeRegistry(t, [big], (_, response, path) => {
    if (!isBlob(path, fake)) return false;
    return response.writeHead(200, { 'Content-Length': big.blob.length }).end(big.blob);
  });
  const settings = options();
  writeFileSync(
    join(settings.directory, 'blobs/sha256', `${nameOf(fake.digests.layers[0] as string)}.partial`),
    big.blob.subarray(0, 5000),
  );
  assert.deepEqual(await fetchAll(fake.image, settings), [big.blob]);
});

test('a blob of the cache that is damaged is read again', async (t) => {
  const fake = await fakeRegistry(t, small);
  const settings = options();
  await fetchAll(fake.image, settings);
  const [digest = '', other = ''] = fake.digests.layers;
  const path = join(settings.directory, 'blobs/sha256', nameOf(digest));
  writeFileSync(path, Buffer.alloc(statSync(path).size));
  writeFileSync(join(settings.directory, 'blobs/sha256', nameOf(other)), 'short');
  assert.deepEqual(
    await fetchAll(fake.image, settings),
    small.map(({ blob }) => blob),
  );
  assert.equal(digestOf(readFileSync(path)), digest);
});

test('two at once read each layer once', async (t) => {
  const fake: Fake = await fakeRegistry(t, [big, ...small], (request, response, path) => {
    const bytes = path.includes('/blobs/')
      ? fake.blobs.get(path.slice(path.lastIndexOf('/') + 1))
      : undefined;
    if (!bytes) return false;
    return setTimeout(() => send(request, response, bytes), 100);
  });
  const settings = options();
  const both = await Promise.all([fetchAll(fake.image, settings), fetchAll(fake.image, settings)]);
  for (const blobs of both)
    assert.deepEqual(
      blobs,
      [big, ...small].map(({ blob }) => blob),
    );
  for (const digest of fake.digests.layers)
    assert.equal(fake.requests.filter((line) => line.endsWith(digest)).length, 1, digest);
  assert.deepEqual(
    blobsIn(settings).filter((name) => name.includes('partial')),
    [],
  );
});

test('a layer that an image has twice is read once', async (t) => {
  const fake = await fakeRegistry(t, [one, big, one]);
  assert.deepEqual(await fetchAll(fake.image, options()), [one.blob, big.blob, one.blob]);
  assert.equal(fake.requests.filter((line) => line.endsWith(fake.digests.layers[0] as string)).length, 1);
});

test('credentials and tokens go to the registry, and not to where it leads', async (t) => {
  const seen: IncomingMessage['headers'][] = [];
  const elsewhere = createServer((request, response) => {
    seen.push(request.headers);
    send(request, response, one.blob);
  });
  await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve));
  t.after(() => elsewhere.close());
  const { port } = elsewhere.address() as { port: number };
  const authorizations: (string | undefined)[] = [];
  const fake: Fake = await fakeRegistry(t, small, (request, response, path) => {
    authorizations.push(request.headers.authorization);
    if (request.headers.authorization !== basic('anna:geheim'))
      return response.writeHead(401, { 'WWW-Authenticate': 'Basic realm="x"' }).end();
    return isBlob(path, fake) && response.writeHead(307, { Location: `http://127.0.0.1:${port}/blob` }).end();
  });
  const settings = options();
  login(settings, fake.host, { auth: Buffer.from('anna:geheim').toString('base64') });
  assert.deepEqual(
    await fetchAll(fake.image, settings),
    small.map(({ blob }) => blob),
  );
  assert.equal(seen.length, 1);
  assert.equal(seen[0]?.authorization, undefined);
  assert.equal(
    authorizations.filter((one) => one === undefined).length,
    1,
    'only the first request has none',
  );

  const wrong = options();
  login(wrong, fake.host, { auth: Buffer.from('anna:falsch').toString('base64') });
  await assert.rejects(
    fetchAll(fake.image, wrong),
    /refuses 127\.0\.0\.1:\d+\/team\/app to the login in .*config\.json: \w+ login 127\.0\.0\.1:\d+$/,
  );
});

/** A registry that wants a token, and the requests for tokens. */
async function withToken(t: Parameters<typeof fakeRegistry>[0], lifetime = Infinity) {
  const asked: { url: string; method: string; authorization: string | undefined; body: string }[] = [];
  const uses = new Map<string, number>();
  const tokens = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const { url = '', method = '' } = request;
    asked.push({ url, method, authorization: request.headers.authorization, body });
    response.end(
      JSON.stringify(
        method === 'POST' ? { access_token: `t${asked.length}` } : { token: `t${asked.length}` },
      ),
    );
  });
  await new Promise<void>((resolve) => tokens.listen(0, '127.0.0.1', resolve));
  t.after(() => tokens.close());
  const { port } = tokens.address() as { port: number };
  const challenge = `Bearer realm="http://127.0.0.1:${port}/token",service="test registry",scope="repository:team/app:pull"`;
  const fake: Fake = await fakeRegistry(t, small, (request, response, path) => {
    if (path === '/v2/') return false;
    const [, token = ''] = /^Bearer (t\d+)$/.exec(request.headers.authorization ?? '') ?? [];
    uses.set(token, (uses.get(token) ?? 0) + 1);
    if (token && (uses.get(token) as number) <= lifetime) return false;
    return response.writeHead(401, { 'WWW-Authenticate': challenge }).end();
  });
  return { fake, asked };
}

test('a token is got where the registry says, without a login for a public image', async (t) => {
  const { fake, asked } = await withToken(t);
  await fetchAll(fake.image, options());
  assert.deepEqual(asked, [
    {
      url: '/token?service=test+registry&scope=repository%3Ateam%2Fapp%3Apull',
      method: 'GET',
      authorization: undefined,
      body: '',
    },
  ]);
});

test('a token that expires is replaced', async (t) => {
  const { fake, asked } = await withToken(t, 2);
  assert.deepEqual(
    await fetchAll(fake.image, options()),
    small.map(({ blob }) => blob),
  );
  assert(asked.length > 1);
});

test('a token is got with the login, or with the token of docker login', async (t) => {
  const { fake, asked } = await withToken(t);
  const settings = options();
  login(settings, fake.host, { auth: Buffer.from('anna:geheim').toString('base64') });
  await fetchAll(fake.image, settings);
  assert.equal(asked[0]?.authorization, basic('anna:geheim'));

  const other = options();
  login(other, fake.host, { identitytoken: 'a/b+c' });
  await fetchAll(fake.image, other);
  assert.equal(asked[1]?.method, 'POST');
  assert.equal(asked[1]?.authorization, undefined);
  assert.deepEqual(Object.fromEntries(new URLSearchParams(asked[1]?.body)), {
    service: 'test registry',
    scope: 'repository:team/app:pull',
    grant_type: 'refresh_token',
    client_id: 'barehand',
    refresh_token: 'a/b+c',
  });
});

test('a server that asks for a pause gets it', async (t) => {
  let limits = 2;
  const fake: Fake = await fakeRegistry(t, small, (_, response, path) =>
    path.includes('/manifests/') && limits-- > 0
      ? response.writeHead(429, { 'Retry-After': '1' }).end()
      : false,
  );
  const settings = options();
  const start = performance.now();
  await fetchAll(fake.image, settings);
  assert(performance.now() - start >= 2000);
  assert.equal(settings.said.length, 2);
  assert.match(
    settings.said[0] ?? '',
    /is reached: it asks to wait 1 s: resuming at byte 0, in 1 s \(attempt 2\)$/,
  );
});

test('a mirror is asked for images of Docker Hub first, and left when it fails', async (t) => {
  const mirror = await fakeRegistry(t, small);
  const mirrors = [new URL(`http://${mirror.host}`)];
  const hub = (more: object = {}) => options({ mirrors, ...more });
  const settings = hub();
  assert.deepEqual(
    await fetchAll('team/app:1', settings),
    small.map(({ blob }) => blob),
  );
  assert.deepEqual(
    await fetchAll('team/app:1', { ...settings, pull: 'never' }),
    small.map(({ blob }) => blob),
  );
  // another registry is not Docker Hub
  const other = await fakeRegistry(t, small);
  mirror.requests.length = 0;
  await fetchAll(other.image, hub());
  assert.deepEqual(mirror.requests, []);
  // a mirror that breaks off gives way to the next one, which goes on with the same layer
  const broken: Fake = await fakeRegistry(t, [big], (_, response, path) => {
    if (!isBlob(path, broken)) return false;
    response.writeHead(200, { 'Content-Length': big.blob.length });
    return response.write(big.blob.subarray(0, 1000), () => setTimeout(() => response.destroy(), 10));
  });
  const whole = await fakeRegistry(t, [big]);
  const last = options({ mirrors: [broken, whole].map(({ host }) => new URL(`http://${host}`)) });
  assert.deepEqual(await fetchAll('team/app:1', last), [big.blob]);
  assert(
    last.said.some((line) => /^the mirror 127\.0\.0\.1:\d+ fails: .*: continuing without it$/.test(line)),
    `${last.said}`,
  );
});

test('a registry that is not on this host is asked with encryption only, unless it is named', async (t) => {
  const fake = await fakeRegistry(t, small);
  // a name for this host that is not known as one
  const { port } = new URL(`http://${fake.host}`);
  const far = `0:${port}/team/app:1`;
  await assert.rejects(
    fetchAll(far, options()),
    /: 0:\d+ does not speak TLS: if .*, --insecure-registry 0:\d+$/,
  );
  assert.deepEqual(fake.requests, []);
  await fetchAll(far, options({ insecure: [`0:${port}`] }));
  assert(fake.requests.length > 0);
});

test('the cache is as large as it may be: what was used least recently goes first', () => {
  const { directory } = options();
  const path = (name: string) => join(directory, 'blobs/sha256', name);
  const hours = (count: number) => Date.now() / 1000 - count * 3600;
  const names = ['a', 'b', 'c', 'd'].map((letter) => letter.repeat(64));
  for (const [index, name] of names.entries()) {
    writeFileSync(path(name), Buffer.alloc(1000));
    utimesSync(path(name), hours(0), hours([50, 3, 40, 0][index] as number));
  }
  for (const [name, age] of [
    ['e', 2],
    ['f', 30],
  ] as const) {
    writeFileSync(path(`${name.repeat(64)}.partial`), Buffer.alloc(10));
    utimesSync(path(`${name.repeat(64)}.partial`), hours(0), hours(age));
  }
  trim(directory, 2500);
  assert.deepEqual(blobsIn({ directory }), [names[1], names[3], `${'e'.repeat(64)}.partial`].sort());
  trim(directory, 1);
  assert.deepEqual(
    blobsIn({ directory }),
    [names[3], `${'e'.repeat(64)}.partial`].sort(),
    'what was used in the last hour stays',
  );
});

test('a cache that another user could change is refused', { skip: needs('root') }, () => {
  const top = mkdtempSync(join(folder, 'unsafe-'));
  const refused = (change: (path: string) => void) => {
    const home = mkdtempSync(join(top, 'x-'));
    mkdirSync(join(home, 'cache/barehand'), { recursive: true });
    change(home);
    assert.throws(
      () => openCache({ XDG_CACHE_HOME: join(home, 'cache') }),
      /another user can change \/.*: chmod go-w .*use --no-cache, or set XDG_CACHE_HOME$/,
    );
  };
  refused((home) => chmodSync(join(home, 'cache'), 0o777));
  refused((home) => chmodSync(home, 0o775));
  refused((home) => chown(join(home, 'cache'), 12345, 12345));
  refused((home) => chown(join(home, 'cache/barehand'), 12345, 12345));
  // the home of another user, which sudo has left in the environment, is not root's
  const home = mkdtempSync(join(top, 'user-'));
  chown(home, 12345, 12345);
  assert.doesNotMatch(cacheDirectory({ HOME: home }), new RegExp(home));
});
