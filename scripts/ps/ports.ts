// Ports of the host that lead to containers of ours, by the inode of their network namespace.
import type { Container } from '../helpers/containers.ts';
import { attempt, namespaceInode, readProc } from '../helpers/pids.ts';
import type { Port } from '../network/addresses.ts';

/**
 * A function that tells the published ports of a container. Firewall rules are read only if a container is attached, since
 * that starts a program.
 */
export async function readPorts(): Promise<(container: Container) => Port[]> {
  const byInode = new Map<number, Port[]>();
  const add = (inode: number | undefined, ports: Port[]) => {
    if (inode !== undefined) byInode.set(inode, [...(byInode.get(inode) ?? []), ...ports]);
  };
  // the outer end of a pair is named after the inode: bh4026532345, or …-1
  const links = [...(readProc('self', 'net/dev') ?? '').matchAll(/^ *(bh(\d+)(?:-\d)?):/gm)];
  if (process.getuid?.() !== 0) {
    const { readRootless } = await import('../network/rootless.ts');
    for (const { pid, ports } of attempt(readRootless) ?? []) add(namespaceInode(Number(pid), 'net'), ports);
  } else if (links.length > 0) {
    const { portsOf, readRules } = await import('../network/rules.ts');
    // without the firewall's program there is no table of ours either
    const rules = await readRules().catch(() => undefined);
    for (const [, link = '', inode] of links) if (rules) add(Number(inode), portsOf(rules, link));
  }
  return ({ first, enclosing }) => {
    const inode = byInode.size > 0 ? namespaceInode(first.pid, 'net') : undefined;
    // the ports of a container inside that shares the network are those of the outer one
    const isOuter = !enclosing || namespaceInode(enclosing.first.pid, 'net') !== inode;
    return (inode !== undefined && isOuter && byInode.get(inode)) || [];
  };
}
