// What is made under another name beside its place, then renamed: it exists completely or not at all, even after SIGKILL.
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure } from './cli.ts';

/** The path under which this process makes `path`, until it is complete. */
export const partialOf = (path: string): string =>
  join(dirname(path), `.${basename(path)}.partial-${process.pid}`);

/** The directories in `folder` that killed calls have left, for a path whose last component `isOurs` accepts. */
export function findLeftovers(folder: string, isOurs: (name: string) => boolean): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const [, name, pid] = /^\.(.+)\.partial-(\d+)$/.exec(entry.name) ?? [];
    // of an earlier process with the PID of this one
    const isDead = Number(pid) === process.pid || !existsSync(`/proc/${pid}`);
    return name && entry.isDirectory() && isDead && isOurs(name) ? [join(folder, entry.name)] : [];
  });
}

/**
 * Calls `work` with a promise that is rejected when a signal is to end this process. `work` ends all that it has started
 * then, and this process ends by that signal: a shell that runs a script ends its script too.
 */
export async function untilInterrupted<Result>(
  work: (interrupted: Promise<never>) => Promise<Result>,
): Promise<Result> {
  const signals = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  let interruption: NodeJS.Signals | undefined;
  const interrupted = new Promise<never>((_, reject) => {
    for (const signal of signals)
      process.on(signal, () => {
        interruption = signal;
        reject(new Failure('interrupted'));
      });
  });
  interrupted.catch(() => undefined);
  try {
    return await work(interrupted);
  } finally {
    for (const signal of signals) process.removeAllListeners(signal);
    if (interruption) process.kill(process.pid, interruption);
  }
}
