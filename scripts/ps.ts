#!/bin/sh
// 2>/dev/null; exec "$(dirname "$(readlink -f "$0")")/helpers/node-ts" "$0" "$@"
/*
ps.ts: list the containers that run on this host, whoever made them

USAGE
  ps.ts [--json] [--no-trunc]

  A container is any process tree in a PID namespace or with a root directory of its own: barehand's,
  Docker's, Podman's, Kubernetes', LXC's, systemd-nspawn's, bubblewrap's, or one made by hand with
  unshare(1) or chroot(8). Whatever limit-memory.ts and its like are to act on is named here.

  NAME      barehand's name, another engine's (a short ID for Docker and Podman), or -
  PID       its first process as the host counts: PID 1 inside, or the top of a chroot's tree
  PROCS     how many processes run in it, those of containers inside it included
  COMMAND   the first process's command line
  ROOTFS    its root directory as a path on the host; / the host's own; ? where the host has no path to it
  UP        how long ago the first process started
  MEMORY    what its memory cgroup counts / that cgroup's limit; ~ where it shares a cgroup with others:
            then the sum of its processes' resident memory, where what they share counts for each of them

OPTIONS
      --json      an array of objects: name, pid, processes, command, rootfs, startedAt, memory (usedBytes,
                  limitBytes, source: "cgroup" or "rss"), namespaces (inode numbers), engine; null where
                  there is none or it can't be seen
      --no-trunc  print long commands and paths in full
  -h, --help      print this text

EXAMPLES
  ps.ts
  ps.ts --json | jq -r '.[] | select(.engine == "docker") | .pid'

CHANGES
  Nothing. Without root it shows what it can, and says how much it could not look into.

SEE ALSO
  lsns(8), pid_namespaces(7), mount_namespaces(7), chroot(2), pivot_root(2), cgroups(7), proc(5)
*/

import { readFileSync } from 'node:fs';
import { uptime } from 'node:os';
import Table from 'cli-table3';
import {
  cgroupPath,
  findHierarchy,
  type Hierarchy,
  memoryFiles,
  ownCgroup,
  readBytes,
  readHierarchies,
} from './helpers/cgroup.ts';
import { main } from './helpers/cli.ts';
import {
  type Container,
  findContainers,
  heldContainer,
  identify,
  type Mount,
  parseMounts,
  rootfsPath,
} from './helpers/containers.ts';
import {
  commandLine,
  namespaceInode,
  type Table as Processes,
  printable,
  readProc,
  readProcesses,
  startTicks,
} from './helpers/proc.ts';
import { formatSize } from './helpers/units.ts';

export const options = { json: {}, noTrunc: {} };

/** What is shown of a container. */
export interface Row {
  name: string | null;
  pid: number;
  processes: number;
  command: string;
  rootfs: string | null;
  startedAt: string | null;
  memory: { usedBytes: number; limitBytes: number | null; source: 'cgroup' | 'rss' };
  namespaces: Record<string, number | null>;
  engine: string;
}

/** How long something has run, in its two largest units: `42s`, `5m 3s`, `3h 20m`, `12d 4h`. */
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

/** The rows as a table of text. `now`: milliseconds, as Date.now(). */
export function toTable(rows: Row[], now: number, truncated: boolean): string {
  const none = Object.fromEntries(
    'top,top-mid,top-left,top-right,bottom,bottom-mid,bottom-left,bottom-right,left,left-mid,mid,mid-mid,right,right-mid,middle'
      .split(',')
      .map((name) => [name, '']),
  );
  const cut = (text: string, length: number) =>
    truncated && text.length > length ? `${text.slice(0, length - 1)}…` : text;
  const cutFront = (text: string, length: number) =>
    truncated && text.length > length ? `…${text.slice(1 - length)}` : text;
  const head: (string | number)[] = ['NAME', 'PID', 'PROCS', 'COMMAND', 'ROOTFS', 'UP', 'MEMORY'];
  const lines = rows.map(({ name, pid, processes, command, rootfs, startedAt, memory }) => [
    printable(name ?? '-'),
    pid,
    processes,
    cut(printable(command), 32),
    cutFront(printable(rootfs ?? '?'), 40),
    startedAt === null ? '?' : formatDuration((now - Date.parse(startedAt)) / 1000),
    `${memory.source === 'rss' ? '~' : ''}${formatSize(memory.usedBytes)} / ${memory.limitBytes === null ? 'none' : formatSize(memory.limitBytes)}`,
  ]);
  // cli-table3 takes time in the square of the rows of a table, so some rows each are one, of the same widths;
  // characters that may be two columns wide are taken to be
  const width = (cell: unknown) => String(cell).replace(/[^\0-\u10ff…]/gu, '  ').length;
  const colWidths = head.map((_, column) =>
    lines.reduce((most, line) => Math.max(most, width(line[column]) + 3), width(head[column]) + 3),
  );
  const all = [head, ...lines];
  let text = '';
  for (let start = 0; start < all.length; start += 16) {
    const table = new Table({
      chars: none,
      style: { head: [], border: [], 'padding-left': 0, 'padding-right': 3 },
      colAligns: ['left', 'right', 'right'],
      colWidths,
    });
    table.push(...all.slice(start, start + 16));
    text += `${table}\n`;
  }
  return text.replace(/ +$/gm, '').trimEnd();
}

