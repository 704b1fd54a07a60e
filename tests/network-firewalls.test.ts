// ufw(8) itself, not an imitation: what attach says of it is typed. Its files are copies, in the host's mount namespace.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { needs } from './helpers/needs.ts';
import {
  ask,
  container,
  done,
  flavours,
  host,
  internet,
  isClosed,
  network,
  same,
  serve,
  sh,
  snapshot,
  withIptables,
} from './helpers/network-lab.ts';

const outside = ['TCP:203.0.113.1:83', 'TCP6:[2001:db8::1]:83'];
const published = ['TCP:198.51.100.2:8080', 'TCP6:[2001:db8::2]:8080'];

for (const { flavour, missing } of flavours)
  test(
    `ufw with ${flavour} is named, and what is said to be typed lets a bridge through`,
    {
      skip: needs('ufw') || missing,
    },
    () => withIptables(flavour, tryUfw),
  );

async function type(commands: string): Promise<void> {
  assert.notEqual(await sh(host, commands), undefined, commands);
}

async function tryUfw(): Promise<void> {
  const all = (from: number, targets: string[], probe: typeof isClosed | typeof ask) =>
    Promise.all(targets.map((target) => probe(from, target)));
  // no setting of its file that is the whole machine's
  await type(`mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /mnt; mkdir /mnt/new /mnt/work
    mount -t overlay -o lowerdir=/etc,upperdir=/mnt/new,workdir=/mnt/work overlay /etc
    sed -i '\\,^net/,!d' /etc/ufw/sysctl.conf; ufw --force reset; ufw --force enable`);
  try {
    const before = await snapshot();
    const one = await container();
    serve(one, 'TCP-LISTEN:80', 'web');
    serve(one, 'TCP6-LISTEN:80,ipv6only', 'web');
    serve(internet, 'TCP-LISTEN:83', 'tcp');
    serve(internet, 'TCP6-LISTEN:83,ipv6only', 'tcp');
    const { code, stderr } = await network('attach', '--no-files', '-p', '8080:80', String(one));
    const [, commands = ''] = /^network: ufw drops what .* in or out: (ufw .*)\n$/.exec(stderr) ?? [];
    assert.deepEqual([code, commands !== ''], [0, true], stderr);
    await all(host, [...outside, 'TCP:127.0.0.1:8080', ...published], ask); // the host itself is let through
    assert.deepEqual(await all(one, outside, isClosed), [true, true]);
    assert.deepEqual(await all(internet, published, isClosed), [true, true]);
    await type(commands.replaceAll(';', ' &&'));
    for (const now of ['true', 'ufw default reject routed', 'ufw default deny routed']) {
      await type(now);
      assert.match((await all(one, outside, ask)).join(), /^tcp .*,tcp /, now);
      assert.match((await all(internet, published, ask)).join(), /^web .*,web /, now);
    }
    await done('detach', String(one));
    await done('attach', String(one)); // nothing has to be said now
    await done('detach', String(one));
    await type(commands.replaceAll(';', ' &&').replaceAll('ufw route', 'ufw route delete'));
    same(await snapshot(), before);
  } finally {
    await sh(host, 'ufw --force disable; umount /etc; umount /mnt; umount /run');
  }
}
