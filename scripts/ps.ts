#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
ps.ts: list all containers on this host, or tell what a process belongs to

USAGE
  ps.ts [-a] [--json] [--no-trunc]
  ps.ts [--json] [--no-trunc] --tree | PID|NAME...
  ps.ts --watch [--interval SECONDS] [--count TICKS] [--json]

  A container is any process tree in a PID namespace or with a root directory of
  its own: barehand's, Docker's, Podman's, Kubernetes', LXC's, systemd-nspawn's,
  bubblewrap's, or one made by hand with unshare(1) or chroot(8).
  exec.ts, stop.ts, network.ts and limit-*.ts take its name or PID.

  With PID or NAME: a page of lines "key: value" about this process, in a
  container or not, or about the first process of this container. A key with
  several values has several lines:
  container       which one, which engine made it, and what the process is in it
  label           KEY=VALUE, as run.ts --label gave it
  parent          PID and command of the ancestors of the process, up to the
                  container's first process
  started by      PID, command and unit of systemd of the ancestors of the first
                  process, the parent first
  unit            the unit of systemd, if the process is in the cgroup of one
  cgroup          path of its cgroup, with the controllers of this path in v1
  memory, swap, cpu, cpuset, pids, io
                  usage / limit, for each cgroup that sets a limit in force. In
                  parentheses, whose it is, and its directory: own: the
                  container's, parent: one above it, inside: one in it, as for a
                  part of the container, other: the process is outside of the
                  container's cgroup. ~ marks a sum over the processes

  Columns of the table:
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
  PORTS     ports of the host that lead to the container, as network.ts
            publishes them: [IP:]HOSTPORT:PORT[/udp]
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
  ps.ts 4711                                    what is this PID?
  ps.ts --json | jq -r '.[] | select(.engine == "docker") | .pid'
  ps.ts --watch --json | jq -c '.containers[] | [.name, .cpuPercent]'

OPTIONS
* -a, --all               list also containers of run.ts -d that have ended
                          and still have a log, and a column STATUS: running,
                          exited (EXIT CODE), or killed by SIGNAL (128+n), the
                          number of OOM kills, and how long ago; on stderr,
                          which of their processes the kernel has killed for
                          lack of memory
*     --tree              show containers inside containers, as a tree
                          and whose their namespaces are: own, the host's, or
                          shared with which other containers and processes
*     --watch             show a live table: CPU, memory, I/O, throttling
                          per second, 100% is one CPU; its second line names the
                          keys that sort it and the one that quits. ~ marks sums
                          over the processes of a container that has no cgroup
                          of its own. Without a terminal: print one table for
                          each interval, or with --json one line
*     --interval SECONDS  with --watch: time between two readings (default: 2)
      --count TICKS       with --watch: end after this number of readings
*     --json              print an array of objects
                          name, pid, processes, command, rootfs, startedAt,
                          memory (usedBytes, limitBytes, source: "cgroup" or
                          "rss"), limits (memoryBytes, cpus, pids), pids,
                          cpuSeconds, oomKills (count; level, cgroup,
                          limitBytes, process with its residentBytes, and at of
                          the last one), labels (those of run.ts), namespaces
                          (inode numbers), engine, ports (host, hostPort, port,
                          protocol), with --all also ended (code, signal, at,
                          oomKills, oomKilled; null while it runs); null if a
                          value does not exist or cannot be read
                          With PID or NAME: pid, command, container (name,
                          engine, pid, command, rootfs, role: "first", "member"
                          or "holder"), labels, parents and startedBy (pid,
                          command, unit), unit, cgroups (controllers, path),
                          limits (limit, device, value, used, level, cgroup,
                          text), usage (memoryBytes, pids, cpuSeconds,
                          memoryCgroup, pidsCgroup)
                          With --tree: name, pid, engine, command, processes,
                          namespaces (type, inode, whose, processes,
                          sharedWith), inside: the containers inside it
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

import { scriptFile } from './helpers/called.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { readLabels } from './helpers/containers.ts';
import { escapeControls } from './helpers/messages.ts';
import { readMounts } from './helpers/mounts.ts';
import { toJson } from './helpers/output.ts';
import { commandLine, namespaceInode, printable, readProcess, startTicks, timeOf } from './helpers/pids.ts';
import { runProgram } from './helpers/shell.ts';
import { cut, gap, table } from './helpers/table.ts';
import { formatDuration, formatSize, parseNumber } from './helpers/units.ts';
import { formatPort, type Port } from './network/addresses.ts';
import { containerReader, type Reading, type Shown } from './ps/containers.ts';
import { killsText, readAllEnded, statusText } from './ps/ended.ts';
import { type Page, pageText, readPage } from './ps/page.ts';
import { readPorts } from './ps/ports.ts';
import { rootfsPath } from './ps/rootfs.ts';
import {
  allowsColour,
  type Column,
  dress,
  fit,
  nearness,
  red,
  shownText,
  speaksUnicode,
} from './ps/screen.ts';
import { checkTargets, processesOf } from './ps/target.ts';
import { toTree, treeLines } from './ps/tree.ts';
import { readCounters, readCpuSeconds } from './ps/usage.ts';
import { formatOomKills, type Live, watch } from './ps/watch.ts';

