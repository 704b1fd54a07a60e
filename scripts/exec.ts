#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
exec.ts: run a command in a container that runs, whoever made it

USAGE
  exec.ts [OPTION...] TARGET COMMAND [ARG...]

  TARGET is a container's name, or a PID: that of any process in any container,
  or of the unshare(1) that holds it. A message on stderr names the container,
  if the PID is not that of its first process. Every word after COMMAND is an
  argument of COMMAND, not an option of exec.ts.

  COMMAND gets the namespaces, root directory, cgroups, resource limits,
  environment, capabilities and no_new_privs of the container's first process,
  and the umask of run.ts --umask, else of that process, but 022 at least.
  If a seccomp filter applies to that process, the filter of run.ts applies to
  COMMAND. If standard input and output are a terminal, COMMAND gets a terminal
  of its own. If COMMAND is a shell, its prompt shows user, container and
  directory, root@web:/#, unless its start files, the container's environment or
  -e set PS1.

  If the kernel kills processes of the container at a memory limit meanwhile,
  exec.ts says which, and what raises it.

  A program in perl enters the container; without perl, one in python3. Without
  either it is nsenter(1), which is weaker: a message on stderr says in what.

EXAMPLES
  exec.ts -it web sh                            an interactive shell
  exec.ts -u nobody -w /tmp -e COLOUR=blue web env
  exec.ts -d web /srv/reload                    in the background
  exec.ts 10028 ps aux                          by a PID, as in Docker's
  exec.ts --host-tools web ss -tlnp             if it has no ss of its own

OPTIONS
* -u, --user USER[:GROUP]  user and group inside, by name or ID
                        names are those of the container's /etc/passwd and
                        /etc/group; a number, up to 2147483647, is always an ID
                        (default: those of the first process)
* -e, --env KEY=VALUE   set an environment variable
                        KEY alone takes the caller's value; may be repeated
* -w, --workdir DIR     working directory (default: that of the first process)
  --preserve-fds N      keep N descriptors of the caller from 3 on
* -d, --detach          run COMMAND in the background, without standard streams
                        exec.ts ends when COMMAND has started
  -i, --interactive     accepted, changes nothing: COMMAND always gets the
                        standard input of exec.ts, unless -d is given
  -t, --tty             accepted, changes nothing: COMMAND gets a terminal
                        whenever exec.ts has one
* --privileged          keep the capabilities and label of the caller
                        set no no_new_privs, load no seccomp filter
* --host-tools          run COMMAND from the host: tcpdump, ip, ss, strace or ps
                        it keeps the host's files and the caller's user,
                        privileges, environment and limits, and sees the network
                        and the processes of the container
* --dry-run             print the steps as shell, and run nothing
* -h, --help            print the usual options; --help all prints all of this
  --version             print name and version

CHANGES
  Owner of standard streams: if COMMAND runs as a user other than root, exec.ts
  gives that user the pipes among them, and the files that are open for writing,
  as in exec.ts -u nobody web date >file.
  Changes that COMMAND makes in the container stay.

UNDO
  chown(1) restores the owner of such a file. Without -d, COMMAND ends with
  exec.ts, also if that is killed with SIGKILL.

EXIT CODES
  The exit code of COMMAND; 128+n if signal n killed it; 127 if it was not
  found; 126 if it could not be executed; 125 if the container could not be
  entered. With -d: 0 once COMMAND has started, else 125 to 127.

SEE ALSO
  setns(2), nsenter(1), chroot(2), cgroups(7), capabilities(7), credentials(7),
  prctl(2), pty(7), unshare(1)
*/
import { readFileSync, realpathSync } from 'node:fs';
import { hostname as osHostname } from 'node:os';
import { join } from 'node:path';
import { isatty } from 'node:tty';
import { become, canBecome, startAndWait, startDetached } from './exec/become.ts';
import { type Entry, enterCommand, enterRunbook, type Tool } from './exec/enter.ts';
import { planInside } from './exec/inside.ts';
import { checkRoom } from './exec/room.ts';
import { scriptPath } from './helpers/called.ts';
import { cgroupDirectory, cgroupIn, type Hierarchy, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, refuseLateOptions, UsageError, type Values } from './helpers/cli.ts';
import { notesFolder } from './helpers/containers.ts';
import { attempt, namespaceInode, readProc, readProcesses, startTicks, statusField } from './helpers/pids.ts';
import { installCommand, requirePrograms } from './helpers/programs.ts';
import { closeInherited, findInPath, findProgram, runProgram, sh, systemPath } from './helpers/shell.ts';
import { numberedArchitectures } from './helpers/system-calls.ts';
import { findContainer } from './helpers/target.ts';
import {
  countKills,
  describeOomKills,
  hasMemoryLimit,
  raiseCommand,
  settledOomKills,
} from './limit/oom-kills.ts';
import type { Cgroup } from './limit/table.ts';
import {
  checkDescriptors,
  defaultPath,
  findHome,
  parseDescriptors,
  parseUser,
  parseVariable,
  parseWorkdir,
} from './run/command.ts';
import { isShell, prompt } from './run/prompt.ts';

