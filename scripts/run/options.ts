// Parsers for the values of options. Each throws UsageError with a message that says which values are accepted.
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { join, posix, resolve } from 'node:path';
import { isPidName } from '../helpers/cgroups.ts';
import { kebab, reason, UsageError } from '../helpers/cli.ts';
import { mountOf, readMounts } from '../helpers/mounts.ts';
import { quote } from '../helpers/shell.ts';
import { parseNumber, parseSignal, parseSize } from '../helpers/units.ts';
import { findDisk } from '../limit/disk.ts';
import { parseCpus, parseList } from '../limit/units.ts';
import { parsePort } from '../network/addresses.ts';
import { parseCapabilities } from './capabilities.ts';
import {
  maxId,
  parseDescriptors,
  parseGroup,
  parsePath,
  parseUser,
  parseVariable,
  parseWorkdir,
} from './command.ts';
import { type Device, defaultDevices, type Tmpfs, type Volume } from './furnish.ts';
import { namespaces } from './hold.ts';
import type { Pull } from './image-root.ts';
import { parseNetwork } from './network.ts';
import type { Sysctl } from './settings.ts';
import type { Range } from './userns.ts';

/** A name that is valid as a directory name, a host name, and a word of the shell. `pid-N` is reserved for limit-*.ts. */
export function parseName(text: string): string {
  if (/^[a-z0-9][a-z0-9_.-]{0,62}$/i.test(text) && !isPidName(text)) return text;
  throw new UsageError(
    `not a name: "${text}": up to 63 of a-z, 0-9, "_", "." and "-", the first a letter or digit; not pid-N`,
  );
}

/** The variables in a file. Each line is a value of `-e`, or a comment that begins with #. Quotes are not special. */
export function parseVariableFile(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`--env-file: cannot read ${path}: ${reason(error)}`);
  }
  const lines = text.split(/\r?\n/);
  return lines
    .filter((line) => line.trim() && !line.startsWith('#'))
    .map((line) => parseVariable(line.trimStart()));
}

/**
 * Options of Docker and mount(8) that every volume has anyway: they are accepted and change nothing. z and Z are Docker's
 * words for a label of SELinux, which no container of ours needs: it keeps the label of its caller.
 */
const accepted = 'rw nodev relatime rbind private rprivate nocopy z Z'.split(' ');
const volumeOptions = ['ro', 'nosuid', 'noexec', 'rslave', ...accepted];

/** What to type where a path of a volume has a colon: DST begins at the first slash behind one. */
function colonAdvice(text: string): string {
  const parts = text.split(/(?<!\\):/);
  const start = parts.findIndex((part, index) => index > 0 && part.startsWith('/'));
  const options = parts.at(-1)?.split(',') ?? [];
  const areOptions = parts.length - start > 1 && options.every((word) => volumeOptions.includes(word));
  const end = areOptions ? parts.length - 1 : parts.length;
  const paths = [parts.slice(0, start), parts.slice(start, end)].map((path) => path.join('\\:'));
  const value = [...paths, ...parts.slice(end)].join(':');
  const how =
    start < 0
      ? 'a colon in a path is typed as \\:'
      : `if SRC is ${parts.slice(0, start).join(':')}, type -v ${quote(value)}`;
  return `--volume is SRC:DST[:ro], not ${text}: ${how}`;
}

/**
 * `SRC:DST[:OPTIONS]`. Options are ro, nosuid, noexec, rslave, and the words in `accepted`, separated by commas. A colon in SRC is
 * written as `\:`.
 */
