// Networks as steps: pure functions of a request and of facts about this host.
import { readdirSync, readFileSync } from 'node:fs';
import { scriptPath } from '../helpers/called.ts';
import { Failure } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { sh } from '../helpers/shell.ts';
import { explain, type Step, toShell } from '../helpers/steps.ts';
import {
  addressAt,
  formatSubnet,
  freeSubnet,
  localSubnet,
  overlap,
  type Port,
  parseAddress,
  parseSubnet,
  type Subnet,
  sizeOf,
} from './addresses.ts';
import { changeHosts, changeResolv, type Edit, hasHostRoot, restoreResolv } from './files.ts';
import {
  type Attachment,
  aliasOf,
  type Facts,
  type Id,
  inodeOf,
  type Link,
  namesOf,
  type Route,
  readInside,
  readSetting,
  settingPath,
} from './host.ts';
import { readNameservers, resolverLines } from './resolver.ts';
import { group, hasIpv6, isInternal, notesOf, planForget, planRules } from './rules.ts';
import type { NetworkTarget } from './target.ts';

/** A step, or a change of a file in a container. */
export type Action = Step | Edit;

/** What a caller asks for. Values that are left out are those of an existing bridge, or defaults. */
export interface Request {
  bridge: string;
  subnet?: Subnet | undefined;
  subnet6?: Subnet | undefined;
  /** nothing outside of the network can be reached */
  internal?: boolean;
  noIpv6?: boolean;
  dns?: string[];
  /** its IPv4 address; undefined: the first that is free */
  ip?: string | undefined;
  /** other isolated members of the bridge cannot be reached */
  isolated?: boolean;
  ports: Port[];
  /** its /etc/resolv.conf and /etc/hosts stay as they are */
  noFiles?: boolean;
}

/** The container to attach. */
export interface Container {
  name: string;
  pid: Id;
  /** of its network namespace */
  inode: Id;
  /** the path of its network namespace */
  namespace: string;
}

export const defaultBridge = 'barehand0';

/**
 * The network as it is, or as it will be if the bridge is missing. Throws Failure for a bridge of others, or one that differs
 * from the request.
 */
function planNetwork(request: Request, { links, routes, routes6, rules }: Facts) {
  const { bridge } = request;
  const own = links.find(({ ifname }) => ifname === bridge);
  if (own && (own.linkinfo?.info_kind !== 'bridge' || own.group !== String(group)))
    throw new Failure(`the interface ${bridge} is not a bridge of network.ts: choose another --bridge`);
  const isOutside = ({ dst, type, dev }: Route) =>
    dst === 'default' && type !== 'unreachable' && dev !== 'lo';
  const outer = [...routes, ...routes6].find(isOutside)?.dev;
  const outer6 = routes6.filter(isOutside);
  const { nameservers, search } = request.dns?.length
    ? { nameservers: request.dns, search: [] }
    : readNameservers();
  const used = [...routes, ...routes6].flatMap(({ dst }) => parseSubnet(dst) ?? []);
  for (const wished of [request.subnet, request.subnet6]) {
    if (!wished) continue;
    const is = own && subnetOf(own, wished.version);
    if (own && (!is || formatSubnet(is) !== formatSubnet(wished)))
      throw new Failure(
        `the bridge ${bridge} exists, with ${is ? formatSubnet(is) : 'no such subnet'}: choose another --bridge`,
      );
    const other = !own && used.find((subnet) => overlap(subnet, wished));
    if (other)
      throw new Failure(
        `${formatSubnet(wished)} overlaps with ${formatSubnet(other)}, which this host has a route to: ip route`,
      );
  }
  const internal = own ? isInternal(rules, bridge) : request.internal === true;
  if (request.internal && !internal)
    throw new Failure(`the bridge ${bridge} exists, and is not --internal: choose another --bridge`);
  const ipv6 = !request.noIpv6 && readSetting('net/ipv6/conf/all/disable_ipv6') === '0';
  const avoid = () => [...used, ...nameservers.flatMap((server) => parseSubnet(server) ?? [])];
  const subnet = own ? subnetOf(own, 4) : (request.subnet ?? freeSubnet(avoid()));
  if (!subnet) throw new Failure('this host has routes to all private networks: choose a --subnet');
  const machineId = attempt(() => readFileSync('/etc/machine-id', 'utf8'));
  const own6 = () => request.subnet6 ?? localSubnet(`${machineId} ${bridge}`);
  const viaRouter = outer6.flatMap(({ dev = '', protocol }) =>
    protocol === 'ra' && /^[\w.-]+$/.test(dev) ? dev : [],
  );
  return {
    bridge,
    exists: own !== undefined,
    subnet,
    subnet6: own ? subnetOf(own, 6) : ipv6 ? own6() : undefined,
    internal,
    mtu: own?.mtu ?? links.find(({ ifname }) => ifname === outer)?.mtu ?? 1500,
    /** the host reaches others by IPv6, so its containers may */
    outside6: ipv6 && outer6.length > 0,
    /** interfaces that have the host's IPv6 default route from router advertisements */
    acceptRa: [...new Set(viaRouter)],
    nameservers,
    search,
  };
}
type Network = ReturnType<typeof planNetwork>;

