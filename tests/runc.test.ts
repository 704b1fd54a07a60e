// The same container by runc and by run.ts, looked at from inside: equal but for what is listed here. What differs for runc's
// own default is explained in docs/security.md, and for a bundle of run.ts in docs/run.md.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultCapabilities } from '../scripts/run/capabilities.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script, top } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';

const skip = container.skip || needs('runc');
const bundle = scratchFolder('runc');

/** How the containers differ: what of, which differences those are, and whether they need not be there on each host. */
const explained: { what: string; differences: RegExp; perhaps?: true }[] = [
  { what: 'seccomp filter', differences: /^status Seccomp: 0, 2$/ },
  { what: '`/` is `nodev`', differences: /^mount \/ flags: , nodev$/ },
  {
    what: '`/proc`, `/dev` and what lies in them: more of `nosuid`, `nodev`, `noexec`',
    differences:
      /^mount \/(proc|dev|sys)(\/\S*)? flags: ((ro|nosuid|nodev|noexec) ?)*, (ro )?nosuid (nodev )?noexec$/,
  },
  { what: 'device files are mounts', differences: /^mount \/dev\/\w+: none, /, perhaps: true },
  {
    what: 'whose `/dev/null` hides files',
    differences: /^mount \/proc\/\w+: tmpfs, devtmpfs$/,
    perhaps: true,
  },
  { what: '`/proc/interrupts`', differences: /^mount \/proc\/interrupts: none, /, perhaps: true },
  {
    what: '`/dev/core`',
    differences: /^(dev|device) \/dev\/core: (\/proc\/kcore|0 0), none$/,
    perhaps: true,
  },
  { what: 'cgroup file systems', differences: /^mount \/sys\/fs\/cgroup(\/\S+)?: \w+, none$/, perhaps: true },
  { what: 'cgroup namespace', differences: /^(namespaces|cgroup)( \S+)?: /, perhaps: true },
  { what: 'open files', differences: /^limit Max open files: 1024 1024, /, perhaps: true },
  { what: '`HOSTNAME`, `container`', differences: /^env (HOSTNAME|container): none, / },
];

interface Spec {
  process: Record<string, unknown> & { capabilities: Record<string, string[]> };
  root: Record<string, unknown>;
  hostname: string;
  linux: { maskedPaths: string[]; readonlyPaths: string[] };
}
let spec: Spec;
/** What runc hides, or lets nobody write to, and this kernel has. */
const paths = () => ({
  masked: spec.linux.maskedPaths.filter((path) => existsSync(path)),
  readOnly: spec.linux.readonlyPaths.filter((path) => existsSync(path)),
});

/** Says what there is, a fact a line: `NAME: VALUE`. */
const program = () => `
while read -r key value; do
  case $key in Uid:|Gid:|Groups:|Umask:|Cap*|NoNewPrivs:|Seccomp:|Sig[BIC]*) echo status $key $value;; esac
done </proc/self/status
while read -r _ _ _ _ point options rest; do
  type=\${rest#*- }; echo "mount $point: \${type%% *}"; flags=
  for flag in ro nosuid nodev noexec; do case ,$options, in *,$flag,*) flags="$flags $flag";; esac; done
  echo "mount $point flags:$flags"
done </proc/self/mountinfo
for path in ${paths().masked.join(' ')}; do
  if [ -d $path ]; then echo "masked $path:" $(ls -A $path); else echo "masked $path:" $(head -c 9 $path); fi
done
for path in ${paths().readOnly.join(' ')}; do echo "read-only $path: $(touch $path 2>&1)"; done
echo "namespaces:" $(readlink /proc/self/ns/*)
while read -r line; do echo "cgroup \${line%:*}: \${line##*:}"; done </proc/self/cgroup
sed -n 's/^\\(Max .*[a-z]\\)  *\\([0-9u][a-z0-9]*\\)  *\\([0-9u][a-z0-9]*\\) .*/limit \\1: \\2 \\3/p' /proc/self/limits | sed 's/  *:/:/'
echo "oom: $(cat /proc/self/oom_score_adj)"
env | sed 's/^\\([^=]*\\)=/env \\1: /'
echo "directory: $(pwd)"
find /dev ! -type l -printf 'dev %p: %y %m %U %G\\n' -o -printf 'dev %p: %l\\n'
for file in /dev/* /dev/pts/*; do echo "device $file: $(stat -c '%t %T' $file)"; done
for at in / /dev /dev/shm; do
  mknod $at/made c 1 11 2>/dev/null; (: <$at/made) 2>/dev/null; echo "opens a device that it has made in $at: $?"; rm -f $at/made
done`;

