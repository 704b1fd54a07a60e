// Facts about this host that a network depends on: its links, addresses and routes, its firewall, its settings.
import { readFileSync } from 'node:fs';
import { attempt, readProc } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import type { Port } from './addresses.ts';
import { readResolver, serversIn } from './resolver.ts';
import { type Firewall, findFirewall, output, portsOf, type Rules, readRules } from './rules.ts';

/** A network interface, as `ip -j -d address show` has it. */
export interface Link {
  ifname: string;
  mtu: number;
  master?: string;
  group?: string;
  ifalias?: string;
  linkinfo?: { info_kind?: string; info_slave_data?: { isolated?: boolean } };
  addr_info?: { local: string; prefixlen: number; scope: string }[];
}

/** A route, as `ip -j route show` has it. */
export interface Route {
  dst: string;
  dev?: string;
  protocol?: string;
  type?: string;
}

/** The host at one moment. Under the lock of network.ts nobody else of this project changes it. */
export interface Facts {
  links: Link[];
  routes: Route[];
  routes6: Route[];
  rules: Rules;
}

/** Reads them, with ip(8) once and the firewall's program at the same time. Throws Failure where it may not. */
export async function readFacts(firewall: Firewall = findFirewall()): Promise<Facts> {
  // a prefix of 0.0.0.0/0 or ::/0 chooses the version of IP
  const commands = ['address show', 'route show table all root 0.0.0.0/0', 'route show table all root ::/0'];
  const [said, rules] = await Promise.all([
    output(sh`ip -j -d -batch -`, commands.map((line) => `${line}\n`).join('')),
    readRules(firewall),
  ]);
  const [links, routes, routes6] = said.trim().split('\n');
  return {
    links: rows<Link>(links),
    routes: rows<Route>(routes),
    routes6: rows<Route>(routes6),
    rules,
  };
}

/** An interface that is being removed leaves an empty object. */
const rows = <Row>(json = '[]') =>
  (JSON.parse(json) as Row[]).filter((row) => Object.keys(row as object).length > 0);

/** A container's interface, as the kernel and the alias of its outer end tell it. */
export interface Attachment {
  name: string;
  pid: number;
  /** the outer end of the pair */
  link: string;
  bridge: string | undefined;
  /** the name of the inner end */
  interface: string;
  address: string;
  address6: string | undefined;
  ports: Port[];
}

/** The same, with what only this project needs to know. */
export interface Member extends Attachment {
  isolated: boolean;
  /** its /etc/hosts and /etc/resolv.conf stay as they are */
  noFiles: boolean;
}

/** The outer end of a container's pair is named after the inode of its network namespace: bh4026532345, or …-1. */
export const isLink = (name: string) => /^bh\d+(-\d)?$/.test(name);
export const inodeOf = (link: string) => Number(/^bh(\d+)/.exec(link)?.[1]);

/** The interfaces that containers have got, in the order in which they got them. */
export function membersOf({ links, rules }: Facts): Member[] {
  const ports = portsOf(rules);
  return links.flatMap(({ ifname, master, ifalias, linkinfo }) => {
    const [mark, name = '', pid, inside = '', address = '', address6] = ifalias?.trim().split(' ') ?? [];
    if (mark !== 'barehand' || !isLink(ifname)) return [];
    return {
      name,
      pid: Number(pid),
      link: ifname,
      bridge: master,
      interface: inside.replace(':', ''),
      address,
      address6,
      ports: ports.get(ifname) ?? [],
      isolated: linkinfo?.info_slave_data?.isolated === true,
      noFiles: inside.endsWith(':'),
    };
  });
}

/** Where a setting of the kernel's is, `net/ipv4/ip_forward`, and its value; undefined where this kernel has none. */
export const settingPath = (name: string) => `/proc/sys/${name}`;
export const readSetting = (name: string): string | undefined =>
  attempt(() => readFileSync(settingPath(name), 'utf8').trim());

/** Name servers that a container can reach: none on the host's loopback. */
export function readNameservers(): { nameservers: string[]; search: string[] } {
  const isLoopback = (server: string) => /^127\.|^::1$|%/.test(server);
  const text = readResolver();
  const search = [...text.matchAll(/^[ \t]*search[ \t]+(.*)$/gm)].at(-1)?.[1]?.trim().split(/\s+/) ?? [];
  return { nameservers: serversIn(text).filter((server) => !isLoopback(server)), search };
}

/** Whether a process of the host listens on a port, by /proc/net, proc(5): a container would take it from it. */
export function isListening({ hostPort, protocol }: Port): boolean {
  return [protocol, `${protocol}6`].some((table) =>
    (attempt(() => readFileSync(`/proc/net/${table}`, 'utf8')) ?? '').split('\n').some((line) => {
      const [, local = '', , state] = line.trim().split(/\s+/);
      return (
        Number.parseInt(local.split(':')[1] ?? '', 16) === hostPort && (protocol === 'udp' || state === '0A')
      );
    }),
  );
}

/** What a process has in its network namespace already. */
export interface Inside {
  interfaces: string[];
  /** whether it has a default route of IPv4, of IPv6 */
  hasRoute: boolean;
  hasRoute6: boolean;
}

/** Reads that from /proc/PID/net, proc(5), without a program. */
export function readInside(pid: number): Inside {
  const read = (name: string) => readProc(pid, `net/${name}`) ?? '';
  return {
    interfaces: [...read('dev').matchAll(/^ *([^\s:]+):/gm)].flatMap(([, name]) => name ?? []),
    // destination and mask are zero
    hasRoute: /^\S+\t0{8}\t.*\t0{8}\t\d+\t\d+\t\d+ *$/m.test(read('route')),
    hasRoute6: /^0{32} 00 .* (?!lo$)\S+$/m.test(read('ipv6_route')),
  };
}
