// A container is paused while it is read: stop.ts --pause does the same.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { scriptPath } from '../helpers/called.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { lock } from '../helpers/lock.ts';
import { attempt } from '../helpers/pids.ts';
import { holds, perform } from '../helpers/steps.ts';
import type { WholeContainer } from '../helpers/target.ts';
import { planFreeze } from '../stop/frozen.ts';

const thaw = embedded(import.meta.url, './thaw.sh');

/** Whether somebody has paused the container already, who may want it to stay so. */
function isPaused(freezer: string): boolean {
  const states = ['cgroup.freeze', 'freezer.self_freezing'];
  return states.some(
    (file) => attempt(() => readFileSync(join(dirname(freezer), file), 'utf8').trim()) === '1',
  );
}

/**
 * Does some work while a container is paused. It goes on afterwards, whatever becomes of the work or of this process:
 * a child of its own thaws it. A container that was paused before stays paused. Throws Failure if it can't be
 * paused, or what `interrupted` throws.
 */
export async function whilePaused<Result>(
  container: WholeContainer,
  interrupted: Promise<never>,
  work: () => Promise<Result>,
): Promise<Result> {
  const { label } = container;
  const [freeze, frozen] = pauseSteps(container, true);
  const [{ write }, thawed] = pauseSteps(container, false);
  // another pack-rootfs.ts would let it go on while this one reads
  const held = await Promise.race([lock(dirname(freeze.to), { waitSeconds: 24 * 3600 }), interrupted]);
  if (isPaused(freeze.to)) return work().finally(held.release);
  const child = spawn('sh', ['-c', thaw, 'thaw', freeze.to, write], {
    stdio: ['pipe', 'pipe', 'pipe', held.descriptor], // the lock is held until it has thawed
    detached: true,
    cwd: '/',
  });
  const ended = once(child, 'close');
  const [stdin, stdout, stderr] = [
    child.stdin as Writable,
    child.stdout as Readable,
    child.stderr as Readable,
  ];
  const said = text(stderr);
  stdin.on('error', () => {}); // it has ended, which is told below
  try {
    await Promise.race([
      once(stdout, 'data'),
      ended.then(() => {
        throw new Failure(`cannot pause ${label}: sh(1) has ended`);
      }),
    ]);
    await perform([freeze, frozen]);
    if (!holds(frozen.until))
      throw new Failure(
        `${label} is still not paused after 5 s: one of its processes is blocked in the kernel: --no-pause packs it while it runs`,
      );
    return await work();
  } finally {
    stdin.end();
    await ended;
    held.release();
    // the whole container may have ended meanwhile
    const isGone = attempt(() => readFileSync(freeze.to)) === undefined;
    if (!isGone) await perform([thawed]);
    if (!isGone && !attempt(() => holds(thawed.until)))
      console.error(
        `pack-rootfs: ${label} is still paused: ${(await said).trim()}: type ${scriptPath('stop')} --resume ${label}`,
      );
  }
}

/** The steps that pause a container or let it go on. Throws Failure that says what to do where that can't be. */
export function pauseSteps(container: WholeContainer, paused: boolean) {
  try {
    return planFreeze(container, paused);
  } catch (error) {
    throw new Failure(`cannot pause: ${reason(error)}; --no-pause packs it while it runs`, { cause: error });
  }
}
