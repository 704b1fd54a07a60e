// What differs between two processes, fact by fact. Pure functions.
import { whoseText } from '../ps/namespaces.ts';
import type { Facts } from './facts.ts';
import { mapText } from './text.ts';

/** A fact that differs. null: the process does not have it. */
export interface Difference {
  fact: string;
  here: string | null;
  there: string | null;
}

/** Facts that can be compared, by name: without PIDs, times, inode numbers and usage, which always differ. */
function comparable(facts: Facts): Map<string, string> {
  const { container, credentials, capabilities, reach } = facts;
  const found = new Map<string, string>();
  const add = (fact: string, value: string | number | boolean | null | undefined) => {
    if (value === null || value === undefined || value === '') return;
    const before = found.get(fact);
    found.set(fact, before === undefined ? String(value) : `${before}; ${value}`);
  };
  add('command', facts.command);
  add('executable', facts.executable);
  add('working directory', facts.workingDirectory);
  add('engine', container?.engine ?? 'none');
  add('role', container?.role);
  add('unit', facts.unit);
  add('root directory', reach.rootIsHosts ? "the host's" : container?.rootfs);
  for (const [key, value] of Object.entries(facts.labels)) add(`label ${key}`, value || 'empty');
  for (const namespace of facts.namespaces) add(`namespace ${namespace.type}`, whoseText(namespace));
  for (const [which, id] of Object.entries(credentials.uids)) add(`user ID, ${which}`, id);
  for (const [which, id] of Object.entries(credentials.gids)) add(`group ID, ${which}`, id);
  add('supplementary groups', credentials.groups.join(', '));
  add('user map', mapText(facts.idMaps.users));
  add('group map', mapText(facts.idMaps.groups));
  add('setgroups', facts.idMaps.setgroups);
  for (const [set, names] of Object.entries(capabilities))
    for (const name of names) add(`capability ${name}`, set);
  add('seccomp', facts.seccomp?.mode);
  add('seccomp filters', facts.seccomp?.filters);
  add('no_new_privs', facts.noNewPrivileges);
  add('security label', facts.securityLabel);
  for (const { limit, device, level, text } of facts.limits)
    add(`limit ${limit}${device ? ` of ${device}` : ''}, ${level}`, text);
  for (const { limit, soft, hard } of facts.rlimits)
    add(`resource limit ${limit.toLowerCase()}`, `${soft} / ${hard}`);
  add('oom_score_adj', facts.oomScoreAdjust);
  add('umask', facts.umask);
  for (const { mountPoint, type, hostPath, readOnly } of reach.mounts) {
    // each container has its own cgroup, and its own files of the engine in a directory named by its ID
    const from = type.startsWith('cgroup') ? null : hostPath?.replace(/[0-9a-f]{64}/g, 'ID');
    add(`mount ${mountPoint}`, `${type}${from ? ` of ${from}` : ''}, ${readOnly ? 'read-only' : 'writable'}`);
  }
  for (const { path, kind, number, access } of reach.devices)
    add(`device ${path}`, `${kind} ${number}, ${access}`);
  for (const rule of reach.deviceRules ?? []) add(`device cgroup ${rule}`, 'allowed');
  for (const { path, engine, hostPath } of reach.sockets)
    add(`socket ${path}`, `${engine} of ${hostPath ?? 'its own'}`);
  for (const { descriptor, target, kind } of reach.descriptors)
    add(`descriptor ${descriptor}`, `${kind} ${target}`);
  for (const { path, kind } of reach.writable) add(`writable ${path}`, kind);
  for (const path of reach.hostProc) add(`/proc of the host`, path);
  for (const unseen of facts.unseen) add('not seen', unseen);
  return found;
}

/** The facts in which two processes differ, in the order of the facts. */
export function differences(one: Facts, other: Facts): Difference[] {
  const [here, there] = [comparable(one), comparable(other)];
  const facts = [...new Set([...here.keys(), ...there.keys()])];
  const kindOf = (fact: string) => fact.split(' ', 1)[0];
  const kinds = [...new Set(facts.map(kindOf))];
  const inOrder = facts.toSorted((a, b) => kinds.indexOf(kindOf(a)) - kinds.indexOf(kindOf(b)));
  return inOrder.flatMap((fact) =>
    here.get(fact) === there.get(fact)
      ? []
      : { fact, here: here.get(fact) ?? null, there: there.get(fact) ?? null },
  );
}
