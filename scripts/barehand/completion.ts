// Completion of the command for shells: a file in the language of each shell, and data that this module puts before it.
import { embedded } from '../helpers/embedded.ts';
import { quote } from '../helpers/shell.ts';

/** What a shell completes after `barehand NAME`. */
export interface Subcommand {
  name: string;
  purpose: string;
  options: {
    /** the word on the command line: `dry-run` */
    long: string;
    short: string | undefined;
    /** what its value is called; undefined for a flag */
    value: string | undefined;
    text: string;
  }[];
}

const bashCode = embedded(import.meta.url, './completion.bash');
const zshCode = embedded(import.meta.url, './completion.zsh');
const fishCode = embedded(import.meta.url, './completion.fish');

/** The words of the options of a script: -m --memory. */
const words = ({ options }: Subcommand, only: (value: string | undefined) => boolean) =>
  options
    .filter(({ value }) => only(value))
    .flatMap(({ long, short }) => [...(short ? [`-${short}`] : []), `--${long}`])
    .join(' ');

/** Bash: arrays of words by script. */
function bash(all: Subcommand[]): string {
  const rows = all.map(
    (one) =>
      `_barehand_options[${one.name}]=${quote(words(one, () => true))}\n` +
      `_barehand_values[${one.name}]=${quote(words(one, (value) => value !== undefined))}\n`,
  );
  return `declare -A _barehand_options _barehand_values\n${rows.join('')}${bashCode}`;
}

/** Zsh: specifications for _arguments by script, zshcompsys(1). */
function zsh(all: Subcommand[]): string {
  const inBrackets = (text: string) => text.replace(/[[\]\\]/g, '\\$&');
  const specs = ({ options }: Subcommand) =>
    options.flatMap(({ long, short, value, text }) => {
      const end = `[${inBrackets(text)}]${value === undefined ? '' : `:${value.replace(/[:\\]/g, '\\$&')}:_files`}`;
      const mark = value === undefined ? '' : '=';
      return [...(short ? [`*-${short}${end}`] : []), `*--${long}${mark}${end}`].map(quote);
    });
  const described = all.map(({ name, purpose }) => quote(`${name}:${purpose.replace(/[:\\]/g, '\\$&')}`));
  const arrays = all.map(
    (one) =>
      `_barehand_${one.name.replace(/-/g, '_')}=(\n${specs(one)
        .map((spec) => `  ${spec}\n`)
        .join('')})\n`,
  );
  return `#compdef barehand\n_barehand_scripts=(\n${described.map((word) => `  ${word}\n`).join('')})\n${arrays.join('')}${zshCode}`;
}

/** Fish: a list of scripts, and a call of complete(1) for each option. */
function fish(all: Subcommand[]): string {
  const scripts = all.map(
    ({ name, purpose }) =>
      `complete -c barehand -n __barehand_needs_script -a ${name} -d ${quote(purpose)}\n`,
  );
  const options = all.flatMap(({ name, options }) =>
    options.map(({ long, short, value, text }) => {
      const takes = value === undefined ? '' : ' -r';
      return `complete -c barehand -n '__barehand_uses ${name}' -l ${long}${short ? ` -s ${short}` : ''}${takes} -d ${quote(text)}\n`;
    }),
  );
  return `${fishCode}${scripts.join('')}${options.join('')}`;
}

/** The completion for each shell, as a text to load. */
export const completions = { bash, zsh, fish };
export type Shell = keyof typeof completions;
