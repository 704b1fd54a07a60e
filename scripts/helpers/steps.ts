// Steps: what a script is going to do to the host, as data that can be printed as shell or performed.
import {
  chmodSync,
  constants,
  copyFileSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fullCgroup, moveAll, moveTree, processesIn } from './cgroups.ts';
import { Failure, reason } from './cli.ts';
import { ofDescriptor } from './in-root.ts';
import { attempt, readProcess } from './pids.ts';
import { type Command, quote, runProgram, sh, variable } from './shell.ts';

/**
 * Where a step acts inside of a directory that is reached through a descriptor, since its path could lead elsewhere
 * when it is used. `path` is what is printed; `open` gives the descriptor, which stays open.
 */
export interface Place {
  path: string;
  open: () => number;
}

/** What a step waits for: a process ends, a cgroup and those below it have no process, a file has a line. */
export type Condition = { ended: number } | { empty: string } | { line: string; of: string };

/**
 * One step. `why` is printed as a comment above it.
 *
 * mkdir makes a directory and those above it. rmdir removes one, with `withParent` its parent directory too; with
 * `unlessUsed` only if they are empty and not busy. write writes a value to a file, such as one of cgroupfs or procfs.
 * link makes a symbolic link. With `in`, the path of mkdir, write and link is a name in that directory. remove removes a
 * file or a directory with all that is in it. copy copies files to the same path below `to`, without set-user-ID bits.
 * moveTree moves a process and its descendants, whose PIDs now are `members`, to the cgroup `to`; moveAll moves all
 * processes of a cgroup. signal sends a signal to those of some processes that have not ended. killAll sends SIGKILL to
 * all processes of a cgroup and of those below it, until there is none. until waits for a condition, at most `seconds`.
 * run runs a program, with `input` as its standard input. With `ignore`, neither its output nor its failure matters.
 */
export type Step = { why?: string } & (
  | { mkdir: string; in?: Place }
  | { rmdir: string; withParent?: boolean; unlessUsed?: boolean }
  | { write: string; to: string; in?: Place; ignore?: boolean }
  | { link: string; at: string; in?: Place }
  | { remove: string }
  | { copy: string[]; to: string }
  | { moveTree: number; members: number[]; to: string }
  | { moveAll: string; to: string }
  | { signal: NodeJS.Signals | number; to: number[] }
  | { killAll: string }
  | { until: Condition; seconds: number }
  | { run: Command; input?: string; ignore?: boolean }
);

/** The same steps, with a comment above the first one. */
export const explain = (why: string, steps: Step[]): Step[] =>
  steps.map((step, index) => (index > 0 ? step : { ...step, why }));

/**
 * A plan as shell that can be pasted: it does what `perform` does. Steps that do the same
 * `fewest` times or more are a loop.
 */
export function toShell(steps: Step[], fewest = 3): string {
  const lines: string[] = [];
  for (let at = 0; at < steps.length; ) {
    const { why } = steps[at] as Step;
    if (why) lines.push(`# ${why.replaceAll('\n', '\n# ').replace(/\0(\w+)\0/g, '$$$1')}`);
    const loop = [findLoop(steps.slice(at), 1), findLoop(steps.slice(at), 2)].find(
      (found) => found && found.values.length >= fewest,
    );
    if (loop) lines.push(printLoop(loop.values, loop.steps.map(commandLine).join('; ')));
    else lines.push(commandLine(steps[at] as Step));
    at += loop ? loop.steps.length * loop.values.length : 1;
  }
  return lines.map((line) => `${line}\n`).join('');
}

/** What is done in a loop: the values of `each`, and the steps that use it. */
interface Loop {
  values: string[];
  steps: Step[];
}

/** The longest loop that a plan begins with, with so many steps in it. */
function findLoop(steps: Step[], length: number): Loop | undefined {
  let found: Loop | undefined;
  for (let end = 2 * length; end <= steps.length; end += length) {
    const loop = steps[end - 1]?.why ? undefined : loopOf(steps.slice(0, end), length);
    if (!loop) break;
    found = loop;
  }
  return found;
}

/** What of a step may differ from others in a loop; the rest of it is the same for all. */
const cellsOf = (step: Step): string[] | undefined =>
  'mkdir' in step && !step.in
    ? [step.mkdir]
    : 'rmdir' in step
      ? [step.rmdir]
      : 'write' in step && !step.in && !step.write.includes('\n')
        ? [step.write, step.to]
        : undefined;

/** The same step with other cells. */
function withCells(step: Step, [first = '', second = '']: string[]): Step {
  if ('mkdir' in step) return { ...step, mkdir: first };
  if ('rmdir' in step) return { ...step, rmdir: first };
  return { ...step, write: first, to: second } as Step;
}

