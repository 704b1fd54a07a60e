#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-pids.ts: limit the number of processes and threads of a process tree

USAGE
  limit-pids.ts [OPTION...] TARGET NUMBER
  limit-pids.ts [OPTION...] --reset TARGET

  TARGET is a container's name, or the PID of any process. A PID of a container
  means the container: that of its first process, of the unshare(1) that holds
  it, or of its launcher. Any other PID means this process and all its
  descendants, with their threads, and whatever they start later.
  NUMBER counts threads; every process has at least one. Beyond it fork(2) and
  clone(2) fail with EAGAIN. Processes that exist are not ended, even if they
  are more than NUMBER.

  A container, a service and any tree of processes that has a cgroup to itself
  are limited there, in place. Any other tree is moved into a new cgroup,
  barehand/pid-PID; a part of a container into one in the container's
  cgroup, whose limits still apply.

EXAMPLES
  limit-pids.ts web 100
  limit-pids.ts --reset web
  limit-pids.ts --dry-run $$ 500

OPTIONS
* --reset           lift the limits that limit-*.ts has set
                    restore those the container was started with, or its engine
                    or systemd had set; move back what was moved, and remove its
                    cgroup, unless another limit-*.ts still limits it
* --json            print the result as a JSON object
* --dry-run         print the steps as shell, and change nothing
* -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

CHANGES
  pids.max of one cgroup.
  If there is no cgroup to limit in place: the new cgroup barehand/pid-PID, and
  which processes are in it.
  /run/barehand/pid-PID, or $XDG_RUNTIME_DIR/barehand/pid-PID, holds what
  --reset needs: where the processes came from, and the previous limits. --reset
  removes it; so does the next limit-*.ts, once the processes have ended.

UNDO
  limit-pids.ts --reset TARGET

EXIT CODES
  0 done; 1 failed; 2 wrong usage.

SEE ALSO
  cgroups(7), fork(2), the kernel's admin-guide/cgroup-v2 and
  admin-guide/cgroup-v1/pids, limit-memory.ts
*/
import { join } from 'node:path';
import { typedLine } from './helpers/called.ts';
import { main, UsageError } from './helpers/cli.ts';
import { parseNumber } from './helpers/units.ts';
import { carryOut, printSteps, report } from './limit/perform.ts';
import { type Change, commonOptions, planChanges } from './limit/plan.ts';
import { readBytes } from './limit/table.ts';

export const options = { ...commonOptions } as const;

/** The number of processes and threads of a target. */
const countTasks = ({ directory, toMove }: Change) =>
  toMove.length > 0
    ? toMove.reduce((sum, { threads }) => sum + threads, 0)
    : (readBytes(join(directory, 'pids.current')) ?? 0);

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [text = '', word]) => {
  const { reset, json, dryRun } = values;
  if (reset && word !== undefined) throw new UsageError('--reset takes no NUMBER');
  if (!reset && word === undefined) throw new UsageError(`NUMBER is missing: type ${typedLine()} 100`);
  // include/linux/threads.h: no kernel has more than four million PIDs
  const wanted = reset ? undefined : { pids: parseNumber('NUMBER', word ?? '', 1, 4_194_304) };

  const changes = planChanges(text, ['pids'], wanted);
  if (dryRun) return printSteps(changes);
  const tasks = Math.max(...changes.map(countTasks));
  const remarks = await carryOut(text, changes);
  report(text, changes, json, `${tasks} there now`, { pids: tasks });
  if (wanted && tasks > wanted.pids)
    remarks.unshift(`more than ${wanted.pids} exist already: none is ended, only new ones are refused`);
  for (const remark of remarks) console.error(`limit-pids: ${remark}`);
  return 0;
});
