// Text on a terminal: columns, bars, and the alternate screen. See console_codes(4).
import { writeSync } from 'node:fs';
import { widthOf } from '../helpers/table.ts';

/** A column of text: its title, and how it shrinks on a narrow screen. */
export interface Column {
  title: string;
  right?: boolean;
  /** minimum width, so that columns do not move with each number */
  atLeast?: number;
  /** may be truncated to this width */
  shrinkTo?: number;
  /** left out if shrinking does not suffice; the highest goes first */
  dropOrder?: number;
}

export interface Cell {
  text: string;
  /** a parameter of the terminal's SGR sequence: 31 is red */
  style?: number | undefined;
}

/** A text truncated to a width, at its end or front, with an ellipsis. */
export function cut(text: string, width: number, front = false): string {
  if (widthOf(text) <= width) return text;
  const characters = front ? [...text].reverse() : [...text];
  let left = width - 1;
  const end = characters.findIndex((character) => {
    left -= widthOf(character);
    return left < 0;
  });
  const kept = characters.slice(0, end);
  return width < 1 ? '' : front ? `…${kept.reverse().join('')}` : `${kept.join('')}…`;
}

/** The lines of a table, title first, none wider than `width`. Styles are left out unless `styled`. */
export function layout(columns: Column[], rows: Cell[][], width: number, styled: boolean): string[] {
  const gap = 2;
  const natural = columns.map(({ title, atLeast = 0 }, column) =>
    rows.reduce(
      (most, row) => Math.max(most, widthOf(row[column]?.text ?? '')),
      Math.max(atLeast, widthOf(title)),
    ),
  );
  const shown = columns.map((_, column) => column);
  let widths: number[] = [];
  const excess = () => shown.reduce((sum, column) => sum + (widths[column] ?? 0) + gap, -gap) - width;
  for (;;) {
    widths = [...natural];
    for (const column of shown.toReversed()) {
      const { shrinkTo } = columns[column] as Column;
      const at = widths[column] as number;
      if (shrinkTo !== undefined)
        widths[column] = Math.max(Math.min(at, shrinkTo), at - Math.max(0, excess()));
    }
    const order = (column: number) => columns[column]?.dropOrder ?? 0;
    const first = shown.reduce(
      (most, column) => (order(column) > order(most) ? column : most),
      shown[0] ?? 0,
    );
    if (excess() <= 0 || order(first) === 0) break;
    shown.splice(shown.indexOf(first), 1);
  }
  const line = (cells: Cell[]) => {
    const texts = shown.map((column) => {
      const { text = '', style } = cells[column] ?? {};
      const fitted = cut(text, widths[column] as number);
      const space = ' '.repeat((widths[column] as number) - widthOf(fitted));
      const dressed = styled && style !== undefined ? `\x1b[${style}m${fitted}\x1b[m` : fitted;
      return columns[column]?.right ? space + dressed : dressed + space;
    });
    return texts.join(' '.repeat(gap)).trimEnd();
  };
  const title = line(columns.map(({ title }) => ({ text: title })));
  // lines that are still too long are truncated, without styles, which might be cut in two
  if (excess() > 0) {
    const plain = (cells: Cell[]) => cut(line(cells.map(({ text }) => ({ text }))), width);
    return [cut(title, width), ...rows.map(plain)];
  }
  return [title, ...rows.map(line)];
}

/** A bar of this width, filled to `part` of `whole`; empty text if there is no `whole`. */
export function bar(part: number, whole: number | null, width: number, unicode: boolean): string {
  if (whole === null) return '';
  const share = whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 1;
  const eighths = Math.round(share * width * 8);
  if (!unicode) return `[${'#'.repeat(eighths / 8).padEnd(width, '.')}]`;
  const partial = eighths % 8 === 0 ? '' : '▏▎▍▌▋▊▉'[(eighths % 8) - 1];
  return `▕${('█'.repeat(eighths / 8) + partial).padEnd(width)}▏`;
}

/** The last `width` values as characters of increasing height; `most` is full height. */
export function sparkline(values: number[], most: number, width: number, unicode: boolean): string {
  const heights = unicode ? '▁▂▃▄▅▆▇█' : '_.-=+*%#';
  return values
    .slice(-width)
    .map((value) => {
      const share = most > 0 ? Math.min(1, Math.max(0, value / most)) : 0;
      return heights[Math.round(share * (heights.length - 1))];
    })
    .join('');
}

/** JSON that is safe on a terminal: JSON.stringify escapes control characters, but not DEL, C1 and invisible ones. */
export const toJson = (value: unknown, indent?: number) =>
  JSON.stringify(value, null, indent).replace(/[\x7f-\x9f\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    character
      .split('') // those beyond U+FFFF are two units
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join(''),
  );

/** Whether the locale uses UTF-8, locale(7). */
export const speaksUnicode = ({ LC_ALL, LC_CTYPE, LANG }: NodeJS.ProcessEnv = process.env) =>
  /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG || '');

/** The alternate screen of a terminal. */
export interface Screen {
  width: () => number;
  height: () => number;
  draw: (lines: string[]) => void;
  close: () => void;
}

/**
 * Switches the terminal to its alternate screen, without cursor, in raw mode. `close` restores it, and so does the end of
 * the process, except by SIGKILL. `onKey` gets each key, '' for the end of input.
 */
export function openScreen(onKey: (key: string) => void, onResize: () => void): Screen {
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
  // other programs may have used the terminal while this process was stopped
  process.on('SIGCONT', () => {
    leave();
    enter();
    onResize();
  });
  stdout.on('resize', onResize);
  if (stdin.isTTY) {
    stdin.setEncoding('utf8');
    stdin.on('data', (typed: string) => {
      // function and cursor keys send sequences that begin with ESC: no commands
      for (const key of typed.startsWith('\x1b') ? '' : typed) {
        if (key === '\x1a') {
          leave();
          process.kill(process.pid, 'SIGTSTP'); // here it waits for SIGCONT
          enter();
          onResize();
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
    draw: (lines) => {
      if (open) stdout.write(`\x1b[H${lines.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`);
    },
    close: leave,
  };
}
