// Names of images in registries, as Docker reads them.
// https://github.com/distribution/reference
import { UsageError } from '../helpers/cli.ts';
import { checkDigest } from './image.ts';

/** What names an image in a registry. */
export interface Reference {
  /** HOST or HOST:PORT; `docker.io` is Docker Hub */
  registry: string;
  /** its name there, such as `library/alpine` */
  repository: string;
  tag: string | undefined;
  digest: string | undefined;
}

const label = '[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?';
const registryForm = new RegExp(`^(?:${label}(?:\\.${label})*|\\[[0-9a-fA-F:]+\\])(?::[0-9]{1,5})?$`);
const component = '[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*';
const repositoryForm = new RegExp(`^${component}(?:/${component})*$`);
const tagForm = /^\w[\w.-]{0,127}$/;

/**
 * Parses IMAGE[:TAG][@DIGEST], with or without `docker://`: `alpine` is `docker.io/library/alpine:latest`. The first
 * component is a host if it has a dot, a port or a capital letter, or is localhost. Throws UsageError for anything that
 * Docker refuses.
 */
export function parseReference(text: string): Reference {
  const wrong = (why: string) => new UsageError(`not the name of an image: ${text}: ${why}`);
  const rest = text.replace(/^docker:\/\//i, '');
  const at = rest.indexOf('@');
  const [named, digestText] = at < 0 ? [rest] : [rest.slice(0, at), rest.slice(at + 1)];
  let digest: string | undefined;
  try {
    digest = digestText === undefined ? undefined : checkDigest(digestText);
  } catch {
    throw wrong('after @ there is sha256: and 64 hexadecimal digits');
  }
  const [, name = '', tag] = /^(.*?)(?::([^:/]*))?$/s.exec(named) ?? [];
  if (tag !== undefined && !tagForm.test(tag))
    throw wrong('a tag has up to 128 letters, digits, _, . and -, and begins with none of . and -');

  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(slash, 0));
  const isHost = first === 'localhost' || /[.:A-Z]/.test(first);
  const host = isHost ? first : 'docker.io';
  const registry = host === 'index.docker.io' || host === 'registry-1.docker.io' ? 'docker.io' : host;
  const path = isHost ? name.slice(slash + 1) : name;
  const repository = registry === 'docker.io' && !path.includes('/') ? `library/${path}` : path;
  if (!registryForm.test(registry) || Number(/:(\d+)$/.exec(registry)?.[1] ?? 1) > 65_535)
    throw wrong(`${registry} is not HOST[:PORT]`);
  if (path === '') throw wrong('type docker://IMAGE[:TAG]');
  if (/[A-Z]/.test(path)) throw wrong('it has no capital letters');
  if (!repositoryForm.test(repository))
    throw wrong('it has small letters, digits, and between them ., _, - and /');
  if (registry.length + 1 + repository.length > 255) throw wrong('it is longer than 255 characters');
  if (/^[0-9a-f]{64}$/.test(name)) throw wrong('64 hexadecimal digits are an ID');
  return { registry, repository, tag: tag ?? (digest ? undefined : 'latest'), digest };
}

/** The repository of an image in full: `docker.io/library/alpine`. */
export const showRepository = ({ registry, repository }: Reference) => `${registry}/${repository}`;

/** A reference in full: `docker.io/library/alpine:latest`. */
export const showReference = (reference: Reference) =>
  `${showRepository(reference)}${reference.tag ? `:${reference.tag}` : ''}${reference.digest ? `@${reference.digest}` : ''}`;

/** What a registry is asked for: the digest, which counts more than the tag, as for Docker. */
export const wantedOf = ({ tag, digest }: Reference) => digest ?? tag ?? 'latest';
