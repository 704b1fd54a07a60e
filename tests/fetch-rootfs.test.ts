// fetch-rootfs.ts on tarballs that are at hand: SOURCE, DEST, every option, interruption, users without root.
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { planFetch } from '../scripts/fetch-rootfs.ts';
import { archive, type Member, member } from './helpers/archives.ts';
import { loneBundle, run, Sandbox, sandbox, script } from './helpers/fetch.ts';
import { needs } from './helpers/needs.ts';
import { until } from './helpers/script.ts';
import { test as slow } from './helpers/slow.ts';

const program = loneBundle();

const root = { skip: needs('root', 'namespaces') };

const folder = (name: string, more: Member = {}): Member => ({ name, type: '5', mode: 0o755, ...more });
const small = archive(folder('bin/'), { name: 'bin/sh', data: '#!', mode: 0o755 }, folder('etc/'), {
  name: 'etc/motd',
  data: 'hello\n',
});

const files = (directory: string) =>
  execFileSync('find', ['.', '-mindepth', '1', '-printf', '%P\n'], { cwd: directory, encoding: 'utf8' })
    .trim()
    .split('\n')
    .sort()
    .join(' ');

test('a tarball is unpacked, its path is all that is on standard output', root, async (t) => {
  const { top, dest, file, left } = bound(sandbox(t));
  const { code, stdout, stderr } = await run([file('small.tar', small), dest]);
  assert.equal(stderr, `4 entries, 8 B, sha256 ${createHash('sha256').update(small).digest('hex')}\n`);
  assert.equal(stdout, `${dest}\n`);
  assert.equal(code, 0);
  assert.equal(files(dest), 'bin bin/sh etc etc/motd');
  assert.equal(readFileSync(join(dest, 'etc/motd'), 'utf8'), 'hello\n');
  assert.deepEqual(left(), ['dest'], `nothing else is left in ${top}`);
});

/** A sandbox whose methods can be taken out of it. */
function bound(made: Sandbox) {
  return {
    top: made.top,
    work: made.work,
    dest: made.dest,
    file: made.file.bind(made),
    left: made.left.bind(made),
  };
}

for (const [tool, ...args] of [['gzip'], ['xz'], ['zstd', '-q'], ['bzip2']] as [string, ...string[]][]) {
  const skip = needs('root', 'namespaces', tool);
  const compressed = () => execFileSync(tool, [...args, '-c'], { input: small });

  test(`${tool} is recognized by its content, whatever the name`, { skip }, async (t) => {
    const { dest, file } = bound(sandbox(t));
    const { code, stderr } = await run([file('rootfs.tar', compressed()), dest], { program });
    assert.equal(code, 0, stderr);
    assert.equal(files(dest), 'bin bin/sh etc etc/motd');
  });

  (tool === 'gzip' ? test : slow)(
    `${tool} data that are cut, or followed by something, are refused`,
    { skip },
    async (t) => {
      const { dest, file, left } = bound(sandbox(t));
      for (const bytes of [
        compressed().subarray(0, -9),
        Buffer.concat([compressed(), Buffer.from('behind')]),
      ]) {
        const { code, stdout, stderr } = await run([file('rootfs.tar', bytes), dest], { program });
        assert.match(stderr, new RegExp(`^fetch-rootfs: cannot fetch .*${tool}.*\n$`));
        assert.equal(code, 1);
        assert.equal(stdout, '');
        assert.deepEqual(left(), []);
      }
    },
  );
}

test('a compression whose program is missing is named', {
  skip: needs('root', 'namespaces', 'xz'),
}, async (t) => {
  const { top, dest, file } = bound(sandbox(t));
  const source = file('rootfs.tar.xz', execFileSync('xz', ['-c'], { input: small }));
  // a /usr/bin of links to all of it but xz
  const hide = `mkdir own links; mount --bind /usr/bin own; cp -as "$PWD/own/." links; rm links/xz
    mount --bind links /usr/bin; exec "$@"`;
  const words = ['--mount', 'sh', '-ec', hide, 'sh', program, source, dest];
  const { code, stderr } = await run(words, { program: 'unshare', cwd: top });
  assert.match(stderr, /compressed with xz, which is not installed here: \S+ \S+ xz/);
  assert.equal(code, 1);
});

test('- is standard input', root, async (t) => {
  const { dest } = bound(sandbox(t));
  const { code, stderr } = await run(['-', dest], { program, input: gzipSync(small) });
  assert.equal(code, 0, stderr);
  assert.equal(files(dest), 'bin bin/sh etc etc/motd');
});