/** The subnet of a bridge. */
const subnetOf = ({ addr_info = [] }: Link, version: 4 | 6) =>
  addr_info
    .filter(({ scope }) => scope === 'global')
    .flatMap(({ local, prefixlen }) => parseSubnet(`${local}/${prefixlen}`) ?? [])
    .find((subnet) => subnet.version === version);

/** The steps that attach a container, with its attachment and network. Throws Failure if the request can't be met. */
export function planAttach(facts: Facts, request: Request, container: Container) {
  const network = planNetwork(request, facts);
  const { bridge, subnet, subnet6, internal, mtu } = network;
  const { name, pid, inode, namespace } = container;
  const { ports, isolated = false } = request;
  const noFiles = request.noFiles === true || hasHostRoot(pid);
  const inside = readInside(pid);
  const members = membersOf(facts.attachments, bridge);
  if (members.some((member) => inodeOf(member) === String(inode)))
    throw new Failure(`${name} is on ${bridge} already`);
  const link = firstFree(namesOf(facts.links), 10, (index) => `bh${inode}${index > 0 ? `-${index}` : ''}`);
  const dev = firstFree(inside.interfaces, 100, (index) => `eth${index}`);
  if (!link || !dev) throw new Failure(`${name} has too many interfaces`);
  const position = choosePosition(subnet, request.ip, members);
  const address = addressAt(subnet, position);
  const address6 = subnet6 && addressAt(subnet6, position);
  checkForwarded(facts, ports, internal, address6);

  const own = { name, pid, link, bridge, interface: dev, address, address6 };
  const attachment: Attachment = { ...own, ports, isolated, noFiles };
  const made = planBridge(facts, network);
  const gateway = internal || inside.hasRoute ? undefined : addressAt(subnet, 1);
  const gateway6 =
    subnet6 && network.outside6 && !internal && !inside.hasRoute6 ? addressAt(subnet6, 1) : undefined;
  const resolver = resolverLines(network.nameservers, network.search);
  const port = [
    ...(hasIpv6() ? sh`addrgenmode none` : []),
    ...(isolated || ports.length > 0 ? sh`type bridge_slave` : []),
    ...(isolated ? sh`isolated on` : []),
    ...(ports.length > 0 ? hairpin : []),
  ];
  const inner: Step[] = [
    // nobody on the bridge is its router, the kernel's networking/ip-sysctl
    ...(hasIpv6() ? [setTo(`net/ipv6/conf/${dev}/accept_ra=0`)] : []),
    { run: sh`ip link set dev lo up` },
    { run: sh`ip address add ${address}/${subnet.prefix} dev ${dev}` },
    ...(address6 ? [{ run: sh`ip address add ${address6}/${subnet6.prefix} dev ${dev} nodad` }] : []),
    { run: sh`ip link set dev ${dev} up` },
    ...[gateway, gateway6].flatMap((router) =>
      router ? [{ run: sh`ip route add default via ${router} dev ${dev}` }] : [],
    ),
  ];
  const pair: Step[] = [
    {
      run: sh`ip link add name ${link} mtu ${mtu} master ${bridge} type veth peer name ${dev} mtu ${mtu} netns ${namespace}`,
    },
    { run: sh`nsenter --net=${namespace} sh -e`, input: toShell(inner) },
    ...(port.length > 0 ? [{ run: sh`ip link set dev ${link} ${port}` }] : []),
    // the alias comes last: an interface without one is only half made
    { run: sh`ip link set dev ${link} alias ${aliasOf(attachment)} up` },
  ];
  const actions: Action[] = [
    ...facts.halves.map(deletion),
    ...planForget(facts.rules, facts.deadRules),
    ...planRules(facts.rules, made.rules, ports.length > 0 ? attachment : undefined),
    ...made.steps,
    ...explain(
      `a pair of interfaces: ${dev} in ${name}, ${link} here; nothing gets in until ${link} is up`,
      pair,
    ),
    ...(noFiles || resolver.length === 0
      ? []
      : [
          {
            edit: { name: 'resolv.conf' as const, pid, inode },
            change: (text: string) => changeResolv(text, bridge, resolver),
          },
        ]),
    ...planHosts(bridge, [...members, attachment]),
  ];
  return { actions, attachment, network };
}

