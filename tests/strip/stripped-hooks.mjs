// module.register hooks; the modules keep the URLs of the .ts files.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { changed, keptFile } from './kept.mjs';

export async function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return nextLoad(url, context);
  const source = fileURLToPath(url);
  const kept = keptFile(source);
  const isCurrent = kept && changed(kept) === changed(source);
  const text = isCurrent ? await readFile(kept, 'utf8') : await strip(source);
  return { format: 'module', source: text, shortCircuit: true };
}

/** For what strip.mjs has not seen: a copy of a script, or an edit during the run. */
async function strip(file) {
  const { transformSync } = await import('amaro');
  return transformSync(await readFile(file, 'utf8'), { mode: 'strip-only' }).code;
}
