// What the facts about a process mean: what it can do to the host, and where that comes from. Pure functions.
import { isBelow } from '../helpers/mounts.ts';
import type { NamespaceType } from '../ps/namespaces.ts';
import { type Facts, holdsOnHost } from './facts.ts';
import { originOf, type Subject } from './origins.ts';
import { isUsual, type Writable } from './reach.ts';

/**
 * `critical`: the process can take over the host, or all of its files; `warning`: a barrier is missing, and what it can
 * do harms the host or others; `note`: good to know.
 */
export type Weight = 'critical' | 'warning' | 'note';

export const weights: Weight[] = ['critical', 'warning', 'note'];

export interface Finding {
  weight: Weight;
  /** what it is about, as `CAP_SYS_ADMIN` or `/run/docker.sock` */
  subject: string;
  /** what that allows */
  allows: string;
  /** where it comes from, or how to be without it */
  origin: string;
}

/** What capabilities allow that hold on the host, capabilities(7). */
const dangerous: Record<string, [Weight, string]> = {
  sys_admin: ['critical', "mounts the host's disks, joins its namespaces, loads BPF programs"],
  sys_module: ['critical', 'loads modules into the kernel'],
  sys_rawio: ['critical', 'reads and writes I/O ports, and memory by /dev/mem'],
  dac_read_search: [
    'critical',
    'opens every file on a mounted file system of the host, open_by_handle_at(2)',
  ],
  sys_boot: ['critical', 'loads another kernel, kexec_load(2)'],
  bpf: ['critical', 'loads BPF programs, which with CAP_PERFMON read the memory of the kernel'],
  mac_admin: ['warning', 'changes the policy of the security module'],
  mac_override: ['warning', 'overrides the policy of Smack'],
  sys_time: ['warning', "sets the host's clock"],
  perfmon: ['warning', 'observes all processes and the kernel, perf_event_open(2)'],
  syslog: ['warning', 'reads the kernel log, and addresses in the kernel'],
  audit_control: ['warning', 'switches auditing off'],
  sys_resource: ['warning', 'raises its resource limits, and ignores quotas of disks'],
  sys_pacct: ['note', 'switches process accounting of the host, acct(2)'],
  linux_immutable: ['note', 'changes files that chattr(1) protects'],
  sys_nice: ['note', 'takes CPU time from others by real-time priorities'],
  sys_tty_config: ['note', 'configures virtual terminals of the host'],
};

const order = (one: Finding, other: Finding) => weights.indexOf(one.weight) - weights.indexOf(other.weight);

/** All findings, the weightiest first. */
export function findingsOf(facts: Facts): Finding[] {
  return [
    ...aboutRoot(facts),
    ...aboutSockets(facts),
    ...aboutCapabilities(facts),
    ...aboutDescriptors(facts),
    ...aboutMounts(facts),
    ...aboutKernelFiles(facts),
    ...aboutDevices(facts),
    ...aboutNamespaces(facts),
    ...aboutBarriers(facts),
    ...aboutLimits(facts),
    ...aboutUnseen(facts),
  ].toSorted(order);
}

const whoseIs = ({ namespaces }: Facts, type: NamespaceType) =>
  namespaces.find((namespace) => namespace.type === type)?.whose ?? null;

/** Whether a process is user 0 of the host. */
const isHostsRoot = (facts: Facts) => holdsOnHost(facts) && facts.credentials.uids.effective === 0;

/** Whether it has all capabilities that there are on this host. */
const hasAll = ({ capabilities, host }: Facts) =>
  host.capabilities.length > 0 && host.capabilities.every((name) => capabilities.effective.includes(name));

/** Whether something separates a process from the host at all: a root directory, or a container. */
const isSeparate = ({ container, reach }: Facts) =>
  reach.rootIsHosts === false || (container !== null && container.role !== 'holder');

