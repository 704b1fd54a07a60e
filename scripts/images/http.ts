// Requests over HTTP(S): through proxies and redirects, retried and resumed after errors; the bytes are those that the
// server has.
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
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as tlsConnect } from 'node:tls';
import { Failure, reason } from '../helpers/cli.ts';

const maxRedirects = 10;
const maxFailures = 5;
/** an attempt that received this many bytes resets the count of failures */
const worthwhileBytes = 1 << 20;
/** a server that asks for a longer pause before the next attempt is not waited for */
const maxPauseSeconds = 60;

/** What all requests take, mainly for tests. */
export interface HttpOptions {
  /** a connection without a byte for this long counts as broken */
  timeoutMilliseconds?: number;
  /** has the names of proxies */
  env?: NodeJS.ProcessEnv;
  /** throws for a URL that must not be asked, such as one that a redirect leads to */
  check?: (url: URL) => void;
}

/** How attempts are repeated. */
export interface RetryOptions {
  /** before the first retry; doubled for each one more */
  backoffMilliseconds?: number;
  /** called with a message before each retry */
  onRetry?: (message: string) => void;
}

/** Options of a download. */
export interface DownloadOptions extends HttpOptions, RetryOptions {
  /** gets the length when the server has sent it */
  total?: { length?: number | undefined };
  /** the first byte that is wanted; more than 0 only for what has a digest */
  startBytes?: number;
  /** its content never changes, since its name is a digest that the caller verifies */
  hasDigest?: boolean;
}

export type Headers = Record<string, string>;

/** An error that a retry cannot fix. */
export class Final extends Failure {}

/** An error that a retry can fix after so many seconds. */
export class TryLater extends Failure {
  seconds: number;
  constructor(message: string, seconds: number) {
    super(message);
    this.seconds = seconds;
  }
}

/** Opens what is read: an answer of 200, or of 206 with the bytes that a Range header asks for. Else throws. */
export type Opener = (range: Headers) => Promise<IncomingMessage>;

const changed = () => new Final(`it changed on the server while it was being read: start again`);

/** Yields the bytes at a URL, in order and each once, over as many connections as it takes. */
export async function* download(source: URL | Opener, options: DownloadOptions = {}): AsyncGenerator<Buffer> {
  const { total = {}, startBytes = 0, hasDigest = false } = options;
  const open = source instanceof URL ? openUrl(source, options) : source;
  const hash = createHash('sha256');
  let received = startBytes;
  let validator: string | undefined;
  const retries = new Retries(options);
  for (;;) {
    const receivedBefore = received;
    try {
      // If-Range: the rest is sent only of the file that was begun, RFC 9110 section 13.1.5
      const isKnown = received > 0 && (hasDigest || validator !== undefined);
      const range: Headers = isKnown ? { Range: `bytes=${received}-` } : {};
      const response = await open(
        isKnown && !hasDigest ? { ...range, 'If-Range': validator as string } : range,
      );
      const length = wholeLength(response, received);
      total.length ??= length;
      if (length !== undefined && length !== total.length) {
        response.destroy();
        throw hasDigest ? new Final(`the server has ${length} bytes of it, not ${total.length}`) : changed();
      }
      validator ??= strongValidator(response);

      // a server that can't resume sends the whole file again: the known bytes are compared and skipped
      let known = response.statusCode === 200 ? received : 0;
      const again = createHash('sha256');
      for await (const chunk of bodyOf(response, options)) {
        const old = chunk.subarray(0, known);
        const fresh = chunk.subarray(old.length);
        if (old.length > 0) {
          known -= old.length;
          if (!hasDigest) again.update(old);
          if (!hasDigest && known === 0 && !again.digest().equals(hash.copy().digest())) throw changed();
        }
        if (!hasDigest) hash.update(fresh);
        received += fresh.length;
        if (fresh.length > 0) yield fresh;
      }
      if (known === 0 && received >= (total.length ?? 0)) return;
      throw new Error(`the connection ended after ${received} of ${total.length ?? 'unknown'} bytes`);
    } catch (error) {
      const isNothing = received === startBytes;
      await retries.wait(error, received - receivedBefore, isNothing, `resuming at byte ${received}`);
    }
  }
}

