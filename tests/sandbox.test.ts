// run.ts --sandbox: what it sets, what wins over it, and what it does where a user namespace is not possible.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { container } from './helpers/container.ts';
import { inside, refused, said } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const scratch = scratchFolder('sandbox');
const skip = container.skip || needs('user-namespaces', 'perl');

/** What a process can tell of its restrictions. */
const program = `echo root is user $(awk '{ print ($2 > 0 ? "another" : "the same") }' /proc/self/uid_map)
  for path in / /tmp /run /var/tmp; do touch $path/x 2>/dev/null && echo $path; done
  grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; ls /proc/sys/net/ipv4/conf | grep -vE '^(all|default|ifb[01]|tunl0)$'`;

test('--sandbox: no network, a read-only root, no capability, another user', { skip }, async () => {
  const lines = (await said('--sandbox', program)).trim().split('\n');
  const zero = '0000000000000000';
  assert.deepEqual(lines.slice(0, 6), [
    'root is user another',
    '/tmp',
    '/run',
    '/var/tmp',
    `CapBnd:\t${zero}`,
    'NoNewPrivs:\t1',
  ]);
  assert.ok(!lines.includes('eth0'));
  assert.ok(lines.includes('lo'));
});

test('--sandbox: memory and processes are limited', { skip }, async () => {
  const { stdout } = await call('run', ['--dry-run', '--sandbox', rootfs, 'true']);
  assert.match(stdout, /536870912|512M/);
  assert.match(stdout, /echo 256 > \S+pids\.max/);
  const { stdout: given } = await call('run', [
    ...['--dry-run', '--sandbox', '--memory', '1G', '--pids-limit', '-1', rootfs, 'true'],
  ]);
  assert.match(given, /1073741824/);
  assert.doesNotMatch(given, /536870912|echo 256 >/);
});

test('--sandbox: options that are given win', { skip }, async () => {
  const options = `--sandbox --ephemeral --cap-add chown --network host -v ${scratch}:/var:ro --tmpfs /tmp:ro`;
  const lines = (await said(options, program)).trim().split('\n');
  assert.deepEqual(lines.slice(0, 4), ['root is user another', '/', '/run', 'CapBnd:\t0000000000000001']);
  const mount = `--sandbox --mount type=bind,source=${scratch},target=/var,readonly`;
  assert.match(await said(mount, 'ls /var/tmp 2>/dev/null || echo none'), /^none$/m);
  await refused(/--privileged lifts .* --sandbox/, '--sandbox --privileged');
  await refused(/--sandbox needs --isolate mount/, '--sandbox --isolate pid');
});

test('a directory that is closed to the root of a user namespace is named, and what opens it', {
  skip,
}, async () => {
  const home = join(scratch, "it's home");
  mkdirSync(home, { mode: 0o700 });
  await execute(['chmod', '755', scratch]);
  const root = join(home, 'root');
  await execute(['cp', '-a', rootfs, root]);
  const quoted = `'${home.replace("'", "'\\''")}'`;
  const { code, stdout, stderr } = await inside('--sandbox', program, { root });
  assert.deepEqual([code, stdout.split('\n')[0]], [0, 'root is user the same']);
  assert.match(stderr, /^run: --sandbox: without --userns, [^\n]+\n$/);
  assert.ok(stderr.includes(`: chmod o+x ${quoted}\n`), stderr);
  await refused(/--userns: .* may not enter .*it's home.*: chmod o\+x '/, '--userns', { root });
  await refused(/may not enter .*it's home/, ['--userns', '-v', `${root}:/v`]);
  await execute(['chmod', 'o+x', home]);
  assert.equal(await said('--userns', 'id -u', { root }), '0\n');
});
