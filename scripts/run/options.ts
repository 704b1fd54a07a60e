// What people write after Docker's options, and what it means: volumes, variables, limits, hosts. Each parser throws
// UsageError, which says what would have been right.
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { join, posix, resolve } from 'node:path';
import { reason, UsageError } from '../helpers/cli.ts';
import { mountOf, readMounts } from '../helpers/mounts.ts';
import { parsePath, parseVariable } from '../helpers/options.ts';
import { maxId } from '../helpers/rootfs.ts';
import { parseNumber, parseSize } from '../helpers/units.ts';
import { findDisk } from '../limit/disk.ts';
import type { Device, Tmpfs, Volume } from './furnish.ts';

/** A name that is a directory's, a host name's and a word of the shell's at once. `pid-N` is limit-memory's. */
export function parseName(text: string): string {
  if (/^[a-z0-9][a-z0-9_.-]{0,62}$/i.test(text) && !/^pid-\d+$/.test(text)) return text;
  throw new UsageError(
    `not a name: ${JSON.stringify(text)}: up to 63 of a-z, 0-9, "_", "." and "-"; not pid-N`,
  );
}

/** The variables in a file, one a line as in `-e`; lines with # are comments, and quotes mean nothing. */
export function parseVariableFile(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`--env-file ${path}: ${reason(error)}`);
  }
  const lines = text.split(/\r?\n/);
  return lines
    .filter((line) => line.trim() && !line.startsWith('#'))
    .map((line) => parseVariable(line.trimStart()));
}

/** Where the host has it mounted, with which options of mount(8); of files that are missing nothing is known. */
const mountOptions = (path: string) => mountOf(realpathSync(path), readMounts('self'))?.options ?? [];

/** Words of Docker's and mount(8)'s that say of a volume what is so anyway. */
const anyway = 'rw nodev relatime rbind private rprivate nocopy'.split(' ');

/**
 * `SRC:DST[:OPTIONS]`, options ro, nosuid, noexec with commas, or what holds anyway. A colon in SRC is written as `\:`.
 */
export function parseVolume(text: string): Volume {
  const [from = '', to = '', words = 'rw', ...more] = text
    .split(/(?<!\\):/)
    .map((part) => part.replaceAll('\\:', ':'));
  if (to === '' || more.length > 0) throw new UsageError(`--volume is SRC:DST[:ro], not ${text}`);
  if (!/^[./]/.test(from))
    throw new UsageError(`--volume: SRC is a path of this host, it begins with / or ./, not ${from}`);
  const source = resolve(from);
  if (!existsSync(source))
    throw new UsageError(`--volume: there is no ${source} on this host: mkdir -p ${source}`);
  const options = words.split(',');
  for (const word of options)
    if (!['ro', 'nosuid', 'noexec', ...anyway].includes(word))
      throw new UsageError(
        `--volume: options are ro, nosuid and noexec, or what holds anyway: ${anyway.join(', ')}; not ${word}`,
      );
  if (options.includes('rw') && options.includes('ro')) throw new UsageError('--volume: either ro or rw');
  // mount_setattr(2): a bind mount has the access times of what it shows
  if (options.includes('relatime') && !mountOptions(source).includes('relatime'))
    throw new UsageError(`--volume: the mount that ${source} lies on is not relatime: leave that out`);
  return {
    source: realpathSync(source),
    path: parsePath('volume', to),
    // --privileged adds no nodev
    options: options.filter((word) => word === 'nodev' || !anyway.includes(word)),
  };
}

/** What mount(8) takes for a tmpfs here; nodev, relatime and the like hold anyway. */
const tmpfsOption =
  /^(rw|ro|(no)?(suid|exec)|nodev|relatime|async|size=\d+[kmg%]?|mode=[0-7]{3,4}|(uid|gid|nr_inodes)=\d+)$/i;

/** `DST[:OPTIONS]`, mount(8)'s options for tmpfs. As Docker's it is nosuid and noexec unless it says otherwise. */
export function parseTmpfs(text: string): Tmpfs {
  const [to = '', words = ''] = text.split(/:(.*)/s);
  const options = ['nosuid', 'noexec'];
  for (const word of words.split(',').filter(Boolean)) {
    if (!tmpfsOption.test(word)) throw new UsageError(`--tmpfs: no such option of tmpfs(5) here: ${word}`);
    const [, name, id] = /^([ug]id)=(.*)$/i.exec(word) ?? [];
    if (id !== undefined && Number(id) > maxId)
      throw new UsageError(`--tmpfs: ${name} is a number from 0 to ${maxId}, not ${id}`);
    options.push(word);
  }
  return { path: parsePath('tmpfs', to), options };
}

