// Containers in the background that have ended, and still have a log. See docs/logs.md.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { findHierarchy, readHierarchies } from '../helpers/cgroups.ts';
import { notesFolder } from '../helpers/containers.ts';
import { attempt } from '../helpers/pids.ts';
import { namedContainer, ownContainers } from '../helpers/target.ts';
import { formatDuration } from '../helpers/units.ts';
import { describeOomKills, type OomKills, parseOomKills } from '../limit/oom-kills.ts';

/** How a container has ended. */
export interface Ended {
  /** its exit code; null: it was killed together with the keeper of its log */
  code: number | null;
  /** the signal that killed its command, by the exit code 128+n */
  signal: string | null;
  /** how many of its processes the kernel has killed for lack of memory; null: unknown */
  oomKills: number | null;
  at: string | null;
  /** the kernel has killed at least one of its processes for lack of memory */
  oomKilled: boolean;
}

/**
 * The end of a container, from the status that keep.sh has written. undefined: the container runs, or has no log.
 * `oomKills`: null if there are none.
 */
export function readEnded(
  name: string,
  hierarchies = readHierarchies(),
): { ended: Ended; oomKills: OomKills | null } | undefined {
  const folder = notesFolder(name);
  if (!['log', 'log.1'].some((log) => existsSync(join(folder, log)))) return undefined;
  const file = join(folder, 'status');
  const text = attempt(() => readFileSync(file, 'utf8'));
  if (text === undefined) {
    const container = attempt(() => namedContainer(hierarchies, name));
    const isLeft = container && !container.first && container.cgroups.length === 0;
    const ended = { code: null, signal: null, oomKills: null, at: null, oomKilled: false };
    return isLeft ? { ended, oomKills: null } : undefined;
  }
  // the first line has the exit code, the others what oom-kills.sh knows
  const code = Number.parseInt(text, 10);
  const [signal = null] = Object.entries(constants.signals).find(([, number]) => number === code - 128) ?? [];
  const at = attempt(() => statSync(file).mtime.toISOString()) ?? null;
  const oomKills = parseOomKills(text, findHierarchy(hierarchies, 'memory'));
  return {
    ended: {
      code: Number.isNaN(code) ? null : code,
      signal,
      oomKills: oomKills?.count ?? 0,
      at,
      oomKilled: oomKills !== null,
    },
    oomKills,
  };
}

/** All such containers, by name. */
export function readAllEnded(): { name: string; ended: Ended; oomKills: OomKills | null }[] {
  const hierarchies = readHierarchies();
  return ownContainers(hierarchies)
    .sort()
    .flatMap((name) => {
      const ended = readEnded(name, hierarchies);
      return ended ? [{ name, ...ended }] : [];
    });
}

/** How a container has ended, for people: `exited (3)`. */
export function endedText({ code, signal, oomKills }: Omit<Ended, 'oomKilled'>): string {
  if (code === null) return 'ended, exit code unknown';
  const oom = oomKills ? `, ${oomKills} OOM kill${oomKills > 1 ? 's' : ''}` : '';
  return (signal ? `killed by ${signal} (${code})` : `exited (${code})`) + oom;
}

/** How a container has ended, and how long ago. `now`: milliseconds, as Date.now(). */
export const statusText = ({ ended }: { ended: Ended }, now: number) =>
  `${endedText(ended)}${ended.at ? `, ${formatDuration(Math.max(0, (now - Date.parse(ended.at)) / 1000))} ago` : ''}`;

/** One line about the processes that the kernel has killed in a container that has ended; undefined if there are none. */
export const killsText = (oomKills: OomKills | null): string | undefined =>
  oomKills === null
    ? undefined
    : describeOomKills(oomKills, (size) => `--memory ${size}`, findHierarchy(readHierarchies(), 'memory'));
