// Entering a container: the program of the host that enters, and its arguments. docs/exec.md explains it.
import { capabilities } from '../helpers/capabilities.ts';
import { embedded } from '../helpers/embedded.ts';
import { callsPerl, callsPython } from '../helpers/seccomp/seccomp.ts';
import { type Command, quote, sh, variable } from '../helpers/shell.ts';
import { callWords } from '../helpers/system-calls.ts';
import type { User } from '../run/command.ts';

/** The command to run, and the container. */
export interface Entry {
  /** the container's first process and its start time: a later process may get the same PID */
  pid: number;
  startTicks: number;
  /** namespaces that differ from the caller's, in an order in which they can be entered */
  namespaces: string[];
  /** directories of the first process's cgroups */
  cgroups: string[];
  command: string[];
  /** KEY=VALUE, in addition to those of the first process */
  environment: string[];
  /** undefined: that of the first process */
  workdir: string | undefined;
  /** undefined: the command keeps the host's root directory, and the caller's user and privileges */
  inside: Inside | undefined;
  /** the caller is root, whose programs the container must not write to */
  isRoot: boolean;
}

/** User and privileges of the command in the container. */
export interface Inside {
  /** IDs in the container; `hostUid` is the same user on the host */
  user: User;
  hostUid: number;
  /** user_namespaces(7): setgroups(2) is denied in the namespace */
  setgroupsDenied: boolean;
  /** bits of the bounding set; undefined: privileged */
  bounding: bigint | undefined;
  noNewPrivileges: boolean;
  /** rules of the seccomp filter, see seccompRules; undefined: no filter */
  rules: string[] | undefined;
  /** the first process has another profile of AppArmor or label of SELinux than the caller */
  confined: boolean;
}

/** The program of the host that enters, by its absolute path. */
export interface Tool {
  path: string;
  name: 'perl' | 'python3' | 'nsenter';
}

const programs = {
  perl: `${callsPerl}\n${embedded(import.meta.url, './enter.pl')}`,
  python3: `${callsPython}\n${embedded(import.meta.url, './enter.py')}`,
};

/** System calls that these programs make by number. */
const calls = 'capset clone keyctl prctl prlimit64 setgroups setns setresgid setresuid setsid'.split(' ');

/** The capabilities of a set, by name and number; newer kernels have capabilities without a name here. */
function capabilityWords(set: bigint): string[] {
  const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (set >> BigInt(bit)) & 1n);
  return bits.map((bit) => `capability=${capabilities[bit] ?? 'new'}:${bit}`);
}

/** Arguments of enter.pl for user and privileges. */
function insideWords(inside: Inside, cgroups: string[]): string[] {
  const { user, hostUid, bounding } = inside;
  return [
    'inside=yes',
    ...cgroups.map((path) => `cgroup=${path}`),
    `uid=${user.uid}`,
    `gid=${user.gid}`,
    ...user.groups.map((group) => `group=${group}`),
    `host-uid=${hostUid}`,
    ...(inside.setgroupsDenied ? ['setgroups=deny'] : []),
    ...(inside.confined ? ['confined=yes'] : []),
    ...(inside.noNewPrivileges ? ['no-new-privs=yes'] : []),
    ...(bounding === undefined ? [] : ['privileges=limited', ...capabilityWords(bounding)]),
  ];
}

/** Protects a program against writes through /proc/PID/exe: it runs from a read-only mount in a private namespace. */
const shield = (path: string) => [
  ...sh`unshare --mount --propagation slave sh -c ${'mount --bind -o ro "$0" "$0" || exit 125; exec "$@"'}`,
  path,
];

/** Mounts a /proc with the container's processes in a private mount namespace, for ps and the like, unshare(1). */
const ownProc = (namespaces: string[]) =>
  namespaces.includes('pid') ? sh`unshare --mount --mount-proc --propagation slave` : [];

/** The command that enters, as lists of words; in print, each list begins a line. */
function enterLists(
  entry: Entry,
  { path, name }: Tool,
  program: string,
  parent: number | undefined,
): Command[] {
  const { namespaces, inside, isRoot, command, environment, workdir } = entry;
  return [
    ...(inside && isRoot ? [shield(path)] : []),
    [
      ...(inside ? sh`env -i` : []),
      path,
      ...(name === 'perl' ? ['-e', program, '--'] : ['-I', '-S', '-c', program]),
    ],
    ['exec', ...callWords(process.arch, calls), '--'],
    [...(inside?.rules ?? []), '--'],
    [
      ...(parent === undefined ? [] : [`parent=${parent}`]),
      ...namespaces.map((kind) => `namespace=${kind}`),
      ...(inside ? insideWords(inside, entry.cgroups) : []),
      ...environment.map((pair) => `environment=${pair}`),
      ...(workdir === undefined ? [] : [`workdir=${workdir}`]),
      '--',
    ],
    inside ? command : [...ownProc(namespaces), ...command],
  ];
}

