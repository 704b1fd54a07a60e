// start.mjs SCRIPT [ARG...]: what node-ts has node run. Loads what npm run build, or an install, has made of SCRIPT,
// where it is made of just what is there now; else SCRIPT itself, whose types this node or strip-types.mjs strips.
import { closeSync, openSync, realpathSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { findBuilt } from './built.mjs';

// what the script sees is what its user typed
process.argv.splice(1, 1);

/** Calls `load` in /, where the working directory has been removed: node 20 hangs there when it starts a thread. */
async function inSomeDirectory(load) {
  try {
    process.cwd();
  } catch {
    // O_PATH, which node does not name, open(2); only through a descriptor is there a way back
    const here = openSync('.', 0o10000000);
    process.chdir('/');
    await load();
    process.chdir(`/proc/self/fd/${here}`);
    return closeSync(here);
  }
  await load();
}

/** Calls `load` with standard streams that lead nowhere: node connects a thread's with its own, which then don't block. */
async function withoutStreams(load) {
  const { Writable } = await import('node:stream');
  const names = ['stdin', 'stdout', 'stderr'];
  const own = names.map((name) => Object.getOwnPropertyDescriptor(process, name));
  for (const name of names) Object.defineProperty(process, name, { value: new Writable() });
  await load();
  for (const [index, name] of names.entries()) Object.defineProperty(process, name, own[index]);
}

const script = realpathSync(process.argv[1]);
const built = findBuilt(script);
if (!built && !process.features.typescript)
  await withoutStreams(() => inSomeDirectory(() => import('./strip-types.mjs')));
await import(pathToFileURL(built ?? script).href);
