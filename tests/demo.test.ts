import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { parent, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { container } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, script, top, until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const left = () => readdirSync(join(top, 'rootfs')).filter((name) => /^\.?demo-/.test(name));

test('the walk shows each step, kills at the limit, and leaves the host as it was', {
  skip: container.skip || needs('ps'),
}, async () => {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8');
  const { code, stdout, stderr } = await call('demo', []);
  // run.ts tells of the kill; PIDs and sizes differ from run to run
  assert.match(
    stderr,
    /^run: demo-\d+: the kernel killed \w+ \(PID \d+\) at the memory limit of 95\.4 MiB, .*\n$/,
  );
  assert.equal(code, 0);

  const chapters = stdout.split(/^\d\. /m);
  assert.equal(chapters.length, 8);
  const [, tarball, chroot, namespaces, sides, limit, eater, back] = chapters as string[];
  assert.match(tarball as string, /\| .*\betc\b/);
  // the chroot sees this very test, the container two processes
  const more = Number(/and (\d+) more/.exec(chroot as string)?.[1]);
  assert.ok(more > 0, `${more} more`);
  const seen =
    /\$ \S+run\S+ .*\n([\s\S]*)/
      .exec(namespaces as string)?.[1]
      ?.trim()
      .split('\n') ?? [];
  assert.equal(seen.length, 3, seen.join('\n'));
  assert.match(seen[1] as string, /^ *\| root +1 .*\/bin\/sh/);
  assert.match(seen[2] as string, /ps aux$/);
  const pid = /NSpid: (\d+) 1\b/.exec(sides as string)?.[1];
  assert.ok(pid, 'both of its PIDs are shown');
  const holder = Number(/and PID (\d+) is the unshare/.exec(sides as string)?.[1]);
  assert.ok(holder > 0 && holder !== Number(pid), 'the unshare that holds it is shown');
  assert.match(sides as string, new RegExp(`demo-\\d+ +${pid} +1 +/bin/bash`));
  assert.match(limit as string, new RegExp(`limit-memory\\.\\w+ ${pid} 100MB\\n.*none -> 95.4 MiB`));
  assert.match(limit as string, /by hand: {2}[^$]*\becho 100000000 > \/sys\/fs\/cgroup\//);
  const eaten =
    /\| ((?:\d+mb )+)Killed/
      .exec(eater as string)?.[1]
      ?.trim()
      .split(' ') ?? [];
  assert.ok(eaten.length >= 3 && eaten.length <= 10, eaten.join());
  assert.match(eater as string, /exit code 137/);
  assert.match(eater as string, /counts [1-9]\d* oom_kill more/);
  assert.match(eater as string, /lives on: its shell is still PID 1/);
  assert.match(back as string, /by hand: {2}[\s\S]*\brmdir "?\/sys\/fs\/cgroup\//);
  assert.match(back as string, /The host is as it was\.\n\nWhat to try next:\n( {3}# .*\n {3}\S.*\n){6}$/);

  assert.equal(readFileSync('/proc/self/mountinfo', 'utf8'), mounts);
  assert.equal(existsSync(`/proc/${pid}`), false);
  assert.deepEqual(left(), []);
  // others may run a demo too
  const demo = /\bdemo-\d+\b/.exec(sides as string)?.[0];
  for (const { mountPoint } of readHierarchies()) {
    const folder = join(mountPoint, parent);
    assert.deepEqual(existsSync(folder) ? readdirSync(folder).filter((name) => name === demo) : [], []);
  }
});

slow(
  'what the demo prints as a command can be typed',
  {
    skip: container.skip || needs('speed', 'ps'),
  },
  async () => {
    const { stdout } = await call('demo', ['--keep']);
    const kept = /kept: (\S+)/.exec(stdout)?.[1];
    assert.ok(kept);
    try {
      const commands = [...stdout.matchAll(/^ {3}\$ (\S*run\S* (?!--name).*)$/gm)].map(
        ([, command]) => command as string,
      );
      assert.equal(commands.length, 2);
      for (const command of commands) {
        const { code, stdout } = await execute(['sh', '-c', command]);
        assert.equal(code, 0, command);
        assert.match(stdout, /ps aux/);
      }
    } finally {
      await call('fetch-rootfs', ['rm', basename(kept)]);
    }
  },
);

slow('it speaks Chinese, with the same commands', { skip: container.skip || needs('ps') }, async () => {
  const { code, stdout } = await call('demo', ['--lang', 'zh']);
  assert.equal(code, 0);
  assert.equal(stdout.split(/^\d\. .*\p{Script=Han}/mu).length, 8);
  const commands = [...stdout.matchAll(/^ {3}\$ \S*\/(\w[\w-]*)\.\w+/gm)].map(([, name]) => name);
  assert.deepEqual(commands, ['fetch-rootfs', 'run', 'run', 'run', 'ps', 'limit-memory']);
  // nothing is left in English but commands and what the scripts print
  const told = stdout.split('\n').filter((line) => /^ {3}[^\s|$#]/.test(line));
  for (const line of told.filter((line) => !/手工|\.m?[jt]s|docs\//.test(line)))
    assert.match(line, /\p{Script=Han}/u);
  const { stderr, code: refused } = await call('demo', ['--lang', 'de']);
  assert.deepEqual([refused, stderr], [2, 'demo: --lang is one of en, zh, not de\n']);
});

slow(
  '--pause waits for a key before each further chapter, and fits the terminal',
  {
    skip: container.skip || needs('speed', 'ps', 'expect'),
  },
  async () => {
    const keys = (...pressed: string[]) =>
      execute(['expect', join(top, 'tests/helpers/demo-keys.exp'), script('demo'), ...pressed]);
    const ended = await keys(' ', ' ', ' ', 'q');
    assert.equal(ended.code, 0, ended.stdout);
    assert.match(ended.stdout, /4\. The same process from both sides/);
    assert.doesNotMatch(ended.stdout, /5\. A memory limit/);
    assert.match(ended.stdout, /The host is as it was\./);
    const lines = ended.stdout.replaceAll(/\x1b\[\d*[mK]/g, '').split(/\r?\n|\r/);
    for (const line of lines.filter((text) => /^ {3}(\||[A-Z])/.test(text))) assert(line.length <= 60, line);
    await keys(' ', 'HANGUP');
    await until('the end of what lost its terminal', () => left().length === 0);
    const { code, stderr } = await call('demo', ['--pause']);
    assert.deepEqual([code, stderr], [2, 'demo: --pause waits for a key, which needs a terminal\n']);
  },
);

slow(
  'interrupted in the middle it cleans up all the same',
  {
    skip: container.skip || needs('speed', 'ps'),
  },
  async () => {
    const demo = spawn(script('demo'), { stdio: ['ignore', 'pipe', 'inherit'] });
    const lines = createInterface({ input: demo.stdout })[Symbol.asyncIterator]();
    for (let line = await lines.next(); !line.done && !/and PID \d+ is the unshare/.test(line.value); )
      line = await lines.next();
    const end = once(demo, 'exit');
    demo.kill('SIGTERM');
    assert.deepEqual(await end, [143, null]);
    assert.deepEqual(left(), []);
    const name = `demo-${demo.pid}`;
    for (const { mountPoint } of readHierarchies())
      assert.equal(existsSync(join(mountPoint, parent, name)), false);
  },
);

test('where namespaces are not allowed it says exactly what is missing', {
  skip: needs('root', 'setpriv', 'speed'),
}, async () => {
  const sandbox = ['setpriv', '--bounding-set=-sys_admin', '--inh-caps=-all', script('demo')];
  const { code, stdout, stderr } = await execute(sandbox);
  assert.equal(code, 1);
  assert.equal(stdout, '');
  for (const missing of ['mount', 'pid', 'uts', 'ipc', 'cgroup'])
    assert.match(
      stderr,
      new RegExp(`a new ${missing} namespace: unshare: .*not permitted: this needs CAP_SYS_ADMIN`),
    );
});

test('without root it says so', { skip: needs('root', 'setpriv', 'speed') }, async () => {
  const { stderr, code } = await execute(['unshare', '--map-user=1000', '--user', script('demo')]);
  assert.equal(code, 1);
  assert.match(stderr, /this host lacks root/);
});
