// Shell programs in containers, and what they say: most of what there is to ask about an option of run.ts.
import assert from 'node:assert/strict';
import { execute, rootfs, script } from './script.ts';

/** run.ts as a list of words, and what a test may put before it. */
export const launch = [script('run')];

/** An option again and again: `each('-v', ['/a:/a', '/b:/b'])`. */
export const each = (option: string, values: string[]) => values.flatMap((value) => [option, value]);

/** For the programs: one that should fail is named if it does not. */
const prelude = 'refused() { ! "$@" >/dev/null 2>&1 || echo "not refused: $*"; }\n';

export interface How {
  root?: string;
  launch?: string[];
  input?: string;
  env?: NodeJS.ProcessEnv;
}

/** Runs a shell program in a container. Options are one string where none of them has a blank. */
export function inside(options: string | string[], program: string, how: How = {}) {
  const words = typeof options === 'string' ? options.split(' ').filter(Boolean) : options;
  const command = [...words, how.root ?? rootfs, 'sh', '-c', prelude + program];
  return execute([...(how.launch ?? launch), ...command], how);
}

/** What such a program says; it has to end well, and with nothing on standard error. */
export async function said(...words: Parameters<typeof inside>): Promise<string> {
  const { code, stdout, stderr } = await inside(...words);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' }, `${words[0]}: ${words[1]}`);
  return stdout;
}

/** What such a program says, line by line, for several sets of options. */
export async function says(program: string, rows: [options: string, ...lines: string[]][], how: How = {}) {
  for (const [options, ...lines] of rows)
    assert.deepEqual((await said(options, program, how)).trim().split('\n'), lines, options);
}

/** One that fails before there is a container: 125, and what it says in one line. */
export async function refused(expected: RegExp, options: string | string[], how: How = {}): Promise<void> {
  const { code, stdout, stderr } = await inside(options, 'echo started', how);
  assert.match(stderr, expected, `${options}`);
  assert.deepEqual({ code, stdout }, { code: 125, stdout: '' }, `${options}: ${stderr}`);
  assert.match(stderr, /^[^\n]+\n$/, `${options}`);
}

/** run.ts in a mount namespace of its own, where a shell program mounts things before: the host never sees them. */
export const mounted = (program: string, then = launch) =>
  ['unshare', '--mount', '--propagation=private', 'sh', '-ec', `${program}\nexec "$@"`, 'sh'].concat(then);

/** A script, run.ts for one, on a host that lacks these programs. */
export const hiding = (programs: string[], then = launch) =>
  mounted(
    `for folder in $(echo "$PATH:/usr/bin:/bin:/usr/sbin:/sbin" | tr : " "); do
    for name in ${programs.join(' ')}; do
      [ ! -f "$folder/$name" ] || mount --bind /dev/null "$folder/$name"
    done
  done`,
    then,
  );

/** run.ts on a host that lacks these programs. */
export const without = (...programs: string[]) => hiding(programs);
