// The edge of every script: argv becomes typed options, errors become one line and an exit code.
import { readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import minimist from 'minimist';
import { didYouMean, escapeControls } from './messages.ts';
import { OutputError, print, useOutput } from './output.ts';

/** An option: without `parse` a flag; with it, one value, or with `many` one for each time it is given. */
export interface Option {
  short?: string;
  parse?: (text: string) => unknown;
  many?: boolean;
}

/** What an options table yields: flags are booleans, `many` a list, all else a value or undefined. */
export type Values<Table> = {
  [Name in keyof Table]: Table[Name] extends { parse: (text: string) => infer Value }
    ? Table[Name] extends { many: true }
      ? Value[]
      : Value | undefined
    : boolean;
};

/** A script's command line: its options, how many operands, and whether a command may follow them. */
export interface Spec<Table> {
  options: Table;
  /** operands required and allowed; a command after them is not counted */
  operands: [min: number, max: number];
  /** true: options end at the first operand, and what follows the operands is a command with its own */
  command?: boolean;
  /** exit code of a failure and of wrong usage; 125 for scripts that pass on a command's own code */
  exitCodes?: { failed: number; usage: number };
}

/** An error that the user can act on: its message is all that is printed. */
export class Failure extends Error {}

/** The command line is wrong; the message says how. */
export class UsageError extends Failure {
  /** what is printed after the message: the nearest option */
  hint = '';
}

function unknownOption(word: string, table: Named[]): UsageError {
  const [, name = ''] = /^--?([^=]*)/.exec(word) ?? [];
  const names = table.map((option) => option.name);
  return Object.assign(new UsageError(`unknown option ${word}`), { hint: didYouMean(name, names, '--') });
}

/** The kernel's word for an error: `EBUSY: resource busy or locked`; other errors' own message. */
export function reason(error: unknown): string {
  const { errno, code, message } = error as NodeJS.ErrnoException;
  // not imported: an import of node:util makes a pipe on standard error non-blocking, for all who share it
  const util = () => createRequire(import.meta.url)('node:util') as typeof import('node:util');
  const known = errno === undefined ? undefined : util().getSystemErrorMap().get(errno);
  return known ? known.join(': ') : code && !message.includes(code) ? `${code}: ${message}` : message;
}

type Named = Option & { key: string; name: string };

/** How an option of the table is written: `dryRun` is dry-run. */
export const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Whether an option is there at all: a flag that is set, a value, or a list with something in it. */
export const isGiven = (value: unknown) => [value].flat().some((one) => one !== undefined && one !== false);

/**
 * Parses argv (without node and the script) by the table. `dryRun` in the table is `--dry-run`, `noTrunc` is
 * `--no-trunc`. Returns the options' values and the operands, a command's words among them; or that help is asked.
 * Throws UsageError for an unknown option, a missing or unwanted value, or a wrong number of operands.
 */
export function parseArguments<Table extends Record<string, Option>>(spec: Spec<Table>, argv: string[]) {
  const options: Record<string, Option> = { ...spec.options, help: { short: 'h' } };
  const table: Named[] = Object.entries(options).map(([key, option]) => ({
    ...option,
    key,
    name: kebab(key),
  }));
  const flags = table.filter((option) => !option.parse);
  const words = checkOptions(table, spec.command ?? false, argv);
  const parsed = minimist(words, {
    string: ['_', ...table.filter((option) => option.parse).map((option) => option.name)],
    // minimist takes --no-x for x = false, so a flag that is named so is asked for by the name it negates
    boolean: flags.map((flag) => flag.name.replace(/^no-/, '')),
    default: Object.fromEntries(
      flags.filter((flag) => flag.name.startsWith('no-')).map((flag) => [flag.name.slice(3), true]),
    ),
    alias: Object.fromEntries(table.flatMap(({ short, name }) => (short ? [[short, name]] : []))),
    stopEarly: spec.command ?? false,
    '--': true,
    unknown: (argument) => {
      if (argument.startsWith('-') && argument !== '-') throw unknownOption(argument, table);
      return true;
    },
  });

  if (parsed.help === true) return { help: true } as const;

  const values: Record<string, unknown> = {};
  for (const { key, name, parse, many } of table) {
    const given: unknown = parsed[name];
    if (!parse) {
      values[key] = name.startsWith('no-') ? parsed[name.slice(3)] === false : given === true;
      continue;
    }
    const texts = given === undefined ? [] : [given].flat();
    // minimist reads a bare --name as '' and --no-name as false
    if (texts.some((text) => typeof text !== 'string' || text === ''))
      throw new UsageError(`--${name} needs a value`);
    const results = texts.map((text) => parse(text as string));
    values[key] = many ? results : results.at(-1);
  }

  const [min, max] = spec.operands;
  const before = parsed._;
  const after = parsed['--'] ?? [];
  // a `--` among a command's own words belongs to the command
  const keepDashes = spec.command && before.length > max && argv.includes('--');
  const operands = keepDashes ? [...before, '--', ...after] : [...before, ...after];
  if (operands.length < min) throw new UsageError('an operand is missing');
  if (operands.length > max && !spec.command) throw new UsageError(`one operand too many: ${operands[max]}`);
  return { help: false, values: values as Values<Table>, operands } as const;
}

/**
 * Refuses what minimist would let pass: `--no-NAME` of anything, names that every object has (`--constructor`), and
 * a flag's value, since --privileged=no must not mean yes, nor `--privileged false` eat an operand. Returns words that
 * minimist reads as they are meant: it takes -1 for an option, not a value, and in -du1000 u1000 for the value of -d.
 */
function checkOptions(table: Named[], command: boolean, argv: string[]): string[] {
  const words: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] as string;
    const next = argv[index + 1];
    const [, long, letters = '', value] = /^(?:--([^=]+)|-([^-=][^=]*))(=.*)?$/s.exec(word) ?? [];
    if (word === '--' || (command && !long && !letters)) return [...words, ...argv.slice(index)];
    if (!long && !letters) words.push(word);
    for (const [position, name] of (long ? [long] : [...letters]).entries()) {
      const option = table.find((candidate) => (long ? candidate.name : candidate.short) === name);
      if (!option) throw unknownOption(word, table);
      const rest = long ? '' : letters.slice(position + 1);
      if (option.parse) {
        // what follows in this word, or the next word, is its value; one that is joined to a letter is a number
        if (rest !== '' && (value !== undefined || !/^\d+(\.\d*)?(e\d+)?$/.test(rest)))
          throw unknownOption(word, table);
        const joined = value ?? (rest && `=${rest}`);
        if (joined || next === undefined) words.push(`--${option.name}${joined}`);
        else if (/^-\.?\d[\d.]*$/.test(next)) words.push(`--${option.name}=${argv[++index]}`);
        else words.push(`--${option.name}`, argv[++index] as string);
        break;
      }
      if (rest === '' && (value !== undefined || /^(true|false)$/.test(next ?? '')))
        throw new UsageError(`--${option.name} is a flag: it takes no value`);
      words.push(`--${option.name}`);
    }
  }
  return words;
}

