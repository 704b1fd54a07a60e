// What ps.ts knows of containers of ours besides their processes: ends, ports, ROOTFS and command.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { test } from 'node:test';
import { readMounts } from '../scripts/helpers/mounts.ts';
import { initWords } from '../scripts/ps/containers.ts';
import { endedText } from '../scripts/ps/ended.ts';
import { shellInit } from '../scripts/run/init.ts';
import { backgroundName, ended, keptFile } from './helpers/background.ts';
import { container } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, script } from './helpers/script.ts';

const list = async (...words: string[]) => JSON.parse((await call('ps', ['--json', ...words])).stdout);
const lineOf = async (name: string, ...words: string[]) => {
  const { stdout } = await call('ps', words);
  return stdout.split('\n').find((line) => line.startsWith(`${name} `)) ?? '';
};

test('an end is said by exit code, or by the signal that the code stands for', () => {
  const rest = { oomKills: 0, at: null };
  assert.equal(endedText({ code: 3, signal: null, ...rest }), 'exited (3)');
  assert.equal(endedText({ code: 3, signal: null, oomKills: 2, at: null }), 'exited (3), 2 OOM kills');
  assert.equal(endedText({ code: 137, signal: 'SIGKILL', ...rest }), 'killed by SIGKILL (137)');
  assert.equal(endedText({ code: null, signal: null, ...rest }), 'ended, exit code unknown');
});

test('-a lists containers in the background that have ended, with code and signal', container, async () => {
  const [code, signal] = [backgroundName(), backgroundName()];
  const exits = ['-d', '--name', code, rootfs, '/bin/sh', '-c', 'exit 3'];
  assert.equal((await call('run', exits)).code, 0);
  const waits = ['-d', '--name', signal, rootfs, '/bin/sh', '-c', 'sleep 100; true'];
  assert.equal((await call('run', waits)).code, 0);
  await ended(code);
  assert.match(await lineOf(signal, '-a'), / running$/);
  const [running] = (await list('-a')).filter(({ name }: { name: string }) => name === signal);
  assert.equal(running.ended, null);
  process.kill(running.pid, 'SIGKILL');
  await ended(signal);

  assert.match(await lineOf(code, '-a'), / exited \(3\), \d+s ago$/);
  assert.match(await lineOf(signal, '-a'), / killed by SIGKILL \(137\), \d+s ago$/);
  assert.equal(await lineOf(code), '');
  const rows = (await list('-a')).filter(({ name }: { name: string }) => [code, signal].includes(name));
  assert.deepEqual(
    rows.map(({ pid, ended }: { pid: null; ended: { code: number; signal: string } }) => [
      pid,
      ended.code,
      ended.signal,
    ]),
    [
      [null, 3, null],
      [null, 137, 'SIGKILL'],
    ],
  );
  const page = await call('ps', [code]);
  assert.deepEqual([page.code, page.stdout], [1, '']);
  assert.match(page.stderr, new RegExp(`^ps: ${code} has ended, exited \\(3\\), .* ago: logs\\.ts ${code} `));

  // the keeper of the log was killed too
  rmSync(keptFile(code, 'status'));
  assert.match(await lineOf(code, '-a'), / ended, exit code unknown$/);
});

test(
  '-a shows that the kernel has killed a process of a container for lack of memory',
  container,
  async () => {
    const name = backgroundName();
    const hog = 'sleep 0.5; head -c 60M /dev/zero | tail >/dev/null; exit 4';
    const words = ['-d', '--name', name, '--memory', '20M', rootfs, 'sh', '-c', hog];
    assert.equal((await call('run', words)).code, 0);
    await ended(name);
    assert.match(await lineOf(name, '-a'), / exited \(4\), 1 OOM kill, \d+s ago$/);
    const [row] = (await list('-a')).filter((row: { name: string }) => row.name === name);
    assert.equal(row.ended.oomKills, 1);
  },
);

test(
  'ROOTFS of --ephemeral is the directory on the host, and COMMAND of --init the command',
  container,
  async () => {
    const name = backgroundName();
    const words = ['-d', '--name', name, '--ephemeral', '--init', rootfs, 'sleep', '100'];
    assert.equal((await call('run', words)).code, 0);
    const [row] = (await list()).filter((row: { name: string }) => row.name === name);
    assert.deepEqual([row.rootfs, row.command, row.processes], [rootfs, 'sleep 100', 2]);
    assert.equal(readMounts(row.pid).find(({ mountPoint }) => mountPoint === '/')?.type, 'overlay');
  },
);

test("the words of the shell's init are recognised, which take the place of a missing init program", () => {
  const line = [...shellInit, 'sleep', '100'].join('\0');
  assert.equal(initWords.exec(line)?.[0], `${shellInit.join('\0')}\0`);
  for (const init of ['/dev/init\0--\0', '/dev/init\0-g\0--\0'])
    assert.equal(initWords.exec(`${init}sleep\x00100`)?.[0], init);
  assert.equal(initWords.exec(['/bin/sh', '-c', 'exec "$@"', 'init', 'sleep'].join('\0')), null);
});

test('published ports have a column', { skip: container.skip || needs('ip', 'nft') }, async () => {
  // in a network namespace that stands for the host
  const program = `
    ip link set lo up || exit
    '${script('run')}' -d --name "$0" --network bridge -p 18080:80 -p 127.0.0.1:18053:53/udp '${rootfs}' sleep 100 >&2
    '${script('ps')}' | grep -E "^(NAME|$0) "; '${script('ps')}' --json`;
  const name = backgroundName();
  const { stdout, stderr } = await execute([
    'unshare',
    '--net',
    '--mount',
    '--propagation',
    'private',
    'sh',
    '-c',
    program,
    name,
  ]);
  assert.match(stdout, /^NAME .* PORTS/, stderr);
  assert.match(stdout, new RegExp(`^${name} .* 18080:80 127\\.0\\.0\\.1:18053:53/udp`, 'm'));
  const rows = JSON.parse(stdout.slice(stdout.indexOf('\n[') + 1));
  const [row] = rows.filter((row: { name: string }) => row.name === name);
  assert.deepEqual(
    row.ports.map(({ hostPort, port, protocol }: { hostPort: number; port: number; protocol: string }) => [
      hostPort,
      port,
      protocol,
    ]),
    [
      [18080, 80, 'tcp'],
      [18053, 53, 'udp'],
    ],
  );
});

test('--all goes with the list only', async () => {
  for (const words of [
    ['-a', '--watch'],
    ['--all', 'web'],
  ]) {
    const { code, stderr } = await call('ps', words);
    assert.equal(code, 2);
    assert.match(stderr, /--all goes with the list/);
  }
});
