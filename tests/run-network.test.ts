// run.ts --network, in the laboratory of helpers/network-lab.ts.
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach } from 'node:test';
import { newName } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import {
  ask,
  enter,
  folder,
  host,
  internet,
  isClosed,
  same,
  serve,
  sh,
  skip,
  snapshot,
  start,
} from './helpers/network-lab.ts';
import { become, execute, rootfs, script, top, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const lab = { skip: skip || needs('cgroup') };
const call = (...words: string[]) => execute([...enter(host), script('run'), ...words]);
const run = (network: string, ...words: string[]) => call('--network', network, '--ephemeral', ...words);

/** Runs a shell program in a container, which has to end well and without a word on stderr. */
async function says(network: string, program: string, ...options: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(network, ...options, rootfs, 'sh', '-c', program);
  assert.deepEqual([code, stderr], [0, ''], program);
  return stdout;
}

/** Starts one in the background, which is ended after the test. `urls`: where it says that its ports are. */
async function detach(
  network: string,
  ...words: string[]
): Promise<{ name: string; pid: number; urls: string[] }> {
  const name = newName();
  const { code, stdout, stderr } = await run(network, '-d', '--name', name, ...words);
  const urls = [...stderr.matchAll(/^run: port \d+ is published at (\S+)\n/gm)].map(
    ([, url]) => url as string,
  );
  assert.deepEqual([code, stdout], [0, `${name}\n`]);
  assert.equal(stderr.split('\n').length - 1, urls.length, stderr);
  started.push(name);
  const rows = JSON.parse((await execute([script('ps'), '--json'])).stdout);
  return { name, pid: rows.find((row: { name: string }) => row.name === name).pid, urls };
}
const started: string[] = [];
const stop = async (...names: string[]) => {
  const { code, stderr } = await execute([...enter(host), script('stop'), ...names]);
  assert.deepEqual([code, stderr], [0, '']);
  for (const name of names) started.splice(started.indexOf(name), 1);
};
after(async () => {
  for (const name of started) await execute([...enter(host), script('stop'), name]);
});

test('bridge: at the start what attach would give, and all of it gone at the end', lab, async () => {
  const before = await snapshot();
  const { name, pid, urls } = await detach('bridge', '-p', '8080:80', rootfs, 'sleep', '100');
  assert.deepEqual(urls, ['http://127.0.0.1:8080']);
  serve(pid, 'TCP-LISTEN:80', 'web');
  assert.match(await ask(internet, 'TCP:198.51.100.2:8080'), /^web 198\.51\.100\.1$/);
  const other = await says('bridge', 'cat /etc/hosts; ip -o -4 address show eth0');
  assert.match(other, new RegExp(`^10\\.88\\.0\\.2\\t${name}\\b`, 'm'));
  assert.match(other, /inet 10\.88\.0\.3\/16/);
  assert.match((await run('bridge', '-p', '8080:80', rootfs, 'true')).stderr, /8080/);
  assert.match((await run('host', '-p', '80:80', rootfs, 'true')).stderr, /--publish needs/);
  for (const [ports, expected] of [
    [['-p', '[::1]:81:80'], /^run: ::1 cannot be published: the kernel does not route the IPv6 loopback/],
    [['-p', '82:80', '-p', '82:81'], /^run: port 82\/tcp is given twice/],
  ] as const) {
    const { code, stderr } = await run('bridge', ...ports, rootfs, 'true');
    assert.equal(code, 125);
    assert.match(stderr, expected);
  }
  await stop(name);
  same(await snapshot(), before);
});

test('bridge and container:NAME also where root is not root on the host', lab, async (t) => {
  const possible = await call('--userns', rootfs, 'true');
  if (possible.code !== 0) return t.skip(possible.stderr); // not every file system can be mounted with mapped IDs
  const before = await snapshot();
  const program = 'cat /proc/self/uid_map; ip -o -4 address show eth0; grep -c barehand0 /etc/hosts';
  assert.match(
    await says('bridge', program, '--userns'),
    /^ +0 +[1-9]\d+ +65536\n.* inet 10\.88\.0\.2\/16 .*\n2\n$/,
  );
  // root in there has no say in the network of another
  const { name } = await detach('bridge', rootfs, 'sleep', '100');
  const down = 'ip -o link show eth0; ip link set eth0 down 2>&1 || :';
  assert.match(await says(`container:${name}`, down, '--userns'), /^\d+: eth0.*\n.*not permitted/);
  await stop(name);
  same(await snapshot(), before);
});

test('bridge: also where there is only a chroot', lab, async () => {
  const before = await snapshot();
  const hosts = readFileSync(join(rootfs, 'etc/hosts'), 'utf8');
  const chroot = await call(
    '--isolate',
    'chroot',
    '--network',
    'bridge',
    rootfs,
    'sh',
    '-c',
    'ip -o -4 address',
  );
  assert.match(chroot.stdout, / inet 10\.88\.0\.2\/16 /);
  assert.deepEqual([chroot.stderr, readFileSync(join(rootfs, 'etc/hosts'), 'utf8')], ['', hosts]);
  same(await snapshot(), before);
});

test('container:NAME: one network for two, with names and addresses of the first', lab, async () => {
  const before = await snapshot();
  const { name, pid } = await detach('bridge', '--dns', '203.0.113.53', rootfs, 'sleep', '100');
  const program = 'readlink /proc/self/ns/net; ls /sys/class/net; cat /etc/hosts /etc/resolv.conf; hostname';
  const said = await says(
    `container:${name}`,
    program,
    '--hostname',
    'second',
    '--add-host',
    'extra:192.0.2.7',
  );
  for (const line of [
    `net:[${(await execute(['readlink', `/proc/${pid}/ns/net`])).stdout.trim().replace(/\D/g, '')}]`,
    'eth0',
    `10.88.0.2\t${name}\t# barehand0`,
    '127.0.1.1\tsecond',
    '192.0.2.7\textra',
    'nameserver 203.0.113.53',
    'second',
  ])
    assert(said.split('\n').includes(line), `${line} in ${said}`);
  assert.match(await says(`container:${pid}`, 'ip -o link show eth0'), /^\d+: eth0/);
  // with the second alive the first can go: its interface goes, the other keeps its loopback
  const second = await detach(`container:${name}`, rootfs, 'sleep', '100');
  await stop(name);
  await until('its interface to go', async () => !(await sh(second.pid, 'ip link show eth0')));
  assert(await sh(second.pid, 'ping -c 1 127.0.0.1'));
  await stop(second.name);
  same(await snapshot(), before);
});

test('container:NAME: whom it can not be shared with is said in a line', lab, async () => {
  const alone = await detach('host', rootfs, 'sleep', '100');
  for (const [words, expected] of [
    [['container:no-such'], /^run: there is no container no-such: \S+ps\.mjs shows/],
    [[`container:${alone.name}`], /has the host's network: start it with \S+run\.mjs --network none/],
    [['container:4194399'], /there is no process 4194399/],
    [['container:'], /--network is host, none, bridge or container:NAME, not container:/],
    [['container:1', '-p', '80:80'], /--publish needs --network bridge/],
    [['container:1', '--isolate', 'mount,net'], /shares a network/],
  ] as const) {
    const [network = '', ...options] = words;
    const { code, stdout, stderr } = await run(network, ...options, rootfs, 'true');
    assert.deepEqual([code, stdout], [125, ''], stderr);
    assert.match(stderr, expected);
  }
  await stop(alone.name);
});

test("container:NAME: a link in the first's /etc leads to no file of the host", lab, async () => {
  const root = join(folder, 'linked');
  await execute(['cp', '-a', rootfs, root]);
  writeFileSync(join(folder, 'secret'), 'secret of the host\n');
  const link = `rm -f ${root}/etc/hosts ${root}/etc/resolv.conf; ln -s ${folder}/secret ${root}/etc/hosts; ln -s ${folder}/secret ${root}/etc/resolv.conf`;
  await execute(['sh', '-c', link]);
  const first = await detach('none', root, 'sleep', '100');
  const said = await says(`container:${first.name}`, 'cat /etc/hosts; cat /etc/resolv.conf 2>/dev/null || :');
  assert.doesNotMatch(said, /secret/);
  assert.match(said, /^127\.0\.0\.1\tlocalhost/);
  await stop(first.name);
});

/** A user without root, who has a node, dist and a root file system of his own in a folder that all may pass. */
const id = 65533;
const own = join(folder, 'user');
const asUser = (name: string, ...words: string[]) =>
  execute([...enter(host), ...become(id, own), process.execPath, '--', join(own, `${name}.mjs`), ...words]);
const user = {
  skip: skip || needs('user-namespaces', 'pasta', 'speed', 'dnsmasq', 'socat'),
};

async function prepareUser(): Promise<void> {
  if (existsSync(own)) return;
  mkdirSync(own);
  for (const name of ['run', 'stop', 'network'])
    cpSync(join(top, `dist/${name}.mjs`), join(own, `${name}.mjs`));
  await execute(['cp', '-a', rootfs, join(own, 'root')]);
  await execute(['chown', '-R', `${id}:${id}`, own]);
  await execute(['chmod', '755', folder]);
  await execute(['chmod', '700', own]);
  // some hosts have it for root alone; a name server that only the host itself can reach
  await sh(
    host,
    `mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200
    echo nameserver 127.0.0.1 >${own}/resolv.conf; echo search example.net >>${own}/resolv.conf
    mount --bind ${own}/resolv.conf /etc/resolv.conf`,
  );
  start([
    ...[...enter(host), 'dnsmasq', '-k', '-C', '/dev/null', '--no-hosts', '--no-resolv', '--user=root'],
    ...['--pid-file=', '--listen-address=127.0.0.1', '--bind-interfaces'],
    '--address=/far.example.net/203.0.113.7',
  ]);
}

/** Runs a shell program in a container of the user's, with the host's programs. */
const inUser = (program: string, ...options: string[]) =>
  asUser(
    'run',
    '--network',
    'bridge',
    '-v',
    '/usr:/usr:ro',
    ...options,
    join(own, 'root'),
    'sh',
    '-c',
    program,
  );

/** Those in the background; none outlives a test, whatever became of it. */
const owned: string[] = [];
afterEach(async () => {
  for (const name of owned.splice(0)) await asUser('stop', name);
});

/** The carriers of this user's that there are. */
const carriers = async () =>
  (await execute(['sh', '-c', `pgrep -u ${id} 'pass?ta?|slirp' || :`])).stdout.trim();

test(
  "without root pasta carries the packets: names, the outside, ports; not the host's loopback",
  user,
  async () => {
    await prepareUser();
    serve(internet, 'TCP-LISTEN:84', 'tcp');
    serve(host, 'TCP-LISTEN:9000,bind=127.0.0.1', 'private');
    await ask(host, 'TCP:127.0.0.1:9000');
    const tcp = (target: string) =>
      `timeout 2 socat -t1 - TCP:${target},connect-timeout=1 </dev/null 2>/dev/null`;
    const { code, stdout, stderr } = await inUser(
      `cat /etc/resolv.conf; getent hosts far | sed 's/  */ /'; ${tcp('203.0.113.1:84')} | head -n 1
    for target in 198.51.100.1 198.51.100.2 127.0.0.1 169.254.1.1; do ${tcp('$target:9000')} && echo reached $target; done; exit 7`,
    );
    assert.deepEqual(
      [code, stdout, stderr],
      [7, 'nameserver 169.254.1.1\nsearch example.net\n203.0.113.7 far.example.net\ntcp 198.51.100.2\n', ''],
    );
    assert.equal(await carriers(), '', 'it ends with the container');

    const publish = ['-p', '8091:8000', '-p', '127.0.0.1:8092:8000', '-p', '8093:8001/udp'];
    const served =
      'socat TCP-LISTEN:8000,fork,reuseaddr SYSTEM:"echo web" & exec socat UDP-LISTEN:8001,fork SYSTEM:"echo dns"';
    const name = newName();
    const words = ['-d', '--name', name, '--stop-signal', 'KILL', ...publish];
    const started = await inUser(served, ...words);
    assert.deepEqual(started.stdout, `${name}\n`);
    assert.equal(
      started.stderr,
      `run: port 8000 is published at http://127.0.0.1:8091
run: port 8000 is published at http://127.0.0.1:8092
run: port 8001 is published at udp://127.0.0.1:8093
`,
    );
    assert.match(await carriers(), /^\d+$/);
    assert.match(await ask(internet, 'TCP:198.51.100.2:8091'), /^web/);
    assert.match(await ask(host, 'TCP:127.0.0.1:8092'), /^web/);
    assert.match(await ask(internet, 'UDP:198.51.100.2:8093'), /^dns/);
    assert(await isClosed(internet, 'TCP:198.51.100.2:8092'));
    const [row] = JSON.parse((await asUser('network', 'ls', '--json')).stdout);
    assert.deepEqual(
      [row.name, row.ports.map((port: { hostPort: number }) => port.hostPort)],
      [name, [8091, 8092, 8093]],
    );
    assert.match(
      (await inUser('true', '-p', '8091:1')).stderr,
      /^run: port 8091\/tcp is in use by a process of this host/,
    );
    assert.match(
      (await inUser('true', '-p', '80:1')).stderr,
      /^run: only root may publish port 80: take one from 1024/,
    );
    assert.equal((await asUser('stop', name)).code, 0);
    await until('it to end', async () => (await carriers()) === '');
  },
);

test('without root a launcher that is killed takes the carrier with it', user, async () => {
  await prepareUser();
  const name = newName();
  const launched = inUser('sleep 60', '--name', name);
  await until('the carrier', async () => (await carriers()) || undefined);
  const launcher = (
    await execute(['pgrep', '-o', '-u', String(id), '-f', '--', `--name ${name} `])
  ).stdout.trim();
  assert.match(launcher, /^\d+$/);
  process.kill(Number(launcher), 'SIGKILL');
  await launched;
  await until('the carrier to end', async () => (await carriers()) === '');
});

test('without root slirp4netns does it where there is no pasta; with neither it is told what to install', {
  skip: user.skip || needs('slirp4netns'),
}, async () => {
  await prepareUser();
  const hide = (program: string) => sh(host, `mount --bind /dev/null "$(command -v ${program})"`);
  try {
    await hide('pasta');
    const program = 'cat /etc/resolv.conf | head -n 1; getent hosts far.example.net | cut -d " " -f 1';
    const slirp = await asUser('run', '--network', 'bridge', join(own, 'root'), 'sh', '-c', program);
    assert.deepEqual([slirp.stdout, slirp.stderr], ['nameserver 10.0.2.3\n203.0.113.7\n', '']);
    assert.match(
      (await inUser('true', '-p', '8094:1')).stderr,
      /slirp4netns publishes no ports here: apt-get install passt/,
    );
    await hide('slirp4netns');
    const none = await asUser('run', '--network', 'bridge', join(own, 'root'), 'ls', '/sys/class/net');
    assert.deepEqual(
      [none.code, none.stdout, none.stderr],
      [
        0,
        'lo\n',
        'run: --network bridge: the container has a loopback interface only: without root it needs pasta(1) or slirp4netns(1): apt-get install passt\n',
      ],
    );
    const port = await inUser('true', '-p', '8094:1');
    assert.deepEqual(
      [port.code, /^run: --publish: without root it needs pasta/.test(port.stderr)],
      [125, true],
    );
  } finally {
    await sh(host, 'umount "$(command -v pasta)" "$(command -v slirp4netns)"');
  }
});
