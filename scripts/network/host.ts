// Facts about this host that a network depends on: its links, addresses and routes, its firewall, its settings.
import { readFileSync } from 'node:fs';
import { Failure, UsageError } from '../helpers/cli.ts';
import { attempt, readProc } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import type { Port } from './addresses.ts';
import { textOf } from './files.ts';
import { group, output, portsOf, type Rules, readRules } from './rules.ts';

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

/** A PID or an inode; a string is a shell variable, in a plan that is only printed. */
export type Id = number | string;

/** An interface of a container, as the kernel and the alias of its outer end describe it. */
export interface Attachment {
  name: string;
  pid: Id;
  /** the outer end of the pair */
  link: string;
  bridge: string | undefined;
  /** the name of the inner end */
  interface: string;
  address: string;
  address6: string | undefined;
  ports: Port[];
  /** it cannot reach other isolated members of the bridge */
  isolated: boolean;
  /** its /etc/hosts and /etc/resolv.conf stay as they are */
  noFiles: boolean;
}

/** The host at one moment. Under the lock of network.ts nobody else of this project changes it. */
export interface Facts {
  /** all but those that are half made */
  links: Link[];
  routes: Route[];
  routes6: Route[];
  rules: Rules;
  /** in the order in which they were attached */
  attachments: Attachment[];
  /** bridges of ours: by their group, or by their rules if the bridge itself is gone */
  bridges: string[];
  /** what killed calls and ended containers have left: pairs without an alias, and rules of links that are gone */
  halves: string[];
  deadRules: string[];
}

/** Reads the facts by one call of ip(8), and by the firewall's program meanwhile. Throws Failure if this process may not. */
export async function readFacts(): Promise<Facts> {
  // a prefix of 0.0.0.0/0 or ::/0 chooses the version of IP
  const commands = ['address show', 'route show table all root 0.0.0.0/0', 'route show table all root ::/0'];
  const [rules, json] = await Promise.all([readRules(), output(sh`ip -j -d -batch -`, textOf(commands))]);
  const [addresses, routes, routes6] = json.trim().split('\n');
  const all = rows<Link>(addresses);
  const halves = all.filter(
    ({ ifname, ifalias, linkinfo }) =>
      isLink(ifname) && linkinfo?.info_kind === 'veth' && !ifalias?.startsWith('barehand '),
  );
  const links = all.filter((link) => !halves.includes(link));
  const present = namesOf(links);
  const names = [...rules.tables.keys()];
  const made = links.filter((link) => link.group === String(group) && link.linkinfo?.info_kind === 'bridge');
  return {
    links,
    routes: rows(routes),
    routes6: rows(routes6),
    rules,
    attachments: links.flatMap((link) => attachmentOf(link, rules) ?? []),
    bridges: [...new Set([...names.filter((name) => !isLink(name)), ...namesOf(made)])],
    halves: namesOf(halves),
    deadRules: names.filter((name) => isLink(name) && !present.includes(name)),
  };
}

export const namesOf = (links: Link[]) => links.map(({ ifname }) => ifname);

/** An interface that is being removed leaves an empty object. */
const rows = <Row>(json = '[]') =>
  (JSON.parse(json) as Row[]).filter((row) => Object.keys(row as object).length > 0);

/** The outer end of a container's pair is named after the inode of its network namespace: bh4026532345, or …-1. */
const isLink = (name: string) => /^bh\d+(-\d)?$/.test(name);
export const inodeOf = ({ link }: { link: string }) => link.replace(/^bh|-\d$/g, '');

/** The alias of the outer end of a pair: what the kernel keeps nowhere else. */
export const aliasOf = ({ name, pid, interface: inside, noFiles, address, address6 }: Attachment) =>
  ['barehand', name, pid, inside + (noFiles ? ':' : ''), address, ...(address6 ? [address6] : [])].join(' ');

function attachmentOf({ ifname, master, ifalias, linkinfo }: Link, rules: Rules): Attachment | undefined {
  const [mark, name = '', pid, inside = '', address = '', address6] = ifalias?.trim().split(' ') ?? [];
  if (mark !== 'barehand' || !isLink(ifname)) return undefined;
  return {
    name,
    pid: Number(pid),
    link: ifname,
    bridge: master,
    interface: inside.replace(':', ''),
    address,
    address6,
    ports: portsOf(rules, ifname),
    isolated: linkinfo?.info_slave_data?.isolated === true,
    noFiles: inside.endsWith(':'),
  };
}

/** The path of a setting of the kernel, `net/ipv4/ip_forward`, and its value; undefined if this kernel has none. */
export const settingPath = (name: string) => `/proc/sys/${name}`;
export const readSetting = (name: string): string | undefined =>
  attempt(() => readFileSync(settingPath(name), 'utf8').trim());

/**
 * Throws UsageError for a port that is given twice, Failure for one that a process of the host listens on, by /proc/net,
 * proc(5): the container would take it from that process.
 */
export function checkPorts(ports: Port[]): void {
  for (const [index, { host, hostPort, protocol }] of ports.entries()) {
    const isSame = (other: Port) =>
      other.host === host && other.hostPort === hostPort && other.protocol === protocol;
    if (ports.findIndex(isSame) < index) throw new UsageError(`port ${hostPort}/${protocol} is given twice`);
    const sockets = [protocol, `${protocol}6`].map((name) => readProc('self', `net/${name}`) ?? '').join('');
    const isListening = sockets.split('\n').some((line) => {
      const [, local = '', , state] = line.trim().split(/\s+/);
      const isOpen = protocol === 'udp' || state === '0A';
      return isOpen && Number.parseInt(local.split(':')[1] ?? '', 16) === hostPort;
    });
    if (isListening)
      throw new Failure(
        `port ${hostPort}/${protocol} is in use by a process of this host: ss -lnp shows which`,
      );
  }
}

/** What a process has in its network namespace already. */
export interface Inside {
  interfaces: string[];
  /** whether it has a default route of IPv4, of IPv6 */
  hasRoute: boolean;
  hasRoute6: boolean;
}

/** Reads /proc/PID/net, proc(5). All is empty for a PID that is a shell variable. */
export function readInside(pid: Id): Inside {
  const read = (name: string) => readProc(Number(pid), `net/${name}`) ?? '';
  return {
    interfaces: [...read('dev').matchAll(/^ *([^\s:]+):/gm)].flatMap(([, name]) => name ?? []),
    // destination and mask are zero
    hasRoute: /^\S+\t0{8}\t.*\t0{8}\t\d+\t\d+\t\d+ *$/m.test(read('route')),
    hasRoute6: /^0{32} 00 .* (?!lo$)\S+$/m.test(read('ipv6_route')),
  };
}
