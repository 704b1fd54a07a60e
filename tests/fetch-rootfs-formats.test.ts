// fetch-rootfs.ts on what is no tarball, or an old one: the message says what it is and what to type.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { archive, type Member } from './helpers/archives.ts';
import { loneBundle, run, type Sandbox, sandbox, script } from './helpers/fetch.ts';
import { needs } from './helpers/needs.ts';
import { top } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const program = loneBundle();

const root = { skip: needs('root', 'namespaces') };

const small = archive({ name: 'bin/', type: '5', mode: 0o755 }, { name: 'bin/sh', data: '#!', mode: 0o755 });

/** Runs the script on bytes that it refuses. Returns its message, of one line. */
async function refusal(made: Sandbox, bytes: Buffer | string, ...options: string[]): Promise<string> {
  const source = made.file('a b', bytes);
  const { code, stdout, stderr } = await run([...options, source, made.dest], { program, cwd: made.top });
  assert.deepEqual([code, stdout], [1, ''], stderr);
  assert.match(stderr, /^fetch-rootfs: cannot fetch [^\n]+\n$/);
  assert.deepEqual(made.left(), []);
  return stderr;
}

/** Bytes that begin so, `offset` bytes after zeros. */
const begin = (text: string, offset = 0) =>
  Buffer.concat([Buffer.alloc(offset), Buffer.from(text, 'latin1'), Buffer.alloc(4096, 'x')]);

const formats: [what: string, bytes: Buffer, name: string, command: RegExp][] = [
  ['a zip', begin('PK\x03\x04'), 'a zip archive', /: bsdtar -cf - @FILE \|/],
  ['an empty zip', begin('PK\x05\x06'), 'a zip archive', /: bsdtar -cf - @FILE \|/],
  ['cpio of an initramfs', begin('070701'), 'a cpio archive', /: bsdtar -cf - @FILE \|/],
  ['cpio in binary', begin('\xc7\x71'), 'a cpio archive', /: bsdtar -cf - @FILE \|/],
  ['ISO 9660', begin('CD001', 32769), 'an ISO 9660 image', /: bsdtar -cf - @FILE \|/],
  [
    'squashfs',
    begin('hsqs'),
    'a squashfs image',
    /: unsquashfs -d unpacked FILE && tar -C unpacked -c \. \|/,
  ],
  ['lz4', begin('\x04"M\x18'), 'lz4 data', /: lz4 -dc FILE \|/],
  ['lzip', begin('LZIP'), 'lzip data', /: lzip -dc FILE \|/],
  ['lzma', begin(`]\0\0\x80\0${'\xff'.repeat(8)}`), 'lzma data', /: xz --format=lzma -dc FILE \|/],
];
for (const [what, bytes, name, command] of formats)
  test(`${what} is named, with a command that makes a tarball of it`, root, async (t) => {
    const made = sandbox(t);
    for (const message of [await refusal(made, bytes), await refusal(made, bytes, '--dry-run')]) {
      assert.ok(message.includes(`: it is ${name}, not a tarball: try: `), message);
      assert.match(message.replaceAll(`'${join(made.top, 'a b')}'`, 'FILE'), command);
      assert.ok(
        message.endsWith(` | ./fetch-rootfs.mjs - ${made.dest}\n`) || message.includes(program),
        message,
      );
    }
    const packed = await refusal(made, gzipSync(bytes));
    assert.ok(
      packed.includes(`: it is ${name}, not a tarball: try: gzip -dc <'${made.top}/a b' >decompressed && `),
    );
    assert.match(packed.replaceAll('>decompressed &&', ':').replaceAll('decompressed', 'FILE'), command);
  });

test('an HTML page is named, and how to look at it', root, async (t) => {
  const made = sandbox(t);
  for (const bytes of ['<html>', '\n<!doctype HTML>\n', begin('<!DOCTYPE html>')])
    assert.match(
      await refusal(made, bytes),
      /: it is not a tar archive but an HTML page, such as a login; it begins with ".*<.*: look at it: head '.*a b'\n$/,
    );
});

test('a hint for what comes by standard input or from a server tells how to get it', root, async (t) => {
  const made = sandbox(t);
  const zip = begin('PK\x03\x04');
  const piped = await run(['-', made.dest], { program, input: zip });
  assert.match(piped.stderr, /: bsdtar -cf - @FILE \| \S+\/fetch-rootfs\.mjs - \S+\/dest\n$/);
  const { createServer } = await import('node:http');
  const server = createServer((_, response) => void response.end(zip));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  const url = `http://me:secret@127.0.0.1:${port}/a.zip`;
  const { stderr } = await run([url, made.dest], { program, env: { no_proxy: '*' } });
  assert.match(
    stderr,
    /: curl -fLo downloaded '?http:\/\/me:\*\*\*@127\.0\.0\.1:\d+\/a\.zip'? && bsdtar -cf - @downloaded \|/,
  );
});

