// Registries: the client side of the OCI distribution API.
// https://github.com/opencontainers/distribution-spec, https://distribution.github.io/distribution/spec/auth/token/
import type { IncomingMessage } from 'node:http';
import { isIPv4 } from 'node:net';
import { Failure, reason, UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { manifestTypes, maxManifestBytes } from './choose.ts';
import { type Credentials, credentialFiles, findCredentials, loginCommand } from './credentials.ts';
import {
  ask,
  bodyOf,
  collect,
  type DownloadOptions,
  download,
  Final,
  follow,
  type HttpOptions,
  type Opener,
  type Request,
  refusal,
  shown,
  TryLater,
} from './http.ts';
import type { Descriptor, ImageSource } from './image.ts';
import { type Reference, showReference, showRepository } from './reference.ts';
import { digestOf } from './verify.ts';

/** How registries are asked. */
export interface RegistryOptions
  extends Pick<DownloadOptions, 'timeoutMilliseconds' | 'backoffMilliseconds' | 'env'> {
  /** registries that may be asked without encryption, HOST or HOST:PORT, besides those on the loopback interface */
  insecure?: string[];
  /** registries that are asked for images of Docker Hub first */
  mirrors?: URL[];
  /** called with messages about retries */
  say?: (message: string) => void;
}

/** HOST or HOST:PORT of --insecure-registry. Throws UsageError. */
export function parseRegistry(text: string): string {
  const isHost =
    URL.canParse(`http://${text}`) && new URL(`http://${text}`).host === text.replace(/:80$/, '');
  if (isHost) return text;
  throw new UsageError(`not HOST or HOST:PORT of a registry: "${text}"`);
}

/** The URL of --registry-mirror. Throws UsageError. */
export function parseMirror(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (
    url &&
    /^https?:$/.test(url.protocol) &&
    !url.username &&
    !url.search &&
    !url.hash &&
    url.pathname === '/'
  )
    return url;
  throw new UsageError(`not the URL of a registry, such as https://mirror.example.org: "${text}"`);
}

/** Answers that are no blobs, such as tokens and errors, have no more. */
const maxAnswerBytes = 1 << 20;

/** Whether a host is this machine, by its name or address. */
export function isLoopback(hostname: string): boolean {
  const isAddress = isIPv4(hostname) && hostname.startsWith('127.');
  return isAddress || hostname === '[::1]' || /^(.*\.)?localhost$/.test(hostname);
}

/** How the blobs of a repository are read by hand. */
export interface ByHand {
  blobs: URL;
  /** undefined: none is needed */
  token: URL | undefined;
  user: string | undefined;
}

/** A request to a registry; it may have to be sent twice. `what` is what messages call what is asked for. */
interface Asked extends Omit<Request, 'body' | 'authorization'> {
  body?: () => Request['body'];
  what?: string;
}

/** A registry that is asked for one repository. */
export class Registry {
  readonly reference: Reference;
  /** its host, for messages */
  readonly host: string;
  readonly #options: RegistryOptions;
  readonly #http: HttpOptions;
  #base: Promise<URL> | undefined;
  #authorization: string | undefined;
  #credentials: Promise<Credentials | undefined> | undefined;
  #tokenUrl: URL | undefined;

  /** `mirror`: asked instead of the registry that `reference` names. */
  constructor(reference: Reference, options: RegistryOptions, mirror?: URL) {
    this.#options = options;
    this.reference = mirror ? { ...reference, registry: mirror.host } : reference;
    this.host = this.reference.registry;
    if (mirror) this.#base = Promise.resolve(mirror);
    const { timeoutMilliseconds, env = process.env } = options;
    this.#http = {
      ...(timeoutMilliseconds !== undefined && { timeoutMilliseconds }),
      env,
      check: (url) => {
        if (url.protocol === 'https:' || url.origin === mirror?.origin || this.#mayBePlain(url)) return;
        throw new Final(
          `it leads to ${shown(url)}, without encryption: if you trust the network, --insecure-registry ${url.host}`,
        );
      },
    };
  }

  #mayBePlain = (url: URL) =>
    isLoopback(url.hostname) ||
    (this.#options.insecure ?? []).some((host) =>
      [url.host, url.hostname].includes(new URL(`http://${host}`).host),
    );

  /** Options for a request to a URL: a proxy cannot reach the loopback interface of this machine. */
  #optionsFor = (url: URL): HttpOptions =>
    isLoopback(url.hostname) ? { ...this.#http, env: {} } : this.#http;

  /** The URL of the registry. One that may be asked without encryption is asked with it first. */
  #findBase(): Promise<URL> {
    const host = this.host === 'docker.io' ? 'registry-1.docker.io' : this.host;
    const secure = new URL(`https://${host}`);
    if (!this.#mayBePlain(secure)) return Promise.resolve(secure);
    const plain = new URL(`http://${host}`);
    return ask(new URL('/v2/', secure), {}, this.#optionsFor(secure)).then(
      ({ response }) => {
        response.destroy();
        return secure;
      },
      (error) => {
        if (/CERT|SIGNATURE|ISSUER/.test(error.code ?? '')) throw error;
        return plain;
      },
    );
  }

  /** The URL of the registry. */
  base(): Promise<URL> {
    this.#base ??= this.#findBase().catch((error) => {
      this.#base = undefined;
      throw error;
    });
    return this.#base;
  }

  /**
   * Asks for a path, or a URL that the registry gave, with the credentials that it wants. Returns an answer whose status
   * is in `expected`. Throws Final for other answers, or a Failure that a retry can fix.
   */
  async ask(path: string | URL, request: Asked, expected: number[]): Promise<IncomingMessage> {
    const base = await this.base();
    const url = new URL(path, base);
    const isOurs = url.origin === base.origin;
    for (let first = true; ; first = false) {
      const { method = 'GET', headers = {}, what = showReference(this.reference) } = request;
      const body = request.body?.();
      const authorization = isOurs ? this.#authorization : undefined;
      const sent = { method, headers, authorization, ...(body && { body }) };
      const { response, at } = await ask(url, sent, this.#optionsFor(url));
      if (expected.includes(response.statusCode ?? 0)) return response;
      const text = await this.#textOf(response);
      const { 'www-authenticate': challenge } = response.headers;
      if (at.origin !== base.origin) throw refusal(response, at.host);
      if (response.statusCode !== 401 || !first || !challenge)
        throw await this.#refused(response, text, at.host, what);
      this.#authorization = await this.#authorize(challenge, base);
    }
  }

  /** The text of an answer that is an error. */
  #textOf = async (response: IncomingMessage): Promise<string> =>
    (await collect(bodyOf(response, this.#http), maxAnswerBytes).catch(() => Buffer.alloc(0))).toString();

  #findCredentials(): Promise<Credentials | undefined> {
    this.#credentials ??= findCredentials(this.reference, this.#options.env);
    return this.#credentials;
  }

  /** The Authorization header that answers a challenge, RFC 9110 section 11.6.1. */
  async #authorize(challenge: string, base: URL): Promise<string | undefined> {
    const credentials = await this.#findCredentials();
    const [, bearer] = /(?:^|,\s*)Bearer\s+(.*)$/i.exec(challenge) ?? [];
    if (bearer !== undefined) return `Bearer ${await this.#token(bearer, credentials, base)}`;
    if (!/(?:^|,\s*)Basic\b/i.test(challenge))
      throw new Final(`${this.host} asks for a login of an unknown kind: ${challenge.slice(0, 60)}`);
    if (credentials && !('user' in credentials))
      throw new Final(
        `${this.host} takes a password, but ${credentials.from} has a token: ${loginCommand(this.host)}`,
      );
    return credentials && basic(credentials);
  }

  /** Gets a token from the server that a challenge names: without credentials it is one for public images. */
  async #token(parameters: string, credentials: Credentials | undefined, base: URL): Promise<string> {
    const fields = new Map(
      [...parameters.matchAll(/([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))/g)].map(
        ([, name = '', quoted, bare]) => [name.toLowerCase(), quoted ?? bare ?? ''],
      ),
    );
    const realm = follow(fields.get('realm') ?? '', base);
    const query = ['service', 'scope'].flatMap((name) => {
      const value = fields.get(name);
      return value === undefined ? [] : [[name, value] as [string, string]];
    });
    let request: () => Request;
    if (credentials && 'identityToken' in credentials) {
      // https://distribution.github.io/distribution/spec/auth/oauth/
      const form = Buffer.from(
        `${new URLSearchParams([
          ...query,
          ['grant_type', 'refresh_token'],
          ['client_id', 'barehand'],
          ['refresh_token', credentials.identityToken],
        ])}`,
      );
      const headers = { 'Content-Type': 'application/x-www-form-urlencoded' };
      request = () => ({ method: 'POST', headers, body: { bytes: form.length, chunks: [form] } });
    } else {
      for (const [name, value] of query) realm.searchParams.append(name, value);
      this.#tokenUrl = realm;
      request = () => ({ authorization: credentials && basic(credentials) });
    }
    const open: Opener = async () => {
      const { response, at } = await ask(realm, request(), this.#optionsFor(realm));
      if (response.statusCode === 200) return response;
      throw await this.#refused(response, await this.#textOf(response), at.host, 'token');
    };
    const bytes = await collect(download(open, this.downloadOptions()), maxAnswerBytes);
    const answer = attempt(() => JSON.parse(bytes.toString())) as Record<string, unknown> | undefined;
    const token = answer?.token || answer?.access_token;
    // it becomes a header
    if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token))
      throw new Final(`${realm.host}, which is to give a token for ${this.host}, gives none`);
    return token;
  }

  /** Options of what is repeated. */
  downloadOptions = (): DownloadOptions => {
    const { backoffMilliseconds, say } = this.#options;
    return {
      ...this.#http,
      ...(backoffMilliseconds !== undefined && { backoffMilliseconds }),
      ...(say && { onRetry: say }),
    };
  };

  /** What an answer of a host means, and the next command. `what` was asked for. */
  async #refused(response: IncomingMessage, text: string, host: string, what: string): Promise<Failure> {
    const { statusCode = 0 } = response;
    const { isKnown, message } = errorIn(text);
    const said = message && `: ${message}`;
    const error = refusal(response, host, said);
    if (statusCode === 404)
      return new Final(
        isKnown
          ? `${host} has no ${what}${said}`
          : `${error.message}: it has no ${what}, or is not a registry`,
      );
    if (![401, 403, 429].includes(statusCode)) return error;
    const credentials = await this.#findCredentials();
    const login = loginCommand(this.host);
    if (statusCode === 429) {
      const { seconds } = error as TryLater;
      const limit = `the limit of requests to ${host} is reached${said}`;
      if (seconds > 0) return new TryLater(`${limit}: it asks to wait ${seconds} s`, seconds);
      // without a time it is a quota of hours
      return new Final(`${limit}: wait${credentials ? '' : `, or log in: ${login}`}`);
    }
    const name = showRepository(this.reference);
    if (credentials)
      return new Final(`${host} refuses ${name} to the login in ${credentials.from}${said}: ${login}`);
    const [file] = credentialFiles(this.#options.env);
    return new Final(
      `${name} is private or not there (${statusCode}), and ${file} has no login for it: ${login}`,
    );
  }

  /** What a person would give to curl(1): where blobs are, where a token comes from, and the user that it asks for. */
  async byHand(): Promise<ByHand> {
    const credentials = this.#authorization === undefined ? undefined : await this.#findCredentials();
    return {
      blobs: new URL(`/v2/${this.reference.repository}/blobs/`, await this.base()),
      token: this.#tokenUrl,
      user: credentials && 'user' in credentials ? credentials.user : undefined,
    };
  }

  /** Reads the manifest or index that a tag or digest names. It is not verified. */
  async readManifest(reference: string): Promise<{ mediaType: string; bytes: Buffer }> {
    let response: IncomingMessage | undefined;
    const open: Opener = async () => {
      const headers = { Accept: manifestTypes.join(', ') };
      response = await this.ask(
        `/v2/${this.reference.repository}/manifests/${reference}`,
        { headers },
        [200],
      );
      return response;
    };
    const bytes = await collect(download(open, this.downloadOptions()), maxManifestBytes).catch((error) => {
      throw error instanceof Final && error.message.startsWith('it is larger')
        ? new Final(`its manifest is larger than ${maxManifestBytes} bytes`)
        : error;
    });
    const { 'content-type': type = '', 'docker-content-digest': digest } = response?.headers ?? {};
    if (typeof digest === 'string' && digest.startsWith('sha256:') && digest !== digestOf(bytes))
      throw new Final(`its manifest has the digest ${digestOf(bytes)}, not ${digest}, as ${this.host} says`);
    return { mediaType: type.replace(/;.*/s, '').trim(), bytes };
  }

  /** The bytes of a blob from an offset on. They are not verified. */
  readBlob({ digest, size }: Descriptor, offsetBytes: number): AsyncIterable<Buffer> {
    const path = `/v2/${this.reference.repository}/blobs/${digest}`;
    const open: Opener = (headers) =>
      this.ask(path, { headers, what: digest }, headers.Range ? [200, 206] : [200]);
    const options = { total: { length: size }, startBytes: offsetBytes, hasDigest: true };
    return download(open, { ...this.downloadOptions(), ...options });
  }
}

