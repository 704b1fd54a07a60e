// module.register hooks; the modules keep the URLs of the .ts files.
import { readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const top = fileURLToPath(new URL('../..', import.meta.url));

export async function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return nextLoad(url, context);
  const file = join(process.env.BAREHAND_STRIPPED, relative(top, fileURLToPath(url)));
  return { format: 'module', source: await readFile(file, 'utf8'), shortCircuit: true };
}
