// What the pages tell about exit codes and about the fields of --json is what the scripts return and print.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { before, test } from 'node:test';
import { attempt } from '../scripts/helpers/pids.ts';
import { findDisk } from '../scripts/limit/disk.ts';
import { container, found, newName, type Running } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { cgroupVersion, needs } from './helpers/needs.ts';
import { become, call, execute, rootfs, script, top, until } from './helpers/script.ts';

/** A section of the page of a script; '' if it has none. */
function section(name: string, heading: string): string {
  const page = readFileSync(join(top, 'docs', `${name}.md`), 'utf8');
  return new RegExp(`^## ${heading}\n(.*?)(?=^## )`, 'ms').exec(`${page}\n## `)?.[1] ?? '';
}

/** The rows of all tables of a text: the cells of each. */
const rows = (markdown: string) =>
  [...markdown.matchAll(/^\| (.*) \|$/gm)].map(([, row = '']) => row.split(' | '));

const folder = scratchFolder('pages');
const pages = readdirSync(join(top, 'docs')).map((name) => name.replace(/\.md$/, ''));
const scripts = readdirSync(join(top, 'scripts'))
  .filter((name) => name.endsWith('.ts'))
  .map((name) => name.replace(/\.ts$/, ''))
  .filter((name) => name !== 'demo'); // its page is the README

test('each script has a page, which has its exit codes', () => {
  for (const name of scripts) {
    assert(pages.includes(name), name);
    assert.notEqual(section(name, 'Exit codes'), '', name);
  }
});

/** Whether a cell of a table of exit codes, such as `126, 127`, `0 to 255` or `128+n`, means this code. */
function covers(cell: string, code: number): boolean {
  return cell.split(', ').some((word) => {
    const [first = NaN, last = first] = word.split(' to ').map(Number);
    return word === '128+n' ? code > 128 : first <= code && code <= last;
  });
}

/** Command lines with the exit code that is expected; NAME is a container that runs. */
const command: [words: string[], code: number][] = [
  [['true'], 0],
  [['/bin/sh', '-c', 'exit 42'], 42],
  [['tail', '/dev/zero'], 137],
  [['/etc/passwd'], 126],
  [['no-such-command'], 127],
];
const cases: Record<string, [words: string[], code: number][]> = {
  run: [
    ...command.map(([words, code]) => [['--memory', '20M', rootfs, ...words], code] as [string[], number]),
    [['--no-such-option', rootfs], 125],
    [['/no/such/rootfs'], 125],
  ],
  exec: [
    ...command.map(([words, code]) => [['NAME', ...words], code] as [string[], number]),
    [['no-such-container', 'true'], 125],
  ],
  ps: [
    [[], 0],
    [['--no-such-option'], 2],
  ],
  inspect: [
    [['NAME'], 0],
    [['no-such-container'], 1],
    [[], 2],
  ],
  logs: [
    [['NAME'], 0],
    [['no-such-container'], 1],
    [[], 2],
  ],
  stop: [
    [['--sweep', '--dry-run'], 0],
    [['no-such-container'], 1],
    [[], 2],
  ],
  network: [
    [['ls'], 0],
    [['attach', 'no-such-container'], 1],
    [['no-such-command'], 2],
  ],
  barehand: [
    [['ps'], 0],
    [['logs', 'no-such-container'], 1],
    [['no-such-script'], 2],
  ],
  'check-host': [
    [['--quiet', 'run'], 0],
    [['no-such-script'], 2],
  ],
  'fetch-rootfs': [
    [['--dry-run', 'host:', join(folder, 'host')], 0],
    [[join(folder, 'no-such-file'), join(folder, 'x')], 1],
    [['--no-such-option'], 2],
  ],
  'pack-rootfs': [
    [['--dry-run', rootfs, join(folder, 'a.tar')], 0],
    [[join(folder, 'no-such-rootfs'), join(folder, 'a.tar')], 1],
    [['--no-such-option'], 2],
  ],
  ...Object.fromEntries(
    [
      ['memory', '100M'],
      ['cpu', '1'],
      ['pids', '100'],
      ['io', top, '--read-bps', '1M'],
    ].map(([kind, ...limit]) => [
      `limit-${kind}`,
      [
        [['NAME', '--dry-run', ...limit], 0],
        [['no-such-container', ...limit], 1],
        [['NAME'], 2],
      ],
    ]),
  ),
};