/** Writes findings with the origins of the engine that made the container. */
const writer = (facts: Facts) => {
  const { container, unit } = facts;
  const from = (subject: Subject, capability?: string) =>
    originOf(subject, container?.engine, container ? null : unit, capability);
  const find = (
    weight: Weight,
    subject: string,
    allows: string,
    origin: Subject | { text: string },
    capability?: string,
  ): Finding => ({
    weight,
    subject,
    allows,
    origin: typeof origin === 'string' ? from(origin, capability) : origin.text,
  });
  return find;
};

function aboutRoot(facts: Facts): Finding[] {
  const find = writer(facts);
  const { reach, capabilities, container } = facts;
  if (reach.rootIsHosts) {
    const everything = isHostsRoot(facts) && hasAll(facts);
    const weight = container && isHostsRoot(facts) ? 'critical' : everything ? 'warning' : 'note';
    const allows = everything
      ? 'it is root of the host with all capabilities: nothing separates it from the host'
      : 'it sees the files of the host, as far as their modes let its user';
    return [find(weight, 'root directory', allows, container ? 'mnt' : 'user')];
  }
  if (reach.isChroot && holdsOnHost(facts) && capabilities.effective.includes('sys_chroot'))
    return [
      find(
        'critical',
        'chroot',
        'can leave its root directory by a second chroot(2), which CAP_SYS_CHROOT allows, and reach all of its mount namespace',
        'mnt',
      ),
    ];
  return [];
}

function aboutSockets(facts: Facts): Finding[] {
  const find = writer(facts);
  return facts.reach.sockets.map(({ path, engine, hostPath }) =>
    hostPath === null
      ? find('note', path, `talks to a ${engine} of its own`, {
          text: `this ${engine} runs in the container`,
        })
      : find(
          !isSeparate(facts) && isHostsRoot(facts) ? 'note' : 'critical',
          path,
          `tells ${engine} of the host to start any container, with all files of the host`,
          isSeparate(facts) ? 'mount' : { text: `owner, group and mode of ${hostPath}` },
        ),
  );
}

function aboutCapabilities(facts: Facts): Finding[] {
  const find = writer(facts);
  const { capabilities, reach, noNewPrivileges, credentials } = facts;
  const { effective, bounding } = capabilities;
  if (!isSeparate(facts) && isHostsRoot(facts) && hasAll(facts)) return []; // aboutRoot tells it
  if (!holdsOnHost(facts)) {
    const risky = effective.filter((name) => ['sys_admin', 'net_admin'].includes(name));
    return risky.length > 0
      ? [
          find(
            'note',
            risky.map(nameOf).join(', '),
            'holds only in its own user namespace, but lets it attack more code of the kernel: mounts, firewall rules',
            'capability',
            risky[0],
          ),
        ]
      : [];
  }
  if (hasAll(facts))
    return [
      find(
        'critical',
        'all capabilities',
        "mounts the host's disks, loads kernel modules, traces and changes all that it can see",
        'allCapabilities',
      ),
    ];
  const about = (name: string, weight: Weight, allows: string) =>
    find(weight, nameOf(name), allows, 'capability', name);
  const found = effective.flatMap((name) => {
    const [weight, allows] = dangerous[name] ?? [];
    return weight && allows ? about(name, weight, allows) : [];
  });
  const has = (name: string) => effective.includes(name);
  const sharesNet = whoseIs(facts, 'net') === 'host';
  if (has('net_admin'))
    found.push(
      sharesNet
        ? about('net_admin', 'critical', "changes the host's addresses, routes and firewall")
        : about('net_admin', 'note', 'changes the network of its own network namespace'),
    );
  if (has('net_raw') && sharesNet)
    found.push(about('net_raw', 'warning', 'reads and forges all packets of the host'));
  if (has('sys_ptrace'))
    found.push(
      whoseIs(facts, 'pid') === 'host'
        ? about('sys_ptrace', 'critical', 'changes the memory of every process of the host, ptrace(2)')
        : about('sys_ptrace', 'note', 'traces the processes of its PID namespace'),
    );
  if (has('mknod') && reach.deviceMount !== null && opensDisks(reach.deviceRules))
    found.push(
      about(
        'mknod',
        'critical',
        `makes a node of any disk on ${reach.deviceMount}, and reads it: the device cgroup allows all`,
      ),
    );
  const latent = bounding.filter((name) => dangerous[name]?.[0] === 'critical' && !effective.includes(name));
  if (latent.length > 0 && noNewPrivileges === false && credentials.uids.effective !== 0)
    found.push(
      find(
        'note',
        'bounding set',
        `gets ${latent.map(nameOf).join(', ')} through a set-user-ID program that has a bug`,
        'noNewPrivileges',
      ),
    );
  return found;
}