const basic = ({ user, password }: { user: string; password: string }) =>
  `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;

/** The message of the first error in an answer, and whether it is one as the distribution specification has them. */
function errorIn(text: string): { isKnown: boolean; message: string } {
  const answer = attempt(() => JSON.parse(text)) as Record<string, unknown> | undefined;
  const [first] = Array.isArray(answer?.errors) ? (answer.errors as (Record<string, unknown> | null)[]) : [];
  const { message } = first ?? {};
  const said = typeof message === 'string' ? message.slice(0, 100).replace(/[.:\s]+$/, '') : '';
  return { isKnown: first !== undefined, message: said };
}

/** An error of the network, with the host that it is about. */
export function named(error: unknown, { host }: Registry): Failure {
  if (error instanceof Failure) return error;
  const isPlain = /EPROTO|ERR_SSL/.test((error as NodeJS.ErrnoException).code ?? '');
  const why = isPlain
    ? `${host} does not speak TLS: if you trust the network to it, --insecure-registry ${host}`
    : `${host}: ${reason(error)}`;
  return new Failure(why, { cause: error });
}

/** Opens a registry as a source of an image: mirrors of Docker Hub first, each until it fails. */
export function openRegistry(
  reference: Reference,
  options: RegistryOptions = {},
): ImageSource & { byHand(): Promise<ByHand> } {
  const mirrors = reference.registry === 'docker.io' ? (options.mirrors ?? []) : [];
  const left = [
    ...mirrors.map((url) => new Registry(reference, options, url)),
    new Registry(reference, options),
  ];
  /** Goes on with the next registry; the last one's error is the error. */
  const giveUp = (registry: Registry, error: unknown) => {
    if (left[0] !== registry) return; // another blob has met it already
    if (left.length < 2) throw named(error, registry);
    left.shift();
    options.say?.(`the mirror ${registry.host} fails: ${reason(error)}: continuing without it`);
  };
  return {
    name: showReference(reference),
    byHand: () => (left[0] as Registry).byHand(),
    async openManifest(wanted) {
      for (;;) {
        const registry = left[0] as Registry;
        try {
          return await registry.readManifest(wanted);
        } catch (error) {
          giveUp(registry, error);
        }
      }
    },
    async *openBlob(blob, offsetBytes) {
      for (let received = offsetBytes; ; ) {
        const registry = left[0] as Registry;
        try {
          for await (const chunk of registry.readBlob(blob, received)) {
            received += chunk.length;
            yield chunk;
          }
          return;
        } catch (error) {
          giveUp(registry, error);
        }
      }
    },
    close: async () => {},
  };
}
