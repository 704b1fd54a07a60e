// What people see when they mistype something: what was typed, the exit code, and the one line on standard error.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, before, test } from 'node:test';
import { didYouMean, escapeControls } from '../scripts/helpers/messages.ts';
import { container, newName } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, rootfs, top } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

/** A folder with a short path: a line of a message has at most 200 characters. */
const folder = mkdtempSync(join(tmpdir(), 'bh-'));
after(() => rmSync(folder, { recursive: true }));
chmodSync(folder, 0o755);

/** What a row has to have; undefined: nothing. */
type Skip = string | false | undefined;
type Row = [typed: string[], exitCode: number, line: string | RegExp, skip?: Skip];

/** Names of errors that the kernel gives, without the words for them. */
const bareErrno = /\bE[A-Z0-9]{3,}\b(?!: \w)/;

/** Types each row with dist's file as `dist/NAME.mjs`, from the project's top folder, a few at a time. */
async function check(name: string, rows: Row[]): Promise<void> {
  const script = `dist/${name}.mjs`;
  const left = rows.filter(([, , , skip]) => !skip);
  const work = async () => {
    for (let row = left.shift(); row; row = left.shift()) {
      const [typed, exitCode, expected] = row;
      const result = await execute([script, ...typed]);
      const { code, stdout, stderr } = result;
      const what = `${script} ${typed.join(' ')}: ${stderr}`;
      const line = stderr.slice(0, -1);
      if (typeof expected === 'string') assert.equal(line, `${name}: ${expected}`, what);
      else assert.match(line, expected, what);
      assert.equal(code, exitCode, what);
      assert.equal(stdout, '', what);
      assert.match(
        stderr,
        new RegExp(`^${name}: [^\n]+\n$`),
        `one line that begins with the script: ${what}`,
      );
      assert.ok(line.length <= 200, `${line.length} characters: ${what}`);
      assert.doesNotMatch(line, bareErrno, what);
      assert.doesNotMatch(line, /[\p{Cc}\p{Cf}]/u, what);
    }
  };
  await Promise.all([work(), work(), work()]);
}

const web = newName();
/** As web, with two letters swapped. */
const mistyped = web.replace('test', 'tset');
const isRoot = container.skip;

before(async () => {
  if (isRoot) return;
  const { code, stderr } = await call('run', ['-d', '--name', web, rootfs, 'sleep', '300']);
  assert.equal(code, 0, stderr);
});
after(async () => {
  if (!isRoot) await call('stop', ['--signal', 'KILL', web]);
});

const root = relative(top, rootfs);
const noContainer = 'there is no container nowhere: dist/ps.mjs shows those there are';

slow('inspect: what is not there, and what does not go together', async () => {
  await check('inspect', [
    [['nowhere'], 1, noContainer],
    [['4194305'], 1, 'there is no process 4194305: dist/ps.mjs shows containers, ps(1) processes'],
    [['a b'], 2, 'neither a name nor a PID: "a b"'],
    [['--dif', '1', '1'], 2, 'unknown option --dif: did you mean --diff?'],
    [['--svg'], 2, '--svg needs a value: type dist/inspect.mjs --help'],
    [['--svg', '/no/such/x.svg', '1'], 1, 'cannot write /no/such/x.svg: ENOENT: no such file or directory'],
    [['--svg', '-', '--json', '1'], 2, '--json cannot be combined with --svg'],
    [[mistyped], 1, new RegExp(`there is no container ${mistyped}: did you mean ${web}\\?$`), isRoot],
  ]);
});

