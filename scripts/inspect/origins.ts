// How each engine is told to give a process more than it needs, and so where a finding comes from.

/** What a finding is about. */
export type Subject =
  | 'capability'
  | 'allCapabilities'
  | 'pid'
  | 'net'
  | 'ipc'
  | 'uts'
  | 'user'
  | 'mnt'
  | 'mount'
  | 'device'
  | 'kernelFiles'
  | 'seccomp'
  | 'noNewPrivileges'
  | 'memory'
  | 'pids';

type Origins = Record<Subject, string>;

/** Docker's options, which Podman and run.ts have too. */
const dockers: Origins = {
  capability: 'run without --cap-add CAP',
  allCapabilities: 'run without --privileged, and without --cap-add ALL',
  pid: 'run without --pid host',
  net: 'run without --network host',
  ipc: 'run without --ipc host',
  uts: 'run without --uts host',
  user: 'run with a user namespace, or with --user',
  mnt: 'run it by the engine, not by chroot(8)',
  mount: 'run without this --volume, or with :ro',
  device: 'run without this --device, and without --privileged',
  kernelFiles: 'run without --privileged',
  seccomp: 'run without --security-opt seccomp=unconfined, and without --privileged',
  noNewPrivileges: 'run with --security-opt no-new-privileges',
  memory: 'run with --memory',
  pids: 'run with --pids-limit',
};

/** The configuration of the OCI runtime specification. */
const bundles: Origins = {
  capability: 'process.capabilities of config.json',
  allCapabilities: 'process.capabilities of config.json',
  pid: 'linux.namespaces of config.json lacks pid',
  net: 'linux.namespaces of config.json lacks network',
  ipc: 'linux.namespaces of config.json lacks ipc',
  uts: 'linux.namespaces of config.json lacks uts',
  user: 'linux.namespaces of config.json lacks user, with linux.uidMappings',
  mnt: 'linux.namespaces of config.json lacks mount',
  mount: 'mounts of config.json',
  device: 'linux.devices and linux.resources.devices of config.json',
  kernelFiles: 'mounts and linux.readonlyPaths of config.json',
  seccomp: 'config.json has no linux.seccomp',
  noNewPrivileges: 'process.noNewPrivileges of config.json',
  memory: 'linux.resources.memory.limit of config.json',
  pids: 'linux.resources.pids.limit of config.json',
};

const byHand: Origins = {
  capability: 'start it with setpriv --bounding-set=-CAP',
  allCapabilities: 'start it with setpriv --bounding-set=-all --inh-caps=-all, or with unshare --user',
  pid: 'start it with unshare --pid --fork',
  net: 'start it with unshare --net',
  ipc: 'start it with unshare --ipc',
  uts: 'start it with unshare --uts',
  user: 'start it with unshare --user, or setpriv --reuid',
  mnt: 'start it with unshare --mount, and pivot_root(8)',
  mount: 'mount it with mount -o bind,ro, or not at all',
  device: 'give it a /dev of its own with only null, zero, full, random, urandom, tty',
  kernelFiles: 'mount it with -o ro, or not at all',
  seccomp: 'nothing has loaded a seccomp filter',
  noNewPrivileges: 'start it with setpriv --no-new-privs',
  memory: 'limit it with limit-memory.ts',
  pids: 'limit it with limit-pids.ts',
};

