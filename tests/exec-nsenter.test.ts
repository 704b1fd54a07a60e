// exec.ts on a host without perl and python3, where nsenter(1) enters: what holds there too, and what it says does not.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { statusField } from '../scripts/helpers/pids.ts';
import { alive, container, namespace, type Running, start } from './helpers/container.ts';
import { enter, paste, signalArrives } from './helpers/enter.ts';
import { hiding } from './helpers/inside.ts';
import { needs } from './helpers/needs.ts';
import { execute, script, until } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';

const launch = hiding(['perl', 'python3'], [script('exec')]);
const warning =
  /^exec: no perl or python3, so nsenter\(1\) enters: the container's own setpriv .* apt-get install perl-base\n$/;

let web: Running;
before(async () => {
  if (!container.skip)
    web = await start(['--network', 'none', '-e', 'COLOUR=blue', '-w', '/tmp'], ['sleep', '1000']);
});

const exec = (...words: string[]) => execute([...launch, ...words]);

test('nsenter: a command has the umask of the container', container, async () => {
  const { name } = await start(['--umask', '007'], ['sleep', '1000']);
  const { stdout } = await exec(name, 'sh', '-c', 'umask');
  assert.equal(stdout, '0007\n');
});

test(
  'nsenter: a command is where the first process is, in its cgroups, and has its capabilities',
  container,
  async () => {
    const { pid, child, end } = await enter(launch, web.name);
    const standing = (pid: number) => ({
      namespaces: readdirSync('/proc/self/ns').map((kind) => namespace(pid, kind)),
      root: [statSync(`/proc/${pid}/root`).dev, statSync(`/proc/${pid}/root`).ino],
      cgroups: readFileSync(`/proc/${pid}/cgroup`, 'utf8'),
      privileges: ['CapPrm', 'CapEff', 'CapBnd', 'NoNewPrivs', 'Uid'].map((name) => statusField(pid, name)),
    });
    assert.deepEqual(standing(pid), standing(web.first));
    assert.equal(statusField(pid, 'Seccomp'), '0', 'there would be no need to warn of it');
    child.kill('SIGTERM');
    assert.deepEqual(await end, [143, null]);
    await until('its end', () => !alive(pid));
  },
);

test('nsenter: -u, -e and -w, and nothing of the caller', container, async () => {
  const inherited = ['bash', '-c', 'exec 5</etc/passwd 200</etc/passwd; exec "$0" "$@"', ...launch];
  const program = 'id -un; pwd; /bin/ls /proc/self/fd | xargs; env | sort | xargs';
  const options = ['-u', 'nobody', '-w', '/usr/bin', '-e', 'MINE=a = b', '-e', 'PATH=/bin'];
  const { stdout, stderr } = await execute([...inherited, ...options, web.name, '/bin/sh', '-c', program], {
    env: { ...process.env, SECRET: 'of the caller', LD_PRELOAD: '' },
  });
  assert.match(stderr, warning);
  const [user, directory, descriptors, variables] = stdout.split('\n');
  assert.deepEqual([user, directory, descriptors], ['nobody', '/usr/bin', '0 1 2 3']);
  assert.match(variables ?? '', /^COLOUR=blue HOME=\/nonexistent HOSTNAME=\S+ MINE=a = b PATH=\/bin PWD=/);
  assert.doesNotMatch(variables ?? '', /SECRET|LD_PRELOAD/);
});

test(
  "nsenter: exit codes, input and output are the command's, and a signal reaches it",
  container,
  async () => {
    const calls: [number, ...string[]][] = [
      [42, '/bin/sh', '-c', 'exit 42'],
      [137, '/bin/sh', '-c', 'kill -KILL $$'],
      [127, 'no-such'],
      [126, '/etc/passwd'],
    ];
    for (const [code, ...command] of calls)
      assert.equal((await exec(web.name, ...command)).code, code, command.join(' '));
    const { stdout } = await execute([...launch, web.name, 'cat'], { input: 'a\nb\0c' });
    assert.equal(stdout, 'a\nb\0c');

    await signalArrives(launch, web.name);
  },
);

test('nsenter: --dry-run prints what has the same effect', container, async () => {
  await paste(launch, web.name, 'echo "$A $(hostname)"', `it's ${web.name}`);
});

test('nsenter: --host-tools are not weaker, and nothing is said', {
  skip: container.skip || needs('ps'),
}, async () => {
  const { code, stdout, stderr } = await exec(
    '--host-tools',
    web.name,
    'sh',
    '-c',
    'hostname; ps -e -o pid=,args=',
  );
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, new RegExp(`^${web.name}\n +1 sleep 1000\n`));
});

test('nsenter: the limits of the container are its limits', container, async () => {
  const { name } = await start(['--memory', '32M'], ['sleep', '1000']);
  assert.equal((await exec(name, 'tail', '/dev/zero')).code, 137);
});

test('a host that has nothing to enter with is told what to install', container, async () => {
  const { code, stderr } = await execute([
    ...hiding(['perl', 'python3', 'nsenter'], [script('exec')]),
    web.name,
    'true',
  ]);
  assert.equal(code, 125);
  assert.match(stderr, /^exec: needs perl, python3 or nsenter: \S+ \S+ perl[^\n]*\n$/);
});
