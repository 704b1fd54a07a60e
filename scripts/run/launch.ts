// The launch of a container as one POSIX shell program: hold, furnish, pivot, drop, release. docs/run.md explains it.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Hierarchy,
  type LaunchLimits,
  limitWrites,
  lockDirectory,
  offeredControllers,
  parent,
} from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import type { User } from '../helpers/rootfs.ts';
import type { SeccompLoader } from '../helpers/seccomp/seccomp.ts';
import { quote } from '../helpers/shell.ts';
import {
  baseTable,
  type Device,
  holdProgram,
  mountTable,
  type Text,
  type Tmpfs,
  type Volume,
} from './furnish.ts';
import type { Range, UserNamespace } from './userns.ts';

/** What is to be launched, and the facts about the host that the program depends on. */
export interface Launch {
  name: string;
  /** an absolute path without symlinks */
  rootfs: string;
  /** what mount options the file system has that it lies on, of those that must not get lost */
  rootFlags: string[];
  /** what is written goes into memory, no more than this */
  ephemeral: { sizeBytes: number | undefined } | undefined;
  readOnly: boolean;
  volumes: Volume[];
  tmpfs: Tmpfs[];
  texts: Text[];
  devices: Device[];
  shmBytes: number;
  command: string[];
  /** an init of the host's, which becomes PID 1 and starts the command */
  init: string | undefined;
  /** KEY=VALUE, all that the command gets */
  environment: string[];
  hostname: string | undefined;
  workdir: string;
  user: User;
  /** options of prlimit(1) */
  limits: string[];
  /** namespaces for unshare(1); with `mount` the root is pivoted to, without it is a chroot */
  isolate: Set<string>;
  userNamespace: UserNamespace | undefined;
  capabilities: string[];
  newPrivileges: boolean;
  privileged: boolean;
  /** how the seccomp filter is loaded; undefined: there is none */
  seccomp: SeccompLoader | undefined;
  /** undefined: no interface but what its network namespace has already */
  connection: Connection | undefined;
  /** whose network namespace it shares, instead of the host's: `label` is what the user called it */
  joins: { pid: number; inode: number; label: string } | undefined;
  /** undefined: the caller may make none */
  cgroups: CgroupPlan | undefined;
  /** the directory for what the kernel does not keep: the log and exit status of a detached one, the stop signal */
  runDirectory: string;
  /** in the background, with so much of its output kept */
  detached: { logBytes: number } | undefined;
  stopSignal: string | undefined;
  /** files under /proc and /sys that a container has no business with, as they are on this kernel */
  masked: { files: string[]; folders: string[]; readOnly: string[] };
  /** programs of the host: ip(8)? where is chroot(1), which shell hands on the environment, which words mount a
   * tree with mapped IDs */
  has: { ip: boolean; chroot: string; shell: string; idmap: string[] | undefined };
}

/**
 * Lines of shell that give it an interface, and take it away: see launchLines of network.ts. `attach` leaves $network
 * empty where it failed, and has said why.
 */
export interface Connection {
  define: string;
  attach: string;
  leave: string;
}

/** Directories and values of the container's cgroups; every directory is `…/barehand/NAME` in one hierarchy. */
export interface CgroupPlan {
  /** the mount point whose lock guards the names; undefined: a user's, whose names are guarded elsewhere */
  lock: string | undefined;
  /** whose processes have to go elsewhere first: a v2 cgroup that hands on controllers can't have any of its own */
  leave: string | undefined;
  directories: string[];
  /** file and value, written in this order before the container joins */
  before: [file: string, value: string][];
  /** v2: mounted in the container as its own tree */
  version: 1 | 2;
}

