// Strips the types of all .ts files of the project into a folder, under their own names: `node strip.mjs FOLDER`.
// Under emulation WebAssembly crashes, and the stripper that runs the .ts files elsewhere is made of it.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transformSync } from 'esbuild';

const top = fileURLToPath(new URL('../..', import.meta.url));
const [folder] = process.argv.slice(2);
for (const part of ['scripts', 'tests'])
  for (const name of readdirSync(join(top, part), { recursive: true }).filter((name) =>
    name.endsWith('.ts'),
  )) {
    const file = join(folder, part, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(
      file,
      transformSync(readFileSync(join(top, part, name), 'utf8'), { loader: 'ts', target: 'node20' }).code,
    );
  }
