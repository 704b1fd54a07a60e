// The live table of ps.ts: reads counters at intervals and shows rates.
import { setTimeout as sleep } from 'node:timers/promises';
import { toJson } from '../helpers/output.ts';
import { printable } from '../helpers/pids.ts';
import { formatSize } from '../helpers/units.ts';
import type { OomKills } from '../limit/oom-kills.ts';
import type { Shown } from './containers.ts';
import {
  allowsColour,
  bar,
  type Cell,
  type Column,
  cut,
  layout,
  nearness,
  openScreen,
  red,
  shownText,
  sparkline,
  speaksUnicode,
  yellow,
} from './screen.ts';
import { type Counters, type Rates, rates } from './usage.ts';

/** One reading of a container. */
export type Look = Shown & { counters: Counters };

/** The same with rates since the previous reading. */
export interface Live extends Look, Rates {
  /** values that are sums over its processes, without a cgroup of its own */
  estimated: string[];
  /** used bytes at the last 60 readings, the last one now */
  history: number[];
  /** OOM kills since the previous reading */
  newKills: number;
}

/** Compares two readings. `previous`: the result for the previous reading. */
export function track(previous: Map<string, Live>, looks: Look[]): Map<string, Live> {
  return new Map(
    looks.map((look) => {
      const key = `${look.pid} ${look.ticks}`;
      const before = previous.get(key);
      const { counters, memory, oomKills } = look;
      const live: Live = {
        ...look,
        ...rates(before?.counters, counters),
        estimated: [
          ...(counters.cpuSeconds === null ? ['cpu'] : []),
          ...(counters.readBytes === null ? ['io'] : []),
          ...(memory.source === 'rss' ? ['memory'] : []),
        ],
        history: [...(before?.history ?? []), memory.usedBytes].slice(-60),
        newKills: before ? Math.max(0, (oomKills?.count ?? 0) - (before.oomKills?.count ?? 0)) : 0,
      };
      return [key, live];
    }),
  );
}

/** Sort orders of the table: the key that selects one, and the value that is sorted by, ascending. */
const orders: Record<string, { key: string; by: (row: Live) => number | string }> = {
  CPU: { key: 'c', by: ({ cpuPercent }) => -(cpuPercent ?? -1) },
  memory: { key: 'm', by: ({ memory }) => -memory.usedBytes },
  PIDs: { key: 'p', by: ({ pids }) => -pids },
  'I/O': { key: 'i', by: (row) => -((row.readBytesPerSecond ?? 0) + (row.writeBytesPerSecond ?? 0)) },
  throttled: { key: 't', by: ({ throttledPercent }) => -(throttledPercent ?? -1) },
  OOM: { key: 'o', by: ({ oomKills }) => -(oomKills?.count ?? -1) },
  name: { key: 'n', by: ({ name, pid }) => name ?? `\u{10ffff}${String(pid).padStart(10)}` },
};

/** Sorts rows; rows that compare equal keep their order. */
export function sortRows(rows: Live[], order: string, reversed: boolean): Live[] {
  const sortValue = (row: Live) => orders[order]?.by(row) ?? 0;
  const less = reversed ? 1 : -1;
  return rows.toSorted((one, other) => {
    const [a, b] = [sortValue(one), sortValue(other)];
    return a === b ? 0 : a < b ? less : -less;
  });
}

/** `2 (own)`: the number of kills, and the level of the last one. */
export const formatOomKills = (kills: OomKills | null) =>
  kills === null ? '-' : kills.count === 0 ? '0' : `${kills.count} (${kills.level ?? '?'})`;

/** Bytes in few columns, with the suffixes that options take: `764K`, `1.5G`. */
const short = (bytes: number | null) =>
  bytes === null
    ? null
    : formatSize(Math.round(bytes)).replace(/ (.).*$/, (_, unit) => (unit === 'B' ? '' : unit));

