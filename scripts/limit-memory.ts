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
  --reset           lift the limit; move back what was moved, and remove its cgroup
  --json            print the result as an object
  --dry-run         print what would be done, as shell
  -h, --help        this text

EXAMPLES
  limit-memory.ts web 100M
  limit-memory.ts 10028 1.5G --swap 500M
  limit-memory.ts --reset 10028
  limit-memory.ts --dry-run $$ 1G

CHANGES
  The limit and the swap limit of one cgroup. Where it has to make one: the cgroup barehand/pid-PID, who is in it, and
  /run/barehand/pid-PID, where it notes from which cgroup they came. It goes with --reset; once all of them have
  ended, with the next call.

UNDO
  limit-memory.ts --reset TARGET

SEE ALSO
  cgroups(7), the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory, proc(5), ps.ts
*/
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  cgroupDirectory,
  cgroupPath,
  findHierarchy,
  type Hierarchy,
  memoryFiles,
  ownCgroup,
  parent,
  processesIn,
  readBytes,
  readHierarchies,
} from './helpers/cgroup.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { findContainers, heldContainer } from './helpers/containers.ts';
import { perform, type Step, toShell } from './helpers/plan.ts';
import {
  descendants,
  type Process,
  readProc,
  readProcess,
  readProcesses,
  startTicks,
  type Table,
} from './helpers/proc.ts';
import { formatSize, parseSize } from './helpers/units.ts';

export const options = {
  swap: { parse: (text: string) => (text === 'max' ? Infinity : text === '0' ? 0 : parseSize(text)) },
  force: {},
  reset: {},
  json: {},
  dryRun: {},
} as const;

/** What is to be limited, and how its cgroup is now. `null`: no limit; undefined: the kernel does not count swap. */
export interface Target {
  version: 1 | 2;
  mountPoint: string;
  directory: string;
  /** PID of the top of the tree that has to be moved into the directory; undefined: it is there already */
  move: number | undefined;
  /** where the processes of a barehand/pid-N came from */
  origin: string | undefined;
  processes: number;
  usedBytes: number;
  limitBytes: number | null;
  /** v1: memory and swap together */
  swapLimitBytes: number | null | undefined;
}

const notes = (directory: string) => join('/run', parent, basename(directory));

/**
 * The steps that limit a target to `limitBytes`, and to `swapBytes` of swap beyond (Infinity: any); `null` lifts both.
 * Pure. cgroups(7); v1: memsw.limit must never be less than limit, so the one that is raised is raised first.
 */
export function planLimitMemory(target: Target, limitBytes: number | null, swapBytes: number): Step[] {
  const { version, mountPoint, directory, move, origin, swapLimitBytes } = target;
  const files = memoryFiles[version];
  const text = (bytes: number | null) =>
    bytes === null || bytes === Infinity ? files.unlimited : String(bytes);
  const steps: Step[] = [];
  if (limitBytes === null && origin) {
    steps.push({ why: 'back to where they came from', moveAll: directory, to: origin });
    return [...steps, { rmdir: directory }, { remove: notes(directory) }];
  }
  if (move !== undefined) {
    steps.push({ why: 'a cgroup of its own', mkdir: directory });
    if (version === 2)
      for (const level of [mountPoint, dirname(directory)])
        steps.push({ write: '+memory', to: join(level, 'cgroup.subtree_control') });
  }

  const limit: Step = { write: text(limitBytes), to: join(directory, files.limit) };
  if (swapLimitBytes === undefined) steps.push(limit);
  else {
    const total = limitBytes === null ? null : version === 1 ? limitBytes + swapBytes : swapBytes;
    const swap: Step = { write: text(total), to: join(directory, files.swap) };
    const raises = (total ?? Infinity) > (swapLimitBytes ?? Infinity) || total === null;
    steps.push(...(version === 1 && raises ? [swap, limit] : [limit, swap]));
  }

  if (move !== undefined && origin)
    steps.push(
      { why: 'for --reset: where they come from', mkdir: notes(directory) },
      { write: origin, to: join(notes(directory), 'cgroup') },
      {
        why: 'the process and its descendants, parents first; what is born meanwhile is found the next time',
        moveTree: move,
        to: directory,
      },
    );
  return steps;
}

/** The memory that a cgroup can't give back by dropping file pages that nobody has used lately. */
function usedBytes(directory: string, version: 1 | 2): number {
  const stat = readFileSync(join(directory, 'memory.stat'), 'utf8');
  const cache = Number(
    /^(?:total_)?inactive_file (\d+)$/m.exec(
      version === 1 ? stat.replace(/^inactive_file.*/m, '') : stat,
    )?.[1] ?? 0,
  );
  return Math.max(0, (readBytes(join(directory, memoryFiles[version].usage)) ?? 0) - cache);
}

