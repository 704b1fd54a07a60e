// Whose network is meant: a container by its name, or the PID of any process with a network namespace of its own.
import { readHierarchies } from '../helpers/cgroups.ts';
import { Failure, UsageError } from '../helpers/cli.ts';
import { findContainers } from '../helpers/containers.ts';
import { scriptPath } from '../helpers/messages.ts';
import { namespaceInode, readProcess, readProcesses } from '../helpers/pids.ts';
import { isName, namedContainer } from '../helpers/target.ts';
import { identify } from '../ps/engine.ts';

/** A process with a network namespace of its own, which the user calls `text`. */
export interface NetworkTarget {
  text: string;
  pid: number;
  name: string;
  /** of its network namespace */
  inode: number;
}

/** Finds the process whose network namespace is meant. Throws Failure if there is none, or it has the host's network. */
export function findNetwork(text: string): NetworkTarget {
  const { pid, name } = /^\d+$/.test(text) ? findByPid(Number(text)) : findByName(text);
  const inode = namespaceInode(pid, 'net');
  if (inode === undefined)
    throw new Failure(`cannot read the network namespace of ${text}: try again as root, or as its owner`);
  if (inode === namespaceInode(process.pid, 'net'))
    throw new Failure(
      `${text} has the host's network: start it with ${scriptPath('run')} --network none, or unshare --net`,
    );
  return { text, pid, name, inode };
}

/** The process, or PID 1 of its container if it is the unshare(1) that started that. */
function findByPid(pid: number) {
  const process_ = readProcess(pid);
  if (!process_ || process_.zombie)
    throw new Failure(`there is no process ${pid}: ${scriptPath('ps')} shows containers, ps(1) processes`);
  const table = readProcesses();
  const { containers } = findContainers(table);
  const inode = namespaceInode(pid, 'net');
  // unshare(1) has the namespace too, but not the root directory, and its child may outlive it
  const container =
    containers.find(({ first }) => first.pid === pid) ??
    containers.find(({ first }) => first.ppid === pid && namespaceInode(first.pid, 'net') === inode);
  const first = container?.first.pid ?? process_.pid;
  const known = container && identify(table, container).name;
  return { pid: first, name: known && isName(known) && known.length <= 63 ? known : `pid-${first}` };
}

function findByName(name: string) {
  if (!isName(name)) throw new UsageError(`neither a name nor a PID: "${name}"`);
  const { first } = namedContainer(readHierarchies(), name);
  if (!first)
    throw new Failure(
      `no process of ${name} is running: ${scriptPath('stop')} ${name} removes what is left of it`,
    );
  return { pid: first.pid, name };
}
