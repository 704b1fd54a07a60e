// /etc/hosts and /etc/resolv.conf of containers. Their root file systems may be hostile: they are reached through
// descriptors only, one name at a time, and no symlink is followed.
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs';
import { ofDescriptor, openInRoot, withRoot } from '../helpers/in-root.ts';
import { attempt, namespaceInode } from '../helpers/pids.ts';
import type { Step } from '../helpers/steps.ts';

export type EtcName = 'hosts' | 'resolv.conf';

/** A change of a file in a container's /etc. */
export interface Edit {
  why?: string;
  edit: EtcName;
  /** the process whose root directory it is in, and the inode of its network namespace: a later process has another */
  of: { pid: number | string; inode: number | string };
  change: (old: string) => string;
  /** what is in it, where that is known without reading it */
  old?: string;
}

/** Larger than any that is meant: reading it would fill this host's memory. */
const maximumBytes = 1_048_576;

/**
 * Calls `use` with the open file, which is made where it is missing, or with undefined where it is not to be made.
 * Throws where this is no file that may be read or written.
 */
function withEtc<Result>(
  { edit: name, of: { pid, inode } }: Edit,
  make: boolean,
  use: (file: number | undefined) => Result,
): Result {
  return withRoot(`/proc/${pid}/root`, (root) => {
    if (namespaceInode(Number(pid), 'net') !== inode) throw new Error('it has ended');
    if (isHostRoot(fstatSync(root))) throw new Error("it is the host's own");
    const opened: number[] = [];
    try {
      const folder = openInRoot(root, 'etc', { links: false });
      if (!folder) throw new Error('it has no /etc');
      opened.push(folder.fd);
      const found = openInRoot(folder.fd, name, { links: false, make: make ? 'file' : undefined });
      if (!found) return use(undefined);
      opened.push(found.fd);
      // a device or a FIFO is not even opened
      if (!found.stats.isFile() || found.stats.size > maximumBytes) throw new Error('it is no small file');
      const file = openSync(ofDescriptor(found.fd), make ? constants.O_RDWR : constants.O_RDONLY);
      opened.push(file);
      return use(file);
    } finally {
      for (const descriptor of opened) closeSync(descriptor);
    }
  });
}

/** Makes a change, and returns whether that was possible. */
export function performEdit(edit: Edit): boolean {
  const write = (file: number | undefined) => {
    if (file === undefined) return false;
    const old = readFileSync(file, 'utf8');
    const text = edit.change(old);
    if (text === old) return true;
    ftruncateSync(file);
    writeSync(file, text, 0);
    return true;
  };
  return attempt(() => withEtc(edit, true, write)) ?? false;
}

/** The same to be printed: by path, with what will be in the file. Nothing where it would stay as it is. */
export function printEdit(edit: Edit): Step[] {
  const read = (file: number | undefined) => (file === undefined ? '' : readFileSync(file, 'utf8'));
  const old = edit.old ?? attempt(() => withEtc(edit, false, read));
  const text = old === undefined ? undefined : edit.change(old);
  if (text === undefined || text === old) return [];
  const path = `/proc/${edit.of.pid}/root/etc/${edit.edit}`;
  return [{ ...(edit.why ? { why: edit.why } : {}), write: text, to: path }];
}

const isHostRoot = ({ dev, ino }: { dev: number; ino: number }) => {
  const own = statSync('/');
  return own.ino === ino && own.dev === dev;
};

/** Whether the root directory of a process is the host's own, whose files stay as they are. */
export const hasHostRoot = (pid: number) => {
  const its = attempt(() => statSync(`/proc/${pid}/root`));
  return its !== undefined && isHostRoot(its);
};

const linesOf = (text: string) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'));
const textOf = (lines: string[]) => lines.map((line) => `${line}\n`).join('');

/** /etc/hosts with these lines of a bridge instead of those that it had: ours end with the bridge's name. */
export const changeHosts = (old: string, bridge: string, lines: string[]) =>
  textOf([...linesOf(old).filter((line) => !line.endsWith(`\t# ${bridge}`)), ...lines]);

const resolvMark = '# by barehand ';

/** /etc/resolv.conf with these lines; what was there stays as a comment. */
export const changeResolv = (old: string, bridge: string, lines: string[]) =>
  old.startsWith(resolvMark)
    ? old
    : textOf([`${resolvMark}${bridge}`, ...lines, ...linesOf(old).map((line) => `#was: ${line}`)]);

/** /etc/resolv.conf as it was before this bridge changed it. */
export const restoreResolv = (old: string, bridge: string) =>
  linesOf(old)[0] === `${resolvMark}${bridge}`
    ? textOf(linesOf(old).flatMap((line) => /^#was: (.*)$/.exec(line)?.[1] ?? []))
    : old;