function existingTarget({ version, mountPoint }: Hierarchy, directory: string): Target {
  const files = memoryFiles[version];
  const note = join(notes(directory), 'cgroup');
  return {
    version: version,
    mountPoint,
    directory,
    move: undefined,
    origin: existsSync(note) ? readFileSync(note, 'utf8').trim() : undefined,
    processes: processesIn(directory).length,
    usedBytes: usedBytes(directory, version),
    limitBytes: readBytes(join(directory, files.limit)) ?? null,
    swapLimitBytes: readBytes(join(directory, files.swap)),
  };
}

/** The name of the container of ours that a process is in; undefined for others, and for a barehand/pid-N. */
function ownName(hierarchy: Hierarchy, pid: number): string | undefined {
  const path = cgroupPath(readProc(pid, 'cgroup') ?? '', hierarchy) ?? '';
  const name = new RegExp(`^/${parent}/([^/]+)`).exec(path)?.[1];
  return name?.startsWith('pid-') ? undefined : name;
}

/** What a PID means: the container that it is the first process or the holder of, else its own tree. */
function findTree(
  hierarchy: Hierarchy,
  table: Table,
  pid: number,
): { top: Process; name: string | undefined } {
  const top = readProcess(pid);
  if (!top || top.zombie)
    throw new Failure(`there is no process ${pid}: ps.ts shows containers, ps(1) processes`);
  if (top.kernelThread)
    throw new Failure(`${pid} (${top.name}) is a thread of the kernel: no cgroup limits it`);
  if (top.pid === 1) throw new Failure('1 is the init of this host: limiting it limits everything');
  const { containers } = findContainers(table);
  const held = heldContainer(containers, top.pid)?.first ?? top;
  const name = ownName(hierarchy, held.pid);
  if (name) return { top: held, name };

  const inside = descendants(table, [held.pid]);
  const names = [...new Set(inside.flatMap((process) => ownName(hierarchy, process.pid) ?? []))];
  if (names.length === 0) return { top: held, name: undefined };
  // run.ts and its shell: a single chain of processes that ends in the container
  const above = inside.filter((process) => ownName(hierarchy, process.pid) === undefined);
  const isChain = above.every(({ pid }) => inside.filter((process) => process.ppid === pid).length === 1);
  if (names.length === 1 && isChain) return { top: held, name: names[0] };
  throw new Failure(
    `among the descendants of ${pid} are containers with cgroups of their own: limit them by name: ${names.join(', ')}`,
  );
}

/** Finds the target. Throws Failure where it does not exist or can't be limited. */
function findTarget(hierarchy: Hierarchy, text: string): Target & { top?: Process } {
  const named = (name: string) => join(hierarchy.mountPoint, parent, name);
  if (!/^\d+$/.test(text)) {
    if (!/^[\w.-]+$/.test(text) || /^\.+$/.test(text))
      throw new UsageError(`neither a name nor a PID: ${JSON.stringify(text)}`);
    if (!existsSync(named(text)))
      throw new Failure(`there is no container ${text}: ps.ts shows those there are`);
    return existingTarget(hierarchy, named(text));
  }
  const table = readProcesses();
  const { top, name } = findTree(hierarchy, table, Number(text));
  if (name) return { ...existingTarget(hierarchy, named(name)), top };

  const tree = descendants(table, [top.pid]);
  const members = new Set(tree.map(({ pid }) => pid));
  const path = cgroupPath(readProc(top.pid, 'cgroup') ?? '', hierarchy);
  if (path === undefined) throw new Failure(`process ${top.pid} has ended`);
  const { containers } = findContainers(table);
  const isStranger = (pid: number) =>
    !members.has(pid) && table.has(pid) && heldContainer(containers, pid)?.first.pid !== top.pid;
  const own = ownCgroup(
    hierarchy,
    path,
    tree.filter((process) => !process.zombie).map(({ pid }) => pid),
    isStranger,
  );
  if (own) return { ...existingTarget(hierarchy, own), top };

  const directory = named(`pid-${top.pid}`);
  const example = join(
    cgroupDirectory(hierarchy, path) ?? hierarchy.mountPoint,
    memoryFiles[hierarchy.version].swap,
  );
  return {
    top,
    version: hierarchy.version,
    mountPoint: hierarchy.mountPoint,
    directory,
    move: top.pid,
    origin: cgroupDirectory(hierarchy, path),
    processes: tree.length,
    usedBytes: tree.reduce((sum, process) => sum + process.rssBytes, 0),
    limitBytes: null,
    swapLimitBytes:
      existsSync(example) || (hierarchy.version === 2 && existsSync('/proc/swaps')) ? null : undefined,
  };
}