async function facts(argv: string[]): Promise<Map<string, string>> {
  const { code, stdout, stderr } = await execute(argv, { env: { ...process.env, TERM: 'xterm' } });
  assert.deepEqual([code, stderr.replace(/^run: --privileged: .*\n/, '')], [0, '']);
  const own = (await execute(['sh', '-c', 'readlink /proc/self/ns/*'])).stdout.split('\n');
  return new Map(
    stdout
      .trimEnd()
      .split('\n')
      .map((line): [string, string] => {
        const [, name = '', value = ''] = /^(.*?): ?(.*)$/.exec(line) ?? [];
        // namespaces are compared by which of them are not the host's
        const isOther = (link: string) => !own.includes(link);
        const kinds = () =>
          value
            .split(' ')
            .filter(isOther)
            .map((link) => link.split(':')[0]);
        return [name, name === 'namespaces' ? [...new Set(kinds())].join(' ') : value];
      }),
  );
}

/** The facts that differ: their name, and what they are in each of two containers. */
const compare = (one: Map<string, string>, other: Map<string, string>): string[] =>
  [...new Set([...one.keys(), ...other.keys()])]
    .filter((name) => one.get(name) !== other.get(name))
    // each has keys of its own, where these are shown
    .filter((name) => name !== 'masked /proc/keys' || !one.get(name) !== !other.get(name))
    // what is mounted in one of them only has no flags to compare
    .filter((name) => !name.endsWith(' flags') || (one.has(name) && other.has(name)))
    .map((name) => `${name}: ${one.get(name) ?? 'none'}, ${other.get(name) ?? 'none'}`);

before(async () => {
  if (skip) return;
  await execute(['runc', 'spec'], { cwd: bundle });
  spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'));
});

test("runc's own default has three capabilities, of which run.ts has all", { skip }, () => {
  const { bounding = [] } = spec.process.capabilities;
  assert.deepEqual(bounding, ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE']);
  for (const name of bounding)
    assert.ok(defaultCapabilities.includes(name.slice('CAP_'.length).toLowerCase()));
});

test('a container of run.ts is as one of runc, but for what docs/security.md explains', {
  skip,
}, async () => {
  const page = readFileSync(join(top, 'docs/security.md'), 'utf8');
  const names = defaultCapabilities.map((name) => `CAP_${name.toUpperCase()}`);
  spec.process.capabilities = { bounding: names, permitted: names, effective: names };
  Object.assign(spec.process, { terminal: false, args: ['sh', '-c', program()] });
  spec.root = { path: realpathSync(rootfs), readonly: false };
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec));
  const id = newName();
  const theirs = await facts(['runc', 'run', '--bundle', bundle, id]).finally(() =>
    execute(['runc', 'delete', '--force', id]),
  );
  const ours = await facts([
    ...[script('run'), '--network', 'none', '--hostname', spec.hostname, rootfs, 'sh', '-c', program()],
  ]);

  const differences = compare(theirs, ours);
  const unexplained = differences.filter(
    (line) => !explained.some(({ differences }) => differences.test(line)),
  );
  assert.deepEqual(unexplained, []);
  for (const { what, differences: expected, perhaps } of explained) {
    assert.ok(perhaps || differences.some((line) => expected.test(line)), `no such difference: ${what}`);
    assert.ok(page.includes(`| ${what} |`), `docs/security.md does not explain: ${what}`);
  }

  // what is equal is also what it should be
  for (const [name, container] of Object.entries({ runc: theirs, 'run.ts': ours })) {
    for (const path of paths().masked) assert.equal(container.get(`masked ${path}`), '', `${name}: ${path}`);
    for (const path of paths().readOnly)
      assert.match(container.get(`read-only ${path}`) ?? '', /Read-only file system/, `${name}: ${path}`);
    for (const at of ['/', '/dev', '/dev/shm'])
      assert.notEqual(container.get(`opens a device that it has made in ${at}`), '0', `${name}: ${at}`);
  }
});

