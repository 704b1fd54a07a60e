// Networks of containers: a bridge, and for each container a pair of veth(4) interfaces, one end on the bridge, the
// other in its network namespace. What is there is found from the kernel; what is done is shell, for run.ts to put
// into a launch. docs/network.md explains it.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { readHierarchies } from '../helpers/cgroups.ts';
import { Failure, UsageError } from '../helpers/cli.ts';
import { findContainers, identify } from '../helpers/containers.ts';
import { attempt, namespaceInode, readProcess, readProcesses } from '../helpers/pids.ts';
import { installCommand, requirePrograms } from '../helpers/programs.ts';
import { findInPath, quote, runProgram } from '../helpers/shell.ts';
import { isName, namedContainer } from '../helpers/target.ts';
import {
  formatAddress,
  formatSubnet,
  freeSubnet,
  localSubnet,
  overlap,
  parseAddress,
  parseSubnet,
  type Subnet,
  sizeOf,
} from './addresses.ts';
import { readResolver, serversIn } from './resolver.ts';
import {
  bridgeProgram,
  type Firewall,
  firewallFunctions,
  group,
  type Port,
  publishProgram,
  readPorts,
} from './rules.ts';

/** What a network is to be like; what is not said is as the bridge is already, or as it is by default. */
export interface Wishes {
  bridge: string;
  subnet?: Subnet | undefined;
  subnet6?: Subnet | undefined;
  /** nothing outside of it can be reached */
  internal?: boolean;
  noIpv6?: boolean;
  dns?: string[];
}

/** A network as it is or is to be made, and the facts about this host that it depends on. */
export interface Network {
  bridge: string;
  /** the bridge's hardware address */
  mac: string;
  subnet: Subnet;
  subnet6: Subnet | undefined;
  internal: boolean;
  mtu: number;
  firewall: Firewall;
  /** the host reaches others by IPv6, so its containers may */
  outside6: boolean;
  /** interfaces that the host has its IPv6 default route from by router advertisements */
  acceptRa: string[];
  nameservers: string[];
  search: string[];
  /** all rules of the firewall as they are now */
  rules: string;
}

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

interface Link {
  ifname: string;
  mtu: number;
  master?: string;
  group?: string;
  ifalias?: string;
  linkinfo?: { info_kind?: string };
  addr_info?: { local: string; prefixlen: number; scope: string }[];
}

interface Route {
  dst: string;
  dev?: string;
  protocol?: string;
  type?: string;
}

export const defaultBridge = 'barehand0';

/** Runs ip(8) or nft(8), and returns what it says. Throws Failure with its own words. */
async function output(argv: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await runProgram(argv);
  if (exitCode !== 0) throw new Failure(`${argv.join(' ')}: ${stderr.trim() || `exit code ${exitCode}`}`);
  return stdout;
}

/** What `ip -j` says; an interface that just goes leaves an empty object. */
const parseRows = <Row>(text = ''): Row[] =>
  (JSON.parse(text.trim() || '[]') as Row[]).filter((row) => Object.keys(row as object).length > 0);

/** Which firewall this host has. Throws Failure where programs are missing that a network is made with. */
export function findFirewall(): Firewall {
  requirePrograms(['ip', 'nsenter', 'flock', 'sed', 'grep'], 'look at networks');
  if (findInPath('nft')) return 'nft';
  if (findInPath('iptables')) return 'iptables';
  throw new Failure(`neither nft(8) nor iptables(8) is here: ${installCommand(['nft'])}`);
}

/** The commands that say all rules of the firewall. */
const rulesCommands = (firewall: Firewall) =>
  firewall === 'nft'
    ? ['nft list ruleset']
    : ['iptables-save', ...(existsSync('/proc/sys/net/ipv6') ? ['ip6tables-save'] : [])];

/** The interfaces that containers have got, in the order in which they got them. */
export async function readAttachments(): Promise<Attachment[]> {
  const { links, rules } = await readFacts(findFirewall());
  return attachments(links, rules);
}

