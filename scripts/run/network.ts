// The network of a container that run.ts starts: that of the host, none, that of another container, or an interface of
// its own: for root on a bridge, for other users by pasta(1) or slirp4netns(1).
import { existsSync } from 'node:fs';
import { scriptFile } from '../helpers/called.ts';
import { Failure, UsageError } from '../helpers/cli.ts';
import { didYouMean } from '../helpers/messages.ts';
import { namespaceInode } from '../helpers/pids.ts';
import type { Command } from '../helpers/shell.ts';
import { type Port, publishedUrl } from '../network/addresses.ts';
import type { Connection, Launch } from './container.ts';
import type { Text } from './furnish.ts';

/** The value of --network: `target` is a name or PID. */
export type NetworkChoice = { kind: 'host' | 'none' | 'bridge' } | { kind: 'container'; target: string };

/** Parses the value of --network. Throws UsageError. */
export function parseNetwork(text: string): NetworkChoice {
  if (text === 'host' || text === 'none' || text === 'bridge') return { kind: text };
  const [, target] = /^container:(.+)$/.exec(text) ?? [];
  if (target !== undefined) return { kind: 'container', target };
  throw new UsageError(
    `--network is host, none, bridge or container:NAME, not ${text}${didYouMean(text, ['host', 'none', 'bridge'])}`,
  );
}

/** Options and facts that a network depends on. */
interface NetworkRequest {
  /** the container's */
  name: string;
  choice: NetworkChoice;
  ports: Port[];
  /** lines of /etc/hosts and of /etc/resolv.conf */
  hosts: string[];
  nameservers: string[];
  /** its own name, or that of the host */
  hostname: string;
  isRoot: boolean;
  /** it has a root directory of its own, whose files may be mounted over */
  hasFiles: boolean;
}

/** The network of a launch, and the files in /etc that belong to it. */
interface LaunchNetwork {
  connection?: Connection;
  joins?: Launch['joins'];
  texts: Text[];
  /** a message for the user */
  warning?: string;
}

/** Plans the network of a launch. Throws Failure if this host or this user cannot have it. */
export async function planNetwork(request: NetworkRequest): Promise<LaunchNetwork> {
  const { choice, ports, isRoot } = request;
  if (choice.kind === 'container') return shareNetwork(request, choice.target);
  if (choice.kind !== 'bridge') return { texts: askedTexts(request) };
  const { checkPorts } = await import('../network/host.ts');
  checkPorts(ports);
  return isRoot ? planBridged(request) : planCarried(request);
}

/** /etc/hosts and /etc/resolv.conf as options ask for, else with this text; undefined: the file of ROOTFS stays. */
const etcTexts = ({ nameservers }: NetworkRequest, hosts: string | undefined, resolver?: string): Text[] =>
  [
    { path: '/etc/hosts', text: hosts },
    { path: '/etc/resolv.conf', text: nameservers.join('\n') || resolver },
  ].filter((file): file is Text => file.text !== undefined);

/** The text of /etc/hosts, which begins with `localhost`, or lines of another container. */
const hostsText = (
  { hosts, hostname }: NetworkRequest,
  localhost = '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback',
) => [localhost, `127.0.1.1\t${hostname}`, ...hosts].join('\n');

/** The files that options ask for. */
const askedTexts = (request: NetworkRequest) =>
  etcTexts(request, request.hosts.length > 0 ? hostsText(request) : undefined);

/** The network of another container, with copies of the files that belong to it. */
async function shareNetwork(request: NetworkRequest, label: string): Promise<LaunchNetwork> {
  if (!request.isRoot)
    throw new Failure(
      '--network container:NAME needs root: a user may not join the network of another user namespace',
    );
  const { hasHostRoot, readEtc } = await import('../network/files.ts');
  const { findNetwork } = await import('../network/target.ts');
  const { pid, inode } = findNetwork(label);
  const joins = { pid, inode, label };
  if (!request.hasFiles || hasHostRoot(pid)) return { joins, texts: askedTexts(request) };
  const copyOf = (name: 'hosts' | 'resolv.conf') => {
    const text = readEtc({ name, pid, inode })?.trim() ?? '';
    // the tmpfs that holds the copy is small, and a NUL is no text
    return text.length > 32_768 || text.includes('\0') ? undefined : text || undefined;
  };
  return { joins, texts: etcTexts(request, hostsText(request, copyOf('hosts')), copyOf('resolv.conf')) };
}

/** Prints where published ports are. */
function announce(ports: Port[]): void {
  for (const port of ports) console.error(`run: port ${port.port} is published at ${publishedUrl(port)}`);
}

/** An interface on a bridge of network.ts. */
async function planBridged(request: NetworkRequest): Promise<LaunchNetwork> {
  const { name, ports, hasFiles, nameservers } = request;
  const { defaultBridge } = await import('../network/plan.ts');
  const { attach, leave, printAttach } = await import('../network/network.ts');
  const dns = nameservers.map((line) => line.split(' ')[1] as string);
  const wanted = { bridge: defaultBridge, dns, ports, noFiles: !hasFiles };
  const texts = etcTexts(request, hostsText(request), ''); // attach adds lines
  const [hosts, resolver] = texts.map(({ text }) => text && `${text}\n`);
  return {
    connection: {
      attach: async (pid) => {
        const inode = namespaceInode(pid, 'net') ?? 0;
        const { warnings } = await attach(wanted, { pid, name, inode, text: name });
        for (const warning of warnings) console.error(`run: ${warning}`);
        announce(ports);
        return () => leave(inode);
      },
      afterwards: (pid) => sweeper(namespaceInode(pid, 'net')),
      print: (pid, inode) => printAttach(wanted, { name, pid, inode }, { hosts, 'resolv.conf': resolver }),
    },
    texts: hasFiles ? texts : [],
  };
}

/** An interface whose packets a process of the user carries. */
async function planCarried(request: NetworkRequest): Promise<LaunchNetwork> {
  const { ports } = request;
  const { carriersEnd, carry, findCarrier, forwarder, noCarrier, planCarry } = await import(
    '../network/rootless.ts'
  );
  const { readNameservers, resolverLines } = await import('../network/resolver.ts');
  const carrier = findCarrier();
  if (!carrier && ports.length > 0) throw new Failure(`--publish: ${noCarrier()}`);
  if (!carrier)
    return {
      texts: askedTexts(request),
      warning: `--network bridge: the container has a loopback interface only: ${noCarrier()}`,
    };
  const carried = resolverLines([forwarder[carrier]], readNameservers().search).join('\n');
  return {
    connection: {
      attach: async (pid) => {
        await carry(carrier, ports, pid);
        announce(ports);
        return carriersEnd(pid);
      },
      afterwards: () => [], // a carrier ends with the container
      print: async (pid) => [planCarry(carrier, ports, pid)],
    },
    texts: etcTexts(request, hostsText(request), carried),
  };
}

/**
 * The command that removes the network of a container that has ended after run.ts: network.ts sweep, if network.ts is
 * beside this script.
 */
function sweeper(inode: number | undefined): Command {
  const network = scriptFile('network');
  return existsSync(network) && inode !== undefined ? [network, 'sweep', String(inode)] : [];
}
