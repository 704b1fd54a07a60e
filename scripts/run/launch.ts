// The launch of a container: hold, furnish from outside, shut in, release, wait. docs/run.md explains it.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  constants as fileConstants,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  type Stats,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import type { Socket } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure, reason } from '../helpers/cli.ts';
import { type InRoot, ofDescriptor, openInRoot, openRoot } from '../helpers/in-root.ts';
import { attempt, hasSignal, readProc, readProcess, startTicks } from '../helpers/pids.ts';
import type { User } from '../helpers/rootfs.ts';
import type { SeccompLoader } from '../helpers/seccomp/seccomp.ts';
import { blockStreams, type Command, quote, sh, zx } from '../helpers/shell.ts';
import { perform, type Step, toShell } from '../helpers/steps.ts';
import { notesAbout } from '../limit/notes.ts';
import { type CgroupPlan, joinCgroups, lastSteps, type Name, removingProgram, takeName } from './cgroups.ts';
import {
  type Binding,
  copyCommands,
  type Device,
  type FoundVolume,
  fstab,
  type Mount,
  planFurnishing,
  type StageFile,
  type Text,
  type Tmpfs,
} from './furnish.ts';
import { consoleShell, holdCommand, keepShell, releaseShell } from './hold.ts';
import type { Range, UserNamespace } from './userns.ts';

/** What is to be launched, and the facts about the host that it depends on. */
export interface Launch {
  name: string;
  /** an absolute path without symlinks */
  rootfs: string;
  /** what mount options the file system has that it lies on, of those that must not get lost */
  rootFlags: string[];
  /** what is written goes into memory, no more than this */
  ephemeral: { sizeBytes: number | undefined } | undefined;
  readOnly: boolean;
  volumes: FoundVolume[];
  tmpfs: Tmpfs[];
  texts: Text[];
  devices: Device[];
  shmBytes: number;
  command: string[];
  /** an init of the host's, which becomes PID 1 and starts the command */
  init: string | undefined;
  /** PID 1 is an init, one of the host's or the root's own sh, which starts the command */
  hasInit: boolean;
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
  /** the words before a command that load the seccomp filter; undefined: there is none */
  seccomp: SeccompLoader | undefined;
  /** undefined: no interface but what its network namespace has already */
  connection: Connection | undefined;
  /** whose network namespace it shares, instead of the host's: `label` is what the user called it */
  joins: { pid: number; inode: number; label: string } | undefined;
  /** undefined: the caller may make none */
  cgroups: CgroupPlan | undefined;
  /** the directory for what the kernel does not keep: the log and exit status of a detached one, the stop signal */
  runDirectory: string;
  /** it gets one of its own, so that it can't put words into the caller's: ioctl_tty(2), TIOCSTI */
  terminal: boolean;
  /** in the background, with so much of its output kept */
  detached: { logBytes: number } | undefined;
  stopSignal: string | undefined;
  /** files under /proc and /sys that a container has no business with, as they are on this kernel */
  masked: { files: string[]; folders: string[]; readOnly: string[] };
  /** where something is mounted below /sys, as paths from there */
  sysMounts: string[];
  /** programs of the host: ip(8)? where chroot(1) is; which shell hands on the environment */
  hasIp: boolean;
  chroot: string;
  shell: string;
  /** the words that mount a tree with mapped IDs */
  idmap: string[] | undefined;
}

/** What gives a container its interface, when it is shut in. */
export interface Connection {
  /** returns what takes it away again, when the container has ended */
  attach: (pid: number) => Promise<() => Promise<void>>;
  /** a command that does so when no process of run.ts is there any more; none: it goes by itself */
  afterwards: (pid: number) => Command;
  /** the steps for --dry-run, where the PID and the inode of the network namespace are shell variables */
  print: (pid: string, inode: string) => Promise<Step[]>;
}

/** How nsenter(1) gets to what a launch works on: by a user only through the user namespace, which has the right to. */
export function enterCommand({ userNamespace, isolate }: Launch, pid: string, hasCgroups = true): Command {
  const user = !userNamespace ? [] : userNamespace.byRoot ? ['--user'] : ['--user', '--preserve-credentials'];
  // proc(5), mqueue, sysfs and cgroup2 show the namespaces of whoever mounts them
  const kinds = ['pid', 'ipc', 'net', ...(hasCgroups ? ['cgroup'] : [])].filter((kind) => isolate.has(kind));
  return sh`nsenter --target ${pid} ${user} --mount ${kinds.map((kind) => `--${kind}`)}`;
}

