#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
ps.ts: list the containers that run on this host, whoever made them

USAGE
  ps.ts [--json] [--no-trunc]
  ps.ts --watch [--interval SECONDS] [--count TICKS] [--json]

  A container is any process tree in a PID namespace or with a root directory of
  its own: barehand's, Docker's, Podman's, Kubernetes', LXC's, systemd-nspawn's,
  bubblewrap's, or one made by hand with unshare(1) or chroot(8).
  exec.ts, stop.ts, network.ts and limit-*.ts take its name or PID.

  NAME      name of the container, a short ID for Docker and Podman; - if it has
            none
  PID       PID of its first process on the host: PID 1 inside, or the top of a
            chroot's process tree
  PROCS     number of processes in it and in the containers inside it
  COMMAND   command line of the first process
  ROOTFS    path of its root directory on the host; / is the host's own; ? if
            the host has no path to it
  UP        time since the first process started
  MEMORY    memory usage / limit of its cgroup; ~ if it shares a cgroup with
            others: sum of the resident memory of its processes, which counts
            shared pages once for each process
  Further columns appear if they apply to a container in the list:
  CPUS      CPU quota, as a number of CPUs
  PIDS      number of processes and threads / limit
  OOM       number of processes that the kernel killed for lack of memory, and
            where the last one exceeded a limit: own: the container's, parent:
            of a cgroup above it, inside: of a cgroup below it, host: the host's
            memory; ? if unknown
  A terminal that is too narrow shows fewer columns; NAME, PID, COMMAND, MEMORY
  and OOM stay. Colours mark usage near a limit, and OOM kills, unless NO_COLOR
  is set.

EXAMPLES
  ps.ts
  ps.ts --json | jq -r '.[] | select(.engine == "docker") | .pid'
  ps.ts --watch --json | jq -c '.containers[] | [.name, .cpuPercent]'

OPTIONS
*     --watch             show a live table: CPU, memory, I/O, throttling
                          per second, 100% is one CPU; its second line names the
                          keys that sort it and the one that quits. ~ marks sums
                          over the processes of a container that has no cgroup
                          of its own. Without a terminal: print one table for
                          each interval, or with --json one line
*     --interval SECONDS  with --watch: time between two readings (default: 2)
*     --count TICKS       with --watch: end after this number of readings
*     --json              print an array of objects
                          name, pid, processes, command, rootfs, startedAt,
                          memory (usedBytes, limitBytes, source: "cgroup" or
                          "rss"), limits (memoryBytes, cpus, pids), pids,
                          cpuSeconds, oomKills (count; level, cgroup,
                          limitBytes, process with its residentBytes, and at of
                          the last one), labels (those of run.ts), namespaces
                          (inode numbers), engine; null if a value does not
                          exist or cannot be read
*     --no-trunc          print long commands and paths in full
* -h, --help              print the usual options; --help all: all of this
      --version           print name and version

CHANGES
  Nothing. Without root it lists what it can read, and prints how many processes
  it could not.

EXIT CODES
  0 done, also if there is no container; 1 failed; 2 wrong usage.

SEE ALSO
  lsns(8), pid_namespaces(7), mount_namespaces(7), chroot(2), pivot_root(2),
  cgroups(7), proc(5), the kernel's admin-guide/cgroup-v2 and
  admin-guide/cgroup-v1
*/

import { uptime } from 'node:os';
import { main, UsageError } from './helpers/cli.ts';
import { readLabels } from './helpers/containers.ts';
import { readMounts } from './helpers/mounts.ts';
import { namespaceInode, printable } from './helpers/pids.ts';
import { gap, table } from './helpers/table.ts';
import { formatSize, parseNumber } from './helpers/units.ts';
import { containerReader, type Shown } from './ps/containers.ts';
import { rootfsPath } from './ps/rootfs.ts';
import {
  allowsColour,
  type Column,
  cut,
  dress,
  fit,
  nearness,
  red,
  shownText,
  speaksUnicode,
  toJson,
} from './ps/screen.ts';
import { readCounters, readCpuSeconds } from './ps/usage.ts';
import { formatOomKills, watch } from './ps/watch.ts';

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
export interface Row extends Omit<Shown, 'ticks'> {
  processes: number;
  rootfs: string | null;
  startedAt: string;
  cpuSeconds: number | null;
  labels: Record<string, string>;
  namespaces: Record<string, number | null>;
}

/** A container in the table, which is read without its namespaces: they take as long as all limits. */
type TableRow = Omit<Row, 'namespaces' | 'labels'>;

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
  /** a parameter of the terminal's SGR sequence */
  style?: (row: TableRow) => number | undefined;
}

const size = (bytes: number | null) => (bytes === null ? 'none' : formatSize(bytes));

