#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
ps.ts: list the containers that run on this host, whoever made them

USAGE
  ps.ts [--json] [--no-trunc]
  ps.ts --watch [--interval SECONDS] [--count TICKS] [--json]

  A container is any process tree in a PID namespace or with a root directory of its own: barehand's, Docker's,
  Podman's, Kubernetes', LXC's, systemd-nspawn's, bubblewrap's, or one made by hand with unshare(1) or chroot(8).
  exec.ts, stop.ts, network.ts and limit-*.ts take its name or PID.

  NAME      name of the container, a short ID for Docker and Podman; - if it has none
  PID       PID of its first process on the host: PID 1 inside, or the top of a chroot's process tree
  PROCS     number of processes in it and in the containers inside it
  COMMAND   command line of the first process
  ROOTFS    path of its root directory on the host; / is the host's own; ? if the host has no path to it
  UP        time since the first process started
  MEMORY    memory usage / limit of its cgroup; ~ if it shares a cgroup with others: sum of the resident memory of its
            processes, which counts shared pages once for each process
  Further columns appear if they apply to a container in the list:
  CPUS      CPU quota, as a number of CPUs
  PIDS      number of processes and threads / limit
  OOM       number of processes that the kernel killed for lack of memory, and where the last one exceeded a limit:
            own: the container's, parent: of a cgroup above it, inside: of a cgroup below it, host: the host's memory;
            ? if unknown

OPTIONS
      --watch             show a live table of CPU, memory, I/O and throttling per second, 100% is one CPU; its second
                          line names the keys that sort it and the one that quits. ~ marks sums over the processes of
                          a container that has no cgroup of its own. Without a terminal: print one table for each
                          interval, or with --json one line
      --interval SECONDS  with --watch: time between two readings (default: 2)
      --count TICKS       with --watch: end after this number of readings
      --json              print an array of objects: name, pid, processes, command, rootfs, startedAt, memory
                          (usedBytes, limitBytes, source: "cgroup" or "rss"), limits (memoryBytes, cpus, pids), pids,
                          cpuSeconds, oomKills (count; level, cgroup, process and at of the last one), namespaces
                          (inode numbers), engine; null if a value does not exist or cannot be read
      --no-trunc          print long commands and paths in full
  -h, --help              print this text

EXAMPLES
  ps.ts
  ps.ts --json | jq -r '.[] | select(.engine == "docker") | .pid'
  ps.ts --watch --json --interval 10 | jq -c '.containers[] | [.name, .cpuPercent]'

CHANGES
  Nothing. Without root it lists what it can read, and prints how many processes it could not.

SEE ALSO
  lsns(8), pid_namespaces(7), mount_namespaces(7), chroot(2), pivot_root(2), cgroups(7), proc(5), the kernel's
  admin-guide/cgroup-v2 and admin-guide/cgroup-v1
*/

import { readdirSync } from 'node:fs';
import { uptime } from 'node:os';
import { main, UsageError } from './helpers/cli.ts';
import { type Container, findContainers } from './helpers/containers.ts';
import { readMounts } from './helpers/mounts.ts';
import {
  commandLine,
  namespaceInode,
  type Table as Processes,
  printable,
  readProcess,
  readProcesses,
  startTicks,
} from './helpers/pids.ts';
import { columnWidths, gap, table } from './helpers/table.ts';
import { formatSize } from './helpers/units.ts';
import type { LoggedKill } from './limit/oom.ts';
import { type Identity, identify } from './ps/engine.ts';
import { type OomKills, openKernelLog, readOomKills } from './ps/oom.ts';
import { rootfsPath } from './ps/rootfs.ts';
import { cut, toJson } from './ps/screen.ts';
import {
  type Accounting,
  findPlaces,
  type Limits,
  type Memory,
  type Places,
  readAccounting,
  readCounters,
  readCpuSeconds,
  readLimits,
  readMemory,
  readTasks,
} from './ps/usage.ts';
import { formatOomKills, type Look, watch } from './ps/watch.ts';

export const options = {
  watch: {},
  interval: { parse: parseInterval },
  count: { parse: parseCount },
  json: {},
  noTrunc: {},
};

/** Seconds between two readings. */
export function parseInterval(text: string): number {
  const seconds = Number(text);
  if (/^[\d.]+$/.test(text) && seconds >= 0.1 && seconds <= 86_400) return seconds;
  throw new UsageError(`--interval is a number of seconds, 0.1 to 86400, not ${text}`);
}

function parseCount(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new UsageError(`--count is a number of ticks, at least 1, not ${text}`);
}

