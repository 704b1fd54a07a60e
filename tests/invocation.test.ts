// However a script is started: where its caller stands, what its standard streams lead to, which node it is.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { rootfs, top } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const folder = scratchFolder('invocation');

const names = readdirSync(join(top, 'scripts'))
  .filter((name) => name.endsWith('.ts'))
  .map((name) => name.slice(0, -3));

/** Each node there is, with a PATH that leads to it. */
const nodes = [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean).map((node) => {
  const path = mkdtempSync(join(folder, 'path-'));
  symlinkSync(node, join(path, 'node'));
  const version = execFileSync(node, ['--version'], { encoding: 'utf8' }).trim();
  return { node, version, env: { ...process.env, PATH: `${path}:${process.env.PATH}` } };
});

/** The two forms of a script. */
const forms = (name: string) => [join(top, `scripts/${name}.ts`), join(top, `dist/${name}.mjs`)];

/** Types a program into bash, with words as $1 and so on; a script that hangs is ended after a minute. */
function type(program: string, words: string[], env: NodeJS.ProcessEnv = process.env) {
  return spawnSync('timeout', ['--kill-after=5', '60', 'bash', '-c', program, 'bash', ...words], {
    env,
    cwd: folder,
    encoding: 'utf8',
  });
}

/** What a shell that starts in a directory without a path says itself. */
const withoutShells = (text: string) => text.replace(/^.*getcwd.*\n/gm, '');

for (const { version, env } of nodes) {
  /** Types a program in a directory that has just been removed. */
  const typeNowhere = (program: string, words: string[]) => {
    const gone = mkdtempSync(join(folder, 'gone-'));
    const { status, stdout, stderr } = type(`cd ${gone}; rmdir ${gone}; ${program}`, words, env);
    return { status, stdout, stderr: withoutShells(stderr) };
  };

  test(`from a directory that has been removed every script says its help, on ${version}`, () => {
    for (const script of names.flatMap(forms)) {
      const { status, stdout, stderr } = typeNowhere('"$1" --help', [script]);
      assert.deepEqual([status, stderr], [0, ''], script);
      assert.match(stdout, /^[\w-]+\.ts: .*\n\nUSAGE\n/, script);
    }
  });

  test(`a path that begins in a removed directory is refused in a line that says why, on ${version}`, () => {
    for (const script of forms('run')) {
      const { status, stderr } = typeNowhere('"$1" rootfs/host true', [script]);
      assert.equal(status, 125, script);
      assert.match(stderr, /^run: .*rootfs\/host.*the working directory has been removed/, script);
    }
    for (const script of forms('fetch-rootfs')) {
      const { status, stderr } = typeNowhere('"$1" host: ./made', [script]);
      assert.equal(status, 1, script);
      assert.match(stderr, /^fetch-rootfs: .*the working directory has been removed/m, script);
    }
  });

  for (const [index, form] of ['scripts', 'dist'].entries())
    test(`${form} works from a directory that has been removed, on ${version}`, container, () => {
      const name = newName();
      const at = (script: string) => forms(script)[index] as string;
      const program = `set -e
        "$1" "$9" true
        "$1" -d --name ${name} "$9" sleep 60
        "$2" ${name} pwd
        "$2" --host-tools ${name} true
        "$3" | grep -o ${name}
        "$4" --status ${name}
        "$5" ${name} 100M | grep -o '100 MiB'
        "$6" ${name} 0.5 | grep -o ' 0[.]5$' | tr -d ' '
        "$7" ${name} 100 | grep -o '100;'
        "$8" ${name}
        ! "$3" | grep ${name}
        ${needs('ip') ? 'echo []' : '"${10}" ls --json'}`;
      const words = ['run', 'exec', 'ps', 'logs', 'limit-memory', 'limit-cpu', 'limit-pids', 'stop'].map(at);
      const { status, stdout, stderr } = typeNowhere(program, [...words, rootfs, at('network')]);
      assert.deepEqual(
        [status, stdout.replace(/: killed.*/, '')],
        [0, [name, '/', name, 'running', '100 MiB', '0.5', '100;', name, '[]', ''].join('\n')],
        stderr,
      );
    });
}

for (const { version, env } of nodes) {
  const noted = newName();
  const dist = (name: string) => join(top, `dist/${name}.mjs`);
  /** Ways to make a script print: its words, for a container that lives. */
  const printing: [script: string, ...words: string[]][] = [
    ...names.map((name): [string, string] => [name, '--help']),
    ['ps'],
    ['ps', '--json'],
    ['ps', '--watch', '--interval=0.1', '--count=2'],
    ['run', '--dry-run', rootfs],
    ['exec', '--dry-run', noted, 'true'],
    ['logs', noted],
    ['logs', '--status', noted],
    ['limit-memory', noted, '200M'],
    ['limit-memory', '--json', noted, '150M'],
    ['limit-memory', '--dry-run', noted, '100M'],
    ['limit-cpu', noted, '0.5'],
    ['limit-pids', noted, '100'],
    ...(needs('ip') ? [] : [['network', 'ls', '--json'] as [string, ...string[]]]),
    ['fetch-rootfs', '-q', 'host:', `${folder}/made-${version}`],
    ['demo'],
    ['stop', noted],
  ];

  test(`what cannot be printed is no success, on ${version}`, container, (t) => {
    const { stderr } = type(
      `"$1" -d --name ${noted} "$2" sh -c 'echo said; exec sleep 600'; until grep -q said /run/barehand/${noted}/log; do sleep 0.1; done`,
      [dist('run'), rootfs],
      env,
    );
    t.after(() => type('"$@"', [dist('stop'), noted], env));
    assert.equal(stderr, '');
    // a closed one is sh's affair, the same for all
    for (const [name, ...words] of printing)
      for (const target of ['ps', 'run'].includes(name) ? ['>/dev/full', '>&-'] : ['>/dev/full']) {
        const failed = ['run', 'exec'].includes(name) ? 125 : 1;
        const result = type(`"$@" ${target}`, [dist(name), ...words], env);
        const why = target === '>&-' ? 'EBADF: bad file descriptor' : 'ENOSPC: no space left on device';
        const said = result.stderr.split('\n').filter((line) => line.startsWith(`${name}: cannot write`));
        assert.deepEqual(
          [said, result.status],
          [[`${name}: cannot write standard output: ${why}`], failed],
          `${[name, ...words].join(' ')} ${target}: ${result.stderr}`,
        );
        rmSync(`${folder}/made-${version}`, { recursive: true, force: true });
      }
  });
}

