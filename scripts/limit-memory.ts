#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
limit-memory.ts: no more than so much memory for a container, or for any process and all that descends from it

USAGE
  limit-memory.ts [OPTION...] TARGET SIZE
  limit-memory.ts [OPTION...] --reset TARGET
  limit-memory.ts [--json] --watch TARGET

  TARGET is a container's name; the PID of its first process, or of the unshare(1) that holds it; or the PID of any
  process: it and all its descendants are limited, with their threads, and whatever they start later.
  SIZE: 100M is 100 * 1024^2, 100MB is 100 * 1000^2, 100000000 is bytes. It may be left out where one of --high,
  --reserve, --oom-group is given.

  A target that has a cgroup to itself, as containers and services have, is limited there, in place. Any other is
  moved into a cgroup of its own, barehand/pid-PID. Memory it had before stays counted where it was.

OPTIONS
  --swap SIZE|max   how much it may swap out beyond SIZE (default: nothing)
  --high SIZE       above this it is slowed down and reclaimed from, not killed (v2)
  --reserve SIZE    what others are reclaimed from first, while it has less than this
  --oom-group       when one of its processes is to be killed, all are (v2)
  --force           also if it uses more than SIZE now: v1 refuses what it can't reclaim, v2 kills at once
  --reset           lift the limits, or put back what another engine's or a service's were; move back what was moved,
                    and remove its cgroup, unless another limit-*.ts limits something there
  --watch           limit nothing, but wait until TARGET ends, and tell of each process that the kernel kills in it for
                    want of memory: which, how large, and whose limit it was
  --json            print the result as an object, with --watch one in a line for each process killed
  --dry-run         print what would be done, as shell
  -h, --help        this text

EXAMPLES
  limit-memory.ts web 100M
  limit-memory.ts 10028 1.5G --swap 500M
  limit-memory.ts --reset 10028
  limit-memory.ts --watch web
  limit-memory.ts --dry-run $$ 1G

CHANGES
  The limits of one cgroup. Where it has to make one: the cgroup barehand/pid-PID, and who is in it.
  /run/barehand/pid-PID, where it notes from which cgroup they came, or what the limits of a cgroup that is not ours
  were. Both go with --reset; once the processes have ended, with the next call. --watch changes nothing.

UNDO
  limit-memory.ts --reset TARGET

SEE ALSO
  cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory, proc(5), ps.ts
*/
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  cgroupDirectory,
  findHierarchy,
  type Hierarchy,
  memoryFiles,
  processesIn,
  readBytes,
  readHierarchies,
  type Setting,
} from './helpers/cgroups.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { attempt, readProc, readProcess } from './helpers/pids.ts';
import { findTarget } from './helpers/target.ts';
import { formatSize, parseSize } from './helpers/units.ts';
import { commonOptions, limitTarget, type Part } from './limit/limit.ts';
import { type Kill, watchKills } from './limit/oom-watch.ts';

export const options = {
  swap: { parse: (text: string) => (text === 'max' ? Infinity : text === '0' ? 0 : parseSize(text)) },
  high: { parse: parseSize },
  reserve: { parse: parseSize },
  oomGroup: {},
  force: {},
  watch: {},
  ...commonOptions,
} as const;

/** What is wanted; undefined: left as it is. */
export interface Wanted {
  limitBytes: number | undefined;
  /** beyond the limit; Infinity: any */
  swapBytes: number;
  highBytes: number | undefined;
  reserveBytes: number | undefined;
  oomGroup: boolean;
}

/** The values of a cgroup's files for what is wanted. */
export function memorySettings(
  { hierarchy, before }: Pick<Part, 'hierarchy' | 'before'>,
  wanted: Wanted,
): Setting[] {
  const { limitBytes, swapBytes, highBytes, reserveBytes, oomGroup } = wanted;
  const settings: Setting[] = [];
  if (limitBytes !== undefined) settings.push({ limit: 'memory', text: String(limitBytes) });
  if (limitBytes !== undefined && countsSwap(before)) {
    // v1 counts memory and swap together, v2 swap alone
    const sum = hierarchy.version === 1 ? limitBytes + swapBytes : swapBytes;
    const none = memoryFiles[hierarchy.version].unlimited;
    settings.push({ limit: 'swap', text: swapBytes === Infinity ? none : String(sum) });
  }
  if (highBytes !== undefined) settings.push({ limit: 'high', text: String(highBytes) });
  if (reserveBytes !== undefined) settings.push({ limit: 'reserve', text: String(reserveBytes) });
  if (oomGroup) settings.push({ limit: 'oomGroup', text: '1' });
  return settings;
}

const countsSwap = (before: Setting[]) => before.some(({ limit }) => limit === 'swap');

/** What a target uses. Of a cgroup: what can't be had back by dropping file pages that nobody used lately. */
function usedBytes({ hierarchy: { version }, target: { directory, toMove } }: Part): number {
  const stat = attempt(() => readFileSync(join(directory, 'memory.stat'), 'utf8'));
  // what is to be moved is counted elsewhere; v2 counts nothing where the controller is not on yet
  if (toMove.length > 0 || stat === undefined) {
    const pids = toMove.length > 0 ? toMove.map(({ pid }) => pid) : processesIn(directory);
    return pids.reduce((sum, pid) => sum + (ownBytes(pid) ?? readProcess(pid)?.rssBytes ?? 0), 0);
  }
  const inactive = version === 1 ? /^total_inactive_file (\d+)$/m : /^inactive_file (\d+)$/m;
  const cache = Number(inactive.exec(stat)?.[1] ?? 0);
  return Math.max(0, (readBytes(join(directory, memoryFiles[version].usage)) ?? 0) - cache);
}