/** How a container by runc, of a bundle, differs from one that run.ts starts. */
const ofBundles: typeof explained = [
  { what: '`/` is not `nodev`', differences: /^mount \/ flags: (ro)?, (ro )?nodev$/ },
  {
    what: 'device files are no mounts, in a `/dev` that is not `nodev`',
    differences: /^mount \/dev(\/\w+: none, \w+| flags: nosuid noexec, nosuid nodev noexec)$/,
  },
  { what: '`/dev/core`', differences: /^(dev|device) \/dev\/core: (\/proc\/kcore|0 0), none$/ },
  {
    what: 'the owner of `/dev/null`, where crun has it as standard stream of another user',
    differences: /^dev \/dev\/null: c 666 65534 65534, c 666 0 0$/,
  },
  {
    what: '`/etc/hosts` and `/etc/resolv.conf`, where options ask for them',
    differences: /^mount \/etc\/(hosts|resolv\.conf): \w+, tmpfs$/,
  },
  {
    what: 'what hides paths has fewer of `nosuid`, `nodev`, `noexec`, and is the `/dev/null` of the container',
    differences: /^mount \/(proc|sys)\/\S+( flags)?: (\w+|(ro ?)?(nosuid noexec)?), ([\w ]+)$/,
  },
];

/** Says what the limits of the container NAME are: /mnt is the host's /sys/fs/cgroup. */
const limitsProgram = `
for file in /mnt/*/barehand/$NAME /mnt/barehand/$NAME; do
  for limit in memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes memory.max memory.swap.max memory.low \
    cpu.cfs_quota_us cpu.cfs_period_us cpu.shares cpu.max cpu.weight pids.max cpuset.cpus cpuset.mems; do
    [ ! -e "$file/$limit" ] || read -r value <"$file/$limit" && echo "$limit: $value"
  done
done`;

const usual = ['--network', 'none', '--hostname', 'web'];
for (const [subject, options] of Object.entries({
  'without options': [],
  'with limits': [
    ...['-m', '64M', '--memory-reservation', '32M', '--cpus', '0.5', '-c', '512', '--pids-limit', '50'],
    ...['--cpuset-cpus', '0', '--ulimit', 'nofile=100:200', '--ulimit', 'core=0', '--oom-score-adj', '300'],
  ],
  'of another user': [
    ...[
      '-u',
      'nobody',
      '--group-add',
      '7',
      '--group-add',
      '8',
      '--umask',
      '027',
      '-w',
      '/tmp',
      '-e',
      'A=b c',
    ],
    ...[
      '-e',
      'LD_BIND_NOW=1',
      '--cap-drop',
      'ALL',
      '--cap-add',
      'net_raw',
      '--security-opt',
      'unmask=/proc/interrupts',
    ],
  ],
  'with mounts': [
    ...['--read-only', '--tmpfs', '/tmp:size=1M,exec', '--tmpfs', '/run:mode=700,uid=7', '--shm-size', '1M'],
    ...[
      '-v',
      '/etc/passwd:/etc/issue:ro',
      '--device',
      '/dev/zero:/dev/more',
      '--add-host',
      'other:192.0.2.1',
    ],
    ...[
      '--dns',
      '192.0.2.2',
      '--sysctl',
      'net.ipv4.ip_unprivileged_port_start=80',
      '--sysctl',
      'kernel/msgmax=9000',
    ],
  ],
  'with all privileges': ['--privileged', '--init', '--security-opt', 'no-new-privileges=false'],
}))
  for (const runtime of ['runc', 'crun'])
    test(`run.ts --bundle and ${runtime} make the container that run.ts starts ${subject}`, {
      // crun takes no hybrid cgroups
      skip: container.skip || needs(runtime, ...(runtime === 'crun' ? ['cgroup-v2'] : [])),
    }, async () => {
      const page = readFileSync(join(top, 'docs/run.md'), 'utf8');
      const made = join(bundle, newName());
      const name = newName();
      const words = [
        ...['--name', name, ...usual, '-e', `NAME=${name}`, '-v', '/sys/fs/cgroup:/mnt:ro', ...options],
        ...[rootfs, 'sh', '-c', `${program()}${limitsProgram}`],
      ];
      const env = { ...process.env, TERM: 'xterm' };
      const { code, stdout, stderr } = await call('run', ['--bundle', made, ...words], { env });
      assert.deepEqual([code, stdout], [0, '']);
      assert.ok(stderr.endsWith(`run: to run it, type runc run --bundle ${made} ${name}\n`), stderr);
      const theirs = await facts([runtime, 'run', '--bundle', made, name]).finally(() =>
        execute([runtime, 'delete', '--force', name]),
      );
      const ours = await facts([script('run'), ...words]);
      assert.ok(theirs.has('pids.max'));
      const differences = compare(theirs, ours);
      assert.deepEqual(
        differences.filter((line) => !ofBundles.some((one) => one.differences.test(line))),
        [],
      );
      for (const { what } of ofBundles)
        assert.ok(page.includes(`| ${what} |`), `docs/run.md does not explain: ${what}`);
    });
