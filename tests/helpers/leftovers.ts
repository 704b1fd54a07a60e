// What a test process has on the host beside itself, and that none of it is left when the process is killed: a watchdog,
// clean-up.sh, removes it then. Should that be killed too, the next test process does so.
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { attempt, startTicks } from '../../scripts/helpers/pids.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const prefix = 'barehand-test-';

/** A process, also when another has its PID: PID-TICKS, where TICKS is when it was started, proc_pid_stat(5). */
const id = `${process.pid}-${startTicks(process.pid)}`;
const folder = join(tmpdir(), prefix + id);

/** By rm(1): node's rmSync takes names that are not UTF-8 for others. */
const remove = (path: string) => execFileSync('/bin/rm', ['-rf', '--one-file-system', path]);

/** The IDs of this user's test processes that have ended, and whose folder is still there. */
function staleIds(): string[] {
  return readdirSync(tmpdir()).flatMap((name) => {
    const [, id, pid, ticks] = /^barehand-test-((\d+)-(\d+))$/.exec(name) ?? [];
    if (!id || startTicks(Number(pid)) === Number(ticks)) return [];
    return attempt(() => lstatSync(join(tmpdir(), name)).uid) === process.getuid?.() ? id : [];
  });
}

const stale = staleIds();
mkdirSync(folder, { mode: 0o755 });
chmodSync(folder, 0o755);
process.on('exit', () => remove(folder));

// the processes of this test are known by it
process.env.BAREHAND_TEST = id;

// its standard input ends with this process. A session of its own: the keys of a terminal do not end it
const words = [join(here, 'clean-up.sh'), join(tmpdir(), prefix), process.execPath, id, ...stale];
const watchdog = spawn('sh', words, {
  stdio: ['pipe', 'ignore', 'ignore'],
  detached: true,
  cwd: '/',
  env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
});
watchdog.on('error', () => {}); // a test may be about a host without sh
watchdog.unref();
(watchdog.stdin as unknown as { unref: () => void }).unref();

// node's test runner does not end its test processes when it is killed
const runner = process.ppid;
if (process.env.NODE_TEST_CONTEXT)
  setInterval(() => {
    if (process.ppid !== runner) process.kill(process.pid, 'SIGKILL');
  }, 500).unref();

/**
 * Makes an empty folder below that of temporary files, which is removed with the test file at the latest.
 */
export function scratchFolder(name: string, mode = 0o700): string {
  const scratch = mkdtempSync(join(folder, `${name}-`));
  chmodSync(scratch, mode);
  after(() => remove(scratch));
  return scratch;
}
