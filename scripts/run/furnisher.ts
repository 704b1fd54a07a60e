// Furnishing the root of a held process: furnish.ts plans it, this module performs it through open descriptors.

import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  type Stats,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { type InRoot, O_PATH, ofDescriptor, openInRoot, openRoot } from '../helpers/in-root.ts';
import { attempt, readProc } from '../helpers/pids.ts';
import { quote, sh } from '../helpers/shell.ts';
import { makeDirectory } from '../helpers/steps.ts';
import { enterCommand, type Launch } from './container.ts';
import { type Binding, copyCommands, fstab, type Mount, planFurnishing, type StageFile } from './furnish.ts';
import { hostShell, unnamedFile } from './held.ts';
import { findObstacle } from './program.ts';
import { asContainerRoot } from './userns.ts';

/** The path of the stage for host programs: they get it as descriptor 3. */
const stage = ofDescriptor(3);

/** Furnishes the root of a held process. It reaches all files through descriptors of the process's mount namespace. */
export class Furnisher {
  private readonly stage: number;
  private readonly opened: number[] = [];
  private readonly plan: ReturnType<typeof planFurnishing>;
  private readonly launch: Launch;
  private readonly pid: number;

  constructor(launch: Launch, pid: number) {
    this.launch = launch;
    this.pid = pid;
    this.stage = this.keep(openStage(pid, launch.rootfs));
    const terminal = launch.terminal ? attempt(() => readlinkSync(`/proc/${pid}/fd/3`)) : undefined;
    this.plan = planFurnishing(launch, { stage, cwd: `/proc/${pid}/cwd/.`, terminal });
  }

  /** Makes the mounts that PID 1 needs before it drops privileges, among them the read-only mount of its shell. */
  async mountEarly(): Promise<void> {
    const { store, overlayDirectories, earlyMounts } = this.plan;
    if (overlayDirectories.length === 0) return this.mount([store, ...earlyMounts]);
    await this.mount([store]);
    const rootfs = statSync(`/proc/${this.pid}/cwd`);
    for (const name of overlayDirectories) {
      const path = this.makeDirectory(name);
      // fails for an owner that the user namespace does not map
      attempt(() => chownSync(path, rootfs.uid, rootfs.gid));
      chmodSync(path, rootfs.mode & 0o7777);
    }
    await this.mount(earlyMounts);
  }

  /** Makes the directories, files and device nodes on the stage. */
  async makeFiles(): Promise<void> {
    const { directories, files, deviceNodes } = this.plan;
    for (const name of directories) this.makeDirectory(name);
    for (const file of files) this.makeFile(file);
    const $ = await hostShell({ descriptors: [this.stage] });
    await Promise.all(copyCommands(deviceNodes, `${stage}/store`).map((command) => $`exec ${command}`));
  }

  /** Makes the mounts that show PID 1's cgroup namespace, and bind-mounts everything from the stage to the root. */
  async mountLate(): Promise<void> {
    const { lateMounts, bindings, finalMounts } = this.plan;
    // proc, sys and dev are mounted by one table. Any other target may lie inside an earlier mount, so it is opened only
    // after that mount is made.
    const batches = [
      bindings.filter(({ refusesLinks }) => refusesLinks),
      ...bindings.filter(({ refusesLinks }) => !refusesLinks).map((binding) => [binding]),
    ];
    for (const [index, batch] of batches.entries()) {
      const targets = batch.map((binding) => this.openTarget(binding));
      const binds = batch.map(({ from, kind }, at) => ({
        source: `${stage}/${from}`,
        target: `${ofDescriptor(4 + at)}${kind === 'directory' ? '/.' : ''}`,
        type: 'none',
        options: 'rbind',
      }));
      const before = index === 0 ? lateMounts : [];
      const after = index === batches.length - 1 ? finalMounts : [];
      await this.mount([...before, ...binds, ...after], targets);
      for (const [at, binding] of batch.entries())
        this.copyAttributes(binding, (targets[at] as InRoot).stats);
    }
  }

