#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
stop.ts: ask a container to end, wait, kill what is left, clean up

USAGE
  stop.ts [OPTION...] TARGET...
  stop.ts [OPTION...] --all
  stop.ts --sweep

  TARGET is a container's name, or the PID of the first process of any container, or of the unshare(1) that holds it.

OPTIONS
  --signal NAME     the signal that asks (default: what run.ts --stop-signal said, else TERM)
  --timeout SECONDS how long to wait before killing (default: 10)
  --all             every container that run.ts has made
  --pause           freeze it instead: it keeps its memory and gets no CPU
  --resume          thaw it
  --sweep           only remove what crashed launches have left: cgroups without a process, logs without an end,
                    interfaces, rules and bridges of network.ts that nobody uses
  -h, --help        this text

  A first process that does not handle the signal never learns of it, pid_namespaces(7): it is killed without waiting.
  What does not end even so, waiting for a disk or a network file system, is named; the exit code is then 1.

EXAMPLES
  stop.ts web
  stop.ts --timeout 60 --signal INT database
  stop.ts --pause web; stop.ts --resume web
  stop.ts --all

  A container in the background that has ended already is known by its name as long as there is its log.

CHANGES
  Ends processes, and removes the container's cgroup barehand/NAME from every hierarchy, and its log.

UNDO
  --resume undoes --pause. The rest is for good.

SEE ALSO
  kill(1), signal(7), cgroups(7), the kernel's admin-guide/cgroup-v2 (cgroup.kill, cgroup.freeze) and
  admin-guide/cgroup-v1/freezer-subsystem
*/
import { existsSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupsBelow, lockDirectory, parent, processesIn, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, reason, UsageError } from './helpers/cli.ts';
import { findContainers, notesFolder } from './helpers/containers.ts';
import { lock } from './helpers/lock.ts';
import { parseSignal, signalNumber } from './helpers/options.ts';
import {
  attempt,
  descendants,
  hasSignal,
  type Process,
  readProc,
  readProcesses,
  startTicks,
  statusField,
} from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { runProgram } from './helpers/shell.ts';
import { findContainer, namedContainer, ownContainers, type WholeContainer } from './helpers/target.ts';
import { sweepTargets } from './limit/notes.ts';

export const options = {
  signal: { parse: parseSignal },
  timeout: { parse: parseSeconds },
  all: {},
  pause: {},
  resume: {},
  sweep: {},
} as const;

function parseSeconds(text: string): number {
  if (/^\d{1,6}(\.\d+)?$/.test(text)) return Number(text);
  throw new UsageError(`--timeout is a number of seconds, not ${text}`);
}

const hierarchies = readHierarchies();

/** The living processes of a container: those in its cgroups, and those of its first process's namespace or tree. */
function livingProcesses({ cgroups, first, startTicks: started }: WholeContainer): Process[] {
  const table = readProcesses();
  const pids = new Set(cgroups.flatMap(({ directory }) => attempt(() => processesIn(directory)) ?? []));
  // its PID may have been given to another process by now
  if (first && startTicks(first.pid) === started) {
    const container = findContainers(table).containers.find((found) => found.first.pid === first.pid);
    for (const pid of container?.members ?? descendants(table, [first.pid]).map(({ pid }) => pid))
      pids.add(pid);
  }
  return [...pids].flatMap((pid) => table.get(pid) ?? []).filter(({ zombie }) => !zombie);
}

/** Whether a signal can have any effect on a process: PID 1 of a namespace gets only what it has a handler for. */
function handles(first: Process, signal: string): boolean {
  if (signal === 'KILL' || first.nsPids.length === 1) return true;
  // what it blocks it may wait for, as inits do: with signalfd(2), or sigtimedwait(2), during which it is not blocked
  if (readProc(first.pid, 'wchan')?.includes('sigtimedwait')) return true;
  const number = signalNumber(signal);
  return hasSignal(first.pid, 'SigCgt', number) || hasSignal(first.pid, 'SigBlk', number);
}

function send(process_: Process, signal: string): void {
  try {
    process.kill(process_.pid, signalNumber(signal));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH')
      throw new Failure(`cannot signal ${process_.pid}: ${reason(error)}`);
  }
}

