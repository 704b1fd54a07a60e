// The prompt of an interactive shell in a container, by run.ts and exec.ts.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { prompt } from '../scripts/run/prompt.ts';
import { detach } from './helpers/background.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute, rootfs, script } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const scratch = scratchFolder('prompt');

test('a shell that shows no place of its own gets a prompt; any other command, or one that has one, gets none', () => {
  const root = join(scratch, 'root');
  for (const folder of ['etc', 'root', 'home']) mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n$(id):x:7:7::/home:/bin/sh\n');
  const ask = (
    line: string,
    { uid = 0, home = '/root', hostname = 'web', environment = [] as string[] } = {},
  ) => prompt(root, line.split(' '), { uid, home, hostname, environment }).join();

  const roots = 'PS1=root@web:$PWD# ';
  for (const line of ['sh', '/bin/dash', 'bash', 'ash -l', 'sh -il', 'bash --norc'])
    assert.equal(ask(line), roots, line);
  for (const line of ['sh -c id', 'sh script', 'zsh', 'python3', 'env sh']) assert.equal(ask(line), '', line);
  assert.equal(ask('sh', { uid: 1000 }), 'PS1=1000@web:$PWD$ ');
  assert.equal(ask('sh', { uid: 7 }), 'PS1=7@web:$PWD$ ', 'a name that a shell would expand');
  assert.equal(ask('sh', { hostname: 'a$(id)' }), '');
  assert.equal(ask('sh', { environment: ['PS1=mine> '] }), '');
  assert.equal(
    ask('sh', { uid: 7, environment: [roots] }),
    'PS1=7@web:$PWD$ ',
    "that of the first process's user",
  );

  writeFileSync(join(root, 'root/.bashrc'), "PS1='\\u@\\h '\n");
  assert.deepEqual([ask('bash'), ask('sh')], ['', roots]);
  assert.equal(ask('bash', { home: '/home' }), roots);
  writeFileSync(join(root, 'etc/profile'), 'export PS1=x\n');
  assert.deepEqual([ask('sh -l'), ask('sh')], ['', roots]);
  writeFileSync(join(root, 'etc/shrc'), 'PS1=x\n');
  assert.equal(ask('sh', { environment: ['ENV=/etc/shrc'] }), '');
});

test('on a terminal run.ts and exec.ts show it', { skip: container.skip || needs('expect') }, async () => {
  const shows = async (words: string[], where: string, end: string) => {
    const program = String.raw`set timeout 60; spawn -noecho {*}$env(START)
      expect "${where}:/${end} " {} default { exit 1 }
      send "cd /usr\r"; expect "${where}:/usr${end} " {} default { exit 2 }
      send "exit\r"; expect eof`;
    const { code, stdout } = await execute(['expect', '-c', program], {
      env: { ...process.env, START: words.join(' ') },
    });
    assert.equal(code, 0, stdout);
  };
  const name = newName();
  await shows([script('run'), '--name', name, rootfs, 'sh'], `root@${name}`, '#');
  const other = await detach('', 'sleep 100');
  await shows([script('exec'), '-u', 'nobody', other, 'sh'], `nobody@${other}`, String.raw`\$`);
  const { stdout } = await execute([script('exec'), other, 'env']);
  assert.doesNotMatch(stdout, /^PS1=/m);
});
