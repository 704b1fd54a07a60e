// Stripped .ts files: under their own names in a folder that npm ci empties, with the time of what they are made of.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's top folder. */
export const top = fileURLToPath(new URL('../..', import.meta.url));

/** Where the stripped file of `source` is kept; undefined for one that is not of the project. */
export const keptFile = (source) =>
  source.startsWith(top)
    ? join(top, 'node_modules/.cache/barehand-stripped', source.slice(top.length))
    : undefined;

/** A file's time of change in whole milliseconds, which utimes(2) can set by way of a double; undefined: it is not there. */
export const changed = (path) => {
  const time = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
  return time === undefined ? undefined : Math.round(time);
};