const nameOf = (capability: string) => `CAP_${capability.toUpperCase()}`;

/** Whether the rules of a device cgroup let every disk be opened. */
const opensDisks = (rules: string[] | null) =>
  (rules ?? []).some((rule) => /^([ab] \*:\* .*[rw])/.test(rule));

function aboutDescriptors(facts: Facts): Finding[] {
  const find = writer(facts);
  return facts.reach.descriptors.map(({ descriptor, target, kind, writable }) => {
    const subject = descriptor === 'cwd' ? 'working directory' : `descriptor ${descriptor}`;
    const origin = { text: 'whoever started it has left it open: close it, or open it with O_CLOEXEC' };
    if (kind === 'directory')
      return find('critical', subject, `opens files of the host from ${target} on, openat(2)`, origin);
    if (kind === 'namespace')
      return find('critical', subject, `joins the namespace ${target}, setns(2)`, origin);
    if (kind === 'block')
      return find('critical', subject, `reads${writable ? ' and writes' : ''} the disk ${target}`, origin);
    const isStream = descriptor !== 'cwd' && descriptor <= 2;
    const does = writable ? 'writes' : 'reads';
    return find(
      isStream ? 'note' : 'warning',
      subject,
      `${does} ${target}, outside of its root directory`,
      isStream ? { text: 'a standard stream, as whoever started it has set it' } : origin,
    );
  });
}

/** Directories of the host from which it can be taken over, if they can be written to. */
const vital =
  /^\/$|^\/(etc|root|boot|usr|bin|sbin|lib\w*|var|run|dev|home|opt)$|^\/(usr|boot|bin|sbin|lib\w*)\/|^\/var\/(run|lib|spool)$|^\/etc\/(cron|ssh|sudoers|passwd|shadow|group|ld\.so|systemd|profile|pam\.d|init)|^\/root\/\.ssh|^\/var\/spool\/cron|^\/var\/lib\/(docker|containers|containerd|kubelet|rancher|etcd|lxc|machines)$/;

/** Directories of the host with secrets. */
const secret =
  /^\/$|^\/(etc|root|home|var|run)$|^\/etc\/(shadow|ssh|ssl|kubernetes)|^\/root\/|^\/home\/[^/]+$|\/\.ssh(\/|$)|^\/var\/lib$|^\/var\/lib\/(docker|containers|containerd|kubelet|rancher|etcd)$|^\/proc\/|^\/var\/run\/secrets/;

/** File systems that aboutKernelFiles and aboutDevices tell about. */
const ofKernel = /^(proc|sysfs|cgroup2?|devpts|mqueue)$/;

const interfaces = /^(debugfs|tracefs|securityfs|bpf|efivarfs|configfs|binfmt_misc)$/;

function aboutMounts(facts: Facts): Finding[] {
  const find = writer(facts);
  if (facts.reach.rootIsHosts) return [];
  const isRoot = isHostsRoot(facts);
  return facts.reach.mounts.flatMap(({ mountPoint, type, hostPath, readOnly }) => {
    if (hostPath === null || ofKernel.test(type)) return [];
    if (interfaces.test(type))
      return find(
        'warning',
        mountPoint,
        `reaches ${type}, an interface of the kernel for the whole host`,
        'kernelFiles',
      );
    const isItself = mountPoint === '/' && hostPath !== '/';
    // engines put /dev/null over files that they mask
    if (isItself || /^\/dev\/(null|zero|full|random|urandom|tty|console|ptmx|pts\/\d+)$/.test(hostPath))
      return [];
    // what the engine has made for the container itself
    const { rootfs, name } = facts.container ?? {};
    const hasId = /^[0-9a-f]{12}$/.test(name ?? '') && hostPath.includes(`/${name}`);
    if (hasId || isBelow(hostPath, rootfs ?? '/no/rootfs')) return [];
    if (!readOnly && vital.test(hostPath))
      return find(
        isRoot ? 'critical' : 'warning',
        mountPoint,
        `changes ${hostPath} of the host${isRoot ? ', and so what its root executes' : ''}`,
        'mount',
      );
    if (secret.test(hostPath)) return find('warning', mountPoint, `reads ${hostPath} of the host`, 'mount');
    return find('note', mountPoint, `${readOnly ? 'reads' : 'changes'} ${hostPath} of the host`, 'mount');
  });
}