const strips: [what: string, members: Member[], options: string[], expected: string][] = [
  [
    'a single top directory is taken off',
    [folder('rootfs/'), folder('rootfs/bin/'), { name: 'rootfs/bin/sh' }],
    [],
    'bin bin/sh',
  ],
  ['so it is where it has no entry', [{ name: 'rootfs/bin/sh' }], [], 'bin bin/sh'],
  ['so it is after ./', [folder('./rootfs/'), { name: './rootfs/bin/sh' }], [], 'bin bin/sh'],
  [
    'so it is after an entry for ./',
    [folder('./'), folder('./rootfs/'), { name: './rootfs/bin/sh' }],
    [],
    'bin bin/sh',
  ],
  ['./ alone is no top directory', [folder('./'), folder('./bin/'), { name: './bin/sh' }], [], 'bin bin/sh'],
  ['a directory of every root is no top directory', [folder('usr/'), { name: 'usr/sh' }], [], 'usr usr/sh'],
  [
    'a file at the top says there is none',
    [{ name: '.dockerenv' }, folder('app/'), { name: 'app/x' }, { name: 'bin/sh' }],
    [],
    '.dockerenv app app/x bin bin/sh',
  ],
  [
    'a hard link keeps its target',
    [{ name: 'rootfs/a' }, { name: 'rootfs/b', type: '1', link: 'rootfs/a' }],
    [],
    'a b',
  ],
  [
    '--strip 0 leaves a top directory',
    [folder('rootfs/'), { name: 'rootfs/sh' }],
    ['--strip', '0'],
    'rootfs rootfs/sh',
  ],
  [
    '--strip 1 takes off any',
    [folder('a/'), { name: 'a/x' }, { name: 'b/y' }, { name: 'z' }],
    ['--strip=1'],
    'x y',
  ],
  ['--strip 2 takes off two', [folder('a/'), folder('a/b/'), { name: 'a/b/c' }], ['--strip', '2'], 'c'],
  ['--strip auto is the default', [{ name: 'rootfs/bin/sh' }], ['--strip', 'auto'], 'bin bin/sh'],
];
for (const [what, members, options, expected] of strips)
  (what.startsWith('--strip') ? slow : test)(`strip: ${what}`, root, async (t) => {
    const { dest, file } = bound(sandbox(t));
    const { code, stderr } = await run([...options, file('x.tar', archive(...members)), dest], { program });
    assert.equal(code, 0, stderr);
    assert.equal(files(dest), expected);
  });

test('strip: more than there is leaves nothing, which is refused', root, async (t) => {
  const { dest, file, left } = bound(sandbox(t));
  const { code, stderr } = await run(['--strip', '5', file('x.tar', small), dest], { program });
  assert.match(stderr, /--strip 5 leaves nothing of it: choose a smaller number\n$/);
  assert.equal(code, 1);
  assert.deepEqual(left(), []);
});

test("the root directory gets its entry's mode, owner and time, under whatever name", root, async (t) => {
  const { work, file } = bound(sandbox(t));
  const own = { mode: 0o751, uid: 12, gid: 34, pax: { mtime: '1600000000.123456789' } };
  for (const [name, entry, inside] of [
    ['plain', './', './etc/'],
    ['stripped', 'rootfs/', 'rootfs/etc/'],
  ] as const) {
    const source = file('x.tar', archive(folder(entry, own), folder(inside)));
    const { code, stderr } = await run([source, join(work, name)], { program });
    assert.equal(code, 0, stderr);
    const { mode, uid, gid, mtimeNs } = statSync(join(work, name), { bigint: true });
    assert.deepEqual([Number(mode) & 0o7777, uid, gid, mtimeNs], [0o751, 12n, 34n, 1600000000123456789n]);
  }
});

test('a root directory without an entry can be entered by all', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const { code } = await run([file('x.tar', small), dest], { program });
  assert.equal(code, 0);
  assert.equal(statSync(dest).mode & 0o7777, 0o755);
});

test('names lead through links of the archive as they would in the new root', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const source = file(
    'x.tar',
    archive(
      folder('rootfs/'),
      folder('rootfs/usr/bin/'),
      { name: 'rootfs/bin', type: '2', link: '/usr/bin' },
      { name: 'rootfs/bin/sh', data: 'x' },
      { name: 'rootfs/sbin', type: '2', link: 'usr/bin' },
      { name: 'rootfs/sbin/init', data: 'x' },
    ),
  );
  const { code, stderr } = await run([source, dest], { program });
  assert.equal(code, 0, stderr);
  assert.equal(files(dest), 'bin sbin usr usr/bin usr/bin/init usr/bin/sh');
  assert.equal(readlinkSync(join(dest, 'bin')), '/usr/bin');
});

test('--sha256 lets the right archive pass, in either case of letters', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const sum = createHash('sha256').update(small).digest('hex').toUpperCase();
  const { code, stderr } = await run(['--sha256', sum, file('x.tar', small), dest], { program });
  assert.equal(code, 0, stderr);
});

test('--sha256 refuses another archive, and tells its sum', root, async (t) => {
  const { dest, file, left } = bound(sandbox(t));
  const sum = createHash('sha256').update(small).digest('hex');
  const { code, stderr, stdout } = await run(['--sha256', '0'.repeat(64), file('x.tar', small), dest], {
    program,
  });
  assert.match(stderr, new RegExp(`its sha256 is ${sum}, not 0{64}\n$`));
  assert.equal(code, 1);
  assert.equal(stdout, '');
  assert.deepEqual(left(), []);
});

test('--max-size and --max-entries let pass what is just as large', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const source = file('x.tar', small);
  const { code, stderr } = await run(['--max-size', `${small.length}`, '--max-entries', '4', source, dest], {
    program,
  });
  assert.equal(code, 0, stderr);
});

test('--skip-devices keeps the devices that any root has', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const source = file(
    'x.tar',
    archive(
      { name: 'dev/null', type: '3', device: [1, 3], mode: 0o666 },
      { name: 'dev/sda', type: '4', device: [8, 0] },
      { name: 'bin/sh' },
    ),
  );
  const { code, stderr } = await run(['--skip-devices', source, dest], { program });
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^1 device nodes left out\n/);
  const device = statSync(join(dest, 'dev/null'));
  assert.ok(device.isCharacterDevice());
  assert.equal(device.rdev, 0x103);
  assert.deepEqual(readdirSync(join(dest, 'dev')), ['null']);
});

