// The name servers of a container on the host's network: the host's, where its root has none that are any good.
import assert from 'node:assert/strict';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test as quick } from 'node:test';
import { container, newName } from './helpers/container.ts';
import { state } from './helpers/folders.ts';
import { inside, launch, mounted, said, without } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, rootfs } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const scratch = scratchFolder('run-resolver');
const root = join(scratch, 'root');
const write = (name: string, text: string) => {
  writeFileSync(join(scratch, name), text);
  return join(scratch, name);
};

before(async () => {
  if (container.skip) return;
  await execute(['cp', '-a', rootfs, root]);
  await execute(['mkdir', '-p', ...['proc', 'sys', 'dev'].map((name) => join(root, name))]);
  await execute(['chmod', '755', scratch]);
});

/** run.ts on a host with this resolv.conf, and with this of systemd-resolved's; undefined: that is not there. */
function host(text: string, upstream?: string, then = launch): string[] {
  const own = write(`host-${newName()}`, text);
  const its = upstream === undefined ? '' : write(`upstream-${newName()}`, upstream);
  return mounted(
    `mount --bind '${own}' "$(readlink -f /etc/resolv.conf)"; mount -t tmpfs -o mode=755 t /run
    ${its && `mkdir -p /run/systemd/resolve; cp '${its}' /run/systemd/resolve/resolv.conf`}`,
    then,
  );
}
const own = host('# a comment\nnameserver 192.0.2.1\nsearch example.net\noptions ndots:2\n');
const expected = 'nameserver 192.0.2.1\nsearch example.net\noptions ndots:2\n';

/** Makes the root's /etc/resolv.conf anew, by a shell program in /etc. */
const make = async (program: string) =>
  assert.equal(
    (await execute(['sh', '-ec', `rm -rf resolv.conf; ${program}`], { cwd: join(root, 'etc') })).stderr,
    '',
  );
const stub = 'ln -s ../run/systemd/resolve/stub-resolv.conf resolv.conf';
const show = 'if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf; else echo none; fi';

/** What is there in a container; nothing of the root has changed afterwards. */
async function shows(options: string | string[], launch = own, program = show): Promise<string> {
  const before = await state(root);
  const output = await said(options, program, { root, launch });
  assert.equal(await state(root), before, `${options}`);
  return output;
}

test(
  'a link to nowhere: the host has the name servers, and the root stays as it was',
  container,
  async () => {
    for (const link of [
      '../run/systemd/resolve/stub-resolv.conf',
      '/run/resolvconf/resolv.conf',
      '/no/such/folder/file',
      'resolv.conf',
      `../../../../../../../../../..${scratch}/outside`,
    ]) {
      await make(`ln -s ${link} resolv.conf`);
      assert.equal(await shows(''), expected, link);
    }
    await make(stub);
    for (const options of ['--read-only', '--ephemeral', '-u nobody', '--isolate mount,pid', '--tmpfs /run'])
      assert.equal(await shows(options), expected, options);
    const { stdout } = await inside('--privileged', show, { root, launch: own });
    assert.equal(stdout, expected);
  },
);

quick(
  'a link to nowhere, on a host without perl: the same',
  {
    skip: container.skip || needs('python3'),
  },
  async () => {
    await make(stub);
    const other = host('nameserver 192.0.2.2', undefined, without('perl'));
    assert.equal(await shows('', other), 'nameserver 192.0.2.2\n');
  },
);

quick('a file without a name server that answers is covered, another stays', container, async () => {
  const wrong = [
    '',
    '# nothing\\n',
    'search example.org\\n',
    'nameserver 127.0.0.53\\n',
    'nameserver ::1\\n',
  ];
  for (const text of wrong) {
    await make(`printf '${text}' >resolv.conf`);
    assert.equal(await shows(''), expected, text);
  }
  const right = ['nameserver 198.51.100.1\\n', 'nameserver 127.0.0.53\\n nameserver 2001:db8::1\\n'];
  for (const text of right) {
    await make(`printf '${text}' >resolv.conf`);
    assert.equal(await shows(''), text.replaceAll('\\n', '\n'));
  }
  // behind a link, too
  await make("printf 'nameserver 198.51.100.2\\n' >other; ln -s /etc/other resolv.conf");
  assert.equal(await shows(''), 'nameserver 198.51.100.2\n');
  await make(': >other; ln -s /etc/other resolv.conf');
  assert.equal(await shows('', own, `${show}; cat /etc/other`), expected);
});

test("where systemd-resolved is on the host's loopback it is whom that asks", container, async () => {
  const upstream = 'nameserver 203.0.113.1\nsearch up.example\n';
  await make(stub);
  assert.equal(await shows('', host('nameserver 127.0.0.53\noptions edns0\n', upstream)), upstream);
  assert.equal(await shows('', host('nameserver 127.0.0.53\n')), 'nameserver 127.0.0.53\n');
  assert.equal(await shows('', host('nameserver 127.0.0.1\n', upstream)), 'nameserver 127.0.0.1\n');
  assert.equal(await shows('', host('# none\n')), 'none\n');
  // a root that asks the same loopback as the host does is right
  await make("echo 'nameserver 127.0.0.53' >resolv.conf");
  assert.equal(await shows('', host('nameserver 127.0.0.53\n', upstream)), 'nameserver 127.0.0.53\n');
});

