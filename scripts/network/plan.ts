// What is to be done for a network, as steps: pure functions of what is wished, and of the facts about this host.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { Failure, UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';
import { type Command, sh } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import {
  formatAddress,
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
import { changeHosts, changeResolv, type Edit, type EtcName, restoreResolv } from './files.ts';
import {
  type Attachment,
  type Facts,
  type Inside,
  inodeOf,
  isLink,
  type Member,
  membersOf,
  type Route,
  readNameservers,
  readSetting,
  settingPath,
} from './host.ts';
import { group, notesOf, planForget, planRules, portsOf, withoutRules, wordsOf } from './rules.ts';

/** A step, or a change of a file in a container. */
export type Action = Step | Edit;

/** What a network is to be like; what is left out is as the bridge is already, or a default. */
export interface Wishes {
  bridge: string;
  subnet?: Subnet | undefined;
  subnet6?: Subnet | undefined;
  /** nothing outside of it can be reached */
  internal?: boolean;
  noIpv6?: boolean;
  dns?: string[];
}

/** A network as it is or is to be made. */
export interface Network {
  bridge: string;
  /** the bridge's hardware address */
  mac: string;
  subnet: Subnet;
  subnet6: Subnet | undefined;
  internal: boolean;
  mtu: number;
  firewall: Facts['rules']['firewall'];
  /** the host reaches others by IPv6, so its containers may */
  outside6: boolean;
  /** interfaces that have the host's IPv6 default route from router advertisements */
  acceptRa: string[];
  nameservers: string[];
  search: string[];
}

/** What a container is to get. */
export interface Wanted {
  /** its address, and that of IPv6; undefined: the first that is free */
  ip: string | undefined;
  /** the others on the bridge cannot be reached */
  isolated: boolean;
  ports: Port[];
  /** its /etc/resolv.conf and /etc/hosts stay as they are */
  noFiles: boolean;
}

/** A container that is to be attached. In a plan that is only printed, `pid` and `inode` may be shell variables. */
export interface Container extends Inside {
  name: string;
  pid: number | string;
  /** of its network namespace */
  inode: number | string;
  /** the paths of its network namespace and of the host's, as programs reach them */
  namespace: string;
  hostNamespace: string;
  /** its files, where they are known without reading them */
  files?: Partial<Record<EtcName, string>>;
}

export const defaultBridge = 'barehand0';

/** Throws UsageError for a word that cannot be a bridge of ours. */
export function parseBridge(text: string): string {
  if (/^[a-z][\w-]{0,14}$/i.test(text) && !/^bh\d/.test(text)) return text;
  throw new UsageError(
    `--bridge is a name of at most 15 letters, digits and - that begins with a letter, not ${text}`,
  );
}

/** What the network is like, or will be. Throws Failure for a bridge that is another's, or is not as wished. */
export async function planNetwork(
  wishes: Wishes,
  { links, routes, routes6, rules }: Facts,
): Promise<Network> {
  const { bridge } = wishes;
  const own = links.find(({ ifname }) => ifname === bridge);
  if (own && (own.linkinfo?.info_kind !== 'bridge' || own.group !== String(group)))
    throw new Failure(`the interface ${bridge} is not one that this made: choose another --bridge`);
  const subnets = (own?.addr_info ?? [])
    .filter(({ scope }) => scope === 'global')
    .flatMap(({ local, prefixlen }) => parseSubnet(`${local}/${prefixlen}`) ?? []);
  const isOutside = ({ dst, type, dev }: Route) =>
    dst === 'default' && type !== 'unreachable' && dev !== 'lo';
  const outer = [...routes, ...routes6].find(isOutside)?.dev;
  const outer6 = routes6.filter(isOutside);
  const resolv = readNameservers();
  const nameservers = wishes.dns?.length ? wishes.dns : resolv.nameservers;
  const internal = rules.internal.includes(bridge);
  const found = (version: 4 | 6) => subnets.find((subnet) => subnet.version === version);
  // a bridge that is to be made must not get what this host has a route to
  const used = own ? [] : [...routes, ...routes6].flatMap(({ dst }) => parseSubnet(dst) ?? []);
  for (const wished of [wishes.subnet, wishes.subnet6]) {
    if (!wished) continue;
    const is = found(wished.version);
    if (own && (!is || formatSubnet(is) !== formatSubnet(wished)))
      throw new Failure(
        `${bridge} is there already with ${is ? formatSubnet(is) : 'no such subnet'}: choose another --bridge`,
      );
    const other = used.find((subnet) => overlap(subnet, wished));
    if (other)
      throw new Failure(
        `${formatSubnet(wished)} overlaps with ${formatSubnet(other)}, which this host has a route to: ip route`,
      );
  }
  if (own && wishes.internal && !internal)
    throw new Failure(`${bridge} is there already and is not --internal: choose another --bridge`);
  const ipv6 = !wishes.noIpv6 && readSetting('net/ipv6/conf/all/disable_ipv6') === '0';
  const avoid = () => [...used, ...nameservers.flatMap((server) => parseSubnet(server) ?? [])];
  const subnet = own ? found(4) : (wishes.subnet ?? freeSubnet(avoid()));
  if (!subnet) throw new Failure('this host has routes to all private networks: choose a --subnet');
  const seed = `${readMachineId()} ${bridge}`;
  // without an address of its own a bridge takes that of a member, and changes it with them
  const octets = ((await localSubnet(bridge)).first >> 80n).toString(16).slice(2, 12).match(/../g) ?? [];
  return {
    bridge,
    mac: ['02', ...octets].join(':'),
    subnet,
    subnet6: own ? found(6) : ipv6 ? (wishes.subnet6 ?? (await localSubnet(seed))) : undefined,
    internal: own ? internal : wishes.internal === true,
    mtu: own?.mtu ?? links.find(({ ifname }) => ifname === outer)?.mtu ?? 1500,
    firewall: rules.firewall,
    outside6: ipv6 && outer6.length > 0,
    acceptRa: [
      ...new Set(
        outer6.flatMap(({ dev = '', protocol }) => (protocol === 'ra' && /^[\w.-]+$/.test(dev) ? dev : [])),
      ),
    ],
    nameservers,
    search: wishes.dns?.length ? [] : resolv.search,
  };
}

const hasIpv6 = () => existsSync('/proc/sys/net/ipv6');

/** The steps that attach a container, and what it has then. Throws Failure for what it cannot have. */
export function planAttach(
  host: Facts,
  network: Network,
  wanted: Wanted,
  container: Container,
): { actions: Action[]; attachment: Attachment } {
  const { bridge, subnet, subnet6, internal, mtu, outside6 } = network;
  const { name, pid, inode } = container;
  checkInternal(wanted.ports, internal);
  const left = planLeftovers(host);
  const facts = left.facts;
  const members = membersOf(facts).filter((member) => member.bridge === bridge);
  if (members.some(({ link }) => inodeOf(link) === inode))
    throw new Failure(`${name} is on ${bridge} already`);

  const isTaken = (link: string) => facts.links.some(({ ifname }) => ifname === link);
  const link = firstFree([`bh${inode}`, ...numbers(1, 9).map((number) => `bh${inode}-${number}`)], isTaken);
  const inside = firstFree(
    numbers(0, 99).map((number) => `eth${number}`),
    (dev) => container.interfaces.includes(dev),
  );
  if (!link || !inside) throw new Failure(`${name} has too many interfaces`);
  const number = chooseNumber(network, wanted.ip, members);
  const address = formatAddress(4, subnet.first + BigInt(number));
  const address6 = subnet6 && formatAddress(6, subnet6.first + BigInt(number));
  checkFree(facts, wanted.ports, address6);

  const made = planBridge(facts, network);
  const ports = wanted.ports.length > 0 ? { link, address, address6, ports: wanted.ports } : undefined;
  const gateway = formatAddress(4, subnet.first + 1n);
  const gateway6 = subnet6 && outside6 && !internal ? formatAddress(6, subnet6.first + 1n) : undefined;
  const alias = ['barehand', name, pid, `${inside}${wanted.noFiles ? ':' : ''}`, address, address6];
  const attachment: Attachment = {
    ...{ name, pid: Number(pid), link, bridge, interface: inside, address, address6 },
    ports: wanted.ports,
  };
  const self: Member = { ...attachment, isolated: wanted.isolated, noFiles: wanted.noFiles };
  const slave = [
    ...(wanted.isolated ? ['isolated on'] : []),
    // with br_netfilter what a container sends to its own published port goes out where it came in
    ...(ports ? ['hairpin on'] : []),
  ];
  const actions: Action[] = [
    ...left.steps,
    ...planRules(facts.rules, made.rules, ports),
    ...made.steps,
    ...(made.lines.length > 0 ? [batch([], made.lines)] : []),
    {
      why: `a pair of interfaces: ${inside} in ${name}, ${link} here`,
      ...inContainer(container, inside, [
        'link set dev lo up',
        `link add name ${inside} mtu ${mtu} type veth peer name ${link} mtu ${mtu} netns ${container.hostNamespace}`,
        `address add ${address}/${subnet.prefix} dev ${inside}`,
        ...(address6 ? [`address add ${address6}/${subnet6.prefix} dev ${inside} nodad`] : []),
        `link set dev ${inside} up`,
        ...(internal || container.hasRoute ? [] : [`route add default via ${gateway} dev ${inside}`]),
        ...(gateway6 && !container.hasRoute6 ? [`route add default via ${gateway6} dev ${inside}`] : []),
      ]),
    },
    ...(wanted.noFiles ? [] : planResolv(network, container)),
    {
      why: 'the alias comes last: an interface without one is only half made',
      ...batch(
        [],
        [
          `link set dev ${link} master ${bridge}${hasIpv6() ? ' addrgenmode none' : ''}`,
          ...(slave.length > 0 ? [`link set dev ${link} type bridge_slave ${slave.join(' ')}`] : []),
          `link set dev ${link} alias "${alias.filter(Boolean).join(' ')}" up`,
        ],
      ),
    },
    ...planHosts(bridge, [...members, self], { ...container, link }),
  ];
  return { actions, attachment };
}

/**
 * One call of ip(8) in a container, whose interface takes no router advertisements then, the kernel's
 * networking/ip-sysctl: nobody on the bridge is its router. Nothing gets in until the other end is up.
 */
function inContainer({ namespace }: Container, inside: string, lines: string[]): Step {
  const { run, input = '' } = batch(sh`nsenter --net=${namespace}`, lines);
  if (!hasIpv6()) return { run, input };
  const setting = settingPath(`net/ipv6/conf/${inside}/accept_ra`);
  return { run: sh`nsenter --net=${namespace} sh -c ${'ip -batch - && echo 0 >"$0"'} ${setting}`, input };
}

/** One call of ip(8) for several commands. */
const batch = (enter: Command, lines: string[]): { run: Command; input?: string } => {
  const [only, ...more] = lines;
  if (more.length === 0 && only !== undefined) return { run: [...enter, 'ip', ...only.split(' ')] };
  return { run: sh`${enter} ip -batch -`, input: lines.map((line) => `${line}\n`).join('') };
};

const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);
const firstFree = (names: string[], isTaken: (name: string) => boolean) =>
  names.find((name) => !isTaken(name));