/** Steps that do the same over and over but for one word, such as a hierarchy of cgroups, as a loop. */
function loopOf(steps: Step[], length: number): Loop | undefined {
  const rest = ({ why: _, ...step }: Step) => JSON.stringify(withCells(step, []));
  const body = steps.slice(0, length);
  const cells = steps.map(cellsOf);
  const isAlike = (step: Step, at: number) => rest(step) === rest(body[at % length] as Step);
  if (!cells.every((its) => its !== undefined) || !steps.every(isAlike)) return undefined;
  const rows =
    body.length === steps.length
      ? []
      : Array.from({ length: steps.length / length }, (_, row) =>
          cells.slice(row * length, (row + 1) * length).flat(),
        );
  const found = findVariation(rows);
  if (!found) return undefined;
  // names, or a cgroup and the one in it: other paths are not easier to read in a loop
  const [outer = '', inner = '', ...more] = found.values;
  const areNames = found.values.every((value) => !/\/|^-[neE]/.test(value)); // and no option of echo(1)
  if (!areNames && (more.length > 0 || !inner.startsWith(`${outer}/`))) return undefined;
  const row = [...found.row];
  return {
    values: found.values,
    steps: body.map((step, at) => withCells(step, row.splice(0, cells[at]?.length))),
  };
}

/**
 * How rows of paths or words vary, if it is in one thing only: the value of each row, and a row with the variable `each`
 * in its place. A value is a word between slashes, or several.
 */
export function findVariation(rows: string[][]): { values: string[]; row: string[] } | undefined {
  let values: string[] | undefined;
  const row: string[] = [];
  for (const [column, cell] of (rows[0] as string[]).entries()) {
    const cells = rows.map((cells) => cells[column] as string);
    if (cells.every((other) => other === cell)) {
      row.push(cell);
      continue;
    }
    const [before, its, after] = splitAround(cells.map((path) => path.split('/')));
    if (its.some((value) => !/^[\w.,:@%+=/-]+$/.test(value))) return undefined;
    if (values && values.join(' ') !== its.join(' ')) return undefined;
    values = its;
    row.push([...before, variable('each'), ...after].join('/'));
  }
  return values && { values, row };
}

/** What lists of words have in common at both ends, and what stands between, which is nowhere empty. */
function splitAround(lists: string[][]): [before: string[], between: string[], after: string[]] {
  const [first = []] = lists;
  const shortest = Math.min(...lists.map(({ length }) => length));
  const isSame = (at: number) => lists.every((words) => words.at(at) === first.at(at));
  let after = 0;
  while (after < shortest - 1 && isSame(-1 - after)) after++;
  let before = 0;
  while (before < shortest - 1 - after && isSame(before)) before++;
  const between = lists.map((words) => words.slice(before, words.length - after).join('/'));
  return [first.slice(0, before), between, first.slice(first.length - after)];
}

/** A loop over values, for commands that use the variable `each`: one line, unless that is too long to be read. */
export function printLoop(values: string[], commands: string): string {
  const head = printCommand(sh`for each in ${values}`, 140);
  const last = head.split('\n').at(-1) as string;
  const end = `do ${commands}; done`;
  return `${head};${last.length + end.length > 168 ? '\n ' : ''} ${end}`;
}

/** A command as it is printed: its words, quoted, in lines that are no longer than they must be. */
export const printCommand = (command: Command, width = 116): string =>
  packWords(command.map(quote), width).join(' \\\n  ');

/** Words in lines of this width, as far as a word is not longer itself. */
export function packWords(words: string[], width: number): string[] {
  const lines: string[] = [];
  for (const word of words) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + word.length < width) lines.push(`${lines.pop()} ${word}`);
    else lines.push(word);
  }
  return lines;
}

const pathIn = (name: string, place: Place | undefined) => quote(place ? `${place.path}/${name}` : name);

