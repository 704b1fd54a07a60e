#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
stop.ts: stop containers: send a signal, wait, kill the remaining processes

USAGE
  stop.ts [OPTION...] TARGET...
  stop.ts [OPTION...] --all
  stop.ts [--dry-run] --sweep

  TARGET is a container's name, or the PID of any process in any container, or
  of the unshare(1) that holds it. A PID means the whole container; a message on
  stderr names it, if the PID is not that of its first process. The name of a
  container in the background is valid until its log is removed, even after the
  container has ended.

  PID 1 of a namespace gets only signals that it handles, pid_namespaces(7). If
  the first process does not handle the signal, stop.ts sends SIGKILL at once.
  A process that survives SIGKILL waits in the kernel, mostly for a disk or a
  network file system. stop.ts names it and exits with 1.

EXAMPLES
  stop.ts web
  stop.ts -t 60 -s INT database
  stop.ts --pause web; stop.ts --resume web
  stop.ts --dry-run web | less

OPTIONS
* -s, --signal NAME the signal to send first (default: TERM)
                    or the one of run.ts --stop-signal; by name or number: INT,
                    37, RTMIN+3
* -t, --timeout SECONDS  time between that signal and SIGKILL (default: 10)
                    also --time
* --all             stop every container that run.ts has made
* --pause           freeze the container: it keeps its memory, and gets no CPU
* --resume          thaw the container
                    also where somebody else has frozen it, if nothing else is
                    frozen there
* --sweep           remove only what crashed launches have left
                    cgroups without a process, logs without an exit status, and
                    unused interfaces, rules and bridges of network.ts
* --dry-run         print the steps as shell, and change nothing
  -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

CHANGES
  Ends processes. Removes the container's cgroup barehand/NAME from every
  hierarchy, and its log.

UNDO
  --resume undoes --pause. Nothing undoes the rest.

EXIT CODES
  0 done; 1 failed for one TARGET at least; 2 wrong usage.

SEE ALSO
  kill(1), signal(7), cgroups(7), the kernel's admin-guide/cgroup-v2
  (cgroup.kill, cgroup.freeze) and admin-guide/cgroup-v1/freezer-subsystem
*/
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { scriptPath } from './helpers/called.ts';
import { processesIn } from './helpers/cgroups.ts';
import { Failure, main, reason, UsageError } from './helpers/cli.ts';
import { findContainers, notesFolder } from './helpers/containers.ts';
import {
  attempt,
  descendants,
  hasSignal,
  type Process,
  printable,
  readProc,
  readProcesses,
  startTicks,
  statusField,
} from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { explain, holds, perform, type Step, toShell } from './helpers/steps.ts';
import { findContainer, type WholeContainer } from './helpers/target.ts';
import { parseSignal, signalNumber } from './helpers/units.ts';
import { planFreeze, planThawOthers } from './stop/frozen.ts';
import { hierarchies, ourContainers, planRemoval, planSweep, remove, sweep } from './stop/remove.ts';

export const options = {
  signal: { short: 's', parse: parseSignal },
  timeout: { short: 't', alias: 'time', parse: parseSeconds },
  all: {},
  pause: {},
  resume: {},
  sweep: {},
  dryRun: {},
} as const;

function parseSeconds(text: string): number {
  if (/^\d{1,6}(\.\d+)?$/.test(text)) return Number(text);
  throw new UsageError(`--timeout is a number of seconds, not ${text}`);
}

/**
 * The living processes of a container: the first process and those of its namespace or tree, then others in its cgroups.
 * The start time of the first process is compared: another process may have its PID by now.
 */
function livingProcesses({ cgroups, first, startTicks: started }: WholeContainer): Process[] {
  const table = readProcesses();
  const pids = new Set<number>();
  if (first && startTicks(first.pid) === started) {
    const container = findContainers(table).containers.find((found) => found.first.pid === first.pid);
    const members = container?.members ?? descendants(table, [first.pid]).map(({ pid }) => pid);
    for (const pid of [first.pid, ...members]) pids.add(pid);
  }
  for (const { directory } of cgroups)
    for (const pid of attempt(() => processesIn(directory)) ?? []) pids.add(pid);
  return [...pids].flatMap((pid) => table.get(pid) ?? []).filter(({ zombie }) => !zombie);
}

/** Whether a signal can have any effect on a process: PID 1 of a namespace gets only those that it has a handler for. */
function handles(first: Process, signal: string): boolean {
  if (signal === 'KILL' || first.nsPids.length === 1) return true;
  // a process may wait for a signal that it blocks, as inits do: with signalfd(2), or with sigtimedwait(2), which unblocks it
  if (readProc(first.pid, 'wchan')?.includes('sigtimedwait')) return true;
  const number = signalNumber(signal);
  return hasSignal(first.pid, 'SigCgt', number) || hasSignal(first.pid, 'SigBlk', number);
}