/** Counts the failures of attempts in a row, and waits before the next one. */
export class Retries {
  readonly #options: RetryOptions;
  #failures = 0;

  constructor(options: RetryOptions) {
    this.#options = options;
  }

  /**
   * Waits after a failed attempt, which has moved so many bytes; `isNothing`: none has moved any. Throws the error if
   * another attempt is useless, or there were too many. `next` tells what the next one does.
   */
  async wait(error: unknown, movedBytes: number, isNothing: boolean, next: string): Promise<void> {
    const { backoffMilliseconds = 500, onRetry } = this.#options;
    const { code = '' } = error as NodeJS.ErrnoException;
    if (/CERT|SIGNATURE|ISSUER/.test(code))
      throw new Failure(`${reason(error)}: NODE_EXTRA_CA_CERTS=FILE adds an authority of your own`);
    const isHopeless =
      /ERR_TLS|ERR_SSL|EPROTO|ERR_INVALID/.test(code) || (isNothing && unreachable.includes(code));
    this.#failures = movedBytes >= worthwhileBytes ? 1 : this.#failures + 1;
    const pauseSeconds = error instanceof TryLater ? error.seconds : 0;
    const isFinal = error instanceof Final || isHopeless || pauseSeconds > maxPauseSeconds;
    if (isFinal || this.#failures > maxFailures) throw error;
    const wait = pauseSeconds > 0 ? `, in ${pauseSeconds} s` : '';
    onRetry?.(`${reason(error)}: ${next}${wait} (attempt ${this.#failures + 1})`);
    const backoff = Math.min(backoffMilliseconds * 2 ** (this.#failures - 1), 10_000);
    await sleep(Math.max(backoff, pauseSeconds * 1000));
  }
}

/** What the kernel says of a host that is not to be reached, rather than of a connection that breaks. */
const unreachable = ['ENOTFOUND', 'ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH'];

/** All bytes of a stream. Throws Final if it has more than `maxBytes`. */
export async function collect(chunks: AsyncIterable<Buffer>, maxBytes: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > maxBytes) throw new Final(`it is larger than ${maxBytes} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

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
  if (Number(start) !== received) {
    response.destroy();
    throw new Final(`the server sent another part than bytes ${received} and on`);
  }
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

const timeoutOf = ({ timeoutMilliseconds = 30_000 }: HttpOptions) => timeoutMilliseconds;

/** The chunks of an answer. The clock stands still while a slow disk, not the server, is what is waited for. */
export async function* bodyOf(response: IncomingMessage, options: HttpOptions): AsyncGenerator<Buffer> {
  const chunks = response[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { value, done } = await within(timeoutOf(options), 'data', response, chunks.next());
      if (done) return;
      yield value;
    }
  } finally {
    response.destroy();
  }
}

/** Opens the file at a URL. Answers other than 200 and 206 are errors: some worth a retry. */
const openUrl =
  (url: URL, options: HttpOptions): Opener =>
  async (range) => {
    const { response, at } = await ask(url, { headers: range }, options);
    const { statusCode = 0 } = response;
    if (statusCode === 200 || (statusCode === 206 && range.Range)) return response;
    response.destroy();
    throw refusal(response, at.host);
  };

/** The error that an answer means: one that a retry can fix, for 5xx, 408 and 429, or Final. */
export function refusal(
  { statusCode = 0, statusMessage, headers }: IncomingMessage,
  host: string,
  more = '',
): Failure {
  const message = `${host} answers ${statusCode} ${statusMessage}${more}`;
  if (statusCode < 500 && statusCode !== 429 && statusCode !== 408) return new Final(message);
  // seconds or a date, RFC 9110 section 10.2.3
  const text = headers['retry-after'];
  const seconds = Number(/^\d{1,9}$/.test(text ?? '') ? text : (Date.parse(text ?? '') - Date.now()) / 1000);
  return new TryLater(message, Math.max(0, Math.ceil(seconds)) || 0);
}

/** A request. `authorization` is for the host that is asked first, and no other; `body` is sent once. */
export interface Request {
  method?: string;
  headers?: Headers;
  authorization?: string | undefined;
  body?: { bytes: number; chunks: Iterable<Buffer> | AsyncIterable<Buffer> };
}

/** Asks, follows the redirects of GET and HEAD, and returns the answer, whatever it is, and the URL that gave it. */
export async function ask(
  url: URL,
  { method = 'GET', headers = {}, authorization, body }: Request,
  options: HttpOptions,
): Promise<{ response: IncomingMessage; at: URL }> {
  let target = url;
  let sent: Headers = authorization === undefined ? headers : { ...headers, Authorization: authorization };
  for (let redirects = 0; redirects <= maxRedirects; redirects++) {
    options.check?.(target);
    const response = await askOnce(target, method, sent, body, options);
    const { location } = response.headers;
    const isRedirect = [301, 302, 303, 307, 308].includes(response.statusCode ?? 0) && location;
    if (!isRedirect || body || !['GET', 'HEAD'].includes(method)) return { response, at: target };
    response.destroy();
    target = follow(location, target);
    if (target.origin !== url.origin) sent = headers;
  }
  throw new Final(`more than ${maxRedirects} redirects`);
}

/** The URL that a Location header leads to. Throws Final for one that is not http(s), or less safe. */
export function follow(location: string, from: URL): URL {
  if (!URL.canParse(location, from.href)) throw new Final(`it leads to ${location}, which is not a URL`);
  const next = new URL(location, from);
  if (from.protocol === 'https:' && next.protocol !== 'https:')
    throw new Final(`it leads from https to ${shown(next)}, which is not safe`);
  if (!/^https?:$/.test(next.protocol)) throw new Final(`it leads to ${shown(next)}`);
  return next;
}

/** Asks once, directly or through a proxy. */
async function askOnce(
  url: URL,
  method: string,
  headers: Headers,
  body: Request['body'],
  settings: HttpOptions,
): Promise<IncomingMessage> {
  const timeout = timeoutOf(settings);
  const isHttps = url.protocol === 'https:';
  const proxy = proxyFor(url, settings.env ?? process.env);
  const options: RequestOptions = {
    method,
    headers: {
      'User-Agent': 'barehand',
      Accept: '*/*',
      'Accept-Encoding': 'identity',
      ...(body && { 'Content-Length': `${body.bytes}` }),
      ...headers,
    },
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
  if (body) return upload(asked, body.chunks, timeout);
  const [response] = await answer(asked, 'response', 'answer', timeout);
  return response;
}

/** Sends a body, and waits for the answer. A server may answer, and close, before it has read all. */
async function upload(
  asked: ClientRequest,
  chunks: Iterable<Buffer> | AsyncIterable<Buffer>,
  timeout: number,
): Promise<IncomingMessage> {
  let moved = () => {};
  const response = once(asked, 'response');
  response.catch(() => undefined);
  async function* timed() {
    for await (const chunk of chunks) {
      moved();
      yield chunk;
    }
  }
  const late = () => asked.destroy(new Error(`no byte was taken for ${timeout / 1000} s`));
  const timer = setTimeout(late, timeout);
  moved = () => void timer.refresh();
  try {
    const sending = pipeline(timed(), asked);
    sending.catch(() => undefined);
    // that it cannot be sent is told by the answer, if one comes; that it cannot be read is not
    await Promise.race([sending, response]).catch((error) => {
      if (error instanceof Failure) throw error;
    });
  } finally {
    clearTimeout(timer);
  }
  // a server may store all of it before it answers
  const [answered] = await within(10 * timeout, 'answer', asked, response);
  return answered;
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
