import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../scripts/helpers/cli.ts';
import { quote, sh, variable } from '../scripts/helpers/shell.ts';
import { perform, type Step, toShell } from '../scripts/helpers/steps.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { stripTypes } from './helpers/script.ts';

const folder = scratchFolder('plan');

/** Options of node that let it run the project's TypeScript. */

const hostile = [
  '',
  ' ',
  'plain/path-1.0_x:y=z,@%+',
  "it's",
  "''",
  '"double" $HOME `id` $(id) ${x}',
  'a;b&c|d>e<f(g)h{i}j[k]l*m?n~o!p#q',
  '~root',
  '#comment',
  '-n',
  '--',
  '\\',
  '\\n\\0101\\c',
  'two\nlines\n',
  'tab\tand\rreturn',
  '\u001b[31m',
  'ünïcödé 容器 🐳',
  '!!',
  '%s%n',
  '{a,b}',
  "'\\''",
];

for (const shell of [['dash'], ['bash'], ['busybox', 'sh']])
  test(`${shell.join(' ')} reads a quoted word as it was`, { skip: needs(shell[0] as string) }, () => {
    const [program, ...words] = shell as [string, ...string[]];
    const script = hostile.map((word) => `printf '%s\\0' ${quote(word)}\n`).join('');
    const read = execFileSync(program, [...words, '-c', script], { encoding: 'utf8' });
    assert.deepEqual(read.split('\0').slice(0, -1), hostile);
  });

test('words that need no quotes have none', () => {
  assert.equal(quote('/sys/fs/cgroup/memory.max'), '/sys/fs/cgroup/memory.max');
  assert.equal(quote('--map-root-user=yes'), '--map-root-user=yes');
});

test('a plan is printed as people type it, with its reasons', () => {
  assert.equal(
    toShell([
      { why: 'a cgroup', mkdir: '/sys/fs/cgroup/web' },
      { write: '100', to: '/sys/fs/cgroup/web/pids.max' },
      { run: ['mount', '--bind', '/a b', '/c'] },
      { rmdir: '/sys/fs/cgroup/web' },
    ]),
    `# a cgroup
mkdir -p /sys/fs/cgroup/web
echo 100 > /sys/fs/cgroup/web/pids.max
mount --bind '/a b' /c
rmdir /sys/fs/cgroup/web
`,
  );
});

test('steps that do the same are printed as a loop', () => {
  const each = (words: string, step: (word: string) => Step) => words.split(' ').map(step);
  assert.equal(
    toShell([
      ...each('cpu io pids', (word) => ({ mkdir: `/cg/${word}/web` })),
      ...each('cpu io pids', (word) => ({ write: '7', to: `/cg/${word}/web/cgroup.procs` })),
      ...each('-cpu -io -pids', (write) => ({ write, to: '/cg/cgroup.subtree_control', ignore: true })),
      ...each('cpu,cpuacct io pids', (word) => ({
        rmdir: `/cg/${word}/a/web`,
        withParent: true,
        unlessUsed: true,
      })),
      // what does not differ in a name only, or just twice
      ...each('a b/c d', (word) => ({ mkdir: `/x/${word}` })),
      ...each('-n -e -E', (write) => ({ write, to: '/x' })),
      ...each('a b', (word) => ({ rmdir: `/y/${word}` })),
      ...each("a b it's", (word) => ({ rmdir: `/z/${word}` })),
    ]),
    `for each in cpu io pids; do mkdir -p "/cg/$each/web"; done
for each in cpu io pids; do echo 7 > "/cg/$each/web/cgroup.procs"; done
for each in -cpu -io -pids; do echo "$each" > /cg/cgroup.subtree_control 2>/dev/null || :; done
for each in cpu,cpuacct io pids; do (cd "/cg/$each" && rmdir -p a/web) 2>/dev/null || :; done
mkdir -p /x/a
mkdir -p /x/b/c
mkdir -p /x/d
printf '%s\\n' -n > /x
printf '%s\\n' -e > /x
printf '%s\\n' -E > /x
rmdir /y/a
rmdir /y/b
rmdir /z/a
rmdir /z/b
rmdir '/z/it'\\''s'
`,
  );
  // pairs too, where that is wished: of one step or two, and of a cgroup and the one in it
  const levels = ['/cg/a', '/cg/a/web'];
  assert.equal(
    toShell(
      [
        ...levels.flatMap((level): Step[] => [
          { write: '0-3', to: `${level}/cpuset.cpus` },
          { write: '0', to: `${level}/cpuset.mems` },
        ]),
        ...each('max swap.max', (word) => ({ write: '100', to: `/cg/a/web/${word}` })),
        ...levels.map((mkdir): Step => ({ why: 'with a reason', mkdir })),
      ],
      2,
    ),
    `for each in a a/web; do echo 0-3 > "/cg/$each/cpuset.cpus"; echo 0 > "/cg/$each/cpuset.mems"; done
for each in max swap.max; do echo 100 > "/cg/a/web/$each"; done
# with a reason
mkdir -p /cg/a
# with a reason
mkdir -p /cg/a/web
`,
  );
});

