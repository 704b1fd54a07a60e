#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
logs.ts: print the output of a container in the background

USAGE
  logs.ts [OPTION...] NAME

  NAME is the name of a container that run.ts --detach has started. The log has
  its standard output and standard error in the order in which they were
  written. Of a long log only the end is kept, see --log-size of run.ts.

EXAMPLES
  logs.ts web
  logs.ts -fn 20 web
  logs.ts --status backup

OPTIONS
* -f, --follow    print new output too, until the container ends
* -n, --tail N    print the last N lines only, also --lines; all: every line
                  new output follows them with --follow
*     --status    print the exit code of the container instead, or "running"
* -h, --help      print the usual options; --help all prints all of this
      --version   print name and version

CHANGES
  Nothing.

EXIT CODES
  0 done; 1 failed, as for a NAME without a log; 2 wrong usage.

SEE ALSO
  run.ts, stop.ts (which removes the log), tail(1)
*/
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { notesFolder, runFolder } from './helpers/containers.ts';
import { print } from './helpers/output.ts';
import { attempt } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { runProgram } from './helpers/shell.ts';
import { isName, namedContainer } from './helpers/target.ts';
import { parseNumber } from './helpers/units.ts';

export const options = {
  follow: { short: 'f' },
  tail: { short: 'n', alias: 'lines', parse: parseLines },
  status: {},
} as const;

/** A number of lines; `all` is Docker's word for every line. */
function parseLines(text: string): number {
  return text === 'all' ? Infinity : parseNumber('--tail, the number of lines,', text, 0, 999_999_999);
}

/** The offset at which the last `count` lines of a text begin. */
export function lastLines(text: Buffer, count: number): number {
  let at = text.length;
  // a line includes the newline that ends it; lastIndexOf counts a negative position from the end
  for (let left = count; left > 0 && at > 0; left--) at = at > 1 ? text.lastIndexOf(10, at - 2) + 1 : 0;
  return at;
}

/** Opens the log. It does not exist for a moment after the keeper has renamed it to log.1. */
async function open(log: string): Promise<number> {
  for (let tries = 0; tries < 100 && !existsSync(log); tries++) await sleep(20);
  return openSync(log, 'r');
}

/** Prints what comes in an open file after what has been read of it. */
function printRest(file: number): void {
  const buffer = Buffer.alloc(65536);
  for (let length = 1; length > 0; print(buffer.subarray(0, length))) length = readSync(file, buffer);
}

await main(import.meta.url, { options, operands: [1, 1] }, async ({ follow, tail, status }, [name = '']) => {
  if (status && (follow || tail !== undefined)) throw new UsageError('--status goes alone');
  if (!isName(name)) throw new UsageError(`not a name: ${JSON.stringify(name)}`);
  const folder = notesFolder(name);
  const log = join(folder, 'log');
  const readStatus = () => attempt(() => readFileSync(join(folder, 'status'), 'utf8').trim());
  if (!existsSync(log) && !existsSync(`${log}.1`))
    throw new Failure(
      attempt(() => namedContainer(readHierarchies(), name))
        ? `${name} has no log: it was not started with --detach`
        : `there is no log of ${name}: ps.ts shows containers, ls ${runFolder()} shows logs`,
    );

  if (status) {
    if (readStatus() === undefined) requirePrograms(['flock'], 'see whether it is running');
    // the keeper of the log holds this lock, flock(1), even after the end of the container until the log is complete
    const isKept = async () => (await runProgram(['flock', '--nonblock', folder, 'true'])).exitCode === 1;
    const code = readStatus() ?? ((await isKept()) ? 'running' : undefined);
    if (code === undefined)
      throw new Failure(`${name} was killed together with the keeper of its log: the exit code is unknown`);
    console.log(code);
    return 0;
  }

  if (follow) requirePrograms(['flock', 'setpriv'], 'follow a log');
  const inode = () => statSync(log, { throwIfNoEntry: false })?.ino;
  // log.1 is the older half. If the keeper renames log to log.1 while they are read, both are read again
  let file = await open(log);
  let older = attempt(() => readFileSync(`${log}.1`));
  while (inode() !== fstatSync(file).ino) {
    closeSync(file);
    file = await open(log);
    older = attempt(() => readFileSync(`${log}.1`));
  }
  const all = Buffer.concat([older ?? Buffer.alloc(0), readFileSync(file)]);
  print(tail === undefined ? all : all.subarray(lastLines(all, tail)));
  let isKept = true;
  // flock(1) waits for the end of the keeper; setpriv(1) ends it with this process
  if (follow)
    runProgram(['setpriv', '--pdeathsig=TERM', 'flock', folder, 'true']).then(() => (isKept = false));
  while (follow) {
    const isLast = readStatus() !== undefined || !isKept;
    printRest(file);
    const current = inode();
    if (current !== undefined && current !== fstatSync(file).ino) {
      printRest(file);
      closeSync(file);
      file = await open(log);
    } else if (isLast) break;
    else await sleep(100);
  }
  return 0;
});
