// A manifest for Kubernetes: https://kubernetes.io/docs/reference/generated/kubernetes-api/
import {
  capabilityNames,
  dnsLabel,
  type Launched,
  type Manifest,
  noHost,
  prepare,
  readTmpfs,
  type Table,
  tidy,
  volumeRemarks,
} from './manifest.ts';

const noDisk = 'disk I/O is not limited there';

/** The options in a Pod. */
export const ofKubernetes: Table = {
  name: true,
  hostname: true,
  detach: true,
  logSize: 'containerLogMaxSize of the kubelet limits logs',
  entrypoint: true,
  env: true,
  envFile: true,
  workdir: true,
  umask: 'only the command can set it: sh -c \'umask 027 && exec "$@"\'',
  user: true,
  groupAdd: true,
  label: true,
  preserveFds: 'an engine hands on no descriptors of its caller',
  init: 'put one into the image, such as tini, as its entrypoint',
  stopSignal: 'put it into the image: pack-rootfs.ts --stop-signal',
  volume: true,
  mount: true,
  tmpfs: true,
  device: 'a device plugin of the cluster gives devices',
  shmSize: true,
  readOnly: true,
  ephemeral: true, // what a container writes is discarded in any case
  pull: true,
  disk: true,
  addHost: true,
  dns: true,
  interactive: true,
  tty: true,
  rm: true,
  memory: true,
  memorySwap: 'memorySwap of the kubelet decides about swap',
  memoryReservation: true,
  cpus: true,
  cpusetCpus: 'the static policy of the CPU manager of the kubelet gives whole CPUs',
  cpusetMems: 'the memory manager of the kubelet chooses NUMA nodes',
  cpuShares: true,
  blkioWeight: noDisk,
  pidsLimit: 'podPidsLimit of the kubelet limits pods',
  deviceReadBps: noDisk,
  deviceWriteBps: noDisk,
  deviceReadIops: noDisk,
  deviceWriteIops: noDisk,
  oomScoreAdj: 'the kubelet sets it by the QoS class of the pod',
  sysctl: true,
  ulimit: 'the runtime of the node sets resource limits',
  network: true,
  publish: true,
  sandbox: true,
  userns: true,
  uidmap: 'the kubelet chooses the IDs of a pod with hostUsers: false',
  gidmap: 'the kubelet chooses the IDs of a pod with hostUsers: false',
  capAdd: true,
  capDrop: true,
  securityOpt: true,
  privileged: true,
  isolate: 'a container of a pod is isolated in all of this',
  dryRun: 'a manifest starts nothing anyway',
  bundle: 'it is for run.ts alone',
};

/** Bytes as a quantity of Kubernetes. */
function quantity(bytes: number | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  for (const [unit, size] of [
    ['Gi', 1024 ** 3],
    ['Mi', 1024 ** 2],
    ['Ki', 1024],
  ] as const)
    if (bytes >= size && bytes % size === 0) return `${bytes / size}${unit}`;
  return String(bytes);
}

/** CPUs as a quantity of Kubernetes: 500m is half of one. */
const cpuQuantity = (cpus: number) =>
  Number.isInteger(cpus) ? String(cpus) : `${Math.max(1, Math.round(cpus * 1000))}m`;

