// Every step of a launch may fail: each program of the host's that it may need is broken in turn. Whatever a launch
// comes to then, it comes to an end, with 125 and a line that says why where there is no container, and leaves nothing.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { cgroups, container, newName, processesWith } from './helpers/container.ts';
import { mounted } from './helpers/inside.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, onTerminal, rootfs, top, until } from './helpers/script.ts';
import { test } from './helpers/slow.ts';
import { needsMappedIds } from './helpers/userns.ts';

const mappedIds = await needsMappedIds();

const scratch = scratchFolder('failures');
const broken = join(scratch, 'broken');
writeFileSync(broken, '#!/bin/sh\necho "$0 is broken" >&2\nexit 3\n', { mode: 0o755 });

/** run.ts where a program of the host's fails whenever it is started. */
const breaking = (program: string) =>
  mounted(`mount --bind '${broken}' "$(readlink -f "$(command -v ${program})")"`, []);

const processesOf = (name: string) => processesWith('environ', `MARK=${name}\0`);

const programs =
  'unshare nsenter mount umount pivot_root setpriv setsid env flock mkdir cp ln chmod tr cat readlink grep stat head stdbuf mv chown script tty'.split(
    ' ',
  );

for (const [what, options, terminal, skip] of [
  ['without a terminal', [], false, container.skip],
  ['on a terminal', [], true, container.skip || needs('script')],
  ['in the background', ['-d'], false, container.skip],
  ['as root of its own', ['--userns'], false, mappedIds],
] as [string, string[], boolean, string | false][])
  test(`${what}: a launch in which a program fails ends, and says so`, {
    skip: skip || needs('speed'),
  }, async (t) => {
    let failed = 0;
    const names: string[] = [];
    for (const program of programs) {
      if (needs(program)) continue;
      const name = newName();
      const run = [
        ...breaking(program),
        process.execPath,
        '--',
        join(top, 'dist/run.mjs'),
        ...options,
        '--name',
        name,
        rootfs,
        'true',
      ];
      const [first = '', ...words] = terminal ? onTerminal(run) : run;
      const launcher = spawn(first, words, {
        stdio: ['pipe', 'pipe', 'pipe'],
        env: { ...process.env, MARK: name },
      });
      const killer = setTimeout(() => launcher.kill('SIGKILL'), 50_000);
      const [stdout, stderr, [code, signal]] = await Promise.all([
        text(launcher.stdout),
        text(launcher.stderr),
        once(launcher, 'exit'),
      ]);
      clearTimeout(killer);
      const said = `${program}: ${code} ${signal} ${stdout}${stderr}`;
      assert.equal(signal, null, `${said}: it hangs`);
      t.diagnostic(said.trim().replaceAll('\n', ' | '));
      // it may have done without
      assert.ok(code === 0 || code === 125, said);
      if (code === 125) {
        failed++;
        assert.match(terminal ? stdout : stderr, /is broken|: /, said);
        assert.doesNotMatch(stdout, new RegExp(`^${name}$`, 'm'), said);
      }
      await until(`the end of all: ${said}`, () => processesOf(name).length === 0);
      names.push(name);
    }
    // some may need what is broken for clearing up: the next one does
    assert.equal((await call('stop', ['--sweep'])).code, 0);
    for (const name of names) {
      assert.deepEqual(
        cgroups(name).filter((path) => existsSync(path)),
        [],
      );
      rmSync(`/run/barehand/${name}`, { recursive: true, force: true });
    }
    assert.ok(failed >= 5, `${failed} launches failed`);
  });