export const options = {
  user: { short: 'u', parse: parseUser },
  env: { short: 'e', parse: parseVariable, many: true },
  workdir: { short: 'w', parse: parseWorkdir },
  preserveFds: { parse: parseDescriptors },
  detach: { short: 'd' },
  interactive: { short: 'i' },
  tty: { short: 't' },
  privileged: {},
  hostTools: {},
  dryRun: {},
} as const;

/**
 * Directories of the first process's cgroups. Throws Failure if one can't be joined, or is frozen, as COMMAND would not
 * run then. Users other than root need not join those that they are in already.
 */
function planCgroups(hierarchies: Hierarchy[], pid: number, isRoot: boolean): string[] {
  const linesOf = (of: number | 'self') => (readProc(of, 'cgroup') ?? '').split('\n').filter(Boolean);
  const own = linesOf('self');
  const directories = linesOf(pid).flatMap((line) => {
    const isOwn = own.includes(line);
    if (isOwn && !isRoot) return [];
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const hierarchy = hierarchies.find((candidate) => candidate.controllers.join() === controllers);
    const directory = hierarchy && cgroupDirectory(hierarchy, path);
    if (!directory && !isOwn)
      throw new Failure(
        `cannot join the cgroup ${path} of ${controllers || 'cgroup v2'}: it is not mounted here`,
      );
    return directory ?? [];
  });
  const isFrozen = (directory: string) =>
    ['freezer.state', 'cgroup.events']
      .map((file) => attempt(() => readFileSync(join(directory, file), 'utf8')) ?? '')
      .some((text) => /^(FROZEN|FREEZING|frozen 1)$/m.test(text));
  if (directories.some(isFrozen))
    throw new Failure(`${pid} is paused: type ${scriptPath('stop')} --resume ${pid}`);
  return directories;
}

/** What is entered, as files of /proc/PID: the namespaces that differ from ours, and the root directory. */
function planParts(pid: number, isRoot: boolean, hostTools: boolean): string[] {
  const shared = ['net', 'uts', 'ipc', 'time', 'pid'];
  const differs = (kind: string) => {
    const own = namespaceInode(process.pid, kind);
    const its = namespaceInode(pid, kind);
    if (own !== undefined && its === undefined)
      throw new Failure(
        isRoot ? `process ${pid} has ended` : `process ${pid} belongs to another user: needs root: try sudo`,
      );
    // root enters it in any case: the shield has left the host's mount namespace by then
    return own !== its || (kind === 'mnt' && isRoot);
  };
  const pathsOf = (kinds: string[]) => kinds.filter(differs).map((kind) => `ns/${kind}`);
  const others = hostTools ? pathsOf(shared) : [...pathsOf(['mnt', 'cgroup', ...shared]), 'root'];
  // user_namespaces(7): the user namespace gives a user the privileges to enter the others. root has them, and loses
  // them when it enters
  if (!isRoot) return [...pathsOf(['user']), ...others];
  return hostTools ? others : [...others, ...pathsOf(['user'])];
}

/** The host name in the container, uts_namespaces(7); empty if it can't be found. */
async function hostnameOf(pid: number, variables: string[], isRoot: boolean): Promise<string> {
  if (namespaceInode(pid, 'uts') === namespaceInode(process.pid, 'uts')) return osHostname();
  const known = variables.find((pair) => pair.startsWith('HOSTNAME='));
  if (known) return known.slice('HOSTNAME='.length);
  const user = isRoot ? [] : ['--user', '--preserve-credentials'];
  return (await runProgram(sh`nsenter --target ${pid} ${user} --uts uname -n`)).stdout.trim();
}

/**
 * The umask for a command, in octal: that of run.ts --umask, else that of the first process, if it takes away as much as
 * 022. A daemon may have cleared its own.
 */
