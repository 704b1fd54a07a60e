// The launch of a container as one POSIX shell program: hold, furnish, pivot, drop, release. docs/run.md explains it.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  countsSwap,
  findHierarchy,
  type Hierarchy,
  lockDirectory,
  memoryFiles,
  offeredControllers,
  parent,
} from './cgroup.ts';
import { Failure } from './cli.ts';
import { quote } from './programs.ts';
import type { User } from './rootfs.ts';

/** What is to be launched, and the facts about the host that the program depends on. */
export interface Launch {
  name: string;
  /** an absolute path without symlinks */
  rootfs: string;
  command: string[];
  /** KEY=VALUE, all that the command gets */
  environment: string[];
  hostname: string | undefined;
  workdir: string;
  user: User;
  /** namespaces for unshare(1); with `mount` the root is pivoted to, without it is a chroot */
  isolate: Set<string>;
  capabilities: string[];
  privileged: boolean;
  cgroups: CgroupPlan;
  /** standard input is a terminal: it sends Ctrl-C to the container itself */
  terminal: boolean;
  /** files under /proc and /sys that a container has no business with, as they are on this kernel */
  masked: { files: string[]; folders: string[]; readOnly: string[] };
  /** programs of the host: whether it has ip(8), where chroot(1) is, and the shell that hands on the environment */
  has: { ip: boolean; chroot: string; shell: string };
}

/** Directories and values of the container's cgroups; every directory is `…/barehand/NAME` in one hierarchy. */
export interface CgroupPlan {
  /** the mount point whose lock guards the names */
  lock: string;
  directories: string[];
  /** file and value, written in this order before the container joins */
  before: [file: string, value: string][];
  /** v2: mounted in the container as its own tree */
  version: 1 | 2;
}

/** The cgroups of a container in every hierarchy, and what is written before it joins them. */
export function planCgroups(
  hierarchies: Hierarchy[],
  name: string,
  limitBytes: number | undefined,
): CgroupPlan {
  const before: [string, string][] = [];
  for (const hierarchy of hierarchies) {
    const { version, controllers, mountPoint } = hierarchy;
    const levels = [join(mountPoint, parent), join(mountPoint, parent, name)];
    // cpuset(7): a new v1 cpuset has no CPUs and no memory nodes, and takes no process
    if (controllers.includes('cpuset'))
      for (const file of ['cpuset.cpus', 'cpuset.mems'])
        for (const level of levels)
          before.push([join(level, file), readFileSync(join(mountPoint, file), 'utf8').trim()]);
    // cgroups(7): a v2 controller has to be switched on in every level above
    const offered = version === 2 ? offeredControllers(hierarchy) : [];
    const enabled = ['cpu', 'cpuset', 'io', 'memory', 'pids'].filter((word) => offered.includes(word));
    if (enabled.length > 0)
      for (const level of [mountPoint, join(mountPoint, parent)])
        before.push([join(level, 'cgroup.subtree_control'), enabled.map((word) => `+${word}`).join(' ')]);
  }
  const memory = findHierarchy(hierarchies, 'memory');
  if (limitBytes !== undefined) {
    if (!memory) throw new Failure('cannot limit memory: this host has no memory controller, cgroups(7)');
    const directory = join(memory.mountPoint, parent, name);
    const swap = memory.version === 1 ? String(limitBytes) : '0';
    const files = memoryFiles[memory.version];
    before.push([join(directory, files.limit), String(limitBytes)]);
    if (countsSwap(memory)) before.push([join(directory, files.swap), swap]);
  }
  const lock = lockDirectory(hierarchies);
  const first = hierarchies.find(({ mountPoint }) => mountPoint === lock);
  if (!lock || !first)
    throw new Failure('no cgroup hierarchy is mounted on this host: mount -t cgroup2 cgroup2 /sys/fs/cgroup');
  const ordered = [first, ...hierarchies.filter((hierarchy) => hierarchy !== first)];
  return {
    lock,
    directories: ordered.map(({ mountPoint }) => join(mountPoint, parent, name)),
    before,
    version: first.version,
  };
}

/** The namespaces of --isolate and the flags of unshare(1) that make them. */
export const namespaceFlags: Record<string, string> = {
  mount: '--mount',
  pid: '--pid',
  uts: '--uts',
  ipc: '--ipc',
  cgroup: '--cgroup',
  net: '--net',
};

