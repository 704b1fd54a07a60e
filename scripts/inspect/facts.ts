// All facts about one process: from /proc/PID, from its root directory, and from the page that ps.ts makes of it.
import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { capabilitiesIn } from '../helpers/capabilities.ts';
import { cgroupDirectory, cgroupPath, isPidName, parent, readHierarchies } from '../helpers/cgroups.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { readMounts } from '../helpers/mounts.ts';
import { attempt, descendants, fieldOf, readStat, startTicks, timeOf } from '../helpers/pids.ts';
import { deviceNumber } from '../limit/disk.ts';
import { notesAbout } from '../limit/notes.ts';
import { limits } from '../limit/table.ts';
import type { Reading } from '../ps/containers.ts';
import type { Namespace, namespaceReader } from '../ps/namespaces.ts';
import { type Ancestor, type LimitInForce, type Page, readPage } from '../ps/page.ts';
import { type Reach, readReach } from './reach.ts';

/** Collects what could not be read, and why. */
export type Unseen = (what: string, error: unknown) => void;

/** A process that has started another, and from where. */
export interface Starter extends Ancestor {
  /** null: it has ended */
  startedAt: string | null;
  /** ID of its session, setsid(2) */
  session: number | null;
  /** its controlling terminal, as `pts/0`; null: none */
  terminal: string | null;
}

/** A limit in force, and who has set it; null: unknown. */
export type SetLimit = LimitInForce & { setBy: string | null };

/** IDs of the host, as far as the reader sees them. */
export interface Credentials {
  uids: Record<'real' | 'effective' | 'saved' | 'files', number>;
  gids: Record<'real' | 'effective' | 'saved' | 'files', number>;
  groups: number[];
}

/** A range of an ID map, user_namespaces(7). */
interface IdRange {
  inside: number;
  outside: number;
  count: number;
}

/** What there is to know of one process. null: it does not exist, or cannot be read; then `unseen` says so. */
export interface Facts extends Omit<Page, 'parents' | 'startedBy' | 'limits'> {
  executable: string | null;
  workingDirectory: string | null;
  startedAt: string;
  session: number | null;
  terminal: string | null;
  parents: Starter[];
  startedBy: Starter[];
  limits: SetLimit[];
  /** those of getrlimit(2), as in /proc/PID/limits */
  rlimits: { limit: string; soft: string; hard: string }[];
  oomScoreAdjust: number | null;
  umask: string | null;
  namespaces: Namespace[];
  credentials: Credentials;
  idMaps: { users: IdRange[]; groups: IdRange[]; setgroups: string | null };
  capabilities: Record<'effective' | 'permitted' | 'inheritable' | 'bounding' | 'ambient', string[]>;
  seccomp: { mode: 'none' | 'strict' | 'filter'; filters: number | null } | null;
  noNewPrivileges: boolean | null;
  /** of AppArmor or SELinux; null: no such module labels processes */
  securityLabel: string | null;
  reach: Reach;
  /** what holds for the whole host */
  host: {
    capabilities: string[];
    corePattern: string | null;
    /** of Yama; null: this kernel does not have it */
    ptraceScope: number | null;
  };
  unseen: string[];
}

/** A device number of a controlling terminal, proc_pid_stat(5), as its name in /dev. */
export function terminalName(device: number): string | null {
  if (device <= 0) return null;
  const [major, minor] = deviceNumber(device);
  if (major >= 136 && major <= 143) return `pts/${minor + (major - 136) * 256}`;
  if (major === 4) return minor < 64 ? `tty${minor}` : `ttyS${minor - 64}`;
  return major === 5 && minor === 1 ? 'console' : `${major}:${minor}`;
}

/** Session, terminal and start of a process. */
function readOrigin(pid: number): Omit<Starter, keyof Ancestor> {
  const stat = readStat(pid);
  return {
    startedAt: stat ? timeOf(stat.startTicks) : null,
    session: stat?.session ?? null,
    terminal: terminalName(stat?.terminal ?? 0),
  };
}

