#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-pids.ts: no more than so many processes and threads in a container, or in any process and all below it

USAGE
  limit-pids.ts [OPTION...] TARGET NUMBER
  limit-pids.ts [OPTION...] --reset TARGET

  TARGET is a container's name; the PID of its first process, or of the unshare(1) that holds it; or the PID of any
  process: it and all its descendants are limited, with their threads, and whatever they start later.
  NUMBER counts threads, of which every process has at least one.

  A target that has a cgroup to itself, as containers and services have, is limited there, in place. Any other is
  moved into a cgroup of its own, barehand/pid-PID. What would be one too many is refused, fork(2) says EAGAIN; what
  runs already is left alone, also where it is more than NUMBER.

OPTIONS
  --reset           lift the limit, or put back what another engine's or a service's was; move back what was moved,
                    and remove its cgroup, unless another limit-*.ts limits something there
  --json            print the result as an object
  --dry-run         print what would be done, as shell
  -h, --help        this text

EXAMPLES
  limit-pids.ts web 100
  limit-pids.ts --reset web
  limit-pids.ts --dry-run $$ 500

CHANGES
  pids.max of one cgroup. Where it has to make one: the cgroup barehand/pid-PID, and who is in it.
  /run/barehand/pid-PID, where it notes from which cgroup they came, or what the limit of a cgroup that is not ours
  was. Both go with --reset; once the processes have ended, with the next call.

UNDO
  limit-pids.ts --reset TARGET

SEE ALSO
  cgroups(7), fork(2), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1/pids, limit-memory.ts
*/
import { join } from 'node:path';
import { readBytes } from './helpers/cgroups.ts';
import { main, UsageError } from './helpers/cli.ts';
import { parseNumber } from './helpers/units.ts';
import { commonOptions, limitTarget, type Part } from './limit/limit.ts';

export const options = { ...commonOptions } as const;

/** How many processes and threads there are in a target. */
const count = ({ target: { directory, toMove } }: Part) =>
  toMove.length > 0
    ? toMove.reduce((sum, { threads }) => sum + threads, 0)
    : (readBytes(join(directory, 'pids.current')) ?? 0);

await main(import.meta.url, { options, operands: [1, 2] }, (values, [text = '', word]) => {
  if (values.reset && word !== undefined) throw new UsageError('--reset takes no NUMBER');
  if (!values.reset && word === undefined) throw new UsageError('NUMBER is missing');
  // include/linux/threads.h: a kernel has no more than four million PIDs
  const number = word === undefined ? 0 : parseNumber('NUMBER', word, 1, 4_194_304);
  const before = new Map<Part, number>();
  return limitTarget(text, values, {
    script: 'limit-pids',
    all: ['pids'],
    asked: ['pids'],
    wanted: () => [{ limit: 'pids', text: String(number) }],
    check: (part) => before.set(part, count(part)),
    usage: (part) => ({ text: `${before.get(part)} there now`, json: { pids: before.get(part) } }),
    remarks: (part, wanted) =>
      wanted.length > 0 && (before.get(part) ?? 0) > number
        ? [`what runs already may go on, beyond ${number}: only what is new is refused`]
        : [],
  });
});
