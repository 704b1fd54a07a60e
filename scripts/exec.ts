#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
exec.ts: run a command in a container that runs, whoever made it

USAGE
  exec.ts [OPTION...] TARGET COMMAND [ARG...]

  TARGET is a container's name, or a PID: that of the first process of any container, or of the unshare(1) that holds
  it. Every word after COMMAND is an argument of COMMAND, not an option of exec.ts.

OPTIONS
  -u, --user USER[:GROUP]  user and group, by name in the container's /etc/passwd and /etc/group, or by ID; a number,
                        up to 2147483647, is always an ID (default: those of the first process)
  -e, --env KEY=VALUE   set an environment variable; KEY alone takes the caller's value; may be repeated
  -w, --workdir DIR     working directory inside the container (default: that of the first process)
  --privileged          keep the capabilities and label of the caller; set no no_new_privs, load no seccomp filter
  --host-tools          run COMMAND from the host, such as tcpdump, ip, ss, strace or ps: it keeps the host's files
                        and the caller's user, privileges, environment and limits, and sees the network and the
                        processes of the container
  --dry-run             print the steps as shell, and run nothing
  -h, --help            print this text

  COMMAND gets the namespaces, root directory, cgroups, resource limits, environment, capabilities and no_new_privs of
  the container's first process. If a seccomp filter applies to that process, the filter of run.ts applies to COMMAND.
  If standard input and output are a terminal, COMMAND gets a terminal of its own.

  A program in perl enters the container; without perl, one in python3. Without either it is nsenter(1), which is
  weaker: a message on stderr says in what.

  The exit code is COMMAND's; 128+n if signal n killed it; 127 if it was not found; 126 if it could not be executed;
  125 if the container could not be entered.

EXAMPLES
  exec.ts web sh                                an interactive shell
  exec.ts -u nobody -w /tmp -e COLOUR=blue web env
  exec.ts 10028 ps aux                          in a container of Docker's, by the PID of its first process
  exec.ts --host-tools web ss -tlnp             listening sockets of a container that has no ss
  exec.ts --dry-run web sh | less               the steps as shell

CHANGES
  Owner of standard streams: if COMMAND runs as a user other than root, exec.ts gives that user the pipes among them,
  and the files that are open for writing, as in exec.ts -u nobody web date >file.
  Changes that COMMAND makes in the container stay.

UNDO
  chown(1) restores the owner of such a file. COMMAND ends with exec.ts, also if that is killed with SIGKILL.

SEE ALSO
  setns(2), nsenter(1), chroot(2), cgroups(7), capabilities(7), credentials(7), prctl(2), pty(7), unshare(1)
*/
import { closeSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { isatty } from 'node:tty';
import { become, canBecome, startAndWait } from './exec/become.ts';
import { type Entry, enterCommand, enterRunbook, type Inside, type Tool } from './exec/enter.ts';
import { capabilities } from './helpers/capabilities.ts';
import { cgroupDirectory, type Hierarchy, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, UsageError, type Values } from './helpers/cli.ts';
import {
  attempt,
  namespaceInode,
  readProc,
  readProcesses,
  startTicks as startTicksOf,
} from './helpers/pids.ts';
import { installCommand, requirePrograms } from './helpers/programs.ts';
import { seccompRules } from './helpers/seccomp/seccomp.ts';
import { type Command, findInPath, findProgram } from './helpers/shell.ts';
import { numberedArchitectures } from './helpers/system-calls.ts';
import { findContainer } from './helpers/target.ts';
import {
  findHome,
  findUser,
  parseUser,
  parseVariable,
  parseWorkdir,
  type UserChoice,
} from './run/command.ts';

export const options = {
  user: { short: 'u', parse: parseUser },
  env: { short: 'e', parse: parseVariable, many: true },
  workdir: { short: 'w', parse: parseWorkdir },
  privileged: {},
  hostTools: {},
  dryRun: {},
} as const;

/** Maps an ID by the text of a uid_map, user_namespaces(7); undefined if the map does not have it. */
function mapped(map: string | undefined, id: number, from: 'inside' | 'outside'): number | undefined {
  for (const line of map?.trim().split('\n') ?? []) {
    const [inside = 0, outside = 0, count = 0] = line.trim().split(/\s+/).map(Number);
    const [first, other] = from === 'inside' ? [inside, outside] : [outside, inside];
    if (id >= first && id < first + count) return id - first + other;
  }
  return undefined;
}

/** Facts from /proc/PID/status. Throws Failure if the process has ended. */
function readStatus(pid: number) {
  const status = readProc(pid, 'status');
  if (status === undefined) throw new Failure(`process ${pid} has ended`);
  const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1] ?? '';
  const numbers = (name: string) => field(name).split(/\s+/).filter(Boolean).map(Number);
  return {
    uid: numbers('Uid')[1] ?? 0,
    gid: numbers('Gid')[1] ?? 0,
    groups: numbers('Groups'),
    bounding: BigInt(`0x${field('CapBnd') || 0}`),
    permitted: BigInt(`0x${field('CapPrm') || 0}`),
    noNewPrivileges: field('NoNewPrivs') === '1',
    filtered: field('Seccomp') === '2',
  };
}

