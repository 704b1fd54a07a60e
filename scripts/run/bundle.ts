// The OCI runtime bundle of a launch, which runc(8) or crun(1) can run: https://github.com/opencontainers/runtime-spec
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { scriptPath } from '../helpers/called.ts';
import { capabilities, hasCapability } from '../helpers/capabilities.ts';
import { readHierarchies } from '../helpers/cgroups.ts';
import { Failure, reason, UsageError } from '../helpers/cli.ts';
import { embedded } from '../helpers/embedded.ts';
import { statsInRoot, withRoot } from '../helpers/in-root.ts';
import { isBelow } from '../helpers/mounts.ts';
import { partialOf } from '../helpers/partial.ts';
import { attempt, statusField } from '../helpers/pids.ts';
import { seccompRules } from '../helpers/seccomp/seccomp.ts';
import { quote, sh } from '../helpers/shell.ts';
import { deviceNumber } from '../limit/disk.ts';
import { limitNames, memoryFiles, toSettings } from '../limit/table.ts';
import { formatPort, type Port } from '../network/addresses.ts';
import type { Launch } from './container.ts';
import { defaultDevices, planFurnishing } from './furnish.ts';
import { mapWords, type Range, unreachable } from './userns.ts';

/** What the plan of a bundle depends on, besides the launch. */
interface BundleFacts {
  /** process.arch */
  architecture: string;
  /** umask(2) of the caller, in octal */
  umask: string;
  /** the capabilities that the caller may give */
  bounding: string[];
  /** the path of the container's cgroup, from the root of its hierarchy; undefined: the runtime chooses one */
  cgroupsPath: string | undefined;
  /** for each device of the launch: its file on this host */
  devices: { isBlock: boolean; rdev: number; mode: number; uid: number; gid: number }[];
  /** directories of the root file system that a tmpfs covers, by their path in the launch */
  covered: Map<string, { mode: number; uid: number; gid: number }>;
}

/** An entry of `mounts`, config.md. */
interface BundleMount {
  destination: string;
  type: string;
  source: string;
  options: string[];
}

/** An entry of `seccomp.syscalls`, config-linux.md. */
interface BundleCall {
  names: string[];
  action: string;
  errnoRet?: number;
  args?: { index: number; value: number; valueTwo?: number; op: string }[];
}

/** All words of the kernel's tables of system calls up to number 466, for x86-64, of which arm64 has a part. */
const callNames = embedded(import.meta.url, '../helpers/seccomp/names.txt')
  .trim()
  .split(/\s+/);

/** Options of a mount of which the last one of a pair counts, without those that say what is so anyway: not all runtimes know. */
function effective(words: string[]): string[] {
  const pairs = [
    ['exec', 'noexec'],
    ['suid', 'nosuid'],
    ['dev', 'nodev'],
    ['rw', 'ro'],
  ];
  return words.filter((word, at) => {
    const pair = pairs.find((one) => one.includes(word));
    return !pair || (word === pair[1] && words.findLastIndex((other) => pair.includes(other)) === at);
  });
}

/** Names of architectures in seccomp(3) of libseccomp, by process.arch. */
const architectures: Record<string, string> = { x64: 'SCMP_ARCH_X86_64', arm64: 'SCMP_ARCH_AARCH64' };

/** The numbers in a list such as `0-2,8`. */
const numbersIn = (list: string): number[] =>
  list.split(',').flatMap((span) => {
    const [first = 0, last = first] = span.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });

/**
 * The seccomp filter of seccompRules as config-linux.md has it: a list of what is allowed, so that calls of later kernels
 * are denied. A runtime answers ENOSYS to these where it knows none by that number, else EPERM, and ends 32-bit programs.
 */
function planSeccomp(architecture: string, capabilities: string[]) {
  const arch = architectures[architecture];
  const rules = seccompRules(architecture, capabilities)?.flatMap((rule) => {
    const [, name = '', mask, values, error] =
      /^(?!audit:|unassigned:)(\w+):\d+(?:&(\d+)|!([\d,-]+)|(=ENOSYS))?$/.exec(rule) ?? [];
    return name ? { name, mask, values, error } : [];
  });
  if (!arch || !rules) return undefined;
  const allow = (name: string, op: string, value: number, valueTwo?: number): BundleCall => ({
    names: [name],
    action: 'SCMP_ACT_ALLOW',
    args: [{ index: 0, value, ...(valueTwo !== undefined && { valueTwo }), op }],
  });
  return {
    defaultAction: 'SCMP_ACT_ERRNO', // EPERM
    architectures: [arch],
    syscalls: [
      {
        names: callNames.filter((known) => !rules.some(({ name }) => name === known)),
        action: 'SCMP_ACT_ALLOW',
      },
      ...rules.flatMap(({ name, mask, values, error }): BundleCall[] => {
        if (mask) return [allow(name, 'SCMP_CMP_MASKED_EQ', Number(mask), 0)]; // the bits are 0
        if (values) return numbersIn(values).map((value) => allow(name, 'SCMP_CMP_EQ', value));
        return error ? [{ names: [name], action: 'SCMP_ACT_ERRNO', errnoRet: 38 }] : [];
      }),
    ],
  };
}

