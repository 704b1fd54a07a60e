// Plan for furnishing a container's root directory: its mounts, files and device nodes. node furnishes it from outside,
// while the future PID 1 waits.
//
// The stage is a tmpfs that covers ROOTFS in the container's mount namespace. Only this launch can change it. All parts
// are prepared on the stage; then each one is bind-mounted at its place in the root. Mounts are grouped into tables in
// the format of fstab(5): one mount(8) makes all mounts of a table.
import { basename, dirname } from 'node:path';
import { type Command, sh } from '../helpers/shell.ts';
import type { Launch } from './container.ts';
import { hostId } from './userns.ts';

/** A directory or file of the host that is bind-mounted at `path`, with options of mount(8). */
export interface Volume {
  source: string;
  path: string;
  options: string[];
  /** its options have z or Z, Docker's words for a label of SELinux */
  relabels?: boolean;
  /** the host's later mounts below `source` come in: rslave of mount(8) */
  receives?: boolean;
}

/** A volume and its mounts on this host: the mount that `source` lies on, then those below `source`. */
export interface FoundVolume extends Volume {
  isDirectory: boolean;
  /** `path` is relative to `source`: it is empty, or begins with a slash */
  mountPoints: { path: string; options: string[] }[];
}

/** A tmpfs at `path`, with options of tmpfs(5). */
export interface Tmpfs {
  path: string;
  options: string[];
}

/** A text file that is made for the container and mounted at `path`. */
export interface Text {
  path: string;
  text: string;
}

/**
 * A device of the host. `path` is its path in the container, and begins with /dev/. `denied`: what the container may not
 * do with the device, `r`, `w` and `m` for mknod(2).
 */
export interface Device {
  source: string;
  path: string;
  denied?: string;
}

/** A mount: one line of fstab(5). `source` and `target` are paths for mount(2). */
export interface Mount {
  source: string;
  target: string;
  type: string;
  options: string;
}

/** A bind mount of `from`, which is on the stage, at `to` in the root. A missing `to` is created. */
export interface Binding {
  /** relative to the stage */
  from: string;
  to: string;
  kind: 'directory' | 'file';
  /** proc, sys and dev: a symlink in `to` is an error; for other bindings, symlinks are followed inside the root */
  refusesLinks?: boolean;
  /** if the last component of `to` is a symlink, the mount covers the symlink itself */
  coversLink?: boolean;
  /** attributes that the new mount copies from the directory that it covers */
  copied?: { mode: boolean; uid: boolean; gid: boolean };
}

/** A symlink to `link`, or a file with the content `text`. `path` is relative to the stage. */
export type StageFile = { path: string; link: string } | { path: string; text: string };

/** Everything that furnishes a root. It is made in the order of these fields. */
export interface Furnishing {
  /**
   * a second tmpfs, on the stage, for overlay layers and for sources of bind mounts: the stage is unbindable, so it can
   * hold neither
   */
  store: Mount;
  /** upper and work directory of the overlay, with owner and mode of ROOTFS; paths are relative to the stage */
  overlayDirectories: string[];
  /** mounts that are made before PID 1 joins its cgroups */
  earlyMounts: Mount[];
  /** commands that copy device nodes of the host to the store */
  copies: Command[];
  /** mount points; paths are relative to the stage */
  directories: string[];
  files: StageFile[];
  /** mounts on the stage that are made when PID 1 has its cgroup namespace */
  lateMounts: Mount[];
  /** proc, sys and dev come first; the others follow, outer paths before inner ones */
  bindings: Binding[];
  finalMounts: Mount[];
}

/**
 * Escapes a path for fstab(5), where blanks separate fields, and quotes and backslashes are special. NULs belong to
 * variables of the runbook and are kept.
 */
