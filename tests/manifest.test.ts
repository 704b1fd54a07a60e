// pack-rootfs.ts --manifest: every option of run.ts is in the manifest, or told; the manifests are what the engines take.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, rmdirSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { readHierarchies } from '../scripts/helpers/cgroups.ts';
import { kebab, parseArguments } from '../scripts/helpers/cli.ts';
import { attempt } from '../scripts/helpers/pids.ts';
import { planPod } from '../scripts/pack-rootfs/kubernetes.ts';
import type { Manifest, RunOptions } from '../scripts/pack-rootfs/manifest.ts';
import { planJob } from '../scripts/pack-rootfs/nomad.ts';
import { toYaml } from '../scripts/pack-rootfs/yaml.ts';
import { options } from '../scripts/run/options.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs } from './helpers/script.ts';

const scratch = scratchFolder('manifest', 0o755);
const image = 'registry.example/team/web:1';

const plans: Record<string, (launched: Parameters<typeof planPod>[0]) => Manifest> = {
  kubernetes: planPod,
  nomad: planJob,
};

/** The values of options of run.ts. */
function parse(words: string[]): { values: RunOptions; command: string[] } {
  const parsed = parseArguments({ options, operands: [1, 1], command: true }, [...words, 'web']);
  assert.ok(parsed.values);
  return { values: parsed.values, command: parsed.operands.slice(1) };
}

const planWith = (kind: string, words: string[], command: string[] = []) => {
  const { values } = parse(words);
  const user =
    typeof values.user?.user === 'number'
      ? { uid: values.user.user, gid: (values.user.group as number) ?? 0, groups: [], home: '/' }
      : undefined;
  const plan = plans[kind] as (typeof plans)[string];
  return plan({ values, image, command, user, groups: values.groupAdd as number[] });
};

/** A value of each option of run.ts; what changes nothing where containers are discarded anyway is `same`. */
const samples: Record<keyof RunOptions, string[] | 'same'> = {
  name: ['other'],
  hostname: ['host'],
  detach: 'same',
  logSize: ['2M'],
  entrypoint: ['/bin/server'],
  env: ['A=b'],
  envFile: [join(scratch, 'variables')],
  workdir: ['/srv'],
  umask: ['027'],
  user: ['7:8'],
  groupAdd: ['9'],
  label: ['tier=front'],
  preserveFds: ['1'],
  init: [],
  stopSignal: ['INT'],
  volume: ['/etc/passwd:/data'],
  mount: ['type=tmpfs,target=/cache'],
  tmpfs: ['/tmp'],
  device: ['/dev/zero:/dev/more'],
  shmSize: ['1M'],
  readOnly: [],
  ephemeral: 'same',
  pull: ['always'],
  disk: ['20M'],
  addHost: ['other:192.0.2.1'],
  dns: ['192.0.2.2'],
  interactive: 'same',
  tty: 'same',
  rm: 'same',
  memory: ['64M'],
  memorySwap: ['128M'],
  memoryReservation: ['32M'],
  cpus: ['0.5'],
  cpusetCpus: ['0'],
  cpusetMems: ['0'],
  cpuShares: ['512'],
  blkioWeight: ['500'],
  pidsLimit: ['50'],
  deviceReadBps: ['/:1M'],
  deviceWriteBps: ['/:1M'],
  deviceReadIops: ['/:100'],
  deviceWriteIops: ['/:100'],
  oomScoreAdj: ['300'],
  sysctl: ['net.ipv4.ip_forward=1'],
  ulimit: ['nofile=100'],
  network: ['host'],
  publish: ['8080:80'],
  // it is the options that addSandbox sets
  sandbox: 'same',
  userns: [],
  uidmap: ['0:100000:65536'],
  gidmap: ['0:100000:65536'],
  capAdd: ['NET_ADMIN'],
  capDrop: ['ALL'],
  securityOpt: ['seccomp=unconfined'],
  privileged: [],
  isolate: ['pid,mount'],
  dryRun: [],
  bundle: ['/tmp/bundle'],
};