test('--quiet leaves standard error empty', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const { code, stdout, stderr } = await run(['-q', file('x.tar', archive({ name: 'x' })), dest], {
    program,
  });
  assert.deepEqual([code, stdout, stderr], [0, `${dest}\n`, '']);
});

test('what does not look like a root file system is unpacked with a warning', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const { code, stderr } = await run([file('x.tar', archive({ name: 'etc/x' })), dest], { program });
  assert.equal(code, 0);
  assert.match(stderr, /^warning: neither \/bin nor \/usr in it/);
});

/** All that there is below a directory, with types, modes, owners, times of what is no directory, and contents. */
function tree(directory: string): string {
  const format = '%P %y %m %U %G %l\n';
  const entries = execFileSync(
    'sh',
    ['-c', 'find . -printf "$0"; find . ! -type d -printf "%P %s %T@\n"', format],
    { cwd: directory, encoding: 'utf8' },
  );
  const sums = execFileSync('sh', ['-c', 'find . -type f -exec sha256sum {} +'], {
    cwd: directory,
    encoding: 'utf8',
  });
  return [...entries.split('\n'), ...sums.split('\n')].sort().join('\n');
}

/** Has a shell read what --dry-run prints, after a look at what that has made: nothing. */
async function paste(made: Sandbox, args: string[], input: Buffer = Buffer.alloc(0), dest = made.dest) {
  const before = made.left();
  const { code, stdout, stderr } = await run(['--dry-run', ...args, dest], { program, cwd: made.work });
  assert.deepEqual([code, stderr], [0, '']);
  assert.deepEqual(made.left(), before);
  const env = { no_proxy: '*' };
  const pasted = await run(['-ec', stdout], { program: 'sh', cwd: '/', input, env });
  assert.deepEqual([pasted.code, pasted.stdout], [0, ''], `${stdout}${pasted.stderr}`);
  return stdout;
}

const rich = archive(
  folder('rootfs/', { mode: 0o750, uid: 3, gid: 4, mtime: 1_600_000_000 }),
  folder('rootfs/bin/'),
  { name: 'rootfs/bin/su', mode: 0o4755, data: 'su', mtime: 1_500_000_000 },
  { name: 'rootfs/bin/mail', mode: 0o2755, uid: 7, gid: 8, data: 'x' },
  { name: 'rootfs/sh', type: '2', link: '/bin/su', mtime: 1_500_000_000 },
  { name: 'rootfs/dev/null', type: '3', device: [1, 3], mode: 0o666, mtime: 1_500_000_000 },
);

for (const [what, bytes, options] of [
  ['a plain archive', small, []],
  ['one with a top directory, compressed', gzipSync(rich), []],
  ['one with --strip 0', rich, ['--strip', '0']],
  [
    'one with --skip-devices',
    archive(
      folder('./'),
      { name: './dev/null', type: '3', device: [1, 3] },
      { name: './dev/sda', type: '4', device: [8, 0] },
      { name: './dev/mem', type: '3', device: [1, 1] },
    ),
    ['--skip-devices'],
  ],
] as [string, Buffer, string[]][])
  (what.startsWith('one with --') ? slow : test)(
    `--dry-run makes nothing; pasted it unpacks ${what} as the script does`,
    root,
    async (t) => {
      const made = sandbox(t);
      const source = made.file("a 'quoted' name.tar", bytes);
      await paste(made, [...options, source]);
      const other = join(made.work, 'other');
      assert.equal((await run(['-q', ...options, source, other], { program })).code, 0);
      assert.equal(tree(made.dest), tree(other));
      assert.deepEqual(made.left(), ['dest', 'other']);
    },
  );

test('--dry-run refuses an archive that the script refuses', root, async (t) => {
  const { dest, file, left } = bound(sandbox(t));
  for (const [bytes, options, message] of [
    [Buffer.from(small.subarray(0, -1024)), [], /it is truncated/],
    [archive({ name: '../up' }), [], /has \.\. in it/],
    [small, ['--sha256', '0'.repeat(64)], /its sha256 is/],
    [small, ['--max-entries', '3'], /--max-entries allows more/],
  ] as [Buffer, string[], RegExp][]) {
    const result = await run(['--dry-run', ...options, file('x.tar', bytes), dest], { program });
    assert.match(result.stderr, message);
    assert.deepEqual([result.code, result.stdout], [1, '']);
  }
  assert.deepEqual(left(), []);
});

test('what --dry-run prints for a file refuses another file', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const source = file('x.tar', small);
  const { stdout } = await run(['--dry-run', source, dest], { program });
  file('x.tar', rich);
  assert.notEqual((await run(['-ec', stdout], { program: 'sh' })).code, 0);
  assert.equal(existsSync(join(dest, 'bin')), false);
});

