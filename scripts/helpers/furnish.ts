// Furnishing a container's root: the shell program that PID 1 runs while it still has the host's programs at hand.
import { dirname } from 'node:path';
import type { Launch } from './launch.ts';
import { quote } from './programs.ts';
import { printfFormat } from './seccomp.ts';

/** A directory or file of the host's that the container is to see at `path`; `options` as mount(8) has them. */
export interface Volume {
  source: string;
  path: string;
  options: string[];
}

/** A file system in memory at `path`. */
export interface Tmpfs {
  path: string;
  options: string[];
}

/** A file that is made for the container. */
export interface Text {
  path: string;
  text: string;
}

/** A device of the host's, and its path in the container, which begins with /dev/. */
export interface Device {
  source: string;
  path: string;
}

/** A path in fstab(5), where blanks end a field and quotes and backslashes mean something. */
const fstabPath = (path: string) =>
  path.replace(
    /[^\w/.,:=+@%\u0080-\uffff-]/g,
    (byte) => `\\${byte.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );

/** What is mounted in every container, in this order: source, path, type, options. */
function mounts(launch: Launch): [source: string, path: string, type: string, options: string][] {
  const { rootfs, isolate, privileged, masked, cgroups, userNamespace, shmBytes } = launch;
  const rows: [string, string, string, string][] = [['proc', '/proc', 'proc', 'nosuid,nodev,noexec']];
  const pivots = isolate.has('mount');
  if (pivots) {
    const writable = privileged ? 'rw' : 'ro';
    if (!isForeignSys(launch)) rows.push(['sysfs', '/sys', 'sysfs', `${writable},nosuid,nodev,noexec`]);
    else rows.push(['masked', '/sys/fs/cgroup', 'tmpfs', 'ro,size=4k,nosuid,nodev,noexec']);
    if (isolate.has('cgroup') && cgroups?.version === 2)
      rows.push(['cgroup2', '/sys/fs/cgroup', 'cgroup2', `${writable},nosuid,nodev,noexec`]);
    // group 5 is tty; where only one group is mapped there is none
    const tty = userNamespace?.single ? '' : 'gid=5,';
    const made = 'nosuid,noexec,X-mount.mkdir';
    rows.push(['devpts', '/dev/pts', 'devpts', `newinstance,ptmxmode=0666,mode=0620,${tty}${made}`]);
    rows.push(['tmpfs', '/dev/shm', 'tmpfs', `mode=1777,size=${shmBytes},nodev,${made}`]);
    if (isolate.has('ipc')) rows.push(['mqueue', '/dev/mqueue', 'mqueue', `nodev,${made}`]);
  }
  if (!privileged) {
    const visible = (path: string) => path.startsWith('/proc/') || pivots;
    for (const path of masked.readOnly.filter(visible))
      rows.push([rootfs + path, path, 'none', 'bind,ro,nosuid,nodev,noexec']);
    for (const path of masked.folders.filter(visible))
      rows.push(['tmpfs', path, 'tmpfs', 'ro,size=4k,nosuid,nodev,noexec']);
    for (const path of masked.files.filter(visible)) rows.push(['/dev/null', path, 'none', 'bind']);
  }
  return rows;
}

/** sysfs(5) shows a network namespace, and can be mounted by its owner only: all others get the host's. */
const isForeignSys = ({ userNamespace, isolate }: Launch) => userNamespace && !isolate.has('net');

/** The container's mounts in the form of fstab(5), in the order in which they are made. */
export function mountTable(launch: Launch): string {
  return mounts(launch)
    .map(([source, path, type, options]) =>
      [fstabPath(source), fstabPath(launch.rootfs + path), type, options, '0 0'].join(' '),
    )
    .join('\n');
}

/** What a container's /dev is furnished with: harmless devices, and the links that go with them. */
export const devices = 'null zero full random urandom tty'.split(' ');
const links = 'fd stdin stdout stderr'.split(' ').map((name) => `/dev/${name}`);

/** Finding a path in the root, and mounting there. */
const functions = `# goes where PATH leads for a process whose root is $rootfs, and makes what is missing. Each step is looked at again by
# getcwd(3): a link that somebody puts there at this moment leads nowhere. KIND file: to its folder, $leaf is its name
walk() { # PATH KIND
  cd -P -- "$rootfs"; rest=$1 links=0 leaf=
  while [ "$rest" ]; do
    word=\${rest%%/*}
    case $rest in */*) rest=\${rest#*/};; *) rest=;; esac
    case $word in '' | .) continue;; ..) [ "$PWD" = "$rootfs" ] || cd -P ..; continue;; esac
    if [ -L "./$word" ]; then
      links=$((links + 1)); [ $links -le 40 ] || stop "$1: too many symlinks"
      link=$(readlink -n "./$word" && echo .); link=\${link%.}
      case $link in /*) cd -P -- "$rootfs";; esac
      rest=$link\${rest:+/$rest}
    elif [ "$2$rest" = file ]; then
      leaf=$word; [ -e "./$word" ] || (set -C; : >"./$word")
    else
      here=\${PWD%/}/$word; [ -d "./$word" ] || mkdir "./$word"
      cd -P "./$word"; [ "$PWD" = "$here" ] || stop "$1 changes while it is looked at"
    fi
  done
  case $PWD/$leaf in "$rootfs/" | "$rootfs/proc/"*) stop "$1 is no place for a mount: not / and not in /proc";; esac
}
# adds options to a mount and to those below it; those they have stay, since mount(8) reads them first
restrict() { # MOUNTPOINT OPTIONS
  while read -r _ _ _ _ point _; do
    point=$(printf '%b.' "$point"); point=\${point%.}
    case $point in "$1" | "$1"/*) mount -o "remount,bind,$2" "$point";; esac
  done </proc/self/mountinfo
}
# binds SOURCE where nobody else can change anything, then moves it onto the directory that we are in, or an open file:
# mount(8) would follow a symlink in PATH
volume() { # SOURCE PATH OPTIONS
  stage=$rootfs/dev/.launch/volume
  if [ -d "$1" ]; then mkdir "$stage"; else : >"$stage"; fi
  mount --rbind -- "$1" "$stage"
  [ -z "$3" ] || restrict "$stage" "$3"
  if [ -d "$stage" ]; then
    walk "$2" directory; mount -n -c --move "$stage" .
  else
    walk "$2" file; exec 9<"./$leaf"
    [ "$(readlink -n /proc/self/fd/9)" = "$PWD/$leaf" ] || stop "$2 changes while it is looked at"
    mount -n -c --move "$stage" /proc/self/fd/9; exec 9<&-
  fi
  cd /; rm -d "$stage"
}`;

/** What PID 1 does first, with the host's programs at hand. */
export function holdProgram(launch: Launch): string {
  const { isolate, hostname, has, readOnly, userNamespace } = launch;
  const pivots = isolate.has('mount');
  const lines = [
    'exec 2>&3 3>&-; set -e; umask 022',
    'stop() { echo "run: $*" >&2; exit 125; }',
    ...mountRoot(launch),
    '# a mount point that is missing is made, a link in its place is not followed',
    `for mountPoint in ${pivots ? 'proc sys dev' : 'proc'}; do`,
    '  [ ! -L "$rootfs/$mountPoint" ] || stop "$rootfs/$mountPoint is a symlink"',
    '  [ -d "$rootfs/$mountPoint" ] || mkdir "$rootfs/$mountPoint"',
    'done',
  ];
  if (pivots) lines.push(...furnish(launch));
  else
    for (const [source, path, type, options] of mounts(launch))
      lines.push(`mount -t ${type} -o ${options} ${quote(source)} "$rootfs"${path}`);
  if (isolate.has('uts') && hostname)
    // that file is the host root's; sethostname(2) is the container's as well
    lines.push(
      userNamespace ? `hostname ${quote(hostname)}` : `echo ${quote(hostname)} >/proc/sys/kernel/hostname`,
    );
  if (isolate.has('net') && has.ip) lines.push('ip link set lo up');
  if (readOnly) lines.push('mount -o remount,bind,ro -- "$rootfs"');
  // the pivot moves the directories that processes are in as well as their root, pivot_root(2)
  lines.push('cd /');
  return lines.join('\n');
}

/** The root itself, without device files: one that somebody makes in there opens nothing. */
function mountRoot({ rootFlags, ephemeral, privileged, userNamespace }: Launch): string[] {
  const flags = new Set([...rootFlags, ...(privileged ? [] : ['nodev'])]);
  if (!ephemeral) return [`mount -o ${['bind', ...flags].join()} -- "$rootfs" "$rootfs"`];
  flags.delete('ro');
  // overlayfs in a user namespace keeps its marks in user.*; in all others in trusted.*
  const options = [
    ...flags,
    ...(userNamespace ? ['userxattr'] : []),
    'lowerdir=lower,upperdir=upper,workdir=work',
  ];
  const size = ephemeral.sizeBytes === undefined ? '' : `size=${ephemeral.sizeBytes},`;
  return [
    '# what is written goes into memory, and away with the mount namespace. Paths are relative: in absolute ones a',
    '# colon, a comma or a backslash would mean something to overlayfs',
    `cd -- "$rootfs"; mount -t tmpfs -o ${size}mode=700 tmpfs "$rootfs"`,
    'mkdir "$rootfs/lower" "$rootfs/upper" "$rootfs/work"; mount -c --bind . "$rootfs/lower"; cd -- "$rootfs"',
    'chown --reference=lower upper; chmod --reference=lower upper',
    `mount -t overlay -o ${options.join()} overlay "$rootfs"`,
  ];
}

/** A fresh /dev, the table of mounts, and what the user wants to have there besides. */
function furnish(launch: Launch): string[] {
  const { userNamespace, user, privileged, init, seccomp } = launch;
  const lines = [
    'mount -t tmpfs -o mode=755,size=64k,nosuid,noexec tmpfs "$rootfs/dev"; mkdir -m 700 "$rootfs/dev/.launch"',
  ];
  const wanted = extras(launch);
  if (wanted.length > 0 || isForeignSys(launch)) lines.push(functions);
  if (isForeignSys(launch))
    lines.push(
      'mount --rbind /sys "$rootfs/sys"   # sysfs belongs to the network namespace, which is the host\'s',
      `restrict "$rootfs/sys" ${privileged ? '' : 'ro,'}nosuid,nodev,noexec`,
    );
  lines.push(
    'printf \'%s\\n\' "$fstab" >"$rootfs/dev/.launch/fstab"',
    // mount(8) passes over a line that it can't read, and says so, but ends with 0
    'said=$(mount -a -T "$rootfs/dev/.launch/fstab" 2>&1) || stop "$said"',
    'case $said in *"parse error"*) stop "$said";; esac',
  );
  // cp(1) makes devices and links anew, as they are on the host; in a user namespace mknod(2) makes no device
  const plain = devices.map((name) => `/dev/${name}`);
  if (!userNamespace) lines.push(`cp -a ${[...plain, ...links].join(' ')} "$rootfs/dev/"`);
  else lines.push(`cp -d ${links.join(' ')} "$rootfs/dev/"`);
  lines.push('ln -s pts/ptmx "$rootfs/dev/ptmx"');
  const bind = (source: string, path: string) =>
    lines.push(`: >"$rootfs"${quote(path)}; mount --bind -- ${quote(source)} "$rootfs"${quote(path)}`);
  if (userNamespace) for (const path of plain) bind(path, path);
  for (const { source, path } of launch.devices) {
    const folder = dirname(path);
    if (folder !== '/dev') lines.push(`mkdir -p "$rootfs"${quote(folder)}`);
    if (userNamespace) bind(source, path);
    else lines.push(`cp -a -- ${quote(source)} "$rootfs"${quote(path)}`);
  }
  lines.push(...wanted);
  if (init) {
    bind(init, '/dev/init');
    lines.push('mount -o remount,bind,ro,nosuid,nodev "$rootfs/dev/init"');
  }
  if (seccomp?.file)
    lines.push(
      '# the filter of system calls, for setpriv(1) to read',
      `printf '${printfFormat(seccomp.file)}' >"$rootfs/dev/.launch/seccomp"; exec 5<"$rootfs/dev/.launch/seccomp"`,
    );
  lines.push(
    '# its terminal, if it has one: found as /dev/console, for ttyname(3) looks for a name that is in its own /dev',
    'if [ "$console" ]; then',
    '  : >"$rootfs/dev/console"; mount --bind "$console" "$rootfs/dev/console"',
    `  chown ${user.uid} "$rootfs/dev/console" 2>/dev/null || :`,
    '  exec <"$rootfs/dev/console" >"$rootfs/dev/console" 2>&1',
    'fi',
    'cd /; rm -r "$rootfs/dev/.launch"',
  );
  return lines;
}

/** Volumes, file systems in memory and texts, outer ones before those inside of them. */
function extras({ volumes, tmpfs, texts, privileged }: Launch): string[] {
  const nodev = privileged ? [] : ['nodev'];
  const depth = (path: string) => path.split('/').filter(Boolean).length;
  const lines = [
    ...volumes.map(({ source, path, options }) => ({
      path,
      line: `volume ${quote(source)} ${quote(path)} ${quote([...options, ...nodev].join())}`,
    })),
    ...tmpfs.map(({ path, options }) => ({
      path,
      line: `walk ${quote(path)} directory; mount -c -t tmpfs -o ${quote([...options, ...nodev].join())} tmpfs .`,
    })),
    ...texts.map(({ path, text }) => ({
      path,
      line: `printf '%s\\n' ${quote(text)} >"$rootfs/dev/.launch/text"; volume "$rootfs/dev/.launch/text" ${path} nosuid,nodev,noexec; rm "$rootfs/dev/.launch/text"`,
    })),
  ];
  return lines.sort((one, other) => depth(one.path) - depth(other.path)).map(({ line }) => line);
}
