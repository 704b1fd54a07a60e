// Downloads over HTTP(S): retried and resumed after errors; the bytes are those that the server has.
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  type ClientRequest,
  request as httpRequest,
  type IncomingMessage,
  type RequestOptions,
} from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as tlsConnect } from 'node:tls';
import { Failure, reason } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';

const maxRedirects = 10;
const maxFailures = 5;
/** an attempt that received this many bytes resets the count of failures */
const worthwhileBytes = 1 << 20;

/** Options of a download, mainly for tests. */
export interface DownloadOptions {
  /** a connection without a byte for this long counts as broken */
  timeoutMilliseconds?: number;
  /** before the first retry; doubled for each one more */
  backoffMilliseconds?: number;
  /** gets the length when the server has sent it */
  total?: { length?: number | undefined };
  /** called with a message before each retry */
  onRetry?: (message: string) => void;
  env?: NodeJS.ProcessEnv;
}

type Options = { timeout: number; env: NodeJS.ProcessEnv };
type Headers = Record<string, string>;

/** An error that a retry cannot fix. */
class Final extends Failure {}

const changed = () => new Final(`it changed on the server while it was being read: start again`);

/** Yields the bytes at `url`, in order and each once, over as many connections as it takes. */
export async function* download(url: URL, options: DownloadOptions = {}): AsyncGenerator<Buffer> {
  const { timeoutMilliseconds: timeout = 30_000, backoffMilliseconds = 500 } = options;
  const { total = {}, env = process.env } = options;
  const hash = createHash('sha256');
  let received = 0;
  let validator: string | undefined;
  let failures = 0;
  for (;;) {
    const receivedBefore = received;
    try {
      // If-Range: the rest is sent only of the file that was begun, RFC 9110 section 13.1.5
      const range: Headers =
        received > 0 && validator ? { Range: `bytes=${received}-`, 'If-Range': validator } : {};
      const response = await get(url, range, { timeout, env });
      const length = wholeLength(response, received);
      total.length ??= length;
      if (length !== undefined && length !== total.length) throw changed();
      validator ??= strongValidator(response);

      // a server that can't resume sends the whole file again: the known bytes are compared and skipped
      let known = response.statusCode === 200 ? received : 0;
      const again = createHash('sha256');
      for await (const chunk of body(response, timeout)) {
        const old = chunk.subarray(0, known);
        const fresh = chunk.subarray(old.length);
        if (old.length > 0) {
          again.update(old);
          known -= old.length;
          if (known === 0 && !again.digest().equals(hash.copy().digest())) throw changed();
        }
        hash.update(fresh);
        received += fresh.length;
        if (fresh.length > 0) yield fresh;
      }
      if (known === 0 && received >= (total.length ?? 0)) return;
      throw new Error(`the connection ended after ${received} of ${total.length ?? 'unknown'} bytes`);
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      if (/CERT|SIGNATURE|ISSUER/.test(code))
        throw new Failure(`${reason(error)}: NODE_EXTRA_CA_CERTS=FILE adds an authority of your own`);
      const isHopeless = /ERR_TLS|ERR_INVALID/.test(code) || (received === 0 && unreachable.includes(code));
      failures = received - receivedBefore >= worthwhileBytes ? 1 : failures + 1;
      if (error instanceof Final || isHopeless || failures > maxFailures) throw error;
      options.onRetry?.(`${reason(error)}: going on at byte ${received} (attempt ${failures + 1})`);
      await sleep(Math.min(backoffMilliseconds * 2 ** (failures - 1), 10_000));
    }
  }
}

/** What the kernel says of a host that is not to be reached, rather than of a connection that breaks. */
const unreachable = ['ENOTFOUND', 'ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH'];

/** A URL for messages: without a password in it. */
export function shown(url: URL): string {
  const safe = new URL(url);
  if (safe.password) safe.password = '***';
  return safe.href;
}