/** Which of the subnet's addresses a container gets. Throws Failure where it is not to be had. */
function chooseNumber({ subnet }: Network, ip: string | undefined, members: Attachment[]): number {
  const last = Number(sizeOf(subnet)) - 2;
  const used = new Set(
    members.map(({ address }) => Number((parseAddress(address)?.number ?? 0n) - subnet.first)),
  );
  if (ip === undefined) {
    let number = 2;
    while (used.has(number)) number++;
    if (number <= last) return number;
    throw new Failure(`all addresses of ${formatSubnet(subnet)} are in use`);
  }
  const parsed = parseAddress(ip);
  const number = parsed?.version === 4 ? Number(parsed.number - subnet.first) : -1;
  if (number < 2 || number > last)
    throw new Failure(
      `${ip} is not an address for a container in ${formatSubnet(subnet)}, whose first is the host's`,
    );
  if (used.has(number)) throw new Failure(`${ip} is in use: ls shows by whom`);
  return number;
}

/** Throws Failure for ports of the host that lead somewhere already, or that cannot lead anywhere. */
function checkFree({ rules }: Facts, ports: Port[], address6: string | undefined): void {
  const taken = [...portsOf(rules).values()].flat();
  const socket = (port: Port) => wordsOf(port).split(' ')[0];
  for (const port of ports) {
    const { host, hostPort, protocol } = port;
    const clash = taken.some((other) =>
      host === undefined
        ? other.hostPort === hostPort && other.protocol === protocol
        : socket(other) === socket(port) || socket(other) === socket({ ...port, host: undefined }),
    );
    if (clash)
      throw new Failure(
        `port ${hostPort}/${protocol} of the host is published already: ls shows where it leads`,
      );
    if (host?.includes(':') && address6 === undefined)
      throw new Failure(`port ${hostPort} of ${host} leads nowhere: the container has no IPv6 address`);
  }
}