/** The cgroups of a container in every hierarchy, and what is written before it joins them. */
export function planCgroups(hierarchies: Hierarchy[], name: string, limits: LaunchLimits): CgroupPlan {
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
    const offered = version === 2 ? offeredControllers(mountPoint) : [];
    const enabled = ['cpu', 'cpuset', 'io', 'memory', 'pids'].filter((word) => offered.includes(word));
    if (enabled.length > 0)
      for (const level of [mountPoint, join(mountPoint, parent)])
        before.push([join(level, 'cgroup.subtree_control'), enabled.map((word) => `+${word}`).join(' ')]);
  }
  before.push(...limitWrites(hierarchies, name, limits));
  const lock = lockDirectory(hierarchies);
  const first = hierarchies.find(({ mountPoint }) => mountPoint === lock);
  if (!lock || !first)
    throw new Failure('no cgroup hierarchy is mounted on this host: mount -t cgroup2 cgroup2 /sys/fs/cgroup');
  const ordered = [first, ...hierarchies.filter((hierarchy) => hierarchy !== first)];
  return {
    lock,
    leave: undefined,
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
  const {
    isolate,
    rootfs,
    user,
    capabilities,
    privileged,
    newPrivileges,
    environment,
    workdir,
    command,
    has,
  } = launch;
  const { seccomp, limits, userNamespace } = launch;
  const setpriv = ['setpriv'];
  if (isolate.has('mount')) {
    const groups = user.groups.length > 0 ? `--groups=${user.groups}` : '--clear-groups';
    // prctl(2): a change of user clears the parent-death signal, so it is set once more
    setpriv.push(`--reuid=${user.uid}`, `--regid=${user.gid}`);
    // user_namespaces(7): who maps but his own group may not call setgroups(2)
    setpriv.push(userNamespace?.single ? '--keep-groups' : groups, '--pdeathsig=KILL');
  }
  // root gets all of the bounding set at execve(2), so what is not in there is gone for good
  if (!privileged)
    setpriv.push('--inh-caps=-all', `--bounding-set=-all${capabilities.map((name) => `,+${name}`).join('')}`);
  if (!newPrivileges) setpriv.push('--no-new-privs');
  // a background job of sh ignores INT and QUIT, node PIPE and XFSZ, and execve(2) would hand that on
  const env = ['env', '-i', '--default-signal=HUP,INT,QUIT,TSTP,PIPE,XFSZ'];
  env.push(...environment.filter((variable) => !forLoader(variable)));
  const shell = [has.shell, ...(has.shell.endsWith('/bash') ? ['--norc', '-p'] : []), '-c'];
  return [
    ...(limits.length > 0 ? [quoteAll(['prlimit', ...limits])] : []),
    // seccomp(2) asks for CAP_SYS_ADMIN or no_new_privs: here it has the one still, later it may have neither
    ...(seccomp ? [quoteAll(seccomp.file ? ['setpriv', ...seccomp.words] : seccomp.words)] : []),
    ...(setpriv.length > 1 ? [quoteAll(setpriv)] : []),
    quoteAll(env),
    `${quoteAll(shell)} "$release" run ${quote(isolate.has('mount') ? workdir : rootfs)}`,
    quoteAll(command),
  ];
}

const quoteAll = (words: string[]) => words.map(quote).join(' ');

/** What becomes PID 1, from the moment at which it is still a process of the host's: cgroups, descriptors, namespaces. */
function startProgram(launch: Launch): string {
  const { isolate, cgroups, userNamespace, has, joins } = launch;
  const flags = Object.entries(namespaceFlags).flatMap(([word, flag]) => (isolate.has(word) ? [flag] : []));
  // without --isolate mount the mounts are still nobody else's business
  if (!isolate.has('mount')) flags.push('--mount');
  const chain: string[] = [];
  if (joins)
    // another process may have that PID by now, or its namespace may be another
    chain.push(
      `nsenter --target ${joins.pid} --net`,
      `sh -c '[ "$(readlink /proc/self/ns/net)" = "$1" ] || { echo "$2 has ended" >&2; exit 125; }; shift 2; exec "$@"' \
    run 'net:[${joins.inode}]' ${quote(joins.label)}`,
    );
  if (userNamespace) {
    // the files of the rootfs are the host root's: in a mount with mapped IDs they are the container's root's
    if (userNamespace.byRoot)
      chain.push(
        'unshare --mount --propagation private',
        `${quoteAll(has.idmap ?? [])} "/proc/$holder/ns/user" "$rootfs"`,
      );
    // as root it becomes the user 0 of the namespace; a user is that already
    chain.push(`nsenter --target "$holder" --user${userNamespace.byRoot ? '' : ' --preserve-credentials'}`);
  }
  chain.push(
    'setpriv --pdeathsig=KILL',
    `unshare ${flags.join(' ')} --fork --kill-child --propagation private`,
    // by name: the texts themselves would be all that ps(1) shows of unshare
    `sh -c 'eval "$hold"; eval "$drop"' run`,
  );
  const base = userNamespace?.byRoot ? userNamespace.uids[0]?.outside : undefined;
  return [
    ...(cgroups
      ? [
          '# the cgroups come first, so that they are the root of its cgroup namespace',
          'for cgroup in $cgroups; do echo 0 >"$cgroup/cgroup.procs" || exit 125; done',
        ]
      : []),
    "# no descriptor of the caller's gets in: all up to 9 are ours, and those above only bash can close, which would",
    '# read ~/.bashrc for a caller whose stdin is a socket',
    'exec 3>&2 2>&6 5<&- 7<&- 8>&- 9<&-',
    `closeAll='for fd in /proc/self/fd/*; do case \${fd##*/} in [0-6]) ;; *) eval "exec \${fd##*/}>&-";; esac; done; exec "$@"'`,
    'above=; for fd in /proc/self/fd/??*; do [ ! -e "$fd" ] || above=yes; done',
    ...(base === undefined ? [] : [`[ -z "$console" ] || chown ${base} "$console"`]),
    `exec $session \${above:+bash --norc -p -c "$closeAll" run} \\\n  ${chain.join(' \\\n  ')}`,
  ].join('\n');
}