/** On a narrow terminal columns go in the order of dropOrder; NAME, PID, COMMAND, MEMORY and OOM stay. */
const tableColumns = (now: number): TableColumn[] => [
  { title: 'NAME', shrinkLastTo: 12, cell: ({ name }) => printable(name ?? '-') },
  { title: 'PID', cell: ({ pid }) => `${pid}` },
  { title: 'PROCS', dropOrder: 3, cell: ({ processes }) => `${processes}` },
  { title: 'COMMAND', atMost: 32, shrinkTo: 16, shrinkLastTo: 8, cell: ({ command }) => printable(command) },
  {
    title: 'ROOTFS',
    ...{ atMost: 40, shrinkTo: 16, front: true, dropOrder: 5 },
    cell: ({ rootfs }) => printable(rootfs ?? '?'),
  },
  {
    title: 'UP',
    dropOrder: 1,
    cell: ({ startedAt }) => formatDuration((now - Date.parse(startedAt)) / 1000),
  },
  {
    title: 'MEMORY',
    cell: ({ memory }) =>
      `${memory.source === 'rss' ? '~' : ''}${size(memory.usedBytes)} / ${size(memory.limitBytes)}`,
    style: ({ memory }) => nearness(memory.usedBytes, memory.limitBytes),
  },
  {
    title: 'CPUS',
    dropOrder: 4,
    cell: ({ limits: { cpus } }) => (cpus === null ? 'none' : `${Number(cpus.toFixed(2))}`),
    if: ({ limits }) => limits.cpus !== null,
  },
  {
    title: 'PIDS',
    dropOrder: 2,
    cell: ({ pids, limits }) => `${pids} / ${limits.pids ?? 'none'}`,
    if: ({ limits }) => limits.pids !== null,
    style: ({ pids, limits }) => nearness(pids, limits.pids),
  },
  {
    title: 'OOM',
    cell: ({ oomKills }) => formatOomKills(oomKills),
    if: ({ oomKills }) => (oomKills?.count ?? 0) > 0,
    style: ({ oomKills }) => ((oomKills?.count ?? 0) > 0 ? red : undefined),
  },
];

/** Where a table is shown. */
export interface Place {
  width: number;
  /** columns are left out if the table is too wide, and cells have colours */
  terminal?: boolean;
  colour?: boolean;
  unicode?: boolean;
}

/** The rows as a table of text, no wider than `width` if possible. `now`: milliseconds, as Date.now(). */
export function toTable(
  rows: TableRow[],
  now: number,
  truncated: boolean,
  { width, terminal = false, colour = false, unicode = true }: Place,
): string {
  const all = tableColumns(now)
    .filter((column) => !column.if || rows.some(column.if))
    // a program that reads the table finds the same columns each time
    .map((column) =>
      terminal ? column : { ...column, dropOrder: 0, shrinkLastTo: Number.POSITIVE_INFINITY },
    );
  const texts = rows.map((row) => all.map(({ cell }) => shownText(cell(row), unicode)));
  const found = fit(all, texts, truncated ? width : Number.POSITIVE_INFINITY, gap);
  const shown = truncated ? found.shown : [...all.keys()];
  const columns = shown.map((at) => all[at] as TableColumn);
  const widths = truncated ? shown.map((at) => found.widths[at] ?? 0) : undefined;
  const cells = rows.map((row, line) =>
    columns.map(({ front, style }, at) => {
      const text = texts[line]?.[shown[at] as number] ?? '';
      const part = widths ? cut(text, widths[at] ?? 0, front, unicode) : text;
      const sgr = colour ? style?.(row) : undefined;
      return sgr === undefined ? part : dress(part, sgr);
    }),
  );
  const align = columns.map(({ title }) => (['PID', 'PROCS'].includes(title) ? 'right' : 'left'));
  return table(
    columns.map(({ title }) => title),
    cells,
    { align, widths },
  );
}

const namespaces = ['mnt', 'pid', 'uts', 'ipc', 'net', 'cgroup', 'user'];

/** The inodes of a process's namespaces. */
const readNamespaces = (pid: number) =>
  Object.fromEntries(namespaces.map((type) => [type, namespaceInode(pid, type) ?? null]));

function listContainers({ containers }: ReturnType<ReturnType<typeof containerReader>>): TableRow[] {
  const mounts = readMounts('self');
  const bootMilliseconds = Date.now() - uptime() * 1000;
  return containers.map(({ container, places, shown: { ticks, ...shown } }) => ({
    ...shown,
    processes: container.members.size,
    rootfs: rootfsPath(container, mounts) ?? null,
    startedAt: new Date(bootMilliseconds + ticks * 10).toISOString(),
    cpuSeconds: readCpuSeconds(places.time),
  }));
}

await main(import.meta.url, { options, operands: [0, 0] }, async (given) => {
  const { json, noTrunc, interval: intervalSeconds = 2, count } = given;
  if (given.watch && noTrunc) throw new UsageError('--no-trunc cannot be combined with --watch');
  if (!given.watch && (given.interval !== undefined || count !== undefined))
    throw new UsageError('--interval and --count need --watch');

  const read = containerReader();
  const reading = read();
  if (reading.hidden > 0 && process.getuid?.() !== 0)
    console.error(
      `ps: could not look into ${reading.hidden} processes of other users, so containers made by chroot(1) may be missing: run it as root`,
    );
  if (given.watch) {
    const look = () =>
      read().containers.map(({ shown, places, container }) => ({
        ...shown,
        counters: readCounters(places, container),
      }));
    await watch(look, { intervalSeconds, count, json });
    return 0;
  }
  const rows = listContainers(reading);
  const terminal = process.stdout.isTTY === true;
  const place = {
    width: (terminal && process.stdout.columns) || 120,
    terminal,
    colour: terminal && allowsColour(),
    unicode: speaksUnicode(),
  };
  if (rows.length === 0)
    console.error('ps: no containers: nothing here runs in a PID namespace or root directory of its own');
  if (json) {
    const all: Row[] = rows.map((row) => ({
      ...row,
      labels: row.engine === 'barehand' && row.name ? readLabels(row.name) : {},
      namespaces: readNamespaces(row.pid),
    }));
    console.log(toJson(all, 2));
  } else if (rows.length > 0) console.log(toTable(rows, Date.now(), !noTrunc, place));
  return 0;
});
