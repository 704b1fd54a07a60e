// Who a command runs as: what is asked for, what the container's own passwd and group say, and where there is no such user.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { findUser, parseUser } from '../scripts/run/command.ts';
import { container, start } from './helpers/container.ts';
import { each, inside, refused, said } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const scratch = scratchFolder('run-user');
const root = join(scratch, 'root');
const how = { root };

/** Lines that the container may have written: what is wrong with each is its name, or stands before it. */
const passwd = `root:x:0:0::/root:/bin/sh
1234:x:0:0::/root:/bin/sh
plain:x:1000:1001::/home/plain:/bin/sh
again:x:1000:1002::/home/again:/bin/sh
padded:x:0001003:001004::/home/padded:/bin/sh
last:x:2147483647:2147483647::/home/last:/bin/sh
beyond:x:2147483648:5::/:/bin/sh
nobody-changes:x:4294967295:5::/:/bin/sh
wraps:x:4294967296:5::/:/bin/sh
wraps-far:x:18446744073709551616:5::/:/bin/sh
group-beyond:x:1010:4294967295::/:/bin/sh
group-wraps:x:1011:4294967296::/:/bin/sh
negative:x:-1:5::/:/bin/sh
blank:x: 0:0::/:/bin/sh
signed:x:+0:0::/:/bin/sh
hexadecimal:x:0x0:0::/:/bin/sh
empty:x:::/:/bin/sh
short:x:1012
:x:1013:1013::/:/bin/sh
second:x:4294967296:0::/:/bin/sh
second:x:1014:1014::/home/second:/bin/sh
`;
const group = `root:x:0:
77:x:0:
staff:x:50:plain,root
more:x:51:plain
more-again:x:51:plain
last:x:2147483647:
beyond:x:2147483648:plain
wraps:x:4294967296:plain
none:x:4294967295:plain
short
empty:x::plain
`;
const show = 'id -u; id -g; id -G; echo $HOME';

before(async () => {
  if (container.skip) return;
  mkdirSync(root);
  await execute(['cp', '-a', `${rootfs}/.`, root]);
  writeFileSync(join(root, 'etc/passwd'), passwd);
  writeFileSync(join(root, 'etc/group'), group);
});

/** What is asked for; user, group, all groups, home that it gives. */
const given: [user: string, uid: number, gid: number, groups: string, home: string][] = [
  ['0', 0, 0, '0 50', '/root'],
  ['root', 0, 0, '0 50', '/root'],
  // a number is an ID, whatever is called so
  ['1234', 1234, 0, '0', '/'],
  ['0:77', 0, 77, '77', '/root'],
  ['plain', 1000, 1001, '1001 50 51', '/home/plain'],
  // the first line of an ID counts, and zeros before it mean nothing
  ['1000', 1000, 1001, '1001 50 51', '/home/plain'],
  ['01000', 1000, 1001, '1001 50 51', '/home/plain'],
  ['00000000001000:00000000000050', 1000, 50, '50', '/home/plain'],
  ['plain:staff', 1000, 50, '50', '/home/plain'],
  ['again', 1000, 1002, '1002', '/home/again'],
  ['1003', 1003, 1004, '1004', '/home/padded'],
  ['second', 1014, 1014, '1014', '/home/second'],
  ['5000', 5000, 0, '0', '/'],
  ['5000:5001', 5000, 5001, '5001', '/'],
  ['2147483647', 2147483647, 2147483647, '2147483647', '/home/last'],
  ['last:last', 2147483647, 2147483647, '2147483647', '/home/last'],
  // a line that is none says nothing of an ID either
  ['1010', 1010, 0, '0', '/'],
  ['1012', 1012, 0, '0', '/'],
];

/** What is asked for, and what is wrong with it. */
const wrong: [users: string, expected: RegExp][] = [
  [
    '2147483648 4294967295 4294967296 4294967297 18446744073709551616 -1 +0 99999999999999999999999',
    /not USER\[:GROUP\]: ".*": the ID of a user is a number from 0 to 2147483647/,
  ],
  ['0:2147483648 1000:4294967295 root:4294967296 0:-1', /the ID of a group is a number from 0 to 2147483647/],
  [': :staff', /the user is empty/],
  ['plain: 0:', /the group is empty/],
  ['plain:staff:', /a name has no control character, and there is one colon/],
  ['1e3 0x0 no-such root\t', /no user |a name has no control character/],
  ['0:no-such plain:beyond 0:wraps 0:none 0:short 0:empty', /no group \S+ in \S+\/etc\/group with an ID/],
];
const lines =
  'beyond nobody-changes wraps wraps-far group-beyond group-wraps negative blank signed hexadecimal empty short';