/** An entry of `rlimits` for an option of prlimit(1) such as `--nofile=1024:2048`. */
function planRlimit(option: string) {
  const [, name = '', soft = '', hard = ''] = /^--(\w+)=(\w+):(\w+)$/.exec(option) ?? [];
  // RLIM_INFINITY, getrlimit(2)
  const value = (word: string) => (word === 'unlimited' ? 2n ** 64n - 1n : BigInt(word));
  return { type: `RLIMIT_${name.toUpperCase()}`, soft: value(soft), hard: value(hard) };
}

/** An entry of `uidMappings` or `gidMappings`. */
const planMapping = ({ inside, outside, count }: Range) => ({
  containerID: inside,
  hostID: outside,
  size: count,
});

/** The entry of `namespaces` for a word of --isolate. */
const namespaceType = (word: string) => (word === 'net' ? 'network' : word);

/** The files that the bundle holds for the texts of a launch. */
const textFile = (path: string) => basename(path);

/**
 * The mounts, from the same plan as those of the launch: what that has prepared on its stage, and bound to its place in the
 * root, is mounted there. A runtime makes device files itself, and masks paths.
 */
function planMounts(launch: Launch, { covered }: BundleFacts): BundleMount[] {
  const { userNamespace, texts, devices } = launch;
  const plan = planFurnishing(
    { ...launch, masked: { files: [], folders: [], readOnly: [] } },
    { stage: '', cwd: launch.rootfs, terminal: undefined },
  );
  const mounts: BundleMount[] = [];
  const receiving = launch.volumes.flatMap(({ receives }, index) => (receives ? `/volume${index}` : []));
  for (const { source, target, type, options } of [...plan.earlyMounts, ...plan.lateMounts]) {
    const words = effective(
      options.split(',').filter((word) => !/^(X-mount\..*|defaults|r?private)$/.test(word)),
    );
    const flags = words.filter((word) => word !== 'bind' && word !== 'remount');
    const above = mounts.findLast(({ destination }) => isBelow(target, destination));
    if (!words.includes('remount'))
      mounts.push({
        destination: target,
        ...(type === 'none'
          ? // private: later mounts of the host stay outside, unless they are asked for
            { type: 'bind', source, options: [...words, receiving.includes(target) ? 'rslave' : 'rprivate'] }
          : { type, source, options: words }),
      });
    else if (above?.destination === target) above.options.push(...flags);
    // a mount that came in with the one above it
    else if (above)
      mounts.push({
        destination: target,
        type: 'bind',
        source: above.source + target.slice(above.destination.length),
        options: ['rbind', 'rprivate', ...flags],
      });
  }
  const ofRuntime = [...defaultDevices, ...(userNamespace ? [] : devices)].map(({ path }) => path);
  const placed = plan.bindings.flatMap(({ from, to, copied }) =>
    mounts
      .filter(({ destination }) => isBelow(destination, `/${from}`) && !ofRuntime.includes(destination))
      .map((mount) => {
        const directory = copied && covered.get(to);
        const attributes = copied ? (directory ?? { mode: 0o1777, uid: 0, gid: 0 }) : undefined;
        return {
          ...mount,
          destination: to + mount.destination.slice(from.length + 1),
          options: [
            ...mount.options,
            ...(attributes && copied?.mode ? [`mode=${attributes.mode.toString(8)}`] : []),
            ...(attributes?.uid && copied?.uid ? [`uid=${attributes.uid}`] : []),
            ...(attributes?.gid && copied?.gid ? [`gid=${attributes.gid}`] : []),
          ],
        };
      }),
  );
  // the host's program that becomes the command is no mount of the container
  const own = placed.filter(({ destination }) => !destination.startsWith('/proc/self/root'));
  return own.map((mount): BundleMount => {
    const text = texts.find(({ path }) => path === mount.destination);
    if (text && mount.source.startsWith('/store/')) return { ...mount, source: textFile(text.path) };
    // in its /dev a runtime makes device files, which are then no mounts of their own
    if (mount.destination === '/dev' && !userNamespace)
      return { ...mount, options: mount.options.filter((word) => word !== 'nodev') };
    return mount.type === 'cgroup2' ? { ...mount, type: 'cgroup', source: 'cgroup' } : mount;
  });
}

