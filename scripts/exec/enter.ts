// Entering a container: the program of the host that enters, and its arguments. docs/exec.md explains it.
import { basename } from 'node:path';
import { boundingOptions, capabilities } from '../helpers/capabilities.ts';
import { embedded } from '../helpers/embedded.ts';
import { callsPerl, callsPython } from '../helpers/seccomp/seccomp.ts';
import { type Command, sh, systemPath, variable } from '../helpers/shell.ts';
import { printCommand } from '../helpers/steps.ts';
import { callWords } from '../helpers/system-calls.ts';
import { userOptions } from '../run/command.ts';
import type { Inside } from './inside.ts';

/** The command to run, and the container. */
export interface Entry {
  /** the container's first process and its start time: a later process may get the same PID */
  pid: number;
  startTicks: number;
  /** files of /proc/PID: namespaces that differ from the caller's, and `root`, in an order in which they can be entered */
  parts: string[];
  /** directories of the first process's cgroups */
  cgroups: string[];
  command: string[];
  /** environment of the first process, KEY=VALUE */
  variables: string[];
  /** KEY=VALUE, in addition to those of the first process */
  environment: string[];
  /** undefined: that of the first process */
  workdir: string | undefined;
  /** the command runs in the background, without standard streams */
  detach: boolean;
  /** how many descriptors of the caller, from 3 on, the command keeps */
  preserved: number;
  /** in octal; the command gets it if it is inside */
  umask: string;
  /** undefined: the command keeps the host's root directory, and the caller's user and privileges */
  inside: Inside | undefined;
  /** the caller is root, whose programs the container must not write to */
  isRoot: boolean;
}

/** The program of the host that enters, by its absolute path. */
export interface Tool {
  path: string;
  name: keyof typeof programs;
}

/** The text of each program; nsenter needs none. */
const programs = {
  perl: `${callsPerl}\n${embedded(import.meta.url, './enter.pl')}`,
  python3: `${callsPython}\n${embedded(import.meta.url, './enter.py')}`,
  nsenter: '',
};

/** System calls that these programs make by number. */
const calls = 'capset clone keyctl prctl prlimit64 setgroups setns setresgid setresuid setsid'.split(' ');

/** The parameters that enter.pl describes: words NAME=VALUE, several for a list. `parent`: PID of the parent, if any. */
function parameters(
  { parts, cgroups, inside, environment, workdir, detach, preserved, umask }: Entry,
  parent?: number,
): string[] {
  const limits = inside?.limits && {
    confined: inside.limits.confined ? 'yes' : [],
    'no-new-privs': inside.limits.noNewPrivileges ? 'yes' : [],
    privileges: 'limited',
    // newer kernels have capabilities without a name here
    capability: inside.limits.bounding.map((bit) => `${capabilities[bit] ?? 'new'}:${bit}`),
  };
  const who = inside && {
    inside: 'yes',
    umask,
    cgroup: cgroups,
    uid: inside.user.uid,
    gid: inside.user.gid,
    group: inside.user.groups,
    'host-uid': inside.hostUid,
    setgroups: inside.setgroupsDenied ? 'deny' : [],
    ...limits,
  };
  const how = { workdir: workdir ?? [], detach: detach ? 'yes' : [], preserve: preserved || [] };
  const all = { parent: parent ?? [], enter: parts, ...who, environment, ...how };
  return Object.entries(all).flatMap(([name, values]) => [values].flat().map((value) => `${name}=${value}`));
}

/** Protects a program against writes through /proc/PID/exe: it runs from a read-only mount in a private namespace. */
const shield = ({ inside, isRoot }: Entry, path: string): Command[] => {
  const mount = 'mount --bind -o ro "$0" "$0" || exit 125; exec "$@"';
  return inside && isRoot ? [sh`unshare --mount --propagation slave sh -c ${mount} ${path}`] : [];
};

/** The command by which the container's own setpriv(1) drops privileges. */
function setprivWords({ user, setgroupsDenied, limits }: Inside): Command {
  const words = ['setpriv', ...userOptions(user, setgroupsDenied)];
  if (!limits) return words;
  if (limits.noNewPrivileges) words.push('--no-new-privs');
  return [...words, ...boundingOptions(limits.bounding.flatMap((bit) => capabilities[bit] ?? []))];
}

/** The words of nsenter(1), without perl and python: the container's own programs drop the privileges. */
function nsenterLists(entry: Entry, path: string): Command[] {
  const { pid, parts, cgroups, inside, isRoot, workdir, command, environment, umask } = entry;
  const options = parts.map((path) => `--${path === 'ns/mnt' ? 'mount' : basename(path)}`);
  const nsenter = sh`setpriv --pdeathsig=KILL ${path} --target ${pid} ${options}`;
  if (!isRoot && parts.includes('ns/user')) nsenter.push('--preserve-credentials');
  const change = sh`sh -c ${'cd -- "$0" || exit 125; exec "$@"'}`;
  const start = workdir === undefined ? [] : [[...change, workdir]];
  if (!inside) return [nsenter, ...start, ['env', ...environment], command];
  const join =
    'umask "$0"; while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"';
  return [
    ...shield(entry, path),
    ['sh', '-c', join, umask, ...cgroups, '--'],
    // no variable of the caller enters; PATH finds the container's own programs
    sh`env -i PATH=${systemPath} ${nsenter} --wd`,
    setprivWords(inside),
    ...start,
    ['env', '-i', ...entry.variables, ...environment],
    command,
  ];
}

/** The command that enters, as lists of words; in print, each list begins a line. `program`: its text, in perl or python. */
function enterLists(entry: Entry, { path, name }: Tool, program: string, parent?: number): Command[] {
  if (name === 'nsenter') return nsenterLists(entry, path);
  return [
    ...shield(entry, path),
    [
      ...(entry.inside ? sh`env -i` : []),
      path,
      ...(name === 'perl' ? ['-e', program, '--'] : ['-I', '-S', '-c', program]),
    ],
    ['exec', ...callWords(process.arch, calls), '--'],
    [...(entry.inside?.limits?.rules ?? []), '--'],
    [...parameters(entry, parent), '--'],
    entry.command,
  ];
}

/** The command that enters, to be run in /proc/PID. `parent`: PID of the parent, with which the command ends. */
export const enterCommand = (entry: Entry, tool: Tool, parent?: number): Command =>
  enterLists(entry, tool, programs[tool.name], parent).flat();

/** The runbook: all of it as shell, in a subshell. */
export function enterRunbook(entry: Entry, tool: Tool): string {
  const { pid, startTicks, inside, detach } = entry;
  const text = programs[tool.name];
  const program =
    text && `# what enters, in ${tool.name}\nprogram() {\ncat <<'EOF'\n${text}EOF\n}\nenter=$(program)\n`;
  const lines = enterLists(entry, tool, variable('enter')).map((words) => printCommand(words, 110));
  return `(
PATH=${inside ? `${systemPath}:$PATH` : `$PATH:${systemPath}`}
# what is opened from this directory is of this very process: once it has ended there is nothing to open, proc(5)
cd /proc/${pid} 2>/dev/null && stat=$(cat stat) || { echo 'exec: process ${pid} has ended' >&2; exit 125; }
set -- \${stat##*) }
[ "\${20}" = ${startTicks} ] || { echo 'exec: process ${pid} has ended, and another has its PID' >&2; exit 125; }

${program}exec ${lines.join(' \\\n  ')}
)${detach ? ' </dev/null >/dev/null &' : ''}
`;
}
