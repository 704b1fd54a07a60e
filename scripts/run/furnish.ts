// Furnishing a container's root: the shell program that PID 1 runs while it still has the host's programs at hand.
import { basename, dirname } from 'node:path';
import { printfFormat } from '../helpers/seccomp/seccomp.ts';
import { quote } from '../helpers/shell.ts';
import type { Launch } from './launch.ts';

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

/** A line of fstab(5); targets of the container's own mounts are paths in there. */
type Mount = [source: string, target: string, type: string, options: string];

/** What is mounted in every container, in this order. */
function mounts(launch: Launch): Mount[] {
  const { rootfs, isolate, privileged, masked, cgroups, userNamespace, shmBytes } = launch;
  const rows: Mount[] = [['proc', '/proc', 'proc', 'nosuid,nodev,noexec,X-mount.mkdir']];
  const pivots = isolate.has('mount');
  if (pivots) {
    for (const { source, path } of [...harmless, ...launch.devices])
      if (userNamespace) rows.push([source, path, 'none', 'bind']);
    // of its own, as chmod(2) would change the host's through a mount of that
    for (const { path } of userNamespace ? [] : harmless)
      rows.push([`${rootfs}/launch/${basename(path)}`, path, 'none', 'bind,nosuid,noexec']);
    for (const { path } of userNamespace ? [] : launch.devices)
      rows.push([`${rootfs}/launch${path}`, path, 'none', 'bind,nosuid,noexec']);
    const writable = privileged ? 'rw' : 'ro';
    if (!isForeignSys(launch))
      rows.push(['sysfs', '/sys', 'sysfs', `${writable},nosuid,nodev,noexec,X-mount.mkdir`]);
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
    for (const path of masked.files.filter(visible))
      rows.push(['/dev/null', path, 'none', 'bind,ro,nosuid,noexec']);
  }
  return rows;
}

/** sysfs(5) shows a network namespace, and can be mounted by its owner only: all others get the host's. */
const isForeignSys = ({ userNamespace, isolate }: Launch) => userNamespace && !isolate.has('net');

const fstab = (rows: Mount[]) =>
  rows
    .map(([source, target, ...rest]) => [fstabPath(source), fstabPath(target), ...rest, '0 0'].join(' '))
    .join('\n');

/** The container's mounts in the form of fstab(5), in the order in which they are made. */
export const mountTable = (launch: Launch) =>
  fstab([
    ...mounts(launch).map(([source, path, ...rest]): Mount => [source, launch.rootfs + path, ...rest]),
    // at last to where they belong, which nobody can replace: see into
    ...into(launch).map(
      ([folder, fd]): Mount => [`${launch.rootfs}/${folder}`, `/proc/self/fd/${fd}`, 'none', 'rbind'],
    ),
  ]);

/** Directories of the root that get mounts, and descriptors for them. Not /dev: what is open in there goes with it. */
const into = ({ isolate }: Launch): [folder: string, fd: number][] => [
  ['proc', 7],
  ...(isolate.has('mount') ? [['sys', 8] as [string, number]] : []),
];

/**
 * What all is put together on, in the form of fstab(5): the root itself, without device files, so that one that somebody
 * makes in there opens nothing; a place for the launch; /dev.
 */
export function baseTable({ rootfs, isolate, rootFlags, ephemeral, privileged }: Launch): string {
  const make = 'X-mount.mkdir';
  const size = ephemeral ? ephemeral.sizeBytes && `size=${ephemeral.sizeBytes},` : 'size=1m,';
  const flags = [...new Set([...rootFlags, ...(privileged ? [] : ['nodev'])])];
  const rows: Mount[] = [
    ['tmpfs', `${rootfs}/launch`, 'tmpfs', `${size ?? ''}mode=755,${make}`],
    // ROOTFS is under a tmpfs by now, and can be reached by whoever has it as his working directory
    ephemeral
      ? ['/proc/self/cwd', `${rootfs}/launch/lower`, 'none', `bind,${make}`]
      : ['/proc/self/cwd', `${rootfs}/root`, 'none', ['bind', ...flags, make].join()],
  ];
  const device = `mode=755,size=64k,nosuid,${privileged ? '' : 'nodev,'}noexec,${make}`;
  if (isolate.has('mount')) rows.push(['tmpfs', `${rootfs}/dev`, 'tmpfs', device]);
  return fstab(rows);
}

/** What a container's /dev is furnished with: harmless devices, and the links that go with them. */
const harmless: Device[] = 'null zero full random urandom tty'.split(' ').map((name) => {
  return { source: `/dev/${name}`, path: `/dev/${name}` };
});
const links = 'fd stdin stdout stderr'.split(' ').map((name) => `/dev/${name}`);

