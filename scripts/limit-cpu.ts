#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-cpu.ts: no more than so much CPU time for a container, or for any process and all that descends from it

USAGE
  limit-cpu.ts [OPTION...] TARGET [CPUS]
  limit-cpu.ts [OPTION...] --reset TARGET

  TARGET is a container's name; the PID of its first process, or of the unshare(1) that holds it; or the PID of any
  process: it and all its descendants are limited, with their threads, and whatever they start later.
  CPUS is how many processors' time it may take: 1.5 is 150 ms in every 100 ms. It may be left out where one of
  --weight, --cpuset, --period is given.

  A target that has a cgroup to itself, as containers and services have, is limited there, in place. Any other is
  moved into a cgroup of its own, barehand/pid-PID.

OPTIONS
  --weight N        its share where there is not enough for all, 1 to 10000, beside others' 100. That is cpu.weight of
                    cgroup v2; v1 gets N * 1024 / 100 as cpu.shares, which is how the kernel itself reckons
  --cpuset LIST     only on these processors: 0-1,3
  --period TIME     give out CPUS in pieces for this long, 1ms to 1s (default: 100ms); a number alone is microseconds
  --reset           lift all of these, or put back what another engine's or a service's were; move back what was
                    moved, and remove its cgroup, unless another limit-*.ts limits something there
  --json            print the result as an object
  --dry-run         print what would be done, as shell
  -h, --help        this text

EXAMPLES
  limit-cpu.ts web 1.5
  limit-cpu.ts 10028 --weight 10
  limit-cpu.ts web 0.5 --period 20ms --cpuset 0
  limit-cpu.ts --reset web

CHANGES
  cpu.max, cpu.weight, cpuset.cpus of one cgroup; with v1 cpu.cfs_quota_us, cpu.cfs_period_us, cpu.shares, and
  cpuset.cpus of another. Where it has to make one: the cgroup barehand/pid-PID, and who is in it.
  /run/barehand/pid-PID, where it notes from which cgroup they came, or what the limits of a cgroup that is not ours
  were. Both go with --reset; once the processes have ended, with the next call.

UNDO
  limit-cpu.ts --reset TARGET

SEE ALSO
  cgroups(7), cpuset(7), sched(7), the kernel's admin-guide/cgroup-v2 and scheduler/sched-bwc, limit-memory.ts
*/
import { type LimitName, type Setting, weightToShares } from './helpers/cgroups.ts';
import { main, UsageError } from './helpers/cli.ts';
import { parseCpus, parseList, parseMicroseconds, parseNumber } from './helpers/units.ts';
import { commonOptions, limitTarget, type Part } from './limit/limit.ts';

export const options = {
  weight: { parse: (text: string) => parseNumber('--weight', text, 1, 10_000) },
  cpuset: { parse: (text: string) => parseList('--cpuset', text) },
  period: { parse: parsePeriod },
  ...commonOptions,
} as const;

function parsePeriod(text: string): number {
  const microseconds = parseMicroseconds(text);
  if (microseconds >= 1000 && microseconds <= 1_000_000) return microseconds;
  throw new UsageError(`--period is from 1ms to 1s, not ${text}`);
}

/** What is wanted; undefined: left as it is. */
export interface Wanted {
  cpus?: number | undefined;
  periodMicroseconds?: number | undefined;
  weight?: number | undefined;
  cpuset?: string | undefined;
}

/** The values of a cgroup's files for what is wanted, of those files that this hierarchy has. */
export function cpuSettings(
  { hierarchy: { version }, before }: Pick<Part, 'hierarchy' | 'before'>,
  wanted: Wanted,
) {
  const { cpus, periodMicroseconds, weight, cpuset } = wanted;
  const settings: Setting[] = [];
  const now = before.find(({ limit }) => limit === 'cpu')?.text.split(' ');
  if (now && (cpus !== undefined || periodMicroseconds !== undefined)) {
    const [quota = '', old] = now;
    const period = periodMicroseconds ?? 100_000;
    const share = cpus ?? Number(quota) / Number(old);
    // without a limit only the period is set; kernel/sched: a quota is a millisecond at least
    const isLimited = cpus !== undefined || Number(quota) > 0;
    const text = isLimited ? String(Math.max(1000, Math.round(share * period))) : quota;
    settings.push({ limit: 'cpu', text: `${text} ${period}` });
  }
  if (weight !== undefined && now)
    settings.push({ limit: 'weight', text: String(version === 1 ? weightToShares(weight) : weight) });
  if (cpuset !== undefined && before.some(({ limit }) => limit === 'cpuset'))
    settings.push({ limit: 'cpuset', text: cpuset });
  return settings;
}

await main(import.meta.url, { options, operands: [1, 2] }, (values, [text = '', word]) => {
  const { weight, cpuset, period: periodMicroseconds, reset } = values;
  const isGiven = [weight, cpuset, periodMicroseconds].some((value) => value !== undefined);
  if (reset && (word !== undefined || isGiven))
    throw new UsageError('--reset takes neither CPUS nor --weight, --cpuset, --period');
  if (!reset && word === undefined && !isGiven) throw new UsageError('CPUS is missing');
  const cpus = word === undefined ? undefined : parseCpus(word);
  const asked: LimitName[] = [];
  if (cpus !== undefined || periodMicroseconds !== undefined) asked.push('cpu');
  if (weight !== undefined) asked.push('weight');
  if (cpuset !== undefined) asked.push('cpuset');

  return limitTarget(text, values, {
    script: 'limit-cpu',
    all: ['cpu', 'weight', 'cpuset'],
    asked,
    wanted: (part) => cpuSettings(part, { cpus, periodMicroseconds, weight, cpuset }),
    explain: (code, { hierarchy, target }) => {
      if (code === 'EINVAL' && target.toMove.length > 0 && hierarchy.version === 1)
        return 'a real-time process can only be in a cgroup that has cpu.rt_runtime_us, sched(7): chrt -o -p 0 PID; or there is no such CPU';
      if (code === 'EINVAL' || code === 'EACCES' || code === 'ERANGE')
        return 'the cgroup above has less to give, or one below has more: see cpu.cfs_quota_us and cpuset.cpus there';
      return undefined;
    },
  });
});
