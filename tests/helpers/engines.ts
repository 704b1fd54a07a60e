// Containers of other engines, which last as long as a test looks at them.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cgroupDirectory, cgroupPath, cgroupsBelow, readHierarchies } from '../../scripts/helpers/cgroups.ts';
import { attempt } from '../../scripts/helpers/pids.ts';
import { findCommand, newSeconds } from './container.ts';
import { cgroupVersion } from './needs.ts';
import { execute, rootfs, until } from './script.ts';

/** By this, leftovers.ts knows what is a test's. Engines give a container an environment of its own. */
const mark = `BAREHAND_TEST=${process.env.BAREHAND_TEST}`;

/** Makes a bundle of what `runc spec` says, with the rootfs and a command; `linux` is added to that part of it. */
export async function makeBundle(bundle: string, args: string[], linux: object = {}): Promise<void> {
  mkdirSync(bundle);
  await execute(['runc', 'spec'], { cwd: bundle });
  const file = join(bundle, 'config.json');
  const config = JSON.parse(readFileSync(file, 'utf8'));
  Object.assign(config.process, { terminal: false, args });
  config.process.env.push(mark);
  config.root = { path: rootfs, readonly: true };
  Object.assign(config.linux, linux);
  writeFileSync(file, JSON.stringify(config));
}

/** Runs a bundle by runc or crun, and ends it when `look` has looked at its first process. */
export async function withRunc(
  bundle: string,
  id: string,
  look: (first: number) => Promise<void>,
  program: 'runc' | 'crun' = 'runc',
) {
  const { args } = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')).process as {
    args: string[];
  };
  const run = spawn(program, ['run', '--bundle', bundle, id], { stdio: 'ignore' });
  const end = once(run, 'exit');
  try {
    await look(
      await until('its first process', async () => {
        const { stdout } = await execute([program, 'state', id]);
        const pid = attempt(() => JSON.parse(stdout).pid as number);
        return pid !== undefined && findCommand(...args)?.pid === pid && pid;
      }),
    );
  } finally {
    await execute([program, 'kill', id, 'KILL']);
    await end;
    await execute([program, 'delete', '--force', id]);
  }
}

const commands = {
  bubblewrap: (_name: string) => [
    ...['bwrap', '--bind', rootfs, '/', '--proc', '/proc', '--dev', '/dev', '--unshare-pid'],
    '--die-with-parent',
  ],
  'systemd-nspawn': (name: string) => [
    ...['systemd-nspawn', '-q', '--register=no', '--keep-unit', `--setenv=${mark}`, '-M', name, '-D', rootfs],
  ],
};
export type Engine = keyof typeof commands;
export const engines = Object.keys(commands) as Engine[];
/** The program of an engine. */
export const programOf = (engine: Engine) => commands[engine]('')[0] as string;

/** Runs sleep(1) in a container of an engine, and ends it when `look` has looked at it. */
export async function withEngine(engine: Engine, name: string, look: (sleep: number) => Promise<void>) {
  const command = ['sleep', newSeconds()];
  // systemd-nspawn refuses a directory that another one uses, as in a test file that runs at the same time
  const alone = engine === 'systemd-nspawn' ? ['flock', '--no-fork', fileURLToPath(import.meta.url)] : [];
  const [program = '', ...words] = [...alone, ...commands[engine](name), ...command];
  // systemd-nspawn guesses from the rootfs which cgroup version the container needs, and misses the host's
  const env = { ...process.env, ...(cgroupVersion === 2 && { SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' }) };
  const child = spawn(program, words, { stdio: 'ignore', detached: true, env });
  const end = once(child, 'exit');
  const sleep = () => findCommand(...command);
  try {
    const isInside = () => (sleep()?.nsPids.length ?? 0) > 1 && sleep()?.pid;
    await look(await until('its sleep', isInside));
  } finally {
    // SIGKILL of systemd-nspawn would leave the container running
    child.kill('SIGTERM');
    await end;
    await until('its end', () => !sleep());
    removeCgroupsOfNspawn();
  }
}

/** Runs sleep(1) in a container of Podman on an overlay over the rootfs, and ends it when `look` has looked at it. */
export async function withPodman(name: string, words: string[], look: (sleep: number) => Promise<void>) {
  const command = ['sleep', newSeconds()];
  // where root may not raise its limits, Podman's defaults fail
  const limits = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024'];
  const podman = ['--runtime', 'runc', '--cgroup-manager', 'cgroupfs'];
  const options = [
    // Podman leaves the cgroup that its own are in: one of this name can be removed afterwards
    ...['--rm', '--cgroup-parent', `/${name}`, '--name', name, '--env', mark, '--network', 'host'],
    ...['--log-driver', 'none', ...limits, ...words, '--rootfs', `${rootfs}:O`],
  ];
  const child = spawn('podman', [...podman, 'run', ...options, ...command], { stdio: 'ignore' });
  const end = once(child, 'exit');
  try {
    await look(
      await until('its sleep', () => {
        if (child.exitCode !== null) throw new Error(`podman ended with ${child.exitCode}`);
        return findCommand(...command)?.pid;
      }),
    );
  } finally {
    await execute(['podman', ...podman, 'kill', '--signal', 'KILL', name]);
    await end;
    // conmon(8) ends a moment later
    const left = () => readHierarchies().filter(({ mountPoint }) => !removeCgroups(join(mountPoint, name)));
    await until('the end of its cgroups', () => left().length === 0);
  }
}

/** Removes a cgroup and those below it, as far as they have no processes. Returns whether it is gone. */
function removeCgroups(directory: string): boolean {
  for (const below of [directory, ...cgroupsBelow(directory)].reverse()) attempt(() => rmdirSync(below));
  return !existsSync(directory);
}

/** systemd-nspawn --keep-unit leaves these below the cgroup that it was started in. */
function removeCgroupsOfNspawn(): void {
  const own = readFileSync('/proc/self/cgroup', 'utf8');
  for (const hierarchy of readHierarchies()) {
    const directory = cgroupDirectory(hierarchy, cgroupPath(own, hierarchy) ?? '');
    for (const name of ['payload', 'supervisor'])
      if (directory && existsSync(join(directory, name)))
        // EBUSY while another test file has one there too, which removes it then
        attempt(() => rmdirSync(join(directory, name)));
  }
}
