// What a test needs of the machine it runs on. Where that is missing the test is skipped with a reason, unless
// BAREHAND_REQUIRE says that it must be there: a test run that should have been root's fails rather than shrinks.
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { findHierarchy, readHierarchies } from '../../scripts/helpers/cgroups.ts';

const succeeds = (command: string, ...words: string[]) =>
  spawnSync(command, words, { stdio: 'ignore' }).status === 0;

/** The cgroup version that limits memory on this machine, or undefined where none can be limited. */
export const cgroupVersion = findHierarchy(readHierarchies(), 'memory')?.version;

const isRoot = process.getuid?.() === 0;

const checks: Record<string, () => boolean> = {
  root: () => isRoot,
  // cgroups are made by root here; a delegated subtree is a test's own affair
  cgroup: () => isRoot && cgroupVersion !== undefined,
  'cgroup-v1': () => isRoot && cgroupVersion === 1,
  'cgroup-v2': () => isRoot && cgroupVersion === 2,
  namespaces: () => succeeds('unshare', '--mount', '--pid', '--uts', '--ipc', '--cgroup', '--fork', 'true'),
  speed: () => !process.env.BAREHAND_SLOW,
  'user-namespaces': () =>
    isRoot
      ? succeeds('setpriv', '--reuid=65534', '--clear-groups', 'unshare', '--map-root-user', 'true')
      : succeeds('unshare', '--map-root-user', 'true'),
};

function inPath(program: string): boolean {
  const folders = [...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin'];
  return folders.some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

const results = new Map<string, boolean>();

function has(need: string): boolean {
  const known = results.get(need);
  if (known !== undefined) return known;
  const result = (checks[need] ?? (() => inPath(need)))();
  results.set(need, result);
  return result;
}

/**
 * For a test's `skip`: false where all needs are met, else the reason, `needs root, runc`:
 *
 *     test('a container is limited', { skip: needs('root', 'cgroup-v2', 'runc') }, () => …)
 *
 * A need is `root`, `cgroup` (the memory controller, as root), `cgroup-v1` or `cgroup-v2` (that version of it),
 * `namespaces` (this user may make all of them), `user-namespaces` (a user without root may), `speed` (BAREHAND_SLOW
 * does not say that the processor is emulated: for tests that start a lot and depend little on the kernel), or the
 * name of a program in PATH. BAREHAND_REQUIRE is a list of such words with commas, `root,namespaces,cgroup`: where one of
 * these is missing, needs throws and so fails the whole test file.
 */
export function needs(...words: string[]): false | string {
  const missing = words.filter((word) => !has(word));
  const required = (process.env.BAREHAND_REQUIRE ?? '').split(',').filter((word) => missing.includes(word));
  if (required.length > 0)
    throw new Error(`this machine must have ${required.join(', ')} (BAREHAND_REQUIRE)`);
  return missing.length > 0 && `needs ${missing.join(', ')}`;
}
