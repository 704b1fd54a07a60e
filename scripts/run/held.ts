// A process that waits to be a container's first: how it is started, and how it is spoken to.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants as fileConstants, openSync, writeFileSync, writeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { Failure, reason } from '../helpers/cli.ts';
import { blockStreams, type Command, quote, sh, zx } from '../helpers/shell.ts';
import type { Launch } from './container.ts';
import { consoleShell, holdCommand, keepShell } from './hold.ts';
import type { Range, UserNamespace } from './userns.ts';

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
export function unnamedFile(folder: string, content: Buffer): number {
  const file = openSync(folder, fileConstants.O_RDWR | O_TMPFILE, 0o600);
  writeSync(file, content, 0, content.length, 0);
  return file;
}

/** A process that holds a user namespace until PID 1 is in it, and the maps of its IDs, user_namespaces(7). */
export async function holdUserNamespace({ uids, gids, byRoot, single }: UserNamespace): Promise<Held> {
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
      const $ = await hostShell();
      await $`newgidmap ${pid} ${lines(gids).flat()} && exec newuidmap ${pid} ${lines(uids).flat()}`;
    }
    return held;
  } catch (error) {
    await held.giveUp();
    throw error;
  }
}

/**
 * zx's `$` for the programs that furnish a container: it throws Failure with what they say. `input` is their descriptor
 * 0, and `descriptors` are their 3, 4 and so on.
 */
export async function hostShell({
  input,
  descriptors = [],
}: {
  input?: number;
  descriptors?: number[];
} = {}) {
  const $ = await zx();
  const shell = $({
    env: hostEnvironment(),
    cwd: '/',
    stdio: [input ?? 'ignore', 'pipe', 'pipe', ...descriptors],
  });
  return async (texts: TemplateStringsArray, ...words: (string | number | string[])[]): Promise<void> => {
    const running = shell(texts, ...words);
    const { exitCode, signal, stderr } = await running;
    // mount(8) passes over a line of a table that it can't read, says so, and ends with 0
    if (exitCode !== 0 || /parse error/.test(stderr))
      throw new Failure(
        stderr.trim().replace(/\n/g, '; ') || `${running.cmd}: ${signal ?? `exit code ${exitCode}`}`,
      );
  };
}

const O_TMPFILE = 0o20200000; // open(2), on x86-64 and arm64
