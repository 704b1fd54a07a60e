// The launch as a runbook: straight POSIX shell with the same effect. What makes the launch careful is left out: locks,
// retries, signals, descriptors instead of paths.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { quote, sh, variable } from '../helpers/shell.ts';
import { hereDocument, printCommand, type Step, toShell } from '../helpers/steps.ts';
import { joiningSteps, makingSteps, removingSteps } from './cgroups.ts';
import { enterCommand, type Launch } from './container.ts';
import { type Binding, copyCommands, fstab, type Mount, planFurnishing } from './furnish.ts';
import { dropCommand, forLoader, holdCommand } from './hold.ts';
import type { Range, UserNamespace } from './userns.ts';

/** What becomes PID 1 in the runbook, without what makes it careful: see hold.sh and release.sh. */
const holdLine = (setName: string) =>
  'cd "$1"; mount -n -t tmpfs -o mode=755,unbindable tmpfs "$1"; ' +
  `[ -z "$2" ] || ${setName}; shift 2; read -r pid _ </proc/self/stat; echo "$pid" >&2; read -r _; cd /; exec "$@"`;
/** The release of the runbook: see release.sh. Its words are a console, a directory, variables, `--`, a command. */
const release =
  'echo ready >&2; read -r _; exec <&3 2>&4 3<&- 4>&-; cd "$2"; shift 3; unset _ PWD OLDPWD SHLVL; exec "$@"';

/** The programs that load a seccomp filter, where this script has them beside it as files. */
function loaderFiles(): string[] {
  const folders = ['../helpers/seccomp/', '../scripts/helpers/seccomp/'];
  const files = folders.map((folder) =>
    ['calls.pl', 'load.pl'].map((name) => fileURLToPath(new URL(join(folder, name), import.meta.url))),
  );
  return files.find((paths) => paths.every((path) => existsSync(path))) ?? [];
}

/**
 * What is done to the root, in the namespaces of PID 1: before and after it has a cgroup namespace of its own. Paths are
 * those on the host, as it sees them too.
 */
function insideLines(launch: Launch, pid: string): [first: string, second: string] {
  const { rootfs } = launch;
  const plan = planFurnishing(launch, { stage: rootfs, cwd: `/proc/${pid}/cwd/.`, terminal: undefined });
  const empty = plan.files.flatMap((file) => ('text' in file && file.text === '' ? quote(file.path) : []));
  const folders = [...plan.directories, ...plan.overlayDirectories];
  const table = (mounts: Mount[]) =>
    mounts.length > 0
      ? [`cat >table ${hereDocument(fstab(mounts), 'MOUNTS', true)}`, 'mount -n -c -a -T ./table']
      : [];
  const bound = ({ from, to, kind }: Binding): Mount => ({
    source: `${rootfs}/${from}`,
    target: `${rootfs}/root${to}`,
    type: 'none',
    options: `rbind${kind === 'directory' ? ',X-mount.mkdir' : ''}`,
  });
  const files = plan.bindings.flatMap(({ to, kind }) => (kind === 'file' ? `: >>${quote(`root${to}`)}` : []));
  const enter = `cd ${quote(rootfs)}`;
  const like = '--reference="/proc/$pid/cwd/."'.replace('$pid', pid);
  const layers = plan.overlayDirectories.length > 0;
  const first = [
    enter,
    ...table([plan.store, ...(layers ? [] : plan.earlyMounts)]),
    ...(folders.length > 0 ? [`mkdir -p ${folders.map(quote).join(' ')}`] : []),
    ...(layers ? [`chown ${like} store/upper; chmod ${like} store/upper`, ...table(plan.earlyMounts)] : []),
    ...(empty.length > 0 ? [`touch ${empty.join(' ')}`] : []),
    ...copyCommands(plan.deviceNodes, 'store').map((command) => printCommand(command)),
    ...plan.files.flatMap((file) => {
      if ('link' in file) return `ln -s ${file.link} ${quote(file.path)}`;
      return file.text === '' ? [] : `cat >${quote(file.path)} ${hereDocument(file.text, 'TEXT', true)}`;
    }),
  ];
  const second = [
    enter,
    ...files,
    ...table([...plan.lateMounts, ...plan.bindings.map(bound), ...plan.finalMounts]),
  ];
  return [first.join('\n'), second.join('\n')];
}

