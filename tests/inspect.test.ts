// inspect.ts: facts beside what lsns(8), capsh(1), proc(5) and engines say; findings when they are so and when not.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  cpSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { inflateSync } from 'node:zlib';
import { capabilities } from '../scripts/helpers/capabilities.ts';
import { parseMounts, visibleMounts } from '../scripts/helpers/mounts.ts';
import { attempt, readStat, startTicks, statusField } from '../scripts/helpers/pids.ts';
import { type Difference, differences } from '../scripts/inspect/diff.ts';
import { type Facts, parseLimits, setterOf, terminalName } from '../scripts/inspect/facts.ts';
import { type Finding, findingsOf, type Weight } from '../scripts/inspect/findings.ts';
import { originOf } from '../scripts/inspect/origins.ts';
import { pictureOf, toMermaid, toSvg } from '../scripts/inspect/picture.ts';
import { allowedByRules, grants, mountsInside } from '../scripts/inspect/reach.ts';
import { factLines } from '../scripts/inspect/text.ts';
import { findingLines } from '../scripts/inspect.ts';
import type { NamespaceType } from '../scripts/ps/namespaces.ts';
import {
  container,
  findCommand,
  namespace,
  newName,
  newSeconds,
  start,
  startByHand,
} from './helpers/container.ts';
import { engines, makeBundle, programOf, withEngine, withPodman, withRunc } from './helpers/engines.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, onTerminal, rootfs, top, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const scratch = scratchFolder('inspect', 0o755);

type Inspected = Facts & { findings: Finding[] };

async function inspect(word: number | string): Promise<Inspected> {
  const { code, stdout, stderr } = await call('inspect', ['--json', String(word)]);
  assert.deepEqual([code, stderr], [0, '']);
  return JSON.parse(stdout) as Inspected;
}

/** The findings of a weight, or all, by their subjects. */
const subjects = ({ findings }: { findings: Finding[] }, weight?: Weight) =>
  findings.filter((one) => weight === undefined || one.weight === weight).map(({ subject }) => subject);

const whose = ({ namespaces }: Facts) => Object.fromEntries(namespaces.map((one) => [one.type, one.whose]));

/** A namespace of the host. Where even root may not look into PID 1, it is that of the tests. */
const ofHost = (type: string) => attempt(() => namespace(1, type)) ?? namespace('self', type);

/** Compares the facts with /proc, lsns(8) and capsh(1). */
async function compare(facts: Inspected): Promise<void> {
  const { pid } = facts;
  for (const { type, inode, whose } of facts.namespaces) {
    assert.equal(`${type}:[${inode}]`, namespace(pid, type));
    assert.equal(whose === 'host', namespace(pid, type) === ofHost(type), type);
  }
  const lsns = await execute(['lsns', '--raw', '--noheadings', '-o', 'NS,TYPE', '-p', String(pid)]);
  assert.deepEqual(
    lsns.stdout.trim().split('\n').sort(),
    facts.namespaces.map(({ type, inode }) => `${inode} ${type}`).sort(),
  );
  const sets = { effective: 'Eff', permitted: 'Prm', inheritable: 'Inh', bounding: 'Bnd', ambient: 'Amb' };
  for (const [set, short] of Object.entries(sets)) {
    const mask = statusField(pid, `Cap${short}`);
    const { stdout } = await execute(['capsh', `--decode=${mask}`]);
    const names = (stdout.trim().split('=')[1] ?? '').split(',').filter(Boolean);
    assert.deepEqual(
      facts.capabilities[set as keyof Facts['capabilities']].map((name) => `cap_${name}`),
      names,
      set,
    );
  }
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const { uids, gids, groups } = facts.credentials;
  const line = (name: string, values: number[], gap = '\t') => `${name}:\t${values.join(gap)}`;
  for (const text of [line('Uid', Object.values(uids)), line('Gid', Object.values(gids))])
    assert.ok(status.includes(`\n${text}\n`), text);
  assert.match(status, new RegExp(`^Groups:\t${groups.join(' ')} *$`, 'm'));
  assert.match(
    status,
    new RegExp(`^Seccomp:\t${['none', 'strict', 'filter'].indexOf(facts.seccomp?.mode ?? '')}$`, 'm'),
  );
  assert.match(status, new RegExp(`^Seccomp_filters:\t${facts.seccomp?.filters}$`, 'm'));
  assert.match(status, new RegExp(`^NoNewPrivs:\t${facts.noNewPrivileges ? 1 : 0}$`, 'm'));
  assert.match(status, new RegExp(`^Umask:\t${facts.umask}$`, 'm'));
  assert.equal(facts.executable, readlinkSync(`/proc/${pid}/exe`));
  assert.equal(facts.session, readStat(pid)?.session);
  const map = readFileSync(`/proc/${pid}/uid_map`, 'utf8').trim().split(/\s+/).map(Number);
  assert.deepEqual(
    facts.idMaps.users.flatMap(({ inside, outside, count }) => [inside, outside, count]),
    map,
  );
  assert.equal(String(facts.oomScoreAdjust), readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim());
  const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
  assert.equal(facts.rlimits.length, limits.trim().split('\n').length - 1);
  const [nofile] = facts.rlimits.filter(({ limit }) => limit === 'open files');
  assert.match(limits, new RegExp(`^Max open files +${nofile?.soft} +${nofile?.hard} `, 'm'));
  const cgroup = readFileSync(`/proc/${pid}/cgroup`, 'utf8');
  for (const { path } of facts.cgroups) assert.ok(cgroup.includes(`:${path}\n`), path);
  assert.deepEqual(facts.unseen, []);
}

// ---- what is computed

test('a controlling terminal has the name that it has in /dev', () => {
  // makedev(3): major in bits 8 to 19
  const rows: [number, string | null][] = [
    [0, null],
    [(136 << 8) | 3, 'pts/3'],
    [(137 << 8) | 1, 'pts/257'],
    [(4 << 8) | 2, 'tty2'],
    [(4 << 8) | 65, 'ttyS1'],
    [(5 << 8) | 1, 'console'],
    [(204 << 8) | 64, '204:64'],
  ];
  for (const [device, name] of rows) assert.equal(terminalName(device), name);
});

test('resource limits are read with and without a unit', () => {
  const text = `Limit                     Soft Limit           Hard Limit           Units     \nMax cpu time              unlimited            unlimited            seconds   \nMax open files            1024                 4096                 files     \nMax nice priority         0                    0                    \n`;
  assert.deepEqual(parseLimits(text), [
    { limit: 'cpu time', soft: 'unlimited', hard: 'unlimited' },
    { limit: 'open files', soft: '1024', hard: '4096' },
    { limit: 'nice priority', soft: '0', hard: '0' },
  ]);
});

