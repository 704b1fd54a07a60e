// run.ts -d says what the start of the command came to: its name only where the command runs.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { backgroundName, ended, kept, keptFile } from './helpers/background.ts';
import { cgroups, container } from './helpers/container.ts';
import { without } from './helpers/inside.ts';
import { call, execute, rootfs, script, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

const shellInit = without('tini', 'tini-static', 'dumb-init', 'docker-init');

for (const [options, command, code] of [
  [[], ['no-such-command'], 127],
  [[], ['/no/such/command'], 127],
  [[], ['/etc/passwd'], 126],
  [[], ['/etc'], 126],
  [['-w', '/etc/passwd'], ['true'], 125],
  [['-u', 'nobody'], ['no-such-command'], 127],
  [['--userns'], ['no-such-command'], 127],
  [['--init'], ['no-such-command'], 127],
  [['--isolate', 'pid,chroot'], ['no-such-command'], 127],
  [['-e', 'a.b=c'], ['no-such-command'], 127],
] as [string[], string[], number][])
  (options.length === 0 ? test : slow)(
    `-d ${[...options, ...command].join(' ')} ends with ${code} and leaves nothing`,
    {
      skip: options[0] === '--userns' ? mappedIds : container.skip,
    },
    async () => {
      const name = backgroundName();
      const result = await call('run', ['-d', '--name', name, ...options, rootfs, ...command]);
      assert.deepEqual([result.code, result.stdout], [code, ''], result.stderr);
      assert.match(result.stderr, new RegExp(`${options[0] === '-w' ? options[1] : command[0]}`));
      await until('its end', () => [keptFile(name, ''), ...cgroups(name)].every((path) => !existsSync(path)));
    },
  );

test(
  '-d with an init of the shell: 127 where the command is missing, its name where it runs',
  container,
  async () => {
    const run = shellInit;
    const missing = backgroundName();
    const failed = await execute([...run, '-d', '--init', '--name', missing, rootfs, 'no-such-command']);
    assert.deepEqual([failed.code, failed.stdout], [127, ''], failed.stderr);
    const name = backgroundName();
    const { code, stdout } = await execute([...run, '-d', '--init', '--name', name, rootfs, 'sleep', '1000']);
    assert.deepEqual([code, stdout], [0, `${name}\n`]);
    assert.equal((await execute([script('stop'), '--timeout', '0', name])).code, 0);
  },
);

test('-d with a command that runs says its name, however it ends and however soon', container, async () => {
  for (const [options, program, status] of [
    [[], 'exit 0', 0],
    [[], 'exit 42', 42],
    [['--init'], 'sleep 0.2; exit 127', 127],
    [[], 'echo said; sleep 0.2; exit 126', 126],
    [['--isolate', 'pid,chroot'], 'sleep 0.2; exit 125', 125],
  ] as [string[], string, number][]) {
    const name = backgroundName();
    const words = ['-d', '--name', name, ...options, rootfs, 'sh', '-c', program];
    const { code, stdout, stderr } = await call('run', words);
    assert.deepEqual([code, stdout, stderr], [0, `${name}\n`, ''], program);
    await ended(name);
    assert.equal(kept(name, 'status'), `${status}\n`, program);
    if (program.startsWith('echo')) assert.equal(kept(name, 'log'), 'said\n');
  }
});