test('--dry-run of a URL downloads nothing; pasted it does, and unpacks', {
  skip: root.skip || needs('curl'),
}, async (t) => {
  const made = sandbox(t);
  const paths: (string | undefined)[] = [];
  const server = createServer(({ url }, response) => {
    paths.push(url);
    response.end(gzipSync(rich));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/a%20b.tar.gz`;
  const sum = createHash('sha256').update(gzipSync(rich)).digest('hex');
  const { stdout } = await run(['--dry-run', '--strip', '1', url, made.dest], { program });
  assert.match(stdout, /curl/);
  assert.deepEqual(paths, []);
  await paste(made, ['--strip', '1', '--sha256', sum, url]);
  assert.deepEqual(paths, ['/a%20b.tar.gz']);
  assert.deepEqual(made.left(), ['dest'], 'the archive itself is removed');
  assert.equal(files(made.dest), 'bin bin/mail bin/su dev dev/null sh');
  const wrong = await run(['--dry-run', '--sha256', '0'.repeat(64), url, join(made.work, 'wrong')], {
    program,
  });
  assert.notEqual((await run(['-ec', wrong.stdout], { program: 'sh', env: { no_proxy: '*' } })).code, 0);
  assert.equal(existsSync(join(made.work, 'wrong/rootfs')), false);
});

test('--dry-run of standard input reads nothing; pasted it unpacks standard input', root, async (t) => {
  const made = sandbox(t);
  await paste(made, ['-'], small);
  assert.equal(files(made.dest), 'bin bin/sh etc etc/motd');
});

slow('--dry-run of host: makes nothing; pasted it makes what the script makes', root, async (t) => {
  const made = sandbox(t);
  const tool = made.file('tool', '#!/usr/bin/env bash\necho works\n');
  chmodSync(tool, 0o755);
  const source = hasPython() ? `host:python3,${tool}` : `host:${tool}`;
  await paste(made, [source]);
  const other = join(made.work, 'other');
  assert.equal((await run(['-q', source, other], { program })).code, 0);
  // links, what is written anew, and python's library have the time at which they were made
  const lines = (directory: string) =>
    tree(directory).replace(/^((?:etc|usr\/lib\/python3[^/]*|dev)\/.*|[^ ]+) (\d+) [\d.]+$/gm, '$1 $2');
  assert.equal(lines(made.dest), lines(other));
  assert.equal(execFileSync('chroot', [made.dest, tool], { encoding: 'utf8' }), 'works\n');
});

test('wrong usage is exit code 2 and changes nothing', async (t) => {
  const { work, dest, file, left } = bound(sandbox(t));
  const source = file('x.tar', small);
  for (const args of [
    ['--sha256', 'abc', source, dest],
    ['--strip', 'two', source, dest],
    ['--strip', '-1', source, dest],
    ['--max-size', 'much', source, dest],
    ['--max-entries', '1e3', source, dest],
    ['--max-entries', '', source, dest],
    ['--no-such-option', source, dest],
    [source, dest, 'more'],
    ['--article', dest, 'more'],
    ['-'],
    [source, ''],
    [source, '.hidden'],
    ['http://', dest],
  ]) {
    const { code, stdout, stderr } = await run(args, { program, cwd: work });
    assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
    assert.equal(stdout, '');
    assert.match(stderr, /^fetch-rootfs: [^\n]+\n$/);
    assert.deepEqual(left(), []);
  }
});

test('a SOURCE that cannot be read is an error in one line', async (t) => {
  const { work, dest, file, left } = bound(sandbox(t));
  for (const [source, message] of [
    [join(work, 'missing'), /ENOENT: no such file or directory\n$/],
    [work, /EISDIR: it is a directory: pack it: tar -C .* -c \. \| \/.*\/fetch-rootfs\.mjs - \S+\/dest\n$/],
    [`${file('x.tar', small)}/y`, /ENOTDIR: not a directory\n$/],
  ] as const) {
    const { code, stderr } = await run([source, dest], { program });
    assert.match(stderr, /^fetch-rootfs: cannot fetch [^\n]+\n$/);
    assert.match(stderr, message);
    assert.equal(code, 1);
    assert.deepEqual(left(), []);
  }
});

test('DEST and its default are planned from the operands', () => {
  const dest = (...operands: string[]) => planFetch(false, operands, '/project/rootfs').dest;
  assert.equal(dest(), '/project/rootfs/host');
  assert.equal(dest('host:'), '/project/rootfs/host');
  assert.equal(dest('host:bash,/opt/tool'), '/project/rootfs/host-bash-tool');
  assert.equal(dest('host:', 'web'), '/project/rootfs/web');
  assert.equal(dest('host:', './web'), join(process.cwd(), 'web'));
  assert.equal(dest('host:', 'a/b'), join(process.cwd(), 'a/b'));
  assert.equal(dest('host:', '/srv/web/'), '/srv/web');
  assert.equal(dest('host:', '.'), process.cwd());
  assert.equal(dest('https://example.org/a/alpine-3.20.tar.gz?x=/y.z#q'), '/project/rootfs/alpine-3.20');
  for (const suffix of ['tar', 'tar.gz', 'tgz', 'tar.xz', 'txz', 'tar.zst', 'tar.bz2', 'tbz2'])
    assert.equal(dest(`/x/debian.${suffix}`), '/project/rootfs/debian', suffix);
  const article = planFetch(true, [], '/project/rootfs');
  assert.equal(article.dest, '/project/rootfs/article');
  assert.match(
    article.source,
    /^https:\/\/github\.com\/ericchiang\/containers-from-scratch\/.*\/rootfs\.tar\.gz$/,
  );
  assert.equal(planFetch(false, [article.source], '/project/rootfs').dest, '/project/rootfs/article');
  assert.equal(planFetch(true, ['./here'], '/project/rootfs').dest, join(process.cwd(), 'here'));
});

test("a bare DEST is a folder in the project's rootfs/", root, async (t) => {
  const { file } = bound(sandbox(t));
  const name = `test-${process.pid}`;
  t.after(() =>
    execFileSync('rm', ['-rf', ...[name, `.${name}.json`].map((one) => join(rootfsFolderOfProject, one))]),
  );
  const source = file('x.tar', small);
  const { code, stdout, stderr } = await run([source, name], { cwd: '/' });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${join(rootfsFolderOfProject, name)}\n`);
  assert.ok(existsSync(join(rootfsFolderOfProject, name, 'bin/sh')));
  const again = await run([source, name], { cwd: '/' });
  assert.equal(again.code, 1);
  assert.match(again.stderr, new RegExp(`choose another DEST, or: \\S+ rm ${name}\n$`));
});
const rootfsFolderOfProject = join(
  import.meta.dirname ?? new URL('.', import.meta.url).pathname,
  '..',
  'rootfs',
);

test('a bare DEST of the script copied alone is in rootfs/ where it is called', root, async (t) => {
  const { work, file } = bound(sandbox(t));
  const { code, stdout, stderr } = await run([file('alpine.tar.gz', gzipSync(small))], {
    program,
    cwd: work,
  });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${join(work, 'rootfs/alpine')}\n`);
  assert.equal(
    files(join(work, 'rootfs')),
    '.alpine.json alpine alpine/bin alpine/bin/sh alpine/etc alpine/etc/motd',
  );
});

test('a DEST whose parent cannot be made is refused at once', root, async (t) => {
  const { file } = bound(sandbox(t));
  // in /proc mkdir(2) says ENOENT though /proc is there
  const dest = '/proc/none/deep/dest';
  const { code, stdout, stderr } = await run([file('x.tar', small), dest], { program });
  assert.equal(stderr, `fetch-rootfs: cannot make ${dest}: ENOENT: no such file or directory\n`);
  assert.equal(code, 1);
  assert.equal(stdout, '');
});

test('a DEST that is there is refused untouched, and the way out is named', root, async (t) => {
  const { work, dest, file } = bound(sandbox(t));
  mkdirSync(dest);
  writeFileSync(join(dest, 'mine'), 'mine');
  symlinkSync('nowhere', join(work, 'link'));
  for (const path of [dest, join(dest, 'mine'), join(work, 'link')]) {
    const { code, stdout, stderr } = await run([file('x.tar', small), path], { program });
    assert.equal(
      stderr,
      `fetch-rootfs: cannot make ${path}: EEXIST: it already exists: choose another DEST, or remove it yourself\n`,
    );
    assert.equal(code, 1);
    assert.equal(stdout, '');
  }
  assert.equal(readFileSync(join(dest, 'mine'), 'utf8'), 'mine');
  assert.deepEqual(readdirSync(work).sort(), ['dest', 'link']);
});

test('an empty directory becomes DEST, the working directory as well', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  mkdirSync(dest);
  const { code, stderr } = await run([file('x.tar', small), '.'], { program, cwd: dest });
  assert.equal(code, 0, stderr);
  assert.equal(files(dest), 'bin bin/sh etc etc/motd');
});

test('a DEST that is a mount point is refused with what to do', root, (t) => {
  const { dest, file } = bound(sandbox(t));
  mkdirSync(dest);
  const mounted = 'mount -t tmpfs tmpfs "$3" && exec "$1" "$2" "$3"';
  const { stderr, status } = spawnSync(
    'unshare',
    ['--mount', 'sh', '-c', mounted, 'sh', program, file('x.tar', small), dest],
    {
      encoding: 'utf8',
    },
  );
  assert.match(stderr, /EBUSY: it is a mount point: give a new folder in it\n$/);
  assert.equal(status, 1);
});

test('of two calls for one DEST one succeeds, and DEST is whole', root, async (t) => {
  const { dest, file, left } = bound(sandbox(t));
  const many = archive(...Array.from({ length: 500 }, (_, index) => ({ name: `etc/${index}` })));
  const source = file('x.tar', many);
  const results = await Promise.all([run([source, dest], { program }), run([source, dest], { program })]);
  assert.deepEqual(results.map(({ code }) => code).sort(), [0, 1]);
  assert.match(results.find(({ code }) => code === 1)?.stderr ?? '', /ENOTEMPTY|EEXIST/);
  assert.equal(readdirSync(join(dest, 'etc')).length, 500);
  assert.deepEqual(left(), ['dest']);
});

// interruption: half of an archive is sent, more than tar(1) reads at once, and the rest never comes
const half = Buffer.concat([
  member({ name: 'etc/first' }),
  member({ name: 'etc/big', size: 1 << 20 }),
  Buffer.alloc(1 << 19),
]);

/** Starts the script on a standard input that stays open. */
function waiting(t: TestContext, dest: string) {
  const child = spawn(program, ['-', dest], { stdio: ['pipe', 'ignore', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  // what is not read any more when the script ends is no error here
  child.stdin.on('error', () => undefined);
  return child;
}

/** Waits for the first file in the directory that the script unpacks into, and gives that directory. */
const untilUnpacking = (work: string) =>
  until('the first file to be unpacked', () => {
    const partial = readdirSync(work).find((name) => name.startsWith('.dest.partial-'));
    return partial && existsSync(join(work, partial, 'etc/first')) && join(work, partial);
  });

/** The processes whose root directory is `directory`: a tar that is at work in it. */
function rootedIn(directory: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/root`) === directory;
    } catch {
      return false;
    }
  });
}

