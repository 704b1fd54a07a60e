// barehand.ts, the one command: it starts every script, completes in three shells, has manual pages, and can be installed.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { before, test } from 'node:test';
import type { Option } from '../scripts/helpers/cli.ts';
import { container } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, top } from './helpers/script.ts';
import { test as slowTest } from './helpers/slow.ts';

const scripts = readdirSync(join(top, 'scripts'))
  .filter((name) => name.endsWith('.ts') && name !== 'barehand.ts')
  .map((name) => name.replace(/\.ts$/, ''));
const folder = scratchFolder('barehand');
/** `barehand` in a directory of PATH, as npm links it. */
const bin = join(folder, 'bin');
const env = { ...process.env, PATH: `${bin}:${process.env.PATH}` };
before(() => {
  mkdirSync(bin);
  symlinkSync(script('barehand'), join(bin, 'barehand'));
});
const barehand = (...words: string[]) => execute(['barehand', ...words], { env });

/** A word as it stands in a table of options, on the command line. */
const kebab = (key: string) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
const tableOf = async (name: string): Promise<Record<string, Option>> =>
  (await import(join(top, 'scripts', `${name}.ts`))).options;

test('its help names every script', async () => {
  const { code, stdout } = await barehand('--help');
  assert.equal(code, 0);
  const [, list = ''] = /is one of these:\n(.*?)\n\n/s.exec(stdout) ?? [];
  assert.deepEqual(list.trim().split(/\s+/).sort(), scripts.toSorted());
  assert.equal((await barehand()).code, 0);
});

slowTest('it starts each script, whose help then names it as it was typed', async () => {
  for (const name of scripts) {
    const { code, stdout, stderr } = await barehand(name, '--help');
    assert.deepEqual([code, stderr], [0, ''], name);
    assert.match(stdout, new RegExp(`^barehand ${name}: `));
    assert.match(stdout, new RegExp(`^USAGE\n {2}barehand ${name}\\b`, 'm'));
    assert(!stdout.includes(`${name}.ts`), name);
    assert.equal((await barehand(name, '--version')).stdout, (await call(name, ['--version'])).stdout);
  }
});

test('operands, standard streams and exit code are those of the script', container, async () => {
  const { code, stdout, stderr } = await execute(
    ['barehand', 'run', '-e', 'A=1', rootfs, '/bin/sh', '-c', 'cat; echo "$A $1"; exit 7', 'sh', '--help'],
    { env, input: 'input\n' },
  );
  assert.deepEqual([code, stdout, stderr], [7, 'input\n1 --help\n', '']);
});

test('what a script says to type begins with the command, as it was found', async () => {
  const hint = (program: string) =>
    `stop: there is no container no-such: ${program} ps shows those there are\n`;
  assert.equal((await barehand('stop', 'no-such')).stderr, hint('barehand'));
  assert.equal((await call('barehand', ['stop', 'no-such'])).stderr, hint(script('barehand')));
  const source = join(top, 'scripts/barehand.ts');
  assert.equal((await execute([source, 'stop', 'no-such'])).stderr, hint(source));
  assert.equal(
    (await barehand('limit-memory', '1')).stderr,
    'limit-memory: SIZE is missing: type barehand limit-memory 1 100M\n',
  );
});

test('what is no script is refused, with the nearest', async () => {
  const { code, stderr } = await barehand('limit-memry');
  assert.deepEqual(
    [code, stderr],
    [2, 'barehand: no such script: limit-memry: did you mean limit-memory?\n'],
  );
  assert.equal((await barehand('../tests/x')).code, 2);
  assert.equal((await barehand('constructor')).code, 2);
  assert.equal((await barehand('completion', 'tcsh')).code, 2);
  assert.equal((await barehand('manual')).code, 2);
});

/** The file with the completion of a shell. */
async function completion(shell: string): Promise<string> {
  const { code, stdout, stderr } = await barehand('completion', shell);
  assert.deepEqual([code, stderr], [0, '']);
  const file = join(folder, `completion.${shell}`);
  writeFileSync(file, stdout);
  return file;
}

/** What each shell completes of `barehand WORDS`, the last of which may be empty or the beginning of a word. */
const shells: Record<string, (file: string, ...words: string[]) => Promise<string[]>> = {
  bash: async (file, ...words) => {
    const program =
      'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _barehand; printf "%s\\n" "${COMPREPLY[@]}"';
    const { stdout, stderr } = await execute(['bash', '-c', program, 'bash', file, 'barehand', ...words], {
      env,
    });
    assert.equal(stderr, '');
    return stdout.split('\n').filter(Boolean);
  },
  fish: async (file, ...words) => {
    const program = 'source $argv[1]; complete -C $argv[2]';
    const line = ['barehand', ...words].join(' ');
    const { stdout, stderr } = await execute(['fish', '--no-config', '-c', program, file, line], {
      env: { ...env, HOME: folder },
    });
    assert.equal(stderr, '');
    return stdout
      .split('\n')
      .flatMap((line) => line.split('\t', 1))
      .filter(Boolean);
  },
  zsh: async (file, ...words) => {
    // a list of what is possible is shown on a terminal only: expect(1) is one
    const { stdout } = await execute(
      ['expect', join(top, 'tests/helpers/complete.exp'), file, ['barehand', ...words].join(' ')],
      { env: { ...env, HOME: folder, TERM: 'dumb' } },
    );
    return stdout.split(/\s+/).filter(Boolean);
  },
};

