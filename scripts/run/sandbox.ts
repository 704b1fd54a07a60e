// `--sandbox`: the restrictions for a command that is not trusted, as values of other options.
import { posix } from 'node:path';
import { capabilities } from '../helpers/capabilities.ts';
import { reason, UsageError } from '../helpers/cli.ts';
import { isBelow } from '../helpers/mounts.ts';
import { runProgram } from '../helpers/shell.ts';
import type { Tmpfs, Volume } from './furnish.ts';
import { holdUserNamespace } from './held.ts';
import { idmapCommand } from './idmap.ts';
import type { NetworkChoice } from './network.ts';
import { freeNamespace, type UserNamespace, unreachable } from './userns.ts';

/** The options that --sandbox sets. */
interface Restricted {
  sandbox: boolean;
  privileged: boolean;
  network: NetworkChoice | undefined;
  readOnly: boolean;
  ephemeral: boolean;
  volume: Volume[];
  mount: ({ volume: Volume } | { tmpfs: Tmpfs })[];
  tmpfs: Tmpfs[];
  capAdd: string[][];
  capDrop: string[][];
  memory: number | undefined;
  pidsLimit: number | undefined;
}

/** Directories that programs expect to be writable. */
const writable = ['/tmp', '/run', '/var/tmp'];

/** The options with what --sandbox adds: an option that was given explicitly keeps its value. Throws UsageError. */
export function addSandbox<Options extends Restricted>(given: Options): Options {
  if (!given.sandbox) return given;
  if (given.privileged)
    throw new UsageError('--privileged lifts the restrictions that --sandbox sets: choose one');
  const others = given.mount.map((one) => ('volume' in one ? one.volume : one.tmpfs));
  const mounts = [...given.volume, ...given.tmpfs, ...others].map(({ path }) => posix.resolve('/', path));
  // no mount point is created in a volume, which is a directory of the host
  const isCovered = (path: string) => mounts.some((mount) => isBelow(path, mount));
  const tmpfs = writable.filter((path) => !isCovered(path));
  const addsAll = capabilities.every((name) => given.capAdd.flat().includes(name));
  return {
    ...given,
    network: given.network ?? { kind: 'none' },
    readOnly: given.readOnly || !given.ephemeral,
    tmpfs: [...given.tmpfs, ...tmpfs.map((path) => ({ path, options: ['nosuid', 'noexec'] }))],
    // --cap-add adds to what is left, as in Docker
    capDrop: addsAll ? given.capDrop : [...given.capDrop, capabilities],
    memory: given.memory ?? 512 * 1024 * 1024,
    pidsLimit: given.pidsLimit ?? 256,
  };
}

/**
 * The user namespace that --sandbox gives a container of root; a string says why this host or ROOTFS allows none.
 * `sources`: directories of the host that are mounted in the container.
 */
export async function sandboxNamespace(
  name: string,
  rootfs: string,
  sources: string[],
): Promise<UserNamespace | string> {
  try {
    const namespace = freeNamespace(name);
    const obstacle = unreachable([rootfs, ...sources], namespace);
    if (obstacle !== undefined) return obstacle;
    // the file system of ROOTFS may not support ID-mapped mounts, and only an attempt tells
    const holder = await holdUserNamespace(namespace);
    try {
      const file = `/proc/${holder.child.pid}/ns/user`;
      const words = ['unshare', '--mount', ...(await idmapCommand()), file, rootfs, 'true'];
      const { exitCode, stderr } = await runProgram(words);
      return exitCode === 0 ? namespace : stderr.trim().replaceAll('\n', '; ');
    } finally {
      await holder.abort();
    }
  } catch (error) {
    return reason(error);
  }
}