/** A container in the table. */
export interface TableRow {
  name: string | null;
  pid: number;
  processes: number;
  command: string;
  rootfs: string | null;
  startedAt: string | null;
  memory: Memory;
  limits: Limits;
  pids: number;
  cpuSeconds: number | null;
  oomKills: OomKills | null;
  engine: string;
}

/** A container in the output of --json. */
export interface Row extends TableRow {
  namespaces: Record<string, number | null>;
}

/** A duration in its two largest units: `42s`, `5m 3s`, `3h 20m`, `12d 4h`. */
export function formatDuration(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [Math.floor(seconds) % 60, 's'],
  ];
  const first = Math.min(
    parts.findIndex(([count]) => count > 0) >>> 0, // none: the last
    parts.length - 1,
  );
  return parts
    .slice(first, first + 2)
    .map((part) => part.join(''))
    .join(' ');
}

interface TableColumn {
  title: string;
  cell: (row: TableRow) => string | number;
  /** the column is shown if this holds for any row */
  if?: (row: TableRow) => boolean;
  /** widths between which text is truncated, at its front or end, unless --no-trunc is given */
  cut?: { from: number; to: number; front: boolean };
}

const size = (bytes: number | null) => (bytes === null ? 'none' : formatSize(bytes));

const tableColumns = (now: number): TableColumn[] => [
  { title: 'NAME', cell: ({ name }) => printable(name ?? '-') },
  { title: 'PID', cell: ({ pid }) => pid },
  { title: 'PROCS', cell: ({ processes }) => processes },
  { title: 'COMMAND', cell: ({ command }) => printable(command), cut: { from: 16, to: 32, front: false } },
  { title: 'ROOTFS', cell: ({ rootfs }) => printable(rootfs ?? '?'), cut: { from: 16, to: 40, front: true } },
  {
    title: 'UP',
    cell: ({ startedAt }) =>
      startedAt === null ? '?' : formatDuration((now - Date.parse(startedAt)) / 1000),
  },
  {
    title: 'MEMORY',
    cell: ({ memory }) =>
      `${memory.source === 'rss' ? '~' : ''}${size(memory.usedBytes)} / ${size(memory.limitBytes)}`,
  },
  {
    title: 'CPUS',
    cell: ({ limits }) => (limits.cpus === null ? 'none' : Number(limits.cpus.toFixed(2))),
    if: ({ limits }) => limits.cpus !== null,
  },
  {
    title: 'PIDS',
    cell: ({ pids, limits }) => `${pids} / ${limits.pids ?? 'none'}`,
    if: ({ limits }) => limits.pids !== null,
  },
  {
    title: 'OOM',
    cell: ({ oomKills }) => formatOomKills(oomKills),
    if: ({ oomKills }) => (oomKills?.count ?? 0) > 0,
  },
];

/** The rows as a table of text, no wider than `width` if possible. `now`: milliseconds, as Date.now(). */
export function toTable(rows: TableRow[], now: number, truncated: boolean, width: number): string {
  const columns = tableColumns(now).filter((column) => !column.if || rows.some(column.if));
  const cells = rows.map((row) => columns.map(({ cell }) => cell(row)));
  const head = columns.map(({ title }) => title);
  const widths = columnWidths([head, ...cells]).map((widest, column) => {
    const limit = columns[column]?.cut;
    return truncated && limit ? Math.min(widest, limit.to) : widest;
  });
  // paths are truncated first, then commands
  for (const [column, { cut: limit }] of [...columns.entries()].reverse()) {
    const excess = widths.reduce((sum, its) => sum + its + gap, -gap) - width;
    const its = widths[column] as number;
    if (truncated && limit) widths[column] = Math.max(Math.min(its, limit.from), its - Math.max(0, excess));
  }
  const fitted = cells.map((line) =>
    line.map((cell, column) =>
      typeof cell === 'number' ? cell : cut(cell, widths[column] as number, columns[column]?.cut?.front),
    ),
  );
  return table(head, fitted, { align: ['left', 'right', 'right'], widths });
}

/** Facts about the host that stay the same: its hierarchies and its log. */
interface Host {
  accounting: Accounting;
  logged: () => LoggedKill[];
}

/** Processes and containers at one moment, and the facts read about them since. */
interface Reading {
  table: Processes;
  containers: Container[];
  hidden: number;
  bootSeconds: number;
  known: Map<Container, { identity: Identity; places: Places; command: string }>;
}

function readAll(): Reading {
  const table = readProcesses();
  return { table, ...findContainers(table), bootSeconds: uptime(), known: new Map() };
}

