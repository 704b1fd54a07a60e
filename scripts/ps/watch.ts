// The live table of ps.ts: reads counters at intervals and shows rates.
import { setTimeout as sleep } from 'node:timers/promises';
import { toJson } from '../helpers/output.ts';
import { printable } from '../helpers/pids.ts';
import { columnWidths, cut } from '../helpers/table.ts';
import { formatSize } from '../helpers/units.ts';
import type { OomKills } from '../limit/oom-kills.ts';
import type { Shown } from './containers.ts';
import { type Host, hostReader } from './host.ts';
import { callIt, keyHelp, keyLine, keyOf, passes, press, prompt, start } from './keys.ts';
import {
  allowsColour,
  bar,
  type Cell,
  type Column,
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
      const key = keyOf(look);
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

/** The value that each order sorts by, ascending. */
const orders: Record<string, (row: Live) => number | string> = {
  CPU: ({ cpuPercent }) => -(cpuPercent ?? -1),
  memory: ({ memory }) => -memory.usedBytes,
  PIDs: ({ pids }) => -pids,
  'I/O': (row) => -((row.readBytesPerSecond ?? 0) + (row.writeBytesPerSecond ?? 0)),
  throttled: ({ throttledPercent }) => -(throttledPercent ?? -1),
  OOM: ({ oomKills }) => -(oomKills?.count ?? -1),
  name: ({ name, pid }) => name ?? `\u{10ffff}${String(pid).padStart(10)}`,
};

/** Sorts rows; rows that compare equal keep their order. */
export function sortRows(rows: Live[], order: string, reversed: boolean): Live[] {
  const sortValue = (row: Live) => orders[order]?.(row) ?? 0;
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
  host?: Host;
  /** only rows that it lets through are shown */
  filter?: string;
  /** the row that is marked, see keyOf */
  selected?: string | undefined;
  /** stands in place of the line of keys */
  prompt?: string;
  /** the greatest width of each column so far: columns do not move when values get shorter */
  widths?: number[];
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

/** The line about the host: `host: CPU 25/200  memory 1.2G/23G  swap 0/0  PSI: CPU 1.5% mem 0% I/O 0%`. */
export function hostLine({ cpuPercent, cpus, memory, swap, pressure }: Host): string {
  const part = ({ usedBytes, totalBytes }: Host['memory']) => `${short(usedBytes)}/${short(totalBytes)}`;
  const rounded = (value: number | null) =>
    value === null ? '-' : value.toFixed(value < 10 ? 1 : 0).replace('.0', '');
  const waits = [
    `CPU ${rounded(pressure.cpu)}%`,
    `mem ${rounded(pressure.memory)}%`,
    `I/O ${rounded(pressure.io)}%`,
  ];
  return [
    `host: CPU ${rounded(cpuPercent)}/${cpus * 100}`,
    `memory ${part(memory)}`,
    `swap ${part(swap)}`,
    ...(pressure.cpu === null ? [] : [`PSI: ${waits.join(' ')}`]),
  ].join('  ');
}

/** The containers that a view shows, in its order. */
const shownRows = (
  rows: Live[],
  { filter = '', order, reversed }: Pick<View, 'filter' | 'order' | 'reversed'>,
) =>
  sortRows(
    rows.filter((row) => passes(filter, row)),
    order,
    reversed,
  );

/** The part of the rows that fits: the marked one is in it. */
function windowOf(rows: Live[], space: number, selected: string | undefined) {
  const at = rows.findIndex((row) => keyOf(row) === selected);
  // the last line counts the rows that are left out
  const size = rows.length <= space ? rows.length : Math.max(0, space - 1);
  const first = Math.max(0, Math.min(at - size + 1, rows.length - size));
  return { rows: rows.slice(first, first + size), marked: at - first, leftOut: rows.length - size };
}

/** The lines above the table. A screen of few lines has no line about the host. */
function heading(count: number, view: View): string[] {
  const { order, reversed, width, height, time, intervalSeconds, host, filter } = view;
  const clock = time.toTimeString().slice(0, 8);
  const many = `${count} container${count === 1 ? '' : 's'}`;
  const only = filter ? `, only those with ${JSON.stringify(filter)}` : '';
  return [
    `${clock}  ${many}, every ${intervalSeconds} s, by ${order}${reversed ? ', reversed' : ''}${printable(only)}`,
    ...(host && (height === null || height >= 8) ? [hostLine(host)] : []),
    ...(height === null ? [] : [view.prompt || keyLine(width)]),
  ];
}

/** One frame: a heading, a line of keys if on a screen, the table, and the number of rows that did not fit. */
export function frame(all: Live[], view: View): string[] {
  const { width, height, styled, unicode, widths = [] } = view;
  const found = shownRows(all, view);
  const head = heading(found.length, view);
  const space = height === null ? found.length : Math.max(0, height - head.length - 1);
  const { rows, marked, leftOut } = windowOf(found, space, view.selected);
  const cells = rows
    .map((row) => columns.map(([, cell]) => cell(row, view)))
    .map((row) => row.map((cell) => (typeof cell === 'string' ? { text: cell } : cell)))
    .map((row) => row.map((cell) => ({ ...cell, text: shownText(cell.text, unicode) })));
  const natural = columnWidths(cells.map((row) => row.map(({ text }) => text)));
  for (const [at, widest] of natural.slice(0, -1).entries()) widths[at] = Math.max(widths[at] ?? 0, widest);
  const [title = '', ...table] = layout(
    columns.map(([column], at) => ({ ...column, atLeast: Math.max(column.atLeast ?? 0, widths[at] ?? 0) })),
    cells,
    width,
    styled,
    unicode,
  );
  const inverse = (text: string) => `\x1b[7m${text.replace(/\x1b\[\d*m/g, '').padEnd(width)}\x1b[m`;
  const more = `${unicode ? '…' : '...'} and ${leftOut} more`;
  const lines = [
    ...head.map((line) => cut(shownText(line, unicode), width, false, unicode)),
    styled ? inverse(title) : title,
    ...table.map((line, at) =>
      at === marked ? (styled ? inverse(line) : cut(`> ${line}`, width, false, unicode)) : line,
    ),
    ...(leftOut > 0 ? [cut(more, width, false, unicode)] : []),
  ];
  return height === null ? lines : lines.slice(0, height);
}

/** A page in place of the table: as many of its lines as fit. */
function pageFrame(lines: string[], { width, height, unicode }: View): string[] {
  const space = (height ?? lines.length + 2) - 2;
  const shown =
    lines.length <= space
      ? lines
      : [...lines.slice(0, space - 1), `... ${lines.length - space + 1} more lines`];
  return [...shown, '', 'q quit, any other key: back'].map((line) =>
    cut(shownText(line, unicode), width, false, unicode),
  );
}

/** What the live table needs of its script. */
export interface Source {
  look: () => Look[];
  /** the lines of the page of a container */
  page: (row: Live) => string[];
  /** stops a container, and returns what there is to say of it */
  stop: (row: Live) => Promise<string>;
}

/**
 * Reads at intervals and shows the result: on a terminal as a screen with keys, else as a sequence of frames or lines of
 * JSON. The first output follows the second reading, when there are rates. Returns after `count` readings, or when a key
 * ends it.
 */
export async function watch(
  { look, page, stop }: Source,
  { intervalSeconds, count, json }: { intervalSeconds: number; count: number | undefined; json: boolean },
): Promise<void> {
  const quit = new AbortController();
  const readHost = hostReader();
  let state = start;
  let tracks = track(new Map(), look());
  let host = readHost();
  let time = new Date();
  let widths: number[] = [];

  const show = () => {
    const rows = [...tracks.values()];
    if (json) {
      const containers = rows.map(({ history, newKills, counters, ticks, ...row }) => row);
      process.stdout.write(`${toJson({ time: time.toISOString(), host, containers })}\n`);
      return;
    }
    const view: View = {
      ...{ ...state, prompt: prompt(state, rows), time, intervalSeconds, host, widths },
      // without a terminal, wide enough for all columns
      width: screen?.width() ?? 160,
      height: screen?.height() ?? null,
      styled: screen !== undefined && allowsColour(),
      unicode: speaksUnicode(),
    };
    const row = tracks.get(state.selected ?? '');
    const lines =
      state.mode === 'keys'
        ? pageFrame(keyHelp, view)
        : state.mode === 'page'
          ? pageFrame(row ? page(row) : ['it has ended'], view)
          : frame(rows, view);
    if (screen) screen.draw(lines);
    else process.stdout.write(`${lines.join('\n')}\n\n`);
  };
  const tell = (message: string) => {
    state = { ...state, message };
    if (!quit.signal.aborted) show();
  };
  const onKey = (key: string) => {
    const { action, state: next } = press(state, key, shownRows([...tracks.values()], state));
    state = next;
    if (action === 'quit') return quit.abort();
    const row = tracks.get(state.selected ?? '');
    if (action === 'stop' && row) {
      tell(`stopping ${callIt(row)}`);
      stop(row).then(tell, (error) => tell(String(error.message)));
    }
    show();
  };
  const onResize = () => {
    widths = [];
    show();
  };
  const screen = json || !process.stdout.isTTY ? undefined : openScreen(onKey, onResize);

  try {
    if (screen) show();
    let next = performance.now();
    for (let tick = 0; count === undefined || tick < count; tick++) {
      // if a reading takes longer than the interval, missed ticks are skipped
      next = Math.max(next + intervalSeconds * 1000, performance.now());
      await sleep(next - performance.now(), undefined, { signal: quit.signal });
      tracks = track(tracks, look());
      host = readHost();
      time = new Date();
      show();
    }
  } catch (error) {
    if (!quit.signal.aborted) throw error;
  } finally {
    screen?.close();
  }
}
