// Strips the types of all .ts files of the project that have changed since the last time. A test run does this once: node's
// stripper is WebAssembly, whose start costs a test process more than the rest of its start, and which crashes where the
// processor is emulated, in a VM.
import { mkdirSync, readdirSync, readFileSync, renameSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { changed, keptFile, top } from './kept.mjs';

for (const part of ['scripts', 'tests'])
  for (const name of readdirSync(join(top, part), { recursive: true })) {
    const source = join(top, part, name);
    const kept = keptFile(source);
    const time = changed(source);
    if (!name.endsWith('.ts') || time === changed(kept)) continue;
    const { transformSync } = await import('amaro'); // its start takes time
    const { code } = transformSync(readFileSync(source, 'utf8'), { mode: 'strip-only' });
    // another run may read it
    const partial = `${kept}.${process.pid}`;
    mkdirSync(dirname(kept), { recursive: true });
    writeFileSync(partial, code);
    utimesSync(partial, time / 1000, time / 1000);
    renameSync(partial, kept);
  }