/** Finding a path in the root, and mounting there. */
const functions = `# goes where PATH leads for a process whose root is $root, and makes what is missing. Each step is looked at again by
# getcwd(3): a link that somebody puts there at this moment leads nowhere. KIND file: to its folder, $leaf is its name
walk() { # PATH KIND
  cd -P -- "$root"; rest=$1 links=0 leaf=
  while [ "$rest" ]; do
    word=\${rest%%/*}
    case $rest in */*) rest=\${rest#*/};; *) rest=;; esac
    case $word in '' | .) continue;; ..) [ "$PWD" = "$root" ] || cd -P ..; continue;; esac
    if [ -L "./$word" ]; then
      links=$((links + 1)); [ $links -le 40 ] || stop "$1: too many symlinks"
      link=$(readlink -n "./$word" && echo .); link=\${link%.}
      case $link in /*) cd -P -- "$root";; esac
      rest=$link\${rest:+/$rest}
    elif [ "$2$rest" = file ]; then
      leaf=$word; [ -e "./$word" ] || (set -C; : >"./$word")
    else
      here=\${PWD%/}/$word; [ -d "./$word" ] || mkdir "./$word"
      cd -P "./$word"; [ "$PWD" = "$here" ] || stop "$1 changes while it is looked at"
    fi
  done
  case $PWD/$leaf in "$root/" | "$root/proc/"*) stop "$1 is no place for a mount: not / and not in /proc";; esac
}
# adds options to a mount and to those below it; those they have stay, since mount(8) reads them first
restrict() { # MOUNTPOINT OPTIONS
  # proc(5) writes a blank as \\040; printf(1) reads \\0040 so, whatever digit comes next
  sed 's/\\\\/\\\\0/g' /proc/self/mountinfo | {
    found=
    while read -r _ _ _ _ point _; do
      point=$(printf '%b.' "$point"); point=\${point%.}
      case $point in "$1" | "$1"/*) mount -o "remount,bind,$2" "$point" || exit 1; found=yes;; esac
    done
    [ "$found" ]
  } || stop "cannot make $1 $2"
}
# binds SOURCE where nobody else can change anything, then moves it onto the directory that we are in, or an open file:
# mount(8) would follow a symlink in PATH
volume() { # SOURCE PATH OPTIONS
  stage=$rootfs/launch/volume
  if [ -d "$1" ]; then mkdir "$stage"; else : >"$stage"; fi
  mount --rbind -- "$1" "$stage"
  [ -z "$3" ] || restrict "$stage" "$3"
  if [ -d "$stage" ]; then
    walk "$2" directory; mount -n -c --move "$stage" .
  else
    walk "$2" file; [ -f "./$leaf" ] || stop "$2 is no file"; exec 9<"./$leaf"
    [ "$(readlink -n /proc/self/fd/9)" = "$PWD/$leaf" ] || stop "$2 changes while it is looked at"
    mount -n -c --move "$stage" /proc/self/fd/9; exec 9<&-
  fi
  cd /; rm -d "$stage"
}`;

/**
 * What PID 1 does first, with the host's programs at hand. All is put together on a tmpfs over $rootfs, where nobody else
 * can change anything, $root being the root itself; then it is moved into there.
 */
export function holdProgram(launch: Launch): string {
  const { isolate, hostname, has, readOnly, userNamespace, seccomp } = launch;
  const pivots = isolate.has('mount');
  const wanted = pivots ? extras(launch) : [];
  const lines = [
    'set -e; umask 022',
    'stop() { echo "$*" >&2; exit 125; }   # the launching shell reads it',
    ...mountRoot(launch),
    ...(wanted.length > 0 || isForeignSys(launch) ? [functions] : []),
    ...(pivots ? furnishDev(launch) : []),
    '# goes to a mount point of the root. One that is missing is made; a link in its place is not followed, nor one that',
    '# somebody puts there now',
    'into() {',
    '  cd -P -- "$root"; [ ! -L "./$1" ] || stop "$rootfs/$1 is a symlink"',
    '  [ -d "./$1" ] || mkdir "./$1"; cd -P "./$1"',
    '  [ "$PWD" = "$root/$1" ] || stop "$rootfs/$1 changes while it is looked at"',
    '}',
    ...into(launch).map(([folder, descriptor]) => `into ${folder}; exec ${descriptor}<.`),
    'mountAll "$fstab"',
    ...(pivots ? [...finishDev(launch), 'into dev; mount -n -c --move "$rootfs/dev" .'] : []),
    'exec 7<&- 8<&-',
    ...wanted,
  ];
  if (seccomp?.file)
    lines.push(
      '# the filter of system calls, for setpriv(1) to read',
      `printf '${printfFormat(seccomp.file)}' >"$rootfs/launch/seccomp"; exec 5<"$rootfs/launch/seccomp"`,
    );
  if (isolate.has('uts') && hostname)
    // that file is the host root's; sethostname(2) is the container's as well
    lines.push(
      userNamespace ? `hostname ${quote(hostname)}` : `echo ${quote(hostname)} >/proc/sys/kernel/hostname`,
    );
  if (isolate.has('net') && has.ip) lines.push('ip link set lo up');
  if (readOnly) lines.push('mount -o remount,bind,ro -- "$root"');
  if (!pivots) lines.push('mount -n --move "$root" "$rootfs"   # chroot(2) shows its path');
  const last = pivots ? has.shell : has.chroot;
  // CVE-2019-5736: what becomes /proc/self/exe of a container is not to be written to
  if (!userNamespace) lines.push(`mount -o bind,ro -- ${quote(last)} ${quote(last)}`);
  // the pivot moves the directories that processes are in as well as their root, pivot_root(2)
  lines.push('cd /; exec 2>&3 3>&-');
  return lines.join('\n');
}