/** User and privileges of the command: those of the container's first process, unless options say otherwise. */
function planInside(
  pid: number,
  inUserNamespace: boolean,
  values: Values<typeof options>,
  needsHome: boolean,
): Inside {
  const status = readStatus(pid);
  const [uids, gids] = inUserNamespace
    ? [readProc(pid, 'uid_map'), readProc(pid, 'gid_map')]
    : ['0 0 4294967295', '0 0 4294967295'];
  const root = `/proc/${pid}/root`;
  const find = (choice: UserChoice) => {
    try {
      return findUser(root, choice);
    } catch (error) {
      throw new Failure((error as Error).message.replace(root, 'the container: '));
    }
  };
  const ownUser = () => {
    const uid = mapped(uids, status.uid, 'outside');
    const gid = mapped(gids, status.gid, 'outside');
    if (uid === undefined || gid === undefined)
      throw new Failure(
        `the user of process ${pid} has no ID in its own user namespace: choose another with -u`,
      );
    const groups = status.groups.flatMap((group) => mapped(gids, group, 'outside') ?? []);
    return { uid, gid, groups, home: needsHome ? findHome(root, uid) : '' };
  };
  const user = values.user === undefined ? ownUser() : find(values.user);
  const hostUid = mapped(uids, user.uid, 'inside');
  if (hostUid === undefined || mapped(gids, user.gid, 'inside') === undefined)
    throw new Failure(
      `user ${user.uid}:${user.gid} is not mapped in the container's user namespace: see /proc/${pid}/uid_map`,
    );
  // root gets the whole bounding set at each execve(2): where the first process is root and has less, this is the limit
  const bounding =
    status.uid === hostUid && status.uid === mapped(uids, 0, 'inside')
      ? status.bounding & status.permitted
      : status.bounding;
  const rules = seccompRules(
    process.arch,
    capabilities.filter((_, bit) => (bounding >> BigInt(bit)) & 1n),
  );
  if (status.filtered && !rules && !values.privileged)
    throw new Failure(
      `the container has a seccomp filter, and exec.ts has none for ${process.arch}: --privileged runs COMMAND without one`,
    );
  const label = readProc(pid, 'attr/current');
  return {
    user,
    hostUid,
    setgroupsDenied: inUserNamespace && readProc(pid, 'setgroups')?.trim() === 'deny',
    bounding: values.privileged ? undefined : bounding,
    noNewPrivileges: status.noNewPrivileges && !values.privileged,
    rules: status.filtered && !values.privileged ? rules : undefined,
    confined: !values.privileged && Boolean(label) && label !== readProc(process.pid, 'attr/current'),
  };
}