test('all scripts are asked for their exit codes', () => {
  assert.deepEqual(Object.keys(cases).sort(), scripts.toSorted());
});

/** A container in the background: one of its processes has been killed for lack of memory. */
let running: Running;
before(async () => {
  if (container.skip) return;
  const name = newName();
  const words = ['/bin/sh', '-c', 'head -c 60M /dev/zero | tail; sleep 1000'];
  const launcher = spawn(script('run'), ['-d', '--name', name, '--memory', '20M', rootfs, ...words], {
    stdio: 'ignore',
  });
  running = await found(name, launcher, once(launcher, 'exit') as Running['end'], words);
});

for (const [name, lines] of Object.entries(cases))
  test(`${name}.ts ends with the exit codes that its page lists, and lists no others`, {
    skip: container.skip || (name === 'network' && needs('ip')),
  }, async () => {
    const listed = rows(section(name, 'Exit codes')).flatMap(([cell = '']) => (/^\d/.test(cell) ? cell : []));
    const seen: number[] = [];
    for (const [words, expected] of lines) {
      const given = words.map((word) => (word === 'NAME' ? running.name : word));
      const { code, stderr } = await call(name, given);
      assert.equal(code, expected, `${name} ${given.join(' ')}: ${stderr}`);
      assert(
        listed.some((cell) => covers(cell, expected)),
        `${expected} is not on the page: ${given.join(' ')}`,
      );
      seen.push(expected);
    }
    // what makes ps.ts fail is hard to bring about: a full disk does
    if (name === 'ps') {
      const { code } = await execute(['sh', '-c', `'${script('ps')}' >/dev/full`]);
      assert.equal(code, 1);
      seen.push(1);
    }
    if (name === 'check-host') {
      const { code } = await execute([...become(23457), script(name), '--quiet', 'limit-memory']);
      assert.equal(code, 1);
      seen.push(1);
    }
    for (const cell of listed)
      assert(
        seen.some((code) => covers(cell, code)),
        `never seen: ${cell}`,
      );
  });

/** The names of all fields in a value as JSON, `memory.usedBytes`; those in arrays are called as if in the array. */
function fields(value: unknown, prefix = ''): string[] {
  if (Array.isArray(value)) return value.flatMap((one) => fields(one, prefix));
  if (value === null || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    const name = prefix + key.replace(/^\d+:\d+$/, 'MAJOR:MINOR');
    // the limits before a change have the fields of those after it; ancestors, and containers inside, have the same
    return ['before', 'parents', 'inside'].includes(name) || name.endsWith('labels')
      ? name
      : [name, ...fields(inner, `${name}.`)];
  });
}

