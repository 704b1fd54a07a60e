// Containers for tests: started by run.ts or by hand, looked at from the host, ended whatever becomes of the test.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { findHierarchy, parent, readHierarchies } from '../../scripts/helpers/cgroups.ts';
import { attempt, readProc, readProcesses } from '../../scripts/helpers/pids.ts';
import { memoryFiles } from '../../scripts/limit/table.ts';
import { scratchFolder } from './leftovers.ts';
import { needs } from './needs.ts';
import { call, rootfs, script, until } from './script.ts';

/** For tests that make containers. */
export const container = { skip: needs('root', 'namespaces', 'cgroup') };

let names = 0;
/** A name that no other test file takes. */
export const newName = () => `test-${process.pid}-${++names}`;

/** The memory controller's hierarchy. */
export const memory = findHierarchy(readHierarchies(), 'memory') ?? {
  version: 2 as const,
  controllers: [],
  mountPoint: '/no/memory/controller',
  root: '/',
};

/** A file of a container's memory cgroup, trimmed. */
export const memoryFile = (name: string, file: keyof (typeof memoryFiles)[1]) =>
  readFileSync(join(memory.mountPoint, parent, name, memoryFiles[memory.version][file]), 'utf8').trim();

/** The cgroup directories of a container. */
export const cgroups = (name: string) =>
  readHierarchies().map(({ mountPoint }) => join(mountPoint, parent, name));
/** The fields of /proc/PID/stat behind the name: state, ppid, ... */
export const stat = (pid: number) =>
  readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
/** The words of a process's command; none where it has ended. */
export const commandOf = (pid: number): string[] => readProc(pid, 'cmdline')?.split('\0').slice(0, -1) ?? [];
/** A process that runs just this command. */
export const findCommand = (...words: string[]) =>
  [...readProcesses().values()].find(({ pid }) => commandOf(pid).join('\0') === words.join('\0'));
// other test files run at the same time, and their sleeps are seen too
let lasting = process.pid * 1000;
/** A number of seconds that tells a sleep(1) from all others on the host. */
export const newSeconds = () => String(++lasting);
/** The processes of whose environment or command line this is a part. */
export const processesWith = (file: 'environ' | 'cmdline', text: string): number[] =>
  [...readProcesses().keys()].filter((pid) => readProc(pid, file)?.includes(text));
/** True until it has ended; a zombie has. */
export const alive = (pid: number) => !['Z', undefined].includes(attempt(() => stat(pid)[0]));
/** What a process's namespace of a kind is called. */
export const namespace = (pid: number | 'self', kind: string) => readlinkSync(`/proc/${pid}/ns/${kind}`);

/** The signals in one of a process's sets, as SigCgt. */
export function signals(pid: number, set: string): Set<number> {
  const mask = BigInt(
    `0x${new RegExp(`${set}:\\t(\\w+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]}`,
  );
  return new Set(
    Array.from({ length: 64 }, (_, index) => index + 1).filter((n) => (mask >> BigInt(n - 1)) & 1n),
  );
}

/** A container that a test has started. */
export interface Running {
  name: string;
  launcher: ChildProcess;
  /** the container's PID 1 and the unshare that holds it, as the host knows them */
  first: number;
  unshare: number;
  end: Promise<[number | null, NodeJS.Signals | null]>;
}

const running: Running[] = [];
const scratch = scratchFolder('container');

/** Starts a container that lasts; waits until its command runs. */
export async function start(
  options: string[],
  command: string[],
  launch = [script('run')],
): Promise<Running> {
  const name = newName();
  const [program = '', ...words] = launch;
  const said = join(scratch, name);
  const descriptor = openSync(said, 'w');
  const launcher = spawn(program, [...words, '--name', name, ...options, rootfs, ...command], {
    stdio: ['ignore', 'ignore', descriptor],
  });
  closeSync(descriptor);
  const end = once(launcher, 'exit') as Running['end'];
  return await found(name, launcher, end, command).catch((error) => {
    throw new Error(`${error.message}: ${readFileSync(said, 'utf8')}`);
  });
}

/**
 * Waits until a container runs `command`, and has it ended with the test file. All its words count: the shell that waits to
 * become the command, scripts/run/release.sh, may be called as the command is.
 */
export async function found(
  name: string,
  launcher: ChildProcess,
  end: Running['end'],
  command: string[],
): Promise<Running> {
  const [unshare, first] = await until(`the container ${name}`, () => {
    const procs = `${cgroups(name)[0]}/cgroup.procs`;
    const pids = existsSync(procs) ? readFileSync(procs, 'utf8').trim().split('\n').map(Number) : [];
    const isCommand = (pid: number) => commandOf(pid).join('\0') === command.join('\0');
    const { exitCode, signalCode } = launcher;
    for (const pid of pids) {
      // it may end at any moment
      const inside = attempt(() => isCommand(pid) && namespace(pid, 'mnt') !== namespace('self', 'mnt'));
      const unshare = inside && attempt(() => Number(stat(pid)[1]));
      if (unshare) return [unshare, pid] as const;
    }
    // what never started is not waited for
    if (exitCode !== null || signalCode)
      throw new Error(
        `${name} ended with ${exitCode ?? signalCode}, and was not seen to run ${command.join(' ')}`,
      );
    return undefined;
  });
  const result = { name, launcher, first, unshare, end };
  running.push(result);
  return result;
}

after(async () => {
  for (const { name, first, end } of running) {
    if (existsSync(`${cgroups(name)[0]}`) && alive(first)) process.kill(first, 'SIGKILL');
    await end;
  }
});

/** Starts a container as the article does: no cgroup, no name, held by the unshare(1) whose PID comes first. */
export async function startByHand(command: string[]): Promise<Omit<Running, 'name'>> {
  const words = ['--pid', '--fork', `--mount-proc=${rootfs}/proc`, 'chroot', rootfs, ...command];
  const launcher = spawn('unshare', words, { stdio: 'ignore' });
  const end = once(launcher, 'exit') as Running['end'];
  const unshare = launcher.pid as number;
  const first = await until('its first process', () => {
    const children = [...readProcesses().values()].filter(({ ppid }) => ppid === unshare);
    return children.map(({ pid }) => pid).find((pid) => commandOf(pid)[0] === command[0]);
  });
  const result = { launcher, first, unshare, end };
  byHand.push(result);
  return result;
}

const byHand: Omit<Running, 'name'>[] = [];
after(async () => {
  for (const { first, end } of byHand) {
    if (alive(first)) process.kill(first, 'SIGKILL');
    await end;
  }
});

before(async () => {
  if (!container.skip && !existsSync(rootfs)) await call('fetch-rootfs', ['host:', rootfs]);
});