/** The header comment of a script, which is its help. `url`: the script's import.meta.url. */
export function helpText(url: string): string {
  const source = readFileSync(fileURLToPath(url), 'utf8');
  return /\/\*\n([\s\S]*?)\*\//.exec(source)?.[1] ?? '';
}

/** True where this module is the script that node was started with, or is built from it; not one that a test imported. */
function isStartedScript(url: string): boolean {
  if (process.argv[1] === undefined) return false;
  const started = realpathSync(process.argv[1]);
  const built = join(dirname(started), '../dist', `${basename(started, '.ts')}.mjs`);
  return [started, built].includes(fileURLToPath(url));
}

/**
 * Gives a working directory that has been removed, which has no path, the name by which the kernel knows it: relative
 * paths then fail one by one, and what needs none works. Returns what to say of it after an error.
 */
function nameWorkingDirectory(): string {
  try {
    process.cwd();
    return '';
  } catch {
    process.cwd = () => '/proc/self/cwd';
    return ' (the working directory has been removed)';
  }
}

/**
 * Refuses words that node has taken for itself, although they stand behind the script: it looks for these up to the
 * first --, which the first lines of the scripts give it. What the file names, node has then loaded, as this user.
 */
function refuseTakenWords(): void {
  const [node = 'node', script = '', ...words] = process.argv;
  // proc_pid_cmdline(5): the only trace of node's own --
  const typed = readFileSync('/proc/self/cmdline', 'utf8').split('\0').slice(0, -1);
  if (typed.slice(0, typed.length - words.length).includes('--')) return;
  const end = words.indexOf('--');
  const taken = words
    .slice(0, end < 0 ? undefined : end)
    .find((word) => /^--(env-file(-if-exists)?|experimental-(default-)?config-file)(=|$)/.test(word));
  if (taken)
    throw new UsageError(
      `node takes ${taken} for itself, and has read that file: start it as ${script}, or: ${basename(node)} -- ${script}`,
    );
}

/**
 * Runs a script: parses, answers --help, calls `body`, and turns errors into one line on stderr and an exit code.
 * `body` may return the exit code. Does nothing where the module was only imported.
 */
export async function main<Table extends Record<string, Option>>(
  url: string,
  spec: Spec<Table>,
  body: (values: Values<Table>, operands: string[]) => Promise<number | undefined> | number | undefined,
): Promise<void> {
  if (!isStartedScript(url)) return;
  const script = basename(fileURLToPath(url)).replace(/\.\w+$/, '');
  const exitCodes = spec.exitCodes ?? { failed: 1, usage: 2 };
  const remark = nameWorkingDirectory();
  useOutput();
  const fail = (error: unknown): number => {
    // a reader that has seen enough (| head) is no error
    if (error instanceof OutputError && error.code === 'EPIPE') return 0;
    if (process.env.BAREHAND_TRACE) console.error(error);
    const isUsage = error instanceof UsageError;
    const lines = reason(error).split('\n').map(escapeControls);
    const text = lines.join(isUsage ? '\\n' : '\n') + (isUsage ? error.hint : '');
    console.error(`${script}: ${text}${remark}`);
    if (!isUsage) return exitCodes.failed;
    console.error(`Try '${script}.ts --help'.`);
    return exitCodes.usage;
  };
  process.on('uncaughtException', (error) => process.exit(fail(error)));
  try {
    refuseTakenWords();
    const parsed = parseArguments(spec, process.argv.slice(2));
    if (parsed.help) print(helpText(url));
    else process.exitCode = (await body(parsed.values, parsed.operands)) ?? 0;
  } catch (error) {
    process.exitCode = fail(error);
  }
}