test('a volume that gets later mounts of the host gets them there too', () => {
  const words = ['--volume', '/tmp:/a:rslave', '--volume', '/tmp:/b'];
  const pod = JSON.stringify(planWith('kubernetes', words).manifest);
  assert.deepEqual(pod.match(/"mountPropagation":"\w+"/g), ['"mountPropagation":"HostToContainer"']);
  const job = JSON.stringify(planWith('nomad', words).manifest);
  assert.deepEqual(job.match(/"propagation":"\w+"/g), ['"propagation":"rslave"']);
});

/** The npm package kubernetes-models: the schemas of Kubernetes' OpenAPI description, as validators. */
const models = process.env.BAREHAND_KUBERNETES_MODELS;

test('Pods are valid by the schemas of Kubernetes', {
  skip: models
    ? false
    : 'BAREHAND_KUBERNETES_MODELS does not name the folder of the package kubernetes-models',
}, async () => {
  const { Pod } = await import(pathToFileURL(join(models ?? '', 'kubernetes-models/v1/Pod.js')).href);
  const errors = (manifest: unknown): string => {
    try {
      new Pod(manifest).validate();
      return '';
    } catch (error) {
      return (error as Error).message;
    }
  };
  // those that go together, and each alone
  const together = Object.entries(samples).flatMap(([option, sample]) =>
    sample === 'same' || ['network', 'privileged', 'dryRun', 'isolate', 'bundle'].includes(option)
      ? []
      : [`--${kebab(option)}`, ...sample],
  );
  writeFileSync(join(scratch, 'variables'), 'FROM=file\n');
  const each = Object.entries(samples).map(([option, sample]) =>
    sample === 'same' ? [] : [`--${kebab(option)}`, ...sample],
  );
  for (const words of [together, ...each]) {
    const { manifest } = planWith('kubernetes', words, ['httpd', '-f']);
    assert.equal(errors(manifest), '', words.join(' '));
  }
  const wrong = planWith('kubernetes', []).manifest as { spec: { containers: Record<string, unknown>[] } };
  for (const part of [{ resources: 5 }, { ports: [{ containerPort: '80' }] }, { command: 'sh' }]) {
    const [container = {}] = wrong.spec.containers;
    wrong.spec.containers[0] = { ...container, ...part };
    assert.notEqual(errors(wrong), '', JSON.stringify(part));
    wrong.spec.containers[0] = container;
  }
});

for (const kind of Object.keys(plans))
  test(`no option of run.ts is left out silently: ${kind}`, () => {
    writeFileSync(join(scratch, 'variables'), 'FROM=file\n');
    const without = planWith(kind, []);
    for (const [option, sample] of Object.entries(samples)) {
      const name = `--${kebab(option)}`;
      const value = sample === 'same' ? [] : sample;
      const { manifest, remarks } = planWith(kind, value.length > 0 ? [`${name}=${value[0]}`] : [name]);
      const isHeld = JSON.stringify(manifest) !== JSON.stringify(without.manifest);
      const isTold = remarks.some((line) => line.startsWith(`${name}`));
      assert.equal(isHeld || isTold, sample !== 'same', `${name}: ${remarks.join('\n')}`);
    }
  });

/** What a field of a manifest is: a type, or fields, or a list of one of these; `text` of any key in `*`. */
type Form = string | { [key: string]: Form } | [Form];

/** What in a value is not of this form. */
function formErrors(form: Form, value: unknown, at = ''): string[] {
  if (typeof form === 'string')
    return new RegExp(`^(${form})$`).test(typeof value === 'number' ? 'integer' : typeof value) &&
      !(typeof value === 'number' && !Number.isInteger(value))
      ? []
      : [`${at}: ${typeof value}, not ${form}`];
  if (Array.isArray(form))
    return Array.isArray(value)
      ? value.flatMap((one, index) => formErrors(form[0], one, `${at}/${index}`))
      : [`${at}: no list`];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [`${at}: no object`];
  return Object.entries(value).flatMap(([key, one]) => {
    const known = form[key] ?? form['*'];
    return known === undefined ? [`${at}: ${key} is unknown`] : formErrors(known, one, `${at}/${key}`);
  });
}

