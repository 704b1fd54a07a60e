// stop.ts and containers that somebody has frozen in a v1 cgroup of his own, where not even SIGKILL ends them.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readHierarchies } from '../scripts/helpers/cgroups.ts';
import { attempt } from '../scripts/helpers/pids.ts';
import { cgroups, container, newName, start } from './helpers/container.ts';
import { call, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const freezer =
  readHierarchies().find(({ controllers }) => controllers.includes('freezer'))?.mountPoint ?? '';
const skip = container.skip || (freezer === '' && 'needs the freezer of cgroup v1');

/** Makes a cgroup, moves the processes of containers into it, and freezes it. */
async function freeze(...names: string[]) {
  const directory = join(freezer, newName());
  const state = join(directory, 'freezer.state');
  mkdirSync(directory);
  for (const name of names) {
    const own = cgroups(name).find((path) => path.startsWith(`${freezer}/`)) ?? '';
    const pids = () => readFileSync(join(own, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean);
    // one may end meanwhile, or start another
    await until('all to be moved', () => {
      for (const pid of pids()) attempt(() => writeFileSync(join(directory, 'cgroup.procs'), pid));
      return pids().length === 0;
    });
  }
  writeFileSync(state, 'FROZEN');
  const read = () => readFileSync(state, 'utf8').trim();
  await until('it to be frozen', () => read() === 'FROZEN');
  const thaw = () => writeFileSync(state, 'THAWED');
  const remove = async () => {
    thaw();
    await until(
      'the last process to leave',
      () => readFileSync(join(directory, 'cgroup.procs'), 'utf8') === '',
    );
    rmdirSync(directory);
  };
  return { directory, state, read, thaw, remove };
}

test('what freezes only this container is thawed: by stop.ts, --resume and what --dry-run prints', {
  skip,
}, async () => {
  const handler = ['/bin/sh', '-c', 'trap "exit 3" TERM; while :; do sleep 0.1; done'];
  const { name, end } = await start([], handler);
  const frozen = await freeze(name);
  try {
    assert.equal((await call('stop', ['--resume', name])).stdout, `${name}: resumed\n`);
    assert.equal(frozen.read(), 'THAWED');
    writeFileSync(frozen.state, 'FROZEN');
    await until('it to be frozen', () => frozen.read() === 'FROZEN');
    const { stdout } = await call('stop', ['--dry-run', name]);
    assert.ok(stdout.includes(`echo THAWED > ${frozen.state}\n`), stdout);
    const { code, stderr } = await call('stop', [name]);
    assert.deepEqual([code, stderr], [0, '']);
    await end;
  } finally {
    await frozen.remove();
  }
});

test('what freezes others too is named, with what to type', { skip }, async () => {
  const one = await start([], ['sleep', '100']);
  const other = await start([], ['sleep', '100']);
  const frozen = await freeze(one.name, other.name);
  try {
    for (const words of [[one.name], ['--resume', one.name], ['--dry-run', one.name]]) {
      const { code, stderr } = await call('stop', words);
      assert.equal(code, 1);
      assert.ok(stderr.startsWith(`stop: ${one.name} is frozen by the cgroup ${frozen.directory}, `), stderr);
      assert.ok(stderr.includes(`such as PID ${other.first} (sleep 100)`), stderr);
      assert.ok(stderr.endsWith(`: echo THAWED > ${frozen.state}\n`), stderr);
    }
    assert.equal(frozen.read(), 'FROZEN');
    frozen.thaw();
    const { code } = await call('stop', ['--timeout', '0', one.name, other.name]);
    assert.equal(code, 0);
  } finally {
    await frozen.remove();
  }
});