/** Freezes or thaws a container. Throws Failure if that is not possible, or takes too long. */
async function setFrozen(container: WholeContainer, frozen: boolean): Promise<void> {
  const steps = planFreeze(container, frozen);
  await perform(steps);
  if (!holds(steps[1].until))
    throw new Failure(
      `${container.label} is not yet ${frozen ? 'frozen' : 'thawed'} after 5 s: a process of it waits in the kernel`,
    );
}

/** The steps that thaw what others have frozen of a container, in v1. Throws Failure if they freeze more than that. */
const planThaw = (container: WholeContainer): Step[] =>
  planThawOthers(
    hierarchies,
    container.label,
    () => livingProcesses(container).map(({ pid }) => pid),
    container.cgroups.map(({ directory }) => directory),
  );

/** The steps of letGoOn, for --dry-run. */
function planResume(container: WholeContainer): Step[] {
  const others = planThaw(container);
  const own = others.length > 0 ? attempt(() => planFreeze(container, false)) : planFreeze(container, false);
  return [...(own ?? []), ...others];
}

/** Lets a container go on, whoever has frozen it. Throws Failure if that is not possible, or takes too long. */
async function letGoOn(container: WholeContainer): Promise<void> {
  const others = planThaw(container);
  await perform(others);
  if (others.length === 0 || attempt(() => planFreeze(container, false))) await setFrozen(container, false);
}

/** The step that sends a signal to a container; none if its first process would not get it. */
function planSignal(container: WholeContainer, signal: string): Step[] {
  const { first, label } = container;
  if (!first || !handles(first, signal)) return [];
  // a tree without a PID namespace does not end with its first process
  const isTree = first.nsPids.length === 1;
  const to = livingProcesses(container).flatMap(({ pid }) => (isTree || pid === first.pid ? pid : []));
  const name = `SIG${signal}` as NodeJS.Signals;
  return [
    {
      why: `${label}: ${name} to ${to.length > 1 ? 'its processes' : 'its first process'}`,
      signal: name in constants.signals ? name : signalNumber(signal),
      to,
    },
  ];
}

/** The step that waits for the end of a container. A cgroup tells that for sure: a PID may be given to a new process. */
function planWait({ cgroups: [cgroup], first }: WholeContainer, seconds: number): Step[] {
  if (seconds === 0 || !first) return [];
  return [{ until: cgroup ? { empty: cgroup.directory } : { ended: first.pid }, seconds }];
}

/** The steps that kill all processes of a container: those of its cgroup at once, others by their PIDs. */
function planKill(container: WholeContainer): Step[] {
  const directories = container.cgroups.map(({ directory }) => directory);
  // v2 since Linux 5.14
  const killFile = directories.map((directory) => join(directory, 'cgroup.kill')).find(existsSync);
  const cgroup = killFile ? dirname(killFile) : directories[0];
  const inside = (cgroup && attempt(() => processesIn(cgroup))) || [];
  // PID 1 is the first: the kernel ends all of its namespace with it
  const to = livingProcesses(container).flatMap(({ pid }) => (inside.includes(pid) ? [] : pid));
  const steps: Step[] = [];
  if (cgroup && inside.length > 0)
    steps.push(killFile ? { write: '1', to: killFile, ignore: true } : { killAll: cgroup });
  if (to.length > 0) steps.push({ signal: 'SIGKILL', to });
  return explain(`${container.label}: SIGKILL to the processes that are left`, steps);
}

/** The steps of `stop` if each succeeds at the first attempt, for --dry-run. */
function planStop(container: WholeContainer, signal: string, timeoutSeconds: number): Step[] {
  const thaw = attempt(() => planFreeze(container, false));
  const isFrozen = thaw && !attempt(() => holds(thaw[1].until));
  const thawOthers = planThaw(container);
  const asking = planSignal(container, signal);
  return [
    ...(isFrozen ? explain(`${container.label}: a frozen cgroup handles no signal`, thaw) : []),
    ...thawOthers,
    ...asking,
    ...(asking.length > 0 ? planWait(container, timeoutSeconds) : []),
    ...planKill(container),
    ...planWait(container, 5),
    ...planRemoval(container),
  ];
}

/** The stop signal of a container, as run.ts --stop-signal has set it. */
function stopSignal({ name }: WholeContainer): string {
  const text = name && attempt(() => readFileSync(join(notesFolder(name), 'stop-signal'), 'utf8').trim());
  return text ? parseSignal(text) : 'TERM';
}