/** A Pod as far as it is used here, from Kubernetes' API reference: https://kubernetes.io/docs/reference/kubernetes-api */
const pod: Form = {
  apiVersion: 'string',
  kind: 'string',
  metadata: { name: 'string', labels: { '*': 'string' }, annotations: { '*': 'string' } },
  spec: {
    hostname: 'string',
    hostNetwork: 'boolean',
    hostUsers: 'boolean',
    restartPolicy: 'string',
    hostAliases: [{ ip: 'string', hostnames: ['string'] }],
    dnsPolicy: 'string',
    dnsConfig: { nameservers: ['string'] },
    securityContext: {
      supplementalGroups: ['integer'],
      sysctls: [{ name: 'string', value: 'string' }],
    },
    volumes: [
      {
        name: 'string',
        hostPath: { path: 'string', type: 'string' },
        emptyDir: { medium: 'string', sizeLimit: 'string' },
      },
    ],
    containers: [
      {
        name: 'string',
        image: 'string',
        imagePullPolicy: 'string',
        command: ['string'],
        args: ['string'],
        workingDir: 'string',
        env: [{ name: 'string', value: 'string' }],
        ports: [{ containerPort: 'integer', hostPort: 'integer', hostIP: 'string', protocol: 'string' }],
        resources: {
          limits: { memory: 'string', cpu: 'string', 'ephemeral-storage': 'string' },
          requests: { memory: 'string', cpu: 'string' },
        },
        securityContext: {
          privileged: 'boolean',
          runAsUser: 'integer',
          runAsGroup: 'integer',
          readOnlyRootFilesystem: 'boolean',
          allowPrivilegeEscalation: 'boolean',
          procMount: 'string',
          capabilities: { add: ['string'], drop: ['string'] },
          seccompProfile: { type: 'string', localhostProfile: 'string' },
        },
        volumeMounts: [{ name: 'string', mountPath: 'string', readOnly: 'boolean' }],
      },
    ],
  },
};

/** A job of Nomad, from its API's documentation of JSON jobs and from that of the docker driver. */
const job: Form = {
  Job: {
    ID: 'string',
    Name: 'string',
    Type: 'string',
    Datacenters: ['string'],
    TaskGroups: [
      {
        Name: 'string',
        Count: 'integer',
        RestartPolicy: { Attempts: 'integer', Mode: 'string' },
        Networks: [{ Mode: 'string', ReservedPorts: [{ Label: 'string', Value: 'integer', To: 'integer' }] }],
        Tasks: [
          {
            Name: 'string',
            Driver: 'string',
            User: 'string',
            Env: { '*': 'string' },
            KillSignal: 'string',
            LogConfig: { MaxFiles: 'integer', MaxFileSizeMB: 'integer' },
            Resources: { CPU: 'integer', MemoryMB: 'integer' },
            Config: {
              image: 'string',
              force_pull: 'boolean',
              entrypoint: ['string'],
              args: ['string'],
              work_dir: 'string',
              hostname: 'string',
              init: 'boolean',
              network_mode: 'string',
              ports: ['string'],
              group_add: ['string'],
              labels: [{ '*': 'string' }],
              mount: [
                {
                  type: 'string',
                  source: 'string',
                  target: 'string',
                  readonly: 'boolean',
                  tmpfs_options: { size: 'integer', mode: 'integer' },
                },
              ],
              devices: [{ host_path: 'string', container_path: 'string', cgroup_permissions: 'string' }],
              shm_size: 'integer',
              readonly_rootfs: 'boolean',
              storage_opt: { '*': 'string' },
              extra_hosts: ['string'],
              dns_servers: ['string'],
              memory_hard_limit: 'integer',
              cpu_hard_limit: 'boolean',
              cpuset_cpus: 'string',
              pids_limit: 'integer',
              sysctl: [{ '*': 'string' }],
              ulimit: [{ '*': 'string' }],
              cap_add: ['string'],
              cap_drop: ['string'],
              privileged: 'boolean',
              security_opt: ['string'],
            },
          },
        ],
      },
    ],
  },
};