function umaskOf(name: string | undefined, pid: number): string {
  const noted = name && attempt(() => readFileSync(join(notesFolder(name), 'umask'), 'utf8').trim());
  if (noted) return noted;
  const own = Number.parseInt(statusField(pid, 'Umask'), 8);
  return (own & 0o22) === 0o22 ? own.toString(8) : '22';
}

/** Plans an entry from options and facts. Throws UsageError for options that contradict each other. */
async function planEntry(
  values: Values<typeof options>,
  [target = '', ...command]: string[],
): Promise<Entry> {
  const { hostTools, user, privileged, env, workdir, preserveFds = 0, detach } = values;
  if (command.length === 0) throw new UsageError(`COMMAND is missing: type ${scriptPath()} ${target} sh`);
  refuseLateOptions(options, 'TARGET', command);
  if (hostTools && (user !== undefined || privileged))
    throw new UsageError(
      '--host-tools keeps the user and privileges of the caller: leave out -u and --privileged',
    );
  checkDescriptors(preserveFds);
  if (detach && preserveFds > 0)
    throw new UsageError(
      '--preserve-fds does not go with -d: the program that waits for COMMAND would have these descriptors open too: leave out one',
    );
  if (!numberedArchitectures.includes(process.arch))
    throw new Failure(
      `exec.ts does not support ${process.arch}: only ${numberedArchitectures.join(' and ')}`,
    );

  const isRoot = process.getuid?.() === 0;
  const shields = isRoot || hostTools ? ['unshare', 'mount'] : [];
  requirePrograms(['env', ...shields], 'enter a container');

  const hierarchies = readHierarchies();
  const { first, startTicks: started, remark, name } = findContainer(hierarchies, target);
  if (!first || started === undefined) throw new Failure(`${target} has no running process`);
  const { pid } = first;
  const parts = planParts(pid, isRoot, hostTools);
  if (!isRoot && !parts.includes('ns/user'))
    throw new Failure(`${target} has no user namespace of its own: needs root: try sudo`);
  if (remark) console.error(`exec: ${remark}`);
  const variables = (readProc(pid, 'environ') ?? '').split('\0').filter((pair) => pair.includes('='));
  const isTerminal = isatty(0) && isatty(1) && !detach;
  const isSet = (key: string) => variables.some((pair) => pair.startsWith(`${key}=`));
  const inside = hostTools
    ? undefined
    : planInside(pid, parts.includes('ns/user'), !isSet('HOME'), user, privileged);
  const environment = inside
    ? [
        ...(isSet('PATH') ? [] : [defaultPath]),
        ...(isSet('HOME') && user === undefined ? [] : [`HOME=${inside.user.home}`]),
        ...(isTerminal ? [`TERM=${process.env.TERM ?? 'xterm'}`] : []),
      ]
    : [];
  if (inside && isTerminal && isShell(command)) {
    const { uid } = inside.user;
    const hostname = await hostnameOf(pid, variables, isRoot);
    const root = `/proc/${pid}/root`;
    const given = [...variables, ...env];
    environment.push(
      ...prompt(root, command, { uid, home: findHome(root, uid), hostname, environment: given }),
    );
  }
  // ps(1) and the like need a /proc with the container's processes, which only they see, unshare(1)
  const ownProc =
    hostTools && parts.includes('ns/pid') ? sh`unshare --mount --mount-proc --propagation slave` : [];
  return {
    pid,
    startTicks: started,
    parts,
    cgroups: hostTools ? [] : planCgroups(hierarchies, pid, isRoot),
    command: [...ownProc, ...command],
    variables,
    environment: [...environment, ...env.filter(Boolean)],
    workdir: workdir ?? (hostTools ? process.cwd() : undefined),
    detach,
    preserved: preserveFds,
    umask: umaskOf(name, pid),
    inside,
    isRoot,
  };
}

/** The program that enters on this host. */
function findTool(): Tool {
  const perl = findProgram('perl') ?? findInPath('perl');
  if (perl) return { path: realpathSync(perl), name: 'perl' };
  const python = findProgram('python3'); // one in PATH may be a wrapper that reads the working directory
  if (python) return { path: realpathSync(python), name: 'python3' };
  const nsenter = findProgram('nsenter') ?? findInPath('nsenter');
  if (!nsenter) throw new Failure(`needs perl, python3 or nsenter: ${installCommand(['perl'])}`);
  requirePrograms(['setpriv'], 'enter a container');
  return { path: nsenter, name: 'nsenter' };
}

