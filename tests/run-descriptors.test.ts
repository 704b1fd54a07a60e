// Who has what open during a launch: no program that lasts as long as the container has a descriptor of the launch's or
// of the caller's, so that nobody waits for a lock or for the end of a pipe because of it. And what waiting says.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after } from 'node:test';
import { lockDirectory, readHierarchies } from '../scripts/helpers/cgroups.ts';
import { attempt, readProc } from '../scripts/helpers/pids.ts';
import { commandOf, container, newName, processesWith, start, stat } from './helpers/container.ts';
import { hiding, mounted } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, call, execute, onTerminal, rootfs, script, top, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

const scratch = scratchFolder('descriptors');

/** A program with descriptors that are nobody else's business: a file, and one that only bash can close. */
const careless = ['bash', '-c', 'exec 7</etc/passwd 200</etc/passwd; exec "$@"', 'bash'];

/** The living processes that were started with this mark, and what is in their containers. */
const marked = (mark: string) => processesWith('environ', `MARK=${mark}\0`);
const children = (pid: number) =>
  (readProc(pid, `task/${pid}/children`) ?? '').trim().split(' ').filter(Boolean).map(Number);
/** What a process has open above its three standard streams: number and what it leads to. */
const opened = (pid: number) =>
  (attempt(() => readdirSync(`/proc/${pid}/fd`)) ?? [])
    .filter((fd) => Number(fd) > 2)
    .map((fd) => [fd, attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`)) ?? ''] as const);
/** Whether it holds a lock of flock(2) that others may wait for. */
const locks = (pid: number) =>
  opened(pid).filter(([fd]) => /^lock:.*FLOCK/m.test(readProc(pid, `fdinfo/${fd}`) ?? ''));

const carries = (pid: number) => /^(pass?ta?|slirp4netns)/.test(readProc(pid, 'comm') ?? '');

interface Case {
  words: string[];
  terminal?: boolean;
  detached?: boolean;
  user?: boolean;
  skip: string | false;
}
const id = 65534;
const home = join(scratch, 'home');
const cases: Record<string, Case> = {
  'without a terminal': { words: [], skip: container.skip },
  'on a terminal': { words: [], terminal: true, skip: container.skip || needs('script') },
  'in the background': { words: ['-d'], detached: true, skip: container.skip },
  'in the background, with a network': {
    words: ['-d', '--network', 'bridge'],
    detached: true,
    skip: container.skip || needs('ip', 'nft'),
  },
  'as root of its own, on a terminal': {
    words: ['--userns'],
    terminal: true,
    skip: mappedIds || needs('script'),
  },
  'of a user': { words: [], user: true, skip: needs('root', 'namespaces', 'user-namespaces') },
  'of a user, on a terminal': {
    words: [],
    user: true,
    terminal: true,
    skip: needs('root', 'namespaces', 'user-namespaces', 'script'),
  },
  'of a user, in the background, with a network': {
    words: ['-d', '--network', 'bridge'],
    user: true,
    detached: true,
    skip: needs('root', 'namespaces', 'user-namespaces', 'pasta'),
  },
};

for (const [what, { words, terminal, detached, user, skip }] of Object.entries(cases))
  test(`a container ${what}: nobody has more open than he needs`, { skip }, async () => {
    const name = newName();
    if (user) await makeHome();
    const file = user ? join(home, 'run.mjs') : script('run');
    const root = user ? join(home, 'root') : rootfs;
    const run = [...careless, file, ...words, '--name', name, root, 'sleep', '1000'];
    const [program = '', ...rest] = [
      ...(detached && !user ? ['unshare', '--net'] : []),
      ...(user && detached
        ? mounted('mount -t tmpfs tmpfs /dev/net; mknod -m 666 /dev/net/tun c 10 200', [])
        : []),
      ...(user ? become(id, home) : []),
      ...(terminal ? onTerminal(run) : run),
    ];
    const launcher = spawn(program, rest, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, MARK: name },
    });
    const end = once(launcher, 'exit');
    try {
      if (detached) assert.deepEqual(await end, [0, null]);
      const first = await until('its PID 1', () =>
        marked(name)
          .flatMap(children)
          .find((pid) => commandOf(pid)[0] === 'sleep' && commandOf(pid)[1] === '1000'),
      );
      const others = marked(name).filter((pid) => pid !== launcher.pid && pid !== first);
      const holder = Number(stat(first)[1]);
      assert.ok(others.includes(holder), 'what holds it is one of them');
      assert.deepEqual(opened(first), [], 'what runs inside');
      // the terminal's own program in the test is not of the launch
      const launching = terminal ? children(launcher.pid as number) : [launcher.pid as number];
      for (const pid of others) {
        const said = `${pid} ${commandOf(pid).join(' ').slice(0, 100)}`;
        const isNode = /node/.test(attempt(() => readlinkSync(`/proc/${pid}/exe`)) ?? '');
        const isLauncher = launching.includes(pid) || commandOf(pid).includes(`run.ts ${name}`) || isNode;
        // head(1) holds a lock on the log that it writes, for the keeper alone
        const isOfLog = ([, to]: readonly [string, string]) => to.endsWith(`/barehand/${name}/log`);
        const open = opened(pid).filter((one) => !isOfLog(one));
        if (detached || !isLauncher)
          assert.deepEqual(
            open.filter(([, to]) => to === '/etc/passwd'),
            [],
            `${said}: the caller's`,
          );
        // one keeps the log of what is in the background, and holds a lock on its folder until all is written
        if (isLauncher) continue;
        assert.deepEqual(
          locks(pid).filter((one) => !isOfLog(one)),
          [],
          said,
        );
        // what carries packets has files and pipes of its own
        const elsewhere = new Set(
          others.filter((one) => !carries(one)).flatMap((one) => opened(one).map(([, to]) => to)),
        );
        const ours = open.filter(
          ([, to]) => /^(pipe:|\/(?!dev\/))/.test(to) && (!carries(pid) || elsewhere.has(to)),
        );
        // what makes the namespaces hands on to PID 1 the pipes by which it waits
        if (pid === holder)
          assert.deepEqual(
            // a fifo(7) without a name is a pipe, that of the log
            ours.filter(([, to]) => !/^pipe:|\/output \(deleted\)$/.test(to)),
            [],
            said,
          );
        else assert.deepEqual(ours, [], said);
      }
    } finally {
      for (const pid of marked(name).filter((pid) => pid !== launcher.pid))
        if (children(pid).some((child) => commandOf(child)[0] === 'sleep'))
          for (const child of children(pid)) attempt(() => process.kill(child, 'SIGKILL'));
      launcher.stdin.end();
      if (!detached) await end;
      await until('its end', () => marked(name).length === 0);
      if (!user) await call('stop', ['--sweep']);
      rmSync(`/run/barehand/${name}`, { recursive: true, force: true });
    }
  });