/** A process that waits to be the container's first, and how it is spoken to. */
export class Held {
  /** what was started: the chain itself, script(1) around it, or what keeps the log */
  readonly child: ChildProcess;
  /** its PID on the host */
  pid = 0;
  ended = false;
  /** exit code and signal of `child` */
  readonly end: Promise<[number | null, NodeJS.Signals | null]>;
  private readonly said: string[] = [];
  private rest = '';
  private wake = () => {};

  private readonly go: number;

  /** `go` and `say`: which of its descriptors lets it go on, and which one says what there is to say */
  constructor(child: ChildProcess, go: number, say: number) {
    this.child = child;
    this.go = go;
    this.end = new Promise((resolve) => {
      child.once('error', (error) => {
        this.said.push(reason(error));
        resolve([125, null]);
      });
      child.once('close', (code, signal) => resolve([code, signal]));
    });
    child.once('exit', () => {
      this.ended = true;
      this.wake();
    });
    const stream = child.stdio[say] as NodeJS.ReadableStream | null;
    stream?.on('data', (text: Buffer) => {
      const lines = (this.rest + text).split('\n');
      this.rest = lines.pop() as string;
      this.said.push(...lines);
      this.wake();
    });
    child.stdio[this.go]?.on('error', () => {}); // it need not live to hear it
  }

