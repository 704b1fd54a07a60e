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
