#!/bin/sh
// 2>/dev/null; exec "$(dirname "$(readlink -f "$0")")/helpers/node-ts" "$0" "$@"
/*
run.ts: run a command in a container of its own, on a root file system

USAGE
  run.ts [OPTION...] ROOTFS [COMMAND [ARG...]]

  ROOTFS is a directory, or a name under rootfs/. COMMAND is /bin/bash where ROOTFS has it, else /bin/sh.
  What follows COMMAND belongs to COMMAND.

OPTIONS
  --name NAME           what other scripts know it by (default: ROOTFS's name and a number)
  --hostname NAME       its host name (default: the container's name)
  -e, --env KEY=VALUE   set an environment variable; KEY alone takes the caller's value; may be repeated
  -w, --workdir DIR     start in DIR of the container (default: /)
  -u, --user USER[:GROUP]  run as a user of the container's /etc/passwd, or as a number
  --memory SIZE         no more than SIZE, and no swap beyond it: 100M is 100 * 1024^2, 100MB is 100 * 1000^2
  --network host|none   the host's network (default), or none but its own loopback
  --cap-add CAP         keep one more of capabilities(7), or ALL; may be repeated
  --cap-drop CAP        drop one more, or ALL; may be repeated
  --privileged          all capabilities, set-user-ID programs, a writable /sys, nothing in /proc hidden
  --isolate LIST        only these, to see what each one does: chroot, mount, pid, uts, ipc, cgroup, net
  --dry-run             print the launch as shell instead of doing it
  -h, --help            this text

  The exit code is COMMAND's; 128+n if signal n killed it; 127 if it was not found, 126 if it could not be
  executed; 125 if there was no container.

EXAMPLES
  run.ts rootfs/host                            a shell
  run.ts --memory 100M --name web rootfs/host /bin/sh -c 'echo $$'
  run.ts --isolate chroot rootfs/host ps aux    the article's step 2: ps still sees the whole host
  run.ts --isolate pid,mount rootfs/host ps aux its step 3: ps sees the container
  run.ts --dry-run rootfs/host | less           what would be done

CHANGES
  A cgroup barehand/NAME in each hierarchy, for as long as the container lives. Mounts are made in a mount
  namespace of its own and are never seen by the host. In ROOTFS, the directories proc, sys and dev are made
  where they are missing, and what COMMAND writes stays.

UNDO
  All of it goes when COMMAND ends. After a SIGKILL empty cgroups may be left: the next run.ts removes them.

SEE ALSO
  unshare(1), pivot_root(2), namespaces(7), cgroups(7), capabilities(7), setpriv(1), nsenter(1)
*/
import { once } from 'node:events';
import { existsSync, realpathSync, statSync } from 'node:fs';
import { constants, hostname as osHostname } from 'node:os';
import { basename } from 'node:path';
import { isatty } from 'node:tty';
import { keptCapabilities, parseCapabilities } from './helpers/capabilities.ts';
import { readHierarchies } from './helpers/cgroup.ts';
import { Failure, main, UsageError, type Values } from './helpers/cli.ts';
import { type Launch, launchProgram, namespaceFlags, planCgroups } from './helpers/launch.ts';
import { findProgram, pathDirectories } from './helpers/programs.ts';
import { defaultShell, findRootfs, findUser } from './helpers/rootfs.ts';
import { parseSize } from './helpers/units.ts';

export const options = {
  name: { parse: parseName },
  hostname: { parse: parseName },
  env: { short: 'e', parse: parseVariable, many: true },
  workdir: { short: 'w', parse: parseWorkdir },
  user: { short: 'u', parse: (text: string) => text },
  memory: { parse: parseSize },
  network: { parse: parseNetwork },
  capAdd: { parse: parseCapabilities, many: true },
  capDrop: { parse: parseCapabilities, many: true },
  privileged: {},
  isolate: { parse: parseIsolate },
  dryRun: {},
} as const;

/** A name that is a directory's, a host name's and a word of the shell's at once. `pid-N` is limit-memory's. */
function parseName(text: string): string {
  if (/^[a-z0-9][a-z0-9_.-]{0,62}$/i.test(text) && !/^pid-\d+$/.test(text)) return text;
  throw new UsageError(
    `not a name: ${JSON.stringify(text)}: up to 63 of a-z, 0-9, "_", "." and "-"; not pid-N`,
  );
}

function parseVariable(text: string): string {
  const [key = ''] = text.split('=', 1);
  if (key === '' || text.includes('\0')) throw new UsageError(`not KEY=VALUE: ${JSON.stringify(text)}`);
  if (text.includes('=')) return text;
  const value = process.env[key];
  return value === undefined ? '' : `${key}=${value}`;
}

function parseWorkdir(text: string): string {
  if (text.startsWith('/')) return text;
  throw new UsageError(`--workdir must start with /: ${text}`);
}

function parseNetwork(text: string): 'host' | 'none' {
  if (text === 'host' || text === 'none') return text;
  throw new UsageError(`--network is host or none, not ${text}`);
}

function parseIsolate(text: string): Set<string> {
  const known = ['chroot', ...Object.keys(namespaceFlags)];
  const words = text.split(',');
  for (const word of words)
    if (!known.includes(word)) throw new UsageError(`--isolate does not know ${word}: ${known.join(', ')}`);
  return new Set(words);
}

/** runc's default lists of what a container must not see or change under /proc and /sys. */
const maskedPaths =
  `/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/scsi
  /proc/timer_list /proc/timer_stats /proc/sched_debug /sys/firmware /sys/devices/virtual/powercap`.split(
    /\s+/,
  );