/** Options that together set every field. */
const most = [
  ...['-m', '64M', '--memory-reservation', '32M', '--cpus', '0.5', '-c', '256', '--pids-limit', '-1'],
  ...[
    '-u',
    '7:8',
    '--group-add',
    '9',
    '-w',
    '/srv',
    '-e',
    'A=b',
    '--read-only',
    '--tmpfs',
    '/tmp:size=1M,mode=700',
  ],
  ...['-v', '/etc/passwd:/data:ro', '-p', '8080:80', '-p', '127.0.0.1:53:53/udp', '--network', 'bridge'],
  ...[
    '--cap-drop',
    'ALL',
    '--cap-add',
    'net_admin',
    '--hostname',
    'web',
    '--init',
    '--userns',
    '--privileged',
  ],
  ...[
    '--sysctl',
    'net/ipv4/ip_unprivileged_port_start=80',
    '-l',
    'tier=front',
    '-l',
    'note=a b',
    '--disk',
    '20M',
  ],
  ...['--add-host', 'other:192.0.2.1', '--dns', '192.0.2.2', '--shm-size', '1M', '--ulimit', 'nofile=1:2'],
  ...[
    '--stop-signal',
    'INT',
    '--log-size',
    '2M',
    '--device',
    '/dev/zero',
    '--cpuset-cpus',
    '0',
    '--entrypoint',
    'a',
  ],
  ...['--security-opt', 'unmask=ALL', '--security-opt', 'seccomp=unconfined'],
];

test('fields and their types are those of the engines', () => {
  assert.deepEqual(formErrors(pod, planWith('kubernetes', most, ['b']).manifest), []);
  assert.deepEqual(formErrors(job, planWith('nomad', most, ['b']).manifest), []);
  for (const words of [[], ['--network', 'none'], ['--network', 'host'], ['--cpus', '2', '-m', '1G']]) {
    assert.deepEqual(formErrors(pod, planWith('kubernetes', words).manifest), []);
    assert.deepEqual(formErrors(job, planWith('nomad', words).manifest), []);
  }
  assert.equal(formErrors(pod, { kind: 1, spec: { containers: [{ nam: 'x' }] } }).length, 2);
});

test('a Pod has the limits, the user and the privileges of the container', () => {
  const { manifest } = planWith(
    'kubernetes',
    most.filter((word) => word !== '--privileged'),
    ['b', '$(A) $$'],
  );
  const { spec } = manifest as { spec: { containers: Record<string, unknown>[]; [key: string]: unknown } };
  const [container = {}] = spec.containers;
  assert.deepEqual(container.resources, {
    limits: { memory: '64Mi', cpu: '500m', 'ephemeral-storage': '20Mi' },
    requests: { memory: '32Mi', cpu: '250m' },
  });
  assert.deepEqual([container.command, container.args], [['a'], ['b', '$$(A) $$$']]);
  assert.deepEqual(container.securityContext, {
    runAsUser: 7,
    runAsGroup: 8,
    readOnlyRootFilesystem: true,
    allowPrivilegeEscalation: false,
    procMount: 'Unmasked',
    capabilities: { add: ['NET_ADMIN'], drop: ['ALL'] },
    seccompProfile: { type: 'Unconfined' },
  });
  assert.equal(spec.hostUsers, false);
});

test('what an API server would refuse is not asked for', () => {
  const escalation = (words: string[]) =>
    (
      planWith('kubernetes', words).manifest as {
        spec: { containers: { securityContext: Record<string, unknown> }[] };
      }
    ).spec.containers[0]?.securityContext.allowPrivilegeEscalation;
  assert.equal(escalation([]), false);
  assert.equal(escalation(['--privileged']), undefined);
  assert.equal(escalation(['--cap-add', 'sys_admin']), undefined);
  const { manifest, remarks } = planWith('kubernetes', ['-c', '2048', '--cpus', '1', '--name', 'Web_1.x']);
  const { metadata, spec } = manifest as {
    metadata: { name: string };
    spec: { containers: { resources: { requests: { cpu: string } } }[] };
  };
  assert.equal(metadata.name, 'web-1-x');
  assert.equal(spec.containers[0]?.resources.requests.cpu, '1');
  assert.ok(remarks.some((line) => line.startsWith('--cpu-shares 2048: ')));
});

