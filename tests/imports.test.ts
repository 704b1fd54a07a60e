// Which module imports which: the directions that docs/architecture.md lists, and no circles.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';
import { top } from './helpers/script.ts';

/** A module, by its path below scripts/, and the modules that it imports. */
const imports = new Map(
  readdirSync(join(top, 'scripts'), { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.ts'))
    .map((name) => [name, importsOf(name)]),
);

function importsOf(name: string): { path: string; isType: boolean }[] {
  const text = readFileSync(join(top, 'scripts', name), 'utf8');
  const found = [
    ...text.matchAll(/^(?:import|export) (type )?[^'"`;]*?from '(\.[^']+)'/gm),
    ...text.matchAll(/\bimport\((type )?'(\.[^']+)'\)/g),
  ];
  return found.map(([, type, path = '']) => ({
    path: normalize(join(dirname(name), path)),
    isType: type !== undefined,
  }));
}

/** The top folder of a module, or the script that it is. */
const unitOf = (path: string) => path.split('/')[0] as string;

/** The folder that belongs to a script. */
const ownFolder = (script: string) => (script.startsWith('limit-') ? 'limit' : script.replace(/\.ts$/, ''));

test('every import is of a module that is there', () => {
  assert(imports.size > 50, 'the scripts are not where they are looked for');
  for (const [name, its] of imports)
    for (const { path } of its) assert(imports.has(path), `${name} imports ${path}`);
  // the search sees both forms
  assert(imports.get('run.ts')?.some(({ path }) => path === 'run/launch.ts'));
  assert(imports.get('run/network.ts')?.some(({ path }) => path === 'network/plan.ts'));
});

test('imports go to helpers and to the own folder, but for those that docs/architecture.md lists', () => {
  const page = readFileSync(join(top, 'docs/architecture.md'), 'utf8');
  const rows = page.matchAll(/^\| ((?:`[\w.-]+`(?:, )?)+) \| `([\w-]+)` \| /gm);
  const listed = [...rows].flatMap(([, from = '', to]) =>
    [...from.matchAll(/`([^`]+)`/g)].map(([, unit]) => `${unit} imports from ${to}`),
  );
  const crossings = new Set<string>();
  for (const [name, its] of imports)
    for (const { path } of its) {
      const [from, to] = [unitOf(name), unitOf(path)];
      if (from === to || to === ownFolder(from)) continue;
      if (to === 'helpers' && from !== 'helpers') continue;
      crossings.add(`${from} imports from ${to}`);
    }
  assert.deepEqual([...crossings].sort(), listed.sort());
});

test('no modules import each other in a circle, but for types', () => {
  const done = new Set<string>();
  const visit = (name: string, above: string[]) => {
    assert(!above.includes(name), `a circle: ${[...above, name].join(' -> ')}`);
    if (done.has(name)) return;
    for (const { path, isType } of imports.get(name) ?? []) if (!isType) visit(path, [...above, name]);
    done.add(name);
  };
  for (const name of imports.keys()) visit(name, []);
});