/** What files of the kernel allow that a process can write to. */
const kernelFiles: Record<Writable['kind'], [Weight, string]> = {
  sysctl: [
    'critical',
    'sets sysctls of the host: kernel.core_pattern names a program that the kernel executes as root of the host',
  ],
  sysrq: ['critical', 'reboots the host, or kills its processes, proc(5)'],
  sysfs: [
    'critical',
    'sets devices and the kernel: uevent_helper names a program that the kernel executes as root of the host',
  ],
  release_agent: [
    'critical',
    'names a program that the kernel executes as root of the host when a cgroup becomes empty, cgroups(7)',
  ],
  cgroup: ['warning', 'changes limits of cgroups, its own among them, and moves processes between them'],
};

function aboutKernelFiles(facts: Facts): Finding[] {
  const find = writer(facts);
  const found = facts.reach.writable.map(({ path, kind }) =>
    find(kernelFiles[kind][0], path, kernelFiles[kind][1], 'kernelFiles'),
  );
  for (const path of facts.reach.hostProc)
    found.push(
      find(
        isHostsRoot(facts) ? 'critical' : 'warning',
        path,
        'shows all processes of the host, and by /proc/PID/root their files',
        'kernelFiles',
      ),
    );
  return found;
}

const knownDevices: Record<string, [Weight, string]> = {
  'character 1:1': ['critical', 'reads and writes the memory of the kernel'],
  'character 1:2': ['critical', 'reads and writes the memory of the kernel'],
  'character 1:4': ['critical', 'reads and writes I/O ports'],
  'character 1:11': ['warning', 'reads the kernel log'],
  'character 10:196': ['warning', 'controls devices of the host by VFIO'],
  'character 10:200': ['note', 'makes TUN and TAP interfaces in its network namespace'],
  'character 10:223': ['warning', 'types on the keyboard of the host, uinput'],
  'character 10:229': ['note', 'mounts file systems by FUSE, where it may mount'],
  'character 10:232': ['note', 'runs virtual machines'],
  'character 10:236': ['critical', "changes the host's logical volumes, device mapper"],
  'character 10:237': ['warning', 'attaches files as disks, loop(4)'],
};

function aboutDevices(facts: Facts): Finding[] {
  const find = writer(facts);
  if (!isSeparate(facts) && isHostsRoot(facts)) return [];
  const devices = facts.reach.devices.filter((device) => !isUsual(device));
  const disks = devices.filter(({ kind, number }) => kind === 'block' && !/^(1|7|43):/.test(number));
  const found: Finding[] = [];
  const some = (paths: string[]) =>
    `${paths.slice(0, 4).join(', ')}${paths.length > 4 ? ` and ${paths.length - 4} more` : ''}`;
  if (disks.length > 0)
    found.push(
      find(
        'critical',
        some(disks.map(({ path }) => path)),
        `${disks.some(({ access }) => access.includes('w')) ? 'reads and writes' : 'reads'} ${disks.length > 1 ? 'disks' : 'a disk'} of the host, below all file permissions`,
        'device',
      ),
    );
  const others: string[] = [];
  for (const { path, kind, number } of devices) {
    const [weight, allows] = knownDevices[`${kind} ${number}`] ?? [];
    if (weight && allows) found.push(find(weight, path, allows, 'device'));
    else if (kind === 'character') others.push(path);
  }
  if (others.length > 0)
    found.push(
      find('note', some(others), `opens ${others.length > 1 ? 'devices' : 'a device'} of the host`, 'device'),
    );
  return found;
}