/** Lines of a map in /proc/PID, `inside outside count`. */
const parseMap = (text: string): IdRange[] =>
  text
    .trim()
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [inside = 0, outside = 0, count = 0] = line.trim().split(/\s+/).map(Number);
      return { inside, outside, count };
    });

/** Resource limits in /proc/PID/limits, proc_pid_limits(5): columns of fixed width, and a unit that may be missing. */
export const parseLimits = (text: string): Facts['rlimits'] =>
  text.split('\n').flatMap((line) => {
    const [, limit = '', soft = '', hard = ''] = /^(Max .*?) {2,}(\S+) +(\S+)/.exec(line) ?? [];
    return limit ? { limit: limit.slice('Max '.length), soft, hard } : [];
  });

/** Who sets the limits of a cgroup, by its directory; null: unknown. `engine`: who made the container. */
export function setterOf({ cgroup, level }: LimitInForce, engine: string | undefined): string | null {
  const names = cgroup.split('/');
  const at = names.lastIndexOf(parent);
  const ours = at < 0 ? '' : (names[at + 1] ?? '');
  if (isPidName(ours)) return 'limit-*.ts';
  if (level === 'own' && engine && !['unshare', 'chroot'].includes(engine))
    return engine === 'barehand' ? 'run.ts' : engine;
  if (names.some((name) => /^kubepods/.test(name))) return 'kubernetes';
  const unit = names.at(-1) ?? '';
  return /\.(service|scope|slice)$/.test(unit) ? `systemd, ${unit}` : null;
}

/** Who has set a limit: limit-*.ts leave a note about a cgroup that is not their own, and a user owns a delegated one. */
function readSetter(limit: LimitInForce, container: Page['container']): string | null {
  const { controller } = limits[limit.limit];
  const note = container && attempt(() => statSync(join(notesAbout(container.pid), `${controller}.before`)));
  if (limit.level === 'own' && note) return `limit-${controller}.ts`;
  const known = setterOf(limit, container?.engine);
  const owner = attempt(() => statSync(limit.cgroup).uid);
  return known ?? (owner ? `user ${owner}` : null);
}

/**
 * Whether the user namespace of a process is the host's, so that its user and capabilities count there. Where that may
 * not be seen, the ID map tells: that of the first user namespace, and no other, maps all IDs to themselves.
 */
export function holdsOnHost({
  namespaces,
  idMaps: { users },
}: {
  namespaces: Namespace[];
  idMaps: { users: IdRange[] };
}): boolean {
  const whose = namespaces.find(({ type }) => type === 'user')?.whose ?? null;
  const [first] = users;
  return whose === null ? first?.outside === 0 && first.count === 2 ** 32 - 1 : whose === 'host';
}

/**
 * Reads all facts about a process. `started`: the ticks at which it was started. Throws Failure if it has ended, or ends
 * meanwhile.
 */
