// Manifests for engines of many hosts, from the options of run.ts: a Kubernetes Pod and a Nomad job. What an engine has no
// counterpart for is told, never left out silently.
// https://kubernetes.io/docs/reference/generated/kubernetes-api/, https://developer.hashicorp.com/nomad/api-docs/json-jobs
import { capabilities } from '../helpers/capabilities.ts';
import { isGiven, kebab, type Values } from '../helpers/cli.ts';
import type { User } from '../run/command.ts';
import type { Tmpfs, Volume } from '../run/furnish.ts';
import { mergeSecurity, type options } from '../run/options.ts';

/** The options of run.ts, with what --sandbox means. */
export type RunOptions = Values<typeof options>;

/** What a manifest is made of. */
export interface Launched {
  values: RunOptions;
  /** the image that a registry has, as engines name it */
  image: string;
  /** the words of the command; with --entrypoint, its arguments. Empty: what the image says */
  command: string[];
  /** IDs of the user and groups that options name; undefined: those of the image */
  user: User | undefined;
  /** groups of --group-add */
  groups: number[];
}

/** A manifest, as a value of JSON without what is undefined, and a line for each option that it can't hold in full. */
export interface Manifest {
  manifest: unknown;
  remarks: string[];
}

/** For each option true if the manifest holds it, or what takes its place; so a new option can't be forgotten. */
type Table = Record<keyof RunOptions, true | string>;

const noDisk = 'disk I/O is not limited there';

/** The options in a Pod. */
const ofKubernetes: Table = {
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

/** The options in a job of Nomad's docker driver, as far as they differ from those in a Pod. */
const ofNomad: Table = {
  ...ofKubernetes,
  logSize: true,
  init: true,
  stopSignal: true,
  device: true,
  memorySwap: 'the docker driver allows no swap',
  cpusetCpus: true,
  cpusetMems: 'only the numa block of resources chooses NUMA nodes',
  pidsLimit: true,
  oomScoreAdj: 'older versions of the docker driver have no oom_score_adj: add it to Config',
  ulimit: true,
  userns: 'userns-remap of the Docker daemon maps the IDs of all containers',
  uidmap: 'userns-remap of the Docker daemon maps the IDs of all containers',
  gidmap: 'userns-remap of the Docker daemon maps the IDs of all containers',
  isolate: 'a task of the docker driver is isolated in all of this',
};

/** What is told of options that a table has no counterpart for. */
const untold = (values: RunOptions, table: Table): string[] =>
  (Object.keys(table) as (keyof RunOptions)[]).flatMap((option) => {
    const instead = table[option];
    return instead !== true && isGiven(values[option]) ? `--${kebab(option)}: ${instead}` : [];
  });

/** A value of JSON without what is undefined or empty, at any depth. undefined: nothing is left. */
function tidy(value: unknown): unknown {
  if (Array.isArray(value)) return value.length > 0 ? value.map(tidy) : undefined;
  if (typeof value !== 'object' || value === null) return value;
  const fields = Object.entries(value).map(([key, one]) => [key, tidy(one)] as const);
  const given = fields.filter(([, one]) => one !== undefined);
  return given.length > 0 ? Object.fromEntries(given) : undefined;
}

/** A name that DNS takes as a label, RFC 1123. */
const dnsLabel = (text: string) =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, 63)
    .replace(/-+$/, '') || 'container';

