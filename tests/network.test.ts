// Networks on a real kernel, in a laboratory of network namespaces: see helpers/network-lab.ts.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { namespace } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import {
  address6In,
  addressIn,
  ask,
  container,
  done,
  endAll,
  enter,
  flavours,
  folder,
  host,
  inside,
  internet,
  isClosed,
  lab,
  network,
  runContainer,
  same,
  serve,
  sh,
  skip,
  slow,
  snapshot,
  start,
  withIptables,
} from './helpers/network-lab.ts';
import { become, execute, rootfs, script, stripTypes, top, until } from './helpers/script.ts';
import { test as long } from './helpers/slow.ts';

test(
  'two containers reach each other and the outside, which sees the host; detach leaves nothing',
  lab,
  async () => {
    const before = await snapshot();
    const [one, other] = [await container(), await container()];
    const said = [await done('attach', String(one)), await done('attach', String(other))];
    const [address, second] = said.map(addressIn) as [string, string];
    assert.deepEqual([address, second], ['10.88.0.2', '10.88.0.3']);
    assert.match(
      said[0] as string,
      new RegExp(`^${one}: eth0 has 10\\.88\\.0\\.2 and fd[\\da-f:]+::2 on barehand0\n$`),
    );
    const address6 = address6In(said[1] as string);

    for (const target of [
      second,
      address6,
      '10.88.0.1',
      '198.51.100.2',
      '203.0.113.1',
      '2001:db8::1',
      '127.0.0.1',
    ])
      assert(await sh(one, `ping -c 1 -W 2 ${target}`), target);
    serve(other, 'TCP-LISTEN:80', 'tcp');
    serve(other, 'UDP-LISTEN:80', 'udp');
    serve(other, 'TCP6-LISTEN:81', 'tcp6');
    assert.equal(await ask(one, `TCP:${second}:80`), `tcp ${address}`);
    assert.equal(await ask(one, `UDP:${second}:80`), `udp ${address}`);
    assert.match(await ask(one, `TCP6:[${address6}]:81`), /^tcp6 \[fd/);
    serve(internet, 'TCP-LISTEN:80', 'tcp');
    serve(internet, 'UDP-LISTEN:80', 'udp');
    serve(internet, 'TCP6-LISTEN:81,ipv6only', 'tcp6');
    assert.equal(await ask(one, 'TCP:203.0.113.1:80'), 'tcp 198.51.100.2');
    assert.equal(await ask(one, 'UDP:198.51.100.1:80'), 'udp 198.51.100.2');
    assert.match(await ask(one, 'TCP6:[2001:db8::1]:81'), /^tcp6 \[2001:0?db8:.*2\]$/);
    // the host's loopback is not theirs, though published ports are reached from there
    serve(host, 'TCP-LISTEN:82,bind=127.0.0.1', 'private');
    await ask(host, 'TCP:127.0.0.1:82');
    await sh(one, 'ip route add 127.9.9.9 via 10.88.0.1; echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet');
    await sh(
      one,
      'ip address del 127.0.0.1/8 dev lo; ip route del local 127.0.0.0/8 table local; ip route add 127.0.0.1 via 10.88.0.1',
    );
    assert(await isClosed(one, 'TCP:127.0.0.1:82'));

    assert.match((await sh(one, 'ip link show eth0')) ?? '', /mtu 1400/);
    const links = (await sh(host, "ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/\\1/'"))?.split('\n') ?? [];
    assert.equal(links.length, 5);
    for (const name of links) assert(name.length <= 15, name);

    const listed = JSON.parse(await done('ls', '--json'));
    assert.deepEqual(
      listed.map(({ pid, bridge, address }: Record<string, unknown>) => [pid, bridge, address]),
      [
        [one, 'barehand0', address],
        [other, 'barehand0', second],
      ],
    );
    assert.match(
      await done('ls'),
      new RegExp(`^NAME +PID.*\npid-${one} +${one} +barehand0 +bh\\d+ +${address} `),
    );
    const again = await network('attach', String(one));
    assert.deepEqual([again.code, again.stderr.includes('is on barehand0 already')], [1, true]);

    assert.equal(await done('detach', String(one)), '');
    assert(await sh(other, 'ping -c 1 -W 2 203.0.113.1'));
    await done('detach', String(other));
    same(await snapshot(), before);
    assert.equal(await done('ls', '--json'), '[]\n');
  },
);

test(
  'published ports: from outside, from the host, from the container itself; each but once',
  lab,
  async () => {
    const before = await snapshot();
    const [one, other] = [await container(), await container()];
    await done('attach', '-p', '8080:80', '-p', '5353:53/udp', String(one));
    await done('attach', String(other));
    await done('publish', String(one), '127.0.0.1:8081:80', '[2001:db8::2]:8082:81');
    serve(one, 'TCP-LISTEN:80', 'web');
    serve(one, 'UDP-LISTEN:53', 'dns');
    serve(one, 'TCP6-LISTEN:81,ipv6only', 'web6');
    assert.equal(await ask(internet, 'TCP:198.51.100.2:8080'), 'web 198.51.100.1');
    assert.equal(await ask(internet, 'UDP:198.51.100.2:5353'), 'dns 198.51.100.1');
    assert.match(await ask(internet, 'TCP6:[2001:db8::2]:8082'), /^web6 /);
    for (const from of [host, one, other])
      assert.match(await ask(from, 'TCP:198.51.100.2:8080'), /^web /, `from ${from}`);
    assert.match(await ask(host, 'TCP:127.0.0.1:8080'), /^web 10\.88\.0\.1$/);
    assert.match(await ask(host, 'UDP:127.0.0.1:5353'), /^dns /);
    assert.match(await ask(host, 'TCP:127.0.0.1:8081'), /^web /);
    assert(await isClosed(internet, 'TCP:198.51.100.2:8081'), 'on 127.0.0.1 only');

    for (const taken of ['8080:1', '127.0.0.1:8080:1', '8081:1', '127.0.0.1:8081:1']) {
      const { code, stderr } = await network('publish', String(other), taken);
      assert.deepEqual([code, stderr.includes('is published already')], [1, true], `${taken}: ${stderr}`);
    }
    await done('publish', String(other), '198.51.100.2:8081:80', '8080:80/udp');
    serve(host, 'TCP-LISTEN:9000', 'host');
    await ask(host, 'TCP:127.0.0.1:9000');
    const { code, stderr } = await network('publish', String(other), '9000:80');
    assert.deepEqual(
      [code, stderr],
      [1, 'network: port 9000/tcp is in use by a process of this host: ss -lnp shows which\n'],
    );
    const third = await container();
    const no6 = ['attach', '--bridge', 'no6', '--no-ipv6', '-p', '[2001:db8::2]:8083:81', String(third)];
    assert.match(
      (await network(...no6)).stderr,
      /8083 cannot be published on 2001:db8::2: .* no IPv6 address/,
    );
    const [{ ports }] = JSON.parse(await done('ls', '--json'));
    assert.deepEqual(
      ports.map(({ hostPort }: { hostPort: number }) => hostPort),
      [8080, 5353, 8081, 8082],
    );

    await done('detach', String(one));
    assert(await isClosed(internet, 'TCP:198.51.100.2:8080'));
    await done('detach', String(other));
    same(await snapshot(), before);
  },
);

test('names: the others by /etc/hosts, all else by the name server that the host has', {
  skip: needs('root', 'namespaces', 'cgroup', 'nft', 'dnsmasq'),
}, async () => {
  const before = await snapshot();
  writeFileSync(
    join(folder, 'resolv.conf'),
    'nameserver 127.0.0.1\nnameserver 203.0.113.1\nsearch example.net\n',
  );
  await sh(host, `mount --bind ${folder}/resolv.conf /etc/resolv.conf`);
  start([
    ...enter(internet),
    'dnsmasq',
    '-k',
    '-C',
    '/dev/null',
    '--no-hosts',
    '--no-resolv',
    '--user=root',
    '--pid-file',
    '--listen-address=203.0.113.1',
    '--bind-interfaces',
    '--address=/far.example.net/203.0.113.7',
  ]);
  const [one, other] = [await runContainer(['--ephemeral']), await runContainer(['--ephemeral'])];
  await done('attach', one.name);
  await done('attach', '--name', 'db', other.name);
  const resolv = await inside(one.pid, 'cat /etc/resolv.conf');
  assert.match(resolv, /^# by barehand barehand0\nnameserver 203\.0\.113\.1\nsearch example\.net\n/);
  assert.match(
    await until(
      'an answer',
      async () => (await inside(one.pid, 'getent hosts far.example.net')) || undefined,
    ),
    /^203\.0\.113\.7 /,
  );
  assert.match(await inside(one.pid, 'getent ahostsv4 db'), /^10\.88\.0\.3 /);
  assert.match(await inside(other.pid, `getent ahostsv4 ${one.name}`), /^10\.88\.0\.2 /);
  assert.match(await inside(other.pid, `getent ahostsv6 db`), /^fd/);
  await done('detach', other.name);
  assert.doesNotMatch(await inside(one.pid, 'cat /etc/hosts'), /db/);
  assert.doesNotMatch(await inside(other.pid, 'cat /etc/hosts /etc/resolv.conf'), /barehand/);
  // where the loopback's is systemd-resolved, whom that asks
  writeFileSync(join(folder, 'resolv.conf'), 'nameserver 127.0.0.53\n');
  await sh(
    host,
    `mount -t tmpfs tmpfs /run/systemd 2>/dev/null || { mount -t tmpfs tmpfs /run; mkdir /run/systemd; }; mkdir -p /run/systemd/resolve; echo nameserver 198.51.100.1 >/run/systemd/resolve/resolv.conf`,
  );
  await done('attach', other.name);
  assert.match(await inside(other.pid, 'cat /etc/resolv.conf'), /^# .*\nnameserver 198\.51\.100\.1\n/);
  await sh(host, 'umount /etc/resolv.conf');
  for (const { name } of [one, other]) await done('detach', name);
  same(await snapshot(), before);
});

test('a hostile root file system leads to no file of the host', {
  skip: skip || needs('speed'),
}, async () => {
  const before = await snapshot();
  const bait = join(folder, 'bait');
  const root = join(folder, 'root');
  const program = `
    mkdir -p ${bait} ${root}; echo bait >${bait}/hosts; echo bait >${bait}/resolv.conf; mount --bind ${rootfs} ${root}
    mount -t tmpfs tmpfs ${root}/tmp; mkdir ${root}/tmp/upper ${root}/tmp/work
    mount -t overlay -o lowerdir=${rootfs},upperdir=${root}/tmp/upper,workdir=${root}/tmp/work overlay ${root}; cd ${root}`;
  const shapes = [
    `rm -rf etc; ln -s ${bait} etc`,
    `rm -f etc/hosts etc/resolv.conf; ln -s ${bait}/hosts etc/hosts; ln -s ${bait}/resolv.conf etc/resolv.conf`,
    'rm -f etc/hosts etc/resolv.conf; mkfifo etc/hosts etc/resolv.conf',
    'rm -rf etc/hosts etc/resolv.conf; mkdir etc/hosts etc/resolv.conf',
    'rm -rf etc',
    // without an end, or so long that they would fill this machine's memory
    'for name in hosts resolv.conf; do : >etc/$name; mount --bind /dev/urandom etc/$name; done',
    'truncate -s 4G etc/hosts etc/resolv.conf',
  ];
  for (const shape of shapes) {
    const { pid: holder = 0 } = start([
      ...enter(host),
      'unshare',
      '--net',
      '--mount',
      '--propagation',
      'private',
      'sh',
      '-ec',
      `${program}\n${shape}\nexec chroot . sleep 1000`,
    ]);
    await until(shape, async () => (await execute(['cat', `/proc/${holder}/comm`])).stdout === 'sleep\n');
    const { code, stderr } = await network('attach', String(holder), '--dns', '203.0.113.1');
    assert.deepEqual(
      [code, /\/etc\/resolv.conf of .* stays as it is/.test(stderr)],
      [0, true],
      `${shape}: ${stderr}`,
    );
    assert.equal((await network('detach', String(holder))).code, 0);
    assert.deepEqual(
      ['hosts', 'resolv.conf'].map((name) => readFileSync(join(bait, name), 'utf8')),
      ['bait\n', 'bait\n'],
    );
  }
  same(await snapshot(), before);
});

test(
  '--internal has no way out, --isolated none to its neighbours, and no bridge leads to another',
  lab,
  async () => {
    const before = await snapshot();
    const [inner, second, normal, alone] = [
      await container(),
      await container(),
      await container(),
      await container(),
    ];
    const words = ['attach', '--bridge', 'inner', '--internal', '--subnet', '10.9.8.0/24'];
    assert.match(await done(...words, String(inner)), /eth0 has 10\.9\.8\.2 and .* on inner/);
    const settings = await sh(host, 'cat /proc/sys/net/ipv4/ip_forward');
    assert.equal(settings, '0', 'nothing has to be forwarded');
    await done('attach', '--bridge', 'inner', '--ip', '10.9.8.100', String(second));
    assert(await sh(inner, 'ping -c 1 -W 2 10.9.8.100'));
    await done('attach', String(normal));
    await done('attach', '--isolated', String(alone));
    for (const [from, to] of [
      [inner, '203.0.113.1'],
      [inner, '10.88.0.2'],
      [normal, '10.9.8.2'],
      [normal, '10.88.0.3'],
      [alone, '10.88.0.2'],
    ] as const)
      if (from !== alone && to !== '10.88.0.3')
        assert.equal(await sh(from, `ping -c 1 -W 1 ${to}`), undefined, `${from} ${to}`);
    // a default route of its own making leads it nowhere either
    await sh(inner, 'ip route add default via 10.9.8.1');
    assert.equal(await sh(inner, 'ping -c 1 -W 1 203.0.113.1'), undefined);
    assert(await sh(alone, 'ping -c 1 -W 2 203.0.113.1'));
    const third = await container();
    await done('attach', '--isolated', String(third));
    assert.equal(await sh(alone, 'ping -c 1 -W 1 10.88.0.4'), undefined);
    const refused = await network('publish', String(inner), '80:80');
    assert.match(refused.stderr, /an --internal network has no way in/);
    // on two networks at once
    assert.match(await done('attach', '--bridge', 'inner', String(normal)), /eth1 has 10\.9\.8\.3/);
    assert(await sh(normal, 'ping -c 1 -W 2 10.9.8.2 && ping -c 1 -W 2 203.0.113.1'));
    await done('detach', '--bridge', 'inner', String(normal));
    for (const pid of [normal, alone, third]) await done('detach', String(pid));
    assert.equal(await sh(host, 'cat /proc/sys/net/ipv4/ip_forward'), '0');
    for (const pid of [inner, second]) await done('detach', String(pid));
    same(await snapshot(), before);
  },
);

long(
  'fifty at the same moment have addresses of their own; a subnet that is full says so',
  {
    skip: skip || needs('speed'),
  },
  async () => {
    const before = await snapshot();
    const pids = await Promise.all(Array.from({ length: 50 }, container));
    const results = await Promise.all(pids.map((pid) => network('attach', '--bridge', 'crowd', String(pid))));
    const addresses = results.map(({ stdout }) => addressIn(stdout));
    assert.equal(new Set(addresses).size, 50, results.map(({ stderr }) => stderr).join(''));
    assert(addresses.every((address) => address.startsWith('10.88.0.')));
    for (const pid of pids.slice(1, 4))
      assert(await sh(pids[0] as number, `ping -c 1 -W 2 ${addresses[pids.indexOf(pid)]}`));
    await Promise.all(pids.slice(0, 3).map((pid) => done('detach', String(pid))));
    await endAll(pids.slice(6));
    await done('sweep');
    for (const pid of pids.slice(3, 6)) await done('detach', String(pid));
    same(await snapshot(), before);

    const few = pids.slice(0, 6);
    const small = await Promise.all(
      few.map((pid) => network('attach', '--bridge', 'small', '--subnet', '10.7.7.8/29', String(pid))),
    );
    assert.equal(small.filter(({ code }) => code === 0).length, 5);
    assert.match(small.map(({ stderr }) => stderr).join(''), /all addresses of 10\.7\.7\.8\/29 are in use/);
    const free = few.find((_, index) => small[index]?.code === 1);
    const taken = await network('attach', '--bridge', 'small', '--ip', '10.7.7.10', String(free));
    assert.match(taken.stderr, /10\.7\.7\.10 is in use/);
    await endAll(few);
    await done('sweep');
    same(await snapshot(), before);
  },
);

long('limit: so much and no more, each way', { skip: skip || needs('iperf3', 'tc', 'speed') }, async () => {
  const [one, other] = [await container(), await container()];
  await done('attach', String(one));
  await done('attach', String(other));
  const measure = async (...words: string[]) => {
    start([...enter(other), 'iperf3', '-s', '-1', '-p', '5301']);
    // the server may be about to start
    const said = await until('iperf3', async () => {
      const json = await sh(one, `iperf3 -c 10.88.0.3 -p 5301 -t 1.5 -O 0.5 -J ${words.join(' ')}`);
      return json?.includes('"sum_received"') && json;
    });
    return JSON.parse(said).end.sum_received.bits_per_second / 1e6;
  };
  await done('limit', String(one), '--rate-in', '50M', '--rate-out', '20M');
  const out = await measure();
  const into = await measure('-R');
  assert(out > 16 && out < 22, `out: ${out}`);
  assert(into > 40 && into < 55, `in: ${into}`);
  await done('limit', String(one), '--rate', '0');
  await done('limit', String(one), '--rate', '0');
  assert((await measure()) > 200);
  for (const pid of [one, other]) await done('detach', String(pid));
});

type Wall = [make: string, owner: RegExp, unmake: string];
const nftWall: Wall = [
  'nft add table inet wall; nft "add chain inet wall through { type filter hook forward priority 0; policy drop; }"',
  /nft's table inet wall drops/,
  'nft delete table inet wall',
];
const wallsOf = (iptables: string): Wall[] => [
  [
    `${iptables} -N DOCKER-USER; ${iptables} -A DOCKER-USER -j RETURN; ${iptables} -A FORWARD -j DOCKER-USER; ${iptables} -P FORWARD DROP`,
    /Docker drops/,
    `${iptables} -P FORWARD ACCEPT; ${iptables} -F; ${iptables} -X`,
  ],
  [`${iptables} -A FORWARD -j REJECT`, /iptables(-legacy)? drops/, `${iptables} -F`],
];

test('a firewall that drops what is forwarded is named, with the command that mends it', lab, () =>
  isNamed([nftWall]),
);
for (const { flavour, missing } of flavours)
  long(`so are those of ${flavour}`, { skip: missing }, () => isNamed(wallsOf(flavour)));

async function isNamed(walls: Wall[]): Promise<void> {
  const clean = await snapshot();
  const one = await container();
  const program = 'ping -c 1 -W 1 203.0.113.1';
  for (const [make, owner, unmake] of walls) {
    await sh(host, make);
    const { code, stderr } = await network('attach', String(one));
    const line = stderr.split('\n').find((line) => owner.test(line)) ?? '';
    assert.deepEqual([code, line !== ''], [0, true], `${make}: ${stderr}`);
    assert.equal(await sh(one, program), undefined);
    const commands = line.slice(line.indexOf('in or out: ') + 'in or out: '.length);
    assert((await sh(host, commands.replaceAll(';', ' &&'))) !== undefined, commands);
    assert(await sh(one, program), commands);
    await done('detach', String(one));
    await done('attach', String(one)); // it knows the bridge now: nothing to say
    await done('detach', String(one));
    await sh(host, unmake);
  }
  // iptables' own empty tables stay
  await sh(host, 'nft delete table ip filter; nft delete table ip6 filter; nft delete table ip nat');
  same(await snapshot(), clean);
}

/** Types a shell program on the host, which has to end well and without a word. */
async function type(text: string): Promise<void> {
  const result = await execute([...enter(host), 'sh', '-e'], { input: text });
  assert.deepEqual(result, { code: 0, signal: null, stdout: '', stderr: '' }, text);
}

/** A snapshot without what is new each time: index and hardware address of interfaces. */
const plain = (text: string) =>
  text
    .replace(/\b([\da-f]{2}:){5}[\da-f]{2}\b|fe80::[\da-f:]+/g, '#')
    .replace(/^.*(neigh|inet6 #|\/bh\d|ff00).*$/gm, '');

long('what --dry-run prints has the same effect, and changes nothing until it is typed', slow, async () => {
  const before = await snapshot();
  const [{ name, pid }, other] = [await runContainer(['--ephemeral']), await runContainer(['--ephemeral'])];
  await done('attach', other.name);
  const files = (whose: number) => inside(whose, 'cat /etc/hosts /etc/resolv.conf');
  const state = async () =>
    plain(
      [await snapshot(), await snapshot(pid), await files(pid), await files(other.pid)].join('\n').trim(),
    ).replace(/^.*linkdown.*$/gm, '');
  const without = await state();
  const first = JSON.parse(await done('ls', '--json'));
  const attach = ['--dns', '203.0.113.1', '-p', '8080:80', '--isolated', name];
  const steps: [string, string[]][] = [
    ['attach', attach],
    ['publish', [name, '127.0.0.1:8081:81']],
    ['limit', [name, '--rate', '10M']],
    ['limit', [name, '--rate', '0']],
    ['detach', [name]],
  ];
  const states: string[] = [];
  for (const [command, words] of steps) {
    const earlier = await state();
    const program = await done(command, '--dry-run', ...words);
    same(await state(), earlier);
    await type(program);
    states.push(await state());
  }
  same(states.at(-1) as string, without);
  assert.match(states[0] as string, new RegExp(`10\\.88\\.0\\.3\\t${name}\\t# barehand0\n`));
  for (const [index, [command, words]] of steps.entries()) {
    await done(command, ...words);
    same(await state(), states[index] as string, command);
  }
  // the last one takes the bridge with it, and gives the settings back
  assert.deepEqual(JSON.parse(await done('ls', '--json')), first);
  await type(await done('detach', '--dry-run', other.name));
  same(await snapshot(), before);
  // a bridge of its own
  await type(await done('attach', '--dry-run', '--bridge', 'typed', name));
  const typed = await state();
  process.kill(pid, 'SIGKILL');
  await until('its interface to go', async () => !(await sh(host, 'ip -o link show master typed')));
  await type(await done('sweep', '--dry-run'));
  same(await snapshot(), before);
  assert.match(typed, / typed /);
});

long('what is printed for a container that is not there yet attaches it', slow, async () => {
  const before = await snapshot();
  const one = await container();
  const module = `const { printAttach } = await import('${top}/scripts/network/network.ts');
    const { variable } = await import('${top}/scripts/helpers/shell.ts');
    const { toShell } = await import('${top}/scripts/helpers/steps.ts');
    const ports = [{ host: undefined, hostPort: 8080, port: 80, protocol: 'tcp' }];
    const container = { name: 'web', pid: variable('pid'), inode: variable('inode') };
    const request = { bridge: 'barehand0', ports, noFiles: true };
    process.stdout.write(toShell(await printAttach(request, container)));`;
  const program = await inModule(module);
  same(await snapshot(), before);
  await type(`pid=${one}; inode=$(stat --dereference --format %i "/proc/$pid/ns/net")\n${program}`);
  const typed = plain(await snapshot());
  assert.match(await done('ls'), /^NAME .*\nweb +\d+ +barehand0 +bh\d+ .* 8080:80$/m);
  assert(await sh(one, 'ping -c 1 -W 2 203.0.113.1'));
  await done('detach', String(one));
  await done('attach', '--name', 'web', '-p', '8080:80', String(one));
  same(plain(await snapshot()), typed);
  // whoever is told of the end of a container takes away all that it had, whether its interface is there still or not
  const inode = Number(/\d+/.exec(namespace(one, 'net'))?.[0]);
  const leave = `await (await import('${top}/scripts/network/network.ts')).leave(${inode})`;
  await inModule(leave);
  same(await snapshot(), before);
  await done('attach', '-p', '8080:80', String(one));
  await endAll([one]);
  await inModule(leave);
  same(await snapshot(), before);
});

/** Runs a module in the host's place, which has to end well and without a word on stderr. */
async function inModule(text: string): Promise<string> {
  const node = [process.execPath, ...stripTypes, '--input-type=module', '--eval', text];
  const { code, stdout, stderr } = await execute([...enter(host), ...node]);
  assert.deepEqual([code, stderr], [0, '']);
  return stdout;
}

test('what ended containers and killed calls have left is swept', lab, async () => {
  const before = await snapshot();
  const one = await container();
  await done('attach', '-p', '8080:80', String(one));
  process.kill(one, 'SIGKILL');
  await until(
    'its interface to go',
    async () => !(await sh(host, 'ip -o link show type veth master barehand0')),
  );
  assert.match((await sh(host, 'nft list tables')) ?? '', /barehand-bh/);
  assert.match(await done('sweep'), /^rules of bh\d+: removed\nbarehand0: removed\n$/);
  same(await snapshot(), before);

  // nor do they keep their ports from the next one
  const [dead, next] = [await container(), await container()];
  await done('attach', '-p', '8080:80', String(dead));
  await endAll([dead]);
  await done('attach', '-p', '8080:80', String(next));
  serve(next, 'TCP-LISTEN:80', 'next');
  assert.match(await ask(internet, 'TCP:198.51.100.2:8080'), /^next/);
  await done('detach', String(next));
  same(await snapshot(), before);
  assert.equal(await done('sweep'), '');
});

long(
  'a call that is killed at any of its programs leaves nothing that sweep does not remove',
  lab,
  async () => {
    const before = await snapshot();
    const one = await container();
    const bin = join(folder, 'bin');
    const killed = join(folder, 'killed');
    // each program of a call counts itself, and the one that is asked for kills node before it does anything
    mkdirSync(bin);
    for (const program of ['flock', 'ip', 'nft', 'nsenter']) {
      const real = (await sh(host, `command -v ${program}`)) as string;
      const text = `#!/bin/sh
n=1; while ! mkdir "$counted/$n" 2>/dev/null; do n=$((n + 1)); done
[ "$n" != "$last" ] || { : >${killed}; kill -KILL "$caller"; exit 1; }
exec ${real} "$@"
`;
      writeFileSync(join(bin, program), text, { mode: 0o755 });
    }
    const attempt = async (last: number, ...words: string[]) => {
      rmSync(killed, { force: true });
      const counted = mkdtempSync(join(folder, 'counted-'));
      const program = `export PATH=${bin}:$PATH counted=${counted} last=${last} caller=$$; exec "$@"`;
      const { code } = await execute([
        ...enter(host),
        'sh',
        '-c',
        program,
        'sh',
        script('network'),
        ...words,
      ]);
      if (!existsSync(killed)) assert.equal(code, 0);
      return existsSync(killed);
    };
    const isWhole = async () => JSON.parse(await done('ls', '--json')).length > 0;
    let last = 1;
    for (; await attempt(last, 'attach', '-p', '8080:80', String(one)); last++) {
      await done('sweep');
      // all that it wanted is there, or nothing is
      if (await isWhole()) {
        assert(await sh(one, 'ping -c 1 -W 2 203.0.113.1'), `killed at program ${last}`);
        await done('detach', String(one));
      }
      same(await snapshot(), before, `killed at program ${last}`);
    }
    assert(last > 7, `killed at ${last - 1} programs`);
    for (last = 1; await attempt(last, 'detach', String(one)); last++) {
      await done('sweep');
      if (await isWhole()) continue;
      same(await snapshot(), before, `killed at program ${last}`);
      await done('attach', '-p', '8080:80', String(one));
    }
    assert(last > 4, `killed at ${last - 1} programs`);
    same(await snapshot(), before);
  },
);

test('without CAP_NET_ADMIN it is said in a line what is missing', lab, async () => {
  const weak = ['setpriv', '--inh-caps=-net_admin', '--bounding-set=-net_admin'];
  const one = await container();
  for (const words of [['ls'], ['attach', String(one)], ['sweep']]) {
    const { code, stdout, stderr } = await execute([...enter(host), ...weak, script('network'), ...words]);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^network: cannot run nft .*: .*CAP_NET_ADMIN.*\n$/);
  }
});

test('forwarding that was on stays on, and so does what a router told', lab, async () => {
  const before = await snapshot();
  await sh(
    host,
    'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects',
  );
  await sh(
    host,
    'ip -6 route del default; ip -6 route add default via 2001:db8::1 dev eth0 proto ra expires 1000',
  );
  const with1 = (await snapshot()).replaceAll(/expires \d+sec/g, '');
  const one = await container();
  await done('attach', String(one));
  assert.equal(await sh(host, 'cat /proc/sys/net/ipv6/conf/eth0/accept_ra'), '2');
  assert(await sh(one, 'ping -c 1 -W 2 2001:db8::1'));
  await done('detach', String(one));
  same((await snapshot()).replaceAll(/expires \d+sec/g, ''), with1);
  await sh(
    host,
    'echo 0 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv4/conf/all/accept_redirects',
  );
  await sh(host, 'ip -6 route del default; ip -6 route add default via 2001:db8::1');
  same(await snapshot(), before);
});

for (const { flavour, missing } of flavours)
  long(`without nft it is done with ${flavour}`, { skip: missing }, () => withIptables(flavour, withoutNft));

async function withoutNft(): Promise<void> {
  const rules = () => sh(host, 'iptables-save; ip6tables-save');
  await sh(host, 'for table in raw nat filter; do iptables -t $table -S; ip6tables -t $table -S; done');
  const before = [await snapshot(), (await rules())?.match(/^-A .*$|^:barehand.*$/gm)?.join('\n')];
  const nft = ((await sh(host, 'command -v nft')) ?? '').trim();
  const tables =
    (await sh(host, 'iptables -P FORWARD DROP; ip6tables -P FORWARD DROP; nft list tables')) ?? '';
  await sh(host, `for file in /usr/sbin/nft /sbin/nft ${nft}; do mount --bind /dev/null "$file"; done`);
  const [one, other] = [await container(), await container()];
  try {
    await done('attach', '-p', '8080:80', String(one));
    await done('attach', String(other));
    await done('publish', String(one), '127.0.0.1:8081:80');
    serve(one, 'TCP-LISTEN:80', 'web');
    serve(internet, 'TCP-LISTEN:83', 'tcp');
    assert.equal(await ask(other, 'TCP:203.0.113.1:83'), 'tcp 198.51.100.2');
    assert.equal(await ask(internet, 'TCP:198.51.100.2:8080'), 'web 198.51.100.1');
    for (const target of ['TCP:127.0.0.1:8080', 'TCP:127.0.0.1:8081', 'TCP:198.51.100.2:8080'])
      assert.match(await ask(host, target), /^web/);
    assert.match(await ask(one, 'TCP:198.51.100.2:8080'), /^web/);
    assert(await sh(one, 'ping -c 1 -W 2 2001:db8::1'));
    assert.match((await network('publish', String(other), '8080:1')).stderr, /is published already/);
    const [{ ports }] = JSON.parse(await done('ls', '--json'));
    assert.equal(ports.length, 2);
    // a newer bridge, whose chain is asked first, leads to published ports only
    const third = await container();
    await done('attach', '--bridge', 'newer', String(third));
    assert.match(await ask(third, 'TCP:198.51.100.2:8080'), /^web/);
    assert.equal(await ask(third, 'TCP:203.0.113.1:83'), 'tcp 198.51.100.2');
    assert.equal(await sh(third, 'ping -c 1 -W 1 10.88.0.2'), undefined);
    assert.equal(await sh(one, 'ping -c 1 -W 1 10.89.0.2'), undefined);
    await done('detach', String(third));
    await done('detach', String(one));
    process.kill(other, 'SIGKILL');
    await until(
      'its interface to go',
      async () => !(await sh(host, 'ip -o link show type veth master barehand0')),
    );
    await done('sweep');
  } finally {
    await sh(host, `for file in /usr/sbin/nft /sbin/nft ${nft}; do umount "$file"; done`);
    await sh(host, 'iptables -P FORWARD ACCEPT; ip6tables -P FORWARD ACCEPT');
  }
  assert.equal((await rules())?.match(/^-A .*$|^:barehand.*$/gm)?.join('\n'), before[1]);
  // iptables-nft leaves tables that are empty
  const others = (text = '') => text.replace(/^table ip6? \w+ \{[\s\S]*?^\}\n/gm, '').replace(/\n+/g, '\n');
  same(others(await snapshot()), others(before[0]), tables);
}

test('without root pasta carries the packets', {
  skip: needs('root', 'user-namespaces', 'pasta', 'speed'),
}, async () => {
  // some hosts have it for root alone
  await sh(host, 'mount -t tmpfs tmpfs /dev/net; mknod -m 666 /dev/net/tun c 10 200');
  const asUser = become(65534);
  const holder = start([
    ...enter(host),
    ...asUser,
    'unshare',
    '--user',
    '--map-root-user',
    '--net',
    'sleep',
    '1000',
  ]);
  const pid = String(holder.pid);
  await until(
    'its namespace',
    async () => (await execute(['cat', `/proc/${pid}/comm`])).stdout === 'sleep\n',
  );
  const user = (...words: string[]) => execute([...enter(host), ...asUser, script('network'), ...words]);
  const { code, stdout, stderr } = await user('attach', '-p', '8088:8000', pid);
  assert.deepEqual([code, stdout, stderr], [0, `${pid}: carried by pasta\n`, '']);
  serve(internet, 'TCP-LISTEN:84', 'tcp');
  const namespaces = ['nsenter', '--target', pid, '--user', '--net', '--preserve-credentials'];
  const answer = await until(
    'an answer',
    async () =>
      (
        await execute([...namespaces, 'timeout', '2', 'socat', '-t1', '-', 'TCP:203.0.113.1:84'], {
          input: '',
        })
      ).stdout || undefined,
  );
  // passt 2023 says it again and again when one side closes at once
  assert.match(answer, /^tcp 198\.51\.100\.2\n/);
  start([...namespaces, 'socat', 'TCP-LISTEN:8000,fork,reuseaddr', 'SYSTEM:echo web']);
  assert.equal(await ask(internet, 'TCP:198.51.100.2:8088'), 'web');
  assert.match((await user('ls')).stdout, /pasta/);
  const isOver = async () => JSON.parse((await user('ls', '--json')).stdout).length === 0;
  assert.equal((await user('detach', pid)).code, 0);
  await until('it to end', isOver);
  assert.equal((await user('attach', pid)).code, 0);
  holder.kill('SIGKILL');
  await until('it to end with the container', isOver);
});

long('wrong usage is refused in a line', slow, async () => {
  const own = String(host);
  const wrong: [string[], RegExp][] = [
    [['frobnicate'], /there is no command frobnicate: attach, publish/],
    [['attach'], /attach needs a TARGET/],
    [['attach', 'a', 'b'], /one operand too many: b/],
    [['publish', '1'], /publish needs a port/],
    [['publish', '1', '80'], /a port is \[IP:\]HOSTPORT:PORT/],
    [['publish', '1', '0:80'], /a port is/],
    [['publish', '1', '70000:80'], /a port is/],
    [['publish', '1', '999.1.1.1:80:80'], /a port is/],
    [['attach', '--bridge', 'a b', '1'], /--bridge is a name/],
    [['attach', '--bridge', 'sixteen-letters-', '1'], /--bridge is a name/],
    [['attach', '--subnet', '10.0.0.0/8', '1'], /--subnet is like 10\.88\.0\.0\/16/],
    [['attach', '--subnet', 'fd00::/64', '1'], /--subnet is like/],
    [['attach', '--ip', 'x', '1'], /--ip is an IPv4 address/],
    [['attach', '--dns', 'x', '1'], /--dns is an IP address/],
    [['attach', '--rate', '1M', '1'], /--rate does not go with attach/],
    [['limit', '1'], /limit needs --rate/],
    [['limit', '1', '--rate', 'fast'], /a rate is bits per second/],
    [['ls', 'web'], /one operand too many: web/],
    [['attach', '../x'], /neither a name nor a PID/],
  ];
  const failing: [string[], RegExp][] = [
    [['attach', '4194399'], /there is no process 4194399/],
    [['attach', own], /has the host's network/],
    [['attach', 'no-such'], /there is no container no-such/],
    [['detach', String(internet)], /is on no bridge/],
    [['attach', '--bridge', 'eth0', String(internet)], /eth0 is not a bridge of network\.ts/],
    [['attach', '--subnet', '198.51.100.0/28', String(internet)], /overlaps with 198\.51\.100\.0\/24/],
    [
      ['attach', '--ip', '10.9.9.9', String(internet)],
      /is not an address for a container in 10\.88\.0\.0\/16/,
    ],
    [['attach', '--ip', '10.88.0.1', String(internet)], /whose first is the host's/],
  ];
  const results = await Promise.all(wrong.map(([words]) => network(...words)));
  for (const [index, [words, expected]] of wrong.entries()) {
    const { code, stdout, stderr } = results[index] as (typeof results)[number];
    assert.deepEqual([code, stdout], [2, ''], `${words.join(' ')}: ${stderr}`);
    assert.match(stderr, expected);
    assert.match(stderr, /^network: [^\n]+\n$/);
  }
  const failed = await Promise.all(failing.map(([words]) => network(...words)));
  for (const [index, [words, expected]] of failing.entries()) {
    const { code, stdout, stderr } = failed[index] as (typeof failed)[number];
    assert.deepEqual([code, stdout], [1, ''], `${words.join(' ')}: ${stderr}`);
    assert.match(stderr, expected);
    assert.equal(stderr.split('\n').length, 2);
  }
});
