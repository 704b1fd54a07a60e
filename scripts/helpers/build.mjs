// Bundles each script into dist/NAME.mjs: one readable file that runs on a host with nothing but node.
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe } from './built.mjs';

const top = fileURLToPath(new URL('../../', import.meta.url));
const dist = join(top, 'dist');

// npm runs this after an install too; without the development packages there is nothing to build with, nor a need
const { build } = await import('esbuild').catch((error) => {
  if (error.code !== 'ERR_MODULE_NOT_FOUND' || process.env.npm_lifecycle_event !== 'prepare') throw error;
  process.exit(0);
});

const contents = new Map();
/** A file's bytes at the first look: what a built file is made of is what it says, also where files change meanwhile. */
function read(path) {
  const bytes = contents.get(path) ?? readFileSync(path);
  contents.set(path, bytes);
  return bytes;
}

/** Which files are embedded in which module: esbuild does not know of them. */
const embedded = new Map();

/** Puts the text of a file in place of each `embedded(import.meta.url, './FILE')` of helpers/embedded.ts. */
function embed(source, path) {
  const files = [];
  embedded.set(path, files);
  return source.replace(/\bembedded\(\s*import\.meta\.url,\s*'([^']+)',?\s*\)/g, (_, name) => {
    files.push(join(dirname(path), name));
    // a template literal stays readable in dist
    const text = read(files.at(-1))
      .toString()
      .replace(/[\\`]|\$\{/g, '\\$&');
    return `\`${text}\``;
  });
}

const embedding = {
  name: 'embedded',
  setup: ({ onLoad }) =>
    onLoad({ filter: /\/scripts\/.*\.ts$/ }, ({ path }) => ({
      contents: embed(read(path).toString(), path),
      loader: 'ts',
    })),
};

/**
 * Modules of Node that take long to load, where scripts/images/ imports them: a script that loads images by import() loads
 * these with them. An import of an ES module would stand at the top of the built file, and cost each start.
 */
const lateBuiltins = {
  name: 'late',
  setup({ onResolve, onLoad }) {
    const filter = /^node:(crypto|fs\/promises|https?|stream\/promises|tls|v8|zlib)$/;
    onResolve({ filter }, ({ path, importer }) =>
      importer.startsWith(join(top, 'scripts/images/')) ? { path, namespace: 'late' } : undefined,
    );
    onLoad({ filter: /.*/, namespace: 'late' }, ({ path }) => ({
      // under another name, else esbuild takes it for an import
      contents: `const load = require; module.exports = load(${JSON.stringify(path)})`,
      loader: 'js',
    }));
  },
};

/** The script as one ES module. Not minified: it starts as fast, and whoever runs it as root can read it. */
async function bundle(name) {
  const path = join(top, 'scripts', name);
  const source = read(path).toString();
  // esbuild drops comments and keeps the first line: the header is the help, and a .mjs has no types to strip
  const header = /\/\*\n[\s\S]*?\*\//.exec(source)?.[0];
  if (!header) throw new Error(`${name} has no header comment`);
  const { outputFiles, metafile } = await build({
    stdin: {
      contents: embed(source.replace(/^#!.*\n/, ''), path),
      sourcefile: name,
      resolveDir: join(top, 'scripts'),
      loader: 'ts',
    },
    absWorkingDir: top,
    bundle: true,
    plugins: [embedding, lateBuiltins],
    // its ES module imports node:process, which opens the standard streams and makes pipes non-blocking
    alias: { 'zx/core': join(top, 'node_modules/zx/build/core.cjs') },
    platform: 'node',
    format: 'esm',
    target: 'node20',
    legalComments: 'none', // the whole texts are at the end
    write: false,
    metafile: true,
    logLevel: 'warning',
    banner: {
      // zx and others call require(), which an ES module has to make for itself
      // The second line is a comment to node; to sh, // is a directory, and what follows starts node. Node opens
      // /dev/null in place of a closed standard output: sh makes it one that can't be written, so that is noticed.
      // --: node takes --env-file for itself, wherever it stands
      js: `#!/bin/sh
// 2>/dev/null; { :; } 2>/dev/null 3>&1 || exec 1</dev/null; exec node -- "$0" "$@"
${header}
// Built from scripts/${name}; the project's own code comes last, before the licences.
import { createRequire as $require } from 'node:module';
const require = $require(import.meta.url);
// cron and env -i leave a bare PATH: the system's own folders are added, as helpers/node-ts does for the .ts files
process.env.PATH = [process.env.PATH, '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'].filter(Boolean).join(':');`,
    },
  });
  if (outputFiles[0].text.includes('embedded(import.meta'))
    throw new Error(`${name}: embedded() is not called as build.mjs expects it`);
  const inputs = Object.keys(metafile.inputs).filter((input) => !input.startsWith('late:'));
  const files = inputs.flatMap((input) => [
    input,
    ...(embedded.get(join(top, input)) ?? []).map((file) => relative(top, file)),
  ]);
  const madeOf = describe([...new Set(files)], read);
  return `${outputFiles[0].text}\n/*\n${licences(inputs).replaceAll('*/', '* /')}*/\n${madeOf}`;
}

/** Names, versions and licence texts of this project and of the packages that the files are from; each text once. */
function licences(files) {
  const packages = new Set(files.map((file) => /^(?:.*node_modules\/(?:@[^/]+\/)?[^/]+|)/.exec(file)[0]));
  const namesByText = new Map();
  for (const folder of [...packages].sort()) {
    const { name, version } = JSON.parse(readFileSync(join(top, folder, 'package.json'), 'utf8'));
    const texts = ['', 'build'] // zx keeps a list of what it bundles in build/
      .flatMap((sub) => listFolder(join(top, folder, sub)))
      .filter((file) => /\/(licen[cs]e|notice|3rd-party-licenses)[^/]*$/i.test(file));
    if (texts.length === 0) throw new Error(`${name} has no licence text: ${folder}`);
    for (const file of texts) {
      const text = readFileSync(file, 'utf8').trim();
      namesByText.set(text, [...(namesByText.get(text) ?? []), `${name} ${version}`]);
    }
  }
  return [...namesByText].map(([text, names]) => `==== ${names.join(', ')}\n\n${text}\n\n`).join('');
}

function listFolder(folder) {
  try {
    return readdirSync(folder).map((name) => join(folder, name));
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
    return [];
  }
}

mkdirSync(dist, { recursive: true });
chmodSync(dist, 0o755); // whatever the umask: what others may write start.mjs does not use
const names = readdirSync(join(top, 'scripts')).filter((file) => file.endsWith('.ts'));
const built = await Promise.all(
  names.map(async (name) => {
    const file = join(dist, name.replace(/\.ts$/, '.mjs'));
    const text = await bundle(name);
    // whoever runs the old one meanwhile keeps it whole, and a second build at the same time does no harm
    const fresh = `${file}.${process.pid}`;
    writeFileSync(fresh, text);
    chmodSync(fresh, 0o755);
    renameSync(fresh, file);
    return file;
  }),
);
for (const file of listFolder(dist)) if (file.endsWith('.mjs') && !built.includes(file)) rmSync(file);
