// The live table of ps.ts: reads counters at intervals and shows rates.
import { setTimeout as sleep } from 'node:timers/promises';
import { printable } from '../helpers/pids.ts';
import { formatSize } from '../helpers/units.ts';
import type { OomKills } from './oom.ts';
import {
  bar,
  type Cell,
  type Column,
  cut,
  layout,
  openScreen,
  type Screen,
  sparkline,
  speaksUnicode,
  toJson,
} from './screen.ts';
import { type Counters, type Limits, type Memory, type Rates, rates } from './usage.ts';

/** One reading of a container. */
export interface Look {
  name: string | null;
  pid: number;
  /** start time of its first process, in ticks: with the PID it identifies the process */
  ticks: number;
  engine: string;
  command: string;
  memory: Memory;
  limits: Limits;
  pids: number;
  oomKills: OomKills | null;
  counters: Counters;
}

/** The same with rates since the previous reading. */
export interface Live extends Omit<Look, 'counters' | 'ticks'>, Rates {
  /** values that are sums over its processes, without a cgroup of its own */
  estimated: string[];
  /** used bytes at each reading, the last one now */
  history: number[];
  /** OOM kills since the previous reading */
  newKills: number;
}

const remembered = 60;

/** A container over all readings so far. */
export interface Track {
  look: Look;
  live: Live;
}

/** Compares two readings. `previous`: the result for the previous reading. */
export function track(previous: Map<string, Track>, looks: Look[]): Map<string, Track> {
  return new Map(
    looks.map((look) => {
      const key = `${look.pid} ${look.ticks}`;
      const before = previous.get(key);
      const { counters, ticks: _, ...rest } = look;
      const live: Live = {
        ...rest,
        ...rates(before?.look.counters, counters),
        estimated: [
          ...(counters.cpuSeconds === null ? ['cpu'] : []),
          ...(counters.readBytes === null ? ['io'] : []),
          ...(look.memory.source === 'rss' ? ['memory'] : []),
        ],
        history: [...(before?.live.history ?? []), look.memory.usedBytes].slice(-remembered),
        newKills: before ? Math.max(0, (look.oomKills?.count ?? 0) - (before.look.oomKills?.count ?? 0)) : 0,
      };
      return [key, { look, live }];
    }),
  );
}

/** Sort orders of the table: the key that selects one, and the value that is sorted by, ascending. */
export const orders: Record<string, { key: string; by: (row: Live) => number | string }> = {
  CPU: { key: 'c', by: ({ cpuPercent }) => -(cpuPercent ?? -1) },
  memory: { key: 'm', by: ({ memory }) => -memory.usedBytes },
  PIDs: { key: 'p', by: ({ pids }) => -pids },
  'I/O': {
    key: 'i',
    by: (row) => -((row.readBytesPerSecond ?? 0) + (row.writeBytesPerSecond ?? 0)),
  },
  throttled: { key: 't', by: ({ throttledPercent }) => -(throttledPercent ?? -1) },
  'OOM kills': { key: 'o', by: ({ oomKills }) => -(oomKills?.count ?? -1) },
  name: { key: 'n', by: ({ name, pid }) => name ?? `\u{10ffff}${String(pid).padStart(10)}` },
};

/** Sorts rows; rows that compare equal keep their order. */
export function sortRows(rows: Live[], order: string, reversed: boolean): Live[] {
  const by = orders[order]?.by ?? (() => 0);
  const compare = (one: Live, other: Live) => {
    const [a, b] = [by(one), by(other)];
    return a < b ? -1 : a > b ? 1 : 0;
  };
  return [...rows].sort((one, other) => (reversed ? compare(other, one) : compare(one, other)));
}

const columns: Column[] = [
  { title: 'NAME', atLeast: 8, shrinkTo: 12 },
  { title: 'PID', right: true, atLeast: 7 },
  { title: 'CPU%', right: true, atLeast: 6 },
  { title: 'MEMORY', right: true, atLeast: 11 },
  { title: '', dropOrder: 2 },
  { title: 'HISTORY', dropOrder: 4 },
  { title: 'PIDS', right: true, dropOrder: 3 },
  { title: 'READ/s', right: true, atLeast: 6, dropOrder: 6 },
  { title: 'WRITE/s', right: true, atLeast: 6, dropOrder: 6 },
  { title: 'THROTTLED', right: true, dropOrder: 5 },
  { title: 'OOM', dropOrder: 1 },
  { title: 'COMMAND', shrinkTo: 10, dropOrder: 7 },
];

const red = 31;
const yellow = 33;

/** `2 (own)`: the number of kills, and the level of the last one. */
export const formatOomKills = (kills: OomKills | null) =>
  kills === null ? '-' : kills.count === 0 ? '0' : `${kills.count} (${kills.level ?? '?'})`;

/** Bytes in few columns, with the suffixes that options take: `764K`, `1.5G`. */
const short = (bytes: number) =>
  formatSize(bytes).replace(/ (.).*$/, (_, unit) => (unit === 'B' ? '' : unit));