/** `SRC[:DST]`, a device of this host's and its path below /dev. */
export function parseDevice(text: string): Device {
  const [from = '', to = from, access] = text.split(':');
  if (access !== undefined && access !== 'rwm')
    throw new UsageError(`--device: who may read or write it is up to its mode and -u, not to :${access}`);
  const path = to.startsWith('/') ? join('/dev', '/', to.slice('/dev/'.length)) : '';
  if (path !== to || path === '/dev/' || /[\0\n]/.test(path))
    throw new UsageError(`--device: its path in the container is below /dev/, not ${to}`);
  const stat = existsSync(from) ? statSync(from) : undefined;
  if (!stat?.isCharacterDevice() && !stat?.isBlockDevice())
    throw new UsageError(`--device: ${from} is no device of this host`);
  return { source: realpathSync(from), path };
}

/**
 * Throws UsageError where two things are to be mounted at the same path, of which only one would be seen. `places` are
 * options and the paths that each of them has.
 */
export function checkPlaces(places: [option: string, paths: string[]][]): void {
  const taken = new Map<string, string>();
  for (const [option, paths] of places)
    for (const path of paths) {
      const place = posix.join('/', path, '.').replace(/(?<=.)\/$/, '');
      const other = taken.get(place);
      if (other !== undefined)
        throw new UsageError(
          `two things are to be at ${place}, by ${other === option ? option : `${other} and ${option}`}: choose one`,
        );
      taken.set(place, option);
    }
}

/** A parser that also takes Docker's -1, for no limit. */
export const orUnlimited =
  (parse: (text: string) => number) =>
  (text: string): number =>
    text === '-1' ? Infinity : parse(text);

/** A parser of `PATH:RATE`: the disk that PATH is or lies on, and bytes or operations a second. */
export const parseRate =
  (limit: 'readBps' | 'writeBps' | 'readIops' | 'writeIops') =>
  (text: string): { limit: typeof limit; device: string; value: number } => {
    const [, path = '', rate = ''] = /^(.+):([^:]+)$/.exec(text) ?? [];
    if (path === '') throw new UsageError(`PATH:RATE is wanted, not ${text}`);
    const value = limit.endsWith('Bps') ? parseSize(rate) : parseNumber('the rate', rate, 1, 4_294_967_295);
    return { limit, device: findDisk(path).device, value };
  };

/** The limits of getrlimit(2), as Docker and prlimit(1) call them. */
const limits =
  'core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack'.split(
    ' ',
  );

/** `NAME=SOFT[:HARD]` as an option of prlimit(1). */
export function parseLimit(text: string): string {
  const [, name = '', soft = '', hard = soft] =
    /^(\w+)=(-1|\d+|unlimited)(?::(-1|\d+|unlimited))?$/.exec(text) ?? [];
  if (!limits.includes(name))
    throw new UsageError(`--ulimit is NAME=SOFT[:HARD], NAME one of ${limits.join(' ')}: not ${text}`);
  const value = (word: string) => (word === '-1' ? 'unlimited' : word);
  return `--${name}=${value(soft)}:${value(hard)}`;
}

/** `NAME:ADDRESS`, as a line of hosts(5). */
export function parseHost(text: string): string {
  const [, name = '', address = ''] = /^([\w.-]+)[:=](.*)$/.exec(text) ?? [];
  const bare = address.replace(/^\[(.*)\]$/, '$1');
  if (!isIP(bare)) throw new UsageError(`--add-host is NAME:ADDRESS, not ${text}`);
  return `${bare}\t${name}`;
}

/** An address, as a line of resolv.conf(5). */
export function parseNameserver(text: string): string {
  if (!isIP(text)) throw new UsageError(`--dns is the address of a name server, not ${text}`);
  return `nameserver ${text}`;
}

/** `seccomp=unconfined` or `no-new-privileges[=false]`: what is lifted, or asked for and there anyway. */
export function parseSecurity(text: string): { seccomp?: false; newPrivileges?: boolean } {
  const [, key, value = 'true'] = /^(seccomp|no-new-privileges)(?:[=:](\w+))?$/.exec(text) ?? [];
  if (key === 'seccomp' && value === 'unconfined') return { seccomp: false };
  if (key === 'no-new-privileges' && /^(true|false)$/.test(value))
    return { newPrivileges: value === 'false' };
  throw new UsageError(
    `--security-opt is seccomp=unconfined or no-new-privileges=false, not ${text}: the rest is on already`,
  );
}
