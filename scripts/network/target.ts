// Whose network is meant: a container by its name, or the PID of any process with a network namespace of its own.
import { readHierarchies } from '../helpers/cgroups.ts';
import { Failure, UsageError } from '../helpers/cli.ts';
import { findContainers, identify } from '../helpers/containers.ts';
import { namespaceInode, readProcess, readProcesses } from '../helpers/pids.ts';
import { isName, namedContainer } from '../helpers/target.ts';

/** A process with a network namespace of its own, which the user calls `text`. */
export interface NetworkTarget {
  text: string;
  pid: number;
  name: string;
  /** of its network namespace */
  inode: number;
}

/** Finds the process whose network namespace is meant. Throws Failure where it is the host's. */
export function findNetwork(text: string): NetworkTarget {
  let pid = Number(text);
  let name = `pid-${text}`;
  if (/^\d+$/.test(text)) {
    const process_ = readProcess(pid);
    if (!process_ || process_.zombie)
      throw new Failure(`there is no process ${text}: ps.ts shows containers, ps(1) processes`);
    const table = readProcesses();
    const { containers } = findContainers(table);
    const inode = namespaceInode(pid, 'net');
    // unshare(1) has the namespace too, but not the root directory, and its child may outlive it
    const container =
      containers.find(({ first }) => first.pid === pid) ??
      containers.find(({ first }) => first.ppid === pid && namespaceInode(first.pid, 'net') === inode);
    pid = container?.first.pid ?? process_.pid;
    const known = container && identify(table, container);
    name = known?.name && isName(known.name) && known.name.length <= 63 ? known.name : `pid-${pid}`;
  } else {
    if (!isName(text)) throw new UsageError(`neither a name nor a PID: ${JSON.stringify(text)}`);
    const { first } = namedContainer(readHierarchies(), text);
    if (!first) throw new Failure(`nothing of ${text} is running`);
    pid = first.pid;
    name = text;
  }
  const inode = namespaceInode(pid, 'net');
  if (inode === undefined)
    throw new Failure(`may not look at the network namespace of ${text}: run it as root, or as its owner`);
  if (inode === namespaceInode(process.pid, 'net'))
    throw new Failure(
      `${text} has the host's network: start it with run.ts --network none, or unshare --net`,
    );
  return { text, pid, name, inode };
}
