// /etc/hosts and /etc/resolv.conf of containers. Their root file systems may be hostile: these files are opened through
// descriptors only, one component at a time, and no symlink is followed.
import { closeSync, fstatSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { ofDescriptor, openInRoot, statsInRoot, withRoot } from '../helpers/in-root.ts';
import { attempt, namespaceInode } from '../helpers/pids.ts';
import type { Step } from '../helpers/steps.ts';
import type { Id } from './host.ts';

/** A file in the /etc of a process; the inode of its network namespace tells it from a later process with its PID. */
export interface EtcFile {
  name: 'hosts' | 'resolv.conf';
  pid: Id;
  inode: Id;
}

/** A change of such a file. */
export interface Edit {
  why?: string;
  edit: EtcFile;
  change: (old: string) => string;
}

/** The largest file that is read: a larger one could fill this host's memory. */
const maximumBytes = 1024 ** 2;

/**
 * Calls `use` with a path of the file, which is created if it is missing and `make` is given; else with undefined.
 * Returns undefined if the file is not a small plain file of that process, or may not be read or written.
 */
function withEtc<Result>(
  { name, pid, inode }: EtcFile,
  make: 'file' | undefined,
  use: (path: string | undefined) => Result,
): Result | undefined {
  return attempt(() =>
    withRoot(`/proc/${pid}/root`, (root) => {
      const isIt = namespaceInode(Number(pid), 'net') === Number(inode);
      if (!isIt || isHostRoot(fstatSync(root)) || !statsInRoot(root, 'etc', { links: false })?.isDirectory())
        return undefined;
      const found = openInRoot(root, `etc/${name}`, { links: false, make });
      if (!found) return use(undefined);
      try {
        // a device or a FIFO is not even opened
        if (!found.stats.isFile() || found.stats.size > maximumBytes) return undefined;
        return use(ofDescriptor(found.fd));
      } finally {
        closeSync(found.fd);
      }
    }),
  );
}

/** The text of such a file, '' if it is missing; undefined if it may not be read. */
export const readEtc = (file: EtcFile): string | undefined =>
  withEtc(file, undefined, (path) => (path === undefined ? '' : readFileSync(path, 'utf8')));

/** Makes a change. Returns whether that was possible. */
export function performEdit({ edit, change }: Edit): boolean {
  const done = withEtc(edit, 'file', (path = '') => {
    const old = readFileSync(path, 'utf8');
    const text = change(old);
    if (text !== old) writeFileSync(path, text);
    return true;
  });
  return done ?? false;
}

/** The step that is printed for a change: the whole file, by path. Nothing if the file stays the same. */
export function printEdit({ why, edit, change }: Edit, old = readEtc(edit)): Step[] {
  if (old === undefined || change(old) === old) return [];
  return [{ ...(why && { why }), write: change(old), to: `/proc/${edit.pid}/root/etc/${edit.name}` }];
}

const isHostRoot = ({ dev, ino }: { dev: number; ino: number }) => {
  const own = statSync('/');
  return own.ino === ino && own.dev === dev;
};

/** Whether the root directory of a process is that of the host, whose files stay as they are. */
export const hasHostRoot = (pid: Id) => attempt(() => isHostRoot(statSync(`/proc/${pid}/root`))) ?? false;

const linesOf = (text: string) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'));
/** Lines as a text. */
export const textOf = (lines: string[]) => lines.map((line) => `${line}\n`).join('');

/** /etc/hosts with these lines of a bridge instead of the earlier ones: our lines end with the bridge's name. */
export const changeHosts = (old: string, bridge: string, lines: string[]) =>
  textOf([...linesOf(old).filter((line) => !line.endsWith(`\t# ${bridge}`)), ...lines]);

const resolvMark = '# by barehand ';

/** /etc/resolv.conf with these lines; the earlier lines stay as comments. */
export const changeResolv = (old: string, bridge: string, lines: string[]) =>
  old.startsWith(resolvMark)
    ? old
    : textOf([`${resolvMark}${bridge}`, ...lines, ...linesOf(old).map((line) => `#was: ${line}`)]);

/** /etc/resolv.conf as it was before this bridge changed it. */
export const restoreResolv = (old: string, bridge: string) =>
  linesOf(old)[0] === `${resolvMark}${bridge}`
    ? textOf(linesOf(old).flatMap((line) => /^#was: (.*)$/.exec(line)?.[1] ?? []))
    : old;