/** The name of a container: --name, or the last component of the image's. */
const nameOf = ({ values: { name }, image }: Launched) =>
  dnsLabel(
    name ??
      image
        .replace(/@.*$/, '')
        .replace(/:[^:/]*$/, '')
        .replace(/^.*\//, ''),
  );

/** KEY=VALUE as a pair. */
const pair = (text: string): [string, string] => [
  text.split('=', 1)[0] ?? '',
  text.slice(text.indexOf('=') + 1),
];

/** The variables that options set; of several values for a key, the last one counts. */
const variables = ({ env, envFile }: RunOptions) => [
  ...new Map([...envFile.flat(), ...env].filter(Boolean).map(pair)),
];

/** Volumes and tmpfs mounts of all options. */
const mountsOf = ({ volume, mount, tmpfs }: RunOptions): { volumes: Volume[]; tmpfs: Tmpfs[] } => ({
  volumes: [...volume, ...mount.flatMap((one) => ('volume' in one ? one.volume : []))],
  tmpfs: [...tmpfs, ...mount.flatMap((one) => ('tmpfs' in one ? one.tmpfs : []))],
});

/** The size of a tmpfs in bytes, and its mode; and those of its options that only run.ts knows. */
function readTmpfs({ options: words }: Tmpfs) {
  const last = (form: RegExp) => words.findLast((word) => form.test(word))?.replace(/^\w+=/, '');
  const [, digits, unit = ''] = /^(\d+)([kmg]?)$/i.exec(last(/^size=/i) ?? '') ?? [];
  const exponent = { '': 0, k: 1, m: 2, g: 3 }[unit.toLowerCase()] ?? 0;
  const mode = last(/^mode=/i);
  const others = words.filter((word) => /^(uid|gid|nr_inodes|size=.*%|exec|suid|ro$)/i.test(word));
  return {
    sizeBytes: digits === undefined ? undefined : Number(digits) * 1024 ** exponent,
    mode: mode === undefined ? undefined : Number.parseInt(mode, 8),
    others,
  };
}

/** Names of capabilities as engines have them. */
const capabilityNames = (lists: string[][]) =>
  lists.flatMap((list) =>
    list.length === capabilities.length ? ['ALL'] : list.map((name) => name.toUpperCase()),
  );

/** What the default network of run.ts, that of the host, becomes. */
const noHost = (how: string) =>
  `--network: without it, run.ts shares the network of the host; here the container has its own: ${how} shares that of the node`;

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
  const { values, image, command, user, groups } = launched;
  const { network, privileged, memory, memoryReservation, cpus, cpuShares } = values;
  const remarks = untold(values, ofKubernetes);
  const name = nameOf(launched);
  const security = mergeSecurity(values);
  const { volumes, tmpfs } = mountsOf(values);
  const labels = values.label.map(pair);
  const added = capabilityNames(values.capAdd);

  const mounts: { volume: Record<string, unknown>; mount: Record<string, unknown> }[] = [];
  const addMount = (kind: string, path: string, source: Record<string, unknown>, readOnly = false) => {
    const volume = `${kind}-${mounts.length}`;
    mounts.push({
      volume: { name: volume, ...source },
      mount: { name: volume, mountPath: path, ...(readOnly && { readOnly }) },
    });
  };
  for (const { source, path, options } of volumes) {
    addMount('host', path, { hostPath: { path: source } }, options.includes('ro'));
    remarks.push(`--volume ${path}: hostPath ${source} is on whichever node the pod is placed`);
    const others = options.filter((word) => /^no(suid|exec)$/.test(word));
    if (others.length > 0) remarks.push(`--volume ${path}: no counterpart for ${others}`);
  }
  for (const one of tmpfs) {
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

  const limit = cpus !== undefined && Number.isFinite(cpus) ? cpus : undefined;
  // the kubelet makes 1024 shares of a whole CPU
  const share = cpuShares === undefined ? undefined : cpuShares / 1024;
  if (share !== undefined && limit !== undefined && share > limit)
    remarks.push(`--cpu-shares ${cpuShares}: a request must not be more than the limit of ${limit} CPUs`);
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
  const unsafe = values.sysctl
    .map((one) => one.name.replaceAll('/', '.'))
    .filter((one) => !safeSysctls.test(one));
  if (unsafe.length > 0)
    remarks.push(`--sysctl: the kubelet has to allow ${unsafe.join(', ')}: allowedUnsafeSysctls`);
  if (values.dns.length > 0) remarks.push('--dns: names of the cluster are not found then');
  if (values.disk !== undefined && !values.ephemeral)
    remarks.push('--disk: it limits all that the container writes');
  const { mask = [], unmask = [] } = security;
  if (mask.length > 0)
    remarks.push(`--security-opt mask=${mask.join(':')}: the runtime of the node chooses what is masked`);
  const masksNothing = unmask.includes('ALL');
  if (unmask.length > 0 && !masksNothing)
    remarks.push(`--security-opt unmask=${unmask.join(':')}: only all or nothing: procMount: Unmasked`);
  // the API server refuses it otherwise
  const mayGain =
    privileged ||
    security.newPrivileges === true ||
    added.some((one) => one === 'ALL' || one === 'SYS_ADMIN');
  if (mayGain && !privileged && security.newPrivileges !== true)
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
      dnsConfig: { nameservers: values.dns.map((line) => line.replace(/^nameserver /, '')) },
      securityContext: {
        supplementalGroups: [...new Set([...(user?.groups ?? []), ...groups])],
        sysctls: values.sysctl.map((one) => ({ name: one.name.replaceAll('/', '.'), value: one.value })),
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
          env: variables(values).map(([key, value]) => ({ name: key, value: literal(value) })),
          ports: values.publish.map(({ host, hostPort, port, protocol }) => ({
            containerPort: port,
            hostPort,
            hostIP: host,
            protocol: protocol.toUpperCase(),
          })),
          resources: {
            limits: {
              memory: quantity(memory),
              cpu: limit === undefined ? undefined : cpuQuantity(limit),
              'ephemeral-storage': quantity(values.disk),
            },
            requests: {
              memory: quantity(
                memoryReservation === undefined ? undefined : Math.min(memoryReservation, memory ?? Infinity),
              ),
              cpu: share === undefined ? undefined : cpuQuantity(Math.min(share, limit ?? Infinity)),
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
              : { type: security.seccomp === false ? 'Unconfined' : 'RuntimeDefault' },
          },
          volumeMounts: mounts.map(({ mount }) => mount),
        },
      ],
      volumes: mounts.map(({ volume }) => volume),
    },
  };
  return { manifest: tidy(pod), remarks };
}

