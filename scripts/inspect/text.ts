// Facts as lines of text, a key and a value each.
import { printable } from '../helpers/pids.ts';
import { whoseText } from '../ps/namespaces.ts';
import { containerLines, limitLines } from '../ps/page.ts';
import type { Facts, Starter } from './facts.ts';
import { isUsual } from './reach.ts';

/** IDs that are all the same are written once. */
const idsText = (ids: Facts['credentials']['uids']) =>
  new Set(Object.values(ids)).size === 1
    ? `${ids.real}`
    : Object.entries(ids)
        .map(([which, id]) => `${which} ${id}`)
        .join(', ');

/** An ID map; empty if it is the identity of the whole range. */
export const mapText = (ranges: Facts['idMaps']['users']): string =>
  ranges
    .map(({ inside, outside, count }) =>
      count === 2 ** 32 - 1 ? 'none' : `${inside} is ${outside}${count > 1 ? `, ${count} IDs` : ''}`,
    )
    .join('; ') || 'empty: all IDs are the overflow ID';

/** Names of capabilities; `all`: those that this host has. */
const capabilitiesText = (names: string[], all: string[]) => {
  const missing = all.filter((name) => !names.includes(name));
  if (names.length === 0) return 'none';
  if (all.length > 0 && missing.length === 0) return 'all';
  return names.length > all.length / 2 && missing.length < names.length
    ? `all but ${missing.join(', ')}`
    : names.join(', ');
};

const orUnknown = (value: string | number | null) => (value === null ? '?' : String(value));

/** All facts, as keys and values; a key with several values has several lines. `short` truncates a long command. */
export function factLines(facts: Facts, short: (command: string) => string): [key: string, value: string][] {
  const { container, credentials, capabilities, reach, host, idMaps, seccomp } = facts;
  const from = ({ unit, session, terminal, startedAt }: Omit<Starter, 'pid' | 'command'>) =>
    [unit, terminal, session === null ? null : `session ${session}`, startedAt].filter(Boolean).join(', ');
  const starter = (one: Starter) => `${one.pid} ${short(one.command)} (${from(one)})`;
  const lines: [string, string][] = [
    ['pid', `${facts.pid}`],
    ['command', short(facts.command)],
    ['executable', orUnknown(facts.executable)],
    ['started', from({ ...facts, unit: null })],
  ];
  const add = (key: string, values: string[], none?: string) => {
    if (values.length === 0 && none !== undefined) lines.push([key, none]);
    for (const value of values) lines.push([key, value]);
  };
  lines.push(...containerLines(facts, short));
  add(
    'label',
    Object.entries(facts.labels).map(([key, value]) => `${key}=${value}`),
  );
  add('parent', facts.parents.map(starter));
  add('started by', facts.startedBy.map(starter));
  if (facts.unit) add('unit', [facts.unit]);

  const rootText = reach.rootIsHosts ? "the host's" : (container?.rootfs ?? '?');
  add('root directory', [rootText + (reach.isChroot ? ', by chroot(2)' : '')]);
  add('working directory', [orUnknown(facts.workingDirectory)]);
  // engines put /dev/null over files that they mask; v1 has a mount for each controller
  const isTold = ({ hostPath, type, readOnly }: (typeof reach.mounts)[number]) =>
    hostPath !== null && hostPath !== '/dev/null' && !(type === 'cgroup' && readOnly);
  const ofHost = reach.mounts.filter(isTold);
  add(
    'mount of the host',
    ofHost.map(
      ({ mountPoint, type, hostPath, readOnly }) =>
        `${mountPoint} is ${hostPath} (${type}, ${readOnly ? 'read-only' : 'writable'})`,
    ),
  );
  if (reach.mounts.length > 0) add('other mounts', [`${reach.mounts.length - ofHost.length}`]);
  for (const namespace of facts.namespaces)
    add(`namespace ${namespace.type}`, [
      namespace.inode === null
        ? '?'
        : `${namespace.inode}, ${whoseText(namespace)}, ${namespace.processes} process${namespace.processes === 1 ? '' : 'es'}`,
    ]);

  add('user', [idsText(credentials.uids)]);
  add('group', [idsText(credentials.gids)]);
  add('groups', [credentials.groups.join(', ') || 'none']);
  add('user map', [mapText(idMaps.users)]);
  add('group map', [mapText(idMaps.groups)]);
  for (const [set, names] of Object.entries(capabilities))
    add(`capabilities ${set}`, [capabilitiesText(names, host.capabilities)]);
  const filters = seccomp?.filters ? `, ${seccomp.filters} filter${seccomp.filters > 1 ? 's' : ''}` : '';
  add('seccomp', [seccomp ? seccomp.mode + filters : '?']);
  add('no_new_privs', [facts.noNewPrivileges === null ? '?' : facts.noNewPrivileges ? 'yes' : 'no']);
  add('security label', [facts.securityLabel ?? 'none']);

  for (const { path, controllers } of facts.cgroups)
    add('cgroup', [path + (controllers.length > 0 ? ` (${controllers.join(', ')})` : '')]);
  lines.push(
    ...limitLines(facts, ({ level, cgroup, setBy }) => `${level}: ${cgroup}; set by ${setBy ?? 'unknown'}`),
  );
  add('resource limits', [
    facts.rlimits
      .filter(({ soft, hard }) => soft !== 'unlimited' || hard !== 'unlimited')
      .map(({ limit, soft, hard }) => `${limit.toLowerCase()} ${soft === hard ? soft : `${soft} / ${hard}`}`)
      .join(', ') || 'none',
  ]);
  add('oom_score_adj', [orUnknown(facts.oomScoreAdjust)]);
  add('umask', [orUnknown(facts.umask)]);

  // without its root directory nothing of this is known
  const ifSeen = (none: string) => (reach.rootIsHosts === null ? '?' : none);
  const devices = reach.devices.filter((device) => !isUsual(device));
  add(
    'device',
    devices
      .slice(0, 20)
      .map(
        ({ path, kind, number, access, disk }) =>
          `${path} (${kind} ${number}${disk ? `, ${disk}` : ''}, ${access})`,
      ),
    ifSeen('none but the usual ones'),
  );
  if (devices.length > 20) add('device', [`and ${devices.length - 20} more: --json has all`]);
  if (reach.rootIsHosts !== null)
    add('device cgroup', [
      reach.deviceRules?.join(', ') ?? 'unknown: in cgroup v2 it is a BPF program, bpftool cgroup show',
    ]);
  add(
    'socket',
    reach.sockets.map(
      ({ path, engine, hostPath }) =>
        `${path} (${engine} of ${hostPath ? `the host, ${hostPath}` : 'its own'})`,
    ),
    ifSeen('none of an engine'),
  );
  add(
    'descriptor',
    reach.descriptors.map(
      ({ descriptor, target, kind, writable }) =>
        `${descriptor}: ${target} (${kind}, ${writable ? 'writable' : 'readable'})`,
    ),
    ifSeen('none outside of its root directory'),
  );
  add(
    'writable',
    reach.writable.map(({ path, kind }) => `${path} (${kind})`),
    reach.rootIsHosts ? 'as on the host' : ifSeen('no file of the kernel'),
  );
  add('/proc of the host', reach.hostProc);
  add('core_pattern', [orUnknown(host.corePattern)]);
  add('ptrace_scope', [host.ptraceScope === null ? 'none: this kernel has no Yama' : `${host.ptraceScope}`]);
  add('not seen', facts.unseen);
  return lines.map(([key, value]) => [key, printable(value)]);
}