/** A process that holds the user namespace until PID 1 is in it, and the maps of its IDs, user_namespaces(7). */
function namespaceLines({ uids, gids, byRoot, single }: UserNamespace): string[] {
  const holder = variable('holder');
  const words = (ranges: Range[]) =>
    ranges.flatMap(({ inside, outside, count }) => [inside, outside, count].map(String));
  const write = (file: string, ranges: Range[]): Step => ({
    write: words(ranges).join(' '),
    to: `/proc/${holder}/${file}`,
  });
  const maps: Step[] =
    byRoot || single
      ? [
          ...(single ? [{ write: 'deny', to: `/proc/${holder}/setgroups` }] : []),
          write('gid_map', gids),
          write('uid_map', uids),
        ]
      : [{ run: sh`newgidmap ${holder} ${words(gids)}` }, { run: sh`newuidmap ${holder} ${words(uids)}` }];
  return [
    'unshare --user sleep 100 & holder=$!',
    'while [ /proc/self/ns/user -ef "/proc/$holder/ns/user" ]; do sleep 0.1; done',
    toShell(maps).trimEnd(),
  ];
}

/** The whole launch. */
export async function printLaunch(launch: Launch): Promise<string> {
  const { cgroups, runDirectory, isolate, userNamespace, seccomp, hasIp, connection } = launch;
  const pid = variable('pid');
  const steps = (list: Step[]) => toShell(list).trimEnd();
  const files = seccomp && !seccomp.file ? loaderFiles() : [];
  const index = seccomp?.words.indexOf('-e') ?? -1;
  const words = seccomp?.words.map((word, at) => (at === index + 1 ? variable('loader') : word));
  const printed = { ...launch, seccomp: words && files.length > 0 ? { words } : undefined };
  const holder = userNamespace && variable('holder');
  const hold = holdCommand(printed, holder, {
    hold: holdLine(userNamespace ? 'hostname "$2"' : 'echo "$2" >/proc/sys/kernel/hostname'),
    // variables for the dynamic loader are set last, which takes all of it
    drop: dropCommand(printed, launch.environment.some(forLoader) ? undefined : release),
  });
  const [ready, go] = [join(runDirectory, 'ready'), join(runDirectory, 'go')];
  const enter = enterCommand(launch, pid);
  const user = enterCommand({ ...launch, isolate: new Set() }, pid);
  const root = quote(join(launch.rootfs, 'root'));
  const [first, second] = insideLines(launch, pid);
  const inode = userNamespace ? '' : 'inode=$(stat --dereference --format %i "/proc/$pid/ns/net")\n';
  return `${[
    `# pipes by which the two sides wait for each other
mkdir -p ${quote(runDirectory)}; mkfifo -m 600 ${quote(ready)} ${quote(go)}`,
    seccomp &&
      (files.length > 0
        ? `loader=$(cat ${files.map(quote).join(' ')})   # makes a seccomp filter of names and numbers of system calls`
        : '# left out here: the seccomp filter'),
    ...(userNamespace ? namespaceLines(userNamespace) : []),
    '{',
    '( set -e; trap \'[ $? = 0 ] || kill -KILL "$pid"\' EXIT',
    'read -r pid <&8   # PID 1 waits, still with the files of the host',
    '# its root is put together on a tmpfs over ROOTFS that nobody else sees',
    `${printCommand(enterCommand(launch, pid, false))} sh -e ${hereDocument(first)}`,
    cgroups &&
      `# its cgroups, and their limits\n${steps([...makingSteps(cgroups), ...joiningSteps(cgroups, pid)])}`,
    `echo go >&9; read -r _ <&8   # it gives up its privileges${userNamespace ? '\nkill "$holder"' : ''}`,
    `${printCommand(enter)} sh -e ${hereDocument(second)}`,
    isolate.has('net') && hasIp && !connection && printCommand(sh`${enter} ip link set lo up`),
    isolate.has('mount') &&
      `# shut it in: what is furnished becomes its root, and the host's root is detached
${printCommand(user)} sh -c 'cd "$1" && pivot_root . .' - ${root}
${userNamespace ? `${printCommand(user)} umount --lazy /` : `umount --lazy --namespace "/proc/$pid/ns/mnt" /`}`,
    connection && `# its network\n${inode}${steps(await connection.print(pid, variable('inode')))}`,
    cgroups && cgroups.last.length > 0 && steps(cgroups.last),
    'echo go >&9   # it becomes the command',
    ') &',
    `${printCommand(hold, 150)} 3<&0 <&9 4>&2 2>&8 8>&- 9>&-${launch.joins ? ` 5</proc/${launch.joins.pid}/ns/net` : ''}`,
    `code=$?\n} 8<>${quote(ready)} 9<>${quote(go)}`,
    `rm -r ${quote(runDirectory)}`,
    cgroups && steps(removingSteps(cgroups)),
    '(exit "$code")',
  ]
    .filter(Boolean)
    .join('\n')}\n`;
}
