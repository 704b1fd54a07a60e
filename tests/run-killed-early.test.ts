// SIGKILL of a launch in its first moments, when it has just started what is to end with it: nothing stays.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { attempt } from '../scripts/helpers/pids.ts';
import { container, newName, processesWith } from './helpers/container.ts';
import { mounted } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { call, rootfs, script, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

const text = (pid: string | number, file: string) =>
  attempt(() => readFileSync(`/proc/${pid}/${file}`, 'latin1'));

/** The living processes of a launch: by their environment, and by their words where that has been cleared. */
const processesOf = (name: string) => [
  ...new Set([...processesWith('environ', `MARK=${name}\0`), ...processesWith('cmdline', `# ${name}\0`)]),
];

/** All descendants of a process. */
const below = (pid: number | string): string[] =>
  (text(pid, `task/${pid}/children`) ?? '')
    .split(' ')
    .filter(Boolean)
    .flatMap((child) => [child, ...below(child)]);

// setpriv(1) sets the death signal: where it takes its time, the moment before is long enough to be met
const scratch = scratchFolder('early');
const slowly = mounted(
  `real=$(readlink -f "$(command -v setpriv)"); cp "$real" '${scratch}/real'
  printf '#!/bin/sh\\nsleep 0.3\\nexec %s "$@"\\n' '${scratch}/real' >'${scratch}/slow'; chmod 755 '${scratch}' '${scratch}/slow'
  mount --bind '${scratch}/slow' "$real"`,
  [],
);

const nodes = [process.execPath, process.env.BAREHAND_NODE ?? ''].filter(Boolean);

for (const node of nodes)
  for (const options of [[], ['-u', 'nobody'], ['--userns']])
    test(`${process.execPath === node ? 'this node' : 'BAREHAND_NODE'}: run.ts ${options.join(' ')}`, {
      skip: container.skip || (options[0] === '--userns' && mappedIds),
    }, async () => {
      let early = 0;
      for (let round = 0; round < 8; round++) {
        const name = newName();
        const words = [
          '--',
          script('run'),
          '--name',
          name,
          ...options,
          rootfs,
          'sh',
          '-c',
          `sleep 1000 # ${name}`,
        ];
        const [program = '', ...rest] = [...slowly, node, ...words];
        const launcher = spawn(program, rest, { stdio: 'ignore', env: { ...process.env, MARK: name } });
        const end = once(launcher, 'exit');
        // as soon as there are one, two, three ... processes, or a moment later
        const wanted = 1 + (round % 4);
        const isReady = () =>
          below(launcher.pid as number).some((pid) => text(pid, 'cmdline')?.startsWith('sleep\x001000'));
        const isStarted = () =>
          text(launcher.pid as number, 'comm') === 'node\n' || below(launcher.pid as number).length > 0;
        await until('node', isStarted);
        while (below(launcher.pid as number).length < wanted && !isReady()) await sleep(0);
        if (round % 2) await sleep(Math.random() * 200);
        if (!isReady()) early++;
        launcher.kill('SIGKILL');
        assert.deepEqual(await end, [null, 'SIGKILL']);
        await until(`the end of all: ${processesOf(name)}`, () => processesOf(name).length === 0);
      }
      assert.ok(early > 0, `${early} of the launches were killed before they were ready`);
      assert.equal((await call('stop', ['--sweep'])).code, 0);
    });
