// The smallest limits with which a process can start or go on, as measured on cgroup v1 and v2.
import { UsageError } from '../helpers/cli.ts';
import { formatSize } from '../helpers/units.ts';

const mebibyte = 1024 ** 2;

/**
 * The smallest memory limit in which a container starts: that of Docker. The launch takes 1 MiB, or 5 MiB if python3 loads
 * the seccomp filter. The kernel frees memory of processes that have ended a moment later, so some more is needed.
 */
const smallestToStart = 6 * mebibyte;

/** The smallest memory limit in which a process that does anything goes on: memory is charged before it is reclaimed. */
const smallestToGoOn = 1 * mebibyte;

/** Size words for a number of bytes that was probably meant in mebibytes: `100` and `100k` as 100M. */
function hint(bytes: number, smallest: number): string {
  const number = bytes < 1024 ? bytes : bytes / 1024;
  const meant = Number.isInteger(number) && bytes < mebibyte && number * mebibyte >= smallest;
  return meant ? `: did you mean ${number}M?` : '';
}

/** Throws UsageError if a new container could not start with this memory limit. */
export function checkMemoryToStart(bytes: number | undefined): void {
  if (bytes !== undefined && bytes < smallestToStart)
    throw new UsageError(
      `--memory: no container starts in ${formatSize(bytes)}, ${formatSize(smallestToStart)} is the least${hint(bytes, smallestToStart)}`,
    );
}

/** Why a process could not go on with this memory limit; undefined if it can. */
export const tooSmallToGoOn = (bytes: number): string | undefined =>
  bytes < smallestToGoOn
    ? `no process goes on in ${formatSize(bytes)}, ${formatSize(smallestToGoOn)} is the least${hint(bytes, smallestToGoOn)}`
    : undefined;

/** Throws UsageError if a new container could not start with this limit of processes. */
export function checkPidsToStart(pids: number | undefined, hasInit: boolean): void {
  if (hasInit && pids !== undefined && pids < 2)
    throw new UsageError(
      `--pids-limit ${pids} with --init: the init and its command are 2 processes, the least`,
    );
}
