import assert from 'node:assert/strict';
import {
  closeSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  type InRoot,
  openInRoot,
  openRoot,
  placeInRoot,
  readTextInRoot,
  statsInRoot,
  type Walk,
} from '../scripts/helpers/in-root.ts';
import { attempt } from '../scripts/helpers/pids.ts';
import { scratchFolder } from './helpers/leftovers.ts';

const folder = scratchFolder('in-root');
const outside = join(folder, 'outside');
const root = join(folder, 'root');
for (const path of [outside, join(outside, 'dir'), root, join(root, 'etc'), join(root, 'usr/lib')])
  mkdirSync(path, { recursive: true });
writeFileSync(join(outside, 'secret'), 'secret');
writeFileSync(join(root, 'etc/passwd'), 'inside');
const links: Record<string, string> = {
  absolute: '/etc',
  lib: 'usr/lib',
  up: '../../../../etc/passwd',
  host: outside,
  hostFile: join(outside, 'secret'),
  dots: '../outside/dir',
  loop: 'loop',
  dangling: '/run/nowhere/file',
};
for (const [name, target] of Object.entries(links)) symlinkSync(target, join(root, name));
const rootFd = openRoot(root);
after(() => {
  closeSync(rootFd);
});

/** Where a path leads, with the descriptor closed; the kernel's own word for it must be the same. */
function where(path: string, walk?: Walk): string | undefined {
  const found = openInRoot(rootFd, path, walk);
  if (!found) return undefined;
  const real = readlinkSync(`/proc/self/fd/${found.fd}`);
  closeSync(found.fd);
  assert.equal(real, join(root, found.path).replace(/\/$/, ''));
  return found.path;
}

test('a path leads where a process in that root would get to', () => {
  assert.deepEqual(
    [
      '/',
      'etc',
      '/absolute/passwd',
      'lib',
      '/lib/..',
      'up',
      '/../../etc/./passwd/',
      'usr//lib/../../etc',
    ].map((path) => where(path)),
    ['/', '/etc', '/etc/passwd', '/usr/lib', '/usr', '/etc/passwd', '/etc/passwd', '/etc'],
  );
});

test('what is missing is no place, nor what lies behind a file', () => {
  for (const path of [
    'nowhere',
    'etc/passwd/x',
    'etc/passwd/..',
    'nowhere/../etc',
    'host/dir',
    'hostFile',
    'dangling',
  ])
    assert.equal(where(path), undefined, path);
});

test('links that lead to the host lead into the root, also where something is made', () => {
  assert.equal(where('host/dir', { make: 'directory' }), `${outside}/dir`);
  assert.equal(where('dots', { make: 'directory' }), '/outside/dir');
  assert.equal(where('dangling', { make: 'file' }), '/run/nowhere/file');
  assert.equal(where('hostFile', { make: 'file' }), `${outside}/secret`);
  assert.equal(lstatSync(join(root, outside, 'secret')).size, 0);
  assert.deepEqual(readdirSync(outside).sort(), ['dir', 'secret']);
  assert.deepEqual(readdirSync(join(outside, 'dir')), []);
});

test('links without an end, links where there may be none, files where a directory must be', () => {
  assert.throws(() => where('loop'), /loop: too many symlinks/);
  assert.throws(() => where('lib', { links: false }), /lib is a symlink/);
  assert.throws(() => where('etc/passwd/x', { make: 'directory' }), /\/etc\/passwd is no directory/);
});

test('a place is told also of what is missing', () => {
  assert.deepEqual(
    ['/', 'absolute/passwd', 'dangling', 'host/../x', 'nowhere/a/../../lib/b', 'etc/passwd/x', 'loop'].map(
      (path) => placeInRoot(rootFd, path),
    ),
    ['/', '/etc/passwd', '/run/nowhere/file', `${folder}/x`, '/usr/lib/b', '/etc/passwd/x', undefined],
  );
});

test('what is at a path is that of the root, never of the host', () => {
  assert.equal(statsInRoot(rootFd, 'up')?.size, 'inside'.length);
  assert(statsInRoot(rootFd, 'hostFile', { lastLink: true })?.isSymbolicLink());
  for (const path of ['nowhere', 'etc/passwd/x', 'loop'])
    assert.equal(statsInRoot(rootFd, path), undefined, path);
});

test('only small plain files are read', () => {
  assert.equal(readTextInRoot(rootFd, '/absolute/passwd'), 'inside');
  for (const path of ['etc', 'nowhere', 'loop', 'etc/passwd/..'])
    assert.equal(readTextInRoot(rootFd, path), undefined, path);
  assert.equal(readTextInRoot(rootFd, 'etc/passwd', 3), undefined);
});

test('a directory that is swapped for a link all the time leads nowhere but into the root', async () => {
  mkdirSync(join(root, 'swap/in'), { recursive: true });
  symlinkSync(outside, join(root, 'link'));
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(
    `const { renameSync } = require('node:fs');
     const { workerData: { root, stop } } = require('node:worker_threads');
     while (Atomics.load(stop, 0) === 0)
       try {
         renameSync(root + '/swap', root + '/aside');
         renameSync(root + '/link', root + '/swap');
         Atomics.wait(stop, 0, 0, 0.2); // so that it is seen as each of the two
         renameSync(root + '/swap', root + '/link');
         renameSync(root + '/aside', root + '/swap');
         Atomics.wait(stop, 0, 0, 0.2);
       } catch {}`,
    { eval: true, workerData: { root, stop } },
  );
  const end = new Promise((resolve) => worker.once('exit', resolve));
  const seen = new Set<string>();
  // until it was seen as a directory and as a link, and often enough
  for (let round = 0; round < 5000 || (seen.size < 2 && round < 200_000); round++) {
    const found: InRoot | undefined = attempt(() =>
      openInRoot(rootFd, `swap/made${round % 50}`, { make: 'directory' }),
    );
    if (found) {
      seen.add(readlinkSync(`/proc/self/fd/${found.fd}`).replace(/made\d+$/, ''));
      closeSync(found.fd);
    }
  }
  Atomics.store(stop, 0, 1);
  await end;
  assert.deepEqual(readdirSync(outside).sort(), ['dir', 'secret']);
  for (const path of seen) assert(path.startsWith(`${root}/`), path);
  assert(seen.size > 1, `it was never seen as a link: ${[...seen]}`);
});
