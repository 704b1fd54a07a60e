// The standard streams that run.ts was given: they block, as they came, for what runs inside, and for the caller
// afterwards. Node makes a pipe O_NONBLOCK that it has touched, which all who share its file description see.
import assert from 'node:assert/strict';
import { mkdtempSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { container } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute, rootfs, top } from './helpers/script.ts';
import { test } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

const scratch = scratchFolder('streams');

/** A PATH that leads to each node that there is. */
const paths = [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean).map((node) => {
  const folder = mkdtempSync(join(scratch, 'path-'));
  symlinkSync(node, join(folder, 'node'));
  return `${folder}:${process.env.PATH}`;
});
const files = ['dist/run.mjs', 'scripts/run.ts'].map((file) => join(top, file));

/** Runs a program of bash, whose words are run.ts and its own words, with every node and every form of run.ts. */
async function everywhere(
  program: string,
  words: string[],
  look: (result: Awaited<ReturnType<typeof execute>>, where: string) => void,
) {
  for (const PATH of paths)
    for (const file of files) {
      const argv = ['bash', '-c', program, 'bash', file, ...words];
      look(await execute(argv, { env: { ...process.env, PATH } }), `${PATH.split(':')[0]} ${file}`);
    }
}

/** What becomes of the three streams: pipes, each looked at inside a moment after the start, and afterwards. */
const flags = `grep -h ^flags: /proc/self/fdinfo/0 /proc/self/fdinfo/1 /proc/self/fdinfo/2`;
const look = `sleep 1 | { "$@" sh -c 'sleep 0.3; ${flags}'; echo "code $?"; ${flags}; } 2>&3 | cat`;

for (const [options, skip] of [
  [[], container.skip],
  [['--init', '--ephemeral'], container.skip],
  [['--userns'], mappedIds],
  [['--network', 'bridge'], container.skip || needs('ip', 'nft')],
] as const)
  test(`what runs inside has streams that block: run.ts ${options.join(' ')}`, { skip }, async () => {
    // in a network of its own, which goes with it
    const program = `exec 3> >(cat >&2); set -- unshare --net "$@"; ${look}`;
    await everywhere(program, [...options, rootfs], ({ stdout, stderr }, where) => {
      const lines = stdout.trim().split('\n');
      assert.equal(lines.length, 7, `${where}: ${stdout}${stderr}`);
      assert.equal(lines[3], 'code 0', where);
      const modes = lines.filter((_, index) => index !== 3).map((line) => Number.parseInt(line.slice(6), 8));
      assert.deepEqual(
        modes.map((mode) => mode & 0o4000),
        [0, 0, 0, 0, 0, 0],
        `${where}: ${stdout}`,
      );
    });
  });

test('nothing is lost on the way to a reader that is late', container, async () => {
  const program = 'head -c 3000000 /dev/zero | "$@" | (sleep 1; wc -c)';
  await everywhere(program, [rootfs, 'cat'], ({ stdout, stderr }, where) =>
    assert.deepEqual([stdout, stderr], ['3000000\n', ''], where),
  );
});

test('a reader inside waits for a writer that is late', container, async () => {
  await everywhere('(sleep 1; echo late) | "$@"', [rootfs, 'cat'], ({ stdout, stderr }, where) =>
    assert.deepEqual([stdout, stderr], ['late\n', ''], where),
  );
});
