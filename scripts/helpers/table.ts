// Tables for people: columns without lines.
import Table from 'cli-table3';
import stringWidth from 'string-width';

type Alignment = 'left' | 'right';
/** Blanks between two columns. */
export const gap = 3;
const none = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .concat('middle')
    .map((name) => [name, '']),
);

/** The width of a text on a terminal. */
export const widthOf = (text: string): number => stringWidth(text);

/** The width of each column, without the gap. */
export const columnWidths = (lines: (string | number)[][]): number[] =>
  (lines[0] ?? []).map((_, column) =>
    lines.reduce((most, line) => Math.max(most, widthOf(String(line[column]))), 0),
  );

/** A table with a head. By default columns are aligned left and as wide as their texts. */
export function table(
  head: string[],
  rows: (string | number)[][],
  { align = [] as Alignment[], widths = columnWidths([head, ...rows]) } = {},
): string {
  const lines = [head, ...rows];
  let text = '';
  // the time of cli-table3 grows with the square of the rows, so every 16 rows are a table, all with the same widths
  for (let start = 0; start < lines.length; start += 16) {
    const part = new Table({
      chars: none,
      style: { head: [], border: [], 'padding-left': 0, 'padding-right': gap },
      colAligns: head.map((_, column) => align[column] ?? 'left'),
      colWidths: widths.map((width) => width + gap),
    });
    part.push(...lines.slice(start, start + 16));
    text += `${part}\n`;
  }
  return text.replace(/ +$/gm, '').trimEnd();
}

/** A text truncated to a width, at its end or front, with an ellipsis; without Unicode with `>` or `<`, as less(1) does. */
export function cut(text: string, width: number, front = false, unicode = true): string {
  if (widthOf(text) <= width) return text;
  const mark = unicode ? '…' : front ? '<' : '>';
  const characters = front ? [...text].reverse() : [...text];
  let left = width - 1;
  const end = characters.findIndex((character) => {
    left -= widthOf(character);
    return left < 0;
  });
  const kept = characters.slice(0, end);
  return width < 1 ? '' : front ? `${mark}${kept.reverse().join('')}` : `${kept.join('')}${mark}`;
}

/**
 * A text in lines that are at most `width` wide. Lines break at blanks; in Chinese, which has none, after any character but
 * before no punctuation.
 */
export function wrap(text: string, width: number): string {
  const lines: string[] = [''];
  for (const [word = ''] of text.matchAll(/\p{Script=Han}\p{P}*|[^\s\p{Script=Han}]+|\s+/gu)) {
    const line = lines.at(-1) as string;
    const isFull = line !== '' && widthOf(line + word.trimEnd()) > width;
    lines[lines.length - 1] = isFull ? line.trimEnd() : line + word;
    if (isFull) lines.push(word.trimStart());
  }
  return lines.join('\n');
}
