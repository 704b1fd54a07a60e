// What of the host a process can reach: mounts, devices, sockets of engines, descriptors, writable files of the kernel.
// Its root directory is walked by descriptors, since no symlink in it may lead to the reader's.
import {
  closeSync,
  constants,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  type Stats,
  statSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import type { Hierarchy } from '../helpers/cgroups.ts';
import { readRoot } from '../helpers/containers.ts';
import { O_PATH, ofDescriptor, openInRoot, openRoot, statsInRoot } from '../helpers/in-root.ts';
import { isBelow, type Mount, mountOf, pathsOnHost, readMounts, visibleMounts } from '../helpers/mounts.ts';
import { attempt, namespaceInode } from '../helpers/pids.ts';
import { deviceNumber } from '../limit/disk.ts';
import type { Credentials, Unseen } from './facts.ts';

/** A mount below the root directory of a process. */
export interface MountInside {
  mountPoint: string;
  type: string;
  /** the host's path of what it shows; null: the host has none */
  hostPath: string | null;
  readOnly: boolean;
}

/** A device node that the process may open. */
export interface Device {
  path: string;
  kind: 'block' | 'character';
  /** MAJ:MIN */
  number: string;
  /** `r`, `w` or `rw`: by the mode of the node, and by the device cgroup where that can be read */
  access: string;
  /** the kernel's name of a disk */
  disk: string | null;
}

/** A socket by which an engine takes commands. */
export interface EngineSocket {
  path: string;
  engine: string;
  /** the host's path of the same socket; null: that of an engine inside the container */
  hostPath: string | null;
}

/** An open descriptor, or the working directory, of a file that is not below the root directory of the process. */
export interface Leak {
  descriptor: number | 'cwd';
  target: string;
  kind: 'directory' | 'file' | 'block' | 'character' | 'namespace';
  writable: boolean;
}

/** A file system of the kernel that the process may write to. */
export interface Writable {
  path: string;
  /** `cgroup`: files of its own cgroup; `release_agent`: the root of a hierarchy of v1, cgroups(7) */
  kind: 'sysctl' | 'sysrq' | 'sysfs' | 'cgroup' | 'release_agent';
}

export interface Reach {
  /** its root directory is that of the reader. null: unknown */
  rootIsHosts: boolean | null;
  /** the root directory was only changed by chroot(2) */
  isChroot: boolean | null;
  /** those that the host does not have in the same way at the same path */
  mounts: MountInside[];
  devices: Device[];
  /** a mount on which it can make device nodes that work, with CAP_MKNOD; null: there is none */
  deviceMount: string | null;
  /** of the device cgroup of v1; null: v2, whose filter is a BPF program that no file shows */
  deviceRules: string[] | null;
  sockets: EngineSocket[];
  descriptors: Leak[];
  writable: Writable[];
  /** mount points of a /proc of the host's PID namespace, if the process is in another one */
  hostProc: string[];
}

interface Known {
  hostMounts: Mount[];
  cgroups: { hierarchy: Hierarchy; directory: string }[];
  credentials: Credentials;
  /** its capabilities override the modes of the host's files */
  overrides: boolean;
  /** it is user 0 of the host, who owns the kernel's files */
  isHostsRoot: boolean;
  /** it has a cgroup namespace of its own */
  ownsCgroups: boolean;
  cannot: Unseen;
}

/** Where engines have their sockets: the host's paths. */
const engineSockets: [engine: string, path: RegExp, places: string[]][] = [
  ['docker', /\/docker\.sock$/, ['/run/docker.sock']],
  [
    'containerd',
    /\/containerd\.sock$/,
    ['/run/containerd/containerd.sock', '/run/k3s/containerd/containerd.sock'],
  ],
  ['podman', /\/podman\.sock$/, ['/run/podman/podman.sock']],
  ['cri-o', /\/crio\.sock$/, ['/run/crio/crio.sock']],
  ['lxd', /\/lxd\/unix\.socket$/, ['/var/lib/lxd/unix.socket', '/var/snap/lxd/common/lxd/unix.socket']],
  ['incus', /\/incus\/unix\.socket$/, ['/var/lib/incus/unix.socket']],
  ['libvirt', /\/libvirt-sock$/, ['/run/libvirt/libvirt-sock']],
  ['systemd', /\/systemd\/private$/, ['/run/systemd/private']],
];

/** The IDs of users whose engines run without root, by their directories in /run/user. */
const userPlaces = (): [engine: string, path: string][] =>
  (attempt(() => readdirSync('/run/user')) ?? []).flatMap((uid) => [
    ['docker', `/run/user/${uid}/docker.sock`],
    ['podman', `/run/user/${uid}/podman/podman.sock`],
  ]);

/** Which of `r` and `w` a file's mode grants, path_resolution(7). Access control lists are not considered. */
export function grants(
  { uid, gid, mode }: Pick<Stats, 'uid' | 'gid' | 'mode'>,
  { uids, gids, groups }: Credentials,
  overrides: boolean,
): string {
  const shift = uid === uids.files ? 6 : gid === gids.files || groups.includes(gid) ? 3 : 0;
  const bits = overrides ? 6 : (mode >> shift) & 6;
  return (bits & 4 ? 'r' : '') + (bits & 2 ? 'w' : '');
}

/** What rules of a device cgroup, `c 1:3 rwm`, allow of the letters `access`. null: no rules are known. */
export function allowedByRules(
  rules: string[] | null,
  kind: 'b' | 'c',
  number: string,
  access: string,
): string {
  if (rules === null) return access;
  const [major, minor] = number.split(':');
  const matching = rules.flatMap((rule) => {
    const [type, wanted = '', letters = ''] = rule.split(' ');
    const [its, itsMinor] = wanted.split(':');
    const fits =
      (type === 'a' || type === kind) && ['*', major].includes(its) && ['*', minor].includes(itsMinor);
    return fits ? letters : [];
  });
  return [...access].filter((letter) => matching.some((letters) => letters.includes(letter))).join('');
}

/** Devices of every container: null, zero, full, random, urandom; tty, console, ptmx; terminals. */
const usual = /^c (1:[35789]|5:[012]|13[6-9]:\d+|14[0-3]:\d+)$/;

/** Kind and number of a device node. */
const deviceOf = (stats: Stats): Pick<Device, 'kind' | 'number'> => ({
  kind: stats.isBlockDevice() ? 'block' : 'character',
  number: deviceNumber(stats.rdev).join(':'),
});

/** Whether a device is one of those that every container has. */
export const isUsual = ({ kind, number }: Pick<Device, 'kind' | 'number'>) =>
  usual.test(`${kind === 'block' ? 'b' : 'c'} ${number}`);

const mountId = (fdinfo: string) => Number(/^mnt_id:\t(\d+)$/m.exec(fdinfo)?.[1]);

/** Opens the directory of a mount in a root; undefined if something else is there, as another mount on top. */
function openMount(root: number, { id, mountPoint }: Mount): number | undefined {
  const found = openInRoot(root, mountPoint, { links: false });
  if (!found) return undefined;
  if (mountId(readFileSync(`/proc/self/fdinfo/${found.fd}`, 'utf8')) === id) return found.fd;
  closeSync(found.fd);
  return undefined;
}

/** Reads what a process can reach. What can't be read is given to `cannot`. */
export function readReach(pid: number, known: Known): Reach {
  const { hostMounts, cgroups, cannot } = known;
  const reach: Reach = {
    rootIsHosts: null,
    isChroot: null,
    mounts: [],
    devices: [],
    deviceMount: null,
    deviceRules: readDeviceRules(cgroups),
    sockets: [],
    descriptors: [],
    writable: [],
    hostProc: [],
  };
  let root: number;
  try {
    const { stats, path } = readRoot(pid);
    const own = statSync('/');
    reach.rootIsHosts = path === '/' && stats.dev === own.dev && stats.ino === own.ino;
    // pivot_root(2) makes a mount the root, whose path is /
    reach.isChroot = path !== '/';
    root = openRoot(`/proc/${pid}/root`);
  } catch (error) {
    cannot('root directory, and so its mounts, devices, sockets and descriptors', error);
    return reach;
  }
  const part = (what: string, read: () => void) => {
    try {
      read();
    } catch (error) {
      cannot(what, error);
    }
  };
  try {
    const all = readMounts(pid);
    const mounts = visibleMounts(all);
    part('devices', () => (reach.devices = readDevices(root, mounts, reach.deviceRules, known)));
    part('devices', () => (reach.deviceMount = findDeviceMount(root, mounts)));
    part('sockets', () => (reach.sockets = readSockets(root, mounts, known)));
    part('descriptors', () => (reach.descriptors = readLeaks(pid, all, reach)));
    part('mounts', () => (reach.mounts = mountsInside(mounts, hostMounts, reach.isChroot === true)));
    // without a root directory of its own everything of the kernel is the host's
    if (reach.rootIsHosts) return reach;
    part('writable files of the kernel', () => (reach.writable = readWritable(root, mounts, known)));
    part('/proc', () => (reach.hostProc = readHostProc(pid, root, mounts)));
    return reach;
  } finally {
    closeSync(root);
  }
}

/** Whether a mount or its file system is read-only. */
const isReadOnly = ({ options, superOptions }: Mount) =>
  options.includes('ro') || superOptions.split(',').includes('ro');

/** The mounts of a process without those that the host has in the same way at the same path. */
export function mountsInside(mounts: Mount[], hostMounts: Mount[], isChroot: boolean): MountInside[] {
  const hosts = new Map(hostMounts.map((mount) => [mount.id, mount]));
  return mounts.flatMap((mount) => {
    // the same mount namespace: after chroot(2), paths are those below the root
    if (hosts.has(mount.id) && !isChroot) return [];
    const { mountPoint, type } = mount;
    const paths = hosts.has(mount.id)
      ? [hosts.get(mount.id)?.mountPoint ?? '']
      : pathsOnHost(mount, hostMounts);
    const hostPath =
      paths.find((path) => mountOf(path, hostMounts)?.device === mount.device) ?? paths[0] ?? null;
    const readOnly = isReadOnly(mount);
    const same = hostPath === mountPoint ? mountOf(hostPath, hostMounts) : undefined;
    return same && isReadOnly(same) === readOnly ? [] : { mountPoint, type, hostPath, readOnly };
  });
}

function readDeviceRules(cgroups: Known['cgroups']): string[] | null {
  const place = cgroups.find(({ hierarchy }) => hierarchy.controllers.includes('devices'));
  const text = place && attempt(() => readFileSync(join(place.directory, 'devices.list'), 'utf8'));
  return text?.split('\n').filter(Boolean) ?? null;
}

/** File systems that ask a server, which may not answer; nor may that of a hostile container, fuse(4). */
const served = /^(fuse|nfs|cifs|smb|9p|ceph|afs|autofs)/;

/** Whether a path without symlinks can be looked at without such a server. The root has answered already. */
function answers(path: string, mounts: Mount[]): boolean {
  const mount = mountOf(path, mounts);
  return !mount || mount.mountPoint === '/' || !served.test(mount.type);
}

const mostDevices = 4096;

/** Device nodes below /dev, and those that are mounts of their own. */
function readDevices(root: number, mounts: Mount[], rules: string[] | null, known: Known): Device[] {
  const found = new Map<string, Device>();
  const add = (path: string, stats: Stats) => {
    const { kind, number } = deviceOf(stats);
    // mount(8): devices on a file system mounted nodev are none
    if (mountOf(path, mounts)?.options.includes('nodev')) return;
    const granted = grants(stats, known.credentials, known.overrides);
    const access = allowedByRules(rules, kind === 'block' ? 'b' : 'c', number, granted);
    const link = kind === 'block' ? attempt(() => readlinkSync(`/sys/dev/block/${number}`)) : undefined;
    if (access) found.set(path, { path, kind, number, access, disk: link ? basename(link) : null });
  };
  const isDevice = (stats: Stats) => stats.isBlockDevice() || stats.isCharacterDevice();
  let entries = 0;
  const walk = (fd: number, path: string, depth: number): void => {
    for (const name of readdirSync(ofDescriptor(fd))) {
      if (++entries > mostDevices) return;
      if (!answers(`${path}/${name}`, mounts)) {
        known.cannot(`${path}/${name}`, new Error('not looked at: its file system may wait for a server'));
        continue;
      }
      const stats = attempt(() => lstatSync(ofDescriptor(fd, name)));
      if (stats && isDevice(stats)) add(`${path}/${name}`, stats);
      if (!stats?.isDirectory() || depth > 4) continue;
      const inner = attempt(() =>
        openSync(ofDescriptor(fd, name), O_PATH | constants.O_NOFOLLOW | constants.O_DIRECTORY),
      );
      if (inner === undefined) continue;
      try {
        walk(inner, `${path}/${name}`, depth + 1);
      } finally {
        closeSync(inner);
      }
    }
  };
  const dev = answers('/dev', mounts) ? openInRoot(root, '/dev') : undefined;
  if (dev)
    try {
      if (dev.stats.isDirectory()) walk(dev.fd, dev.path === '/' ? '' : dev.path, 0);
    } finally {
      closeSync(dev.fd);
    }
  if (entries > mostDevices) known.cannot('/dev', new Error(`more than ${mostDevices} entries`));
  for (const { mountPoint } of mounts) {
    if (!answers(mountPoint, mounts)) continue;
    const stats = attempt(() => statsInRoot(root, mountPoint, { lastLink: true }));
    // over other files the usual ones are masks
    if (stats && isDevice(stats) && !isUsual(deviceOf(stats))) add(mountPoint, stats);
  }
  return [...found.values()];
}

/** The first writable mount of files on which device nodes work, mount(8). */
function findDeviceMount(root: number, mounts: Mount[]): string | null {
  const holdsFiles = ({ type, options }: Mount) =>
    !/^(proc|sysfs|cgroup2?|devpts|mqueue)$/.test(type) &&
    options.includes('rw') &&
    !options.includes('nodev');
  const isDirectory = ({ mountPoint }: Mount) =>
    attempt(() => statsInRoot(root, mountPoint, { lastLink: true }))?.isDirectory();
  const isOpen = (mount: Mount) =>
    holdsFiles(mount) && answers(mount.mountPoint, mounts) && isDirectory(mount);
  return mounts.find(isOpen)?.mountPoint ?? null;
}

/** Sockets of engines at their usual paths, and wherever a mount shows them. */
function readSockets(root: number, mounts: Mount[], known: Known): EngineSocket[] {
  const { hostMounts } = known;
  const places = [
    ...engineSockets.flatMap(([engine, , paths]) => paths.map((path): [string, string] => [engine, path])),
    ...userPlaces(),
  ];
  const onHost = places.flatMap(([engine, path]) => {
    const stats = attempt(() => statSync(path));
    return stats?.isSocket() ? { engine, path, stats } : [];
  });
  const candidates = new Map(places.map(([engine, path]) => [path, engine]));
  for (const mount of mounts) {
    const [byName] =
      engineSockets.find(([, form]) => form.test(mount.root) || form.test(mount.mountPoint)) ?? [];
    if (byName) candidates.set(mount.mountPoint, byName);
    for (const hostPath of pathsOnHost(mount, hostMounts))
      for (const { engine, path } of onHost)
        if (isBelow(path, hostPath))
          candidates.set(join(mount.mountPoint, path.slice(hostPath.length)), engine);
  }
  const found = new Map<string, EngineSocket>();
  for (const [candidate, engine] of candidates) {
    const opened = answers(candidate, mounts) ? attempt(() => openInRoot(root, candidate)) : undefined;
    if (!opened) continue;
    closeSync(opened.fd);
    const { stats, path } = opened;
    // connect(2) needs the permission to write to the socket, unix(7)
    if (!stats.isSocket() || !grants(stats, known.credentials, known.overrides).includes('w')) continue;
    const same = onHost.find((one) => one.stats.dev === stats.dev && one.stats.ino === stats.ino);
    const mounted = mountOf(path, mounts);
    const [hostPath] = mounted ? pathsOnHost(mounted, hostMounts) : [];
    const isSocketMount = mounted?.mountPoint === path;
    found.set(path, { path, engine, hostPath: same?.path ?? (isSocketMount ? hostPath : undefined) ?? null });
  }
  return [...found.values()];
}

/** Descriptors, and the working directory, of files that lie outside of the root directory. */
function readLeaks(pid: number, mounts: Mount[], { rootIsHosts, isChroot }: Reach): Leak[] {
  if (rootIsHosts) return [];
  const rootPath = readlinkSync(`/proc/${pid}/root`);
  const ids = new Set(mounts.map(({ id }) => id));
  const isOutside = (target: string, fdinfo: string) =>
    isChroot ? !isBelow(target, rootPath) : !ids.has(mountId(fdinfo));
  const leaks: Leak[] = [];
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    // a descriptor may be closed meanwhile
    const at = `/proc/${pid}/fd/${name}`;
    const target = attempt(() => readlinkSync(at));
    const fdinfo = attempt(() => readFileSync(`/proc/${pid}/fdinfo/${name}`, 'utf8'));
    if (target === undefined || fdinfo === undefined) continue;
    const descriptor = Number(name);
    const writable = (Number.parseInt(/^flags:\t(\d+)$/m.exec(fdinfo)?.[1] ?? '0', 8) & 3) > 0;
    const [, type = '', inode] = /^(mnt|pid|net|ipc|uts|user|cgroup|time):\[(\d+)\]$/.exec(target) ?? [];
    if (type) {
      if (namespaceInode(pid, type) !== Number(inode))
        leaks.push({ descriptor, target, kind: 'namespace', writable });
      continue;
    }
    // files that no directory has: pipes, sockets, memfd_create(2), shared memory
    if (!target.startsWith('/') || /^\/(memfd:|dmabuf:|SYSV|\[)/.test(target)) continue;
    const stats = isOutside(target, fdinfo) ? attempt(() => statSync(at)) : undefined;
    if (!stats) continue;
    const kind = stats.isDirectory()
      ? 'directory'
      : stats.isBlockDevice()
        ? 'block'
        : stats.isCharacterDevice()
          ? 'character'
          : stats.isFile()
            ? 'file'
            : undefined;
    if (!kind) continue;
    if (kind === 'character' && isUsual(deviceOf(stats))) continue;
    leaks.push({ descriptor, target, kind, writable });
  }
  const cwd = openSync(`/proc/${pid}/cwd`, O_PATH);
  try {
    const target = readlinkSync(`/proc/${pid}/cwd`);
    const fdinfo = readFileSync(`/proc/self/fdinfo/${cwd}`, 'utf8');
    if (isOutside(target, fdinfo))
      leaks.push({ descriptor: 'cwd', target, kind: 'directory', writable: false });
  } finally {
    closeSync(cwd);
  }
  return leaks;
}

/** Files of the kernel that a process may write to, in file systems that are mounted below its root directory. */
function readWritable(root: number, mounts: Mount[], known: Known): Writable[] {
  const found: Writable[] = [];
  const isWritable = (path: string, type: string) => {
    const mount = mountOf(path, mounts);
    return mount?.type === type && !isReadOnly(mount);
  };
  for (const mount of mounts) {
    const { type, mountPoint, root: shown } = mount;
    if (type === 'proc' && known.isHostsRoot) {
      const sysctls = shown === '/' ? join(mountPoint, 'sys') : mountPoint;
      if (['/', '/sys'].includes(shown) && isWritable(sysctls, 'proc'))
        found.push({ path: sysctls, kind: 'sysctl' });
      const sysrq = join(mountPoint, 'sysrq-trigger');
      if (shown === '/' && statsInRoot(root, sysrq) && isWritable(sysrq, 'proc'))
        found.push({ path: sysrq, kind: 'sysrq' });
    }
    if (type === 'sysfs' && known.isHostsRoot && isWritable(mountPoint, type))
      found.push({ path: mountPoint, kind: 'sysfs' });
    if (!/^cgroup2?$/.test(type) || !isWritable(mountPoint, type)) continue;
    const fd = openMount(root, mount);
    if (fd === undefined) continue;
    try {
      const may = (name: string) => {
        const stats = attempt(() => lstatSync(ofDescriptor(fd, name)));
        return stats !== undefined && grants(stats, known.credentials, known.overrides).includes('w');
      };
      // a hierarchy of v1 without controllers limits nothing; cgroups(7): with nsdelegate a namespace has no limits of its own
      const has = (option: string) => new RegExp(`(^|,)${option}`).test(mount.superOptions);
      const limits = type === 'cgroup2' ? !(known.ownsCgroups && has('nsdelegate')) : !has('name=');
      if (may('release_agent'))
        found.push({ path: join(mountPoint, 'release_agent'), kind: 'release_agent' });
      else if (limits && may('cgroup.procs')) found.push({ path: mountPoint, kind: 'cgroup' });
    } finally {
      closeSync(fd);
    }
  }
  return found;
}

/** Mount points of a /proc that shows the host's PID namespace to a process in another one. */
function readHostProc(pid: number, root: number, mounts: Mount[]): string[] {
  const host = namespaceInode(1, 'pid') ?? namespaceInode('self', 'pid');
  if (namespaceInode(pid, 'pid') === host) return [];
  return mounts.flatMap((mount) => {
    if (mount.type !== 'proc' || mount.root !== '/') return [];
    const fd = openMount(root, mount);
    if (fd === undefined) return [];
    try {
      const shown = attempt(() => readlinkSync(ofDescriptor(fd, '1/ns/pid')));
      return shown === `pid:[${host}]` ? mount.mountPoint : [];
    } finally {
      closeSync(fd);
    }
  });
}