export function parseVolume(text: string): Volume {
  const [from = '', to = '', words = 'rw', ...more] = text
    .split(/(?<!\\):/)
    .map((part) => part.replaceAll('\\:', ':'));
  if (more.length > 0 || (/^[^/]/.test(to) && words.startsWith('/'))) throw new UsageError(colonAdvice(text));
  if (to === '')
    throw new UsageError(
      `--volume is SRC:DST[:ro], not ${text}: type -v ${quote(`${from}:${from.startsWith('/') ? from : '/mnt'}`)}`,
    );
  if (!/^[./]/.test(from) && existsSync(from))
    throw new UsageError(
      `--volume: SRC is a path of this host, and must begin with / or ./, not ${from}: type -v ${quote(`./${text}`)}`,
    );
  return makeVolume('--volume', from, to, words.split(','));
}

function makeVolume(option: string, from: string, to: string, options: string[]): Volume {
  if (!/^[./]/.test(from))
    throw new UsageError(`${option}: SRC is a path of this host, and must begin with / or ./, not ${from}`);
  const source = resolve(from);
  if (!existsSync(source))
    throw new UsageError(`${option}: there is no ${source} on this host: mkdir -p ${quote(source)}`);
  const propagation = options.find((word) => /^(slave|r?shared)$/.test(word));
  if (propagation)
    throw new UsageError(
      propagation === 'slave'
        ? `${option}: slave is for one mount without those below it, and volumes have all of them: type rslave`
        : `${option}: ${propagation} would show the container's mounts on the host: rslave shows later mounts of the host in the container`,
    );
  for (const word of options)
    if (!volumeOptions.includes(word))
      throw new UsageError(
        `${option}: unknown option ${word}: use ro, nosuid, noexec or rslave; ${accepted.join(', ')} are accepted, and change nothing`,
      );
  if (options.includes('rw') && options.includes('ro'))
    throw new UsageError(`${option}: ro and rw exclude each other`);
  // a bind mount keeps the access time option of its source, mount_setattr(2)
  if (
    options.includes('relatime') &&
    !mountOf(realpathSync(source), readMounts('self'))?.options.includes('relatime')
  )
    throw new UsageError(
      `${option}: ${source} lies on a mount without relatime, which a bind mount keeps: leave out relatime`,
    );
  return {
    source: realpathSync(source),
    path: parsePath(option.slice(2), to),
    // nodev is kept, since --privileged does not add it
    options: options.filter((word) => /^(ro|nosuid|nodev|noexec)$/.test(word)),
    ...(options.includes('rslave') && { receives: true }),
    ...(/^z$/im.test(options.join('\n')) && { relabels: true }),
  };
}

/** Other names of the keys of --mount, as in Docker. */
const mountKeys: Record<string, string> = {
  src: 'source',
  dst: 'target',
  destination: 'target',
  ro: 'readonly',
};

/**
 * `type=bind,source=SRC,target=DST[,readonly]` or `type=tmpfs,target=DST[,tmpfs-size=SIZE][,tmpfs-mode=MODE]`, as in
 * Docker.
 */
function parseMount(text: string): { volume: Volume } | { tmpfs: Tmpfs } {
  const given = new Map<string, string>();
  for (const word of text.split(',')) {
    const [, key = '', value = 'true'] = /^([\w-]+)(?:=(.*))?$/s.exec(word) ?? [];
    given.set(mountKeys[key] ?? key, value);
  }
  const type = given.get('type');
  const known = {
    bind: ['source', 'target', 'readonly', 'bind-propagation'],
    tmpfs: ['target', 'readonly', 'tmpfs-size', 'tmpfs-mode'],
  }[type ?? ''];
  if (!known)
    throw new UsageError(
      `--mount: type is bind or tmpfs, as in type=bind,source=/srv,target=/srv, not ${text}`,
    );
  for (const key of given.keys())
    if (key !== 'type' && !known.includes(key))
      throw new UsageError(`--mount: type=${type} has no ${key || 'empty word'}: use ${known.join(', ')}`);
  const value = (key: string) => given.get(key) ?? '';
  const readOnly = value('readonly') || 'false';
  if (!/^(true|false|1|0)$/.test(readOnly))
    throw new UsageError(`--mount: readonly is true or false, not ${readOnly}`);
  const access = /^(true|1)$/.test(readOnly) ? ['ro'] : [];
  if (value('target') === '') throw new UsageError(`--mount: target= is missing: ${text}`);
  if (type === 'bind')
    return {
      volume: makeVolume('--mount', value('source'), value('target'), [
        ...access,
        ...(given.has('bind-propagation') ? [value('bind-propagation')] : []),
      ]),
    };
  const words = ['size', 'mode'].flatMap((word) =>
    given.has(`tmpfs-${word}`) ? `${word}=${value(`tmpfs-${word}`)}` : [],
  );
  return { tmpfs: makeTmpfs('--mount', value('target'), [...words, ...access]) };
}

