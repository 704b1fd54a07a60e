#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
stop.ts: stop containers: send a signal, wait, kill the remaining processes, remove cgroups and log

USAGE
  stop.ts [OPTION...] TARGET...
  stop.ts [OPTION...] --all
  stop.ts [--dry-run] --sweep

  TARGET is a container's name, or the PID of the first process of any container, or of the unshare(1) that holds it.
  The name of a container in the background is valid until its log is removed, even after the container has ended.

OPTIONS
  --signal NAME     the signal to send first (default: the one of run.ts --stop-signal, else TERM)
  --timeout SECONDS time between that signal and SIGKILL (default: 10)
  --all             stop every container that run.ts has made
  --pause           freeze the container: it keeps its memory and gets no CPU time
  --resume          thaw the container
  --sweep           remove only what crashed launches have left: cgroups without a process, logs without an exit
                    status, and unused interfaces, rules and bridges of network.ts
  --dry-run         print the steps as shell, and change nothing
  -h, --help        print this text

  PID 1 of a namespace gets only signals that it handles, pid_namespaces(7). If the first process does not handle the
  signal, stop.ts sends SIGKILL at once.
  A process that survives SIGKILL waits in the kernel, mostly for a disk or a network file system. stop.ts names it and
  exits with 1.

EXAMPLES
  stop.ts web
  stop.ts --timeout 60 --signal INT database
  stop.ts --pause web; stop.ts --resume web
  stop.ts --dry-run web | less
  stop.ts --all

CHANGES
  Ends processes. Removes the container's cgroup barehand/NAME from every hierarchy, and its log.

UNDO
  --resume undoes --pause. Nothing undoes the rest.

SEE ALSO
  kill(1), signal(7), cgroups(7), the kernel's admin-guide/cgroup-v2 (cgroup.kill, cgroup.freeze) and
  admin-guide/cgroup-v1/freezer-subsystem
*/
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupsBelow, lockDirectory, parent, processesIn, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, reason, UsageError } from './helpers/cli.ts';
import { findContainers, notesFolder } from './helpers/containers.ts';
import { lock } from './helpers/lock.ts';
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
import { sh } from './helpers/shell.ts';
import { holds, perform, type Step, toShell } from './helpers/steps.ts';
import { findContainer, namedContainer, ownContainers, type WholeContainer } from './helpers/target.ts';
import { parseSignal, signalNumber } from './helpers/units.ts';
import { planSweepTargets, sweepTargets } from './limit/notes.ts';

