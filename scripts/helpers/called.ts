// How the running script was called, and how others are called the same way.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { attempt } from './pids.ts';
import { findInPath, quote } from './shell.ts';

/** The command line of this process, which has node's own words too, proc_pid_cmdline(5). */
export const typedWords = () => readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, -1);

/** The working directory at the start, where a relative path that was typed begins: exec.ts leaves it for another. */
const startDirectory = attempt(() => process.cwd()) ?? '/proc/self/cwd';
/** The file of this script; of a test that imports this module, the test's. */
const file = attempt(() => realpathSync(process.argv[1] ?? '/')) ?? '/';

/** The file of another script, beside this one, to be started or read. */
export const scriptFile = (name: string) => join(dirname(file), name + extname(file));

/** The words by which a script is called: its path as its caller typed it, or `barehand` and its name. */
interface Call {
  path: string;
  /** the name of the script, if its caller typed `barehand NAME` */
  name?: string;
}

function readCall(): Call {
  const typed = typedWords();
  // node makes the path in process.argv absolute
  const at = typed.length - process.argv.length + 1;
  const path = typed[at] ?? process.argv[1] ?? '';
  const before = typed[at - 1] ?? '';
  const started = basename(process.argv[1] ?? '').replace(/\.\w+$/, '');
  if (/^barehand(\.ts|\.mjs)?$/.test(basename(before)) && path === started)
    return { path: findInPath('barehand') === before ? 'barehand' : before, name: path };
  return { path: path.includes('/') ? path : `./${path}` };
}

const callWords = ({ path, name }: Call) => (name === undefined ? [path] : [path, name]);

/** The command line of this script, for the shell, as its caller typed it. */
export const typedLine = () => [...callWords(readCall()), ...process.argv.slice(2)].map(quote).join(' ');

/**
 * A script, quoted for the shell, as its user would type it: `./scripts/ps.ts` for `ps`, if this one was called as
 * `./scripts/run.ts`; `barehand ps`, if it was called as `barehand run`. Without a name it is this script. If the other
 * one is not beside it, as with a symlink to this one, it is the absolute path; `ps.ts` if there is none.
 */
export function scriptPath(name?: string): string {
  const call = readCall();
  if (name === undefined) return callWords(call).map(quote).join(' ');
  if (call.name !== undefined) return `${quote(call.path)} ${name}`;
  const places = [call.path, file].map((path) => {
    const sibling = join(dirname(path), name + extname(path));
    return path.startsWith('./') ? `./${sibling}` : sibling;
  });
  return quote(places.find((path) => existsSync(resolve(startDirectory, path))) ?? `${name}.ts`);
}

/** The help of this script, with its name as its caller typed it. */
export function asCalled(help: string): string {
  const { name } = readCall();
  return name === undefined ? help : help.replaceAll(`${name}.ts`, `barehand ${name}`);
}
