// Whether a container has room for the processes of an entry.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { scriptPath } from '../helpers/called.ts';
import { cgroupIn, type Hierarchy } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { quote } from '../helpers/shell.ts';

/** The program that enters joins the cgroups, and starts COMMAND there. */
const needed = 2;

const numberIn = (file: string) => Number(attempt(() => readFileSync(file, 'utf8')) ?? Number.NaN);

/**
 * Throws Failure if the pids.max of a container, whose cgroups are `cgroups`, or one above it has no room for what enters.
 * `target` is what the user called the container. `max` is no number, nor is a file that is missing, as at the root.
 */
export function checkRoom(hierarchies: Hierarchy[], cgroups: string[], target: string): void {
  const found = cgroupIn(hierarchies, 'pids', cgroups);
  if (!found) return;
  const { hierarchy, directory: own } = found;
  for (let at = own; at !== dirname(hierarchy.mountPoint); at = dirname(at)) {
    const limit = numberIn(join(at, 'pids.max'));
    const count = numberIn(join(at, 'pids.current'));
    if (!(count + needed > limit)) continue;
    const more = 2 * Math.max(limit, count + needed);
    const raise =
      at === own
        ? `${scriptPath('limit-pids')} ${quote(target)} ${more}`
        : `echo ${more} >${quote(join(at, 'pids.max'))}`;
    throw new Failure(
      `no room for COMMAND: ${at === own ? target : `the cgroup ${at}, around ${target},`} has ${count} of at most ${limit} processes, and entering takes ${needed}: type ${raise}`,
    );
  }
}