function aboutNamespaces(facts: Facts): Finding[] {
  if (!isSeparate(facts)) return [];
  const find = writer(facts);
  const { capabilities, credentials, container } = facts;
  const has = (name: string) => capabilities.effective.includes(name);
  const found: Finding[] = [];
  if (whoseIs(facts, 'pid') === 'host')
    found.push(
      find(
        isHostsRoot(facts) && has('sys_ptrace') ? 'critical' : 'warning',
        'PID namespace',
        isHostsRoot(facts)
          ? 'sees all processes of the host, and ends them'
          : 'sees all processes of the host, with their command lines, and ends those of its user',
        'pid',
      ),
    );
  if (whoseIs(facts, 'net') === 'host')
    found.push(
      find(
        'warning',
        'network namespace',
        "is the host's: it reaches all that listens on the host's loopback interface and abstract sockets, and can take its ports",
        'net',
      ),
    );
  if (whoseIs(facts, 'ipc') === 'host')
    found.push(
      find('warning', 'IPC namespace', 'reads shared memory, semaphores and queues of the host', 'ipc'),
    );
  if (whoseIs(facts, 'uts') === 'host' && holdsOnHost(facts) && has('sys_admin'))
    found.push(find('warning', 'UTS namespace', "changes the host's name", 'uts'));
  for (const { type, whose, sharedWith } of facts.namespaces) {
    const others = sharedWith.filter(({ engine }) => engine !== null);
    if (whose !== 'shared' || others.length === 0 || !container) continue;
    const names = others.map(({ name, pid }) => name ?? `PID ${pid}`);
    found.push(
      find('note', `${type} namespace`, `shares it with ${names.join(', ')}`, {
        text: 'whoever started it has joined them, as containers of a pod',
      }),
    );
  }
  if (isHostsRoot(facts))
    found.push(
      find(
        'note',
        'user 0',
        `is root on the host too: a process that escapes is root there${credentials.uids.real === 0 ? '' : ' (by a set-user-ID program)'}`,
        'user',
      ),
    );
  return found;
}

function aboutBarriers(facts: Facts): Finding[] {
  const find = writer(facts);
  const { seccomp, noNewPrivileges, securityLabel } = facts;
  if (!isSeparate(facts)) return [];
  const found: Finding[] = [];
  if (seccomp?.mode === 'none')
    found.push(
      find(
        'warning',
        'seccomp',
        'no filter: it can make every system call, also those of old and rarely used parts of the kernel',
        'seccomp',
      ),
    );
  if (noNewPrivileges === false)
    found.push(
      find(
        'note',
        'no_new_privs',
        'gains privileges by set-user-ID programs and file capabilities',
        'noNewPrivileges',
      ),
    );
  if (securityLabel !== null && /^unconfined|:unconfined_t:|:spc_t:/.test(securityLabel))
    found.push(
      find('note', 'security label', `is confined by no security module: ${securityLabel}`, {
        text: 'it runs without a profile of AppArmor, or a type of SELinux',
      }),
    );
  return found;
}

function aboutUnseen({ unseen }: Facts): Finding[] {
  const allows = 'there may be more to find: some facts could not be read, see the lines "not seen"';
  return unseen.length > 0
    ? [{ weight: 'note', subject: 'not seen', allows, origin: 'run it as root, outside of containers' }]
    : [];
}

function aboutLimits(facts: Facts): Finding[] {
  const find = writer(facts);
  if (!facts.container || facts.container.role === 'holder') return [];
  const limited = (name: string) => facts.limits.some(({ limit }) => limit === name);
  const found: Finding[] = [];
  if (!limited('memory'))
    found.push(find('note', 'memory', 'has no limit: it can take all memory of the host', 'memory'));
  if (!limited('pids'))
    found.push(
      find(
        'note',
        'processes',
        'have no limit: it can start processes until the host has no PIDs left',
        'pids',
      ),
    );
  return found;
}