export const options = {
  signal: { parse: parseSignal },
  timeout: { parse: parseSeconds },
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

type Wait = Extract<Step, { until: unknown }>;

/** Whether a signal can have any effect on a process: PID 1 of a namespace gets only what it has a handler for. */
function handles(first: Process, signal: string): boolean {
  if (signal === 'KILL' || first.nsPids.length === 1) return true;
  // a process may wait for a signal that it blocks, as inits do: with signalfd(2), or with sigtimedwait(2), which unblocks it
  if (readProc(first.pid, 'wchan')?.includes('sigtimedwait')) return true;
  const number = signalNumber(signal);
  return hasSignal(first.pid, 'SigCgt', number) || hasSignal(first.pid, 'SigBlk', number);
}

/** The steps that freeze or thaw a container. v2: cgroup.freeze; v1: the freezer controller. Throws Failure where there is neither. */
function planFreeze({ cgroups, label }: WholeContainer, frozen: boolean): [Step, Wait] {
  for (const { hierarchy, directory } of cgroups) {
    const v2 = join(directory, 'cgroup.freeze');
    const v1 = join(directory, 'freezer.state');
    if (hierarchy.version === 2 && existsSync(v2)) {
      const value = frozen ? '1' : '0';
      const done = { line: `frozen ${value}`, of: join(directory, 'cgroup.events') };
      return [
        { write: value, to: v2 },
        { until: done, seconds: 5 },
      ];
    }
    if (hierarchy.controllers.includes('freezer')) {
      const value = frozen ? 'FROZEN' : 'THAWED';
      return [
        { write: value, to: v1 },
        { until: { line: value, of: v1 }, seconds: 5 },
      ];
    }
  }
  throw new Failure(`${label} has no cgroup to itself with a freezer: kill -STOP stops single processes`);
}

/** Freezes or thaws. Throws Failure where that is not possible, or is not done after the time that the plan has. */
async function setFrozen(container: WholeContainer, frozen: boolean): Promise<void> {
  const steps = planFreeze(container, frozen);
  await perform(steps);
  if (!holds(steps[1].until))
    throw new Failure(
      `${container.label} is not yet ${frozen ? 'frozen' : 'thawed'} after 5 s: a process of it waits in the kernel`,
    );
}

/** The steps that send a signal to a container; none if its first process would not get it. */
function planSignal(container: WholeContainer, signal: string): Step[] {
  const { first, label } = container;
  if (!first || !handles(first, signal)) return [];
  // a tree without a PID namespace does not end with its first process
  const others = first.nsPids.length === 1 ? livingProcesses(container) : [];
  const to = [...new Set([first, ...others].map(({ pid }) => pid))];
  const sent =
    `SIG${signal}` in constants.signals ? (`SIG${signal}` as NodeJS.Signals) : signalNumber(signal);
  return [
    {
      why: `${label}: SIG${signal} to ${to.length > 1 ? 'its processes' : 'its first process'}`,
      signal: sent,
      to,
    },
  ];
}

/** The step that waits for the end of a container. What is in a cgroup is known by that, whoever gets its PID later. */
function planWait({ cgroups: [cgroup], first }: WholeContainer, seconds: number): Step[] {
  if (seconds === 0 || !first) return [];
  return [{ until: cgroup ? { empty: cgroup.directory } : { ended: first.pid }, seconds }];
}

/** The file that kills all of a cgroup at once, without a PID: v2, since Linux 5.14. undefined where there is none. */
function killFile({ hierarchy, directory }: WholeContainer['cgroups'][number]): string | undefined {
  const file = join(directory, 'cgroup.kill');
  return hierarchy.version === 2 && existsSync(file) ? file : undefined;
}

/** The steps that kill all processes of a container: through its cgroups where it has some, by their PIDs elsewhere. */
function planKill(container: WholeContainer): Step[] {
  const { first, startTicks: started, label, cgroups } = container;
  const living = livingProcesses(container);
  const covered = new Set<number>();
  const inOrder = [...cgroups.filter(killFile), ...cgroups.filter((cgroup) => !killFile(cgroup))];
  const steps = inOrder.flatMap((cgroup): Step[] => {
    const pids = attempt(() => processesIn(cgroup.directory)) ?? [];
    if (pids.every((pid) => covered.has(pid))) return [];
    for (const pid of pids) covered.add(pid);
    const file = killFile(cgroup);
    return file ? [{ write: '1', to: file, ignore: true }] : [{ killAll: cgroup.directory }];
  });
  // PID 1 first: the kernel ends all of its namespace with it
  const top = first && startTicks(first.pid) === started ? [first] : [];
  const pids = [...top, ...living].map(({ pid }) => pid).filter((pid) => !covered.has(pid));
  if (pids.length > 0) steps.push({ signal: 'SIGKILL', to: [...new Set(pids)] });
  return steps.map((step, index) =>
    index > 0 ? step : { ...step, why: `${label}: SIGKILL to the processes that are left` },
  );
}

/** A cgroup's directory and those in it, in the order in which they can be removed. */
const innermostFirst = (directory: string) => [directory, ...cgroupsBelow(directory)].reverse();

/** The steps that remove cgroups of a container of ours, and those in them. */
const planCgroups = (directories: string[]): Step[] => [
  ...directories.flatMap(innermostFirst).map((rmdir) => ({ rmdir, unlessUsed: true })),
  ...hierarchies.map(({ mountPoint }, index) => ({
    ...(index === 0 && { why: "the parent of all containers' cgroups, unless it has others" }),
    rmdir: join(mountPoint, parent),
    unlessUsed: true,
  })),
];

/** The cgroups of a container that still exist and have no process. */
const emptyCgroups = ({ cgroups }: WholeContainer) =>
  cgroups
    .map(({ directory }) => directory)
    .filter((directory) => attempt(() => processesIn(directory).length) === 0);

/** Removes the cgroups of a container of ours. Returns those that could not be removed. */
async function removeCgroups(container: WholeContainer): Promise<string[]> {
  const directory = lockDirectory(hierarchies);
  if (!container.name || !directory) return [];
  // EBUSY while the last process exits
  for (let tries = 0; tries < 50 && emptyCgroups(container).length > 0; tries++) {
    if (tries > 0) await sleep(20);
    // run.ts takes the same lock: a new container with this name keeps its cgroups
    const { release } = await lock(directory);
    await perform(planCgroups(emptyCgroups(container))).finally(release);
  }
  return emptyCgroups(container);
}

/** The step that waits for whoever keeps a container's log: until all of it is written, and its network is removed. */
function planLogWait({ name, first }: WholeContainer): Step[] {
  if (!name || !first || !existsSync(notesFolder(name))) return [];
  return [{ run: sh`flock --timeout 5 ${notesFolder(name)} true`, ignore: true }];
}

/** The step that removes the log of a container, and what else is kept of it. */
const planNotes = ({ name }: WholeContainer): Step[] =>
  name && existsSync(notesFolder(name)) ? [{ remove: notesFolder(name) }] : [];

/** The steps of `stop` if each succeeds at the first attempt, for --dry-run. */
function planStop(container: WholeContainer, signal: string, timeoutSeconds: number): Step[] {
  const { cgroups, name, label, first } = container;
  const [thaw, wait] = attempt(() => planFreeze(container, false)) ?? [];
  const isFrozen = wait && !attempt(() => holds(wait.until));
  const asking = planSignal(container, signal);
  const cleaning = name
    ? [
        ...planLogWait(container),
        ...(cgroups.length > 0 ? planCgroups(cgroups.map(({ directory }) => directory)) : []),
        ...planNotes(container),
      ]
    : [];
  return [
    ...(isFrozen && thaw && wait
      ? [{ ...thaw, why: `${label}: a frozen cgroup handles no signal` }, wait]
      : []),
    ...asking,
    ...(asking.length > 0 ? planWait(container, timeoutSeconds) : []),
    ...planKill(container),
    ...planWait(container, first ? 5 : 0),
    ...cleaning.map((step, index) =>
      index > 0 ? step : { ...step, why: `${label}: its cgroups and its log` },
    ),
  ];
}

/** The stop signal of a container, as run.ts --stop-signal has set it. */
function stopSignal({ name }: WholeContainer): string {
  const text = name && attempt(() => readFileSync(join(notesFolder(name), 'stop-signal'), 'utf8').trim());
  return text ? parseSignal(text) : 'TERM';
}

/** Whether a container in the background has ended in good order: its keeper has noted the exit status. */
const hasEnded = (name: string) => existsSync(join(notesFolder(name), 'status'));

/** Stops one container. Returns a sentence on what happened. Throws a Failure that names processes which have not ended. */
async function stop(
  container: WholeContainer,
  asked: string | undefined,
  timeoutSeconds: number,
): Promise<string> {
  const { first, label, cgroups } = container;
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
  const asking = planSignal(container, signal);
  if (first && asking.length === 0) {
    await perform(planKill(container));
    how = `${label}: killed, for its first process does not handle SIG${signal}`;
  } else if (first) {
    await perform(asking);
    if (!(await wait(timeoutSeconds * 1000))) {
      await perform(planKill(container));
      how = `${label}: killed, ${timeoutSeconds} s after SIG${signal}`;
    }
  }
  // again, for processes that start others without pause
  for (let tries = 0; tries < 5 && !(await wait(1000)); tries++) await perform(planKill(container));
  const left = livingProcesses(container);
  if (left.length > 0) {
    const states = left.map(({ pid, name }) => `${pid} (${name}, ${statusField(pid, 'State')[0]})`);
    throw new Failure(
      `${label} was sent SIGKILL, but has not ended: ${states.join(', ')}: state D waits in the kernel, see /proc/PID/stack`,
    );
  }
  await perform(planLogWait(container));
  const busy = await removeCgroups(container);
  if (busy.length > 0)
    throw new Failure(`${label} has ended, but its cgroups can't be removed: ${busy.join(', ')}`);
  await perform(planNotes(container));
  return how;
}

/** Prints the plan of each target. Returns the exit code: 1 if one of them has none. */
function printPlans(targets: (WholeContainer | Failure)[], plan: (target: WholeContainer) => Step[]): number {
  let exitCode = 0;
  for (const target of targets)
    try {
      if (target instanceof Failure) throw target;
      process.stdout.write(toShell(plan(target)));
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      console.error(`stop: ${reason(error)}`);
      exitCode = 1;
    }
  return exitCode;
}

/** The containers of ours of which nothing runs, and which have not just ended in the background with a log. */
const crashedContainers = () =>
  ownContainers(hierarchies)
    .flatMap((name) => attempt(() => namedContainer(hierarchies, name)) ?? []) // it may end at this moment
    .filter(({ first, cgroups, label }) => !first && (cgroups.length > 0 || !hasEnded(label)));

/** The step that removes the log of a crashed launch. Whoever starts a container without cgroups locks the folder instead. */
const planCrashedNotes = ({ label }: WholeContainer): Step[] =>
  !hasEnded(label) && existsSync(notesFolder(label))
    ? [{ run: sh`flock --nonblock ${notesFolder(label)} rm -r ${notesFolder(label)}`, ignore: true }]
    : [];

/** Removes what crashed launches, calls of limit-*.ts and of network.ts have left, and says what. */
async function sweepAll(): Promise<void> {
  requirePrograms(['flock'], 'sweep');
  for (const container of crashedContainers()) {
    await removeCgroups(container);
    if (container.cgroups.some(({ directory }) => existsSync(directory))) continue;
    await perform(planCrashedNotes(container));
    console.log(`${container.label}: removed`);
  }
  await sweepTargets(hierarchies);
  const { sweepNetworks } = await import('./network/network.ts'); // not loaded where it is not needed
  const networks = await sweepNetworks().catch((error) => [`networks: ${reason(error)}`]);
  for (const what of networks) console.log(what);
}

/** All that `sweepAll` does, for --dry-run. */
async function planSweep(): Promise<Step[]> {
  const { printSweep } = await import('./network/network.ts');
  return [
    ...crashedContainers().flatMap((container) => [
      ...planCgroups(container.cgroups.map(({ directory }) => directory)).map((step, index) =>
        index > 0 ? step : { ...step, why: `${container.label}: left by a crashed launch` },
      ),
      ...planCrashedNotes(container),
    ]),
    ...planSweepTargets(hierarchies),
    ...(await printSweep()),
  ];
}

await main(import.meta.url, { options, operands: [0, Infinity] }, async (values, operands) => {
  const { all, pause, resume, sweep, dryRun, signal, timeout = 10 } = values;
  if ([all || operands.length > 0, sweep].filter(Boolean).length !== 1 || (all && operands.length > 0))
    throw new UsageError('either TARGETs, or --all, or --sweep');
  if (pause && resume) throw new UsageError('either --pause or --resume');
  if ((pause || resume || sweep) && (values.signal !== undefined || values.timeout !== undefined))
    throw new UsageError('--signal and --timeout go with stopping');
  if (sweep) {
    if (dryRun) process.stdout.write(toShell(await planSweep()));
    else await sweepAll();
    return 0;
  }

  // a target that does not exist does not keep the others from being stopped; a word that can't be a name does
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
  if (dryRun) {
    const plan = (target: WholeContainer) =>
      pause || resume ? planFreeze(target, pause) : planStop(target, signal ?? stopSignal(target), timeout);
    return printPlans(targets, plan);
  }
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
