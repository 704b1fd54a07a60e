// module.register hooks: the same stripping that newer nodes have built in (amaro is node's own stripper).
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { transformSync } from 'amaro';

/** Load .ts files as ES modules with their types blanked out; everything else as node does. */
export async function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return nextLoad(url, context);
  const source = await readFile(fileURLToPath(url), 'utf8');
  const { code } = transformSync(source, { mode: 'strip-only' });
  return { format: 'module', source: code, shortCircuit: true };
}
