// Processes: readers of /proc/PID, and the tree of processes. See proc(5).
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { uptime } from 'node:os';

/** A process: facts from /proc/PID/status, which every user may read. */
export interface Process {
  pid: number;
  ppid: number;
  name: string;
  uid: number;
  threads: number;
  /** resident memory, shared memory included */
  rssBytes: number;
  /** its PID in each PID namespace, from the reader's inwards */
  nsPids: number[];
  /** it has ended, and its parent has not yet fetched its exit status */
  zombie: boolean;
  kernelThread: boolean;
}

/** Whether a process is PID 1 of a PID namespace inside the reader's. */
export const isInit = ({ nsPids }: Process): boolean => nsPids.length > 1 && nsPids.at(-1) === 1;

/** All processes of one reading, by PID. */
export type Table = Map<number, Process>;

/** The result of `read`; undefined if it throws, as for a process that has ended or is hidden from this user. */
export function attempt<Value>(read: () => Value): Value | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** The text of a file in /proc/PID; undefined if the process has ended or this user may not read the file. */
export function readProc(pid: number | 'self', file: string): string | undefined {
  return attempt(() => readFileSync(`/proc/${pid}/${file}`, 'utf8'));
}

/**
 * A field in the text of /proc/PID/status, proc(5); '' if there is none. indexOf is faster than a regular expression.
 */
export function fieldOf(status: string, name: string): string {
  const start = status.indexOf(`\n${name}:\t`) + name.length + 3;
  return start < name.length + 3 ? '' : status.slice(start, status.indexOf('\n', start));
}

/** The process of a PID or of a thread's ID; undefined if there is none. */
export function readProcess(pid: number): Process | undefined {
  const status = readProc(pid, 'status');
  if (status === undefined) return undefined;
  const field = (name: string) => fieldOf(status, name);
  const tgid = Number(field('Tgid'));
  if (tgid !== pid) return readProcess(tgid);
  const ppid = Number(field('PPid'));
  const threads = Number(field('Threads'));
  const dead = /^[ZX]/.test(field('State'));
  return {
    pid,
    ppid,
    name: status.slice('Name:\t'.length, status.indexOf('\n')),
    uid: Number.parseInt(field('Uid'), 10),
    threads,
    rssBytes: (Number.parseInt(field('VmRSS'), 10) || 0) * 1024,
    nsPids: (field('NSpid') || String(pid)).split('\t').map(Number),
    // the kernel shows a process as a zombie when its first thread has ended, even if others run
    zombie: dead && threads <= 1,
    // kthreadd is 2, its parent 0; only a process without memory of its own can be a kernel thread
    kernelThread: !dead && (ppid === 2 || (pid === 2 && ppid === 0)) && !status.includes('\nVmSize:'),
  };
}

/** The PIDs of all processes that this user can see. */
export const readPids = (): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);

/** Reads all processes that this user can see. Processes that end meanwhile are left out. */
export function readProcesses(): Table {
  const table: Table = new Map();
  for (const pid of readPids()) {
    const process = readProcess(pid);
    if (process) table.set(process.pid, process);
  }
  return table;
}

/** `Map.groupBy`, which Node 20 lacks. */
export function groupBy<Key, Value>(
  values: Iterable<Value>,
  keyOf: (value: Value) => Key,
): Map<Key, Value[]> {
  const groups = new Map<Key, Value[]>();
  for (const value of values) {
    const group = groups.get(keyOf(value));
    if (group) group.push(value);
    else groups.set(keyOf(value), [value]);
  }
  return groups;
}

/** The processes `tops` and all that descend from them, parents before their children. */
export function descendants(table: Table, tops: number[]): Process[] {
  const children = groupBy(table.values(), (process) => process.ppid);
  const found = new Set(tops.flatMap((pid) => table.get(pid) ?? []));
  for (const process of found) for (const child of children.get(process.pid) ?? []) found.add(child);
  return [...found];
}

/** Facts from /proc/PID/stat. Times are in ticks of 1/100 s; `startTicks` counts from boot. */
export interface Stat {
  ppid: number;
  group: number;
  session: number;
  /** device number of its controlling terminal; 0: it has none */
  terminal: number;
  cpuTicks: number;
  startTicks: number;
  zombie: boolean;
}

/** Reads /proc/PID/stat; undefined if there is no such process. */
export function readStat(pid: number): Stat | undefined {
  const stat = readProc(pid, 'stat');
  if (stat === undefined) return undefined;
  // the name, in parentheses, may contain any character; proc(5) numbers the fields from 1, the state is field 3
  const [state = '', ...numbers] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const field = (number: number) => Number(numbers[number - 4]);
  return {
    ppid: field(4),
    group: field(5),
    session: field(6),
    terminal: field(7),
    cpuTicks: field(14) + field(15),
    startTicks: field(22),
    // as in readProcess
    zombie: /[ZX]/.test(state) && field(20) <= 1,
  };
}

/** The start time of a process. With the PID it identifies the process, since a PID can be reused. */
export const startTicks = (pid: number): number | undefined => readStat(pid)?.startTicks;

let bootMilliseconds: number | undefined;

/** A time in ticks since boot, as that of a start, in ISO 8601. */
export function timeOf(ticks: number): string {
  bootMilliseconds ??= Date.now() - uptime() * 1000;
  return new Date(bootMilliseconds + ticks * 10).toISOString();
}

/** A field of /proc/PID/status, proc(5); '' if there is none, or no such process. */
export const statusField = (pid: number | 'self', name: string): string =>
  fieldOf(readProc(pid, 'status') ?? '', name);

/** Whether a bit is set in a mask of /proc/PID/status, which is hexadecimal. */
export const hasBit = (mask: string, bit: number): boolean =>
  ((BigInt(`0x${mask || 0}`) >> BigInt(bit)) & 1n) === 1n;

/** Whether a process catches, blocks or ignores a signal, proc(5). */
export function hasSignal(pid: number, set: 'SigCgt' | 'SigBlk' | 'SigIgn', signal: number): boolean {
  return hasBit(statusField(pid, set), signal - 1);
}

/** The inode of a namespace, such as `mnt` or `pid_for_children`; undefined if this user may not see it. */
export function namespaceInode(pid: number | 'self', type: string): number | undefined {
  const link = attempt(() => readlinkSync(`/proc/${pid}/ns/${type}`));
  return link === undefined ? undefined : Number(/\[(\d+)\]/.exec(link)?.[1]);
}

/** The command line of a process, joined by spaces; without one, the name in brackets, as in ps(1). */
export function commandLine(process: Process): string {
  const words = readProc(process.pid, 'cmdline')?.replace(/\0+$/, '').replaceAll('\0', ' ');
  return words || `[${process.name}]`;
}

/** Text that is safe on a terminal: control and invisible formatting characters are replaced by visible escapes. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => {
    if (character === '\n') return '\\n';
    const code = character.codePointAt(0) as number;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
}

/** A function that tells whether a process has a directory open, or a file in it, as far as this user may see: proc_pid_fd(5). */
export function openDirectories(): (directory: string) => boolean {
  const links = readPids()
    .flatMap((pid) =>
      (attempt(() => readdirSync(`/proc/${pid}/fd`)) ?? []).map((fd) => `/proc/${pid}/fd/${fd}`),
    )
    .flatMap((link) => attempt(() => readlinkSync(link)) ?? []);
  return (directory) => links.some((path) => path === directory || path.startsWith(`${directory}/`));
}
