#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-memory.ts: limit the memory of a container, or of any process tree

USAGE
  limit-memory.ts [OPTION...] TARGET SIZE
  limit-memory.ts [OPTION...] --reset TARGET
  limit-memory.ts [--json] --watch TARGET

  TARGET is a container's name, or the PID of any process. A PID of a container
  means the container: that of its first process, of the unshare(1) that holds
  it, or of its launcher. Any other PID means this process and all its
  descendants, with their threads, and whatever they start later.
  SIZE is the hard limit: 100M is 100 * 1024^2, 100MB is 100 * 1000^2, 100000000
  is bytes. You may leave it out if you give --high, --reserve or --oom-group.

  A container, a service and any tree of processes that has a cgroup to itself
  are limited there, in place. Any other tree is moved into a new cgroup,
  barehand/pid-PID; a part of a container into one in the container's
  cgroup, whose limits still apply. Memory that it allocated before stays
  charged to its old cgroup, so it can grow to SIZE beyond that.

EXAMPLES
  limit-memory.ts web 100M
  limit-memory.ts 10028 1.5G --swap 500M
  limit-memory.ts --watch web

OPTIONS
* --swap SIZE|max   swap allowed in addition to SIZE (default: none)
* --high SIZE       throttle and reclaim above SIZE, but kill none (v2)
  --reserve SIZE    soft limit: v2 reclaims last from cgroups below it
                    v1 reclaims first from cgroups above it
* --oom-group       if the kernel kills one process, it kills all (v2)
  --force           set SIZE even if more is in use in the cgroup, or if it is
                    below 1 MiB: v1 fails with EBUSY if it can't reclaim enough,
                    v2 kills at once
* --watch           report each process that the kernel kills for lack of memory
                    which, how large, and whose limit it was, until TARGET ends;
                    limits nothing
* --reset           lift the limits that limit-*.ts has set
                    restore those the container was started with, or its engine
                    or systemd had set; move back what was moved, and remove its
                    cgroup, unless another limit-*.ts still limits it
* --json            print the result as a JSON object
* --dry-run         print the steps as shell, and change nothing
* -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

CHANGES
  memory.* of one cgroup. --watch changes nothing.
  If there is no cgroup to limit in place: the new cgroup barehand/pid-PID, and
  which processes are in it.
  /run/barehand/pid-PID, or $XDG_RUNTIME_DIR/barehand/pid-PID, holds what
  --reset needs: where the processes came from, and the previous limits. --reset
  removes it; so does the next limit-*.ts, once the processes have ended.

UNDO
  limit-memory.ts --reset TARGET

EXIT CODES
  0 done; 1 failed; 2 wrong usage.

SEE ALSO
  cgroups(7), the kernel's admin-guide/cgroup-v2 and
  admin-guide/cgroup-v1/memory, proc(5), ps.ts
