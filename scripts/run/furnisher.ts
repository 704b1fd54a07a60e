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
import { type Command, quote, sh } from '../helpers/shell.ts';
import { makeDirectory } from '../helpers/steps.ts';
import { enterCommand, type Launch } from './container.ts';
import { type Binding, fstab, type Mount, planFurnishing, type StageFile } from './furnish.ts';
import { type HostShell, hostShell, unnamedFile } from './held.ts';
import { findObstacle } from './program.ts';
import { asContainerRoot } from './userns.ts';

/** The path of the stage for host programs: they get it as descriptor 3. */
const stage = ofDescriptor(3);

/** Runs a command of mount(8), and others after it in the same shell. */
type Continuation = ($: HostShell, mount: Command) => Promise<void>;

/** Furnishes the root of a held process. It reaches all files through descriptors of the process's mount namespace. */
export class Furnisher {
  private readonly stage: number;
  private readonly opened: number[] = [];
  private readonly plan: ReturnType<typeof planFurnishing>;
  private readonly launch: Launch;
  private readonly pid: number;
  private isShutIn = false;

  constructor(launch: Launch, pid: number) {
    this.launch = launch;
    this.pid = pid;
    this.stage = this.keep(openStage(pid, launch.rootfs));
    const terminal = launch.terminal ? attempt(() => readlinkSync(`/proc/${pid}/fd/3`)) : undefined;
    this.plan = planFurnishing(launch, { stage, cwd: `/proc/${pid}/cwd/.`, terminal });
  }

  /**
   * Makes the mounts that PID 1 needs before it drops privileges, among them the read-only mount of its shell, and copies
   * device nodes to the store.
   */
  async mountEarly(): Promise<void> {
    const { store, overlayDirectories, earlyMounts, copies } = this.plan;
    const [copy, ...others] = copies;
    const andCopy: Continuation | undefined = copy && (($, mount) => $`${mount} && exec ${copy}`);
    if (overlayDirectories.length === 0) await this.mount([store, ...earlyMounts], { andThen: andCopy });
    else {
      await this.mount([store]);
      this.makeOverlayDirectories();
      await this.mount(earlyMounts, { andThen: andCopy });
    }
    for (const command of others) await (await hostShell({ descriptors: [this.stage] }))`exec ${command}`;
  }

  private makeOverlayDirectories(): void {
    const rootfs = statSync(`/proc/${this.pid}/cwd`);
    for (const name of this.plan.overlayDirectories) {
      const path = this.makeDirectory(name);
      // fails for an owner that the user namespace does not map
      attempt(() => chownSync(path, rootfs.uid, rootfs.gid));
      chmodSync(path, rootfs.mode & 0o7777);
    }
  }

  /** Makes the directories and files on the stage. */
  makeFiles(): void {
    const { directories, files } = this.plan;
    for (const name of directories) this.makeDirectory(name);
    for (const file of files) this.makeFile(file);
  }

  /**
   * Makes the mounts that show PID 1's cgroup namespace, and bind-mounts everything from the stage to the root. Then shuts
   * PID 1 in.
   */
  async mountLate(): Promise<void> {
    const { lateMounts, bindings, finalMounts } = this.plan;
    // proc, sys and dev are mounted by one table, after all mounts on the stage. Any other target may lie inside an
    // earlier mount, so it is opened only after that mount is made.
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
      const isLast = index === batches.length - 1;
      const mounts = [...before, ...binds, ...(isLast ? finalMounts : [])];
      // the stage is out of reach when PID 1 is shut in
      for (const [at, binding] of batch.entries())
        this.copyAttributes(binding, (targets[at] as InRoot).stats);
      await this.mount(mounts, { targets, andThen: isLast ? this.pivotRoot() : undefined });
      this.isShutIn = isLast && this.launch.isolate.has('mount');
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

  /**
   * Makes the furnished root the root of PID 1 and of its mount namespace, and detaches the host's root. undefined: PID 1
   * becomes chroot(1).
   */
  private pivotRoot(): Continuation | undefined {
    const { userNamespace, isolate } = this.launch;
    if (!isolate.has('mount')) return undefined;
    const enter = enterCommand({ ...this.launch, isolate: new Set() }, String(this.pid));
    // pivot_root(2) changes the root directory of PID 1 too, and mounts the host's root on top of the new root
    const detach = userNamespace
      ? sh`${enter} umount --lazy /`
      : sh`umount --lazy --namespace /proc/${this.pid}/ns/mnt /`;
    return ($, mount) => $`${mount} && ${enter} --wd=${stage}/root pivot_root . . && exec ${detach}`;
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

  /** Copies mode and owner of a directory to the tmpfs that is going to cover it, except those that options set. */
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
    const path = this.isShutIn ? `/proc/${this.pid}/root` : ofDescriptor(this.stage, 'root');
    return this.keep(openSync(path, O_PATH));
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
      if (!target) throw new Failure('it cannot be made');
    } catch (error) {
      throw new Failure(`cannot mount at ${to}: ${reason(error)}`);
    }
    this.keep(target.fd);
    if (links && /^\/(proc(\/.*)?)?$/.test(target.path))
      throw new Failure(`cannot mount at ${to}: choose a target other than /, and not in /proc`);
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
  private async mount(
    mounts: Mount[],
    { targets, andThen }: { targets?: InRoot[]; andThen?: Continuation | undefined } = {},
  ): Promise<void> {
    // a file, as node's pipes are sockets, from which mount(8) can't read a table
    const table = this.asContainerRoot(() =>
      unnamedFile(ofDescriptor(this.stage), Buffer.from(fstab(mounts))),
    );
    try {
      // mounts with targets are made after PID 1 has joined its cgroups, when it has its own cgroup namespace
      const enter = enterCommand(this.launch, String(this.pid), targets !== undefined);
      const descriptors = [this.stage, ...(targets ?? []).map(({ fd }) => fd)];
      const $ = await hostShell({ input: table, descriptors });
      const command = sh`${enter} mount --no-mtab --no-canonicalize --all --fstab /proc/self/fd/0`;
      await (andThen ? andThen($, command) : $`exec ${command}`);
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
    throw new Failure(`${rootfs} was replaced by another process during the launch: try again`);
  } finally {
    closeSync(root);
  }
}
