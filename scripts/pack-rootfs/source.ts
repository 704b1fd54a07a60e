// What is packed: a directory, or the root directory of a container as it is now.
import { closeSync, openSync, readlinkSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { scriptPath } from '../helpers/called.ts';
import { readHierarchies } from '../helpers/cgroups.ts';
import { Failure, reason } from '../helpers/cli.ts';
import { ofDescriptor, openRoot } from '../helpers/in-root.ts';
import { didYouMean } from '../helpers/messages.ts';
import { attempt, namespaceInode, startTicks } from '../helpers/pids.ts';
import { rootfsFolder, rootfsNames } from '../helpers/rootfs.ts';
import { type Command, sh } from '../helpers/shell.ts';
import { findContainer, isName, ownContainers, type WholeContainer } from '../helpers/target.ts';
import { asRoot, isRoot } from '../images/confine.ts';

/** A root directory to pack, open. */
export interface Source {
  /** what messages call it */
  label: string;
  /** the root directory, with O_PATH; its processes can't change which directory that is */
  root: number;
  /**
   * The words before a command that is started in `root`: it runs in a copy of the mount namespace of `root`, where it
   * may mount. The descriptors `namespaces` are its descriptors 3 and 4.
   */
  enter: Command;
  namespaces: number[];
  /** the same words by paths, and the directory from there, for --dry-run */
  printed: { enter: Command; directory: string };
}

/** What a ROOTFS operand means: a directory, or a container that runs. Throws Failure if it is neither. */
export function findRootfs(operand: string): { directory: string } | { container: WholeContainer } {
  const isDirectory = (path: string) => attempt(() => statSync(path).isDirectory());
  if (!isName(operand)) {
    if (isDirectory(operand)) return { directory: resolve(operand) };
    const what = attempt(() => statSync(operand)) ? 'it is not a directory' : 'there is no such directory';
    throw new Failure(`cannot pack ${operand}: ${what}`);
  }
  const hierarchies = readHierarchies();
  const directory = join(rootfsFolder, operand);
  const isContainer = /^\d+$/.test(operand) || ownContainers(hierarchies).includes(operand);
  const container = isContainer ? attempt(() => findContainer(hierarchies, operand)) : undefined;
  if (container?.first) {
    const remark = isDirectory(directory)
      ? `${operand} is a container that runs; type ${directory} for the folder in rootfs/`
      : container.remark;
    return { container: { ...container, remark } };
  }
  if (isDirectory(directory)) return { directory };
  if (isContainer) return { container: findContainer(hierarchies, operand) };
  const near = didYouMean(operand, [...rootfsNames(), ...ownContainers(hierarchies)]);
  throw new Failure(
    `there is no container and no folder in rootfs/ with the name ${operand}${near || `: ${scriptPath('ps')} shows containers; a path has a / in it: ./${operand}`}`,
  );
}

const unshare = sh`unshare --mount --propagation unchanged`;

/** Opens a directory. Throws Failure. */
export function openDirectory(path: string): Source {
  const enter = [...asRoot, ...(isRoot ? unshare : sh`--mount --propagation unchanged`)];
  try {
    const printed = { enter: [...asRoot, ...(isRoot ? sh`unshare --mount` : sh`--mount`)], directory: path };
    return { label: path, root: openRoot(path), enter, namespaces: [], printed };
  } catch (error) {
    throw new Failure(`cannot open ${path}: ${reason(error)}`);
  }
}

/**
 * Opens the root directory of a container, as its first process has it: the merged overlay of an --ephemeral one. Owners
 * are as in its user namespace. Throws Failure if it has ended, or this user may not.
 */
export function openContainer({ first, label, startTicks: started }: WholeContainer): Source {
  if (!first) throw new Failure(`${label} has ended: pack the directory that it was started from`);
  const { pid } = first;
  const opened: number[] = [];
  const open = (file: string) => {
    opened.push(openSync(`/proc/${pid}/${file}`, 'r'));
    return opened.at(-1) as number;
  };
  try {
    const root = openRoot(`/proc/${pid}/root`);
    opened.push(root);
    const isOther = (type: string) => namespaceInode(pid, type) !== namespaceInode(process.pid, type);
    // a chroot(2) in this mount namespace
    const path = readlinkSync(`/proc/${pid}/root`);
    const isHere = !isOther('mnt');
    const user = isOther('user') ? [open('ns/user')] : [];
    const mount = isHere ? [] : [open('ns/mnt')];
    if (startTicks(pid) !== started) throw new Failure('it has ended');
    if (isHere) return { ...openDirectory(path), label, root };
    const joining = user.length > 0 && !isRoot ? ['--preserve-credentials'] : [];
    // nsenter(1) finds its programs on the host: --root=/ is opened before it joins
    const words = (userFile: string, mountFile: string, directory: string) => [
      ...sh`nsenter ${joining} ${user.length > 0 ? [`--user=${userFile}`] : []}`,
      ...sh`--mount=${mountFile} --root=/ --wd=${directory} ${unshare}`,
    ];
    const [one, other] = ['/proc/self/fd/3', '/proc/self/fd/4'];
    return {
      label,
      root,
      enter: words(one, user.length > 0 ? other : one, '.'),
      namespaces: [...user, ...mount],
      printed: {
        enter: words(`/proc/${pid}/ns/user`, `/proc/${pid}/ns/mnt`, `/proc/${pid}/root`),
        directory: path === '/' ? '..' : `../${basename(path)}`,
      },
    };
  } catch (error) {
    for (const descriptor of opened) closeSync(descriptor);
    throw new Failure(`cannot enter ${label} (PID ${pid}): ${reason(error)}`);
  }
}

/** Where a child is started in the root directory. */
export const workingDirectory = ({ root }: Source): string => ofDescriptor(root);