/** A job of Nomad for its docker driver, as `nomad job run -json` takes it. Pure. */
export function planJob(launched: Launched): Manifest {
  const { values, image, command, user, groups } = launched;
  const { network, privileged, memory, memoryReservation, cpus, cpuShares } = values;
  const remarks = untold(values, ofNomad);
  const name = nameOf(launched);
  const security = mergeSecurity(values);
  const { volumes, tmpfs } = mountsOf(values);
  const mebibytes = (bytes: number | undefined) =>
    bytes === undefined ? undefined : Math.ceil(bytes / 1024 ** 2);
  const limit = cpus !== undefined && Number.isFinite(cpus) ? cpus : undefined;

  for (const { path, options } of volumes) {
    remarks.push(
      `--volume ${path}: it is on whichever client the job is placed, where volumes of the docker driver have to be enabled`,
    );
    const others = options.filter((word) => /^no(suid|exec)$/.test(word));
    if (others.length > 0) remarks.push(`--volume ${path}: no counterpart for ${others}`);
  }
  const memoryMounts = tmpfs.map((one) => {
    const { sizeBytes, mode, others } = readTmpfs(one);
    const lost = others.filter((word) => !/^ro$/i.test(word));
    if (lost.length > 0) remarks.push(`--tmpfs ${one.path}: the docker driver has no ${lost.join(', ')}`);
    return {
      type: 'tmpfs',
      target: one.path,
      readonly: one.options.includes('ro') || undefined,
      tmpfs_options: { size: sizeBytes, mode },
    };
  });
  if (limit !== undefined)
    remarks.push(
      `--cpus ${limit}: CPU is counted in MHz, here 1000 for each: multiply by the GHz of the clients`,
    );
  if (limit !== undefined && cpuShares !== undefined)
    remarks.push(`--cpu-shares ${cpuShares}: CPU is both limit and weight`);
  if (memory === undefined)
    remarks.push('--memory: there is always a limit: without one of run.ts, 300 MiB, as MemoryMB');
  if (network === undefined) remarks.push(noHost('network_mode "host"'));
  if (network?.kind === 'container')
    remarks.push(
      `--network container:${network.target}: put both tasks into one group, which share a network`,
    );
  for (const { host, hostPort } of values.publish)
    if (host !== undefined)
      remarks.push(`--publish ${host}:${hostPort}: a host_network of the clients stands for an address`);
  if (values.capAdd.length > 0)
    remarks.push('--cap-add: allow_caps of the docker driver has to allow it on the clients');
  if (privileged)
    remarks.push('--privileged: allow_privileged of the docker driver has to allow it on the clients');
  if (values.disk !== undefined) remarks.push('--disk: it needs Docker on xfs with project quotas');
  const { mask = [], unmask = [] } = security;
  if (mask.length > 0) remarks.push(`--security-opt mask=${mask.join(':')}: Docker chooses what is masked`);
  const masksNothing = unmask.includes('ALL');
  if (unmask.length > 0 && !masksNothing)
    remarks.push(`--security-opt unmask=${unmask.join(':')}: only all or nothing: systempaths=unconfined`);
  const replaced = [
    ...command,
    values.entrypoint ?? '',
    ...variables(values).map(([, value]) => value),
  ].filter((text) => text.includes('${'));
  if (replaced.length > 0)
    remarks.push(`Nomad replaces \${NAME} in ${replaced.map((text) => JSON.stringify(text)).join(', ')}`);

  const labels = values.label.map(pair);
  const isShared = network?.kind === 'host' || network?.kind === 'none';
  const ports = values.publish.map(({ hostPort, port }) => ({
    Label: `port-${hostPort}`,
    Value: hostPort,
    To: port,
  }));
  const job = {
    Job: {
      ID: name,
      Name: name,
      // run.ts starts a command once
      Type: 'batch',
      Datacenters: ['*'],
      TaskGroups: [
        {
          Name: name,
          Count: 1,
          RestartPolicy: { Attempts: 0, Mode: 'fail' },
          Networks: ports.length > 0 ? [{ ReservedPorts: ports }] : [],
          Tasks: [
            {
              Name: name,
              Driver: 'docker',
              User: user && `${user.uid}:${user.gid}`,
              Env: Object.fromEntries(variables(values)),
              KillSignal: values.stopSignal && `SIG${values.stopSignal}`,
              LogConfig:
                values.logSize === undefined
                  ? undefined
                  : { MaxFiles: 2, MaxFileSizeMB: mebibytes(values.logSize / 2) },
              Config: {
                image,
                force_pull: values.pull === 'always' || undefined,
                entrypoint: values.entrypoint === undefined ? undefined : [values.entrypoint],
                args: command,
                work_dir: values.workdir,
                hostname: values.hostname,
                init: values.init || undefined,
                network_mode: isShared ? network.kind : undefined,
                ports: ports.map(({ Label }) => Label),
                group_add: [...new Set([...(user?.groups ?? []), ...groups])].map(String),
                labels: labels.length > 0 ? [Object.fromEntries(labels)] : undefined,
                mount: [
                  ...volumes.map(({ source, path, options }) => ({
                    type: 'bind',
                    source,
                    target: path,
                    readonly: options.includes('ro') || undefined,
                  })),
                  ...memoryMounts,
                ],
                devices: values.device.map(({ source, path, denied = '' }) => ({
                  host_path: source,
                  container_path: path,
                  cgroup_permissions: [...'rwm'].filter((letter) => !denied.includes(letter)).join(''),
                })),
                shm_size: values.shmSize,
                readonly_rootfs: values.readOnly || undefined,
                storage_opt: values.disk === undefined ? undefined : { size: String(values.disk) },
                extra_hosts: values.addHost.map((line) => line.split('\t').reverse().join(':')),
                dns_servers: values.dns.map((line) => line.replace(/^nameserver /, '')),
                memory_hard_limit: memoryReservation === undefined ? undefined : mebibytes(memory),
                cpu_hard_limit: limit === undefined ? undefined : true,
                cpuset_cpus: values.cpusetCpus,
                pids_limit: values.pidsLimit === Infinity ? -1 : values.pidsLimit,
                sysctl:
                  values.sysctl.length > 0
                    ? [
                        Object.fromEntries(
                          values.sysctl.map((one) => [one.name.replaceAll('/', '.'), one.value]),
                        ),
                      ]
                    : undefined,
                ulimit:
                  values.ulimit.length > 0
                    ? [
                        Object.fromEntries(
                          values.ulimit.map((one) => pair(one.slice(2).replaceAll('unlimited', '-1'))),
                        ),
                      ]
                    : undefined,
                cap_add: capabilityNames(values.capAdd),
                cap_drop: capabilityNames(values.capDrop),
                privileged: privileged || undefined,
                security_opt: [
                  ...(privileged || security.newPrivileges ? [] : ['no-new-privileges']),
                  ...(security.seccomp === false ? ['seccomp=unconfined'] : []),
                  ...(masksNothing ? ['systempaths=unconfined'] : []),
                ],
              },
              Resources: {
                CPU: limit === undefined ? cpuShares : Math.round(limit * 1000),
                MemoryMB: mebibytes(memoryReservation ?? memory),
              },
            },
          ],
        },
      ],
    },
  };
  return { manifest: tidy(job), remarks };
}