/** `linux.resources`, config-linux.md: its units and names are those of cgroup v1. */
function planResources({ cgroups, wanted, devices, privileged }: Launch, facts: BundleFacts) {
  const countsSwap = cgroups?.before.some(({ to }) =>
    [memoryFiles[1].swap, memoryFiles[2].swap].some((file) => file === basename(to)),
  );
  const settings = toSettings(wanted, limitNames, 1, countsSwap ? [{ limit: 'swap', text: '-1' }] : []);
  const text = (limit: string) => settings.find((setting) => setting.limit === limit)?.text;
  const number = (limit: string) => {
    const value = text(limit)?.split(' ')[0];
    return value === undefined ? undefined : value === 'max' ? -1 : Number(value);
  };
  const period = text('cpu')?.split(' ')[1];
  const rates = (limit: string) => {
    const found = settings.filter((setting) => setting.limit === limit);
    if (found.length === 0) return undefined;
    return found.map(({ device = '', text }) => {
      const [major, minor] = device.split(':').map(Number);
      return { major, minor, rate: Number(text) };
    });
  };
  const isUnified = cgroups?.version === 2 && cgroups.directories.length === 1;
  const weight = toSettings(wanted, ['weight'], 2, [])[0]?.text;
  return {
    // where / is not nodev, as here, this list keeps new device files from being opened; a runtime adds what all have
    devices: [
      { allow: privileged, access: 'rwm' },
      ...devices.map(({ denied = '' }, at) => {
        const { isBlock, rdev } = facts.devices[at] as BundleFacts['devices'][number];
        const [major, minor] = deviceNumber(rdev);
        const access = [...'rwm'].filter((letter) => !denied.includes(letter)).join('');
        return { allow: true, type: isBlock ? 'b' : 'c', major, minor, access };
      }),
    ],
    ...filled({
      memory: filled({ limit: number('memory'), swap: number('swap'), reservation: number('reserve') }),
      cpu: filled({
        quota: number('cpu'),
        period: period === undefined ? undefined : Number(period),
        shares: number('weight'),
        cpus: text('cpuset'),
        mems: text('mems'),
      }),
      pids: filled({ limit: number('pids') }),
      blockIO: filled({
        weight: wanted.ioWeight,
        throttleReadBpsDevice: rates('readBps'),
        throttleWriteBpsDevice: rates('writeBps'),
        throttleReadIOPSDevice: rates('readIops'),
        throttleWriteIOPSDevice: rates('writeIops'),
      }),
      // runc before 1.3 converts shares by another formula
      unified: isUnified && weight ? { 'cpu.weight': weight } : undefined,
    }),
  };
}

/** The object without the keys that have no value; undefined if none has. */
function filled<Fields extends object>(fields: Fields): Fields | undefined {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return given.length > 0 ? (Object.fromEntries(given) as Fields) : undefined;
}

