// How the running script was called.
import { isAbsolute, relative } from 'node:path';
import { quote } from './shell.ts';

/** The path by which the running script can be started again, quoted for a shell: as it was called, or from here. */
export function asCalled(): string {
  const [, script = ''] = process.argv;
  // node makes the path of a built script absolute
  const path = isAbsolute(script) && process.cwd() !== '/' ? relative('.', script) : script;
  if (path.startsWith('../')) return quote(script);
  return quote(path.includes('/') ? path : `./${path}`);
}