for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const)
  test(`${signal} in mid-extraction leaves nothing, and ends the call by ${signal}`, root, async (t) => {
    const { work, dest, left } = bound(sandbox(t));
    const child = waiting(t, dest);
    t.after(() => child.kill('SIGKILL'));
    child.stdin.on('error', () => undefined); // EPIPE, once it is killed
    child.stdin.write(half);
    const partial = await untilUnpacking(work);
    assert.equal(rootedIn(partial).length, 1);
    const ended = new Promise((resolve) => child.on('exit', (code, by) => resolve([code, by])));
    child.kill(signal);
    assert.deepEqual(await ended, [null, signal]);
    assert.deepEqual(left(), []);
    assert.deepEqual(rootedIn(partial), []);
  });

test('SIGINT while the first byte is waited for leaves nothing', root, async (t) => {
  const { work, dest, left } = bound(sandbox(t));
  const child = waiting(t, dest);
  await until('it to begin', () => readdirSync(work).length > 0);
  const ended = new Promise((resolve) => child.on('exit', (code, by) => resolve([code, by])));
  child.kill('SIGINT');
  assert.deepEqual(await ended, [null, 'SIGINT']);
  assert.deepEqual(left(), []);
});

test(
  'SIGKILL in mid-extraction leaves no DEST; tar ends, and the next call removes the rest',
  root,
  async (t) => {
    const { work, dest, file, left } = bound(sandbox(t));
    const child = waiting(t, dest);
    child.stdin.on('error', () => undefined); // EPIPE, once it is killed
    child.stdin.write(half);
    const partial = await untilUnpacking(work);
    const ended = new Promise((resolve) => child.on('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    await until('the end of tar', () => rootedIn(partial).length === 0);
    assert.deepEqual(left(), [basename(partial)]);
    const other = join(work, '.dest.partial-1');
    mkdirSync(other);
    const { code, stderr } = await run([file('x.tar', small), dest], { program });
    assert.equal(code, 0, stderr);
    assert.deepEqual(left(), ['.dest.partial-1', 'dest'], 'what a live process (1) works on is not touched');
  },
);

test('SIGKILL of tar ends the call, though its source has not ended', root, async (t) => {
  const { work, dest, left } = bound(sandbox(t));
  const child = waiting(t, dest);
  let stderr = '';
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  child.stdin.on('error', () => undefined); // EPIPE, once it is killed
  child.stdin.write(half);
  const [tar] = rootedIn(await untilUnpacking(work));
  const ended = new Promise((resolve) => child.on('close', (code) => resolve(code)));
  process.kill(Number(tar), 'SIGKILL');
  assert.equal(await ended, 1);
  assert.match(stderr, /tar ended with SIGKILL\n$/);
  assert.deepEqual(left(), []);
});

// confinement
test("tar sees nothing of the host, and the host's mounts are the same meanwhile", root, async (t) => {
  const { work, dest } = bound(sandbox(t));
  const mounts = () => readFileSync('/proc/self/mountinfo', 'utf8');
  const before = mounts();
  const child = waiting(t, dest);
  child.stdin.on('error', () => undefined); // EPIPE, once it is killed
  child.stdin.write(half);
  const [tar] = rootedIn(await untilUnpacking(work));
  assert.equal(mounts(), before);
  const tools = readdirSync(`/proc/${tar}/root`).find((name) => name.startsWith('.tar-'));
  assert.deepEqual(readdirSync(`/proc/${tar}/root`).sort(), [tools, 'etc']);
  assert.ok(readdirSync(`/proc/${tar}/root/${tools}`).includes('tar'));
  assert.match(readFileSync(`/proc/${tar}/mountinfo`, 'utf8'), new RegExp(` /${tools} ro,`));
  assert.match(readFileSync(`/proc/${tar}/environ`, 'latin1'), /^(?!.*TAR_OPTIONS)/);
});

test('what the environment says to tar and to the loader is not heard', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const env = { TAR_OPTIONS: '--exclude=etc', LD_PRELOAD: '/nonexistent.so' };
  const { code, stderr } = await run(['-q', file('x.tar', small), dest], { program, env });
  assert.equal(code, 0, stderr);
  assert.equal(files(dest), 'bin bin/sh etc etc/motd');
});

test('where namespaces are not allowed nothing is unpacked', root, async (t) => {
  const { dest, file, left } = bound(sandbox(t));
  const { status, stderr } = spawnSync(
    'setpriv',
    ['--bounding-set=-sys_admin', '--inh-caps=-sys_admin', program, file('x.tar', small), dest],
    { encoding: 'utf8' },
  );
  assert.match(
    stderr,
    /^fetch-rootfs: cannot fetch .*unshare: .*not permitted: tar runs only confined, which needs CAP_SYS_ADMIN\n$/,
  );
  assert.equal(status, 1);
  assert.deepEqual(left(), []);
});

// users
const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups', '--'];
const user = { skip: needs('root', 'user-namespaces') };

/** Runs the bundle as nobody, in a sandbox that is nobody's. */
function runAsNobody(made: Sandbox, args: string[]) {
  chmodSync(made.work, 0o777);
  return spawnSync('setpriv', [...asNobody, program, ...args], { encoding: 'utf8', cwd: made.work });
}

test('a user without root gets the files as his own, and is told what is lost', user, (t) => {
  const made = sandbox(t);
  const source = made.file(
    'x.tar',
    archive(
      folder('rootfs/', { mode: 0o555, mtime: 1_600_000_000 }),
      { name: 'rootfs/bin/su', mode: 0o4755, uid: 0, data: 'su' },
      { name: 'rootfs/bin/mail', mode: 0o2755, uid: 7, gid: 8, mtime: 1_500_000_000 },
      folder('rootfs/ro/', { mode: 0o500 }),
      { name: 'rootfs/ro/x', mode: 0o400 },
      folder('rootfs/dev/'),
      { name: 'rootfs/dev/null', type: '3', device: [1, 3] },
      { name: 'rootfs/dev/sda', type: '4', device: [8, 0] },
    ),
  );
  const { status, stdout, stderr } = runAsNobody(made, [source, made.dest]);
  assert.equal(status, 0, stderr);
  assert.equal(stdout, `${made.dest}\n`);
  assert.match(
    stderr,
    /^without root: every file is yours; set-user-ID bits, extended attributes and device nodes are left out\n/,
  );
  assert.equal(files(made.dest), 'bin bin/mail bin/su dev ro ro/x');
  const su = statSync(join(made.dest, 'bin/su'));
  assert.deepEqual([su.mode & 0o7777, su.uid, su.gid], [0o755, 65534, 65534]);
  assert.equal(statSync(join(made.dest, 'bin/mail')).mtimeMs, 1_500_000_000_000);
  assert.equal(statSync(made.dest).mode & 0o7777, 0o555);
  assert.equal(statSync(made.dest).mtimeMs, 1_600_000_000_000);
});

test('a user without root is confined as well, and a refused archive leaves nothing', user, (t) => {
  const made = sandbox(t);
  chmodSync(made.outside, 0o777);
  const source = made.file(
    'x.tar',
    archive(
      folder('bin/', { mode: 0o500 }),
      { name: 'bin/x' },
      { name: 'l', type: '2', link: made.outside },
      { name: 'l/pwned' },
    ),
  );
  const before = made.canary();
  const { status, stderr } = runAsNobody(made, [source, made.dest]);
  assert.match(stderr, /^fetch-rootfs: cannot fetch .*: tar: l(\/pwned)?: .*\n$/); // as of tar 1.34 and 1.35
  assert.equal(status, 1);
  assert.equal(made.canary(), before);
  assert.deepEqual(made.left(), []);
});

test('a user without root can have the host rootfs', user, (t) => {
  const made = sandbox(t);
  const { status, stderr } = runAsNobody(made, ['host:', made.dest]);
  assert.equal(status, 0, stderr);
  const { stdout } = spawnSync(
    'setpriv',
    [...asNobody, 'unshare', '--map-root-user', 'chroot', made.dest, 'sh', '-c', 'id -u'],
    {
      encoding: 'utf8',
    },
  );
  assert.equal(stdout, '0\n');
});

test('the root of a user namespace leaves out the devices that it may not make', user, (t) => {
  const made = sandbox(t);
  const source = made.file(
    'x.tar',
    archive({ name: 'bin/su', mode: 0o4755 }, { name: 'dev/null', type: '3', device: [1, 3] }),
  );
  const { status, stderr } = spawnSync('unshare', ['--user', '--map-root-user', program, source, made.dest], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^1 device nodes left out\n/);
  assert.equal(statSync(join(made.dest, 'bin/su')).mode & 0o7777, 0o4755);
});

// host:
const host = new Sandbox();
before(async () => {
  if (root.skip) return;
  const { code, stderr } = await run(['host:', host.dest], { program });
  assert.equal(code, 0, stderr);
});
after(() => host.remove());

const inHost = (line: string) =>
  execFileSync(
    'unshare',
    [
      '--mount',
      '--pid',
      '--fork',
      'sh',
      '-c',
      'mount -t proc proc "$1/proc" && exec chroot "$1" /bin/sh -c "$2"',
      'sh',
      host.dest,
      line,
    ],
    {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, TERM: 'xterm' },
    },
  );