/** A bridge that is to be made: its rules come first, for they keep the note of the settings; its `lines` are ip(8)'s. */
function planBridge({ links, rules }: Facts, network: Network) {
  const { bridge, mac, subnet, subnet6, internal, mtu, outside6, acceptRa } = network;
  const isThere = links.some(({ ifname }) => ifname === bridge);
  if (isThere && rules.tables.includes(bridge)) return { rules: undefined, steps: [], lines: [] };
  const note = [...new Set(notesOf(rules))];
  const steps: Step[] = [];
  const set = (name: string, value: string) => steps.push({ write: value, to: settingPath(name) });
  if (!internal) {
    const name = 'net/ipv4/ip_forward';
    // changing it sets others too, the kernel's networking/ip-sysctl
    noteForwarding(note, 4, name, ['net/ipv4/conf/all/accept_redirects']);
    if (readSetting(name) !== '1') set(name, '1');
  }
  if (!internal && subnet6 && outside6) {
    const name = 'net/ipv6/conf/all/forwarding';
    const accepting = acceptRa
      .map((dev) => `net/ipv6/conf/${dev}/accept_ra`)
      .filter((setting) => readSetting(setting) === '1');
    noteForwarding(note, 6, name, accepting);
    // a host that forwards takes router advertisements only with 2
    for (const setting of accepting) set(setting, '2');
    if (readSetting(name) !== '1') set(name, '1');
  }
  if (steps[0]) steps[0].why = 'the host forwards';
  const lines: string[] = [];
  if (!isThere) {
    const own = (version: 4 | 6, name: string) => `net/ipv${version}/conf/${bridge}/${name}`;
    steps.push({
      why: 'the bridge',
      run: sh`ip link add name ${bridge} address ${mac} mtu ${mtu} group ${group} type bridge`,
    });
    // the containers are not this host's routers
    if (hasIpv6()) for (const name of ['accept_ra', 'accept_dad']) set(own(6, name), '0');
    // published ports are reached from 127.0.0.1, see the rules
    set(own(4, 'route_localnet'), '1');
    const at = (net: Subnet) => `${formatAddress(net.version, net.first + 1n)}/${net.prefix}`;
    lines.push(
      `address add ${at(subnet)} dev ${bridge}`,
      ...(subnet6 ? [`address add ${at(subnet6)} dev ${bridge} nodad`] : []),
      `link set dev ${bridge} up`,
    );
  }
  return { rules: { bridge, subnet, subnet6, internal, note }, steps, lines };
}

