// Ways out of a container. Each is first shown to be one, with what is in its way lifted, and then to fail by default.
// None does harm where it works: it reads or writes what is this test's own, or writes the value that is there already.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { findProgram } from '../scripts/helpers/shell.ts';
import { defaultCapabilities } from '../scripts/run/capabilities.ts';
import { findInit } from '../scripts/run/init.ts';
import { Attempts, byHand } from './helpers/attempts.ts';
import { container, namespace, newName } from './helpers/container.ts';
import { hiding } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute, script, until } from './helpers/script.ts';
import { before, test } from './helpers/slow.ts';
import { waysOut } from './helpers/ways-out.ts';

const skip =
  container.skip ||
  needs('perl', 'bash') ||
  (process.arch !== 'x64' && 'needs x86-64, for the numbers of calls');
/** For what starts a lot, and depends little on the kernel. */
const slow = skip || needs('speed');

const scratch = realpathSync(scratchFolder('escape'));
/** A root file system with perl in it. */
const root = join(scratch, 'root');
/** What is not in it. */
const outside = join(scratch, 'outside');
const canary = join(outside, 'canary');
const secret = `secret-${process.pid}`;
mkdirSync(outside);
writeFileSync(canary, `${secret}\n`);

const nullDevice = statSync('/dev/null');
const variables: Record<string, string> = {
  CANARY: canary,
  SECRET: secret,
  KEY: `barehand-${process.pid}`,
  HOSTNAME: hostname(),
  UTS: namespace('self', 'uts'),
  NULL: `${nullDevice.dev >> 8}:${nullDevice.dev & 255}:${nullDevice.ino}`,
};
const victim = skip ? undefined : spawn('sleep', ['600'], { stdio: 'ignore' });
let disk = '';
let segment = '';

/** Runs a program of the host's that must work; its output. */
async function host(...argv: string[]): Promise<string> {
  const { code, stdout, stderr } = await execute(argv);
  assert.equal(code, 0, `${argv.join(' ')}: ${stderr}`);
  return stdout.trim();
}

before(async () => {
  if (skip) return;
  await host(script('fetch-rootfs'), 'host:perl', root);
  copyFileSync(findProgram('id') as string, join(root, 'root-id'));
  chmodSync(join(root, 'root-id'), 0o4755);
  await until('the victim', () => readlinkSync(`/proc/${victim?.pid}/exe`).endsWith('sleep'));
  variables.PID = String(victim?.pid);
  variables.ADDRESS = `0x${readFileSync(`/proc/${victim?.pid}/maps`, 'utf8').split('-')[0]}`;
  segment = /\d+/.exec(await host('ipcmk', '-M', '64'))?.[0] as string;
  const segments = readFileSync('/proc/sysvipc/shm', 'utf8');
  variables.SEGMENT = new RegExp(`^ *(-?\\d+) +${segment} `, 'm').exec(segments)?.[1] as string;
  await host('mke2fs', '-q', '-t', 'ext2', '-d', outside, join(scratch, 'disk'), '1M');
  disk = (await execute(['losetup', '--find', '--show', '--read-only', join(scratch, 'disk')])).stdout.trim();
  variables.DISK = disk && (await host('stat', '-c', '%Hr %Lr', disk));
  const handle = `my $h = pack("L2", 120, 0) . "\\0" x 120; my $mount = pack "L", 0;
    syscall(303, -100, "$ARGV[0]", $h, $mount, 0) == 0 and print unpack "H*", substr $h, 0, 8 + unpack "L", $h`;
  variables.HANDLE = await host('perl', '-e', handle, canary); // name_to_handle_at(2)
});

after(async () => {
  victim?.kill('SIGKILL');
  if (segment) await execute(['ipcrm', '-m', segment]);
  if (disk) await execute(['losetup', '--detach', disk]);
});

const attempts = new Attempts(root, waysOut, variables);

