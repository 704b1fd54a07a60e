// start.mjs SCRIPT [ARG...]: what node-ts has node run. Loads SCRIPT, whose types this node or strip-types.mjs strips.
import { closeSync, openSync, realpathSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

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

if (!process.features.typescript) await inSomeDirectory(() => import('./strip-types.mjs'));
await import(pathToFileURL(realpathSync(process.argv[1])).href);