test('who has set a limit is told by the cgroup and the engine', () => {
  const limit = { limit: 'memory', device: null, value: 1, used: 0, text: '' } as const;
  const rows: [
    cgroup: string,
    level: 'own' | 'parent' | 'inside',
    engine: string | undefined,
    setter: string | null,
  ][] = [
    ['/sys/fs/cgroup/barehand/web', 'own', 'barehand', 'run.ts'],
    ['/sys/fs/cgroup/barehand/pid-7', 'own', undefined, 'limit-*.ts'],
    ['/sys/fs/cgroup/docker/abc/barehand/pid-7', 'inside', 'docker', 'limit-*.ts'],
    ['/sys/fs/cgroup/system.slice/docker-abc.scope', 'own', 'docker', 'docker'],
    ['/sys/fs/cgroup/system.slice', 'parent', 'docker', 'systemd, system.slice'],
    ['/sys/fs/cgroup/system.slice/web.service', 'own', undefined, 'systemd, web.service'],
    ['/sys/fs/cgroup/kubepods/burstable/podx', 'parent', 'kubernetes', 'kubernetes'],
    ['/sys/fs/cgroup/somewhere', 'own', 'unshare', null],
  ];
  for (const [cgroup, level, engine, setter] of rows)
    assert.equal(setterOf({ ...limit, level, cgroup }, engine), setter, cgroup);
});

test('the mode of a node, and the rules of a device cgroup, tell what a process may do with it', () => {
  const ids = { real: 5, effective: 5, saved: 5, files: 5 };
  const who = { uids: ids, gids: { ...ids, files: 6 }, groups: [7] };
  const rows: [uid: number, gid: number, mode: number, overrides: boolean, access: string][] = [
    [5, 0, 0o600, false, 'rw'],
    [5, 6, 0o066, false, ''], // the owner has only the owner's bits
    [0, 6, 0o640, false, 'r'],
    [0, 7, 0o620, false, 'w'],
    [0, 0, 0o660, false, ''],
    [0, 0, 0o664, false, 'r'],
    [0, 0, 0o000, true, 'rw'],
  ];
  for (const [uid, gid, mode, overrides, access] of rows)
    assert.equal(grants({ uid, gid, mode }, who, overrides), access, `${uid} ${gid} ${mode.toString(8)}`);
  const rules = ['c *:* m', 'b *:* m', 'c 1:3 rwm', 'c 136:* rw', 'b 8:0 r'];
  assert.equal(allowedByRules(rules, 'c', '1:3', 'rw'), 'rw');
  assert.equal(allowedByRules(rules, 'c', '136:9', 'w'), 'w');
  assert.equal(allowedByRules(rules, 'b', '8:0', 'rw'), 'r');
  assert.equal(allowedByRules(rules, 'b', '8:1', 'rw'), '');
  assert.equal(allowedByRules(['a *:* rwm'], 'b', '8:1', 'rw'), 'rw');
  assert.equal(allowedByRules(null, 'b', '8:1', 'rw'), 'rw');
});

test('mounts under others do not count, and those of the host are found', () => {
  const mounts = parseMounts(
    [
      '10 1 254:0 /rootfs / rw - ext4 /dev/vda rw',
      '11 10 0:61 / /run rw - tmpfs tmpfs rw',
      '12 11 0:61 /host /run/host ro - tmpfs tmpfs rw',
      '13 12 254:0 /usr/x /run/host/x ro - ext4 /dev/vda rw',
      '14 11 254:0 /usr/x /run/host/x rw - ext4 /dev/vda rw', // under 12
      '15 10 0:70 / /a rw - tmpfs tmpfs rw', // under 16
      '16 15 0:71 / /a rw - tmpfs tmpfs rw',
      '17 15 0:72 / /a/b rw - tmpfs tmpfs rw', // on what 16 hides
      '18 16 254:0 /etc /a/b\\040c\\012d rw - ext4 /dev/vda rw',
    ].join('\n'),
  );
  const visible = visibleMounts(mounts);
  assert.deepEqual(
    visible.map(({ id }) => id),
    [10, 11, 12, 13, 16, 18],
  );
  const host = parseMounts('1 0 254:0 / / rw - ext4 /dev/vda rw\n');
  assert.deepEqual(
    mountsInside(visible, host, false).map(({ mountPoint, hostPath, readOnly }) => [
      mountPoint,
      hostPath,
      readOnly,
    ]),
    [
      ['/', '/rootfs', false],
      ['/run', null, false],
      ['/run/host', null, true],
      ['/run/host/x', '/usr/x', true],
      ['/a', null, false],
      ['/a/b c\nd', '/etc', false],
    ],
  );
});

test('where a finding comes from is said in the words of the engine', () => {
  const rows: [engine: string | undefined, unit: string | null, origin: string][] = [
    ['docker', null, 'run without --cap-add SYS_ADMIN'],
    ['barehand', null, 'run without --cap-add SYS_ADMIN'],
    ['bubblewrap', null, 'bwrap --cap-drop CAP_SYS_ADMIN'],
    ['systemd-nspawn', null, 'systemd-nspawn --drop-capability=CAP_SYS_ADMIN'],
    ['unshare', null, 'start it with setpriv --bounding-set=-sys_admin'],
    [undefined, 'web.service', 'CapabilityBoundingSet=~CAP_SYS_ADMIN of web.service'],
  ];
  for (const [engine, unit, origin] of rows)
    assert.equal(originOf('capability', engine, unit, 'sys_admin'), origin);
  assert.equal(originOf('capability', 'docker', null, 'net_raw'), 'run with --cap-drop NET_RAW');
});

