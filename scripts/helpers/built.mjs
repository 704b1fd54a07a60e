// What dist/NAME.mjs was made of: written into it by build.mjs, compared by start.mjs.
import { lstatSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as zlib from 'node:zlib';

/** The project's top folder. */
const top = fileURLToPath(new URL('../..', import.meta.url));
const heading = '\n// Made of: ';

/** The last line of a built file: these files, named from the top folder, and a sum of their contents. */
export const describe = (files, read) => `${heading}${JSON.stringify({ files, sum: sum(files, read) })}\n`;

/** A sum that tells contents apart. Nobody but those who may write the scripts can choose them: CRC-32 is enough. */
function sum(files, read) {
  let value = 0;
  for (const file of files) {
    const bytes = read(join(top, file));
    // node before 20.15 has none: there nothing is taken for the same
    value = zlib.crc32?.(bytes, zlib.crc32(`${bytes.length} `, value)) ?? Number.NaN;
  }
  return value;
}

/** Whether only root or the owner of the script may write there, who may do as he likes anyway. */
const isSafe = (status, owner) =>
  !status.isSymbolicLink() && (status.uid === 0 || status.uid === owner) && (status.mode & 0o022) === 0;

/** The built file of a script, where it is made of just the files that are there now; else undefined. */
export function findBuilt(script) {
  const file = join(top, 'dist', `${basename(script, '.ts')}.mjs`);
  try {
    const { uid } = lstatSync(script);
    if (!isSafe(lstatSync(dirname(file)), uid) || !isSafe(lstatSync(file), uid)) return undefined;
    const text = readFileSync(file, 'latin1');
    const made = JSON.parse(text.slice(text.lastIndexOf(heading) + heading.length));
    return made.files.includes(`scripts/${basename(script)}`) && sum(made.files, readFileSync) === made.sum
      ? file
      : undefined;
  } catch {
    return undefined; // not built, or a file is gone: then it is not made of what is there
  }
}
