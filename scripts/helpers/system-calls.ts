// System calls by number.
import { embedded } from './embedded.ts';

const parse = (text: string) =>
  new Map(
    text
      .trim()
      .split(/\s+/)
      .map((word) => word.split(':') as [string, string]),
  );

/**
 * The numbers of system calls as in asm/unistd.h, one table for each processor, as process.arch calls it: words that the
 * programs in seccomp/ read too. A call that is not in there does not exist.
 */
export const callTables: Record<string, string> = {
  x64: embedded(import.meta.url, './seccomp/x64.txt'),
  arm64: embedded(import.meta.url, './seccomp/arm64.txt'),
};
const numbers = Object.fromEntries(Object.entries(callTables).map(([name, text]) => [name, parse(text)]));
const names = new Set(Object.values(numbers).flatMap((table) => [...table.keys()]));

/** The processors whose numbers are known. */
export const numberedArchitectures = Object.keys(callTables);

/** The number of a system call, or undefined where this processor has no such call. Throws for an unknown name. */
export function callNumber(architecture: string, name: string): number | undefined {
  if (!names.has(name)) throw new Error(`no system call ${name} in the tables`);
  const number = numbers[architecture]?.get(name);
  return number === undefined ? undefined : Number(number);
}

/** The words that tell a program of another language these calls' numbers: `setns:308`. */
export const callWords = (architecture: string, names: string[]) =>
  names.map((name) => `${name}:${callNumber(architecture, name)}`);
