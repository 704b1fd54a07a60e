// Steps: what a script is going to do to the host, as data that can be printed as shell or performed.
import { mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { moveAll, moveTree } from './cgroups.ts';
import { Failure, reason } from './cli.ts';
import { quote, runProgram } from './shell.ts';

/**
 * One step. `why` is printed as a comment above it. `moveTree` takes a process and its descendants, `moveAll` all
 * processes of a cgroup, to the cgroup `to`. `unlessUsed`: a directory that is not empty, or busy, stays.
 */
export type Step = { why?: string } & (
  | { mkdir: string }
  | { rmdir: string; unlessUsed?: boolean }
  | { write: string; to: string }
  | { remove: string }
  | { moveTree: number; to: string }
  | { moveAll: string; to: string }
  | { run: string[] }
);

/** A plan as shell that can be pasted: it does what `perform` does. */
export function toShell(steps: Step[]): string {
  return steps.map((step) => `${step.why ? `# ${step.why}\n` : ''}${commandLine(step)}\n`).join('');
}

function commandLine(step: Step): string {
  if ('mkdir' in step) return `mkdir -p ${quote(step.mkdir)}`;
  if ('rmdir' in step) return `rmdir ${quote(step.rmdir)}${step.unlessUsed ? ' 2>/dev/null || :' : ''}`;
  if ('write' in step) return `${echo(step.write)} ${quote(step.write)} > ${quote(step.to)}`;
  if ('remove' in step) return `rm -r ${quote(step.remove)}`;
  if ('moveTree' in step) return moveTreeInShell(step.moveTree, step.to);
  if ('moveAll' in step) return moveAllInShell(step.moveAll, step.to);
  return step.run.map(quote).join(' ');
}

/** The process goes first, so that what it starts after that is born in the cgroup; then all that descend from it. */
function moveTreeInShell(pid: number, to: string): string {
  const procs = quote(join(to, 'cgroup.procs'));
  return `for round in 1 2 3; do
  echo ${pid} > ${procs}
  for pid in $(cat /proc/[0-9]*/status | awk -v top=${pid} '
    /^Pid:/ { pid = $2 } /^PPid:/ { parent[pid] = $2 }
    END { for (pid in parent) { at = parent[pid]; while (at != top && at in parent) at = parent[at]; if (at == top) print pid } }
  '); do echo "$pid" > ${procs} || :; done
done 2>/dev/null`;
}

/** The list is read whole before anybody moves, and again for those that were born meanwhile. */
function moveAllInShell(from: string, to: string): string {
  return `for round in 1 2 3; do
  for pid in $(cat ${quote(join(from, 'cgroup.procs'))}); do echo "$pid" > ${quote(join(to, 'cgroup.procs'))} || :; done
done 2>/dev/null`;
}

// echo, as people type it, unless some shell's echo would take the text for an option or an escape
const echo = (text: string) => (/^-[neE]|\\/.test(text) ? "printf '%s\\n'" : 'echo');

/** Performs the steps in order. Throws a Failure that names the first step that failed and the kernel's reason. */
export async function perform(steps: Step[]): Promise<void> {
  for (const step of steps) {
    try {
      if ('mkdir' in step) mkdirSync(step.mkdir, { recursive: true });
      else if ('rmdir' in step) removeDirectory(step.rmdir, step.unlessUsed ?? false);
      else if ('write' in step) writeFileSync(step.to, step.write);
      else if ('remove' in step) rmSync(step.remove, { recursive: true, force: true });
      else if ('moveTree' in step) moveTree(step.moveTree, step.to);
      else if ('moveAll' in step) moveAll(step.moveAll, step.to);
      else await run(step.run);
    } catch (error) {
      throw new Failure(`cannot ${doing(step)}: ${reason(error)}`, { cause: error });
    }
  }
}

function removeDirectory(path: string, unlessUsed: boolean): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (!unlessUsed) throw error;
  }
}

function doing(step: Step): string {
  if ('mkdir' in step) return `make the directory ${step.mkdir}`;
  if ('rmdir' in step) return `remove the directory ${step.rmdir}`;
  if ('write' in step) return `write ${step.write} to ${step.to}`;
  if ('remove' in step) return `remove ${step.remove}`;
  if ('moveTree' in step) return `move process ${step.moveTree} and its descendants to ${step.to}`;
  if ('moveAll' in step) return `move the processes of ${step.moveAll} to ${step.to}`;
  return `run ${step.run.map(quote).join(' ')}`;
}

async function run(argv: string[]): Promise<void> {
  const { exitCode, signal, stderr } = await runProgram(argv);
  if (exitCode !== 0)
    throw new Failure(stderr.trim() || (signal ? `killed by ${signal}` : `exit code ${exitCode}`));
}