function commandLine(step: Step): string {
  if ('mkdir' in step) return `mkdir -p ${pathIn(step.mkdir, step.in)}`;
  if ('rmdir' in step) {
    const [above, path] = [dirname(dirname(step.rmdir)), step.rmdir];
    const command = step.withParent
      ? `(cd ${quote(above)} && rmdir -p ${quote(relative(above, path))})`
      : `rmdir ${quote(path)}`;
    return `${command}${step.unlessUsed ? ' 2>/dev/null || :' : ''}`;
  }
  if ('write' in step)
    return writeLine(step.write, pathIn(step.to, step.in)) + (step.ignore ? ' 2>/dev/null || :' : '');
  if ('link' in step) return `ln -s ${quote(step.link)} ${pathIn(step.at, step.in)}`;
  if ('remove' in step) return `rm -r ${quote(step.remove)}`;
  if ('copy' in step) return printCommand(sh`cp --parents --preserve=timestamps ${step.copy} ${step.to}`);
  if ('moveTree' in step) return moveLine(step.members.join(' '), step.to);
  if ('moveAll' in step) return moveLine(`$(cat ${quote(join(step.moveAll, 'cgroup.procs'))})`, step.to);
  if ('signal' in step) return `kill -s ${signalWord(step.signal)} ${step.to.join(' ')} 2>/dev/null || :`;
  if ('killAll' in step)
    // 0 is a process of another PID namespace; to kill(1) it is the caller's own process group
    return `while pids=$(${printCommand(processFiles(step.killAll, sh`grep -hx [1-9][0-9]*`))} 2>/dev/null); do kill -s KILL $pids; sleep 0.1; done`;
  if ('until' in step) {
    const tries = Math.ceil(step.seconds * 10);
    return `n=0; until ${printCondition(step.until)} || [ $((n += 1)) -gt ${tries} ]; do sleep 0.1; done`;
  }
  const end = step.ignore ? ' 2>/dev/null || :' : '';
  if (step.input === undefined) return printCommand(step.run) + end;
  return `${printCommand(step.run)}${end} ${hereDocument(step.input)}`;
}

/** A signal as kill(1) takes it: by its name, or by its number where that has no name that all shells know. */
const signalWord = (signal: NodeJS.Signals | number) =>
  typeof signal === 'number' ? signal : signal.slice('SIG'.length);

/** The command that has `command` read cgroup.procs of a cgroup and of those below it. */
const processFiles = (directory: string, command: Command) =>
  sh`find ${directory} -name cgroup.procs -exec ${command} {} +`;

function printCondition(condition: Condition): string {
  if ('ended' in condition) return `! kill -s 0 ${condition.ended} 2>/dev/null`;
  if ('line' in condition) return printCommand(sh`grep -qx ${condition.line} ${condition.of}`);
  return `! ${printCommand(processFiles(condition.empty, ['cat']))} 2>/dev/null | grep -q .`;
}