function attachments(links: Link[], rules: string): Attachment[] {
  const ports = readPorts(rules);
  return links.flatMap(({ ifname, master, ifalias }) => {
    const [mark, name = '', pid, inside = '', address = '', address6] = ifalias?.split(' ') ?? [];
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
    };
  });
}

/** The outer end of a container's pair is named after the inode of its network namespace: 4026532345, or ...-1. */
const isLink = (name: string) => /^bh\d+(-\d)?$/.test(name);
export const linksOf = (all: Attachment[], pid: number) =>
  all.filter(({ link }) => link.replace(/^bh|-\d$/g, '') === String(namespaceInode(pid, 'net')));

/** Throws UsageError for a word that can't be a bridge of ours. */
export function parseBridge(text: string): string {
  if (/^[a-z][\w-]{0,14}$/i.test(text) && !/^bh\d/.test(text)) return text;
  throw new UsageError(
    `--bridge is a name of at most 15 letters, digits and - that begins with a letter, not ${text}`,
  );
}

/** Name servers as a container can use them: not those on the host's loopback. */
export function readNameservers(): { nameservers: string[]; search: string[] } {
  const isLoopback = (server: string) => /^127\.|^::1$|%/.test(server);
  const text = readResolver();
  const search = [...text.matchAll(/^[ \t]*search[ \t]+(.*)$/gm)].at(-1)?.[1]?.trim().split(/\s+/) ?? [];
  return { nameservers: serversIn(text).filter((server) => !isLoopback(server)), search };
}

/** What the kernel shows, all of one moment: nobody makes a network meanwhile. */
async function readFacts(firewall: Firewall) {
  const program = `exec 9</proc/self/ns/net; flock 9
    ip -j -d address show; printf '\\0'
    ip -j -4 route show table all; printf '\\0'
    [ ! -d /proc/sys/net/ipv6 ] || ip -j -6 route show table all; printf '\\0'
    ${rulesCommands(firewall).join('; ')}`;
  const [links, routes, routes6, rules = ''] = (await output(['sh', '-ec', program])).split('\0');
  return {
    links: parseRows<Link>(links),
    routes: parseRows<Route>(routes),
    routes6: parseRows<Route>(routes6),
    rules,
  };
}