for (const name of lines.split(' ')) wrong.push([name, /no user \S+ in \S+\/etc\/passwd with IDs/]);

/** Of these, what each script is asked: all that they do with it is the same. */
const shown = given.filter(([user]) =>
  /^(0|0:77|1234|plain|01000|plain:staff|5000:5001|last:last)$/.test(user),
);
const refusedUsers = wrong
  .slice(0, wrong.length - lines.split(' ').length + 1)
  .map(([users, expected]) => [users.split(' ')[0] as string, expected] as const);

test('a number is an ID, a name is looked up in the container; lines out of range are none', {
  skip: container.skip,
}, () => {
  for (const [user, uid, gid, groups, home] of given) {
    const found = findUser(root, parseUser(user));
    const all = [...new Set([found.gid, ...found.groups])].join(' ');
    assert.deepEqual([found.uid, found.gid, all, found.home], [uid, gid, groups, home], user);
  }
});

test('no other user than the one that is asked for, nor an empty one', { skip: container.skip }, () => {
  for (const [users, expected] of wrong)
    for (const user of users.split(' ')) assert.throws(() => findUser(root, parseUser(user)), expected, user);
});

test('run: a user, his groups and his home are those of the container', container, async () => {
  for (const [user, uid, gid, groups, home] of shown)
    assert.equal(await said(['-u', user], show, how), `${uid}\n${gid}\n${groups}\n${home}\n`, user);
  for (const [user, expected] of refusedUsers) await refused(expected, [`--user=${user}`], how);
  await refused(/--user needs a value/, ['-u', ''], how);
});

slow("run: the image's user is read in the same way", container, async () => {
  const image = join(scratch, 'image');
  await execute(['cp', '-a', root, image]);
  const configure = (user: string) =>
    writeFileSync(join(image, '.image.json'), JSON.stringify({ config: { User: user } }));
  for (const [user, uid, gid] of shown.filter(([user]) => /^0?1000$|^1234|:/.test(user))) {
    configure(user);
    assert.equal(await said([], 'id -u; id -g', { root: image }), `${uid}\n${gid}\n`, user);
  }
  for (const user of ['4294967295', '4294967296', '1000:4294967295', ':0', '0:', 'wraps']) {
    configure(user);
    await refused(/\.image\.json is .*: choose one with -u|no user wraps/, [], { root: image });
    assert.equal(await said('-u 5', 'id -u', { root: image }), '5\n');
  }
});

slow('exec: the same', { skip: container.skip || needs('perl') }, async () => {
  const files = ['passwd', 'group'].map((name) => `${root}/etc/${name}:/etc/${name}:ro`);
  const { name } = await start(each('-v', files), ['sleep', '1000']);
  for (const [user, uid, gid, groups, home] of shown) {
    const { stdout, stderr } = await call('exec', ['-u', user, name, 'sh', '-c', show]);
    assert.equal(stdout + stderr, `${uid}\n${gid}\n${groups}\n${home}\n`, user);
  }
  for (const [user, expected] of refusedUsers) {
    const { code, stdout, stderr } = await call('exec', [`--user=${user}`, name, 'echo', 'started']);
    assert.deepEqual([code, stdout], [125, ''], user);
    assert.match(stderr.replace('the container: ', '/'), expected, user);
  }
});

test('a user that a user namespace does not have is named, with those that it has', {
  skip: container.skip || needs('user-namespaces', 'perl'),
}, async () => {
  await execute(['chmod', '755', scratch]);
  for (const user of ['65536', '0:65536', '2147483647', 'last'])
    await refused(
      /is not in this container's user namespace: it has the users 0 to 65535 and/,
      ['--userns', '-u', user],
      how,
    );
  assert.equal(await said('--userns -u 65535:65535', 'id -u; id -g', how), '65535\n65535\n');
  assert.equal((await inside('--userns -u 1234', 'id -u', how)).stdout, '1234\n');
});
