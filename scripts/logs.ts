#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
logs.ts: print the output of a container in the background

USAGE
  logs.ts [OPTION...] NAME

  NAME is the name of a container that run.ts --detach has started. The log has its standard output and standard error
  in the order in which they were written. Of a long log only the end is kept, see --log-size of run.ts.

OPTIONS
  -f, --follow    print new output too, until the container ends
      --tail N    print the last N lines only; --follow continues after them
      --status    print the exit code of the container instead, or "running"
  -h, --help      print this text

EXAMPLES
  logs.ts web
  logs.ts -f --tail 20 web
  logs.ts --status backup

CHANGES
  Nothing.

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

export const options = {
  follow: { short: 'f' },
  tail: { parse: parseCount },
  status: {},
} as const;

function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`--tail is a number of lines, not ${text}`);
}

/** The offset at which the last `count` lines of a text begin. */
export function lastLines(text: Buffer, count: number): number {
  let at = text.length;
  for (let left = count; left > 0; left--) {
    // a line includes the newline that ends it
    const before = at > 0 ? text.lastIndexOf(10, at - 2) : -1;
    if (at <= 1 || before < 0) return 0;
    at = before + 1;
  }
  return at;
}

/** Opens the log. It does not exist for a moment after the keeper has renamed it to log.1. */
async function open(log: string): Promise<number> {
  for (let tries = 0; tries < 100 && !existsSync(log); tries++) await sleep(20);
  return openSync(log, 'r');
}

/** Prints a file from a position to its end. Returns the position of that end. */
function printRest(file: number, position: number): number {
  const buffer = Buffer.alloc(65536);
  let at = position;
  for (let length = 1; length > 0; at += length) {
    length = readSync(file, buffer, 0, buffer.length, at);
    print(buffer.subarray(0, length));
  }
  return at;
}

await main(import.meta.url, { options, operands: [1, 1] }, async ({ follow, tail, status }, [name = '']) => {
  if (status && (follow || tail !== undefined)) throw new UsageError('--status goes alone');
  if (!isName(name)) throw new UsageError(`not a name: ${JSON.stringify(name)}`);
  const folder = notesFolder(name);
  const log = join(folder, 'log');
  const ended = () => attempt(() => readFileSync(join(folder, 'status'), 'utf8').trim());
  // the keeper of the log holds this lock, flock(1), even after the end of the container until the log is complete
  const lives = async () => (await runProgram(['flock', '--nonblock', folder, 'true'])).exitCode === 1;
  if (!existsSync(log) && !existsSync(`${log}.1`))
    throw new Failure(
      attempt(() => namedContainer(readHierarchies(), name))
        ? `${name} has no log: it was not started with --detach`
        : `there is no log of ${name}: ps.ts shows containers, ls ${runFolder()} shows logs`,
    );

  if (follow) requirePrograms(['flock', 'setpriv'], 'follow a log');
  if (status) {
    if (ended() === undefined) requirePrograms(['flock'], 'see whether it is running');
    const code = ended() ?? ((await lives()) ? 'running' : undefined);
    if (code === undefined)
      throw new Failure(`${name} was killed together with the keeper of its log: the exit code is unknown`);
    console.log(code);
    return 0;
  }

  // log.1 is the older half. If the keeper renames log to log.1 while they are read, both are read again
  let file = await open(log);
  let older = attempt(() => readFileSync(`${log}.1`));
  while (statSync(log, { throwIfNoEntry: false })?.ino !== fstatSync(file).ino) {
    closeSync(file);
    file = await open(log);
    older = attempt(() => readFileSync(`${log}.1`));
  }
  let position = fstatSync(file).size;
  const newer = Buffer.alloc(position);
  readSync(file, newer, 0, position, 0);
  const all = Buffer.concat([older ?? Buffer.alloc(0), newer]);
  print(tail === undefined ? all : all.subarray(lastLines(all, tail)));
  let isKept = true;
  // flock(1) waits for the end of the keeper; setpriv(1) ends it with this process
  if (follow)
    runProgram(['setpriv', '--pdeathsig=TERM', 'flock', folder, 'true']).then(() => (isKept = false));
  while (follow) {
    const isLast = ended() !== undefined || !isKept;
    position = printRest(file, position);
    const current = statSync(log, { throwIfNoEntry: false });
    if (current && current.ino !== fstatSync(file).ino) {
      position = printRest(file, position);
      closeSync(file);
      file = await open(log);
      position = 0;
    } else if (isLast) break;
    else await sleep(100);
  }
  return 0;
});