/** The length of the file that an answer of 200 or 206 is of. Throws where it is not the rest that was asked for. */
function wholeLength(response: IncomingMessage, received: number): number | undefined {
  if (response.statusCode === 200) {
    const { 'content-length': text } = response.headers;
    return text === undefined ? undefined : Number(text);
  }
  const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers['content-range'] ?? '') ?? [];
  if (Number(start) !== received)
    throw new Final(`the server sent another part than bytes ${received} and on`);
  return total === '*' ? undefined : Number(total);
}

/** What If-Range takes: an ETag that is not weak, else the date. */
function strongValidator({ headers }: IncomingMessage): string | undefined {
  return headers.etag && !headers.etag.startsWith('W/') ? headers.etag : headers['last-modified'];
}

/** Waits for what a stream is to bring, and destroys the stream if that takes too long. */
async function within<T>(
  milliseconds: number,
  what: string,
  stream: { destroy(error: Error): unknown },
  wanted: Promise<T>,
): Promise<T> {
  const late = () => stream.destroy(new Error(`no ${what} for ${milliseconds / 1000} s`));
  const timer = setTimeout(late, milliseconds);
  try {
    return await wanted;
  } finally {
    clearTimeout(timer);
  }
}

/** The chunks of an answer. The clock stands still while a slow disk, not the server, is what is waited for. */
async function* body(response: IncomingMessage, timeout: number): AsyncGenerator<Buffer> {
  const chunks = response[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { value, done } = await within(timeout, 'data', response, chunks.next());
      if (done) return;
      yield value;
    }
  } finally {
    response.destroy();
  }
}

/** Asks, follows redirects, and returns an answer of 200 or 206. Other answers are errors: some worth a retry. */
async function get(url: URL, headers: Headers, options: Options): Promise<IncomingMessage> {
  let target = url;
  for (let redirects = 0; redirects <= maxRedirects; redirects++) {
    const response = await ask(target, headers, options);
    const { statusCode = 0, statusMessage } = response;
    if (statusCode === 200 || (statusCode === 206 && headers.Range)) return response;
    response.destroy();
    const { location } = response.headers;
    if ([301, 302, 303, 307, 308].includes(statusCode) && location) {
      const next = new URL(location, target);
      if (target.protocol === 'https:' && next.protocol !== 'https:')
        throw new Final(`it leads from https to ${shown(next)}, which is not safe`);
      if (!/^https?:$/.test(next.protocol)) throw new Final(`it leads to ${shown(next)}`);
      target = next;
      continue;
    }
    const message = `${target.host} answers ${statusCode} ${statusMessage}`;
    throw statusCode >= 500 || statusCode === 429 || statusCode === 408
      ? new Failure(message)
      : new Final(message);
  }
  throw new Final(`more than ${maxRedirects} redirects`);
}

/** Asks once, directly or through a proxy. */
async function ask(url: URL, headers: Headers, { timeout, env }: Options): Promise<IncomingMessage> {
  const isHttps = url.protocol === 'https:';
  const proxy = proxyFor(url, env);
  const options: RequestOptions = {
    headers: { 'User-Agent': 'barehand', Accept: '*/*', 'Accept-Encoding': 'identity', ...headers },
    agent: false,
  };
  const socket = proxy && isHttps ? await tunnel(url, proxy, timeout) : undefined;
  if (socket) {
    const host = bareHost(url);
    options.createConnection = () => tlsConnect({ socket, host, servername: isIP(host) ? '' : host });
  }
  const asked = isHttps
    ? httpsRequest(url, options)
    : proxy
      ? askProxy(proxy, url.href, url.host, options)
      : httpRequest(url, options);
  // TLS ends without closing what is below it, which would keep node alive
  asked.on('close', () => socket?.destroy());
  const [response] = await answer(asked, 'response', 'answer', timeout);
  return response;
}

/** Sends a request, and waits for what `event` brings. */
function answer(asked: ClientRequest, event: 'response' | 'connect', what: string, timeout: number) {
  // once there is an answer, it is the answer that fails
  asked.on('error', () => undefined).end();
  return within(timeout, what, asked, once(asked, event));
}

