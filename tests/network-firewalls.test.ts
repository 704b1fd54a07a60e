// Firewalls of others, not imitations of them: what attach says of one is typed. They have copies of their files, in the
// host's mount namespace, and firewalld(1) a bus of its own.
import assert from 'node:assert/strict';
import { needs } from './helpers/needs.ts';
import {
  ask,
  container,
  done,
  enter,
  flavours,
  host,
  internet,
  isClosed,
  network,
  same,
  serve,
  sh,
  skip,
  snapshot,
  start,
  withIptables,
} from './helpers/network-lab.ts';
import { until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const outside = ['TCP:203.0.113.1:83', 'TCP6:[2001:db8::1]:83'];
const published = ['TCP:198.51.100.2:8080', 'TCP6:[2001:db8::2]:8080'];

for (const { flavour, missing } of flavours)
  test(
    `ufw with ${flavour} is named, and what is said to be typed lets a bridge through`,
    {
      skip: needs('ufw') || missing,
    },
    () =>
      withIptables(flavour, () =>
        withCopies(async () => {
          // no setting of its file that is the whole machine's
          await type("sed -i '\\,^net/,!d' /etc/ufw/sysctl.conf; ufw --force reset; ufw --force enable");
          await tryAdvice('ufw', [true, true], ['ufw default reject routed', 'ufw default deny routed']);
          await type('ufw --force disable');
        }),
      ),
  );

test(
  'firewalld is named, and what is said to be typed lets a bridge through',
  {
    skip: skip || needs('firewalld', 'dbus-daemon', 'speed'),
  },
  () =>
    withCopies(async () => {
      await type('mkdir /run/dbus');
      start([...enter(host), 'dbus-daemon', '--system', '--nofork', '--nopidfile']);
      await until('the bus', () => sh(host, 'test -S /run/dbus/system_bus_socket'));
      const firewalld = start([...enter(host), 'firewalld', '--nofork', '--nopid']);
      await until('firewalld', () => sh(host, 'firewall-cmd --state'));
      // it lets in what some rule of NAT's has led elsewhere
      await tryAdvice('firewalld', [false, false], ['firewall-cmd --reload']);
      firewalld.kill();
      await until('firewalld to end', async () => !(await sh(host, 'nft list table inet firewalld')));
    }),
);

async function type(commands: string): Promise<void> {
  assert.notEqual(await sh(host, commands), undefined, commands);
}

/** Whatever is written to the host's files meanwhile is gone at the end. */
async function withCopies(run: () => Promise<void>): Promise<void> {
  await type(`for folder in /run /var/log /mnt; do mount -t tmpfs tmpfs $folder; done; mkdir /mnt/new /mnt/work
    mount -t overlay -o lowerdir=/etc,upperdir=/mnt/new,workdir=/mnt/work overlay /etc`);
  try {
    await run();
  } finally {
    await sh(host, 'for folder in /etc /mnt /var/log /run; do umount -l $folder; done');
  }
}

/** `closed`: whether a published port is, by IPv4 and IPv6, until the commands are typed; `changes` change nothing then. */
async function tryAdvice(owner: string, closed: boolean[], changes: string[]): Promise<void> {
  const all = (from: number, targets: string[], probe: typeof isClosed | typeof ask) =>
    Promise.all(targets.map((target) => probe(from, target)));
  const before = await snapshot();
  const one = await container();
  serve(one, 'TCP-LISTEN:80', 'web');
  serve(one, 'TCP6-LISTEN:80,ipv6only', 'web');
  serve(internet, 'TCP-LISTEN:83', 'tcp');
  serve(internet, 'TCP6-LISTEN:83,ipv6only', 'tcp');
  const { code, stderr } = await network('attach', '--no-files', '-p', '8080:80', String(one));
  const [, name, commands = ''] = /^network: (.*) drops what .* in or out: (.*)\n$/.exec(stderr) ?? [];
  assert.deepEqual([code, name], [0, owner], stderr);
  await all(host, [...outside, 'TCP:127.0.0.1:8080', ...published], ask); // the host itself is let through
  assert.deepEqual(await all(one, outside, isClosed), [true, true]);
  assert.deepEqual(await all(internet, published, isClosed), closed);
  await type(commands.replaceAll(';', ' &&'));
  for (const now of ['true', ...changes]) {
    await type(now);
    assert.match((await all(one, outside, ask)).join(), /^tcp .*,tcp /, now);
    assert.match((await all(internet, published, ask)).join(), /^web .*,web /, now);
  }
  await done('detach', String(one));
  await done('attach', String(one)); // nothing has to be said now
  await done('detach', String(one));
  const undo = commands.replaceAll('ufw route', 'ufw route delete').replaceAll('--add-', '--remove-');
  await type([...undo.split(';'), changes.at(-1)].join(' && ')); // firewalld keeps empty chains until it is loaded anew
  same(await snapshot(), before);
}