/** The tables of fields in a section JSON: names, and the cgroup version that alone has it, where the meaning says so. */
const tables = (name: string) =>
  section(name, 'JSON')
    .split(/\n(?=\n\| field \|)/)
    .slice(1)
    .map((part) =>
      rows(part).flatMap(([cell = '', meaning = '']) =>
        [...cell.matchAll(/`([^`]+)`/g)].map(([, field = '']) => ({
          field,
          only: Number(/\(v(\d)\)/.exec(meaning)?.[1]) || undefined,
        })),
      ),
    );

/** Compares what was printed with a table. An object may be listed by its fields alone. */
function compare(
  name: string,
  table: ReturnType<typeof tables>[number] | undefined,
  printed: unknown[],
): void {
  assert(table, `docs/${name}.md has no such table`);
  const seen = [...new Set(printed.flatMap((value) => fields(value)))];
  const isListed = (field: string) =>
    table.some((row) => row.field === field || row.field.startsWith(`${field}.`));
  for (const field of seen) assert(isListed(field), `docs/${name}.md does not list ${field}`);
  for (const { field, only } of table)
    assert(
      seen.includes(field) || (only !== undefined && only !== cgroupVersion),
      `docs/${name}.md lists ${field}`,
    );
}

const json = async (name: string, ...words: string[]) => {
  const { code, stdout, stderr } = await call(name, ['--json', ...words]);
  assert.equal(code, 0, stderr);
  return stdout.trim();
};

test('every script with --json has its fields on its page', async () => {
  for (const name of scripts) {
    const { options } = await import(join(top, 'scripts', `${name}.ts`));
    assert.equal('json' in options, section(name, 'JSON') !== '', name);
  }
});

test('ps.ts --json prints what its page lists', container, async () => {
  const ended = newName();
  const published = newName();
  const shares = newName();
  let treeJson: string;
  const noNetwork = needs('ip', 'nft');
  const port = ['--network', 'bridge', '-p', '127.0.0.1:18098:80'];
  let all: { name: string; oomKills: { process: unknown } | null; ended: unknown }[];
  try {
    await call('run', ['-d', '--name', ended, rootfs, 'false']);
    await call('run', [
      '-d',
      '--name',
      published,
      ...(noNetwork ? ['--network', 'none'] : port),
      rootfs,
      'sleep',
      '100',
    ]);
    await call('run', [
      '-d',
      '--name',
      shares,
      '--network',
      `container:${published}`,
      rootfs,
      'sleep',
      '100',
    ]);
    treeJson = await json('ps', '--tree');
    all = await until('the OOM kill and the end', async () => {
      const rows = JSON.parse(await json('ps', '--all')) as typeof all;
      const find = (name: string) => rows.find((row) => row.name === name);
      return find(running.name)?.oomKills?.process && find(ended)?.ended && find(published)
        ? rows
        : undefined;
    });
  } finally {
    await call('stop', [ended, published, shares]);
  }
  const [list, one, tree, watched = []] = tables('ps');
  // without a network no port is published: an empty list has no fields
  const withoutPorts = list?.map((row) =>
    row.field.startsWith('ports.') ? { ...row, field: 'ports' } : row,
  );
  compare('ps', noNetwork ? withoutPorts : list, all);
  compare('ps', one, JSON.parse(await json('ps', String(running.first))));
  compare('ps', tree, JSON.parse(treeJson));
  const line = await json('ps', '--watch', '--count', '1', '--interval', '1');
  // the line has fields of the list too
  const shared = [...section('ps', 'JSON').matchAll(/with the fields (.*?) from above/gs)]
    .flatMap(([, names = '']) => [...names.matchAll(/`(\w+)`/g)])
    .map(([, name]) => name);
  const inherited = (list ?? [])
    .filter(({ field }) => shared.includes(field.split('.')[0]))
    .map((row) => ({ ...row, field: `containers.${row.field}` }));
  compare('ps', [...watched, ...inherited], [JSON.parse(line)]);
});

test('inspect.ts --json prints what its page lists', container, async () => {
  const [open, shares] = [newName(), newName()];
  const socket = join(folder, 'docker.sock');
  const server = createServer().listen(socket);
  await once(server, 'listening');
  try {
    const volume = `${socket}:/run/docker.sock`;
    await call('run', [
      '-d',
      '--name',
      open,
      '--privileged',
      '--network',
      'none',
      '-v',
      volume,
      rootfs,
      'sleep',
      '100',
    ]);
    await call('run', ['-d', '--name', shares, '--network', `container:${open}`, rootfs, 'sleep', '100']);
    // a descriptor of a directory outside
    const entered = spawn('sh', ['-c', `exec 7</etc; exec chroot '${rootfs}' sleep 100`], {
      stdio: 'ignore',
    });
    const end = once(entered, 'exit');
    try {
      const pid = String(entered.pid);
      await until('the chroot', () => readlinkSync(`/proc/${pid}/root`) !== '/');
      const all = [];
      for (const word of [running.name, open, pid]) all.push(JSON.parse(await json('inspect', word)));
      const [facts, difference] = tables('inspect');
      compare('inspect', facts, all);
      compare('inspect', difference, [JSON.parse(await json('inspect', '--diff', open, running.name))]);
    } finally {
      entered.kill('SIGKILL');
      await end;
    }
  } finally {
    await call('stop', [open, shares]);
    server.close();
  }
});

test('fetch-rootfs.ts ls --json prints what its page lists', async () => {
  compare('fetch-rootfs', tables('fetch-rootfs')[0], [JSON.parse(await json('fetch-rootfs', 'ls'))]);
});

test('logs.ts --status --json prints what its page lists', container, async () => {
  const printed = await until('the OOM kill', async () => {
    const object = JSON.parse(await json('logs', '--status', running.name));
    return object.oomKills?.process && object;
  });
  compare('logs', tables('logs')[0], [printed]);
});

test('limit-*.ts --json prints what their pages list', container, async () => {
  const { name } = running;
  const soft = cgroupVersion === 2 ? ['--high', '25M', '--oom-group'] : [];
  const change = JSON.parse(await json('limit-memory', ...soft, '--reserve', '10M', name, '30M'));
  compare('limit-memory', tables('limit-memory')[0], [change]);
  const cpu = JSON.parse(
    await json('limit-cpu', '--weight', '50', '--cpuset', '0', '--cpuset-mems', '0', name, '0.5'),
  );
  compare('limit-cpu', tables('limit-cpu')[0], [cpu]);
  compare('limit-pids', tables('limit-pids')[0], [JSON.parse(await json('limit-pids', name, '50'))]);
});

test('check-host.ts --json prints what its page lists', async () => {
  const { stdout } = await call('check-host', ['--json']);
  compare('check-host', tables('check-host')[0], [JSON.parse(stdout)]);
});

/** Whether a limit on the root directory's disk is possible: it may lie on a file system without one. */
const hasDisk = attempt(() => findDisk('/')) !== undefined;

test('limit-io.ts --json prints what its page lists', { skip: container.skip || !hasDisk }, async () => {
  const rates = ['--read-bps', '9M', '--write-bps', '9M', '--read-iops', '99', '--write-iops', '99'];
  compare('limit-io', tables('limit-io')[0], [
    JSON.parse(await json('limit-io', ...rates, running.name, '/')),
  ]);
});

test('limit-memory.ts --watch --json prints what its page lists', container, async () => {
  const { name } = running;
  const watch = spawn(script('limit-memory'), ['--watch', '--json', name], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const stdout = text(watch.stdout);
  await once(watch.stderr, 'data'); // it says that it watches
  await call('exec', [name, '/bin/sh', '-c', 'head -c 60M /dev/zero | tail']);
  await call('stop', [name]);
  const lines = (await stdout).trim().split('\n');
  compare(
    'limit-memory',
    tables('limit-memory')[1],
    lines.map((line) => JSON.parse(line)),
  );
});

test('pack-rootfs.ts --json prints what its page lists', container, async () => {
  const tree = join(folder, 'tree');
  mkdirSync(tree);
  const made = [[join(folder, 'tree.tar')], ['--oci', join(folder, 'layout')]].map(async (out) =>
    JSON.parse((await call('pack-rootfs', ['--json', tree, ...out])).stdout),
  );
  compare('pack-rootfs', tables('pack-rootfs')[0], await Promise.all(made));
});

test('network.ts ls --json prints what its page lists', {
  skip: container.skip || needs('ip', 'nft'),
}, async () => {
  const name = newName();
  const words = [
    '-d',
    '--name',
    name,
    '--network',
    'bridge',
    '-p',
    `127.0.0.1:${20000 + (process.pid % 10000)}:80`,
    rootfs,
    'sleep',
    '100',
  ];
  const { code, stderr } = await call('run', words);
  assert.equal(code, 0, stderr);
  try {
    const all = JSON.parse((await call('network', ['ls', '--json'])).stdout) as { name: string }[];
    compare(
      'network',
      tables('network')[0],
      all.filter((one) => one.name === name),
    );
  } finally {
    await call('stop', [name]);
  }
});
