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
import { type Container, findContainers, identify } from './helpers/containers.ts';
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
import { gap, table } from './helpers/table.ts';
import { formatSize, parseNumber } from './helpers/units.ts';
import { readOomKills } from './ps/oom.ts';
import { rootfsPath } from './ps/rootfs.ts';
import { type Column, cut, fit, toJson } from './ps/screen.ts';
import {
  type Accounting,
  findPlaces,
  type Places,
  readAccounting,
  readCounters,
  readCpuSeconds,
  readUsage,
} from './ps/usage.ts';
import { formatOomKills, type Look, watch } from './ps/watch.ts';

export const options = {
  watch: {},
  interval: { parse: parseInterval },
  count: { parse: (text: string) => parseNumber('--count', text, 1, 999_999_999) },
  json: {},
  noTrunc: {},
};

/** Seconds between two readings. */
export function parseInterval(text: string): number {
  const seconds = Number(text);
  if (/^[\d.]+$/.test(text) && seconds >= 0.1 && seconds <= 86_400) return seconds;
  throw new UsageError(`--interval is a number of seconds, 0.1 to 86400, not ${text}`);
}

/** A container in the output of --json. */
export interface Row extends Omit<Look, 'ticks' | 'counters'> {
  processes: number;
  rootfs: string | null;
  startedAt: string;
  cpuSeconds: number | null;
  namespaces: Record<string, number | null>;
}

/** A container in the table, which is read without its namespaces: they take as long as all limits. */
type TableRow = Omit<Row, 'namespaces'>;

/** A duration in its two largest units: `42s`, `5m 3s`, `3h 20m`, `12d 4h`. */
export function formatDuration(seconds: number): string {
  const counts = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  const parts = counts.map((count, unit) => `${count}${'dhms'[unit]}`);
  // none: the last
  const first = counts.findIndex((count) => count > 0);
  return parts.slice(first).slice(0, 2).join(' ');
}

interface TableColumn extends Column {
  cell: (row: TableRow) => string;
  /** the column is shown if this holds for any row */
  if?: (row: TableRow) => boolean;
}

const size = (bytes: number | null) => (bytes === null ? 'none' : formatSize(bytes));

const tableColumns = (now: number): TableColumn[] => [
  { title: 'NAME', cell: ({ name }) => printable(name ?? '-') },
  { title: 'PID', cell: ({ pid }) => `${pid}` },
  { title: 'PROCS', cell: ({ processes }) => `${processes}` },
  { title: 'COMMAND', atMost: 32, shrinkTo: 16, cell: ({ command }) => printable(command) },
  { title: 'ROOTFS', atMost: 40, shrinkTo: 16, front: true, cell: ({ rootfs }) => printable(rootfs ?? '?') },
  { title: 'UP', cell: ({ startedAt }) => formatDuration((now - Date.parse(startedAt)) / 1000) },
  {
    title: 'MEMORY',
    cell: ({ memory }) =>
      `${memory.source === 'rss' ? '~' : ''}${size(memory.usedBytes)} / ${size(memory.limitBytes)}`,
  },
  {
    title: 'CPUS',
    cell: ({ limits: { cpus } }) => (cpus === null ? 'none' : `${Number(cpus.toFixed(2))}`),
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
  const head = columns.map(({ title }) => title);
  const cells = rows.map((row) => columns.map(({ cell }) => cell(row)));
  const align = ['left' as const, 'right' as const, 'right' as const];
  if (!truncated) return table(head, cells, { align });
  const { widths } = fit(columns, cells, width, gap);
  const fitted = cells.map((line) => line.map((cell, at) => cut(cell, widths[at] ?? 0, columns[at]?.front)));
  return table(head, fitted, { align, widths });
}

/** A container, and what stays the same while its processes do. */
interface Known {
  container: Container;
  places: Places;
  identity: { name: string | null; pid: number; command: string; engine: string };
}

/** Processes and containers at one moment. */
interface Reading {
  table: Processes;
  known: Known[];
  hidden: number;
  atBootSeconds: number;
}

function readAll(accounting: Accounting): Reading {
  const atBootSeconds = uptime();
  const table = readProcesses();
  const { containers, hidden } = findContainers(table);
  const known = containers.map((container): Known => {
    const { first } = container;
    const { engine, name } = identify(table, container);
    const isOurs = engine === 'barehand' && name !== undefined;
    const places = findPlaces(accounting, table, containers, container, isOurs);
    const identity = { name: name ?? null, pid: first.pid, command: commandLine(first), engine };
    return { container, places, identity };
  });
  return { table, known, hidden, atBootSeconds };
}

/** What a list and a live table have in common of a container; undefined if it has ended. */
function readShown({ memory }: Accounting, table: Processes, { container, places, identity }: Known) {
  const ticks = startTicks(identity.pid);
  if (ticks === undefined) return undefined;
  const { name, pid, command, engine } = identity;
  const oomKills = readOomKills(places.memory, memory, ticks / 100);
  return { name, pid, ticks, command, ...readUsage(places, table, container), oomKills, engine };
}

function listContainers(accounting: Accounting, { table, known }: Reading): TableRow[] {
  const mounts = readMounts('self');
  const bootMilliseconds = Date.now() - uptime() * 1000;
  return known.flatMap((one) => {
    const shown = readShown(accounting, table, one);
    if (!shown) return [];
    const { ticks, ...row } = shown;
    return {
      ...row,
      processes: one.container.members.size,
      rootfs: rootfsPath(one.container, mounts) ?? null,
      startedAt: new Date(bootMilliseconds + ticks * 10).toISOString(),
      cpuSeconds: readCpuSeconds(one.places.time),
    };
  });
}

/** Inodes of a process's namespaces. */
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
function makeLook(accounting: Accounting, first: Reading): () => Look[] {
  let reading = first;
  let pids = '';
  return () => {
    const now = readdirSync('/proc').join();
    if (now !== pids || uptime() - reading.atBootSeconds > 5) reading = readAll(accounting);
    else
      for (const { container, places } of reading.known)
        if (!places.memory || !places.pids) refresh(reading.table, container.members);
    pids = now;
    const atBootSeconds = uptime();
    return reading.known.flatMap((one) => {
      const shown = readShown(accounting, reading.table, one);
      return shown ? { ...shown, counters: readCounters(one.places, one.container, atBootSeconds) } : [];
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

await main(import.meta.url, { options, operands: [0, 0] }, async (given) => {
  const { json, noTrunc, interval: intervalSeconds = 2, count } = given;
  if (given.watch && noTrunc) throw new UsageError('--no-trunc cannot be combined with --watch');
  if (!given.watch && (given.interval !== undefined || count !== undefined))
    throw new UsageError('--interval and --count need --watch');

  const accounting = readAccounting();
  const reading = readAll(accounting);
  if (reading.hidden > 0 && process.getuid?.() !== 0)
    console.error(
      `ps: could not look into ${reading.hidden} processes of other users, so containers made by chroot(1) may be missing: run it as root`,
    );
  if (given.watch) {
    await watch(makeLook(accounting, reading), { intervalSeconds, count, json });
    return 0;
  }
  const rows = listContainers(accounting, reading);
  if (rows.length === 0)
    console.error('ps: no containers: nothing here runs in a PID namespace or root directory of its own');
  if (json)
    console.log(
      toJson(
        rows.map((row): Row => ({ ...row, namespaces: namespacesOf(row.pid) })),
        2,
      ),
    );
  else if (rows.length > 0)
    console.log(toTable(rows, Date.now(), !noTrunc, Math.max(80, process.stdout.columns || 120)));
  return 0;
});
