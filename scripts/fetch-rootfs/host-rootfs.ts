// The embedded default root file system: this host's own programs and the libraries that ldd(1) names for them.
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { Failure } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { findProgram, runProgram, sh, systemDirectories } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';

/** What makes a user root of a namespace, in which unshare(1), mount(8) and chroot(1) are allowed. */
export const asRoot = process.getuid?.() === 0 ? [] : ['unshare', '--user', '--map-root-user'];

const defaultPrograms = `
  sh bash dash env printenv true false test [ expr seq sleep timeout nice nohup yes date uname arch
  ls cat echo printf cp mv rm rmdir mkdir mktemp mknod mkfifo ln link unlink readlink realpath basename dirname
  touch truncate chmod chown chgrp chroot stat dd df du sync install tee split shuf
  head tail wc sort uniq cut tr paste join fold nl od tac comm md5sum sha256sum base64 numfmt xargs find
  id whoami groups logname nproc pwd stty tty clear reset tput
  grep egrep fgrep sed awk mawk diff cmp less more which
  ps top free kill pgrep pkill pidof uptime vmstat watch sysctl w
  mount umount findmnt mountpoint lsns unshare nsenter setpriv capsh getpcaps prlimit dmesg flock setsid su
  hostname ip ss ping getent tar gzip gunzip zcat xz ldconfig`
  .split(/\s+/)
  .filter(Boolean);

/** Directories of any rootfs; /proc, /sys and /dev are filled when it runs. */
const directories = (
  'dev etc home media mnt opt proc root run srv sys tmp usr usr/bin usr/sbin usr/lib usr/local usr/share var var/lib ' +
  'var/log var/tmp'
).split(' ');

/** The modes of the directories that do not have mode 755. */
const modes: [mode: string, directories: string[]][] = [
  ['700', ['root']],
  ['1777', ['tmp', 'var/tmp']],
];

/** Files that any rootfs has. Nothing here comes from the host: no password, no key, no machine-id. */
const files: Record<string, string> = {
  'etc/passwd': `root:x:0:0:root:/root:SHELL
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`,
  'etc/group': `root:x:0:
daemon:x:1:
tty:x:5:
nogroup:x:65534:
`,
  'etc/hosts': `127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
`,
  'etc/nsswitch.conf': `passwd: files
group: files
hosts: files dns
`,
  'etc/ld.so.conf': 'include /etc/ld.so.conf.d/*.conf\n',
};

const terminals =
  'ansi dumb linux vt100 vt220 xterm xterm-color xterm-256color screen screen-256color tmux tmux-256color rxvt-unicode-256color alacritty foot xterm-kitty'.split(
    ' ',
  );

/** A root file system of this host's programs: its steps, and what it has. `missing`: default programs that this host lacks. */
export interface HostRootfs {
  steps: Step[];
  programs: string[];
  missing: string[];
  files: number;
  bytes: number;
}

/**
 * Plans to fill the empty directory `root` with the default programs and `extra` ones (names, or absolute paths), their
 * libraries and interpreters, and the files that any rootfs has. Setuid bits and file capabilities are not copied.
 * Throws a Failure where an extra program, or any shell, is missing.
 */
