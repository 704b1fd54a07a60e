// Names of images, platforms, and where credentials come from.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { hostPlatform, parsePlatform, showPlatform } from '../scripts/images/choose.ts';
import { findCredentials } from '../scripts/images/credentials.ts';
import { parseReference, showReference, wantedOf } from '../scripts/images/reference.ts';
import { isLoopback, parseMirror, parseRegistry } from '../scripts/images/registry.ts';
import { scratchFolder } from './helpers/leftovers.ts';

const digest = `sha256:${'0123456789abcdef'.repeat(4)}`;

test('a reference is shown in full, as Docker does', () => {
  const rows: [typed: string, full: string][] = [
    ['alpine', 'docker.io/library/alpine:latest'],
    ['docker://alpine', 'docker.io/library/alpine:latest'],
    ['DOCKER://alpine:3.20', 'docker.io/library/alpine:3.20'],
    ['library/alpine', 'docker.io/library/alpine:latest'],
    ['team/app:V_1.0-x', 'docker.io/team/app:V_1.0-x'],
    ['docker.io/alpine', 'docker.io/library/alpine:latest'],
    ['index.docker.io/alpine', 'docker.io/library/alpine:latest'],
    ['registry-1.docker.io/team/app', 'docker.io/team/app:latest'],
    ['quay.io/a/b/c__d/e--f.g_h', 'quay.io/a/b/c__d/e--f.g_h:latest'],
    ['localhost/x', 'localhost/x:latest'],
    ['localhost:5000/x:1', 'localhost:5000/x:1'],
    ['localhost:5000', 'docker.io/library/localhost:5000'],
    ['registry:5000/x', 'registry:5000/x:latest'],
    ['registry/x', 'docker.io/registry/x:latest'],
    ['REGISTRY/x', 'REGISTRY/x:latest'],
    ['127.0.0.1:5000/team/app', '127.0.0.1:5000/team/app:latest'],
    ['[::1]:5000/x', '[::1]:5000/x:latest'],
    [`alpine@${digest}`, `docker.io/library/alpine@${digest}`],
    [`alpine:3@${digest}`, `docker.io/library/alpine:3@${digest}`],
  ];
  for (const [typed, full] of rows) assert.equal(showReference(parseReference(typed)), full, typed);
  assert.equal(wantedOf(parseReference(`alpine:3@${digest}`)), digest);
  assert.equal(wantedOf(parseReference('alpine')), 'latest');
});

test('what Docker refuses is refused', () => {
  const long = 'a'.repeat(252);
  for (const typed of [
    ...[
      '',
      'docker://',
      ':1',
      'a:',
      'a:.x',
      `a:${'x'.repeat(129)}`,
      'a b',
      'a\nb',
      'a\0b',
      'Alpine',
      'x/Alpine',
    ],
    ...[
      '-a',
      'a-',
      'a..b',
      'a___b',
      'a/',
      '/a',
      'a//b',
      '../a',
      'a/../b',
      'a/./b',
      './a',
      '.a',
      'a@',
      'a@sha256:12',
    ],
    ...[
      `a@md5:${'0'.repeat(32)}`,
      `a@${digest.toUpperCase()}`,
      `a@${digest}x`,
      `a@${digest}:1`,
      'a%2fb',
      'a?b',
      'a#b',
    ],
    ...[
      'user@host/x',
      'u:p@host/x',
      'https://x/y',
      'ho st/x',
      'host:x/y',
      'host:/y',
      'host:99999/y',
      'h_st.x/y',
    ],
    ...[
      '-x.y/z',
      '[::1/x',
      'é/x',
      'x.y/é',
      `x.y/${long}`,
      '0123456789abcdef'.repeat(4),
      'docker.io',
      'docker.io/',
    ],
  ])
    if (typed === 'docker.io') assert.equal(parseReference(typed).repository, 'library/docker.io');
    else
      assert.throws(
        () => parseReference(typed),
        /^UsageError|not the name of an image: /,
        JSON.stringify(typed),
      );
});

