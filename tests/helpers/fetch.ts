// Runs fetch-rootfs.ts in a sandbox of its own, and looks at what it left.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { scratchFolder } from './leftovers.ts';
import { type Result, top } from './script.ts';

/** The script under test. */
export const script = join(top, 'scripts/fetch-rootfs.ts');

/** The script as one file, alone in a folder. */
export function bundle(folder: string): string {
  const file = join(folder, 'fetch-rootfs.mjs');
  copyFileSync(join(top, 'dist/fetch-rootfs.mjs'), file);
  return file;
}

/** The same, in a folder that is removed with the test file. */
export const loneBundle = () => bundle(scratchFolder('fetch', 0o755));

/** How to run it: `program` may be a bundle, `input` is its standard input, `env` is added to the environment. */
export interface Options {
  program?: string;
  cwd?: string;
  input?: Buffer;
  env?: Record<string, string>;
}

/** Starts the script; `result` is settled when it has ended. */
export function start(
  args: string[],
  { program = script, cwd, input, env }: Options = {},
): { child: ChildProcess; result: Promise<Result> } {
  const child = spawn(program, args, { ...(cwd && { cwd }), env: { ...process.env, ...env } });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (text) => {
    stdout += text;
  });
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  // it may refuse before it has read all
  child.stdin.on('error', () => undefined);
  child.stdin.end(input ?? '');
  const result = new Promise<Result>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
  return { child, result };
}

/** Runs the script to its end. */
export function run(args: string[], options: Options = {}): Promise<Result> {
  return start(args, options).result;
}

/** A folder to work in, with a canary beside it that must never change. */
export class Sandbox {
  top = scratchFolder('fetch');
  work = join(this.top, 'work');
  outside = join(this.top, 'outside');
  dest = join(this.work, 'dest');

  constructor() {
    // a test may run the script as another user
    chmodSync(this.top, 0o755);
    mkdirSync(this.work);
    mkdirSync(this.outside);
    writeFileSync(join(this.outside, 'canary'), 'alive\n');
  }

  /** Everything there is outside of `work`, with content, mode, times and links: to be compared. */
  canary(): string {
    return execFileSync(
      'sh',
      ['-c', 'find "$1" -path "$2" -prune -o -printf "%P %y %m %s %n %l %T@ %C@\n"; cat "$3"/*', 'sh'].concat(
        this.top,
        this.work,
        this.outside,
      ),
      {
        encoding: 'utf8',
      },
    );
  }

  /** What is in `work`, hidden files included. */
  left(): string[] {
    return readdirSync(this.work).sort();
  }

  /** Writes a file into the sandbox, beside `work`: call it before the canary is looked at. */
  file(name: string, content: string | Buffer): string {
    const path = join(this.top, name);
    writeFileSync(path, content);
    return path;
  }

  remove(): void {
    execFileSync('rm', ['-rf', this.top]);
  }
}

/** A sandbox that is removed with the test. */
export function sandbox(t: TestContext): Sandbox {
  const made = new Sandbox();
  t.after(() => made.remove());
  return made;
}
