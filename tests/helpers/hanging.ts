// A test that starts what tests start and does not end, for leftovers.test.ts, which kills it. It writes its PID to the file
// that BAREHAND_READY names when all is there.
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { container, newName, start, startByHand } from './container.ts';
import { scratchFolder } from './leftovers.ts';
import { call, rootfs } from './script.ts';
import { hierarchies, makeCgroup, startTree, succeed } from './trees.ts';

test('something that hangs', async () => {
  const ready = process.env.BAREHAND_READY as string;
  writeFileSync(join(scratchFolder('hanging'), 'file'), 'text');
  if (!container.skip) {
    await call('run', ['-d', '--name', newName(), rootfs, 'sleep', '1000']);
    await start([], ['sleep', '1000']);
    await start(['--isolate', 'mount'], ['sh', '-c', 'sleep 1000 & sleep 1000; true']);
    await startByHand(['sleep', '1000']);
    await succeed('limit-pids', String(await startTree('echo complete; sleep 1000; true')), '100');
    for (const hierarchy of hierarchies.slice(0, 1)) makeCgroup(hierarchy, newName());
  }
  writeFileSync(`${ready}.new`, String(process.pid));
  renameSync(`${ready}.new`, ready);
  await new Promise((resolve) => setTimeout(resolve, 600_000));
});