*/
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { typedLine } from './helpers/called.ts';
import { cgroupDirectory, type Hierarchy, processesIn, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { toJson } from './helpers/output.ts';
import { attempt, printable, readProc, readProcess } from './helpers/pids.ts';
import { formatSize, parseSize } from './helpers/units.ts';
import { numberOf } from './limit/counters.ts';
import { type Kill, watchKills } from './limit/oom-watch.ts';
import { carryOut, printSteps, report } from './limit/perform.ts';
import { type Change, commonOptions, planChanges } from './limit/plan.ts';
import { tooSmallToGoOn } from './limit/smallest.ts';
import { hierarchyOf, memoryFiles, namesOf, readBytes } from './limit/table.ts';
import { findTarget } from './limit/target.ts';

export const options = {
  swap: { parse: (text: string) => (text === 'max' ? Infinity : text === '0' ? 0 : parseSize(text)) },
  high: { parse: parseSize },
  reserve: { parse: parseSize },
  oomGroup: {},
  force: {},
  watch: {},
  ...commonOptions,
} as const;

/** The memory that is charged to a target's cgroup, without inactive file pages, which the kernel can drop. */
function chargedBytes({ version, directory, toMove }: Change): number {
  if (toMove.length > 0) return 0; // a new cgroup
  const stat = attempt(() => readFileSync(join(directory, 'memory.stat'), 'utf8'));
  // v2 charges nothing before the controller is enabled
  if (stat === undefined) return 0;
  const cache = numberOf(stat, version === 1 ? 'total_inactive_file' : 'inactive_file') ?? 0;
  return Math.max(0, (readBytes(join(directory, memoryFiles[version].usage)) ?? 0) - cache);
}

/**
 * The memory of a target that no limit of its cgroup counts: what its processes allocated before they were moved there,
 * or, in v2, before the controller was enabled. It stays charged where it was, cgroups(7).
 */
function uncountedBytes(change: Change, charged: number): number {
  const { directory, toMove, inPlace } = change;
  if (inPlace && charged > 0) return 0;
  const pids =
    toMove.length > 0 ? toMove.map(({ pid }) => pid) : (attempt(() => processesIn(directory)) ?? []);
  return Math.max(0, pids.reduce((sum, pid) => sum + ownBytes(pid), 0) - charged);
}

/**
 * A process's anonymous and shared memory, with its share of what it has in common with others: smaps_rollup of proc(5).
 * If this user may not read that, its resident memory.
 */
function ownBytes(pid: number): number {
  const sizes = [...(readProc(pid, 'smaps_rollup') ?? '').matchAll(/^Pss_(?:Anon|Shmem): +(\d+) kB$/gm)];
  if (sizes.length === 0) return readProcess(pid)?.rssBytes ?? 0;
  return sizes.reduce((sum, [, kibibytes]) => sum + Number(kibibytes) * 1024, 0);
}

/** A kill, for people. */
function tell(text: string, { pid, name, bytes, level, cgroup, logged }: Kill, hierarchy: Hierarchy): string {
  const directory = cgroup === null ? undefined : cgroupDirectory(hierarchy, cgroup);
  const limit = directory && readBytes(join(directory, memoryFiles[hierarchy.version].limit));
  const whose = {
    own: 'its own limit',
    parent: 'a limit above it',
    inside: 'a limit inside it',
    host: 'no limit: the host is out of memory',
    unknown: "limit unknown: the kernel's log cannot be read",
  }[level ?? 'unknown'];
  const size = bytes === null ? '' : `, ${formatSize(bytes)}`;
  const who =
    pid === null ? 'a process' : `${logged ? '' : 'probably '}${printable(name ?? '')} (PID ${pid})${size}`;
  const where = directory ? `, ${limit ? `${formatSize(limit)} of ` : ''}${directory}` : '';
  return `${text}: the kernel killed ${who}; ${whose}${where}`;
}

/** Reports each process of a target that the kernel kills, until the target has ended. */
async function watch(text: string, json: boolean): Promise<void> {
  const hierarchy = hierarchyOf(readHierarchies(), 'memory');
  for await (const kill of watchKills(findTarget(hierarchy, text, []), text))
    console.log(json ? toJson(kill) : tell(text, kill, hierarchy));
  console.error(`limit-memory: ${text} has ended`);
}

/** What a limit means for a target that has `uncounted` bytes, for people. */
function ceilingWords({ origin }: Change, limitBytes: number | undefined, uncounted: number): string {
  const where = `${formatSize(uncounted)} that it has already stays counted in ${origin ?? 'its former cgroup'}`;
  return limitBytes === undefined
    ? where
    : `${formatSize(limitBytes)} from now on, about ${formatSize(limitBytes + uncounted)} in all: ${where}`;
}

/** What --force does with a limit below what is in use, for people. */
const forceWords = ({ version }: Change) =>
  version === 1
    ? 'makes the kernel reclaim first, which fails with EBUSY if that is not enough'
    : 'makes the kernel reclaim, and kill at once if that is not enough';

/** The swap limit, for people. */
function swapWords(bytes: number): string {
  if (bytes === Infinity) return 'swap at will';
  return bytes > 0 ? `swap ${formatSize(bytes)} beyond it` : 'no swap beyond it';
}

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [text = '', size]) => {
  const { swap: swapBytes, high: highBytes, reserve: reserveBytes, oomGroup, force, reset, dryRun } = values;
  const limitBytes = size === undefined ? undefined : parseSize(size);
  const limits = { memoryBytes: limitBytes, swapBytes, highBytes, reserveBytes, oomGroup };
  const isGiven = swapBytes !== undefined || namesOf(limits).length > 0;
  if (values.watch) {
    if (isGiven || reset || force || dryRun)
      throw new UsageError('--watch takes a TARGET, and no other option than --json');
    await watch(text, values.json);
    return 0;
  }
  if (reset && isGiven)
    throw new UsageError('--reset takes neither SIZE nor --swap, --high, --reserve, --oom-group');
  if (!reset && (!isGiven || (size === undefined && swapBytes !== undefined)))
    throw new UsageError(`SIZE is missing: type ${typedLine()} 100M`);

  const names = ['memory', 'swap', 'high', 'reserve', 'oomGroup'] as const;
  const changes = planChanges(text, [...names], reset ? undefined : limits);
  const [change] = changes as [Change]; // one controller is in one hierarchy
  const charged = chargedBytes(change);
  const uncounted = uncountedBytes(change, charged);
  const isBelow = limitBytes !== undefined && limitBytes < charged;
  const tooSmall = limitBytes === undefined ? undefined : tooSmallToGoOn(limitBytes);
  if (tooSmall && !force) throw new UsageError(`${tooSmall}; --force sets it, and ${forceWords(change)}`);
  if (isBelow && !force)
    throw new Failure(
      `${text} uses ${formatSize(charged)} now, more than ${formatSize(limitBytes)}: choose more, or --force, which ${forceWords(change)}`,
    );
  const moves = change.toMove.length > 0;
  const remark = moves || uncounted >= 1024 ** 2 ? ceilingWords(change, limitBytes, uncounted) : undefined;
  if (dryRun) {
    if (remark && !reset) console.error(`limit-memory: ${text}: ${remark}`);
    return printSteps(changes);
  }
  if (isBelow && change.version === 2)
    console.error(`limit-memory: the kernel reclaims, or kills for it, what is in use beyond SIZE`);
  const busy = `${formatSize(charged)} are in use, and the kernel could not reclaim enough: choose a larger SIZE`;
  const remarks = await carryOut(text, changes, change.version === 1 ? { EBUSY: busy } : {});
  const swap = limitBytes === undefined ? '' : `${swapWords(swapBytes ?? 0)}; `;
  const used = charged + uncounted;
  report(text, changes, values.json, `${swap}in use now ${formatSize(used)}`, {
    usedBytes: used,
    uncountedBytes: uncounted,
  });
  if (remark && !reset) remarks.unshift(`${text}: ${remark}`);
  for (const remark of remarks) console.error(`limit-memory: ${remark}`);
  return 0;
});
