import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { findDisk } from '../scripts/limit/disk.ts';
import { readLimit } from '../scripts/limit/table.ts';
import { container, start } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { call, execute, script, until } from './helpers/script.ts';
import { cgroupIn, hierarchyOf, lacks, lastTree, startTree, succeed } from './helpers/trees.ts';

const io = hierarchyOf('io');
const folder = scratchFolder('io');
const run = (...argv: string[]) =>
  execFileSync(argv[0] as string, argv.slice(1), { encoding: 'utf8' }).trim();

/** A disk of our own: a loop device on a file. undefined: this machine has none. */
let disk = '';
before(() => {
  if (needs('root', 'losetup')) return;
  try {
    run('truncate', '-s', '16M', join(folder, 'disk'));
    disk = run('losetup', '--find', '--show', join(folder, 'disk'));
  } catch {}
});
after(() => {
  if (disk) run('losetup', '--detach', disk);
});
const skip = container.skip || lacks('io') || needs('losetup');

const number = (path: string) => {
  const { rdev } = statSync(path);
  return `${(rdev >> 8) & 0xfff}:${rdev & 0xff}`;
};

test('wrong usage ends with 2 and a clear line, a path without a disk with 1', {
  skip: needs('speed'),
}, async () => {
  for (const [words, expected, exitCode] of [
    [['web'], /DEVICE or PATH is missing/, 2],
    [['web', '/'], /one of --read-bps, .* is missing/, 2],
    [['web', '/', '--read-bps', 'fast'], /not a size/, 2],
    [['web', '/', '--read-iops', '0'], /--read-iops is a whole number/, 2],
    [['--reset', 'web', '/'], /--reset takes neither a DEVICE/, 2],
    [
      ['web', '/proc', '--read-bps', '1M'],
      /\/proc is on proc, which has no disk of its own: name the device/,
      1,
    ],
    [['web', '/dev/null', '--read-bps', '1M'], /\/dev\/null is a character device/, 1],
    [['web', '/no/such', '--read-bps', '1M'], /there is no \/no\/such: name a device/, 1],
  ] as [string[], RegExp, number][]) {
    const { code, stderr, stdout } = await call('limit-io', words);
    assert.match(stderr, expected);
    assert.deepEqual([code, stdout], [exitCode, '']);
  }
});

test('a partition is limited as its disk, an overlay as what is written to', {
  skip: skip || needs('mkfs.ext4'),
}, async (t) => {
  if (!disk) return t.skip('needs a loop device');
  assert.deepEqual(findDisk(disk), { device: number(disk), name: disk.slice('/dev/'.length), type: '' });
  run('mkfs.ext4', '-q', disk);
  const program = `
    mount -t tmpfs none ${folder} && cd ${folder} && mkdir disk merged lower && mount ${disk} disk && mkdir disk/upper disk/work
    mount -t overlay none -o lowerdir=lower,upperdir=${folder}/disk/upper,workdir=${folder}/disk/work merged
    for path in disk disk/upper merged; do ${process.execPath} ${script('limit-io')} --dry-run $$ "$path" --read-bps 1M; done
    ! ${process.execPath} ${script('limit-io')} --dry-run $$ ${folder} --read-bps 1M`;
  const { code, stdout, stderr } = await execute(['unshare', '--mount', 'sh', '-euc', program]);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.split(`${number(disk)} `).length - 1, 3, stdout);
  assert.match(stderr, /is on tmpfs, which has no disk of its own: it is in memory/);
});

test('a whole disk stands for its partition', { skip }, (t) => {
  const partition = run(
    'sh',
    '-c',
    'for p in /sys/class/block/*/partition; do [ ! -e "$p" ] || echo "$p"; done',
  ).split('\n')[0];
  if (!partition) return t.skip('needs a disk with partitions');
  const [, name = ''] = /block\/([^/]+)\/partition$/.exec(partition) ?? [];
  assert.notEqual(findDisk(`/dev/${name}`).name, name);
});

