// Processes: one reading of /proc, the tree they form, and what is to be known of each. See proc(5).
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** A process as /proc/PID/status tells it to every user. */
export interface Process {
  pid: number;
  ppid: number;
  name: string;
  uid: number;
  threads: number;
  /** resident memory, with what it shares with others */
  rssBytes: number;
  /** its PID in each PID namespace, from the reader's inwards */
  nsPids: number[];
  /** dead, and nothing but its exit status left to be fetched by its parent */
  zombie: boolean;
  kernelThread: boolean;
}

/** Whether a process is PID 1 of a PID namespace inside the reader's. */
export const isInit = ({ nsPids }: Process): boolean => nsPids.length > 1 && nsPids.at(-1) === 1;

/** All processes of one reading, by PID. */
export type Table = Map<number, Process>;

/** What came out of `read`; undefined where it failed: the process is gone, or hidden from this user. */
export function attempt<Value>(read: () => Value): Value | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** A file of /proc/PID, undefined where the process is gone or it may not be read. */
export function readProc(pid: number | 'self', file: string): string | undefined {
  return attempt(() => readFileSync(`/proc/${pid}/${file}`, 'utf8'));
}

/** A field in the text of a /proc/PID/status, proc(5): '' where there is none. Not a regular expression, for speed. */
function fieldOf(status: string, name: string): string {
  const start = status.indexOf(`\n${name}:\t`) + name.length + 3;
  return start < name.length + 3 ? '' : status.slice(start, status.indexOf('\n', start));
}

/** The process, undefined where there is none. A thread's ID gives the process that it belongs to. */
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
    // a process whose first thread has ended is shown as a zombie though its other threads run
    zombie: dead && threads <= 1,
    // kthreadd is 2, its parent 0; only a process without memory of its own can be a kernel thread
    kernelThread: !dead && (ppid === 2 || (pid === 2 && ppid === 0)) && !status.includes('\nVmSize:'),
  };
}

/** Reads all processes that this user can see, once: what ends meanwhile is left out. */
export function readProcesses(): Table {
  const table: Table = new Map();
  for (const name of readdirSync('/proc')) {
    const process = /^\d/.test(name) ? readProcess(Number(name)) : undefined;
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

/** What /proc/PID/stat says of a process. Times are in ticks of 1/100 s; it started so many ticks after boot. */
export interface Stat {
  ppid: number;
  group: number;
  session: number;
  cpuTicks: number;
  startTicks: number;
  zombie: boolean;
}

/** Reads /proc/PID/stat; undefined where there is no such process. */
export function readStat(pid: number): Stat | undefined {
  const stat = readProc(pid, 'stat');
  if (stat === undefined) return undefined;
  // the fields follow the name, which may contain anything; proc(5) counts from 1, and the state is the third
  const [state = '', ...numbers] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const field = (number: number) => Number(numbers[number - 4]);
  return {
    ppid: field(4),
    group: field(5),
    session: field(6),
    cpuTicks: field(14) + field(15),
    startTicks: field(22),
    // a process whose first thread has ended is shown as a zombie though its other threads run
    zombie: /[ZX]/.test(state) && field(20) <= 1,
  };
}

/** When a process started: with the PID this tells it from a later one. */
export const startTicks = (pid: number): number | undefined => readStat(pid)?.startTicks;

/** A field of /proc/PID/status, proc(5): '' where there is none, or no such process. */
export const statusField = (pid: number | 'self', name: string): string =>
  fieldOf(readProc(pid, 'status') ?? '', name);

/** Whether a bit is set in a mask that status has, in hexadecimal. */
export const hasBit = (mask: string, bit: number): boolean =>
  ((BigInt(`0x${mask || 0}`) >> BigInt(bit)) & 1n) === 1n;

/** Whether a signal is in a set of a process's, proc(5): caught, blocked or ignored. */
export function hasSignal(pid: number, set: 'SigCgt' | 'SigBlk' | 'SigIgn', signal: number): boolean {
  return hasBit(statusField(pid, set), signal - 1);
}

/** The inode that names a namespace, `mnt` or `pid_for_children` say; undefined where it may not be seen. */
export function namespaceInode(pid: number, type: string): number | undefined {
  const link = attempt(() => readlinkSync(`/proc/${pid}/ns/${type}`));
  return link === undefined ? undefined : Number(/\[(\d+)\]/.exec(link)?.[1]);
}

/** Its command line, words joined by spaces; where it has none the name in brackets, as ps(1) has it. */
export function commandLine(process: Process): string {
  const words = readProc(process.pid, 'cmdline')?.replace(/\0+$/, '').replaceAll('\0', ' ');
  return words || `[${process.name}]`;
}

/** Text that is safe on a terminal: control and invisible formatting characters become visible escapes. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0) as number;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
}
