// Where cgroups can't be made, or only some: run.ts says why in one line, and leaves nothing behind.
import assert from 'node:assert/strict';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { readHierarchies } from '../scripts/helpers/cgroups.ts';
import { container, newName } from './helpers/container.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { become, execute, rootfs, script, top } from './helpers/script.ts';
import { enable, hierarchyOf, lacks, makeCgroup, startTree } from './helpers/trees.ts';

const folder = scratchFolder('cgroups', 0o755);

/** Starts a container where a program in shell has changed what is mounted; returns what run.ts says. */
async function runWhere(program: string, options: string[] = [], name = newName()) {
  const { code, stdout, stderr } = await execute([
    ...['unshare', '--mount', 'sh', '-euc', `${program}\nexec "$@"`, 'sh'],
    ...[process.execPath, '--', script('run'), '--name', name, ...options, rootfs, 'true'],
  ]);
  const left = readHierarchies().filter(({ mountPoint }) => existsSync(join(mountPoint, 'barehand', name)));
  assert.deepEqual([stdout, left], ['', []]);
  assert.equal(code, 125, stderr);
  assert.match(stderr, /^run: [^\n]+\n$/);
  return stderr;
}

const mountPoints = readHierarchies().map(({ mountPoint }) => mountPoint);

test('cgroups that are read-only: one line that says so, and what to do', {
  skip: container.skip,
}, async () => {
  const readOnly = (points: string[]) =>
    points.map((point) => `mount -o remount,bind,ro ${point}`).join('\n');
  const said = await runWhere(readOnly(mountPoints));
  assert.match(said, /cannot make cgroups in \S+: EROFS: read-only file system: .*--privileged/);
  assert.ok(said.includes(mountPoints[0] as string), said);
  // of several hierarchies the one that it is about is named, whichever it is
  for (const point of mountPoints.length > 1 ? [mountPoints[0], mountPoints.at(-1)] : [])
    assert.match(
      await runWhere(readOnly([point as string])),
      new RegExp(`cannot make cgroups in ${point}: EROFS`),
    );
});

test('no cgroup file system at all is told from one that cannot be mounted', {
  skip: container.skip,
}, async () => {
  const none = `umount -l ${mountPoints.join(' ')}`;
  assert.match(await runWhere(none), /no cgroup hierarchy is mounted .*: mount -t cgroup2/);
  const said = await runWhere(`${none}\nset -- setpriv --inh-caps=-all --bounding-set=-sys_admin "$@"`);
  assert.match(said, /CAP_SYS_ADMIN/);
  assert.doesNotMatch(said, /mount -t/);
});

test('root without CAP_SYS_ADMIN is told that, where cgroups are mounted too', {
  skip: container.skip,
}, async () => {
  const said = await runWhere('set -- setpriv --inh-caps=-all --bounding-set=-sys_admin "$@"');
  assert.match(said, /needs CAP_SYS_ADMIN, .*--cap-add SYS_ADMIN|--privileged/);
});

test('in a default container of its own run.ts says what that lacks', {
  skip: container.skip || needs('speed'),
}, async () => {
  // the host's node, and its libraries
  const program = ['/mnt/node', '/srv/dist/run.mjs', '/srv/rootfs/host', 'true'];
  const volumes = [`${top}:/srv:ro`, '/usr:/usr:ro', `${process.execPath}:/mnt/node:ro`];
  const { code, stderr, stdout } = await execute([
    ...[process.execPath, '--', script('run'), '--name', newName(), '--ephemeral'],
    ...[...volumes.flatMap((volume) => ['-v', volume]), rootfs, ...program],
  ]);
  assert.equal(code, 125, stderr);
  assert.equal(stdout, '');
  assert.match(stderr, /^run: [^\n]*CAP_SYS_ADMIN[^\n]*\n$/);
});

const pids = hierarchyOf('pids');

/** A cgroup that a user may make others in, as systemd delegates one. */
function delegate(uid: number): string {
  enable(pids, pids.mountPoint, 'pids');
  const directory = makeCgroup(pids, newName());
  for (const file of ['', 'cgroup.procs', 'cgroup.subtree_control'])
    if (existsSync(join(directory, file))) chownSync(join(directory, file), uid, uid);
  return directory;
}