const percent = (share: number | null) => (share === null ? null : share.toFixed(share < 99.95 ? 1 : 0));

/** `~2.5 / 50`: a value, marked if it is among the `estimated` ones, and its limit. */
const amount = (row: Live, what: string, value: string | null, limit: string | number | null = null) =>
  `${row.estimated.includes(what) && value !== null ? '~' : ''}${value ?? '-'}${limit === null ? '' : ` / ${limit}`}`;

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

/**
 * Each column, and its cell in a row. On a narrow screen columns go in the order of dropOrder; NAME, PID, MEMORY, OOM and
 * COMMAND stay.
 */
const columns: [Column, (row: Live, view: View) => string | Cell][] = [
  [{ title: 'NAME', atLeast: 8, shrinkLastTo: 12 }, ({ name }) => printable(name ?? '-')],
  [{ title: 'PID', right: true, atLeast: 7 }, ({ pid }) => String(pid)],
  [
    { title: 'CPU%', right: true, atLeast: 6, dropOrder: 1 },
    (row) => {
      const { cpus } = row.limits;
      return amount(row, 'cpu', percent(row.cpuPercent), cpus && Number((cpus * 100).toFixed(1)));
    },
  ],
  [
    { title: 'MEMORY', right: true, atLeast: 11 },
    (row) => ({
      text: amount(row, 'memory', short(row.memory.usedBytes), short(row.memory.limitBytes)),
      style: nearness(row.memory.usedBytes, row.memory.limitBytes),
    }),
  ],
  [
    { title: '', dropOrder: 3 },
    ({ memory: { usedBytes, limitBytes } }, view) => ({
      text: bar(usedBytes, limitBytes, isRoomy(view) ? 10 : 6, view.unicode),
      style: nearness(usedBytes, limitBytes),
    }),
  ],
  [
    { title: 'HISTORY', dropOrder: 4 },
    ({ memory, history }, view) => {
      const width = isRoomy(view) ? 12 : 7;
      // one value is no history yet; the newest one is at the right from the start, so that nothing moves
      const values = history.length > 1 ? history : [];
      const most = memory.limitBytes ?? Math.max(...values);
      return sparkline(values, most, width, view.unicode).padStart(width);
    },
  ],
  [
    { title: 'PIDS', right: true, dropOrder: 2 },
    (row) => ({
      text: amount(row, 'pids', `${row.pids}`, row.limits.pids),
      style: nearness(row.pids, row.limits.pids),
    }),
  ],
  [
    { title: 'READ/s', right: true, atLeast: 6, dropOrder: 6 },
    (row) => amount(row, 'io', short(row.readBytesPerSecond)),
  ],
  [
    { title: 'WRITE/s', right: true, atLeast: 6, dropOrder: 6 },
    (row) => amount(row, 'io', short(row.writeBytesPerSecond)),
  ],
  [
    { title: 'THROTTLED', right: true, dropOrder: 5 },
    ({ limits, throttledPercent }) => ({
      text: limits.cpus === null ? '-' : `${percent(throttledPercent) ?? '-'}%`,
      style: (throttledPercent ?? 0) > 0 ? yellow : undefined,
    }),
  ],
  [
    { title: 'OOM' },
    (row) => ({
      text: formatOomKills(row.oomKills),
      style: row.newKills > 0 ? red : (row.oomKills?.count ?? 0) > 0 ? yellow : undefined,
    }),
  ],
  [{ title: 'COMMAND', shrinkTo: 10 }, ({ command }) => printable(command)],
];

const isRoomy = ({ width }: View) => width >= 110;

/** The line of keys. On a narrow screen keys are left out, the last orders first; how to quit stays. */
function keyLine(width: number): string {
  const always = ['r reverse', 'q quit'];
  const keys = Object.entries(orders).map(([name, { key }]) => `${key} ${name}`);
  const line = () => [...keys, ...always].join('  ');
  while (line().length > width && keys.length > 0) keys.pop();
  if (line().length > width) always.shift();
  return line();
}

