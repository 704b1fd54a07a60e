// fetch-rootfs.ts and http(s): redirects, breaks, retries, proxies, against a server in this process.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import { type DownloadOptions, download, proxyFor, shown } from '../scripts/images/http.ts';
import { progressLine } from '../scripts/images/progress.ts';
import { archive } from './helpers/archives.ts';
import { bundle, run, Sandbox, sandbox } from './helpers/fetch.ts';
import { needs } from './helpers/needs.ts';
import { test } from './helpers/slow.ts';

const lone = new Sandbox();
const program = bundle(lone.top);

// what a proxy of this machine's own is set to must not be asked for 127.0.0.1
for (const name of Object.keys(process.env)) if (/_proxy$/i.test(name)) delete process.env[name];

// not to be compressed, so that it takes many chunks
const big = gzipSync(archive({ name: 'bin/sh', data: randomBytes(300_000) }));
const sum = createHash('sha256').update(big).digest('hex');

type Answer = (request: IncomingMessage, response: ServerResponse, attempt: number) => void;

/** A server whose answers `answer` gives; `requests` are the ones that came. */
async function serve(t: TestContext, answer: Answer): Promise<{ url: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answer(request, response, requests.length);
  });
  return { url: await listen(t, server), requests };
}

async function listen(t: TestContext, server: Server, scheme = 'http'): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}/rootfs.tar.gz`;
}

/** Sends the bytes that were asked for, but no more than `most`: then the connection breaks. */
function sendPart(
  request: IncomingMessage,
  response: ServerResponse,
  body: Buffer,
  etag: string | undefined,
  most = Infinity,
): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const partial = start > 0 && request.headers['if-range'] === etag;
  const rest = body.subarray(partial ? start : 0);
  response.writeHead(partial ? 206 : 200, {
    'Content-Length': rest.length,
    ...(etag && { ETag: etag }),
    ...(partial && { 'Content-Range': `bytes ${start}-${body.length - 1}/${body.length}` }),
  });
  if (rest.length <= most) response.end(rest);
  else response.write(rest.subarray(0, most), () => setTimeout(() => response.destroy(), 20));
}

/** The bytes that download() gives, with waits that suit a test. */
async function collect(url: string, options: DownloadOptions = {}): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of download(new URL(url), { backoffMilliseconds: 5, env: {}, ...options }))
    chunks.push(chunk);
  return Buffer.concat(chunks);
}

const root = { skip: needs('root', 'namespaces') };

test('a URL is fetched, checked and unpacked', root, async (t) => {
  const made = sandbox(t);
  const { url, requests } = await serve(t, (request, response) => sendPart(request, response, big, '"a"'));
  const { code, stdout, stderr } = await run(['--sha256', sum, url, made.dest], { program });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${made.dest}\n`);
  assert.equal(stderr, `1 entries, 293 KiB, sha256 ${sum}\n`, 'no progress bar where there is no terminal');
  assert.ok(existsSync(join(made.dest, 'bin/sh')));
  assert.equal(requests.length, 1);
  assert.equal(requests[0]?.headers['accept-encoding'], 'identity');
});

test('a break is mended in mid-extraction: tar goes on with the next byte', root, async (t) => {
  const made = sandbox(t);
  const { url, requests } = await serve(t, (request, response, attempt) =>
    sendPart(request, response, big, '"a"', attempt < 3 ? 100_000 : Infinity),
  );
  const { code, stderr } = await run(['--sha256', sum, url, made.dest], { program });
  assert.equal(code, 0, stderr);
  assert.deepEqual(
    requests.map(({ headers }) => [headers.range, headers['if-range']]),
    [
      [undefined, undefined],
      ['bytes=100000-', '"a"'],
      ['bytes=200000-', '"a"'],
    ],
  );
  assert.match(stderr, /resuming at byte 100000 \(attempt 2\)\n/);
});