test("a delegated cgroup that the caller's shell is in: used, or told what to type, and then used", {
  skip: container.skip || lacks('pids') || needs('user-namespaces'),
}, async () => {
  const uid = 65_532;
  const mine = delegate(uid);
  const own = join(folder, 'own');
  mkdirSync(own, { mode: 0o700 });
  await execute(['cp', '-a', rootfs, join(own, 'root')]);
  await execute(['chown', '-R', `${uid}:${uid}`, own]);
  const program = 'for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 5 & done; echo all';
  const run = `${process.execPath} -- ${script('run')} --pids-limit 10 ${join(own, 'root')} sh -c '${program}'`;
  // a shell in the cgroup starts run.ts; in v2 it does what that says, and starts it again
  const said = join(own, 'said');
  const obey = `said=$(cat ${said}); eval "\${said##*: }"; ${run} 2>&1 >/dev/null`;
  const shell = `${run} 2>${said} >/dev/null; cat ${said}; ${pids.version === 2 ? obey : ':'}`;
  const { stdout } = await execute([
    ...['sh', '-c', `echo $$ >${mine}/cgroup.procs; exec "$@"`, 'sh', ...become(uid, own), 'sh', '-c', shell],
  ]);
  await execute(['rmdir', join(mine, 'shell')]);
  if (pids.version === 2) {
    const [first = '', ...more] = stdout.split('\n');
    assert.ok(first.startsWith(`run: cannot limit a container: ${mine} is delegated to you, but sh (PID `));
    assert.ok(first.endsWith(`: mkdir -p ${mine}/shell && echo $$ > ${mine}/shell/cgroup.procs`), first);
    assert.match(more.join('\n'), /[Cc]annot fork/);
  } else assert.match(stdout, /[Cc]annot fork/);
});

test('root in a cgroup namespace whose root has processes is told what to type, and then it works', {
  skip: container.skip || needs('cgroup-v2'),
}, async () => {
  const outer = makeCgroup(pids, newName());
  const said = join(folder, 'said');
  const run = `${process.execPath} -- ${script('run')} ${rootfs} cat /proc/1/cgroup`;
  const inner = `umount -l ${pids.mountPoint}; mount -t cgroup2 cgroup2 ${pids.mountPoint}; ${run} 2>${said}; said=$(cat ${said}); eval "\${said##*: }"; ${run}`;
  const { stdout, stderr } = await execute([
    ...['sh', '-c', `echo $$ >${outer}/cgroup.procs; exec "$@"`, 'sh', 'unshare', '--mount', '--cgroup'],
    ...['sh', '-c', inner],
  ]);
  await execute(['rmdir', join(outer, 'init')]);
  assert.deepEqual([stdout, stderr], ['0::/\n', '']);
  assert.match(
    readFileSync(said, 'utf8'),
    /^run: cannot make cgroups in \S+: processes are in it, [^\n]+\n$/,
  );
});

test('limit-pids.ts, too, says what to type where a shell is in the delegated cgroup', {
  skip: container.skip || lacks('pids') || needs('cgroup-v2'),
}, async () => {
  const uid = 65_531;
  const mine = delegate(uid);
  const runtime = join(folder, 'runtime');
  mkdirSync(runtime, { mode: 0o700 });
  chownSync(runtime, uid, uid);
  const become_ = `setpriv --reuid=${uid} --regid=${uid} --clear-groups`;
  const join_ = `echo $$ >${mine}/cgroup.procs; exec ${become_}`;
  const shell = await startTree(`${join_} sh -c 'echo complete; sleep 100; true'`);
  const pid = await startTree(`${join_} sh -c 'echo complete; sleep 100; true'`);
  const limit = () =>
    execute([...become(uid, runtime), process.execPath, '--', script('limit-pids'), String(pid), '20']);
  const { code, stderr } = await limit();
  assert.equal(code, 1);
  const command = /: (mkdir .*)\n$/.exec(stderr)?.[1];
  assert.ok(command?.includes(String(shell)), stderr);
  // what it says is right: done by that user, it leads to the limit
  const said = await execute([...become(uid), 'sh', '-c', command as string]);
  assert.equal(said.stderr, '');
  const now = await limit();
  assert.equal(now.code, 0, now.stderr);
  const reset = await execute([
    ...[...become(uid, runtime), process.execPath, '--', script('limit-pids'), '--reset', String(pid)],
  ]);
  assert.equal(reset.code, 0, reset.stderr);
  const left = readFileSync(join(mine, 'shell/cgroup.procs'), 'utf8').split('\n').filter(Boolean);
  for (const one of left) writeFileSync(join(pids.mountPoint, 'cgroup.procs'), one);
  await execute(['rmdir', join(mine, 'shell')]);
});

test('a delegated cgroup without the controller is told as that', {
  skip: container.skip || lacks('pids') || needs('cgroup-v2', 'user-namespaces'),
}, async () => {
  const uid = 65_530;
  enable(pids, pids.mountPoint, 'pids');
  const above = makeCgroup(pids, newName());
  enable(pids, above, 'pids'); // and nothing else
  const mine = makeCgroup(pids, `${basename(above)}/mine`);
  for (const file of ['', 'cgroup.procs']) chownSync(join(mine, file), uid, uid);
  const { code, stderr } = await execute([
    ...['sh', '-c', `echo $$ >${mine}/cgroup.procs; exec "$@"`, 'sh', ...become(uid, folder)],
    ...[process.execPath, '--', script('run'), '--cpuset-cpus', '0', rootfs, 'true'],
  ]);
  assert.equal(code, 125);
  assert.match(stderr, /^run: .* is delegated to you without cpuset: .*systemctl edit user@.service .*\n$/);
  assert.deepEqual(
    readdirSync(mine).filter((name) => name === 'barehand'),
    [],
  );
});
