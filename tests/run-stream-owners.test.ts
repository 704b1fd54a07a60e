// Whose the standard streams are that run.ts hands on: the container's user can open them by their names in /dev.
import assert from 'node:assert/strict';
import { chownSync, copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { detach, ended, kept } from './helpers/background.ts';
import { container } from './helpers/container.ts';
import { mounted } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, execute, rootfs, script, top } from './helpers/script.ts';
import { test } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

const scratch = scratchFolder('owners');

/** Writes to and reads from the three by their names. */
const program = 'read -r line </dev/stdin; echo "$line"; echo out >>/dev/stdout; echo err >>/dev/stderr';
/** run.ts between pipes of a shell. */
const piped = 'echo in | { "$@" 2>&3 | cat; } 3>&1 | cat';
const between = (words: string[], launch = [script('run')]) =>
  execute(['bash', '-c', piped, 'bash', ...launch, ...words, rootfs, 'sh', '-c', program]);
const lines = (text: string) => text.trim().split('\n').sort();

for (const [options, skip] of [
  ['-u nobody', container.skip],
  ['-u 1234:4321 --init', container.skip],
  ['--userns', mappedIds],
  ['--userns -u nobody', mappedIds],
] as const)
  test(`${options}: pipes can be opened as /dev/stdin, /dev/stdout, /dev/stderr`, { skip }, async () => {
    const { code, stdout, stderr } = await between(options.split(' '));
    assert.deepEqual([code, lines(stdout), stderr], [0, ['err', 'in', 'out'], '']);
  });

test("-d -u nobody: the log's pipe can be opened", container, async () => {
  const name = await detach('-u nobody', 'echo out >/dev/stdout; echo err >/dev/stderr');
  await ended(name);
  assert.equal(kept(name, 'log'), 'out\nerr\n');
});

test(
  'files open for writing too; what is only read, and the null device, stay who they were',
  container,
  async () => {
    const path = (name: string) => join(scratch, name);
    for (const name of ['in', 'out', 'err']) writeFileSync(path(name), 'in\n');
    const nobody = /^nobody:[^:]*:(\d+):/m.exec(readFileSync(join(rootfs, 'etc/passwd'), 'utf8'))?.[1];
    const before = statSync('/dev/null');
    const redirect = 'file=$1; shift; "$@" <"$file/in" >"$file/out" 2>>"$file/err"';
    const words = ['-u', 'nobody', rootfs, 'sh', '-c', program.replace('</dev/stdin', '')];
    const { code } = await execute(['bash', '-c', redirect, 'bash', scratch, script('run'), ...words]);
    assert.deepEqual(
      [code, readFileSync(path('out'), 'utf8'), readFileSync(path('err'), 'utf8')],
      [0, 'in\nout\n', 'in\nerr\n'],
    );
    assert.deepEqual(
      ['in', 'out', 'err'].map((name) => statSync(path(name)).uid),
      [0, Number(nobody), Number(nobody)],
    );
    const silent = 'exec "$@" </dev/null >/dev/null 2>/dev/null';
    const quiet = await execute([
      'bash',
      '-c',
      silent,
      'bash',
      script('run'),
      '-u',
      'nobody',
      rootfs,
      'sh',
      '-c',
      'echo >/dev/stdout',
    ]);
    assert.equal(quiet.code, 0);
    const after = statSync('/dev/null');
    assert.deepEqual([after.uid, after.gid, after.mode], [before.uid, before.gid, before.mode]);
  },
);

test('also where a user without root has other users in his container', {
  skip: needs('root', 'namespaces', 'user-namespaces', 'newuidmap', 'newgidmap'),
}, async () => {
  const id = 65534;
  await execute(['cp', '-a', rootfs, join(scratch, 'root')]);
  copyFileSync(join(top, 'dist/run.mjs'), join(scratch, 'run.mjs'));
  await execute(['chown', '-R', `${id}:${id}`, join(scratch, 'root')]);
  await execute(['chmod', '755', scratch]);
  writeFileSync(join(scratch, 'subordinate'), `${id}:300000:65536\n`);
  const runtime = join(scratch, 'runtime');
  mkdirSync(runtime, { mode: 0o700 });
  for (const path of [scratch, runtime]) chownSync(path, id, id);
  const give = ['uid', 'gid'].map(
    (kind) => `touch /etc/sub${kind}; mount --bind '${scratch}/subordinate' /etc/sub${kind}`,
  );
  const words = [join(scratch, 'run.mjs'), '-u', 'nobody', join(scratch, 'root'), 'sh', '-c', program];
  const { code, stdout, stderr } = await execute(
    mounted(give.join('\n'), [...become(id, runtime), 'bash', '-c', piped, 'bash', ...words]),
  );
  assert.deepEqual([code, lines(stdout), stderr], [0, ['err', 'in', 'out'], '']);
});
