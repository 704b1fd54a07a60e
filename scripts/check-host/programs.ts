// Programs of this host that the scripts run, with their versions.
import { installCommand, missingPrograms } from '../helpers/programs.ts';
import { findInPath, runProgram } from '../helpers/shell.ts';
import type { Check, Script } from './checks.ts';

interface Program {
  /** any one of these will do: the first is the best, and the one to install */
  anyOf: string[];
  /** options that print its version; none: it is of a package whose version another one prints */
  version?: string[];
  cost: string;
  needs?: Script[];
  limits?: Script[];
}

const long = ['--version'];

const programs: Program[] = [
  { anyOf: ['unshare'], version: long, cost: 'no namespaces can be made', needs: ['run', 'fetch-rootfs'] },
  { anyOf: ['nsenter'], cost: 'namespaces cannot be entered', needs: ['run', 'network'], limits: ['exec'] },
  { anyOf: ['setpriv'], cost: 'privileges cannot be dropped', needs: ['run', 'exec'], limits: ['logs'] },
  { anyOf: ['mount'], version: long, cost: 'nothing can be mounted', needs: ['run', 'fetch-rootfs'] },
  { anyOf: ['pivot_root'], cost: 'the root directory cannot be changed', needs: ['run'] },
  { anyOf: ['umount'], cost: "the host's root cannot be unmounted", needs: ['run'] },
  {
    anyOf: ['flock'],
    cost: 'two calls at once cannot wait for each other',
    needs: ['run', 'stop', 'network'],
    limits: ['logs'],
  },
  { anyOf: ['prlimit'], cost: 'no resource limits (--ulimit)', limits: ['run'] },
  { anyOf: ['script'], cost: 'no terminal for containers (--tty)', limits: ['run', 'exec'] },
  { anyOf: ['env'], version: long, cost: 'no command can be started', needs: ['run', 'exec'] },
  { anyOf: ['chroot'], cost: 'archives cannot be unpacked', needs: ['fetch-rootfs'], limits: ['run'] },
  { anyOf: ['stdbuf'], cost: 'no containers in the background (--detach)', limits: ['run'] },
  {
    anyOf: ['tar'],
    version: long,
    cost: 'archives cannot be unpacked',
    needs: ['fetch-rootfs', 'pack-rootfs'],
  },
  { anyOf: ['ldd'], cost: 'libraries of programs cannot be found', needs: ['fetch-rootfs', 'pack-rootfs'] },
  {
    anyOf: ['perl', 'python3'],
    version: long,
    cost: 'exec.ts enters by nsenter(1), with less protection',
    limits: ['exec'],
  },
  { anyOf: ['ip'], version: ['-V'], cost: 'no network of containers', needs: ['network'], limits: ['run'] },
  { anyOf: ['tc'], version: ['-V'], cost: 'rates cannot be limited', limits: ['network', 'run'] },
  {
    anyOf: ['nft', 'iptables'],
    version: long,
    cost: 'no firewall rules',
    needs: ['network'],
    limits: ['run'],
  },
  {
    anyOf: ['xz'],
    version: long,
    cost: 'no archives compressed with xz',
    limits: ['fetch-rootfs', 'pack-rootfs'],
  },
  {
    anyOf: ['zstd'],
    version: long,
    cost: 'no archives compressed with zstd',
    limits: ['fetch-rootfs', 'pack-rootfs'],
  },
  { anyOf: ['bzip2'], cost: 'no archives compressed with bzip2', limits: ['fetch-rootfs'] },
];

/** What only users without root need. */
const userPrograms: Program[] = [
  { anyOf: ['newuidmap'], cost: 'a container has one user only, root', limits: ['run'] },
  {
    anyOf: ['pasta', 'slirp4netns'],
    version: long,
    cost: 'no network of containers',
    needs: ['network'],
    limits: ['run'],
  },
];

/** The first number with a dot in what a program prints as its version: 2.38.1. */
const versionIn = (text: string) => /\d+(\.\d+)+\S*/.exec(text)?.[0].replace(/[),;]+$/, '') ?? '';

async function checkProgram({ anyOf, version, cost, needs = [], limits = [] }: Program): Promise<Check> {
  const name = anyOf.find((one) => !missingPrograms([one]));
  const { stdout = '', stderr = '' } = name && version ? await runProgram([name, ...version]) : {};
  return {
    subject: 'programs',
    name: anyOf.join(' or '),
    ok: name !== undefined,
    found: name
      ? [findInPath(name) ?? name, versionIn(stdout + stderr)].filter(Boolean).join(' ')
      : 'not found',
    cost,
    remedy: installCommand(anyOf.slice(0, 1)),
    needs,
    limits,
  };
}

/** The checks of programs. */
export const checkPrograms = (): Promise<Check[]> =>
  Promise.all([...programs, ...(process.getuid?.() === 0 ? [] : userPrograms)].map(checkProgram));