/** Freezes or thaws. v2: cgroup.freeze; v1: the freezer controller. Throws Failure where there is neither. */
async function setFrozen({ cgroups, label }: WholeContainer, frozen: boolean): Promise<void> {
  for (const { hierarchy, directory } of cgroups) {
    const v2 = join(directory, 'cgroup.freeze');
    const v1 = join(directory, 'freezer.state');
    if (hierarchy.version === 2 && existsSync(v2)) {
      writeFileSync(v2, frozen ? '1' : '0');
      return untilFrozen(label, () =>
        readFileSync(join(directory, 'cgroup.events'), 'utf8').includes(`frozen ${frozen ? 1 : 0}`),
      );
    }
    if (hierarchy.controllers.includes('freezer')) {
      const state = frozen ? 'FROZEN' : 'THAWED';
      writeFileSync(v1, state);
      return untilFrozen(label, () => readFileSync(v1, 'utf8').trim() === state);
    }
  }
  throw new Failure(`${label} has no cgroup to itself with a freezer: kill -STOP stops single processes`);
}

async function untilFrozen(label: string, isDone: () => boolean): Promise<void> {
  for (let waited = 0; waited < 5000; waited += 20) {
    if (isDone()) return;
    await sleep(20);
  }
  throw new Failure(`${label} is not yet as asked after 5 s: a process of it waits in the kernel`);
}

/** Kills all that is in the container. What is in its cgroups needs no PID: cgroup.kill takes them all at once. */
function killAll(container: WholeContainer): void {
  for (const { hierarchy, directory } of container.cgroups) {
    const kill = join(directory, 'cgroup.kill'); // since Linux 5.14
    if (hierarchy.version === 2 && existsSync(kill)) attempt(() => writeFileSync(kill, '1'));
  }
  // PID 1 first: the kernel ends all of its namespace with it
  const { first, startTicks: started } = container;
  if (first && startTicks(first.pid) === started) send(first, 'KILL');
  for (const process_ of livingProcesses(container)) send(process_, 'KILL');
}

/** A cgroup's directory and those in it, in the order in which they can be removed. */
const innermostFirst = (directory: string) => [directory, ...cgroupsBelow(directory)].reverse();

/** Removes the cgroups of a container of ours, and those in it. Returns what is there still, without a process. */
async function removeCgroups({ cgroups, name }: WholeContainer): Promise<string[]> {
  const directory = lockDirectory(hierarchies);
  if (!name || !directory) return [];
  const left = () =>
    cgroups
      .map(({ directory }) => directory)
      .filter((directory) => attempt(() => processesIn(directory).length) === 0);
  // the last processes may be on their way out: EBUSY
  for (let tries = 0; tries < 50 && left().length > 0; tries++) {
    if (tries > 0) await sleep(20);
    // under the lock that run.ts takes, so that a container which is just being made with this name keeps its own
    const { release } = await lock(directory);
    for (const cgroup of left().flatMap(innermostFirst)) attempt(() => rmdirSync(cgroup));
    for (const { mountPoint } of hierarchies) attempt(() => rmdirSync(join(mountPoint, parent)));
    release();
  }
  return left();
}

/** The signal that a container wants to be asked with: what run.ts --stop-signal said. */
function stopSignal({ name }: WholeContainer): string {
  const text = name && attempt(() => readFileSync(join(notesFolder(name), 'stop-signal'), 'utf8').trim());
  return text ? parseSignal(text) : 'TERM';
}

/** Whether what a launch has left is all that there is: it keeps its notes where it has come to an end. */
const hasEnded = (name: string) => existsSync(join(notesFolder(name), 'status'));

