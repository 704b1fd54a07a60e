#!/bin/sh
// 2>/dev/null; exec "$(dirname "$(readlink -f "$0")")/helpers/node-ts" "$0" "$@"
/*
limit-memory.ts: no more than so much memory for a container, or for any process and all that descends from it

USAGE
  limit-memory.ts [OPTION...] TARGET SIZE
  limit-memory.ts [OPTION...] --reset TARGET

  TARGET is a container's name; the PID of its first process, or of the unshare(1) that holds it; or the PID of any
  process: it and all its descendants are limited, with their threads, and whatever they start later.
  SIZE: 100M is 100 * 1024^2, 100MB is 100 * 1000^2, 100000000 is bytes.

  A target that has a cgroup to itself, as containers and services have, is limited there, in place. Any other is
  moved into a cgroup of its own, barehand/pid-PID. Memory it had before stays counted where it was.

OPTIONS
  --swap SIZE|max   how much it may swap out beyond SIZE (default: nothing)
  --force           also if it uses more than SIZE now: v1 refuses what it can't reclaim, v2 kills at once
  --reset           lift the limit, or put back what another engine's or a service's was; move back what was moved,
                    and remove its cgroup
  --json            print the result as an object
  --dry-run         print what would be done, as shell
  -h, --help        this text

EXAMPLES
  limit-memory.ts web 100M
  limit-memory.ts 10028 1.5G --swap 500M
  limit-memory.ts --reset 10028
  limit-memory.ts --dry-run $$ 1G

CHANGES
  The limit and the swap limit of one cgroup. Where it has to make one: the cgroup barehand/pid-PID, and who is in it.
  /run/barehand/pid-PID, where it notes from which cgroup they came, or what the limit of a cgroup that is not ours
  was. Both go with --reset; once the processes have ended, with the next call.

UNDO
  limit-memory.ts --reset TARGET

SEE ALSO
  cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory, proc(5), ps.ts
*/
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  countsSwap,
  findHierarchy,
  type Hierarchy,
  memoryFiles,
  processesIn,
  readBytes,
  readHierarchies,
} from './helpers/cgroup.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { perform, type Step, toShell } from './helpers/plan.ts';
import { attempt, readProc, startTicks } from './helpers/proc.ts';
import { cgroupNote, findTarget, notes, sweepTargets, type Target } from './helpers/target.ts';
import { formatSize, parseSize } from './helpers/units.ts';

export const options = {
  swap: { parse: (text: string) => (text === 'max' ? Infinity : text === '0' ? 0 : parseSize(text)) },
  force: {},
  reset: {},
  json: {},
  dryRun: {},
} as const;

/** What a cgroup's memory files say. `null`: no limit; undefined: the kernel does not count swap. */
export interface Memory {
  processes: number;
  usedBytes: number;
  limitBytes: number | null;
  /** v1: memory and swap together */
  swapLimitBytes: number | null | undefined;
}

/** The values of the two files. v1 counts memory and swap together in the second, v2 swap alone. `null`: no limit. */
type Limits = Pick<Memory, 'limitBytes' | 'swapLimitBytes'>;

/** The steps that set both limits of a cgroup, in an order that the kernel takes and that kills nobody between. */
function planLimits(version: 1 | 2, directory: string, before: Limits, wanted: Limits): Step[] {
  const files = memoryFiles[version];
  const step = (bytes: number | null, file: string): Step => ({
    write: bytes === null ? files.unlimited : String(bytes),
    to: join(directory, file),
  });
  const limit = step(wanted.limitBytes, files.limit);
  if (before.swapLimitBytes === undefined) return [limit];
  const swap = step(wanted.swapLimitBytes ?? null, files.swap);
  // more swap comes first, less comes last: v1's sum can't be less than the memory in it
  const raises = (wanted.swapLimitBytes ?? Infinity) > (before.swapLimitBytes ?? Infinity);
  return raises ? [swap, limit] : [limit, swap];
}

/**
 * The steps that limit a target to `limitBytes`, and to `swapBytes` of swap beyond it (Infinity: any); `null` puts
 * back what was before. Pure: `before` is how the cgroup is now, or will be when it is new.
 */
