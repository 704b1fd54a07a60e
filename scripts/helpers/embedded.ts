// Programs in another language: files of their own beside the module that runs them.
import { readFileSync } from 'node:fs';

/**
 * The text of a file beside a module: `embedded(import.meta.url, FILE)`. From source the file is read; build.mjs puts
 * its text in place of the call, so FILE has to be a literal there, such as './keep.sh'.
 */
export const embedded = (url: string, path: string): string => readFileSync(new URL(path, url), 'utf8');