/** A path in fstab(5), where blanks end a field and quotes and backslashes mean something. */
const fstabPath = (path: string) =>
  path.replace(
    /[^\w/.,:=+@%\u0080-\uffff-]/g,
    (byte) => `\\${byte.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );

/** The container's mounts in the form of fstab(5), in the order in which they are made. */
export function mountTable(launch: Launch): string {
  const { rootfs, isolate, privileged, masked, cgroups } = launch;
  const rows: string[] = [];
  const mount = (source: string, path: string, type: string, options: string) =>
    rows.push(`${fstabPath(source)} ${fstabPath(rootfs + path)} ${type} ${options} 0 0`);

  // mount(8): a bind takes nodev, so that a device file that someone makes in the rootfs opens nothing
  mount(rootfs, '', 'none', privileged ? 'bind' : 'bind,nodev');
  mount('proc', '/proc', 'proc', 'nosuid,nodev,noexec');
  if (isolate.has('mount')) {
    mount('sysfs', '/sys', 'sysfs', `${privileged ? 'rw' : 'ro'},nosuid,nodev,noexec`);
    if (isolate.has('cgroup') && cgroups.version === 2)
      mount('cgroup2', '/sys/fs/cgroup', 'cgroup2', `${privileged ? 'rw' : 'ro'},nosuid,nodev,noexec`);
    mount('tmpfs', '/dev', 'tmpfs', 'mode=755,size=64k,nosuid,noexec');
    const made = 'nosuid,noexec,X-mount.mkdir';
    mount('devpts', '/dev/pts', 'devpts', `newinstance,ptmxmode=0666,mode=0620,gid=5,${made}`);
    mount('tmpfs', '/dev/shm', 'tmpfs', `mode=1777,size=64m,nodev,${made}`);
    if (isolate.has('ipc')) mount('mqueue', '/dev/mqueue', 'mqueue', `nodev,${made}`);
  }
  if (!privileged) {
    const visible = (path: string) => path.startsWith('/proc/') || isolate.has('mount');
    for (const path of masked.readOnly.filter(visible))
      mount(rootfs + path, path, 'none', 'bind,ro,nosuid,nodev,noexec');
    for (const path of masked.folders.filter(visible))
      mount('tmpfs', path, 'tmpfs', 'ro,size=4k,nosuid,nodev,noexec');
    for (const path of masked.files.filter(visible)) mount('/dev/null', path, 'none', 'bind');
  }
  return rows.join('\n');
}

/** What a container's /dev is furnished with: harmless devices, and the links that go with them. */
export const devices = 'null zero full random urandom tty ptmx fd stdin stdout stderr'.split(' ');

/** What PID 1 does first, with the host's programs at hand; then it becomes its arguments. */
function holdProgram({ isolate, hostname, has }: Launch): string {
  const pivots = isolate.has('mount');
  const lines = [
    'exec 2>&3 3>&-; set -e; umask 022',
    '# a mount point that is missing is made, a link in its place is not followed',
    `for mountPoint in ${pivots ? 'proc sys dev' : 'proc'}; do`,
    '  [ ! -L "$rootfs/$mountPoint" ] || { echo "run: $rootfs/$mountPoint is a symlink" >&2; exit 125; }',
    '  [ -d "$rootfs/$mountPoint" ] || mkdir "$rootfs/$mountPoint"',
    'done',
    // mount(8) passes over a line that it can't read, and says so, but ends with 0
    'said=$(mount -a -T /proc/self/fd/5 2>&1) || { echo "$said" >&2; exit 125; }',
    'case $said in *"parse error"*) echo "$said" >&2; exit 125;; esac',
  ];
  // cp(1) makes the devices and links anew, as they are on the host
  if (pivots) lines.push(`cp -a ${devices.map((name) => `/dev/${name}`).join(' ')} "$rootfs/dev/"`);
  if (isolate.has('uts') && hostname) lines.push(`echo ${quote(hostname)} >/proc/sys/kernel/hostname`);
  if (isolate.has('net') && has.ip) lines.push('ip link set lo up');
  // the pivot moves the directories that processes are in as well as their root, pivot_root(2)
  lines.push('cd /', 'exec "$@"');
  return lines.join('\n');
}

/** What PID 1 does last, with dropped privileges: says that it is ready, and which PID the host knows it by; waits. */
function releaseProgram({ isolate, environment, has }: Launch): string {
  const lines = [
    'read -r holdPid _ </proc/self/stat   # /proc is still that of the host',
    'echo "$holdPid" >&6',
    'read -r _ <&4 || exit 125',
    'exec 4<&- 5<&- 6>&-',
    'unset holdPid _ PWD',
  ];
  if (isolate.has('mount')) lines.push('cd -- "$1" || exit 125', 'shift');
  // not set any earlier: they would make the host's own programs load the container's libraries, ld.so(8)
  for (const variable of environment.filter(forLoader)) lines.push(`export ${quote(variable)}`);
  lines.push(isolate.has('mount') ? 'unset PWD OLDPWD; exec "$@"' : `exec ${has.chroot} "$@"`);
  return lines.join('\n');
}

const forLoader = (variable: string) => /^(LD_|GCONV_PATH=|LOCPATH=|MALLOC_)/.test(variable);

/** The lines that take PID 1 from the held shell to the command: drop privileges, clear the environment, wait. */
function dropLines(launch: Launch): string[] {
  const { isolate, rootfs, user, capabilities, privileged, environment, workdir, command, has } = launch;
  const setpriv = ['setpriv'];
  if (isolate.has('mount')) {
    const groups = user.groups.length > 0 ? `--groups=${user.groups}` : '--clear-groups';
    // prctl(2): a change of user clears the parent-death signal, so it is set once more
    setpriv.push(`--reuid=${user.uid}`, `--regid=${user.gid}`, groups, '--pdeathsig=KILL');
  }
  // root gets all of the bounding set at execve(2), so what is not in there is gone for good
  if (!privileged)
    setpriv.push(
      '--no-new-privs',
      '--inh-caps=-all',
      `--bounding-set=-all${capabilities.map((name) => `,+${name}`).join('')}`,
    );
  // a background job of sh ignores INT and QUIT, node PIPE and XFSZ, and execve(2) would hand that on
  const env = ['env', '-i', '--default-signal=INT,QUIT,PIPE,XFSZ'];
  env.push(...environment.filter((variable) => !forLoader(variable)));
  const shell = [has.shell, ...(has.shell.endsWith('/bash') ? ['--norc', '-p'] : []), '-c'];
  return [
    ...(setpriv.length > 1 ? [quoteAll(setpriv)] : []),
    quoteAll(env),
    `${quoteAll(shell)} "$release" run ${quote(isolate.has('mount') ? workdir : rootfs)}`,
    quoteAll(command),
  ];
}

const quoteAll = (words: string[]) => words.map(quote).join(' ');

/**
 * The whole launch, as POSIX shell that is to have a shell of its own: it sets traps, and ends with the command's
 * exit code, or 125 if there was no container.
 */
export function launchProgram(launch: Launch): string {
  const { name, rootfs, isolate, cgroups, terminal } = launch;
  const scratch = `/run/barehand-${name}.fstab`;
  const flags = Object.entries(namespaceFlags).flatMap(([word, flag]) => (isolate.has(word) ? [flag] : []));
  // without --isolate mount the mounts are still nobody else's business
  if (!isolate.has('mount')) flags.push('--mount');
  const hierarchies = cgroups.directories.map((directory) => directory.slice(0, -name.length - 1));

  return `PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH LC_ALL=C
name=${quote(name)}
rootfs=${quote(rootfs)}; export rootfs PATH LC_ALL
fail() { echo "run: $*" >&2; exit 125; }

# the container's cgroup in each hierarchy, and all of them in the order in which they can be removed
first=${quote(hierarchies[0] as string)}
others=${quote(hierarchies.slice(1).join(' '))}
cgroups=; for parent in $others $first; do cgroups="$cgroups $parent/$name"; done

# its mounts, as fstab(5) writes them
fstab=${quote(mountTable(launch))}

# PID 1, while it is still a shell of the host's, furnishes the root
hold=${quote(holdProgram(launch))}

# PID 1, without privileges, waits until it is shut in, then becomes the command
release=${quote(releaseProgram(launch))}

# take the name, under a lock; on the way sweep up what killed launches have left: cgroups without a process
exec 9<${quote(cgroups.lock)}; flock 9 || exit 125
for leftover in $first/*/; do
  leftover=$\{leftover%/}
  case $leftover in */pid-* | */\\*) continue;; esac   # pid-N is limit-memory's
  read -r _ <"$leftover/cgroup.procs" || for parent in $others $first; do rmdir "$parent/$\{leftover##*/}"; done
