// What `npm run check` says of programs that are not TypeScript.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute, top } from './helpers/script.ts';

const folder = scratchFolder('check');
mkdirSync(join(folder, 'scripts/helpers'), { recursive: true });
cpSync(join(top, 'scripts/helpers/check-programs.mjs'), join(folder, 'scripts/helpers/check-programs.mjs'));

/** Has one program checked, in a tree of its own. */
async function check(name: string, text: string, env: NodeJS.ProcessEnv = process.env) {
  const file = join(folder, 'scripts', name);
  writeFileSync(file, text);
  const { code, stderr } = await execute(
    [process.execPath, join(folder, 'scripts/helpers/check-programs.mjs')],
    { env },
  );
  rmSync(file);
  return { code, stderr };
}

const programs: [name: string, checker: string, good: string, bad: string[]][] = [
  ['a.pl', 'perl', 'use strict; print "x";\n', ['use strict; $x = 1;\n', 'my $x = 1; my $x = 2;\n']],
  ['a.py', 'python3', 'print("x")\n', ['print("x"\n', 'x = "\\d"\n']],
  ['a.sh', 'shellcheck', '#!/bin/sh\necho "$1"\n', ['#!/bin/sh\nif true; then echo\n', '#!/bin/sh\nrm $1\n']],
];
for (const [name, checker, good, bad] of programs) {
  test(`${name} is read by ${checker}: errors and warnings`, { skip: needs(checker) }, async () => {
    assert.deepEqual(await check(name, good), { code: 0, stderr: '' });
    for (const text of bad) {
      const { code, stderr } = await check(name, text);
      assert.equal(code, 1, text);
      assert.match(stderr, new RegExp(`^scripts/${name}:\n`));
    }
  });

  test(`${name} is passed over without ${checker}, but not in CI`, async () => {
    const said = `scripts/${name} is not checked: there is no ${checker} here\n`;
    const env = { PATH: folder };
    assert.deepEqual(await check(name, bad[0] as string, env), { code: 0, stderr: said });
    assert.deepEqual(await check(name, good, { ...env, CI: '1' }), { code: 1, stderr: said });
  });
}
