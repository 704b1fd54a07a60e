// Facts about this host that a launch depends on: devices, paths in /proc and /sys, mounts, programs, seccomp loaders.
import { existsSync, realpathSync, statSync } from 'node:fs';
import { Failure, UsageError } from '../helpers/cli.ts';
import { isBelow, type Mount, mountOf } from '../helpers/mounts.ts';
import { attempt } from '../helpers/pids.ts';
import { type SeccompLoader, seccompLoader, seccompRules } from '../helpers/seccomp/seccomp.ts';
import { findInPath, findProgram } from '../helpers/shell.ts';
import { type Launch, needsNotes } from './container.ts';
import type { FoundVolume, Volume } from './furnish.ts';

/** Paths that runc masks by default, and paths that it makes read-only by default. */
const maskedPaths =
  `/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/scsi
  /proc/timer_list /proc/timer_stats /proc/sched_debug /sys/firmware /sys/devices/virtual/powercap`.split(
    /\s+/,
  );
const readOnlyPaths = '/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger'.split(' ');

/** Devices that are copied from the host's /dev, and their numbers, major * 256 + minor: the kernel's devices.txt. */
const deviceNumbers = { null: 0x103, zero: 0x105, full: 0x107, random: 0x108, urandom: 0x109, tty: 0x500 };

const isFolder = (path: string) => statSync(path).isDirectory();

/** Reads facts about this host, whose mounts are `mounts`. Throws Failure if a device in /dev has a wrong number. */
export function readHost(
  mounts: Mount[],
  environment: string[],
  preserved: number,
): Pick<Launch, 'masked' | 'sysMounts' | 'hasIp' | 'chroot' | 'shell'> {
  for (const [name, rdev] of Object.entries(deviceNumbers)) {
    const stat = statSync(`/dev/${name}`, { throwIfNoEntry: false });
    if (!stat?.isCharacterDevice() || stat.rdev !== rdev)
      throw new Failure(
        `/dev/${name} of this host is not the device ${rdev >> 8}:${rdev & 255}: rm /dev/${name}; mknod -m 666 /dev/${name} c ${rdev >> 8} ${rdev & 255}`,
      );
  }
  const there = maskedPaths.filter((path) => existsSync(path));
  return {
    masked: {
      files: there.filter((path) => !isFolder(path)),
      folders: there.filter(isFolder),
      readOnly: readOnlyPaths.filter((path) => existsSync(path)),
    },
    sysMounts: mounts.flatMap(({ mountPoint }) =>
      mountPoint.startsWith('/sys/') ? mountPoint.slice('/sys'.length) : [],
    ),
    hasIp: findInPath('ip') !== undefined,
    chroot: findInPath('chroot') ?? '/usr/sbin/chroot',
    // dash removes variables such as discovery.type, whose names are no identifiers, and can't move descriptors above 9
    shell:
      preserved === 0 && environment.every((variable) => /^\w+=/.test(variable))
        ? '/bin/sh'
        : (findInPath('bash') ?? '/bin/bash'),
  };
}

/**
 * The masked paths, with those of --security-opt mask= and without those of unmask=. Throws UsageError for a path that
 * can't be masked, or is not.
 */
export function changeMasks(masked: Launch['masked'], mask: string[], unmask: string[]): Launch['masked'] {
  const { files, folders, readOnly } = masked;
  for (const path of unmask)
    if (path !== 'ALL' && ![...maskedPaths, ...readOnlyPaths].includes(path))
      throw new UsageError(
        `--security-opt unmask: ${path} is not masked: ALL, or one of ${[...maskedPaths, ...readOnlyPaths].join(', ')}`,
      );
  for (const path of mask) {
    const real = attempt(() => realpathSync(path));
    if (real === path && !/^\/proc\/\d/.test(path)) continue;
    throw new UsageError(
      `--security-opt mask: ${path} ${real ? `is a link, to ${real}, or of a single process: give a path without links` : 'does not exist on this host'}`,
    );
  }
  const stays = (path: string) => !unmask.includes('ALL') && !unmask.includes(path) && !mask.includes(path);
  return {
    files: [...files.filter(stays), ...mask.filter((path) => !isFolder(path))],
    folders: [...folders.filter(stays), ...mask.filter(isFolder)],
    readOnly: readOnly.filter(stays),
  };
}

/** Options that a bind mount has to keep: a remount in a user namespace can't clear them, mount_namespaces(7). */
const keptOptions = (options: string[]) =>
  options.filter((option) => ['ro', 'nosuid', 'nodev', 'noexec'].includes(option));

/** Those of the mount that a path lies on. */
export const mountFlags = (mounts: Mount[], path: string): string[] =>
  keptOptions(mountOf(path, mounts)?.options ?? []);

/** Finds the mounts at and below the source of each volume. The source itself is the first. */
export function findVolumes(mounts: Mount[], volumes: Volume[]): FoundVolume[] {
  return volumes.map((volume) => {
    const { source } = volume;
    const around = mountOf(source, mounts);
    if (volume.receives && !around?.receives)
      throw new UsageError(
        `--volume: rslave: ${around?.mountPoint ?? source} is a private mount, so nothing that is mounted below ${source} later can come in: mount --make-rshared ${around?.mountPoint ?? source}`,
      );
    const submounts = mounts
      .filter(({ mountPoint }) => mountPoint !== source && isBelow(mountPoint, source))
      .map(({ mountPoint, options }) => ({
        path: mountPoint.slice(source === '/' ? 0 : source.length),
        options: keptOptions(options),
      }));
    return {
      ...volume,
      isDirectory: statSync(source).isDirectory(),
      mountPoints: [{ path: '', options: keptOptions(around?.options ?? []) }, ...submounts],
    };
  });
}

/** The host's programs that a launch requires. Programs that it uses only if they are present are not in the list. */
export function launchPrograms(launch: Launch): string[] {
  const { isolate, limits, userNamespace, cgroups, detached, terminal, preserved } = launch;
  return [
    'unshare nsenter mount setpriv env',
    detached ? 'mkfifo stdbuf head stat mv rm cat' : terminal ? 'script' : '',
    isolate.has('mount') ? 'pivot_root umount' : 'chroot',
    userNamespace ? '' : 'cp',
    (cgroups?.lock || needsNotes(launch)) && 'flock',
    limits.length > 0 && 'prlimit',
    preserved > 0 && 'bash',
  ].flatMap((words) => (words ? words.split(' ') : []));
}

/**
 * The program of this host that loads the seccomp filter for a container with these capabilities. If there is none,
 * prints a warning, and the container runs without a filter. `bySetpriv`: setpriv(1) may load the filter, from a file;
 * it sets no_new_privs too.
 */
export function planSeccomp(capabilities: string[], bySetpriv: boolean): SeccompLoader | undefined {
  const rules = seccompRules(process.arch, capabilities);
  // findProgram ignores PATH, where python3 may be a wrapper that reads files of the working directory
  const loader =
    rules &&
    // perl and python come first, as setpriv(1) needs an open descriptor
    (seccompLoader(process.arch, rules, findProgram) ??
      (bySetpriv ? seccompLoader(process.arch, rules, findProgram, '/proc/self/fd/6') : undefined));
  if (!loader)
    console.error(
      `run: no seccomp filter: ${rules ? 'that needs perl, python3 or util-linux 2.41' : `there is none for ${process.arch}`}`,
    );
  return loader;
}
