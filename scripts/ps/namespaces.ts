// Namespaces of processes: whose they are, and who shares them. See namespaces(7).
import { type Container, heldContainer } from '../helpers/containers.ts';
import { namespaceInode } from '../helpers/pids.ts';
import type { Reading } from './containers.ts';

export const namespaceTypes = ['mnt', 'pid', 'net', 'ipc', 'uts', 'user', 'cgroup', 'time'] as const;

export type NamespaceType = (typeof namespaceTypes)[number];

/** Who else is in a namespace: a container, by its first process, or a process that is in none. */
export interface Sharer {
  pid: number;
  /** of the container; null: it has none */
  name: string | null;
  engine: string | null;
}

/** A namespace of a process. null: this user may not see it. */
export interface Namespace {
  type: NamespaceType;
  inode: number | null;
  /** `host`: that of PID 1; `own`: of its container, or of its process tree, alone; `shared`: also of others */
  whose: 'host' | 'own' | 'shared' | null;
  /** how many processes are in it, as far as they can be seen */
  processes: number | null;
  /** the others, if it is `shared` */
  sharedWith: Sharer[];
}

/** Who shares a namespace, for people. */
export function sharersText(sharers: Sharer[], withPids = true): string {
  const names = sharers.map(({ name, pid }) =>
    name === null ? `PID ${pid}` : withPids ? `${name} (PID ${pid})` : name,
  );
  return names.length > 5 ? `${names.slice(0, 5).join(', ')} and ${names.length - 5} more` : names.join(', ');
}

/** Whose a namespace is, for people. */
export const whoseText = ({ whose, sharedWith }: Namespace): string =>
  whose === 'shared'
    ? `shared with ${sharersText(sharedWith)}`
    : whose === 'host'
      ? "the host's"
      : (whose ?? '?');

/**
 * Reads the namespaces of all processes. Returns a function that tells about those of one process; `own` has the PIDs of
 * its container or process tree.
 */
export function namespaceReader({ table, containers: found }: Reading) {
  const containers = found.map(({ container }) => container);
  const members = new Map<string, number[]>();
  for (const pid of table.keys())
    for (const type of namespaceTypes) {
      const inode = namespaceInode(pid, type);
      if (inode === undefined) continue;
      const key = `${type} ${inode}`;
      const known = members.get(key);
      if (known) known.push(pid);
      else members.set(key, [pid]);
    }
  // PID 1 of others can't be looked into without root: the reader's own are those of the host, as far as it can tell
  const hosts = (type: NamespaceType) => namespaceInode(1, type) ?? namespaceInode('self', type);
  const around = (pid: number): Container | undefined =>
    heldContainer(containers, pid) ?? containers.findLast((container) => container.members.has(pid));

  // a container inside one that shares the namespace is not told again
  const sharersOf = (others: number[]): Sharer[] => {
    const sharing = new Set(others.flatMap((pid) => around(pid) ?? []));
    const outer = [...sharing].filter(({ enclosing }) => !enclosing || !sharing.has(enclosing));
    return [
      ...outer.map((container) => {
        const shown = found.find((one) => one.container === container)?.shown;
        return { pid: container.first.pid, name: shown?.name ?? null, engine: shown?.engine ?? null };
      }),
      ...others.filter((pid) => !around(pid)).map((pid) => ({ pid, name: null, engine: null })),
    ];
  };

  return (pid: number, own: Set<number>): Namespace[] =>
    namespaceTypes.map((type) => {
      const inode = namespaceInode(pid, type);
      if (inode === undefined) return { type, inode: null, whose: null, processes: null, sharedWith: [] };
      const all = members.get(`${type} ${inode}`) ?? [pid];
      // a process that holds a container, as unshare(1), has the namespaces that it made for it
      const isOwn = (other: number) =>
        own.has(other) || own.has(heldContainer(containers, other)?.first.pid ?? 0);
      const isHosts = inode === hosts(type);
      const others = isHosts ? [] : all.filter((other) => !isOwn(other));
      const whose = isHosts ? 'host' : others.length > 0 ? 'shared' : 'own';
      return { type, inode, whose, processes: all.length, sharedWith: sharersOf(others) };
    });
}
