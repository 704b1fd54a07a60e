// The target of network.ts: a container by its name, or any process with a network namespace of its own by its PID.
import { scriptPath } from '../helpers/called.ts';
import { readHierarchies } from '../helpers/cgroups.ts';
import { Failure } from '../helpers/cli.ts';
import { type Container, findContainers } from '../helpers/containers.ts';
import { identify } from '../helpers/engine.ts';
import { namespaceInode } from '../helpers/pids.ts';
import { belongsTo, checkName, isName, namedContainer, whileRuns } from '../helpers/target.ts';

/** A process with a network namespace of its own, which the user calls `text`. */
export interface NetworkTarget {
  text: string;
  pid: number;
  name: string;
  /** of its network namespace */
  inode: number;
  /** which container it is, if the user gave the PID of another of its processes */
  remark?: string | undefined;
}

type Found = Pick<NetworkTarget, 'pid' | 'name' | 'remark'>;

/** Finds the target. Throws Failure if there is none, or if it has the host's network. */
export function findNetwork(text: string): NetworkTarget {
  const found = /^\d+$/.test(text) ? findByPid(Number(text)) : findByName(text);
  const { pid } = found;
  const inode = namespaceInode(pid, 'net');
  if (inode === undefined)
    throw new Failure(`cannot read the network namespace of ${text}: try again as root, or as its owner`);
  if (inode === namespaceInode(process.pid, 'net'))
    throw new Failure(
      `${text} has the host's network: start it with ${scriptPath('run')} --network none, or unshare --net`,
    );
  return { ...found, text, inode };
}

/**
 * The first process of the container that this process is in or holds, if both are in the same network namespace. Else the
 * process itself.
 */
function findByPid(pid: number): Found {
  return whileRuns(pid, (table) => {
    const { containers } = findContainers(table);
    const inode = namespaceInode(pid, 'net');
    const hasSame = ({ first }: Container) => namespaceInode(first.pid, 'net') === inode;
    // unshare(1) has the namespace too, but not the root directory, and its child may outlive it
    const exact =
      containers.find(({ first }) => first.pid === pid) ??
      containers.find((container) => container.first.ppid === pid && hasSame(container));
    // a container inside another may share its network, which has the name of the outer one
    const container = exact ?? containers.find((one) => one.members.has(pid) && hasSame(one));
    const first = container?.first.pid ?? pid;
    const known = container && identify(table, container).name;
    const remark = container && !exact ? belongsTo(pid, known, container.first) : undefined;
    return {
      pid: first,
      name: known && isName(known) && known.length <= 63 ? known : `pid-${first}`,
      remark,
    };
  });
}

function findByName(name: string): Found {
  checkName(name);
  const { first } = namedContainer(readHierarchies(), name);
  if (!first)
    throw new Failure(
      `no process of ${name} is running: ${scriptPath('stop')} ${name} removes what is left of it`,
    );
  return { pid: first.pid, name };
}