/** Options of tmpfs(5) that are accepted. Every tmpfs has nodev, relatime and async anyway. */
const tmpfsOption =
  /^(rw|ro|(no)?(suid|exec)|nodev|relatime|async|size=\d+[kmg%]?|mode=[0-7]{3,4}|(uid|gid|nr_inodes)=\d+)$/i;

/** `DST[:OPTIONS]` with options of tmpfs(5). The defaults are Docker's: nosuid and noexec. */
export function parseTmpfs(text: string): Tmpfs {
  const [to = '', words = ''] = text.split(/:(.*)/s);
  return makeTmpfs('--tmpfs', to, words.split(',').filter(Boolean));
}

function makeTmpfs(option: string, to: string, words: string[]): Tmpfs {
  const options = ['nosuid', 'noexec'];
  for (const word of words) {
    if (!tmpfsOption.test(word))
      throw new UsageError(
        `${option}: unknown option ${word}: use size=, mode=, uid=, gid=, nr_inodes=, ro, exec or suid`,
      );
    const [, name, id] = /^([ug]id)=(.*)$/i.exec(word) ?? [];
    if (id !== undefined && Number(id) > maxId)
      throw new UsageError(`${option}: ${name} is a number from 0 to ${maxId}, not ${id}`);
    options.push(word);
  }
  return { path: parsePath(option.slice(2), to), options };
}

/** `SRC[:DST[:ACCESS]]`: a device of this host, its path in the container, below /dev, and letters of `rwm`. */
export function parseDevice(text: string): Device {
  const [from = '', second, third, ...more] = text.split(':');
  const isAccess = (word: string | undefined) => /^(?!.*(.).*\1)[rwm]+$/.test(word ?? '');
  // as in Docker, DST may be left out
  const [to = from, access = 'rwm'] =
    third === undefined && isAccess(second) ? [from, second] : [second, third];
  if (!isAccess(access) || more.length > 0)
    throw new UsageError(
      `--device is SRC[:DST[:ACCESS]] with ACCESS of r, w and m, as in /dev/fuse:/dev/fuse:rw, not ${text}`,
    );
  const path = to.startsWith('/') ? join('/dev', '/', to.slice('/dev/'.length)) : '';
  if (path !== to || path === '/dev/' || /[\0\n]/.test(path))
    throw new UsageError(`--device: the path in the container must be a plain path below /dev/, not ${to}`);
  const stat = existsSync(from) ? statSync(from) : undefined;
  if (!stat?.isCharacterDevice() && !stat?.isBlockDevice())
    throw new UsageError(`--device: ${from} is not a device of this host`);
  const denied = [...'rwm'].filter((letter) => !access.includes(letter)).join('');
  return { source: realpathSync(from), path, ...(denied && { denied }) };
}

/** Throws UsageError if a device is to be denied in one place and allowed in another: the kernel goes by its number. */
export function checkDevices(devices: Device[]): void {
  if (devices.length === 0) return;
  const deniedOf = new Map<number, { source: string; denied: string }>();
  for (const { source, denied = '' } of [...defaultDevices, ...devices]) {
    const number = statSync(source).rdev;
    const other = deniedOf.get(number) ?? { source, denied };
    if (other.denied !== denied)
      throw new UsageError(
        `--device: ${source} is the same device as ${other.source}, which the container has with other access`,
      );
    deniedOf.set(number, other);
  }
}