/** Notes what switching on forwarding changes, unless it is on, or noted already. */
function noteForwarding(note: string[], version: 4 | 6, name: string, others: string[]): void {
  if (readSetting(name) !== '0' || note.some((setting) => setting.startsWith(`${name}=`))) return;
  const folder = `net/ipv${version}/conf`;
  const devices = (attempt(() => readdirSync(settingPath(folder))) ?? [])
    .filter((dev) => /^[\w.@:-]+$/.test(dev))
    .map((dev) => `${folder}/${dev}/forwarding`)
    .filter((setting) => readSetting(setting) === '1');
  note.push(...[name, ...others, ...devices].map((setting) => `${setting}=${readSetting(setting)}`));
}

/** A restored setting that sets others comes before these. */
const restoreOrder = (settings: string[]) => {
  const isFirst = (setting: string) => /^net\/(ipv4\/ip_forward|ipv6\/conf\/all\/forwarding)=/.test(setting);
  return [...settings.filter(isFirst), ...settings.filter((setting) => !isFirst(setting))];
};

function planResolv({ bridge, nameservers, search }: Network, { pid, inode, files }: Container): Edit[] {
  const lines = [
    ...nameservers.map((server) => `nameserver ${server}`),
    ...(search.length > 0 ? [`search ${search.join(' ')}`] : []),
  ];
  if (lines.length === 0) return [];
  const old = files?.['resolv.conf'];
  return [
    {
      why: 'names of the outside are for a name server to know',
      edit: 'resolv.conf',
      of: { pid, inode },
      change: (text) => changeResolv(text, bridge, lines),
      ...(old === undefined ? {} : { old }),
    },
  ];
}