  /**
   * Makes the working directory if it is missing, as Docker does: in the root with all its mounts. Throws Failure if it
   * can't be made.
   */
  makeWorkdir(): void {
    const { workdir, readOnly, rootfs, ephemeral } = this.launch;
    // whatever is there is for PID 1 to find, which changes to it as the container's user; /proc has its own processes
    if (/^\/+(proc|sys)(\/|$)/.test(workdir)) return;
    const root = this.openFurnishedRoot();
    try {
      const found = openInRoot(root, workdir);
      if (found) {
        this.keep(found.fd);
        if (!found.stats.isDirectory())
          throw new Failure(
            `can't cd to the working directory ${workdir}: it is no directory: choose another -w`,
          );
      } else {
        const made = this.asContainerRoot(() => openInRoot(root, workdir, { make: 'directory' }));
        if (made) this.keep(made.fd);
      }
    } catch (error) {
      const why = reason(error);
      if (why.startsWith("can't cd ")) throw error;
      const isReadOnly = readOnly && why.includes('EROFS');
      if (isReadOnly && ephemeral)
        throw new Failure(
          `--workdir: there is no ${workdir}, and with --read-only it can't be made: leave that out, for changes are discarded anyway`,
        );
      throw new Failure(
        isReadOnly
          ? `--workdir: there is no ${workdir}, and with --read-only it can't be made: mkdir -p ${rootfs}${workdir}`
          : `--workdir: there is no ${workdir}, and ${why}: mkdir -p ${rootfs}${workdir}`,
      );
    }
  }

  /** Throws Failure, with the exit code for that, if a program of the command is missing or can't be executed. */
  checkPrograms(): void {
    const { programs, environment, workdir } = this.launch;
    for (const program of programs) {
      const obstacle = findObstacle(this.openFurnishedRoot(), program, environment, workdir);
      if (obstacle) throw new Failure(obstacle.text, obstacle);
    }
  }

  /** Makes the furnished root the root of PID 1 and of its mount namespace, and detaches the host's root. */
  async pivotRoot(): Promise<void> {
    const { userNamespace } = this.launch;
    const enter = enterCommand({ ...this.launch, isolate: new Set() }, String(this.pid));
    // pivot_root(2) changes the root directory of PID 1 too, and mounts the host's root on top of the new root
    const detach = userNamespace
      ? sh`${enter} umount --lazy /`
      : sh`umount --lazy --namespace /proc/${this.pid}/ns/mnt /`;
    const $ = await hostShell({ descriptors: [this.openFurnishedRoot()] });
    await $`${enter} --wd=/proc/self/fd/3 pivot_root . . && exec ${detach}`;
  }

  /** Closes all descriptors. */
  close(): void {
    for (const fd of this.opened.splice(0)) closeSync(fd);
  }

  private keep(fd: number): number {
    this.opened.push(fd);
    return fd;
  }

  private makeDirectory(name: string): string {
    const path = ofDescriptor(this.stage, name);
    this.asContainerRoot(() => makeDirectory(path));
    return path;
  }

  private makeFile(file: StageFile): void {
    const path = ofDescriptor(this.stage, file.path);
    this.asContainerRoot(() => {
      makeDirectory(dirname(path));
      if ('link' in file) symlinkSync(file.link, path);
      else writeFileSync(path, file.text, { mode: 0o644 });
    });
  }

  /** Copies mode and owner of a directory to the tmpfs that now covers it, except those that options set. */
  private copyAttributes({ from, copied }: Binding, { uid, gid, mode }: Stats): void {
    const path = ofDescriptor(this.stage, from);
    // fails for an owner that the user namespace does not map
    if (copied?.uid) attempt(() => chownSync(path, uid, -1));
    if (copied?.gid) attempt(() => chownSync(path, -1, gid));
    try {
      if (copied?.mode) chmodSync(path, mode & 0o7777);
    } catch (error) {
      // a read-only tmpfs keeps its own mode: nothing is in it, nor can be made there
      if ((error as NodeJS.ErrnoException).code !== 'EROFS') throw error;
    }
  }

  /** The root as it is now. It is opened again for each use, since a descriptor does not follow later mounts on top. */
  private openFurnishedRoot(): number {
    return this.keep(openSync(ofDescriptor(this.stage, 'root'), O_PATH));
  }

