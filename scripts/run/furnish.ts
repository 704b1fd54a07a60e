// Furnishing a container's root, from outside and through descriptors, while PID 1 waits. Everything is prepared on a tmpfs
// that nobody else can change, the stage, which lies over ROOTFS in the container's mount namespace; then each piece is
// bound to where it belongs in the root. The mounts are tables in the form of fstab(5), for one mount(8) each.
import { basename, dirname } from 'node:path';
import { groupBy } from '../helpers/pids.ts';
import { type Command, sh } from '../helpers/shell.ts';
import type { Launch } from './container.ts';

/** A directory or file of the host's that the container is to see at `path`; `options` as mount(8) has them. */
export interface Volume {
  source: string;
  path: string;
  options: string[];
}

/** A volume, and what this host says of it: the mounts in it, itself first, below `source`, with their options. */
export interface FoundVolume extends Volume {
  isDirectory: boolean;
  mountPoints: { path: string; options: string[] }[];
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

/** A mount: a line of fstab(5). `source` and `target` are paths as mount(2) is to see them. */
export interface Mount {
  source: string;
  target: string;
  type: string;
  options: string;
}

/** A directory or file of the stage that is bound to a path of the root, which is made where it is missing. */
export interface Binding {
  from: string;
  to: string;
  kind: 'directory' | 'file';
  /** false: a link in its place is refused, not followed */
  links?: boolean;
  /** a link in its place is what is mounted on: what it leads to may be missing, and nothing is to be made */
  onLink?: boolean;
  /** what it takes over from a directory that it covers */
  like?: { mode: boolean; uid: boolean; gid: boolean };
}

/** A file of the stage. `link`: a symbolic link to that; `text`: a file with that in it, or an empty one. */
export type StageFile = { path: string; link: string } | { path: string; text: string };

/** What is done to furnish a root, in this order. Paths begin with `stage`, but for those of the host. */
export interface Furnishing {
  /** a file system of its own on the stage */
  own: Mount[];
  /** directories on that which look like the root's own, for an overlay */
  layers: string[];
  directories: string[];
  first: Mount[];
  files: StageFile[];
  /** devices of the host that are made anew in `own` of the stage */
  nodeFolders: string[];
  nodes: Device[];
  second: Mount[];
  /** a path of one may lie in what one before has mounted */
  bindings: Binding[];
  last: Mount[];
}

/** A path in fstab(5), where blanks end a field and quotes and backslashes mean something. NULs are of a variable. */
const fstabPath = (path: string) =>
  path.replace(
    /[^\w/.:,=+@%\0\u0080-\uffff-]/g,
    (byte) => `\\${byte.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );

/** Mounts in the form of fstab(5), in the order in which mount(8) makes them. */
export const fstab = (mounts: Mount[]) =>
  mounts
    .map(
      ({ source, target, type, options }) =>
        `${fstabPath(source)} ${fstabPath(target)} ${type} ${options} 0 0\n`,
    )
    .join('');

/** What a container's /dev is furnished with: harmless devices, and the links that go with them. */
const harmless: Device[] = 'null zero full random urandom tty'.split(' ').map((name) => {
  return { source: `/dev/${name}`, path: `/dev/${name}` };
});
const devLinks: [name: string, target: string][] = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
  ['ptmx', 'pts/ptmx'],
];

/** sysfs(5) shows a network namespace, and can be mounted by its owner only: all others get the host's. */
const hasForeignSys = ({ userNamespace, isolate }: Launch) =>
  userNamespace !== undefined && !isolate.has('net');

const mount = (source: string, target: string, type: string, options: string | string[]): Mount => ({
  source,
  target,
  type,
  options: [options].flat().filter(Boolean).join() || 'defaults',
});
const bind = (source: string, target: string, ...options: string[]) =>
  mount(source, target, 'none', ['bind', ...options]);

/** How deep a path lies. */
const depth = (path: string) => path.split('/').filter(Boolean).length;

/**
 * What is done to a container's root. `stage` is the path of the stage for mount(2), and `cwd` that of PID 1's working
 * directory, which is ROOTFS itself below the stage. `terminal` is the container's own. Pure.
 */
export function planFurnishing(
  launch: Launch,
  { stage, cwd, terminal }: { stage: string; cwd: string; terminal: string | undefined },
): Furnishing {
  const { isolate, ephemeral, privileged, userNamespace, rootFlags, readOnly, init } = launch;
  const pivots = isolate.has('mount');
  const root = `${stage}/root`;
  const nodev = privileged ? [] : ['nodev'];
  const make = 'X-mount.mkdir';
  const flags = [...new Set([...rootFlags, ...nodev])];
  const plan: Furnishing = {
    own: [],
    layers: [],
    directories: [],
    first: [],
    files: [],
    nodeFolders: [],
    nodes: [],
    second: [],
    bindings: [],
    last: [],
  };
  const { first, second, files } = plan;

  // what is itself bound from, or a layer, can't lie on the stage, which is unbindable
  const size = ephemeral ? ephemeral.sizeBytes && `size=${ephemeral.sizeBytes}` : 'size=1m';
  plan.own.push(mount('tmpfs', `${stage}/own`, 'tmpfs', ['mode=755', size || '', make]));
  if (ephemeral) {
    first.push(bind(cwd, `${stage}/lower`, make));
    // overlayfs in a user namespace keeps its marks in user.*; in all others in trusted.*
    const marks = userNamespace ? 'userxattr' : '';
    const layers = ['lower', 'own/upper', 'own/work'].map(
      (name) => `${basename(name)}dir=${overlayPath(`${stage}/${name}`)}`,
    );
    const kept = flags.filter((flag) => flag !== 'ro');
    first.push(mount('overlay', root, 'overlay', [...kept, marks, ...layers, make]));
    plan.layers.push('own/upper', 'own/work');
  } else first.push(bind(cwd, root, ...flags, make));

  // CVE-2019-5736: what becomes /proc/self/exe of a container is not to be written to
  const last = pivots ? launch.shell : launch.chroot;
  // By this name mount(8) does not take it for something that is mounted already, and passes over it
  if (!userNamespace) first.push(bind(last, `/proc/self/root${last}`, 'ro'));

  const proc = `${stage}/proc`;
  first.push(mount('proc', proc, 'proc', ['nosuid,nodev,noexec', make]));
  if (pivots) furnishSystem(launch, plan, stage, terminal);
  if (!privileged) {
    const visible = (path: string) => path.startsWith('/proc/') || pivots;
    const { readOnly: paths, folders, files: masked } = launch.masked;
    for (const path of paths.filter(visible))
      second.push(bind(stage + path, stage + path, 'ro,nosuid,nodev,noexec'));
    for (const path of folders.filter(visible))
      second.push(mount('tmpfs', stage + path, 'tmpfs', 'ro,size=4k,nosuid,nodev,noexec'));
    for (const path of masked.filter(visible))
      second.push(bind('/dev/null', stage + path, 'ro,nosuid,noexec'));
  }
  plan.bindings.push(
    ...(pivots ? ['proc', 'sys', 'dev'] : ['proc']).map((name) => ({
      from: `${stage}/${name}`,
      to: `/${name}`,
      kind: 'directory' as const,
      links: false,
    })),
  );
  if (pivots && init) {
    files.push({ path: `${stage}/dev/init`, text: '' });
    second.push(bind(init, `${stage}/dev/init`, 'ro,nosuid,nodev'));
  }
  if (pivots) furnishExtras(launch, plan, stage, nodev);
  if (readOnly) plan.last.push(mount('none', root, 'none', ['remount,bind,ro', ...flags]));
  // chroot(2) shows the path of the root, so that one has to be the root itself
  if (!pivots) plan.last.push(mount(root, stage, 'none', 'rbind'));
  return plan;
}

/** A path among the options of overlayfs, where a colon, a comma and a backslash mean something. */
const overlayPath = (path: string) => path.replace(/[\\:,]/g, '\\$&');

/**
 * The commands that make devices anew, as they are on the host, in a directory of the stage: one for all that keep their
 * names in the same folder, and one for each that gets another.
 */
export function copyCommands(nodes: Device[]): ((own: string) => Command)[] {
  const keepsName = ({ source, path }: Device) => basename(source) === basename(path);
  const alike = groupBy(nodes.filter(keepsName), ({ path }) => dirname(path));
  const folders = [...alike].map(
    ([folder, devices]) =>
      (own: string) =>
        sh`cp -a -- ${devices.map(({ source }) => source)} ${own}${folder}/`,
  );
  const others = nodes.filter((node) => !keepsName(node));
  return [
    ...folders,
    ...others.map(
      ({ source, path }) =>
        (own: string) =>
          sh`cp -a -- ${source} ${own}${path}`,
    ),
  ];
}

/** /sys and /dev. */
function furnishSystem(launch: Launch, plan: Furnishing, stage: string, terminal: string | undefined): void {
  const { isolate, cgroups, privileged, userNamespace, devices, shmBytes } = launch;
  const { first, second, files } = plan;
  const make = 'X-mount.mkdir';
  const writable = privileged ? 'rw' : 'ro';
  if (hasForeignSys(launch)) {
    const sys = `${stage}/sys`;
    first.push(mount('/sys', sys, 'none', ['rbind', make]));
    for (const point of ['', ...launch.sysMounts])
      first.push(mount('none', sys + point, 'none', `remount,bind,${writable},nosuid,nodev,noexec`));
    second.push(mount('masked', `${sys}/fs/cgroup`, 'tmpfs', 'ro,size=4k,nosuid,nodev,noexec'));
  } else first.push(mount('sysfs', `${stage}/sys`, 'sysfs', [writable, 'nosuid,nodev,noexec', make]));
  if (isolate.has('cgroup') && cgroups?.version === 2)
    second.push(mount('cgroup2', `${stage}/sys/fs/cgroup`, 'cgroup2', [writable, 'nosuid,nodev,noexec']));

  const nodev = privileged ? '' : 'nodev';
  first.push(mount('tmpfs', `${stage}/dev`, 'tmpfs', ['mode=755,size=64k,nosuid', nodev, 'noexec', make]));
  // group 5 is tty; where only one group is mapped there is none
  const tty = userNamespace?.single ? '' : 'gid=5';
  first.push(
    mount('devpts', `${stage}/dev/pts`, 'devpts', [
      ...['newinstance,ptmxmode=0666,mode=0620', tty, 'nosuid,noexec', make],
    ]),
    mount('tmpfs', `${stage}/dev/shm`, 'tmpfs', [`mode=1777,size=${shmBytes},nodev,nosuid,noexec`, make]),
  );
  if (isolate.has('ipc'))
    first.push(mount('mqueue', `${stage}/dev/mqueue`, 'mqueue', ['nodev,nosuid,noexec', make]));

  files.push(...devLinks.map(([name, link]) => ({ path: `${stage}/dev/${name}`, link })));
  for (const { source, path } of [...harmless, ...devices]) {
    files.push({ path: stage + path, text: '' });
    // of its own, as chmod(2) would change the host's through a mount of that; mknod(2) is not for user namespaces
    if (userNamespace) second.push(bind(source, stage + path));
    else {
      plan.nodes.push({ source, path });
      second.push(bind(`${stage}/own${path}`, stage + path, 'nosuid,noexec'));
    }
  }
  const folders = [...new Set(devices.map(({ path }) => dirname(path)))].filter((path) => path !== '/dev');
  plan.nodeFolders.push(...(userNamespace ? [] : ['/dev', ...folders]));
  if (terminal !== undefined) {
    files.push({ path: `${stage}/dev/console`, text: '' });
    second.push(bind(terminal, `${stage}/dev/console`));
  }
}

/** Volumes, file systems in memory and texts, outer ones before those inside of them. */
function furnishExtras(launch: Launch, plan: Furnishing, stage: string, nodev: string[]): void {
  const { volumes, tmpfs, texts } = launch;
  const bindings: Binding[] = [];
  for (const [index, { source, path, options, isDirectory, mountPoints }] of volumes.entries()) {
    const from = `${stage}/volume${index}`;
    const kind = isDirectory ? 'directory' : 'file';
    if (isDirectory) plan.directories.push(basename(from));
    else plan.files.push({ path: from, text: '' });
    plan.second.push(mount(source, from, 'none', 'rbind'));
    const asked = [...options, ...nodev];
    // what is mounted below it as well, each with what it has already: a remount takes away what it does not name
    if (asked.length > 0)
      for (const point of mountPoints)
        plan.second.push(
          mount('none', from + point.path, 'none', [
            'remount,bind',
            ...new Set([...asked, ...point.options]),
          ]),
        );
    bindings.push({ from, to: path, kind });
  }
  for (const [index, { path, options }] of tmpfs.entries()) {
    const from = `${stage}/tmpfs${index}`;
    plan.directories.push(basename(from));
    plan.second.push(mount('tmpfs', from, 'tmpfs', [...options, ...nodev]));
    const isGiven = (word: string) => options.some((option) => option.startsWith(`${word}=`));
    const like = { mode: !isGiven('mode'), uid: !isGiven('uid'), gid: !isGiven('gid') };
    bindings.push({ from, to: path, kind: 'directory', like });
  }
  for (const [index, { path, text }] of texts.entries()) {
    const from = `${stage}/own/text${index}`;
    plan.files.push({ path: from, text: `${text}\n` });
    plan.second.push(bind(from, from, 'nosuid,nodev,noexec'));
    bindings.push({ from, to: path, kind: 'file', onLink: true });
  }
  plan.bindings.push(...bindings.sort((one, other) => depth(one.to) - depth(other.to)));
}