/** Changes to /proc/PID: files opened from there belong to this very process, and to no later one of its PID, proc(5). */
function holdOn({ pid, startTicks: started }: Entry): void {
  attempt(() => process.chdir(`/proc/${pid}`));
  const its = startTicks(pid);
  if (its === undefined) throw new Failure(`process ${pid} has ended`);
  if (its !== started) throw new Failure(`process ${pid} has ended, and another has its PID`);
}

/** The limited memory cgroup that COMMAND joins; undefined if there is none, and no limit that could be exceeded. */
function findMemory(
  hierarchies: Hierarchy[],
  { cgroups }: Entry,
): { place: Cgroup; hierarchy: Hierarchy } | undefined {
  const found = cgroupIn(hierarchies, 'memory', cgroups);
  if (!found) return undefined;
  const { hierarchy, directory } = found;
  const place = { version: hierarchy.version, directory };
  return hasMemoryLimit(place, hierarchy) ? { place, hierarchy } : undefined;
}

/** Prints one line if the kernel has killed more processes of the container than `before`, for lack of memory. */
async function reportKills(
  target: string,
  memory: ReturnType<typeof findMemory>,
  before: number,
): Promise<void> {
  const count = (memory && countKills(memory.place)) ?? 0;
  if (!memory || count <= before) return;
  const kills = await settledOomKills(memory.place, memory.hierarchy, 0);
  if (kills)
    console.error(
      `exec: ${target}: ${describeOomKills({ ...kills, count: count - before }, raiseCommand(target), memory.hierarchy)}`,
    );
}

/** Enters by nsenter(1), and waits. Signals go to the command, which is a child of nsenter. */
async function enterByNsenter(
  argv: string[],
  env: NodeJS.ProcessEnv,
  passesKeys: boolean,
  preserved: number,
): Promise<number> {
  // nsenter(1) passes on all descriptors: those of the caller are closed here, those of node by execve(2)
  closeInherited(2 + preserved);
  return startAndWait(
    argv,
    env,
    passesKeys,
    preserved,
    (pid) => [...readProcesses().values()].find(({ ppid }) => ppid === pid)?.pid ?? pid,
  );
}

await main(
  import.meta.url,
  { options, operands: [1, 1], command: true, exitCodes: { failed: 125, usage: 125 } },
  async (values, operands) => {
    const entry = await planEntry(values, operands);
    const [target = ''] = operands;
    const tool = findTool();
    if (tool.name === 'nsenter' && entry.detach)
      throw new Failure(
        `-d needs perl or python3, to tell whether COMMAND has started: ${installCommand(['perl'])}`,
      );
    if (tool.name === 'nsenter' && entry.inside)
      console.error(
        `exec: no perl or python3, so nsenter(1) enters: the container's own setpriv and env start COMMAND, as root at first, without a seccomp filter, on this terminal: ${installCommand(['perl'])}`,
      );
    if (values.dryRun) {
      process.stdout.write(enterRunbook(entry, tool));
      return 0;
    }
    const hierarchies = readHierarchies();
    checkRoom(hierarchies, entry.cgroups, target);
    holdOn(entry);
    const { PATH } = process.env;
    const env = entry.inside ? { ...process.env, PATH: `${systemPath}:${PATH}` } : process.env;
    // a terminal sends SIGINT and SIGQUIT to all its processes; if it is raw, as when it is relayed, it sends none
    const passesKeys = (entry.inside && tool.name !== 'nsenter' && isatty(0) && isatty(1)) || !isatty(0);
    if (entry.detach) return startDetached(enterCommand(entry, tool), env);
    // node stays where a limit of memory can be exceeded: what the kernel kills is told when COMMAND has ended
    const memory = findMemory(hierarchies, entry);
    const killsBefore = (memory && countKills(memory.place)) ?? 0;
    // execve(2) closes descriptors above 2, which node has marked
    const waits = memory !== undefined || !canBecome || entry.preserved > 0;
    const words = enterCommand(entry, tool, waits && tool.name !== 'nsenter' ? process.pid : undefined);
    let code: number;
    if (tool.name === 'nsenter') code = await enterByNsenter(words, env, passesKeys, entry.preserved);
    else code = waits ? await startAndWait(words, env, passesKeys, entry.preserved) : become(words, env);
    await reportKills(target, memory, killsBefore);
    return code;
  },
);