test('what the user has put there, and another network, stay as they are', container, async () => {
  await make(stub);
  for (const options of ['--network none', '--isolate mount,pid,net', '--isolate chroot', '--tmpfs /etc'])
    assert.equal(await shows(options), 'none\n', options);
  const file = write('of-the-user', 'nameserver 198.51.100.3\n');
  const folder = join(scratch, 'folder');
  mkdirSync(folder);
  const before = await state(folder);
  assert.equal(await shows(`-v ${folder}:/etc/`), 'none\n');
  assert.equal(await shows(`-v ${folder}:/usr/../etc`), 'none\n');
  assert.equal(await state(folder), before);
  // the mount points are the caller's wish
  const wished = async (options: string) => (await inside(options, show, { root, launch: own })).stdout;
  assert.equal(await wished(`-v ${folder}:/run/systemd/resolve`), expected);
  assert.equal(await state(folder), before);
  writeFileSync(join(folder, 'stub-resolv.conf'), 'nameserver 198.51.100.4\n');
  assert.equal(await wished(`-v ${folder}:/run/systemd/resolve`), 'nameserver 198.51.100.4\n');
  assert.equal(await wished(`-v ${folder}:/run/systemd/resolve:ro`), 'nameserver 198.51.100.4\n');
  assert.equal(await wished(`-v ${file}:/etc/resolv.conf`), 'nameserver 198.51.100.3\n');
  rmSync(join(root, 'run/systemd'), { recursive: true });
});

test('where there is nothing to mount on nothing is made', container, async () => {
  for (const program of [
    '',
    'mkdir resolv.conf',
    'mkfifo resolv.conf',
    'ln -s /etc/folder resolv.conf; mkdir folder',
  ]) {
    await make(program);
    assert.equal(await shows('', own, '[ -f /etc/resolv.conf ] || echo none'), 'none\n', program);
  }
  const bare = join(scratch, 'bare');
  await execute(['cp', '-a', root, bare]);
  await execute(['mv', join(bare, 'etc'), join(bare, 'private')]);
  const how = { root: bare, launch: own };
  assert.equal(await said('', '[ -e /etc ] || echo no /etc', how), 'no /etc\n');
  // an /etc that is a link
  symlinkSync('/private', join(bare, 'etc'));
  await execute(['rm', '-rf', join(bare, 'private/resolv.conf')]);
  symlinkSync('/run/x/y', join(bare, 'private/resolv.conf'));
  assert.equal(await said('', 'cat /private/resolv.conf; [ ! -e /run/x ]', how), expected);
});

test('--dns and --add-host over links change nothing of the root either', container, async () => {
  await make(`${stub}; mv hosts hosts.was; ln -s /run/hosts hosts`);
  const output = await shows('--dns 9.9.9.9 --add-host db:10.1.2.3', own, `${show}; grep -c db /etc/hosts`);
  assert.equal(output, 'nameserver 9.9.9.9\n1\n');
  assert.equal(await shows('--dns 9.9.9.9 --network none'), 'nameserver 9.9.9.9\n');
  await execute(['mv', join(root, 'etc/hosts.was'), join(root, 'etc/hosts')]);
});

test('container:NAME has those of the other', container, async () => {
  await make(stub);
  const name = newName();
  const first = ['-d', '--name', name, '--network', 'none', '--dns', '9.9.9.8', root, 'sleep', '100'];
  assert.equal((await call('run', first)).code, 0);
  try {
    assert.equal(await shows(`--network container:${name}`), 'nameserver 9.9.9.8\n');
  } finally {
    await call('stop', [name]);
  }
});

test('in a user namespace, and without root', {
  skip: container.skip || needs('user-namespaces', 'perl'),
}, async () => {
  await make(stub);
  assert.equal(await shows('--userns'), expected);
  const id = 65533;
  const user = join(scratch, 'user');
  await execute(['install', '-d', '-m', '700', '-o', String(id), '-g', String(id), user]);
  await execute(['cp', launch[0] as string, join(user, 'run.mjs')]);
  await execute(['chown', '-R', `${id}:${id}`, root, user]);
  const words = [...become(id, user), process.execPath, '--', join(user, 'run.mjs')];
  const runs = (await execute([...words, '--help'])).code === 0;
  if (runs) {
    const asUser = host('nameserver 192.0.2.1\nsearch example.net\noptions ndots:2\n', undefined, words);
    assert.equal(await shows('', asUser), expected);
    assert.equal(await shows('--network none', asUser), 'none\n');
  }
});
