// Cgroups that freeze a container's processes: its own, or those of others. In v1 a frozen process does not even end by
// SIGKILL: the kernel's admin-guide/cgroup-v1/freezer-subsystem. In v2 it does.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cgroupDirectory, cgroupPath, type Hierarchy, processesIn } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt, commandLine, printable, readProc, readProcess } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import type { WholeContainer } from '../helpers/target.ts';

type Write = Extract<Step, { write: string }>;
type Wait = Extract<Step, { until: unknown }>;

/** The steps that freeze or thaw a container, and wait for it. Throws Failure if it has no cgroup with a freezer. */
export function planFreeze({ cgroups, label }: WholeContainer, frozen: boolean): [Write, Wait] {
  const v1State = frozen ? 'FROZEN' : 'THAWED';
  const v2State = frozen ? '1' : '0';
  const freezers = [
    { file: 'cgroup.freeze', value: v2State, done: { line: `frozen ${v2State}`, of: 'cgroup.events' } },
    { file: 'freezer.state', value: v1State, done: { line: v1State, of: 'freezer.state' } },
  ];
  for (const { directory } of cgroups)
    for (const { file, value, done } of freezers)
      if (existsSync(join(directory, file)))
        return [
          { write: value, to: join(directory, file) },
          { until: { line: done.line, of: join(directory, done.of) }, seconds: 5 },
        ];
  throw new Failure(`${label} has no cgroup to itself with a freezer: kill -STOP stops single processes`);
}

/** The v1 cgroups that freeze a process: its own, or those above it, outer ones first. */
function freezers(hierarchy: Hierarchy, pid: number): string[] {
  const found: string[] = [];
  let path = cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy) ?? '/';
  for (; path !== '/' && path !== hierarchy.root; path = dirname(path)) {
    const directory = cgroupDirectory(hierarchy, path);
    const isFrozen =
      directory &&
      attempt(() => readFileSync(join(directory, 'freezer.self_freezing'), 'utf8').trim()) === '1';
    if (isFrozen) found.unshift(directory);
  }
  return found;
}

/**
 * The steps that thaw what freezes the processes of a container, which `readPids` looks for if it is needed, except for `own`, the cgroups that the container has to
 * itself. Throws Failure that says what to type if such a cgroup has other processes too: whoever froze those may want
 * them so.
 */
export function planThawOthers(
  hierarchies: Hierarchy[],
  label: string,
  readPids: () => number[],
  own: string[],
): Step[] {
  const hierarchy = hierarchies.find(({ controllers }) => controllers.includes('freezer'));
  if (!hierarchy) return [];
  const pids = readPids();
  const directories = new Set(pids.flatMap((pid) => freezers(hierarchy, pid)));
  for (const directory of own) directories.delete(directory);
  return [...directories].flatMap((directory) => {
    const inside = attempt(() => processesIn(directory)) ?? [];
    const others = inside.filter((pid) => !pids.includes(pid) && readProcess(pid)?.zombie !== true);
    const state = join(directory, 'freezer.state');
    if (others.length === 0)
      return [
        { why: `${label}: somebody has frozen it there`, write: 'THAWED', to: state },
        { until: { line: 'THAWED', of: state }, seconds: 5 },
      ];
    const [pid = 0] = others;
    const process = readProcess(pid);
    const name = process ? ` (${printable(commandLine(process)).slice(0, 40)})` : '';
    throw new Failure(
      `${label} is frozen by the cgroup ${directory}, which also freezes others, such as PID ${pid}${name}: to thaw them all: echo THAWED > ${quote(state)}`,
    );
  });
}
