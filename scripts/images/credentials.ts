// Credentials for registries, as docker login, podman login and skopeo login keep them.
import { readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { findInPath, runProgram, sh } from '../helpers/shell.ts';
import { type Reference, showRepository } from './reference.ts';

/** A user and password, or a token that stands for both; `from` is the file that has them, for messages. */
export type Credentials = { from: string } & ({ user: string; password: string } | { identityToken: string });

type Fields = Record<string, unknown>;

/** docker login calls Docker Hub so. */
const hubKey = 'https://index.docker.io/v1/';
const maxFileBytes = 1 << 20;

/** The files that may have credentials, most important first. Under sudo they are root's, unless HOME is the user's. */
export function credentialFiles(env: NodeJS.ProcessEnv = process.env): string[] {
  const home = env.HOME || homedir();
  return [
    join(env.DOCKER_CONFIG || join(home, '.docker'), 'config.json'),
    ...(env.XDG_RUNTIME_DIR ? [join(env.XDG_RUNTIME_DIR, 'containers/auth.json')] : []),
    // podman's place for root without a session
    `/run/containers/${process.getuid?.()}/auth.json`,
    join(env.XDG_CONFIG_HOME || join(home, '.config'), 'containers/auth.json'),
  ];
}

/** The command that logs in to a registry, by a program that is here if there is one. */
export function loginCommand(registry: string): string {
  const program = ['docker', 'podman', 'skopeo'].find((name) => findInPath(name)) ?? 'docker';
  const sudo = process.env.SUDO_USER && process.getuid?.() === 0 ? 'sudo ' : '';
  return `${sudo}${program} login ${registry === 'docker.io' && program === 'docker' ? '' : registry}`.trim();
}

/**
 * The credentials for a repository; undefined if no file has any. Throws a Failure for a file that cannot be read, or a
 * credential helper that fails.
 */
export async function findCredentials(
  reference: Reference,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Credentials | undefined> {
  for (const file of credentialFiles(env)) {
    const config = readConfig(file);
    const found = config && (await findIn(config, file, reference));
    if (found) return found;
  }
  return undefined;
}

/** A configuration file; undefined if there is none. What is in it is not quoted in messages: it has passwords. */
function readConfig(file: string): Fields | undefined {
  if (attempt(() => statSync(file)) === undefined) return undefined;
  const wrong = (why: string) => new Failure(`cannot read the credentials in ${file}: ${why}`);
  let text: string;
  try {
    if (statSync(file).size > maxFileBytes) throw new Error(`it is larger than ${maxFileBytes} bytes`);
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw wrong(reason(error));
  }
  const config = attempt(() => JSON.parse(text) as unknown);
  if (typeof config !== 'object' || config === null) throw wrong('it is not a JSON object');
  return config as Fields;
}

/** The host, or HOST/PATH of podman, that a key of the file is about: docker login writes whole URLs. */
function keyOf(key: string): string {
  const [, scheme, rest = ''] = /^(https?:\/\/)?(.*?)\/?$/.exec(key) ?? [];
  const host = scheme ? rest.replace(/\/.*/, '') : rest.replace(/\/v[12]$/, '');
  return /^(index|registry-1)\.docker\.io$/.test(host) ? 'docker.io' : host;
}

/** The value of the key that is about the repository, or the nearest part of its path, or the host. */
function lookUp(table: unknown, reference: Reference): unknown {
  const entries = Object.entries((table ?? {}) as Fields).map(([key, value]) => [keyOf(key), value] as const);
  for (let key = showRepository(reference); key; key = key.slice(0, Math.max(0, key.lastIndexOf('/')))) {
    const found = entries.find(([name]) => name === key);
    if (found) return found[1];
  }
  return undefined;
}

async function findIn(
  { auths, credHelpers, credsStore }: Fields,
  file: string,
  reference: Reference,
): Promise<Credentials | undefined> {
  const helper = lookUp(credHelpers, reference) ?? (credsStore || undefined);
  const kept = helper === undefined ? undefined : await askHelper(helper, file, reference.registry);
  if (kept) return kept;
  const { auth, identitytoken } = (lookUp(auths, reference) ?? {}) as Fields;
  if (typeof identitytoken === 'string' && identitytoken) return { from: file, identityToken: identitytoken };
  if (typeof auth !== 'string' || auth === '') return undefined;
  const [, user = '', password] = /^([^:]*):(.*?)\0*$/s.exec(Buffer.from(auth, 'base64').toString()) ?? [];
  if (password === undefined)
    throw new Failure(
      `${file} has no USER:PASSWORD for ${reference.registry}: ${loginCommand(reference.registry)}`,
    );
  return { from: file, user, password };
}

/**
 * Asks docker-credential-NAME, the protocol of
 * https://github.com/docker/docker-credential-helpers. undefined if it has none for this registry.
 */
async function askHelper(name: unknown, file: string, registry: string): Promise<Credentials | undefined> {
  if (typeof name !== 'string' || !/^[A-Za-z0-9][\w.-]*$/.test(name))
    throw new Failure(`${file} names a credential helper ${JSON.stringify(name)}, which is not a valid name`);
  const program = `docker-credential-${name}`;
  const path = findInPath(program);
  if (!path)
    throw new Failure(`${file} names the credential helper ${program}, which is not in PATH: install it`);
  const { exitCode, stdout, stderr } = await runProgram(
    sh`${path} get`,
    registry === 'docker.io' ? hubKey : registry,
  );
  const said = stdout.trim() || stderr.trim();
  if (exitCode !== 0 && /credentials not found/i.test(said)) return undefined;
  const { Username: user, Secret: password } = (attempt(() => JSON.parse(stdout)) ?? {}) as Fields;
  if (exitCode !== 0 || typeof user !== 'string' || typeof password !== 'string')
    throw new Failure(
      exitCode === 0
        ? `${program}, which ${file} names, gives no Username and Secret`
        : `${program}, which ${file} names, ends with ${exitCode}: ${said.slice(0, 200)}`,
    );
  return user === '<token>' ? { from: program, identityToken: password } : { from: program, user, password };
}
