// Containers inside containers, and which of them share namespaces, as a tree.
import type { Container } from '../helpers/containers.ts';
import { groupBy, printable } from '../helpers/pids.ts';
import type { Reading } from './containers.ts';
import { type Namespace, namespaceReader, sharersText } from './namespaces.ts';
import { type Column, layout } from './screen.ts';

/** A container with those inside it. */
export interface Branch {
  name: string | null;
  pid: number;
  engine: string;
  command: string;
  /** those in containers inside included */
  processes: number;
  namespaces: Namespace[];
  inside: Branch[];
}

/** The containers that are in no other one, each with those inside. */
export function toTree(reading: Reading): Branch[] {
  const namespacesOf = namespaceReader(reading);
  const byEnclosing = groupBy(reading.containers, ({ container }) => container.enclosing);
  const inside = (enclosing: Container | undefined): Branch[] =>
    (byEnclosing.get(enclosing) ?? []).map(({ container, shown: { name, pid, engine, command } }) => ({
      name,
      pid,
      engine,
      command,
      processes: container.members.size,
      namespaces: namespacesOf(pid, container.members),
      inside: inside(container),
    }));
  return inside(undefined);
}

/** Whose the namespaces of a container are, those of the same together: `own: mnt pid; host: net; with web: ipc`. */
function namespacesText(namespaces: Namespace[]): string {
  // hardly anybody has a time namespace
  const told = namespaces.filter(({ type, whose }) => type !== 'time' || whose !== 'host');
  const whoseOf = ({ whose, sharedWith }: Namespace) =>
    whose === 'shared' ? `with ${sharersText(sharedWith, false)}` : (whose ?? '?');
  return [...groupBy(told, whoseOf)]
    .map(([whose, its]) => `${whose}: ${its.map(({ type }) => type).join(' ')}`)
    .join('; ');
}

/** The lines that connect a container with the one around it: for itself, and for what is inside it. */
const marks = {
  unicode: { last: ['└─ ', '   '], other: ['├─ ', '│  '] },
  ascii: { last: ['`- ', '   '], other: ['|- ', '|  '] },
} as const;

const columns: Column[] = [
  { title: 'NAME', shrinkLastTo: 12 },
  { title: 'PID', right: true },
  { title: 'PROCS', right: true, dropOrder: 2 },
  { title: 'ENGINE', dropOrder: 1 },
  { title: 'COMMAND', atMost: 32, shrinkTo: 8 },
  { title: 'NAMESPACES', shrinkLastTo: 20 },
];

/** The tree as lines of text, title first, none wider than `width`. `truncated`: long commands are cut. */
export function treeLines(branches: Branch[], width: number, unicode: boolean, truncated: boolean): string[] {
  const drawn = marks[unicode ? 'unicode' : 'ascii'];
  const rows = (inside: Branch[], before: string | undefined): string[][] =>
    inside.flatMap((branch, index) => {
      const [own, below] = drawn[index === inside.length - 1 ? 'last' : 'other'];
      const { name, pid, processes, engine, command, namespaces } = branch;
      const cells = [`${pid}`, `${processes}`, engine, command, namespacesText(namespaces)].map(printable);
      const first = `${before === undefined ? '' : before + own}${printable(name ?? '-')}`;
      return [[first, ...cells], ...rows(branch.inside, before === undefined ? '' : before + below)];
    });
  const cells = rows(branches, undefined).map((row) => row.map((text) => ({ text })));
  const shown = truncated ? columns : columns.map(({ atMost: _, ...column }) => column);
  return layout(shown, cells, width, false, unicode);
}