// with br_netfilter what a container sends to its own published port goes out where it came in
const hairpin = sh`hairpin on`;

const deletion = (link: string): Step => ({ run: sh`ip link delete dev ${link}` });

/** The first of so many names that is not taken. */
const firstFree = (taken: string[], count: number, name: (index: number) => string) =>
  Array.from({ length: count }, (_, index) => name(index)).find((one) => !taken.includes(one));

const membersOf = (attachments: Attachment[], bridge: string) =>
  attachments.filter((member) => member.bridge === bridge);

/** The position of the container's address in the subnet, see addressAt. Throws Failure if `ip`, or each one, is in use. */
function choosePosition(subnet: Subnet, ip: string | undefined, members: Attachment[]): number {
  const used = new Set(members.map(({ address }) => address));
  const last = Number(sizeOf(subnet)) - 2;
  if (ip === undefined) {
    for (let position = 2; position <= last; position++)
      if (!used.has(addressAt(subnet, position))) return position;
    throw new Failure(`all addresses of ${formatSubnet(subnet)} are in use`);
  }
  const position = Number((parseAddress(ip)?.number ?? 0n) - subnet.first);
  if (position < 2 || position > last)
    throw new Failure(
      `${ip} is not an address for a container in ${formatSubnet(subnet)}, whose first is the host's`,
    );
  if (used.has(ip))
    throw new Failure(`${ip} is in use: ${scriptPath('network')} ls shows by which container`);
  return position;
}

/** Throws Failure for a port of the host that is published already, or can't be. */
function checkForwarded(facts: Facts, ports: Port[], internal: boolean, address6: string | undefined): void {
  if (internal && ports.length > 0)
    throw new Failure('an --internal network has no way in from outside: leave out --publish');
  const taken = facts.attachments.flatMap((attachment) => attachment.ports);
  for (const { host, hostPort, protocol } of ports) {
    const clashes = (other: Port) =>
      other.hostPort === hostPort &&
      other.protocol === protocol &&
      (host === undefined || other.host === undefined || other.host === host);
    if (taken.some(clashes))
      throw new Failure(
        `port ${hostPort}/${protocol} of the host is published already: ${scriptPath('network')} ls shows for which container`,
      );
    if (host === '::1')
      throw new Failure(
        '::1 cannot be published: the kernel does not route the IPv6 loopback: use 127.0.0.1',
      );
    if (host?.includes(':') && address6 === undefined)
      throw new Failure(`port ${hostPort} cannot be published on ${host}: the container has no IPv6 address`);
  }
}

/**
 * Rules and steps for a bridge that is missing, or whose rules are. The rules are made first, since they hold the note of the
 * earlier settings.
 */