/**
 * The whole launch, as POSIX shell that is to have a shell of its own: it sets traps, and ends with the command's
 * exit code, or 125 if there was no container.
 */
export function launchProgram(launch: Launch): string {
  const { name, rootfs, isolate, cgroups, userNamespace, detached, stopSignal, runDirectory, connection } =
    launch;
  const parts = [
    `PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH LC_ALL=C SHELL=/bin/sh
name=${quote(name)}
rootfs=${quote(rootfs)}
kept= network=
fail() { echo "run: $*" >&2; exit 125; }
giveUp() { exec 8>&-; wait "$child"; exit 125; }   # PID 1 ends when nobody can release it`,
    cgroups &&
      `# the container's cgroup in each hierarchy, and all of them in the order in which they can be removed
first=${quote(hierarchies(cgroups, name)[0] as string)}
others=${quote(hierarchies(cgroups, name).slice(1).join(' '))}
cgroups=; for parent in $others $first; do cgroups="$cgroups $parent/$name"; done`,
    (detached || stopSignal) && `# what the kernel does not keep of it\nrunDirectory=${quote(runDirectory)}`,
    `# the root itself and its mounts, as fstab(5) writes them
base=${quote(baseTable(launch))}
fstab=${quote(mountTable(launch))}`,
    `# PID 1, while it is still a shell of the host's, furnishes the root
hold=${quote(holdProgram(launch))}`,
    `# PID 1 gives up what it must not keep
drop=${quote(`exec ${dropLines(launch).join(' \\\n  ')}`)}`,
    `# PID 1, without privileges, waits until it is shut in, then becomes the command
release=${quote(releaseProgram(launch))}`,
    connection && `# its interface, and what goes with it\n${connection.define}`,
    `# what runs that: a process in the container's cgroups, then in its namespaces
start=${quote(startProgram(launch))}
export PATH LC_ALL SHELL rootfs base fstab hold drop release start cgroups`,
    detached ? detach(launch) : body(launch),
  ];
  return `${parts.filter(Boolean).join('\n\n')}\n`;

  function body(launch: Launch): string {
    return [
      cgroups?.lock ? takeName(launch, cgroups.lock) : takeOwn(launch),
      stopSignal && `echo ${stopSignal} >"$runDirectory/stop-signal" || exit 125`,
      ...(cgroups?.before.map(([file, value]) => `echo ${quote(value)} >${quote(file)} || exit 125`) ?? []),
      pipes(detached !== undefined),
      userNamespace && mapUsers(userNamespace),
      hold(launch),
      '# what is said before PID 1 is ready is about why it will not be; then comes its PID',
      'while read -r pid <&7; do case $pid in *[!0-9]*) echo "run: $pid" >&2;; *) break;; esac; done',
      userNamespace && 'kill "$holder"; wait "$holder" 2>/dev/null',
      '[ "$pid" ] || giveUp',
      isolate.has('mount') && pivot(userNamespace),
      connection &&
        `# its network; without one it is not released\n${connection.attach}\n[ "$network" ] || giveUp`,
      `# a signal for this shell is meant for the command\n${signalHandlers(isolate.has('pid'), detached !== undefined)}`,
      detached && !cgroups?.lock && notePid,
      '# release, and wait; a signal ends wait early',
      'echo >&8; exec 8>&-',
      detached && keepLog(detached.logBytes, cgroups?.lock !== undefined),
      `while :; do
  wait "$child"; code=$?
  kill -0 "$child" 2>/dev/null || break
done${connection && !cgroups?.lock ? `\n${connection.leave}` : ''}
# unshare(1) before 2.40 takes a SIGKILL of its child for a failure of its own
read -r said <&7 && case $said in *sigprocmask*) code=137;; *) echo "run: $said" >&2;; esac`,
      detached ? 'echo "${status:-$code}" >"$runDirectory/status"' : 'exit "${status:-$code}"',
    ]
      .filter(Boolean)
      .join('\n');
  }

  function detach(launch: Launch): string {
    return `# in the background, away from the caller's terminal; the caller waits for the word that it has started
started=$(
  (
trap '' HUP INT QUIT TSTP
exec </dev/null
${body(launch)}
  ) &
)
[ "$started" ] || exit 125
echo "$name"`;
  }
}

