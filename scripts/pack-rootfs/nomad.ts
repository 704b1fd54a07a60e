// A manifest for Nomad: https://developer.hashicorp.com/nomad/api-docs/json-jobs
import { ofKubernetes } from './kubernetes.ts';
import {
  capabilityNames,
  type Launched,
  type Manifest,
  noHost,
  pair,
  prepare,
  readTmpfs,
  type Table,
  tidy,
  volumeRemarks,
} from './manifest.ts';

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

/** A job of Nomad for its docker driver, as `nomad job run -json` takes it. Pure. */
export function planJob(launched: Launched): Manifest {
  const { values, image, command, user } = launched;
  const { network, privileged, memory, memoryReservation, cpuShares } = values;
  const prepared = prepare(launched, ofNomad);
  const { remarks, name, volumes, labels, env, sysctls, cpuLimit, mask, unmask, masksNothing } = prepared;
  const mebibytes = (bytes: number | undefined) =>
    bytes === undefined ? undefined : Math.ceil(bytes / 1024 ** 2);

  for (const one of volumes)
    remarks.push(
      ...volumeRemarks(
        one,
        'it is on whichever client the job is placed, where volumes of the docker driver have to be enabled',
      ),
    );
  const memoryMounts = prepared.tmpfs.map((one) => {
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
  if (cpuLimit !== undefined)
    remarks.push(
      `--cpus ${cpuLimit}: CPU is counted in MHz, here 1000 for each: multiply by the GHz of the clients`,
    );
  if (cpuLimit !== undefined && cpuShares !== undefined)
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
  if (mask.length > 0) remarks.push(`--security-opt mask=${mask.join(':')}: Docker chooses what is masked`);
  if (unmask.length > 0 && !masksNothing)
    remarks.push(`--security-opt unmask=${unmask.join(':')}: only all or nothing: systempaths=unconfined`);
  const replaced = [...command, values.entrypoint ?? '', ...env.map(([, value]) => value)].filter((text) =>
    text.includes('${'),
  );
  if (replaced.length > 0)
    remarks.push(`Nomad replaces \${NAME} in ${replaced.map((text) => JSON.stringify(text)).join(', ')}`);

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
              Env: Object.fromEntries(env),
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
                group_add: prepared.groups.map(String),
                labels: labels.length > 0 ? [Object.fromEntries(labels)] : undefined,
                mount: [
                  ...volumes.map(({ source, path, options, receives }) => ({
                    type: 'bind',
                    source,
                    target: path,
                    readonly: options.includes('ro') || undefined,
                    ...(receives && { bind_options: { propagation: 'rslave' } }),
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
                dns_servers: prepared.nameservers,
                memory_hard_limit: memoryReservation === undefined ? undefined : mebibytes(memory),
                cpu_hard_limit: cpuLimit === undefined ? undefined : true,
                cpuset_cpus: values.cpusetCpus,
                pids_limit: values.pidsLimit === Infinity ? -1 : values.pidsLimit,
                sysctl:
                  sysctls.length > 0
                    ? [Object.fromEntries(sysctls.map((one) => [one.name, one.value]))]
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
                  ...(privileged || prepared.mayGainPrivileges ? [] : ['no-new-privileges']),
                  ...(prepared.hasSeccomp ? [] : ['seccomp=unconfined']),
                  ...(masksNothing ? ['systempaths=unconfined'] : []),
                ],
              },
              Resources: {
                CPU: cpuLimit === undefined ? cpuShares : Math.round(cpuLimit * 1000),
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