slow('run: options and operands', async () => {
  writeFileSync(join(folder, 'a:b'), '');
  writeFileSync(join(folder, 'file'), '');
  await check('run', [
    [['--memroy', '1M', root], 125, 'unknown option --memroy: did you mean --memory?'],
    [['--mem=1M', root], 125, 'unknown option --mem=1M: did you mean --memory?'],
    [['--readonly', root], 125, 'unknown option --readonly: did you mean --read-only?'],
    [['-ephemeral', root], 125, 'unknown option -ephemeral: did you mean --ephemeral?'],
    [['--frobnicate', root], 125, 'unknown option --frobnicate: type dist/run.mjs --help'],
    [['--fr\x1b[2J\nx', root], 125, 'unknown option --fr\\x1b[2J\\nx: type dist/run.mjs --help'],
    [['--name'], 125, '--name needs a value: type dist/run.mjs --help'],
    [
      ['--name', '--memory', '1M', root],
      125,
      '--name needs a value, and --memory is an option: if it is the value, type --name=--memory',
    ],
    [['--read-only=yes', root], 125, '--read-only is a flag: it takes no value'],
    [[], 125, 'an operand is missing: type dist/run.mjs --help'],
    [
      [root, '--memory', '100M', 'true'],
      125,
      `--memory stands after ROOTFS, where COMMAND begins: type dist/run.mjs --memory 100M ${root} true`,
    ],
    [
      ['--name', 'x', root, '--env=A=b c', '--read-only', 'sh', '-c', ':'],
      125,
      `--env=A=b c stands after ROOTFS, where COMMAND begins: type dist/run.mjs --name x '--env=A=b c' --read-only ${root} sh -c :`,
    ],
    [[root, '--memroy', '1M', 'sh'], 125, 'unknown option --memroy: did you mean --memory?'],
    [['--memory', '12X', root], 125, 'not a size: "12X": write 100M (100·1024²), 100MB (100·1000²) or bytes'],
    [['--name', 'a\tb', root], 125, /^run: not a name: "a\\x09b": up to 63 of/],
    [['-e', '=x', root], 125, 'not KEY=VALUE: "=x"'],
    [['--network', 'bride', root], 125, /not bride: did you mean bridge\?$/],
    [['--cap-add', 'net_amdin', root], 125, 'no such capability: net_amdin: did you mean net_admin?'],
    [['--stop-signal', 'TREM', root], 125, 'no such signal: TREM: did you mean TERM?'],
    [
      ['--preserve-fds', '1', root],
      125,
      '--preserve-fds 1: descriptor 3 is not open: open it in the shell, as by 3<FILE at the end of the line',
    ],
    [
      ['-u', 'a:b:c', root],
      125,
      'not USER[:GROUP]: "a:b:c": a name has no control character, and there is one colon at most',
    ],
    [
      ['-v', '/tmp:/x:slave', root],
      125,
      '--volume: slave is for one mount without those below it, and volumes have all of them: type rslave',
    ],
    [['--disk', '1M', root], 125, '--disk needs --ephemeral, whose size it limits'],
    [['--isolate', 'pid,mnt', root], 125, /^run: --isolate: unknown word mnt: use chroot, mount, pid/],
    [
      ['-v', `${folder}/a:b:/c`, root],
      125,
      `--volume is SRC:DST[:ro], not ${folder}/a:b:/c: if SRC is ${folder}/a:b, type -v '${folder}/a\\:b:/c'`,
    ],
    [
      ['-v', '/tmp:/a:b:ro', root],
      125,
      "--volume is SRC:DST[:ro], not /tmp:/a:b:ro: if SRC is /tmp, type -v '/tmp:/a\\:b:ro'",
    ],
    [['-v', '/tmp', root], 125, '--volume is SRC:DST[:ro], not /tmp: type -v /tmp:/tmp'],
    [
      ['-v', 'docs:/c', root],
      125,
      '--volume: SRC is a path of this host, and must begin with / or ./, not docs: type -v ./docs:/c',
    ],
    [['-v', '/no such:/c', root], 125, "--volume: there is no /no such on this host: mkdir -p '/no such'"],
  ]);
});

