// The network of a container that run.ts starts: that of the host, none, that of another container, or an interface of
// its own: for root on a bridge, for other users by pasta(1) or slirp4netns(1).
import { constants, existsSync, fstatSync, openSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { Failure, UsageError } from '../helpers/cli.ts';
import { attempt, namespaceInode } from '../helpers/pids.ts';
import { installCommand } from '../helpers/programs.ts';
import type { Command } from '../helpers/shell.ts';
import type { Port } from '../network/addresses.ts';
import type { Connection, Launch } from './container.ts';
import type { Text } from './furnish.ts';

/** The value of --network: `target` is a name or PID. */
export type NetworkChoice = { kind: 'host' | 'none' | 'bridge' } | { kind: 'container'; target: string };

/** Parses the value of --network. Throws UsageError. */
export function parseNetwork(text: string): NetworkChoice {
  if (text === 'host' || text === 'none' || text === 'bridge') return { kind: text };
  const [, target] = /^container:(.+)$/.exec(text) ?? [];
  if (target !== undefined) return { kind: 'container', target };
  throw new UsageError(`--network is host, none, bridge or container:NAME, not ${text}`);
}

/** Options and facts that a network depends on. */
export interface NetworkWishes {
  /** the container's */
  name: string;
  choice: NetworkChoice;
  ports: Port[];
  /** lines of /etc/hosts and of /etc/resolv.conf */
  hosts: string[];
  nameservers: string[];
  /** its own name, where it has one */
  hostname: string;
  isRoot: boolean;
  /** it has a root directory of its own, whose files may be mounted over */
  hasFiles: boolean;
}

/** The network of a launch, and the files in /etc that belong to it. */
export interface LaunchNetwork {
  connection: Connection | undefined;
  joins: Launch['joins'];
  texts: Text[];
  /** a message for the caller */
  warning: string | undefined;
}

/**
 * The text of a small file in the /etc of the container whose network is shared; undefined if there is no such file.
 * A symlink would lead into the host's files, so none is followed: open(2) O_NOFOLLOW.
 */
function readEtc(pid: number, name: string): string | undefined {
  const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;
  return attempt(() => {
    const folder = openSync(`/proc/${pid}/root/etc`, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    const file = openSync(`/proc/self/fd/${folder}/${name}`, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (!fstatSync(file).isFile() || fstatSync(file).size > 32_768) return undefined;
    const text = readFileSync(file, 'utf8').trim();
    return text.includes('\0') ? undefined : text;
  });
}

/** Plans the network of a launch. Throws Failure if this host or this user cannot have it. */
export async function planNetwork(wishes: NetworkWishes): Promise<LaunchNetwork> {
  const { name, choice, ports, hosts, nameservers, hostname, isRoot, hasFiles } = wishes;
  const own = `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t${hostname}`;
  const files = (hostsText?: string, resolvText?: string): Text[] => [
    ...(hostsText === undefined ? [] : [{ path: '/etc/hosts', text: [hostsText, ...hosts].join('\n') }]),
    ...(resolvText === undefined ? [] : [{ path: '/etc/resolv.conf', text: resolvText }]),
  ];
  const asked = files(
    hosts.length > 0 ? own : undefined,
    nameservers.length > 0 ? nameservers.join('\n') : undefined,
  );
  const plain = { connection: undefined, joins: undefined, texts: asked, warning: undefined };
  if (choice.kind === 'host' || choice.kind === 'none') return plain;

  if (choice.kind === 'container') {
    if (!isRoot)
      throw new Failure(
        '--network container:NAME needs root: a user may not join the network of another user namespace',
      );
    const { hasHostRoot } = await import('../network/files.ts');
    const { findNetwork } = await import('../network/target.ts');
    const { pid, inode } = findNetwork(choice.target);
    const joins = { pid, inode, label: choice.target };
    if (!hasFiles || hasHostRoot(pid)) return { ...plain, joins };
    const its = readEtc(pid, 'hosts');
    const resolv = nameservers.length > 0 ? nameservers.join('\n') : readEtc(pid, 'resolv.conf');
    return {
      ...plain,
      joins,
      texts: files(its === undefined ? own : `${its}\n127.0.1.1\t${hostname}`, resolv),
    };
  }

  const { isListening, readNameservers } = await import('../network/host.ts');
  const { checkPublished, defaultBridge } = await import('../network/plan.ts');
  for (const port of ports)
    if (isListening(port)) throw new Failure(`port ${port.hostPort} of this host is in use: ss -ltnup`);
  if (isRoot) {
    checkPublished(ports);
    const dns = nameservers.map((line) => line.split(' ')[1] as string);
    const { attach, leave, printAttachNew } = await import('../network/network.ts');
    const wishes = { bridge: defaultBridge, dns };
    const wanted = { ip: undefined, isolated: false, ports, noFiles: !hasFiles };
    const texts = hasFiles ? files(own, nameservers.join('\n')) : []; // attach fills them
    const connection: Connection = {
      attach: async (pid) => {
        const find = () => ({ pid, name, inode: namespaceInode(pid, 'net') ?? 0 });
        const { attachment, warnings } = await attach(wishes, wanted, find);
        for (const warning of warnings) console.error(`run: ${warning}`);
        return () => leave(attachment);
      },
      afterwards: (pid) => sweeper(namespaceInode(pid, 'net')),
      print: (pid, inode) => {
        const its = Object.fromEntries(
          texts.map(({ path, text }) => [path.slice('/etc/'.length), `${text}\n`]),
        );
        return printAttachNew(wishes, wanted, { name, pid, inode, files: its });
      },
    };
    return { ...plain, connection, texts };
  }
  const { carry, endCarriersOf, findCarrier, forwarder, planCarry } = await import('../network/rootless.ts');
  const carrier = findCarrier();
  if (!carrier && ports.length > 0) throw new Failure(`--publish: ${noCarrier()}`);
  if (!carrier)
    return {
      ...plain,
      warning: `--network bridge: the container has a loopback interface only: ${noCarrier()}`,
    };
  const { search } = readNameservers();
  const resolv = [
    `nameserver ${forwarder[carrier]}`,
    ...(search.length > 0 ? [`search ${search.join(' ')}`] : []),
  ];
  return {
    ...plain,
    connection: {
      attach: async (pid) => {
        await carry(carrier, ports, pid);
        const ended = endCarriersOf(pid); // whose network they carry is to be told only now
        return ended;
      },
      afterwards: () => [], // a carrier ends with the container
      print: async (pid) => [planCarry(carrier, ports, pid)],
    },
    texts: files(own, (nameservers.length > 0 ? nameservers : resolv).join('\n')),
  };
}

const noCarrier = () => `without root it needs pasta(1) or slirp4netns(1): ${installCommand(['pasta'])}`;

/**
 * The command that removes the network of a container that has ended after run.ts: network.ts sweep, if network.ts is
 * beside this script.
 */
function sweeper(inode: number | undefined): Command {
  const script = realpathSync(process.argv[1] ?? '.');
  const network = join(dirname(script), `network${extname(script)}`);
  return existsSync(network) && inode !== undefined ? [network, 'sweep', String(inode)] : [];
}