for (const [name, { program, refused, unproved, even }] of Object.entries(waysOut))
  test(`no way out: ${name}`, { skip }, async (t) => {
    if (program.includes('$DISK') && !disk) return t.skip('needs a loop device');
    if (program.includes('$HANDLE') && !variables.HANDLE) return t.skip('this file system has no handles');
    if (unproved) t.diagnostic(`not shown to be a way out: ${unproved}`);
    else {
      const { code, said } = await attempts.outcome(name, 'lifted');
      const isMissing = /Function not implemented/.test(said); // ENOSYS
      if (isMissing) t.diagnostic('not shown to be a way out: this kernel has no such call');
      else assert.equal(code, 0, `it is none where nothing is in its way: ${said}`);
    }
    for (const kind of ['even', 'default'] as const) {
      if (kind === 'even' && !even) continue;
      const { code, said } = await attempts.outcome(name, kind);
      assert.notEqual(code, 0, `IT IS OUT (${kind}): ${said}`);
      assert.match(said, refused, kind);
    }
  });

// CVE-2019-5736: an image whose command is /proc/self/exe runs what starts it, and writes to that

/** Words that run a command where copies of programs are in the place of those, so that nothing real is written to. */
async function withCopies(...programs: string[]): Promise<string[]> {
  const pairs = programs.map((path) => {
    const original = realpathSync(findProgram(path) ?? path);
    const copy = join(outside, `copy-${path.replaceAll('/', '-')}`);
    copyFileSync(original, copy);
    return [copy, original];
  });
  const bind = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" && shift 2 || exit; done; shift; exec "$@"';
  const unshare = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', bind, 'sh'];
  return [...unshare, ...pairs.flat(), '--'];
}

/** In a shell that is a program of the host's: makes that set-user-ID root, or else opens it for writing. */
const takeOver = `exec 3</proc/$$/exe; chmod 4755 /proc/self/fd/3 && exit
  perl -e 'open my $file, "+<", "/proc/self/fd/3" or die "perl: $!\\n"'`;

test('no way out: the program that becomes the command, as /proc/self/exe', { skip }, async () => {
  const hand = ['unshare', '--pid', '--fork', '--mount-proc', 'bash', '-c'];
  const control = await execute([...(await withCopies('bash')), ...hand, takeOver]);
  assert.equal(control.code, 0, control.stderr);
  // for a variable with a dot in its name it is bash that becomes the command, which nothing may keep busy
  for (const option of ['A=b', 'a.b=c']) {
    const run = [...(await withCopies('/bin/sh', 'bash')), script('run'), '-e', option, root];
    const { code, stderr } = await execute([...run, '/proc/self/exe', '-c', takeOver]);
    assert.notEqual(code, 0, `IT IS OUT (-e ${option})`);
    assert.match(stderr, /Read-only.*perl: (Text file busy|Read-only)/s, option);
  }
});

const init = skip ? undefined : findInit();
test('no way out: the init of --init, as /proc/1/exe', {
  skip: skip || (!init && 'needs tini-static'),
}, async () => {
  const run = [...(await withCopies(init as string)), script('run'), '--init', root];
  const { code, stderr } = await execute([...run, 'sh', '-c', takeOver.replace('$$', '1')]);
  assert.notEqual(code, 0, 'IT IS OUT');
  assert.match(stderr, /Read-only.*perl: (Text file busy|Read-only)/s);
});

