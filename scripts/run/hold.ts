// What becomes PID 1: a chain of programs, each of which becomes the next. They make the namespaces, give up privileges,
// and wait; in the end the last one becomes the command. docs/run.md tells the order of things.
import { realpathSync } from 'node:fs';
import { basename } from 'node:path';
import { embedded } from '../helpers/embedded.ts';
import { type Command, sh } from '../helpers/shell.ts';
import type { Launch } from './container.ts';

/** A program of sh without its comments, for ps(1) shows it. */
const code = (text: string) => text.replace(/^# .*\n/gm, '').trim();

export const startShell = code(embedded(import.meta.url, './start.sh'));
export const holdShell = code(embedded(import.meta.url, './hold.sh'));
export const releaseShell = code(embedded(import.meta.url, './release.sh'));
export const consoleShell = code(embedded(import.meta.url, './console.sh'));
export const keepShell = code(embedded(import.meta.url, './keep.sh'));

/** The namespaces of --isolate and the flags of unshare(1) that make them. */
export const namespaceFlags: Record<string, string> = {
  mount: '--mount',
  pid: '--pid',
  uts: '--uts',
  ipc: '--ipc',
  cgroup: '--cgroup',
  net: '--net',
};

/** Whether a variable has a meaning for the dynamic loader, ld.so(8). */
export const forLoader = (variable: string) => /^(LD_|GCONV_PATH=|LOCPATH=|MALLOC_)/.test(variable);

/** Takes no functions or settings from the container's variables, which an image may have chosen: bash(1), -p. */
const shellWords = (shell: string): Command =>
  basename(realpathSync(shell)) === 'bash'
    ? [shell, ...(basename(shell) === 'bash' ? ['--norc'] : []), '-p', '-c']
    : [shell, '-c'];

/**
 * From the held shell to the command: its cgroup namespace, limits, system calls, user and privileges, environment;
 * then it waits, and becomes the command. Each list is one program, or two that belong together: a line in print.
 */
export function dropLists(launch: Launch, release = releaseShell): Command[] {
  const { isolate, rootfs, user, capabilities, privileged, newPrivileges, seccomp, limits } = launch;
  const { environment, workdir, command, shell, chroot, userNamespace, terminal } = launch;
  const setpriv: string[] = [];
  if (isolate.has('mount')) {
    const groups = user.groups.length > 0 ? `--groups=${user.groups}` : '--clear-groups';
    // user_namespaces(7): who maps but his own group may not call setgroups(2)
    setpriv.push(
      `--reuid=${user.uid}`,
      `--regid=${user.gid}`,
      userNamespace?.single ? '--keep-groups' : groups,
    );
    // prctl(2): a change of user clears the death signal, so it is set once more
    setpriv.push('--pdeathsig=KILL');
  }
  if (!newPrivileges) setpriv.push('--no-new-privs');
  // root gets all of the bounding set at execve(2), so what is not in there is gone for good
  if (!privileged)
    setpriv.push('--inh-caps=-all', `--bounding-set=-all${capabilities.map((name) => `,+${name}`).join('')}`);
  const early = environment.filter((variable) => !forLoader(variable));
  const late = environment.filter(forLoader);
  // the caller or a shell may ignore these, and execve(2) would hand that on
  const signals = '--default-signal=HUP,INT,QUIT,TERM,USR1,USR2,TSTP,PIPE,XFSZ';
  const last = isolate.has('mount') ? command : [chroot, rootfs, ...command];
  const tty = terminal && isolate.has('mount') ? '/dev/console' : '';
  const lists = [
    [
      ...(isolate.has('cgroup') ? sh`unshare --cgroup` : []),
      ...(limits.length > 0 ? ['prlimit', ...limits] : []),
      // seccomp(2) asks for CAP_SYS_ADMIN or no_new_privs: here it has the one still, later it may have neither
      ...(seccomp ? (seccomp.file ? ['setpriv', ...seccomp.words] : seccomp.words) : []),
    ],
    setpriv.length > 0 ? ['setpriv', ...setpriv] : [],
    sh`env -i ${signals} ${early}`,
    sh`${shellWords(shell)} ${release} run ${tty} ${isolate.has('mount') ? workdir : ''} ${late} --`,
    last,
  ];
  return lists.filter((list) => list.length > 0);
}

/**
 * What a process of the host's becomes to be PID 1, or the first process, of the container. The PID of its
 * parent is in the variable `parent`. `holder` is the PID of the process that holds the user namespace, and descriptor 5
 * the network namespace that it joins.
 */
export const holdCommand = (launch: Launch, holder: string | undefined): Command =>
  holdLists(launch, holder).flat();

/** The same as lists, see dropLists. */
export function holdLists(
  launch: Launch,
  holder: string | undefined,
  {
    start = startShell,
    hold = sh`sh -c ${holdShell} hold ${launch.rootfs} ${launch.hostname ?? ''}`,
    drop = dropLists(launch),
  } = {},
): Command[] {
  const { isolate, rootfs, joins, userNamespace, idmap } = launch;
  // without --isolate mount the mounts are still nobody else's business; the cgroup namespace is made when the process
  // is in its cgroups
  const wanted = Object.keys(namespaceFlags).filter((word) => isolate.has(word) && word !== 'cgroup');
  const flags = [...new Set(['mount', ...wanted])].map((word) => namespaceFlags[word] as string);
  const last: Command = [];
  const chain: Command[] = joins ? [sh`nsenter --net=/proc/self/fd/5`] : [];
  if (userNamespace && holder !== undefined) {
    const namespace = `/proc/${holder}/ns/user`;
    // the files of the rootfs are the host root's: in a mount with mapped IDs they are the container's root's
    if (userNamespace.byRoot)
      chain.push(sh`unshare --mount --propagation private ${idmap ?? []} ${namespace} ${rootfs}`);
    // as root it becomes the user 0 of the namespace; a user is that already
    if (userNamespace.byRoot) last.push(...sh`nsenter --user=${namespace}`);
    else chain.push(sh`nsenter --user=${namespace} --preserve-credentials`);
  }
  // a change of user clears the death signal, prctl(2)
  last.push(...sh`setpriv --pdeathsig=KILL ${start ? ['sh', '-c', start, 'start'] : []}`);
  last.push(...sh`unshare ${flags} --fork --kill-child --propagation private`);
  return [...chain, last, hold, ...drop];
}