done 2>/dev/null
if [ -d "$first/$name" ]; then
  read -r pid <"$first/$name/cgroup.procs" || pid=?
  fail "the name $name is in use by PID $pid: choose another --name, or end that one"
fi
mkdir -p $cgroups || exit 125
sweep() {
  exec 9<${quote(cgroups.lock)}; flock 9
  for try in 1 2 3 4 5 6 7 8 9 10; do
    # whatever is still in there: what a command without a PID namespace has left running, or what others put in
    while read -r left; do kill -KILL "$left"; done <"$first/$name/cgroup.procs"
    rmdir $cgroups $others $first
    [ -d "$first/$name" ] || break
    sleep 0.1
  done 2>/dev/null
}
trap sweep EXIT
${cgroups.before.map(([file, value]) => `echo ${quote(value)} >${quote(file)} || exit 125\n`).join('')}
# two pipes: "ready" (PID 1 writes 6, we read 7) and "go" (we write 8, PID 1 reads 4). A here-document is the
# reading end of a pipe (dash; bash from 5.1 on); opened again through proc(5) it is the writing end.
exec 3<&0 4<<GO 7<<READY
a first line, for bash makes no pipe of nothing
GO
and one here
READY
[ -p /proc/self/fd/4 ] && [ -p /proc/self/fd/7 ] || fail "this sh makes no pipes: dash or bash from 5.1 on do"
exec 6>/proc/self/fd/7 8>/proc/self/fd/4
read -r _ <&4; read -r _ <&7
# mount(8) reads its table from a regular file only
printf '%s\\n' "$fstab" >${quote(scratch)} && exec 5<${quote(scratch)} && rm ${quote(scratch)} || exit 125