test('no way out: a descriptor as the working directory, CVE-2024-21626', { skip: slow }, async () => {
  const climb = `cat ../../../../../../../../..${canary}`;
  const leak = (...words: string[]) => execute(['bash', '-c', 'exec 7</ 8</; exec "$@"', 'bash', ...words]);
  const control = await leak(...byHand.chroot(root), 'sh', '-c', `cd /proc/self/fd/7; ${climb}`);
  assert.equal(control.stdout, `${secret}\n`);
  // those of the caller, of the launch, of what may be new in it
  const directories = [3, 4, 5, 6, 7, 8, 9, 10].map((number) => `/proc/self/fd/${number}`);
  for (const directory of [...directories, '/proc/1/cwd', '/proc/self/root/..']) {
    const { code, stdout, stderr } = await leak(script('run'), '-w', directory, root, 'sh', '-c', climb);
    assert.notEqual(code, 0, directory);
    assert.equal(stdout, '', directory);
    assert.match(stderr, /can't cd|No such file/, directory);
  }
});

// CVE-2021-30465: a path in the root that leads out of it, where something is mounted or made

/** Shows that nothing outside was made, or mounted on, by what `use` does. */
async function assertUntouched(use: () => Promise<void>): Promise<void> {
  const look = () => host('find', outside, '-printf', '%P %m %T@ %D\n');
  const before = await look();
  await use();
  assert.equal(await look(), before, 'IT IS OUT');
}

test('no way out: symlinks where volumes are mounted', { skip: slow }, async () => {
  symlinkSync(outside, join(root, 'absolute'));
  symlinkSync(`../../../../../../../..${outside}`, join(root, 'upwards'));
  symlinkSync(canary, join(root, 'file'));
  await host('mkdir', '-p', join(root, 'absolute/control'), join(root, 'upwards/control-upwards'));
  assert.ok(existsSync(join(outside, 'control')) && existsSync(join(outside, 'control-upwards')));
  mkdirSync(join(scratch, 'source'));
  writeFileSync(join(scratch, 'source/from'), 'the volume\n');
  const volumes = ['/absolute/new', '/upwards/new/deep', '/absolute'].flatMap((path) => [
    '-v',
    `${join(scratch, 'source')}:${path}`,
  ]);
  const options = [...volumes, '-v', `${join(scratch, 'source/from')}:/file`, '--tmpfs', '/upwards/memory'];
  const read = `cat /absolute/from ${outside}/new/from ${outside}/new/deep/from /file; findmnt -n -o TARGET -t tmpfs`;
  await assertUntouched(async () => {
    const { stdout, stderr } = await execute([script('run'), ...options, root, 'sh', '-c', read]);
    assert.equal(stderr, '');
    assert.match(stdout, new RegExp(`^(the volume\n){4}(.*\n)*${outside}/memory\n`));
  });
});

/** Exchanges two paths again and again, renameat2(2). Returns what ends that, with both as they were. */
function flip(one: string, other: string): () => Promise<void> {
  const program =
    '$SIG{TERM} = sub { $end = 1 }; until ($end && !$odd) { $odd ^= !syscall 316, -100, $ARGV[0], -100, $ARGV[1], 2; select undef, undef, undef, 0.004 * rand }';
  const child = spawn('perl', ['-e', program, one, other], { stdio: 'ignore' });
  return async () => {
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    await exit;
  };
}

for (const [path, ...options] of [
  ['/race', '-v', `${scratch}:/race/volume`, '--tmpfs', '/race/memory'],
  ['/dev'],
  ['/proc'],
  ['/sys'],
] as [string, ...string[]][])
  test(`no way out: ${path} is exchanged for a symlink while a container starts`, {
    skip: slow,
  }, async () => {
    const [place, link] = [join(root, path), join(root, `${path}-link`)];
    // what it leads to looks like the place, so that what is to be mounted over it may be mounted there
    const decoy = join(outside, `decoy${path}`);
    for (const folder of ['sys/kernel', 'bus', 'fs', 'irq', 'acpi', 'firmware'])
      mkdirSync(join(decoy, folder), { recursive: true });
    for (const file of ['keys', 'kcore', 'interrupts', 'timer_list', 'sysrq-trigger'])
      writeFileSync(join(decoy, file), '');
    mkdirSync(place, { recursive: true });
    symlinkSync(decoy, link);
    const trap = join(decoy, 'trap');
    let stop = flip(place, link);
    try {
      await until('the control to be out', async () => {
        await execute(['mkdir', '-p', join(place, 'trap')]);
        return existsSync(trap);
      });
    } finally {
      await stop();
    }
    rmSync(trap, { recursive: true });
    const command = ['sh', '-c', ': >>/proc/sys/kernel/core_pattern && echo OUT'];
    const launches = Array.from({ length: 16 }, () => [script('run'), ...options, root, ...command]);
    const launchAll = async () => {
      for (let launch = launches.pop(); launch; launch = launches.pop())
        assert.equal((await execute(launch)).stdout, '', 'IT IS OUT: /proc/sys is writable');
    };
    await assertUntouched(async () => {
      stop = flip(place, link);
      try {
        await Promise.all([launchAll(), launchAll()]);
      } finally {
        await stop();
      }
    });
    rmSync(link);
  });

test('no way out: what is written with --ephemeral', { skip: slow }, async () => {
  const look = () =>
    host('sh', '-c', 'cd "$1" && find . -printf "%p %m %u %s %l %T@\\n" | sort; cat etc/passwd', 'sh', root);
  const damage =
    'echo >>/etc/passwd; rm -r /usr/share; chmod 777 /etc; ln /etc/group /etc/new; echo x >/proc/1/root/new; mkdir -p /dev/new';
  const run = (...options: string[]) => execute([script('run'), ...options, root, 'sh', '-c', damage]);
  const before = await look();
  assert.equal((await run('--ephemeral')).code, 0);
  assert.equal(await look(), before, 'IT IS OUT');
  assert.equal((await run()).code, 0);
  assert.notEqual(await look(), before);
});

test("no way out: words put into the caller's terminal, TIOCSTI", {
  skip: slow || needs('expect'),
}, async () => {
  const push = `perl -e 'for (split //, "pushed\\n") { ioctl STDERR, 0x5412, $_ or die "$!\\n" }'`;
  /** What the terminal has for its owner after a command, of which the words are pushed and shown too. */
  const typed = async (command: string) => {
    const caller = `stty -echo -icanon min 0 time 5; ${command}; echo "code $?, typed <$(head -c 9)>"`;
    const { stdout } = await execute(
      ['expect', '-c', 'set timeout 60; spawn -noecho sh -c $env(CALLER); expect eof'],
      {
        env: { ...process.env, CALLER: caller },
      },
    );
    return /code \d+, typed <[^>]*>/.exec(stdout)?.[0] ?? stdout;
  };
  assert.match(await typed(push), /code 0, typed <pushed/);
  const run = `${script('run')} ${root} ${push}`;
  for (const command of [run, `${run} </dev/null`, `${run} >/dev/null`, `${run} | cat`, `setsid ${run}`])
    assert.match(await typed(command), /code \d+, typed <>/, command);
});

for (const [by, exec] of [
  ['perl', [script('exec')]],
  ['python3', hiding(['perl'], [script('exec')])],
] as const)
  test(`no way out: what exec.ts sends in by ${by}, and hands on`, { skip: skip || needs(by) }, async () => {
    // a process that has left its capabilities, but not yet the root and the programs of the host
    const look = `$| = 1; my ($canary, %said) = @ARGV; print "looking\n"; until (-e "/stop") {
    opendir my $proc, "/proc"; for my $pid (grep /^\\d+$/ && $_ != $$, readdir $proc) {
      open my $file, "<", "/proc/$pid/root$canary" and !$said{root}++ and print "OUT: root\n";
      my $exe = readlink "/proc/$pid/exe" or next; my @file = stat "/proc/$pid/exe"; my @own = stat $exe;
      my $same = @file && "@file[0, 1]" eq "@own[0, 1]" || $exe ne readlink "/proc/$pid/exe";   # or it has just become another
      $same || $said{$exe}++ or print "OUT: $exe\n" } }`;
    const name = newName();
    rmSync(join(root, 'stop'), { force: true });
    const run = [script('run'), '--name', name, root, 'perl', '-e', look, canary];
    const launcher = spawn(run[0] as string, run.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
    const end = once(launcher, 'exit');
    let said = '';
    launcher.stdout.on('data', (text) => {
      said += text;
    });
    try {
      await until('it to look', () => said !== '');
      for (let times = 0; times < 4; times++) await host(...exec, name, 'sh', '-c', ':');
      assert.equal(said, 'looking\n', 'IT IS OUT');
      const input = await host(...exec, name, 'stat', '-L', '-c', '%Hd:%Ld:%i', '/proc/self/fd/0');
      assert.notEqual(
        input,
        variables.NULL,
        "IT IS OUT: its input is the host's /dev/null, and chmod(2) changes that",
      );
      const pid = (await host('pgrep', '-f', `^perl -e .* ${canary}$`)).split('\n').at(-1) as string;
      const bounding = `--bounding-set=-all,${defaultCapabilities.map((word) => `+${word}`)}`;
      const careless = ['nsenter', '--target', pid, '--pid', 'setpriv', '--inh-caps=-all', bounding];
      await until('the control to be out', async () => {
        await host(...careless, '--no-new-privs', 'sh', '-c', 'sleep 0.1; :');
        return /OUT: root/.test(said) && /OUT: .*sh\n/.test(said);
      });
    } finally {
      writeFileSync(join(root, 'stop'), '');
      await end;
    }
  });