const readOnlyPaths = '/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger'.split(' ');

/** What a file in the host's /dev must be before a container gets the like: major * 256 + minor, devices.txt. */
const deviceNumbers = { null: 0x103, zero: 0x105, full: 0x107, random: 0x108, urandom: 0x109, tty: 0x500 };

/** What the launch has to know of this host. Throws Failure where a device is not what its name says. */
export function readHost(environment: string[]): Pick<Launch, 'masked' | 'has' | 'terminal'> {
  for (const [name, rdev] of Object.entries(deviceNumbers)) {
    const stat = statSync(`/dev/${name}`, { throwIfNoEntry: false });
    if (!stat?.isCharacterDevice() || stat.rdev !== rdev)
      throw new Failure(`/dev/${name} of this host is no ${name} device: repair it: mknod(1)`);
  }
  const find = (program: string) => findProgram(program, pathDirectories());
  const there = maskedPaths.filter((path) => existsSync(path));
  const isFolder = (path: string) => statSync(path).isDirectory();
  return {
    masked: {
      files: there.filter((path) => !isFolder(path)),
      folders: there.filter(isFolder),
      readOnly: readOnlyPaths.filter((path) => existsSync(path)),
    },
    has: {
      ip: find('ip') !== undefined,
      chroot: find('chroot') ?? '/usr/sbin/chroot',
      // dash drops variables whose names it can't use, as discovery.type; bash hands them on
      shell: environment.every((variable) => /^\w+=/.test(variable))
        ? '/bin/sh'
        : (find('bash') ?? '/bin/bash'),
    },
    terminal: isatty(0),
  };
}

/** Options and facts become a launch. Throws UsageError for options that contradict each other. */
function planLaunch(values: Values<typeof options>, [operand = '', ...command]: string[]): Launch {
  const rootfs = realpathSync(findRootfs(operand));
  if (rootfs === '/') throw new UsageError('ROOTFS is / itself: that is the host, not a container');
  const isolate = values.isolate ?? new Set(['mount', 'pid', 'uts', 'ipc', 'cgroup']);
  if (values.network === 'none') isolate.add('net');
  if (values.hostname && !isolate.has('uts')) throw new UsageError('--hostname needs --isolate uts');
  if (!isolate.has('mount'))
    for (const option of ['user', 'workdir'] as const)
      if (values[option] !== undefined)
        throw new UsageError(`--${option} needs --isolate mount: a chroot has neither`);

  // a name begins as --name has it: the rootfs may be called .cache or -x
  const base = basename(rootfs).replace(/^[^a-z0-9]+|[^\w.-]/gi, '');
  const name = values.name ?? `${base.slice(0, 40) || 'c'}-${process.pid}`;
  const user = findUser(rootfs, values.user ?? '0');
  const hostname = isolate.has('uts') ? (values.hostname ?? name) : undefined;
  const capabilities = keptCapabilities(values.capAdd.flat(), values.capDrop.flat());
  if (!isolate.has('mount') && !values.privileged && !capabilities.includes('sys_chroot'))
    throw new UsageError('a chroot needs CAP_SYS_CHROOT: do not drop it, or --isolate mount');
  const environment = new Map([
    ['PATH', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
    ['HOME', `HOME=${user.home}`],
    ['TERM', `TERM=${process.env.TERM ?? 'xterm'}`],
    ['HOSTNAME', `HOSTNAME=${hostname ?? osHostname()}`],
    ['container', 'container=barehand'],
  ]);
  for (const variable of values.env.filter(Boolean))
    environment.set(variable.split('=', 1)[0] as string, variable);
  return {
    name,
    rootfs,
    command: command.length > 0 ? command : [defaultShell(rootfs)],
    environment: [...environment.values()],
    hostname,
    workdir: values.workdir ?? '/',
    user,
    isolate,
    capabilities,
    privileged: values.privileged,
    cgroups: planCgroups(readHierarchies(), name, values.memory),
    ...readHost([...environment.values()]),
  };
}

/** Becomes the launching shell where node can (process.execve), else stays its parent. Returns the exit code. */
async function launch(program: string, terminal: boolean): Promise<number> {
  const execve = (process as { execve?: (file: string, argv: string[], env: NodeJS.ProcessEnv) => never })
    .execve;
  if (execve) {
    process.removeAllListeners('warning'); // it says on stderr that execve is experimental
    execve('/bin/sh', ['sh', '-c', program], process.env);
  }
  const { spawn } = await import('node:child_process'); // not loaded where it is not needed
  // prctl(2): should node be killed, so is the shell, and with it unshare and the container
  const shell = spawn('setpriv', ['--pdeathsig=KILL', 'sh', '-c', program], { stdio: 'inherit' });
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const)
    process.on(signal, () => {
      // the keys of a terminal reach the shell by themselves
      if (!terminal || (signal !== 'SIGINT' && signal !== 'SIGQUIT')) shell.kill(signal);
    });
  const [code, signal] = (await once(shell, 'exit')) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + constants.signals[signal as NodeJS.Signals];
}

await main(
  import.meta.url,
  { options, operands: [1, 1], command: true, exitCodes: { failed: 125, usage: 125 } },
  async (values, operands) => {
    if (process.getuid?.() !== 0 && !values.dryRun) throw new Failure('needs root: try sudo');
    const plan = planLaunch(values, operands);
    const program = launchProgram(plan);
    if (values.dryRun) {
      // a subshell of its own, so that it can be pasted into a shell that is to live on
      process.stdout.write(`(\n${program})\n`);
      return 0;
    }
    return launch(program, plan.terminal);
  },
);