/** The facts about a container in which nothing is to be found, with some of them changed. */
function made(change: (facts: Facts) => void = () => {}): Facts {
  const type = (name: NamespaceType, who: 'own' | 'host' = 'own') => ({
    type: name,
    inode: 1,
    whose: who as 'own' | 'host' | 'shared',
    processes: 1,
    sharedWith: [] as Facts['namespaces'][number]['sharedWith'],
  });
  const ids = { real: 1000, effective: 1000, saved: 1000, files: 1000 };
  const limit = {
    device: null,
    value: 5,
    used: 1,
    level: 'own',
    cgroup: '/sys/fs/cgroup/x',
    setBy: 'docker',
  } as const;
  const facts: Facts = {
    pid: 77,
    command: 'sleep 1',
    container: {
      name: 'web',
      engine: 'docker',
      pid: 77,
      command: 'sleep 1',
      rootfs: '/var/lib/x',
      role: 'first',
    },
    labels: {},
    unit: null,
    cgroups: [{ controllers: [], path: '/x' }],
    usage: { memoryBytes: 1, pids: 1, cpuSeconds: 0, memoryCgroup: null, pidsCgroup: null },
    executable: '/usr/bin/sleep',
    workingDirectory: '/',
    startedAt: '2026-01-01T00:00:00.000Z',
    session: 77,
    terminal: null,
    parents: [],
    startedBy: [
      {
        pid: 1,
        command: '/sbin/init',
        unit: 'init.scope',
        startedAt: '2026-01-01T00:00:00.000Z',
        session: 1,
        terminal: null,
      },
    ],
    limits: [
      { ...limit, limit: 'memory', text: '100 MiB' },
      { ...limit, limit: 'pids', text: '50' },
    ],
    rlimits: [],
    oomScoreAdjust: 0,
    umask: '0022',
    namespaces: [
      type('mnt'),
      type('pid'),
      type('net'),
      type('ipc'),
      type('uts'),
      type('user', 'host'),
      type('cgroup'),
      type('time', 'host'),
    ],
    credentials: { uids: { ...ids }, gids: { ...ids }, groups: [] },
    idMaps: { users: [{ inside: 0, outside: 0, count: 4294967295 }], groups: [], setgroups: 'allow' },
    capabilities: { effective: [], permitted: [], inheritable: [], bounding: [], ambient: [] },
    seccomp: { mode: 'filter', filters: 1 },
    noNewPrivileges: true,
    securityLabel: 'docker-default (enforce)',
    reach: {
      rootIsHosts: false,
      isChroot: false,
      mounts: [],
      devices: [{ path: '/dev/null', kind: 'character', number: '1:3', access: 'rw', disk: null }],
      deviceMount: null,
      deviceRules: [],
      sockets: [],
      descriptors: [],
      writable: [],
      hostProc: [],
    },
    host: { capabilities: [...capabilities], corePattern: 'core', ptraceScope: 1 },
    unseen: [],
  };
  change(facts);
  return facts;
}

const asRoot = (facts: Facts) => {
  facts.credentials.uids = { real: 0, effective: 0, saved: 0, files: 0 };
};
const set = (facts: Facts, type: NamespaceType, who: 'own' | 'host') => {
  const found = facts.namespaces.find((one) => one.type === type);
  if (found) found.whose = who;
};
const give =
  (...names: string[]) =>
  (facts: Facts) => {
    facts.capabilities.effective = names;
  };
const all =
  (...changes: ((facts: Facts) => void)[]) =>
  (facts: Facts) => {
    for (const change of changes) change(facts);
  };
const host = (type: NamespaceType) => (facts: Facts) => set(facts, type, 'host');
const ownUser = (facts: Facts) => set(facts, 'user', 'own');
const mount =
  (hostPath: string, readOnly = false, type = 'ext4') =>
  (facts: Facts) => {
    facts.reach.mounts.push({ mountPoint: '/m', type, hostPath, readOnly });
  };
const device =
  (kind: 'block' | 'character', number: string, access = 'rw') =>
  (facts: Facts) => {
    facts.reach.devices.push({ path: '/dev/x', kind, number, access, disk: null });
  };
const leak =
  (kind: Facts['reach']['descriptors'][number]['kind'], descriptor: number | 'cwd' = 9) =>
  (facts: Facts) => {
    facts.reach.descriptors.push({ descriptor, target: '/t', kind, writable: true });
  };
const writable = (kind: Facts['reach']['writable'][number]['kind']) => (facts: Facts) => {
  facts.reach.writable.push({ path: '/w', kind });
};

/** A change of a container without findings; its only finding with weight and subject; a change that has none. */
const cases: [
  what: string,
  change: (facts: Facts) => void,
  found: string | string[],
  without?: (facts: Facts) => void,
][] = [
  ['CAP_SYS_ADMIN', give('sys_admin'), 'critical CAP_SYS_ADMIN', give('chown', 'setuid', 'kill')],
  [
    'CAP_SYS_ADMIN in a user namespace',
    all(ownUser, give('sys_admin')),
    'note CAP_SYS_ADMIN',
    all(ownUser, give('sys_module')),
  ],
  ['CAP_NET_ADMIN', give('net_admin'), 'note CAP_NET_ADMIN'],
  [
    'CAP_NET_ADMIN on the host',
    all(host('net'), give('net_admin')),
    ['critical CAP_NET_ADMIN', 'warning network namespace'],
  ],
  [
    'CAP_NET_RAW on the host',
    all(host('net'), give('net_raw')),
    ['warning CAP_NET_RAW', 'warning network namespace'],
    give('net_raw'),
  ],
  ['CAP_SYS_PTRACE', give('sys_ptrace'), 'note CAP_SYS_PTRACE'],
  [
    'CAP_SYS_PTRACE on the host',
    all(host('pid'), give('sys_ptrace')),
    ['critical CAP_SYS_PTRACE', 'warning PID namespace'],
  ],
  ['CAP_SYS_TIME', give('sys_time'), 'warning CAP_SYS_TIME'],
  [
    'CAP_MKNOD with all devices',
    all(give('mknod'), ({ reach }) => Object.assign(reach, { deviceRules: ['a *:* rwm'], deviceMount: '/' })),
    'critical CAP_MKNOD',
    // Docker's rules: every node can be made, and not opened
    all(give('mknod'), ({ reach }) => Object.assign(reach, { deviceRules: ['b *:* m'], deviceMount: '/' })),
  ],
  ['all capabilities', give(...capabilities), 'critical all capabilities', all(ownUser, give('chown'))],
  [
    'a bounding set that a set-user-ID program gives',
    (facts) =>
      Object.assign(facts, {
        noNewPrivileges: false,
        capabilities: { ...facts.capabilities, bounding: ['sys_admin'] },
      }),
    ['note bounding set', 'note no_new_privs'],
    (facts) => (facts.capabilities.bounding = ['sys_admin']),
  ],
  ['the PID namespace of the host', host('pid'), 'warning PID namespace'],
  ['the network of the host', host('net'), 'warning network namespace'],
  ['the IPC namespace of the host', host('ipc'), 'warning IPC namespace'],
  [
    'the UTS namespace of the host',
    all(host('uts'), give('sys_admin')),
    ['critical CAP_SYS_ADMIN', 'warning UTS namespace'],
    host('uts'),
  ],
  [
    'a namespace of another container',
    ({ namespaces }) =>
      Object.assign(namespaces[2] ?? {}, {
        whose: 'shared',
        sharedWith: [{ pid: 5, name: 'db', engine: 'docker' }],
      }),
    'note net namespace',
    ({ namespaces }) =>
      Object.assign(namespaces[2] ?? {}, {
        whose: 'shared',
        sharedWith: [{ pid: 5, name: null, engine: null }],
      }),
  ],
  ['root of the host', asRoot, 'note user 0', all(asRoot, ownUser)],
  ['no seccomp filter', (facts) => (facts.seccomp = { mode: 'none', filters: 0 }), 'warning seccomp'],
  ['no no_new_privs', (facts) => (facts.noNewPrivileges = false), 'note no_new_privs'],
  [
    'no profile',
    (facts) => (facts.securityLabel = 'unconfined'),
    'note security label',
    (facts) => (facts.securityLabel = null),
  ],
  ['no memory limit', (facts) => facts.limits.shift(), 'note memory'],
  ['no limit of processes', (facts) => facts.limits.pop(), 'note processes'],
  ['the root directory of the host', (facts) => (facts.reach.rootIsHosts = true), 'note root directory'],
  [
    'a chroot',
    all(give('sys_chroot'), ({ reach }) => (reach.isChroot = true)),
    'critical chroot',
    ({ reach }) => (reach.isChroot = true),
  ],
  ['/etc of the host', mount('/etc'), 'warning /m', mount('/dev/null')],
  ['/etc of the host, for root', all(asRoot, mount('/etc')), ['critical /m', 'note user 0']],
  ['/etc of the host, read-only', mount('/etc', true), 'warning /m'],
  ['/ of the host, for root', all(asRoot, mount('/')), ['critical /m', 'note user 0']],
  ['a volume', mount('/srv/data'), 'note /m', mount('/var/lib/x/etc')],
  ['debugfs', mount('/sys/kernel/debug', false, 'debugfs'), 'warning /m', mount('/sys', true, 'sysfs')],
  ['a disk', device('block', '8:0'), 'critical /dev/x', device('character', '1:5')],
  ['/dev/mem', device('character', '1:1'), 'critical /dev/x'],
  ['/dev/kvm', device('character', '10:232'), 'note /dev/x'],
  ['some device', device('character', '240:1'), 'note /dev/x', device('character', '136:3')],
  [
    'the socket of Docker',
    ({ reach }) =>
      reach.sockets.push({ path: '/run/docker.sock', engine: 'docker', hostPath: '/run/docker.sock' }),
    'critical /run/docker.sock',
  ],
  [
    'the socket of an engine inside',
    ({ reach }) => reach.sockets.push({ path: '/run/docker.sock', engine: 'docker', hostPath: null }),
    'note /run/docker.sock',
  ],
  ['a directory left open', leak('directory'), 'critical descriptor 9'],
  ['a working directory outside', leak('directory', 'cwd'), 'critical working directory'],
  ['a namespace left open', leak('namespace'), 'critical descriptor 9'],
  ['a disk left open', leak('block'), 'critical descriptor 9'],
  ['a file left open', leak('file'), 'warning descriptor 9'],
  ['a standard stream', leak('file', 1), 'note descriptor 1'],
  ['writable sysctls', writable('sysctl'), 'critical /w'],
  ['sysrq', writable('sysrq'), 'critical /w'],
  ['writable sysfs', writable('sysfs'), 'critical /w'],
  ['release_agent', writable('release_agent'), 'critical /w'],
  ['its own cgroup', writable('cgroup'), 'warning /w'],
  ["the host's /proc", ({ reach }) => reach.hostProc.push('/hp'), 'warning /hp'],
  [
    "the host's /proc, for root",
    all(asRoot, ({ reach }) => void reach.hostProc.push('/hp')),
    ['critical /hp', 'note user 0'],
  ],
];