const fstabPath = (path: string) =>
  path.replace(
    /[^\w/.:,=+@%\0\u0080-\uffff-]/g,
    (byte) => `\\${byte.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );

/** Escapes a path for an option of overlayfs, where colons, commas and backslashes are special. */
const overlayPath = (path: string) => path.replace(/[\\:,]/g, '\\$&');

/** The mounts as a table of fstab(5). mount(8) makes them in this order. */
export const fstab = (mounts: Mount[]) =>
  mounts
    .map(
      ({ source, target, type, options }) =>
        `${fstabPath(source)} ${fstabPath(target)} ${type} ${options} 0 0\n`,
    )
    .join('');

/** Devices in every container's /dev. */
export const defaultDevices: Device[] = 'null zero full random urandom tty'.split(' ').map((name) => {
  return { source: `/dev/${name}`, path: `/dev/${name}` };
});
/** Symlinks in every container's /dev. */
const devLinks: [name: string, target: string][] = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
  ['ptmx', 'pts/ptmx'],
];

/** The mount option by which mount(8) creates a missing mount point. */
const mkdir = 'X-mount.mkdir';

const mount = (source: string, target: string, type: string, options: string | string[]): Mount => ({
  source,
  target,
  type,
  options: [options].flat().filter(Boolean).join() || 'defaults',
});
/** Whether a volume of the container gets later mounts: then the container's copy of the host's mounts gets them too. */
export const receivesMounts = ({ volumes }: Launch) => volumes.some(({ receives }) => receives);
/** The option that keeps the host's later mounts out of a bind mount of a directory of the host. */
const closed = (launch: Launch, word: 'private' | 'rprivate') => (receivesMounts(launch) ? [word] : []);

const bind = (source: string, target: string, ...options: string[]) =>
  mount(source, target, 'none', ['bind', ...options]);

/**
 * Plans the furnishing of a container's root. Pure. `stage` is the path of the stage for mount(2). `cwd` is the path of
 * PID 1's working directory, which is ROOTFS below the stage. `terminal` is the container's terminal, if it has one.
 */
export function planFurnishing(
  launch: Launch,
  { stage, cwd, terminal }: { stage: string; cwd: string; terminal: string | undefined },
): Furnishing {
  const { isolate, ephemeral, privileged, userNamespace, rootFlags, readOnly, init } = launch;
  const pivots = isolate.has('mount');
  const root = `${stage}/root`;
  const flags = [...new Set([...rootFlags, ...nodevOf(launch)])];
  const size = ephemeral ? ephemeral.sizeBytes && `size=${ephemeral.sizeBytes}` : 'size=1m';
  const plan: Furnishing = {
    store: mount('tmpfs', `${stage}/store`, 'tmpfs', ['mode=755', size || '', mkdir]),
    overlayDirectories: [],
    earlyMounts: [],
    directories: [],
    files: [],
    copies: [],
    lateMounts: [],
    bindings: [],
    finalMounts: [],
  };
  const { earlyMounts, lateMounts, finalMounts } = plan;

  if (ephemeral) {
    plan.overlayDirectories.push('store/upper', 'store/work');
    earlyMounts.push(bind(cwd, `${stage}/lower`, ...closed(launch, 'private'), mkdir));
    const layers = ['lower', ...plan.overlayDirectories].map(
      (path) => `${basename(path)}dir=${overlayPath(`${stage}/${path}`)}`,
    );
    // in a user namespace overlayfs can't set its extended attributes trusted.*, and uses user.*
    const attributes = userNamespace ? 'userxattr' : '';
    const writable = flags.filter((flag) => flag !== 'ro');
    // overlayfs ignores the source: ps.ts finds ROOTFS there, which the layers, by descriptors, do not tell
    earlyMounts.push(mount(launch.rootfs, root, 'overlay', [...writable, attributes, ...layers, mkdir]));
  } else earlyMounts.push(bind(cwd, root, ...flags, ...closed(launch, 'private'), mkdir));

  // CVE-2019-5736: the container can open the host's program that becomes its command, by /proc/self/exe, so that
  // program is executed from a read-only mount. By its plain path mount(8) would skip it as mounted already.
  const hostProgram = pivots ? launch.shell : launch.chroot;
  if (!userNamespace) earlyMounts.push(bind(hostProgram, `/proc/self/root${hostProgram}`, 'ro'));

  earlyMounts.push(mount('proc', `${stage}/proc`, 'proc', ['nosuid,nodev,noexec', mkdir]));
  if (pivots) {
    planSys(launch, plan, stage);
    planDev(launch, plan, stage, terminal);
  }
  if (!privileged) {
    const visible = (path: string) => path.startsWith('/proc/') || pivots;
    const { readOnly: readOnlyPaths, folders, files } = launch.masked;
    for (const path of readOnlyPaths.filter(visible))
      lateMounts.push(bind(stage + path, stage + path, 'ro,nosuid,nodev,noexec'));
    for (const path of folders.filter(visible)) lateMounts.push(emptyDirectory(stage + path));
    for (const path of files.filter(visible))
      lateMounts.push(bind('/dev/null', stage + path, 'ro,nosuid,noexec'));
  }
  for (const name of pivots ? ['proc', 'sys', 'dev'] : ['proc'])
    plan.bindings.push({ from: name, to: `/${name}`, kind: 'directory', refusesLinks: true });
  if (pivots && init) {
    plan.files.push({ path: 'dev/init', text: '' });
    lateMounts.push(bind(init, `${stage}/dev/init`, 'ro,nosuid,nodev'));
  }
  if (pivots) planVolumes(launch, plan, stage);
  if (readOnly) finalMounts.push(mount('none', root, 'none', ['remount,bind,ro', ...flags]));
  // chroot(1) gets the path ROOTFS, which the stage covers: the root is mounted there
  if (!pivots) finalMounts.push(mount(root, stage, 'none', 'rbind'));
  return plan;
}

const nodevOf = ({ privileged }: Launch) => (privileged ? [] : ['nodev']);

/** An empty, read-only tmpfs, which hides a directory. */
const emptyDirectory = (target: string, source = 'tmpfs') =>
  mount(source, target, 'tmpfs', 'ro,size=4k,nosuid,nodev,noexec');

/** Plans /sys. */
function planSys(launch: Launch, { earlyMounts, lateMounts }: Furnishing, stage: string): void {
  const { isolate, cgroups, privileged, userNamespace, sysMounts } = launch;
  const sys = `${stage}/sys`;
  const flags = [privileged ? 'rw' : 'ro', 'nosuid,nodev,noexec'];
  // only the owner of a network namespace can mount its sysfs(5): the container gets a bind mount of the host's
  if (userNamespace && !isolate.has('net')) {
    earlyMounts.push(mount('/sys', sys, 'none', ['rbind', ...closed(launch, 'rprivate'), mkdir]));
    for (const path of ['', ...sysMounts])
      earlyMounts.push(mount('none', sys + path, 'none', ['remount,bind', ...flags]));
    // with the source of the host's tmpfs there, mount(8) could skip it as mounted already
    lateMounts.push(emptyDirectory(`${sys}/fs/cgroup`, 'masked'));
  } else earlyMounts.push(mount('sysfs', sys, 'sysfs', [...flags, mkdir]));
  if (isolate.has('cgroup') && cgroups?.version === 2)
    lateMounts.push(mount('cgroup2', `${sys}/fs/cgroup`, 'cgroup2', flags));
}

/** Plans /dev. */
function planDev(launch: Launch, plan: Furnishing, stage: string, terminal: string | undefined): void {
  const { isolate, userNamespace, devices, shmBytes } = launch;
  const { earlyMounts, lateMounts, files } = plan;
  const dev = `${stage}/dev`;
  const flags = ['mode=755,size=64k,nosuid', ...nodevOf(launch), 'noexec', mkdir];
  // group 5 is tty; a user namespace may not map it
  const tty = hostId(userNamespace?.gids, 5) === undefined ? '' : 'gid=5';
  earlyMounts.push(
    mount('tmpfs', dev, 'tmpfs', flags),
    mount('devpts', `${dev}/pts`, 'devpts', [
      ...['newinstance,ptmxmode=0666,mode=0620', tty, 'nosuid,noexec', mkdir],
    ]),
    mount('tmpfs', `${dev}/shm`, 'tmpfs', [`mode=1777,size=${shmBytes},nodev,nosuid,noexec`, mkdir]),
  );
  if (isolate.has('ipc'))
    earlyMounts.push(mount('mqueue', `${dev}/mqueue`, 'mqueue', ['nodev,nosuid,noexec', mkdir]));

  files.push(...devLinks.map(([name, link]) => ({ path: `dev/${name}`, link })));
  // copies on the store, which has no directory for them
  const nodes = defaultDevices.map(({ source, path }) => ({ source, path, copy: `store/${basename(path)}` }));
  nodes.push(...devices.map(({ source, path }, index) => ({ source, path, copy: `store/device${index}` })));
  for (const { source, path, copy } of nodes) {
    files.push({ path: path.slice(1), text: '' });
    // a bind mount of a copy: chmod(2) through a mount of the host's node would change that one. A user namespace gets
    // the host's node, since mknod(2) fails there.
    if (userNamespace) lateMounts.push(bind(source, stage + path));
    else lateMounts.push(bind(`${stage}/${copy}`, stage + path, 'nosuid,noexec'));
  }
  if (!userNamespace)
    plan.copies.push(
      sh`cp -a -- ${defaultDevices.map(({ source }) => source)} ${stage}/store/`,
      ...nodes
        .slice(defaultDevices.length)
        .map(({ source, copy }) => sh`cp -a -- ${source} ${stage}/${copy}`),
    );
  if (terminal !== undefined) {
    files.push({ path: 'dev/console', text: '' });
    lateMounts.push(bind(terminal, `${dev}/console`));
  }
}

/** Plans volumes, tmpfs mounts and text files. */
function planVolumes(launch: Launch, plan: Furnishing, stage: string): void {
  const { directories, files, lateMounts } = plan;
  const bindings: Binding[] = [];
  for (const [index, volume] of launch.volumes.entries()) {
    const { source, path, options, isDirectory, mountPoints, receives } = volume;
    const from = `volume${index}`;
    if (isDirectory) directories.push(from);
    else files.push({ path: from, text: '' });
    const propagation = receives ? [] : closed(launch, 'rprivate');
    lateMounts.push(mount(source, `${stage}/${from}`, 'none', ['rbind', ...propagation]));
    const requested = [...options, ...nodevOf(launch)];
    // rbind ignores other options, so each submount is remounted. It keeps the options that it has: a remount clears
    // all options that it does not name.
    for (const submount of requested.length > 0 ? mountPoints : []) {
      const kept = new Set([...requested, ...submount.options]);
      lateMounts.push(mount('none', `${stage}/${from}${submount.path}`, 'none', ['remount,bind', ...kept]));
    }
    bindings.push({ from, to: path, kind: isDirectory ? 'directory' : 'file' });
  }
  for (const [index, { path, options }] of launch.tmpfs.entries()) {
    const from = `tmpfs${index}`;
    directories.push(from);
    lateMounts.push(mount('tmpfs', `${stage}/${from}`, 'tmpfs', [...options, ...nodevOf(launch)]));
    const isMissing = (name: string) => !options.some((option) => option.startsWith(`${name}=`));
    const copied = { mode: isMissing('mode'), uid: isMissing('uid'), gid: isMissing('gid') };
    bindings.push({ from, to: path, kind: 'directory', copied });
  }
  directories.push(...new Set(launch.texts.map(({ path }) => `store${dirname(path)}`)));
  for (const { path, text } of launch.texts) {
    const from = `store${path}`;
    files.push({ path: from, text: text && `${text}\n` });
    lateMounts.push(bind(`${stage}/${from}`, `${stage}/${from}`, 'nosuid,nodev,noexec'));
    bindings.push({ from, to: path, kind: 'file', coversLink: true });
  }
  const depth = (path: string) => path.split('/').filter(Boolean).length;
  plan.bindings.push(...bindings.sort((one, other) => depth(one.to) - depth(other.to)));
}