const origins: Record<string, Origins> = {
  docker: dockers,
  podman: dockers,
  barehand: {
    ...dockers,
    pid: 'run without --isolate, or with pid in it',
    ipc: 'run without --isolate, or with ipc in it',
    uts: 'run without --isolate, or with uts in it',
    net: 'run with --network none or bridge',
    user: 'run with --userns or --sandbox',
    mnt: 'run without --isolate, or with mount in it',
    noNewPrivileges: 'run without --security-opt no-new-privileges=false, and without --privileged',
  },
  kubernetes: {
    capability: 'securityContext.capabilities.add of the container',
    allCapabilities: 'securityContext.privileged of the container',
    pid: 'hostPID of the pod',
    net: 'hostNetwork of the pod',
    ipc: 'hostIPC of the pod',
    uts: 'hostNetwork of the pod',
    user: 'hostUsers: false of the pod, or securityContext.runAsUser',
    mnt: 'the container runtime',
    mount: 'hostPath volume of the pod',
    device: 'securityContext.privileged, or a hostPath volume of the pod',
    kernelFiles: 'securityContext.privileged, or procMount: Unmasked',
    seccomp: 'securityContext.seccompProfile.type: RuntimeDefault',
    noNewPrivileges: 'securityContext.allowPrivilegeEscalation: false',
    memory: 'resources.limits.memory of the container',
    pids: 'podPidsLimit of the kubelet',
  },
  runc: bundles,
  crun: bundles,
  containerd: bundles,
  lxc: {
    ...byHand,
    capability: 'lxc.cap.drop of its configuration',
    allCapabilities: 'lxc.cap.drop of its configuration',
    pid: 'lxc.namespace.keep of its configuration',
    net: 'lxc.net.0.type of its configuration',
    ipc: 'lxc.namespace.keep of its configuration',
    uts: 'lxc.namespace.keep of its configuration',
    user: 'lxc.idmap of its configuration',
    mount: 'lxc.mount.entry of its configuration',
    device: 'lxc.cgroup.devices.allow, lxc.mount.entry of its configuration',
    kernelFiles: 'lxc.mount.auto of its configuration',
    seccomp: 'lxc.seccomp.profile of its configuration',
    noNewPrivileges: 'lxc.no_new_privs of its configuration',
  },
  'systemd-nspawn': {
    ...byHand,
    capability: 'systemd-nspawn --drop-capability=CAP',
    allCapabilities: 'systemd-nspawn --capability=all',
    net: 'systemd-nspawn --private-network, or --network-veth',
    user: 'systemd-nspawn --private-users=pick',
    mount: 'systemd-nspawn --bind-ro= in place of --bind=',
    device: 'systemd-nspawn --bind= of a device',
    kernelFiles: 'SYSTEMD_NSPAWN_API_VFS_WRITABLE of systemd-nspawn',
    seccomp: 'systemd-nspawn was built without seccomp',
    noNewPrivileges: 'systemd-nspawn --no-new-privileges=yes',
    memory: 'systemd-nspawn --property=MemoryMax=',
    pids: 'systemd-nspawn --property=TasksMax=',
  },
  bubblewrap: {
    ...byHand,
    capability: 'bwrap --cap-drop CAP',
    allCapabilities: 'bwrap --cap-drop ALL',
    pid: 'bwrap --unshare-pid',
    net: 'bwrap --unshare-net',
    ipc: 'bwrap --unshare-ipc',
    uts: 'bwrap --unshare-uts',
    user: 'bwrap --unshare-user',
    mount: 'bwrap --ro-bind in place of --bind',
    device: 'bwrap --dev in place of --dev-bind',
    kernelFiles: 'bwrap --ro-bind in place of --bind',
    seccomp: 'bwrap --seccomp FD',
    noNewPrivileges: 'bwrap sets it',
  },
};

/** systemd.exec(5), for a process of a service that is in no container. */
const units: Origins = {
  capability: 'CapabilityBoundingSet=~CAP of UNIT',
  allCapabilities: 'User= and CapabilityBoundingSet= of UNIT',
  pid: 'UNIT shares it: systemd-nspawn(1), or a container',
  net: 'PrivateNetwork=yes of UNIT',
  ipc: 'PrivateIPC=yes of UNIT',
  uts: 'ProtectHostname=yes of UNIT',
  user: 'User=, DynamicUser= or PrivateUsers= of UNIT',
  mnt: 'RootDirectory=, ProtectSystem=strict, PrivateTmp=yes of UNIT',
  mount: 'BindReadOnlyPaths= in place of BindPaths= of UNIT',
  device: 'PrivateDevices=yes, DeviceAllow= of UNIT',
  kernelFiles: 'ProtectKernelTunables=yes of UNIT',
  seccomp: 'SystemCallFilter=@system-service of UNIT',
  noNewPrivileges: 'NoNewPrivileges=yes of UNIT',
  memory: 'MemoryMax= of UNIT',
  pids: 'TasksMax= of UNIT',
};

/** Capabilities that an engine gives unless it is told otherwise, with what tells it. */
const given: Record<string, [names: string[], origin: string]> = {
  docker: [['net_raw', 'mknod'], 'run with --cap-drop CAP'],
  barehand: [['net_raw', 'mknod'], 'run with --cap-drop CAP'],
  kubernetes: [['net_raw', 'mknod'], 'securityContext.capabilities.drop of the container'],
};

/** Where a finding comes from. `capability`: its name, for one about a capability. */
export function originOf(
  subject: Subject,
  engine: string | undefined,
  unit: string | null,
  capability = '',
): string {
  const table = engine ? (origins[engine] ?? byHand) : unit ? units : byHand;
  const hasPrefix = table === units || engine === 'systemd-nspawn' || engine === 'bubblewrap';
  const name =
    table === byHand || engine === 'lxc'
      ? capability
      : `${hasPrefix ? 'CAP_' : ''}${capability.toUpperCase()}`;
  const [names = [], drop = ''] = given[engine ?? ''] ?? [];
  const text = subject === 'capability' && names.includes(capability) ? drop : table[subject];
  return text.replace(/\bCAP\b/, () => name).replace('UNIT', () => unit ?? '');
}
