// Programs of the host: finding, quoting, running.
import { closeSync, constants, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { attempt } from './pids.ts';

/** The directories of the distribution's programs. PATH may lead to wrappers that work only on this host. */
export const systemDirectories = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];

/** The same as a PATH. */
export const systemPath = '/usr/sbin:/usr/bin:/sbin:/bin';

/** The directories of PATH. */
export const pathDirectories = () => (process.env.PATH ?? '').split(delimiter);

/** The path of a program in these directories, or undefined. A name with a slash is a path already. */
export function findProgram(name: string, directories = systemDirectories): string | undefined {
  const isFile = (path: string, bits: number) => {
    try {
      const stat = statSync(path, { throwIfNoEntry: false });
      return stat?.isFile() && (stat.mode & bits) === bits;
    } catch {
      return false; // this user may not search the directory
    }
  };
  if (name.includes('/')) return isFile(name, 0) ? name : undefined;
  return directories
    .map((directory) => join(directory, name))
    .find((path) => isFile(path, constants.S_IXUSR));
}

/** The path of a program in PATH; undefined if there is none. */
export const findInPath = (name: string) => findProgram(name, pathDirectories());

/**
 * A word whose value exists only after earlier steps, such as a PID. In print it is a shell variable; when performed,
 * its value replaces it. It is marked by NULs, which no word of a command can contain.
 */
export const variable = (name: string) => `\0${name}\0`;

const O_CLOEXEC = 0o2000000; // open(2), on x86-64 and arm64

/**
 * Closes the descriptors above `last` that a child would inherit: those that the caller left open. node's own have O_CLOEXEC,
 * and so have the caller's up to 15, uv_disable_stdio_inheritance().
 */
export function closeInherited(last = 2): void {
  for (const fd of readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => fd > last)) {
    // what readdir(3) had open is closed by now
    const flags = attempt(() => descriptorFlags(fd)) ?? O_CLOEXEC;
    if ((flags & O_CLOEXEC) === 0) closeSync(fd);
  }
}

/** How many descriptors from 3 on the caller has opened. The first one that was free is node's own epoll(7). */
export function countInherited(): number {
  let fd = 3;
  while (![undefined, 'anon_inode:[eventpoll]'].includes(attempt(() => readlinkSync(`/proc/self/fd/${fd}`))))
    fd++;
  return fd - 3;
}

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
 * A command as it is typed: sh`ip link add ${link} type veth`. Blanks in the text separate words. An interpolated value
 * is never split, whatever it contains; a list becomes one word for each of its values.
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
 * zx's `$`, loaded when the first program runs, since loading takes longer than most scripts. It throws nothing: its
 * output has exitCode, signal, stdout and stderr. Variables named ZX_* would change zx's options, so they are hidden
 * from it.
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
  // without exec, dash starts another process and waits for it
  const running = (input === undefined ? $ : $({ input, stdio: 'pipe' }))`exec ${argv}`;
  if (input !== undefined) running.stdin.on('error', () => {}); // EPIPE: it has ended, and says why
  return running;
}

/** The flags of an open descriptor of this process, open(2), as /proc/self/fdinfo has them. */
export const descriptorFlags = (fd: number): number =>
  Number.parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8);

/**
 * Makes the standard streams block again. Node sets O_NONBLOCK on a pipe when process.stdout is first read, as an
 * import of node:process or node:util does. All processes that share the open file then see EAGAIN, and lose data,
 * fcntl(2).
 */
export function blockStreams(): void {
  for (const [fd, stream] of (['stdin', 'stdout', 'stderr'] as const).entries()) {
    if ((descriptorFlags(fd) & constants.O_NONBLOCK) === 0) continue;
    (process[stream] as { _handle?: { setBlocking?: (blocks: boolean) => void } })._handle?.setBlocking?.(
      true,
    );
  }
}
