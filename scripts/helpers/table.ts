// Tables for people: columns, without lines between them.
import Table from 'cli-table3';
import stringWidth from 'string-width';

type Alignment = 'left' | 'right';
/** Between two columns. */
export const gap = 3;
const none = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .concat('middle')
    .map((name) => [name, '']),
);

/** How many columns of a terminal a text takes. */
export const widthOf = (text: string): number => stringWidth(text);

/** How wide each column has to be, without the gap to the next. */
export const columnWidths = (lines: (string | number)[][]): number[] =>
  (lines[0] ?? []).map((_, column) =>
    lines.reduce((most, line) => Math.max(most, widthOf(String(line[column]))), 0),
  );

/** A table with a head. `align` is left where it says nothing; `widths` default to what the texts need. */
export function table(
  head: string[],
  rows: (string | number)[][],
  { align = [] as Alignment[], widths = columnWidths([head, ...rows]) } = {},
): string {
  const lines = [head, ...rows];
  let text = '';
  // cli-table3 takes time in the square of the rows of a table, so some rows each are one, of the same widths
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