test('run: a root file system that is not there', async () => {
  await check('run', [
    [['hots', 'true'], 125, 'no root file system at hots: did you mean host?'],
    [['rootfs/hots', 'true'], 125, 'no root file system at rootfs/hots: did you mean rootfs/host?'],
    [
      ['alpine', 'sh'],
      125,
      /^run: no root file system at alpine; rootfs has .*host.*: type dist\/fetch-rootfs\.mjs https:\/\/dl-cdn\.alpinelinux\.org\/\S+\.tar\.gz alpine$/,
    ],
    [
      ['/no where'],
      125,
      /^run: no root file system at \/no where; rootfs has .*host.*: to make one of this host's programs, type dist\/fetch-rootfs\.mjs host: '\/no where'$/,
    ],
    [
      ['package.json'],
      125,
      'package.json is a file: to unpack a tarball, type dist/fetch-rootfs.mjs package.json',
    ],
  ]);
});

slow('run: what cannot be started', { skip: isRoot }, async () => {
  const script = (name: string, text: string, mode = 0o755) => {
    writeFileSync(join(folder, name), text, { mode });
    return `/v/${name}`;
  };
  const at = ['-v', `${folder}:/v`, '--ephemeral', root];
  mkdirSync(join(folder, 'directory'), { recursive: true });
  const nobody = ['-u', '65534:65534'];
  await check('run', [
    [[root, 'nosuch'], 127, /^run: nosuch: not found in the container's PATH \/\S+$/],
    [['--init', root, 'nosuch'], 127, /^run: nosuch: not found in the container's PATH \/\S+$/],
    [['-d', root, 'nosuch'], 127, /^run: nosuch: not found in the container's PATH \/\S+$/],
    [['--isolate', 'chroot', root, 'nosuch'], 127, /^run: nosuch: not found in the container's PATH \/\S+$/],
    [[root, '/no/such'], 127, '/no/such: not found in the container'],
    [[root, 'no\nsuch'], 127, /^run: no\\nsuch: not found/],
    [[root, '/etc'], 126, '/etc is a directory'],
    [[root, '/etc/passwd'], 126, /^run: \/etc\/passwd is not executable: its mode is 6\d\d$/],
    [
      ['-e', 'PATH=/v', ...at, script('plain', '', 0o644).slice('/v/'.length)],
      126,
      /^run: \/v\/plain is not executable: its mode is 644$/,
    ],
    [
      [...at, script('orphan', '#!/no/sh -e\n')],
      126,
      '/v/orphan needs the interpreter /no/sh, which is missing in the container',
    ],
    [
      [...at, script('dos', '#!/bin/sh\r\n')],
      126,
      '/v/dos has Windows line ends: its first line ends in \\r\\n',
    ],
    [
      [...nobody, ...at, script('mine', '#!/bin/sh\n', 0o700)],
      126,
      'the user of the command may not execute it: choose another -u, or type chmod a+rx for it',
    ],
    [
      ['-w', '/etc/passwd', root, 'true'],
      125,
      "can't cd to the working directory /etc/passwd: it is no directory: choose another -w",
    ],
    [
      ['-v', `${folder}/file:/etc`, root, 'true'],
      125,
      `--volume: ${folder}/file is a file, and /etc is a directory in the container: type -v ${folder}/file:/etc/file`,
    ],
    [
      ['-v', '/etc:/etc/passwd', root, 'true'],
      125,
      '--volume: /etc is a directory, and /etc/passwd is a file in the container: type -v /etc/passwd:/etc/passwd',
    ],
    [
      ['--tmpfs', '/proc/fs', root, 'true'],
      125,
      'cannot mount at /proc/fs: choose a target other than /, and not in /proc',
      needs('speed'),
    ],
    [
      ['--tmpfs', '/etc/passwd', root, 'true'],
      125,
      '/etc/passwd is a file in the container, and no directory: nothing can be mounted there',
    ],
    [
      ['--ulimit', 'nproc=1', ...nobody, root, 'true'],
      125,
      /^run: no process may be added while it starts: raise --pids-limit or --ulimit nproc/,
    ],
    [
      ['--ulimit', 'nofile=4', root, 'true'],
      125,
      'too few files may be open while it starts: raise --ulimit nofile',
    ],
    [
      ['--network', `container:${mistyped}`, root, 'true'],
      125,
      `there is no container ${mistyped}: did you mean ${web}?`,
    ],
  ]);
});

test('exec', async () => {
  await check('exec', [
    [[], 125, 'an operand is missing: type dist/exec.mjs --help'],
    [['nowhere'], 125, 'COMMAND is missing: type dist/exec.mjs nowhere sh'],
    [['--wrokdir', '/', 'nowhere', 'sh'], 125, 'unknown option --wrokdir: did you mean --workdir?'],
    [
      ['nowhere', '-u', '1', 'id'],
      125,
      '-u stands after TARGET, where COMMAND begins: type dist/exec.mjs -u 1 nowhere id',
    ],
    [['nowhere', 'true'], 125, noContainer],
    [[mistyped, 'true'], 125, `there is no container ${mistyped}: did you mean ${web}?`, isRoot],
    [['../x', 'true'], 125, 'neither a name nor a PID: "../x"'],
    [
      ['--host-tools', '-u', '1', 'x', 'true'],
      125,
      /^exec: --host-tools keeps the user .*: leave out -u and --privileged$/,
    ],
    [[web, 'nosuch'], 127, /^exec: nosuch: not found in PATH \/\S+$/, isRoot || needs('perl')],
    [[web, '/no\nsuch'], 127, '/no\\nsuch: not found', isRoot || needs('perl')],
    [[web, '/etc'], 126, '/etc is a directory', isRoot || needs('perl')],
    [
      [web, '/etc/passwd'],
      126,
      /^exec: \/etc\/passwd is not executable for this user: its mode is 6\d\d$/,
      isRoot || needs('perl'),
    ],
  ]);
});

test('ps and logs', async () => {
  await check('ps', [
    [['--jsno'], 2, 'unknown option --jsno: did you mean --json?'],
    [['nowhere'], 1, noContainer],
    [[mistyped], 1, `there is no container ${mistyped}: did you mean ${web}?`, isRoot],
    [['a/b'], 2, 'neither a name nor a PID: "a/b"'],
    [['--count', '3'], 2, '--interval and --count need --watch'],
    [['--watch', '--interval', 'x'], 2, '--interval is a number of seconds, 0.1 to 86400, not x'],
  ]);
  await check('logs', [
    [['--folow', 'x'], 2, 'unknown option --folow: did you mean --follow?'],
    [['a/b'], 2, 'not a name: "a/b"'],
    [
      ['--since', 'yesterday', 'x'],
      2,
      '--since is 10m, 03:15, 2026-01-31 or 2026-01-31T12:34:56Z, not "yesterday"',
    ],
    [['-f', '--until', '1h', 'x'], 2, '--until does not go with --follow'],
    [['nowhere'], 1, /^logs: there is no log of nowhere: dist\/ps\.mjs shows containers, ls \S+ shows logs$/],
    [[mistyped], 1, `there is no log of ${mistyped}: did you mean ${web}?`, isRoot],
    [
      ['--tail', '-1', 'x'],
      2,
      '--tail, the number of lines, is a whole number from 0 to 999999999, not "-1"',
    ],
  ]);
});

test('stop', async () => {
  await check('stop', [
    [[], 2, 'name a TARGET, or give --all or --sweep: dist/ps.mjs shows containers'],
    [['--signla', 'TERM', 'x'], 2, 'unknown option --signla: did you mean --signal?'],
    [['--signal', 'FOO', 'x'], 2, 'no such signal: FOO: kill -l lists their names'],
    [['-s', 'HPU', 'x'], 2, 'no such signal: HPU: did you mean HUP?'],
    [['-s', 'sigtrem', 'x'], 2, 'no such signal: sigtrem: did you mean SIGTERM?'],
    [['-s', 'RTMN+3', 'x'], 2, 'no such signal: RTMN+3: did you mean RTMIN+3?'],
    [['nowhere'], 1, noContainer],
    [[mistyped], 1, `there is no container ${mistyped}: did you mean ${web}?`, isRoot],
    [['a\nb'], 2, 'neither a name nor a PID: "a\\nb"'],
    [['--timeout', 'x', 'y'], 2, '--timeout is a number of seconds, not x'],
  ]);
});

test('limit-memory, limit-cpu, limit-pids and limit-io', async () => {
  await check('limit-memory', [
    [['web'], 2, 'SIZE is missing: type dist/limit-memory.mjs web 100M'],
    [['--rest', 'web'], 2, 'unknown option --rest: did you mean --reset?'],
    [['nowhere', '1M'], 1, noContainer, isRoot],
    [[mistyped, '1M'], 1, `there is no container ${mistyped}: did you mean ${web}?`, isRoot],
    [['1', '1M'], 1, '1 is the init of this host: its limits would apply to all processes', isRoot],
    [['x', '1M', '2M'], 2, 'one operand too many: 2M: type dist/limit-memory.mjs --help'],
  ]);
  await check('limit-cpu', [
    [['web'], 2, 'CPUS is missing: type dist/limit-cpu.mjs web 0.5'],
    [['--weigth', '3', 'web'], 2, 'unknown option --weigth: did you mean --weight?'],
    [['web', '0'], 2, 'not a number of CPUs from 0.01 on, as 1.5: "0"'],
  ]);
  await check('limit-pids', [
    [['web'], 2, 'NUMBER is missing: type dist/limit-pids.mjs web 100'],
    [['web', '-5'], 2, 'unknown option -5: type dist/limit-pids.mjs --help'],
    [['web', 'many'], 2, 'NUMBER is a whole number from 1 to 4194304, not "many"'],
  ]);
  await check('limit-io', [
    [['web'], 2, 'DEVICE or PATH is missing: type dist/limit-io.mjs web / --read-bps 10M'],
    [['web', '/', '--read-bsp', '1M'], 2, 'unknown option --read-bsp: did you mean --read-bps?'],
    [
      ['web', '/dev/null', '--read-bps', '1M'],
      1,
      '/dev/null is a character device: only disks can be limited',
    ],
  ]);
});

test('network', async () => {
  await check('network', [
    [[], 2, 'an operand is missing: type dist/network.mjs --help'],
    [['atach', 'web'], 2, 'there is no command atach: did you mean attach?'],
    [['lss'], 2, 'there is no command lss: did you mean ls?'],
    [['frobnicate'], 2, 'there is no command frobnicate: attach, publish, limit, detach, ls, sweep'],
    [['attach'], 2, 'attach needs a TARGET: dist/ps.mjs shows containers'],
    [['attach', '--brigde', 'b', 'web'], 2, 'unknown option --brigde: did you mean --bridge?'],
    [['attach', 'nowhere'], 1, noContainer],
    [['attach', mistyped], 1, `there is no container ${mistyped}: did you mean ${web}?`, isRoot],
    [
      ['attach', web],
      1,
      `${web} has the host's network: start it with dist/run.mjs --network none, or unshare --net`,
      isRoot,
    ],
    [['ls', '--bridge', 'x'], 2, '--bridge does not go with ls: type dist/network.mjs --help'],
    [['publish', 'web'], 2, 'publish needs a port: type dist/network.mjs publish web 8080:80', isRoot],
    [['publish', 'web', '80'], 2, 'a port is [IP:]HOSTPORT:PORT[/udp], as 8080:80, not 80', isRoot],
    [['limit', 'web', '--rate', '1'], 2, /^network: a rate is bits per second from 8K to 400G/],
  ]);
});

test('fetch-rootfs and demo', async () => {
  const { length } = readdirSync(top);
  await check('fetch-rootfs', [
    [['--sha257', 'x'], 2, 'unknown option --sha257: did you mean --sha256?'],
    [['/no/such.tar'], 1, 'cannot fetch /no/such.tar: ENOENT: no such file or directory'],
    [
      ['/etc', `${folder}/new`],
      1,
      `cannot fetch /etc: EISDIR: it is a directory: pack it: tar -C /etc -c . | dist/fetch-rootfs.mjs - ${folder}/new`,
    ],
    [['a', 'b', 'c'], 2, 'one operand too many: c: type dist/fetch-rootfs.mjs --help'],
    [
      ['host:', '.hidden'],
      2,
      'no name for a root file system: ".hidden": type dist/fetch-rootfs.mjs host: NAME',
    ],
    [['http://', `${folder}/new`], 2, 'not a URL: http://'],
  ]);
  assert.equal(readdirSync(top).length, length, 'nothing was made');
  await check('demo', [
    [['--kep'], 2, 'unknown option --kep: did you mean --keep?'],
    [['x'], 2, 'one operand too many: x: type dist/demo.mjs --help'],
  ]);
});

test('other scripts are named by the path that this one was called by', async () => {
  const link = join(folder, 'ctr');
  symlinkSync(join(top, 'dist/stop.mjs'), link);
  const from = (cwd: string, ...argv: string[]) => execute([...argv, 'nowhere'], { cwd });
  const shows = (ps: string) => `stop: there is no container nowhere: ${ps} shows those there are\n`;
  for (const [cwd, argv, ps] of [
    [top, ['./dist/stop.mjs'], './dist/ps.mjs'],
    [join(top, 'dist'), ['./stop.mjs'], './ps.mjs'],
    [join(top, 'dist'), [process.execPath, 'stop.mjs'], './ps.mjs'],
    [join(top, 'docs'), ['../scripts/stop.ts'], '../scripts/ps.ts'],
    [folder, [join(top, 'dist/stop.mjs')], join(top, 'dist/ps.mjs')],
    [folder, ['./ctr'], join(top, 'dist/ps.mjs')],
    [top, ['./scripts/stop.ts'], './scripts/ps.ts'],
  ] as [string, string[], string][])
    assert.equal((await from(cwd, ...argv)).stderr, shows(ps), `${argv} in ${cwd}`);
});

test('control characters are shown, not sent to the terminal; all other text stays', () => {
  assert.equal(
    escapeControls('a\x1b]0;b\x07\nc\x7f\x9b\t\r\0'),
    'a\\x1b]0;b\\x07\\nc\\x7f\\x9b\\x09\\x0d\\x00',
  );
  assert.equal(escapeControls("ä 'b' \\ 漢"), "ä 'b' \\ 漢");
});

test('the nearest name is suggested: letters missing, more, wrong or swapped, in either case', () => {
  const names = ['quiet', 'max-size', 'max-entries', 'dry-run'];
  for (const [word, name] of [
    ['quite', 'quiet'],
    ['quiett', 'quiet'],
    ['qiet', 'quiet'],
    ['QUIET', 'quiet'],
    ['maxsize', 'max-size'],
    ['max-entires', 'max-entries'],
    ['dryRun', 'dry-run'],
  ] as const)
    assert.equal(didYouMean(word, names, '--'), `: did you mean --${name}?`, word);
  assert.equal(didYouMean('a\x1b', ['a\x1bb']), ': did you mean a\\x1bb?');
});

test('what is not near is not suggested, nor the word itself', () => {
  for (const word of ['no-such-option', 'q', 'dry', 'quiet'])
    assert.equal(didYouMean(word, ['quiet']), '', word);
  assert.equal(didYouMean('x', []), '');
});