test('each finding is there when it is so, and not otherwise', () => {
  const found = (facts: Facts) => findingsOf(facts).map(({ weight, subject }) => `${weight} ${subject}`);
  assert.deepEqual(found(made()), []);
  for (const [what, change, expected, without] of cases) {
    assert.deepEqual(found(made(change)), [expected].flat(), what);
    if (without) assert.deepEqual(found(made(without)), [], `without ${what}`);
  }
});

test('a process of the host is told with one finding, whatever it can reach', () => {
  const plain = made(
    all(asRoot, give(...capabilities), device('block', '8:0'), (facts) => {
      facts.container = null;
      facts.reach.rootIsHosts = true;
      facts.seccomp = { mode: 'none', filters: 0 };
      for (const one of facts.namespaces) one.whose = 'host';
    }),
  );
  assert.deepEqual(
    findingsOf(plain).map(({ weight, subject }) => `${weight} ${subject}`),
    ['warning root directory'],
  );
});

test('what could not be read is a finding, and the ID map tells whose the user namespace is', () => {
  const hidden = (outside: number) =>
    findingsOf(
      made(
        all(give('sys_admin'), (facts) => {
          for (const one of facts.namespaces) Object.assign(one, { inode: null, whose: null });
          facts.idMaps.users = [{ inside: 0, outside, count: outside === 0 ? 4294967295 : 65536 }];
          facts.reach.rootIsHosts = null;
          facts.unseen = ['root directory: EACCES: permission denied'];
        }),
      ),
    ).map(({ weight, subject }) => `${weight} ${subject}`);
  assert.deepEqual(hidden(0), ['critical CAP_SYS_ADMIN', 'note not seen']);
  assert.deepEqual(hidden(100000), ['note CAP_SYS_ADMIN', 'note not seen']);
});

test("what differs for each container, as its cgroup and the engine's files, is no difference", () => {
  const own = (name: string, id: string) =>
    made(({ reach }) => {
      reach.mounts.push(
        { mountPoint: '/sys/fs/cgroup', type: 'cgroup2', hostPath: `/sys/fs/cgroup/${name}`, readOnly: true },
        { mountPoint: '/etc/hosts', type: 'ext4', hostPath: `/run/x/${id}/hosts`, readOnly: false },
      );
    });
  assert.deepEqual(differences(own('a', '0a'.repeat(32)), own('b', '1b'.repeat(32))), []);
});

test('a difference is a fact that one has and the other has not, or has otherwise', () => {
  assert.deepEqual(
    differences(
      made(),
      made((facts) => Object.assign(facts, { pid: 5, startedAt: 'later', session: 9 })),
    ),
    [],
  );
  const other = made(
    all(give('net_admin'), host('net'), mount('/srv'), (facts) => {
      facts.limits[0] = { ...(facts.limits[0] as Facts['limits'][number]), text: '1 GiB' };
      facts.rlimits = [{ limit: 'open files', soft: '1', hard: '2' }];
    }),
  );
  const byFact = (found: Difference[]) => found.toSorted((a, b) => a.fact.localeCompare(b.fact));
  assert.deepEqual(
    byFact(differences(made(), other)),
    byFact([
      { fact: 'namespace net', here: 'own', there: "the host's" },
      { fact: 'capability net_admin', here: null, there: 'effective' },
      { fact: 'limit memory, own', here: '100 MiB', there: '1 GiB' },
      { fact: 'mount /m', here: null, there: 'ext4 of /srv, writable' },
      { fact: 'resource limit open files', here: null, there: '1 / 2' },
    ]),
  );
});

// ---- real processes