const hierarchies = ({ directories }: CgroupPlan, name: string) =>
  directories.map((directory) => directory.slice(0, -name.length - 1));

/** Takes the name, and sees to it that it is given back. */
function takeName({ detached, stopSignal, runDirectory, name, connection }: Launch, lock: string): string {
  const directory = quote(runDirectory);
  const notes = detached || stopSignal ? `mkdir -p ${directory} || exit 125\n` : '';
  return `
# take the name, under a lock; on the way sweep up what killed launches have left: cgroups without a process
exec 9<${quote(lock)}; flock 9 || exit 125
for leftover in $first/*/; do
  leftover=\${leftover%/}
  case $leftover in */pid-* | */\\*) continue;; esac   # pid-N is limit-memory's
  read -r _ <"$leftover/cgroup.procs" || for parent in $others $first; do rmdir "$parent/\${leftover##*/}"; done
done 2>/dev/null
if [ -d "$first/$name" ]; then
  read -r pid <"$first/$name/cgroup.procs" || pid=?
  fail "the name $name is in use by PID $pid: choose another --name, or end that one"
fi
mkdir -p $cgroups || exit 125
[ ! -d ${directory} ] || rm -rf ${directory}   # what is left of an earlier ${name}
${notes}sweep() {
${connection ? `  ${connection.leave}\n` : ''}  exec 9<${quote(lock)}; flock 9
  for try in 1 2 3 4 5 6 7 8 9 10; do
    # whatever is still in there: what a command without a PID namespace has left running, or what others put in
    while read -r left; do kill -KILL "$left"; done <"$first/$name/cgroup.procs"
    rmdir $cgroups $others $first
    [ -d "$first/$name" ] || break
    sleep 0.1
  done 2>/dev/null
${detached || stopSignal ? '  [ "$kept" ] || rm -r "$runDirectory"\n' : ''}}
trap sweep EXIT`;
}

/** The same for a user, who may have no cgroups: the lock on the directory is what shows that the name is in use. */
function takeOwn({ detached, stopSignal, cgroups }: Launch): string {
  const notes = detached || stopSignal;
  const lines: string[] = [];
  if (notes)
    lines.push(
      'mkdir -p "$runDirectory" || exit 125',
      'exec 9<"$runDirectory"; flock --nonblock 9 || fail "the name $name is in use: choose another --name"',
      'rm -f "$runDirectory"/*',
    );
  if (cgroups)
    lines.push(
      '# cgroups below one that is delegated to this user, cgroups(7). An empty one is what a killed launch has left',
      'for cgroup in $cgroups; do',
      '  rmdir "$cgroup" 2>/dev/null; [ ! -d "$cgroup" ] || fail "the name $name is in use: choose another --name"',
      '  mkdir -p "${cgroup%/*}" && mkdir "$cgroup" || exit 125',
      'done',
    );
  // what stands in the delegated cgroup itself moves into one below, and at the end back
  const move = (from: string, to: string) =>
    `while read -r process <"${from}/cgroup.procs"; do echo "$process" >"${to}/cgroup.procs" || return; done`;
  if (cgroups?.leave)
    lines.push(
      `own=${quote(cgroups.leave)} aside=$first/launch-$$; mkdir "$aside" || exit 125`,
      `aside() { ${move('$own', '$aside')}; }; aside || exit 125`,
      'back() {',
      '  for level in "$first" "$own"; do',
      '    read -r words <"$level/cgroup.subtree_control"; for word in $words; do echo "-$word" >"$level/cgroup.subtree_control"; done',
      '  done',
      `  ${move('$aside', '$own')}; rmdir "$aside" "$first"`,
      '}',
    );
  if (notes || cgroups)
    lines.push(
      'sweep() {',
      ...(cgroups
        ? [
            '  for try in 1 2 3 4 5 6 7 8 9 10; do rmdir $cgroups $others $first 2>/dev/null; [ -d "$first/$name" ] || break; sleep 0.1; done',
          ]
        : []),
      ...(cgroups?.leave ? ['  back 2>/dev/null'] : []),
      ...(notes ? ['  [ "$kept" ] || rm -r "$runDirectory"'] : []),
      '}',
      'trap sweep EXIT',
    );
  return lines.length > 0 ? `\n${lines.join('\n')}` : '';
}

