// What all scripts have in common: how they start, what their header says, how they refuse.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { Option } from '../scripts/helpers/cli.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { top } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const scripts = readdirSync(join(top, 'scripts')).filter((name) => name.endsWith('.ts'));
/** This node, and a newer one that strips types itself, where there is one. */
const nodes = [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean);
const passesOnExitCodes = ['run.ts', 'exec.ts'];

const folder = scratchFolder('scripts');

const source = (name: string) => readFileSync(join(top, 'scripts', name), 'utf8');
const header = (name: string) => /\/\*\n([\s\S]*?)\*\//.exec(source(name))?.[1] ?? '';

/** What --help all prints: the header without the marks of usual options. */
const whole = (name: string) => header(name).replace(/^\*/gm, ' ');

/** The sections of a header: their headings, and the text of each. */
function sections(name: string): [heading: string, text: string][] {
  const [, ...rest] = whole(name).split(/^([A-Z]+(?: [A-Z]+)*)$/m);
  return rest.flatMap((text, index) => (index % 2 === 0 ? [[text, rest[index + 1] ?? '']] : [])) as [
    string,
    string,
  ][];
}

const section = (name: string, heading: string) => new Map(sections(name)).get(heading) ?? '';

/** The text of all sections of options: one, or in a long help one for each subject. */
const optionsSections = (name: string) =>
  sections(name)
    .filter(([heading]) => /^(.* )?OPTIONS$/.test(heading))
    .map(([, text]) => text)
    .join('');

/** The names of options that a help describes. */
const describedOptions = (text: string) =>
  [...text.matchAll(/^ +(?:-\w, )?--([\w-]+)/gm)].map(([, option]) => option);

/** Runs a program and gives what a person would see. */
function start(argv: string[], env: NodeJS.ProcessEnv, cwd = folder) {
  const [program = '', ...words] = argv;
  const { status, stdout, stderr } = spawnSync(program, words, { env, cwd, encoding: 'utf8' });
  return { status, stdout, stderr };
}

