// The direction of imports: what a script or a folder may use of the others, and that nothing goes round in circles.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { top } from './helpers/script.ts';

/**
 * A script may import its own folder, a folder itself, and both helpers/; limit/ belongs to all limit-*.ts. All other
 * imports are these.
 */
const crossings: Record<string, string> = {
  'pack-rootfs -> images': 'it confines tar(1), and writes, reads and pushes images',
  'pack-rootfs -> stop': 'it pauses a container as stop.ts --pause does',
  'fetch-rootfs -> images': 'it reads images, and downloads tarballs, as other scripts do',
  'run -> network':
    'it attaches a network while the container starts, and takes the name servers of the host',
  'run -> limit': 'the limits of a container are those of limit-*.ts',
  'run -> images': 'an image may be the root file system',
  'stop -> network': 'it detaches the network of the container',
  'stop -> limit': 'it removes what limit-*.ts have left',
  'exec -> run': 'it gives a command its user, variables and working directory by the same options',
  'pack-rootfs -> run': 'it makes manifests of the options of run.ts',
  'exec -> limit': 'it tells which processes the kernel has killed at the limit of memory',
  'logs -> limit': 'the same, for --status',
  'ps -> network': 'it shows published ports',
  'ps -> limit': 'it shows the limits, and the processes that the kernel has killed',
  'inspect -> ps':
    'it finds containers as ps.ts does, and its facts begin with the page that ps.ts makes of a process',
  'inspect -> limit': 'it tells which limits limit-*.ts have set, and the numbers of devices',
  'demo -> limit': 'it shows the files of a limit',
  'check-host -> run': 'it names the sysctl that forbids user namespaces',
  'check-host -> limit': 'it tells where cgroups can be made',
};

const scripts = join(top, 'scripts');
const files = readdirSync(scripts, { recursive: true, encoding: 'utf8' }).filter((name) =>
  /\.(ts|mjs)$/.test(name),
);

interface Import {
  from: string;
  to: string;
  /** erased when types are stripped: it counts for the direction, but nothing is loaded by it */
  typeOnly: boolean;
}

/** The modules that a source names, in import, export and import(); those of Node and of packages are not changed. */
function importsOf(from: string): Import[] {
  const source = readFileSync(join(scripts, from), 'utf8');
  const form =
    /^(?:import|export)\s+(?<type>type\s+)?(?:[\w*{][^;'"`]*?from\s+)?'(?<module>[^'\n]+)'|\bimport\(\s*'(?<lazy>[^'\n]+)'/gm;
  return [...source.matchAll(form)].map(({ groups = {} }) => {
    const module = groups.module ?? groups.lazy ?? '';
    return {
      from,
      to: module.startsWith('.') ? relative(scripts, join(scripts, dirname(from), module)) : module,
      typeOnly: groups.type !== undefined,
    };
  });
}

const all = files.flatMap(importsOf);
const local = all.filter(({ to }) => files.includes(to));

/** The part that a file belongs to: its folder, or its own name; all limit-*.ts are of limit/. */
const partOf = (file: string) => file.replace(/(^limit)-\w+\.ts$|\.ts$|\/.*/, '$1');

/** A circle among these edges, as the nodes along it; undefined where there is none. */
function findCircle(edges: { from: string; to: string }[]): string[] | undefined {
  const done = new Set<string>();
  const visit = (node: string, path: string[]): string[] | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node];
    if (done.has(node)) return undefined;
    for (const { from, to } of edges) {
      const circle = from === node ? visit(to, [...path, node]) : undefined;
      if (circle) return circle;
    }
    done.add(node);
    return undefined;
  };
  for (const { from } of edges) {
    const circle = visit(from, []);
    if (circle) return circle;
  }
  return undefined;
}

test('every import is one of Node, of a package, or of a file that is there', () => {
  // what is looked for is found at all: a script imports its helpers
  for (const script of files.filter((name) => /^[\w-]+\.ts$/.test(name)))
    assert(
      local.some(({ from, to }) => from === script && to === 'helpers/cli.ts'),
      script,
    );
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(top, 'package.json'), 'utf8'));
  const packages = Object.keys({ ...dependencies, ...devDependencies });
  const isKnown = ({ to }: Import) =>
    files.includes(to) || isBuiltin(to) || packages.some((name) => to === name || to.startsWith(`${name}/`));
  assert.deepEqual(
    all.filter((one) => !isKnown(one)).map(({ from, to }) => `${from}: ${to}`),
    [],
  );
});

test('no script is imported', () => {
  assert.deepEqual(
    local.filter(({ to }) => !to.includes('/')),
    [],
  );
});

test('scripts and folders import themselves, helpers/, and what the list of crossings has', () => {
  const found = new Set(
    local
      .map(({ from, to }) => [partOf(from), partOf(to)])
      .filter(([from, to]) => from !== to && to !== 'helpers')
      .map(([from, to]) => `${from} -> ${to}`),
  );
  assert.deepEqual([...found].sort(), Object.keys(crossings).sort());
});

test('docs/architecture.md has the same list', () => {
  const page = readFileSync(join(top, 'docs/architecture.md'), 'utf8');
  const listed = [...page.matchAll(/^\| ([\w-]+) -> ([\w-]+) \|/gm)].map(
    ([, from, to]) => `${from} -> ${to}`,
  );
  assert.deepEqual(listed.sort(), Object.keys(crossings).sort());
});

test('no circles: neither of files that load each other, nor of folders', () => {
  assert.deepEqual(
    findCircle([
      { from: 'a', to: 'b' },
      { from: 'b', to: 'c' },
      { from: 'c', to: 'b' },
    ]),
    ['b', 'c', 'b'],
  );
  assert.equal(findCircle(local.filter(({ typeOnly }) => !typeOnly)), undefined);
  const parts = local.map(({ from, to }) => ({ from: partOf(from), to: partOf(to) }));
  assert.equal(findCircle(parts.filter(({ from, to }) => from !== to)), undefined);
});