test('a wrong sha256 leaves nothing', root, async (t) => {
  const made = sandbox(t);
  const { url } = await serve(t, (request, response) => sendPart(request, response, big, '"a"'));
  const { code, stderr } = await run(['--sha256', 'f'.repeat(64), url, made.dest], { program });
  assert.match(stderr, new RegExp(`^fetch-rootfs: cannot fetch ${url}: its sha256 is ${sum}, not f+\n$`));
  assert.equal(code, 1);
  assert.deepEqual(made.left(), []);
});

test('a body that ends too early where no length was told is found out by what it holds', root, async (t) => {
  const made = sandbox(t);
  const { url } = await serve(t, (_, response) => {
    response.useChunkedEncodingByDefault = false;
    response.removeHeader('Content-Length');
    response.writeHead(200, { Connection: 'close' });
    response.end(big.subarray(0, 200_000));
  });
  const { code, stderr } = await run([url, made.dest], { program });
  assert.match(stderr, /it is truncated: the gzip data has no end\n$/);
  assert.equal(code, 1);
  assert.deepEqual(made.left(), []);
});

test('an error of the server is one line', async (t) => {
  const made = sandbox(t);
  const { url, requests } = await serve(t, (_, response) => response.writeHead(404).end('no'));
  const { code, stderr } = await run([url, made.dest], { program });
  assert.match(stderr, /^fetch-rootfs: cannot fetch http:[^ ]+: 127\.0\.0\.1:\d+ answers 404 Not Found\n$/);
  assert.equal(code, 1);
  assert.equal(requests.length, 1, 'what is not there is not asked for again');
  assert.deepEqual(made.left(), []);
});

test('a password in a URL is not repeated', async () => {
  const { stderr } = await run(['http://me:secret@127.0.0.1:1/x.tar', './x'], { program, cwd: lone.work });
  assert.match(stderr, /^fetch-rootfs: cannot fetch http:\/\/me:\*\*\*@127\.0\.0\.1:1\/x\.tar: ECONNREFUSED/);
  assert.equal(shown(new URL('http://me:secret@h/x')), 'http://me:***@h/x');
});

test('--article asks for the tarball of the article', async (t) => {
  let asked = '';
  const server = createServer().on('connect', (request, socket) => {
    asked = request.url ?? '';
    socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
  });
  const proxy = new URL(await listen(t, server)).origin;
  const { code, stderr } = await run(['--article', './x'], {
    program,
    cwd: lone.work,
    env: { HTTPS_PROXY: proxy },
  });
  assert.equal(asked, 'github.com:443');
  assert.match(
    stderr,
    /cannot fetch https:\/\/github\.com\/ericchiang\/.*: the proxy .* answers 403 Forbidden\n$/,
  );
  assert.equal(code, 1);
});

test('the same bytes come over as many connections as it takes', async (t) => {
  const { url, requests } = await serve(t, (request, response, attempt) =>
    sendPart(request, response, big, '"a"', attempt < 5 ? 50_000 : Infinity),
  );
  assert.ok((await collect(url)).equals(big));
  assert.equal(requests.length, 5);
});

test('without a strong ETag the date is what the rest is asked for by', async (t) => {
  const date = 'Tue, 01 Jul 2025 00:00:00 GMT';
  const { url, requests } = await serve(t, (request, response, attempt) => {
    response.setHeader('Last-Modified', date);
    const start = Number(/\d+/.exec(request.headers.range ?? '')?.[0] ?? 0);
    if (attempt > 1)
      response
        .writeHead(206, { 'Content-Range': `bytes ${start}-${big.length - 1}/*`, ETag: 'W/"x"' })
        .end(big.subarray(start));
    else {
      response.writeHead(200, { 'Content-Length': big.length, ETag: 'W/"x"' });
      response.write(big.subarray(0, 9000), () => setTimeout(() => response.destroy(), 20));
    }
  });
  assert.ok((await collect(url)).equals(big));
  assert.deepEqual(
    requests.map(({ headers }) => headers['if-range']),
    [undefined, date],
  );
});