/** What a user needs for a container: run.ts's single file, and a rootfs of his own. */
async function makeHome(): Promise<void> {
  if (readdirSync(scratch).includes('home')) return;
  mkdirSync(home, { mode: 0o700 });
  copyFileSync(join(top, 'dist/run.mjs'), join(home, 'run.mjs'));
  await execute(['cp', '-a', rootfs, join(home, 'root')]);
  await execute(['chown', '-R', `${id}:${id}`, home]);
  await execute(['chmod', '755', scratch]);
  chownSync(home, id, id);
}

test('beside a container on a terminal others start and end', {
  skip: container.skip || needs('script'),
}, async () => {
  const name = newName();
  const [program = '', ...words] = onTerminal([
    script('run'),
    '--name',
    name,
    rootfs,
    'sh',
    '-c',
    'echo ready; sleep 1000',
  ]);
  const launcher = spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'] });
  const end = once(launcher, 'exit');
  try {
    await once(launcher.stdout, 'data');
    const both = [1, 2].map(() => execute(['timeout', '20', script('run'), rootfs, 'echo', 'beside']));
    for (const { code, stdout, stderr } of await Promise.all(both))
      assert.deepEqual([code, stdout, stderr], [0, 'beside\n', '']);
  } finally {
    const { code, stdout } = await execute(['timeout', '20', script('stop'), '--timeout', '0', name]);
    launcher.stdin.end();
    await end;
    assert.equal(code, 0, stdout);
  }
});

/** A hierarchy whose lock is this test's alone: part of that of the host, mounted in its place for a program. */
const lock = container.skip ? '' : (lockDirectory(readHierarchies()) as string);
const ownLock = join(lock, `test-lock-${process.pid}`);
const place = join(scratch, 'place');
const apart = (words: string[]) =>
  mounted(
    `mount --bind '${ownLock}' '${place}'; umount -l '${lock}'; mount --move '${place}' '${lock}'`,
    words,
  );

