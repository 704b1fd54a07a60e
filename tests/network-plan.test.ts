// What networks are planned with, without a network: addresses, ports, whose firewall it is.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatAddress,
  formatSubnet,
  freeSubnet,
  localSubnet,
  overlap,
  parseAddress,
  parsePort,
  parseSubnet,
  publishedUrl,
  type Subnet,
} from '../scripts/network/addresses.ts';
import { advice } from '../scripts/network/advice.ts';
import type { Expression, NftObject } from '../scripts/network/rules.ts';
import { parseRate, planRate } from '../scripts/network.ts';

const subnet = (text: string) => parseSubnet(text) as Subnet;

test('addresses are read and written as people do', () => {
  for (const [text, written] of [
    ['10.88.0.2', '10.88.0.2'],
    ['::', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['FD00:0:0:1::2', 'fd00:0:0:1::2'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
    ['::ffff:1.2.3.4', '::ffff:102:304'],
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
  ] as const) {
    const { version, number } = parseAddress(text) as { version: 4 | 6; number: bigint };
    assert.equal(formatAddress(version, number), written);
  }
  for (const text of ['', '1.2.3', '1.2.3.256', 'fe80::1%eth0', 'x', '1:2:3', '::g'])
    assert.equal(parseAddress(text), undefined, text);
  assert.equal(formatSubnet(subnet('10.88.3.4/16')), '10.88.0.0/16');
  for (const text of ['10.0.0.0/33', 'fd00::/129', '/8', 'default'])
    assert.equal(parseSubnet(text), undefined, text);
});

test('a subnet that is free overlaps with none in use', async () => {
  const free = (...used: string[]) => formatSubnet(freeSubnet(used.map(subnet)) as Subnet);
  assert.equal(free('192.168.1.0/24', '0.0.0.0/32'), '10.88.0.0/16');
  assert.equal(free('10.88.7.0/24', '10.89.0.1'), '10.90.0.0/16');
  assert.equal(free('10.0.0.0/8'), '172.16.0.0/16');
  assert.equal(free('10.0.0.0/8', '172.16.0.0/12'), '192.168.255.0/24');
  assert.equal(freeSubnet([subnet('0.0.0.0/0')]), undefined);
  assert.equal(overlap(subnet('10.0.0.0/8'), subnet('fd00::/8')), false);
  const local = await localSubnet('a host and a bridge');
  assert.match(formatSubnet(local), /^fd[\da-f]{2}:[\da-f]{1,4}:[\da-f]{1,4}::\/64$/);
  assert.deepEqual(await localSubnet('a host and a bridge'), local);
  assert.notDeepEqual(await localSubnet('another'), local);
});

test('ports and rates', () => {
  const tcp = { host: undefined, hostPort: 8080, port: 80, protocol: 'tcp' };
  assert.deepEqual(parsePort('8080:80'), tcp);
  assert.deepEqual(parsePort('0.0.0.0:8080:80'), tcp);
  assert.deepEqual(parsePort('127.0.0.1:53:5353/udp'), {
    host: '127.0.0.1',
    hostPort: 53,
    port: 5353,
    protocol: 'udp',
  });
  assert.deepEqual(parsePort('[fd00::1]:80:80/tcp').host, 'fd00::1');
  const urls = '8080:80 10.0.0.1:81:3000 [fd00::1]:8443:443 5432:5432 53:80/udp'.split(' ');
  assert.deepEqual(
    urls.map((word) => publishedUrl(parsePort(word))),
    'http://127.0.0.1:8080 http://10.0.0.1:81 https://[fd00::1]:8443 tcp://127.0.0.1:5432 udp://127.0.0.1:53'.split(
      ' ',
    ),
  );
  for (const text of ['80', '0:80', '80:0', '65536:80', '1.2.3:80:80', '80:80/sctp', 'a:b', '80:80;x'])
    assert.throws(() => parsePort(text), /a port is/, text);
  assert.deepEqual(
    ['10M', '1.5M', '8000', '100kbit', '2G', '0'].map(parseRate),
    [1e7, 1.5e6, 8000, 1e5, 2e9, 0],
  );
  for (const text of ['', '10', '10MB', '-1M', '1T', '999G'])
    assert.throws(() => parseRate(text), /a rate is/, text);
  assert.deepEqual(planRate(['nsenter'], 'eth0', 1e7, false), [
    {
      run: 'nsenter tc qdisc replace dev eth0 root tbf rate 10000000bit burst 65536b latency 100ms'.split(
        ' ',
      ),
    },
  ]);
  assert.deepEqual(planRate([], 'bh1', 0, false), []);
  assert.deepEqual(planRate([], 'bh1', 0, true), [{ run: 'tc qdisc del dev bh1 root'.split(' ') }]);
});

test('who drops what is forwarded, and what lets it through', () => {
  const accept = { policy: 'accept', hook: 'forward' };
  const drop = { policy: 'drop', hook: 'forward' };
  const chain = (words: string, rest: { policy?: string; hook?: string } = {}): NftObject => {
    const [family = '', table = '', name = ''] = words.split(' ');
    return { chain: { family, table, name, ...rest } };
  };
  const rule = (words: string, ...expr: Expression[]): NftObject => {
    const [family = '', table = '', chain = ''] = words.split(' ');
    return { rule: { family, table, chain, expr } };
  };
  const told = (...objects: NftObject[]) => advice('barehand0', objects).join();
  assert.equal(told(chain('inet filter forward', accept)), '');
  assert.equal(told(chain('inet barehand-inner forward', drop)), '');
  assert.equal(told(chain('ip filter INPUT', { hook: 'input', policy: 'drop' })), '');
  // what is dropped is not all: of one interface only
  const match = { match: { op: '==', left: { meta: { key: 'iifname' } }, right: 'eth7' } };
  assert.equal(
    told(chain('inet filter forward', accept), rule('inet filter forward', match, { drop: null })),
    '',
  );
  assert.match(
    told(chain('ip filter DOCKER-USER'), chain('ip filter FORWARD', drop)),
    /^Docker drops .*: iptables -I DOCKER-USER -i barehand0 -j ACCEPT; iptables -I DOCKER-USER -o barehand0 -j ACCEPT$/,
  );
  assert.match(
    told(chain('ip filter ufw-user-forward'), chain('ip filter FORWARD', drop)),
    /^ufw drops .*: ufw route allow in on barehand0; ufw route allow out on barehand0$/,
  );
  assert.match(
    told(
      chain('inet firewalld filter_FORWARD', accept),
      rule('inet firewalld filter_FORWARD', { reject: { type: 'icmpx', expr: 'admin-prohibited' } }),
    ),
    /^firewalld drops .*: firewall-cmd --zone=trusted --add-interface=barehand0; firewall-cmd --permanent --zone=trusted --add-interface=barehand0$/,
  );
  assert.match(
    told(
      chain('inet filter forward', accept),
      rule('inet filter forward', { counter: { packets: 1, bytes: 2 } }, { drop: null }),
    ),
    /: nft insert rule inet filter forward iifname barehand0 accept; nft insert rule inet filter forward oifname barehand0 accept$/,
  );
});
