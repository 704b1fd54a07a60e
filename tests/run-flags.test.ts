// Options of run.ts that users of Docker, Podman and util-linux know, each in a real container.
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { container, memoryFile, newName, start } from './helpers/container.ts';
import { call, execute, rootfs } from './helpers/script.ts';
import { test } from './helpers/slow.ts';

const scratch = mkdtempSync(join(tmpdir(), 'barehand-run-flags-'));
after(() => execute(['rm', '-r', scratch]));

test("Docker's short options mean what its long ones do, also in one word", container, async () => {
  const { name } = await start(['-it', '--rm', '-m', '64M', '-c', '512', '--net', 'none'], ['sleep', '100']);
  assert.equal(memoryFile(name, 'limit'), String(64 * 1024 ** 2));
  const detached = newName();
  const started = await call('run', ['-ditm', '64M', '--name', detached, rootfs, 'sleep', '100']);
  assert.deepEqual([started.code, started.stdout], [0, `${detached}\n`]);
  assert.equal(memoryFile(detached, 'limit'), String(64 * 1024 ** 2));
  await call('stop', ['-t', '0', detached]);
  // a pipe stays a pipe
  const { stdout } = await call('run', ['-it', rootfs, 'cat'], { input: 'typed' });
  assert.equal(stdout, 'typed');
});