function planBridge({ rules }: Facts, network: Network) {
  const { bridge, exists, subnet, subnet6, internal, mtu } = network;
  if (exists && rules.tables.has(bridge)) return { rules: undefined, steps: [] };
  // of all bridges that need forwarding the last one restores the settings
  const note = notesOf(rules, internal ? [bridge] : [...rules.tables.keys()]);
  const forwarding = planForwarding(network, note);
  // without an address of its own a bridge takes that of a member, and changes it with them
  const octets = (localSubnet(bridge).first >> 80n).toString(16).slice(2, 12).match(/../g) ?? [];
  const mac = ['02', ...octets].join(':');
  const settings = [
    // the containers are not this host's routers
    ...(hasIpv6() ? [`net/ipv6/conf/${bridge}/accept_ra=0`, `net/ipv6/conf/${bridge}/accept_dad=0`] : []),
    // published ports are reached from 127.0.0.1, see the rules
    `net/ipv4/conf/${bridge}/route_localnet=1`,
  ];
  const made: Step[] = [
    { run: sh`ip link add name ${bridge} up address ${mac} mtu ${mtu} group ${group} type bridge` },
    ...settings.map(setTo),
    { run: sh`ip address add ${addressAt(subnet, 1)}/${subnet.prefix} dev ${bridge}` },
    ...(subnet6
      ? [{ run: sh`ip address add ${addressAt(subnet6, 1)}/${subnet6.prefix} dev ${bridge} nodad` }]
      : []),
  ];
  const steps = [...forwarding, ...(exists ? [] : made)];
  return { rules: { ...network, note }, steps: explain('the bridge, and forwarding of its packets', steps) };
}

/** The step that gives a setting of the kernel its value: `net/ipv4/ip_forward=1`. */
function setTo(setting: string): Step {
  const [name = '', value = ''] = setting.split('=');
  return { write: value, to: settingPath(name) };
}

/** The steps that switch on forwarding where it is off. Adds the present values of all settings that change to `note`. */
function planForwarding({ internal, subnet6, outside6, acceptRa }: Network, note: string[]): Step[] {
  if (internal) return [];
  const accepting = acceptRa
    .map((dev) => `net/ipv6/conf/${dev}/accept_ra`)
    .filter((name) => readSetting(name) === '1');
  // the kernel's networking/ip-sysctl: ip_forward sets accept_redirects, and both set forwarding of each interface
  const switches = [
    {
      folder: 'net/ipv4/conf',
      name: 'net/ipv4/ip_forward',
      others: ['net/ipv4/conf/all/accept_redirects'],
      first: [],
    },
    {
      folder: 'net/ipv6/conf',
      name: 'net/ipv6/conf/all/forwarding',
      others: accepting,
      // a host that forwards takes router advertisements only with 2
      first: accepting.map((name) => `${name}=2`),
    },
  ];
  return switches.slice(0, subnet6 && outside6 ? 2 : 1).flatMap(({ folder, name, others, first }) => {
    if (readSetting(name) !== '0') return [];
    const devices = (attempt(() => readdirSync(settingPath(folder))) ?? [])
      .filter((dev) => /^[\w.@:-]+$/.test(dev))
      .map((dev) => `${folder}/${dev}/forwarding`)
      .filter((setting) => readSetting(setting) === '1');
    // the order in which they are restored: a setting that sets others comes before these
    if (!note.some((setting) => setting.startsWith(`${name}=`)))
      note.push(...[name, ...others, ...devices].map((setting) => `${setting}=${readSetting(setting)}`));
    return [...first, `${name}=1`].map(setTo);
  });
}

/** The changes that put the names of all members of a bridge into the /etc/hosts of each. */
function planHosts(bridge: string, members: Attachment[]): Edit[] {
  const linesFor = (these: Attachment[]) =>
    these.flatMap(({ name, address, address6 }) =>
      [address, address6].flatMap((at) => (at ? [`${at}\t${name}\t# ${bridge}`] : [])),
    );
  return members
    .filter(({ noFiles }) => !noFiles)
    .map((member) => ({
      ...(members.length > 1 && { why: `names of all members of the bridge, for ${member.name}` }),
      edit: { name: 'hosts', pid: member.pid, inode: inodeOf(member) },
      change: (text) => changeHosts(text, bridge, linesFor(member.isolated ? [member] : members)),
    }));
}

