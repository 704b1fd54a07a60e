// What is left when launches are killed, and when very many run at once: nothing.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { cgroups, container, newName, processesWith } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, top, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

/** Names, modes, owners, sizes and times of all there is in a rootfs. */
const state = async () => (await execute(['find', rootfs, '-printf', '%P %y %m %U %G %s %T@ %l\n'])).stdout;

/** The processes whose environment says that they belong to a launch. */
const processesOf = (name: string) => processesWith('environ', `MARK=${name}\0`);

test('200 launches killed at random moments leave nothing after a sweep, and the rootfs as it was', {
  skip: container.skip || needs('speed'),
}, async () => {
  const before = await state();
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  const names = [newName(), newName(), newName()];
  const options = [
    [],
    ['--ephemeral', '-v', '/etc:/mnt/etc:ro'],
    ['--userns', '--stop-signal', 'INT', '--init'],
  ];
  const started = { killed: 0, ended: 0 };
  await Promise.all(
    options.map(async (own, index) => {
      const words = ['--memory', '50M', ...own, '--name', names[index] as string, rootfs, 'sleep', '0.05'];
      for (let round = 0; round < 67; round++) {
        const launcher = spawn(script('run'), words, {
          stdio: 'ignore',
          env: { ...process.env, MARK: names[index] },
        });
        const end = once(launcher, 'exit');
        const killer = setTimeout(() => launcher.kill('SIGKILL'), Math.random() * 300);
        const [, signal] = await end;
        clearTimeout(killer);
        if (signal === 'SIGKILL') started.killed++;
        else started.ended++;
        // all of it ends by itself: the next one could not take the name otherwise
        await until('the end of all', () => processesOf(names[index] as string).length === 0);
      }
    }),
  );
  assert.ok(started.killed > 50, JSON.stringify(started));
  assert.equal((await call('stop', ['--sweep'])).code, 0);
  for (const name of names)
    assert.deepEqual(
      [...cgroups(name), `/run/barehand/${name}`].filter((path) => existsSync(path)),
      [],
    );
  assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), mounts);
  assert.equal(await state(), before);
});

test('100 containers at once on one rootfs all end, and nothing is left', {
  skip: container.skip || needs('speed'),
}, async () => {
  const before = await state();
  const names = Array.from({ length: 100 }, newName);
  const run = join(top, 'dist/run.mjs'); // 100 times the start of a .ts file would be most of the time
  const results = await Promise.all(
    names.map((name, index) =>
      execute([
        run,
        '--ephemeral',
        '--name',
        name,
        rootfs,
        'sh',
        '-c',
        `echo ${name} >/mine; exit $((${index} % 50))`,
      ]),
    ),
  );
  for (const [index, { code, stderr }] of results.entries())
    assert.deepEqual([code, stderr], [index % 50, '']);
  const left = readHierarchies().flatMap(({ mountPoint }) => {
    const folder = join(mountPoint, parent);
    return existsSync(folder) ? readdirSync(folder).filter((name) => names.includes(name)) : [];
  });
  assert.deepEqual(left, []);
  assert.equal(await state(), before);
});