test('only this host is asked without encryption unasked', () => {
  for (const host of ['localhost', 'a.localhost', '127.0.0.1', '127.9.9.9', '[::1]'])
    assert(isLoopback(host), host);
  for (const host of [
    '127.0.0.1.example.org',
    '127.example.org',
    'localhost.example.org',
    'xlocalhost',
    '10.0.0.1',
    '[::2]',
  ])
    assert(!isLoopback(host), host);
});

test('a mirror is a URL of a registry, an insecure registry is a host', () => {
  assert.equal(parseMirror('https://mirror.example.org').href, 'https://mirror.example.org/');
  for (const text of ['mirror.example.org', 'ftp://x', 'https://x/y', 'https://u:p@x', 'https://x/?y', ''])
    assert.throws(() => parseMirror(text), /not the URL of a registry/, text);
  assert.equal(parseRegistry('reg.example.org:5000'), 'reg.example.org:5000');
  for (const text of ['https://x', 'x/y', 'u@x', 'x:y', 'x y', ''])
    assert.throws(() => parseRegistry(text), /not HOST/, text);
});

test('platforms have the names of Go, whatever they are called', () => {
  const rows = {
    'linux/amd64': 'linux/amd64',
    'linux/x86_64': 'linux/amd64',
    'linux/amd64/v1': 'linux/amd64',
    'linux/amd64/v3': 'linux/amd64/v3',
    aarch64: 'linux/arm64',
    'linux/arm64/v8': 'linux/arm64',
    'linux/arm': 'linux/arm/v7',
    armel: 'linux/arm/v6',
    'linux/arm/v5': 'linux/arm/v5',
    i386: 'linux/386',
    'linux/ppc64el': 'linux/ppc64le',
    'Linux/S390X': 'linux/s390x',
  };
  for (const [typed, name] of Object.entries(rows))
    assert.equal(showPlatform(parsePlatform(typed)), name, typed);
  for (const typed of ['', 'linux', 'linux/', 'linux/a/b/c', 'a b', 'linux/../x', 'windows/amd64/v1/x'])
    assert.throws(() => parsePlatform(typed), /not a platform of Linux/, typed);
  assert.match(showPlatform(hostPlatform()), /^linux\/[a-z0-9]+(\/v\d)?$/);
});

const folder = scratchFolder('credentials');
const encode = (text: string) => Buffer.from(text).toString('base64');

/** An environment whose configuration of Docker is this. */
function withConfig(config: unknown, more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const home = mkdtempSync(join(folder, 'home-'));
  mkdirSync(join(home, '.docker'));
  writeFileSync(
    join(home, '.docker/config.json'),
    typeof config === 'string' ? config : JSON.stringify(config),
  );
  return { HOME: home, ...more };
}

/** USER:PASSWORD or the token for a reference, undefined if there is none. */
async function found(env: NodeJS.ProcessEnv, reference: string): Promise<string | undefined> {
  const credentials = await findCredentials(parseReference(reference), env);
  if (!credentials) return undefined;
  return 'user' in credentials ? `${credentials.user}:${credentials.password}` : credentials.identityToken;
}

test('credentials are those of the registry, and of no other', async () => {
  const env = withConfig({
    auths: {
      'https://index.docker.io/v1/': { auth: encode('hub:a:b') },
      'reg.example.org:5000': { auth: encode('reg:c') },
      'https://old.example.org/v2/': { auth: encode('old:d') },
      'quay.io/team': { auth: encode('team:e') },
      'quay.io': { auth: encode('quay:f') },
      'token.example.org': { auth: encode('00000000-0000-0000-0000-000000000000:'), identitytoken: 'T' },
      'empty.example.org': {},
    },
  });
  assert.equal(await found(env, 'alpine'), 'hub:a:b');
  assert.equal(await found(env, 'reg.example.org:5000/x'), 'reg:c');
  assert.equal(await found(env, 'reg.example.org/x'), undefined);
  assert.equal(await found(env, 'old.example.org/x'), 'old:d');
  assert.equal(await found(env, 'quay.io/team/app'), 'team:e');
  assert.equal(await found(env, 'quay.io/teams/app'), 'quay:f');
  assert.equal(await found(env, 'token.example.org/x'), 'T');
  assert.equal(await found(env, 'empty.example.org/x'), undefined);
  assert.equal(await found(env, 'example.org/x'), undefined);
});

