// What a test process leaves on the host when it is killed: nothing.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test as quick } from 'node:test';
import { parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { attempt, readProcesses, readStat } from '../scripts/helpers/pids.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { stripTypes, top, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const scratch = scratchFolder('leftovers');
const runner = [...stripTypes, '--test'];
const hanging = join(top, 'tests/helpers/hanging.ts');

/** Starts a test runner with a test that hangs; returns the PIDs of both, when all that it starts is there. */
async function startHanging(temporary: string) {
  mkdirSync(temporary, { recursive: true });
  const ready = join(scratch, `ready-${readdirSync(scratch).length}`);
  const { NODE_TEST_CONTEXT: _, ...others } = process.env; // with it a runner runs nothing
  const env = { ...others, TMPDIR: temporary, BAREHAND_READY: ready };
  const child = spawn(process.execPath, [...runner, hanging], { env, stdio: 'ignore' });
  const its = Number(
    await until('the test to hang', () => {
      assert.deepEqual([child.exitCode, child.signalCode], [null, null]);
      return existsSync(ready) && readFileSync(ready, 'utf8');
    }),
  );
  return { runner: child.pid as number, its };
}

/** All that a test process has: its processes and folders, by its ID, and what is called after its PID. */
function left(temporary: string, pid: number): string[] {
  const has = (process_: number) =>
    attempt(() => readFileSync(`/proc/${process_}/environ`, 'latin1'))?.includes(`BAREHAND_TEST=${pid}-`);
  const directories = [
    ...readHierarchies().flatMap(({ mountPoint }) => [mountPoint, join(mountPoint, parent)]),
    '/run/barehand',
  ];
  const named = directories.flatMap((directory) =>
    (attempt(() => readdirSync(directory)) ?? [])
      .filter((name) => name.includes(`test-${pid}-`))
      .map((name) => join(directory, name)),
  );
  return [
    ...[...readProcesses().values()].filter(({ pid }) => has(pid)).map(({ pid, name }) => `${pid} ${name}`),
    ...named,
    ...readdirSync(temporary),
  ];
}

const gone = (temporary: string, pid: number) =>
  until(`nothing to be left of ${pid}, ${left(temporary, pid)}`, () => left(temporary, pid).length === 0);

/** What waits for the end of a test process, and cleans up then. */
function watchdogOf(pid: number): number {
  const its = [...readProcesses().values()].find(
    (one) =>
      one.ppid === pid &&
      attempt(() => readFileSync(`/proc/${one.pid}/cmdline`, 'utf8'))?.includes('clean-up.sh\0'),
  );
  assert.ok(its);
  return its.pid;
}

for (const [what, which, test_] of [
  ['the test process', 'its', test],
  ['the test runner', 'runner', quick],
] as const)
  test_(`${what} is killed: nothing is left`, { skip: needs('speed') }, async () => {
    const temporary = join(scratch, which);
    const started = await startHanging(temporary);
    assert.notDeepEqual(left(temporary, started.its), []);
    process.kill(started[which], 'SIGKILL');
    await gone(temporary, started.its);
    await until(
      'the end of both',
      () => !readStat(started.its) && readStat(started.runner)?.zombie !== false,
    );
  });

test('all of it is killed, the watchdog too: the next run removes what is left', {
  skip: needs('speed'),
}, async () => {
  const temporary = join(scratch, 'all');
  const first = await startHanging(temporary);
  for (const pid of [first.runner, watchdogOf(first.its), first.its]) process.kill(pid, 'SIGKILL');
  await until('the end of the test process', () => !readStat(first.its));
  assert.notDeepEqual(left(temporary, first.its), []);
  const other = await startHanging(join(scratch, 'other'));
  assert.notDeepEqual(left(temporary, first.its), [], 'who has another folder is no business of this run');
  const second = await startHanging(temporary);
  await until('the first to be gone', () =>
    left(temporary, first.its).every((name) => !name.includes(`${first.its}-`)),
  );
  assert.ok(
    left(temporary, second.its).some((name) => name.endsWith(' sleep')),
    'the living are left alone',
  );
  for (const { runner } of [second, other]) process.kill(runner, 'SIGKILL');
  await gone(temporary, second.its);
  await gone(join(scratch, 'other'), other.its);
});