/** What the network is like, or will be. Throws Failure for a bridge that is another's, or not as it is wished. */
export async function readNetwork(wishes: Wishes): Promise<Network> {
  const { bridge } = wishes;
  const firewall = findFirewall();
  const { links, routes, routes6, rules } = await readFacts(firewall);
  const own = links.find(({ ifname }) => ifname === bridge);
  if (own && (own.linkinfo?.info_kind !== 'bridge' || own.group !== String(group)))
    throw new Failure(`the interface ${bridge} is not one that this made: choose another --bridge`);
  const subnets = (own?.addr_info ?? [])
    .filter(({ scope }) => scope === 'global')
    .flatMap(({ local, prefixlen }) => parseSubnet(`${local}/${prefixlen}`) ?? []);
  const isOutside = ({ dst, type, dev }: Route) =>
    dst === 'default' && type !== 'unreachable' && dev !== 'lo';
  const outer = routes.find(isOutside)?.dev ?? routes6.find(isOutside)?.dev;
  const outer6 = routes6.filter(isOutside);
  const resolv = readNameservers();
  const nameservers = wishes.dns?.length ? wishes.dns : resolv.nameservers;
  const used = [...routes, ...routes6].flatMap(({ dst, dev }) =>
    dev === bridge ? [] : (parseSubnet(dst) ?? []),
  );
  const avoid = [...used, ...nameservers.flatMap((server) => parseSubnet(server) ?? [])];
  const internal =
    rules.includes(`iifname "${bridge}" oifname != "${bridge}" drop`) ||
    rules.includes(`-i ${bridge} ! -o ${bridge} -j DROP`);
  const found = (version: 4 | 6) => subnets.find((subnet) => subnet.version === version);
  const check = (wished: Subnet | undefined, version: 4 | 6) => {
    const is = found(version);
    if (own && wished && (!is || formatSubnet(is) !== formatSubnet(wished)))
      throw new Failure(
        `${bridge} is there already with ${is ? formatSubnet(is) : 'no such subnet'}: choose another --bridge`,
      );
    const other = !own && wished && used.find((subnet) => overlap(subnet, wished));
    if (other)
      throw new Failure(
        `${formatSubnet(wished)} overlaps with ${formatSubnet(other)}, which this host has a route to: ip route`,
      );
  };
  check(wishes.subnet, 4);
  check(wishes.subnet6, 6);
  if (own && wishes.internal && !internal)
    throw new Failure(`${bridge} is there already and is not --internal: choose another --bridge`);
  const ipv6 =
    !wishes.noIpv6 &&
    attempt(() => readFileSync('/proc/sys/net/ipv6/conf/all/disable_ipv6', 'utf8'))?.trim() === '0';
  const seed = `${attempt(() => readFileSync('/etc/machine-id', 'utf8'))} ${bridge}`;
  const subnet = own ? found(4) : (wishes.subnet ?? freeSubnet(avoid));
  if (!subnet) throw new Failure('this host has routes to all private networks: choose a --subnet');
  const mtu = own?.mtu ?? links.find(({ ifname }) => ifname === outer)?.mtu ?? 1500;
  // the bridge's own, which without one would change with the interfaces on it: a private one, made of its name
  const octets = ((await localSubnet(bridge)).first >> 80n).toString(16).slice(2, 12).match(/../g) ?? [];
  return {
    bridge,
    mac: ['02', ...octets].join(':'),
    subnet,
    subnet6: own ? found(6) : ipv6 ? (wishes.subnet6 ?? (await localSubnet(seed))) : undefined,
    internal: own ? internal : wishes.internal === true,
    // IPv6 takes no less, RFC 8200
    mtu,
    firewall,
    outside6: ipv6 && outer6.length > 0,
    acceptRa: [
      ...new Set(
        outer6.flatMap(({ dev = '', protocol }) => (protocol === 'ra' && /^[\w.-]+$/.test(dev) ? dev : [])),
      ),
    ],
    nameservers,
    search: wishes.dns?.length ? [] : resolv.search,
    rules,
  };
}

/** What a container is to get. */
export interface Wanted {
  /** its address, and that of IPv6; undefined: the first that is free */
  ip: string | undefined;
  /** the others on the bridge can't be reached */
  isolated: boolean;
  ports: Port[];
  /** its /etc/resolv.conf and /etc/hosts stay as they are */
  noFiles: boolean;
}

/** Fails for an address that is not the network's to give. */
function numberOf({ subnet }: Network, ip: string): number {
  const parsed = parseAddress(ip);
  const number = parsed?.version === 4 ? parsed.number - subnet.first : -1n;
  if (number < 2n || number >= sizeOf(subnet) - 1n)
    throw new Failure(
      `${ip} is not an address for a container in ${formatSubnet(subnet)}, whose first is the host's`,
    );
  return Number(number);
}

