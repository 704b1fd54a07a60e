// Counters that the kernel has in files of lines `KEY NUMBER`, such as memory.events and cpu.stat, cgroups(7).
import { readFileSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';

/** The number in the text of a file of lines `KEY NUMBER`, such as memory.events; undefined where it has no such line. */
export function numberOf(text: string | undefined, key: string): number | undefined {
  const found = new RegExp(`^${key} (\\d+)$`, 'm').exec(text ?? '')?.[1];
  return found === undefined ? undefined : Number(found);
}

/** The same in a file, which may be missing. */
export const readNumber = (file: string, key: string) =>
  numberOf(
    attempt(() => readFileSync(file, 'utf8')),
    key,
  );