/** Throws UsageError if two mounts have the same target, where one would hide the other. */
export function checkTargets(mounts: [option: string, targets: { path: string }[]][]): void {
  const optionOf = new Map<string, string>();
  for (const [option, targets] of mounts)
    for (const { path } of targets) {
      const target = posix.join('/', path, '.').replace(/(?<=.)\/$/, '');
      const other = optionOf.get(target);
      if (other !== undefined)
        throw new UsageError(
          `${target} is the target of two mounts, by ${other === option ? option : `${other} and ${option}`}: choose one`,
        );
      optionOf.set(target, option);
    }
}

/** A parser that also accepts -1, which means unlimited, as in Docker. */
const orUnlimited =
  (parse: (text: string) => number) =>
  (text: string): number =>
    text === '-1' ? Infinity : parse(text);

/** A parser of `PATH:RATE`: the disk that PATH is or lies on, and bytes or operations per second. */
export const parseRate =
  (limit: 'readBps' | 'writeBps' | 'readIops' | 'writeIops') =>
  (text: string): { limit: typeof limit; device: string; value: number } => {
    const [, path = '', rate = ''] = /^(.+):([^:]+)$/.exec(text) ?? [];
    const option = `--device-${kebab(limit)}`;
    if (path === '') throw new UsageError(`${option} is PATH:RATE, not ${text}`);
    const value = limit.endsWith('Bps') ? parseSize(rate) : parseNumber(option, rate, 1, 4_294_967_295);
    return { limit, device: findDisk(path).device, value };
  };

/** Names of the limits of getrlimit(2) in Docker and prlimit(1). */
const limits =
  'core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack'.split(
    ' ',
  );

/** `NAME=SOFT[:HARD]`. Returns an option of prlimit(1). */
export function parseLimit(text: string): string {
  const [, name = '', soft = '', hard = soft] =
    /^(\w+)=(-1|\d+|unlimited)(?::(-1|\d+|unlimited))?$/.exec(text) ?? [];
  if (!limits.includes(name))
    throw new UsageError(`--ulimit is NAME=SOFT[:HARD], not ${text}: NAME is one of ${limits.join(' ')}`);
  const value = (word: string) => (word === '-1' ? 'unlimited' : word);
  return `--${name}=${value(soft)}:${value(hard)}`;
}

/** `NAME:ADDRESS`. Returns a line of hosts(5). */
export function parseHost(text: string): string {
  const [, name = '', address = ''] = /^([\w.-]+)[:=](.*)$/.exec(text) ?? [];
  const bare = address.replace(/^\[(.*)\]$/, '$1');
  if (!isIP(bare)) throw new UsageError(`--add-host is NAME:ADDRESS, not ${text}`);
  return `${bare}\t${name}`;
}

/** An IP address. Returns a line of resolv.conf(5). */
export function parseNameserver(text: string): string {
  if (!isIP(text)) throw new UsageError(`--dns is the address of a name server, not ${text}`);
  return `nameserver ${text}`;
}

/** What --security-opt changes. `mask` and `unmask` are paths below /proc and /sys; `ALL` stands for all of them. */
interface Security {
  seccomp?: false;
  newPrivileges?: boolean;
  mask?: string[];
  unmask?: string[];
}

/**
 * `seccomp=unconfined`, `no-new-privileges[=false]`, or `mask=PATH[:PATH...]`, `unmask=PATH[:PATH...]` and `unmask=ALL` as
 * in Podman. Docker's word for the last one is `systempaths=unconfined`.
 */