/** What both ways share: the firewall's functions, and the hosts files. */
const shared = (firewall: Firewall) => `fail() { echo "network: $*" >&2; exit 1; }
# one at a time: the lock is on the network namespace itself
locked() ( exec 9</proc/self/ns/net; flock 9; "$@" )
${firewallFunctions(firewall)}
# the settings of the kernel's to be put back: notes BRIDGE, or notes for all of them
notes() { rules | sed -n "s/.*comment \\"barehand note \${1:-[^ ]*} \\([^ \\"]*\\)\\".*/\\1/p"; }
# all on a bridge: LINK NAME PID INTERFACE ADDRESS [ADDRESS6]
members() {
  ip link show master "$1" 2>/dev/null | sed -n '
    s/^[0-9]*: \\(bh[0-9-]*\\)[@:].*/\\1/; t link
    s/^ *alias barehand \\(.*\\)/\\1/; t alias
    d
    :link
    h; d
    :alias
    H; g; s/\\n/ /p'
}
# what a call that was killed has left half made: without an alias
halves() {
  for link in $(ip -o link show type veth | grep -v ' alias barehand ' | sed -n 's/^[0-9]*: \\(bh[0-9][0-9-]*\\)@.*/\\1/p'); do
    ip link delete dev "$link" 2>/dev/null && forget "$link" && echo "$link"
  done
}
# goes to a process's /etc: not where that is the host's, nor by a symlink; what is there is opened with O_NOFOLLOW
etc() {
  cd -P "/proc/$1/root" && [ "$(stat -c %d:%i .)" != "$(stat -L -c %d:%i /)" ] &&
  folder=$(stat -c %d:%i ./etc) && cd -P ./etc && [ "$(stat -c %d:%i .)" = "$folder" ]
} 2>/dev/null
# nor from a device that has no end, or what would fill this host's memory
get() {
  [ ! -e "./$1" ] || { [ -f "./$1" ] && [ "$(stat -c %s "./$1")" -le 1048576 ] &&
  dd if="./$1" iflag=nofollow,nonblock bs=1M count=1 status=none; }
}
put() { dd of="./$1" oflag=nofollow,nonblock status=none; }
# writes the names of all on a bridge into the /etc/hosts of each: the lines that end with its name are ours
names() {
  all=$(members "$1")
  entries=$(printf '%s\\n' "$all" | while read -r _ name _ _ address address6; do
    for at in $address $address6; do printf '%s\\t%s\\t# %s\\n' "$at" "$name" "$1"; done
  done)
  printf '%s\\n' "$all" | while read -r link name pid inside _; do
    case $inside in *:) continue;; esac
    inode=\${link#bh}
    [ "$(readlink "/proc/$pid/ns/net")" = "net:[\${inode%-?}]" ] || continue   # it has ended
    others=$(ip -d link show dev "$link" | grep -q 'isolated on' && printf '%s\\n' "$entries" | grep "^[^[:blank:]]*[[:blank:]]$name[[:blank:]]" || printf '%s\\n' "$entries")
    (etc "$pid" && old=$(get hosts) && {
      printf '%s\\n' "$old" | grep -v "[[:blank:]]# $1$" || :
      printf '%s\\n' "$others"
    } | put hosts) 2>/dev/null || :
  done
}`;

/** The functions that take an interface away: leave LINK BRIDGE, sweep. */
const leaving = (firewall: Firewall) => `${shared(firewall)}
# takes away an interface, its rules, and with the last one its bridge; the note goes at the very end
leave() {
  ip link delete dev "$1" 2>/dev/null || :
  forget "$1"
  bridge=$2
  if [ "$(ip -o link show master "$bridge" 2>/dev/null)" ]; then names "$bridge"; return; fi
  tables | grep -qx "$bridge" || return 0
  ip link delete dev "$bridge" 2>/dev/null || :
  note=$(notes "$bridge")
  others=$(rules | sed -n '/barehand note '"$bridge"' /!s/.*comment "barehand note [^ ]* \\([^ "]*\\)".*/\\1/p')
  for setting in $note; do
    printf '%s\\n' "$others" | grep -qxF "$setting" || echo "\${setting##*=}" >"/proc/sys/\${setting%=*}" || :
  done
  forget "$bridge"
}
# the same for what crashed calls and ended containers have left
sweep() {
  for link in $(tables); do
    case $link in bh[0-9]*) ip link show dev "$link" >/dev/null 2>&1 || { forget "$link"; echo "rules of $link"; };; esac
  done
  halves
  for bridge in $(tables; ip -o link show group ${group} type bridge | sed -n 's/^[0-9]*: \\([^:@]*\\)[:@].*/\\1/p'); do
    case $bridge in bh[0-9]*) continue;; esac
    [ -z "$(ip -o link show master "$bridge" 2>/dev/null)" ] || continue
    [ -e "/proc/sys/net/ipv4/conf/$bridge" ] || tables | grep -qx "$bridge" || continue
    leave '' "$bridge"; ip link delete dev "$bridge" 2>/dev/null || :
    echo "$bridge"
  done
}`;