/** The memory of a container: its cgroup's if it has one to itself, else the sum of its processes'. */
function memoryOf(
  table: Processes,
  containers: Container[],
  container: Container,
  isOurs: boolean,
  hierarchy?: Hierarchy,
) {
  const { first, members } = container;
  const path = hierarchy && cgroupPath(readProc(first.pid, 'cgroup') ?? '', hierarchy);
  if (hierarchy && path !== undefined) {
    const living = [...members].filter((pid) => table.get(pid)?.zombie === false);
    // one that the table lacks has been born since; the unshare that holds the container belongs to it, and with
    // ours whatever run.ts and exec.ts put there
    const isStranger = (pid: number) =>
      !isOurs &&
      !members.has(pid) &&
      (pid === 0 || table.has(pid)) &&
      heldContainer(containers, pid) !== container;
    const directory = ownCgroup(hierarchy, path, living, isStranger);
    const files = memoryFiles[hierarchy.version];
    const usedBytes = directory && readBytes(`${directory}/${files.usage}`);
    if (typeof usedBytes === 'number')
      return {
        usedBytes,
        limitBytes: readBytes(`${directory}/${files.limit}`) ?? null,
        source: 'cgroup' as const,
      };
  }
  const usedBytes = [...members].reduce((sum, pid) => sum + (table.get(pid)?.rssBytes ?? 0), 0);
  return { usedBytes, limitBytes: null, source: 'rss' as const };
}

function describe(
  table: Processes,
  containers: Container[],
  container: Container,
  mounts: Mount[],
  hierarchy?: Hierarchy,
): Row {
  const { first, members } = container;
  const { name, engine } = identify(table, container);
  const ticks = startTicks(first.pid);
  const startedAt = ticks === undefined ? undefined : Date.now() - uptime() * 1000 + ticks * 10;
  return {
    name: name ?? null,
    pid: first.pid,
    processes: members.size,
    command: commandLine(first),
    rootfs: rootfsPath(container, mounts) ?? null,
    startedAt: startedAt === undefined ? null : new Date(startedAt).toISOString(),
    memory: memoryOf(table, containers, container, engine === 'barehand' && name !== undefined, hierarchy),
    namespaces: Object.fromEntries(
      ['mnt', 'pid', 'uts', 'ipc', 'net', 'cgroup', 'user'].map((type) => [
        type,
        namespaceInode(first.pid, type) ?? null,
      ]),
    ),
    engine,
  };
}

await main(import.meta.url, { options, operands: [0, 0] }, ({ json, noTrunc }) => {
  const table = readProcesses();
  const { containers, hidden } = findContainers(table);
  const mounts = parseMounts(readFileSync('/proc/self/mountinfo', 'utf8'));
  const hierarchy = findHierarchy(readHierarchies(), 'memory');
  const rows = containers.map((container) => describe(table, containers, container, mounts, hierarchy));

  // JSON.stringify escapes control characters, but not DEL, C1 and invisible ones
  if (json)
    console.log(
      JSON.stringify(rows, null, 2).replace(
        /[\x7f-\x9f\p{Cf}\p{Zl}\p{Zp}]/gu,
        (character) => `\\u${(character.codePointAt(0) as number).toString(16).padStart(4, '0')}`,
      ),
    );
  else if (rows.length > 0) console.log(toTable(rows, Date.now(), !noTrunc));
  if (rows.length === 0)
    console.error('ps: no containers: nothing here runs in a PID namespace or root directory of its own');
  if (hidden > 0 && process.getuid?.() !== 0)
    console.error(
      `ps: could not look into ${hidden} processes of other users, where a root directory of their own would not show: run it as root`,
    );
  return 0;
});