export function readFacts(
  pid: number,
  started: number,
  reading: Reading,
  namespacesOf: ReturnType<typeof namespaceReader>,
): Facts {
  const hostMounts = readMounts('self');
  const page = readPage(pid, started, reading, hostMounts);
  const unseen: string[] = [];
  const cannot: Unseen = (what, error) => unseen.push(`${what}: ${reason(error)}`);
  const see = <Value>(what: string, read: () => Value): Value | null => {
    try {
      return read();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') cannot(what, error);
      return null;
    }
  };
  const readFile = (file: string) => see(file, () => readFileSync(`/proc/${pid}/${file}`, 'utf8')) ?? '';
  const status = readFile('status');
  const field = (name: string) => fieldOf(status, name);
  const ids = (name: string) => {
    const [real = 0, effective = 0, saved = 0, files = 0] = field(name).split('\t').map(Number);
    return { real, effective, saved, files };
  };
  const credentials = {
    uids: ids('Uid'),
    gids: ids('Gid'),
    groups: field('Groups').split(' ').filter(Boolean).map(Number),
  };
  const around = reading.containers.find(({ container }) => container.first.pid === page.container?.pid);
  const isInside = page.container?.role !== 'holder';
  const own =
    around && isInside
      ? around.container.members
      : new Set(descendants(reading.table, [pid]).map((process_) => process_.pid));
  const namespaces = namespacesOf(pid, own);
  for (const { type, inode } of namespaces)
    if (inode === null) see(`namespace ${type}`, () => readlinkSync(`/proc/${pid}/ns/${type}`));
  const effective = capabilitiesIn(field('CapEff'));
  const users = parseMap(readFile('uid_map'));
  const onHost = holdsOnHost({ namespaces, idMaps: { users } });
  const modes = ['none', 'strict', 'filter'] as const;
  const filters = field('Seccomp_filters');
  const hostText = (path: string) => see(path, () => readFileSync(path, 'utf8').trim());
  const scope = hostText('/proc/sys/kernel/yama/ptrace_scope');
  const procCgroup = readFile('cgroup');
  const cgroups = readHierarchies().flatMap((hierarchy) => {
    const path = cgroupPath(procCgroup, hierarchy);
    const directory = path === undefined ? undefined : cgroupDirectory(hierarchy, path);
    return directory === undefined ? [] : { hierarchy, directory };
  });
  const adjust = readFile('oom_score_adj').trim();
  const facts: Facts = {
    ...page,
    ...readOrigin(pid),
    startedAt: timeOf(started),
    executable: see('exe', () => readlinkSync(`/proc/${pid}/exe`)),
    workingDirectory: see('cwd', () => readlinkSync(`/proc/${pid}/cwd`)),
    parents: page.parents.map((one) => ({ ...one, ...readOrigin(one.pid) })),
    startedBy: page.startedBy.map((one) => ({ ...one, ...readOrigin(one.pid) })),
    limits: page.limits.map((limit) => ({ ...limit, setBy: readSetter(limit, page.container) })),
    rlimits: parseLimits(readFile('limits')),
    oomScoreAdjust: adjust ? Number(adjust) : null,
    umask: field('Umask') || null,
    namespaces,
    credentials,
    idMaps: {
      users,
      groups: parseMap(readFile('gid_map')),
      setgroups: readFile('setgroups').trim() || null,
    },
    capabilities: {
      effective,
      permitted: capabilitiesIn(field('CapPrm')),
      inheritable: capabilitiesIn(field('CapInh')),
      bounding: capabilitiesIn(field('CapBnd')),
      ambient: capabilitiesIn(field('CapAmb')),
    },
    seccomp: status
      ? { mode: modes[Number(field('Seccomp'))] ?? 'none', filters: filters ? Number(filters) : null }
      : null,
    noNewPrivileges: field('NoNewPrivs') ? field('NoNewPrivs') === '1' : null,
    securityLabel: readLabel(pid, cannot),
    reach: readReach(pid, {
      hostMounts,
      cgroups,
      credentials,
      overrides: onHost && effective.includes('dac_override'),
      isHostsRoot: onHost && credentials.uids.files === 0,
      ownsCgroups: namespaces.some(({ type, whose }) => type === 'cgroup' && whose === 'own'),
      cannot,
    }),
    host: {
      capabilities: capabilitiesIn(fieldOf(hostText('/proc/1/status') ?? '', 'CapBnd')),
      corePattern: hostText('/proc/sys/kernel/core_pattern'),
      ptraceScope: scope === null ? null : Number(scope),
    },
    unseen,
  };
  if (startTicks(pid) !== started) throw new Failure(`process ${pid} has ended`);
  return facts;
}

/** The label of AppArmor or SELinux. Without such a module the kernel says EINVAL, proc_pid_attr(5). */
function readLabel(pid: number, cannot: Unseen): string | null {
  try {
    return readFileSync(`/proc/${pid}/attr/current`, 'utf8').replace(/[\0\n]+$/, '') || null;
  } catch (error) {
    if (!['EINVAL', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? ''))
      cannot('attr/current', error);
    return null;
  }
}
