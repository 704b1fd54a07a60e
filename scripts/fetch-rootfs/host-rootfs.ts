// The embedded default root file system: this host's own programs and the libraries that ldd(1) names for them.
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { Failure } from '../helpers/cli.ts';
import { didYouMean } from '../helpers/messages.ts';
import { attempt } from '../helpers/pids.ts';
import { findProgram, runProgram, sh, systemDirectories } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import { formatSize } from '../helpers/units.ts';
import { asRoot, isRoot, lddLibraries } from '../images/confine.ts';
import { usualDevices } from '../images/inspector.ts';

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

/**
 * Plans to fill the empty directory `root` with the default programs and `extra` ones (names, or absolute paths), their
 * libraries and interpreters, and the files that any rootfs has. Setuid bits and file capabilities are not copied.
 * Returns the steps, and a sentence that describes what they make. Throws a Failure where an extra program, or any shell,
 * is missing.
 */
export async function planHostRootfs(
  root: string,
  extra: string[],
): Promise<{ steps: Step[]; summary: string }> {
  const names = [...new Set([...defaultPrograms, ...extra])];
  const found = new Map(names.map((name) => [name, findProgram(name)]));
  const programs = [...found.values()].filter((path) => path !== undefined);
  const missing = names.filter((name) => !found.get(name));
  const wanted = ['sh', ...extra].find((name) => missing.includes(name));
  if (wanted) {
    const folders = wanted.includes('/') ? [dirname(wanted)] : systemDirectories;
    const near = didYouMean(
      wanted,
      folders.flatMap(list).map((path) => (wanted.includes('/') ? path : basename(path))),
    );
    throw new Failure(
      `cannot find ${wanted} in ${folders.join(' ')}${near || ': install it, or give a tarball as SOURCE'}`,
    );
  }

  const tops = ['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32'].filter((name) => existsSync(`/${name}`));
  /** Those of them that are links, as on most hosts, and their targets. */
  const merged = new Map<string, string>();
  for (const name of tops) {
    const target = attempt(() => readlinkSync(`/${name}`));
    if (target) merged.set(name, target.replace(/^\//, ''));
  }
  /** A path in the rootfs without links: /usr/bin/sh for /bin/sh if /bin is a link to usr/bin. */
  const place = (path: string) => {
    const [, top = '', rest = ''] = /^\/([^/]+)(.*)$/.exec(path) ?? [];
    const target = merged.get(top);
    return target === undefined ? path : join('/', target, rest);
  };
  const copied = new Map<string, string>(); // paths on this host by their paths in the rootfs
  const copy = (path: string) => copied.has(place(path)) || copied.set(place(path), path);
  const copyIfThere = (path: string) => existsSync(path) && copy(path);

  const binaries = new Set(
    programs.map((path) => realpathSync(path)).flatMap((file) => [file, ...interpreters(file)]),
  );
  for (const file of binaries) copy(file);
  const pythons = [...binaries].filter((path) => /^python3[.\d]*$/.test(basename(path)));
  const libraries = [...new Set((await Promise.all(pythons.map(pythonDirectories))).flat())];
  const modules = libraries.flatMap(pythonModules);
  for (const library of await lddLibraries([...binaries, ...modules]))
    if (!libraries.some((directory) => library.startsWith(`${directory}/`))) copy(library);
  // the C library loads these by name when it looks up a user or a host: ldd does not show them
  const libc = [...copied.values()].find((path) => /\/libc\.so\.6$/.test(path));
  for (const name of ['libnss_files.so.2', 'libnss_dns.so.2', 'libnss_compat.so.2', 'libresolv.so.2'])
    if (libc) copyIfThere(join(dirname(libc), name));
  for (const directory of ['/usr/share/terminfo', '/lib/terminfo', '/etc/terminfo'])
    for (const name of terminals) copyIfThere(join(directory, name.charAt(0), name));
  for (const path of ['/usr/lib/os-release', ...list('/etc/ld.so.conf.d')]) copyIfThere(path);

  // each name links directly to the program's file, not through /etc/alternatives
  const links = new Map<string, string>();
  for (const path of programs.filter((path) => !copied.has(place(path))))
    links.set(place(path), relative(dirname(place(path)), realpathSync(path)));
  const parents = [...links.keys()].map((path) => dirname(path).slice(1));
  if (copied.has('/usr/lib/os-release')) links.set('/etc/os-release', '../usr/lib/os-release');
  links.set('/var/run', '/run');

  const shell = found.get('bash') ? '/bin/bash' : '/bin/sh';
  const inRoot = (path: string) => join(root, path);
  const made = [...directories, ...parents, ...tops.map((name) => merged.get(name) ?? name)];
  const steps: Step[] = [
    {
      why: 'directories, and those that are links on this host',
      run: sh`mkdir -p ${[...new Set(made)].map(inRoot)}`,
    },
    { run: sh`chmod 700 ${inRoot('root')}` },
    { run: sh`chmod 1777 ${inRoot('tmp')} ${inRoot('var/tmp')}` },
    ...[...merged].map(([name, target]) => ({ link: target, at: inRoot(name) })),
    { why: 'programs and their libraries', copy: [...copied.values()], to: root },
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
    ...(isRoot ? planDevices(root) : []),
  ];
  const bytes = [...copied.values()].reduce((sum, path) => sum + statSync(path).size, 0);
  const lacks = missing.length > 0 ? `; this host has no ${missing.join(', ')}` : '';
  const summary = `${programs.length} programs of this host, ${copied.size} files, ${formatSize(bytes)}${lacks}`;
  return { steps, summary };
}

/** Steps, of which the first says why. */
const because = (why: string, steps: Step[]): Step[] =>
  steps.map((step, index) => (index > 0 ? step : { ...step, why }));

/** The interpreter in the first line of a script, and the program that env(1) runs if that is the interpreter. */
function interpreters(file: string): string[] {
  const start = readFileSync(file).subarray(0, 256).toString('latin1');
  const [, command = '', argument = ''] = /^#!\s*(\S+)[ \t]*(?:-S\s+)?(\S*)/.exec(start) ?? [];
  return [command, basename(command) === 'env' ? (findProgram(argument) ?? '') : '']
    .filter((path) => path && existsSync(path))
    .map((path) => realpathSync(path));
}

/** The directories of python's standard library. */
async function pythonDirectories(python: string): Promise<string[]> {
  const program = 'import sysconfig; print(sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))';
  const { exitCode, stdout, stderr } = await runProgram(sh`${python} -I -S -c ${program}`);
  if (exitCode !== 0) throw new Failure(`cannot ask ${python} for its library: ${stderr.trim()}`);
  return stdout.trim().split(' ');
}

/** The modules of python's standard library that are ELF files. */
const pythonModules = (directory: string) => list(join(directory, 'lib-dynload'));

/** The steps that copy python's standard library, and remove what the host added to it, and what only developers need. */
const planPython = (root: string, directory: string): Step[] => [
  { why: "python's standard library", run: sh`cp -r -L --parents ${directory} ${root}` },
  {
    run: sh`find ${join(root, directory)} -mindepth 1 ( -name __pycache__ -o -name dist-packages -o -name site-packages
      -o -name test -o -name idlelib -o -name ensurepip -o -name config-* ) -prune -exec rm -r {} +`,
  },
];

/** The paths of what is in a directory of this host; none if there is no such directory. */
const list = (directory: string): string[] =>
  (attempt(() => readdirSync(directory)) ?? []).map((name) => join(directory, name));

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
  const { console: _, ptmx: __, ...devices } = usualDevices;
  return because(
    'devices, for a bare chroot(1)',
    Object.entries(devices).map(([name, numbers]) => ({
      run: sh`mknod -m 666 ${join(root, 'dev', name)} c ${numbers.split(':')}`,
      ignore: true,
    })),
  );
}
