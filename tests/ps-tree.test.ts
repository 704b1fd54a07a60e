// ps.ts --tree: containers inside containers, and which of them share namespaces.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { descendants, readProcesses } from '../scripts/helpers/pids.ts';
import type { Namespace, NamespaceType } from '../scripts/ps/namespaces.ts';
import { type Branch, treeLines } from '../scripts/ps/tree.ts';
import { container, namespace, newSeconds, start, startByHand } from './helpers/container.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, onTerminal, script, until } from './helpers/script.ts';

async function readTree(): Promise<Branch[]> {
  const { code, stdout, stderr } = await call('ps', ['--tree', '--json']);
  assert.deepEqual([code, stderr], [0, '']);
  return JSON.parse(stdout) as Branch[];
}

/** The branches of a tree, however deep: this machine may be a container itself. */
const all = (branches: Branch[]): Branch[] => branches.flatMap((branch) => [branch, ...all(branch.inside)]);

const find = (branches: Branch[], pid: number) => {
  const found = all(branches).find((branch) => branch.pid === pid);
  assert.ok(found, `no container ${pid} here`);
  return found;
};

const of = ({ namespaces }: Branch, type: NamespaceType) => {
  const found = namespaces.find((one) => one.type === type);
  assert.ok(found);
  return found;
};

test(
  'a container inside another is its branch, and each namespace is told from the others',
  container,
  async () => {
    const inner = `unshare --pid --fork --mount-proc --mount sleep ${newSeconds()}`;
    const outer = await start(['--privileged', '--network', 'none'], ['/bin/sh', '-c', `${inner}; true`]);
    const beside = await start(['--network', `container:${outer.name}`], ['sleep', newSeconds()]);
    const nested = await until(
      'the inner one',
      () =>
        descendants(readProcesses(), [outer.first]).find(
          ({ nsPids, name }) => nsPids.length === 3 && nsPids[2] === 1 && name === 'sleep',
        )?.pid,
    );
    const tree = await readTree();
    const [one, other] = [find(tree, outer.first), find(tree, beside.first)];
    assert.deepEqual([one.name, one.engine, one.processes], [outer.name, 'barehand', 3]);
    assert.deepEqual(
      one.inside.map(({ pid, engine, inside }) => [pid, engine, inside]),
      [[nested, 'unshare', []]],
    );
    const within = find(one.inside, nested);
    for (const branch of [one, within, other])
      for (const { type, inode } of branch.namespaces)
        assert.equal(`${type}:[${inode}]`, namespace(branch.pid, type));
    const shared = (branch: Branch, type: NamespaceType) => [
      of(branch, type).whose,
      of(branch, type).sharedWith.map(({ pid }) => pid),
    ];
    assert.deepEqual(shared(one, 'net'), ['shared', [beside.first]]);
    assert.deepEqual(shared(other, 'net'), ['shared', [outer.first]]);
    assert.deepEqual(shared(within, 'net')[0], 'shared');
    assert.deepEqual(
      new Set(of(within, 'net').sharedWith.map(({ pid }) => pid)),
      new Set([outer.first, beside.first]),
    );
    assert.deepEqual(shared(within, 'ipc'), ['shared', [outer.first]]);
    // what is inside a container belongs to it
    assert.deepEqual(shared(one, 'ipc'), ['own', []]);
    for (const branch of [one, within, other]) {
      assert.equal(of(branch, 'pid').whose, 'own');
      assert.equal(of(branch, 'user').whose, 'host');
    }

    const env = { ...process.env, LC_ALL: 'C.UTF-8' };
    const { stdout } = await call('ps', ['--tree'], { env });
    const lines = stdout.split('\n');
    const at = lines.findIndex((line) => line.startsWith(`${outer.name} `));
    assert.match(lines[at] ?? '', new RegExp(`; with ${beside.name}: net; host: user$`));
    assert.match(
      lines[at + 1] ?? '',
      new RegExp(`^└─ - +${nested} .*own: mnt pid; .*with ${outer.name}: ipc uts cgroup`),
    );
  },
);

test('one without relatives has no branch; the namespaces of the host are called so', container, async () => {
  const { first } = await startByHand(['sleep', newSeconds()]);
  const branch = find(await readTree(), first);
  assert.deepEqual([branch.name, branch.inside], [null, []]);
  assert.deepEqual(
    ['mnt', 'pid', 'net', 'ipc', 'user'].map((type) => of(branch, type as NamespaceType).whose),
    ['own', 'own', 'host', 'host', 'host'],
  );
});

const own: Namespace = { type: 'mnt', inode: 1, whose: 'own', processes: 1, sharedWith: [] };
const branch = (name: string | null, inside: Branch[] = [], command = 'sleep'): Branch => ({
  ...{ name, pid: 7, engine: 'x', command, processes: 1, namespaces: [own], inside },
});

test('branches are connected by lines, in ASCII where the locale has no others', () => {
  const tree = [branch('a', [branch('b', [branch(null)]), branch('c', [branch('d')])]), branch('e')];
  const names = (unicode: boolean) =>
    treeLines(tree, 200, unicode, true).map((line) => line.slice(0, line.search(/ +(7|PID) /)));
  assert.deepEqual(names(true), ['NAME', 'a', '├─ b', '│  └─ -', '└─ c', '   └─ d', 'e']);
  assert.deepEqual(names(false), ['NAME', 'a', '|- b', '|  `- -', '`- c', '   `- d', 'e']);
});

test('names of others are escaped, and lines fit the width', () => {
  const lines = treeLines([branch('a\x1b[31m', [], 'x\ny'.repeat(99))], 60, true, true);
  assert.ok(lines.every((line) => line.length <= 60));
  assert.doesNotMatch(lines.join(''), /[\x00-\x1f]/);
});

test('the tree fits a terminal', { skip: container.skip || needs('script', 'stty') }, async () => {
  await start([], ['sh', '-c', `sleep ${newSeconds()}; : ${'long '.repeat(60)}`]);
  const words = onTerminal(['sh', '-c', `stty cols 80; exec '${script('ps')}' --tree`]);
  const { stdout } = await execute(words, { env: { ...process.env, LC_ALL: 'C.UTF-8' } });
  const lines = stdout.split(/\r?\n/);
  assert.match(lines[0] ?? '', /^NAME +PID .*NAMESPACES/);
  for (const line of lines) assert.ok([...line].length <= 80, line);
});

test('--tree goes alone', async () => {
  for (const words of [['--watch'], ['-a'], ['1']]) {
    const { code, stdout, stderr } = await call('ps', ['--tree', ...words]);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(stderr, /^ps: --tree goes without --watch, --all, PID and NAME\n$/);
  }
});
