// The edge of every script: argv becomes typed options, errors become one line and an exit code.
import { readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import minimist from 'minimist';
import { asCalled, scriptPath, typedWords } from './called.ts';
import { embedded } from './embedded.ts';
import { page, shortHelp, wholeHelp } from './help.ts';
import { didYouMean, escapeControls } from './messages.ts';
import { OutputError, print, useOutput } from './output.ts';
import { quote } from './shell.ts';

/**
 * An option: without `parse` a flag; with it, one value, or with `many` one for each time it is given. `alias` is
 * another long name, as it is typed, by which other programs call the same option.
 */
export interface Option {
  short?: string;
  alias?: string;
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
interface Spec<Table> {
  options: Table;
  /** operands required and allowed; a command after them is not counted */
  operands: [min: number, max: number];
  /** true: options end at the first operand, and what follows the operands is a command with its own */
  command?: boolean;
  /** true: the words behind `--` are no operands, but the third parameter of the script's body */
  rest?: boolean;
  /** exit code of a failure and of wrong usage; 125 for scripts that pass on a command's own code */
  exitCodes?: { failed: number; usage: number };
}

/** An error that the user can act on: its message is all that is printed. */
export class Failure extends Error {
  /** the exit code of the script, where it is not that of every failure */
  exitCode: number | undefined;
  constructor(message: string, { cause, exitCode }: { cause?: unknown; exitCode?: number } = {}) {
    super(message, { cause });
    this.exitCode = exitCode;
  }
}

/** The command line is wrong; the message says how. */
export class UsageError extends Failure {
  /** what is printed after the message: the nearest option */
  hint = '';
}

/** What is thrown for an option that is not in the table. */
function unknownOption(word: string, table: [key: string, Option][]): UsageError {
  const [, name = ''] = /^-+([^=]*)/.exec(word) ?? [];
  const names = table.map(([key]) => kebab(key));
  // as with one dash, or three
  const hint = names.includes(name) ? `: did you mean --${name}?` : didYouMean(name, names, '--');
  return Object.assign(new HelpNeeded(`unknown option ${word}`), { hint });
}

/** The command line is wrong, and only the help can say how it is right. `message` is printed before its command. */
export class HelpNeeded extends UsageError {}

/** The kernel's reason for an error, such as `EBUSY: resource busy or locked`; for other errors their message. */
export function reason(error: unknown): string {
  const { errno, code, message } = error as NodeJS.ErrnoException;
  // no import: that of node:util makes a pipe on standard error non-blocking for all processes that share it
  const util = () => createRequire(import.meta.url)('node:util') as typeof import('node:util');
  const known = errno === undefined ? undefined : util().getSystemErrorMap().get(errno);
  return known ? known.join(': ') : code && !message.includes(code) ? `${code}: ${message}` : message;
}

/** The name of the script that runs, without its ending, for messages. */
export const scriptName = () => basename(process.argv[1] ?? '').replace(/\.\w+$/, '');

/** The name of an option on the command line: dry-run for `dryRun`. */
export const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Whether an option was given: a flag that is set, a value, or a list that is not empty. */
export const isGiven = (value: unknown) => [value].flat().some((one) => one !== undefined && one !== false);

/** The options of a script, with those that every script has. */
export const tableOf = (options: Record<string, Option>): [key: string, Option][] =>
  Object.entries({ ...options, help: { short: 'h' }, version: {} });

/**
 * Parses argv (without node and the script) by the table. `dryRun` in the table is `--dry-run`, `noTrunc` is
 * `--no-trunc`. Returns the values of the options, the operands, including the words of a command, and those behind
 * `--` where they are none; or, if --help or --version is asked for, which of them, and for `--help all` `help: 'all'`.
 * Throws UsageError for an unknown option, a missing or unwanted value, or a wrong number of operands.
 */
export function parseArguments<Table extends Record<string, Option>>(spec: Spec<Table>, argv: string[]) {
  const table = tableOf(spec.options);
  const keysWhere = (hasValue: boolean) =>
    table.flatMap(([key, { parse }]) => ((parse !== undefined) === hasValue ? key : []));
  const parsed = minimist(plainWords(table, spec.command ?? false, argv), {
    string: ['_', ...keysWhere(true)],
    boolean: keysWhere(false),
    stopEarly: spec.command ?? false,
    '--': true,
  });
  if (parsed.help === true) return { help: parsed._[0] === 'all' ? 'all' : true } as const;
  if (parsed.version === true) return { version: true } as const;

  const values: Record<string, unknown> = {};
  for (const [key, { parse, many }] of table) {
    const given: string[] = [parsed[key] ?? []].flat();
    if (parse && given.includes('')) throw new HelpNeeded(`--${kebab(key)} needs a value`);
    const results = parse && given.map((text) => parse(text));
    values[key] = results ? (many ? results : results.at(-1)) : parsed[key];
  }

  const [min, max] = spec.operands;
  const before = parsed._;
  const after = parsed['--'] ?? [];
  // a `--` among a command's own words belongs to the command
  const keepDashes = spec.command && before.length > max && argv.includes('--');
  const operands = keepDashes ? [...before, '--', ...after] : [...before, ...(spec.rest ? [] : after)];
  if (operands.length < min) throw new HelpNeeded('an operand is missing');
  if (operands.length > max && !spec.command) throw new HelpNeeded(`one operand too many: ${operands[max]}`);
  return { values: values as Values<Table>, operands, rest: spec.rest ? after : [] } as const;
}

/**
 * Rewrites each option in argv as `--KEY` or `--KEY=VALUE`, which minimist can't misread: it takes -1 for an option,
 * u1000 in -du1000 for the value of -d, and --no-trunc for trunc=false. Throws UsageError for what minimist accepts:
 * unknown options, and values of flags, since --privileged=no must not mean yes, nor `--privileged false` lose an
 * operand. A missing value becomes an empty one.
 */
function plainWords(table: [key: string, Option][], command: boolean, argv: string[]): string[] {
  const words: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] as string;
    const next = argv[index + 1] ?? '--';
    const unknown = () => unknownOption(word, table);
    const [, long, letters = '', value] = /^(?:--([^=]+)|-([^-=][^=]*))(?:=(.*))?$/s.exec(word) ?? [];
    const isOperand = !long && !letters;
    if (isOperand && /^-(?!-?$)/.test(word)) throw unknown();
    if (word === '--' || (isOperand && command)) return [...words, ...argv.slice(index)];
    if (isOperand) words.push(word);
    for (const [position, name] of (long ? [long] : [...letters]).entries()) {
      const found = table.find(([key, { short, alias }]) =>
        long ? kebab(key) === name || alias === name : short === name,
      );
      if (!found) throw unknown();
      const [key, option] = found;
      if (key === 'help' && value === 'all') return ['--help', 'all'];
      const rest = long ? '' : letters.slice(position + 1);
      if (option.parse) {
        // the rest of this word, or the next word, is the value; only a number may follow a letter directly
        if (rest !== '' && (value !== undefined || !/^\d+(\.\d*)?(e\d+)?$/.test(rest))) throw unknown();
        const takesNext = value === undefined && rest === '';
        const isNext = takesNext && /^(?!-)|^-$|^-\.?\d[\d.]*$/.test(next);
        if (takesNext && !isNext && next !== '--')
          throw new UsageError(
            `--${kebab(key)} needs a value, and ${next} is an option: if it is the value, type --${kebab(key)}=${next}`,
          );
        words.push(`--${key}=${isNext ? argv[++index] : (value ?? rest)}`);
        break;
      }
      if (rest === '' && (value !== undefined || /^(true|false)$/.test(next)))
        throw new UsageError(`--${kebab(key)} is a flag: it takes no value`);
      words.push(`--${key}`);
    }
  }
  return words;
}

