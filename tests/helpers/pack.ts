// Calls of pack-rootfs.ts.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { call } from './script.ts';

/** The paths of names in a folder. */
export const pathsIn = <Names extends string[]>(folder: string, ...names: Names) =>
  names.map((name) => join(folder, name)) as { [Index in keyof Names]: string };

/** A small root file system, in a new directory. */
export function small(folder: string, name = 'small'): string {
  const tree = join(folder, name);
  mkdirSync(join(tree, 'etc'), { recursive: true });
  writeFileSync(join(tree, 'etc/motd'), 'hello\n');
  return tree;
}

/** Packs, and expects success. Returns what it says. */
export async function pack(words: string[], env: NodeJS.ProcessEnv = {}) {
  const { code, stdout, stderr } = await call('pack-rootfs', words, { env: { ...process.env, ...env } });
  assert.equal(code, 0, stderr);
  return { stdout, stderr };
}

/** Packs, and expects that it is refused. Returns the message. */
export async function refused(words: string[], code = 1, env: NodeJS.ProcessEnv = {}): Promise<string> {
  const result = await call('pack-rootfs', words, { env: { ...process.env, ...env } });
  assert.equal(result.code, code, result.stderr);
  assert.equal(result.stdout, '');
  assert.match(result.stderr, /^pack-rootfs: [^\n]+\n$/);
  return result.stderr;
}
