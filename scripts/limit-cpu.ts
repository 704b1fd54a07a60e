#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-cpu.ts: limit the CPU time of a container, or of any process tree

USAGE
  limit-cpu.ts [OPTION...] TARGET [CPUS]
  limit-cpu.ts [OPTION...] --reset TARGET

  TARGET is a container's name, or the PID of any process. A PID of a container
  means the container: that of its first process, of the unshare(1) that holds
  it, or of its launcher. Any other PID means this process and all its
  descendants, with their threads, and whatever they start later.
  CPUS is the CPU time per elapsed time: 1.5 is 150 ms in each period of 100 ms.
  You may leave it out if you give --weight, --cpuset, --cpuset-mems or
  --period.

  A container, a service and any tree of processes that has a cgroup to itself
  are limited there, in place. Any other tree is moved into a new cgroup,
  barehand/pid-PID; a part of a container into one in the container's
  cgroup, whose limits still apply.

EXAMPLES
  limit-cpu.ts web 1.5
  limit-cpu.ts 10028 --weight 10
  limit-cpu.ts web 0.5 --period 20ms --cpuset 0
  limit-cpu.ts --reset web

OPTIONS
* --weight N        relative CPU weight under contention, 1 to 10000
                    (default: 100). cgroup v2: cpu.weight; v1: cpu.shares = N *
                    1024 / 100, which is how the kernel itself converts it
* --cpuset LIST     run on these CPUs only, also --cpuset-cpus: 0-1,3
* --cpuset-mems LIST  allocate memory from these NUMA nodes only: 0-1
* --period TIME     enforce CPUS over this period, 1ms to 1s (default: 100ms)
                    a number without unit is microseconds
* --reset           lift the limits that limit-*.ts has set
                    restore those the container was started with, or its engine
                    or systemd had set; move back what was moved, and remove its
                    cgroup, unless another limit-*.ts still limits it
* --json            print the result as a JSON object
* --dry-run         print the steps as shell, and change nothing
* -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

CHANGES
  cgroup v2: cpu.max, cpu.weight, cpuset.cpus and cpuset.mems of one cgroup. v1:
  cpu.cfs_quota_us, cpu.cfs_period_us and cpu.shares of one cgroup, cpuset.cpus
  and cpuset.mems of another.
  If there is no cgroup to limit in place: the new cgroup barehand/pid-PID, and
  which processes are in it.
  /run/barehand/pid-PID, or $XDG_RUNTIME_DIR/barehand/pid-PID, holds what
  --reset needs: where the processes came from, and the previous limits. --reset
  removes it; so does the next limit-*.ts, once the processes have ended.

UNDO
  limit-cpu.ts --reset TARGET

EXIT CODES
  0 done; 1 failed; 2 wrong usage.

SEE ALSO
  cgroups(7), cpuset(7), sched(7), the kernel's admin-guide/cgroup-v2 and
  scheduler/sched-bwc, limit-memory.ts
*/
import { typedLine } from './helpers/called.ts';
import { main, UsageError } from './helpers/cli.ts';
import { parseNumber } from './helpers/units.ts';
import { carryOut, printSteps, report } from './limit/perform.ts';
import { commonOptions, planChanges } from './limit/plan.ts';
import { levelsAbove, namesOf } from './limit/table.ts';
import { parseCpus, parseList } from './limit/units.ts';

export const options = {
  weight: { parse: (text: string) => parseNumber('--weight', text, 1, 10_000) },
  cpuset: { alias: 'cpuset-cpus', parse: (text: string) => parseList('--cpuset', text) },
  cpusetMems: { parse: (text: string) => parseList('--cpuset-mems', text) },
  period: { parse: parsePeriod },
  ...commonOptions,
} as const;

/** Parses `50ms`, `20000us`, `0.5s`, or a number of microseconds, into microseconds. Throws UsageError. */
export function parsePeriod(text: string): number {
  const [, number, unit = 'us'] = /^(\d{1,9}(?:\.\d+)?)(us|ms|s)?$/.exec(text) ?? [];
  if (number === undefined) throw new UsageError(`not a time: "${text}": write 50ms or 50000us`);
  const microseconds = Math.round(Number(number) * { us: 1, ms: 1000, s: 1_000_000 }[unit as 'us']);
  if (microseconds >= 1000 && microseconds <= 1_000_000) return microseconds;
  throw new UsageError(`--period is from 1ms to 1s, not ${text}`);
}

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [text = '', word]) => {
  const { weight, cpuset, cpusetMems: mems, period: periodMicroseconds, reset, json, dryRun } = values;
  const cpus = word === undefined || reset ? undefined : parseCpus(word);
  const limits = { cpus, periodMicroseconds, weight, cpuset, mems };
  if (reset && (word !== undefined || namesOf(limits).length > 0))
    throw new UsageError('--reset takes neither CPUS nor --weight, --cpuset, --cpuset-mems, --period');
  if (!reset && namesOf(limits).length === 0)
    throw new UsageError(`CPUS is missing: type ${typedLine()} 0.5`);
  const wanted = reset ? undefined : limits;

  const changes = planChanges(text, ['cpu', 'weight', 'cpuset', 'mems'], wanted);
  if (dryRun) return printSteps(changes);
  const moves = changes.some(({ version, toMove }) => version === 1 && toMove.length > 0);
  const range =
    'the cgroup above has less to give, or one below has more: see cpu.cfs_quota_us, cpuset.cpus and cpuset.mems there';
  const realTime =
    'a real-time process can only be in a cgroup that has cpu.rt_runtime_us, sched(7): chrt -o -p 0 PID; or there is no such CPU or node';
  // a new cgroup at the top is limited by none above it
  const isPart = changes.some(({ directory, mountPoint }) => levelsAbove(directory)[0] !== mountPoint);
  const cause = !moves ? range : isPart ? `${range}; or ${realTime}` : realTime;
  const causes = { EINVAL: cause, EACCES: range, ERANGE: range };
  const remarks = await carryOut(text, changes, causes);
  report(text, changes, json);
  for (const remark of remarks) console.error(`limit-cpu: ${remark}`);
  return 0;
});
