// A container that is to be launched: options and facts about the host, as planned by run.ts.

import type { SeccompLoader } from '../helpers/seccomp/seccomp.ts';
import { type Command, sh } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import type { CgroupPlan } from './cgroups.ts';
import type { User } from './command.ts';
import type { Device, FoundVolume, Text, Tmpfs } from './furnish.ts';
import type { UserNamespace } from './userns.ts';

/** What is to be launched, and the facts about the host that it depends on. */
export interface Launch {
  name: string;
  /** an absolute path without symlinks */
  rootfs: string;
  /** what mount options the file system has that it lies on, of those that must not get lost */
  rootFlags: string[];
  /** what is written goes into memory, no more than this */
  ephemeral: { sizeBytes: number | undefined } | undefined;
  readOnly: boolean;
  volumes: FoundVolume[];
  tmpfs: Tmpfs[];
  texts: Text[];
  devices: Device[];
  shmBytes: number;
  command: string[];
  /** an init of the host's, which becomes PID 1 and starts the command */
  init: string | undefined;
  /** PID 1 is an init, one of the host's or the root's own sh, which starts the command */
  hasInit: boolean;
  /** KEY=VALUE, all that the command gets */
  environment: string[];
  hostname: string | undefined;
  workdir: string;
  user: User;
  /** options of prlimit(1) */
  limits: string[];
  /** namespaces for unshare(1); with `mount` the root is pivoted to, without it is a chroot */
  isolate: Set<string>;
  userNamespace: UserNamespace | undefined;
  capabilities: string[];
  newPrivileges: boolean;
  privileged: boolean;
  /** the words before a command that load the seccomp filter; undefined: there is none */
  seccomp: SeccompLoader | undefined;
  /** undefined: no interface but what its network namespace has already */
  connection: Connection | undefined;
  /** whose network namespace it shares, instead of the host's: `label` is what the user called it */
  joins: { pid: number; inode: number; label: string } | undefined;
  /** undefined: the caller may make none */
  cgroups: CgroupPlan | undefined;
  /** the directory for what the kernel does not keep: the log and exit status of a detached one, the stop signal */
  runDirectory: string;
  /** it gets one of its own, so that it can't put words into the caller's: ioctl_tty(2), TIOCSTI */
  terminal: boolean;
  /** in the background, with so much of its output kept */
  detached: { logBytes: number } | undefined;
  stopSignal: string | undefined;
  /** files under /proc and /sys that a container has no business with, as they are on this kernel */
  masked: { files: string[]; folders: string[]; readOnly: string[] };
  /** where something is mounted below /sys, as paths from there */
  sysMounts: string[];
  /** programs of the host: ip(8)? where chroot(1) is; which shell hands on the environment */
  hasIp: boolean;
  chroot: string;
  shell: string;
  /** the words that mount a tree with mapped IDs */
  idmap: string[] | undefined;
}

/** What gives a container its interface, when it is shut in. */
export interface Connection {
  /** returns what takes it away again, when the container has ended */
  attach: (pid: number) => Promise<() => Promise<void>>;
  /** a command that does so when no process of run.ts is there any more; none: it goes by itself */
  afterwards: (pid: number) => Command;
  /** the steps for --dry-run, where the PID and the inode of the network namespace are shell variables */
  print: (pid: string, inode: string) => Promise<Step[]>;
}

/** How nsenter(1) gets to what a launch works on: by a user only through the user namespace, which has the right to. */
export function enterCommand({ userNamespace, isolate }: Launch, pid: string, hasCgroups = true): Command {
  const user = !userNamespace ? [] : userNamespace.byRoot ? ['--user'] : ['--user', '--preserve-credentials'];
  // proc(5), mqueue, sysfs and cgroup2 show the namespaces of whoever mounts them
  const kinds = ['pid', 'ipc', 'net', ...(hasCgroups ? ['cgroup'] : [])].filter((kind) => isolate.has(kind));
  return sh`nsenter --target ${pid} ${user} --mount ${kinds.map((kind) => `--${kind}`)}`;
}
