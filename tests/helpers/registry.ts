// Registries for tests: Debian's docker-registry, and one in this process that serves an image as a test wants it.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, type TestContext } from 'node:test';
import { type layer, layoutOf } from './images.ts';
import { scratchFolder } from './leftovers.ts';
import { until } from './script.ts';

export const user = 'anna';
export const password = 'geheim';
/** htpasswd(1) -B writes such a line */
const htpasswd = `${user}:$2b$05$abcdefghijklmnopqrstuuVWu8RjbNovPZWAMRdd7iqaaG0mI53Uu\n`;

// at the top: what a before() hook registers is called at the end of the hook
const scratch = scratchFolder('registry');
const servers: ChildProcess[] = [];
after(() => servers.map((server) => server.kill()));

/** Starts docker-registry on a free port of the loopback interface, with or without a login. Returns its HOST:PORT. */
export async function startRegistry(login = false): Promise<string> {
  const folder = mkdtempSync(join(scratch, 'x-'));
  writeFileSync(join(folder, 'htpasswd'), htpasswd);
  const auth = login ? `auth: {htpasswd: {realm: test, path: ${folder}/htpasswd}}\n` : '';
  writeFileSync(
    join(folder, 'config.yml'),
    `version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: ${folder}/data}}\n${auth}http: {addr: '127.0.0.1:0', secret: test}\n`,
  );
  // a pipe would fill while this process waits for skopeo
  const log = join(folder, 'log');
  const server = spawn('docker-registry', ['serve', join(folder, 'config.yml')], {
    stdio: ['ignore', 'ignore', openSync(log, 'w')],
  });
  servers.push(server);
  const host = () => /listening on (127\.0\.0\.1:\d+)/.exec(readFileSync(log, 'utf8'))?.[1];
  return until('docker-registry', host);
}

/** Copies an OCI layout, DIR:TAG, to a registry. */
export const push = (layout: string, reference: string, words: string[] = []) =>
  execFileSync('skopeo', [
    ...['--insecure-policy', 'copy', '--quiet', '--all', '--dest-tls-verify=false', ...words],
    ...[`oci:${layout}`, `docker://${reference}`],
  ]);

/** What a request is answered by; false: as a registry should. */
export type Answer = (request: IncomingMessage, response: ServerResponse, path: string) => unknown;

/** A registry with one image, `team/app:1`. */
export interface Fake {
  /** HOST:PORT/team/app:1 */
  image: string;
  host: string;
  /** METHOD PATH of each request, as it came */
  requests: string[];
  /** the digests of manifest, configuration and layers */
  digests: { manifest: string; config: string; layers: string[] };
  blobs: Map<string, Buffer>;
}

/** Sends bytes, or the part of them that a Range header asks for. */
export function send(request: IncomingMessage, response: ServerResponse, bytes: Buffer, status = 200): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const rest = bytes.subarray(start);
  const range = { 'Content-Range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(start > 0 ? 206 : status, { 'Content-Length': rest.length, ...(start > 0 && range) });
  response.end(request.method === 'HEAD' ? undefined : rest);
}

/** Starts it in this process; `answer` sees each request first. */
export async function fakeRegistry(
  t: TestContext,
  layers: ReturnType<typeof layer>[],
  answer: Answer = () => false,
): Promise<Fake> {
  const files = layoutOf(layers);
  const blobs = new Map(
    Object.entries(files).flatMap(([name, bytes]) => {
      const [, hex] = /^blobs\/sha256\/(.*)$/.exec(name) ?? [];
      return hex ? [[`sha256:${hex}`, bytes] as const] : [];
    }),
  );
  const [{ digest }] = JSON.parse(`${files['index.json']}`).manifests;
  const manifest = JSON.parse(`${blobs.get(digest)}`);
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    requests.push(`${request.method} ${path}`);
    if (answer(request, response, path) !== false || response.headersSent) return;
    const [, kind, reference = ''] = /^\/v2\/team\/app\/(manifests|blobs)\/(.*)$/.exec(path) ?? [];
    const bytes = blobs.get(reference === '1' ? digest : reference);
    if (path === '/v2/') return void response.end('{}');
    if (!bytes)
      return void response
        .writeHead(404)
        .end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}');
    if (kind === 'manifests')
      response.setHeader('Content-Type', 'application/vnd.oci.image.manifest.v1+json');
    send(request, response, bytes);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    host,
    image: `${host}/team/app:1`,
    requests,
    blobs,
    digests: {
      manifest: digest,
      config: manifest.config.digest,
      layers: manifest.layers.map((one: { digest: string }) => one.digest),
    },
  };
}