test('direct reading and writing is held to its rate', { skip }, async (t) => {
  if (!disk) return t.skip('needs a loop device');
  const device = number(disk);
  const dd = (words: string) => `dd ${words} 2>/dev/null; echo done`;
  for (const [limit, command, seconds] of [
    [['--write-bps', '1M'], `if=/dev/zero of=${disk} bs=64k count=20 oflag=direct`, 1.2],
    [['--read-bps', '2M'], `if=${disk} of=/dev/null bs=64k count=40 iflag=direct`, 1.2],
    [['--read-iops', '20'], `if=${disk} of=/dev/null bs=4k count=24 iflag=direct`, 1.2],
  ] as [string[], string, number][]) {
    const pid = await startTree(`echo complete; read -r _; ${dd(command)}; sleep 100`, 'pipe');
    const { stdout } = await succeed('limit-io', String(pid), disk, ...limit);
    assert.match(
      stdout,
      new RegExp(`${device} (read|write|reads/s) none -> .*; ${device} is loop\\d+\n1 process`),
    );
    const shell = lastTree();
    const began = performance.now();
    let said = '';
    shell?.stdout?.on('data', (data) => {
      said += data;
    });
    shell?.stdin?.end('go\n');
    await until('dd to end', () => said.includes('done'));
    const took = (performance.now() - began) / 1000;
    assert.ok(took > seconds * 0.6, `${limit}: ${took} s`);
    await succeed('limit-io', '--reset', String(pid));
  }
});

test('limits of several disks stand beside each other, and all are lifted', { skip }, async (t) => {
  if (!disk) return t.skip('needs a loop device');
  const pid = await startTree('echo complete; sleep 100; true');
  const origin = cgroupIn(io, pid);
  const { stderr } = await succeed('limit-io', String(pid), disk, '--write-bps', '3M', '--read-iops', '70');
  if (io.version === 1) assert.match(stderr, /v1 does not throttle buffered writes/);
  const read = (limit: 'writeBps' | 'readIops') => readLimit(limit, io.version, cgroupIn(io, pid));
  assert.deepEqual(read('writeBps'), [
    { limit: 'writeBps', device: number(disk), text: String(3 * 1024 * 1024) },
  ]);
  const { stdout } = await succeed('limit-io', '--json', String(pid), disk, '--read-iops', '80');
  assert.deepEqual(JSON.parse(stdout)[number(disk)], { readIops: 80 });
  assert.deepEqual(read('readIops')[0]?.text, '80');
  assert.equal(read('writeBps').length, 1);
  const reset = await succeed('limit-io', '--reset', String(pid));
  assert.match(reset.stdout, /write 3 MiB\/s -> none.*reads\/s 80 -> none/);
  assert.equal(cgroupIn(io, pid), origin);
});

test('--reset puts back the rates that a container was started with', { skip }, async (t) => {
  if (!disk) return t.skip('needs a loop device');
  const { name, first } = await start(
    ['--device-write-bps', `${disk}:3M`, '--device-read-iops', `${disk}:70`],
    ['sleep', '100'],
  );
  const read = () =>
    (['readBps', 'writeBps', 'readIops'] as const).flatMap((limit) =>
      readLimit(limit, io.version, cgroupIn(io, first)),
    );
  const started = read();
  assert.equal(started.length, 2);
  await succeed('limit-io', name, disk, '--write-bps', '1M', '--read-bps', '2M');
  assert.match(
    (await succeed('limit-io', '--reset', name)).stdout,
    /read 2 MiB\/s -> none; .*write 1 MiB\/s -> 3 MiB\/s/,
  );
  assert.deepEqual(read(), started);
});

test('a container is limited by its name, and let go', { skip }, async (t) => {
  if (!disk) return t.skip('needs a loop device');
  const { name } = await start([], ['sleep', '100']);
  const directory = join(io.mountPoint, 'barehand', name);
  await succeed('limit-io', name, disk, '--read-bps', '1M');
  assert.equal(readLimit('readBps', io.version, directory)[0]?.text, String(1024 * 1024));
  await succeed('limit-io', '--reset', name);
  assert.deepEqual(readLimit('readBps', io.version, directory), []);
  assert.ok(!readFileSync('/proc/mounts', 'utf8').includes(folder));
});