/** The pipes between the launching shell and PID 1, and that of a detached container's output. */
const pipes = (detached: boolean) => `
# two pipes: "ready" (PID 1 writes 6, we read 7) and "go" (we write 8, PID 1 reads 4)${detached ? '; and 5 for the log' : ''}. A here-document
# is the reading end of a pipe (dash; bash from 5.1 on); opened again through proc(5) it is the writing end.
exec 3<&0 4<<GO 7<<READY${detached ? ' 5<<LOG' : ''}
a first line, for bash makes no pipe of nothing
GO
and one here
READY
${detached ? 'and one here\nLOG\n' : ''}[ -p /proc/self/fd/4 ] && [ -p /proc/self/fd/7 ] || fail "this sh makes no pipes: dash or bash from 5.1 on do"
exec 6>/proc/self/fd/7 8>/proc/self/fd/4
read -r _ <&4; read -r _ <&7${detached ? '; read -r _ <&5' : ''}`;

/** A process that holds the user namespace until PID 1 is in it, and the maps of its IDs. */
function mapUsers({ uids, gids, byRoot, single }: UserNamespace): string {
  const map = (ranges: Range[], separator: string) =>
    ranges.map(({ inside, outside, count }) => `${inside} ${outside} ${count}`).join(separator);
  const write = `echo ${quote(map(gids, '\n'))} >"/proc/$holder/gid_map" && echo ${quote(map(uids, '\n'))} >"/proc/$holder/uid_map"`;
  const maps =
    byRoot || single
      ? // user_namespaces(7): a user may map his own group only when setgroups(2) is given up
        `${single ? 'echo deny >"/proc/$holder/setgroups" && ' : ''}${write}`
      : `newgidmap "$holder" ${map(gids, ' ')} && newuidmap "$holder" ${map(uids, ' ')}`;
  return `
# the user namespace: a process holds it until PID 1 is there, or nobody can write "go" any more; and which IDs of
# the host its own are
unshare --user sh -c 'echo held; exec >/dev/null 2>&1; read -r _' <&4 >&6 2>&6 3<&- 4<&- 5<&- 6>&- 7<&- 8>&- 9<&- &
holder=$!
read -r said <&7; [ "$said" = held ] || fail "no user namespace: $said"
{ ${maps}; } || { kill "$holder"; exit 125; }
export holder`;
}

/** Starts it: with a terminal on a pseudo-terminal of its own, pty(7), else without any. */
function hold({ detached, cgroups }: Launch): string {
  const close = `exec 3<&- 4<&- 6>&-${cgroups?.lock ? ' 9<&-' : ''}`;
  const without = 'console= sent= session="setsid --wait"; export console session';
  if (detached)
    return `
# hold, in a session of its own
${without}
(eval "$start") <&3 >/proc/self/fd/5 2>&1 &
child=$!
${close}`;
  return `
# hold. With a terminal it gets one of its own, so that it can't put words into the caller's, ioctl_tty(2) TIOCSTI;
# without, a session of its own, so that a terminal among its descriptors is not its own either
if [ -t 0 ] && [ -t 1 ] && command -v script >/dev/null; then
  session= sent=yes launcher=$$; export session launcher
  setpriv --pdeathsig=KILL env --default-signal=INT,QUIT script -q -e -f -c '
    # the keys of its terminal reach PID 1, which the kernel may spare: the launching shell is told as well
    for key in INT QUIT; do trap "kill -$key $launcher" $key; done; trap "" TSTP
    console=$(tty); export console; (eval "$start") <&0 & child=$!
    while :; do wait "$child"; code=$?; kill -0 "$child" 2>/dev/null || exit "$code"; done' /dev/null <&3 &
else
  ${without}
  (eval "$start") <&3 &
fi
child=$!
${close}`;
}