/** Stops one container. Returns what happened, for people. Throws Failure naming what would not end. */
async function stop(
  container: WholeContainer,
  asked: string | undefined,
  timeoutSeconds: number,
): Promise<string> {
  const { first, label, name, cgroups } = container;
  const signal = asked ?? stopSignal(container);
  const wait = async (milliseconds: number) => {
    for (let waited = 0; ; waited += 50) {
      if (livingProcesses(container).length === 0) return true;
      if (waited >= milliseconds) return false;
      await sleep(50);
    }
  };
  let how = `${label}: ended after SIG${signal}`;
  await setFrozen(container, false).catch(() => {}); // a frozen v1 cgroup can't be killed until it is thawed
  if (!first) how = `${label}: nothing of it was running`;
  if (!first && cgroups.length === 0) how = `${label}: had ended, its log is removed`;
  if (first && !handles(first, signal)) {
    killAll(container);
    how = `${label}: killed, for its first process does not handle SIG${signal}`;
  } else if (first) {
    send(first, signal);
    // the tree of a container without a PID namespace does not end with its first process
    if (first.nsPids.length === 1) for (const process_ of livingProcesses(container)) send(process_, signal);
    if (!(await wait(timeoutSeconds * 1000))) {
      killAll(container);
      how = `${label}: killed, ${timeoutSeconds} s after SIG${signal}`;
    }
  }
  for (let tries = 0; tries < 5 && !(await wait(1000)); tries++) killAll(container); // forking bombs included
  const left = livingProcesses(container);
  if (left.length > 0) {
    const states = left.map(({ pid, name }) => `${pid} (${name}, ${statusField(pid, 'State')[0]})`);
    throw new Failure(
      `${label} was sent SIGKILL, but has not ended: ${states.join(', ')}: state D waits in the kernel, see /proc/PID/stack`,
    );
  }
  // whoever keeps its log holds this lock: until all of it is written, and its network is taken away
  if (name && first && existsSync(notesFolder(name)))
    await runProgram(['flock', '--timeout', '5', notesFolder(name), 'true']);
  const busy = await removeCgroups(container);
  if (busy.length > 0)
    throw new Failure(`${label} has ended, but its cgroups can't be removed: ${busy.join(', ')}`);
  if (name) rmSync(notesFolder(name), { recursive: true, force: true });
  return how;
}

await main(import.meta.url, { options, operands: [0, Infinity] }, async (values, operands) => {
  const { all, pause, resume, sweep, signal, timeout = 10 } = values;
  if ([all || operands.length > 0, sweep].filter(Boolean).length !== 1 || (all && operands.length > 0))
    throw new UsageError('either TARGETs, or --all, or --sweep');
  if (pause && resume) throw new UsageError('either --pause or --resume');
  if ((pause || resume || sweep) && (values.signal !== undefined || values.timeout !== undefined))
    throw new UsageError('--signal and --timeout go with stopping');
  if (sweep) {
    requirePrograms(['flock'], 'sweep');
    for (const name of ownContainers(hierarchies)) {
      const container = attempt(() => namedContainer(hierarchies, name)); // it may end at this moment
      if (!container) continue;
      if (container.first !== undefined || (container.cgroups.length === 0 && hasEnded(name))) continue;
      await removeCgroups(container);
      if (container.cgroups.some(({ directory }) => existsSync(directory))) continue;
      // whoever has no cgroups holds a lock on the folder instead
      if (!hasEnded(name) && existsSync(notesFolder(name)))
        await runProgram(['flock', '--nonblock', notesFolder(name), 'rm', '-r', notesFolder(name)]);
      console.log(`${name}: removed`);
    }
    for (const hierarchy of hierarchies) sweepTargets(hierarchy);
    const { sweepNetworks } = await import('./network/network.ts'); // not loaded where it is not needed
    const networks = await sweepNetworks().catch((error) => [`networks: ${reason(error)}`]);
    for (const what of networks) console.log(what);
    return 0;
  }

  // one that can't be found keeps none of the others alive; a word that can't be a name stops nothing
  const find = (text: string) => {
    try {
      return findContainer(hierarchies, text);
    } catch (error) {
      if (error instanceof Failure && !(error instanceof UsageError)) return error;
      throw error;
    }
  };
  const targets = all
    ? ownContainers(hierarchies)
        .flatMap((name) => attempt(() => namedContainer(hierarchies, name)) ?? [])
        .filter(({ first, cgroups }) => first ?? cgroups[0])
    : operands.map(find);
  if (targets.length === 0) console.error('stop: there is no container of barehand here');
  const isNamed = (target: WholeContainer | Failure) => !(target instanceof Failure) && target.name;
  if (!pause && !resume && targets.some(isNamed)) requirePrograms(['flock'], 'stop a container');
  const work = async (target: WholeContainer | Failure) => {
    if (target instanceof Failure) throw target;
    if (!pause && !resume) return stop(target, signal, timeout);
    await setFrozen(target, pause);
    return `${target.label}: ${pause ? 'paused' : 'resumed'}`;
  };
  const results = await Promise.allSettled(targets.map(work));
  for (const result of results) {
    if (result.status === 'fulfilled') console.log(result.value);
    else console.error(`stop: ${reason(result.reason)}`);
  }
  return results.some(({ status }) => status === 'rejected') ? 1 : 0;
});
