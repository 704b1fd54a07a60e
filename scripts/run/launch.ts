// The launch of a container: hold, furnish from outside, shut in, release, wait. docs/run.md explains it.

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
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../helpers/cli.ts';
import { attempt, readProc, startTicks } from '../helpers/pids.ts';
import { sh, zx } from '../helpers/shell.ts';
import { perform, toShell } from '../helpers/steps.ts';
import { notesAbout } from '../limit/notes.ts';
import { joinCgroups, lastSteps, type Name, removingProgram, takeName } from './cgroups.ts';
import { enterCommand, type Launch } from './container.ts';
import { Furnisher } from './furnisher.ts';
import { type Held, hold, holdUserNamespace, hostShell } from './held.ts';
import { releaseShell } from './hold.ts';
import { Signals } from './signals.ts';
import { closeInherited, giveStreams } from './streams.ts';

/** Throws Failure when a signal has come before there is a command. */
function checkSignal({ ending }: Signals): void {
  if (ending) throw new Interrupted(`${ending} came before it had started`);
}

/** The launch was ended by a signal: there is nothing to say, and the exit code tells which. */
class Interrupted extends Failure {}

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
      await (await hostShell())`exec ${enterCommand(launch, String(held.pid))} ip link set lo up`;
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
  const isCommand = (child: number) => {
    const its = words(child); // read once: it may become another at any moment
    return !/^$|^true\0$|^env\0--default-signal/.test(its) && its !== words(pid);
  };
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
