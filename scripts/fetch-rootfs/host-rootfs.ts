// The embedded default root file system: this host's own programs and the libraries that ldd(1) names for them.
import {
  chmodSync,
  constants,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { findProgram, systemDirectories } from '../helpers/shell.ts';
import { runFile } from './programs.ts';

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

/** Directories of any rootfs, with their modes; /proc, /sys and /dev are filled when it runs. */
const directories: Record<string, number> = {
  ...Object.fromEntries(
    'dev etc home media mnt opt proc run srv sys usr usr/bin usr/sbin usr/lib usr/local usr/share var var/lib var/log'
      .split(' ')
      .map((path) => [path, 0o755]),
  ),
  root: 0o700,
  tmp: 0o1777,
  'var/tmp': 0o1777,
};

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

/** What was put into a rootfs: programs by name, those of the default set that this host lacks, files, bytes. */
export interface HostRootfs {
  programs: string[];
  missing: string[];
  files: number;
  bytes: number;
}

/**
 * Fills the empty directory `root` with the default programs and `extra` ones (names, or absolute paths), their
 * libraries and interpreters, and the files that any rootfs has. Setuid bits and file capabilities are not copied.
 * Throws a Failure where an extra program, or any shell, is missing.
 */
export async function makeHostRootfs(root: string, extra: string[]): Promise<HostRootfs> {
  const copied = new Set<string>();
  let bytes = 0;

  /** Copies the file that `path` leads to, to the same path in the rootfs. */
  function copy(path: string): void {
    const target = join(root, path);
    if (copied.has(path) || existsSync(target)) return;
    copied.add(path);
    mkdirSync(dirname(target), { recursive: true });
    const { mode, size, atime, mtime } = statSync(path);
    copyFileSync(path, target, constants.COPYFILE_FICLONE);
    chmodSync(target, mode & 0o111 ? 0o755 : 0o644);
    utimesSync(target, atime, mtime);
    bytes += size;
  }

  for (const [path, mode] of Object.entries(directories)) {
    mkdirSync(join(root, path), { recursive: true });
    chmodSync(join(root, path), mode);
  }
  for (const name of ['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32']) recreateMergeLink(root, name);

  const found = new Map(
    [...new Set([...defaultPrograms, ...extra])].map((name) => [name, findProgram(name)] as const),
  );
  const missing = [...found].filter(([, path]) => !path).map(([name]) => name);
  const wanted = ['sh', ...extra].find((name) => missing.includes(name));
  if (wanted)
    throw new Failure(
      `cannot find ${wanted} in ${systemDirectories.join(' ')}: install it, or give a tarball as SOURCE`,
    );

  const binaries = new Set<string>();
  for (const path of found.values()) {
    if (!path) continue;
    const real = realpathSync(path);
    for (const file of [real, ...interpreters(real)]) {
      copy(file);
      binaries.add(file);
    }
    addLink(root, path, real);
    if (/^python3[.\d]*$/.test(basename(real)))
      for (const file of await copyPython(root, real)) binaries.add(file);
  }
  for (const library of await lddLibraries([...binaries])) copy(library);
  // the C library loads these by name when it looks up a user or a host: ldd does not show them
  const libc = [...copied].find((path) => /\/libc\.so\.6$/.test(path));
  for (const name of ['libnss_files.so.2', 'libnss_dns.so.2', 'libnss_compat.so.2', 'libresolv.so.2'])
    if (libc && existsSync(join(dirname(libc), name))) copy(join(dirname(libc), name));
  for (const directory of ['/usr/share/terminfo', '/lib/terminfo', '/etc/terminfo'])
    for (const name of terminals) {
      const path = join(directory, name.charAt(0), name);
      if (existsSync(path)) copy(path);
    }
  for (const path of ['/usr/lib/os-release', ...listConf()]) if (existsSync(path)) copy(path);
  const shell = found.get('bash') ? '/bin/bash' : '/bin/sh';
  for (const [path, text] of Object.entries(files))
    writeFileSync(join(root, path), text.replace('SHELL', shell));
  if (existsSync(join(root, 'usr/lib/os-release')))
    symlinkSync('../usr/lib/os-release', join(root, 'etc/os-release'));
  symlinkSync('/run', join(root, 'var/run'));
  await ldconfig(root);
  if (process.getuid?.() === 0) await makeDevices(root);

  return {
    programs: [...found].filter(([, path]) => path).map(([name]) => name),
    missing: missing.filter((name) => !extra.includes(name)),
    files: copied.size,
    bytes,
  };
}

/** /bin -> usr/bin on hosts that have it so; a directory of its own on others. */
function recreateMergeLink(root: string, name: string): void {
  let target: string;
  try {
    target = readlinkSync(`/${name}`);
  } catch {
    if (existsSync(`/${name}`)) mkdirSync(join(root, name), { recursive: true });
    return;
  }
  mkdirSync(join(root, target), { recursive: true });
  symlinkSync(target.replace(/^\//, ''), join(root, name));
}

/** Makes `path` lead to the copied file `real`, as on the host, but directly: not through /etc/alternatives. */
function addLink(root: string, path: string, real: string): void {
  const target = join(root, path);
  if (existsSync(target)) return;
  mkdirSync(dirname(target), { recursive: true });
  symlinkSync(relative(realpathSync(dirname(target)), join(realpathSync(root), real)), target);
}

/** The program that a script's first line names, as the kernel finds it; and what env(1) then looks for. */
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
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };
  const ldd = async (part: string[]) => {
    // it exits with 1 where one of them is no dynamic executable
    const { stdout } = await runFile('ldd', part, { env, maxBuffer: 1 << 26 }).catch((error) => {
      if (typeof error.code === 'string') throw new Failure(`cannot run ldd: ${reason(error)}`);
      return error as { stdout: string };
    });
    return [...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path as string);
  };
  const parts = [programs.slice(0, half), programs.slice(half)].filter((part) => part.length > 0);
  return [...new Set((await Promise.all(parts.map(ldd))).flat())];
}

/** Copies python's standard library, without what the host added to it. Returns its modules that are ELF files. */
async function copyPython(root: string, python: string): Promise<string[]> {
  const program = 'import sysconfig; print(sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))';
  const { stdout } = await runFile(python, ['-I', '-S', '-c', program]);
  const modules: string[] = [];
  for (const directory of new Set(stdout.trim().split(' '))) {
    const target = join(root, directory);
    const unwanted = /\/(__pycache__|dist-packages|site-packages|test|idlelib|ensurepip|config-[^/]*)$/;
    cpSync(directory, target, { recursive: true, dereference: true, filter: (path) => !unwanted.test(path) });
    const dynload = join(directory, 'lib-dynload');
    if (existsSync(dynload)) modules.push(...readdirSync(dynload).map((name) => join(dynload, name)));
  }
  return modules;
}

function listConf(): string[] {
  try {
    return readdirSync('/etc/ld.so.conf.d').map((name) => join('/etc/ld.so.conf.d', name));
  } catch {
    return [];
  }
}

/** Writes the rootfs's own /etc/ld.so.cache. `ldconfig -r` calls chroot(2), which a user may do in a namespace. */
async function ldconfig(root: string): Promise<void> {
  const ldconfig = findProgram('ldconfig');
  if (!ldconfig) return;
  const argv = [ldconfig, '-r', root];
  if (process.getuid?.() !== 0) argv.unshift('unshare', '--user', '--map-root-user');
  // without a cache the loader still looks into its built-in directories
  await runFile(argv[0] as string, argv.slice(1)).catch(() => undefined);
}

/** What a bare chroot(1) needs of /dev; a container gets a /dev of its own. Not every root may: then it is left empty. */
async function makeDevices(root: string): Promise<void> {
  const nodes = 'null 1 3, zero 1 5, full 1 7, random 1 8, urandom 1 9, tty 5 0';
  const program = nodes.replace(/(\w+) (\d) (\d),?/g, 'mknod -m 666 $1 c $2 $3;');
  await runFile('sh', ['-c', program], { cwd: join(root, 'dev') }).catch(() => undefined);
}