export function planLimitMemory(
  { version, mountPoint }: Pick<Hierarchy, 'version' | 'mountPoint'>,
  target: Target,
  before: Limits,
  limitBytes: number | null,
  swapBytes: number,
): Step[] {
  const { directory, top, toMove, origin, elsewhere, borrowed, previous } = target;
  const folder = notes(target);
  const forget: Step[] = [{ remove: folder }, { rmdir: dirname(folder), unlessUsed: true }];
  if (limitBytes === null && origin)
    return [
      ...elsewhere.map((place) => ({ moveTree: place.pid, to: place.directory })),
      { why: 'back to where they came from', moveAll: directory, to: origin },
      { rmdir: directory },
      { rmdir: dirname(directory), unlessUsed: true },
      ...forget,
    ];
  if (limitBytes === null) {
    const [limit = null, swap = null] =
      previous?.map((text) => (text === 'none' ? null : Number(text))) ?? [];
    const wanted = { limitBytes: limit, swapLimitBytes: swap };
    return [...planLimits(version, directory, before, wanted), ...(previous ? forget : [])];
  }

  const steps: Step[] = [];
  if (toMove.length > 0) {
    steps.push({ why: 'a cgroup of its own', mkdir: directory });
    if (version === 2)
      for (const level of [mountPoint, dirname(directory)])
        steps.push({ write: '+memory', to: join(level, 'cgroup.subtree_control') });
  } else if (borrowed && top && !previous) {
    const words = [target.startTicks, before.limitBytes ?? 'none', before.swapLimitBytes ?? 'none'];
    steps.push(
      { why: 'for --reset: since when the process runs, and what its limits were', mkdir: folder },
      { write: words.join(' '), to: join(folder, 'limit') },
    );
  }
  const sum = swapBytes === Infinity ? null : version === 1 ? limitBytes + swapBytes : swapBytes;
  steps.push(...planLimits(version, directory, before, { limitBytes, swapLimitBytes: sum }));

  if (toMove.length > 0 && origin) {
    const members = new Set(toMove.map(({ pid }) => pid));
    const tops = toMove.filter(({ pid, ppid }) => pid === top?.pid || !members.has(ppid));
    steps.push(
      { why: 'for --reset: where they come from', mkdir: folder },
      { write: cgroupNote(target), to: join(folder, 'cgroup') },
      ...tops.map(({ pid }, index) => ({
        ...(index === 0 && { why: 'the process and its descendants; once more, for those born meanwhile' }),
        moveTree: pid,
        to: directory,
      })),
    );
  }
  return steps;
}

/** What the memory files of a cgroup say. Used is what can't be had back by dropping file pages long unused. */
function readMemory({ version }: Hierarchy, directory: string): Memory {
  const files = memoryFiles[version];
  const inactive = version === 1 ? /^total_inactive_file (\d+)$/m : /^inactive_file (\d+)$/m;
  const cache = Number(inactive.exec(readFileSync(join(directory, 'memory.stat'), 'utf8'))?.[1] ?? 0);
  return {
    processes: processesIn(directory).length,
    usedBytes: Math.max(0, (readBytes(join(directory, files.usage)) ?? 0) - cache),
    limitBytes: readBytes(join(directory, files.limit)) ?? null,
    swapLimitBytes: readBytes(join(directory, files.swap)),
  };
}

/** How a cgroup that is still to be made will be, but for what its processes use: that they use elsewhere now. */
function foreseeMemory(hierarchy: Hierarchy, { toMove, origin }: Target): Memory {
  const swapFile = memoryFiles[hierarchy.version].swap;
  const seen = origin === undefined ? undefined : readBytes(join(origin, swapFile));
  return {
    processes: toMove.length,
    usedBytes: toMove.reduce((sum, { pid, rssBytes }) => sum + (ownBytes(pid) ?? rssBytes), 0),
    limitBytes: null,
    swapLimitBytes: seen !== undefined || countsSwap(hierarchy) ? null : undefined,
  };
}

/** What a process has in memory that is of no file, its share of what it shares: smaps_rollup of proc(5). */
function ownBytes(pid: number): number | undefined {
  const kibibytes = [...(readProc(pid, 'smaps_rollup') ?? '').matchAll(/^Pss_(?:Anon|Shmem): +(\d+) kB$/gm)];
  return kibibytes.length === 0
    ? undefined
    : kibibytes.reduce((sum, match) => sum + Number(match[1]) * 1024, 0);
}

/** The limits of a cgroup and of those above it, for people: `50 MiB of /sys/fs/cgroup/user.slice`. */
function limitsFrom({ version, mountPoint }: Hierarchy, directory: string, below = Infinity): string[] {
  const limits: string[] = [];
  for (let at = directory; at.startsWith(`${mountPoint}/`); at = dirname(at)) {
    const bytes = readBytes(join(at, memoryFiles[version].limit));
    if (typeof bytes === 'number' && bytes < below) limits.push(`${formatSize(bytes)} of ${at}`);
  }
  return limits;
}