/** The names of all on a bridge go into the /etc/hosts of each; `added` is one that may not be there yet. */
function planHosts(bridge: string, members: Member[], added?: Container & { link: string }): Edit[] {
  const linesOf = ({ name, address, address6 }: Member) =>
    [address, address6].flatMap((at) => (at ? [`${at}\t${name}\t# ${bridge}`] : []));
  const all = members.flatMap(linesOf);
  return members
    .filter(({ noFiles }) => !noFiles)
    .map((member) => {
      const own = added?.link === member.link ? added : { pid: member.pid, inode: inodeOf(member.link) };
      const old = own === added ? added.files?.hosts : undefined;
      return {
        why: `names of those on the bridge, for ${member.name}`,
        edit: 'hosts',
        of: { pid: own.pid, inode: own.inode },
        change: (text) => changeHosts(text, bridge, member.isolated ? linesOf(member) : all),
        ...(old === undefined ? {} : { old }),
      };
    });
}

/** Interfaces that a call which was killed has left half made: without an alias. */
const halvesOf = ({ links }: Facts) =>
  links
    .filter(
      ({ ifname, ifalias, linkinfo }) =>
        isLink(ifname) && linkinfo?.info_kind === 'veth' && !ifalias?.startsWith('barehand '),
    )
    .map(({ ifname }) => ifname);

/** The rules of containers that have ended: the kernel has removed their interfaces. */
const deadRules = ({ links, rules }: Facts) =>
  rules.tables.filter((name) => isLink(name) && !links.some(({ ifname }) => ifname === name));

/** The steps that remove what is in the way of a new container, and the facts as they are then. */
function planLeftovers(host: Facts): { steps: Step[]; facts: Facts } {
  const halves = halvesOf(host);
  const names = [...halves, ...deadRules(host)];
  return {
    steps: [...deleteLinks(halves), ...planForget(host.rules, names)],
    facts: {
      ...host,
      links: host.links.filter(({ ifname }) => !halves.includes(ifname)),
      rules: withoutRules(host.rules, names),
    },
  };
}

const deleteLinks = (names: string[]): Step[] =>
  names.length > 0
    ? [
        batch(
          [],
          names.map((name) => `link delete dev ${name}`),
        ),
      ]
    : [];

/**
 * The steps that take away interfaces, and their bridges if nobody is left there: interfaces, bridges, settings, and at
 * last the rules, which have the note of the settings: so whenever a call is killed, the next one knows how it was.
 * `bridges` are looked at as well.
 */
export function planRemoval(
  facts: Facts,
  { links = [] as string[], bridges = [] as string[], rules = [] as string[] },
): Action[] {
  const present = (name: string) => facts.links.some(({ ifname }) => ifname === name);
  const masters = facts.links.flatMap(({ ifname, master }) =>
    master && links.includes(ifname) ? master : [],
  );
  const touched = [...new Set([...bridges, ...masters])].filter((bridge) =>
    ourBridges(facts).includes(bridge),
  );
  const isEmpty = (bridge: string) =>
    !facts.links.some(({ ifname, master }) => master === bridge && !links.includes(ifname));
  const emptied = touched.filter(isEmpty);
  const gone = [...links, ...emptied].filter(present);
  const kept = notesOf(withoutRules(facts.rules, emptied));
  const settings = [...new Set(emptied.flatMap((bridge) => notesOf(facts.rules, bridge)))].filter(
    (setting) => !kept.includes(setting),
  );
  const forget = planForget(facts.rules, [...new Set([...links, ...rules, ...emptied])]);
  return [
    ...deleteLinks(gone),
    ...restoreOrder(settings).flatMap((setting): Step[] => {
      const [name = '', value = ''] = setting.split('=');
      return readSetting(name) === undefined ? [] : [{ write: value, to: settingPath(name) }];
    }),
    ...forget,
    ...touched
      .filter((bridge) => !isEmpty(bridge))
      .flatMap((bridge) =>
        planHosts(
          bridge,
          membersOf(facts).filter((member) => member.bridge === bridge && !links.includes(member.link)),
        ),
      ),
  ];
}

