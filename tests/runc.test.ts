// The same container by runc and by run.ts, looked at from inside: equal but for what is listed here, and explained in
// docs/security.md.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultCapabilities } from '../scripts/run/capabilities.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute, rootfs, script, top } from './helpers/script.ts';
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
  mknod $at/made c 1 11; (: >>$at/made) 2>/dev/null; echo "opens a device that it has made in $at: $?"; rm $at/made
done`;

async function facts(argv: string[]): Promise<Map<string, string>> {
  const { code, stdout, stderr } = await execute(argv, { env: { ...process.env, TERM: 'xterm' } });
  assert.deepEqual([code, stderr], [0, '']);
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

  const differences = [...new Set([...theirs.keys(), ...ours.keys()])]
    .filter((name) => theirs.get(name) !== ours.get(name))
    // what is mounted in one of them only has no flags to compare
    .filter((name) => !name.endsWith(' flags') || (theirs.has(name) && ours.has(name)))
    .map((name) => `${name}: ${theirs.get(name) ?? 'none'}, ${ours.get(name) ?? 'none'}`);
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
