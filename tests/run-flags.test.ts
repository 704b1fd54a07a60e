// Options of run.ts that users of Docker, Podman and util-linux know, each in a real container.
import assert from 'node:assert/strict';
import { existsSync, lstatSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { findHierarchy, parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { readBfq, readLimit } from '../scripts/limit/table.ts';
import { container, memoryFile, newName, start } from './helpers/container.ts';
import { inside, refused, said, says } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { call, execute, rootfs } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';

const scratch = scratchFolder('run-flags');
/** A root file system that a test may change. */
const root = join(scratch, 'root');
before(async () => {
  if (!container.skip) await execute(['cp', '-a', `${rootfs}/.`, root]);
});

/** What the runbook of a launch says when it is run. */
async function printed(options: string[], program: string): Promise<string> {
  const words = ['--dry-run', '--name', newName(), ...options, rootfs, 'sh', '-c', program];
  const { stdout: runbook } = await call('run', words);
  const { code, stdout, stderr } = await execute(['sh', '-c', runbook]);
  assert.deepEqual([code, stderr], [0, ''], runbook);
  return stdout;
}

test("Docker's short options mean what its long ones do, also in one word", container, async () => {
  const { name } = await start(['-it', '--rm', '-m', '64M', '-c', '512', '--net', 'none'], ['sleep', '100']);
  assert.equal(memoryFile(name, 'limit'), String(64 * 1024 ** 2));
  const detached = newName();
  const started = await call('run', ['-ditm', '64M', '--name', detached, rootfs, 'sleep', '100']);
  assert.deepEqual([started.code, started.stdout], [0, `${detached}\n`]);
  assert.equal(memoryFile(detached, 'limit'), String(64 * 1024 ** 2));
  await call('stop', ['-t', '0', detached]);
  // a pipe stays a pipe
  const { stdout } = await call('run', ['-it', rootfs, 'cat'], { input: 'typed' });
  assert.equal(stdout, 'typed');
});

test(
  'a working directory that is missing is made, in the container and nowhere else',
  container,
  async () => {
    const outside = join(scratch, 'outside');
    mkdirSync(outside);
    symlinkSync(outside, join(root, 'away'));
    await says('pwd; stat -c %u:%a .', [['-w /new/directory', '/new/directory', '0:755']], { root });
    assert.ok(existsSync(join(root, 'new/directory')));
    // a link leads where it leads in the container
    await says('pwd -P', [['-w /away/x', `${outside}/x`]], { root });
    assert.ok(!existsSync(join(outside, 'x')) && lstatSync(join(root, outside, 'x')).isDirectory());
    await says('pwd', [
      ['--ephemeral -w /later', '/later'],
      ['--read-only --tmpfs /tmp -w /tmp/x/y', '/tmp/x/y'],
      ['--userns --ephemeral -w /later -u 1000', '/later'],
      ['-w /proc/self', '/proc/1'],
    ]);
    assert.ok(!existsSync(join(rootfs, 'later')));
    await refused(
      /^run: --workdir: there is no \/later, and with --read-only it can't be made: mkdir -p /,
      '--read-only -w /later',
      { root },
    );
    await refused(/^run: can't cd to the working directory \/etc\/passwd/, '-w /etc/passwd');
    await refused(/^run: --workdir: .*\/etc\/passwd is no directory/, '-w /etc/passwd/x');
    assert.equal(await printed(['--ephemeral', '-w', '/later/on'], 'pwd'), '/later/on\n');
  },
);

test("--group-add, --umask and --oom-score-adj are the command's", container, async () => {
  const program = 'id -G; umask; cat /proc/self/oom_score_adj';
  const options = '--group-add 33 --group-add nogroup --umask 027 --oom-score-adj 300';
  const { code, stdout } = await inside(`-u 1000:5 ${options}`, program);
  assert.deepEqual([code, stdout], [0, '5 33 65534\n0027\n300\n']);
  assert.equal(await printed(['-u', '1000:5', ...options.split(' ')], program), stdout);
  await refused(/^run: no group no-such in .*\/etc\/group with an ID/, '--group-add no-such');
  await refused(/--group-add needs --isolate mount/, '--group-add 1 --isolate chroot');
  for (const mask of ['8', '1777', '-1', 'u=rwx'])
    await refused(/^run: --umask is an octal number/, `--umask=${mask}`);
  for (const score of ['1001', '-1001', 'x', '1.5'])
    await refused(/^run: --oom-score-adj is a whole number from -1000/, `--oom-score-adj=${score}`);
});

test("--sysctl is the container's own; one that would be the host's is refused", container, async () => {
  const files = 'kernel/shmmax fs/mqueue/msg_max net/ipv4/ip_unprivileged_port_start'
    .split(' ')
    .map((path) => `/proc/sys/${path}`);
  const host = files.map((file) => readFileSync(file, 'utf8'));
  const options =
    '--network none --sysctl kernel.shmmax=4096 --sysctl fs/mqueue/msg_max=7 --sysctl net.ipv4.ip_unprivileged_port_start=80';
  const program = `cat ${files.join(' ')}`;
  for (const more of ['', ' --userns']) assert.equal(await said(options + more, program), '4096\n7\n80\n');
  assert.equal(await printed(options.split(' '), program), '4096\n7\n80\n');
  assert.deepEqual(
    files.map((file) => readFileSync(file, 'utf8')),
    host,
  );
  for (const [option, expected] of [
    [
      'kernel.panic=1',
      /^run: --sysctl: kernel\.panic is in no namespace: it would change the host, .*: sysctl -w/,
    ],
    ['vm.swappiness=1', /is in no namespace/],
    ['kernel.shmmax/../panic=1', /is in no namespace|is NAME=VALUE/],
    ['net/ipv4/../../kernel/panic=1', /is NAME=VALUE/],
    ['net.ipv4.ip_forward', /is NAME=VALUE/],
    ['net.ipv4.ip_forward=1', /needs a network namespace of the container's own/],
    ['kernel.shm_no_such=1', /this kernel has none in such a namespace/],
    ['kernel.sem=many', /^run: --sysctl kernel\.sem=many: Invalid argument/],
  ] as const)
    await refused(expected, `--sysctl ${option}`);
  await refused(
    /--sysctl kernel\.shmmax needs --isolate ipc/,
    '--isolate mount,pid --sysctl kernel.shmmax=4096',
  );
});

test('--mount is --volume and --tmpfs in other words; z and Z are accepted', container, async () => {
  const program =
    "grep -E ' /(b|t) ' /proc/self/mounts | cut -d' ' -f2,4 | sed 's/,relatime.*,size/,size/'; cat /b/file";
  const source = join(scratch, 'source');
  mkdirSync(source);
  await execute(['sh', '-c', `echo of the host >${source}/file`]);
  const bind = `type=bind,source=${source},target=/b,readonly`;
  const options = [
    '--ephemeral',
    '--mount',
    bind,
    '--mount',
    'type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=700',
  ];
  const stdout = await said(options, program);
  assert.match(stdout, /^\/b ro,nodev,.*\n\/t rw,nosuid,nodev,noexec,size=1024k,mode=700.*\nof the host\n$/);
  const plain = ['--ephemeral', '-v', `${source}:/b:ro`, '--tmpfs', '/t:size=1m,mode=700'];
  assert.equal(await said(plain, program), stdout);
  const labelled = await inside(['--ephemeral', '-v', `${source}:/b:ro,z`], 'cat /b/file');
  assert.equal(labelled.stdout, 'of the host\n');
  assert.match(labelled.stderr, /^run: --volume: z and Z [^\n]*\n$/);
  for (const [mount, expected] of [
    ['type=volume,source=data,target=/x', /type is bind or tmpfs/],
    ['source=/tmp,target=/x', /type is bind or tmpfs/],
    ['type=bind,source=/no/such,target=/x', /there is no \/no\/such on this host/],
    ['type=bind,source=/tmp', /target= is missing/],
    ['type=bind,source=/tmp,target=x', /must begin with \//],
    ['type=bind,source=/tmp,target=/x,consistency=cached', /has no consistency/],
    ['type=bind,source=/tmp,target=/x,ro=maybe', /readonly is true or false/],
    [
      'type=bind,source=/tmp,target=/x,bind-propagation=rshared',
      /rshared would show the container's mounts on the host/,
    ],
    ['type=tmpfs,target=/x,source=/tmp', /type=tmpfs has no source/],
  ] as const)
    await refused(expected, `--mount ${mount}`);
  await refused(/target of two mounts, by --mount and --tmpfs/, '--mount type=tmpfs,target=/x --tmpfs /x');
});

test('--security-opt mask= hides, unmask= shows', container, async () => {
  const program = `wc -c </proc/cpuinfo; ls /proc/driver; [ -w /proc/sys/kernel/core_pattern ] && echo writable
    wc -c </proc/timer_list | grep -qx 0 || echo timers`;
  const options =
    '--security-opt mask=/proc/cpuinfo:/proc/driver --security-opt unmask=/proc/sys:/proc/timer_list';
  const { stdout, stderr } = await inside(options, program);
  assert.deepEqual([stdout, stderr], ['0\nwritable\ntimers\n', '']);
  assert.match((await inside('', program)).stdout, /^[1-9]\d+\n(\w+\n)*$/);
  assert.match(
    (await inside('--security-opt systempaths=unconfined', 'cat /proc/self/mounts')).stdout,
    /^(?!.* \/proc\/)/s,
  );
  for (const [option, expected] of [
    ['mask=/etc/passwd', /a path below \/proc or \/sys/],
    ['mask=/proc/no-such', /does not exist on this host/],
    ['mask=/proc/self/maps', /is a link, .*or of a single process/],
    ['mask=/proc/1/maps', /is a link, .*or of a single process/],
    ['mask=/proc/../etc', /is a link/],
    ['unmask=/proc/cpuinfo', /is not masked: ALL, or one of/],
  ] as const)
    await refused(expected, `--security-opt ${option}`);
  await refused(/--privileged masks nothing/, '--privileged --security-opt mask=/proc/cpuinfo');
});

test('--uidmap and --gidmap are the maps of its user namespace', container, async () => {
  const words = (map: string) => map.trim().split(/\s+/).join(' ');
  const program = 'cat /proc/self/uid_map; echo; cat /proc/self/gid_map; stat -c %u:%g /etc';
  const [uids, gids] = ['0:700000:1000', '0:800000:10 10:900000:100'];
  const options = ['--ephemeral', '--uidmap', uids, ...gids.split(' ').flatMap((map) => ['--gidmap', map])];
  const expected = '0 700000 1000 0 800000 10 10 900000 100 0:0';
  assert.equal(words(await said(options, program)), expected);
  assert.equal(words(await printed(options, program)), expected);
  assert.match(words(await said('--ephemeral --gidmap 0:700000:5', program)), /^0 700000 5 0 700000 5 /);
  for (const [option, message] of [
    ['--uidmap 1:700000:10', /the container has no ID 0/],
    ['--uidmap 0:700000:10 --uidmap 5:800000:1', /--uidmap: 0:700000:10 and 5:800000:1 overlap/],
    ['--uidmap 0:700000:10 --uidmap 20:700009:1', /overlap/],
    ['--uidmap 0:700000:0', /is CONTAINER-ID:HOST-ID:COUNT/],
    ['--uidmap 0:4294967295:1', /is CONTAINER-ID:HOST-ID:COUNT/],
    ['--gidmap 0', /--gidmap is CONTAINER-ID:HOST-ID:COUNT/],
  ] as const)
    await refused(message, option);
});

test(
  '--label is what ps.ts --json shows, and ps.ts NAME, as long as the container lives',
  container,
  async () => {
    const { name, launcher, end } = await start(
      ['--label', 'tier=front=1', '-l', 'canary'],
      ['sleep', '100'],
    );
    const { stdout } = await call('ps', ['--json']);
    const shown = (JSON.parse(stdout) as { name: string; labels: object }[]).find((row) => row.name === name);
    assert.deepEqual(shown?.labels, { tier: 'front=1', canary: '' });
    const page = await call('ps', [name]);
    assert.deepEqual(page.stdout.match(/^label: .*$/gm), ['label: tier=front=1', 'label: canary=']);
    launcher.kill('SIGTERM');
    await end;
    assert.equal(existsSync(`/run/barehand/${name}`), false);
    for (const label of ['=x', 'a\nb=c']) await refused(/^run: --label is KEY=VALUE/, ['--label', label]);
  },
);

test('--device with less than rwm: v1 denies the rest, elsewhere it is refused', container, async () => {
  const device = '/dev/loop-control';
  if (!existsSync(device)) return;
  const program = `for mode in '<' '>>' '<>'; do eval "true $mode /dev/x" 2>/dev/null && echo "$mode"; done; :`;
  const has = readHierarchies().some(({ controllers }) => controllers.includes('devices'));
  if (!has) return refused(/can deny wm, since v2 takes a BPF program/, `--device ${device}:/dev/x:r`);
  for (const [access, ...lines] of [
    [':rwm', '<', '>>', '<>'],
    [':rw', '<', '>>', '<>'],
    [':r', '<'],
    [':wm', '>>'],
  ] as const) {
    assert.equal(await said(`--device ${device}:/dev/x${access}`, program), `${lines.join('\n')}\n`, access);
    assert.equal(
      await printed(['--device', `${device}:/dev/x${access}`], program),
      `${lines.join('\n')}\n`,
      access,
    );
  }
  await refused(
    /\/dev\/null is the same device as \/dev\/null, which the container has/,
    '--device /dev/null:/dev/x:r',
  );
  await refused(/is the same device as/, `--device ${device}:/dev/x:r --device ${device}:/dev/y`);
});

test(
  '--blkio-weight is in a file of bfq or of io.cost, or refused where the kernel has neither',
  container,
  async () => {
    const { isThere, isUsed } = readBfq();
    const hierarchy = findHierarchy(readHierarchies(), 'io');
    const hasCost = hierarchy?.version === 2 && existsSync(join(hierarchy.mountPoint, 'io.cost.qos'));
    if (!hierarchy || !(isThere || hasCost))
      return refused(
        /no such controller|this kernel has no I\/O weights: modprobe bfq/,
        '--blkio-weight 500',
      );
    const { name } = await start(['--blkio-weight', '500'], ['sleep', '100']);
    const [text] = readLimit('ioWeight', hierarchy.version, join(hierarchy.mountPoint, parent, name));
    assert.equal(text?.text, hierarchy.version === 1 ? '500' : isThere ? 'default 500' : 'default 4950');
    const { stdout, stderr } = await inside('--dry-run --blkio-weight 500', 'true');
    assert.match(stdout, /echo '?(default )?(500|4950)'? > \S+weight/);
    assert.match(
      stderr,
      isThere && !isUsed ? /^run: --blkio-weight has no effect while no disk uses bfq/ : /^$/,
    );
    for (const weight of ['9', '1001', 'x'])
      await refused(/--blkio-weight is a whole number/, `--blkio-weight ${weight}`);
  },
);
