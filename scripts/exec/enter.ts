// Entering a container: which program of the host's does it, and with which words. docs/exec.md explains it.
import { capabilities } from '../helpers/capabilities.ts';
import { embedded } from '../helpers/embedded.ts';
import type { User } from '../helpers/rootfs.ts';
import { callsPerl, callsPython } from '../helpers/seccomp/seccomp.ts';
import { type Command, quote, sh, variable } from '../helpers/shell.ts';
import { callWords } from '../helpers/system-calls.ts';

/** What is to be run, and in what. */
export interface Entry {
  /** the container's first process, and when it started: a later one may get its PID */
  pid: number;
  startTicks: number;
  /** those that differ from the caller's, in the order in which they can be entered */
  namespaces: string[];
  /** the first process's in each hierarchy */
  cgroups: string[];
  command: string[];
  /** KEY=VALUE, beside those of the first process */
  environment: string[];
  /** undefined: where the first process is */
  workdir: string | undefined;
  /** undefined: with the host's root directory, and as the caller is */
  inside: Inside | undefined;
  /** the caller may make mounts, and what they must not write to is theirs */
  isRoot: boolean;
}

/** Who the command is in the container, and what it may do. */
export interface Inside {
  /** as the container numbers them; `hostUid` is the same user outside */
  user: User;
  hostUid: number;
  /** user_namespaces(7): nobody in there may call setgroups(2) */
  setgroupsDenied: boolean;
  /** a bit for each capability that may be had at all; undefined: privileged */
  bounding: bigint | undefined;
  noNewPrivileges: boolean;
  /** of the seccomp filter, see seccompRules; undefined: none */
  rules: string[] | undefined;
  /** the first process is confined by AppArmor or SELinux otherwise than the caller */
  confined: boolean;
}

/** The program of the host's that enters, by its absolute path. */
export interface Tool {
  path: string;
  name: 'perl' | 'python3' | 'nsenter';
}

const programs = {
  perl: `${callsPerl}\n${embedded(import.meta.url, './enter.pl')}`,
  python3: `${callsPython}\n${embedded(import.meta.url, './enter.py')}`,
};

/** The system calls that these make by number. */
const calls = 'capset clone keyctl prctl prlimit64 setgroups setns setresgid setresuid setsid'.split(' ');

/** The capabilities of a set, by name and number; a kernel may have more than there are names here. */
function capabilityWords(set: bigint): string[] {
  const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (set >> BigInt(bit)) & 1n);
  return bits.map((bit) => `capability=${capabilities[bit] ?? 'new'}:${bit}`);
}

/** The parameters of enter.pl that say who the command is and what it may do. */
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

/** Has nothing in a container write to a program through /proc/PID/exe: it is on a read-only mount nobody else sees. */
const shield = (path: string) => [
  ...sh`unshare --mount --propagation slave sh -c ${'mount --bind -o ro "$0" "$0" || exit 125; exec "$@"'}`,
  path,
];

/** unshare(1): ps and the like see the container's processes, in a /proc that nobody else sees. */
const ownProc = (namespaces: string[]) =>
  namespaces.includes('pid') ? sh`unshare --mount --mount-proc --propagation slave` : [];

/** The command that enters, as lists of words that each stand in a line of their own in print. */
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

/** What the container's own setpriv(1) has to drop. */
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

/** The same without perl and python, where nsenter(1) has to do: what drops the privileges is the container's own. */
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
    // nothing of the caller's environment gets in; by PATH the container's own programs are found
    ['env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', ...nsenter, '--root', '--wd'],
    setprivWords(inside),
    ...(workdir === undefined ? [] : [['sh', '-c', 'cd -- "$0" || exit 125; exec "$@"', workdir]]),
    ['env', '-i', ...variables, ...environment],
    command,
  ];
}

/**
 * The command that enters, to be run in /proc/PID. `variables` are those of the first process, KEY=VALUE. `parent`: it
 * ends when its parent, the process of this PID, does.
 */
export const enterCommand = (entry: Entry, tool: Tool, variables: string[], parent?: number): Command =>
  tool.name === 'nsenter'
    ? nsenterLists(entry, tool.path, variables).flat()
    : enterLists(entry, tool, programs[tool.name], parent).flat();

/** Lists of words as one command that can be pasted; each begins a line, and lines are no longer than a screen is wide. */
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

/** The whole as shell, in a subshell so that it can be pasted. */
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