for (const name of scripts) {
  const path = join(top, 'scripts', name);

  test(`${name} starts as all scripts do, and may be started by all`, () => {
    assert.equal(
      source(name).split('\n', 3).join('\n'),
      `#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "\${self%/*}/helpers/node-ts"
/*`,
    );
    assert.equal((statSync(path).mode & 0o777).toString(8), '755');
  });

  test(`${name} imports packages and what is in folders, never another script`, () => {
    for (const [, module = ''] of source(name).matchAll(/(?: from |import\(|^import )'([^'\n]+)'/gm))
      assert(isBuiltin(module) || /^\.\/[\w-]+\/[\w/-]+\.ts$|^[a-z@]/.test(module), module);
  });

  test(`${name}'s header has its purpose in a line and all sections in order`, () => {
    assert.match(header(name), new RegExp(`^${name}: \\S.*\n\nUSAGE\n`));
    const headings = sections(name).map(([heading]) => heading);
    const changesNothing = /^\s*Nothing\b/.test(section(name, 'CHANGES'));
    const undo = changesNothing && !headings.includes('UNDO') ? [] : ['UNDO'];
    const options = headings.filter((heading) => /^([A-Z]+ )?OPTIONS$/.test(heading));
    const more = headings.includes('MORE EXAMPLES') ? ['MORE EXAMPLES'] : [];
    assert.deepEqual(headings, [
      ...['USAGE', 'EXAMPLES', ...options, ...more, 'CHANGES', ...undo, 'EXIT CODES', 'SEE ALSO'],
    ]);
    assert(options.length > 0);
    assert.match(section(name, 'USAGE'), new RegExp(`^\n  ${name.replace('.', '\\.')}\\b`));
    for (const line of header(name).split('\n'))
      assert(line.length <= 80, `longer than a terminal is wide: ${line}`);
  });

  test(`${name}'s OPTIONS are the options that it takes`, async () => {
    const { options } = (await import(path)) as { options?: Record<string, Option> };
    assert(options, `${name} exports no options`);
    const kebab = (key: string) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const taken = Object.entries({
      ...options,
      help: { short: 'h' } as Option,
      version: {} as Option,
    }).map(
      ([key, { short, parse }]) => `${short ? `-${short}, ` : ''}--${kebab(key)}${parse ? ' VALUE' : ''}`,
    );
    const told = [...optionsSections(name).matchAll(/^ +((?:-\w, )?--[\w-]+)(?: (\S.*?))?(?: {2}|$)/gm)].map(
      ([, flags, value]) => `${flags}${value?.match(/^[A-Z]|\|/) ? ' VALUE' : ''}`,
    );
    assert.deepEqual(told.sort(), taken.sort());
  });

  for (const node of nodes) {
    const version = start([node, '--version'], {}).stdout.trim();
    // node-ts looks for node in PATH, then in the system's folders
    const env = { PATH: `${dirname(node)}:/usr/bin:/bin` };

    test(`${name} --help all is its header, from anywhere and through a symlink, on ${version}`, () => {
      const link = join(folder, `${version}-${name}`);
      symlinkSync(path, link);
      const expected = { status: 0, stdout: whole(name), stderr: '' };
      assert.deepEqual(start([`./${version}-${name}`, '--help', 'all'], env), expected);
    });

    slow(`${name} --help all may be typed in other ways, on ${version}`, () => {
      const expected = { status: 0, stdout: whole(name), stderr: '' };
      assert.deepEqual(start([path, '-h', 'all'], env), expected);
      assert.deepEqual(start([path, '--help=all'], env), expected);
    });

    test(`${name} --help fits a terminal of 80x24, with the prompt below it, on ${version}`, () => {
      const { status, stdout, stderr } = start([path, '--help'], env);
      assert.deepEqual([status, stderr], [0, '']);
      const lines = stdout.split('\n');
      assert.equal(lines.pop(), '');
      assert(lines.length <= 23, `${lines.length} lines`);
      for (const line of lines) assert(line.length <= 80, line);
      if (stdout === whole(name)) return;
      assert.equal(lines[0], header(name).split('\n')[0]);
      for (const heading of ['USAGE', 'EXAMPLES', 'OPTIONS']) assert(lines.includes(heading), heading);
      assert(stdout.includes(`EXAMPLES${section(name, 'EXAMPLES')}`), 'all examples');
      assert.match(lines.at(-1) ?? '', new RegExp(` ${name} --help all$`));
      // usual options are few
      const [usual, all] = [describedOptions(stdout), describedOptions(optionsSections(name))];
      assert(usual.length > 0 && usual.every((option) => all.includes(option)), usual.join());
      assert(usual.length <= 10, usual.join());
    });

    test(`${name} --version is that of package.json, on ${version}`, () => {
      const { name: project, version: number } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
      const expected = { status: 0, stdout: `${project} ${number}\n`, stderr: '' };
      assert.deepEqual(start([path, '--version'], env), expected);
    });

    test(`${name} refuses what it does not know in one line, on ${version}`, () => {
      const script = name.replace('.ts', '');
      assert.deepEqual(start([path, '--no-such-option'], env), {
        status: passesOnExitCodes.includes(name) ? 125 : 2,
        stdout: '',
        stderr: `${script}: unknown option --no-such-option: type ${path} --help\n`,
      });
    });
  }

  slow(`${name} starts with an empty environment, where the system has a node`, (t) => {
    const { status, stdout, stderr } = start([path, '--help'], {});
    if (/node is not in PATH/.test(stderr)) {
      assert.equal(status, 125);
      t.skip('needs a node in /usr/local/bin or /usr/bin');
    } else {
      assert.deepEqual([status, stderr], [0, '']);
      assert.equal(stdout.split('\n')[0], header(name).split('\n')[0]);
    }
  });

  slow(`${name} takes nothing from the folder it is started in`, () => {
    const trap = mkdtempSync(join(folder, 'trap-'));
    const files = ['tsconfig.json', 'package.json', '.npmrc', '.node-options', 'node', 'zx', 'minimist.js'];
    for (const file of files) writeFileSync(join(trap, file), 'no JSON, no JavaScript {');
    assert.equal(start([path, '--help'], { PATH: `${dirname(process.execPath)}:/bin` }, trap).status, 0);
  });
}

test('without a node, a script says so and what to do', () => {
  const program = `self=${join(top, 'scripts/x.ts')}; . ${join(top, 'scripts/helpers/node-ts')}`;
  const { status, stderr } = start(['/bin/sh', '-c', program, 'x.ts'], { PATH: '/nonexistent' });
  // this machine has one in a system folder, unless it was installed elsewhere
  if (status !== 125) return assert.match(stderr, /x\.ts/);
  assert.match(stderr, /^barehand: node is not in PATH .*: under sudo try: sudo env "PATH=\$PATH" x\.ts\n$/);
});

/** A copy of the project, which is built. */
function copyProject(): string {
  const copy = mkdtempSync(join(folder, 'copy-'));
  chmodSync(copy, 0o755);
  const parts = ['scripts', 'dist', 'package.json', 'LICENSE'];
  execFileSync('cp', ['-a', ...parts.map((name) => join(top, name)), copy]);
  symlinkSync(join(top, 'node_modules'), join(copy, 'node_modules'));
  return copy;
}

/** Changes a file and nothing that ls(1) shows of it: neither its size nor its times. */
function edit(file: string, from: string, to: string): void {
  const { atime, mtime } = statSync(file);
  const text = readFileSync(file, 'utf8');
  assert(text.includes(from), from);
  assert.equal(from.length, to.length);
  writeFileSync(file, text.replaceAll(from, to));
  utimesSync(file, atime, mtime);
}

for (const node of nodes) {
  const version = start([node, '--version'], {}).stdout.trim();
  const env = { PATH: `${dirname(node)}:/usr/bin:/bin` };

  test(`what is built is what starts, while it is made of what is there, on ${version}`, () => {
    const copy = copyProject();
    const script = join(copy, 'scripts/stop.ts');
    const built = join(copy, 'dist/stop.mjs');
    const title = () => start([script, '--help'], env).stdout.split('\n')[0];
    const asked = 'stop.ts: stop containers: send a signal, wait, kill the remaining processes';
    assert.equal(title(), asked);
    edit(built, 'stop.ts: stop ', 'stop.ts: BUILT');
    const fromDist = asked.replace('stop.ts: stop ', 'stop.ts: BUILT');
    assert.equal(title(), fromDist);

    // as its user called it
    assert.equal(
      start(['./stop.ts', '--no'], env, join(copy, 'scripts')).stderr,
      'stop: unknown option --no: type ./stop.ts --help\n',
    );

    // the script, a helper, and a package: whatever it is made of
    edit(script, 'kill the remaining', 'slay the remaining');
    assert.equal(title(), asked.replace('kill', 'slay'));
    edit(script, 'slay the remaining', 'kill the remaining');
    assert.equal(title(), fromDist);
    edit(join(copy, 'scripts/helpers/cli.ts'), 'unknown option', 'UNKNOWN option');
    assert.match(start([script, '--no'], env).stderr, /^stop: UNKNOWN option --no/);
    assert.equal(title(), asked);
    edit(join(copy, 'scripts/helpers/cli.ts'), 'UNKNOWN option', 'unknown option');
    assert.equal(title(), fromDist);
    rmSync(join(copy, 'scripts/helpers/lock.ts'));
    assert.match(start([script, '--help'], env).stderr, /lock\.ts/);
  });

  slow(`what others could have written is not started, on ${version}`, { skip: needs('root') }, async () => {
    const copy = copyProject();
    const [script, dist] = [join(copy, 'scripts/stop.ts'), join(copy, 'dist')];
    const built = join(dist, 'stop.mjs');
    edit(built, 'stop.ts: stop ', 'stop.ts: BUILT');
    const startsBuilt = () => start([script, '--help'], env).stdout.startsWith('stop.ts: BUILT');
    assert(startsBuilt());
    chmodSync(built, 0o757);
    assert(!startsBuilt());
    chmodSync(built, 0o755);
    assert(startsBuilt());
    // what start.mjs asks is asked for the rest, without a start each
    const { findBuilt } = await import(join(copy, 'scripts/helpers/built.mjs'));
    const isBuilt = () => findBuilt(script) === built;
    for (const path of [built, dist]) {
      for (const [spoil, repair] of [
        [() => chownSync(path, 65534, 0), () => chownSync(path, 0, 0)],
        [() => chmodSync(path, 0o775), () => chmodSync(path, 0o755)],
        [() => chmodSync(path, 0o757), () => chmodSync(path, 0o755)],
      ] as const) {
        spoil();
        assert(!isBuilt(), path);
        repair();
        assert(isBuilt(), path);
      }
      renameSync(path, `${path}.own`);
      symlinkSync(`${path}.own`, path);
      assert(!isBuilt(), path);
      rmSync(path);
      renameSync(`${path}.own`, path);
    }
    rmSync(dist, { recursive: true });
    assert.match(start([script, '--help'], env).stdout, /^stop\.ts: stop /);
    assert.match(start([script, '--no'], env).stderr, /^stop: unknown option --no/);
  });
}

slow('an install builds, and does without what it would build with', () => {
  const copy = copyProject();
  rmSync(join(copy, 'dist'), { recursive: true });
  const { scripts: steps } = JSON.parse(readFileSync(join(copy, 'package.json'), 'utf8'));
  const env = { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, npm_lifecycle_event: 'prepare' };
  const prepare = () => start(['sh', '-c', `umask 002; ${steps.prepare}`], env, copy);
  assert.deepEqual(prepare(), { status: 0, stdout: '', stderr: '' });
  assert.deepEqual(readdirSync(join(copy, 'dist')).length, scripts.length);
  for (const path of ['dist', 'dist/ps.mjs']) assert.equal(statSync(join(copy, path)).mode & 0o777, 0o755);
  rmSync(join(copy, 'node_modules'));
  assert.deepEqual(prepare(), { status: 0, stdout: '', stderr: '' });
});