/**
 * Directories of the first process's cgroups. Throws Failure if one can't be joined, or is frozen, as COMMAND would not
 * run then. Users other than root need not join those that they are in already.
 */
function planCgroups(hierarchies: Hierarchy[], pid: number, isRoot: boolean): string[] {
  const own = readProc(process.pid, 'cgroup') ?? '';
  const its = readProc(pid, 'cgroup') ?? '';
  const directories = its
    .split('\n')
    .filter(Boolean)
    .flatMap((line) => {
      const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
      const hierarchy = hierarchies.find((candidate) => candidate.controllers.join() === controllers);
      const directory = hierarchy && cgroupDirectory(hierarchy, path);
      const isOwn = own.split('\n').includes(line);
      if (!directory && !isOwn)
        throw new Failure(
          `cannot join the cgroup ${path} of ${controllers || 'cgroup v2'}: it is not mounted here`,
        );
      return directory && (isRoot || !isOwn) ? [directory] : [];
    });
  const isFrozen = (directory: string) =>
    /^FROZEN|^FREEZING/.test(attempt(() => readFileSync(join(directory, 'freezer.state'), 'utf8')) ?? '') ||
    attempt(() => readFileSync(join(directory, 'cgroup.events'), 'utf8'))?.includes('frozen 1');
  if (directories.some(isFrozen)) throw new Failure(`${pid} is paused: stop.ts --resume lets it go on`);
  return directories;
}

/** The namespaces of a process that differ from ours, in an order in which they can be entered. */
function planNamespaces(pid: number, isRoot: boolean, hostTools: boolean): string[] {
  // user_namespaces(7): entered first it gives a user the privileges for the others, last it takes none from root
  const others = [...(hostTools ? [] : ['mnt', 'cgroup']), 'net', 'uts', 'ipc', 'time', 'pid'];
  const kinds = !isRoot ? ['user', ...others] : hostTools ? others : [...others, 'user'];
  return kinds.filter((kind) => {
    const own = namespaceInode(process.pid, kind);
    const its = namespaceInode(pid, kind);
    if (own !== undefined && its === undefined)
      throw new Failure(
        isRoot ? `process ${pid} has ended` : `process ${pid} belongs to another user: needs root: try sudo`,
      );
    // for root, the shield has made a mount namespace by then
    return own !== its || (kind === 'mnt' && isRoot);
  });
}

