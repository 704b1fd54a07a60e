// Processes that node starts and that wait on a pipe: the future PID 1 of a container, and the holder of a user
// namespace. Also the host's programs that work on them.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants as fileConstants, openSync, writeFileSync, writeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { Failure, reason } from '../helpers/cli.ts';
import { blockStreams, quote, sh, systemPath, zx } from '../helpers/shell.ts';
import type { Launch } from './container.ts';
import { consoleShell, holdCommand, keepShell } from './hold.ts';
import { mapText, mapWords, type UserNamespace } from './userns.ts';

const O_TMPFILE = 0o20200000; // open(2), on x86-64 and arm64

/** Messages of programs and of the kernel about a launch that fails, each with its cause and what to do about it. */
const explanations: [said: RegExp, words: string][] = [
  [
    /cannot fork|fork(ing)? failed|Resource temporarily unavailable/i,
    'no process may be added while it starts: raise --pids-limit or --ulimit nproc; else a cgroup above it is full: cat /proc/self/cgroup',
  ],
  [
    /sigprocmask|^$/, // unshare(1) before 2.40 says that if SIGKILL ended its child
    'it was killed while it was made: raise --memory or a --ulimit; if there is none: dmesg | tail',
  ],
  [/Error 24|Too many open files/, 'too few files may be open while it starts: raise --ulimit nofile'],
  [
    /Argument list too long/,
    'the words and variables of the command are too long: raise --ulimit stack, or shorten them',
  ],
  [
    /Cannot allocate memory|Error 12/,
    'no memory is left while it starts: raise --memory or --ulimit, or free some: free -h',
  ],
  [
    /No space left on device/,
    'no room is left while it starts: raise --disk, or free some: df -h; for inodes: df -i',
  ],
];

/** The messages of programs about a launch that has failed, as one sentence. */
export function explain(said: string): string {
  const known = explanations.find(([form]) => form.test(said));
  if (known) return known[1];
  // NAME: REASON, in a shell NAME: LINE: REASON
  const [, program, why] = /^(?:\S*\/)?([\w-]+): (?:(?:line )?\d+: )?(.*)$/s.exec(said) ?? [];
  return program && why ? `cannot start the container: ${program} of this host says: ${why}` : said;
}

/** A process that waits on a pipe until node resumes it. It prints its messages, one per line, to another pipe. */
export class HeldProcess {
  /** the process that node has started: the future PID 1 or, in between, setpriv, script(1) or keep.sh */
  readonly child: ChildProcess;
  /** PID of the future PID 1 on the host; 0 until it has printed that */
  pid = 0;
  hasEnded = false;
  /** exit code and signal of `child` */
  readonly end: Promise<[number | null, NodeJS.Signals | null]>;
  private readonly resumePipe: NodeJS.WritableStream | null;
  private readonly lines: string[] = [];
  private partialLine = '';
  private reasonOfEnd: Failure | undefined;
  private wake = () => {};

  /** The process waits for a line on its descriptor `resumeFd`, and prints its messages to `messageFd`. */
  constructor(child: ChildProcess, resumeFd: number, messageFd: number) {
    this.child = child;
    this.end = new Promise((resolve) => {
      child.once('error', (error) => {
        this.lines.push(reason(error));
        resolve([125, null]);
      });
      child.once('close', (code, signal) => resolve([code, signal]));
    });
    child.once('exit', () => {
      this.hasEnded = true;
      this.wake();
    });
    const messages = child.stdio[messageFd] as NodeJS.ReadableStream | null;
    messages?.on('data', (text: Buffer) => {
      const lines = (this.partialLine + text).split('\n');
      this.partialLine = lines.pop() as string;
      this.lines.push(...lines);
      this.wake();
    });
    this.resumePipe = child.stdio[resumeFd] as NodeJS.WritableStream | null;
    this.resumePipe?.on('error', () => {}); // EPIPE: the process has ended
  }