/** Removes the barehand/pid-N whose processes have all ended, but for those that are being made just now. */
function sweep({ mountPoint }: Hierarchy): void {
  const folder = join(mountPoint, parent);
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const directory = join(folder, name);
    if (!/^pid-\d+$/.test(name) || Date.now() - statSync(directory).mtimeMs < 10_000) continue;
    try {
      rmdirSync(directory); // EBUSY: somebody is in it
      rmSync(notes(directory), { recursive: true, force: true });
    } catch {}
  }
}

/** The cgroups from `directory` upwards that have a limit of their own, which no longer holds for who is moved out. */
function limitsLeft(target: Target): string[] {
  const limits: string[] = [];
  for (let at = target.origin ?? '/'; at.startsWith(`${target.mountPoint}/`); at = dirname(at)) {
    const bytes = readBytes(join(at, memoryFiles[target.version].limit));
    if (typeof bytes === 'number') limits.push(`${formatSize(bytes)} of ${at}`);
  }
  return limits;
}

const show = (bytes: number | null | undefined) =>
  bytes === null || bytes === undefined ? 'none' : formatSize(bytes);

await main(
  import.meta.url,
  { options, operands: [1, 2] },
  async ({ swap = 0, force, reset, json, dryRun }, [text = '', size]) => {
    if (reset === (size !== undefined))
      throw new UsageError(reset ? '--reset takes no SIZE' : 'SIZE is missing');
    const limitBytes = size === undefined ? null : parseSize(size);
    const hierarchy = findHierarchy(readHierarchies(), 'memory');
    if (!hierarchy)
      throw new Failure('this host has no memory controller in any cgroup hierarchy, cgroups(7)');
    if (process.getuid?.() === 0 && !dryRun) sweep(hierarchy);
    const before = findTarget(hierarchy, text);
    const { directory, top } = before;
    if (reset && before.move !== undefined)
      throw new Failure(`${text} has no limit of its own: its cgroup is ${before.origin}`);
    if (limitBytes !== null && limitBytes < before.usedBytes && !force)
      throw new Failure(
        `${text} uses ${formatSize(before.usedBytes)} now, more than ${formatSize(limitBytes)}: choose more, or --force`,
      );

    const steps = planLimitMemory(before, limitBytes, swap);
    if (dryRun) {
      process.stdout.write(toShell(steps));
      return 0;
    }
    if (process.getuid?.() !== 0) throw new Failure('needs root: try sudo');
    const started = top && startTicks(top.pid);
    const lost = before.move === undefined ? [] : limitsLeft(before);
    await perform(steps);
    if (top && startTicks(top.pid) !== started)
      throw new Failure(`process ${top.pid} ended meanwhile: look before you call again`);

    const after = existsSync(directory)
      ? existingTarget(hierarchy, directory)
      : { ...before, limitBytes: null };
    if (json) {
      const { limitBytes: limit, swapLimitBytes, usedBytes: used, processes } = after;
      console.log(
        JSON.stringify(
          {
            cgroup: directory,
            processes,
            usedBytes: used,
            limitBytes: limit,
            swapLimitBytes: swapLimitBytes ?? null,
            before: { limitBytes: before.limitBytes, swapLimitBytes: before.swapLimitBytes ?? null },
          },
          null,
          2,
        ),
      );
    } else {
      const swaps =
        swap === Infinity
          ? 'swap at will'
          : swap > 0
            ? `swap ${formatSize(swap)} beyond it`
            : 'no swap beyond it';
      console.log(
        `${text}: memory limit ${show(before.limitBytes)} -> ${show(after.limitBytes)}${limitBytes === null ? '' : `, ${swaps}`}; in use now ${formatSize(before.usedBytes)}`,
      );
      console.log(
        `${directory}: ${after.processes} processes${before.move === undefined ? '' : ', moved there'}`,
      );
    }
    if (before.move !== undefined)
      console.error(`limit-memory: what ${text} had in memory before stays counted in ${before.origin}`);
    if (lost.length > 0) console.error(`limit-memory: no longer limited by ${lost.join(', ')}`);
    return 0;
  },
);
