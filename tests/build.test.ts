// dist's files, each copied alone into an empty folder, as on a host that has nothing but node.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path';
import { before, test } from 'node:test';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { rootfs, top } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const scripts = readdirSync(join(top, 'scripts')).filter((name) => name.endsWith('.ts'));
const nodes = [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean);
const folder = scratchFolder('build');
before(() => execFileSync(process.execPath, [join(top, 'scripts/helpers/build.mjs')]));

/** A copy of dist/NAME.mjs in a folder of its own. */
function alone(name: string): string {
  const file = join(mkdtempSync(join(folder, `${name}-`)), `${name}.mjs`);
  copyFileSync(join(top, 'dist', `${name}.mjs`), file);
  return file;
}

/** Runs a file with a node. Its environment has no PATH, as the strictest sudo or cron would have it. */
function start(node: string, file: string, ...words: string[]) {
  const { status, stdout, stderr } = spawnSync(node, [file, ...words], {
    env: {},
    cwd: dirname(file),
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

const versionOf = (node: string) => execFileSync(node, ['--version'], { encoding: 'utf8' }).trim();

test('dist has a file for each script and nothing else', () => {
  const files = readdirSync(join(top, 'dist')).sort();
  assert.deepEqual(files, scripts.map((name) => name.replace('.ts', '.mjs')).sort());
  for (const file of files) assert.equal((statSync(join(top, 'dist', file)).mode & 0o777).toString(8), '755');
});

for (const script of scripts) {
  const name = script.replace('.ts', '');
  const text = () => readFileSync(join(top, 'dist', `${name}.mjs`), 'utf8');

  test(`dist/${name}.mjs needs nothing but node`, () => {
    const code = text().slice(0, text().lastIndexOf('\n/*\n'));
    for (const [, ...modules] of code.matchAll(
      /^import [^"\n]*"([^"]+)";$|^\} from "([^"]+)";$|\bimport\("([^"]+)"\)/gm,
    ))
      assert(isBuiltin(modules.find(Boolean) as string), modules.join());
  });

  test(`dist/${name}.mjs names what is in it, with the licences`, () => {
    const [code = '', licences = ''] = text().split(/\n\/\*\n(?===== )/);
    const packages = [...code.matchAll(/^\/\/ node_modules\/((?:@[^/]+\/)?[^/]+)/gm)].map(
      ([, module]) => module,
    );
    assert(packages.includes('minimist'));
    const told = [...licences.matchAll(/^==== (.*)$/gm)].flatMap(([, names = '']) => names.split(', '));
    for (const module of new Set(packages)) {
      const { version } = JSON.parse(
        readFileSync(join(top, 'node_modules', module as string, 'package.json'), 'utf8'),
      );
      assert(told.includes(`${module} ${version}`), module);
    }
    assert(told.includes('barehand 0.1.0'));
    assert.match(licences, /Permission is hereby granted, free of charge/);
    assert.match(licences, /Apache License\n/);
  });

  for (const node of nodes) {
    test(`dist/${name}.mjs, alone in a folder, has the script's help, on ${versionOf(node)}`, () => {
      const header = /\/\*\n([\s\S]*?)\*\//.exec(readFileSync(join(top, 'scripts', script), 'utf8'))?.[1];
      const stdout = header?.replace(/^\*/gm, ' ');
      assert.deepEqual(start(node, alone(name), '--help', 'all'), { status: 0, stdout, stderr: '' });
    });

    slow(`dist/${name}.mjs, alone in a folder, knows its version, on ${versionOf(node)}`, () => {
      const { version } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
      const expected = { status: 0, stdout: `barehand ${version}\n`, stderr: '' };
      assert.deepEqual(start(node, alone(name), '--version'), expected);
    });

    slow(`dist/${name}.mjs, alone in a folder, refuses what it does not know, on ${versionOf(node)}`, () => {
      const file = alone(name);
      const { status, stdout, stderr } = start(node, file, '--no-such-option');
      assert.equal(status, ['run', 'exec'].includes(name) ? 125 : 2);
      assert.equal(stdout, '');
      assert.equal(stderr, `${name}: unknown option --no-such-option: type ${file} --help\n`);
    });
  }
}

test('a built file is started by its first line', () => {
  const { status, stdout } = spawnSync(alone('ps'), ['--help'], {
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin` },
    encoding: 'utf8',
  });
  assert.equal(status, 0);
  assert.match(stdout, /^ps\.ts: /);
});

for (const node of nodes) {
  test(`the built run passes on exit codes, on ${versionOf(node)}`, container, () => {
    const run = alone('run');
    const codes: [code: number, ...command: string[]][] = [
      [0, 'true'],
      [42, 'sh', '-c', 'exit 42'],
      [126, '/etc/passwd'],
      [127, '/no/such/program'],
      [137, 'sh', '-c', 'kill -9 $$'],
    ];
    for (const [code, ...command] of codes) {
      const { status, stderr } = start(
        node,
        run,
        '--name',
        newName(),
        rootfs,
        'sh',
        '-c',
        '"$@"; exit $?',
        '-',
        ...command,
      );
      assert.equal(status, code, `${command.join(' ')}: ${stderr}`);
    }
    assert.equal(start(node, run, '--name', newName(), join(folder, 'missing')).status, 125);
  });

  test(`what the built scripts do together is what the scripts do, on ${versionOf(node)}`, container, () => {
    const made = join(mkdtempSync(join(folder, 'rootfs-')), 'made');
    const fetched = start(node, alone('fetch-rootfs'), 'host:', made);
    assert.equal(fetched.status, 0, fetched.stderr);
    const name = newName();
    const files = ['run', 'ps', 'limit-memory'].map(alone) as [string, string, string];
    const [run, ps, limit] = files.map((file) => `'${node}' '${file}'`);
    const session = `${run} --name ${name} '${made}' sleep 60 & launcher=$!
      until ${ps} --json | grep -q '"${name}"'; do sleep 0.1; done
      ${limit} ${name} 64M
      ${ps}
      kill $launcher; wait $launcher; echo "ended with $?"`;
    const { stdout, stderr } = spawnSync('/bin/bash', ['-c', session], {
      env: {},
      encoding: 'utf8',
      cwd: folder,
    });
    assert.match(stdout, new RegExp(`^${name}: memory limit none -> 64 MiB`, 'm'), stderr);
    assert.match(stdout, new RegExp(`^${name} .* sleep 60 .*/ 64 MiB`, 'm'), stderr);
    assert.match(stdout, /^ended with 143$/m, stderr);
  });
}

test('the build leaves what is not its own alone, and clears what it made for a script that is gone', () => {
  const copy = join(folder, 'copy');
  mkdirSync(join(copy, 'dist'), { recursive: true });
  execFileSync('cp', ['-a', ...['scripts', 'package.json', 'LICENSE'].map((name) => join(top, name)), copy]);
  execFileSync('ln', ['-s', join(top, 'node_modules'), copy]);
  for (const file of ['gone.mjs', 'notes']) copyFileSync(join(top, 'package.json'), join(copy, 'dist', file));
  for (const name of scripts.slice(1)) rmSync(join(copy, 'scripts', name));
  execFileSync(process.execPath, [join(copy, 'scripts/helpers/build.mjs')]);
  assert.deepEqual(readdirSync(join(copy, 'dist')).sort(), [scripts[0]?.replace('.ts', '.mjs'), 'notes']);
});
