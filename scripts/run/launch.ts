// The launch of a container. docs/run.md explains its steps: hold, furnish, join cgroups, drop, furnish the rest, shut
// in, network, late limits, release, wait.
import {
  chownSync,
  closeSync,
  fstatSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { constants, uptime } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../helpers/cli.ts';
import { attempt, readProc, readProcess, startTicks } from '../helpers/pids.ts';
import { closeInherited, sh, zx } from '../helpers/shell.ts';
import { perform, type Step, toShell } from '../helpers/steps.ts';
import { notesAbout } from '../limit/notes.ts';
import { joiningSteps, type ReservedName, removingInner, removingSteps, reserveName } from './cgroups.ts';
import { enterCommand, type Launch, needsNotes } from './container.ts';
import { Furnisher } from './furnisher.ts';
import { explain, type HeldProcess, hold, holdUserNamespace, hostShell } from './held.ts';
import { oomKillsShell, releaseShell } from './hold.ts';
import { limitFailure, memoryWords, reportKills } from './killed.ts';
import { applySettings } from './settings.ts';
import { Signals } from './signals.ts';
import { giveStreams } from './streams.ts';
import { hostId } from './userns.ts';

/** A signal has ended the launch. The exit code tells which, so no message is printed. */
class Interrupted extends Failure {}

/** Throws Interrupted if a signal came before the command was started. */
function checkSignal({ ending }: Signals): void {
  if (ending) throw new Interrupted(`signal ${ending} came before it had started`);
}

/** Launches a container and, unless it is detached, waits for its end. Returns the exit code. */
export async function launchContainer(launch: Launch): Promise<number> {
  const { cgroups, detached, isolate, connection, userNamespace } = launch;
  closeInherited(2 + launch.preserved);
  const signals = new Signals();
  const startedBootSeconds = uptime();
  let reserved: ReservedName | undefined;
  let holder: HeldProcess | undefined;
  let held: HeldProcess | undefined;
  let furnisher: Furnisher | undefined;
  let furnishing = Promise.resolve(); // what the furnisher does while node waits for something else
  let disconnect: (() => Promise<void>) | undefined;
  let cleansUpLater = false; // keep.sh cleans up when a detached container ends
  try {
    // hold
    if (needsNotes(launch)) reserved = await reserveName(launch); // keep.sh needs the directory in /run
    if (userNamespace) holder = await holdUserNamespace(userNamespace);
    const network = launch.joins && openNetwork(launch.joins);
    const folder = detached && (reserved?.lockDescriptor ?? openSync(launch.runDirectory, 'r'));
    held = hold(launch, { holder: holder?.child.pid, network, folder });
    if (network !== undefined) closeSync(network);
    if (launch.preserved > 0) closeInherited(); // no other program of this launch gets them
    await zx(); // zx is loaded while the process starts
    const pid = Number(await held.waitForLine(/^\d+$/));
    held.pid = pid;
    checkSignal(signals);
    if (userNamespace?.byRoot && launch.terminal)
      chownSync(`/proc/${pid}/fd/3`, hostId(userNamespace.uids, 0) as number, -1);

    // furnish, and meanwhile join cgroups
    furnisher = new Furnisher(launch, pid);
    furnishing = furnisher.mountEarly();
    furnishing.catch(() => {}); // awaited below
    // the lock is held only until PID 1 is in the cgroups, which then reserve the name
    reserved ??= await reserveName(launch);
    if (cgroups) await perform(joiningSteps(cgroups, String(pid)));
    reserved.unlock();
    await applySettings(launch, String(pid));
    await furnishing;

    // drop privileges, and meanwhile furnish the rest; shut in
    held.resume();
    await holder?.abort(); // PID 1 has joined the user namespace
    furnisher.makeFiles();
    await held.waitForLine(/^ready$/);
    checkSignal(signals);
    await furnisher.mountLate();
    if (isolate.has('mount')) furnisher.makeWorkdir();
    furnisher.checkPrograms();
    if (isolate.has('net') && launch.hasIp && !connection)
      await (await hostShell())`exec ${enterCommand(launch, String(pid))} ip link set lo up`;
    await giveStreams(launch, pid);

    // network, late limits
    furnisher.close();
    disconnect = await connection?.attach(pid);
    if (cgroups) await perform(cgroups.last);
    checkSignal(signals);

    // release and wait
    if (detached) writeCleanup(launch, pid);
    else signals.passTo(pid, isolate.has('pid'), launch.terminal);
    cleansUpLater = detached !== undefined;
    if (held.hasEnded) throw held.failure();
    held.resume();
    if (detached) return await reportStart(launch, held);
    const code = await exitCode(held, signals);
    await reportKills(launch, startedBootSeconds);
    return code;
  } catch (error) {
    // what fails when PID 1 is gone fails for that
    const isGone = held && held.pid > 0 && readProcess(held.pid)?.zombie !== false;
    // the furnisher closes its descriptors when it does not use them any more: their numbers are reused
    await Promise.all([held?.abort(), holder?.abort(), furnishing.catch(() => {})]);
    furnisher?.close();
    cleansUpLater = false;
    if (error instanceof Interrupted) return 128 + (signals.ending as number);
    throw (await limitFailure(launch, startedBootSeconds)) ?? (held && isGone ? held.failure() : error);
  } finally {
    if (!cleansUpLater) {
      await disconnect?.();
      if (held?.pid) rmSync(notesAbout(held.pid), { recursive: true, force: true });
      await reserved?.giveBack();
    }
  }
}

/** Opens the network namespace to share. Throws Failure if its process has ended, also if another process has its PID. */
function openNetwork({ pid, inode, label }: NonNullable<Launch['joins']>): number {
  const file = attempt(() => openSync(`/proc/${pid}/ns/net`, 'r'));
  if (file !== undefined && fstatSync(file).ino === inode) return file;
  if (file !== undefined) closeSync(file);
  throw new Failure(`${label} has ended`);
}

/**
 * Writes the programs that keep.sh runs after a detached container: one prints what the kernel has killed, one cleans up.
 * The second one fails while a cgroup is in use.
 */
function writeCleanup({ runDirectory, cgroups, connection }: Launch, pid: number): void {
  // a container of root is found by its cgroups
  if (!cgroups?.lock) writeFileSync(join(runDirectory, 'pid'), `${pid} ${startTicks(pid)}\n`);
  if (!cgroups && !connection) return;
  const memory = cgroups && memoryWords(cgroups);
  if (memory) {
    const run = sh`sh -c ${oomKillsShell} oom-kills ${memory} ${(startTicks(pid) ?? 0) / 100}`;
    writeFileSync(join(runDirectory, 'oom-kills'), toShell([{ run }]));
  }
  const steps: Step[] = [{ run: sh`rm -rf ${notesAbout(pid)}` }];
  const detach = connection?.afterwards(pid) ?? [];
  if (detach.length > 0) steps.push({ run: detach, ignore: true });
  if (cgroups)
    steps.push(removingInner(cgroups), ...removingSteps(cgroups), {
      run: sh`test ! -d ${cgroups.directories[0] as string}`,
    });
  writeFileSync(join(runDirectory, 'cleanup'), toShell(steps));
}

/** Waits for the end of a container. Returns the exit code of run.ts. Throws Failure if the command was not started. */
async function exitCode(held: HeldProcess, signals: Signals): Promise<number> {
  const [code, signal] = await held.end;
  const { ending } = signals; // set if a signal has come meanwhile
  const text = held.errorText();
  if (ending) return 128 + ending;
  // unshare(1) before 2.40 reports an error of its own if SIGKILL ended its child
  if (text.includes('sigprocmask')) return 137;
  if (text) throw new Failure(explain(text));
  return code ?? 128 + constants.signals[signal as NodeJS.Signals];
}

/**
 * Waits until the command of a detached container runs or has ended. Prints the name and returns 0. If the command could
 * not be started, prints why, and returns the exit code of run.ts.
 */
async function reportStart({ runDirectory, hasInit, name, chroot }: Launch, held: HeldProcess) {
  const { pid } = held;
  const since = startTicks(pid);
  const argvOf = (process_: number) => readProc(process_, 'cmdline') ?? '';
  // without pivot_root, the shell of release.sh becomes chroot(1), which becomes the command
  const isCommand = (argv: string) => !argv.includes(releaseShell) && !argv.startsWith(`${chroot}\0`);
  const children = () => (readProc(pid, `task/${pid}/children`) ?? '').split(' ').filter(Boolean).map(Number);
  // the child of an init is first a copy of the init, or setsid(1) or env(1), see shellInit; then it becomes the command
  const isInitsCommand = (argv: string) =>
    !/^$|^true\0$|^setsid\0|^env\0--default-signal/.test(argv) && argv !== argvOf(pid);
  const runs = () => {
    const argv = argvOf(pid);
    if (argv === '' || !isCommand(argv)) return false; // a process that has ended has an empty argv
    return !hasInit || children().some((child) => isInitsCommand(argvOf(child)));
  };
  for (let waited = 0; waited < 10_000 && !held.hasEnded; waited += 5) {
    if (startTicks(pid) === since && runs()) break;
    await sleep(5);
  }
  const code = held.hasEnded
    ? Number.parseInt(attempt(() => readFileSync(join(runDirectory, 'status'), 'utf8')) ?? '', 10)
    : 0;
  if ([125, 126, 127].includes(code)) {
    const message = attempt(() => readFileSync(join(runDirectory, 'log'), 'utf8').trim());
    if (message) writeSync(2, `${message}\n`);
    rmSync(runDirectory, { recursive: true, force: true });
    return code;
  }
  held.detach();
  writeSync(1, `${name}\n`);
  return 0;
}
