// Steps: what a script is going to do to the host, as data that can be printed as shell or performed.
import {
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { moveAll, moveTree, processesIn } from './cgroups.ts';
import { Failure, reason } from './cli.ts';
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
 * mkdir makes a directory and those above it; rmdir removes one, with `unlessUsed` only if it is empty and not busy;
 * write writes a value to a file such as those of cgroupfs or procfs; link makes a symbolic link; remove removes a
 * file or a whole directory; copy copies files to the same path below `to`, without set-user-ID bits. With `in` these are a name in that directory. moveTree takes a process and its
 * descendants, whose PIDs now are `members`, to the cgroup `to`; moveAll all processes of a cgroup. signal sends a signal
 * to those of some processes that have not ended; killAll sends SIGKILL to all processes of a cgroup and of those below
 * it, until there is none. until waits for a condition, at most `seconds`. run runs a program, with `input` as its
 * standard input. `ignore`: what it says and whether it fails does not matter.
 */
export type Step = { why?: string } & (
  | { mkdir: string; in?: Place }
  | { rmdir: string; unlessUsed?: boolean }
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

/** A plan as shell that can be pasted: it does what `perform` does. */
export function toShell(steps: Step[]): string {
  const lines: string[] = [];
  for (let at = 0; at < steps.length; ) {
    const step = steps[at] as Step;
    const alike = steps
      .slice(at)
      .findIndex((other, index) => index > 0 && (other.why || !isAlike(step, other)));
    const group = steps.slice(at, alike < 0 ? steps.length : at + alike);
    const loop = group.length > 2 ? loopLine(group) : undefined;
    if (step.why) lines.push(`# ${step.why.replaceAll('\n', '\n# ')}`);
    if (loop) lines.push(loop);
    else lines.push(...group.map(commandLine));
    at += group.length;
  }
  return lines.map((line) => `${line}\n`).join('');
}

/** The path that a step acts on, where that is all that it says but for what `isAlike` compares. */
const pathOf = (step: Step) =>
  'mkdir' in step && !step.in
    ? step.mkdir
    : 'rmdir' in step
      ? step.rmdir
      : 'write' in step && !step.in
        ? step.to
        : undefined;

/** Whether two steps do the same to different paths. */
function isAlike(one: Step, other: Step): boolean {
  const rest = ({ why: _, ...step }: Step) =>
    JSON.stringify({ ...step, mkdir: 'mkdir' in step, rmdir: 'rmdir' in step, to: '' });
  return pathOf(one) !== undefined && pathOf(other) !== undefined && rest(one) === rest(other);
}

/** One line for steps that do the same to paths of which one part differs, such as a cgroup in each hierarchy. */
function loopLine(steps: Step[]): string | undefined {
  const paths = steps.map((step) => (pathOf(step) as string).split('/'));
  const [first = []] = paths;
  const differs = first.findIndex((word, index) => paths.some((words) => words[index] !== word));
  const isSame = paths.every(
    (words) =>
      words.length === first.length &&
      words.every((word, index) => index === differs || word === first[index]),
  );
  if (!isSame || paths.some((words) => !/^[\w.-]+$/.test(words[differs] ?? ''))) return undefined;
  const path = first.with(differs, variable('each')).join('/');
  const step = steps[0] as Step;
  const one =
    'mkdir' in step ? { mkdir: path } : 'rmdir' in step ? { ...step, rmdir: path } : { ...step, to: path };
  return `for each in ${paths.map((words) => words[differs]).join(' ')}; do ${commandLine(one as Step)}; done`;
}

/** A command as it is printed: its words, quoted, in lines that are no longer than they must be. */
export function printCommand(command: Command, width = 116): string {
  let line = '';
  let text = '';
  for (const word of command.map(quote)) {
    if (line && line.length + word.length > width) {
      text += `${line} \\\n`;
      line = `  ${word}`;
    } else line += `${line && ' '}${word}`;
  }
  return text + line;
}

const pathIn = (name: string, place: Place | undefined) => quote(place ? `${place.path}/${name}` : name);

function commandLine(step: Step): string {
  if ('mkdir' in step) return `mkdir -p ${pathIn(step.mkdir, step.in)}`;
  if ('rmdir' in step) return `rmdir ${quote(step.rmdir)}${step.unlessUsed ? ' 2>/dev/null || :' : ''}`;
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

/**
 * A here-document, whose text stays as it is but for variables; its last line is `last`, or what the text does not have.
 * `inner`: it is part of the text of another one, where the variables get their values.
 */
export function hereDocument(text: string, last = 'END', inner = false): string {
  let end = last;
  while (text.split('\n').includes(end)) end += '_';
  const body = text.endsWith('\n') ? text : `${text}\n`;
  if (inner || !body.includes('\0')) return `<<'${end}'\n${body}${end}`;
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
      throw new Failure(`cannot ${doing(step)}: ${reason(error)}`, { cause: error });
    }
  }
}

/**
 * Makes a directory and those above it that are missing. Throws the kernel's error. Node's own `recursive` does not end
 * where the kernel says ENOENT for a directory that is there, as in /proc (Node 20).
 */
export function makeDirectory(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && statSync(path).isDirectory()) return;
    if (code !== 'ENOENT' || dirname(path) === path) throw error;
    makeDirectory(dirname(path));
    // another process may have made it meanwhile
    if (!existsSync(path)) mkdirSync(path);
  }
}

/** A name in a directory that is held open: proc(5) has it under its descriptor. */
const at = (name: string, place: Place | undefined) =>
  place ? `/proc/self/fd/${place.open()}/${name}` : name;

async function performOne(step: Step): Promise<void> {
  if ('mkdir' in step) makeDirectory(at(step.mkdir, step.in));
  else if ('rmdir' in step) removeDirectory(step.rmdir, step.unlessUsed ?? false);
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
  mkdirSync(dirname(target), { recursive: true });
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
