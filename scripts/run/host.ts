// Facts about this host that a launch depends on: devices, what /proc and /sys hold, programs, how calls are filtered.
import { existsSync, statSync } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { mountOf, readMounts } from '../helpers/mounts.ts';
import { type SeccompLoader, seccompLoader, seccompRules } from '../helpers/seccomp/seccomp.ts';
import { findInPath, findProgram } from '../helpers/shell.ts';
import type { Launch } from './container.ts';
import type { FoundVolume, Volume } from './furnish.ts';

/** Paths under /proc and /sys that runc masks by default, and those that it makes read-only. */
const maskedPaths =
  `/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/scsi
  /proc/timer_list /proc/timer_stats /proc/sched_debug /sys/firmware /sys/devices/virtual/powercap`.split(
    /\s+/,
  );
const readOnlyPaths = '/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger'.split(' ');

/** Device numbers that files in the host's /dev must have before they are copied: major * 256 + minor, devices.txt. */
const deviceNumbers = { null: 0x103, zero: 0x105, full: 0x107, random: 0x108, urandom: 0x109, tty: 0x500 };

/** Facts about this host that a launch needs. Throws Failure if a device in /dev is not the one of its name. */
export function readHost(
  environment: string[],
): Pick<Launch, 'masked' | 'sysMounts' | 'hasIp' | 'chroot' | 'shell'> {
  for (const [name, rdev] of Object.entries(deviceNumbers)) {
    const stat = statSync(`/dev/${name}`, { throwIfNoEntry: false });
    if (!stat?.isCharacterDevice() || stat.rdev !== rdev)
      throw new Failure(
        `/dev/${name} of this host is not the device ${rdev >> 8}:${rdev & 255}: rm /dev/${name}; mknod -m 666 /dev/${name} c ${rdev >> 8} ${rdev & 255}`,
      );
  }
  const there = maskedPaths.filter((path) => existsSync(path));
  const isFolder = (path: string) => statSync(path).isDirectory();
  return {
    masked: {
      files: there.filter((path) => !isFolder(path)),
      folders: there.filter(isFolder),
      readOnly: readOnlyPaths.filter((path) => existsSync(path)),
    },
    sysMounts: readMounts('self').flatMap(({ mountPoint }) =>
      mountPoint.startsWith('/sys/') ? mountPoint.slice('/sys'.length) : [],
    ),
    hasIp: findInPath('ip') !== undefined,
    chroot: findInPath('chroot') ?? '/usr/sbin/chroot',
    // dash drops variables whose names are no identifiers, as discovery.type; bash keeps them
    shell: environment.every((variable) => /^\w+=/.test(variable))
      ? '/bin/sh'
      : (findInPath('bash') ?? '/bin/bash'),
  };
}

/** Options of a mount that a bind mount of it keeps: a user namespace may not clear them, mount_namespaces(7). */
const keptOptions = (options: string[]) =>
  options.filter((option) => ['ro', 'nosuid', 'nodev', 'noexec'].includes(option));

/** Options of the mount on this host that a path lies on. */
export const mountOptions = (path: string): string[] => mountOf(path, readMounts('self'))?.options ?? [];

/** Those of them that a bind mount keeps. */
export const mountFlags = (path: string): string[] => keptOptions(mountOptions(path));

/** Volumes, each with the mounts of this host at and below its source; the source itself is first. */
export function findVolumes(volumes: Volume[]): FoundVolume[] {
  const mounts = volumes.length > 0 ? readMounts('self') : [];
  return volumes.map((volume) => {
    const { source } = volume;
    const below = source === '/' ? '/' : `${source}/`;
    const inside = mounts.filter(({ mountPoint }) => mountPoint.startsWith(below) && mountPoint !== '/');
    const points = inside.map(({ mountPoint, options }) => ({
      path: mountPoint.slice(source === '/' ? 0 : source.length),
      options: keptOptions(options),
    }));
    return {
      ...volume,
      isDirectory: statSync(source).isDirectory(),
      mountPoints: [{ path: '', options: mountFlags(source) }, ...points],
    };
  });
}

/** Programs of this host that a launch needs; those that it uses only if present are not among them. */
export function launchPrograms(launch: Launch): string[] {
  const { isolate, limits, joins, userNamespace, cgroups, detached, stopSignal, terminal } = launch;
  return [
    'unshare nsenter mount setpriv env',
    detached ? 'mkfifo stdbuf head stat mv rm cat' : terminal ? 'script' : '',
    isolate.has('mount') ? 'pivot_root umount' : 'chroot',
    userNamespace ? '' : 'cp',
    (cgroups?.lock || detached || stopSignal) && 'flock',
    limits.length > 0 && 'prlimit',
    joins && 'nsenter',
  ].flatMap((words) => (words ? words.split(' ') : []));
}

/**
 * The loader of the seccomp filter on this host; without one, prints a warning, since the container runs all the same.
 * `bySetpriv`: setpriv(1) may load the filter, which it reads from a file; it then sets no_new_privs too.
 */
export function planSeccomp(kept: string[], bySetpriv: boolean): SeccompLoader | undefined {
  const rules = seccompRules(process.arch, kept);
  // not by PATH: a python3 in there may be a wrapper that looks into the working directory
  const loader =
    rules &&
    // what leaves no descriptor open comes first
    (seccompLoader(process.arch, rules, findProgram) ??
      (bySetpriv ? seccompLoader(process.arch, rules, findProgram, '/proc/self/fd/6') : undefined));
  if (!loader)
    console.error(
      `run: no seccomp filter: ${rules ? 'that needs perl, python3 or util-linux 2.41' : `there is none for ${process.arch}`}`,
    );
  return loader;
}
