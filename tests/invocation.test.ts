// However a script is started: where its caller stands, what its standard streams lead to, which node it is.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { container, newName } from './helpers/container.ts';
import { rootfs, top } from './helpers/script.ts';

const folder = mkdtempSync(join(tmpdir(), 'barehand-invocation-'));
after(() => rmSync(folder, { recursive: true }));

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
        "$6" ${name} 0.5 | grep -o '0.5$'
        "$7" ${name} 100 | grep -o '100;'
        "$8" ${name}
        ! "$3" | grep ${name}
        "\${10}" ls --json`;
      const words = ['run', 'exec', 'ps', 'logs', 'limit-memory', 'limit-cpu', 'limit-pids', 'stop'].map(at);
      const { status, stdout, stderr } = typeNowhere(program, [...words, rootfs, at('network')]);
      assert.deepEqual(
        [status, stdout.replace(/: killed.*/, '')],
        [0, [name, '/', name, 'running', '100 MiB', '0.5', '100;', name, '[]', ''].join('\n')],
        stderr,
      );
    });
}