/** The result as --json prints it. */
function toObject(directory: string, before: Memory, after: Memory) {
  const limits = ({ limitBytes, swapLimitBytes }: Memory) => ({
    limitBytes,
    swapLimitBytes: swapLimitBytes ?? null,
  });
  const { processes, usedBytes } = after;
  return { cgroup: directory, processes, usedBytes, ...limits(after), before: limits(before) };
}

await main(import.meta.url, { options, operands: [1, 2] }, async (values, [text = '', size]) => {
  const { force, reset, json, dryRun, swap = 0 } = values;
  if (reset && (size !== undefined || values.swap !== undefined))
    throw new UsageError('--reset takes neither SIZE nor --swap');
  if (!reset && size === undefined) throw new UsageError('SIZE is missing');
  const limitBytes = size === undefined ? null : parseSize(size);
  const hierarchy = findHierarchy(readHierarchies(), 'memory');
  if (!hierarchy) throw new Failure('this host has no memory controller in any cgroup hierarchy, cgroups(7)');
  if (process.getuid?.() === 0 && !dryRun) sweepTargets(hierarchy);

  const files = memoryFiles[hierarchy.version];
  const target = findTarget(hierarchy, text, files.limit);
  const { directory, top, origin, elsewhere, borrowed, previous } = target;
  const moves = target.toMove.length > 0;
  const before = moves ? foreseeMemory(hierarchy, target) : readMemory(hierarchy, directory);
  if (reset && (moves || (borrowed && !previous)))
    throw new Failure(`${text} was not limited by this script: its cgroup is ${moves ? origin : directory}`);
  const below = limitBytes !== null && limitBytes < before.usedBytes;
  if (below && !force)
    throw new Failure(
      `${text} uses ${formatSize(before.usedBytes)} now, more than ${formatSize(limitBytes)}: choose more, or --force`,
    );
  if (values.swap !== undefined && before.swapLimitBytes === undefined)
    throw new Failure(
      'this kernel does not account for swap: boot it with swapaccount=1, or leave --swap out',
    );

  const steps = planLimitMemory(hierarchy, target, before, limitBytes, swap);
  if (dryRun) {
    process.stdout.write(toShell(steps));
    return 0;
  }
  if (process.getuid?.() !== 0) throw new Failure('needs root: try sudo');
  const lost = moves
    ? [origin ?? '', ...elsewhere.map((place) => place.directory)].flatMap((at) => limitsFrom(hierarchy, at))
    : [];
  if (below && !moves && hierarchy.version === 2)
    console.error(`limit-memory: what it uses beyond SIZE the kernel reclaims, or kills for it`);
  await perform(steps).catch((error) => {
    if (error.cause?.code !== 'EBUSY' || hierarchy.version === 2) throw error;
    throw new Failure(
      `${error.message}: ${formatSize(before.usedBytes)} are in use, and the kernel could not reclaim enough: choose more`,
    );
  });
  // a PID may have been given to another process by now
  if (top && startTicks(top.pid) !== target.startTicks)
    throw new Failure(`process ${top.pid} ended meanwhile: see what ${directory} holds`);

  const seen = attempt(() => readMemory(hierarchy, directory));
  // v2 kills at once what is above a limit that was forced upon it
  if (!seen && !reset) throw new Failure(`${text} has ended meanwhile, and with it its cgroup`);
  const after = seen ?? { ...before, limitBytes: null, swapLimitBytes: null };
  if (json) console.log(JSON.stringify(toObject(directory, before, after), null, 2));
  else {
    const show = (bytes: number | null) => (bytes === null ? 'none' : formatSize(bytes));
    const beyond =
      swap === Infinity
        ? 'swap at will'
        : swap > 0
          ? `swap ${formatSize(swap)} beyond it`
          : 'no swap beyond it';
    console.log(
      `${text}: memory limit ${show(before.limitBytes)} -> ${show(after.limitBytes)}${reset ? '' : `, ${beyond}`}; in use now ${formatSize(before.usedBytes)}`,
    );
    const where = reset && origin ? `back in ${origin}` : `${moves ? 'moved to' : 'in'} ${directory}`;
    console.log(`${after.processes} process${after.processes === 1 ? '' : 'es'} ${where}`);
  }
  if (moves) console.error(`limit-memory: what ${text} had in memory before stays counted in ${origin}`);
  if (lost.length > 0) console.error(`limit-memory: no longer limited by ${[...new Set(lost)].join(', ')}`);
  const tighter = limitBytes === null ? [] : limitsFrom(hierarchy, dirname(directory), limitBytes);
  if (tighter.length > 0) console.error(`limit-memory: still limited by ${tighter.join(', ')}`);
  return 0;
});
