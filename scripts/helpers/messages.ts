// What messages are made of: text of others, and suggestions.
import { printable } from './pids.ts';

export { printable as escapeControls } from './pids.ts';

/** How many letters to insert, remove, replace or swap with their neighbour make one word of another. */
function distance(one: string, other: string): number {
  const rows = [Array.from({ length: other.length + 1 }, (_, column) => column)];
  const at = (row: number, column: number) => rows[row]?.[column] ?? Infinity;
  for (let row = 1; row <= one.length; row++) {
    rows[row] = [row];
    for (let column = 1; column <= other.length; column++) {
      const isSame = one[row - 1] === other[column - 1];
      const isSwap = one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1];
      (rows[row] as number[])[column] = Math.min(
        at(row - 1, column) + 1,
        at(row, column - 1) + 1,
        at(row - 1, column - 1) + (isSame ? 0 : 1),
        isSwap ? at(row - 2, column - 2) + 1 : Infinity,
      );
    }
  }
  return at(one.length, other.length);
}

/**
 * `: did you mean NAME?` with the name that is nearest to a mistyped word, or that it begins, after `prefix`; '' if none is
 * near.
 */
export function didYouMean(word: string, names: string[], prefix = ''): string {
  if (word.length > 64) return ''; // the time grows with the square of the length
  const typed = word.toLowerCase();
  const most = Math.ceil(Math.min(word.length, 12) / 4);
  const editsTo = (name: string) => {
    const edits = distance(typed, name.toLowerCase());
    return typed.length > 2 && name.toLowerCase().startsWith(typed) ? Math.min(edits, most) : edits;
  };
  const near = names
    .filter((name) => name !== word)
    .map((name) => ({ name, edits: editsTo(name) }))
    .sort((one, other) => one.edits - other.edits)
    .at(0);
  if (!near || near.edits > most) return '';
  return `: did you mean ${printable(prefix + near.name)}?`;
}