test("podman's file is read too, and $DOCKER_CONFIG is another folder", async () => {
  const runtime = mkdtempSync(join(folder, 'runtime-'));
  mkdirSync(join(runtime, 'containers'));
  writeFileSync(
    join(runtime, 'containers/auth.json'),
    JSON.stringify({ auths: { 'docker.io': { auth: encode('pod:man') }, 'a.b': { auth: encode('p:q') } } }),
  );
  const env = withConfig({ auths: { 'a.b': { auth: encode('doc:ker') } } }, { XDG_RUNTIME_DIR: runtime });
  assert.equal(await found(env, 'alpine'), 'pod:man');
  assert.equal(await found(env, 'a.b/x'), 'doc:ker');
  assert.equal(await found({ ...env, DOCKER_CONFIG: folder }, 'a.b/x'), 'p:q');
});

test('a file that is no configuration is an error that quotes nothing of it', async () => {
  for (const text of ['{"auths": {"a.b": {"auth": "c2VjcmV0', '[', 'null', '""'])
    await assert.rejects(found(withConfig(text), 'a.b/x'), (error: Error) => {
      assert.match(error.message, /^cannot read the credentials in .*config\.json: it is not a JSON object$/);
      return true;
    });
  await assert.rejects(
    found(withConfig({ auths: { 'a.b': { auth: encode('nocolon') } } }), 'a.b/x'),
    (error: Error) => {
      assert.match(error.message, /has no USER:PASSWORD for a\.b: \w+ login a\.b$/);
      assert.doesNotMatch(error.message, /nocolon/);
      return true;
    },
  );
});

test('credential helpers are asked, by the names that the protocol has', async () => {
  const bin = mkdtempSync(join(folder, 'bin-'));
  const asked = join(bin, 'asked');
  const helper = (name: string, text: string) => {
    writeFileSync(join(bin, `docker-credential-${name}`), `#!/bin/sh\n${text}\n`);
    chmodSync(join(bin, `docker-credential-${name}`), 0o755);
  };
  helper(
    'one',
    `read -r url; echo "$1 $url" >>${asked}; echo '{"ServerURL":"x","Username":"u1","Secret":"s1"}'`,
  );
  helper('token', `cat >/dev/null; echo '{"Username":"<token>","Secret":"idt"}'`);
  helper('none', `cat >/dev/null; echo 'credentials not found in native keychain'; exit 1`);
  helper('broken', `cat >/dev/null; echo 'gpg: no key' >&2; exit 3`);
  helper('odd', 'cat >/dev/null; echo nothing');
  const path = process.env.PATH;
  process.env.PATH = `${bin}:${path}`;
  try {
    const env = withConfig({
      auths: { 'a.b': { auth: encode('not:me') }, 'n.b': { auth: encode('fall:back') } },
      credsStore: 'one',
      credHelpers: {
        't.b': 'token',
        'n.b': 'none',
        'b.b': 'broken',
        'o.b': 'odd',
        'm.b': 'missing',
        'h.b': '../sh',
        'l.b': '-x',
      },
    });
    assert.equal(await found(env, 'alpine'), 'u1:s1');
    assert.equal(await found(env, 'a.b/x'), 'u1:s1');
    assert.equal(await found(env, 't.b/x'), 'idt');
    assert.equal(await found(env, 'n.b/x'), 'fall:back');
    await assert.rejects(found(env, 'b.b/x'), /docker-credential-broken, .* ends with 3: gpg: no key$/);
    await assert.rejects(found(env, 'o.b/x'), /gives no Username and Secret/);
    await assert.rejects(found(env, 'm.b/x'), /docker-credential-missing, which is not in PATH/);
    for (const host of ['h.b', 'l.b'])
      await assert.rejects(found(env, `${host}/x`), /which is not a valid name$/);
  } finally {
    process.env.PATH = path;
  }
  assert.equal(readFileSync(asked, 'utf8'), 'get https://index.docker.io/v1/\nget a.b\n');
});