/** Options of nsenter(1). */
const nsenterOptions: Record<string, string> = {
  mnt: '--mount',
  cgroup: '--cgroup',
  net: '--net',
  uts: '--uts',
  ipc: '--ipc',
  time: '--time',
  pid: '--pid',
  user: '--user',
};

/** The command by which the container's own setpriv(1) drops privileges. */
function setprivWords({ user, setgroupsDenied, noNewPrivileges, bounding }: Inside): Command {
  const groups = user.groups.length > 0 ? `--groups=${user.groups}` : '--clear-groups';
  const kept = capabilities.filter((_, bit) => ((bounding ?? 0n) >> BigInt(bit)) & 1n);
  return [
    ...sh`setpriv --pdeathsig=KILL --reuid=${user.uid} --regid=${user.gid}`,
    setgroupsDenied ? '--keep-groups' : groups,
    ...(noNewPrivileges ? ['--no-new-privs'] : []),
    ...(bounding === undefined
      ? []
      : ['--inh-caps=-all', `--bounding-set=-all${kept.map((name) => `,+${name}`).join('')}`]),
  ];
}

/** The same by nsenter(1), without perl and python: the container's own programs drop the privileges. */
function nsenterLists(entry: Entry, path: string, variables: string[]): Command[] {
  const { pid, namespaces, cgroups, inside, isRoot, workdir, command, environment } = entry;
  const options = namespaces.flatMap((kind) => nsenterOptions[kind] ?? []);
  const nsenter = sh`setpriv --pdeathsig=KILL ${path} --target ${pid} ${options}`;
  if (!isRoot && namespaces.includes('user')) nsenter.push('--preserve-credentials');
  if (!inside) return [nsenter, [...ownProc(namespaces), 'env', ...environment, ...command]];
  const join =
    'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"';
  return [
    ...(isRoot ? [shield(path)] : []),
    ['sh', '-c', join, 'exec', ...cgroups, '--'],
    // no variable of the caller's gets in; PATH finds the container's own programs
    ['env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', ...nsenter, '--root', '--wd'],
    setprivWords(inside),
    ...(workdir === undefined ? [] : [['sh', '-c', 'cd -- "$0" || exit 125; exec "$@"', workdir]]),
    ['env', '-i', ...variables, ...environment],
    command,
  ];
}

/**
 * The command that enters, to be run in /proc/PID. `variables` are those of the first process, KEY=VALUE. `parent`: PID of
 * the parent, with which the command ends.
 */
export const enterCommand = (entry: Entry, tool: Tool, variables: string[], parent?: number): Command =>
  tool.name === 'nsenter'
    ? nsenterLists(entry, tool.path, variables).flat()
    : enterLists(entry, tool, programs[tool.name], parent).flat();

/** Prints lists of words as one command. Each list begins a line; long lines are wrapped. */
function print(lists: Command[]): string {
  const lines: string[] = [];
  for (const words of lists) {
    let line = '';
    for (const word of words.map(quote)) {
      if (line && line.length + word.length > 110) {
        lines.push(line);
        line = '';
      }
      line += `${line ? ' ' : ''}${word}`;
    }
    lines.push(line);
  }
  return lines.join(' \\\n  ');
}

/** The runbook: all of it as shell, in a subshell. */
export function enterRunbook(entry: Entry, tool: Tool, variables: string[]): string {
  const { pid, startTicks, inside } = entry;
  const system = '/usr/sbin:/usr/bin:/sbin:/bin';
  const program =
    tool.name === 'nsenter'
      ? ''
      : `# what enters, in ${tool.name}
program() {
cat <<'EOF'
${programs[tool.name]}EOF
}
enter=$(program)
`;
  const lists = program
    ? enterLists(entry, tool, variable('enter'), undefined)
    : nsenterLists(entry, tool.path, variables);
  return `(
PATH=${inside ? `${system}:$PATH` : `$PATH:${system}`}
# what is opened from this directory is of this very process: once it has ended there is nothing to open, proc(5)
cd /proc/${pid} 2>/dev/null && stat=$(cat stat) || { echo 'exec: process ${pid} has ended' >&2; exit 125; }
set -- \${stat##*) }
[ "\${20}" = ${startTicks} ] || { echo 'exec: process ${pid} has ended, and another has its PID' >&2; exit 125; }

${program}exec ${print(lists)}
)
`;
}
