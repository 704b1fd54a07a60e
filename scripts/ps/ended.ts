// Containers in the background that have ended, and still have a log. See docs/logs.md.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { readHierarchies } from '../helpers/cgroups.ts';
import { notesFolder } from '../helpers/containers.ts';
import { attempt } from '../helpers/pids.ts';
import { namedContainer, ownContainers } from '../helpers/target.ts';

/** How a container has ended. */
export interface Ended {
  /** its exit code; null: it was killed together with the keeper of its log */
  code: number | null;
  /** the signal that killed its command, by the exit code 128+n */
  signal: string | null;
  at: string | null;
}

/** The only reader of the status that keep.sh has written. undefined: the container runs, or has no log. */
export function readEnded(name: string): Ended | undefined {
  const folder = notesFolder(name);
  if (!['log', 'log.1'].some((log) => existsSync(join(folder, log)))) return undefined;
  const file = join(folder, 'status');
  const text = attempt(() => readFileSync(file, 'utf8'));
  if (text === undefined) {
    const container = attempt(() => namedContainer(readHierarchies(), name));
    const isLeft = container && !container.first && container.cgroups.length === 0;
    return isLeft ? { code: null, signal: null, at: null } : undefined;
  }
  // the first line has the exit code
  const code = Number.parseInt(text, 10);
  const [signal = null] = Object.entries(constants.signals).find(([, number]) => number === code - 128) ?? [];
  const at = attempt(() => statSync(file).mtime.toISOString()) ?? null;
  return { code: Number.isNaN(code) ? null : code, signal, at };
}

/** All such containers, by name. */
export const readAllEnded = (): { name: string; ended: Ended }[] =>
  ownContainers(readHierarchies())
    .sort()
    .flatMap((name) => {
      const ended = readEnded(name);
      return ended ? [{ name, ended }] : [];
    });

/** How a container has ended, for people: `exited (3)`. */
export function endedText({ code, signal }: Ended): string {
  if (code === null) return 'ended, exit code unknown';
  return signal ? `killed by ${signal} (${code})` : `exited (${code})`;
}
