// What the limits of a container have done to its processes: those that the kernel has killed for lack of memory, and
// those that could not be started.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cgroupIn, readHierarchies } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { parseSize } from '../helpers/units.ts';
import { readNumber } from '../limit/counters.ts';
import { pathOf } from '../limit/oom.ts';
import { describeOomKills, settledOomKills } from '../limit/oom-kills.ts';
import { memoryFiles, readBytes } from '../limit/table.ts';
import type { CgroupPlan } from './cgroups.ts';
import type { Launch } from './container.ts';

/** A cgroup of a container, in the hierarchy of a controller; undefined if it has none there. */
function findCgroup({ directories }: CgroupPlan, controller: string) {
  const found = cgroupIn(readHierarchies(), controller, directories);
  return found && existsSync(found.directory) ? found : undefined;
}

/** The words of oom-kills.sh for a container: its memory cgroup, the path of that in the kernel's log. */
export function memoryWords(cgroups: CgroupPlan): [directory: string, path: string] | undefined {
  const found = findCgroup(cgroups, 'memory');
  return found && [found.directory, pathOf(found.hierarchy, found.directory) ?? ''];
}

/** One line about the processes of a container that the kernel has killed; undefined if there are none. */
async function describeKills({ cgroups }: Launch, startedBootSeconds: number): Promise<string | undefined> {
  const found = cgroups && findCgroup(cgroups, 'memory');
  if (!found) return undefined;
  const { hierarchy, directory } = found;
  const kills = await settledOomKills(
    { version: hierarchy.version, directory },
    hierarchy,
    startedBootSeconds,
  );
  if (!kills?.count) return undefined;
  const swap = swapBytes(hierarchy.version, directory);
  const raise = (size: string) =>
    swap > 0 && size !== 'SIZE'
      ? `--memory ${size} --memory-swap ${parseSize(size) + swap}`
      : `--memory ${size}`;
  return describeOomKills(kills, raise, hierarchy);
}

/** The swap that a container may use in addition to its memory limit; 0 if that is none or all. */
function swapBytes(version: 1 | 2, directory: string): number {
  const { limit, swap } = memoryFiles[version];
  const bytes = readBytes(join(directory, swap)) ?? 0;
  return version === 2 ? bytes : Math.max(0, bytes - (readBytes(join(directory, limit)) ?? 0));
}

/** Prints one line if the kernel has killed processes of the container for lack of memory, whatever its exit code is. */
export async function reportKills(launch: Launch, startedBootSeconds: number): Promise<void> {
  const text = await describeKills(launch, startedBootSeconds);
  if (text !== undefined) console.error(`run: ${launch.name}: ${text}`);
}

/** The failure of a launch because of its own limits; undefined if they are not the reason. */
export async function limitFailure(launch: Launch, startedBootSeconds: number): Promise<Failure | undefined> {
  const { name, cgroups } = launch;
  const text = await describeKills(launch, startedBootSeconds);
  if (text !== undefined) return new Failure(`${name} could not start: ${text}`);
  const pids = cgroups && findCgroup(cgroups, 'pids');
  if (!pids || !readNumber(join(pids.directory, 'pids.events'), 'max')) return undefined;
  const limit = readBytes(join(pids.directory, 'pids.max'));
  return new Failure(
    limit
      ? `${name} could not start: it reached its limit of ${limit} processes: raise it with --pids-limit ${2 * limit}`
      : `${name} could not start: the limit of processes of a cgroup above it is reached: cat ${dirname(pids.directory)}/pids.max`,
  );
}