/** What a process has in memory that is of no file, its share of what it shares: smaps_rollup of proc(5). */
function ownBytes(pid: number): number | undefined {
  const kibibytes = [...(readProc(pid, 'smaps_rollup') ?? '').matchAll(/^Pss_(?:Anon|Shmem): +(\d+) kB$/gm)];
  return kibibytes.length === 0
    ? undefined
    : kibibytes.reduce((sum, match) => sum + Number(match[1]) * 1024, 0);
}

/** A kill for people. */
function tell(text: string, { pid, name, bytes, level, cgroup, logged }: Kill, hierarchy: Hierarchy): string {
  const directory = cgroup === null ? undefined : cgroupDirectory(hierarchy, cgroup);
  const limit = directory && readBytes(join(directory, memoryFiles[hierarchy.version].limit));
  const whose = {
    own: 'its own limit',
    parent: 'a limit above it',
    inside: 'a limit inside of it',
    host: 'no limit: the host has no memory left',
    unknown: "no telling whose limit: the kernel's log is not to be read",
  }[level ?? 'unknown'];
  const who =
    pid === null
      ? 'a process'
      : `${logged ? '' : 'probably '}${name} (PID ${pid})${bytes === null ? '' : `, ${formatSize(bytes)}`}`;
  const where = directory ? `, ${limit ? `${formatSize(limit)} of ` : ''}${directory}` : '';
  return `${text}: the kernel killed ${who}; ${whose}${where}`;
}

/** Tells of each process of a target that the kernel kills, until the target has ended. */
async function watch(text: string, json: boolean): Promise<void> {
  const hierarchy = findHierarchy(readHierarchies(), 'memory');
  if (!hierarchy) throw new Failure('this host has no memory controller in any cgroup hierarchy, cgroups(7)');
  await watchKills(
    hierarchy,
    findTarget(hierarchy, text, []),
    (directory) => console.error(`limit-memory: watching ${directory} until ${text} ends`),
    (kill) => console.log(json ? JSON.stringify(kill) : tell(text, kill, hierarchy)),
  );
  console.error(`limit-memory: ${text} has ended`);
}

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [text = '', size]) => {
  const { swap: swapBytes = 0, high: highBytes, reserve: reserveBytes, oomGroup, force, reset } = values;
  const asked = [highBytes, reserveBytes, oomGroup || undefined].filter((value) => value !== undefined);
  if (values.watch) {
    if (
      size !== undefined ||
      values.swap !== undefined ||
      asked.length > 0 ||
      reset ||
      force ||
      values.dryRun
    )
      throw new UsageError('--watch goes with a TARGET only, and --json');
    await watch(text, values.json);
    return 0;
  }
  if (reset && (size !== undefined || values.swap !== undefined || asked.length > 0))
    throw new UsageError('--reset takes neither SIZE nor --swap, --high, --reserve, --oom-group');
  if (!reset && size === undefined && (asked.length === 0 || values.swap !== undefined))
    throw new UsageError('SIZE is missing');
  const limitBytes = size === undefined ? undefined : parseSize(size);
  const wanted = { limitBytes, swapBytes, highBytes, reserveBytes, oomGroup };
  const used = new Map<Part, number>();
  const usedBefore = (part: Part) => used.get(part) ?? 0;
  const isBelow = (part: Part) => limitBytes !== undefined && limitBytes < usedBefore(part);

  return limitTarget(text, values, {
    script: 'limit-memory',
    all: ['memory', 'swap', 'high', 'reserve', 'oomGroup'],
    asked: [
      ...(limitBytes === undefined ? [] : (['memory'] as const)),
      ...(highBytes === undefined ? [] : (['high'] as const)),
      ...(reserveBytes === undefined ? [] : (['reserve'] as const)),
      ...(oomGroup ? (['oomGroup'] as const) : []),
    ],
    quiet: ['swap'],
    wanted: (part) => memorySettings(part, wanted),
    check: (part) => {
      used.set(part, usedBytes(part));
      if (isBelow(part) && !force)
        throw new Failure(
          `${text} uses ${formatSize(usedBefore(part))} now, more than ${formatSize(limitBytes ?? 0)}: choose more, or --force`,
        );
      if (values.swap !== undefined && !countsSwap(part.before))
        throw new Failure(
          'this kernel does not account for swap: boot it with swapaccount=1, or leave --swap out',
        );
      if (isBelow(part) && part.target.toMove.length === 0 && part.hierarchy.version === 2 && !values.dryRun)
        console.error(`limit-memory: what it uses beyond SIZE the kernel reclaims, or kills for it`);
    },
    usage: (part) => {
      const beyond =
        swapBytes === Infinity ? 'swap at will' : swapBytes > 0 ? `swap ${formatSize(swapBytes)}` : 'no swap';
      const swap = limitBytes === undefined ? '' : `${beyond} beyond it; `.replace('will beyond it', 'will');
      return {
        text: `${swap}in use now ${formatSize(usedBefore(part))}`,
        json: { usedBytes: usedBefore(part) },
      };
    },
    remarks: ({ target: { toMove, origin } }) =>
      toMove.length > 0 ? [`what ${text} had in memory before stays counted in ${origin}`] : [],
    explain: (code, part) =>
      code === 'EBUSY' && part.hierarchy.version === 1
        ? `${formatSize(usedBefore(part))} are in use, and the kernel could not reclaim enough: choose more`
        : undefined,
  });
});