test('a container of ours: its facts are those of /proc, lsns and capsh', {
  skip: container.skip || needs('lsns', 'capsh'),
}, async () => {
  const seconds = newSeconds();
  const { first, name, unshare } = await start(
    ['--memory', '64M', '--pids-limit', '30', '--label', 'a=b'],
    ['/bin/sh', '-c', `sleep ${seconds}; true`],
  );
  const facts = await inspect(name);
  await compare(facts);
  assert.equal(facts.pid, first);
  assert.deepEqual(facts.labels, { a: 'b' });
  assert.deepEqual([facts.container?.name, facts.container?.engine], [name, 'barehand']);
  assert.deepEqual(
    facts.limits.flatMap(({ limit, value, setBy }) => (limit === 'swap' ? [] : [[limit, value, setBy]])),
    [
      ['memory', 64 * 1024 * 1024, 'run.ts'],
      ['pids', 30, 'run.ts'],
    ],
  );
  assert.equal(facts.startedBy[0]?.pid, unshare);
  assert.equal(facts.startedBy[0]?.session, readStat(unshare)?.session);
  const age = Date.now() - Date.parse(facts.startedAt);
  assert.ok(age > -1000 && age < 600_000, `${age}`);
  assert.deepEqual(
    [facts.reach.rootIsHosts, facts.reach.isChroot, facts.container?.rootfs],
    [false, false, rootfs],
  );
  assert.deepEqual(subjects(facts, 'critical'), []);
  assert.deepEqual(subjects(facts, 'warning'), ['CAP_NET_RAW', 'network namespace']);
  // where start() of tests/helpers/container.ts keeps what run.ts says
  assert.deepEqual(
    facts.reach.descriptors.map(({ descriptor, kind }) => [descriptor, kind]),
    [[2, 'file']],
  );
  assert.deepEqual(
    facts.reach.devices
      .map(({ path, number }) => `${path} ${number}`)
      .filter((text) => !text.startsWith('/dev/pts')),
    [
      '/dev/full 1:7',
      '/dev/null 1:3',
      '/dev/random 1:8',
      '/dev/tty 5:0',
      '/dev/urandom 1:9',
      '/dev/zero 1:5',
    ],
  );

  const sleep = await until('its sleep', () => findCommand('sleep', seconds)?.pid);
  const inside = await inspect(sleep);
  assert.equal(inside.container?.role, 'member');
  assert.deepEqual(whose(inside), whose(facts));
  const holder = await inspect(unshare);
  assert.equal(holder.container?.role, 'holder');
  assert.equal(whose(holder).mnt, 'own');
});

test('a limit that limit-*.ts have changed in place is theirs', container, async () => {
  const { name } = await start(['--memory', '64M', '--pids-limit', '30'], ['sleep', '100']);
  assert.equal((await call('limit-pids', [name, '40'])).code, 0);
  const { limits } = await inspect(name);
  const setters = Object.fromEntries(limits.map(({ limit, setBy }) => [limit, setBy]));
  assert.deepEqual([setters.memory, setters.pids], ['run.ts', 'limit-pids.ts']);
});

test('what options of run.ts open is found', container, async () => {
  const volume = join(scratch, 'volume');
  mkdirSync(volume);
  const { name, first } = await start(
    ['--privileged', '-v', '/etc:/host-etc:ro', '-v', `${volume}:/data`, '--ephemeral'],
    ['sleep', '100'],
  );
  const facts = await inspect(name);
  assert.ok(subjects(facts, 'critical').includes('all capabilities'));
  assert.ok(subjects(facts, 'critical').includes('/proc/sys'));
  assert.ok(subjects(facts, 'warning').includes('/host-etc'));
  assert.ok(subjects(facts, 'note').includes('/data'));
  const mounts = Object.fromEntries(facts.reach.mounts.map((one) => [one.mountPoint, one]));
  assert.deepEqual([mounts['/host-etc']?.hostPath, mounts['/host-etc']?.readOnly], ['/etc', true]);
  assert.deepEqual([mounts['/data']?.hostPath, mounts['/data']?.readOnly], [volume, false]);
  // /proc/sys can indeed be written to
  closeSync(openSync(`/proc/${first}/root/proc/sys/kernel/core_pattern`, 'r+'));
  const shut = await start(['--sandbox'], ['sleep', '100']);
  const sandboxed = await inspect(shut.name);
  // where the file system of ROOTFS has no ID-mapped mounts, --sandbox goes without a user namespace
  const isMapped = namespace(shut.first, 'user') !== namespace('self', 'user');
  assert.deepEqual(
    // where start() keeps what run.ts says
    subjects(sandboxed).filter((one) => one !== 'descriptor 2'),
    isMapped ? [] : ['user 0'],
  );
  assert.deepEqual(whose(sandboxed), {
    ...Object.fromEntries(Object.keys(whose(sandboxed)).map((type) => [type, 'own'])),
    user: isMapped ? 'own' : 'host',
    time: 'host',
  });
});

test("a socket of an engine is found by the host's file, wherever it is mounted", container, async () => {
  const path = join(scratch, 'docker.sock');
  const server = createServer().listen(path);
  await once(server, 'listening');
  try {
    const { name } = await start(['-v', `${path}:/var/run/docker.sock`, '--ephemeral'], ['sleep', '100']);
    const facts = await inspect(name);
    assert.deepEqual(
      facts.reach.sockets.map(({ engine, hostPath }) => [engine, hostPath]),
      [['docker', path]],
    );
    assert.equal(subjects(facts, 'critical').length, 1);
    // a user who may not write to it can't connect
    const other = await start(
      ['-v', `${path}:/var/run/docker.sock`, '--ephemeral', '-u', '1234:1234'],
      ['sleep', '100'],
    );
    assert.deepEqual((await inspect(other.name)).reach.sockets, []);
  } finally {
    server.close();
  }
});

test('one made by hand: what is missing is found', {
  skip: container.skip || needs('lsns', 'capsh'),
}, async () => {
  const { first, unshare } = await startByHand(['sleep', newSeconds()]);
  const facts = await inspect(first);
  await compare(facts);
  assert.equal(facts.container?.engine, 'unshare');
  assert.deepEqual(whose(facts), {
    ...{
      mnt: 'own',
      pid: 'own',
      net: 'host',
      ipc: 'host',
      uts: 'host',
      user: 'host',
      cgroup: 'host',
      time: 'host',
    },
  });
  assert.ok(facts.reach.isChroot);
  for (const subject of ['chroot', 'all capabilities', '/proc/sys'])
    assert.ok(subjects(facts, 'critical').includes(subject), subject);
  assert.deepEqual(facts.reach.descriptors, []);
  assert.equal(facts.startedBy[0]?.pid, unshare);
});

test('descriptors that lead out are found, and a namespace that another holds', container, async () => {
  const command = ['sleep', newSeconds()];
  const open = `exec 7</etc 8>>'${join(scratch, 'left-open')}' 6</proc/self/ns/net`;
  const words = ['--mount', '--pid', '--net', '--fork', '--kill-child', 'chroot', rootfs, ...command];
  const shell = spawn('sh', ['-c', `${open}; exec unshare ${words.join(' ')}`], { stdio: 'ignore' });
  const end = once(shell, 'exit');
  try {
    const pid = await until('its sleep', () => findCommand(...command)?.pid);
    const facts = await inspect(pid);
    const found = Object.fromEntries(
      facts.reach.descriptors.map(({ descriptor, kind, writable }) => [descriptor, `${kind} ${writable}`]),
    );
    assert.deepEqual(found, { 6: 'namespace false', 7: 'directory false', 8: 'file true' });
    for (const subject of ['descriptor 6', 'descriptor 7'])
      assert.ok(subjects(facts, 'critical').includes(subject));
    assert.ok(subjects(facts, 'warning').includes('descriptor 8'));
    assert.equal(whose(facts).net, 'own');
  } finally {
    shell.kill('SIGKILL');
    await end;
  }
});

