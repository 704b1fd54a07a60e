// The help of a script: what fits a screen, and all of it, on a terminal through a pager.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { shortHelp, wholeHelp } from '../scripts/helpers/help.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { top } from './helpers/script.ts';

const lines = (count: number) => Array.from({ length: count }, (_, index) => `  line ${index}\n`).join('');
const source = (header: string) => `#!/bin/sh\n/*\n${header}*/\nimport 'x';\n/*\nnot the header\n*/\n`;

test('a help that fits a screen with the prompt is printed whole', () => {
  const header = `a.ts: purpose\n\nUSAGE\n  a.ts\n\nOPTIONS\n* --one   first\n${lines(16)}`;
  const whole = header.replace('*', ' ');
  assert.equal(whole.split('\n').length - 1, 23);
  assert.equal(shortHelp(source(header)), whole);
  assert.equal(wholeHelp(source(header)), whole);
});

test('of a longer one the first screen has purpose, synopsis, examples and the marked options', () => {
  const header = `a.ts: purpose

USAGE
  a.ts [OPTION...] X

  X is anything: 2 * 3.

EXAMPLES
  a.ts 1
  a.ts 2

FIRST OPTIONS
* -o, --one N  first
               more about it
  --two        second

SECOND OPTIONS
*     --three  third
  --four       fourth

CHANGES
${lines(20)}`;
  assert.equal(
    shortHelp(source(header)),
    `a.ts: purpose

USAGE
  a.ts [OPTION...] X

EXAMPLES
  a.ts 1
  a.ts 2

OPTIONS
  -o, --one N  first
      --three  third

All options, what changes on the host, exit codes: a.ts --help all
`,
  );
  assert.equal(wholeHelp(source(header)), header.replaceAll('\n*', '\n '));
});

const folder = scratchFolder('help');
const script = join(top, 'scripts/ps.ts');
const all = wholeHelp(readFileSync(script, 'utf8'));

/** What a terminal gets, whose pager is `pager`. script(1) has a terminal for its command. */
function onTerminal(words: string, pager: string | undefined): string {
  const { PAGER: _, ...env } = process.env;
  const { stdout } = spawnSync('script', ['-qec', `${script} ${words}`, '/dev/null'], {
    env: { ...env, ...(pager !== undefined && { PAGER: pager }) },
    encoding: 'utf8',
    input: '',
    timeout: 30_000,
  });
  return stdout.replaceAll('\r', '');
}

test('on a terminal --help all goes through $PAGER, --help does not', { skip: needs('script') }, () => {
  const pager = join(folder, 'pager');
  const seen = join(folder, 'seen');
  writeFileSync(pager, `#!/bin/sh\ncat >${seen}\necho "paged with $*, LESS=$LESS"\n`);
  chmodSync(pager, 0o755);
  assert.equal(onTerminal('--help', pager), shortHelp(readFileSync(script, 'utf8')));
  assert(!existsSync(seen));
  assert.equal(onTerminal('--help all', `${pager} -x 1`), 'paged with -x 1, LESS=FRX\n');
  assert.equal(readFileSync(seen, 'utf8'), all);
});

test('without a pager that is there --help all is printed', { skip: needs('script') }, () => {
  for (const pager of ['/nonexistent/pager', 'no-such-pager', '', folder])
    assert.equal(onTerminal('--help all', pager), all, pager);
});

test('into a pipe --help all is printed, though a terminal is there', { skip: needs('script') }, () => {
  assert.equal(onTerminal('--help all | cat', undefined), all);
});