/** config.json of the container that this launch would start, config.md and config-linux.md. Pure. */
function planBundle(launch: Launch, facts: BundleFacts) {
  const { isolate, userNamespace, user, joins, privileged, masked, hostname, labels, stopSignal } = launch;
  const { devices, sysctls, isFiltered, limits } = launch;
  const given = launch.capabilities.filter((name) => facts.bounding.includes(name));
  const kept = given.map((name) => `CAP_${name.toUpperCase()}`);
  // execve(2) gives root what the bounding set has, and other users nothing
  const gained = user.uid === 0 ? kept : [];
  const annotations = Object.fromEntries([
    ...labels.map((label) => [label.split('=', 1)[0], label.slice(label.indexOf('=') + 1)]),
    ...(stopSignal ? [['org.opencontainers.image.stopSignal', `SIG${stopSignal}`]] : []),
  ]);
  return {
    // umask and unified came later, and older runtimes pass over them; crun before 1.9 takes no version but 1.0.x
    ociVersion: '1.0.2',
    process: {
      terminal: launch.terminal,
      user: {
        uid: user.uid,
        gid: user.gid,
        umask: Number.parseInt(launch.umask ?? facts.umask, 8),
        // with a single user, setgroups(2) is denied, user_namespaces(7)
        additionalGids: userNamespace?.single ? [] : user.groups,
      },
      args: launch.command,
      env: launch.environment,
      cwd: launch.workdir,
      capabilities: { bounding: kept, effective: gained, permitted: gained, inheritable: [], ambient: [] },
      rlimits: limits.map(planRlimit),
      noNewPrivileges: !launch.newPrivileges,
      ...(launch.oomScore !== undefined && { oomScoreAdj: launch.oomScore }),
    },
    root: { path: rootPath(launch), readonly: launch.readOnly },
    ...(hostname !== undefined && { hostname }),
    mounts: planMounts(launch, facts),
    annotations,
    linux: {
      namespaces: [
        ...[...isolate].filter((word) => word !== 'chroot').map((word) => ({ type: namespaceType(word) })),
        ...(joins ? [{ type: 'network', path: `/proc/${joins.pid}/ns/net` }] : []),
        ...(userNamespace ? [{ type: 'user' }] : []),
      ],
      ...(userNamespace && {
        uidMappings: userNamespace.uids.map(planMapping),
        gidMappings: userNamespace.gids.map(planMapping),
      }),
      // in a user namespace, they are bind mounts
      devices: (userNamespace ? [] : devices).map(({ path }, at) => {
        const { isBlock, rdev, mode, uid, gid } = facts.devices[at] as BundleFacts['devices'][number];
        const [major, minor] = deviceNumber(rdev);
        return { path, type: isBlock ? 'b' : 'c', major, minor, fileMode: mode & 0o777, uid, gid };
      }),
      ...(facts.cgroupsPath && { cgroupsPath: facts.cgroupsPath }),
      resources: planResources(launch, facts),
      rootfsPropagation: 'private',
      ...(isFiltered && { seccomp: planSeccomp(facts.architecture, launch.capabilities) }),
      sysctl: Object.fromEntries(sysctls.map(({ path, value }) => [sysctlName(path), value])),
      maskedPaths: privileged ? [] : [...masked.files, ...masked.folders],
      readonlyPaths: privileged ? [] : masked.readOnly,
    },
  };
}

/** The name of a sysctl by its file: with dots, or with slashes if one of its words has a dot, sysctl(8). */
function sysctlName(path: string): string {
  const name = path.slice('/proc/sys/'.length);
  return name.includes('.') ? name : name.replaceAll('/', '.');
}

/** The directory in a bundle where an ID-mapped root is mounted. */
const mappedRoot = 'rootfs';

/** `root.path`. In a user namespace of the host's root, ROOTFS has to be mounted ID-mapped first, which no field holds. */
const rootPath = ({ rootfs, userNamespace }: Launch) => (userNamespace?.byRoot ? mappedRoot : rootfs);

/** What the bundle of a launch can't hold, and what to type for it, a line each. `directory`: that of the bundle. */
function missing(launch: Launch, directory: string, ports: Port[]): string[] {
  const { name, rootfs, connection, joins, userNamespace, detached, stopSignal, isFiltered, idmap } = launch;
  const words = ports.flatMap((port) => ['-p', formatPort(port)]);
  const network = `${scriptPath('network')} attach ${[...words, name].map(quote).join(' ')}`;
  const ranges = (kind: string, list: Range[] = []) =>
    list.map((range) => [kind, ...mapWords([range])].join(':'));
  const map = [...ranges('u', userNamespace?.uids), ...ranges('g', userNamespace?.gids)].join(' ');
  const mountIt = sh`mount --bind -o ${`X-mount.idmap=${map}`} ${rootfs} ${join(directory, mappedRoot)}`
    .map(quote)
    .join(' ');
  return [
    connection &&
      `--network bridge: the container has a loopback interface only: once it runs, type ${userNamespace && !userNamespace.byRoot ? 'pasta --config-net PID' : network}`,
    joins &&
      `--network container:${joins.label}: it has the network of PID ${joins.pid}, for as long as that process lives`,
    userNamespace?.byRoot &&
      `--userns: the root with mapped IDs: before it runs, ${idmap?.[0] === 'perl' ? 'with util-linux 2.39 or later, which this host has not, ' : ''}type ${mountIt}`,
    isFiltered && !architectures[process.arch] && `the seccomp filter: there is none for ${process.arch}`,
    detached && '--detach: the log: the command below has the output in a file',
    stopSignal &&
      `--stop-signal: it is a note that runc does not read: to stop the container, type runc kill ${name} ${stopSignal}`,
  ].filter((line): line is string => Boolean(line));
}

