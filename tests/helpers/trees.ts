// Trees of ordinary processes for the tests of limit-*.ts, their cgroups, and what becomes of both when a test ends.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach } from 'node:test';
import {
  cgroupDirectory,
  cgroupPath,
  findHierarchy,
  type Hierarchy,
  parent,
  readHierarchies,
} from '../../scripts/helpers/cgroups.ts';
import { call, execute } from './script.ts';

/** The hierarchies of this machine. */
export const hierarchies = readHierarchies();

/** The hierarchy of a controller; where there is none, one that nothing is in: the tests that need it are skipped. */
export const hierarchyOf = (controller: string): Hierarchy =>
  findHierarchy(hierarchies, controller) ?? {
    version: 2,
    controllers: [],
    mountPoint: `/no/${controller}/controller`,
    root: '/',
  };

/** For a test's skip: the reason why it can't be, where this machine lacks a controller. */
export const lacks = (controller: string) =>
  !findHierarchy(hierarchies, controller) && `needs the ${controller} controller`;

/** The directory of a process's cgroup. */
export const cgroupIn = (hierarchy: Hierarchy, pid: number) =>
  cgroupDirectory(
    hierarchy,
    cgroupPath(readFileSync(`/proc/${pid}/cgroup`, 'utf8'), hierarchy) as string,
  ) as string;

/** The cgroup that a limit-*.ts makes for a process. */
export const pidCgroupIn = ({ mountPoint }: Hierarchy, pid: number) => join(mountPoint, parent, `pid-${pid}`);

/** A file of a process's cgroup, trimmed. */
export const readIn = (hierarchy: Hierarchy, pid: number, file: string) =>
  readFileSync(join(cgroupIn(hierarchy, pid), file), 'utf8').trim();

/** Runs a script that is to succeed. Returns what it says. */
export async function succeed(name: string, ...words: string[]) {
  const { code, stdout, stderr } = await call(name, words);
  assert.equal(code, 0, stderr);
  return { stdout, stderr };
}

const trees: ChildProcess[] = [];

/** Starts a shell with what it starts; ended after the test. It says on stdout when it is complete. */
export async function startTree(program: string, stdin: 'ignore' | 'pipe' = 'ignore'): Promise<number> {
  // should the test be killed, so is the shell
  const shell = spawn('setpriv', ['--pdeathsig=KILL', 'sh', '-c', program], {
    stdio: [stdin, 'pipe', 'ignore'],
    detached: true,
  });
  trees.push(shell);
  if (shell.stdout) await once(shell.stdout, 'data');
  return shell.pid as number;
}

/** The shell that was started last. */
export const lastTree = () => trees.at(-1);

afterEach(async () => {
  for (const shell of trees.splice(0)) {
    const pid = shell.pid as number;
    const exit = shell.exitCode === null && shell.signalCode === null ? once(shell, 'exit') : undefined;
    try {
      process.kill(-pid, 'SIGKILL'); // what it started may live on without it
    } catch {}
    await exit;
    // what it was in is empty now, or will be in a moment
    await execute([
      'sh',
      '-c',
      'for i in 1 2 3 4 5 6 7 8 9; do for d; do [ ! -d "$d" ] || rmdir "$d" || sleep 0.2; done; done 2>/dev/null',
      'sh',
      ...new Set(hierarchies.map((hierarchy) => pidCgroupIn(hierarchy, pid))),
    ]);
    await execute(['rm', '-rf', `/run/barehand/pid-${pid}`]);
  }
});

const foreign: string[] = [];
after(() => {
  for (const directory of foreign) rmdirSync(directory);
});

/** A cgroup of somebody else's, as an engine or systemd makes it; removed when the tests and their trees have ended. */
export function makeCgroup(
  { mountPoint }: Hierarchy,
  name: string,
  values: Record<string, string> = {},
): string {
  const directory = join(mountPoint, name);
  mkdirSync(directory);
  foreign.unshift(directory);
  for (const [file, value] of Object.entries(values)) writeFileSync(join(directory, file), value);
  return directory;
}

/** Switches a controller on for the cgroups in one; in v1 it is on everywhere. */
export function enable({ version }: Hierarchy, directory: string, controller: string): void {
  if (version === 2) writeFileSync(join(directory, 'cgroup.subtree_control'), `+${controller}`);
}