/**
 * Throws UsageError if a command, the last `words` of argv, begins with options: they belong before the operand, called
 * `name`. The message has the whole line as it should be. No program's name begins with a dash, unless by its path.
 */
export function refuseLateOptions(
  options: Record<string, Option>,
  name: string,
  words: string[],
  argv = process.argv.slice(2),
): void {
  const [first = ''] = words;
  if (!/^-./.test(first)) return;
  const table = tableOf(options);
  const rewritten = plainWords(table, true, words);
  const isOption = (word: string) => table.some(([key]) => word.split('=', 1)[0] === `--${key}`);
  // from the first word that is no option on, all words are as they were
  const at = rewritten.findIndex((word) => !isOption(word));
  const late = words.slice(0, at < 0 ? words.length : words.length - (rewritten.length - at));
  const before = argv.slice(0, argv.length - words.length);
  const line = [...before.slice(0, -1), ...late, ...before.slice(-1), ...words.slice(late.length)];
  throw new UsageError(
    `${first} stands after ${name}, where COMMAND begins: type ${scriptPath()} ${line.map(quote).join(' ')}`,
  );
}

/** What --version prints: name and version of the project. */
function versionText(): string {
  const { name, version } = JSON.parse(embedded(import.meta.url, '../../package.json'));
  return `${name} ${version}\n`;
}