/** Starts a process that holds the lock, for so long. */
async function hold(seconds: number): Promise<ChildProcess> {
  const program = 'exec 9<"$1"; flock 9; echo held; exec sleep "$2" >/dev/null';
  const holder = spawn('bash', ['-c', program, 'bash', ownLock, `${seconds}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(holder.stdout as NodeJS.ReadableStream, 'data');
  return holder;
}

test('who waits for a lock says for whom, and not for ever', container, async () => {
  const name = newName();
  mkdirSync(ownLock);
  mkdirSync(place);
  after(async () => {
    const ended = await execute(apart([script('stop'), '--timeout', '0', name]));
    rmSync(`/run/barehand/${name}`, { recursive: true, force: true });
    await execute(['find', ownLock, '-depth', '-type', 'd', '-exec', 'rmdir', '{}', ';']);
    assert.ok(!existsSync(ownLock), ended.stderr);
  });
  const told = (...words: string[]) => execute(apart(words), { tellsWaits: true });
  const run = (...words: string[]) => told(script('run'), ...words);
  const stop = (...words: string[]) => told(script('stop'), ...words);
  const waiting = (pid: number | undefined) =>
    new RegExp(`^(run|stop): waiting for the lock on ${lock}, which PID ${pid} \\(sleep \\d+\\) holds\\n`);

  const soon = await run(rootfs, 'echo', 'there');
  assert.deepEqual([soon.code, soon.stdout, soon.stderr], [0, 'there\n', '']);
  assert.equal((await run('-d', '--name', name, rootfs, 'sleep', '1000')).code, 0);

  const brief = await hold(4);
  const later = await run(rootfs, 'echo', 'there');
  assert.deepEqual([later.code, later.stdout], [0, 'there\n'], later.stderr);
  assert.match(later.stderr, waiting(brief.pid));

  const long = await hold(1000);
  try {
    const [started, stopped] = await Promise.all([run(rootfs, 'echo', 'there'), stop(name)]);
    for (const [{ code, stdout, stderr }, expected] of [
      [started, 125],
      [stopped, 1],
    ] as const) {
      assert.deepEqual([code, stdout], [expected, ''], stderr);
      assert.match(stderr, waiting(long.pid));
      assert.match(
        stderr,
        new RegExp(`lock on ${lock} has not come free in \\d+ s: end PID ${long.pid} \\(sleep 1000\\)`),
      );
    }
  } finally {
    long.kill();
  }
  assert.equal((await stop('--sweep')).code, 0);
  rmSync(`/run/barehand/${name}`, { recursive: true, force: true });
});

test(
  '--preserve-fds: the command gets these descriptors of the caller, and no other one',
  container,
  async () => {
    const file = (number: number) => join(scratch, `preserved-${number}`);
    const numbers = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18];
    for (const number of numbers) writeFileSync(file(number), `${number}\n`);
    const opening = numbers.map((number) => `exec ${number}<${file(number)}`).join('; ');
    const caller = (words: string[]) =>
      execute(['bash', '-c', `${opening}; exec 200</etc/passwd; "$@"`, 'bash', ...words]);
    // the shell of the container sees what it has itself, before it opens anything
    const program = 'for fd in /proc/self/fd/*; do echo ${fd##*/}; done; for fd; do eval "cat <&$fd"; done';
    const expected = (count: number) => {
      const kept = numbers.slice(0, count);
      return `${[0, 1, 2, ...kept].sort().join('\n')}\n${kept.map((number) => `${number}\n`).join('')}`;
    };
    const command = (count: number) => [
      'bash',
      '-c',
      program,
      'bash',
      ...numbers.slice(0, count).map(String),
    ];
    const seen = (text: string, count: number) =>
      // the directory that the shell reads is open too
      text
        .split('\n')
        .filter((line, index, all) => Number(line) < 3 + count || all.indexOf(line) !== index)
        .join('\n');
    for (const [count, ...options] of [
      [0],
      [2],
      [16],
      [6, '--userns', '--ephemeral'],
      [1, '--init', '--network', 'none'],
      [1, '--isolate', 'chroot'],
    ] as [number, ...string[]][]) {
      if (options.includes('--userns') && mappedIds) continue;
      const words = [...options, '--preserve-fds', String(count), rootfs];
      const { code, stdout, stderr } = await caller([script('run'), ...words, ...command(count)]);
      assert.deepEqual([code, seen(stdout, count), stderr], [0, expected(count), ''], words.join(' '));
    }
    const { name } = await start([], ['sleep', '1000']);
    for (const [count, ...launch] of [
      [0, script('exec')],
      [2, script('exec')],
      [16, script('exec')],
      [2, ...hiding(['perl'], [script('exec')])],
      [2, ...hiding(['perl', 'python3'], [script('exec')])],
    ] as [number, ...string[]][]) {
      const words = ['--preserve-fds', String(count), name, ...command(count)];
      const { code, stdout } = await caller([...launch, ...words]);
      assert.deepEqual([code, seen(stdout, count)], [0, expected(count)], launch.join(' '));
    }
    const terminal = await caller(
      onTerminal([script('run'), '--preserve-fds', '1', rootfs, 'cat', '/proc/self/fd/3']),
    );
    assert.deepEqual([terminal.code, terminal.stdout.replace('^@', '')], [0, '3\r\n']);
    for (const [name_, words, message] of [
      ['run', ['--preserve-fds', '1', rootfs, 'true'], /^run: --preserve-fds 1: descriptor 3 is not open: /],
      [
        'run',
        ['--preserve-fds', 'x', rootfs, 'true'],
        /^run: --preserve-fds is a whole number from 0 to 100/,
      ],
      ['exec', ['--preserve-fds', '2', name, 'true'], /^exec: --preserve-fds 2: descriptor 3 is not open: /],
    ] as const) {
      const { code, stderr } = await call(name_, [...words]);
      assert.equal(code, 125);
      assert.match(stderr, message);
    }
    for (const words of [
      [script('run'), '-d', '--preserve-fds', '1', rootfs, 'true'],
      [script('exec'), '-d', '--preserve-fds', '1', name, 'true'],
    ]) {
      const { code, stderr } = await caller(words);
      assert.equal(code, 125);
      assert.match(stderr, /^\w+: --preserve-fds does not go with -d: /);
    }
  },
);