function getToKnow({ accounting }: Host, { table, containers, known }: Reading, container: Container) {
  const before = known.get(container);
  if (before) return before;
  const identity = identify(table, container);
  const isOurs = identity.engine === 'barehand' && identity.name !== undefined;
  const places = findPlaces(accounting, table, containers, container, isOurs);
  const found = { identity, places, command: commandLine(container.first) };
  known.set(container, found);
  return found;
}

/** The values that a row and a reading have in common. */
function describe(host: Host, reading: Reading, container: Container) {
  const { pid } = container.first;
  const { identity, places, command } = getToKnow(host, reading, container);
  const limits = readLimits(places);
  const ticks = startTicks(pid);
  return {
    places,
    ticks,
    shown: {
      name: identity.name ?? null,
      pid,
      command,
      memory: readMemory(places, limits, reading.table, container),
      limits,
      pids: readTasks(places, reading.table, container),
      oomKills: readOomKills(places.memory, host.accounting.memory, (ticks ?? 0) / 100, host.logged),
      engine: identity.engine,
    },
  };
}

function listContainers(host: Host, reading: Reading): TableRow[] {
  const mounts = readMounts('self');
  return reading.containers.map((container) => {
    const { places, ticks, shown } = describe(host, reading, container);
    const { name, pid, command, ...rest } = shown;
    const startedAt = ticks === undefined ? undefined : Date.now() - uptime() * 1000 + ticks * 10;
    return {
      name,
      pid,
      processes: container.members.size,
      command,
      rootfs: rootfsPath(container, mounts) ?? null,
      startedAt: startedAt === undefined ? null : new Date(startedAt).toISOString(),
      ...rest,
      cpuSeconds: readCpuSeconds(places.time),
    };
  });
}

/** Inodes of a process's namespaces: for --json only, since reading them takes as long as reading all limits. */
const namespacesOf = (pid: number) =>
  Object.fromEntries(
    ['mnt', 'pid', 'uts', 'ipc', 'net', 'cgroup', 'user'].map((type) => [
      type,
      namespaceInode(pid, type) ?? null,
    ]),
  );

/**
 * A function that reads all containers. Finding them takes most of the time, and is repeated only if the list of PIDs has
 * changed, and every 5 s, since chroot(2) changes no PID.
 */
function makeLook(host: Host, first: Reading): () => Look[] {
  let reading = first;
  let pids = '';
  return () => {
    const now = readdirSync('/proc').join();
    if (now !== pids || uptime() - reading.bootSeconds > 5) reading = readAll();
    else
      for (const [{ members }, { places }] of reading.known)
        if (!places.memory || !places.pids) refresh(reading.table, members);
    pids = now;
    const atBootSeconds = uptime();
    return reading.containers.flatMap((container) => {
      const { places, ticks, shown } = describe(host, reading, container);
      // it has ended meanwhile
      if (ticks === undefined) return [];
      return [{ ...shown, ticks, counters: readCounters(places, container, atBootSeconds) }];
    });
  };
}

/** Reads processes again whose container has no cgroup of its own. */
function refresh(table: Processes, members: Set<number>): void {
  for (const pid of members) {
    const process = readProcess(pid);
    if (process) table.set(pid, process);
  }
}

/** Reports the processes that could not be read. */
function admit(reading: { hidden: number }): void {
  if (reading.hidden > 0 && process.getuid?.() !== 0)
    console.error(
      `ps: could not look into ${reading.hidden} processes of other users, so containers made by chroot(1) may be missing: run it as root`,
    );
}

await main(import.meta.url, { options, operands: [0, 0] }, async (given) => {
  const { json, noTrunc, interval: intervalSeconds = 2, count } = given;
  const host = { accounting: readAccounting(), logged: openKernelLog() };
  if (given.watch) {
    if (noTrunc) throw new UsageError('--no-trunc cannot be combined with --watch');
    const first = readAll();
    admit(first);
    await watch(makeLook(host, first), { intervalSeconds, count, json });
    return 0;
  }
  if (given.interval !== undefined || count !== undefined)
    throw new UsageError('--interval and --count need --watch');

  const reading = readAll();
  const rows = listContainers(host, reading);
  if (json)
    console.log(
      toJson(
        rows.map((row): Row => ({ ...row, namespaces: namespacesOf(row.pid) })),
        2,
      ),
    );
  else if (rows.length > 0)
    console.log(toTable(rows, Date.now(), !noTrunc, Math.max(80, process.stdout.columns || 120)));
  if (rows.length === 0)
    console.error('ps: no containers: nothing here runs in a PID namespace or root directory of its own');
  admit(reading);
  return 0;
});