test('a loop that is too long for a line is broken', () => {
  const names = Array.from({ length: 40 }, (_, index) => `controller-${index}`);
  const lines = toShell(names.map((name) => ({ mkdir: `/cg/${name}/web` })))
    .trimEnd()
    .split('\n');
  assert.ok(lines.length > 2 && lines.every((line) => line.length < 160), lines.join('\n'));
  assert.equal(spawnSync('sh', ['-n'], { input: lines.join('\n') }).status, 0);
});

test('a command is typed as words: what is interpolated is no other word, and no other part of one', () => {
  const [link, list] = ['a; b', ['one two', '', '*']];
  assert.deepEqual(sh`ip link add ${link} name=${link}/x${7}`, ['ip', 'link', 'add', 'a; b', 'name=a; b/x7']);
  assert.deepEqual(sh`  mount ${list}\n  ${''} -o x${list}y `, [
    ...['mount', 'one two', '', '*', '', '-o'],
    ...['xone two', '', '*y'],
  ]);
});

test('a value that is not known yet is a variable in print, in words, files and input', () => {
  const pid = variable('pid');
  const text = toShell([
    { run: sh`nsenter --target ${pid} cat /proc/${pid}/root ${`a$"b ${pid}s`}`, input: `$1 ${pid}\n` },
    { write: pid, to: `/tmp/${pid}` },
  ]);
  assert.equal(
    text,
    'nsenter --target "$pid" cat "/proc/$pid/root" "a\\$\\"b ${pid}s" <<END\n\\$1 ${pid}\nEND\necho "$pid" > "/tmp/$pid"\n',
  );
});

/** Everything below a folder: names, and contents without the newline that echo adds. */
function contents(path: string): unknown {
  return readdirSync(path, { withFileTypes: true }).map((entry) => [
    entry.name,
    entry.isSymbolicLink()
      ? readlinkSync(join(path, entry.name))
      : entry.isDirectory()
        ? contents(join(path, entry.name))
        : readFileSync(join(path, entry.name), 'utf8').replace(/\n$/, ''),
  ]);
}

function plan(root: string): Step[] {
  return [
    { mkdir: join(root, 'deep/er') },
    { mkdir: join(root, 'deep') },
    { mkdir: join(root, 'gone') },
    { rmdir: join(root, 'gone') },
    ...['a', 'b', 'c'].map((name): Step => ({ mkdir: join(root, name, 'one/two') })),
    { mkdir: join(root, 'b/one/other') },
    ...['a', 'b', 'c', 'd'].map(
      (name): Step => ({ rmdir: join(root, name, 'one/two'), withParent: true, unlessUsed: true }),
    ),
    ...hostile
      .filter((text) => !text.endsWith('\n'))
      .map((text, index): Step => ({ why: 'a value', write: text, to: join(root, `value ${index}`) })),
    { write: 'first', to: join(root, 'again') },
    { write: 'second', to: join(root, 'again') },
    { link: 'gone/../deep', at: join(root, 'a link') },
    { run: ['tee', join(root, 'input')], input: `$HOME \`id\`\n${hostile.join('')}\nEND` },
    { run: ['touch', ...hostile.filter((word) => !/^$|\/|^-/.test(word)).map((word) => join(root, word))] },
  ];
}

for (const shell of [['dash'], ['bash'], ['busybox', 'sh']])
  test(`a plan that is piped into ${shell.join(' ')} does what performing it does`, {
    skip: needs(shell[0] as string),
  }, async () => {
    const [performed, typed] = ['performed', shell[0] as string].map((name) => join(folder, name));
    for (const root of [performed, typed] as string[]) {
      rmSync(root, { recursive: true, force: true });
      mkdirSync(root);
    }
    await perform(plan(performed as string));
    const [program, ...words] = shell as [string, ...string[]];
    execFileSync(program, [...words, '-eu'], { input: toShell(plan(typed as string)) });
    assert.deepEqual(contents(typed as string), contents(performed as string));
    assert(readdirSync(typed as string).includes("it's"));
  });

test('a command gets nothing to read, and may be noisy', async () => {
  await perform([{ run: ['sh', '-c', 'cat; echo noise; echo noise >&2'] }]);
});

test('a command need not read all of its input', async () => {
  const input = 'more than a pipe holds\n'.repeat(10_000);
  for (let tries = 0; tries < 5; tries++) await perform([{ run: ['true'], input }]);
  await assert.rejects(perform([{ run: ['no-such-program'], input }]), /no-such-program/);
});

test('what ZX_ variables say does not steer a plan, nor is bash needed', () => {
  const url = new URL('../scripts/helpers/steps.ts', import.meta.url).href;
  const program = `const { perform } = await import('${url}'); await perform([{ run: ['touch', ${JSON.stringify(join(folder, 'zx'))}] }]);`;
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  execFileSync('ln', ['-s', execFileSync('which', ['touch'], { encoding: 'utf8' }).trim(), bin]);
  const { status, stderr } = spawnSync(
    process.execPath,
    [...stripTypes, '--input-type=module', '--eval', program],
    {
      encoding: 'utf8',
      env: { PATH: bin, ZX_SHELL: '/nonexistent', ZX_PREFIX: 'exit 9;', ZX_POSTFIX: '; exit 9' },
    },
  );
  assert.deepEqual([status, stderr], [0, '']);
  assert(readdirSync(folder).includes('zx'));
});

const failures: [string, Step, RegExp][] = [
  [
    'a folder that cannot be made',
    { mkdir: '/dev/null/nope' },
    /^cannot make the directory \/dev\/null\/nope: ENOTDIR: /,
  ],
  [
    'a folder that is not empty',
    { rmdir: tmpdir() },
    /^cannot remove the directory \S+: (ENOTEMPTY|EBUSY): /,
  ],
  [
    'a file that cannot be written',
    { write: '5', to: '/proc/nope' },
    /^cannot write 5 to \/proc\/nope: ENOENT: /,
  ],
  [
    'a command that fails',
    { run: ['sh', '-c', 'echo why >&2; exit 3'] },
    /^cannot run sh -c 'echo why [^\n]*: why$/,
  ],
  ['a command that says nothing', { run: ['false'] }, /^cannot run false: exit code 1$/],
  ['a command that is not there', { run: ['no such', 'x'] }, /^cannot run 'no such' x: .*not found$/],
  ['a command that is killed', { run: ['sh', '-c', 'kill -9 $$'] }, /(killed by SIGKILL|Killed)$/],
];
for (const [name, step, message] of failures)
  test(`the plan ends at ${name}`, async () => {
    const marker = join(folder, 'marker');
    await assert.rejects(perform([step, { write: '', to: marker }]), (error) => {
      assert(error instanceof Failure);
      assert.match(error.message, message);
      return true;
    });
    assert(!readdirSync(folder).includes('marker'));
  });

test('processes that make the same directories at the same time all succeed', async () => {
  const race = join(folder, 'race');
  const program = `
    const { makeDirectory } = await import('${new URL('../scripts/helpers/steps.ts', import.meta.url).href}');
    process.stdout.write('ready');
    const start = await new Promise((resolve) => process.stdin.once('data', (data) => resolve(Number(data))));
    process.stdin.destroy();
    for (let round = 0; round < 300; round++) {
      while (Date.now() < start + 2 * round); // all of them begin now
      makeDirectory('${race}/' + round + '/a/b/c/d');
    }`;
  const racers = [1, 2].map(() =>
    spawn(process.execPath, [...stripTypes, '--input-type=module', '--eval', program], {
      stdio: ['pipe', 'pipe', 'inherit'],
    }),
  );
  await Promise.all(racers.map(({ stdout }) => once(stdout, 'data')));
  for (const { stdin } of racers) stdin.end(String(Date.now() + 100));
  const codes = await Promise.all(racers.map(async (racer) => (await once(racer, 'exit'))[0]));
  assert.deepEqual(codes, [0, 0]);
  assert.equal(readdirSync(race).length, 300);
});

test('a directory that the kernel will not make is no reason to try for ever', {
  timeout: 20_000,
}, async () => {
  await assert.rejects(perform([{ mkdir: '/proc/no/such/folder' }]), /cannot make the directory .*ENOENT/);
  await assert.rejects(perform([{ copy: [process.execPath], to: '/proc/self' }]), /cannot copy .*ENOENT/);
  await assert.rejects(perform([{ mkdir: '/dev/null/x' }]), /ENOTDIR/);
});

test('what was done before a step failed stays done', async () => {
  const file = join(folder, 'before');
  writeFileSync(file, '');
  await assert.rejects(perform([{ write: 'done', to: file }, { run: ['false'] }]));
  assert.equal(readFileSync(file, 'utf8'), 'done');
});