for (const engine of engines)
  slow(
    `a container of ${engine}: its facts are those of /proc, lsns and capsh`,
    {
      skip: container.skip || needs(programOf(engine), 'lsns', 'capsh'),
    },
    async () => {
      const name = newName();
      await withEngine(engine, name, async (sleep) => {
        const facts = await inspect(sleep);
        await compare(facts);
        assert.equal(facts.container?.engine, engine);
        assert.equal(facts.container?.rootfs, rootfs);
        assert.equal(whose(facts).pid, 'own');
        assert.equal(whose(facts).net, 'host');
        assert.equal(subjects(facts).includes('seccomp'), statusField(sleep, 'Seccomp') === '0');
        assert.ok(subjects(facts, 'warning').includes('network namespace'));
        assert.deepEqual(facts.reach.descriptors, []);
      });
    },
  );

const isHybrid = statSync('/sys/fs/cgroup/unified', { throwIfNoEntry: false }) !== undefined;

for (const runtime of ['runc', 'crun'] as const)
  slow(
    `a container of ${runtime}: its facts are those of its bundle and its state`,
    {
      skip:
        container.skip ||
        needs('runc', runtime, 'lsns', 'capsh') ||
        (runtime === 'crun' && isHybrid && 'crun refuses hybrid cgroups'),
    },
    async () => {
      const bundle = join(scratch, `bundle-${runtime}`);
      const id = newName();
      await makeBundle(bundle, ['sleep', newSeconds()], {
        resources: { memory: { limit: 77 * 1024 * 1024 } },
      });
      const file = join(bundle, 'config.json');
      const config = JSON.parse(readFileSync(file, 'utf8'));
      config.mounts.push({ destination: '/opt', type: 'bind', source: '/etc', options: ['rbind', 'rw'] });
      writeFileSync(file, JSON.stringify(config));
      await withRunc(
        bundle,
        id,
        async (first) => {
          const state = JSON.parse((await execute([runtime, 'state', id])).stdout);
          const facts = await inspect(id);
          await compare(facts);
          assert.deepEqual([facts.pid, facts.pid], [state.pid, first]);
          assert.deepEqual([facts.container?.name, facts.container?.engine], [id, runtime]);
          const wanted = config.process.capabilities.bounding.map((name: string) =>
            name.toLowerCase().replace('cap_', ''),
          );
          assert.deepEqual(facts.capabilities.bounding.toSorted(), wanted.toSorted());
          assert.equal(facts.noNewPrivileges, config.process.noNewPrivileges);
          const isolated = config.linux.namespaces.map(({ type }: { type: string }) => type);
          assert.equal(whose(facts).net, isolated.includes('network') ? 'own' : 'host');
          const own = facts.limits.find(({ limit }) => limit === 'memory');
          assert.deepEqual([own?.value, own?.setBy], [77 * 1024 * 1024, runtime]);
          // runc's default is a read-only root; the mount that was added leads to the host
          const opt = facts.reach.mounts.find(({ mountPoint }) => mountPoint === '/opt');
          assert.deepEqual([opt?.hostPath, opt?.readOnly], ['/etc', false]);
          assert.deepEqual(subjects(facts, 'critical'), ['/opt']);
          assert.deepEqual(subjects(facts, 'warning'), ['seccomp']);
        },
        runtime,
      );
    },
  );

slow(
  'a container of Podman: its facts are those of /proc, lsns and capsh',
  {
    skip: container.skip || needs('podman', 'runc', 'lsns', 'capsh'),
  },
  async (context) => {
    const name = newName();
    try {
      await withPodman(name, ['--memory', '99m', '--cap-add', 'SYS_TIME', '--pid', 'host'], async (sleep) => {
        const facts = await inspect(sleep);
        await compare(facts);
        assert.equal(facts.container?.engine, 'podman');
        const own = facts.limits.find(({ limit }) => limit === 'memory');
        assert.deepEqual([own?.value, own?.setBy], [99 * 1024 * 1024, 'podman']);
        assert.deepEqual(subjects(facts, 'critical'), []);
        assert.deepEqual(subjects(facts, 'warning'), ['CAP_SYS_TIME', 'PID namespace', 'network namespace']);
        const time = facts.findings.find(({ subject }) => subject === 'CAP_SYS_TIME');
        assert.equal(time?.origin, 'run without --cap-add SYS_TIME');
      });
    } catch (error) {
      if (!/podman ended/.test(String(error))) throw error;
      context.skip('Podman starts no container on this host');
    }
  },
);