test('a server that cannot resume sends it all again, which is compared and passed over', async (t) => {
  const { url, requests } = await serve(t, (request, response, attempt) => {
    sendPart(
      { ...request, headers: {} } as IncomingMessage,
      response,
      big,
      undefined,
      attempt < 3 ? 60_000 : Infinity,
    );
  });
  assert.ok((await collect(url)).equals(big));
  assert.equal(requests.length, 3);
  assert.equal(requests[1]?.headers.range, undefined);
});

test('a file that changed meanwhile is not pieced together', async (t) => {
  const other = Buffer.from(big).fill(7, 0, 10);
  const { url } = await serve(t, (request, response, attempt) =>
    sendPart(
      request,
      response,
      attempt === 1 ? big : other,
      `"${attempt}"`,
      attempt === 1 ? 50_000 : Infinity,
    ),
  );
  await assert.rejects(collect(url), /it changed on the server while it was being read: start again/);
});

test('a file that became shorter meanwhile is not pieced together', async (t) => {
  const { url } = await serve(t, (request, response, attempt) =>
    sendPart(
      request,
      response,
      attempt === 1 ? big : big.subarray(0, 1000),
      `"${attempt}"`,
      attempt === 1 ? 50_000 : Infinity,
    ),
  );
  await assert.rejects(collect(url), /it changed on the server/);
});

test('another part than the one that was asked for is refused', async (t) => {
  const { url } = await serve(t, (request, response, attempt) => {
    if (attempt === 1) return sendPart(request, response, big, '"a"', 50_000);
    response
      .writeHead(206, { 'Content-Range': `bytes 0-${big.length - 1}/${big.length}`, ETag: '"a"' })
      .end(big);
  });
  await assert.rejects(collect(url), /another part than bytes 50000 and on/);
});

for (const status of [500, 503, 429, 408])
  test(`${status} is tried again`, async (t) => {
    const { url, requests } = await serve(t, (request, response, attempt) =>
      attempt < 3 ? void response.writeHead(status).end('busy') : sendPart(request, response, big, '"a"'),
    );
    assert.ok((await collect(url)).equals(big));
    assert.equal(requests.length, 3);
  });

test('retries come to an end', async (t) => {
  const said: string[] = [];
  const { url, requests } = await serve(t, (_, response) => void response.writeHead(503).end());
  await assert.rejects(
    collect(url, { onRetry: (text) => said.push(text) }),
    /answers 503 Service Unavailable/,
  );
  assert.equal(requests.length, 6);
  assert.equal(said.length, 5);
});

test('a connection that breaks at the same place again and again comes to an end', async (t) => {
  const { url, requests } = await serve(t, (request, response, attempt) =>
    sendPart(request, response, big, '"a"', attempt === 1 ? 1000 : 0),
  );
  await assert.rejects(collect(url), /ECONNRESET|aborted/);
  assert.equal(requests.length, 6);
});

test('a server that does not answer, or stops in mid-body, is given up', async (t) => {
  const silent = await serve(t, () => undefined);
  await assert.rejects(collect(silent.url, { timeoutMilliseconds: 50 }), /no answer for 0\.05 s/);
  assert.equal(silent.requests.length, 6);
  const stalling = await serve(t, (_, response) => {
    response.writeHead(200, { 'Content-Length': big.length, ETag: '"a"' }).write(big.subarray(0, 100));
  });
  await assert.rejects(
    collect(stalling.url, { timeoutMilliseconds: 50 }),
    /no answer for|no data for 0\.05 s|another part/,
  );
});

test('a reader that is slower than the timeout is not taken for a silent server', async (t) => {
  const { url, requests } = await serve(t, (request, response) => sendPart(request, response, big, '"a"'));
  let bytes = 0;
  for await (const chunk of download(new URL(url), { timeoutMilliseconds: 60, env: {} })) {
    if (bytes === 0) await new Promise((resolve) => setTimeout(resolve, 200));
    bytes += chunk.length;
  }
  assert.equal(bytes, big.length);
  assert.equal(requests.length, 1);
});