/** A shell program that takes interfaces away. */
export function detachProgram(firewall: Firewall, all: Attachment[]): string {
  const calls = all.map(({ link, bridge, pid, name }) => {
    const own = `(etc ${pid} && [ "$(readlink /proc/${pid}/ns/net)" = "net:[${link.replace(/^bh|-\d$/g, '')}]" ] && restore ${quote(bridge ?? '')}) 2>/dev/null || :`;
    return `# ${name}\n${own}\nlocked leave ${link} ${quote(bridge ?? '')}`;
  });
  return `${leaving(firewall)}
# its files as they were
restore() {
  old=$(get hosts) && printf '%s\\n' "$old" | grep -v "[[:blank:]]# $1$" | put hosts
  old=$(get resolv.conf); case $old in *'# by barehand '"$1"*) printf '%s\\n' "$old" | sed -n 's/^#was: //p' | put resolv.conf;; esac
}
${calls.join('\n')}
`;
}

export const sweepProgram = (firewall: Firewall) => `${leaving(firewall)}\nlocked sweep\n`;

/** The bridge and its rules, where they are not there yet. */
function bridgeLines(network: Network): string {
  const { bridge, mac, subnet, subnet6, internal, mtu, outside6, acceptRa, firewall } = network;
  const at = (net: Subnet) => `${formatAddress(net.version, net.first + 1n)}/${net.prefix}`;
  const forward = (version: 4 | 6, all: string) => `
if [ "$(cat /proc/sys/${all})" = 0 ]; then
  case $note in *" ${all}="*) ;; *)
    note="$note ${all}=0"${
      version === 4
        ? `
    # changing that one sets others too, the kernel's networking/ip-sysctl
    note="$note net/ipv4/conf/all/accept_redirects=$(cat /proc/sys/net/ipv4/conf/all/accept_redirects)"`
        : acceptRa
            .map(
              (name) =>
                `\n    [ "$(cat /proc/sys/net/ipv6/conf/${name}/accept_ra)" != 1 ] || note="$note net/ipv6/conf/${name}/accept_ra=1"`,
            )
            .join('')
    }
    for file in /proc/sys/net/ipv${version}/conf/*/forwarding; do
      [ "$(cat "$file")" = 0 ] || note="$note \${file#/proc/sys/}=1"
    done;;
  esac
fi`;
  const forwards6 = !internal && subnet6 && outside6;
  return `# the bridge, unless it is there
make() {
note=$(notes | sort -u | tr '\\n' ' '); note=" $note"${internal ? '' : forward(4, 'net/ipv4/ip_forward')}${forwards6 ? forward(6, 'net/ipv6/conf/all/forwarding') : ''}
# the rules come first, for they keep the note
${bridgeProgram(firewall, network)}${
  internal ? '' : '\n[ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || echo 1 >/proc/sys/net/ipv4/ip_forward'
}${
  forwards6
    ? `${acceptRa.map((name) => `\n# who forwards takes no advertisements of routers, unless it is 2\n[ "$(cat /proc/sys/net/ipv6/conf/${name}/accept_ra)" != 1 ] || echo 2 >/proc/sys/net/ipv6/conf/${name}/accept_ra`).join('')}
[ "$(cat /proc/sys/net/ipv6/conf/all/forwarding)" = 1 ] || echo 1 >/proc/sys/net/ipv6/conf/all/forwarding`
    : ''
}
[ ! -e /proc/sys/net/ipv4/conf/${bridge} ] || return 0
[ -z "$(ip -4 route show root ${formatSubnet(subnet)})" ] || fail "${formatSubnet(subnet)} is in use meanwhile: try again"
ip link add name ${bridge} address ${mac} mtu ${mtu} group ${group} type bridge
# the containers are not this host's routers; published ports are reached from its own 127.0.0.1, see the rules
[ ! -d /proc/sys/net/ipv6/conf/${bridge} ] || echo 0 >/proc/sys/net/ipv6/conf/${bridge}/accept_ra
[ ! -d /proc/sys/net/ipv6/conf/${bridge} ] || echo 0 >/proc/sys/net/ipv6/conf/${bridge}/accept_dad
echo 1 >/proc/sys/net/ipv4/conf/${bridge}/route_localnet
ip -batch - <<END
address add ${at(subnet)} dev ${bridge}${subnet6 ? `\naddress add ${at(subnet6)} dev ${bridge} nodad` : ''}
link set dev ${bridge} up
END
}
[ -e /proc/sys/net/ipv4/conf/${bridge} ] && tables | grep -qx ${bridge} || make
ip -4 -o address show dev ${bridge} | grep -qF ' ${at(subnet)} ' || fail "${bridge} is another meanwhile: try again"`;
}