export function parseSecurity(text: string): Security {
  if (text === 'systempaths=unconfined') return { unmask: ['ALL'] };
  const [, word, paths = ''] = /^(mask|unmask)=(.*)$/s.exec(text) ?? [];
  if (word) {
    const list = paths.split(':');
    if (list.every((path) => /^\/(proc|sys)\/[^\0\n]*$/.test(path) || (word === 'unmask' && path === 'ALL')))
      return { [word]: list };
    throw new UsageError(`--security-opt ${word}: a path below /proc or /sys, not ${JSON.stringify(paths)}`);
  }
  const [, key, value = 'true'] = /^(seccomp|no-new-privileges)(?:[=:](\w+))?$/.exec(text) ?? [];
  if (key === 'seccomp' && value === 'unconfined') return { seccomp: false };
  if (key === 'no-new-privileges' && /^(true|false)$/.test(value))
    return { newPrivileges: value === 'false' };
  throw new UsageError(
    `--security-opt is seccomp=unconfined, no-new-privileges=false, mask=PATH or unmask=PATH, not ${text}: all other restrictions are always on`,
  );
}

/** Sysctls of an IPC namespace, ipc_namespaces(7). */
const ofIpc = /^kernel\/(shm\w+|msg\w+|sem)$|^fs\/mqueue\/\w+$/;

/**
 * `NAME=VALUE`, with dots or slashes in NAME as in sysctl(8). Only sysctls of an IPC or a network namespace: all others
 * are the host's too.
 */
function parseSysctl(text: string): Sysctl {
  const [, name = '', value = ''] = /^([\w./:-]+)=([^\0\n]+)$/.exec(text) ?? [];
  const words = name.split(name.includes('/') ? '/' : '.');
  if (name === '' || words.some((word) => /^\.*$/.test(word)))
    throw new UsageError(`--sysctl is NAME=VALUE, as in net.ipv4.ip_forward=1, not ${JSON.stringify(text)}`);
  const path = words.join('/');
  const namespace = ofIpc.test(path) ? 'ipc' : /^net\/.+\//.test(path) ? 'net' : undefined;
  if (namespace) return { name, path: `/proc/sys/${path}`, value, namespace };
  throw new UsageError(
    `--sysctl: ${name} is in no namespace: it would change the host, where it is set by: sysctl -w ${name}=${value}; a container can have its own net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*`,
  );
}

/** When a registry is asked for an image. */
function parsePull(text: string): Pull {
  if (text === 'always' || text === 'missing' || text === 'never') return text;
  throw new UsageError(`--pull is always, missing or never, not ${text}`);
}

/** A file mode creation mask in octal, umask(2). */
function parseUmask(text: string): string {
  if (/^0?[0-7]{1,3}$/.test(text)) return text;
  throw new UsageError(`--umask is an octal number from 0 to 777, not ${text}`);
}

/** A whole number from -1000, never killed, to 1000, proc_pid_oom_score_adj(5). */
function parseOomScore(text: string): number {
  const number = /^-?\d{1,4}$/.test(text) ? Number(text) : Number.NaN;
  if (Math.abs(number) <= 1000) return number;
  throw new UsageError(`--oom-score-adj is a whole number from -1000 to 1000, not ${text}`);
}

/** `CONTAINER:HOST[:COUNT]`: a line of uid_map, user_namespaces(7). */
const parseRange =
  (option: string) =>
  (text: string): Range => {
    const [inside, outside, count = 1] = /^\d{1,10}:\d{1,10}(:\d{1,10})?$/.test(text)
      ? text.split(':').map(Number)
      : [];
    // 4294967295 is no ID: setresuid(2)
    const limit = 2 ** 32 - 1;
    if (inside !== undefined && outside !== undefined && count > 0)
      if (inside + count <= limit && outside + count <= limit) return { inside, outside, count };
    throw new UsageError(`${option} is CONTAINER-ID:HOST-ID:COUNT, as in 0:100000:65536, not ${text}`);
  };

/** `KEY[=VALUE]`. */
function parseLabel(text: string): string {
  if (/^[^=\0\n]+(=[^\0\n]*)?$/.test(text)) return text.includes('=') ? text : `${text}=`;
  throw new UsageError(`--label is KEY=VALUE without a newline, not ${JSON.stringify(text)}`);
}

