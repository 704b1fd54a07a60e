// What comes out is what GNU tar makes of it, entry by entry: a real Debian, and a tree of everything that is odd.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  renameSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { bundle, run, Sandbox, sandbox } from './helpers/fetch.ts';
import { needs } from './helpers/needs.ts';
import { test } from './helpers/slow.ts';

const sh = (line: string, ...words: string[]) =>
  execFileSync('sh', ['-ec', line, 'sh', ...words], {
    encoding: 'latin1',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  });

const tarOptions = "--numeric-owner --xattrs --xattrs-include='*'";

/**
 * Every entry with its type, mode, owner, size, time, link target, device, and which names are one file; then a sum
 * of what tar makes of the tree: contents, and extended attributes with file capabilities among them.
 */
function describe(directory: string): string[] {
  const entries = sh(
    'cd "$1" && find . -printf "%P %y %m %U %G %s %T@ %l %n %i\\n" | LC_ALL=C sort && find . -type c -exec stat -c "%n %t:%T" {} + | sort',
    directory,
  );
  // inode numbers differ: a group of hard links is called by its first name
  const first = new Map<string, string>();
  const lines = entries.split('\n').map((line) => {
    const [, head = line, count = '1', inode = ''] = /^(.* )(\d+) (\d+)$/s.exec(line) ?? [];
    // a directory's size is the file system's affair
    const text = head.replace(/^(\S* d \d+ \d+ \d+) \d+/, '$1');
    if (count === '1' || / d /.test(head)) return text;
    if (!first.has(inode)) first.set(inode, head);
    return `${text} same file as ${first.get(inode)}`;
  });
  const sum = sh(
    `tar ${tarOptions} --sort=name --format=posix --pax-option=delete=atime,delete=ctime -C "$1" -c . | sha256sum`,
    directory,
  );
  return [...lines, `contents and extended attributes: ${sum}`];
}

/** Unpacks with plain tar and with the script, and compares. Returns the number of lines that were compared. */
async function compare(t: TestContext, source: string, made: Sandbox, program?: string): Promise<number> {
  const plain = join(made.top, 'plain');
  mkdirSync(plain);
  sh(`tar ${tarOptions} -xpf "$1" -C "$2"`, source, plain);
  const { code, stderr } = await run([source, made.dest], program ? { program } : {});
  assert.equal(code, 0, stderr);
  const [expected, actual] = [describe(plain), describe(made.dest)];
  for (const [index, line] of expected.entries()) assert.equal(actual[index], line);
  assert.equal(actual.length, expected.length);
  t.diagnostic(`${expected.length} lines compared`);
  return expected.length;
}

const cache = join(tmpdir(), 'barehand-test-cache');
const tarball = join(cache, 'debian-minbase.tar.gz');

/** A Debian, made once: it takes half a minute and a mirror. Returns why there is none. */
function debian(): string | undefined {
  if (existsSync(tarball)) return undefined;
  const folder = join(cache, `debian-${process.pid}`);
  mkdirSync(cache, { recursive: true, mode: 0o700 });
  try {
    const { status } = spawnSync('debootstrap', ['--variant=minbase', 'bookworm', folder], {
      stdio: 'ignore',
      timeout: 300_000,
    });
    if (status !== 0) return 'debootstrap failed: is there a mirror?';
    sh(`tar ${tarOptions} -C "$1" -czf "$1.tar.gz" .`, folder);
    renameSync(`${folder}.tar.gz`, tarball);
    return undefined;
  } finally {
    execFileSync('rm', ['-rf', folder]);
  }
}

test('a debootstrapped Debian comes out as GNU tar makes it', {
  skip: needs('root', 'namespaces', 'debootstrap'),
}, async (t) => {
  const missing = debian();
  if (missing) return t.skip(missing);
  const made = sandbox(t);
  const lines = await compare(t, tarball, made);
  assert.ok(lines > 5000);
  assert.equal(execFileSync('chroot', [made.dest, '/usr/bin/dpkg', '--verify'], { encoding: 'utf8' }), '');
});

test('whatever a file can have comes out as GNU tar makes it', {
  skip: needs('root', 'namespaces', 'setcap', 'python3'),
}, async (t) => {
  const made = sandbox(t);
  const tree = join(made.top, 'tree');
  mkdirSync(join(tree, 'bin'), { recursive: true });
  const file = (name: string, data = name) => {
    const path = join(tree, name);
    writeFileSync(path, data);
    return path;
  };
  sh(
    'chmod 4755 "$1" && chmod 2711 "$2" && chown 5:6 "$2" && chmod 2711 "$2"',
    file('bin/setuid'),
    file('bin/setgid'),
  );
  sh('chmod 4511 "$1"; chown 4294967294:3000000000 "$1"; chmod 4511 "$1"', file('bin/huge-owner'));
  sh('setcap cap_net_raw,cap_net_admin=ep "$1"', file('bin/capable'));
  sh('ln "$1" "$2" && ln "$1" "$3"', file('bin/one'), join(tree, 'bin/two'), join(tree, 'three'));
  symlinkSync('/absolute/nowhere', join(tree, 'absolute'));
  symlinkSync('../../up', join(tree, 'bin/up'));
  symlinkSync('x'.repeat(3000), join(tree, 'long-link'));
  sh('chown -h 7:8 "$1" && touch -h -d @1234567890.987654321 "$1"', join(tree, 'absolute'));
  sh(
    'mkfifo -m 640 "$1/fifo"; mknod -m 600 "$1/null" c 1 3; mkdir -m 1777 "$1/tmp"; mkdir -m 000 "$1/closed"; mkdir -m 0555 "$1/ro"; touch "$1/ro/in"',
    tree,
  );
  truncateSync(file('sparse', 'start'), 50 << 20);
  sh('printf end >>"$1/sparse"', tree);
  file(`${'n'.repeat(255)}`);
  mkdirSync(join(tree, ...Array.from({ length: 20 }, () => 'deep'.repeat(12))), { recursive: true });
  file('empty', '');
  file('ütf-8 and spaces');
  sh('printf x >"$1/$(printf \'latin-\\351\')"', tree);
  utimesSync(file('old'), 1, -86400);
  sh('touch -d @1600000000.123456789 "$1"', file('nanoseconds'));
  // security.capability and system.posix_acl_access need their own tools; user and trusted are these
  sh(
    `python3 -c 'import os, sys; p = sys.argv[1]; os.setxattr(p, "user.note", b"a\\0b\\n"); os.setxattr(p, "trusted.note", b"t")' "$1"`,
    file('attributes'),
  );
  sh('touch -d @1500000000.5 "$1"; chmod 750 "$1"; chown 1:2 "$1"', tree);

  for (const [name, options] of [
    ['posix', '--format=posix'],
    ['posix-sparse', '--format=posix --sparse'],
    ['gnu', '--format=gnu'],
    ['gnu-sparse', '--format=gnu --sparse'],
  ] as const)
    await t.test(`in ${name} format`, async (t) => {
      const attributes = name.startsWith('posix') ? "--xattrs --xattrs-include='*'" : '';
      const source = join(made.top, `${name}.tar`);
      sh(`tar ${options} ${attributes} -C "$1" -cf "$2" .`, tree, source);
      const each = new Sandbox();
      t.after(() => each.remove());
      await compare(t, source, each, bundle(each.top));
    });
});