/** A request to an http proxy, of a whole URL or of a connection. */
function askProxy(proxy: URL, path: string, host: string, options: RequestOptions): ClientRequest {
  const { username, password } = proxy;
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  const authorization = username && {
    'Proxy-Authorization': `Basic ${Buffer.from(credentials).toString('base64')}`,
  };
  return httpRequest({
    ...options,
    host: bareHost(proxy),
    port: proxy.port || 80,
    path,
    headers: { ...options.headers, Host: host, ...authorization },
  });
}

/** A connection through an http proxy, RFC 9110 section 9.3.6. */
async function tunnel(url: URL, proxy: URL, timeout: number): Promise<Socket> {
  const authority = `${url.hostname}:${url.port || 443}`;
  const asked = askProxy(proxy, authority, authority, { method: 'CONNECT', agent: false });
  const [response, socket] = await answer(asked, 'connect', 'answer of the proxy', timeout);
  if (response.statusCode === 200) return socket;
  socket.destroy();
  throw new Final(`the proxy ${proxy.host} answers ${response.statusCode} ${response.statusMessage}`);
}

/** An IPv6 address without its brackets. */
const bareHost = (url: URL) => url.hostname.replace(/^\[(.*)\]$/, '$1');

/**
 * The proxy that the environment names for a URL, as curl(1) reads it: https_proxy, http_proxy (or in capitals),
 * but none for the hosts and domains in no_proxy. Throws a Failure for a proxy that is not an http one.
 */
export function proxyFor(url: URL, env: NodeJS.ProcessEnv): URL | undefined {
  const variable = (name: string) => env[name] || env[name.toUpperCase()] || '';
  const proxy = variable(url.protocol === 'https:' ? 'https_proxy' : 'http_proxy') || variable('all_proxy');
  const direct = variable('no_proxy')
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .map((entry) => `.${entry.replace(/^\*?\./, '')}`)
    .some((end) => end === '.*' || [url.hostname, url.host].some((host) => `.${host}`.endsWith(end)));
  if (!proxy || direct) return undefined;
  const parsed = new URL(proxy.includes('://') ? proxy : `http://${proxy}`);
  if (parsed.protocol !== 'http:')
    throw new Final(`cannot use the proxy ${shown(parsed)}: only http:// ones`);
  return parsed;
}

/** Passes chunks on and draws a bar of them on standard error, where that is a terminal; `length` may come later. */
export async function* withProgress(
  chunks: AsyncIterable<Buffer>,
  total: { length?: number | undefined },
  label: string,
): AsyncGenerator<Buffer> {
  if (!process.stderr.isTTY) return yield* chunks;
  const start = performance.now();
  let bytes = 0;
  let drawn = 0;
  try {
    for await (const chunk of chunks) {
      bytes += chunk.length;
      const now = performance.now();
      if (now - drawn > 100) {
        drawn = now;
        const width = process.stderr.columns || 80;
        process.stderr.write(
          `\r${progressLine(label, bytes, total.length, (now - start) / 1000, width)}\x1b[K`,
        );
      }
      yield chunk;
    }
  } finally {
    if (drawn > 0) process.stderr.write('\r\x1b[K');
  }
}

/** `rootfs.tar.gz [#####     ]  12.3 MiB of 27 MiB, 5.1 MiB/s, 3 s left`, cut to the terminal's width. */
export function progressLine(
  label: string,
  bytes: number,
  length: number | undefined,
  seconds: number,
  width: number,
): string {
  const rate = bytes / Math.max(seconds, 0.001);
  const bar = length ? ` [${'#'.repeat(Math.round(Math.min(bytes / length, 1) * 20)).padEnd(20)}]` : '';
  const of = length ? ` of ${formatSize(length)}` : '';
  const left = length && bytes > 0 ? `, ${Math.ceil((length - bytes) / rate)} s left` : '';
  return `${label}${bar} ${formatSize(bytes)}${of}, ${formatSize(Math.round(rate))}/s${left}`.slice(
    0,
    width - 1,
  );
}