export const options = {
  all: { short: 'a' },
  tree: {},
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
  ports: Port[];
}

/** A container in the table, which is read without its namespaces: they take as long as all limits. */
type TableRow = Omit<Row, 'namespaces' | 'labels'>;

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
  { title: 'PROCS', dropOrder: 4, cell: ({ processes }) => `${processes}` },
  { title: 'COMMAND', atMost: 32, shrinkTo: 16, shrinkLastTo: 8, cell: ({ command }) => printable(command) },
  {
    title: 'ROOTFS',
    ...{ atMost: 40, shrinkTo: 16, front: true, dropOrder: 6 },
    cell: ({ rootfs }) => printable(rootfs ?? '?'),
  },
  {
    title: 'UP',
    dropOrder: 2,
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
    dropOrder: 5,
    cell: ({ limits: { cpus } }) => (cpus === null ? 'none' : `${Number(cpus.toFixed(2))}`),
    if: ({ limits }) => limits.cpus !== null,
  },
  {
    title: 'PIDS',
    dropOrder: 3,
    cell: ({ pids, limits }) => `${pids} / ${limits.pids ?? 'none'}`,
    if: ({ limits }) => limits.pids !== null,
    style: ({ pids, limits }) => nearness(pids, limits.pids),
  },
  {
    title: 'PORTS',
    dropOrder: 1,
    cell: ({ ports }) => ports.map(formatPort).join(' ') || '-',
    if: ({ ports }) => ports.length > 0,
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

/**
 * The rows as a table of text, no wider than `width` if possible. `now`: milliseconds, as Date.now(). `ended`: containers
 * that have ended, for --all.
 */
export function toTable(
  rows: TableRow[],
  now: number,
  truncated: boolean,
  { width, terminal = false, colour = false, unicode = true }: Place,
  ended?: EndedContainer[],
): string {
  const applying = tableColumns(now).filter((column) => !column.if || rows.some(column.if));
  const status = { title: 'STATUS', cell: () => 'running' };
  const all: TableColumn[] = [...applying, ...(ended ? [status] : [])].map((column) =>
    // a program that reads the table finds the same columns each time
    terminal ? column : { ...column, dropOrder: 0, shrinkLastTo: Number.POSITIVE_INFINITY },
  );
  const texts = [
    ...rows.map((row) => all.map(({ cell }) => cell(row))),
    ...(ended ?? []).map((one) =>
      all.map(({ title }) =>
        title === 'NAME' ? printable(one.name) : title === 'STATUS' ? statusText(one, now) : '-',
      ),
    ),
  ].map((cells) => cells.map((text) => shownText(text, unicode)));
  const found = fit(all, texts, truncated ? width : Number.POSITIVE_INFINITY, gap);
  const shown = truncated ? found.shown : [...all.keys()];
  const columns = shown.map((at) => all[at] as TableColumn);
  const widths = truncated ? shown.map((at) => found.widths[at] ?? 0) : undefined;
  const cells = texts.map((line, index) =>
    columns.map(({ front, style }, at) => {
      const text = line[shown[at] as number] ?? '';
      const part = widths ? cut(text, widths[at] ?? 0, front, unicode) : text;
      const row = rows[index];
      const sgr = colour && row ? style?.(row) : undefined;
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

type EndedContainer = ReturnType<typeof readAllEnded>[number];

const namespaces = ['mnt', 'pid', 'uts', 'ipc', 'net', 'cgroup', 'user'];

/** The inodes of a process's namespaces. */
const readNamespaces = (pid: number) =>
  Object.fromEntries(namespaces.map((type) => [type, namespaceInode(pid, type) ?? null]));

/** The objects of --all --json: containers that have ended have few of the values. */
function withEnded(rows: Row[], ended: EndedContainer[]) {
  const keys = ['command', 'rootfs', 'startedAt', 'memory', 'limits', 'cpuSeconds', 'oomKills', 'namespaces'];
  const nothing = Object.fromEntries(['pid', ...keys].map((key) => [key, null]));
  return [
    ...rows.map((row) => ({ ...row, ended: null })),
    ...ended.map(({ name, ended, oomKills }) => ({
      name,
      ...nothing,
      oomKills,
      processes: 0,
      pids: 0,
      engine: 'barehand',
      labels: readLabels({ name, engine: 'barehand' }),
      ports: [],
      ended,
    })),
  ];
}

/**
 * The pages of the processes and containers that the words mean. A word that means none is reported, and does not keep
 * the others from being shown. Throws UsageError for what is neither a name nor a PID.
 */
function readPages(words: string[]): { pages: Page[]; failed: boolean } {
  checkTargets(words);
  // read before all else: it tells a process from a later one with its PID
  const ticks = new Map(words.map((word) => [word, startTicks(Number(word))]));
  const reading = containerReader()();
  const mounts = readMounts('self');
  let failed = false;
  const pages = words.flatMap((word) => {
    try {
      return processesOf(word, ticks.get(word), reading).map(({ pid, started }) =>
        readPage(pid, started, reading, mounts),
      );
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      console.error(escapeControls(`ps: ${error.message}`));
      failed = true;
      return [];
    }
  });
  return { pages, failed };
}

const nothing = 'ps: no containers: nothing here runs in a PID namespace or root directory of its own';

function listContainers({ containers }: Reading, portsOf: Awaited<ReturnType<typeof readPorts>>): TableRow[] {
  const mounts = readMounts('self');
  return containers.map(({ container, places, shown: { ticks, ...shown } }) => ({
    ...shown,
    processes: container.members.size,
    rootfs: rootfsPath(container, mounts) ?? null,
    startedAt: timeOf(ticks),
    cpuSeconds: readCpuSeconds(places.time),
    ports: portsOf(container),
  }));
}

/** The page of a container in the live table: what PID prints, and its processes, the largest first. */
function livePage({ pid, ticks }: Live, reading: Reading): string[] {
  let page: Page;
  try {
    page = readPage(pid, ticks, reading, readMounts('self'));
  } catch (error) {
    if (error instanceof Failure) return ['it has ended'];
    throw error;
  }
  const found = reading.containers.find(({ shown }) => shown.pid === pid);
  const members = [...(found?.container.members ?? [])].flatMap((member) => readProcess(member) ?? []);
  const rows = members
    .sort((one, other) => other.rssBytes - one.rssBytes)
    .map((one) => [one.pid, formatSize(one.rssBytes), printable(commandLine(one))]);
  return [
    ...pageText(page, (text) => text).split('\n'),
    '',
    ...table(['PID', 'MEMORY', 'COMMAND'], rows, { align: ['right', 'right'] }).split('\n'),
  ];
}

/** Stops a container of the live table with stop.ts, and returns what that says. */
async function stopContainer({ pid, ticks }: Live): Promise<string> {
  // another process may have its PID by now
  if (startTicks(pid) !== ticks) return 'it has ended already';
  const { stdout, stderr } = await runProgram([scriptFile('stop'), String(pid)]);
  return `${stdout}${stderr}`.trim().split('\n').at(-1) ?? '';
}

await main(import.meta.url, { options, operands: [0, Infinity] }, async (given, words) => {
  const { json, noTrunc, interval: intervalSeconds = 2, count } = given;
  if (given.watch && noTrunc) throw new UsageError('--no-trunc cannot be combined with --watch');
  if (given.all && (given.watch || words.length > 0))
    throw new UsageError('--all goes with the list, not with --watch, PID or NAME');
  if (!given.watch && (given.interval !== undefined || count !== undefined))
    throw new UsageError('--interval and --count need --watch');

  if (given.tree && (given.watch || given.all || words.length > 0))
    throw new UsageError('--tree goes without --watch, --all, PID and NAME');

  if (words.length > 0) {
    if (given.watch) throw new UsageError('--watch takes no PID or NAME');
    const { pages, failed } = readPages(words);
    const short = (text: string) => (noTrunc ? text : cut(text, 100));
    if (json) console.log(toJson(pages, 2));
    else if (pages.length > 0) console.log(pages.map((page) => pageText(page, short)).join('\n\n'));
    return failed ? 1 : 0;
  }

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
    const page = (row: Live) => livePage(row, read());
    await watch({ look, page, stop: stopContainer }, { intervalSeconds, count, json });
    return 0;
  }
  const terminal = process.stdout.isTTY === true;
  const place = {
    width: (terminal && process.stdout.columns) || 120,
    terminal,
    colour: terminal && allowsColour(),
    unicode: speaksUnicode(),
  };
  if (given.tree) {
    const tree = toTree(reading);
    const width = terminal && !noTrunc ? place.width : Number.POSITIVE_INFINITY;
    if (json) console.log(toJson(tree, 2));
    else if (tree.length > 0) console.log(treeLines(tree, width, place.unicode, !noTrunc).join('\n'));
    else console.error(nothing);
    return 0;
  }
  const rows = listContainers(reading, await readPorts());
  const running = new Set(rows.map(({ name, engine }) => (engine === 'barehand' ? name : undefined)));
  const ended = given.all ? readAllEnded().filter(({ name }) => !running.has(name)) : undefined;
  const isEmpty = rows.length === 0 && !ended?.length;
  if (isEmpty) console.error(nothing);
  if (json) {
    const all: Row[] = rows.map((row) => ({
      ...row,
      labels: readLabels(row),
      namespaces: readNamespaces(row.pid),
    }));
    console.log(toJson(ended ? withEnded(all, ended) : all, 2));
  } else if (!isEmpty) console.log(toTable(rows, Date.now(), !noTrunc, place, ended));
  for (const { name, oomKills } of ended ?? []) {
    const kills = killsText(oomKills);
    if (kills) console.error(`ps: ${name}: ${kills}`);
  }
  return 0;
});
