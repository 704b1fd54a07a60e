// What tests do with folders: links made, contents compared.
import assert from 'node:assert/strict';
import { symlinkSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { execute } from './script.ts';

const [major = 0, minor = 0] = release().split('.').map(Number);

/**
 * For a test's `skip`: overlayfs in a user namespace marks what it removes and replaces with user.* attributes, and
 * in memory there are none before Linux 6.6.
 */
export const needsAttributes = major * 1000 + minor < 6006 && 'needs Linux 6.6';

/** Makes symlinks in a folder: `NAME:TARGET ...`. */
export function link(folder: string, text: string): void {
  for (const word of text.split(/\s+/)) {
    const [name = '', target = ''] = word.split(':');
    symlinkSync(target, join(folder, name));
  }
}

/** Names, kinds, owners, sizes, times of all in a directory, and what is in its files. */
export async function state(folder: string): Promise<string> {
  const look = `cd "$1" && find . -printf '%p %y %m %U %G %s %T@ %l\\n' | sort
    find . -type f -print0 | sort -z | xargs -r0 cksum`;
  const { stdout, stderr } = await execute(['sh', '-c', look, 'sh', folder]);
  assert.equal(stderr, '');
  return stdout;
}