/** Words of YAML that are no strings where they stand without quotes, in YAML 1.1 as in 1.2. */
const notText = /^(y|n|yes|no|true|false|on|off|null)$/i;

/** A string, number or boolean in YAML. JSON's quotes are YAML's, but for characters that YAML wants escaped. */
const scalar = (value: unknown): string =>
  typeof value === 'string' && /^[a-z][\w./-]*$/i.test(value) && !notText.test(value)
    ? value
    : JSON.stringify(value).replace(
        /[\x7f-\x9f\u2028\u2029\ufeff]/g,
        (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`,
      );

/** A value of JSON as YAML 1.2, which every parser of YAML reads: https://yaml.org/spec/1.2.2/ */
export function toYaml(value: unknown, indent = ''): string {
  const below = (one: unknown) => toYaml(one, `${indent}  `);
  if (Array.isArray(value)) return value.map((one) => `${indent}- ${below(one).trimStart()}`).join('\n');
  if (typeof value !== 'object' || value === null) return indent + scalar(value);
  return Object.entries(value)
    .map(([key, one]) =>
      typeof one === 'object' && one !== null
        ? `${indent}${scalar(key)}:\n${below(one)}`
        : `${indent}${scalar(key)}: ${scalar(one)}`,
    )
    .join('\n');
}
