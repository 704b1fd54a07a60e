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
  logs.ts -t --since 10m web
  logs.ts --status backup

OPTIONS
* -f, --follow    print new output too, until the container ends
* -n, --tail N    print the last N lines only; all: every line
                  also --lines; new output follows them with --follow
*     --since TIME  print lines from then on: 10m (ago), 1h30m or 03:15
                  also 2026-01-31, 2026-01-31T12:34:56Z, or seconds since
                  1970; local time, unless it ends in Z or an offset, +01:00
      --until TIME  print lines up to then
* -t, --timestamps  print in front of each line when it was written, in UTC
                  to the second; after a silence up to 8 seconds late
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
import { print, toJson } from './helpers/output.ts';
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
import { clockOf, formatTime, parseTime, readNotes } from './logs/times.ts';

export const options = {
  follow: { short: 'f' },
  tail: { short: 'n', alias: 'lines', parse: parseLines },
  since: { parse: parseTime('--since') },
  until: { parse: parseTime('--until') },
  timestamps: { short: 't' },
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

/** Which lines of a log are printed, and whether with their times. */
interface Choice {
  since?: number | undefined;
  until?: number | undefined;
  stamps: boolean;
}

/** The lines that are chosen. `timeAt` tells when what ends at an offset had been written, in seconds since 1970. */
export function selectLines(
  text: Buffer,
  timeAt: (end: number) => number,
  { since = 0, until = Infinity, stamps }: Choice,
): Buffer {
  const lines: Buffer[] = [];
  for (let at = 0, end = 0; at < text.length; at = end) {
    end = text.indexOf(10, at) + 1 || text.length;
    const seconds = timeAt(end);
    if (seconds < Math.floor(since) || seconds > until) continue;
    if (stamps) lines.push(Buffer.from(`${formatTime(seconds)} `));
    lines.push(text.subarray(at, end));
  }
  return Buffer.concat(lines);
}

/** Opens the log. It does not exist for a moment after the keeper has renamed it to log.1. */
async function open(log: string): Promise<number> {
  for (let tries = 0; tries < 100 && !existsSync(log); tries++) await sleep(20);
  return openSync(log, 'r');
}

/** When a file was written to last, in seconds since 1970. */
const lastWrite = (file: { mtimeMs: number }) => Math.floor(file.mtimeMs / 1000);

/** The inode of a file now; undefined while there is none. */
const inodeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.ino;

/** Reads the log as it is now. `file` is open, at the end of `text`. `timeAt` is undefined if no times are kept. */
async function readLog(folder: string) {
  const log = join(folder, 'log');
  for (;;) {
    const file = await open(log);
    const older = attempt(() => readFileSync(`${log}.1`)) ?? Buffer.alloc(0);
    const olderWrite = attempt(() => lastWrite(statSync(`${log}.1`))) ?? 0;
    const newer = readFileSync(file);
    const notes = readNotes(folder);
    const stats = fstatSync(file);
    // log.1 is the older half. If the keeper renames log to log.1 while they are read, both are read again
    if (inodeOf(log) === stats.ino) {
      const clocks = notes && [clockOf(notes.older, olderWrite), clockOf(notes.newer, lastWrite(stats))];
      const timeAt = (end: number) =>
        (end <= older.length ? clocks?.[0]?.(end) : clocks?.[1]?.(end - older.length)) ?? 0;
      return { file, text: Buffer.concat([older, newer]), timeAt: notes && timeAt };
    }
    closeSync(file);
  }
}

/** Prints the log and, if `follow`, what comes, until the end of its keeper. */
async function printLog(
  name: string,
  choice: Choice,
  { follow, tail, hasEnded }: { follow: boolean; tail: number | undefined; hasEnded: () => boolean },
): Promise<void> {
  const { since, until, stamps } = choice;
  const isWhole = !stamps && since === undefined && until === undefined;
  const folder = notesFolder(name);
  const log = join(folder, 'log');
  const reading = await readLog(folder);
  let { file } = reading;
  const { text, timeAt } = reading;
  if (!isWhole && !timeAt)
    throw new Failure(
      `the log of ${name} has no times, as an older run.ts started it: leave out --since, --until and -t`,
    );
  // a line that has only begun gets its time when it is complete
  const end = !isWhole && follow ? text.lastIndexOf(10) + 1 : text.length;
  let begun = text.subarray(end);
  const shown = isWhole || !timeAt ? text : selectLines(text.subarray(0, end), timeAt, choice);
  print(tail === undefined ? shown : shown.subarray(lastLines(shown, tail)));
  if (!follow) return;

  const add = (bytes: Buffer, isLast = false) => {
    if (isWhole) return print(bytes);
    const all = Buffer.concat([begun, bytes]);
    const complete = isLast ? all.length : all.lastIndexOf(10) + 1;
    begun = all.subarray(complete);
    print(selectLines(all.subarray(0, complete), () => lastWrite(fstatSync(file)), choice));
  };
  const addRest = () => {
    const buffer = Buffer.alloc(65536);
    for (let length = 1; length > 0; add(buffer.subarray(0, length))) length = readSync(file, buffer);
  };
  let isKept = true;
  // flock(1) waits for the end of the keeper; setpriv(1) ends it with this process
  runProgram(['setpriv', '--pdeathsig=TERM', 'flock', folder, 'true']).then(() => (isKept = false));
  for (;;) {
    const isLast = hasEnded() || !isKept;
    addRest();
    const current = inodeOf(log);
    if (current !== undefined && current !== fstatSync(file).ino) {
      addRest();
      closeSync(file);
      file = await open(log);
    } else if (isLast) break;
    else await sleep(100);
  }
  add(Buffer.alloc(0), true);
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
    console.log(
      toJson(
        {
          name,
          status: code === undefined ? 'running' : 'ended',
          exitCode: code === undefined ? null : Number(code),
          oomKilled: count > 0,
          oomKills: count > 0 ? kills : null,
        },
        2,
      ),
    );
  else print(`${code ?? 'running'}\n`);
  if (!kills || count === 0) return;
  const raise = code === undefined ? raiseCommand(name) : (size: string) => `--memory ${size}`;
  console.error(`logs: ${name}: ${describeOomKills(kills, raise, memory)}`);
}

await main(import.meta.url, { options, operands: [1, 1] }, async (values, [name = '']) => {
  const { follow, tail, since, until, timestamps: stamps, status, json } = values;
  if (status && (follow || stamps || [tail, since, until].some((value) => value !== undefined)))
    throw new UsageError('--status goes alone, or with --json');
  if (follow && until !== undefined) throw new UsageError('--until does not go with --follow');
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
  const hasEnded = () => readStatus() !== undefined;
  await printLog(name, { since, until, stamps }, { follow, tail, hasEnded });
  return 0;
});