/** Our bridges that have no member, or no other members than these links. */
const emptyBridges = ({ bridges, links }: Facts, without: string[] = []) =>
  bridges.filter(
    (bridge) => !links.some(({ ifname, master }) => master === bridge && !without.includes(ifname)),
  );

/**
 * The steps that remove these interfaces, what killed calls and ended containers have left, and the bridges that have no
 * member then. The order is: interfaces and bridges, settings, rules. The rules hold the note of the earlier settings, so
 * that a later call can restore them if this one is killed.
 */
function planRemoval(facts: Facts, gone: Attachment[]): Action[] {
  const { attachments, halves, deadRules, rules, bridges } = facts;
  const links = gone.map(({ link }) => link);
  const emptied = emptyBridges(facts, links);
  const present = emptied.filter((bridge) => namesOf(facts.links).includes(bridge));
  const used = bridges.filter((bridge) => !emptied.includes(bridge));
  const kept = notesOf(rules, used);
  const settings = notesOf(rules, emptied).filter(
    (setting) => !kept.includes(setting) && readSetting(setting.replace(/=.*/, '')) !== undefined,
  );
  const left = attachments.filter((attachment) => !gone.includes(attachment));
  return [
    ...[...links, ...halves, ...present].map(deletion),
    ...settings.map(setTo),
    ...planForget(rules, [...links, ...deadRules, ...emptied]),
    ...used.flatMap((bridge) => planHosts(bridge, membersOf(left, bridge))),
  ];
}

/** The interfaces of a container, on this bridge or all. Throws Failure if there are none. */
export function attachmentsOf(facts: Facts, { inode, text }: NetworkTarget, bridge?: string): Attachment[] {
  const own = inNamespace(facts, inode).filter((one) => bridge === undefined || one.bridge === bridge);
  if (own.length > 0) return own;
  throw new Failure(
    `${text} is on no bridge${bridge ? ` ${bridge}` : ''}: type ${scriptPath('network')} attach ${text}`,
  );
}

const inNamespace = ({ attachments }: Facts, inode: Id) =>
  attachments.filter((attachment) => inodeOf(attachment) === String(inode));

/** The steps that remove interfaces of a container that may go on running: its files become what they were. */
export function planDetach(facts: Facts, target: NetworkTarget, bridge?: string): Action[] {
  const own = attachmentsOf(facts, target, bridge);
  const edits = own.flatMap((attachment): Edit[] => {
    const { pid, bridge: its = '', noFiles } = attachment;
    const file = { pid, inode: inodeOf(attachment) };
    if (noFiles) return [];
    return [
      { edit: { name: 'hosts', ...file }, change: (text) => changeHosts(text, its, []) },
      { edit: { name: 'resolv.conf', ...file }, change: (text) => restoreResolv(text, its) },
    ];
  });
  return [...edits, ...planRemoval(facts, own)];
}

/** The steps that remove all interfaces and rules of a network namespace, by its inode; it may not exist any more. */
export const planLeave = (facts: Facts, inode: number): Action[] =>
  planRemoval(facts, inNamespace(facts, inode));

/** The steps that remove what killed calls and ended containers have left, and a list of what that is. */
export const planSweep = (facts: Facts): Action[] => planRemoval(facts, []);
export const leftovers = (facts: Facts): string[] => [
  ...facts.deadRules.map((name) => `rules of ${name}`),
  ...facts.halves,
  ...emptyBridges(facts),
];

/** The steps that publish ports of a container, on this bridge or its first one. Throws Failure, see checkForwarded. */
export function planPublish(facts: Facts, target: NetworkTarget, ports: Port[], bridge?: string): Step[] {
  const [first] = attachmentsOf(facts, target, bridge) as [Attachment];
  checkForwarded(facts, ports, isInternal(facts.rules, first.bridge ?? ''), first.address6);
  return [
    { run: sh`ip link set dev ${first.link} type bridge_slave ${hairpin}` },
    ...planRules(facts.rules, undefined, { ...first, ports }),
  ];
}