/**
 * The shell function `attach`, which gives the container that $pid is in, and is called $name, an interface. It is to
 * be called when the process has its root directory, and says LINK INTERFACE ADDRESS [ADDRESS6]; needs the shared
 * functions. Pure: which address is free is found when it runs, under the lock.
 */
function attachFunction(network: Network, wanted: Wanted): string {
  const { bridge, subnet, subnet6, internal, mtu, outside6, nameservers, search } = network;
  const gateway = formatAddress(4, subnet.first + 1n);
  const first = Number(subnet.first);
  const last = Number(sizeOf(subnet)) - 2;
  const prefix6 = subnet6 && formatAddress(6, subnet6.first).replace(/::$/, '');
  const gateway6 = subnet6 && outside6 && !internal ? formatAddress(6, subnet6.first + 1n) : undefined;
  const chosen = wanted.ip === undefined ? undefined : numberOf(network, wanted.ip);
  const route = (version: 4 | 6, gateway: string) =>
    `\n  [ "$(ip -${version} route show default)" ] || ip -${version} route add default via ${gateway} dev "$1"`;
  const resolv = [
    ...nameservers.map((server) => `nameserver ${server}`),
    ...(search.length > 0 ? [`search ${search.join(' ')}`] : []),
  ];
  return `attach() (
set -e
exec 9</proc/self/ns/net; flock 9
exec 4<"/proc/$pid/ns/net"   # whoever gets this PID later has another
inode=$(readlink /proc/self/fd/4); inode=\${inode#net:\\[}; inode=\${inode%]}
halves >/dev/null || :
[ "net:[$inode]" != "$(readlink /proc/self/ns/net)" ] || fail "$name has the host's network"
[ "\${seen:-$inode}" = "$inode" ] || fail "$name has ended"
link=bh$inode; number=0
while ip link show dev "$link" >/dev/null 2>&1; do number=$((number + 1)); link=bh$inode-$number; done
[ "$number" = 0 ] || ! members ${bridge} | grep -q "^bh$inode[- ]" || fail "$name is on ${bridge} already"
${bridgeLines(network)}

# an address that no other has: ${formatSubnet(subnet)} begins with the number ${first}
used=" $(members ${bridge} | cut -d ' ' -f 5 | tr '\\n' ' ') "
dotted() { echo $(($1 >> 24)).$(($1 >> 16 & 255)).$(($1 >> 8 & 255)).$(($1 & 255)); }
number=${chosen ?? 2}
while address=$(dotted $((${first} + number))); case $used in *" $address "*) :;; *) false;; esac; do
${
  chosen === undefined
    ? `  number=$((number + 1)); [ $number -le ${last} ] || fail "all addresses of ${formatSubnet(subnet)} are in use"`
    : `  fail "$address is in use: ls shows by whom"`
}
done
address6=${prefix6 === undefined ? '' : `${prefix6}::$(printf %x $number)`}

# the pair of interfaces
inside=eth0; number=0
while nsenter --net=/proc/self/fd/4 ip link show dev "$inside" >/dev/null 2>&1; do
  number=$((number + 1)); inside=eth$number
done
ip link add name "$link" mtu ${mtu} type veth peer name "$inside" mtu ${mtu} netns /proc/self/fd/4
trap 'ip link delete dev "$link"' EXIT
ip link set dev "$link" master ${bridge} addrgenmode none up${
    wanted.isolated ? '\nip link set dev "$link" type bridge_slave isolated on' : ''
  }
nsenter --net=/proc/self/fd/4 sh -ec '
  [ ! -d "/proc/sys/net/ipv6/conf/$1" ] || echo 0 >"/proc/sys/net/ipv6/conf/$1/accept_ra"
  ip -batch -${internal ? '' : route(4, gateway)}${gateway6 ? route(6, gateway6) : ''}' attach "$inside" <<END
link set dev lo up
address add $address/${subnet.prefix} dev $inside
\${address6:+address add $address6/${subnet6?.prefix ?? 64} dev $inside nodad}
link set dev $inside up
END
${wanted.ports.length > 0 ? `${publishProgram(network.firewall, wanted.ports)}\n` : ''}${
  wanted.noFiles || resolv.length === 0
    ? ''
    : `# names of the outside are for a name server to know
(etc "$pid" && old=$(get resolv.conf) && case $old in '# by barehand '*) ;; *) { printf '%s\\n' ${quote(`# by barehand ${bridge}`)} ${resolv.map(quote).join(' ')}; printf '%s\\n' "$old" | sed 's/^/#was: /'; } | put resolv.conf;; esac) 2>/dev/null ||
  echo "network: the /etc/resolv.conf of $name is the host's own, a symlink, or can't be written: it stays as it is" >&2
