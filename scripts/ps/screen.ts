// Text on a terminal: columns, bars, and the alternate screen. See console_codes(4).
import { writeSync } from 'node:fs';
import { columnWidths, cut, widthOf } from '../helpers/table.ts';

/** A column of text: its title, and how it shrinks on a narrow screen. */
export interface Column {
  title: string;
  right?: boolean;
  /** minimum width, so that columns do not move with each number */
  atLeast?: number;
  /** is truncated to this width */
  atMost?: number;
  /** is truncated at its front, since the end of a path says most */
  front?: boolean;
  /** may be truncated to this width */
  shrinkTo?: number;
  /** the same, but only when no column can be left out any more */
  shrinkLastTo?: number;
  /** left out if shrinking does not suffice; the highest goes first */
  dropOrder?: number;
}

export interface Cell {
  text: string;
  /** a parameter of the terminal's SGR sequence: 31 is red */
  style?: number | undefined;
}

/** The text for a terminal that may not show it: without Unicode, `?` takes the place of every other character. */
export const shownText = (text: string, unicode: boolean) =>
  unicode ? text : text.replace(/[^\x20-\x7e]/gu, '?');

/** SGR parameters, console_codes(4). */
export const red = 31;
export const yellow = 33;

/** The text in a style, for a terminal. */
export const dress = (text: string, style: number) => `\x1b[${style}m${text}\x1b[m`;

/** The style of a value near its limit. */
export function nearness(used: number, limit: number | null): number | undefined {
  const part = limit === null ? 0 : used / limit;
  return part >= 0.95 ? red : part >= 0.8 ? yellow : undefined;
}

/** Whether NO_COLOR, https://no-color.org, allows colours. */
export const allowsColour = ({ NO_COLOR }: NodeJS.ProcessEnv = process.env) => !NO_COLOR;

/**
 * How a table fits into `width`: the columns that are shown, and the width of each column. The last column shrinks first.
 * `excess`: by how many columns of the terminal the table is still too wide.
 */
export function fit(columns: Column[], rows: string[][], width: number, gap: number) {
  const natural = columnWidths([columns.map(({ title }) => title), ...rows]).map((widest, column) => {
    const { atLeast = 0, atMost = Number.POSITIVE_INFINITY } = columns[column] as Column;
    return Math.min(atMost, Math.max(atLeast, widest));
  });
  const shown = [...columns.keys()];
  for (;;) {
    const widths = [...natural];
    const excess = () => shown.reduce((sum, column) => sum + (widths[column] ?? 0) + gap, -gap) - width;
    const shrink = (limit: 'shrinkTo' | 'shrinkLastTo') => {
      for (const column of shown.toReversed()) {
        const widest = widths[column] ?? 0;
        const least = Math.min(widest, columns[column]?.[limit] ?? widest);
        widths[column] = Math.max(least, widest - Math.max(0, excess()));
      }
    };
    shrink('shrinkTo');
    const order = (column: number) => columns[column]?.dropOrder ?? 0;
    const [first = 0] = shown.toSorted((one, other) => order(other) - order(one));
    if (excess() > 0 && order(first) > 0) {
      shown.splice(shown.indexOf(first), 1);
      continue;
    }
    shrink('shrinkLastTo');
    return { shown, widths, excess: excess() };
  }
}

/** The lines of a table, title first, none wider than `width`. Styles are left out unless `styled`. */
export function layout(
  columns: Column[],
  rows: Cell[][],
  width: number,
  styled: boolean,
  unicode = true,
): string[] {
  const gap = 2;
  const texts = rows.map((row) => row.map(({ text }) => text));
  const { shown, widths, excess } = fit(columns, texts, width, gap);
  const line = (cells: Cell[]) => {
    const fitted = shown.map((column) => {
      const { text = '', style } = cells[column] ?? {};
      const part = cut(text, widths[column] ?? 0, columns[column]?.front, unicode);
      const space = ' '.repeat((widths[column] ?? 0) - widthOf(part));
      // a line that is still too long is truncated, and a sequence in it might be cut in two
      const dressed = styled && style && part && excess <= 0 ? dress(part, style) : part;
      return columns[column]?.right ? space + dressed : dressed + space;
    });
    return cut(fitted.join(' '.repeat(gap)).trimEnd(), width, false, unicode);
  };
  return [columns.map(({ title }) => ({ text: title })), ...rows].map(line);
}