/** A list such as `mount,pid`: `chroot`, and words for namespaces. */
function parseIsolate(text: string): Set<string> {
  const known = ['chroot', ...namespaces];
  const words = text.split(',');
  for (const word of words)
    if (!known.includes(word))
      throw new UsageError(`--isolate: unknown word ${word}: use ${known.join(', ')}`);
  return new Set(words);
}

/** All options of run.ts. Its header tells of each, and so must the manifests of pack-rootfs/manifest.ts. */
export const options = {
  name: { parse: parseName },
  hostname: { parse: parseName },
  detach: { short: 'd' },
  logSize: { parse: parseSize },
  entrypoint: { parse: (text: string) => text },
  env: { short: 'e', parse: parseVariable, many: true },
  envFile: { parse: parseVariableFile, many: true },
  workdir: { short: 'w', parse: parseWorkdir },
  umask: { parse: parseUmask },
  user: { short: 'u', parse: parseUser },
  groupAdd: { parse: parseGroup, many: true },
  label: { short: 'l', parse: parseLabel, many: true },
  preserveFds: { parse: parseDescriptors },
  init: {},
  stopSignal: { parse: parseSignal },
  volume: { short: 'v', parse: parseVolume, many: true },
  mount: { parse: parseMount, many: true },
  tmpfs: { parse: parseTmpfs, many: true },
  device: { parse: parseDevice, many: true },
  shmSize: { parse: parseSize },
  readOnly: {},
  ephemeral: {},
  pull: { parse: parsePull },
  disk: { parse: parseSize },
  addHost: { parse: parseHost, many: true },
  dns: { parse: parseNameserver, many: true },
  interactive: { short: 'i' },
  tty: { short: 't' },
  rm: {},
  memory: { short: 'm', parse: parseSize },
  memorySwap: { parse: orUnlimited(parseSize) },
  memoryReservation: { parse: parseSize },
  cpus: { parse: parseCpus },
  cpusetCpus: { parse: (text: string) => parseList('--cpuset-cpus', text) },
  cpusetMems: { parse: (text: string) => parseList('--cpuset-mems', text) },
  cpuShares: { short: 'c', parse: (text: string) => parseNumber('--cpu-shares', text, 2, 262_144) },
  blkioWeight: { parse: (text: string) => parseNumber('--blkio-weight', text, 10, 1000) },
  pidsLimit: { parse: orUnlimited((text) => parseNumber('--pids-limit', text, 1, 4_194_304)) },
  deviceReadBps: { parse: parseRate('readBps'), many: true },
  deviceWriteBps: { parse: parseRate('writeBps'), many: true },
  deviceReadIops: { parse: parseRate('readIops'), many: true },
  deviceWriteIops: { parse: parseRate('writeIops'), many: true },
  oomScoreAdj: { parse: parseOomScore },
  sysctl: { parse: parseSysctl, many: true },
  ulimit: { parse: parseLimit, many: true },
  network: { alias: 'net', parse: parseNetwork },
  publish: { short: 'p', parse: parsePort, many: true },
  sandbox: {},
  userns: {},
  uidmap: { parse: parseRange('--uidmap'), many: true },
  gidmap: { parse: parseRange('--gidmap'), many: true },
  capAdd: { parse: parseCapabilities, many: true },
  capDrop: { parse: parseCapabilities, many: true },
  securityOpt: { parse: parseSecurity, many: true },
  privileged: {},
  isolate: { parse: parseIsolate },
  dryRun: {},
  bundle: { parse: (text: string) => resolve(text) },
} as const;

/** All of --security-opt: the last one of a kind counts, but for paths, which add up. */
export function mergeSecurity({ securityOpt }: { securityOpt: Security[] }): Security {
  const paths = (kind: 'mask' | 'unmask') => securityOpt.flatMap((security) => security[kind] ?? []);
  return Object.assign({}, ...securityOpt, { mask: paths('mask'), unmask: paths('unmask') });
}
