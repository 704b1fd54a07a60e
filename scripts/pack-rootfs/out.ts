// OUT is made under another name beside it, then renamed: it exists completely or not at all, even after SIGKILL.
import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, renameSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { isBelow } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';
import { quote, sh } from '../helpers/shell.ts';
import { perform } from '../helpers/steps.ts';
import { asRoot } from '../images/confine.ts';

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

/** Calls `make` with a new directory beside `path`, for what is needed meanwhile. Removes what killed calls have left. */
export async function withFolder<Result>(
  path: string,
  make: (folder: string) => Promise<Result>,
): Promise<Result> {
  const folder = join(dirname(path), `.${basename(path)}.partial-${process.pid}`);
  await sweep(path);
  mkdirSync(folder, { mode: 0o700 });
  try {
    return await make(folder);
  } finally {
    await remove(folder);
  }
}

/** Has `make` make the file or directory `out` in a directory of its own beside `path`, then puts that in its place. */
export const intoPlace = <Result>(
  path: string,
  make: (folder: string, out: string) => Promise<Result>,
): Promise<Result> =>
  withFolder(path, async (folder) => {
    const out = join(folder, 'out');
    const result = await make(folder, out);
    // rename(2) replaces a file, but no directory that has files
    if (attempt(() => statSync(path).isDirectory())) renameSync(path, join(folder, 'old'));
    renameSync(out, path);
    return result;
  });

const remove = (path: string) => perform([{ run: sh`${asRoot} rm -rf -- ${path}` }]);

/** Removes what killed calls of this user for the same path have left. */
async function sweep(path: string): Promise<void> {
  for (const name of readdirSync(dirname(path))) {
    const [, of, pid] = /^\.(.+)\.partial-(\d+)$/.exec(name) ?? [];
    if (of !== basename(path) || existsSync(`/proc/${pid}`)) continue;
    const folder = join(dirname(path), name);
    if (attempt(() => lstatSync(folder).uid) === process.geteuid?.()) await remove(folder);
  }
}

/** Throws a Failure where OUT can't be made: it exists, unless `force`, or lies in ROOTFS and would be packed itself. */
export function checkOut(
  path: string,
  kind: 'file' | 'layout',
  force: boolean,
  rootfs: string | undefined,
): void {
  const fail = (why: string) => new Failure(`cannot make ${path}: ${why}`);
  let folder: string;
  try {
    folder = realpathSync(dirname(path));
  } catch (error) {
    throw fail(`${reason(error)}: mkdir -p ${quote(dirname(path))}`);
  }
  if (rootfs && isBelow(folder, realpathSync(rootfs)) && statSync(folder).dev === statSync(rootfs).dev)
    throw fail(`it lies in ${rootfs}, which is to be packed: choose a path outside of it`);
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (!stat) return;
  if (!force) throw fail('EEXIST: it is there already: choose another path, or --force replaces it');
  const isLayout = stat.isDirectory() && existsSync(join(path, 'oci-layout'));
  if (kind === 'file' && !stat.isFile())
    throw fail('it is there, and no regular file: nothing else is replaced');
  if (kind === 'layout' && !isLayout) throw fail('it is there, and no OCI layout: nothing else is replaced');
}