export async function planHostRootfs(root: string, extra: string[]): Promise<HostRootfs> {
  const found = new Map(
    [...new Set([...defaultPrograms, ...extra])].map((name) => [name, findProgram(name)] as const),
  );
  const missing = [...found].filter(([, path]) => !path).map(([name]) => name);
  const wanted = ['sh', ...extra].find((name) => missing.includes(name));
  if (wanted)
    throw new Failure(
      `cannot find ${wanted} in ${systemDirectories.join(' ')}: install it, or give a tarball as SOURCE`,
    );

  const merged = mergedDirectories();
  /** A path in the rootfs without links: /usr/bin/sh for /bin/sh if /bin is a link to usr/bin. */
  const place = (path: string) => {
    const [, top = '', rest = ''] = /^\/([^/]+)(.*)$/.exec(path) ?? [];
    const target = merged.get(top);
    return target === undefined ? path : join('/', target, rest);
  };
  const parents = new Set([...directories, ...[...merged].map(([name, target]) => target ?? name)]);

  const copied = new Map<string, string>(); // paths on this host by their paths in the rootfs
  const copy = (path: string) => copied.has(place(path)) || copied.set(place(path), path);
  const binaries = new Set<string>();
  const pythons = new Set<string>();
  for (const path of found.values()) {
    if (!path) continue;
    const real = realpathSync(path);
    for (const file of [real, ...interpreters(real)]) {
      copy(file);
      binaries.add(file);
    }
    if (/^python3[.\d]*$/.test(basename(real))) pythons.add(real);
  }
  const libraries = await Promise.all([...pythons].map(pythonDirectories)).then((found) => [
    ...new Set(found.flat()),
  ]);
  for (const directory of libraries) for (const module of pythonModules(directory)) binaries.add(module);
  for (const library of await lddLibraries([...binaries])) if (!inAny(libraries, library)) copy(library);
  // the C library loads these by name when it looks up a user or a host: ldd does not show them
  const libc = [...copied.values()].find((path) => /\/libc\.so\.6$/.test(path));
  for (const name of ['libnss_files.so.2', 'libnss_dns.so.2', 'libnss_compat.so.2', 'libresolv.so.2'])
    if (libc && existsSync(join(dirname(libc), name))) copy(join(dirname(libc), name));
  for (const directory of ['/usr/share/terminfo', '/lib/terminfo', '/etc/terminfo'])
    for (const name of terminals) {
      const path = join(directory, name.charAt(0), name);
      if (existsSync(path)) copy(path);
    }
  for (const path of ['/usr/lib/os-release', ...listConf()]) if (existsSync(path)) copy(path);

  // each name links directly to the program's file, not through /etc/alternatives
  const links = new Map<string, string>();
  for (const path of found.values()) {
    if (!path || copied.has(place(path)) || links.has(place(path))) continue;
    parents.add(dirname(place(path)).slice(1));
    links.set(place(path), relative(dirname(place(path)), realpathSync(path)));
  }
  if (copied.has('/usr/lib/os-release')) links.set('/etc/os-release', '../usr/lib/os-release');
  links.set('/var/run', '/run');

  const shell = found.get('bash') ? '/bin/bash' : '/bin/sh';
  const inRoot = (path: string) => join(root, path);
  const leaves = [...parents].filter((path) => ![...parents].some((other) => other.startsWith(`${path}/`)));
  const steps: Step[] = [
    ...because('directories, and those that are links on this host', [
      { run: sh`mkdir -p ${leaves.map(inRoot)}` },
      ...modes.map(([mode, paths]) => ({ run: sh`chmod ${mode} ${paths.map(inRoot)}` })),
      ...[...merged].flatMap(([name, target]) => (target ? [{ link: target, at: inRoot(name) }] : [])),
    ]),
    ...because('programs and their libraries', [{ copy: [...copied.values()], to: root }]),
    ...libraries.flatMap((directory) => planPython(root, directory)),
    ...[...links].map(([at, link]) => ({ link, at: inRoot(at) })),
    ...because(
      'files of any root file system',
      Object.entries(files).map(([path, text]) => ({
        write: text.replace('SHELL', shell),
        to: inRoot(path),
      })),
    ),
    ...planCache(root),
    ...(process.getuid?.() === 0 ? planDevices(root) : []),
  ];
  return {
    steps,
    programs: [...found].filter(([, path]) => path).map(([name]) => name),
    missing: missing.filter((name) => !extra.includes(name)),
    files: copied.size,
    bytes: [...copied.values()].reduce((sum, path) => sum + statSync(path).size, 0),
  };
}

/** Steps, of which the first says why. */
const because = (why: string, steps: Step[]): Step[] =>
  steps.map((step, index) => (index > 0 ? step : { ...step, why }));

const inAny = (directories: string[], path: string) =>
  directories.some((directory) => path.startsWith(`${directory}/`));