  /** Waits for a line of this form. Throws Failure with what it says instead, when it ends. */
  async hears(form: RegExp): Promise<string> {
    for (;;) {
      const at = this.said.findIndex((line) => form.test(line));
      if (at >= 0) return this.said.splice(at, 1)[0] as string;
      if (this.ended) {
        await this.end;
        throw new Failure(this.words() || 'it was killed while it was made');
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  /** What it has said that nobody has asked for: why it will not start, or how it ended. */
  words(): string {
    return [...this.said.splice(0), this.rest].filter(Boolean).join('; ');
  }

  /** Lets it go on. */
  goOn(): void {
    (this.child.stdio[this.go] as NodeJS.WritableStream).write('go\n');
  }

  /** It goes on without us. */
  letGo(): void {
    this.child.unref();
    for (const stream of this.child.stdio) (stream as Socket | null)?.destroy();
  }

  /** It can't be released any more, and ends. */
  async giveUp(): Promise<void> {
    (this.child.stdio[this.go] as NodeJS.WritableStream | null)?.end();
    await this.end;
  }
}

/** Host programs are found where the distribution has them first, and say what they say in English. */
const hostEnvironment = () => ({
  ...process.env,
  PATH: `/usr/sbin:/usr/bin:/sbin:/bin:${process.env.PATH ?? ''}`,
  LC_ALL: 'C',
  SHELL: '/bin/sh',
  // mount_setattr(2) and move_mount(2) do not follow a descriptor's path to a file, as mount(2) does
  LIBMOUNT_FORCE_MOUNT2: 'always',
});

/**
 * Starts what is held: on a terminal of its own, in the background, or with the streams of the caller. Its descriptors:
 * 0 lets it go on, 2 is what it says, 3 and 4 are the command's standard input and error, 5 the network namespace that it joins, 6 a filter for setpriv(1), 7
 * the folder of what is kept, which is locked as long as that goes on.
 */
export function hold(
  launch: Launch,
  { holder, network, folder }: { holder?: number; network?: number; folder?: number },
): Held {
  const { detached, cgroups, runDirectory, seccomp } = launch;
  const command = holdCommand(launch, holder === undefined ? undefined : String(holder));
  const env = { ...hostEnvironment(), parent: String(process.pid) };
  const filter = seccomp?.file && unnamedFile(tmpdir(), seccomp.file);
  const start = (words: Command, streams: Stream[], [go, say]: [number, number], ownSession: boolean) => {
    const all = [...streams, network, filter, folder];
    while (all.at(-1) === undefined) all.pop();
    const stdio = all.map((stream) => stream ?? 'ignore');
    const [program = '', ...rest] = words;
    const held = new Held(spawn(program, rest, { env, stdio, cwd: '/', detached: ownSession }), go, say);
    if (filter !== undefined) closeSync(filter);
    return held;
  };
  const title = `run.ts ${launch.name}`; // what ps(1) shows
  blockStreams();
  if (detached) {
    const lock = cgroups?.lock ?? '';
    const words = sh`sh -c ${keepShell} ${title} ${runDirectory} ${Math.ceil(detached.logBytes / 2)} ${lock} ${command}`;
    return start(words, ['pipe', 'ignore', 'pipe', 'ignore', 'ignore'], [0, 2], true);
  }
  if (launch.terminal) {
    // exec: the shell of script(1) would die of the keys that are meant for the command
    const line = sh`exec sh -c ${consoleShell} ${title} ${process.pid} ${command}`.map(quote).join(' ');
    const words = sh`setpriv --pdeathsig=KILL env --default-signal=INT,QUIT script -q -e -f -c ${line} /dev/null`;
    return start(words, ['inherit', 'inherit', 'inherit', 'pipe', 'pipe'], [3, 4], false);
  }
  // a session of its own, so that a terminal among its descriptors is not its controlling one
  return start(command, ['pipe', 'inherit', 'pipe', 0, 2], [0, 2], true);
}

type Stream = 'inherit' | 'ignore' | 'pipe' | number;

/** A file without a name, open(2) O_TMPFILE, that has these bytes in it and is read from the beginning. */
function unnamedFile(folder: string, content: Buffer): number {
  const file = openSync(folder, fileConstants.O_RDWR | O_TMPFILE, 0o600);
  writeSync(file, content, 0, content.length, 0);
  return file;
}

/** A process that holds a user namespace until PID 1 is in it, and the maps of its IDs, user_namespaces(7). */
async function holdUserNamespace({ uids, gids, byRoot, single }: UserNamespace): Promise<Held> {
  const words = sh`unshare --user sh -c ${'echo held >&2; read -r _'}`;
  const env = hostEnvironment();
  const held = new Held(spawn('unshare', words.slice(1), { env, stdio: ['pipe', 'ignore', 'pipe'] }), 0, 2);
  try {
    await held.hears(/^held$/).catch((error) => {
      throw new Failure(`no user namespace: ${reason(error)}`);
    });
    const pid = held.child.pid as number;
    const lines = (ranges: Range[]) =>
      ranges.map(({ inside, outside, count }) => [inside, outside, count].map(String));
    if (byRoot || single) {
      // a user may map his own group only when setgroups(2) is given up
      if (single) writeFileSync(`/proc/${pid}/setgroups`, 'deny');
      writeFileSync(
        `/proc/${pid}/gid_map`,
        lines(gids)
          .map((words) => words.join(' '))
          .join('\n'),
      );
      writeFileSync(
        `/proc/${pid}/uid_map`,
        lines(uids)
          .map((words) => words.join(' '))
          .join('\n'),
      );
    } else {
      await command(sh`newgidmap ${pid} ${lines(gids).flat()}`);
      await command(sh`newuidmap ${pid} ${lines(uids).flat()}`);
    }
    return held;
  } catch (error) {
    await held.giveUp();
    throw error;
  }
}

/** Runs a host program to its end; `descriptors` are its 3, 4 and so on. Throws Failure with what it says. */
async function command(
  words: Command,
  options: { input?: number; descriptors?: number[]; cwd?: string } = {},
) {
  const $ = await zx();
  const stdio = [options.input ?? 'ignore', 'pipe', 'pipe', ...(options.descriptors ?? [])] as const;
  const { exitCode, signal, stderr, stdout } = await $({
    env: hostEnvironment(),
    cwd: '/',
    stdio: [...stdio],
  })`${words}`;
  // mount(8) passes over a line of a table that it can't read, says so, and ends with 0
  if (exitCode !== 0 || /parse error/.test(stderr))
    throw new Failure(
      stderr.trim().replace(/\n/g, '; ') || `${words.join(' ')}: ${signal ?? `exit code ${exitCode}`}`,
    );
  return stdout;
}

/** The container's root on the host, where that is another: whatever is made in there is to be its own. */
const ownerOf = ({ userNamespace }: Launch) =>
  userNamespace?.byRoot
    ? { uid: userNamespace.uids[0]?.outside as number, gid: userNamespace.gids[0]?.outside as number }
    : undefined;

/**
 * Acts as the container's root: what a user namespace owns takes nothing from the host's, EOVERFLOW. Descriptors are
 * opened before, as the host's root, who may look everywhere.
 */
function asOwner<Value>(launch: Launch, act: () => Value): Value {
  const owner = ownerOf(launch);
  if (!owner) return act();
  process.setegid?.(owner.gid);
  process.seteuid?.(owner.uid);
  try {
    return act();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
  }
}

/** Furnishes the root of a held process. Everything is reached through descriptors of its mount namespace. */
class Furnisher {
  private readonly stage: number;
  private readonly opened: number[] = [];
  private readonly furnishing: ReturnType<typeof planFurnishing>;
  private readonly launch: Launch;
  private readonly pid: number;

  constructor(launch: Launch, pid: number) {
    this.launch = launch;
    this.pid = pid;
    this.stage = this.keep(openStage(pid, launch.rootfs));
    const terminal = attempt(() => readlinkSync(`/proc/${pid}/fd/3`));
    this.furnishing = planFurnishing(launch, {
      stage: '/proc/self/fd/3',
      cwd: `/proc/${pid}/cwd/.`,
      terminal: launch.terminal ? terminal : undefined,
    });
  }

  /** What can be mounted while PID 1 is not yet in its cgroup namespace, and is a shell that nobody may write to. */
  async first(): Promise<void> {
    const { own, layers, directories, first } = this.furnishing;
    for (const name of directories) this.makeDirectory(name);
    if (layers.length === 0) return this.mount([...own, ...first]);
    await this.mount(own);
    const like = statSync(`/proc/${this.pid}/cwd`);
    for (const name of layers) {
      const path = this.makeDirectory(name);
      // an owner who is nobody in a user namespace can't be taken over
      attempt(() => chownSync(path, like.uid, like.gid));
      chmodSync(path, like.mode & 0o7777);
    }
    await this.mount(first);
  }

  private makeDirectory(name: string): string {
    const path = ofDescriptor(this.stage, name);
    asOwner(this.launch, () => mkdirSync(path, { recursive: true }));
    return path;
  }

  /** Files and devices of the stage. */
  async prepare(): Promise<void> {
    const { files, nodes, nodeFolders } = this.furnishing;
    for (const folder of nodeFolders)
      mkdirSync(ofDescriptor(this.stage, `own${folder}`), { recursive: true });
    const made = copyCommands(nodes).map((words) =>
      command(words('/proc/self/fd/3/own'), { descriptors: [this.stage] }),
    );
    for (const file of files) this.makeFile(file);
    await Promise.all(made);
  }

  /** What is mounted when PID 1 has its own cgroup namespace; and all of it to where it belongs. */
  async second(): Promise<void> {
    const { second, bindings, last } = this.furnishing;
    const pending: Mount[] = [...second];
    const targets: InRoot[] = [];
    const covered: [Binding, Stats][] = [];
    const flush = async () => {
      await this.mount(pending.splice(0), targets.splice(0));
      for (const [binding, stats] of covered.splice(0)) this.takeOver(binding, stats);
    };
    for (const binding of bindings) {
      const isIn = (path: string) => targets.some((one) => `${path}/`.startsWith(`${one.path}/`));
      let target = this.find(binding);
      // it may lie in what is still to be mounted; all else lies in /proc, /sys and /dev, or beside them
      if (
        targets.length > 0 &&
        (!target || isIn(target.path) || (binding.links ?? true) !== (bindings[0]?.links ?? true))
      ) {
        await flush();
        target = this.find(binding);
      }
      target = this.check(binding, target ?? this.make(binding));
      const fd = 4 + targets.push(target) - 1;
      const path = `/proc/self/fd/${fd}${binding.kind === 'directory' ? '/.' : ''}`;
      pending.push({ source: binding.from, target: path, type: 'none', options: 'rbind' });
      if (binding.like) covered.push([binding, target.stats]);
    }
    pending.push(...last);
    await flush();
  }

  /** Gives a file system in memory the mode and owner of the directory that it covers. */
  private takeOver({ from, like }: Binding, stats: Stats): void {
    const path = ofDescriptor(this.stage, from.slice('/proc/self/fd/3/'.length));
    // an owner that a user namespace does not know stays what it is
    if (like?.uid) attempt(() => chownSync(path, stats.uid, -1));
    if (like?.gid) attempt(() => chownSync(path, -1, stats.gid));
    if (like?.mode) chmodSync(path, stats.mode & 0o7777);
  }

  /** Opens where a binding is to be; undefined where it is missing. */
  private find({ to, links = true, onLink = false }: Binding): InRoot | undefined {
    try {
      const found = openInRoot(this.root(), to, { links, lastLink: onLink });
      if (found) this.keep(found.fd);
      return found;
    } catch (error) {
      throw new Failure(`${to} is no place for a mount: ${reason(error)}`);
    }
  }

  /** The same, and makes it. */
  private make({ to, kind, links = true, like }: Binding): InRoot {
    try {
      const made = asOwner(this.launch, () => {
        const opened = openInRoot(this.root(), to, { links, make: kind });
        // for everybody, now and the next time
        if (opened && like) chmodSync(ofDescriptor(opened.fd), 0o1777);
        return opened && { ...opened, stats: fstatSync(opened.fd) };
      });
      if (!made) throw new Failure('it can not be made');
      this.keep(made.fd);
      return made;
    } catch (error) {
      throw new Failure(`${to} is no place for a mount: ${reason(error)}`);
    }
  }

  /** Throws Failure for what a binding can't be mounted on. */
  private check({ to, kind, links = true }: Binding, found: InRoot): InRoot {
    if (links && /^\/(proc(\/.*)?)?$/.test(found.path))
      throw new Failure(`${to} is no place for a mount: not / and not in /proc`);
    if (found.stats.isSymbolicLink()) return found; // as itself
    if (kind === 'file' ? !found.stats.isFile() : !found.stats.isDirectory())
      throw new Failure(`${to} is no ${kind}`);
    return found;
  }

  /** The root that is furnished: with what is mounted on it by now, so it is opened each time. */
  private root(): number {
    return this.keep(openSync(ofDescriptor(this.stage, 'root'), O_PATH));
  }

  private makeFile(file: StageFile): void {
    const path = ofDescriptor(this.stage, file.path.slice('/proc/self/fd/3/'.length));
    asOwner(this.launch, () => {
      mkdirSync(dirname(path), { recursive: true });
      if ('link' in file) symlinkSync(file.link, path);
      else writeFileSync(path, file.text, { mode: 0o644 });
    });
  }

  /** Makes mounts; `targets` are descriptors from 4 on. */
  private async mount(mounts: Mount[], targets?: InRoot[]): Promise<void> {
    if (mounts.length === 0) return;
    // mount(8) reads its table from no socket, which is what a pipe of node's is
    const table = asOwner(this.launch, () =>
      unnamedFile(ofDescriptor(this.stage), Buffer.from(fstab(mounts))),
    );
    try {
      // it has a cgroup namespace of its own when it is in its cgroups
      const enter = enterCommand(this.launch, String(this.pid), targets !== undefined);
      await command(sh`${enter} mount --no-mtab --no-canonicalize --all --fstab /proc/self/fd/0`, {
        input: table,
        descriptors: [this.stage, ...(targets ?? []).map(({ fd }) => fd)],
      }).catch((error) => {
        const named = (_: string, fd: string, rest = '') =>
          fd === '3' ? rest : (targets?.[Number(fd) - 4]?.path ?? fd);
        throw new Failure(reason(error).replace(/\/proc\/self\/fd\/(\d+)(?:\/\.)?((?:\/[^:\s]+)*)/g, named));
      });
    } finally {
      closeSync(table);
    }
  }

  /** Makes the root of PID 1, and of its mount namespace, what was furnished; and detaches the host's. */
  async shutIn(): Promise<void> {
    const { userNamespace } = this.launch;
    const user = enterCommand({ ...this.launch, isolate: new Set() }, String(this.pid));
    const root = this.root();
    // from outside: the kernel moves the root directory of PID 1 as well, pivot_root(2)
    await command(sh`${user} --wd=/proc/self/fd/3 pivot_root . .`, { descriptors: [root] });
    // the host's root is mounted on top of the new one now
    await command(
      userNamespace ? sh`${user} umount --lazy /` : sh`umount --lazy --namespace /proc/${this.pid}/ns/mnt /`,
    );
  }

  private keep(fd: number): number {
    this.opened.push(fd);
    return fd;
  }

  close(): void {
    for (const fd of this.opened.splice(0)) closeSync(fd);
  }
}

// open(2): Node has no words for these; the values are those of x86-64 and arm64
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const O_TMPFILE = 0o20200000;

/**
 * Opens the tmpfs that PID 1 has mounted over ROOTFS. What is there by that path must be that very mount: of another
 * place, that somebody has put there meanwhile, nothing is touched.
 */
function openStage(pid: number, rootfs: string): number {
  const root = openRoot(`/proc/${pid}/root`);
  try {
    const found = openInRoot(root, rootfs, { links: false });
    const [, id] =
      /^mnt_id:\s*(\d+)/m.exec(found ? readFileSync(`/proc/self/fdinfo/${found.fd}`, 'utf8') : '') ?? [];
    const newest = readProc(pid, 'mountinfo')?.trimEnd().split('\n').at(-1) ?? '';
    if (found && newest.startsWith(`${id} `) && / - tmpfs /.test(newest)) return found.fd;
    throw new Failure(`${rootfs} changes while it is looked at`);
  } finally {
    closeSync(root);
  }
}

/** Signals that are meant for the command. */
const passed = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGTERM'] as const;

/**
 * Passes signals on as the kernel would to a process that is no PID 1: one that has no handler for a signal, and does not
 * ignore it, is ended by it, where the kernel spares a PID 1, pid_namespaces(7).
 */
class Signals {
  /** the signal that came before there was a command, or that ended it */
  ending: NodeJS.Signals | undefined;
  private target: { pid: number; isInit: boolean; keysReachIt: boolean } | undefined;

  constructor() {
    for (const signal of passed) process.on(signal, () => this.receive(signal));
  }

  /** From now on they are for this process. `keysReachIt`: those of a terminal reach it without our help. */
  passTo(pid: number, isInit: boolean, keysReachIt: boolean): void {
    this.target = { pid, isInit, keysReachIt };
    process.on('SIGTSTP', () => {
      attempt(() => process.kill(pid, 'SIGSTOP'));
      process.kill(process.pid, 'SIGSTOP');
      attempt(() => process.kill(pid, 'SIGCONT'));
    });
  }

  private receive(signal: NodeJS.Signals): void {
    if (!this.target) {
      this.ending ??= signal;
      return;
    }
    const { pid, isInit, keysReachIt } = this.target;
    const arrives = keysReachIt && (signal === 'SIGINT' || signal === 'SIGQUIT');
    const fate = isInit ? signalFate(pid, constants.signals[signal]) : 'arrives';
    if (fate === 'arrives' && !arrives) attempt(() => process.kill(pid, signal));
    if (fate === 'spared') {
      this.ending = signal;
      attempt(() => process.kill(pid, 'SIGKILL'));
    }
  }
}

/** What a PID 1 makes of a signal from outside. */
function signalFate(pid: number, signal: number): 'arrives' | 'ignored' | 'spared' {
  // one that has just ended by itself has neither handlers nor a need of any
  if (readProcess(pid)?.zombie !== false) return 'ignored';
  // an init waits in sigtimedwait(2), and has them neither blocked nor caught meanwhile
  const waits = readProc(pid, 'wchan')?.includes('sigtimedwait');
  if (waits || hasSignal(pid, 'SigCgt', signal) || hasSignal(pid, 'SigBlk', signal)) return 'arrives';
  return hasSignal(pid, 'SigIgn', signal) ? 'ignored' : 'spared';
}

/** Throws Failure when a signal has come before there is a command. */
function checkSignal({ ending }: Signals): void {
  if (ending) throw new Interrupted(`${ending} came before it had started`);
}

/** The launch was ended by a signal: there is nothing to say, and the exit code tells which. */
class Interrupted extends Failure {}

/** Closes the caller's descriptors above 2, which would be handed on: node's own are O_CLOEXEC, open(2). */
function closeInherited(): void {
  for (const fd of readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => fd > 2)) {
    const info = attempt(() => readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
    const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(info ?? '')?.[1] ?? '', 8);
    if ((flags & O_CLOEXEC) === 0) attempt(() => closeSync(fd));
  }
}

/** Launches a container and, unless it is detached, waits for its end. Returns the exit code. */
export async function launchContainer(launch: Launch): Promise<number> {
  const { name, cgroups, detached, stopSignal, runDirectory, connection } = launch;
  closeInherited();
  const signals = new Signals();
  const notes = detached !== undefined || stopSignal !== undefined;
  const take = () => takeName({ name, cgroups, runDirectory, notes, stopSignal });
  let taken: Name | undefined;
  let holder: Held | undefined;
  let held: Held | undefined;
  let furnisher: Furnisher | undefined;
  let leave: (() => Promise<void>) | undefined;
  let keeps = false;
  try {
    // a folder has to be there before anybody keeps something in it
    if (notes) taken = await take();
    if (launch.userNamespace) holder = await holdUserNamespace(launch.userNamespace);
    const network = launch.joins && openNetwork(launch.joins);
    const folder = detached && (taken?.folder ?? openSync(runDirectory, 'r'));
    held = hold(launch, {
      ...(holder?.child.pid && { holder: holder.child.pid }),
      ...(network !== undefined && { network }),
      ...(folder !== undefined && { folder }),
    });
    if (network !== undefined) closeSync(network);
    await zx(); // loaded while it is on its way
    held.pid = Number(await held.hears(/^\d+$/));
    checkSignal(signals);
    if (launch.userNamespace?.byRoot && launch.terminal)
      chownSync(`/proc/${held.pid}/fd/3`, launch.userNamespace.uids[0]?.outside as number, -1);
    furnisher = new Furnisher(launch, held.pid);
    const first = furnisher.first();
    first.catch(() => {}); // it is waited for below
    // the lock is held for as short as can be: until it is in the cgroups that hold the name
    taken ??= await take();
    if (cgroups) joinCgroups(cgroups, held.pid);
    taken.unlock();
    await first;
    held.goOn();
    await holder?.giveUp();
    const ready = held.hears(/^ready$/);
    await Promise.all([ready, furnisher.prepare()]);
    checkSignal(signals);
    await furnisher.second();
    if (launch.isolate.has('net') && launch.hasIp && !connection)
      await command(sh`${enterCommand(launch, String(held.pid))} ip link set lo up`);
    await giveStreams(launch, held.pid);
    if (launch.isolate.has('mount')) await furnisher.shutIn();
    furnisher.close();
    leave = await connection?.attach(held.pid);
    if (cgroups) await perform(lastSteps(cgroups));
    checkSignal(signals);
    if (detached) {
      const afterwards = connection?.afterwards(held.pid) ?? [];
      if (!cgroups?.lock) writeFileSync(join(runDirectory, 'pid'), `${held.pid} ${startTicks(held.pid)}\n`);
      if (cgroups || connection)
        writeFileSync(
          join(runDirectory, 'cleanup'),
          [
            toShell([{ run: sh`rm -rf ${notesAbout(held.pid)}` }]),
            afterwards.length > 0 && toShell([{ run: afterwards, ignore: true }]),
            cgroups && removingProgram(cgroups, name),
          ]
            .filter(Boolean)
            .join('\n'),
        );
      keeps = true;
    } else {
      // unshare(1) is its parent and dies with it
      signals.passTo(held.pid, launch.isolate.has('pid'), launch.terminal);
    }
    if (held.ended) throw new Failure(held.words() || 'it was killed while it was made');
    held.goOn();
    if (detached) return await reportStart(launch, held);
    const code = await exitCode(held, signals);
    return code;
  } catch (error) {
    furnisher?.close();
    await Promise.all([held?.giveUp(), holder?.giveUp()]);
    keeps = false;
    if (error instanceof Interrupted) return 128 + constants.signals[signals.ending as NodeJS.Signals];
    throw error;
  } finally {
    if (!keeps) await leave?.();
    if (!keeps && held?.pid) rmSync(notesAbout(held.pid), { recursive: true, force: true });
    if (!keeps) await taken?.giveBack(false);
  }
}

/** The network namespace that is to be shared. Throws Failure where another process has that PID by now. */
function openNetwork({ pid, inode, label }: NonNullable<Launch['joins']>): number {
  const file = attempt(() => openSync(`/proc/${pid}/ns/net`, 'r'));
  if (file !== undefined && fstatSync(file).ino === inode) return file;
  if (file !== undefined) closeSync(file);
  throw new Failure(`${label} has ended`);
}

/** The number on the host of an ID of the container's; undefined where it has none. */
function outside(ranges: Range[] | undefined, id: number): number | undefined {
  if (!ranges) return id;
  const range = ranges.find(({ inside, count }) => id >= inside && id < inside + count);
  return range && id - range.inside + range.outside;
}

/**
 * Gives the user of the container what he is to write to and read from: pipes and files among his standard streams, and
 * his own terminal, as runc does. Else opening /dev/stdout is EACCES for him. The caller's terminal and the null device
 * stay whose they are.
 */
async function giveStreams(launch: Launch, pid: number): Promise<void> {
  const { user, userNamespace, isolate } = launch;
  const owns = launch.terminal;
  const uid = outside(userNamespace?.uids, user.uid);
  if (!isolate.has('mount') || uid === undefined || (uid === process.getuid?.() && !owns)) return;
  // those of ours that it has as its 3, 1 and 4; in the background it has a pipe of its own
  const streams: [fd: number, ours: number][] = owns
    ? [[3, 0]]
    : [
        [3, 0],
        [1, 1],
        [4, 2],
      ];
  for (const [fd, ours] of launch.detached ? streams.slice(1, 2) : streams) {
    const path = `/proc/${pid}/fd/${fd}`;
    const stats = launch.detached || owns ? undefined : fstatSync(ours);
    if (stats && (stats.uid === uid || !isGiven(ours, stats))) continue;
    // a user may do it only as root of his namespace
    if (userNamespace && !userNamespace.byRoot)
      await command(
        sh`nsenter --target ${pid} --user --preserve-credentials chown ${user.uid} ${path}`,
      ).catch(() => {});
    else attempt(() => chownSync(path, uid, -1));
  }
}

/** Whether a stream of ours is handed on with its ownership: not a file that is only read, nor a terminal or a device. */
function isGiven(fd: number, stats: Stats): boolean {
  const isRead = /^flags:\s*\d*[048]$/m.test(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
  return stats.isFIFO() || stats.isSocket() || (stats.isFile() && !isRead);
}

/** What became of one that was waited for. */
async function exitCode(held: Held, signals: Signals): Promise<number> {
  const [code, signal] = await held.end;
  const { ending } = signals; // it may have come meanwhile
  const words = held.words();
  if (ending) return 128 + constants.signals[ending];
  // unshare(1) before 2.40 takes a SIGKILL of its child for a failure of its own
  if (words.includes('sigprocmask')) return 137;
  if (words) throw new Failure(words);
  return code ?? 128 + constants.signals[signal as NodeJS.Signals];
}

/**
 * Waits until a detached container's command runs, or has ended. Prints the name and returns 0; where the command could
 * not be started, says why and returns what run.ts returns for that.
 */
async function reportStart(launch: Launch, held: Held): Promise<number> {
  const { pid } = held;
  const since = startTicks(pid);
  const { runDirectory, hasInit, name } = launch;
  const words = (process_: number) => readProc(process_, 'cmdline') ?? '';
  // it is chroot(1) for a moment where there is no pivot
  const isShell = (process_: number) =>
    words(process_).includes(releaseShell) || words(process_).startsWith(`${launch.chroot}\0`);
  const children = () => (readProc(pid, `task/${pid}/children`) ?? '').split(' ').filter(Boolean).map(Number);
  // until an init's child is the command it is a copy of the init, or env(1), see shellInit
  const isCommand = (child: number) =>
    !/^$|^true\0$|^env\0--default-signal/.test(words(child)) && words(child) !== words(pid);
  const runs = () =>
    words(pid) !== '' && // one that has ended has none
    !isShell(pid) &&
    (!hasInit || children().some(isCommand));
  for (let waited = 0; waited < 10_000 && !held.ended; waited += 5) {
    if (startTicks(pid) === since && runs()) break;
    await sleep(5);
  }
  const code = held.ended ? Number(attempt(() => readFileSync(join(runDirectory, 'status'), 'utf8'))) : 0;
  if ([125, 126, 127].includes(code)) {
    const said = attempt(() => readFileSync(join(runDirectory, 'log'), 'utf8').trim());
    if (said) writeSync(2, `${said}\n`);
    rmSync(runDirectory, { recursive: true, force: true });
    return code;
  }
  held.letGo();
  writeSync(1, `${name}\n`);
  return 0;
}