test('YAML says the same as JSON, whatever the strings are', { skip: needs('python3') }, async (t) => {
  const texts =
    'yes|no|null|~|1|1e3|0x1f|0o7|1:30|a: b|a #b|- a|*a|&a|!a|%a|@a|`a|{a|[a|"a|\'a||\\n| a|a |\n|a\tb|é|\x7f|\u2028|😀|<<|=|2001-01-01|.inf'.split(
      '|',
    );
  const value = {
    list: texts,
    map: Object.fromEntries(texts.map((text) => [`${text}k`, text])),
    deep: [[{ a: [1, true] }]],
  };
  const program =
    'import sys\ntry:\n import yaml, json\nexcept ImportError:\n sys.exit(9)\nprint(json.dumps(yaml.safe_load(sys.stdin.buffer)))';
  const { code, stdout, stderr } = await execute(['python3', '-c', program], { input: toYaml(value) });
  if (code === 9) return t.skip('needs PyYAML');
  assert.equal(code, 0, stderr);
  assert.deepEqual(JSON.parse(stdout), value);
});

test('kubectl reads the Pod as it is', { skip: needs('kubectl') }, async () => {
  const file = join(scratch, 'pod.yaml');
  const { manifest } = planWith('kubernetes', most, ['b']);
  writeFileSync(file, toYaml(manifest));
  // --local asks no server: its own types of the API decode the file, and leave out what they do not know
  const { code, stdout, stderr } = await execute([
    ...['kubectl', 'label', '--local', '-f', file, 'added=label', '-o', 'json'],
  ]);
  assert.equal(code, 0, stderr);
  const lost = (given: unknown, found: unknown, at: string): string[] =>
    typeof given === 'object' && given !== null
      ? Object.entries(given).flatMap(([key, one]) =>
          lost(one, (found as Record<string, unknown> | undefined)?.[key], `${at}.${key}`),
        )
      : given === found
        ? []
        : [`${at}: ${given}, ${found}`];
  const { stdout: version } = await execute(['kubectl', 'version', '--client', '-o', 'json']);
  const minor = Number.parseInt(JSON.parse(version).clientVersion.minor, 10);
  const later = minor < 25 ? /^\.spec\.hostUsers: / : /^$/;
  assert.deepEqual(
    lost(manifest, JSON.parse(stdout), '').filter((line) => !later.test(line)),
    [],
  );
});