/** The directories of / that are links on some hosts, such as /bin, and their targets; undefined for a directory. */
function mergedDirectories(): Map<string, string | undefined> {
  const found = new Map<string, string | undefined>();
  for (const name of ['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32']) {
    const target = attempt(() => readlinkSync(`/${name}`));
    if (target !== undefined) found.set(name, target.replace(/^\//, ''));
    else if (existsSync(`/${name}`)) found.set(name, undefined);
  }
  return found;
}

/** The interpreter in the first line of a script, and the program that env(1) runs if that is the interpreter. */
function interpreters(file: string): string[] {
  const start = readFileSync(file).subarray(0, 256).toString('latin1');
  const [, command = '', argument = ''] = /^#!\s*(\S+)[ \t]*(?:-S\s+)?(\S*)/.exec(start) ?? [];
  return [command, basename(command) === 'env' ? (findProgram(argument) ?? '') : '']
    .filter((path) => path && existsSync(path))
    .map((path) => realpathSync(path));
}

/** The libraries that ldd(1) names for these programs, the loader among them. Static programs and scripts have none. */
export async function lddLibraries(programs: string[]): Promise<string[]> {
  const half = Math.ceil(programs.length / 2);
  const ldd = async (part: string[]) => {
    const { exitCode, stdout, stderr } = await runProgram(
      sh`env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C ldd ${part}`,
    );
    // 1: one of them is no dynamic executable
    if (exitCode !== 0 && exitCode !== 1) throw new Failure(`cannot run ldd: ${stderr.trim()}`);
    return [...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path as string);
  };
  const parts = [programs.slice(0, half), programs.slice(half)].filter((part) => part.length > 0);
  return [...new Set((await Promise.all(parts.map(ldd))).flat())];
}

/** The directories of python's standard library. */
async function pythonDirectories(python: string): Promise<string[]> {
  const program = 'import sysconfig; print(sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))';
  const { exitCode, stdout, stderr } = await runProgram(sh`${python} -I -S -c ${program}`);
  if (exitCode !== 0) throw new Failure(`cannot ask ${python} for its library: ${stderr.trim()}`);
  return stdout.trim().split(' ');
}

/** The modules of python's standard library that are ELF files. */
const pythonModules = (directory: string): string[] => {
  const folder = join(directory, 'lib-dynload');
  return (attempt(() => readdirSync(folder)) ?? []).map((name) => join(folder, name));
};

/** The steps that copy python's standard library, and remove what the host added to it, and what only developers need. */
function planPython(root: string, directory: string): Step[] {
  const unwanted = [
    '__pycache__',
    'dist-packages',
    'site-packages',
    'test',
    'idlelib',
    'ensurepip',
    'config-*',
  ];
  const names = unwanted.flatMap((name, index) => [...(index > 0 ? ['-o'] : []), '-name', name]);
  return [
    { why: "python's standard library", run: sh`cp -r -L --parents ${directory} ${root}` },
    { run: sh`find ${join(root, directory)} -mindepth 1 ( ${names} ) -prune -exec rm -r {} +` },
  ];
}

const listConf = (): string[] =>
  (attempt(() => readdirSync('/etc/ld.so.conf.d')) ?? []).map((name) => join('/etc/ld.so.conf.d', name));

/** The step that writes the rootfs's own /etc/ld.so.cache. ldconfig -r calls chroot(2), which a user may do in a namespace. */
function planCache(root: string): Step[] {
  const ldconfig = findProgram('ldconfig');
  if (!ldconfig) return [];
  // without a cache the loader still looks into its built-in directories
  return [
    { why: 'the cache of the loader, ld.so(8)', run: sh`${asRoot} ${ldconfig} -r ${root}`, ignore: true },
  ];
}

/**
 * The steps that make the devices which a bare chroot(1) needs; a container gets a /dev of its own. Root of a user
 * namespace may not make them: then there are none.
 */
function planDevices(root: string): Step[] {
  const devices = { null: [1, 3], zero: [1, 5], full: [1, 7], random: [1, 8], urandom: [1, 9], tty: [5, 0] };
  return because(
    'devices, for a bare chroot(1)',
    Object.entries(devices).map(([name, numbers]) => ({
      run: sh`mknod -m 666 ${join(root, 'dev', name)} c ${numbers.map(String)}`,
      ignore: true,
    })),
  );
}