test('host: every program of it starts', root, () => {
  // a library that is missing is the loader's exit code 127
  const said = inHost(
    'for p in /usr/bin/* /usr/sbin/* /bin/* /sbin/*; do [ -x "$p" ] || continue; LD_BIND_NOW=1 LD_TRACE_LOADED_OBJECTS=1 "$p" 2>&1 | grep "not found"; done; echo checked',
  );
  assert.equal(said, 'checked\n');
});

test('host: what the walk of the article needs is there and works', root, () => {
  // what this host does not have, its rootfs has not either
  if (!needs('ps')) assert.match(inHost('ps aux'), /USER +PID .*\n.* 1 .*ps aux/s);
  assert.equal(inHost('awk \'BEGIN { s = sprintf("%1000s", ""); print length(s s) }\''), '2000\n');
  assert.equal(
    inHost('id; id nobody 2>/dev/null; ls -ld /tmp | cut -c1-10'),
    'uid=0(root) gid=0(root) groups=0(root)\nuid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\ndrwxrwxrwt\n',
  );
  assert.match(inHost('getent hosts localhost'), /localhost/);
  assert.equal(
    inHost('tput -T xterm cols >/dev/null && mount -t tmpfs x /mnt && grep -c /mnt /proc/mounts'),
    '1\n',
  );
});