test('podman kube play starts the container of a Pod', {
  skip: container.skip || needs('podman', 'runc', 'catatonit'),
}, async () => {
  // podman takes no runroot longer than 50 characters
  const short = join(tmpdir(), `podman-${process.pid}`);
  mkdirSync(join(scratch, 'podman'));
  symlinkSync(join(scratch, 'podman'), short);
  const podman = ['podman', '--root', join(scratch, 'store'), '--runroot', short];
  const words = [...podman, '--runtime', 'runc', '--cgroup-manager', 'cgroupfs'];
  const conf = join(scratch, 'containers.conf');
  writeFileSync(conf, '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n');
  const env = { ...process.env, CONTAINERS_CONF: conf };
  const name = newName();
  const archive = join(scratch, 'image.tar');
  const tag = `localhost/${name}:1`;
  await call('pack-rootfs', [rootfs, '--docker', archive, '--tag', tag, '--env', 'PATH=/usr/bin:/bin']);
  const program =
    'id -u; id -g; pwd; echo "$A"; grep -E "CapBnd|NoNewPrivs" /proc/self/status; touch /x || echo read-only';
  const run = [
    '--name',
    name,
    '-m',
    '64M',
    '-u',
    'nobody',
    '-w',
    '/tmp',
    '--read-only',
    '--tmpfs',
    '/tmp:size=1M',
  ];
  const more = ['--network', 'host', '-e', 'A=b c', '--cap-drop', 'ALL', rootfs, 'sh', '-c', program];
  const printed = await call('pack-rootfs', [
    '--manifest',
    'kubernetes',
    '--image',
    tag,
    '--',
    ...run,
    ...more,
  ]);
  assert.equal(printed.code, 0, printed.stderr);
  const file = join(scratch, 'play.yaml');
  writeFileSync(file, printed.stdout);
  // podman leaves the cgroup of pods
  const parents = readHierarchies().map(({ mountPoint }) => join(mountPoint, 'libpod_parent'));
  const made = parents.filter((parent) => !existsSync(parent));
  try {
    await execute([...words, 'load', '-i', archive], { env });
    const played = await execute([...words, 'kube', 'play', file], { env });
    assert.equal(played.code, 0, played.stderr);
    await execute([...words, 'wait', `${name}-${name}`], { env });
    const { stdout } = await execute([...words, 'logs', `${name}-${name}`], { env });
    assert.match(stdout, /^65534\n65534\n\/tmp\nb c\nCapBnd:\s+0+\nNoNewPrivs:\s+1\nread-only\n/);
    const inspected = await execute([...words, 'inspect', `${name}-${name}`], { env });
    assert.equal(JSON.parse(inspected.stdout)[0].HostConfig.Memory, 64 * 1024 ** 2);
  } finally {
    await execute([...words, 'kube', 'down', file], { env });
    await execute([...words, 'rmi', '--all', '--force'], { env });
    unlinkSync(short);
    for (const parent of made) attempt(() => rmdirSync(parent));
    await execute(['umount', join(scratch, 'store/overlay')]); // podman has mounted it on itself
  }
});

test('a manifest is made of what a container in the background was started with', {
  skip: container.skip,
}, async () => {
  const name = newName();
  const folder = join(scratch, 'elsewhere');
  mkdirSync(join(folder, 'data'), { recursive: true });
  const words = ['-d', '--name', name, '-m', '64M', '-v', './data:/mnt', '--network', 'host'];
  try {
    const started = await call('run', [...words, rootfs, 'sleep', '60'], { cwd: folder });
    assert.equal(started.code, 0, started.stderr);
    const kind = ['--manifest', 'kubernetes', '--image', 'web:1'];
    const recorded = await call('pack-rootfs', [...kind, name]);
    const typed = await call('pack-rootfs', [...kind, '--', ...words, rootfs, 'sleep', '60'], {
      cwd: folder,
    });
    assert.equal(recorded.code, 0, recorded.stderr);
    assert.deepEqual(recorded, typed);
    assert.match(recorded.stdout, /image: "docker\.io\/library\/web:1"$/m);
    assert.match(recorded.stdout, new RegExp(`path: "${folder}/data"$`, 'm'));
    assert.match(recorded.stdout, /memory: "64Mi"$/m);
  } finally {
    await call('stop', ['--time', '0', name]);
  }
});

test('wrong words are refused', async () => {
  const cases: [words: string[], message: RegExp][] = [
    [['--manifest', 'kubernetes', '--', rootfs], /--manifest needs --image/],
    [['--manifest', 'helm', '--image', 'a', '--', rootfs], /choose kubernetes or nomad/],
    [['--manifest', 'nomad', '--image', 'a'], /either NAME, or the arguments of run.ts after --/],
    [['--manifest', 'nomad', '--image', 'a', '--', '--no-such', rootfs], /unknown option --no-such/],
    [['--manifest', 'nomad', '--image', 'a', '--', rootfs, '-m', '64M'], /-m stands after ROOTFS/],
    [['--image', 'a', rootfs, 'out.tar'], /--image is for --manifest/],
  ];
  for (const [words, message] of cases) {
    const { code, stdout, stderr } = await call('pack-rootfs', words);
    assert.deepEqual([code, stdout], [2, ''], stderr);
    assert.match(stderr, message);
  }
  const { code, stderr } = await call('pack-rootfs', [
    '--manifest',
    'nomad',
    '--image',
    'a',
    'no-such-container',
  ]);
  assert.equal(code, 1);
  assert.match(stderr, /there is no record of how no-such-container was started/);
});