test('more bytes than were announced are refused', async (t) => {
  const { url } = await serve(t, (_, response) => {
    response.socket?.end(`HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabcdef`);
  });
  // node's parser takes no byte more than the header says, or calls it an error
  const body = await collect(url).catch((error: Error) => error);
  assert.ok(Buffer.isBuffer(body) ? body.toString() === 'abc' : /HPE_/.test(body.message), `${body}`);
});

test('bytes come as the server has them: a Content-Encoding is not undone', async (t) => {
  const { url } = await serve(t, (_, response) =>
    response.writeHead(200, { 'Content-Encoding': 'gzip' }).end(big),
  );
  assert.ok((await collect(url)).equals(big));
});

test('redirects are followed, relative ones too', async (t) => {
  for (const status of [301, 302, 303, 307, 308]) {
    const { url, requests } = await serve(t, (request, response) =>
      request.url === '/there'
        ? sendPart(request, response, big, '"a"')
        : void response.writeHead(status, { Location: '/there' }).end(),
    );
    assert.ok((await collect(url)).equals(big));
    assert.equal(requests.length, 2);
  }
});

test('redirects come to an end', async (t) => {
  const { url, requests } = await serve(
    t,
    (_, response) => void response.writeHead(302, { Location: '/again' }).end(),
  );
  await assert.rejects(collect(url), /more than 10 redirects/);
  assert.equal(requests.length, 11);
});

test('a redirect to a file is not followed', async (t) => {
  const { url } = await serve(
    t,
    (_, response) => void response.writeHead(302, { Location: 'file:///etc/passwd' }).end(),
  );
  await assert.rejects(collect(url), /it leads to file:\/\/\/etc\/passwd/);
});

test('nobody listening is no reason to wait', async () => {
  await assert.rejects(collect('http://127.0.0.1:1/x'), /ECONNREFUSED/);
});

test('an http proxy is asked for http URLs, with its password', async (t) => {
  const { url: proxy, requests } = await serve(t, (request, response) =>
    sendPart(request, response, big, '"a"'),
  );
  const { port } = new URL(proxy);
  const env = { http_proxy: `http://me:pa%20ss@127.0.0.1:${port}` };
  assert.ok((await collect('http://example.invalid:8080/a?b', { env })).equals(big));
  assert.equal(requests[0]?.url, 'http://example.invalid:8080/a?b');
  assert.equal(requests[0]?.headers.host, 'example.invalid:8080');
  assert.equal(
    requests[0]?.headers['proxy-authorization'],
    `Basic ${Buffer.from('me:pa ss').toString('base64')}`,
  );
});

test('which proxy is asked is what curl makes of the environment', () => {
  const host = (url: string, env: Record<string, string>) => proxyFor(new URL(url), env)?.host;
  assert.equal(host('http://a.b/', {}), undefined);
  assert.equal(host('http://a.b/', { http_proxy: 'http://p:1' }), 'p:1');
  assert.equal(host('http://a.b/', { https_proxy: 'http://p:1' }), undefined);
  assert.equal(host('https://a.b/', { HTTPS_PROXY: 'p:1' }), 'p:1');
  assert.equal(host('https://a.b/', { all_proxy: 'http://p:1' }), 'p:1');
  for (const list of ['a.b', '.b', 'x, a.b', '*', '*.b', 'a.b:443 y'])
    assert.equal(
      host('https://a.b:443/', { https_proxy: 'http://p:1', no_proxy: list }),
      list === 'a.b:443 y' ? 'p:1' : undefined,
      list,
    );
  assert.equal(host('https://a.b:8443/', { https_proxy: 'http://p:1', no_proxy: 'a.b:8443' }), undefined);
  assert.equal(host('https://xa.b/', { https_proxy: 'http://p:1', no_proxy: 'a.b' }), 'p:1');
  assert.throws(
    () => host('https://a.b/', { https_proxy: 'socks5://p:1' }),
    /cannot use the proxy socks5:\/\/p:1: only http/,
  );
});

