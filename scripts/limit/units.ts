// Values of limits as people write them: numbers of CPUs, and lists of CPUs or memory nodes.
import { UsageError } from '../helpers/cli.ts';

/** Parses a number of CPUs, `1.5`. The kernel divides no finer than to a hundredth: a millisecond of 100. */
export function parseCpus(text: string): number {
  const cpus = /^(\d{1,5}(\.\d+)?|\.\d+)$/.test(text) ? Number(text) : Number.NaN;
  if (cpus >= 0.01) return cpus;
  throw new UsageError(`not a number of CPUs from 0.01 on, as 1.5: "${text}"`);
}

/** Checks a list of CPUs or memory nodes, `0-2,5`, cpuset(7). `what` is what the message calls it. */
export function parseList(what: string, text: string): string {
  const isInOrder = (part: string) => {
    const [from, to = from] = part.split('-').map(Number);
    return Number(from) <= Number(to);
  };
  if (/^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/.test(text) && text.split(',').every(isInOrder))
    return text;
  throw new UsageError(`${what} is a list as 0-2,5, not "${text}"`);
}