/** Options and facts become an entry. Throws UsageError for options that contradict each other. */
function planEntry(values: Values<typeof options>, [target = '', ...command]: string[]): Entry {
  const { hostTools, user, privileged, env, workdir } = values;
  if (command.length === 0) throw new UsageError('COMMAND is missing');
  if (hostTools && (user !== undefined || privileged))
    throw new UsageError(
      '--host-tools keeps the user and privileges of the caller: leave out -u and --privileged',
    );
  if (!numberedArchitectures.includes(process.arch))
    throw new Failure(
      `exec.ts does not support ${process.arch}: only ${numberedArchitectures.join(' and ')}`,
    );

  const isRoot = process.getuid?.() === 0;
  const shields = isRoot || hostTools ? ['unshare', 'mount'] : [];
  const parents = 'execve' in process ? [] : ['setpriv'];
  requirePrograms(['env', ...shields, ...parents], 'enter a container');

  const hierarchies = readHierarchies();
  const { first, startTicks } = findContainer(hierarchies, target);
  if (!first || startTicks === undefined) throw new Failure(`${target} has no running process`);
  const { pid } = first;
  const namespaces = planNamespaces(pid, isRoot, hostTools);
  if (!isRoot && !namespaces.includes('user'))
    throw new Failure(`${target} has no user namespace of its own: needs root: try sudo`);
  const environ = readProc(pid, 'environ') ?? '';
  const isSet = (key: string) => environ.startsWith(`${key}=`) || environ.includes(`\0${key}=`);
  const inside = hostTools ? undefined : planInside(pid, namespaces.includes('user'), values, !isSet('HOME'));
  const environment = inside
    ? [
        ...(isSet('PATH') ? [] : ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin']),
        ...(isSet('HOME') && user === undefined ? [] : [`HOME=${inside.user.home}`]),
        ...(isatty(0) && isatty(1) ? [`TERM=${process.env.TERM ?? 'xterm'}`] : []),
      ]
    : [];
  return {
    pid,
    startTicks,
    namespaces,
    cgroups: hostTools ? [] : planCgroups(hierarchies, pid, isRoot),
    command,
    environment: [...environment, ...env.filter(Boolean)],
    workdir: workdir ?? (hostTools ? process.cwd() : undefined),
    inside,
    isRoot,
  };
}

/** The program that enters on this host. A python3 in PATH may be a wrapper that reads the working directory. */
function findTool(): Tool {
  const perl = findProgram('perl') ?? findInPath('perl');
  if (perl) return { path: realpathSync(perl), name: 'perl' };
  const python = findProgram('python3');
  if (python) return { path: realpathSync(python), name: 'python3' };
  const nsenter = findProgram('nsenter') ?? findInPath('nsenter');
  if (nsenter) return { path: nsenter, name: 'nsenter' };
  throw new Failure(`needs perl, python3 or nsenter: ${installCommand(['perl'])}`);
}

/** Changes to /proc/PID: files opened from there belong to this very process, and to no later one of its PID, proc(5). */
function holdOn({ pid, startTicks }: Entry): void {
  attempt(() => process.chdir(`/proc/${pid}`));
  const its = startTicksOf(pid);
  if (its === undefined) throw new Failure(`process ${pid} has ended`);
  if (its !== startTicks) throw new Failure(`process ${pid} has ended, and another has its PID`);
}

/** Enters by nsenter(1), and waits. Signals go to the command, which is a child of nsenter. */
async function enterByNsenter(argv: Command, env: NodeJS.ProcessEnv, passesKeys: boolean): Promise<number> {
  // no descriptor of the caller gets in; those of node's own are closed by execve(2)
  for (const fd of readdirSync('/proc/self/fd').map(Number)) {
    const flags = attempt(
      () => /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1],
    );
    if (fd > 2 && flags && !(Number.parseInt(flags, 8) & 0o2000000)) closeSync(fd);
  }
  return startAndWait(
    argv,
    env,
    passesKeys,
    (pid) => [...readProcesses().values()].find(({ ppid }) => ppid === pid)?.pid ?? pid,
  );
}

await main(
  import.meta.url,
  { options, operands: [1, 1], command: true, exitCodes: { failed: 125, usage: 125 } },
  async (values, operands) => {
    const entry = planEntry(values, operands);
    const tool = findTool();
    const variables = (readProc(entry.pid, 'environ') ?? '').split('\0').filter((pair) => pair.includes('='));
    if (tool.name === 'nsenter' && entry.inside)
      console.error(
        "exec: no perl or python3, so nsenter(1) enters: the container's own setpriv and env start COMMAND, as root at first, without a seccomp filter, on this terminal: apt-get install perl-base",
      );
    if (values.dryRun) {
      process.stdout.write(enterRunbook(entry, tool, variables));
      return 0;
    }
    holdOn(entry);
    const { PATH } = process.env;
    const env = entry.inside
      ? { ...process.env, PATH: `/usr/sbin:/usr/bin:/sbin:/bin:${PATH}` }
      : process.env;
    // the keys of a terminal reach the program by themselves, but for one that is relayed, where they do nothing
    const passesKeys = (entry.inside && tool.name !== 'nsenter' && isatty(0) && isatty(1)) || !isatty(0);
    if (tool.name === 'nsenter') return enterByNsenter(enterCommand(entry, tool, variables), env, passesKeys);
    const parent = canBecome ? undefined : process.pid;
    return become(enterCommand(entry, tool, variables, parent), env, passesKeys);
  },
);