/** Shuts PID 1 in. */
function pivot(userNamespace: UserNamespace | undefined): string {
  // as a user only by entering the user namespace, which has the right to
  const asUser = userNamespace && !userNamespace.byRoot;
  const enter = `nsenter --target "$pid"${asUser ? ' --user --preserve-credentials' : ''} --mount`;
  const detach = asUser ? `${enter} umount --lazy /` : 'umount --lazy --namespace "/proc/$pid/ns/mnt" /';
  return `
# pivot, from outside: the kernel moves the held process's root too; then the host's root, now on top, is detached
${enter} sh -c 'cd "$1" && exec pivot_root . .' run "$rootfs/root" &&
${detach} || giveUp
`;
}

/** Which process it is, and when that started, proc(5): without a cgroup nothing else knows it by its name. */
const notePid =
  'read -r stat <"/proc/$pid/stat"; set -- ${stat##*) }; echo "$pid ${20}" >"$runDirectory/pid"';

/** The log of a detached container: two files, each no longer than half of what is to be kept. */
const keepLog = (logBytes: number, locks: boolean) => `
${locks ? '# who keeps the log holds a lock on its folder, which nothing of the container does\nexec 9<"$runDirectory"; flock 9\n' : ''}# detached: tell the caller, and keep what the container says: in log, and what was in there before in log.1
: >"$runDirectory/log"; kept=yes; echo started; exec >/dev/null 2>&1
while :; do
  stdbuf -o0 head -c ${Math.ceil(logBytes / 2)} <&5 >"$runDirectory/log" & head=$!
  while wait "$head"; ended=$?; kill -0 "$head"; do :; done
  # it can't be written: the folder has gone or is full. What is said is lost then, but nobody waits to be heard
  [ "$ended" = 0 ] || { cat <&5 & cat=$!; while kill -0 "$cat"; do wait "$cat"; done; break; }
  [ "$(stat -c %s "$runDirectory/log")" -lt ${Math.ceil(logBytes / 2)} ] && break
  mv "$runDirectory/log" "$runDirectory/log.1"
done`;

/** Traps that pass signals on. */
function signalHandlers(pidNamespace: boolean, detached: boolean): string {
  const lines = pidNamespace
    ? [
        '# the kernel spares a PID 1 that has no handler, pid_namespaces(7): here the signal ends it all the same',
        'pass() {',
        '  while read -r key mask; do',
        '    case $key in SigBlk:) blocked=$mask;; SigIgn:) ignored=$mask;; SigCgt:) caught=$mask; break;; esac',
        '  done 2>/dev/null </proc/$pid/status || return 0',
        '  # an init waits in sigtimedwait(2), and has them neither blocked nor caught meanwhile',
        '  read -r wchan <"/proc/$pid/wchan" || :; case $wchan in *sigtimedwait*) blocked=ffffffffffffffff;; esac',
        '  bit() { [ $((0x${1#????????} >> ($2 - 1) & 1)) = 1 ]; }',
        '  if bit "$caught" "$2" || bit "$blocked" "$2"; then [ "$3" ] || kill -"$1" "$pid"',
        '  elif ! bit "$ignored" "$2"; then kill -KILL "$pid"; status=$((128 + $2)); fi',
        '}',
      ]
    : ['pass() { [ "$3" ] || kill -"$1" "$pid"; }'];
  const signals: [string, number][] = [
    ['HUP', 1],
    ['INT', 2],
    ['QUIT', 3],
    ['USR1', 10],
    ['USR2', 12],
    ['TERM', 15],
  ];
  for (const [name, number] of signals)
    if (!detached || !['HUP', 'INT', 'QUIT'].includes(name))
      lines.push(`trap 'pass ${name} ${number}${/INT|QUIT/.test(name) ? ' $sent' : ''}' ${name}`);
  if (!detached)
    lines.push(
      `trap 'kill -STOP "$pid"; read -r self _ </proc/self/stat; kill -STOP "$self"; kill -CONT "$pid"' TSTP`,
    );
  return lines.join('\n');
}