test('what is compressed twice is named, and the command for it works', root, async (t) => {
  const made = sandbox(t);
  const message = await refusal(made, gzipSync(gzipSync(small)));
  const [, command = ''] = /: it is compressed twice, gzip in gzip: try: (.*)\n$/.exec(message) ?? [];
  const { code, stderr } = await run(['-ec', command], { program: 'sh', cwd: made.top });
  assert.equal(code, 0, stderr);
  assert.ok(existsSync(join(made.dest, 'bin/sh')));
});

test('a tar archive is one, whatever its first name begins with', root, async (t) => {
  const made = sandbox(t);
  for (const name of ['BZh', 'LZIP', '070701', 'hsqs', '<html>']) {
    const dest = join(made.work, `of-${name.replace(/\W/g, '')}`);
    const { code, stderr } = await run([made.file('x', archive({ name }, { name: 'bin/sh' })), dest], {
      program,
    });
    assert.equal(code, 0, stderr);
    assert.ok(existsSync(join(dest, name)));
  }
});

// images of layers
const hex = (digit: string) => digit.repeat(64);
const directory = (name: string): Member => ({ name, type: '5', mode: 0o755 });
const images: [what: string, kind: string, members: Member[]][] = [
  [
    'docker save of old',
    'docker-archive',
    [
      directory(`${hex('a')}/`),
      { name: `${hex('a')}/VERSION` },
      { name: `${hex('a')}/json` },
      { name: `${hex('a')}/layer.tar`, data: small },
      { name: `${hex('b')}.json`, data: '{}' },
      { name: 'manifest.json', data: '[]' },
      { name: 'repositories' },
    ],
  ],
  [
    'docker save by podman and skopeo',
    'docker-archive',
    [
      { name: `${hex('a')}.tar`, data: small },
      { name: `${hex('b')}.json`, data: '{}' },
      { name: `${hex('c')}/layer.tar`, type: '2', link: `../${hex('a')}.tar` },
      { name: 'manifest.json', data: '[]' },
    ],
  ],
  [
    'docker save with few files',
    'docker-archive',
    [{ name: 'config.json' }, { name: 'layer.tar', data: small }, { name: 'manifest.json' }],
  ],
  [
    'docker save of today',
    'oci-archive',
    [
      directory('blobs/'),
      directory('blobs/sha256/'),
      { name: `blobs/sha256/${hex('a')}`, data: small },
      { name: 'index.json' },
      { name: 'manifest.json' },
      { name: 'oci-layout' },
    ],
  ],
  [
    'an OCI layout',
    'oci-archive',
    [
      directory('./'),
      { name: './oci-layout' },
      { name: './index.json' },
      directory('./blobs/'),
      { name: `./blobs/sha256/${hex('a')}`, data: small },
    ],
  ],
  ['an OCI layout without blobs', 'oci-archive', [{ name: 'index.json' }, { name: 'oci-layout' }]],
];
for (const [what, kind, members] of images)
  test(`an image is named, with the command that unpacks its layers: ${what}`, root, async (t) => {
    const message = await refusal(sandbox(t), archive(...members));
    assert.match(
      message,
      /: it is an image (as docker save writes it|in the OCI layout), not a tarball of a root file system: type /,
    );
    assert.match(message, new RegExp(`: type \\S+ '${kind}:\\S+ b' \\S+\n$`));
  });

test('a directory with an OCI layout is named too', async (t) => {
  const made = sandbox(t);
  const layout = join(made.top, 'layout');
  mkdirSync(layout);
  writeFileSync(join(layout, 'oci-layout'), '{}');
  const { code, stderr } = await run([layout, made.dest], { program });
  assert.match(stderr, /: it is an image in the OCI layout, .*: type \S+ oci:\S+\/layout \S+\/dest$/m);
  assert.equal(code, 1);
});

test('a root file system may have files that are named as those of an image', root, async (t) => {
  const made = sandbox(t);
  const members = [
    { name: 'manifest.json' },
    { name: 'oci-layout' },
    { name: 'app/layer.tar' },
    { name: 'bin/sh' },
  ];
  for (const [index, list] of [members, members.toReversed()].entries()) {
    const dest = join(made.work, `${index}`);
    const { code, stderr } = await run(['--strip=0', made.file('x', archive(...list)), dest], { program });
    assert.equal(code, 0, stderr);
    assert.deepEqual(readdirSync(dest).sort(), ['app', 'bin', 'manifest.json', 'oci-layout']);
  }
});

