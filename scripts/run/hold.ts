// The command that becomes PID 1: a chain of programs. Each of them replaces itself by the next, execve(2). They make
// the namespaces, drop privileges, and wait; the last one is the container's command. docs/run.md explains the order.
import { realpathSync } from 'node:fs';
import { basename } from 'node:path';
import { boundingOptions } from '../helpers/capabilities.ts';
import { embedded } from '../helpers/embedded.ts';
import { type Command, sh } from '../helpers/shell.ts';
import { userOptions } from './command.ts';
import type { Launch } from './container.ts';
import { receivesMounts } from './furnish.ts';

/** Removes the comments of a program that is passed as an argument, since ps(1) shows it. */
export const withoutComments = (text: string) => text.replace(/^# .*\n/gm, '').trim();

const startShell = withoutComments(embedded(import.meta.url, './start.sh'));
const holdShell = withoutComments(embedded(import.meta.url, './hold.sh'));
export const releaseShell = withoutComments(embedded(import.meta.url, './release.sh'));
export const consoleShell = withoutComments(embedded(import.meta.url, './console.sh'));
export const oomKillsShell = withoutComments(embedded(import.meta.url, './oom-kills.sh'));
export const keepShell = withoutComments(embedded(import.meta.url, './keep.sh'));

/** The namespaces that --isolate accepts. unshare(1) has an option of the same name for each. */
export const namespaces = ['mount', 'pid', 'uts', 'ipc', 'cgroup', 'net'];

/** Whether a variable, KEY=VALUE, changes what the dynamic loader or the C library loads, ld.so(8). */
export const forLoader = (variable: string) => /^(LD_|GCONV_PATH=|LOCPATH=|MALLOC_)/.test(variable);

/** The command for a shell program. bash -p ignores functions and settings in the container's variables, bash(1). */
const shellCommand = (shell: string): Command =>
  basename(realpathSync(shell)) === 'bash'
    ? [shell, ...(basename(shell) === 'bash' ? ['--norc'] : []), '-p', '-c']
    : [shell, '-c'];

/**
 * The second part of the chain, from the shell of hold.sh to the command. PID 1 drops privileges, and waits again. Each
 * list is one program, or several short ones: it begins a line of the runbook.
 */
export function dropLists(launch: Launch, release = releaseShell): Command[] {
  const { isolate, rootfs, user, capabilities, privileged, newPrivileges, seccomp, limits } = launch;
  const { environment, workdir, umask, command, shell, chroot, userNamespace, terminal, preserved } = launch;
  const pivots = isolate.has('mount');
  const setpriv = [
    // with a single user, setgroups(2) is denied, user_namespaces(7)
    ...(pivots ? userOptions(user, userNamespace?.single === true) : []),
    ...(newPrivileges ? [] : ['--no-new-privs']),
    ...(privileged ? [] : boundingOptions(capabilities)),
  ];
  // the caller, or a shell in the chain, may have these signals ignored, which execve(2) keeps
  const signals = '--default-signal=HUP,INT,QUIT,TERM,USR1,USR2,TSTP,PIPE,XFSZ';
  const lists = [
    [
      ...(umask === undefined ? [] : sh`sh -c ${'umask "$0" && exec "$@"'} ${umask}`),
      ...(isolate.has('cgroup') ? sh`unshare --cgroup` : []),
      ...(limits.length > 0 ? ['prlimit', ...limits] : []),
      // a filter needs CAP_SYS_ADMIN or no_new_privs, seccomp(2); after setpriv, PID 1 may have neither
      ...(seccomp ? (seccomp.file ? ['setpriv', ...seccomp.words] : seccomp.words) : []),
    ],
    setpriv.length > 0 ? ['setpriv', ...setpriv] : [],
    sh`env -i ${signals} ${environment.filter((variable) => !forLoader(variable))}`,
    [
      ...sh`${shellCommand(shell)} ${release} run ${terminal && pivots ? '/dev/console' : ''} ${pivots ? workdir : ''}`,
      ...(preserved > 0 ? [`--preserve-fds=${preserved}`] : []),
      ...sh`${environment.filter(forLoader)} --`,
    ],
    pivots ? command : [chroot, rootfs, ...command],
  ];
  return lists.filter((list) => list.length > 0);
}

/**
 * The whole chain. `holder` is the PID of the process that holds the user namespace. Descriptor 5 is the network
 * namespace to join. The variable `parent` of the environment is the PID of the process that starts the chain.
 */
export const holdCommand = (launch: Launch, holder: string | undefined): Command =>
  holdLists(launch, holder).flat();

/** The whole chain as lists, see dropLists. */
export function holdLists(
  launch: Launch,
  holder: string | undefined,
  {
    hold = sh`sh -c ${holdShell} hold ${launch.rootfs} ${launch.hostname ?? ''}`,
    drop = dropLists(launch),
  } = {},
): Command[] {
  const { isolate, rootfs, joins, userNamespace, idmap } = launch;
  // a mount namespace is made in any case, so that the host does not see the mounts; the cgroup namespace is made when
  // PID 1 is in its cgroups
  const made = namespaces.filter((name) => name === 'mount' || (isolate.has(name) && name !== 'cgroup'));
  // slave: a volume with rslave gets the host's later mounts through this namespace's copy of them
  const propagation = receivesMounts(launch) ? 'slave' : 'private';
  const lists: Command[] = joins ? [sh`nsenter --net=/proc/self/fd/5 sh -c ${startShell} start`] : [];
  const unshare: Command = [];
  if (userNamespace && holder !== undefined) {
    const namespace = `/proc/${holder}/ns/user`;
    // nsenter sets user and group to 0 of the namespace; for a caller without root, they are that already
    if (!userNamespace.byRoot) lists.push(sh`nsenter --user=${namespace} --preserve-credentials`);
    else {
      // files of the host's root belong to the container's root in an ID-mapped mount
      lists.push(sh`unshare --mount --propagation ${propagation} ${idmap ?? []} ${namespace} ${rootfs}`);
      unshare.push(...sh`nsenter --user=${namespace}`);
    }
  }
  // a change of user clears the death signal, prctl(2), so it is set after nsenter
  unshare.push(...sh`setpriv --pdeathsig=KILL`);
  unshare.push(
    ...sh`unshare ${made.map((name) => `--${name}`)} --fork --kill-child --propagation ${propagation}`,
  );
  return [...lists, unshare, hold, ...drop];
}