/** What part of `whole` it is, from 0 to 1. */
const share = (part: number, whole: number) => (part > 0 ? Math.min(1, part / whole) : 0);

/** A bar of this width, filled to `part` of `whole`; empty text if there is no `whole`. */
export function bar(part: number, whole: number | null, width: number, unicode: boolean): string {
  if (whole === null) return '';
  const eighths = Math.round(share(part, whole) * width * 8);
  if (!unicode) return `[${'#'.repeat(eighths / 8).padEnd(width, '.')}]`;
  const partial = eighths % 8 === 0 ? '' : '▏▎▍▌▋▊▉'[(eighths % 8) - 1];
  return `▕${('█'.repeat(eighths / 8) + partial).padEnd(width)}▏`;
}

/** The last `width` values as characters of increasing height; `most` is full height. */
export function sparkline(values: number[], most: number, width: number, unicode: boolean): string {
  const heights = unicode ? '▁▂▃▄▅▆▇█' : '_.-=+*%#';
  return values
    .slice(-width)
    .map((value) => heights[Math.round(share(value, most) * (heights.length - 1))])
    .join('');
}

/** Whether the locale uses UTF-8, locale(7). */
export const speaksUnicode = ({ LC_ALL, LC_CTYPE, LANG }: NodeJS.ProcessEnv = process.env) =>
  /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG || '');

/** Keys that send more than a character, or one that does not show, console_codes(4). */
const keyNames: Record<string, string> = {
  ...{ '\x1b[A': 'up', '\x1b[B': 'down', '\x1bOA': 'up', '\x1bOB': 'down' },
  ...{ '\r': 'enter', '\n': 'enter', '\x1b': 'escape', '\x7f': 'backspace', '\b': 'backspace' },
};

/** The keys that were typed: characters, or names of keyNames. Other sequences that begin with ESC are left out. */
export const keysIn = (typed: string): string[] =>
  (typed.match(/\x1b\[[\d;?]*[ -/]*[@-~]|\x1bO.|./gsu) ?? []).flatMap(
    (key) => keyNames[key] ?? (key.length > 2 ? [] : key),
  );

/**
 * Switches the terminal to its alternate screen, without cursor, in raw mode. `close` restores it, and so does the end of
 * the process, except by SIGKILL. `onKey` gets each key, '' for the end of input.
 */
export function openScreen(onKey: (key: string) => void, onResize: () => void) {
  const { stdin, stdout } = process;
  let open = false;
  const enter = () => {
    if (open) return;
    open = true;
    if (stdin.isTTY) stdin.setRawMode(true).resume();
    // alternate screen; no cursor; no wrapping of lines that are too long, as after a resize
    stdout.write('\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J');
  };
  const leave = () => {
    if (!open) return;
    open = false;
    try {
      if (stdin.isTTY) stdin.setRawMode(false).pause();
      writeSync(1, '\x1b[?7h\x1b[?25h\x1b[?1049l');
    } catch {
      // the terminal is gone
    }
  };
  process.on('exit', leave);
  // before other handlers, whose messages would be lost with the alternate screen
  process.prependListener('uncaughtException', leave);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const)
    process.on(signal, () => {
      leave();
      // so that the parent learns which signal ended this process, wait(2)
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    });
  const resume = () => {
    leave(); // other programs may have used the terminal while this process was stopped
    enter();
    onResize();
  };
  process.on('SIGCONT', resume);
  stdout.on('resize', onResize);
  if (stdin.isTTY) {
    stdin.setEncoding('utf8');
    stdin.on('data', (typed: string) => {
      for (const key of keysIn(typed)) {
        if (key === '\x1a') {
          leave();
          process.kill(process.pid, 'SIGTSTP'); // here it waits for SIGCONT, or goes on if nobody could send that
          resume();
        } else onKey(key);
      }
    });
    stdin.on('end', () => onKey(''));
  }
  enter();
  return {
    // a terminal without a size reports 0
    // and clearing the rest of a full line would delete its last character
    width: () => (stdout.columns || 80) - 1,
    height: () => stdout.rows || 24,
    // one write over the old frame, clearing the rest of each line and of the screen: no flicker
    draw: (lines: string[]) => {
      if (open) stdout.write(`\x1b[H${lines.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`);
    },
    close: leave,
  };
}
