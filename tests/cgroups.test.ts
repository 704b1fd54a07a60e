import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  cgroupDirectory,
  cgroupPath,
  findHierarchy,
  type Hierarchy,
  parseHierarchies,
  readHierarchies,
} from '../scripts/helpers/cgroups.ts';
import { unescapeMountinfo } from '../scripts/helpers/mounts.ts';
import { perform } from '../scripts/helpers/steps.ts';
import { memoryFiles, readBytes } from '../scripts/limit/table.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';

const folder = scratchFolder('cgroup');

// /proc/self/mountinfo, as it is on hosts of each kind
const v2 = `22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`;
const v1 = `31 22 0:25 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
33 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
34 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:12 - cgroup cgroup rw,cpu,cpuacct
35 31 0:30 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime - cgroup cgroup rw,release_agent=/sbin/agent,memory
36 31 0:31 / /sys/fs/cgroup/cpuset rw,nosuid,nodev,noexec,relatime - cgroup cgroup rw,cpuset,noprefix,clone_children
`;
const hybrid = `${v1}32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
`;
// in a container without a cgroup namespace of its own, v1's mounts show a part of the tree
const container = `735 733 0:30 /docker/0123 /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:14 - cgroup cgroup rw,memory
736 733 0:26 /system.slice/docker-0123.scope /sys/fs/cgroup/uni\\040fied ro,relatime - cgroup2 cgroup rw
`;

const [unified] = parseHierarchies(v2) as [Hierarchy];

test('a host with cgroup v2 has one hierarchy', () => {
  assert.deepEqual(parseHierarchies(v2), [
    { version: 2, controllers: [], mountPoint: '/sys/fs/cgroup', root: '/' },
  ]);
});

test('a host with cgroup v1 has one for each set of controllers, whatever else was said in mounting it', () => {
  assert.deepEqual(
    parseHierarchies(v1).map(({ version, controllers, mountPoint }) => [version, controllers, mountPoint]),
    [
      [1, ['name=systemd'], '/sys/fs/cgroup/systemd'],
      [1, ['cpu', 'cpuacct'], '/sys/fs/cgroup/cpu,cpuacct'],
      [1, ['memory'], '/sys/fs/cgroup/memory'],
      [1, ['cpuset'], '/sys/fs/cgroup/cpuset'],
    ],
  );
});

test('a hybrid host has both', () => {
  assert.deepEqual(
    parseHierarchies(hybrid).map(({ version }) => version),
    [1, 1, 1, 1, 2],
  );
});

test('of two mounts of one hierarchy the first is taken', () => {
  const twice = `${hybrid}${hybrid.replaceAll('/sys/fs/cgroup', '/srv/root/sys/fs/cgroup')}`;
  assert.deepEqual(parseHierarchies(twice), parseHierarchies(hybrid));
});

test('a host without cgroups has none', () => {
  assert.deepEqual(parseHierarchies(''), []);
  assert.equal(findHierarchy([], 'memory'), undefined);
});

test('a controller is limited where it is mounted: v1 before an empty v2', () => {
  assert.equal(findHierarchy(parseHierarchies(hybrid), 'memory')?.mountPoint, '/sys/fs/cgroup/memory');
  assert.equal(findHierarchy(parseHierarchies(v1), 'cpuacct')?.mountPoint, '/sys/fs/cgroup/cpu,cpuacct');
  assert.equal(findHierarchy(parseHierarchies(v1), 'pids'), undefined);
});

test('v2 limits the controllers that it offers', () => {
  const offers = (list: string) => {
    writeFileSync(join(folder, 'cgroup.controllers'), list);
    return [{ ...unified, mountPoint: folder }];
  };
  assert.equal(findHierarchy(offers('cpuset cpu io memory pids\n'), 'memory')?.mountPoint, folder);
  assert.equal(findHierarchy(offers('cpuset cpu io pids\n'), 'memory'), undefined);
  assert.equal(findHierarchy(offers('\n'), 'memory'), undefined);
});

test("a process's cgroup is looked up for each hierarchy by itself", () => {
  const procCgroup = `9:name=systemd:/init.scope
4:memory:/user.slice/a:b c
2:cpu,cpuacct:/
0::/unified/x
`;
  const path = (controllers: string[]) =>
    cgroupPath(procCgroup, { version: controllers.length ? 1 : 2, controllers, mountPoint: '/x', root: '/' });
  assert.equal(path(['memory']), '/user.slice/a:b c');
  assert.equal(path(['cpu', 'cpuacct']), '/');
  assert.equal(path(['name=systemd']), '/init.scope');
  assert.equal(path([]), '/unified/x');
  assert.equal(path(['cpu']), undefined);
  assert.equal(path(['pids']), undefined);
});

