// The configuration of an image: what a container is started with (image-spec, config.md).
import { Failure, UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { parsePlatform } from '../images/choose.ts';
import { isObject, isText, type Platform } from '../images/image.ts';

/** What the options say of it. undefined, or an empty list: nothing. */
export interface ConfigOptions {
  entrypoint: string[] | undefined;
  cmd: string[] | undefined;
  env: string[];
  user: string | undefined;
  workdir: string | undefined;
  label: string[];
  expose: string[];
  /** as parseSignal has it */
  stopSignal: string | undefined;
}

/** The configuration of the image that a root file system was made from, as far as it is kept. */
export interface Inherited {
  config: Record<string, unknown>;
  platform: Platform | undefined;
}

const isList = (value: unknown) => Array.isArray(value) && value.every(isText);

/** The fields that are kept, in the order in which they are written, and what they hold. */
const fields: [name: string, is: (value: unknown) => boolean, what: string][] = [
  ['User', isText, 'a string'],
  ['ExposedPorts', isObject, 'an object'],
  ['Env', isList, 'a list of strings'],
  ['Entrypoint', isList, 'a list of strings'],
  ['Cmd', isList, 'a list of strings'],
  ['Volumes', isObject, 'an object'],
  ['WorkingDir', isText, 'a string'],
  ['Labels', (value) => isObject(value) && Object.values(value).every(isText), 'an object of strings'],
  ['StopSignal', isText, 'a string'],
  ['Healthcheck', isObject, 'an object'],
];

/** Reads the configuration of an image. Throws Failure for what is none: a container may have written it. */
export function parseInherited(text: string, file: string): Inherited {
  const wrong = (what: string) => new Failure(`${file} is not an OCI image configuration: ${what}`);
  let image: unknown;
  try {
    image = JSON.parse(text);
  } catch (error) {
    throw wrong((error as Error).message);
  }
  if (!isObject(image) || !isObject(image.config ?? {})) throw wrong('it is not an object');
  const given = (image.config ?? {}) as Record<string, unknown>;
  const config: Record<string, unknown> = {};
  for (const [name, is, what] of fields) {
    const value = given[name] ?? undefined;
    if (value === undefined) continue;
    if (!is(value)) throw wrong(`${name} is not ${what}`);
    config[name] = value;
  }
  const { os, architecture, variant } = image;
  const words = [os, architecture, variant].filter(isText).filter(Boolean);
  const platform = attempt(() =>
    isText(os) && isText(architecture) ? parsePlatform(words.join('/')) : undefined,
  );
  return { config, platform };
}

/** What a container is started with: the options, else what is inherited. Always in the same order. */
export function makeConfig(
  { config }: Pick<Inherited, 'config'>,
  options: ConfigOptions,
): Record<string, unknown> {
  const { entrypoint, cmd, env, user, workdir, label, expose, stopSignal } = options;
  const pairs = (list: string[]) => list.map((one) => one.split(/=(.*)/s).slice(0, 2) as [string, string]);
  const variables = new Map([...pairs((config.Env as string[]) ?? []), ...pairs(env)]);
  const made: Record<string, unknown> = {
    ...config,
    User: user ?? config.User,
    ExposedPorts: sorted({
      ...(config.ExposedPorts ?? {}),
      ...Object.fromEntries(expose.map((port) => [port, {}])),
    }),
    Env: [...variables].map(([name, value]) => `${name}=${value}`),
    Entrypoint: entrypoint ?? config.Entrypoint,
    // as for docker run: the arguments of another entrypoint are none of this one
    Cmd: cmd ?? (entrypoint ? undefined : config.Cmd),
    WorkingDir: workdir ?? config.WorkingDir,
    Labels: sorted({ ...(config.Labels ?? {}), ...Object.fromEntries(pairs(label)) }),
    StopSignal: stopSignal ? `SIG${stopSignal}` : config.StopSignal,
  };
  const isEmpty = (value: unknown) =>
    value === undefined ||
    value === '' ||
    (typeof value === 'object' && Object.keys(value as object).length === 0);
  return Object.fromEntries(fields.flatMap(([name]) => (isEmpty(made[name]) ? [] : [[name, made[name]]])));
}

const sorted = (object: object) =>
  Object.fromEntries(Object.entries(object).sort(([one], [other]) => (one < other ? -1 : 1)));

/** Parses --entrypoint and --cmd: a JSON list of words as a Dockerfile has it, or one word as docker run takes it. */
export function parseWords(text: string): string[] {
  if (text.startsWith('[')) {
    let words: unknown;
    try {
      words = JSON.parse(text);
    } catch {}
    if (isList(words)) return words as string[];
    throw new UsageError(`not a JSON list of strings: ${text}`);
  }
  if (!/\s/.test(text)) return [text];
  throw new UsageError(
    `"${text}" would be one word: for several, give a JSON list: '${JSON.stringify(text.trim().split(/\s+/))}'`,
  );
}

/** Parses --env and --label: KEY=VALUE. */
export function parsePair(text: string): string {
  if (/^[^=\0]+=[^\0]*$/.test(text)) return text;
  throw new UsageError(`not KEY=VALUE: "${text}"`);
}

/** Parses --expose: PORT or PORT/tcp, PORT/udp, PORT/sctp. */
export function parsePort(text: string): string {
  const [, port, protocol = 'tcp'] = /^(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text) ?? [];
  if (Number(port) >= 1 && Number(port) <= 65535) return `${Number(port)}/${protocol}`;
  throw new UsageError(`not a port: "${text}": write 80, 53/udp or 9/sctp`);
}

/** Parses --user: USER or USER:GROUP, names or numbers. */
export function parseUser(text: string): string {
  if (/^[\w.][\w.-]{0,31}\$?(:[\w.][\w.-]{0,31}\$?)?$/.test(text)) return text;
  throw new UsageError(`not USER or USER:GROUP: "${text}"`);
}

/** Parses --workdir: an absolute path. */
export function parseDirectory(text: string): string {
  if (text.startsWith('/') && !text.includes('\0')) return text;
  throw new UsageError(`not an absolute path: "${text}"`);
}
