// The launch as a runbook: straight POSIX shell with the same effect. What makes the launch careful is left out: locks,
// retries, signals, descriptors instead of paths.
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { callsPerl, callsPython, loadPerl, loadPython } from '../helpers/seccomp/seccomp.ts';
import { type Command, quote, sh, variable } from '../helpers/shell.ts';
import {
  findVariation,
  hereDocument,
  packWords,
  printCommand,
  printLoop,
  type Step,
  toShell,
} from '../helpers/steps.ts';
import { callTables } from '../helpers/system-calls.ts';
import { joiningSteps, labelStep, makingSteps, removingSteps } from './cgroups.ts';
import { enterCommand, type Launch } from './container.ts';
import { type Mount, planFurnishing } from './furnish.ts';
import { dropLists, forLoader, holdLists } from './hold.ts';
import { idmapPerl, idmapProgram } from './idmap.ts';
import { settingSteps } from './settings.ts';
import { mapText, mapWords, type Range, type UserNamespace } from './userns.ts';

const steps = (list: Step[]) => toShell(list, 2).trimEnd();

/** The first program of PID 1: hold.sh without its checks. Its arguments are a host name, if there is one, and a command. */
const holdLine = ({ hostname, userNamespace }: Launch) =>
  [
    'cd /',
    ...(hostname === undefined
      ? []
      : [`${userNamespace ? 'hostname "$1"' : 'echo "$1" >/proc/sys/kernel/hostname'}; shift`]),
    'read -r pid _ </proc/self/stat; echo "$pid" >&4; read -r _ || exit 125; exec "$@"',
  ].join('; ');

/** The last one: release.sh without its checks. Its arguments are a console, a directory, variables, `--`, and a command. */
const releaseLine = ({ isolate, environment }: Launch) =>
  [
    'echo ready >&4; read -r _ || exit 125; exec <&3 3<&- 4>&-',
    ...(isolate.has('mount') ? ['cd "$2" || exit 125'] : []),
    environment.some(forLoader)
      ? 'shift 2; while [ "$1" != -- ]; do export "$1"; shift; done; shift'
      : 'shift 3',
    'unset _ PWD OLDPWD SHLVL; exec "$@"',
  ].join('; ');

/**
 * The paths of files of ours: beside this script, or beside the folder that it was built into. If they are not there, `lines`
 * make them in `folder`.
 */
function findFiles(
  programs: [path: string, text: string][],
  folder: string,
): { paths: string[]; lines: string[] } {
  for (const top of ['..', '../scripts']) {
    const paths = programs.map(([path]) => fileURLToPath(new URL(`${top}/${path}`, import.meta.url)));
    if (
      programs.every(
        ([, text], at) =>
          existsSync(paths[at] as string) && readFileSync(paths[at] as string, 'utf8') === text,
      )
    )
      return { paths, lines: [] };
  }
  const paths = programs.map(([path]) => join(folder, basename(path)));
  const lines = programs.map(([, text], at) => `cat >${quote(paths[at] as string)} ${hereDocument(text)}`);
  return { paths, lines };
}

/** The seccomp filter: lines that prepare it, and the words of the loader, which come before a command. */
function printSeccomp({ seccomp, runDirectory }: Launch): { lines: string[]; words: Command | undefined } {
  if (!seccomp) return { lines: [], words: undefined };
  if (seccomp.file)
    return {
      lines: ['# left out here: the seccomp filter, a file that only a program can write'],
      words: undefined,
    };
  const at = seccomp.words.findIndex((word) => word === loadPerl || word === loadPython);
  const [program, calls, ending] =
    seccomp.words[at] === loadPerl ? [loadPerl, callsPerl, 'pl'] : [loadPython, callsPython, 'py'];
  const folder = 'helpers/seccomp';
  const { paths, lines } = findFiles(
    [
      [`${folder}/calls.${ending}`, calls],
      [`${folder}/load.${ending}`, program.slice(calls.length + 1)],
      [`${folder}/${process.arch}.txt`, callTables[process.arch] ?? ''],
    ],
    runDirectory,
  );
  const [, , numbers] = paths as [string, string, string];
  // lists that end with --: run and numbers, the processor and rules
  const end = seccomp.words.indexOf('run');
  const [processor = '', ...rules] = seccomp.words.slice(seccomp.words.indexOf('--', end) + 1, -1);
  const isOfCall = (rule: string) => !rule.startsWith('unassigned:');
  const names = rules.map((rule) => (isOfCall(rule) ? rule.replace(/:\d+/, '') : rule));
  return {
    lines: [
      `denied='${packWords(names, 170).join('\n  ')}'   # no system calls of the container: the loader makes a filter of them`,
      ...lines,
      `loader=$(cd ${quote(dirname(numbers))} && cat calls.${ending} load.${ending}) numbers=$(cat ${quote(numbers)})`,
    ],
    words: [
      ...seccomp.words.slice(0, end).with(at, variable('loader')),
      ...sh`run ${variable('numbers')} -- ${processor} ${variable('denied')} --`,
    ],
  };
}

