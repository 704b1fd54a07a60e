// Programs of the host that a script runs: the package of each, and the check for missing ones before a script starts.
import { readFileSync, realpathSync } from 'node:fs';
import { basename } from 'node:path';
import { Failure } from './cli.ts';
import { attempt } from './pids.ts';
import { findProgram, pathDirectories, systemDirectories } from './shell.ts';

/** The families of distributions whose packages are known, and their commands to install one. */
const installers = { debian: 'apt-get install', fedora: 'dnf install', alpine: 'apk add' } as const;
type Family = keyof typeof installers;
const families = Object.keys(installers) as Family[];

/** Programs of one package, and its name on Debian, Fedora and Alpine. */
const packages: [programs: string, debian: string, fedora: string, alpine: string][] = [
  ['unshare nsenter setpriv flock prlimit setsid', 'util-linux', 'util-linux', 'util-linux'],
  // Debian up to 13 has it in util-linux, which is never missing there
  ['pivot_root', 'util-linux-extra', 'util-linux', 'util-linux'],
  ['mount umount losetup', 'mount', 'util-linux', 'util-linux'],
  // Fedora up to 41 has it in util-linux
  ['script', 'bsdutils', 'util-linux-script', 'util-linux'],
  ['chroot cp env head mkdir rm rmdir stat stdbuf touch', 'coreutils', 'coreutils', 'coreutils'],
  ['bash', 'bash', 'bash', 'bash'],
  ['sed', 'sed', 'sed', 'sed'],
  ['grep', 'grep', 'grep', 'grep'],
  ['find xargs', 'findutils', 'findutils', 'findutils'],
  ['tar', 'tar', 'tar', 'tar'],
  ['ldd', 'libc-bin', 'glibc-common', 'musl-utils'],
  ['perl', 'perl-base', 'perl-interpreter', 'perl'],
  ['ip', 'iproute2', 'iproute', 'iproute2'],
  ['tc', 'iproute2', 'iproute-tc', 'iproute2'],
  ['nft', 'nftables', 'nftables', 'nftables'],
  ['pasta', 'passt', 'passt', 'passt'],
  ['hostname', 'hostname', 'hostname', 'net-tools'],
  ['xz', 'xz-utils', 'xz', 'xz'],
  ['zstd', 'zstd', 'zstd', 'zstd'],
  ['bzip2', 'bzip2', 'bzip2', 'bzip2'],
];

/**
 * Programs whose BusyBox versions, as on Alpine, lack options that the scripts use, such as
 * --pdeathsig of setpriv(1), --kill-child of unshare(1), --namespace of umount(8), --default-signal of env(1), -j of
 * ip(8).
 */
const notByBusyBox = new Set('unshare setpriv flock setsid script mount umount env tar ip tc'.split(' '));

/** The path of an executable program, in the directories of the distribution or of PATH. */
function findExecutable(name: string): string | undefined {
  for (const directory of new Set([...systemDirectories, ...pathDirectories()])) {
    const path = findProgram(name, [directory]);
    if (path && !(notByBusyBox.has(name) && basename(realpathSync.native(path)) === 'busybox')) return path;
  }
  return undefined;
}

/** The family of this host's distribution, from the text of os-release(5); undefined for any other. */
function distribution(osRelease: string): Family | undefined {
  const words = ['ID', 'ID_LIKE'].flatMap((key) => {
    const [, value = ''] = new RegExp(`^${key}=["']?([^"'\n]*)`, 'm').exec(osRelease) ?? [];
    return value.split(' ');
  });
  return words
    .map((word) => (['rhel', 'centos'].includes(word) ? 'fedora' : word))
    .find((word): word is Family => word in installers);
}

/** The text of this host's os-release(5); '' if it has none. */
export const readOsRelease = () =>
  ['/etc/os-release', '/usr/lib/os-release']
    .map((path) => attempt(() => readFileSync(path, 'utf8')))
    .find((text) => text !== undefined) ?? '';

/**
 * The command that installs these programs, such as `apt-get install perl-base`; on an unknown distribution, the
 * commands of all known ones.
 */
export function installCommand(names: string[], osRelease = readOsRelease()): string {
  const family = distribution(osRelease);
  const commands = (family ? [family] : families).map((one) => {
    const column = (1 + families.indexOf(one)) as 1 | 2 | 3;
    const wanted = names.map((name) => {
      const row = packages.find(([programs]) => programs.split(' ').includes(name));
      return row ? row[column] : name;
    });
    return `${installers[one]} ${[...new Set(wanted)].join(' ')}`;
  });
  return commands.join(', or ');
}

/**
 * The missing ones of these programs, as `perl is missing: apt-get install perl-base`; undefined if none is missing.
 */
export function missingPrograms(names: string[]): string | undefined {
  const missing = [...new Set(names)].filter((name) => findExecutable(name) === undefined);
  if (missing.length === 0) return undefined;
  return `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing: ${installCommand(missing)}`;
}

/**
 * Throws Failure if a program is missing: `cannot start a container: pivot_root is missing: apt-get install
 * util-linux-extra`. `purpose` follows the word cannot. It takes one or two stat(2) calls for each program.
 */
export function requirePrograms(names: string[], purpose: string): void {
  const missing = missingPrograms(names);
  if (missing) throw new Failure(`cannot ${purpose}: ${missing}`);
}
