// What the kernel allows this user. Each answer is a trial in namespaces of its own, which end with the trial.
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { reason } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { installCommand } from '../helpers/programs.ts';
import { seccompLoader, seccompRules } from '../helpers/seccomp/seccomp.ts';
import { type Command, findInPath, findProgram, runProgram, sh } from '../helpers/shell.ts';
import { lockedBy } from '../run/userns.ts';
import type { Check } from './checks.ts';

const isRoot = process.getuid?.() === 0;

/** What a user without root has to be first, user_namespaces(7). */
const asUser = isRoot ? [] : sh`--user --map-root-user`;

/** Why a trial fails: the last line that it prints; undefined: it works. */
async function failureOf(command: Command): Promise<string | undefined> {
  const { exitCode, stderr } = await runProgram(command);
  const line = stderr.trim().split('\n').at(-1)?.trim();
  return exitCode === 0 ? undefined : line || `exit code ${exitCode}`;
}

/** Whether the kernel lets a process filter its system calls with errors, seccomp(2). */
const filtersCalls = () =>
  attempt(() => readFileSync('/proc/sys/kernel/seccomp/actions_avail', 'utf8'))?.includes('errno') ?? false;

/** Why the log of the kernel cannot be read; undefined: it can. */
function kernelLogFailure(): string | undefined {
  try {
    closeSync(openSync('/dev/kmsg', constants.O_RDONLY | constants.O_NONBLOCK));
    return undefined;
  } catch (error) {
    return reason(error);
  }
}

/** The checks of the kernel. `inContainer`: where this process may lack privileges that only the host can give. */
export async function checkKernel(inContainer: boolean): Promise<Check[]> {
  const outside = inContainer
    ? 'start this container with --privileged, or run the scripts on its host'
    : (lockedBy() ?? '');
  const trial = async (
    check: Pick<Check, 'name' | 'cost' | 'needs' | 'limits'> & { remedy?: string },
    found: string,
    command: Command,
  ): Promise<Check> => {
    const failure = await failureOf(command);
    const remedy = outside || check.remedy || '';
    return { subject: 'kernel', ...check, ok: failure === undefined, found: failure ?? found, remedy };
  };
  const loader = seccompLoader(process.arch, seccompRules(process.arch, []) ?? [], findProgram, '/dev/null');
  const logFailure = kernelLogFailure();
  // a missing program is told by the checks of programs
  const firewall = ['nft', 'iptables'].find((name) => findInPath(name));
  const addRule = firewall === 'nft' ? sh`nft add table inet barehand-check` : sh`iptables -N barehand-check`;
  const network = {
    cost: 'no network of containers, and no published ports',
    // without root, pasta(1) or slirp4netns(1) carries the packets
    needs: isRoot ? (['network'] as const) : [],
    limits: isRoot ? (['run'] as const) : [],
  };
  // each is in namespaces of its own, so they need not wait for each other
  const trials = await Promise.all([
    trial(
      { name: 'namespaces', cost: 'no container can be started', needs: ['run'], limits: [] },
      'mount, UTS, IPC, network, PID and cgroup',
      sh`unshare ${asUser} --mount --uts --ipc --net --pid --cgroup --fork true`,
    ),
    trial(
      {
        name: 'new /proc',
        cost: 'no container can be started: it would show the processes of others',
        needs: ['run'],
        limits: [],
      },
      'can be mounted in a PID namespace',
      sh`unshare ${asUser} --mount --pid --fork mount -t proc proc /proc`,
    ),
    trial(
      {
        name: 'user namespaces',
        cost: isRoot
          ? 'no --userns, and --sandbox without it'
          : 'without root nothing can be unpacked or started',
        remedy: 'sysctl user.max_user_namespaces=10000',
        needs: isRoot ? [] : ['run', 'fetch-rootfs'],
        limits: ['run'],
      },
      'can be made',
      sh`unshare --user --map-root-user true`,
    ),
    trial(
      { name: 'overlay', cost: 'no --ephemeral', remedy: 'modprobe overlay', needs: [], limits: ['run'] },
      'can be mounted',
      // nothing is written to it, and only the trial sees it
      sh`unshare ${asUser} --mount mount -t overlay -o ro,lowerdir=/usr:/etc overlay /proc`,
    ),
    ...(findInPath('ip')
      ? [
          trial(
            { name: 'bridge and veth', ...network, remedy: 'modprobe -a bridge veth' },
            'can be made',
            sh`unshare ${asUser} --net ip link add type veth`,
          ),
        ]
      : []),
    ...(firewall
      ? [
          trial(
            { name: 'firewall', ...network, remedy: 'modprobe nf_tables' },
            `can be changed by ${firewall}(8)`,
            sh`unshare ${asUser} --net ${addRule}`,
          ),
        ]
      : []),
  ]);
  return [
    ...trials,
    {
      subject: 'kernel',
      name: 'seccomp',
      ok: filtersCalls() && loader !== undefined,
      found: !filtersCalls()
        ? 'not in this kernel'
        : loader
          ? 'filters system calls'
          : 'neither perl nor python3 to load a filter',
      cost: 'containers may make all system calls',
      remedy: filtersCalls() ? installCommand(['perl']) : 'a kernel with CONFIG_SECCOMP_FILTER',
      needs: [],
      limits: ['run', 'exec'],
    },
    {
      subject: 'kernel',
      name: 'kernel log',
      ok: logFailure === undefined,
      found: logFailure ?? 'can be read',
      cost: 'after an out-of-memory kill the process is not named',
      remedy: isRoot ? outside : 'run the scripts as root, or: sysctl kernel.dmesg_restrict=0',
      needs: [],
      limits: ['run', 'exec', 'ps', 'logs', 'limit-memory'],
    },
  ];
}
