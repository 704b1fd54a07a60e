#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
run.ts: run a command in a container of its own, on a root file system

USAGE
  run.ts [OPTION...] ROOTFS [COMMAND [ARG...]]

  ROOTFS is a directory, or a name under rootfs/, or an image: docker://IMAGE,
  docker-archive:FILE, oci:DIR, oci-archive:FILE. COMMAND defaults to the
  image's, then to /bin/bash if ROOTFS has one, then to /bin/sh. Every word
  after COMMAND is an argument of COMMAND, not an option of run.ts.

  Options you leave out default to ROOTFS/.image.json, if present: entrypoint,
  command, environment, user, working directory and stop signal of the image
  that ROOTFS was made from.

  On a terminal the prompt of a shell shows user, container and directory,
  root@web:/#, unless its own start files, the image or -e set PS1.

EXAMPLES
  run.ts -it --rm rootfs/host                   an interactive shell
  run.ts -d --name web -m 100M rootfs/host sleep infinity
  run.ts --sandbox -v ./src:/src:ro rootfs/host make -n -C /src

CONTAINER OPTIONS
* --name NAME           name for the other scripts (default: ROOTFS-NUMBER)
  --hostname NAME       host name inside (default: the container's name)
* -d, --detach          run in the background: see logs.ts, stop.ts
  --log-size SIZE       with --detach: size of the output that is kept
                        (default: 1M)
  --entrypoint PROGRAM  program to run in place of the image's entrypoint
* -e, --env KEY=VALUE   set an environment variable
                        KEY alone takes the caller's value; may be repeated
  --env-file FILE       set the variables in FILE, one per line; may be repeated
  -w, --workdir DIR     working directory inside the container, made if it is
                        missing (default: /)
  --umask MASK          file mode creation mask in octal: 027 (default: the
                        caller's)
* -u, --user USER[:GROUP]  user and group inside, by name or ID (default: root)
                        names are those of the container's /etc/passwd and
                        /etc/group; a number, up to 2147483647, is always an ID
  --group-add GROUP     also a member of this group, by name or ID; may be
                        repeated
  -l, --label KEY=VALUE a note about the container, for ps.ts --json; may be
                        repeated
  --preserve-fds N      keep N descriptors of the caller, from 3 on: 3<FILE at
                        the end of the line opens the first (needs bash)
  --init                run a small init as PID 1: it forwards signals to the
                        command's process group, and reaps orphaned processes
  --stop-signal SIGNAL  signal that stop.ts sends first, by name or number: INT,
                        37, RTMIN+3 (default: TERM)
  -i, --interactive     accepted, changes nothing: COMMAND always gets the
                        standard input of run.ts, unless -d is given
  -t, --tty             accepted, changes nothing: COMMAND gets a terminal
                        whenever run.ts has one
  --rm                  accepted, changes nothing: only the log of -d stays,
                        until stop.ts removes it

MOUNT OPTIONS
* -v, --volume SRC:DST[:OPTIONS]  show SRC of the host at DST, :ro read-only
                        further options: nosuid, noexec; rslave shows what the
                        host mounts below SRC later; may be repeated
  --mount TYPE,KEY=VALUE...  the same as
                        type=bind,source=SRC,target=DST[,readonly], or a tmpfs
                        as type=tmpfs,target=DST[,tmpfs-size=SIZE]
                        [,tmpfs-mode=MODE]; may be repeated
  --tmpfs DST[:OPTIONS] mount a tmpfs at DST; options: size=, mode=, uid=, gid=,
                        ro, exec, suid (default: nosuid and noexec, with mode
                        and owner of DST if it exists); may be repeated
  --device SRC[:DST[:ACCESS]]  make the device SRC of the host available in /dev
                        ACCESS: read, write, mknod, rwm by default, less needs
                        cgroup v1; may be repeated
  --shm-size SIZE       size of /dev/shm (default: 64M)
  --read-only           mount the root file system read-only
  --ephemeral           keep changes to files in memory, discard them at the end
                        an image is always started so
  --pull WHEN           ask the registry of docker://IMAGE: always, never, or if
                        the image is missing in the cache (default: missing)
  --disk SIZE           with --ephemeral: size limit of these changes
  --add-host NAME:ADDRESS  add an entry to the container's /etc/hosts; may be
                        repeated
  --dns ADDRESS         use this name server, in the container's
                        /etc/resolv.conf; may be repeated

LIMIT OPTIONS
* -m, --memory SIZE     memory limit: 100M is 100 * 1024^2, 100MB 100 * 1000^2
                        without swap, unless --memory-swap is given; 6M at least
  --memory-swap SIZE|-1  limit for memory and swap together; -1 is unlimited
                        swap
  --memory-reservation SIZE  soft limit: under memory pressure, usage up to SIZE
                        is reclaimed last
  --cpus N              CPU time limit, as a number of CPUs: 1.5
  --cpuset-cpus LIST    run on these CPUs only: 0-1,3
  --cpuset-mems LIST    allocate memory from these NUMA nodes only: 0
  -c, --cpu-shares N    relative CPU weight under contention, 2 to 262144
                        (default: 1024)
  --pids-limit N|-1     limit for the number of processes and threads; -1 is
                        unlimited
  --device-read-bps PATH:SIZE  read at most SIZE per second from the disk that
                        PATH is or lies on; may be repeated
  --device-write-bps PATH:SIZE  write at most SIZE per second; may be repeated
  --device-read-iops PATH:N  at most N read operations per second; may be
                        repeated
  --device-write-iops PATH:N  at most N write operations per second; may be
                        repeated
  --oom-score-adj N     how readily the kernel kills it for lack of memory:
                        -1000, never, to 1000
  --sysctl NAME=VALUE   sysctl of the container's own IPC or network namespace:
                        kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*; net.*
                        if it has its own network; may be repeated
  --blkio-weight N      relative I/O weight under contention, 10 to 1000
                        (default: 100), on disks whose I/O scheduler is bfq or,
                        without bfq, that have io.cost of cgroup v2
  --ulimit NAME=SOFT[:HARD]  resource limit of getrlimit(2): nofile=1024; may be
                        repeated

NETWORK OPTIONS
* --network NETWORK     host (default), none, bridge or container:NAME
                        also --net; host: the network of the host: its
                        interfaces, ports and localhost, without isolation; with
                        the host's name servers if ROOTFS names none that
                        answers; none: a loopback interface only; bridge: an
                        interface on a bridge of network.ts; without root, by
                        pasta(1) or slirp4netns(1); container:NAME: the network
                        of another container
* -p, --publish PORTS   forward a port, HOSTPORT:PORT; needs --network bridge
                        [IP:]HOSTPORT:PORT[/udp] forwards HOSTPORT of the host
                        to PORT of the container, on the host address IP only if
                        given; its URL is printed on standard error; may be
                        repeated

SECURITY OPTIONS
* --sandbox             for a command that you do not trust, without network
                        the same as --network none, --read-only with a tmpfs on
                        /tmp, /run and /var/tmp, --cap-drop ALL, --memory 512M
                        and --pids-limit 256; and --userns, if host and ROOTFS
                        allow it, else a message says why not. Options that are
                        given win: --memory 1G; in place of --read-only, the
                        option --ephemeral discards changes
  --userns              map the container's root to an unprivileged user of the
                        host (always, without root)
  --uidmap CONTAINER:HOST:COUNT  the same, with these user IDs; may be repeated
                        (default: those of --gidmap)
  --gidmap CONTAINER:HOST:COUNT  and with these group IDs; may be repeated
                        (default: those of --uidmap)
  --cap-add CAP         keep this capability, see capabilities(7), or ALL; may
                        be repeated
  --cap-drop CAP        drop this capability, or ALL; may be repeated
  --security-opt OPT    seccomp=unconfined: load no seccomp filter;
                        no-new-privileges=false: let set-user-ID programs gain
                        privileges; mask=PATH, unmask=PATH, unmask=ALL: hide, or
                        show and make writable, a path below /proc or /sys; may
                        be repeated
  --privileged          lift all of these restrictions: keep every capability,
                        load no seccomp filter, set no no_new_privs, allow
                        device files, mount /sys writable, mask nothing in /proc

OTHER OPTIONS
  --isolate LIST        isolate only these, to see what each of them does:
                        chroot, mount, pid, uts, ipc, cgroup, net
                        (default: mount,pid,uts,ipc,cgroup; net if --network
                        asks for it)
* --dry-run             print the launch as shell, and start nothing
  --bundle DIR          write an OCI runtime bundle, for runc(8) or crun(1), and
                        start nothing; DIR is missing or empty; prints what to
                        type, also for what a bundle cannot hold
  -h, --help            print the usual options; --help all prints all of this
  --version             print name and version

MORE EXAMPLES
  run.ts --dry-run rootfs/host | less           the launch as shell
  run.ts --name web rootfs/host /bin/sh -c 'echo $$'
  run.ts --init --ephemeral -v /srv/www:/srv:ro rootfs/host sleep infinity
  run.ts --isolate chroot rootfs/host ps aux    ps sees the whole host
  run.ts --isolate pid,mount rootfs/host ps aux  ps sees the container
  run.ts docker://alpine sh                     an image, unpacked in a cache
  run.ts --bundle web -m 100M rootfs/host sleep 9; runc run --bundle web web

CHANGES
  A cgroup barehand/NAME in each hierarchy, while the container lives. Without
  root: only if limits are given, in a cgroup that is delegated to the user.
  Mounts are made in the container's own mount namespace; the host's mount table
  stays the same.
  In ROOTFS: the directories proc, sys and dev, and mount points of options, if
  they are missing; and what COMMAND writes. --ephemeral keeps both out of
  ROOTFS.
  --detach keeps output and exit status in /run/barehand/NAME, or for a user in
  $XDG_RUNTIME_DIR/barehand/NAME.
  An image is kept in ~/.cache/barehand, or $XDG_CACHE_HOME/barehand: its layers
  up to 10 GB, unpacked root file systems up to 20 GB; the least recently used
  go first.

UNDO
  Everything but what --detach keeps is removed when COMMAND ends. stop.ts NAME
  removes that as well. SIGKILL may leave empty cgroups, which the next run.ts
  removes. Images: rm -rf ~/.cache/barehand

EXIT CODES
  The exit code of COMMAND; 128+n if signal n killed it; 127 if it was not
  found; 126 if it could not be executed; 125 if the container could not be
  started. With --detach: 0 once the container runs.

SEE ALSO
  unshare(1), pivot_root(2), namespaces(7), user_namespaces(7), cgroups(7),
  capabilities(7), seccomp(2), setpriv(1), nsenter(1), script(1), logs.ts,
  stop.ts, network.ts
*/
import { existsSync, realpathSync } from 'node:fs';
import { hostname as osHostname } from 'node:os';
import { basename } from 'node:path';
import { isatty } from 'node:tty';
import { scriptPath } from './helpers/called.ts';
import { capabilities } from './helpers/capabilities.ts';
import { Failure, isGiven, kebab, main, refuseLateOptions, UsageError, type Values } from './helpers/cli.ts';
import { notesFolder } from './helpers/containers.ts';
import { readMounts } from './helpers/mounts.ts';
import { requirePrograms } from './helpers/programs.ts';
import { findInPath, quote } from './helpers/shell.ts';
import { parseSignal } from './helpers/units.ts';
import { checkMemoryToStart, checkPidsToStart } from './limit/smallest.ts';
import { type Limits, readBfq } from './limit/table.ts';
import { keptCapabilities } from './run/capabilities.ts';
import { findCgroups } from './run/cgroups.ts';
import { checkDescriptors, defaultPath, findGroups, findUser } from './run/command.ts';
import type { Launch } from './run/container.ts';
import type { Volume } from './run/furnish.ts';
import { changeMasks, findVolumes, launchPrograms, mountFlags, planSeccomp, readHost } from './run/host.ts';
import { idmapCommand } from './run/idmap.ts';
import { type ImageConfig, imageUser, readImageConfig } from './run/image.ts';
import { planInit } from './run/init.ts';
import { launchContainer } from './run/launch.ts';
import { planNetwork } from './run/network.ts';
import { checkDevices, checkTargets, mergeSecurity, options } from './run/options.ts';
import { printLaunch } from './run/print.ts';
import { prompt } from './run/prompt.ts';
import { hostResolver } from './run/resolver.ts';
import { defaultShell, findRootfs } from './run/rootfs.ts';
import { addSandbox, sandboxNamespace } from './run/sandbox.ts';
import { checkUser, findUserNamespace, type UserNamespace, unreachable } from './run/userns.ts';

export { options };

type Options = Values<typeof options>;

/** Options that need a mount namespace. */
const needMount =
  'sandbox user groupAdd workdir volume mount tmpfs device shmSize readOnly ephemeral addHost dns userns uidmap gidmap init'.split(
    ' ',
  );

/** Throws UsageError for options that contradict each other. */
function checkOptions(values: Options, isolate: Set<string>): void {
  if (values.network?.kind === 'container' && isolate.has('net'))
    throw new UsageError(
      '--network container:NAME shares a network, and --isolate net makes a new one: choose one',
    );
  if (values.hostname && !isolate.has('uts')) throw new UsageError('--hostname needs --isolate uts');
  if (values.detach && !isolate.has('pid')) throw new UsageError('-d needs --isolate pid');
  checkDescriptors(values.preserveFds ?? 0);
  if (values.detach && values.preserveFds)
    throw new UsageError(
      '--preserve-fds does not go with -d: the shell that keeps the log would have these descriptors open too: leave out one',
    );
  if (values.logSize && !values.detach) throw new UsageError('--log-size needs --detach');
  if (values.disk && !values.ephemeral)
    throw new UsageError('--disk needs --ephemeral, whose size it limits');
  if (values.publish.length > 0 && values.network?.kind !== 'bridge')
    throw new UsageError('--publish needs --network bridge');
  if (values.init && !isolate.has('pid'))
    throw new UsageError('--init needs --isolate pid: an init must be PID 1');
  for (const { name, namespace } of values.sysctl)
    if (!isolate.has(namespace))
      throw new UsageError(
        namespace === 'net'
          ? `--sysctl ${name} needs a network namespace of the container's own: --network none, or bridge`
          : `--sysctl ${name} needs --isolate ipc`,
      );
  if (values.bundle && values.dryRun)
    throw new UsageError(
      '--dry-run prints a launch, and --bundle writes one for another program: choose one',
    );
  const { mask = [] } = mergeSecurity(values);
  if (mask.length > 0 && values.privileged)
    throw new UsageError('--privileged masks nothing: leave out --security-opt mask=');
  if (mask.some((path) => path.startsWith('/sys/')) && !isolate.has('mount'))
    throw new UsageError('--security-opt mask: a path below /sys needs --isolate mount');
  if (process.getuid?.() !== 0 && !(isolate.has('mount') && isolate.has('pid')))
    throw new UsageError('without root --isolate must have mount and pid');
  if (isolate.has('mount')) return;
  for (const option of needMount)
    if (isGiven(values[option as keyof Options]))
      throw new UsageError(`--${kebab(option)} needs --isolate mount: chroot(2) alone cannot do it`);
}

/** The default name. It begins with a letter or digit, as a value of --name does: ROOTFS may be called .cache or -x. */
function defaultName(rootfs: string): string {
  const base = basename(rootfs).replace(/^[^a-z0-9]+|[^\w.-]/gi, '');
  return `${base.slice(0, 40) || 'c'}-${process.pid}`;
}

/** The limits of the container's cgroups. Throws UsageError if they contradict each other. */
function planLimits(values: Options): Limits {
  const { memory, memorySwap } = values;
  if (memorySwap !== undefined && (memory === undefined || memorySwap < memory))
    throw new UsageError(
      '--memory-swap limits memory and swap together: it needs --memory, and must not be less',
    );
  checkMemoryToStart(memory);
  checkPidsToStart(values.pidsLimit, values.init);
  return {
    memoryBytes: memory,
    swapBytes: memorySwap && memorySwap - (memory ?? 0),
    reserveBytes: values.memoryReservation,
    cpus: values.cpus,
    cpuset: values.cpusetCpus,
    mems: values.cpusetMems,
    cpuShares: values.cpuShares,
    pids: values.pidsLimit,
    ioWeight: values.blkioWeight,
    devices: [
      ...values.deviceReadBps,
      ...values.deviceWriteBps,
      ...values.deviceReadIops,
      ...values.deviceWriteIops,
    ],
  };
}

/** The environment of the command, KEY=VALUE. Of several values for a key, the last one counts. */
function planEnvironment(values: Options, image: ImageConfig, home: string, hostname: string): string[] {
  const variables = [
    defaultPath,
    `HOME=${home}`,
    `TERM=${process.env.TERM ?? 'xterm'}`,
    `HOSTNAME=${hostname}`,
    'container=barehand',
    ...image.environment,
    ...values.envFile.flat(),
    ...values.env,
  ].filter(Boolean);
  return [...new Map(variables.map((variable) => [variable.split('=', 1)[0], variable])).values()];
}

/** The words of the command, without those of --init: from the command line, else from the image, else a shell. */
function planCommand(values: Options, words: string[], image: ImageConfig, rootfs: string): string[] {
  const entrypoint = values.entrypoint === undefined ? image.entrypoint : [values.entrypoint];
  // words behind an entrypoint may well be options: they are the entrypoint's
  if (entrypoint.length === 0) refuseLateOptions(options, 'ROOTFS', words);
  const isImages = words.length === 0 && values.entrypoint === undefined;
  const command = [...entrypoint, ...(isImages ? image.command : words)];
  return command.length > 0 ? command : [defaultShell(rootfs)];
}

/**
 * Throws UsageError for a volume that gets the host's later mounts, if the container may make device files there: these mounts
 * lack nodev. Says that the other options of the volume do not apply to them.
 */
function checkReceivers(volumes: Volume[], kept: string[], isTrusted: boolean): void {
  const receivers = volumes.filter(({ receives }) => receives);
  if (receivers.length > 0 && kept.includes('mknod') && !isTrusted)
    throw new UsageError(
      '--volume: rslave lets later mounts of the host in without nodev, where this container could make device files: add --cap-drop mknod, or --userns',
    );
  for (const { source, options } of receivers)
    if (options.length > 0)
      console.error(
        `run: --volume: what is mounted below ${source} later comes in without ${options.join(' and ')}: rslave`,
      );
}

/**
 * The user namespace of the container, if it gets one. `image`: what ROOTFS names, if that is an image. Throws Failure if
 * --userns, or the caller, can't have it.
 */
async function planUserNamespace(
  name: string,
  rootfs: string,
  { userns, uidmap, gidmap, sandbox }: Options,
  volumes: Volume[],
  image: string | undefined,
): Promise<UserNamespace | undefined> {
  const isRoot = process.getuid?.() === 0;
  const explain = (obstacle: string) =>
    image !== undefined && obstacle.includes(rootfs)
      ? `the cache of images is closed to all users but root: type ${scriptPath('fetch-rootfs')} ${quote(image)} NAME, then give NAME`
      : obstacle;
  const sources = volumes.map(({ source }) => source);
  if (sandbox && !userns && uidmap.length + gidmap.length === 0 && isRoot) {
    const found = await sandboxNamespace(name, rootfs, sources);
    if (typeof found !== 'string') return found;
    console.error(
      `run: --sandbox: without --userns, so root in this container is root for the kernel: ${explain(found)}`,
    );
    return undefined;
  }
  const namespace = findUserNamespace(name, userns, uidmap, gidmap);
  const obstacle = namespace && isRoot ? unreachable([rootfs, ...sources], namespace) : undefined;
  if (obstacle !== undefined) throw new Failure(`--userns: ${explain(obstacle)}`);
  return namespace;
}

/** What ROOTFS is where it names an image. */
const imageForm = /^(docker:\/\/|(docker-archive|oci|oci-archive):)/i;

/** Throws UsageError for options that an image can't have, or that only an image can have. */
function checkImage(operand: string, isImage: boolean, { pull, bundle, isolate }: Options): void {
  if (!isImage && pull) throw new UsageError('--pull is for an image as ROOTFS: docker://IMAGE');
  if (isImage && isolate && !isolate.has('mount'))
    throw new UsageError(
      'an image needs --isolate mount: its root file system is shared, and must not change',
    );
  if (isImage && bundle)
    throw new UsageError(
      `--bundle needs a root file system of its own: type ${scriptPath('fetch-rootfs')} ${quote(operand)} NAME, then give NAME`,
    );
}

/** The plan of the launch, from options and facts about the host. Throws UsageError or Failure if it can't be done. */
async function planLaunch(given: Options, [operand = '', ...words]: string[]): Promise<Launch> {
  const isImage = imageForm.test(operand);
  // the root file system of an image is shared
  const values = addSandbox(isImage ? { ...given, ephemeral: true } : given);
  const { privileged, network: choice = { kind: 'host' } } = values;
  checkImage(operand, isImage, given);
  const found = isImage
    ? await (await import('./run/image-root.ts')).openImageRoot(operand, given.pull ?? 'missing')
    : undefined;
  const rootfs = realpathSync(found?.rootfs ?? findRootfs(operand));
  if (rootfs === '/')
    throw new UsageError('ROOTFS is /, the root directory of the host: choose another directory');
  const isolate = values.isolate ?? new Set(['mount', 'pid', 'uts', 'ipc', 'cgroup']);
  if (choice.kind === 'none' || choice.kind === 'bridge') isolate.add('net');
  checkOptions(values, isolate);
  const pivots = isolate.has('mount');

  const name = values.name ?? defaultName(found?.name ?? rootfs);
  const image = readImageConfig(rootfs);
  const volumes = [
    ...values.volume,
    ...values.mount.flatMap((mount) => ('volume' in mount ? mount.volume : [])),
  ];
  const userNamespace = await planUserNamespace(name, rootfs, values, volumes, isImage ? operand : undefined);
  const limits = planLimits(values);
  if (values.blkioWeight !== undefined && readBfq().isThere && !readBfq().isUsed)
    console.error(
      'run: --blkio-weight has no effect while no disk uses bfq: echo bfq >/sys/block/DISK/queue/scheduler',
    );
  const user = findUser(rootfs, values.user ?? imageUser(rootfs, pivots ? image.user : undefined));
  if (values.groupAdd.length > 0 && userNamespace?.single)
    throw new Failure(
      '--group-add: there is only one group in this container, 0: for others you need a line in /etc/subuid and /etc/subgid, and newgidmap(1)',
    );
  user.groups = [...new Set([...user.groups, ...findGroups(rootfs, values.groupAdd)])];
  checkUser(user, userNamespace);
  const canSetHostname = isolate.has('uts') && (!userNamespace || findInPath('hostname') !== undefined);
  if (values.hostname && !canSetHostname)
    throw new Failure('--hostname without root needs hostname(1), which is not installed');
  const hostname = canSetHostname ? (values.hostname ?? name) : undefined;
  const kept = privileged ? capabilities : keptCapabilities(values.capAdd.flat(), values.capDrop.flat());
  if (!pivots && !kept.includes('sys_chroot'))
    throw new UsageError('a chroot needs CAP_SYS_CHROOT: do not drop it, or add mount to --isolate');
  checkReceivers(volumes, kept, userNamespace !== undefined || privileged);
  const security = mergeSecurity(values);
  const isFiltered = !privileged && security.seccomp !== false;
  const terminal = !values.detach && isatty(0) && isatty(1);
  const command = planCommand(values, words, image, rootfs);
  const tmpfs = [...values.tmpfs, ...values.mount.flatMap((mount) => ('tmpfs' in mount ? mount.tmpfs : []))];
  if (volumes.some(({ relabels }) => relabels))
    console.error(
      existsSync('/sys/fs/selinux/enforce')
        ? 'run: --volume: z and Z relabel nothing: the container keeps the SELinux label of its caller'
        : 'run: --volume: z and Z change nothing: this host has no SELinux',
    );
  const environment = planEnvironment(values, image, user.home, hostname ?? osHostname());
  if (terminal)
    environment.push(
      ...prompt(rootfs, command, { ...user, hostname: hostname ?? osHostname(), environment }),
    );
  const { init, words: initWords } = values.init ? planInit() : { init: undefined, words: [] };

  const network = await planNetwork({
    name,
    choice,
    ports: values.publish,
    hosts: values.addHost,
    nameservers: values.dns,
    hostname: hostname ?? osHostname(),
    isRoot: process.getuid?.() === 0,
    hasFiles: pivots,
  });
  checkTargets([
    ['--volume', values.volume],
    ['--mount', values.mount.map((mount) => ('volume' in mount ? mount.volume : mount.tmpfs))],
    ['--tmpfs', values.tmpfs],
    ['--device', values.device],
    ['--add-host, --dns or --network', network.texts],
  ]);
  if (network.warning) console.error(`run: ${network.warning}`);
  // like Docker and Podman, a container on the host's network gets the host's name servers
  const sharesNetwork = choice.kind === 'host' && pivots && !isolate.has('net');
  const resolver =
    sharesNetwork && values.dns.length === 0 ? hostResolver(rootfs, volumes, tmpfs) : undefined;

  const mounts = readMounts('self');
  const host = readHost(mounts, environment, values.preserveFds ?? 0);
  checkDevices(values.device);
  return {
    name,
    rootfs,
    rootFlags: mountFlags(mounts, rootfs),
    ephemeral: values.ephemeral ? { sizeBytes: values.disk } : undefined,
    readOnly: values.readOnly,
    volumes: findVolumes(mounts, volumes),
    tmpfs,
    texts: [...network.texts, ...(resolver ? [resolver] : [])],
    devices: values.device,
    shmBytes: values.shmSize ?? 64 * 1024 * 1024,
    command: [...initWords, ...command],
    programs: [...(init ? [] : initWords.slice(0, 1)), ...command.slice(0, 1)],
    init,
    hasInit: values.init,
    environment,
    hostname,
    umask: values.umask,
    preserved: values.preserveFds ?? 0,
    labels: values.label,
    oomScore: values.oomScoreAdj,
    sysctls: values.sysctl,
    workdir: values.workdir ?? (pivots ? image.workdir : undefined) ?? '/',
    user,
    connection: network.connection,
    joins: network.joins,
    limits: values.ulimit,
    isolate,
    userNamespace,
    capabilities: kept,
    newPrivileges: privileged || security.newPrivileges === true,
    privileged,
    isFiltered,
    seccomp: isFiltered && !values.bundle ? planSeccomp(kept, pivots && !security.newPrivileges) : undefined,
    wanted: limits,
    cgroups: findCgroups(name, limits, values.device),
    runDirectory: notesFolder(name),
    terminal,
    detached: values.detach ? { logBytes: values.logSize ?? 1024 * 1024 } : undefined,
    stopSignal: values.stopSignal ?? (image.stopSignal && parseSignal(image.stopSignal)),
    ...host,
    masked: changeMasks(host.masked, security.mask ?? [], security.unmask ?? []),
    idmap: userNamespace?.byRoot ? await idmapCommand() : undefined,
  };
}

await main(
  import.meta.url,
  { options, operands: [1, 1], command: true, exitCodes: { failed: 125, usage: 125 } },
  async (values, operands) => {
    const plan = await planLaunch(values, operands);
    if (plan.privileged && !plan.userNamespace)
      console.error('run: --privileged: root in this container has all privileges of root on the host');
    if (values.dryRun) {
      process.stdout.write(await printLaunch(plan));
      return 0;
    }
    if (values.bundle !== undefined) {
      const { writeBundle } = await import('./run/bundle.ts');
      writeBundle(plan, values.bundle, values.publish);
      return 0;
    }
    requirePrograms(launchPrograms(plan), 'start a container');
    return launchContainer(plan);
  },
);