/** Whether node was started with this module, or with the file built from it; false if a test has imported it. */
function isStartedScript(url: string): boolean {
  if (process.argv[1] === undefined) return false;
  const started = realpathSync(process.argv[1]);
  const built = join(dirname(started), '../dist', `${basename(started, '.ts')}.mjs`);
  return [started, built].includes(fileURLToPath(url));
}

/**
 * If the working directory has been removed and has no path, process.cwd() returns /proc/self/cwd from now on: only
 * uses of relative paths fail then. Returns a remark for error messages.
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
 * Refuses options that node has taken as its own, such as --env-file: node looks for them up to the first --, also
 * after the name of the script. The first lines of the scripts pass a --. Otherwise node has already read that file, as
 * this user.
 */
function refuseTakenWords(): void {
  const [node = 'node', script = '', ...words] = process.argv;
  // process.argv does not have node's own --, proc_pid_cmdline(5)
  const typed = typedWords();
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
 * `body` may return the exit code. Does nothing if the module was only imported.
 */
export async function main<Table extends Record<string, Option>>(
  url: string,
  spec: Spec<Table>,
  body: (
    values: Values<Table>,
    operands: string[],
    rest: string[],
  ) => Promise<number | undefined> | number | undefined,
): Promise<void> {
  if (!isStartedScript(url)) return;
  const script = basename(fileURLToPath(url)).replace(/\.\w+$/, '');
  const exitCodes = spec.exitCodes ?? { failed: 1, usage: 2 };
  const remark = nameWorkingDirectory();
  useOutput();
  const fail = (error: unknown): number => {
    // a reader that has closed the pipe (| head) is no error
    if (error instanceof OutputError && error.code === 'EPIPE') return 0;
    if (process.env.BAREHAND_TRACE) console.error(error);
    const help = error instanceof HelpNeeded ? `: type ${scriptPath()} --help` : '';
    const hint = (error instanceof UsageError && error.hint) || help;
    // what it quotes may hold anything: one line, and nothing that a terminal acts on
    console.error(`${script}: ${escapeControls(reason(error))}${remark}${hint}`);
    if (error instanceof UsageError) return exitCodes.usage;
    return (error instanceof Failure ? error.exitCode : undefined) ?? exitCodes.failed;
  };
  process.on('uncaughtException', (error) => process.exit(fail(error)));
  try {
    refuseTakenWords();
    const parsed = parseArguments(spec, process.argv.slice(2));
    const source = () => readFileSync(fileURLToPath(url), 'utf8');
    if (parsed.help === 'all') page(asCalled(wholeHelp(source())));
    else if (parsed.help) print(asCalled(shortHelp(source())));
    else if (parsed.version) print(versionText());
    else process.exitCode = (await body(parsed.values, parsed.operands, parsed.rest)) ?? 0;
  } catch (error) {
    process.exitCode = fail(error);
  }
}
