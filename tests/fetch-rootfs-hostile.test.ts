// Nothing from an archive is written outside DEST, whatever it contains; what is refused leaves nothing behind.
import assert from 'node:assert/strict';
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { loneBundle, run, Sandbox } from './helpers/fetch.ts';
import { hostileArchives } from './helpers/hostile-archives.ts';
import { needs } from './helpers/needs.ts';
import { test } from './helpers/slow.ts';

const program = loneBundle();

const names = hostileArchives('/nowhere').map(({ what }) => what);

for (const [index, what] of names.entries()) {
  test(`harmless: ${what}`, { skip: needs('root', 'namespaces') }, async (t) => {
    const sandbox = new Sandbox();
    t.after(() => sandbox.remove());
    const hostile = hostileArchives(sandbox.outside)[index];
    assert.ok(hostile);
    const file = sandbox.file('archive', hostile.bytes instanceof Function ? hostile.bytes() : hostile.bytes);
    const before = sandbox.canary();
    const { code, stdout, stderr } = await run([...(hostile.options ?? []), file, sandbox.dest], { program });
    assert.equal(sandbox.canary(), before, 'something outside of DEST has changed');
    if (hostile.refusal) {
      assert.match(stderr, /^fetch-rootfs: cannot fetch [^\n]+\n$/);
      assert.match(stderr, hostile.refusal);
      assert.equal(code, 1);
      assert.equal(stdout, '');
      assert.deepEqual(sandbox.left(), []);
    } else {
      assert.equal(code, 0, stderr);
      assert.deepEqual(sandbox.left(), ['dest']);
      for (const path of hostile.holds ?? []) assert.ok(lstatSync(join(sandbox.dest, path)), path);
    }
  });
}
