// Runs the project's scripts as a user does: as child processes, without a terminal.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

/** The project's top folder. */
export const top = fileURLToPath(new URL('../..', import.meta.url));

/** Words that let a node run .ts files; the types of the project's own are stripped already. */
export const stripTypes = ['--import', join(top, 'tests/strip/stripped.mjs')];

/** A rootfs made of the host's programs, which the test run makes before the tests start. */
export const rootfs = join(top, 'rootfs/host');

/**
 * A script by its name: dist/NAME.mjs, which starts four times as fast as scripts/NAME.ts and is built from it when
 * that is newer. BAREHAND_SOURCE=1 takes the .ts file itself; scripts.test.ts does so always.
 */
export const script = (name: string) =>
  join(top, process.env.BAREHAND_SOURCE ? `scripts/${name}.ts` : `dist/${name}.mjs`);

const changed = (path: string) => statSync(join(top, path), { throwIfNoEntry: false })?.mtimeMs ?? 0;
const newest = (folder: string) =>
  Math.max(
    ...readdirSync(join(top, folder), { recursive: true }).map((name) => changed(join(folder, String(name)))),
  );
if (!existsSync(script('run')) || Math.max(newest('scripts'), changed('package.json')) > newest('dist'))
  execFileSync(process.execPath, [join(top, 'scripts/helpers/build.mjs')]);

export interface Result {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Words that start a program as a user without root; `runtime` is to be his XDG_RUNTIME_DIR, and never root's. */
export const become = (id: number, runtime?: string) => [
  ...['setpriv', `--reuid=${id}`, `--regid=${id}`, '--clear-groups'],
  ...(runtime === undefined ? ['env', '-u', 'XDG_RUNTIME_DIR'] : ['env', `XDG_RUNTIME_DIR=${runtime}`]),
];

/** What a script says that has waited for more than a second: on a busy machine any may, for the launch of another test. */
const waits = /^[\w-]+: waiting for the lock on .* holds\n/gm;

/**
 * Runs a program to its end. `input` is its standard input, none otherwise. That it waits for a lock is left out of what it says,
 * unless `tellsWaits`.
 */
export async function execute(
  argv: string[],
  options: { input?: string; env?: NodeJS.ProcessEnv; cwd?: string; tellsWaits?: boolean } = {},
) {
  const [command = '', ...words] = argv;
  const child = spawn(command, words, {
    cwd: options.cwd ?? top,
    env: options.env ?? process.env,
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  child.stdin?.on('error', () => {}); // it need not read all of it
  child.stdin?.end(options.input);
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    text(child.stderr as NodeJS.ReadableStream),
    once(child, 'exit'),
  ]);
  return { code, signal, stdout, stderr: options.tellsWaits ? stderr : stderr.replace(waits, '') } as Result;
}

/** Runs a script to its end: `await call('run', ['--name', 'web', rootfs, 'true'])`. */
export const call = (name: string, words: string[], options: Parameters<typeof execute>[1] = {}) =>
  execute([script(name), ...words], options);

/** Waits until `probe` returns something, for a minute at the most. Throws with `what` it waited for. */
export async function until<T>(
  what: string,
  probe: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const began = performance.now();
  for (let looked = began; looked < began + 60_000; looked = performance.now()) {
    const result = await probe();
    if (result !== undefined && result !== false) return result;
    // a look takes long on a slow machine: what is waited for has most of the time
    const pause = Math.max(20, 4 * (performance.now() - looked));
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  throw new Error(`waited in vain for ${what}`);
}

/** The words of a command that runs `words` on a terminal of its own, made by script(1). */
export const onTerminal = (words: string[]) => [
  'script',
  '-q',
  '-e',
  '-c',
  words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' '),
  '/dev/null',
];