test('a process of the host: nothing separates it, and its limits are those of its cgroup', {
  skip: needs('root', 'lsns', 'capsh', 'cgroup'),
}, async () => {
  const command = ['sleep', newSeconds()];
  const sleep = spawn(command[0] ?? '', command.slice(1), { stdio: 'ignore' });
  const end = once(sleep, 'exit');
  try {
    const pid = sleep.pid as number;
    await until('its command', () => findCommand(...command));
    const facts = await inspect(pid);
    await compare(facts);
    assert.equal(facts.container, null);
    assert.deepEqual([facts.reach.rootIsHosts, facts.reach.isChroot, facts.reach.mounts], [true, false, []]);
    assert.deepEqual(Object.values(whose(facts)), Object.values(whose(await inspect(process.pid))));
    assert.deepEqual(subjects(facts), ['root directory']);
    assert.equal(facts.startedBy[0]?.pid, process.pid);
    const { stdout } = await call('inspect', [String(pid)]);
    assert.match(stdout, /^container: none$/m);
    assert.match(stdout, /^root directory: the host's$/m);
  } finally {
    sleep.kill('SIGKILL');
    await end;
  }
});

test('a namespace that two containers share is said of both', container, async () => {
  const outer = await start(['--network', 'none'], ['sleep', '100']);
  const inner = await start(['--network', `container:${outer.name}`], ['sleep', '101']);
  const [one, other] = [await inspect(outer.name), await inspect(inner.name)];
  const net = (facts: Facts) => facts.namespaces.find(({ type }) => type === 'net');
  assert.deepEqual(net(one)?.sharedWith, [{ pid: inner.first, name: inner.name, engine: 'barehand' }]);
  assert.deepEqual(net(other)?.sharedWith, [{ pid: outer.first, name: outer.name, engine: 'barehand' }]);
  assert.ok(subjects(one, 'note').includes('net namespace'));
  assert.equal(whose(one).mnt, 'own');
});

test('--diff prints the facts that differ, and no others', container, async () => {
  const here = await start(['--memory', '64M'], ['sleep', '100']);
  const there = await start(['--memory', '65M', '--cap-add', 'NET_ADMIN'], ['sleep', '100']);
  const { code, stdout, stderr } = await call('inspect', ['--json', '--diff', there.name, here.name]);
  assert.deepEqual([code, stderr], [0, '']);
  const { targets, differences: found } = JSON.parse(stdout);
  assert.deepEqual(
    targets.map(({ pid, container }: { pid: number; container: string }) => [pid, container]),
    [
      [here.first, here.name],
      [there.first, there.name],
    ],
  );
  // where start() keeps what run.ts says is a file of each; v1 limits swap together with memory
  const facts = (found as Difference[]).map(({ fact }) => fact);
  assert.deepEqual(facts.filter((fact) => !/^(descriptor 2|limit swap.*)$/.test(fact)).toSorted(), [
    'capability net_admin',
    'limit memory, own',
  ]);
  const text = await call('inspect', ['--diff', there.name, here.name]);
  assert.match(text.stdout, /^FACT +test-\S+ \(PID \d+\) +test-\S+ \(PID \d+\)\n/);
  assert.match(text.stdout, /^limit memory, own +64 MiB +65 MiB$/m);
  const same = await call('inspect', ['--diff', here.name, here.name]);
  assert.deepEqual([same.code, same.stdout, same.stderr], [0, '', 'inspect: no fact differs\n']);
});

test('hostile names are escaped in text, and pictures stay well-formed', container, async () => {
  const evil = '<b a="1">&\x1b[31m]]>\n-->\u202e';
  const { name, first } = await start([], ['sh', '-c', `sleep 100; : '${evil}'`]);
  const { stdout } = await call('inspect', ['--no-trunc', name]);
  assert.doesNotMatch(stdout, /[\x00-\x09\x0b-\x1f\u202e]/);
  assert.ok(
    stdout.split('\n').every((line) => line === '' || /^[a-zA-Z_/][\w/ ]*: ./.test(line)),
    stdout,
  );
  const svg = await call('inspect', ['--svg', '-', String(first)]);
  assertWellFormed(svg.stdout);
  assert.doesNotMatch(svg.stdout, /<b |\x1b/);
  const mermaid = await call('inspect', ['--mermaid', String(first)]);
  assertMermaid(mermaid.stdout);
  const json = await call('inspect', ['--json', String(first)]);
  assert.ok((JSON.parse(json.stdout) as Facts).command.includes('<b a="1">'));
  assert.doesNotMatch(json.stdout, /[\x1b\u202e]/);
});

test('without root it says what it could not see', container, async () => {
  const { first } = await start([], ['sleep', '100']);
  const copy = join(scratch, 'inspect.mjs');
  cpSync(join(top, 'dist/inspect.mjs'), copy);
  await execute(['chmod', '755', copy]);
  const asUser = [...become(65534), readlinkSync('/proc/self/exe'), copy];
  const { code, stdout, stderr } = await execute([...asUser, '--json', String(first)]);
  assert.deepEqual([code, stderr], [0, '']);
  const facts = JSON.parse(stdout) as Inspected;
  assert.equal(facts.reach.rootIsHosts, null);
  for (const what of ['root directory', 'namespace mnt', 'exe', 'cwd'])
    assert.ok(
      facts.unseen.some((line) => line.startsWith(what) && /EACCES|EPERM/.test(line)),
      `${what}: ${facts.unseen}`,
    );
  const text = await execute([...asUser, String(first)]);
  assert.match(text.stdout, /^not seen: namespace mnt: EACCES: /m);
  // what is not known is not denied
  for (const key of ['root directory', 'device', 'socket', 'descriptor', 'writable'])
    assert.match(text.stdout, new RegExp(`^${key}: \\?$`, 'm'));
  assert.match(text.stdout, /^note: not seen: .*\(run it as root, outside of containers\)$/m);
});

test('what is wrong with a target, or with options, is said', container, async () => {
  const rows: [string[], number, RegExp][] = [
    [['4194305'], 1, /^inspect: there is no process 4194305: /],
    [['no-such-container'], 1, /^inspect: there is no container no-such-container/],
    [['../x'], 2, /^inspect: neither a name nor a PID: "\.\.\/x"/],
    [
      ['--svg', '/no/such/folder/x.svg', '1'],
      1,
      /^inspect: cannot write \/no\/such\/folder\/x\.svg: ENOENT: /,
    ],
    [['--mermaid', '--json', '1'], 2, /^inspect: --json cannot be combined with --mermaid/],
    [['--mermaid', '--diff', '1', '1'], 2, /^inspect: --diff cannot be combined with --mermaid/],
    [[], 2, /^inspect: an operand is missing/],
  ];
  for (const [words, code, message] of rows) {
    const result = await call('inspect', words);
    assert.deepEqual([result.code, result.stdout], [code, ''], words.join(' '));
    assert.match(result.stderr, message);
  }
});

test('a process that ends meanwhile is said to have ended', { skip: needs('root') }, async () => {
  // for a while processes begin and end as fast as they can: each answer is facts or one line
  for (let round = 0; round < 6; round++) {
    const child = spawn('sleep', ['0.12'], { stdio: 'ignore' });
    const end = once(child, 'exit');
    const ticks = startTicks(child.pid as number);
    const { code, stdout, stderr } = await call('inspect', ['--json', String(child.pid)]);
    assert.ok(ticks !== undefined);
    if (code === 0) assert.equal(JSON.parse(stdout).pid, child.pid);
    else assert.match(stderr, /^inspect: (there is no process \d+: |process \d+ has ended\n$)/);
    await end;
  }
});

test('colours are for a terminal, unless NO_COLOR is set', {
  skip: container.skip || needs('script'),
}, async () => {
  const { first } = await startByHand(['sleep', newSeconds()]);
  const words = onTerminal([join(top, 'dist/inspect.mjs'), String(first)]);
  const { NO_COLOR: _, ...env } = process.env;
  assert.match((await execute(words, { env })).stdout, /\x1b\[31mcritical\x1b\[m: /);
  assert.doesNotMatch((await execute(words, { env: { ...env, NO_COLOR: '1' } })).stdout, /\x1b/);
  assert.doesNotMatch((await call('inspect', [String(first)])).stdout, /\x1b/);
});

// ---- pictures

/** Fails unless a text is XML: tags are closed in order, attributes are quoted, no other < and & are in it. */
function assertWellFormed(xml: string): void {
  const open: string[] = [];
  const body = xml.replace(/^<\?xml version="1\.0" encoding="UTF-8"\?>\n/, '');
  assert.notEqual(body, xml);
  const rest = body.replace(
    /<(\/?)([a-z]+)((?: [\w:-]+="[^"<&]*")*)(\/?)>/g,
    (_, end, name, _attributes, empty) => {
      if (end) assert.equal(open.pop(), name);
      else if (!empty) open.push(name);
      return '';
    },
  );
  assert.deepEqual(open, []);
  assert.doesNotMatch(rest.replace(/&#\d+;/g, ''), /[<&]/);
  // XML 1.0, Char
  assert.doesNotMatch(xml, /[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u);
}

/** Fails unless each line is one of a flowchart of Mermaid, every node that an edge names is there, and blocks end. */
function assertMermaid(text: string): void {
  const label = '"(?:[^"<>`;#]|#\\d+;|<br/>)*"';
  const forms = {
    node: new RegExp(`^(\\w+)\\[${label}\\](:::\\w+)?$`),
    subgraph: new RegExp(`^subgraph (\\w+)\\[${label}\\]$`),
    edge: /^(\w+) (?:-->|---|-\.-|==>|-\. \w+ \.->) (\w+)$/,
    more: new RegExp(`^(more)\\[${label}\\] --> (\\w+)$`),
    classDef: /^classDef \w+ stroke:#[0-9a-f]{6}(,stroke-width:\dpx)?$/,
  };
  const [first, ...lines] = text
    .trimEnd()
    .split('\n')
    .map((line) => line.trim());
  assert.equal(first, 'flowchart TB');
  const nodes = new Set<string>();
  const named: string[] = [];
  let depth = 0;
  for (const line of lines) {
    const match = (form: keyof typeof forms) => forms[form].exec(line);
    const declared = match('node') ?? match('subgraph');
    const edge = match('edge') ?? match('more');
    if (line === 'end') depth--;
    else if (declared) {
      if (match('subgraph')) depth++;
      nodes.add(declared[1] ?? '');
    } else if (edge) named.push(...edge.slice(1));
    else assert.ok(match('classDef'), line);
  }
  assert.equal(depth, 0);
  for (const name of named) assert.ok(name === 'more' || nodes.has(name), name);
}

const hostile = made(
  all(
    asRoot,
    mount('/etc'),
    ({ reach }) => void reach.hostProc.push('/"`#;<p>'),
    (facts) => {
      facts.command = '<script>alert(1)</script>&amp;"\'`#;\uffff\ud800\x1b]0;x\x07 日本語 e\u0301';
      facts.limits.push({
        ...(facts.limits[0] as Facts['limits'][number]),
        cgroup: '/sys/fs/cgroup/x/<&>"',
        text: '<1>',
      });
      facts.startedBy = Array.from({ length: 12 }, (_, index) => ({
        pid: 100 - index,
        command: 'x'.repeat(400),
        unit: '<u>.service',
        startedAt: null,
        session: null,
        terminal: null,
      }));
    },
  ),
);

test('names of mounts, cgroups, labels and files are escaped, each fact in a line of its own', () => {
  const evil = '/a\n\x1b[31mb\u202e';
  const facts = made(
    all(mount(evil), device('block', '8:0'), (changed) => {
      Object.assign(changed, {
        executable: evil,
        workingDirectory: evil,
        labels: { [evil]: evil },
        unit: evil,
      });
      changed.securityLabel = evil;
      changed.cgroups = [{ controllers: [], path: evil }];
      changed.limits = changed.limits.map((one) => ({ ...one, cgroup: evil, setBy: evil }));
      changed.reach.mounts.push({ mountPoint: evil, type: 'ext4', hostPath: '/etc', readOnly: false });
      changed.reach.sockets.push({ path: evil, engine: 'docker', hostPath: evil });
      changed.reach.descriptors.push({ descriptor: 9, target: evil, kind: 'file', writable: true });
      changed.reach.writable.push({ path: evil, kind: 'cgroup' });
      changed.unseen = [evil];
    }),
  );
  const lines = factLines(facts, (text) => text).map(([key, value]) => `${key}: ${value}`);
  for (const line of [...lines, ...findingLines(findingsOf(facts), false)])
    assert.doesNotMatch(line, /[\p{Cc}\p{Cf}]/u);
  for (const key of [
    'executable',
    'label',
    'unit',
    'cgroup',
    'memory',
    'mount of the host',
    'socket',
    'descriptor',
    'writable',
    'not seen',
  ])
    assert.ok(
      lines.some((line) => line.startsWith(`${key}: `) && line.includes('/a\\n\\x1b[31mb\\u{202e}')),
      key,
    );
});

test('a picture is well-formed whatever the names are, and needs nothing from elsewhere', () => {
  for (const facts of [made(), hostile]) {
    const picture = pictureOf(facts, findingsOf(facts));
    const svg = toSvg(picture);
    assertWellFormed(svg);
    assert.doesNotMatch(svg, /<script|<image|<foreignObject|href=|url\(|@import|on\w+=/);
    // the only address is the name of the format
    assert.deepEqual(svg.match(/https?:[^"]*/g), ['http://www.w3.org/2000/svg']);
    assertMermaid(toMermaid(picture));
  }
  assert.match(toSvg(pictureOf(hostile, [])), /… 6 more above/);
});

/** The colour of the pixel at the top left of a PNG, as its filter leaves it: nothing is left of or above it. */
function firstPixel(png: Buffer): number[] {
  const parts: Buffer[] = [];
  for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at))
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT')
      parts.push(png.subarray(at + 8, at + 8 + png.readUInt32BE(at)));
  return [...inflateSync(Buffer.concat(parts)).subarray(1, 4)];
}

slow(
  'Chromium shows the picture, in the light and in the dark',
  {
    skip: needs('root', 'chromium', 'speed'),
  },
  async () => {
    const file = join(scratch, 'picture.svg');
    writeFileSync(file, toSvg(pictureOf(hostile, findingsOf(hostile))));
    const chromium = async (...words: string[]) => {
      const home = join(scratch, 'chromium');
      const flags = [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        `--user-data-dir=${home}`,
        '--window-size=1040,900',
      ];
      const result = await execute(['chromium', ...flags, ...words, `file://${file}`], {
        env: { ...process.env, HOME: home },
      });
      assert.equal(result.code, 0, result.stderr);
      return result.stdout;
    };
    const dom = await chromium('--dump-dom');
    assert.doesNotMatch(dom, /parsererror/);
    assert.match(dom, /^<svg /);
    assert.equal(dom.match(/<text /g)?.length, readFileSync(file, 'utf8').match(/<text /g)?.length);
    const shot = join(scratch, 'picture.png');
    await chromium(`--screenshot=${shot}`, '--hide-scrollbars');
    assert.deepEqual(firstPixel(readFileSync(shot)), [255, 255, 255]);
    await chromium(`--screenshot=${shot}`, '--hide-scrollbars', '--blink-settings=preferredColorScheme=0');
    assert.deepEqual(firstPixel(readFileSync(shot)), [0x0d, 0x11, 0x17]);
  },
);