// https with a certificate of our own: NODE_EXTRA_CA_CERTS is read when node starts, so the script is run
const tls = { skip: root.skip || needs('openssl') };
function certificate() {
  const [key, cert] = [join(lone.top, 'key.pem'), join(lone.top, 'cert.pem')];
  if (!existsSync(cert))
    execFileSync(
      'openssl',
      `req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout ${key} -out ${cert}`.split(
        ' ',
      ),
      { stdio: 'ignore' },
    );
  return { key: readFileSync(key), cert: readFileSync(cert), file: cert };
}

/** Serves `big` by https; `file` is the certificate to trust. */
async function serveBigTls(t: TestContext): Promise<{ url: string; file: string }> {
  const { file, ...pair } = certificate();
  const server = createHttpsServer(pair, (request, response) => sendPart(request, response, big, '"a"'));
  return { url: await listen(t, server, 'https'), file };
}

test('https is fetched where its certificate is trusted, and refused at once where not', tls, async (t) => {
  const made = sandbox(t);
  const { url, file } = await serveBigTls(t);
  const untrusted = await run([url, made.dest], { program, env: { NODE_EXTRA_CA_CERTS: '' } });
  assert.match(
    untrusted.stderr,
    /^fetch-rootfs: cannot fetch [^\n]*self-signed certificate[^\n]*: NODE_EXTRA_CA_CERTS=FILE [^\n]*\n$/,
  );
  assert.equal(untrusted.code, 1);
  assert.deepEqual(made.left(), []);
  const { code, stderr } = await run([url, made.dest], { program, env: { NODE_EXTRA_CA_CERTS: file } });
  assert.equal(code, 0, stderr);
});

test('a redirect from https to http is not followed', tls, async (t) => {
  const made = sandbox(t);
  const { file, ...pair } = certificate();
  const { url: plain, requests } = await serve(t, (request, response) =>
    sendPart(request, response, big, '"a"'),
  );
  const server = createHttpsServer(
    pair,
    (_, response) => void response.writeHead(302, { Location: plain }).end(),
  );
  const { code, stderr } = await run([await listen(t, server, 'https'), made.dest], {
    program,
    env: { NODE_EXTRA_CA_CERTS: file },
  });
  assert.match(stderr, /it leads from https to http:[^ ]+, which is not safe\n$/);
  assert.equal(code, 1);
  assert.equal(requests.length, 0);
});

test('https goes through a proxy in a tunnel, and ends with it', { ...tls, timeout: 60_000 }, async (t) => {
  const made = sandbox(t);
  const { url, file } = await serveBigTls(t);
  const asked: string[] = [];
  const server = createServer().on('connect', (request, socket) => {
    asked.push(`${request.url} ${request.headers['proxy-authorization']}`);
    const [, port] = (request.url ?? '').split(':');
    const onward = connect(Number(port), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      socket.pipe(onward).pipe(socket);
    });
    t.after(() => onward.destroy());
  });
  const proxy = new URL(await listen(t, server));
  proxy.username = 'me';
  proxy.password = 'x';
  const far = url.replace('127.0.0.1', 'localhost');
  const env = { NODE_EXTRA_CA_CERTS: file, https_proxy: proxy.href };
  const { code, stderr } = await run(['--sha256', sum, far, made.dest], { program, env });
  assert.equal(code, 0, stderr);
  assert.deepEqual(asked, [`localhost:${new URL(url).port} Basic ${Buffer.from('me:x').toString('base64')}`]);
});

test('the progress bar tells share, size, rate and time left', () => {
  assert.equal(
    progressLine('x.tar', 5 << 20, 20 << 20, 2, 200),
    'x.tar [#####               ] 5 MiB of 20 MiB, 2.5 MiB/s, 6 s left',
  );
  assert.equal(progressLine('x.tar', 5 << 20, undefined, 2, 200), 'x.tar 5 MiB, 2.5 MiB/s');
  assert.equal(progressLine('x.tar', 0, 100, 0, 200), 'x.tar [                    ] 0 B of 100 B, 0 B/s');
  assert.equal(progressLine('x.tar', 5 << 20, 20 << 20, 2, 12), 'x.tar [####');
});