  /** Opens the target of a binding, which is made if it is missing. Throws Failure if nothing can be mounted there. */
  private openTarget({ to, kind, refusesLinks = false, coversLink = false, copied }: Binding): InRoot {
    const root = this.openFurnishedRoot();
    const links = !refusesLinks;
    let target: InRoot | undefined;
    try {
      target =
        openInRoot(root, to, { links, lastLink: coversLink }) ??
        this.asContainerRoot(() => {
          const made = openInRoot(root, to, { links, make: kind });
          // every user may write to a tmpfs at a new directory; later launches copy the mode from the directory
          if (made && copied) chmodSync(ofDescriptor(made.fd), 0o1777);
          return made && { ...made, stats: fstatSync(made.fd) };
        });
      if (!target) throw new Failure('it can not be made');
    } catch (error) {
      throw new Failure(`${to} is no place for a mount: ${reason(error)}`);
    }
    this.keep(target.fd);
    if (links && /^\/(proc(\/.*)?)?$/.test(target.path))
      throw new Failure(`${to} is no place for a mount: not / and not in /proc`);
    const { stats } = target;
    if (!stats.isSymbolicLink() && !(kind === 'file' ? stats.isFile() : stats.isDirectory()))
      throw new Failure(this.otherKind(to, kind, stats));
    return target;
  }

  /** Why a file can't be mounted at a directory of the container, or a directory at a file, and what to type. */
  private otherKind(to: string, kind: 'file' | 'directory', stats: Stats): string {
    const isOther = kind === 'file' ? stats.isDirectory() : stats.isFile();
    const its = !isOther ? 'a device, pipe or socket' : kind === 'file' ? 'a directory' : 'a file';
    const volume = this.launch.volumes.find(({ path }) => path === to);
    if (!volume || !isOther)
      return `${to} is ${its} in the container, and no ${kind}: nothing can be mounted there`;
    const { source } = volume;
    const both = `--volume: ${source} is a ${kind}, and ${to} is ${its} in the container`;
    if (kind === 'file') return `${both}: type -v ${quote(`${source}:${join(to, basename(source))}`)}`;
    const inside = join(source, basename(to));
    return `${both}: ${existsSync(inside) ? `type -v ${quote(`${inside}:${to}`)}` : 'choose a directory as DST'}`;
  }

  /** Makes mounts by one mount(8) in the namespaces of PID 1. `targets` become its descriptors from 4 on. */
  private async mount(mounts: Mount[], targets?: InRoot[]): Promise<void> {
    // a file, as node's pipes are sockets, from which mount(8) can't read a table
    const table = this.asContainerRoot(() =>
      unnamedFile(ofDescriptor(this.stage), Buffer.from(fstab(mounts))),
    );
    try {
      // mounts with targets are made after PID 1 has joined its cgroups, when it has its own cgroup namespace
      const enter = enterCommand(this.launch, String(this.pid), targets !== undefined);
      const descriptors = [this.stage, ...(targets ?? []).map(({ fd }) => fd)];
      const $ = await hostShell({ input: table, descriptors });
      await $`exec ${enter} mount --no-mtab --no-canonicalize --all --fstab /proc/self/fd/0`;
    } catch (error) {
      // messages name the paths in the container instead of descriptors
      const containerPath = (_: string, fd: string, rest = '') =>
        fd === '3' ? rest : (targets?.[Number(fd) - 4]?.path ?? fd);
      throw new Failure(
        reason(error).replace(/\/proc\/self\/fd\/(\d+)(?:\/\.)?((?:\/[^:\s]+)*)/g, containerPath),
      );
    } finally {
      closeSync(table);
    }
  }

  /**
   * Calls `act` with the effective user and group of the container's root: file systems of its user namespace refuse
   * files of the host's root with EOVERFLOW. Descriptors are opened before, by the host's root, who may search every
   * directory.
   */
  private asContainerRoot<Value>(act: () => Value): Value {
    const { userNamespace } = this.launch;
    return userNamespace?.byRoot ? asContainerRoot(userNamespace, act) : act();
  }
}

/**
 * Opens the stage, the tmpfs that PID 1 has mounted over ROOTFS. Throws Failure if another mount is at that path, which
 * happens if somebody renames directories meanwhile: nothing may be written there.
 */
function openStage(pid: number, rootfs: string): number {
  const root = openRoot(`/proc/${pid}/root`);
  try {
    const found = openInRoot(root, rootfs, { links: false });
    const fdinfo = found ? readFileSync(`/proc/self/fdinfo/${found.fd}`, 'utf8') : '';
    const [, mountId] = /^mnt_id:\s*(\d+)/m.exec(fdinfo) ?? [];
    const newestMount = readProc(pid, 'mountinfo')?.trimEnd().split('\n').at(-1) ?? '';
    if (found && newestMount.startsWith(`${mountId} `) && / - tmpfs /.test(newestMount)) return found.fd;
    throw new Failure(`${rootfs} changes while it is looked at`);
  } finally {
    closeSync(root);
  }
}
