// check-host.ts: what a host has, what it lacks, and what that costs.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Check, judge, scripts } from '../scripts/check-host/checks.ts';
import { cgroupVersion, needs } from './helpers/needs.ts';
import { become, call, execute, script, top } from './helpers/script.ts';

interface Report {
  host: { user: string; container: string | null };
  scripts: { script: string; state: string; because: string[] }[];
  checks: Check[];
}

/** What check-host.ts --json prints, when it is started by these words. */
async function report(words: string[], ...names: string[]): Promise<Report & { code: number | null }> {
  const { code, stdout, stderr } = await execute([...words, script('check-host'), '--json', ...names]);
  assert.equal(stderr, '');
  return { code, ...JSON.parse(stdout) };
}

const stateOf = ({ scripts }: Report, name: string) => scripts.find(({ script }) => script === name)?.state;
const check = ({ checks }: Report, wanted: string) => checks.find(({ name }) => name === wanted) as Check;

/** Words that start a program in a mount namespace where these files are no programs any more. */
const without = (...paths: string[]) => [
  ...['unshare', '--mount', 'sh', '-c'],
  `for path in ${paths.join(' ')}; do [ ! -e $path ] || mount --bind /dev/null $path; done; exec "$0" "$@"`,
];
const inBins = (...names: string[]) => names.flatMap((name) => [`/usr/bin/${name}`, `/usr/sbin/${name}`]);

test('every script but three depends on the host', () => {
  const all = readdirSync(join(top, 'scripts')).filter((name) => name.endsWith('.ts'));
  const known: string[] = [...scripts];
  for (const name of all.map((file) => file.replace(/\.ts$/, '')))
    if (!['barehand', 'demo', 'check-host'].includes(name)) assert(known.includes(name), name);
});

test('a script fails for what it needs, is limited by what it can do without, and works otherwise', () => {
  const missing = (name: string, part: Partial<Check>): Check => ({
    ...{ subject: 'kernel', name, ok: false, found: '', cost: '', remedy: '', needs: [], limits: [] },
    ...part,
  });
  const verdicts = judge(
    [
      missing('a', { needs: ['run'] }),
      missing('b', { limits: ['run', 'exec'] }),
      missing('c', { ok: true, needs: ['ps'] }),
    ],
    ['run', 'exec', 'ps'],
  );
  assert.deepEqual(verdicts, [
    { script: 'run', state: 'fails', because: ['a'] },
    { script: 'exec', state: 'limited', because: ['b'] },
    { script: 'ps', state: 'works', because: [] },
  ]);
});

test('what the tests have, it finds', {
  skip: needs('root', 'namespaces', 'cgroup', 'perl', 'nft'),
}, async () => {
  const found = await report([]);
  assert.equal(found.code, 0);
  for (const name of ['run', 'exec', 'network', 'limit-memory'])
    assert.notEqual(stateOf(found, name), 'fails');
  for (const name of ['namespaces', 'new /proc', 'memory controller', 'nft or iptables', 'freezer'])
    assert.equal(check(found, name).ok, true, name);
  const { stdout } = await execute(['unshare', '--version']);
  assert.equal(check(found, 'unshare').found, `/usr/bin/unshare ${stdout.trim().split(' ').at(-1)}`);
  assert.match(check(found, 'memory controller').found, new RegExp(`^v${cgroupVersion}, /`));
});

test('a missing program is named, with its package', { skip: needs('root', 'namespaces') }, async () => {
  const gone = without(...inBins('nft', 'iptables', 'tar', 'zstd'));
  const found = await report(gone);
  assert.equal(found.code, 1);
  assert.equal(stateOf(found, 'network'), 'fails');
  assert.equal(stateOf(found, 'fetch-rootfs'), 'fails');
  assert.equal(stateOf(found, 'exec'), 'works');
  assert.equal(check(found, 'tar').ok, false);
  assert.match(check(found, 'nft or iptables').remedy, / nftables/);
  assert.equal(check(found, 'firewall'), undefined, 'what has no program is not tried');
  const { code, stdout } = await execute([...gone, script('check-host'), 'fetch-rootfs']);
  assert.equal(code, 1);
  assert.match(stdout, /^fetch-rootfs {3}fails {3}tar$/m);
  assert.match(stdout, /^tar: not found: archives cannot be unpacked\n {2}to get it: .* tar$/m);
  assert.doesNotMatch(stdout, /^network/m);
  assert.equal((await execute([...gone, script('check-host'), '-q', 'run'])).code, 0);
});

test('a read-only cgroup tree, as in a container, costs the limits', {
  skip: needs('root', 'namespaces', 'cgroup'),
}, async () => {
  const { found: place } = check(await report([]), 'memory controller');
  const mount = /, (.*)/.exec(place)?.[1] ?? '';
  const found = await report([
    ...['unshare', '--mount', 'sh', '-c'],
    `mount -o remount,bind,ro ${mount} && exec "$0" "$@"`,
  ]);
  assert.equal(found.code, 1);
  assert.equal(stateOf(found, 'limit-memory'), 'fails');
  assert.equal(stateOf(found, 'run'), 'limited');
  assert.match(check(found, 'memory controller').remedy, /remount,bind,rw/);
});

test('without CAP_SYS_ADMIN no container starts', { skip: needs('root', 'namespaces') }, async () => {
  const found = await report(['setpriv', '--bounding-set=-sys_admin', '--inh-caps=-sys_admin'], 'run', 'ps');
  assert.equal(found.code, 1);
  assert.deepEqual([stateOf(found, 'run'), stateOf(found, 'ps')], ['fails', 'works']);
  assert.match(check(found, 'namespaces').found, /not permitted/i);
});

test('a host that forbids user namespaces to users is told, with the sysctl', {
  skip: needs('root', 'user-namespaces'),
}, async () => {
  // the limit of a user namespace holds for those below it, namespaces(7)
  const found = await report(
    [
      ...['unshare', '--user', '--map-root-user', 'sh', '-c'],
      'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"',
    ],
    'run',
  );
  assert.equal(check(found, 'user namespaces').ok, false);
  assert.match(found.host.container ?? '', /user namespace/);
});

test('a user without a delegated cgroup runs containers, without limits', {
  skip: needs('root', 'user-namespaces', 'cgroup'),
}, async () => {
  const found = await report(become(23456));
  assert.equal(found.host.user, '23456');
  assert.equal(stateOf(found, 'run'), 'limited');
  assert.equal(stateOf(found, 'limit-memory'), 'fails');
  assert.match(check(found, 'memory controller').remedy, /as root/);
});

test('trials leave nothing, and words that are no script are refused', async () => {
  const before = await execute(['ls', '/sys/class/net']);
  const { code, stdout } = await call('check-host', ['--quiet']);
  assert([0, 1].includes(code ?? -1));
  assert.equal(stdout, '');
  assert.deepEqual(await execute(['ls', '/sys/class/net']), before);
  const wrong = await call('check-host', ['limit-memry']);
  assert.equal(wrong.code, 2);
  assert.equal(
    wrong.stderr,
    'check-host: no script that depends on the host: limit-memry: did you mean limit-memory?\n',
  );
});