test('a reader that has seen enough is no error', () => {
  for (const [name, ...words] of [...names.map((name) => [name, '--help']), ['run', '--dry-run', rootfs]])
    for (const form of ['run', 'ps'].includes(name as string)
      ? forms(name as string)
      : forms(name as string).slice(1)) {
      const { stdout, stderr } = type('"$@" | :; echo "${PIPESTATUS[0]}"', [form, ...words]);
      assert.deepEqual([stdout, stderr], ['0\n', ''], form);
    }
});

test('all of it arrives, in order, through a pipe that somebody made non-blocking', {
  skip: needs('perl'),
}, () => {
  // perl makes it so, lets the script fill it while nobody reads, then reads slowly
  const program = `use Fcntl; pipe(my $r, my $w) or die; fcntl($w, F_SETFL, fcntl($w, F_GETFL, 0) | O_NONBLOCK);
    fcntl($w, 1031, 4096) or die;
    if (!fork) { open(STDOUT, ">&", $w); exec @ARGV } close $w; sleep 1; print while <$r>; wait; exit $? >> 8`;
  for (const form of forms('run')) {
    const words = [form, '--dry-run', '--name', 'x', rootfs];
    const { status, stdout, stderr } = spawnSync('perl', ['-e', program, ...words], { encoding: 'utf8' });
    assert.deepEqual([status, stderr], [0, '']);
    assert.equal(stdout, spawnSync(form, words.slice(1), { encoding: 'utf8' }).stdout);
    assert(stdout.length > 4096);
  }
});

for (const { version, env } of nodes)
  test(`the streams of the caller stay as they are while a script runs, on ${version}`, container, () => {
    const name = newName();
    const prepare = `"$1" -d --name ${name} "$2" sh -c 'echo said; exec sleep 600'`;
    assert.equal(type(prepare, [join(top, 'dist/run.mjs'), rootfs], env).status, 0);
    try {
      // a pipe for what is said, one for standard input; looked at when something has been said
      const program = `rm -f ready in; mkfifo in; exec 3> >(head -c 1 >ready; cat >/dev/null) 4<>in
        "$@" <&4 >&3 2>&3 & until [ -s ready ]; do sleep 0.1; done
        sleep 0.5; grep -h ^flags: /proc/$$/fdinfo/3 /proc/$$/fdinfo/4; kill $!`;
      for (const [script = '', ...words] of [
        ['ps', '--watch', '--interval', '0.1'],
        ['logs', '--follow', name],
        ['limit-memory', '--watch', name],
      ])
        for (const form of forms(script)) {
          const { stdout, stderr } = type(program, [form, ...words], env);
          const modes = stdout
            .trimEnd()
            .split('\n')
            .map((line) => Number.parseInt(line.slice(6), 8) & 0o4000);
          assert.deepEqual(modes, [0, 0], `${[form, ...words].join(' ')}: ${stdout}${stderr}`);
        }
    } finally {
      type('"$@"', [join(top, 'dist/stop.mjs'), name], env);
    }
  });

for (const { node, version, env } of nodes)
  test(
    `an option that node takes for itself is refused, or is the script's, on ${version}`,
    container,
    () => {
      const file = join(folder, 'variables');
      writeFileSync(file, 'COLOUR=blue\nNODE_OPTIONS=--no-warnings\n');
      const run = join(top, 'dist/run.mjs');
      const command = ['sh', '-c', 'echo $COLOUR $NODE_OPTIONS'];
      for (const words of [['--env-file', file], [`--env-file=${file}`]]) {
        const said = spawnSync(node, [run, ...words, rootfs, ...command], { encoding: 'utf8' });
        assert.deepEqual([said.status, said.stdout], [125, '']);
        assert.match(said.stderr, /^run: node takes --env-file.* for itself.*node -- \S+run\.mjs\n/);
        const ways = [[node, '--', run], [node, '--no-warnings', '--', run], forms('run').slice(0, 1), [run]];
        for (const [program = '', ...rest] of ways) {
          const { stdout, stderr } = spawnSync(program, [...rest, ...words, rootfs, ...command], {
            env,
            encoding: 'utf8',
          });
          assert.deepEqual([stdout, stderr], ['blue --no-warnings\n', ''], [program, ...rest].join(' '));
        }
      }
      // the container's own words too, but not those behind a --
      const own = [rootfs, 'echo', `--env-file-if-exists=${file}`];
      assert.equal(spawnSync(node, [run, ...own]).status, 125);
      assert.equal(spawnSync(node, [run, '--', ...own], { encoding: 'utf8' }).stdout, `${own[2]}\n`);
      const exec = spawnSync(node, [join(top, 'dist/exec.mjs'), `--env-file=${file}`], { encoding: 'utf8' });
      assert.match(exec.stderr, /^exec: node takes /);
    },
  );
