// Who is in a container's cgroups: its own processes, and nobody else. So their number is right, and with v2 it may hand
// on controllers below itself, as systemd and engines in containers do.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { findHierarchy, processesIn, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { cgroups, container, namespace, newName, start } from './helpers/container.ts';
import { said } from './helpers/inside.ts';
import { needs } from './helpers/needs.ts';
import { call, rootfs } from './helpers/script.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

for (const [options, skip] of [
  [[], container.skip],
  [['--init'], container.skip],
  [['--userns'], mappedIds],
  [['-u', 'nobody', '--network', 'none'], container.skip],
  [['--isolate', 'chroot'], container.skip],
] as [string[], string | false][])
  test(`run.ts ${options.join(' ')}: only its own processes are in its cgroups, which are the root of its namespace`, {
    skip,
  }, async () => {
    const { name, first } = await start(options, ['sleep', '1000']);
    for (const directory of cgroups(name)) {
      if (!existsSync(directory)) continue;
      const inside = processesIn(directory);
      assert.ok(inside.includes(first), directory);
      for (const pid of inside) {
        // unshare(1) has the namespaces of what it holds, but for the PID namespace
        assert.match(readFileSync(`/proc/${pid}/cmdline`, 'latin1'), /(^|\0)sleep\0/, `${directory}: ${pid}`);
        assert.equal(namespace(pid, 'mnt'), namespace(first, 'mnt'));
      }
    }
    if (options[0] === '--isolate') return;
    const text = await said(options, 'cat /proc/self/cgroup');
    assert.match(text, /^(\d+:[^:]*:\/\n)+$/);
  });

const pids = findHierarchy(readHierarchies(), 'pids');

test('--pids-limit counts its processes only', {
  skip: container.skip || (!pids && 'needs the pids controller'),
}, async () => {
  const name = newName();
  const one = await call('run', [
    '--name',
    name,
    '--pids-limit',
    '1',
    rootfs,
    'sh',
    '-c',
    'echo alone; (echo two) || :',
  ]);
  assert.match(one.stdout, /^alone\n$/, one.stderr);
  const two = await call('run', ['--pids-limit', '2', rootfs, 'sh', '-c', '(echo two); exit 5']);
  assert.deepEqual([two.code, two.stdout], [5, 'two\n'], two.stderr);
  const { name: running } = await start(['--pids-limit', '10'], ['sleep', '1000']);
  const file = (word: string) =>
    readFileSync(join(pids?.mountPoint ?? '', 'barehand', running, word), 'utf8');
  assert.deepEqual([file('pids.current'), file('pids.max')], ['1\n', '10\n']);
});

test('a privileged container hands on controllers below itself', {
  skip: container.skip || needs('cgroup-v2'),
}, async () => {
  const program = `cd /sys/fs/cgroup; mkdir init; echo 0 >init/cgroup.procs; cat cgroup.procs
    echo '+memory +pids' >cgroup.subtree_control; cat cgroup.subtree_control; mkdir below; ls below/memory.max`;
  const { code, stdout, stderr } = await call('run', ['--privileged', rootfs, 'sh', '-ec', program]);
  assert.deepEqual([code, stdout], [0, 'memory pids\nbelow/memory.max\n'], stderr);
});