// compress(1)
/** What compress(1) could write: codes of nine bits, seven bytes and the code that clears the table in each group. */
function compress(bytes: Buffer): Buffer {
  const groups = [Buffer.from([0x1f, 0x9d, 0x90])];
  for (let at = 0; at < bytes.length; at += 7) {
    const codes = [...bytes.subarray(at, at + 7)];
    if (codes.length === 7) codes.push(256);
    const bits = codes.reduce((sum, code, index) => sum | (BigInt(code) << BigInt(9 * index)), 0n);
    const length = Math.ceil((codes.length * 9) / 8);
    groups.push(Buffer.from(bits.toString(16).padStart(2 * length, '0'), 'hex').reverse());
  }
  return Buffer.concat(groups);
}

test('.tar.Z is unpacked, by gzip(1)', { skip: root.skip || needs('gzip') }, async (t) => {
  const made = sandbox(t);
  const source = made.file('x.tar.Z', compress(small));
  assert.ok(execFileSync('gzip', ['-dc', source]).equals(small));
  const { code, stderr } = await run([source, made.dest], { program });
  assert.equal(code, 0, stderr);
  assert.equal(readFileSync(join(made.dest, 'bin/sh'), 'utf8'), '#!');
  const cut = await refusal(sandbox(t), compress(small).subarray(0, -900));
  assert.match(cut, /it is truncated|data is damaged/);
});

test('.tar.Z where gzip(1) is missing: the message says so', {
  skip: root.skip || needs('gzip'),
}, async (t) => {
  const made = sandbox(t);
  const source = made.file('x.tar.Z', compress(small));
  // a /usr/bin of links to all of it but gzip
  const hide = `mkdir own links; mount --bind /usr/bin own; cp -as "$PWD/own/." links; rm links/gzip
    mount --bind links /usr/bin; exec "$@"`;
  const { stderr, status } = spawnSync(
    'unshare',
    ['--mount', 'sh', '-ec', hide, 'sh', program, source, made.dest],
    { cwd: made.top, encoding: 'utf8' },
  );
  assert.match(
    stderr,
    /: it is compressed with compress, for which gzip is needed, which is not installed here: .*gzip\n$/,
  );
  assert.equal(status, 1);
});

// tar as it was before POSIX
test('headers of V7 come out as GNU tar has them', root, async (t) => {
  const made = sandbox(t);
  const tree = join(made.top, 'tree');
  const plain = join(made.top, 'plain');
  execFileSync('sh', [
    '-ec',
    `mkdir -p "$1/bin" "$1/empty" "$2"; echo x >"$1/bin/sh"; chmod 4755 "$1/bin/sh"; chown 5:6 "$1/bin/sh"
     chmod 4755 "$1/bin/sh"; ln "$1/bin/sh" "$1/bin/hard"; ln -s bin/sh "$1/link"; chmod 1777 "$1/empty"
     touch -d @1500000000 "$1/bin/sh" "$1/empty" "$1/bin"; tar --format=v7 -C "$1" -cf "$3" bin empty link
     tar -C "$2" --numeric-owner -xpf "$3"`,
    'sh',
    ...[tree, plain, join(made.top, 'v7.tar')],
  ]);
  const { code, stderr } = await run([join(made.top, 'v7.tar'), made.dest], { program });
  assert.equal(code, 0, stderr);
  const list = (folder: string) =>
    execFileSync('find', ['.', '-mindepth', '1', '-printf', '%P %y %m %U %G %n %T@ %l\n'], { cwd: folder })
      .toString()
      .split('\n')
      .filter((line) => !line.startsWith('link'))
      .sort();
  assert.deepEqual(list(made.dest), list(plain));
  assert.equal(readlinkSync(join(made.dest, 'link')), 'bin/sh');
});

test('of V7 headers, what GNU tar would read otherwise is refused', root, async (t) => {
  const made = sandbox(t);
  const magic = '\0'.repeat(8);
  // the prefix and the device numbers are those of later formats
  for (const type of ['3', '4', 'x', 'g', 'L', 'K', 'S', '6'])
    assert.match(await refusal(made, archive({ name: 'etc/x', type, magic })), /unknown type/, type);
  assert.match(await refusal(made, archive({ name: '../up', magic })), /has \.\. in it/);
  assert.match(await refusal(made, archive({ name: 'etc/', magic, data: 'x' })), /only files have data/);
  const prefixed = archive({ name: 'sh', prefix: 'bin', magic });
  const { code } = await run(['--strip=0', made.file('x', prefixed), made.dest], { program });
  assert.equal(code, 0);
  assert.deepEqual(readdirSync(made.dest), ['sh']);
});

