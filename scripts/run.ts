#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
run.ts: run a command in a container of its own, on a root file system

USAGE
  run.ts [OPTION...] ROOTFS [COMMAND [ARG...]]

  ROOTFS is a directory, or a name under rootfs/. COMMAND is what ROOTFS's image says, else /bin/bash where there is
  one, else /bin/sh. What follows COMMAND belongs to COMMAND.

OPTIONS
  --name NAME           what other scripts know it by (default: ROOTFS's name and a number)
  --hostname NAME       its host name (default: the container's name)
  -d, --detach          in the background; prints the name. logs.ts shows its output, stop.ts ends it
  --log-size SIZE       how much of the output of -d is kept (default: 1M)
  --entrypoint PROGRAM  what is run in place of the image's own entrypoint
  -e, --env KEY=VALUE   set an environment variable; KEY alone takes the caller's value; may be repeated
  --env-file FILE       set those in FILE, one a line; may be repeated
  -w, --workdir DIR     start in DIR of the container (default: /)
  -u, --user USER[:GROUP]  run as a user of the container's /etc/passwd; a number, up to 2147483647, is an ID always
  --init                a small init is PID 1: it passes signals on and reaps orphans
  --stop-signal SIGNAL  what stop.ts is to send first (default: TERM)

  -v, --volume SRC:DST[:OPTIONS]  show the host's SRC at DST, with ro, nosuid, noexec perhaps; may be repeated
  --tmpfs DST[:OPTIONS] a file system in memory, nosuid and noexec, with size=, mode=, exec ...; may be repeated.
                        Mode and owner are those of DST, if that is there
  --device SRC[:DST]    make a device of the host's in /dev; may be repeated
  --shm-size SIZE       how large /dev/shm may become (default: 64M)
  --read-only           nothing of ROOTFS can be written
  --ephemeral           what is written to ROOTFS goes into memory, and is gone afterwards
  --disk SIZE           with --ephemeral: no more than SIZE
  --add-host NAME:ADDRESS  an entry of its own /etc/hosts; may be repeated
  --dns ADDRESS         a name server in its own /etc/resolv.conf; may be repeated

  --memory SIZE         no more than SIZE, and no swap beyond it: 100M is 100 * 1024^2, 100MB is 100 * 1000^2
  --memory-swap SIZE|-1  memory and swap together; -1 is any swap
  --memory-reservation SIZE  what it is to be left with when memory is scarce
  --cpus N              no more than N processors' time, as 1.5
  --cpuset-cpus LIST    on these processors only, as 0-1,3
  --cpuset-mems LIST    from these memory nodes only
  --cpu-shares N        its part of what several want; 1024 is everybody's
  --pids-limit N|-1     no more than N processes and threads
  --device-read-bps PATH:SIZE  no more bytes a second from the disk that PATH is or lies on; may be repeated
  --device-write-bps PATH:SIZE  the same for writing
  --device-read-iops PATH:N  no more operations a second; may be repeated
  --device-write-iops PATH:N  the same for writing
  --ulimit NAME=SOFT[:HARD]  a limit of getrlimit(2), as nofile=1024; may be repeated
  --network NETWORK     host (default), with its name servers if ROOTFS names none that answers; none but its own
                        loopback; bridge: an interface on a bridge of network.ts, or without root by pasta(1) or
                        slirp4netns(1); container:NAME: the one that another has
  -p, --publish PORTS   with --network bridge: HOSTPORT:PORT leads a port of the host's to it, with IP: before it at
                        one address only, with /udp behind it; may be repeated
  --userns              root in it is no root on the host; for users without root it always is so
  --cap-add CAP         keep one more of capabilities(7), or ALL; may be repeated
  --cap-drop CAP        drop one more, or ALL; may be repeated
  --security-opt OPT    seccomp=unconfined: all system calls; no-new-privileges=false: set-user-ID programs work
  --privileged          all off: every capability and system call, set-user-ID programs, device files, a writable
                        /sys, nothing in /proc hidden
  --isolate LIST        only these, to see what each one does: chroot, mount, pid, uts, ipc, cgroup, net
  --dry-run             print the launch as shell instead of doing it
  -h, --help            this text

  What is not said is as the image says that ROOTFS was made of, if it holds that (/.image.json).
  The exit code is COMMAND's; 128+n if signal n killed it; 127 if it was not found, 126 if it could not be
  executed; 125 if there was no container.

EXAMPLES
  run.ts rootfs/host                            a shell
  run.ts --memory 100M --name web rootfs/host /bin/sh -c 'echo $$'
  run.ts -d --name web --init --ephemeral -v /srv/www:/srv:ro rootfs/host sleep infinity
  run.ts --isolate chroot rootfs/host ps aux    the article's step 2: ps still sees the whole host
  run.ts --isolate pid,mount rootfs/host ps aux its step 3: ps sees the container
  run.ts --dry-run rootfs/host | less           what would be done

CHANGES
  A cgroup barehand/NAME in each hierarchy, for as long as the container lives; for users without root only if there
  are limits, in a cgroup that is delegated to them. Mounts are made in a mount namespace of its own and are never
  seen by the host. In ROOTFS, the directories proc, sys and dev and what is mounted on are made where they are
  missing, and what COMMAND writes stays, but for --ephemeral. -d keeps output and exit status in
  /run/barehand/NAME, or $XDG_RUNTIME_DIR/barehand/NAME.

UNDO
  All of it goes when COMMAND ends, but for what -d keeps: stop.ts NAME removes that. After a SIGKILL empty cgroups
  may be left: the next run.ts removes them.

SEE ALSO
  unshare(1), pivot_root(2), namespaces(7), user_namespaces(7), cgroups(7), capabilities(7), seccomp(2), setpriv(1),
  nsenter(1), script(1)
*/
import { realpathSync } from 'node:fs';
import { hostname as osHostname } from 'node:os';
import { basename } from 'node:path';
import { isatty } from 'node:tty';
import { capabilities } from './helpers/capabilities.ts';
import { cgroupDirectory, cgroupPath, findHierarchy, readHierarchies } from './helpers/cgroups.ts';
import { Failure, isGiven, kebab, main, UsageError, type Values } from './helpers/cli.ts';
import { notesFolder } from './helpers/containers.ts';
import { parseSignal, parseVariable, parseWorkdir } from './helpers/options.ts';
import { readProc } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import {
  defaultShell,
  findRootfs,
  findUser,
  parseUser,
  type User,
  type UserChoice,
} from './helpers/rootfs.ts';
import { findInPath } from './helpers/shell.ts';
import { parseCpus, parseList, parseNumber, parseSize } from './helpers/units.ts';
import { findDelegation, whyNoCgroups } from './limit/delegation.ts';
import { controllersOf, type Limits, namesOf } from './limit/table.ts';
import { parsePort } from './network/addresses.ts';
import { keptCapabilities, parseCapabilities } from './run/capabilities.ts';
import { planCgroups } from './run/cgroups.ts';
import { namespaceFlags } from './run/hold.ts';
import { findVolumes, launchPrograms, mountFlags, planSeccomp, readHost } from './run/host.ts';
import { idmapWords } from './run/idmap.ts';
import { imageFile, readImageConfig } from './run/image.ts';
import { findInit, shellInit } from './run/init.ts';
import { type Launch, launchContainer } from './run/launch.ts';
import { parseNetwork, planNetwork } from './run/network.ts';
import {
  checkPlaces,
  orUnlimited,
  parseDevice,
  parseHost,
  parseLimit,
  parseName,
  parseNameserver,
  parseRate,
  parseSecurity,
  parseTmpfs,
  parseVariableFile,
  parseVolume,
} from './run/options.ts';
import { printLaunch } from './run/print.ts';
import { hostResolver } from './run/resolver.ts';
import { freeNamespace, lockedBy, type Range, rootlessNamespace } from './run/userns.ts';

export const options = {
  name: { parse: parseName },
  hostname: { parse: parseName },
  detach: { short: 'd' },
  logSize: { parse: parseSize },
  entrypoint: { parse: (text: string) => text },
  env: { short: 'e', parse: parseVariable, many: true },
  envFile: { parse: parseVariableFile, many: true },
  workdir: { short: 'w', parse: parseWorkdir },
  user: { short: 'u', parse: parseUser },
  init: {},
  stopSignal: { parse: parseSignal },
  volume: { short: 'v', parse: parseVolume, many: true },
  tmpfs: { parse: parseTmpfs, many: true },
  device: { parse: parseDevice, many: true },
  shmSize: { parse: parseSize },
  readOnly: {},
  ephemeral: {},
  disk: { parse: parseSize },
  addHost: { parse: parseHost, many: true },
  dns: { parse: parseNameserver, many: true },
  memory: { parse: parseSize },
  memorySwap: { parse: orUnlimited(parseSize) },
  memoryReservation: { parse: parseSize },
  cpus: { parse: parseCpus },
  cpusetCpus: { parse: (text: string) => parseList('--cpuset-cpus', text) },
  cpusetMems: { parse: (text: string) => parseList('--cpuset-mems', text) },
  cpuShares: { parse: (text: string) => parseNumber('--cpu-shares', text, 2, 262_144) },
  pidsLimit: { parse: orUnlimited((text) => parseNumber('--pids-limit', text, 1, 4_194_304)) },
  deviceReadBps: { parse: parseRate('readBps'), many: true },
  deviceWriteBps: { parse: parseRate('writeBps'), many: true },
  deviceReadIops: { parse: parseRate('readIops'), many: true },
  deviceWriteIops: { parse: parseRate('writeIops'), many: true },
  ulimit: { parse: parseLimit, many: true },
  network: { parse: parseNetwork },
  publish: { short: 'p', parse: parsePort, many: true },
  userns: {},
  capAdd: { parse: parseCapabilities, many: true },
  capDrop: { parse: parseCapabilities, many: true },
  securityOpt: { parse: parseSecurity, many: true },
  privileged: {},
  isolate: { parse: parseIsolate },
  dryRun: {},
} as const;

function parseIsolate(text: string): Set<string> {
  const known = ['chroot', ...Object.keys(namespaceFlags)];
  const words = text.split(',');
  for (const word of words)
    if (!known.includes(word)) throw new UsageError(`--isolate does not know ${word}: ${known.join(', ')}`);
  return new Set(words);
}

/** Throws UsageError for options that contradict each other. */
function checkOptions(values: Values<typeof options>, isolate: Set<string>): void {
  if (values.hostname && !isolate.has('uts')) throw new UsageError('--hostname needs --isolate uts');
  if (values.detach && !isolate.has('pid')) throw new UsageError('-d needs --isolate pid');
  if (values.logSize && !values.detach) throw new UsageError('--log-size needs --detach');
  if (values.disk && !values.ephemeral)
    throw new UsageError('--disk needs --ephemeral: it bounds what goes there');
  if (values.publish.length > 0 && values.network?.kind !== 'bridge')
    throw new UsageError('--publish needs --network bridge');
  if (values.init && !isolate.has('pid'))
    throw new UsageError('--init needs --isolate pid: it is to be PID 1');
  if (isolate.has('mount')) return;
  for (const [option, given] of Object.entries(values))
    if (needMount.includes(option) && isGiven(given))
      throw new UsageError(`--${kebab(option)} needs --isolate mount: a chroot has no such thing`);
}

const needMount = 'user workdir volume tmpfs device shmSize readOnly ephemeral addHost dns userns init'.split(
  ' ',
);

/** Whose IDs the container's are. Throws Failure where this host does not let this user have any. */
function findNamespace(name: string, userns: boolean): Launch['userNamespace'] {
  if (process.getuid?.() === 0) return userns ? freeNamespace(name) : undefined;
  const locked = lockedBy();
  if (locked) throw new Failure(locked);
  return rootlessNamespace();
}

/** What --init puts before the command, and the host's program for it. */
function planInit(): { init: string | undefined; words: string[] } {
  const init = findInit(findInPath);
  return init ? { init, words: ['/dev/init', '--'] } : { init, words: shellInit };
}

/** The limits of its cgroups. Throws UsageError for those that contradict each other. */
function planLimits(values: Values<typeof options>): Limits {
  const { memory, memorySwap } = values;
  if (memorySwap !== undefined && (memory === undefined || memorySwap < memory))
    throw new UsageError('--memory-swap is memory and swap together: it needs --memory, and is not less');
  return {
    memoryBytes: memory,
    swapBytes: memorySwap && memorySwap - (memory ?? 0),
    reserveBytes: values.memoryReservation,
    cpus: values.cpus,
    cpuset: values.cpusetCpus,
    mems: values.cpusetMems,
    cpuShares: values.cpuShares,
    pids: values.pidsLimit,
    devices: [
      ...values.deviceReadBps,
      ...values.deviceWriteBps,
      ...values.deviceReadIops,
      ...values.deviceWriteIops,
    ],
  };
}

/**
 * The cgroups: root's at the top of every hierarchy. A user's only for limits, below one that is delegated to him, which
 * is then as a hierarchy of its own. Throws Failure where there can be none.
 */
function findCgroups(name: string, limits: Limits, isRoot: boolean): Launch['cgroups'] {
  const hierarchies = readHierarchies();
  const why = isRoot && whyNoCgroups(hierarchies);
  if (why) throw new Failure(why);
  if (isRoot) return planCgroups(hierarchies, name, limits);
  const wanted = controllersOf(namesOf(limits));
  if (wanted.length === 0) return undefined;
  const text = readProc('self', 'cgroup') ?? '';
  let leave: string | undefined;
  let refusal: string | undefined;
  const delegated = hierarchies.flatMap((hierarchy) => {
    const origin = cgroupDirectory(hierarchy, cgroupPath(text, hierarchy) ?? '');
    const its = wanted.filter((controller) => findHierarchy(hierarchies, controller) === hierarchy);
    const found = origin && findDelegation(hierarchy, origin, new Set([process.pid]), its);
    if (!found) return [];
    if (found.base === undefined) {
      if (its.length > 0) refusal ??= found.refusal;
      return [];
    }
    if (found.base === origin && hierarchy.version === 2) leave = origin;
    return [{ ...hierarchy, mountPoint: found.base }];
  });
  if (refusal) throw new Failure(`cannot limit a container: ${refusal}`);
  if (delegated.length === 0)
    throw new Failure(
      'cannot limit a container without root, unless a cgroup is delegated to you: sudo run.ts ..., or systemd-run --user --scope -p Delegate=yes run.ts ...',
    );
  return { ...planCgroups(delegated, name, limits), lock: undefined, leave };
}

/** The user that an image asks for: root, if it asks for none. Throws Failure for what is none. */
function imageUser(rootfs: string, text = '0'): UserChoice {
  try {
    return parseUser(text);
  } catch (error) {
    throw new Failure(`User in ${rootfs}${imageFile} is ${(error as Error).message}: choose one with -u`);
  }
}

/** Throws Failure for a user that the container's user namespace does not have. */
function checkUser({ uid, gid, groups }: User, namespace: Launch['userNamespace']): void {
  if (!namespace) return;
  const { uids, gids, single } = namespace;
  const has = (ranges: Range[], id: number) =>
    ranges.some(({ inside, count }) => id >= inside && id < inside + count);
  // where there is only one, other groups are not asked for either
  if (has(uids, uid) && [gid, ...(single ? [] : groups)].every((id) => has(gids, id))) return;
  if (single)
    throw new Failure(
      'there is only one user in this container, 0: for others you need a line in /etc/subuid and /etc/subgid, and newuidmap(1)',
    );
  const list = (ranges: Range[]) =>
    ranges.map(({ inside, count }) => `${inside} to ${inside + count - 1}`).join(', ');
  throw new Failure(
    `user ${uid} with the groups ${[gid, ...groups]} is not in this container's user namespace: it has the users ${list(uids)} and the groups ${list(gids)}`,
  );
}

/** Options and facts become a launch. Throws UsageError for options that contradict each other. */
async function planLaunch(
  values: Values<typeof options>,
  [operand = '', ...words]: string[],
): Promise<Launch> {
  const isRoot = process.getuid?.() === 0;
  const rootfs = realpathSync(findRootfs(operand));
  if (rootfs === '/') throw new UsageError('ROOTFS is / itself: that is the host, not a container');
  const isolate = values.isolate ?? new Set(['mount', 'pid', 'uts', 'ipc', 'cgroup']);
  const choice = values.network ?? { kind: 'host' };
  if (choice.kind === 'none' || choice.kind === 'bridge') isolate.add('net');
  if (choice.kind === 'container' && isolate.has('net'))
    throw new UsageError('--network container: shares a network that --isolate net would not');
  checkOptions(values, isolate);
  const image = readImageConfig(rootfs);

  // a name begins as --name has it: the rootfs may be called .cache or -x
  const base = basename(rootfs).replace(/^[^a-z0-9]+|[^\w.-]/gi, '');
  const name = values.name ?? `${base.slice(0, 40) || 'c'}-${process.pid}`;
  const userNamespace = findNamespace(name, values.userns);
  if (!isRoot && !(isolate.has('mount') && isolate.has('pid')))
    throw new UsageError('without root --isolate must have mount and pid');
  const limits = planLimits(values);
  const user = findUser(
    rootfs,
    values.user ?? imageUser(rootfs, isolate.has('mount') ? image.user : undefined),
  );
  checkUser(user, userNamespace);
  const names = isolate.has('uts') && (!userNamespace || findInPath('hostname'));
  if (values.hostname && !names)
    throw new Failure('--hostname without root needs hostname(1), which is not here');
  const hostname = names ? (values.hostname ?? name) : undefined;
  const kept = values.privileged
    ? capabilities
    : keptCapabilities(values.capAdd.flat(), values.capDrop.flat());
  if (!isolate.has('mount') && !kept.includes('sys_chroot'))
    throw new UsageError('a chroot needs CAP_SYS_CHROOT: do not drop it, or --isolate mount');
  const security = Object.assign({}, ...values.securityOpt) as ReturnType<typeof parseSecurity>;
  const environment = new Map<string, string>();
  for (const variable of [
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    `HOME=${user.home}`,
    `TERM=${process.env.TERM ?? 'xterm'}`,
    `HOSTNAME=${hostname ?? osHostname()}`,
    'container=barehand',
    ...image.environment,
    ...values.envFile.flat(),
    ...values.env,
  ].filter(Boolean))
    environment.set(variable.split('=', 1)[0] as string, variable);
  const entrypoint = values.entrypoint === undefined ? image.entrypoint : [values.entrypoint];
  const own = words.length > 0 || values.entrypoint !== undefined ? words : image.command;
  const command = [...entrypoint, ...own];
  if (command.length === 0) command.push(defaultShell(rootfs));
  const network = await planNetwork({
    name,
    choice,
    ports: values.publish,
    hosts: values.addHost,
    nameservers: values.dns,
    hostname: hostname ?? osHostname(),
    isRoot,
    hasFiles: isolate.has('mount'),
  });
  checkPlaces([
    ['--volume', values.volume.map(({ path }) => path)],
    ['--tmpfs', values.tmpfs.map(({ path }) => path)],
    ['--device', values.device.map(({ path }) => path)],
    ['--add-host, --dns or --network', network.texts.map(({ path }) => path)],
  ]);
  // Docker and Podman give a container on the host's network its name servers as well
  const sharesNetwork = choice.kind === 'host' && isolate.has('mount') && !isolate.has('net');
  const resolver =
    sharesNetwork && values.dns.length === 0
      ? hostResolver({ rootfs, volumes: values.volume, tmpfs: values.tmpfs })
      : undefined;
  if (network.warning) console.error(`run: ${network.warning}`);
  const { init, words: before } = values.init ? planInit() : { init: undefined, words: [] };
  const host = readHost([...environment.values()]);
  return {
    name,
    rootfs,
    rootFlags: mountFlags(rootfs),
    ephemeral: values.ephemeral ? { sizeBytes: values.disk } : undefined,
    readOnly: values.readOnly,
    volumes: findVolumes(values.volume),
    tmpfs: values.tmpfs,
    texts: [...network.texts, ...(resolver ? [resolver] : [])],
    devices: values.device,
    shmBytes: values.shmSize ?? 64 * 1024 * 1024,
    command: [...before, ...command],
    init,
    hasInit: values.init,
    environment: [...environment.values()],
    hostname,
    workdir: values.workdir ?? (isolate.has('mount') ? image.workdir : undefined) ?? '/',
    user,
    connection: network.connection,
    joins: network.joins,
    limits: values.ulimit,
    isolate,
    userNamespace,
    capabilities: kept,
    newPrivileges: values.privileged || security.newPrivileges === true,
    privileged: values.privileged,
    seccomp:
      values.privileged || security.seccomp === false
        ? undefined
        : planSeccomp(kept, isolate.has('mount') && !security.newPrivileges),
    cgroups: findCgroups(name, limits, isRoot),
    runDirectory: notesFolder(name),
    terminal: !values.detach && isatty(0) && isatty(1),
    detached: values.detach ? { logBytes: values.logSize ?? 1024 * 1024 } : undefined,
    stopSignal: values.stopSignal ?? (image.stopSignal && parseSignal(image.stopSignal)),
    ...host,
    idmap: userNamespace?.byRoot ? await idmapWords() : undefined,
  };
}

await main(
  import.meta.url,
  { options, operands: [1, 1], command: true, exitCodes: { failed: 125, usage: 125 } },
  async (values, operands) => {
    const plan = await planLaunch(values, operands);
    if (plan.privileged && !plan.userNamespace)
      console.error('run: --privileged: root in this container is as root on the host');
    if (values.dryRun) {
      process.stdout.write(await printLaunch(plan));
      return 0;
    }
    requirePrograms(launchPrograms(plan), 'start a container');
    return launchContainer(plan);
  },
);
