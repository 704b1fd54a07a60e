// Locks: flock(2) on a file that exists in any case, such as the directory of a cgroup, or a namespace. The kernel
// releases the lock when the process ends.
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { Failure, reason, scriptName } from './cli.ts';
import { attempt, commandLine, printable, readPids, readProcess } from './pids.ts';
import { installCommand } from './programs.ts';
import { zx } from './shell.ts';

/** A lock that this process holds by a descriptor. No child inherits the descriptor. */
export interface Lock {
  descriptor: number;
  release: () => void;
}

/**
 * Takes the exclusive lock on a file or directory. After a second, prints who holds it. Throws Failure if the file
 * can't be opened, or after `waitSeconds`.
 */
export async function lock(path: string, { waitSeconds = 30 } = {}): Promise<Lock> {
  const deadline = Date.now() + waitSeconds * 1000;
  for (;;) {
    const descriptor = open(path);
    try {
      await take(descriptor, path, waitSeconds, Math.max(0, deadline - Date.now()));
      // the directory may have been removed and created again meanwhile
      if (isSame(descriptor, path)) return { descriptor, release: () => closeSync(descriptor) };
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
    closeSync(descriptor);
  }
}

function open(path: string): number {
  try {
    return openSync(path, 'r'); // node sets O_CLOEXEC, open(2)
  } catch (error) {
    throw new Failure(`cannot lock ${path}: ${reason(error)}`);
  }
}

/**
 * Node has no flock(2). A lock belongs to the open file description, so flock(1) takes it by a descriptor that it
 * shares with this process, which still holds the lock when flock(1) has ended.
 */
async function take(
  descriptor: number,
  path: string,
  waitSeconds: number,
  milliseconds: number,
): Promise<void> {
  const $ = await zx();
  const flock = $({ stdio: ['ignore', 'pipe', 'pipe', descriptor] });
  const seconds = (milliseconds / 1000).toFixed(3);
  const timer = setInterval(() => {
    const who = holder(descriptor);
    // on a slow machine flock(1) may take a second although nobody holds the lock
    if (who === undefined || waitSeconds === 0) return;
    console.error(`${scriptName()}: waiting for the lock on ${path}, which ${who} holds`);
    clearInterval(timer);
  }, 1000);
  const { exitCode, stderr } =
    await flock`exec flock --exclusive --timeout ${seconds} --conflict-exit-code 75 3`;
  clearInterval(timer);
  if (exitCode === 75)
    throw new Failure(
      `the lock on ${path} has not come free in ${waitSeconds} s: end ${holder(descriptor) ?? 'who holds it'}, if it hangs`,
    );
  if (exitCode === 127)
    throw new Failure(`cannot lock ${path}: flock(1) is missing: ${installCommand(['flock'])}`);
  if (exitCode !== 0) throw new Failure(`cannot lock ${path}: ${stderr.trim() || `exit code ${exitCode}`}`);
}

const isSame = (descriptor: number, path: string) => {
  const [held, now] = [fstatSync(descriptor), attempt(() => statSync(path))];
  return held.ino === now?.ino && held.dev === now.dev;
};

/**
 * The processes that hold the lock on an open file, as text; undefined if none is found. The PID in /proc/locks is that
 * of the caller of flock(2), often a flock(1) that has ended. /proc/PID/fdinfo, proc(5), shows the lock with each
 * descriptor that holds it.
 */
function holder(descriptor: number): string | undefined {
  const { ino, dev } = fstatSync(descriptor);
  const lockLine = new RegExp(`^lock:.* FLOCK .*:${ino} `, 'm');
  const isHeldBy = (pid: number) =>
    (attempt(() => readdirSync(`/proc/${pid}/fdinfo`)) ?? []).some(
      (name) =>
        lockLine.test(attempt(() => readFileSync(`/proc/${pid}/fdinfo/${name}`, 'utf8')) ?? '') &&
        attempt(() => statSync(`/proc/${pid}/fd/${name}`))?.dev === dev,
    );
  const own = Number(readlinkSync('/proc/self'));
  const pids = readPids().filter((pid) => pid !== own && isHeldBy(pid));
  const named = pids.map((pid) => {
    const process_ = readProcess(pid);
    return `PID ${pid}${process_ ? ` (${printable(commandLine(process_))})` : ''}`;
  });
  if (named.length > 0) return named.join(' and ');
  return process.getuid?.() === 0 ? undefined : 'a process that this user may not see';
}