/** The bridges that this project has made: by their group, or by their rules if the bridge itself is gone. */
const ourBridges = ({ links, rules }: Facts) => [
  ...new Set([
    ...rules.tables.filter((name) => !isLink(name)),
    ...links
      .filter((link) => link.group === String(group) && link.linkinfo?.info_kind === 'bridge')
      .map(({ ifname }) => ifname),
  ]),
];

/** The steps that take away the interfaces of containers that may go on running: their files become as they were. */
export function planDetach(facts: Facts, attachments: Attachment[]): Action[] {
  const own = attachments.flatMap(({ link, pid, bridge = '' }): Edit[] => {
    const of = { pid, inode: inodeOf(link) };
    return [
      { edit: 'hosts', of, change: (text) => changeHosts(text, bridge, []) },
      { edit: 'resolv.conf', of, change: (text) => restoreResolv(text, bridge) },
    ];
  });
  return [...own, ...planRemoval(facts, { links: attachments.map(({ link }) => link) })];
}

/** The steps that take away all that the container with this network namespace had; it may have ended long ago. */
export function planLeave(facts: Facts, inode: number): Action[] {
  const isOwn = (name: string) => isLink(name) && inodeOf(name) === inode;
  return planRemoval(facts, {
    links: facts.links.map(({ ifname }) => ifname).filter(isOwn),
    rules: facts.rules.tables.filter(isOwn),
    bridges: ourBridges(facts),
  });
}

/** The steps that remove what killed calls and ended containers have left, and what that is. */
export function planSweep(facts: Facts): { actions: Action[]; found: string[] } {
  const halves = halvesOf(facts);
  const rules = deadRules(facts);
  const isUsed = (bridge: string) =>
    facts.links.some(({ ifname, master }) => master === bridge && !halves.includes(ifname));
  const bridges = ourBridges(facts).filter((bridge) => !isUsed(bridge));
  return {
    actions: planRemoval(facts, { links: halves, bridges, rules }),
    found: [...rules.map((name) => `rules of ${name}`), ...halves, ...bridges],
  };
}

/** The steps that publish ports of a container that is attached. Throws Failure for a port that is taken. */
export function planPublish(facts: Facts, { link, address, address6 }: Attachment, ports: Port[]): Step[] {
  checkFree(facts, ports, address6);
  return [
    ...planRules(facts.rules, undefined, { link, address, address6, ports }),
    // with br_netfilter what a container sends to its own published port goes out where it came in
    { run: sh`ip link set dev ${link} type bridge_slave hairpin on` },
  ];
}

/** Throws Failure for ports of a network that nothing gets into. */
export function checkInternal(ports: Port[], internal: boolean): void {
  if (internal && ports.length > 0)
    throw new Failure('an --internal network has no way in from outside: it publishes no ports');
}

/** Throws UsageError for a port that is given twice, Failure for one that leads nowhere. */
export function checkPublished(ports: Port[]): void {
  const words = ports.map(({ host, hostPort, protocol }) => `${host ?? '*'} ${hostPort}/${protocol}`);
  for (const [index, { host, hostPort, protocol }] of ports.entries()) {
    if (words.indexOf(words[index] as string) < index)
      throw new UsageError(`port ${hostPort}/${protocol} is given twice`);
    if (host === '::1')
      throw new Failure('::1 can not be published: the kernel routes no IPv6 loopback: take 127.0.0.1');
  }
}

const readMachineId = () => attempt(() => readFileSync('/etc/machine-id', 'utf8'));