/** A mount. `makes`: the file that is its mount point is made before. `noLink`: a mount point that is a link is an error. */
interface Row extends Mount {
  noLink?: boolean;
  makes?: 'file' | 'file unless there';
}

/** A path of the stage, where the shell is. */
const relative = (path: string) => path.replace(/^\.\//, '');

function mountCommand({ source, target, type, options, makes, noLink }: Row): string {
  const [folder, path] = [dirname(target), quote(target)];
  const isMade = ['.', 'dev', 'store/etc', 'root', 'root/etc'].includes(folder);
  const make = [
    ...(noLink ? [`[ ! -L ${path} ]; `] : []), // with sh -e
    ...(makes && !isMade ? [`mkdir -p ${quote(folder)}; `] : []),
    ...(makes === 'file' ? [`touch ${path}; `] : makes ? [`[ -e ${path} ] || touch ${path}; `] : []),
  ].join('');
  const words = [
    ...(type === 'none' ? [] : ['-t', type]),
    ...(options === 'defaults' ? [] : ['-o', options]),
  ];
  return `${make}${['mount', ...words, source, target].map(quote).join(' ')}`;
}

/** Mounts as commands; those that differ in one name only are a loop. */
function mountLines(rows: Row[]): string[] {
  const lines: string[] = [];
  for (let at = 0; at < rows.length; ) {
    const first = rows[at] as Row;
    const isAlike = ({ type, options, makes, noLink, target }: Row) =>
      type === first.type &&
      options === first.options &&
      makes === first.makes &&
      noLink === first.noLink &&
      (!makes || dirname(target) === dirname(first.target));
    const variation = (count: number) =>
      findVariation(rows.slice(at, at + count).map(({ source, target }) => [source, target]));
    let count = 1;
    while (at + count < rows.length && isAlike(rows[at + count] as Row) && variation(count + 1)) count++;
    const found = count > 1 ? variation(count) : undefined;
    if (found) {
      const [source = '', target = ''] = found.row;
      lines.push(printLoop(found.values, mountCommand({ ...first, source, target })));
    } else if (first.options.startsWith('remount') && first.target === rows[at - 1]?.target)
      lines.push(`${lines.pop()}; ${mountCommand(first)}`);
    else lines.push(mountCommand(first));
    at += count;
  }
  return lines;
}

/**
 * The lines that furnish the root, in the namespaces of PID 1, on a stage over ROOTFS; and mounts that are made before. The
 * network step writes the files for which `isWritten` is true.
 */
function furnishingLines(
  launch: Launch,
  isWritten: (path: string) => boolean,
): { before: Mount[]; lines: string[] } {
  const { rootfs, isolate, hasIp, connection, workdir } = launch;
  const root = 'ROOTFS';
  const texts = launch.texts.map(({ path, text }) => ({ path, text: isWritten(path) ? '' : text }));
  const plan = planFurnishing({ ...launch, texts }, { stage: '.', cwd: root, terminal: undefined });
  const usesStore = plan.copies.length + plan.overlayDirectories.length + texts.length > 0;
  const written = plan.files.flatMap((file) => ('text' in file && file.text.trim() !== '' ? file : []));
  const empty = plan.files.flatMap((file) => ('text' in file && file.text.trim() === '' ? file.path : []));
  const rows = (mounts: Mount[]): Row[] =>
    mounts.map((mount) => {
      const target = relative(mount.target);
      const isFile = empty.includes(target);
      return { ...mount, source: relative(mount.source), target, ...(isFile && { makes: 'file' }) };
    });
  const bindings = plan.bindings.map(
    ({ from, to, kind, refusesLinks }): Row => ({
      source: from,
      target: `root${to}`,
      type: 'none',
      options: kind === 'directory' ? 'rbind,X-mount.mkdir' : 'rbind',
      ...(kind === 'file' && { makes: 'file unless there' }),
      ...(refusesLinks && { noLink: true }),
    }),
  );
  const early = rows(plan.earlyMounts);
  const ofRootfs = early.filter(({ source }) => source === root);
  const isOutside = ({ target }: Mount) => target.startsWith('/');
  const directories = [...plan.overlayDirectories, ...plan.directories];
  const links = plan.files.flatMap((file) =>
    'link' in file ? sh`ln -s ${file.link} ${file.path}`.join(' ') : [],
  );
  const like = '--reference=lower store/upper';
  const lines = [
    `cd ${quote(rootfs)}; mount -t tmpfs -o mode=755,unbindable tmpfs ${quote(rootfs)}`,
    // -c: this very directory, not what is mounted over it now
    ...ofRootfs.map(
      ({ target, options }) =>
        `mount -c -o ${options} . ${quote(join(rootfs, target))}; cd ${quote(rootfs)}   # -c: not what is over it`,
    ),
    [
      ...(usesStore ? mountLines(rows([plan.store])) : []),
      ...(directories.length > 0 ? [`mkdir -p ${[...new Set(directories)].map(quote).join(' ')}`] : []),
    ].join('; '),
    ...(plan.overlayDirectories.length > 0 ? [`chown ${like}; chmod ${like}`] : []),
    ...mountLines(early.filter((row) => row.source !== root && !isOutside(row))),
    ...(links.length > 0 ? [links.join('; ')] : []),
    ...plan.copies.map((command) => printCommand(command.map(relative))),
    ...written.map(({ path, text }) => `cat >${quote(path)} ${hereDocument(text, 'TEXT')}`),
    ...mountLines([...rows(plan.lateMounts), ...bindings, ...rows(plan.finalMounts)]),
    ...(isolate.has('mount') && workdir !== '/' ? [`mkdir -p ${quote(`root${workdir}`)}`] : []),
    ...(isolate.has('net') && hasIp && !connection ? ['ip link set lo up'] : []),
    ...(isolate.has('mount')
      ? ['cd root; pivot_root . .   # it is the root now, with that of the host on top']
      : []),
  ].filter(Boolean);
  return { before: early.filter(isOutside), lines };
}

/** The lines that start a holder of the user namespace and write its ID maps, user_namespaces(7). */
function namespaceLines({ uids, gids, byRoot, single }: UserNamespace): string[] {
  const holder = variable('holder');
  const write = (file: string, ranges: Range[]): Step => ({
    write: mapText(ranges),
    to: `/proc/${holder}/${file}`,
  });
  const maps: Step[] =
    byRoot || single
      ? [
          ...(single ? [{ write: 'deny', to: `/proc/${holder}/setgroups` }] : []),
          write('gid_map', gids),
          write('uid_map', uids),
        ]
      : [
          { run: sh`newgidmap ${holder} ${mapWords(gids)}` },
          { run: sh`newuidmap ${holder} ${mapWords(uids)}` },
        ];
  return [
    'unshare --user sleep 100 & holder=$!   # holds its user namespace until PID 1 is in there',
    'while [ /proc/self/ns/user -ef "/proc/$holder/ns/user" ]; do sleep 0.1; done',
    steps(maps),
  ];
}

/** The whole launch. */
export async function printLaunch(launch: Launch): Promise<string> {
  const { cgroups, runDirectory, isolate, userNamespace, idmap, hostname, connection, joins, labels } =
    launch;
  const pid = variable('pid');
  const lock = cgroups?.lock;
  const seccomp = printSeccomp(launch);
  const byPerl = idmap?.includes(idmapPerl)
    ? findFiles([['run/idmap.pl', idmapProgram]], runDirectory)
    : undefined;
  const printed: Launch = {
    ...launch,
    preserved: 0,
    seccomp: seccomp.words && { words: seccomp.words },
    idmap: byPerl ? ['perl', ...byPerl.paths] : idmap,
  };
  const chain = holdLists(printed, userNamespace && variable('holder'), {
    hold: sh`sh -c ${holdLine(launch)} hold ${hostname ?? []}`,
    drop: dropLists(printed, releaseLine(launch)),
  }).map((list) => printCommand(list, 156));
  const [ready, go] = ['ready', 'go'].map((pipe) => quote(join(runDirectory, pipe)));
  const enter = printCommand(enterCommand(launch, pid));
  const settings = settingSteps(launch, pid);
  const user = enterCommand({ ...launch, isolate: new Set() }, pid);
  const network = (await connection?.print(pid, variable('inode'))) ?? [];
  const furnishing = furnishingLines(launch, (path) =>
    network.some((step) => 'write' in step && step.to === `/proc/${pid}/root${path}`),
  );
  return `${[
    `mkdir -p ${quote(runDirectory)}; mkfifo -m 600 ${ready} ${go}   # for both sides to wait on`,
    labels.length > 0 && steps([labelStep(launch)]),
    launch.preserved > 0 &&
      '# left out here: --preserve-fds, for the launch uses descriptors 3, 4 and 5 itself',
    ...seccomp.lines,
    ...(userNamespace ? namespaceLines(userNamespace) : []),
    ...(byPerl?.lines ?? []),
    `( set -e; read -r pid <&8; trap '[ $? = 0 ] || kill -KILL "$pid"' EXIT   # from outside, while PID 1 waits; it ends if this fails`,
    cgroups &&
      `${lock ? 'flock 7   ' : ''}# its cgroups, and their limits${lock ? '; under a lock, for run.ts removes cgroups that are empty' : ''}`,
    cgroups && steps([...makingSteps(cgroups), ...joiningSteps(cgroups, pid)]),
    settings.length > 0 && steps(settings),
    ...furnishing.before.map(
      ({ source, options }) =>
        `${printCommand(sh`${user} mount -o ${options} ${source} ${source}`)}   # nobody inside may write to what it runs`,
    ),
    `${lock ? 'flock --unlock 7; ' : ''}echo go >&9; read -r _ <&8${userNamespace ? '; kill "$holder"' : ''}   # it gives up its privileges`,
    `${enter} sh -e ${hereDocument(furnishing.lines.join('\n')).replace('\n', '   # its root is put together on a tmpfs over ROOTFS that nobody else sees\n')}`,
    isolate.has('mount') &&
      (userNamespace
        ? `${printCommand(user)} umount --lazy /`
        : `umount --lazy --namespace "/proc/$pid/ns/mnt" /`),
    connection &&
      `${userNamespace ? '' : 'inode=$(stat --dereference --format %i "/proc/$pid/ns/net")   # of its network\n'}${steps(network)}`,
    cgroups && cgroups.last.length > 0 && steps(cgroups.last),
    'echo go >&9   # it becomes the command',
    `) 8<${ready} 9>${go}${lock ? ` 7<${quote(lock)}` : ''} &   # and PID 1: each program becomes the next`,
    `${chain.map((line) => line.replace('"$numbers"', '$numbers').replace('"$denied"', '$denied')).join(' \\\n')} 3<&0 4>${ready} <${go}${joins ? ` 5</proc/${joins.pid}/ns/net` : ''}`,
    `code=$?; rm -r ${quote(runDirectory)}`,
    cgroups && steps(removingSteps(cgroups)),
    '(exit "$code")',
  ]
    .filter(Boolean)
    .join('\n')}\n`;
}