`
}# it is whole: the alias is what it is found by again; a colon says that its files are not ours to write
ip link set dev "$link" alias "barehand $name $pid $inside${wanted.noFiles ? ':' : ''} $address $address6"
trap - EXIT
names ${bridge}
echo "$link $inside $address $address6"
)`;
}

/**
 * The lines for a launch. `define`: a function of shell, which keeps names and descriptors to itself. `attach`: gives the
 * container that $pid is in, and is called $name, its interface; when it has its root directory, and before its command
 * runs. It leaves $network empty where that failed, and has said why. `leave`: when it has ended.
 */
export function launchLines(network: Network, wanted: Wanted) {
  return {
    define: `network() (
${leaving(network.firewall)}
${attachFunction(network, wanted)}
"$@"
)`,
    // no || behind it: in front of one the shell ignores set -e
    attach: 'network=$(network attach)',
    leave: `[ -z "$network" ] || network locked leave "\${network%% *}" ${network.bridge}`,
  };
}

/** A shell program that attaches a process to a network; `--dry-run` prints it. */
export function attachProgram(network: Network, wanted: Wanted, { name, pid, inode }: NetworkTarget): string {
  return `pid=${pid} name=${quote(name)} seen=${inode}
${shared(network.firewall)}
${attachFunction(network, wanted)}
attach
`;
}

/** A shell program that publishes more ports of a container. */
export const publishPortsProgram = (
  firewall: Firewall,
  { link, address, address6 }: Attachment,
  ports: Port[],
) => `link=${link} address=${address} address6=${address6 ?? ''}
${shared(firewall)}
publish() {
${publishProgram(firewall, ports)}
}
locked publish
`;

/** Runs such a program. Returns what it says; throws Failure with its own words. */
export async function runShell(program: string): Promise<string> {
  const { exitCode, stdout, stderr } = await runProgram(['sh', '-c', program, 'network']);
  const said = stderr.trim().replace(/^network: /gm, '');
  if (exitCode !== 0) throw new Failure(said || `exit code ${exitCode}`);
  if (said) console.error(`network: ${said}`);
  return stdout.trim();
}

/** Removes what crashed calls and ended containers have left of their networks. Returns what it was. */
export async function sweepNetworks(): Promise<string[]> {
  if (process.getuid?.() !== 0 || !findInPath('ip') || !(findInPath('nft') || findInPath('iptables')))
    return [];
  return (await runShell(sweepProgram(findFirewall()))).split('\n').filter(Boolean);
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

/** Whether a process of the host listens on a port, by /proc/net, proc(5): the container would take it from it. */
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

/** Whether a process's root directory is the host's own, whose files stay as they are. */
export const hasHostRoot = (pid: number) => {
  const [own, its] = ['/', `/proc/${pid}/root`].map((path) => attempt(() => statSync(path)));
  return own?.ino === its?.ino && own?.dev === its?.dev;
};

/** A process with a network namespace of its own. */
export interface NetworkTarget {
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
  return { pid, name, inode };
}