test('host: no set-user-ID bit, no capability, no secret is copied', root, () => {
  assert.equal(execFileSync('find', [host.dest, '-perm', '/6000'], { encoding: 'utf8' }), '');
  assert.equal(spawnSync('getcap', ['-r', host.dest], { encoding: 'utf8' }).stdout ?? '', '');
  const etc = readdirSync(join(host.dest, 'etc')).sort().join(' ');
  assert.equal(etc, 'group hosts ld.so.cache ld.so.conf ld.so.conf.d nsswitch.conf os-release passwd');
  assert.equal(readFileSync(join(host.dest, 'etc/passwd'), 'utf8').split('\n').length, 4);
});

test('host: links of the root are as on this host, and none leads nowhere', root, () => {
  for (const name of ['bin', 'sbin', 'lib', 'lib64'])
    if (lstatSync(`/${name}`, { throwIfNoEntry: false })?.isSymbolicLink())
      assert.equal(readlinkSync(join(host.dest, name)), readlinkSync(`/${name}`));
  assert.equal(
    execFileSync('chroot', [host.dest, '/usr/bin/find', '/', '-xdev', '-xtype', 'l'], { encoding: 'utf8' }),
    '',
  );
});

slow('host: takes more programs, by name or path, with the interpreter of a script', root, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const tool = file('tool', '#!/usr/bin/env bash\necho "tool: $1"\n');
  chmodSync(tool, 0o755);
  const { code, stdout, stderr } = await run([`host:cmp,${tool}`, dest], { program });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${dest}\n`);
  assert.equal(execFileSync('chroot', [dest, tool, 'works'], { encoding: 'utf8' }), 'tool: works\n');
});

/** Debian's python3-minimal has no ctypes. */
const hasPython = () => spawnSync('/usr/bin/python3', ['-c', 'import ssl, ctypes']).status === 0;

slow(
  'host: takes python3 with its library',
  {
    skip: root.skip || (hasPython() ? false : 'needs /usr/bin/python3 with its library'),
  },
  async (t) => {
    const { dest } = bound(sandbox(t));
    const { code, stderr } = await run(['host:python3', dest], { program });
    assert.equal(code, 0, stderr);
    const code3 =
      'import ssl, json, ctypes, hashlib, socket; print(json.dumps([socket.gethostbyname("localhost")]))';
    assert.equal(
      execFileSync('chroot', [dest, 'python3', '-c', code3], { encoding: 'utf8' }),
      '["127.0.0.1"]\n',
    );
  },
);

test('host: a program that this host lacks is an error, and nothing is made', async (t) => {
  const { dest, left } = bound(sandbox(t));
  const { code, stderr } = await run(['host:no-such-program', dest], { program });
  assert.match(
    stderr,
    /^fetch-rootfs: cannot fetch host:no-such-program: cannot find no-such-program in \/usr\/bin [^\n]+\n$/,
  );
  assert.equal(code, 1);
  assert.deepEqual(left(), []);
});

test('the script runs through a symlink, from anywhere, and prints its help', async (t) => {
  const { top } = bound(sandbox(t));
  symlinkSync(script, join(top, 'fetch'));
  const { code, stdout } = await run(['--help'], { program: join(top, 'fetch'), cwd: '/' });
  assert.equal(code, 0);
  assert.match(stdout, /^fetch-rootfs\.ts: fetch a root file system \(just a tarball\)/);
});

test('a SOURCE that looks like a URL, and is none that can be fetched, is wrong usage with the line to type', async () => {
  for (const [source, message] of [
    ['ftp://example.org/x.tar', /not ftp:\/\/: type curl -fL ftp:\/\/example\.org\/x\.tar \| \S+ - x\n$/],
    ['docker:alpine', /is docker:\/\/IMAGE: type \S+ docker:\/\/alpine\n$/],
    ['docker:/alpine', /is docker:\/\/IMAGE: type \S+ docker:\/\/alpine\n$/],
    ['docker://Alpine', /not the name of an image: docker:\/\/Alpine: it has no capital letters\n$/],
  ] as const) {
    const { code, stderr } = await run([source, 'x'], { program });
    assert.match(stderr, message);
    assert.equal(code, 2);
  }
});

test('a progress bar is drawn on a terminal, and only there', {
  skip: root.skip || needs('script'),
}, async (t) => {
  const { dest, file } = bound(sandbox(t));
  const source = file('x.tar', archive({ name: 'bin/sh', data: Buffer.alloc(4 << 20) }));
  const { stdout } = spawnSync('script', ['-qec', `'${program}' '${source}' '${dest}'`, '/dev/null'], {
    encoding: 'utf8',
  });
  assert.match(stdout, /\rx\.tar \[#+ *\] [\d.]+ [MK]iB of [\d.]+ MiB, [\d.]+ [MGK]iB\/s, \d+ s left\x1b\[K/);
  assert.match(stdout, /\r\x1b\[J[^\r]*sha256/);
  const quiet = spawnSync('script', ['-qec', `'${program}' -q '${source}' '${dest}2'`, '/dev/null'], {
    encoding: 'utf8',
  });
  assert.equal(quiet.stdout, `${dest}2\r\n`);
});
