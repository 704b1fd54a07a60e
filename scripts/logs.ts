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
                  on stderr, which processes the kernel has killed for lack of
                  memory, if any
*     --json      with --status: print an object
                  name, status ("running" or "ended"), exitCode, oomKilled,
                  oomKills (count; level, cgroup, limitBytes, process and at of
                  the last one); null if a value does not exist
* -h, --help      print the usual options; --help all prints all of this
      --version   print name and version

CHANGES
  Nothing.

EXIT CODES
  0 done; 1 failed, as for a NAME without a log; 2 wrong usage.

SEE ALSO
  run.ts, stop.ts (which removes the log), tail(1)
*/
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { scriptPath } from './helpers/called.ts';
import { findHierarchy, readHierarchies } from './helpers/cgroups.ts';
import { Failure, main, UsageError } from './helpers/cli.ts';
import { notesFolder, runFolder } from './helpers/containers.ts';
import { didYouMean } from './helpers/messages.ts';
import { print } from './helpers/output.ts';
import { attempt } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { runProgram } from './helpers/shell.ts';
import { isName, namedContainer } from './helpers/target.ts';
import { parseNumber } from './helpers/units.ts';
import {
  describeOomKills,
  type OomKills,
  parseOomKills,
  raiseCommand,
  settledOomKills,
} from './limit/oom-kills.ts';

export const options = {
  follow: { short: 'f' },
  tail: { short: 'n', alias: 'lines', parse: parseLines },
  status: {},
  json: {},
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

/** Prints the exit code of a container that has ended, or "running", and which processes the kernel has killed. */
async function printStatus(name: string, kept: string | undefined, json: boolean): Promise<void> {
  const hierarchies = readHierarchies();
  const memory = findHierarchy(hierarchies, 'memory');
  const code = kept?.split('\n', 1)[0];
  let kills: OomKills | null;
  if (kept !== undefined) kills = parseOomKills(kept, memory);
  else {
    const { cgroups, startTicks = 0 } = namedContainer(hierarchies, name);
    const directory = cgroups.find(({ hierarchy }) => hierarchy === memory)?.directory;
    const place = memory && directory !== undefined ? { version: memory.version, directory } : undefined;
    kills = await settledOomKills(place, memory, startTicks / 100);
  }
  const count = kills?.count ?? 0;
  if (json)
    print(
      `${JSON.stringify(
        {
          name,
          status: code === undefined ? 'running' : 'ended',
          exitCode: code === undefined ? null : Number(code),
          oomKilled: count > 0,
          oomKills: count > 0 ? kills : null,
        },
        null,
        2,
      )}\n`,
    );
  else print(`${code ?? 'running'}\n`);
  if (!kills || count === 0) return;
  const raise = code === undefined ? raiseCommand(name) : (size: string) => `--memory ${size}`;
  console.error(`logs: ${name}: ${describeOomKills(kills, raise, memory)}`);
}

await main(import.meta.url, { options, operands: [1, 1] }, async (values, [name = '']) => {
  const { follow, tail, status, json } = values;
  if (status && (follow || tail !== undefined)) throw new UsageError('--status goes alone, or with --json');
  if (json && !status) throw new UsageError('--json needs --status');
  if (!isName(name)) throw new UsageError(`not a name: "${name}"`);
  const folder = notesFolder(name);
  const log = join(folder, 'log');
  const logs = () => attempt(() => readdirSync(runFolder())) ?? [];
  const readStatus = () => attempt(() => readFileSync(join(folder, 'status'), 'utf8').trim());
  if (!existsSync(log) && !existsSync(`${log}.1`))
    throw new Failure(
      attempt(() => namedContainer(readHierarchies(), name))
        ? `${name} has no log: it was not started with --detach: to see inside, type ${scriptPath('exec')} ${name} sh`
        : `there is no log of ${name}${didYouMean(name, logs()) || `: ${scriptPath('ps')} shows containers, ls ${runFolder()} shows logs`}`,
    );

  if (status) {
    if (readStatus() === undefined) requirePrograms(['flock'], 'see whether it is running');
    // the keeper of the log holds this lock, flock(1), even after the end of the container until the log is complete
    const isKept = async () => (await runProgram(['flock', '--nonblock', folder, 'true'])).exitCode === 1;
    // a container that ends meanwhile has a status by then
    if (readStatus() === undefined && !(await isKept()) && readStatus() === undefined)
      throw new Failure(`${name} was killed together with the keeper of its log: the exit code is unknown`);
    await printStatus(name, readStatus(), json);
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