/** The root itself, and what it is put together on. */
function mountRoot({ rootFlags, ephemeral, privileged, userNamespace }: Launch): string[] {
  const lines = [
    '# mounts what is said in the form of fstab(5). mount(8) passes over a line that it can not read, says so, and ends with 0',
    'mountAll() {',
    '  printf \'%s\\n\' "$1" >"$rootfs/fstab"; said=$(mount -c -a -T "$rootfs/fstab" 2>&1) || stop "$said"',
    '  case $said in *"parse error"*) stop "$said";; esac',
    '}',
    // mount_namespaces(7): an unbindable mount is left out of a volume that ROOTFS lies in
    'cd -- "$rootfs"; mount -t tmpfs -o mode=755,unbindable tmpfs "$rootfs"; root=$rootfs/root',
    'mountAll "$base"',
  ];
  if (!ephemeral) return lines;
  const flags = new Set([...rootFlags, ...(privileged ? [] : ['nodev'])]);
  flags.delete('ro');
  // overlayfs in a user namespace keeps its marks in user.*; in all others in trusted.*
  const options = [
    ...flags,
    ...(userNamespace ? ['userxattr'] : []),
    'lowerdir=lower,upperdir=upper,workdir=work,X-mount.mkdir',
  ];
  return [
    ...lines,
    '# what is written goes into memory, and away with the mount namespace. Paths are relative: in absolute ones a',
    '# colon, a comma or a backslash would mean something to overlayfs',
    'cd -- "$rootfs/launch"; mkdir upper work; chown --reference=lower upper; chmod --reference=lower upper',
    `mount -t overlay -o ${options.join()} overlay "$root"`,
  ];
}

/** A fresh /dev, with files for the devices that are then mounted there. */
function furnishDev(launch: Launch): string[] {
  const { userNamespace, privileged, devices } = launch;
  const all = [...harmless, ...devices];
  const folders = [...new Set(devices.map(({ path }) => dirname(path)))].filter((path) => path !== '/dev');
  const made = folders.flatMap((folder) =>
    ['"$rootfs"', '"$rootfs/launch"'].map((base) => base + quote(folder)),
  );
  const lines = [
    ...(devices.length > 0 ? [`mkdir -p "$rootfs/launch/dev" ${made.join(' ')}`] : []),
    `for device in ${all.map(({ path }) => quote(path)).join(' ')}; do : >"$rootfs$device"; done`,
  ];
  // cp(1) makes devices and links anew, as they are on the host; in a user namespace mknod(2) makes no device
  if (!userNamespace) {
    lines.push(`cp -a ${harmless.map(({ source }) => source).join(' ')} "$rootfs/launch/"`);
    for (const { source, path } of devices)
      lines.push(`cp -a -- ${quote(source)} "$rootfs/launch"${quote(path)}`);
  }
  lines.push(`cp -d ${links.join(' ')} "$rootfs/dev/"; ln -s pts/ptmx "$rootfs/dev/ptmx"`);
  if (isForeignSys(launch))
    lines.push(
      'mkdir "$rootfs/sys"; mount --rbind /sys "$rootfs/sys"   # sysfs belongs to the network namespace, which is the host\'s',
      `restrict "$rootfs/sys" ${privileged ? '' : 'ro,'}nosuid,nodev,noexec`,
    );
  return lines;
}

/** What else is in /dev: an init, a console; and its null in place of the host's as input or output. */
function finishDev({ init, user }: Launch): string[] {
  const lines: string[] = [];
  if (init)
    lines.push(
      `: >"$rootfs/dev/init"; mount --bind -- ${quote(init)} "$rootfs/dev/init"`,
      'mount -o remount,bind,ro,nosuid,nodev "$rootfs/dev/init"',
    );
  lines.push(
    "# chmod(2) of a descriptor would change the host's",
    '[ ! /proc/self/fd/0 -ef /dev/null ] || exec <"$rootfs/dev/null"',
    '[ ! /proc/self/fd/1 -ef /dev/null ] || exec >"$rootfs/dev/null"',
    '[ ! /proc/self/fd/3 -ef /dev/null ] || exec 3>"$rootfs/dev/null"',
    '# its terminal, if it has one: found as /dev/console, for ttyname(3) looks for a name that is in its own /dev',
    'if [ "$console" ]; then',
    '  : >"$rootfs/dev/console"; mount --bind "$console" "$rootfs/dev/console"',
    `  chown ${user.uid} "$rootfs/dev/console" 2>/dev/null || :`,
    '  exec <"$rootfs/dev/console" >"$rootfs/dev/console" 3>&1',
    'fi',
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
      line: `printf '%s\\n' ${quote(text)} >"$rootfs/launch/text"; volume "$rootfs/launch/text" ${path} nosuid,nodev,noexec; rm "$rootfs/launch/text"`,
    })),
  ];
  return lines.sort((one, other) => depth(one.path) - depth(other.path)).map(({ line }) => line);
}
