// Bundles each script into dist/NAME.mjs: one file that runs on a host with nothing but node.
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { build } from 'esbuild';

const scripts = new URL('../', import.meta.url);
const dist = new URL('../../dist/', import.meta.url);
rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);

for (const name of readdirSync(scripts).filter((file) => file.endsWith('.ts'))) {
  const source = readFileSync(new URL(name, scripts), 'utf8');
  // esbuild drops comments and keeps the first line: the header is the help, and a .mjs has no types to strip
  const header = /\/\*\n[\s\S]*?\*\//.exec(source)?.[0];
  if (!header) throw new Error(`${name} has no header comment`);
  const outfile = new URL(name.replace(/\.ts$/, '.mjs'), dist);
  await build({
    stdin: {
      contents: source.replace(/^#!.*\n/, ''),
      sourcefile: name,
      resolveDir: scripts.pathname,
      loader: 'ts',
    },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    minify: true,
    keepNames: true,
    legalComments: 'linked',
    banner: {
      // zx and others call require(), which an ES module has to make for itself
      js: `#!/usr/bin/env node\n${header}\nimport { createRequire as $require } from 'node:module';\nconst require = $require(import.meta.url);`,
    },
    outfile: outfile.pathname,
    logLevel: 'warning',
  });
  chmodSync(outfile, 0o755);
}