// zsh is asked on a terminal, which takes its time
for (const [shell, complete] of Object.entries(shells))
  (shell === 'zsh' ? slowTest : test)(
    `${shell} completes scripts, their options, and names that exist`,
    {
      skip: needs(shell, ...(shell === 'zsh' ? ['expect'] : [])),
    },
    async () => {
      const file = await completion(shell);
      assert.deepEqual(
        [...new Set(await complete(file, 'limit-'))].filter((word) => scripts.includes(word)).sort(),
        scripts.filter((name) => name.startsWith('limit-')).sort(),
      );
      for (const name of ['run', 'stop', 'limit-memory']) {
        const found = await complete(file, name, '--');
        for (const key of Object.keys(await tableOf(name)))
          assert(
            found.some((word) => word.replace(/=$/, '') === `--${kebab(key)}`),
            `${name} --${kebab(key)}`,
          );
        assert(found.some((word) => word.startsWith('--help')));
      }
      const roots = await complete(file, 'run', 'ho');
      assert(roots.includes('host'), roots.join());
      const others = await complete(file, 'completion', '');
      for (const other of Object.keys(shells)) assert(others.includes(other), others.join());
    },
  );

test('manual pages have the text of the headers, and no mistakes', { skip: needs('mandoc') }, async () => {
  const pages = join(folder, 'man');
  assert.equal((await barehand('manual', pages)).code, 0);
  const names = ['barehand', ...scripts.map((name) => `barehand-${name}`)];
  assert.deepEqual(readdirSync(pages).sort(), names.map((name) => `${name}.1`).sort());
  for (const name of names) {
    const lint = await execute(['mandoc', '-Tlint', '-Wwarning', join(pages, `${name}.1`)]);
    const warnings = lint.stdout.split('\n').filter((line) => line && !line.includes('missing date'));
    assert.deepEqual(warnings, []);
    const { stdout } = await execute(['mandoc', '-Tascii', '-Owidth=200', join(pages, `${name}.1`)]);
    const text = stdout.replace(/.\x08/g, '');
    const own = name.replace(/^barehand-/, '');
    for (const key of Object.keys(await tableOf(own)))
      assert.match(text, new RegExp(`^ +(-\\w, )?--${kebab(key)}\\b`, 'm'), `${name} --${kebab(key)}`);
    assert.match(text, new RegExp(`^ +${name} - `, 'm'));
    for (const heading of ['SYNOPSIS', 'EXAMPLES', 'CHANGES', 'EXIT CODES', 'SEE ALSO'])
      assert.match(text, new RegExp(`^${heading}$`, 'm'), `${name} ${heading}`);
  }
});

test('the package has a manual page of every script', () => {
  const { man } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
  const names = ['barehand', ...scripts.map((name) => `barehand-${name}`)];
  assert.deepEqual(man.toSorted(), names.map((name) => `man/${name}.1`).sort());
});

slowTest(
  'npm run release makes files that sha256sum confirms, and a package that installs one command',
  {
    skip: needs('root', 'namespaces', 'npm'),
  },
  async () => {
    // a copy: what a release builds must not change what other tests start meanwhile
    const copy = join(folder, 'copy');
    mkdirSync(copy);
    const files = ['scripts', 'docs', 'package.json', 'README.md', 'LICENSE', 'CHANGELOG.md'];
    execFileSync('cp', ['-a', '--', ...files.map((name) => join(top, name)), copy]);
    symlinkSync(join(top, 'node_modules'), join(copy, 'node_modules'));
    const made = await execute(['npm', 'run', '--silent', 'release'], { cwd: copy });
    assert.equal(made.code, 0, made.stderr);
    const release = join(copy, 'release');
    const sums = await execute(['sha256sum', '--check', '--strict', 'SHA256SUMS'], { cwd: release });
    assert.equal(sums.code, 0, sums.stdout);
    for (const name of ['run.mjs', 'CHANGELOG.md', 'completions/_barehand'])
      assert.match(sums.stdout, new RegExp(`^${name}: OK$`, 'm'));

    const { version } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
    const prefix = join(folder, 'prefix');
    const install = [
      'npm',
      'install',
      '--global',
      '--prefer-offline',
      '--no-audit',
      '--no-fund',
      '--prefix',
      prefix,
    ];
    const installed = await execute([...install, join(release, `barehand-${version}.tgz`)]);
    assert.equal(installed.code, 0, installed.stderr);
    assert.deepEqual(readdirSync(join(prefix, 'bin')), ['barehand']);
    assert(readdirSync(join(prefix, 'share/man/man1')).includes('barehand-run.1'));
    for (const node of [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean)) {
      const path = `${prefix}/bin:${dirname(node)}:/usr/bin:/bin`;
      const run = await execute(['barehand', 'run', rootfs, 'echo', 'installed'], {
        env: { PATH: path },
        cwd: '/',
      });
      assert.deepEqual([run.code, run.stdout, run.stderr], [0, 'installed\n', '']);
      // root file systems by name outlive an update of the package
      const missing = await execute(['barehand', 'run', 'no-such-rootfs'], { env: { PATH: path }, cwd: '/' });
      assert.match(missing.stderr, /\bvar\/lib\/barehand\/rootfs/);
    }
  },
);
