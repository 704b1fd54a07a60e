// Which program made a container, and what it is called there.
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { type Container, cgroupWords, ownForm } from './containers.ts';
import { isInit, readProc, type Table } from './pids.ts';

/** Which program made a container, and its name there if it has one. */
interface Identity {
  engine: string;
  name: string | undefined;
}

const shortId = (id: string | undefined) => id?.slice(0, 12);
const unescapeUnit = (name: string | undefined) =>
  name?.replace(/\\x([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));

// Where engines put their containers in the cgroup tree, with cgroupfs and with systemd. The last match in a path
// counts, the innermost; where two engines share a form, the more telling comes first.
const cgroupForms: [
  engine: string,
  form: RegExp,
  name?: (found: string | undefined) => string | undefined,
][] = [
  ['barehand', ownForm],
  ['kubernetes', /\/kubepods[^:]*?[/-]([0-9a-f]{64})/g, shortId],
  ['docker', /\/docker[/-]([0-9a-f]{64})/g, shortId],
  ['podman', /\/libpod-([0-9a-f]{64})/g, shortId],
  ['containerd', /\/nerdctl-([0-9a-f]{64})/g, shortId],
  ['lxc', /\/lxc(?:\.payload)?[./]([^/\n]+)/g],
  ['systemd-nspawn', /\/systemd-nspawn@([^/\n]+)\.service/g, unescapeUnit],
  ['systemd-nspawn', /\/machine-([^/\n]+)\.scope/g, unescapeUnit],
];

// words of `container=` that are not the name of the engine
const environmentEngines: Record<string, string> = {
  oci: 'podman',
  bwrap: 'bubblewrap',
  flatpak: 'bubblewrap',
};

/** Tells who made a container from its cgroup, its first process's environment, and its parent. */
export function identify(table: Table, container: Container): Identity {
  const { first } = container;
  const wordOf = cgroupWords(container);
  for (const [engine, form, nameOf] of cgroupForms) {
    const found = wordOf(form);
    if (found !== undefined) return { engine, name: nameOf ? nameOf(found) : found };
  }

  const parent = table.get(first.ppid);
  const maker = parent?.name ?? '';
  const declared = declaredEngine(first.pid);
  if (maker === 'systemd-nspawn' || declared === 'systemd-nspawn')
    return { engine: 'systemd-nspawn', name: parent && machineName(parent.pid) };
  if (maker === 'bwrap' || first.name === 'bwrap') return { engine: 'bubblewrap', name: undefined };
  if (maker === 'lxc-start') return { engine: 'lxc', name: undefined };

  const id = basename((readProc(first.pid, 'cgroup') ?? '').trim().split('\n')[0] ?? '');
  for (const [engine, state] of [
    ['runc', 'state.json'],
    ['crun', 'status'],
  ] as const)
    if (maker === engine || (id && existsSync(`/run/${engine}/${id}/${state}`)))
      return { engine, name: existsSync(`/run/${engine}/${id}`) ? id : undefined };
  if (maker.startsWith('containerd-shim')) return { engine: 'containerd', name: id };
  // the word is inherited by what is made by hand inside of a container, and the reader may be inside of one
  if (declared && declared !== (parent && declaredEngine(parent.pid)))
    return { engine: environmentEngines[declared] ?? declared, name: undefined };
  return { engine: isInit(first) ? 'unshare' : 'chroot', name: undefined };
}

/** `container=` in the environment of PID 1, which systemd's container interface asks engines to set. */
function declaredEngine(pid: number): string | undefined {
  return /(?:^|\0)container=([^\0]*)/.exec(readProc(pid, 'environ') ?? '')?.[1];
}

/** systemd-nspawn names a machine by --machine, else by its directory or image. */
function machineName(pid: number): string | undefined {
  const words = readProc(pid, 'cmdline')?.split('\0') ?? [];
  const valueAfter = (short: string, long: string) => {
    for (const [index, word] of words.entries()) {
      if (word === short || word === long) return words[index + 1];
      if (word.startsWith(`${long}=`)) return word.slice(long.length + 1);
      if (word.startsWith(short)) return word.slice(short.length);
    }
    return undefined;
  };
  const folder = valueAfter('-D', '--directory') ?? valueAfter('-i', '--image');
  return valueAfter('-M', '--machine') ?? (folder && basename(folder).replace(/\.raw$/, ''));
}
