#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
barehand.ts: one command that starts each of the scripts

USAGE
  barehand.ts SCRIPT [ARGUMENT...]
  barehand.ts SCRIPT --help
  barehand.ts completion bash|zsh|fish
  barehand.ts manual DIR
  SCRIPT is one of these:
          fetch-rootfs pack-rootfs run exec ps inspect logs stop limit-memory
          limit-cpu limit-pids limit-io network check-host demo

  completion  print the completion of a shell for this command
  manual      write the manual pages, barehand.1 and barehand-SCRIPT.1, to DIR

EXAMPLES
  barehand.ts run rootfs/host sh
  barehand.ts completion bash > /etc/bash_completion.d/barehand
  barehand.ts completion zsh > /usr/local/share/zsh/site-functions/_barehand
  barehand.ts completion fish > /etc/fish/completions/barehand.fish

OPTIONS
* -h, --help  print this
  --version   print name and version

CHANGES
  Nothing, except for what SCRIPT changes; manual writes to DIR.

UNDO
  That of SCRIPT.

EXIT CODES
  Those of SCRIPT; 2 wrong usage.

SEE ALSO
  The page of each script in docs/, man(1)
*/
import { mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { completions, type Shell, type Subcommand } from './barehand/completion.ts';
import { parseHeader } from './barehand/header.ts';
import { manualPage, pageName } from './barehand/manual.ts';
import { scriptFile } from './helpers/called.ts';
import { readHierarchies } from './helpers/cgroups.ts';
import { HelpNeeded, kebab, main, type Option, tableOf, UsageError } from './helpers/cli.ts';
import { headerOf, shortHelp } from './helpers/help.ts';
import { didYouMean } from './helpers/messages.ts';
import { print } from './helpers/output.ts';
import { attempt } from './helpers/pids.ts';
import { rootfsFolder } from './helpers/rootfs.ts';
import { ownContainers } from './helpers/target.ts';

export const options = {} as const;

const self = realpathSync(process.argv[1] ?? '.');
const ending = extname(self);
const headerText = (name: string) => headerOf(readFileSync(scriptFile(name), 'utf8'));

/** The names of the scripts beside this one. */
const scriptNames = () =>
  readdirSync(dirname(self))
    .filter((file) => file.endsWith(ending))
    .map((file) => file.slice(0, -ending.length))
    .filter((name) => name !== 'barehand');

/** Has this process become a script: its main() sees the arguments that follow the name of the script. */
async function become(name: string, words: string[]): Promise<void> {
  const [node = ''] = process.argv;
  const path = scriptFile(name);
  if (ending === '.mjs') {
    process.argv = [node, path, ...words];
    await import(pathToFileURL(path).href);
    return;
  }
  // a script may be edited, and this one not: start.mjs decides, as if it was started anew, hence the query
  process.argv = [node, 'start.mjs', path, ...words];
  const start = pathToFileURL(join(dirname(self), 'helpers/start.mjs'));
  await import(`${start.href}?${name}`);
}

/** What a shell can complete of each script: the options from its table, their descriptions from its header. */
async function readSubcommand(name: string): Promise<Subcommand> {
  const { purpose, options: described } = parseHeader(headerText(name));
  const { options: table } = (await import(pathToFileURL(scriptFile(name)).href)) as {
    options: Record<string, Option>;
  };
  return {
    name,
    purpose,
    options: tableOf(table).map(([key, { short, parse }]) => {
      const long = kebab(key);
      const { value, text = '' } = described.get(long) ?? {};
      return { long, short, value: parse && (value || 'VALUE'), text };
    }),
  };
}

/** Names for the operands of a script: root file systems for those that take one, else our containers. */
function operandNames(script: string): string[] {
  if (!['run', 'fetch-rootfs', 'pack-rootfs'].includes(script)) return ownContainers(readHierarchies());
  return (attempt(() => readdirSync(rootfsFolder)) ?? []).filter((name) => !name.startsWith('.'));
}

const commands: Record<string, (words: string[]) => Promise<void> | void> = {
  completion: async ([shell = '', script = '', ...more]) => {
    // the completion itself calls this, for names that exist at the moment
    if (shell === 'names')
      return print(
        operandNames(script)
          .map((name) => `${name}\n`)
          .join(''),
      );
    if (!(shell in completions) || script || more.length > 0)
      throw new UsageError(`completion is for one of ${Object.keys(completions).join(', ')}`);
    print(completions[shell as Shell](await Promise.all(scriptNames().map(readSubcommand))));
  },
  manual: ([folder, ...more]) => {
    if (!folder || more.length > 0) throw new UsageError('manual takes one directory');
    mkdirSync(folder, { recursive: true });
    for (const name of [...scriptNames(), 'barehand'])
      writeFileSync(join(folder, `${pageName(name)}.1`), manualPage(name, headerText(name)));
  },
};

await main(import.meta.url, { options, operands: [0, 1], command: true }, async (_, [name, ...words]) => {
  if (name === undefined) {
    print(shortHelp(readFileSync(self, 'utf8')));
    return 0;
  }
  const run = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (run) {
    await run(words);
    return 0;
  }
  const names = scriptNames();
  if (!names.includes(name)) {
    const near = didYouMean(name, [...names, ...Object.keys(commands)]);
    throw Object.assign(new HelpNeeded(`no such script: ${name}`), { hint: near });
  }
  await become(name, words);
  return Number(process.exitCode ?? 0);
});
