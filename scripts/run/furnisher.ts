// Furnishing the root of a held process: furnish.ts says what, this does it, through descriptors.

import {
  chmodSync,
  chownSync,
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  type Stats,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { Failure, reason } from '../helpers/cli.ts';
import { type InRoot, O_PATH, ofDescriptor, openInRoot, openRoot } from '../helpers/in-root.ts';
import { attempt, readProc } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import { enterCommand, type Launch } from './container.ts';
import { type Binding, copyCommands, fstab, type Mount, planFurnishing, type StageFile } from './furnish.ts';
import { hostShell, unnamedFile } from './held.ts';

/** The container's root on the host, where that is another: whatever is made in there is to be its own. */
const ownerOf = ({ userNamespace }: Launch) =>
  userNamespace?.byRoot
    ? { uid: userNamespace.uids[0]?.outside as number, gid: userNamespace.gids[0]?.outside as number }
    : undefined;

/**
 * Acts as the container's root: what a user namespace owns takes nothing from the host's, EOVERFLOW. Descriptors are
 * opened before, as the host's root, who may look everywhere.
 */
function asOwner<Value>(launch: Launch, act: () => Value): Value {
  const owner = ownerOf(launch);
  if (!owner) return act();
  process.setegid?.(owner.gid);
  process.seteuid?.(owner.uid);
  try {
    return act();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
  }
}

/** Furnishes the root of a held process. Everything is reached through descriptors of its mount namespace. */
export class Furnisher {
  private readonly stage: number;
  private readonly opened: number[] = [];
  private readonly furnishing: ReturnType<typeof planFurnishing>;
  private readonly launch: Launch;
  private readonly pid: number;

  constructor(launch: Launch, pid: number) {
    this.launch = launch;
    this.pid = pid;
    this.stage = this.keep(openStage(pid, launch.rootfs));
    const terminal = attempt(() => readlinkSync(`/proc/${pid}/fd/3`));
    this.furnishing = planFurnishing(launch, {
      stage: '/proc/self/fd/3',
      cwd: `/proc/${pid}/cwd/.`,
      terminal: launch.terminal ? terminal : undefined,
    });
  }

  /** What can be mounted while PID 1 is not yet in its cgroup namespace, and is a shell that nobody may write to. */
  async first(): Promise<void> {
    const { own, layers, directories, first } = this.furnishing;
    for (const name of directories) this.makeDirectory(name);
    if (layers.length === 0) return this.mount([...own, ...first]);
    await this.mount(own);
    const like = statSync(`/proc/${this.pid}/cwd`);
    for (const name of layers) {
      const path = this.makeDirectory(name);
      // an owner who is nobody in a user namespace can't be taken over
      attempt(() => chownSync(path, like.uid, like.gid));
      chmodSync(path, like.mode & 0o7777);
    }
    await this.mount(first);
  }

  private makeDirectory(name: string): string {
    const path = ofDescriptor(this.stage, name);
    asOwner(this.launch, () => mkdirSync(path, { recursive: true }));
    return path;
  }

  /** Files and devices of the stage. */
  async prepare(): Promise<void> {
    const { files, nodes, nodeFolders } = this.furnishing;
    for (const folder of nodeFolders)
      mkdirSync(ofDescriptor(this.stage, `own${folder}`), { recursive: true });
    const $ = await hostShell({ descriptors: [this.stage] });
    const made = copyCommands(nodes).map((words) => $`exec ${words('/proc/self/fd/3/own')}`);
    for (const file of files) this.makeFile(file);
    await Promise.all(made);
  }

  /** What is mounted when PID 1 has its own cgroup namespace; and all of it to where it belongs. */
  async second(): Promise<void> {
    const { second, bindings, last } = this.furnishing;
    const pending: Mount[] = [...second];
    const targets: InRoot[] = [];
    const covered: [Binding, Stats][] = [];
    const flush = async () => {
      await this.mount(pending.splice(0), targets.splice(0));
      for (const [binding, stats] of covered.splice(0)) this.takeOver(binding, stats);
    };
    for (const binding of bindings) {
      const isIn = (path: string) => targets.some((one) => `${path}/`.startsWith(`${one.path}/`));
      let target = this.find(binding);
      // it may lie in what is still to be mounted; all else lies in /proc, /sys and /dev, or beside them
      if (
        targets.length > 0 &&
        (!target || isIn(target.path) || (binding.links ?? true) !== (bindings[0]?.links ?? true))
      ) {
        await flush();
        target = this.find(binding);
      }
      target = this.check(binding, target ?? this.make(binding));
      const fd = 4 + targets.push(target) - 1;
      const path = `/proc/self/fd/${fd}${binding.kind === 'directory' ? '/.' : ''}`;
      pending.push({ source: binding.from, target: path, type: 'none', options: 'rbind' });
      if (binding.like) covered.push([binding, target.stats]);
    }
    pending.push(...last);
    await flush();
  }

  /** Gives a file system in memory the mode and owner of the directory that it covers. */
  private takeOver({ from, like }: Binding, stats: Stats): void {
    const path = ofDescriptor(this.stage, from.slice('/proc/self/fd/3/'.length));
    // an owner that a user namespace does not know stays what it is
    if (like?.uid) attempt(() => chownSync(path, stats.uid, -1));
    if (like?.gid) attempt(() => chownSync(path, -1, stats.gid));
    if (like?.mode) chmodSync(path, stats.mode & 0o7777);
  }

  /** Opens where a binding is to be; undefined where it is missing. */
  private find({ to, links = true, onLink = false }: Binding): InRoot | undefined {
    try {
      const found = openInRoot(this.root(), to, { links, lastLink: onLink });
      if (found) this.keep(found.fd);
      return found;
    } catch (error) {
      throw new Failure(`${to} is no place for a mount: ${reason(error)}`);
    }
  }

  /** The same, and makes it. */
  private make({ to, kind, links = true, like }: Binding): InRoot {
    try {
      const made = asOwner(this.launch, () => {
        const opened = openInRoot(this.root(), to, { links, make: kind });
        // for everybody, now and the next time
        if (opened && like) chmodSync(ofDescriptor(opened.fd), 0o1777);
        return opened && { ...opened, stats: fstatSync(opened.fd) };
      });
      if (!made) throw new Failure('it can not be made');
      this.keep(made.fd);
      return made;
    } catch (error) {
      throw new Failure(`${to} is no place for a mount: ${reason(error)}`);
    }
  }

  /** Throws Failure for what a binding can't be mounted on. */
  private check({ to, kind, links = true }: Binding, found: InRoot): InRoot {
    if (links && /^\/(proc(\/.*)?)?$/.test(found.path))
      throw new Failure(`${to} is no place for a mount: not / and not in /proc`);
    if (found.stats.isSymbolicLink()) return found; // as itself
    if (kind === 'file' ? !found.stats.isFile() : !found.stats.isDirectory())
      throw new Failure(`${to} is no ${kind}`);
    return found;
  }

  /** The root that is furnished: with what is mounted on it by now, so it is opened each time. */
  private root(): number {
    return this.keep(openSync(ofDescriptor(this.stage, 'root'), O_PATH));
  }

  private makeFile(file: StageFile): void {
    const path = ofDescriptor(this.stage, file.path.slice('/proc/self/fd/3/'.length));
    asOwner(this.launch, () => {
      mkdirSync(dirname(path), { recursive: true });
      if ('link' in file) symlinkSync(file.link, path);
      else writeFileSync(path, file.text, { mode: 0o644 });
    });
  }

  /** Makes mounts; `targets` are descriptors from 4 on. */
  private async mount(mounts: Mount[], targets?: InRoot[]): Promise<void> {
    if (mounts.length === 0) return;
    // mount(8) reads its table from no socket, which is what a pipe of node's is
    const table = asOwner(this.launch, () =>
      unnamedFile(ofDescriptor(this.stage), Buffer.from(fstab(mounts))),
    );
    try {
      // it has a cgroup namespace of its own when it is in its cgroups
      const enter = enterCommand(this.launch, String(this.pid), targets !== undefined);
      const $ = await hostShell({
        input: table,
        descriptors: [this.stage, ...(targets ?? []).map(({ fd }) => fd)],
      });
      await $`exec ${enter} mount --no-mtab --no-canonicalize --all --fstab /proc/self/fd/0`.catch(
        (error) => {
          const named = (_: string, fd: string, rest = '') =>
            fd === '3' ? rest : (targets?.[Number(fd) - 4]?.path ?? fd);
          throw new Failure(
            reason(error).replace(/\/proc\/self\/fd\/(\d+)(?:\/\.)?((?:\/[^:\s]+)*)/g, named),
          );
        },
      );
    } finally {
      closeSync(table);
    }
  }

  /** Makes the root of PID 1, and of its mount namespace, what was furnished; and detaches the host's. */
  async shutIn(): Promise<void> {
    const { userNamespace } = this.launch;
    const user = enterCommand({ ...this.launch, isolate: new Set() }, String(this.pid));
    // pivot_root(2): the kernel moves the root directory of PID 1 as well, and mounts the host's root on top of the new one
    const detach = userNamespace
      ? sh`${user} umount --lazy /`
      : sh`umount --lazy --namespace /proc/${this.pid}/ns/mnt /`;
    const $ = await hostShell({ descriptors: [this.root()] });
    await $`${user} --wd=/proc/self/fd/3 pivot_root . . && exec ${detach}`;
  }

  private keep(fd: number): number {
    this.opened.push(fd);
    return fd;
  }

  close(): void {
    for (const fd of this.opened.splice(0)) closeSync(fd);
  }
}

/**
 * Opens the tmpfs that PID 1 has mounted over ROOTFS. What is there by that path must be that very mount: of another
 * place, that somebody has put there meanwhile, nothing is touched.
 */
function openStage(pid: number, rootfs: string): number {
  const root = openRoot(`/proc/${pid}/root`);
  try {
    const found = openInRoot(root, rootfs, { links: false });
    const [, id] =
      /^mnt_id:\s*(\d+)/m.exec(found ? readFileSync(`/proc/self/fdinfo/${found.fd}`, 'utf8') : '') ?? [];
    const newest = readProc(pid, 'mountinfo')?.trimEnd().split('\n').at(-1) ?? '';
    if (found && newest.startsWith(`${id} `) && / - tmpfs /.test(newest)) return found.fd;
    throw new Failure(`${rootfs} changes while it is looked at`);
  } finally {
    closeSync(root);
  }
}