/** A here-document, whose text stays as it is but for variables; its last line is `last`, or what the text does not have. */
export function hereDocument(text: string, last = 'END'): string {
  let end = last;
  while (text.split('\n').includes(end)) end += '_';
  const body = text.endsWith('\n') ? text : `${text}\n`;
  if (!body.includes('\0')) return `<<'${end}'\n${body}${end}`;
  const parts = body.split('\0');
  const shown = parts.map((part, index) => (index % 2 ? `\${${part}}` : part.replace(/[\\$`]/g, '\\$&')));
  return `<<${end}\n${shown.join('')}${end}`;
}

const writeLine = (text: string, file: string) =>
  text === ''
    ? `: > ${file}`
    : text.includes('\n')
      ? `cat >${file} ${hereDocument(text)}`
      : `${echo(text)} ${quote(text)} > ${file}`;

/** One after the other: a process whose parent has moved is born inside. Some may have ended meanwhile. */
const moveLine = (pids: string, to: string) =>
  `for pid in ${pids}; do echo "$pid" > ${quote(join(to, 'cgroup.procs'))} || :; done 2>/dev/null`;

// echo, as people type it, unless some shell's echo would take the text for an option or an escape
const echo = (text: string) => (/^-[neE]|\\/.test(text) ? "printf '%s\\n'" : 'echo');

/** Performs the steps in order. Throws a Failure that names the first step that failed and the kernel's reason. */
export async function perform(steps: Step[]): Promise<void> {
  for (const step of steps) {
    try {
      await performOne(step);
    } catch (error) {
      const isFull = 'mkdir' in step && (error as NodeJS.ErrnoException).code === 'EAGAIN';
      const why = (isFull && fullCgroup(dirname(step.mkdir))) || reason(error);
      throw new Failure(`cannot ${doing(step)}: ${why}`, { cause: error });
    }
  }
}

/**
 * Makes a directory and those above it that are missing. Throws the kernel's error. Node's own `recursive` does not end
 * where the kernel says ENOENT for a directory that is there, as in /proc (Node 20).
 */
export function makeDirectory(path: string): void {
  if (makeOne(path)) return;
  makeDirectory(dirname(path));
  if (!makeOne(path)) mkdirSync(path); // which says why
}

/** Makes a directory, unless it is there: another process may make it at any moment. False: one above it is missing. */
function makeOne(path: string): boolean {
  try {
    mkdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && dirname(path) !== path) return false;
    if (code !== 'EEXIST' || !statSync(path).isDirectory()) throw error;
  }
  return true;
}

/** A name in a directory that is held open: proc(5) has it under its descriptor. */
const at = (name: string, place: Place | undefined) => (place ? ofDescriptor(place.open(), name) : name);

async function performOne(step: Step): Promise<void> {
  if ('mkdir' in step) makeDirectory(at(step.mkdir, step.in));
  else if ('rmdir' in step)
    for (const path of [step.rmdir, ...(step.withParent ? [dirname(step.rmdir)] : [])])
      removeDirectory(path, step.unlessUsed ?? false);
  else if ('write' in step) writeValue(step.write, at(step.to, step.in), step.ignore ?? false);
  else if ('link' in step) symlinkSync(step.link, at(step.at, step.in));
  else if ('remove' in step) rmSync(step.remove, { recursive: true, force: true });
  else if ('copy' in step) for (const path of step.copy) copy(path, step.to);
  else if ('moveTree' in step) moveTree(step.moveTree, step.to);
  else if ('moveAll' in step) moveAll(step.moveAll, step.to);
  else if ('signal' in step) for (const pid of step.to) send(step.signal, pid);
  else if ('killAll' in step) await killAll(step.killAll);
  else if ('until' in step) await until(() => holds(step.until), step.seconds);
  else await run(step);
}

function writeValue(value: string, file: string, ignore: boolean): void {
  try {
    writeFileSync(file, value);
  } catch (error) {
    if (!ignore) throw error;
  }
}

function removeDirectory(path: string, unlessUsed: boolean): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (!unlessUsed) throw error;
  }
}

/** Copies a file with its time. Whoever may read it, or run it, on the host: all may do so with the copy. */
function copy(path: string, to: string): void {
  const target = join(to, path);
  makeDirectory(dirname(target));
  const { mode, atime, mtime } = statSync(path);
  copyFileSync(path, target, constants.COPYFILE_FICLONE);
  chmodSync(target, mode & 0o111 ? 0o755 : 0o644);
  utimesSync(target, atime, mtime);
}

function send(signal: NodeJS.Signals | number, pid: number): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Whoever SIGKILL does not end within a second waits in the kernel: that is for the caller to tell. */
async function killAll(directory: string): Promise<void> {
  await until(() => {
    const pids = membersOf(directory);
    for (const pid of pids) send('SIGKILL', pid);
    return pids.length === 0;
  }, 1);
}

/** The processes of a cgroup and of those below it, without those that this PID namespace does not show. */
const membersOf = (directory: string) =>
  (attempt(() => processesIn(directory)) ?? []).filter((pid) => pid !== 0);

/** Whether a condition holds now. Throws as the kernel says if the file of a line can't be read. */
export function holds(condition: Condition): boolean {
  if ('ended' in condition) return readProcess(condition.ended)?.zombie !== false;
  if ('empty' in condition) return (attempt(() => processesIn(condition.empty)) ?? []).length === 0;
  return readFileSync(condition.of, 'utf8').split('\n').includes(condition.line);
}

async function until(isDone: () => boolean, seconds: number): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !isDone() && performance.now() < end; )
    await sleep(20);
}

function doing(step: Step): string {
  if ('mkdir' in step) return `make the directory ${step.mkdir}`;
  if ('rmdir' in step) return `remove the directory ${step.rmdir}`;
  if ('write' in step) return `write ${step.write} to ${step.to}`;
  if ('link' in step) return `make the link ${step.at}`;
  if ('remove' in step) return `remove ${step.remove}`;
  if ('moveTree' in step) return `move process ${step.moveTree} and its descendants to ${step.to}`;
  if ('moveAll' in step) return `move the processes of ${step.moveAll} to ${step.to}`;
  if ('copy' in step) return `copy to ${step.to}`;
  if ('signal' in step) return `send ${step.signal} to process ${step.to.join(', ')}`;
  if ('killAll' in step) return `kill the processes of ${step.killAll}`;
  if ('until' in step) return `wait until ${printCondition(step.until)}`;
  return `run ${step.run.map(quote).join(' ')}`;
}

async function run({ run: command, input, ignore }: Extract<Step, { run: Command }>): Promise<void> {
  const { exitCode, signal, stderr } = await runProgram(command, input);
  if (exitCode !== 0 && !ignore)
    throw new Failure(
      stderr.trim().replace(/\s*\n\s*/g, '; ') || (signal ? `killed by ${signal}` : `exit code ${exitCode}`),
    );
}