test('a cgroup is a directory below the mount point, if what is mounted holds it', () => {
  assert.equal(cgroupDirectory(unified, '/a/b'), '/sys/fs/cgroup/a/b');
  assert.equal(cgroupDirectory(unified, '/'), '/sys/fs/cgroup/');
  assert.equal(cgroupDirectory(unified, '/../outside'), undefined);
  const [memory, part] = parseHierarchies(container) as [Hierarchy, Hierarchy];
  assert.equal(cgroupDirectory(memory, '/docker/0123'), '/sys/fs/cgroup/memory');
  assert.equal(cgroupDirectory(memory, '/docker/0123/a'), '/sys/fs/cgroup/memory/a');
  assert.equal(cgroupDirectory(memory, '/docker/01234'), undefined);
  assert.equal(cgroupDirectory(memory, '/'), undefined);
  assert.equal(cgroupDirectory(part, '/system.slice/docker-0123.scope/x'), '/sys/fs/cgroup/uni fied/x');
});

test('octal escapes of mountinfo are undone, once', () => {
  assert.equal(unescapeMountinfo('/a\\040b\\011c\\012d\\134040e'), '/a b\tc\nd\\040e');
  assert.equal(unescapeMountinfo('/ünïcödé/\\x'), '/ünïcödé/\\x');
});

test('no limit is told from a large one', () => {
  const file = join(folder, 'limit');
  const read = (text: string) => {
    writeFileSync(file, text);
    return readBytes(file);
  };
  assert.equal(read('104857600\n'), 104_857_600);
  assert.equal(read('0\n'), 0);
  assert.equal(read('max\n'), null);
  assert.equal(read('9223372036854771712\n'), null);
  assert.equal(readBytes(join(folder, 'missing')), undefined);
});

test("on this host, this process is in a directory of every hierarchy, and memory's files are there", () => {
  const procCgroup = readFileSync('/proc/self/cgroup', 'utf8');
  const hierarchies = readHierarchies();
  const mounted = execFileSync('findmnt', ['-rno', 'TARGET', '-t', 'cgroup,cgroup2'], { encoding: 'utf8' });
  for (const hierarchy of hierarchies) {
    assert(mounted.split('\n').includes(hierarchy.mountPoint));
    const directory = cgroupDirectory(hierarchy, cgroupPath(procCgroup, hierarchy) as string);
    const inside = readFileSync(join(directory as string, 'cgroup.procs'), 'utf8').split('\n');
    assert(inside.includes(String(process.pid)), `${process.pid} is not in ${directory}`);
  }
  const memory = findHierarchy(hierarchies, 'memory');
  if (!memory) return;
  const path = cgroupPath(procCgroup, memory) as string;
  // the root of v2 is never limited, so it has no such file
  if (path === '/' && memory.version === 2) return;
  const directory = cgroupDirectory(memory, path) as string;
  assert.notEqual(readBytes(join(directory, memoryFiles[memory.version].usage)), undefined);
  assert.notEqual(readBytes(join(directory, memoryFiles[memory.version].limit)), undefined);
});

test('a limit for the number or depth of cgroups is named with its file, and what lifts it', {
  skip:
    needs('root', 'cgroup') ||
    (readHierarchies().some(({ version }) => version === 2) ? false : 'needs cgroup v2'),
}, async () => {
  const { mountPoint = '' } = readHierarchies().find(({ version }) => version === 2) ?? {};
  const top = join(mountPoint, `test-full-${process.pid}`);
  const below = ['one', 'one/two', 'three'].map((name) => join(top, name));
  const [one = '', two = '', three = ''] = below;
  for (const directory of [top, one]) mkdirSync(directory);
  try {
    for (const [file, limit, refused, words] of [
      ['cgroup.max.descendants', '1', three, 'cgroups below it'],
      ['cgroup.max.depth', '1', two, 'levels of cgroups below it'],
    ] as const) {
      const path = join(top, file);
      writeFileSync(path, limit);
      await assert.rejects(perform([{ mkdir: refused }]), {
        message: `cannot make the directory ${refused}: ${path} allows only 1 ${words}: echo max >${path}`,
      });
      writeFileSync(path, 'max');
      await perform([{ mkdir: refused }]);
    }
  } finally {
    for (const directory of [three, two, one, top]) rmdirSync(directory);
  }
});
