// What all scripts have in common: how they start, what their header says, how they refuse.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import type { Option } from '../scripts/helpers/cli.ts';
import { top } from './helpers/script.ts';

const scripts = readdirSync(join(top, 'scripts')).filter((name) => name.endsWith('.ts'));
/** This node, and a newer one that strips types itself, where there is one. */
const nodes = [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean);
const passesOnExitCodes = ['run.ts', 'exec.ts'];

const folder = mkdtempSync(join(tmpdir(), 'barehand-scripts-'));
after(() => rmSync(folder, { recursive: true }));

const source = (name: string) => readFileSync(join(top, 'scripts', name), 'utf8');
const header = (name: string) => /\/\*\n([\s\S]*?)\*\//.exec(source(name))?.[1] ?? '';

/** The sections of a header: their headings, and the text of each. */
function sections(name: string): [heading: string, text: string][] {
  const [, ...rest] = header(name).split(/^([A-Z]+(?: [A-Z]+)*)$/m);
  return rest.flatMap((text, index) => (index % 2 === 0 ? [[text, rest[index + 1] ?? '']] : [])) as [
    string,
    string,
  ][];
}

const section = (name: string, heading: string) => new Map(sections(name)).get(heading) ?? '';

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
// 2>/dev/null; exec "$(dirname "$(readlink -f "$0")")/helpers/node-ts" "$0" "$@"
/*`,
    );
    assert.equal((statSync(path).mode & 0o777).toString(8), '755');
  });

  test(`${name} imports packages and helpers, never another script`, () => {
    for (const [, module = ''] of source(name).matchAll(/(?: from |import\(|^import )'([^'\n]+)'/gm))
      assert(isBuiltin(module) || /^\.\/helpers\/[\w-]+\.ts$|^[a-z@]/.test(module), module);
  });

  test(`${name}'s header has its purpose in a line and all sections in order`, () => {
    assert.match(header(name), new RegExp(`^${name}: \\S.*\n\nUSAGE\n`));
    const headings = sections(name).map(([heading]) => heading);
    const changesNothing = /^\s*Nothing\b/.test(section(name, 'CHANGES'));
    const undo = changesNothing && !headings.includes('UNDO') ? [] : ['UNDO'];
    assert.deepEqual(headings, ['USAGE', 'OPTIONS', 'EXAMPLES', 'CHANGES', ...undo, 'SEE ALSO']);
    assert.match(section(name, 'USAGE'), new RegExp(`^\n  ${name.replace('.', '\\.')}\\b`));
    for (const line of header(name).split('\n'))
      assert(line.length <= 120, `longer than a terminal is wide: ${line}`);
  });

  test(`${name}'s OPTIONS are the options that it takes`, async () => {
    const { options } = (await import(path)) as { options?: Record<string, Option> };
    assert(options, `${name} exports no options`);
    const kebab = (key: string) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const taken = Object.entries({ ...options, help: { short: 'h' } as Option }).map(
      ([key, { short, parse }]) => `${short ? `-${short}, ` : ''}--${kebab(key)}${parse ? ' VALUE' : ''}`,
    );
    const told = [
      ...section(name, 'OPTIONS').matchAll(/^ +((?:-\w, )?--[\w-]+)(?: (\S.*?))?(?: {2}|$)/gm),
    ].map(([, flags, value]) => `${flags}${value?.match(/^[A-Z]|\|/) ? ' VALUE' : ''}`);
    assert.deepEqual(told.sort(), taken.sort());
  });

  for (const node of nodes) {
    const version = start([node, '--version'], {}).stdout.trim();
    // node-ts looks for node in PATH, then in the system's folders
    const env = { PATH: `${dirname(node)}:/usr/bin:/bin` };

    test(`${name} --help is its header, from anywhere and through a symlink, on ${version}`, () => {
      const link = join(folder, `${version}-${name}`);
      symlinkSync(path, link);
      const expected = { status: 0, stdout: header(name), stderr: '' };
      assert.deepEqual(start([link, '--help'], env), expected);
      assert.deepEqual(start([`./${version}-${name}`, '-h'], env), expected);
    });

    test(`${name} refuses what it does not know in one line, on ${version}`, () => {
      const script = name.replace('.ts', '');
      assert.deepEqual(start([path, '--no-such-option'], env), {
        status: passesOnExitCodes.includes(name) ? 125 : 2,
        stdout: '',
        stderr: `${script}: unknown option --no-such-option\nTry '${name} --help'.\n`,
      });
    });
  }

  test(`${name} starts with an empty environment, where the system has a node`, (t) => {
    const { status, stdout, stderr } = start([path, '--help'], {});
    if (/node is not in PATH/.test(stderr)) {
      assert.equal(status, 125);
      t.skip('needs a node in /usr/local/bin or /usr/bin');
    } else assert.deepEqual([status, stdout, stderr], [0, header(name), '']);
  });

  test(`${name} takes nothing from the folder it is started in`, () => {
    const trap = mkdtempSync(join(folder, 'trap-'));
    const files = ['tsconfig.json', 'package.json', '.npmrc', '.node-options', 'node', 'zx', 'minimist.js'];
    for (const file of files) writeFileSync(join(trap, file), 'no JSON, no JavaScript {');
    assert.equal(start([path, '--help'], { PATH: `${dirname(process.execPath)}:/bin` }, trap).status, 0);
  });
}

test('without a node, a script says so and what to do', () => {
  const { status, stderr } = start(['/bin/sh', join(top, 'scripts/helpers/node-ts'), 'x.ts'], {
    PATH: '/nonexistent',
  });
  // this machine has one in a system folder, unless it was installed elsewhere
  if (status !== 125) return assert.match(stderr, /x\.ts/);
  assert.match(stderr, /^barehand: node is not in PATH .*: under sudo try: sudo env "PATH=\$PATH" x\.ts\n$/);
});