/** A row's cells. `roomy`: the screen is wide enough for long bars. */
function cells(row: Live, unicode: boolean, roomy: boolean): Cell[] {
  const { memory, limits, oomKills } = row;
  const of = (what: string, value: string | null, limit: string | null) =>
    `${row.estimated.includes(what) && value !== null ? '~' : ''}${value ?? '-'}${limit === null ? '' : ` / ${limit}`}`;
  const percent = (share: number | null) => (share === null ? null : share.toFixed(share < 99.95 ? 1 : 0));
  const bytes = (count: number | null) => (count === null ? null : short(Math.round(count)));
  const share = memory.limitBytes === null ? 0 : memory.usedBytes / memory.limitBytes;
  const most = memory.limitBytes ?? Math.max(...row.history);
  return [
    { text: printable(row.name ?? '-') },
    { text: String(row.pid) },
    {
      text: of(
        'cpu',
        percent(row.cpuPercent),
        limits.cpus === null ? null : `${Number((limits.cpus * 100).toFixed(1))}`,
      ),
    },
    { text: of('memory', short(memory.usedBytes), bytes(memory.limitBytes)) },
    {
      text: bar(memory.usedBytes, memory.limitBytes, roomy ? 10 : 6, unicode),
      style: share >= 0.95 ? red : share >= 0.8 ? yellow : undefined,
    },
    { text: sparkline(row.history, most, roomy ? 12 : 7, unicode) },
    { text: of('pids', String(row.pids), limits.pids === null ? null : String(limits.pids)) },
    { text: of('io', bytes(row.readBytesPerSecond), null) },
    { text: of('io', bytes(row.writeBytesPerSecond), null) },
    {
      text: limits.cpus === null ? '-' : `${percent(row.throttledPercent) ?? '-'}%`,
      style: (row.throttledPercent ?? 0) > 0 ? yellow : undefined,
    },
    { text: formatOomKills(oomKills), style: row.newKills > 0 ? red : undefined },
    { text: printable(row.command) },
  ];
}

/** Style of a frame. `height`: null for any number of lines. */
export interface View {
  order: string;
  reversed: boolean;
  width: number;
  height: number | null;
  styled: boolean;
  unicode: boolean;
  time: Date;
  intervalSeconds: number;
}

/** One frame: a heading, a line of keys if on a screen, the table, and the number of rows that did not fit. */
export function frame(rows: Live[], view: View): string[] {
  const { order, reversed, width, height, styled, unicode, time, intervalSeconds } = view;
  const count = `${rows.length} container${rows.length === 1 ? '' : 's'}`;
  const clock = time.toTimeString().slice(0, 8);
  const keys = Object.entries(orders).map(([name, { key }]) => `${key} ${name}`);
  const head = [
    `${clock}  ${count}, every ${intervalSeconds} s, by ${order}${reversed ? ', reversed' : ''}`,
    ...(height === null ? [] : [`${keys.join('  ')}  r reverse  q quit`]),
  ].map((line) => cut(line, width));
  const sorted = sortRows(rows, order, reversed);
  const space = height === null ? sorted.length : Math.max(0, height - head.length - 1);
  // the last line counts the rows that are left out
  const shown = sorted.length <= space ? sorted : sorted.slice(0, Math.max(0, space - 1));
  const [title = '', ...table] = layout(
    columns,
    shown.map((row) => cells(row, unicode, width >= 110)),
    width,
    styled,
  );
  const left = sorted.length - shown.length;
  const lines = [
    ...head,
    styled ? `\x1b[7m${title.padEnd(width)}\x1b[m` : title,
    ...table,
    ...(left > 0 ? [cut(`… and ${left} more`, width)] : []),
  ];
  return height === null ? lines : lines.slice(0, height);
}

/** One reading as a line of JSON. */
export function jsonLine(rows: Live[], time: Date): string {
  const containers = rows.map(({ history: _, newKills: __, ...row }) => row);
  return toJson({ time: time.toISOString(), containers });
}

export interface Options {
  intervalSeconds: number;
  /** number of readings */
  count: number | undefined;
  json: boolean;
}

/**
 * Reads at intervals and shows the result: on a terminal as a screen with keys, else as a sequence of frames or lines of
 * JSON. The first output follows the second reading, when there are rates. Returns when it is told to end.
 */
export async function watch(look: () => Look[], { intervalSeconds, count, json }: Options): Promise<void> {
  const quit = new AbortController();
  const unicode = speaksUnicode();
  const styled = !process.env.NO_COLOR;
  let order = 'CPU';
  let reversed = false;
  let tracks = track(new Map(), look());
  let time = new Date();
  const rows = () => [...tracks.values()].map(({ live }) => live);

  const redraw = () =>
    screen?.draw(
      frame(rows(), {
        ...{ order, reversed, styled, unicode, time, intervalSeconds },
        width: screen.width(),
        height: screen.height(),
      }),
    );
  const onKey = (key: string) => {
    const asked = Object.entries(orders).find(([, { key: its }]) => its === key)?.[0];
    if (asked) order = asked;
    else if (key === 'r') reversed = !reversed;
    else if (['q', 'Q', '\x03', '\x04', ''].includes(key)) return quit.abort();
    redraw();
  };
  const screen: Screen | undefined = json || !process.stdout.isTTY ? undefined : openScreen(onKey, redraw);

  try {
    redraw();
    let next = performance.now();
    for (let tick = 0; count === undefined || tick < count; tick++) {
      // if a reading takes longer than the interval, missed ticks are skipped
      next = Math.max(next + intervalSeconds * 1000, performance.now());
      await sleep(next - performance.now(), undefined, { signal: quit.signal });
      tracks = track(tracks, look());
      time = new Date();
      if (screen) redraw();
      else if (json) process.stdout.write(`${jsonLine(rows(), time)}\n`);
      else {
        const width = process.stdout.columns || 120;
        const lines = frame(rows(), {
          ...{ order, reversed, unicode, time, intervalSeconds, width },
          height: null,
          styled: false,
        });
        process.stdout.write(`${lines.join('\n')}\n\n`);
      }
    }
  } catch (error) {
    if (!quit.signal.aborted) throw error;
  } finally {
    screen?.close();
  }
}