  /** Waits for a line that matches. Throws Failure with the process's messages if the process ends before. */
  async waitForLine(pattern: RegExp): Promise<string> {
    for (;;) {
      const index = this.lines.findIndex((line) => pattern.test(line));
      if (index >= 0) return this.lines.splice(index, 1)[0] as string;
      if (this.hasEnded) {
        await this.end;
        throw this.failure();
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  /** The messages that waitForLine has not returned: why the process could not start, or why it has ended. */
  errorText(): string {
    return [...this.lines.splice(0), this.partialLine].filter(Boolean).join('; ');
  }

  /** The error for a process that has ended before it became the command. */
  failure(): Failure {
    this.reasonOfEnd ??= new Failure(explain(this.errorText()));
    return this.reasonOfEnd;
  }

  resume(): void {
    this.resumePipe?.write('go\n');
  }

  /** Closes all pipes, and lets node end before the process. */
  detach(): void {
    this.child.unref();
    for (const stream of this.child.stdio) (stream as Socket | null)?.destroy();
  }

  /** Closes the pipe that the process waits on, which ends the process, and waits for its end. */
  async abort(): Promise<void> {
    this.resumePipe?.end();
    await this.end;
  }
}

const hostEnvironment = () => ({
  ...process.env,
  // the distribution's programs come before others of the same name, and print English messages
  PATH: `${systemPath}:${process.env.PATH ?? ''}`,
  LC_ALL: 'C',
  SHELL: '/bin/sh',
  // mount(2) follows /proc/self/fd/N to a file; mount_setattr(2) and move_mount(2) do not
  LIBMOUNT_FORCE_MOUNT2: 'always',
});

/**
 * Starts the future PID 1. `holder` is the PID of the process that holds the user namespace. `network` is a descriptor
 * of the network namespace that the container shares. `folder` is a descriptor of the directory of log and exit status.
 *
 * Descriptors of the new process: 0 resumes it, 2 is for messages, 3 and 4 are standard input and error of the command,
 * 5 is `network`, 6 is the seccomp filter for setpriv(1), 7 is `folder`, which keep.sh keeps locked while it runs. Those
 * of --preserve-fds follow from 9 on, as console.sh uses 8: release.sh moves them to 3 and on.
 */
export function hold(
  launch: Launch,
  { holder, network, folder }: Record<'holder' | 'network' | 'folder', number | undefined>,
): HeldProcess {
  const { name, detached, terminal, cgroups, runDirectory, seccomp } = launch;
  const command = holdCommand(launch, holder === undefined ? undefined : String(holder));
  const title = `run.ts ${name}`; // ps(1) shows it
  let words = command;
  let streams: ('inherit' | 'ignore' | 'pipe' | number)[] = ['pipe', 'inherit', 'pipe', 0, 2];
  if (detached) {
    const logBytes = Math.ceil(detached.logBytes / 2); // for each of two files
    words = sh`sh -c ${keepShell} ${title} ${runDirectory} ${logBytes} ${cgroups?.lock ?? ''} ${command}`;
    streams = ['pipe', 'ignore', 'pipe', 'ignore', 'ignore'];
  } else if (terminal) {
    // exec: otherwise the shell of script(1) gets, and dies of, SIGINT and SIGQUIT of the container's terminal
    const line = sh`exec sh -c ${consoleShell} ${title} ${process.pid} ${command}`.map(quote).join(' ');
    words = sh`setpriv --pdeathsig=KILL env --default-signal=INT,QUIT script -q -e -f -c ${line} /dev/null`;
    streams = ['inherit', 'inherit', 'inherit', 'pipe', 'pipe'];
  }
  const callers = Array.from({ length: launch.preserved }, (_, index) => 3 + index);
  const filter = seccomp?.file && unnamedFile(tmpdir(), seccomp.file);
  blockStreams();
  const [program = '', ...args] = words;
  const child = spawn(program, args, {
    env: { ...hostEnvironment(), parent: String(process.pid) },
    stdio: [...streams, network ?? 'ignore', filter ?? 'ignore', folder ?? 'ignore', 'ignore', ...callers],
    cwd: '/',
    // a new session, setsid(2): a terminal among the streams is not its controlling terminal
    detached: !terminal,
  });
  if (filter !== undefined) closeSync(filter);
  return terminal ? new HeldProcess(child, 3, 4) : new HeldProcess(child, 0, 2);
}

/** Makes a file without a name, open(2) O_TMPFILE, with this content. Returns its descriptor, at offset 0. */
export function unnamedFile(folder: string, content: Buffer): number {
  const file = openSync(folder, fileConstants.O_RDWR | O_TMPFILE, 0o600);
  writeSync(file, content, 0, content.length, 0);
  return file;
}

/**
 * Starts a process that holds a user namespace until PID 1 has joined it, and writes the namespace's ID maps,
 * user_namespaces(7). Throws Failure.
 */
export async function holdUserNamespace({ uids, gids, byRoot, single }: UserNamespace): Promise<HeldProcess> {
  const words = sh`--user sh -c ${'echo held >&2; read -r _'}`;
  const child = spawn('unshare', words, { env: hostEnvironment(), stdio: ['pipe', 'ignore', 'pipe'] });
  const holder = new HeldProcess(child, 0, 2);
  try {
    await holder.waitForLine(/^held$/).catch((error) => {
      throw new Failure(`no user namespace: ${reason(error)}`);
    });
    const { pid = 0 } = child;
    if (byRoot || single) {
      // a user may write gid_map only if setgroups(2) is denied in the namespace
      if (single) writeFileSync(`/proc/${pid}/setgroups`, 'deny');
      writeFileSync(`/proc/${pid}/gid_map`, mapText(gids));
      writeFileSync(`/proc/${pid}/uid_map`, mapText(uids));
    } else {
      const $ = await hostShell();
      await $`newgidmap ${pid} ${mapWords(gids)} && exec newuidmap ${pid} ${mapWords(uids)}`;
    }
    return holder;
  } catch (error) {
    await holder.abort();
    throw error;
  }
}

/** What hostShell returns. */
export type HostShell = Awaited<ReturnType<typeof hostShell>>;

/**
 * zx's `$` for the host's programs. A command that fails throws Failure with the program's messages. The program gets
 * `input` as its descriptor 0, and `descriptors` from 3 on.
 */
export async function hostShell({
  input,
  descriptors = [],
}: {
  input?: number;
  descriptors?: number[];
} = {}) {
  const $ = await zx();
  const stdio = [input ?? ('ignore' as const), 'pipe' as const, 'pipe' as const, ...descriptors];
  const shell = $({ env: hostEnvironment(), cwd: '/', stdio });
  return async (texts: TemplateStringsArray, ...words: (string | number | string[])[]): Promise<void> => {
    const running = shell(texts, ...words);
    const { exitCode, signal, stderr } = await running;
    // mount(8) skips a line of a table that it can't parse, with a message and exit status 0
    if (exitCode !== 0 || /parse error/.test(stderr))
      throw new Failure(
        explain(stderr.trim().replace(/\n/g, '; ') || `${running.cmd}: ${signal ?? `exit code ${exitCode}`}`),
      );
  };
}
