// The cgroup layout: which hierarchy has which controller, and whether this user may make cgroups there.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  cgroupDirectory,
  cgroupPath,
  cgroupsBelow,
  findHierarchy,
  type Hierarchy,
  noHierarchy,
  readHierarchies,
} from '../helpers/cgroups.ts';
import { readProc } from '../helpers/pids.ts';
import { findDelegation, whyNoCgroups } from '../limit/delegation.ts';
import type { Check, Script } from './checks.ts';

const isRoot = process.getuid?.() === 0;

/** `v2`, `v1`, `v1 and v2 (hybrid)` or `none`. */
export function layoutOf(hierarchies: Hierarchy[]): string {
  const versions = [1, 2].filter((version) => hierarchies.some((one) => one.version === version));
  return versions.length > 1 ? 'v1 and v2 (hybrid)' : versions[0] ? `v${versions[0]}` : 'none';
}

/** Why this user may make no cgroup with a controller; undefined if nothing is in the way. */
function whyNot(hierarchies: Hierarchy[], hierarchy: Hierarchy, controller: string): string | undefined {
  if (isRoot) return whyNoCgroups(hierarchies);
  const path = cgroupPath(readProc('self', 'cgroup') ?? '', hierarchy);
  const own = path === undefined ? undefined : cgroupDirectory(hierarchy, path);
  // the shell that calls may be moved together with this process
  const members = new Set([process.pid, process.ppid]);
  const { base, refusal } = own ? findDelegation(hierarchy, own, members, [controller]) : {};
  if (base !== undefined) return undefined;
  if (refusal !== undefined) return refusal;
  return hierarchy.version === 2
    ? 'systemd-run --user --scope -p Delegate=yes bash, or run the scripts as root'
    : 'run the scripts as root: systemd delegates no cgroup of v1';
}

/** Each controller: the scripts that fail without it, and what that costs a container. */
const controllers: [name: string, needs: Script[], cost: string][] = [
  ['memory', ['limit-memory'], 'memory cannot be limited, and its usage cannot be shown'],
  ['cpu', ['limit-cpu'], 'CPU time cannot be limited'],
  ['cpuset', [], 'a container cannot be bound to certain CPUs'],
  ['pids', ['limit-pids'], 'the number of processes cannot be limited'],
  ['io', ['limit-io'], 'I/O cannot be limited'],
];

/** The checks of cgroups. */
export function checkCgroups(hierarchies = readHierarchies()): Check[] {
  const common = { subject: 'cgroups' as const };
  const checks = controllers.map(([name, needs, cost]): Check => {
    const hierarchy = findHierarchy(hierarchies, name);
    const why = hierarchy && whyNot(hierarchies, hierarchy, name);
    const limits: Script[] = needs.length > 0 ? ['run'] : ['run', 'limit-cpu'];
    const missing =
      hierarchies.length === 0 ? noHierarchy : 'see /proc/cgroups and cgroup_disable= in /proc/cmdline';
    return {
      ...common,
      ...{
        name: `${name} controller`,
        ok: hierarchy !== undefined && why === undefined,
        cost,
        needs,
        limits,
      },
      found: hierarchy
        ? `v${hierarchy.version}, ${hierarchy.mountPoint}${why ? ', not allowed for this user' : ''}`
        : 'not there',
      remedy: why ?? missing,
    };
  });
  const memory = findHierarchy(hierarchies, 'memory');
  const v2 = hierarchies.find(({ version }) => version === 2)?.mountPoint;
  const freezer = findHierarchy(hierarchies, 'freezer');
  // v2 has these files in every cgroup but its root, and every usual kernel has them
  const belowV2 = v2 === undefined ? [] : cgroupsBelow(v2).slice(0, 1);
  const swap =
    memory?.version === 1
      ? existsSync(join(memory.mountPoint, 'memory.memsw.limit_in_bytes'))
      : memory !== undefined && belowV2.every((directory) => existsSync(join(directory, 'memory.swap.max')));
  const freezes =
    freezer !== undefined ||
    (v2 !== undefined && belowV2.every((directory) => existsSync(join(directory, 'cgroup.freeze'))));
  return [
    ...checks,
    {
      ...common,
      name: 'swap accounting',
      ok: swap,
      found: swap ? 'on' : 'off',
      cost: 'swap cannot be limited: a container over its memory limit swaps',
      remedy: 'swapaccount=1 on the kernel command line, if the host has swap',
      needs: [],
      limits: ['run', 'limit-memory'],
    },
    {
      ...common,
      name: 'freezer',
      ok: freezes,
      found: freezes ? (freezer ? 'v1' : 'v2') : 'not there',
      cost: 'no container can be paused',
      remedy: v2 ? 'a kernel from 5.2 on' : noHierarchy,
      needs: [],
      limits: ['stop', 'pack-rootfs'],
    },
  ];
}