/** The facts about this host that planBundle needs. */
function readFacts({ rootfs, devices, tmpfs, cgroups, userNamespace }: Launch): BundleFacts {
  const [directory = ''] = cgroups?.directories ?? [];
  const hierarchy = readHierarchies().find(({ mountPoint }) => isBelow(directory, mountPoint));
  const covered = withRoot(rootfs, (root) =>
    tmpfs.map(({ path }) => [path, attempt(() => statsInRoot(root, path))] as const),
  );
  return {
    architecture: process.arch,
    umask: statusField('self', 'Umask') || '022',
    bounding: capabilities.filter((name) => hasCapability('self', 'CapBnd', name)),
    cgroupsPath: hierarchy && directory.slice(hierarchy.mountPoint.length),
    devices: devices.map(({ source }) => {
      const stats = statSync(source);
      return { ...stats, isBlock: stats.isBlockDevice() };
    }),
    covered: new Map(
      covered.flatMap(([path, stats]) => {
        if (!stats) return [];
        // without root, the caller's files belong to the container's root
        const { uid, gid } = userNamespace && !userNamespace.byRoot ? { uid: 0, gid: 0 } : stats;
        return [[path, { mode: stats.mode & 0o7777, uid, gid }] as const];
      }),
    ),
  };
}

/** JSON of a value whose bigints are numbers beyond 2^53, which no double holds. No other text in it has a NUL. */
const toJson = (value: unknown) =>
  JSON.stringify(value, (_, one) => (typeof one === 'bigint' ? `\0${one}\0` : one), 2).replace(
    /"\\u0000(\d+)\\u0000"/g,
    '$1',
  );

/** Throws UsageError or Failure if no bundle of this launch can be made, or none in this directory. */
function check(launch: Launch, directory: string): void {
  const { isolate, ephemeral, rootfs, userNamespace } = launch;
  if (!isolate.has('mount'))
    throw new UsageError('--bundle needs --isolate mount: a runtime always makes a mount namespace');
  if (ephemeral)
    throw new UsageError(
      `--bundle: a runtime discards no changes, as --ephemeral does: leave it out, choose --read-only, or take a copy: cp -a ${quote(rootfs)} ${quote(`${rootfs}-copy`)}`,
    );
  if (isBelow(directory, rootfs))
    throw new UsageError(
      `--bundle: ${directory} lies in ROOTFS, where the container could change it: choose another directory`,
    );
  // its root is mounted in the bundle
  const obstacle = userNamespace?.byRoot ? unreachable([directory], userNamespace) : undefined;
  if (obstacle !== undefined) throw new Failure(`--userns: ${obstacle}`);
  // that it can't be looked at is told when it is written
  const stats = attempt(() => lstatSync(directory, { throwIfNoEntry: false }));
  if (stats && !stats.isDirectory()) throw new Failure(`--bundle: ${directory} is there, and no directory`);
  if (attempt(() => readdirSync(directory).length))
    throw new Failure(`--bundle: ${directory} is not empty: choose a directory that is missing or empty`);
}

/**
 * Writes the bundle of a launch into a directory, which is missing or empty, whole or not at all. Prints what it can't
 * hold, and how to run it. `ports`: those of --publish. Throws UsageError or Failure.
 */
export function writeBundle(launch: Launch, directory: string, ports: Port[]): void {
  check(launch, directory);
  const config = planBundle(launch, readFacts(launch));
  // beside it, so that rename(2) puts it in its place at once: an empty directory is replaced
  const partial = partialOf(directory);
  try {
    mkdirSync(partial);
    chmodSync(partial, 0o755);
    for (const { path, text } of launch.texts) {
      const file = join(partial, textFile(path));
      writeFileSync(file, `${text}\n`);
      chmodSync(file, 0o644); // whatever the umask of the caller is
    }
    if (config.root.path === mappedRoot) mkdirSync(join(partial, mappedRoot));
    // the environment may hold passwords
    writeFileSync(join(partial, 'config.json'), `${toJson(config)}\n`, { mode: 0o600 });
    renameSync(partial, directory);
  } catch (error) {
    rmSync(partial, { recursive: true, force: true });
    throw new Failure(`--bundle: cannot write ${directory}: ${reason(error)}`);
  }
  for (const line of missing(launch, directory, ports)) console.error(`run: not in the bundle: ${line}`);
  const { name, detached } = launch;
  const end = `--bundle ${quote(directory)} ${quote(name)}`;
  console.error(
    `run: to run it, type runc run ${detached ? `--detach ${end} >${quote(`${name}.log`)} 2>&1` : end}`,
  );
}