# hold: PID 1 of the new namespaces joins the cgroups first, so that they are the root of its cgroup namespace
(
  for cgroup in $cgroups; do echo 0 >"$cgroup/cgroup.procs" || exit 125; done
  # no descriptor of the caller's gets in: all up to 9 are ours, and those above only bash can close, which would
  # read ~/.bashrc for a caller whose stdin is a socket
  exec 3>&2 2>&6 7<&- 8>&- 9<&-
  closeAll='for fd in /proc/self/fd/*; do case $\{fd##*/} in [0-6]) ;; *) eval "exec $\{fd##*/}>&-";; esac; done; exec "$@"'
  above=; for fd in /proc/self/fd/??*; do [ ! -e "$fd" ] || above=yes; done
  exec $\{above:+bash --norc -p -c "$closeAll" run} \\
    setpriv --pdeathsig=KILL \\
    unshare ${flags.join(' ')} --fork --kill-child --propagation private \\
    sh -c "$hold" run \\
    ${dropLines(launch).join(' \\\n    ')}
) <&3 &
child=$!
exec 3<&- 4<&- 5<&- 6>&- 9<&-
read -r pid <&7; case $pid in '' | *[!0-9]*) [ -z "$pid" ] || echo "run: $pid" >&2; exec 8>&-; wait "$child"; exit 125;; esac
${
  isolate.has('mount')
    ? `
# pivot, from outside: the kernel moves the held process's root too; then the host's root, now on top, is detached
nsenter --target "$pid" --mount sh -c 'cd "$1" && pivot_root . .' run "$rootfs" &&
umount --lazy --namespace "/proc/$pid/ns/mnt" / || { exec 8>&-; wait "$child"; exit 125; }
`
    : ''
}
# a signal for this shell is meant for the command
${signalHandlers(isolate.has('pid'), terminal)}
# release, and wait; a signal ends wait early
echo >&8; exec 8>&-
while :; do
  wait "$child"; code=$?
  kill -0 "$child" 2>/dev/null || break
done
# unshare(1) before 2.40 takes a SIGKILL of its child for a failure of its own
read -r said <&7 && case $said in *sigprocmask*) code=137;; *) echo "run: $said" >&2;; esac
exit "$\{status:-$code}"
`;
}

/** Traps that pass signals on. A terminal's own keys reach the container by themselves. */
function signalHandlers(pidNamespace: boolean, terminal: boolean): string {
  const lines = pidNamespace
    ? [
        '# the kernel spares a PID 1 that has no handler, pid_namespaces(7): here the signal ends it all the same',
        'pass() {',
        '  mask=; while read -r key mask; do [ "$key" = SigIgn: ] && ignored=$mask; [ "$key" = SigCgt: ] && break; done </proc/$pid/status',
        '  [ "$mask" ] || return 0',
        '  bit() { [ $((0x${1#????????} >> ($2 - 1) & 1)) = 1 ]; }',
        '  if bit "$mask" "$2"; then [ "$3" ] || kill -"$1" "$pid"',
        '  elif ! bit "$ignored" "$2"; then kill -KILL "$pid"; status=$((128 + $2)); fi',
        '}',
      ]
    : ['pass() { [ "$3" ] || kill -"$1" "$pid"; }'];
  const signals: [string, number, boolean][] = [
    ['HUP', 1, false],
    ['INT', 2, terminal],
    ['QUIT', 3, terminal],
    ['USR1', 10, false],
    ['USR2', 12, false],
    ['TERM', 15, false],
  ];
  for (const [name, number, sent] of signals)
    lines.push(`trap 'pass ${name} ${number} ${sent ? 'sent' : ''}' ${name}`);
  if (terminal)
    lines.push(
      `trap 'kill -STOP "$pid"; read -r self _ </proc/self/stat; kill -STOP "$self"; kill -CONT "$pid"' TSTP`,
    );
  return lines.join('\n');
}
