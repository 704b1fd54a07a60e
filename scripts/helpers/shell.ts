// The host's own programs: where they are, and running them.
import { constants, readFileSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Where the distribution puts its programs. PATH may lead to wrappers that work only on this host. */
export const systemDirectories = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];

/** The directories of PATH: where the programs that this host is to run are looked for. */
export const pathDirectories = () => (process.env.PATH ?? '').split(delimiter);

/** Where a program is in these directories, or undefined. A name with a slash is where it is. */
export function findProgram(name: string, directories = systemDirectories): string | undefined {
  const isFile = (path: string, bits: number) => {
    try {
      const stat = statSync(path, { throwIfNoEntry: false });
      return stat?.isFile() && (stat.mode & bits) === bits;
    } catch {
      return false; // in a directory that is closed to this user
    }
  };
  if (name.includes('/')) return isFile(name, 0) ? name : undefined;
  return directories
    .map((directory) => join(directory, name))
    .find((path) => isFile(path, constants.S_IXUSR));
}

/** A program of this host's, where its PATH leads; undefined where there is none. */
export const findInPath = (name: string) => findProgram(name, pathDirectories());

/**
 * A word whose value exists only once the steps before it have run, such as a PID: printed it is a shell variable, and
 * performed its value takes its place. It stands between NULs, which no word of a command can contain.
 */
export const variable = (name: string) => `\0${name}\0`;

/** Quotes a word for any POSIX shell. zx's own quote() writes $'…', which dash does not know. */
export function quote(word: string): string {
  if (/^[\w/.:=,@%+-]+$/.test(word)) return word;
  if (!word.includes('\0')) return `'${word.replaceAll("'", `'\\''`)}'`;
  const parts = word.split('\0');
  const texts = parts.map((part, index) => {
    if (index % 2 === 0) return part.replace(/["\\$`]/g, '\\$&');
    return /^\w/.test(parts[index + 1] ?? '') ? `\${${part}}` : `$${part}`;
  });
  return `"${texts.join('')}"`;
}

/** A command: its words. */
export type Command = string[];

/**
 * A command as it is typed: sh`ip link add ${link} type veth`. Blanks of the text end a word; an interpolated value
 * never does, whatever is in it, and a list is a word for each of its values.
 */
export function sh(texts: TemplateStringsArray, ...values: (string | number | string[])[]): Command {
  const words: string[] = [];
  let open = false; // whether what comes next belongs to the last word
  const add = (text: string) => {
    if (open) words.push(`${words.pop()}${text}`);
    else words.push(text);
    open = true;
  };
  for (const [index, text] of texts.entries()) {
    for (const part of text.match(/\s+|\S+/g) ?? [])
      if (/\s/.test(part)) open = false;
      else add(part);
    const value = values[index];
    if (Array.isArray(value)) {
      for (const [at, word] of value.entries()) {
        if (at > 0) open = false;
        add(word);
      }
    } else if (value !== undefined) add(String(value));
  }
  return words;
}

/**
 * zx's `$`, loaded when the first program is to run, as that takes longer than most scripts. It throws nothing: the
 * output has exitCode, signal, stdout and stderr. What is not said here zx would take from variables named ZX_*.
 */
export async function zx() {
  const said = Object.entries(process.env).filter(([name]) => name.startsWith('ZX_'));
  for (const [name] of said) delete process.env[name];
  const { $ } = await import('zx/core');
  Object.assign(process.env, Object.fromEntries(said));
  const stdio = ['ignore', 'pipe', 'pipe'] as ('ignore' | 'pipe')[];
  return $({
    shell: '/bin/sh',
    prefix: '',
    postfix: '',
    quote,
    quiet: true,
    nothrow: true,
    detached: false,
    stdio,
  });
}

/** Runs a program to its end, with `input` or without standard input. Throws nothing, see zx. */
export async function runProgram(argv: Command, input?: string) {
  const $ = await zx();
  // exec: dash would start one more process, and wait for it
  return (input === undefined ? $ : $({ input, stdio: 'pipe' }))`exec ${argv}`;
}

/** The flags of an open descriptor of this process, open(2), as /proc/self/fdinfo has them. */
export const descriptorFlags = (fd: number): number =>
  Number.parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8);

/**
 * Makes the standard streams block again. Node sets O_NONBLOCK on a pipe as soon as anything looks at process.stdout,
 * as an import of node:process or node:util does; fcntl(2): all who share the open file see that, and lose data.
 */
export function blockStreams(): void {
  for (const [fd, stream] of (['stdin', 'stdout', 'stderr'] as const).entries()) {
    if ((descriptorFlags(fd) & constants.O_NONBLOCK) === 0) continue;
    (process[stream] as { _handle?: { setBlocking?: (blocks: boolean) => void } })._handle?.setBlocking?.(
      true,
    );
  }
}