test('a checksum of signed bytes, as old programs wrote it, is right too', root, async (t) => {
  const made = sandbox(t);
  const bytes = archive({ name: 'etc/\xe9' }, { name: 'bin/sh' });
  const unsigned = Number.parseInt(bytes.toString('latin1', 148, 154), 8);
  const high = bytes.subarray(0, 512).filter((byte) => byte >= 0x80).length;
  assert.ok(high > 0);
  bytes.write((unsigned - 256 * high).toString(8).padStart(6, '0'), 148);
  const { code, stderr } = await run(['--strip=0', made.file('x', bytes), made.dest], { program });
  assert.equal(code, 0, stderr);
  bytes.write('0', 153);
  assert.match(await refusal(sandbox(t), bytes), /wrong checksum/);
});

// DEST, and what is mistyped
test('missing parents of DEST are made with a word about it', root, async (t) => {
  const made = sandbox(t);
  const source = made.file('x.tar', small);
  const dest = join(made.work, 'one/two/dest');
  const { code, stderr, stdout } = await run([source, dest], { program });
  assert.deepEqual([code, stdout], [0, `${dest}\n`]);
  assert.match(stderr, new RegExp(`^made ${made.work}/one and ${made.work}/one/two, which did not exist\n`));
  const again = await run([source, join(made.work, 'one/two/other')], { program });
  assert.doesNotMatch(again.stderr, /made /);
  const quiet = await run(['-q', source, join(made.work, 'three/dest')], { program });
  assert.equal(quiet.stderr, '');
  const printed = await run(['--dry-run', source, join(made.work, 'four/dest')], { program });
  assert.deepEqual([printed.stderr, existsSync(join(made.work, 'four'))], ['', false]);
});

test('a mistyped option, file or program gets the nearest one suggested', async (t) => {
  const made = sandbox(t);
  made.file('alpine.tar.gz', small);
  const said = async (...args: string[]) => (await run(args, { program, cwd: made.top })).stderr;
  assert.equal(
    await said('--quite', 'x', made.dest),
    'fetch-rootfs: unknown option --quite: did you mean --quiet?\n',
  );
  assert.match(
    await said('--max-entires=5'),
    /unknown option --max-entires=5: did you mean --max-entries\?\n/,
  );
  for (const [typed, near] of [
    ['alpine.tar.gzz', 'alpine.tar.gz'],
    ['./apline.tar.gz', './alpine.tar.gz'],
    [join(made.top, 'alpine.tgz'), join(made.top, 'alpine.tar.gz')],
    ['hots:', 'host:'],
  ] as const)
    assert.equal(
      await said(typed, made.dest),
      `fetch-rootfs: cannot fetch ${typed}: ENOENT: no such file or directory: did you mean ${near}?\n`,
    );
  assert.match(
    await said('host:gerp', made.dest),
    /: cannot find gerp in \/usr\/bin .*: did you mean grep\?\n$/,
  );
  assert.deepEqual(made.left(), []);
});

test('the script is named in hints as it was called', async (t) => {
  const made = sandbox(t);
  const command = async (program: string, cwd: string) => {
    const { stderr } = await run([made.work, join(made.work, 'dest')], { program, cwd });
    return /\| (\S+) - /.exec(stderr)?.[1];
  };
  assert.equal(await command('./scripts/fetch-rootfs.ts', top), './scripts/fetch-rootfs.ts');
  assert.equal(await command('dist/fetch-rootfs.mjs', top), 'dist/fetch-rootfs.mjs');
  assert.equal(await command('./fetch-rootfs.mjs', join(top, 'dist')), './fetch-rootfs.mjs');
  assert.equal(await command('../scripts/fetch-rootfs.ts', join(top, 'dist')), '../scripts/fetch-rootfs.ts');
  assert.equal(await command(script, '/'), script);
});

test('what users write does nothing to the terminal: it is escaped, in one line', async (t) => {
  const made = sandbox(t);
  const evil = 'a\x1b[31m\nb\x7f';
  const shown = 'a\\x1b[31m\\nb\\x7f';
  for (const args of [
    [`./${evil}`, made.dest],
    [`host:${evil}`, made.dest],
    ['host:', join('/proc', evil, 'dest')],
    [made.work, `./${evil}`, 'more', evil],
    ['--article', './x', evil],
    [`--${evil}`],
    ['http://[', evil],
    [`http://${evil}`, './x'],
    ['--sha256', evil],
  ]) {
    const { stderr } = await run(args, { program, cwd: made.work });
    assert.doesNotMatch(stderr, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/, JSON.stringify(args));
    const [line = '', ...rest] = stderr.split('\n');
    assert.deepEqual(rest, [''], stderr);
    if (!args.includes('--sha256') && !args.includes('http://[') && args.length < 4)
      assert.ok(line.includes(shown), `${JSON.stringify(args)}: ${line}`);
  }
});
