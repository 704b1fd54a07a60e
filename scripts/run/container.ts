// The plan of a launch: options and facts about the host, from which all parts of the launch are made.

import type { SeccompLoader } from '../helpers/seccomp/seccomp.ts';
import { type Command, sh } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import type { Limits } from '../limit/table.ts';
import type { CgroupPlan } from './cgroups.ts';
import type { User } from './command.ts';
import type { Device, FoundVolume, Text, Tmpfs } from './furnish.ts';
import type { Sysctl } from './settings.ts';
import type { UserNamespace } from './userns.ts';

/** A container to launch, and the facts about the host that the launch depends on. */
export interface Launch {
  name: string;
  /** the root file system: an absolute path without symlinks */
  rootfs: string;
  /** options of the mount that `rootfs` lies on, which a bind mount has to keep */
  rootFlags: string[];
  /** changes to the root file system stay in memory, up to this size */
  ephemeral: { sizeBytes: number | undefined } | undefined;
  readOnly: boolean;
  volumes: FoundVolume[];
  tmpfs: Tmpfs[];
  texts: Text[];
  devices: Device[];
  shmBytes: number;
  command: string[];
  /** path of the host's init program that becomes PID 1; undefined also if the container's sh is the init */
  init: string | undefined;
  /** PID 1 is an init, which starts the command */
  hasInit: boolean;
  /** the programs that have to be in the container, of those words: the command's own, and the shell of an init */
  programs: string[];
  /** KEY=VALUE: the complete environment of the command */
  environment: string[];
  hostname: string | undefined;
  workdir: string;
  /** of the command, in octal; undefined: the caller's */
  umask: string | undefined;
  user: User;
  /** how many descriptors of the caller, from 3 on, the command keeps */
  preserved: number;
  /** options of prlimit(1) */
  limits: string[];
  /** the words of --isolate: with `mount` the launch uses pivot_root(2), otherwise chroot(2) */
  isolate: Set<string>;
  userNamespace: UserNamespace | undefined;
  capabilities: string[];
  /** set-user-ID programs may gain privileges */
  newPrivileges: boolean;
  privileged: boolean;
  /** a seccomp filter is wanted */
  isFiltered: boolean;
  /** the command that loads the seccomp filter; undefined: no filter */
  seccomp: SeccompLoader | undefined;
  /** undefined: the network namespace gets no new interface */
  connection: Connection | undefined;
  /** the process whose network namespace the container shares; `label` is what the user called it */
  joins: { pid: number; inode: number; label: string } | undefined;
  /** the limits that the cgroups have */
  wanted: Limits;
  /** undefined: no cgroups, since the caller may not make any or needs none */
  cgroups: CgroupPlan | undefined;
  /** the directory for what the kernel does not keep: log, exit status, stop signal */
  runDirectory: string;
  /** the container gets its own terminal, so that it can't push input into the caller's: ioctl_tty(2), TIOCSTI */
  terminal: boolean;
  /** run in the background, and keep this much of the output */
  detached: { logBytes: number } | undefined;
  stopSignal: string | undefined;
  /** KEY=VALUE, for ps.ts */
  labels: string[];
  /** oom_score_adj of PID 1; undefined: that of the caller */
  oomScore: number | undefined;
  sysctls: Sysctl[];
  /** paths under /proc and /sys that this host has and the container must not use */
  masked: { files: string[]; folders: string[]; readOnly: string[] };
  /** mount points of the host below /sys, relative to /sys */
  sysMounts: string[];
  /** the host has ip(8) */
  hasIp: boolean;
  /** paths of chroot(1), and of a shell that keeps all variables of `environment` */
  chroot: string;
  shell: string;
  /** the command that makes an ID-mapped mount */
  idmap: string[] | undefined;
}

/** The attachment of a container to a network. */
export interface Connection {
  /** attaches the container; returns the function that detaches it when the container has ended */
  attach: (pid: number) => Promise<() => Promise<void>>;
  /** the command that detaches it when run.ts has ended before the container; empty: nothing is left to detach */
  afterwards: (pid: number) => Command;
  /** the steps for --dry-run; PID and inode of the network namespace are shell variables */
  print: (pid: string, inode: string) => Promise<Step[]>;
}

/** Whether the container needs a directory in /run. */
export const needsNotes = ({ detached, stopSignal, umask, labels }: Launch) =>
  [detached, stopSignal, umask].some((value) => value !== undefined) || labels.length > 0;

/**
 * The nsenter(1) command that enters the container's namespaces. `hasCgroups`: PID 1 already has its cgroup namespace.
 * Without root, the user namespace has to be entered: it gives the capabilities for the others.
 */
export function enterCommand({ userNamespace, isolate }: Launch, pid: string, hasCgroups = true): Command {
  const user = !userNamespace ? [] : userNamespace.byRoot ? ['--user'] : ['--user', '--preserve-credentials'];
  // proc(5), mqueue, sysfs and cgroup2 show the namespaces of the process that mounts them
  const kinds = ['pid', 'ipc', 'net', ...(hasCgroups ? ['cgroup'] : [])].filter((kind) => isolate.has(kind));
  return sh`nsenter --target ${pid} ${user} --mount ${kinds.map((kind) => `--${kind}`)}`;
}
