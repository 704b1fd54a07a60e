// Containers in the background, run.ts -d: started, looked at, and ended with the test file.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after } from 'node:test';
import { cgroups, newName } from './container.ts';
import { type How, said } from './inside.ts';
import { call, until } from './script.ts';

const started: string[] = [];
after(async () => {
  for (const name of started) await call('stop', ['--timeout', '0', name]); // one that is missing would stop them all
});

/** A name for one in the background, which ends with the test file. */
export function backgroundName(): string {
  const name = newName();
  started.push(name);
  return name;
}

/** Starts a shell program in the background, and looks at what run.ts says. */
export async function detach(options: string, program: string, how: How = {}): Promise<string> {
  const name = backgroundName();
  assert.equal(await said(`-d --name ${name} ${options}`, program, how), `${name}\n`);
  return name;
}

/** Where a file is that -d keeps. */
export const keptFile = (name: string, file: string) => `/run/barehand/${name}/${file}`;
export const kept = (name: string, file: string) => readFileSync(keptFile(name, file), 'utf8');

/** Waits for the end of one. */
export const ended = (name: string) =>
  until(
    `the end of ${name}`,
    () => existsSync(keptFile(name, 'status')) && !existsSync(`${cgroups(name)[0]}`),
  );