/** Waits until nothing of a container runs. Returns false if something still runs after this time. */
async function waitForEnd(container: WholeContainer, seconds: number): Promise<boolean> {
  for (const deadline = performance.now() + seconds * 1000; ; await sleep(50)) {
    if (livingProcesses(container).length === 0) return true;
    if (performance.now() >= deadline) return false;
  }
}

/** Stops a container. Returns what happened. Throws a Failure that names processes which have not ended. */
async function stop(container: WholeContainer, signal: string, timeoutSeconds: number): Promise<string> {
  const { first, label, cgroups, name } = container;
  if (name) requirePrograms(['flock'], 'stop a container');
  await setFrozen(container, false).catch(() => {}); // a frozen v1 cgroup can't be killed until it is thawed
  await perform(planThaw(container));
  const asking = planSignal(container, signal);
  await perform(asking);
  const isAnswered = asking.length > 0 && (await waitForEnd(container, timeoutSeconds));
  // again, for processes that start others without pause
  for (let tries = 0; tries < 6 && !(await waitForEnd(container, Math.min(tries, 1))); tries++)
    await perform(planKill(container));
  const left = livingProcesses(container);
  if (left.length > 0) {
    const states = left.map(({ pid, name }) => `${pid} (${name}, ${statusField(pid, 'State')[0]})`);
    throw new Failure(
      `${label} was sent SIGKILL, but has not ended: ${states.join(', ')}: one in state D waits in the kernel: see /proc/PID/stack`,
    );
  }
  await remove(container);
  if (!first) return cgroups.length > 0 ? 'nothing of it was running' : 'had ended, its log is removed';
  if (isAnswered) return `ended after SIG${signal}`;
  return asking.length > 0
    ? `killed, ${timeoutSeconds} s after SIG${signal}`
    : `killed, for its first process does not handle SIG${signal}`;
}

/** The container that an operand means, or why there is none. Throws UsageError for a word that can be no name. */
function find(text: string): WholeContainer | Failure {
  try {
    return findContainer(hierarchies, text);
  } catch (error) {
    if (error instanceof UsageError || !(error instanceof Failure)) throw error;
    return error;
  }
}

await main(import.meta.url, { options, operands: [0, Infinity] }, async (values, operands) => {
  const { all, pause, resume, dryRun, signal, timeout = 10 } = values;
  if ([all || operands.length > 0, values.sweep].filter(Boolean).length !== 1 || (all && operands.length > 0))
    throw new UsageError(`name a TARGET, or give --all or --sweep: ${scriptPath('ps')} shows containers`);
  if (pause && resume) throw new UsageError('either --pause or --resume');
  if ((pause || resume || values.sweep) && (signal !== undefined || values.timeout !== undefined))
    throw new UsageError('--signal and --timeout go with stopping');
  if (values.sweep) {
    if (dryRun) process.stdout.write(toShell(await planSweep()));
    else await sweep();
    return 0;
  }

  // a target that does not exist does not keep the others from being stopped
  const targets = all
    ? ourContainers().filter(({ first, cgroups }) => first ?? cgroups[0])
    : operands.map(find);
  if (targets.length === 0) console.error('stop: there is no container of barehand here');
  for (const target of targets)
    if (!(target instanceof Failure) && target.remark) console.error(`stop: ${target.remark}`);
  const work = async (target: WholeContainer | Failure): Promise<string> => {
    if (target instanceof Failure) throw target;
    if (pause || resume) {
      if (dryRun) return toShell(pause ? planFreeze(target, true) : planResume(target));
      await (pause ? setFrozen(target, true) : letGoOn(target));
      return `${target.label}: ${pause ? 'paused' : 'resumed'}\n`;
    }
    const asked = signal ?? stopSignal(target);
    if (dryRun) return toShell(planStop(target, asked, timeout));
    return `${target.label}: ${await stop(target, asked, timeout)}\n`;
  };
  // several PIDs may mean the same container
  const keyOf = ({ first, startTicks: started, label }: WholeContainer) =>
    first ? `${first.pid} ${started}` : label;
  const isFirst = (target: WholeContainer | Failure, at: number) =>
    target instanceof Failure ||
    targets.findIndex((other) => !(other instanceof Failure) && keyOf(other) === keyOf(target)) === at;
  const results = await Promise.allSettled(targets.filter(isFirst).map(work));
  for (const result of results) {
    if (result.status === 'fulfilled') process.stdout.write(result.value);
    else console.error(printable(`stop: ${reason(result.reason)}`));
  }
  return results.some(({ status }) => status === 'rejected') ? 1 : 0;
});