/** Kubernetes replaces $(NAME) in commands and variables, and $$ by $: https://kubernetes.io/docs/tasks/inject-data-application */
const literal = (text: string) => text.replace(/\$(?=[$(])/g, '$$$$');

/** Sysctls that every kubelet allows; others need its --allowed-unsafe-sysctls. */
const safeSysctls =
  /^net\.ipv4\.(ip_local_port_range|tcp_syncookies|ping_group_range|ip_unprivileged_port_start|ip_local_reserved_ports|tcp_keepalive_time|tcp_fin_timeout|tcp_keepalive_intvl|tcp_keepalive_probes)$/;

/** Keys and values of labels in Kubernetes; what is no such text becomes an annotation. */
const isLabel = ([key, value]: [string, string]) =>
  /^([a-z0-9.-]{1,253}\/)?[a-z0-9]([\w.-]{0,61}[a-z0-9])?$/i.test(key) &&
  /^([a-z0-9]([\w.-]{0,61}[a-z0-9])?)?$/i.test(value);

/** A Pod of Kubernetes, API version v1. Pure. */
export function planPod(launched: Launched): Manifest {
  const { values, image, command, user } = launched;
  const { network, privileged, memory, memoryReservation, cpuShares } = values;
  const prepared = prepare(launched, ofKubernetes);
  const { remarks, name, labels, sysctls, cpuLimit, mask, unmask, masksNothing } = prepared;
  const added = capabilityNames(values.capAdd);

  const mounts: { volume: Record<string, unknown>; mount: Record<string, unknown> }[] = [];
  const addMount = (
    kind: string,
    path: string,
    source: Record<string, unknown>,
    readOnly = false,
    propagation?: string,
  ) => {
    const volume = `${kind}-${mounts.length}`;
    mounts.push({
      volume: { name: volume, ...source },
      mount: {
        ...{ name: volume, mountPath: path, ...(readOnly && { readOnly }) },
        ...(propagation && { mountPropagation: propagation }),
      },
    });
  };
  for (const one of prepared.volumes) {
    const { source, path, options, receives } = one;
    const propagation = receives ? 'HostToContainer' : undefined;
    addMount('host', path, { hostPath: { path: source } }, options.includes('ro'), propagation);
    remarks.push(...volumeRemarks(one, `hostPath ${source} is on whichever node the pod is placed`));
  }
  for (const one of prepared.tmpfs) {
    const { sizeBytes, mode, others } = readTmpfs(one);
    // emptyDir is writable by all, with exec and suid
    addMount(
      'tmpfs',
      one.path,
      { emptyDir: { medium: 'Memory', sizeLimit: quantity(sizeBytes) } },
      one.options.includes('ro'),
    );
    const lost = [
      ...(mode === undefined ? [] : [`mode=${mode.toString(8)}`]),
      ...others.filter((word) => !/^(exec|suid|ro)$/i.test(word)),
    ];
    if (lost.length > 0) remarks.push(`--tmpfs ${one.path}: an emptyDir has no ${lost.join(', ')}`);
  }
  if (values.shmSize !== undefined)
    addMount('shm', '/dev/shm', { emptyDir: { medium: 'Memory', sizeLimit: quantity(values.shmSize) } });

  // the kubelet makes 1024 shares of a whole CPU
  const share = cpuShares === undefined ? undefined : cpuShares / 1024;
  if (share !== undefined && cpuLimit !== undefined && share > cpuLimit)
    remarks.push(`--cpu-shares ${cpuShares}: a request must not be more than the limit of ${cpuLimit} CPUs`);
  const hostname = values.hostname ?? values.name;
  if (values.hostname !== undefined && values.hostname !== dnsLabel(values.hostname))
    remarks.push(`--hostname ${values.hostname}: a pod has a DNS label, here ${dnsLabel(values.hostname)}`);
  if (network === undefined) remarks.push(noHost('hostNetwork: true'));
  else if (network.kind === 'none')
    remarks.push('--network none: a pod always has an interface: a NetworkPolicy closes it');
  else if (network.kind === 'container')
    remarks.push(
      `--network container:${network.target}: put both containers into one pod, which share a network`,
    );
  const unsafe = sysctls.map((one) => one.name).filter((one) => !safeSysctls.test(one));
  if (unsafe.length > 0)
    remarks.push(`--sysctl: the kubelet has to allow ${unsafe.join(', ')}: allowedUnsafeSysctls`);
  if (values.dns.length > 0) remarks.push('--dns: names of the cluster are not found then');
  if (values.disk !== undefined && !values.ephemeral)
    remarks.push('--disk: it limits all that the container writes');
  if (mask.length > 0)
    remarks.push(`--security-opt mask=${mask.join(':')}: the runtime of the node chooses what is masked`);
  if (unmask.length > 0 && !masksNothing)
    remarks.push(`--security-opt unmask=${unmask.join(':')}: only all or nothing: procMount: Unmasked`);
  // the API server refuses it otherwise
  const mayGain =
    privileged || prepared.mayGainPrivileges || added.some((one) => one === 'ALL' || one === 'SYS_ADMIN');
  if (mayGain && !privileged && !prepared.mayGainPrivileges)
    remarks.push('--cap-add: with CAP_SYS_ADMIN a container may always gain privileges there');
  if (values.userns || masksNothing)
    remarks.push('--userns: hostUsers: false needs Kubernetes 1.33, or the feature UserNamespacesSupport');

  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      labels: Object.fromEntries([['app.kubernetes.io/name', name], ...labels.filter(isLabel)]),
      annotations: Object.fromEntries(labels.filter((one) => !isLabel(one))),
    },
    spec: {
      hostname: hostname && dnsLabel(hostname),
      hostNetwork: network?.kind === 'host' ? true : undefined,
      hostUsers:
        values.userns || masksNothing || values.uidmap.length + values.gidmap.length > 0 ? false : undefined,
      // run.ts starts a command once
      restartPolicy: 'Never',
      hostAliases: values.addHost.map((line) => {
        const [ip, ...hostnames] = line.split('\t');
        return { ip, hostnames };
      }),
      dnsPolicy: values.dns.length > 0 ? 'None' : undefined,
      dnsConfig: { nameservers: prepared.nameservers },
      securityContext: {
        supplementalGroups: prepared.groups,
        sysctls,
      },
      containers: [
        {
          name,
          image,
          imagePullPolicy:
            values.pull && { always: 'Always', missing: 'IfNotPresent', never: 'Never' }[values.pull],
          command: values.entrypoint === undefined ? undefined : [literal(values.entrypoint)],
          args: command.map(literal),
          workingDir: values.workdir,
          env: prepared.env.map(([key, value]) => ({ name: key, value: literal(value) })),
          ports: values.publish.map(({ host, hostPort, port, protocol }) => ({
            containerPort: port,
            hostPort,
            hostIP: host,
            protocol: protocol.toUpperCase(),
          })),
          resources: {
            limits: {
              memory: quantity(memory),
              cpu: cpuLimit === undefined ? undefined : cpuQuantity(cpuLimit),
              'ephemeral-storage': quantity(values.disk),
            },
            requests: {
              memory: quantity(
                memoryReservation === undefined ? undefined : Math.min(memoryReservation, memory ?? Infinity),
              ),
              cpu: share === undefined ? undefined : cpuQuantity(Math.min(share, cpuLimit ?? Infinity)),
            },
          },
          securityContext: {
            privileged: privileged || undefined,
            runAsUser: user?.uid,
            runAsGroup: user?.gid,
            readOnlyRootFilesystem: values.readOnly || undefined,
            allowPrivilegeEscalation: mayGain ? undefined : false,
            procMount: masksNothing ? 'Unmasked' : undefined,
            capabilities: { add: added, drop: capabilityNames(values.capDrop) },
            seccompProfile: privileged
              ? undefined
              : { type: prepared.hasSeccomp ? 'RuntimeDefault' : 'Unconfined' },
          },
          volumeMounts: mounts.map(({ mount }) => mount),
        },
      ],
      volumes: mounts.map(({ volume }) => volume),
    },
  };
  return { manifest: tidy(pod), remarks };
}