/** One frame: a heading, a line of keys if on a screen, the table, and the number of rows that did not fit. */
export function frame(rows: Live[], view: View): string[] {
  const { order, reversed, width, height, styled, unicode, time, intervalSeconds } = view;
  const count = `${rows.length} container${rows.length === 1 ? '' : 's'}`;
  const clock = time.toTimeString().slice(0, 8);
  const head = [
    `${clock}  ${count}, every ${intervalSeconds} s, by ${order}${reversed ? ', reversed' : ''}`,
    ...(height === null ? [] : [keyLine(width)]),
  ];
  const space = height === null ? rows.length : Math.max(0, height - head.length - 1);
  // the last line counts the rows that are left out
  const shown = rows.length <= space ? rows.length : Math.max(0, space - 1);
  const cells = sortRows(rows, order, reversed)
    .slice(0, shown)
    .map((row) => columns.map(([, cell]) => cell(row, view)))
    .map((row) => row.map((cell) => (typeof cell === 'string' ? { text: cell } : cell)))
    .map((row) => row.map((cell) => ({ ...cell, text: shownText(cell.text, unicode) })));
  const [title = '', ...table] = layout(
    columns.map(([column]) => column),
    cells,
    width,
    styled,
    unicode,
  );
  const more = `${unicode ? '…' : '...'} and ${rows.length - shown} more`;
  const lines = [
    ...head.map((line) => cut(line, width, false, unicode)),
    styled ? `\x1b[7m${title.padEnd(width)}\x1b[m` : title,
    ...table,
    ...(shown < rows.length ? [cut(more, width, false, unicode)] : []),
  ];
  return height === null ? lines : lines.slice(0, height);
}

/**
 * Reads at intervals and shows the result: on a terminal as a screen with keys, else as a sequence of frames or lines of
 * JSON. The first output follows the second reading, when there are rates. Returns after `count` readings, or when a key
 * ends it.
 */
export async function watch(
  look: () => Look[],
  { intervalSeconds, count, json }: { intervalSeconds: number; count: number | undefined; json: boolean },
): Promise<void> {
  const quit = new AbortController();
  let order = 'CPU';
  let reversed = false;
  let tracks = track(new Map(), look());
  let time = new Date();

  const show = () => {
    const rows = [...tracks.values()];
    if (json) {
      const containers = rows.map(({ history, newKills, counters, ticks, ...row }) => row);
      process.stdout.write(`${toJson({ time: time.toISOString(), containers })}\n`);
      return;
    }
    const lines = frame(rows, {
      ...{ order, reversed, time, intervalSeconds },
      // without a terminal, wide enough for all columns
      width: screen?.width() ?? 160,
      height: screen?.height() ?? null,
      styled: screen !== undefined && allowsColour(),
      unicode: speaksUnicode(),
    });
    if (screen) screen.draw(lines);
    else process.stdout.write(`${lines.join('\n')}\n\n`);
  };
  const onKey = (key: string) => {
    const asked = Object.keys(orders).find((name) => orders[name]?.key === key);
    if (asked) order = asked;
    else if (key === 'r') reversed = !reversed;
    else if (['q', 'Q', '\x03', '\x04', ''].includes(key)) return quit.abort();
    show();
  };
  const screen = json || !process.stdout.isTTY ? undefined : openScreen(onKey, () => show());

  try {
    if (screen) show();
    let next = performance.now();
    for (let tick = 0; count === undefined || tick < count; tick++) {
      // if a reading takes longer than the interval, missed ticks are skipped
      next = Math.max(next + intervalSeconds * 1000, performance.now());
      await sleep(next - performance.now(), undefined, { signal: quit.signal });
      tracks = track(tracks, look());
      time = new Date();
      show();
    }
  } catch (error) {
    if (!quit.signal.aborted) throw error;
  } finally {
    screen?.close();
  }
}
