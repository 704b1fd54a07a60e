// How the running script was called, and how others are called the same way.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { quote } from './shell.ts';

/** The command line of this process, which has node's own words too, proc_pid_cmdline(5). */
export const typedWords = () => readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, -1);

/** The path of this script as its caller typed it: node makes that in process.argv absolute. */
function typedPath(): string {
  const typed = typedWords();
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
  return quote(places.find((path) => existsSync(path)) ?? `${name}.ts`);
}
