// A screenful of text in a terminal: columns, bars, and a screen that is given back as it was. See console_codes(4).
import { writeSync } from 'node:fs';
import { widthOf } from '../helpers/table.ts';

/** Of rows whose cells are texts: a column's title, and how it gives way where the screen is narrow. */
export interface Column {
  title: string;
  right?: boolean;
  /** never narrower than this, so that columns don't move with each number */
  atLeast?: number;
  /** may be cut down to this width */
  shrinkTo?: number;
  /** left out where all that may shrink has; the highest goes first */
  dropOrder?: number;
}

export interface Cell {
  text: string;
  /** a parameter of the terminal's SGR sequence: 31 is red */
  style?: number | undefined;
}

/** A text cut to a width, at its end or at its front, the cut shown. */
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
  // what can't give way any more is cut off, without the styles, which might be cut through
  if (excess() > 0) {
    const plain = (cells: Cell[]) => cut(line(cells.map(({ text }) => ({ text }))), width);
    return [cut(title, width), ...rows.map(plain)];
  }
  return [title, ...rows.map(line)];
}

/** A bar of a width, filled by `part` of `whole`; nothing where there is no whole. */
export function bar(part: number, whole: number | null, width: number, unicode: boolean): string {
  if (whole === null) return '';
  const share = whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 1;
  const eighths = Math.round(share * width * 8);
  if (!unicode) return `[${'#'.repeat(eighths / 8).padEnd(width, '.')}]`;
  const partial = eighths % 8 === 0 ? '' : '▏▎▍▌▋▊▉'[(eighths % 8) - 1];
  return `▕${('█'.repeat(eighths / 8) + partial).padEnd(width)}▏`;
}

/** Values as characters of growing height, the last `width` of them; `most` is as high as it gets. */
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

/** Whether this user's terminal is said to understand UTF-8, locale(7). */
export const speaksUnicode = ({ LC_ALL, LC_CTYPE, LANG }: NodeJS.ProcessEnv = process.env) =>
  /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG || '');

/** A terminal taken over. */
export interface Screen {
  width: () => number;
  height: () => number;
  draw: (lines: string[]) => void;
  close: () => void;
}

/**
 * Takes the terminal over: its second screen, no cursor, keys as they are typed. It is given back by `close`, and
 * when the process ends, however it does, but for SIGKILL. `onKey` gets each key, '' for the end of the input.
 */
export function openScreen(onKey: (key: string) => void, onResize: () => void): Screen {
  const { stdin, stdout } = process;
  let open = false;
  const enter = () => {
    if (open) return;
    open = true;
    if (stdin.isTTY) stdin.setRawMode(true).resume();
    // the second screen; no cursor; a line that is too long, as after a resize, does not go on in the next
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
  // first of all, or the message would be on the screen that is left
  process.prependListener('uncaughtException', leave);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const)
    process.on(signal, () => {
      leave();
      // so that whoever waits for this process learns what ended it, wait(2)
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    });
  // whoever stopped and continued it may have used the terminal meanwhile
  process.on('SIGCONT', () => {
    leave();
    enter();
    onResize();
  });
  stdout.on('resize', onResize);
  if (stdin.isTTY) {
    stdin.setEncoding('utf8');
    stdin.on('data', (typed: string) => {
      // what a key beyond the letters sends begins with ESC and is none of ours
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
    // a terminal that does not know its size says 0
    // and at the end of a full line clearing the rest would take its last character
    width: () => (stdout.columns || 80) - 1,
    height: () => stdout.rows || 24,
    // in one write, over what is there, each line's rest and then the screen's rest cleared: nothing flickers
    draw: (lines) => {
      if (open) stdout.write(`\x1b[H${lines.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`);
    },
    close: leave,
  };
}
