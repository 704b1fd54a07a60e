// Words of messages: what the user probably meant, and the paths of scripts as the user types them.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import { quote } from './shell.ts';

/** The number of letters to insert, remove, replace or swap with the next one to make `word` from `other`. */
function distance(word: string, other: string): number {
  let before: number[] = [];
  let above = Array.from({ length: other.length + 1 }, (_, column) => column);
  for (let row = 1; row <= word.length; row++) {
    const current = [row];
    for (let column = 1; column <= other.length; column++) {
      const same = word[row - 1] === other[column - 1];
      const swapped = word[row - 1] === other[column - 2] && word[row - 2] === other[column - 1];
      current[column] = Math.min(
        (above[column] as number) + 1,
        (current[column - 1] as number) + 1,
        (above[column - 1] as number) + (same ? 0 : 1),
        swapped ? (before[column - 2] as number) + 1 : Number.POSITIVE_INFINITY,
      );
    }
    [before, above] = [above, current];
  }
  return above[other.length] as number;
}

/** The known word that is nearest to a mistyped one, or that it begins; undefined if none is near. */
export function nearest(word: string, known: string[]): string | undefined {
  const typed = word.toLowerCase();
  if (typed.length > 64) return undefined; // the time grows with the square of the length
  const allowed = typed.length < 2 ? 0 : typed.length < 4 ? 1 : 2;
  const begins = (one: string) => typed.length > 2 && one.toLowerCase().startsWith(typed);
  const ranked = known
    .map((one) => ({
      one,
      far: Math.min(distance(typed, one.toLowerCase()), begins(one) ? allowed : Infinity),
    }))
    .filter(({ far }) => far <= allowed)
    .sort((one, other) => one.far - other.far);
  return ranked[0]?.one;
}

/** `: did you mean WORD?` for the end of a message; '' if no known word is near. `form` makes what is typed of a word. */
export function didYouMean(word: string, known: string[], form = (one: string) => one): string {
  const found = nearest(word, known);
  return found === undefined ? '' : `: did you mean ${form(found)}?`;
}

/** The path of this script as its caller typed it: node makes that in process.argv absolute, proc_pid_cmdline(5). */
function typedPath(): string {
  const typed = readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, -1);
  const path = typed[typed.length - process.argv.length + 1] ?? process.argv[1] ?? '';
  return path.includes('/') ? path : `./${path}`;
}

/** The command line of this script, for the shell, as its caller typed it. */
export const typedLine = () => [typedPath(), ...process.argv.slice(2)].map(quote).join(' ');

/**
 * A script, quoted for the shell, by the path that its user would type: `./scripts/ps.ts` for `ps`, if this one was
 * called as `./scripts/run.ts`. Without a name it is this script. If the other one is not beside it, as with a symlink
 * to this one, it is the absolute path; `ps.ts` if there is none.
 */
export function scriptPath(name?: string): string {
  const typed = typedPath();
  if (name === undefined) return quote(typed);
  const places = [typed, realpathSync(process.argv[1] ?? '/')].map((path) => {
    const sibling = join(dirname(path), name + extname(path));
    return path.startsWith('./') ? `./${sibling}` : sibling;
  });
  return quote(places.find((path) => existsSync(path)) ?? `${basename(name)}.ts`);
}
