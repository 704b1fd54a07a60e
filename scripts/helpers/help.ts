// The help of a script, which is its header comment: the whole, or the part that fits the screen of a terminal.
import { createRequire } from 'node:module';
import { isatty } from 'node:tty';
import { print } from './output.ts';
import { findInPath } from './shell.ts';

/** The lines that a help may have on a terminal of 24: the prompt takes one. */
const screenLines = 23;

/** The header comment in the text of a script. A line that begins with an asterisk is one of a usual option. */
export const headerOf = (source: string) => /\/\*\n([\s\S]*?)\*\//.exec(source)?.[1] ?? '';

/** The whole help in the text of a script: its header without the marks of usual options. */
export const wholeHelp = (source: string) => headerOf(source).replace(/^\*/gm, ' ');

/**
 * What a script prints for --help: the whole, if that fits a screen; otherwise its first line, the first paragraph of
 * USAGE, EXAMPLES, the marked lines of all sections of options, and how to get the rest.
 */
export function shortHelp(source: string): string {
  const header = headerOf(source);
  const whole = wholeHelp(source);
  if (whole.split('\n').length - 1 <= screenLines) return whole;
  const [purpose = '', ...paragraphs] = header.split('\n\n');
  const [name] = purpose.split(':', 1);
  const begins = (heading: string) => paragraphs.filter((text) => text.startsWith(`${heading}\n`));
  const usual = header
    .split('\n')
    .filter((line) => line.startsWith('*'))
    .map((line) => ` ${line.slice(1)}`);
  return `${[
    purpose,
    ...begins('USAGE'),
    ...begins('EXAMPLES'),
    ['OPTIONS', ...usual].join('\n'),
    `All options, what changes on the host, exit codes: ${name} --help all`,
  ].join('\n\n')}\n`;
}

/** Prints a text, on a terminal through the program that $PAGER names, else less(1), where it is installed. */
export function page(text: string): void {
  const [name = '', ...words] = (process.env.PAGER ?? 'less').split(' ').filter(Boolean);
  const program = isatty(1) && name ? findInPath(name) : undefined;
  if (!program) {
    print(text);
    return;
  }
  // Ctrl-C is for the pager: this process waits for it, and goes on
  process.on('SIGINT', () => {});
  const { spawnSync } = createRequire(import.meta.url)('node:child_process');
  // less: end at once if the text fits the screen, and leave it there
  const env = { LESS: 'FRX', ...process.env };
  const { error, pid } = spawnSync(program, words, {
    input: text,
    stdio: ['pipe', 'inherit', 'inherit'],
    env,
  });
  if (error && !pid) print(text);
}
