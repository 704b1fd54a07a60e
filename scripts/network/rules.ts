// The firewall's part of a network, as shell: NAT for a bridge, published ports, and the note of what the kernel's
// settings were before. With nft(8) these are tables of our own, which go in one piece; else chains of iptables(8).

import { quote } from '../helpers/shell.ts';
import { formatSubnet, type Subnet } from './addresses.ts';

/** A port of the host's that leads to one of a container's. */
export interface Port {
  /** the address of the host's that it is reached at; undefined: all */
  host: string | undefined;
  hostPort: number;
  port: number;
  protocol: 'tcp' | 'udp';
}

export type Firewall = 'nft' | 'iptables';

/** What the rules of a bridge depend on. */
export interface BridgeRules {
  bridge: string;
  subnet: Subnet;
  subnet6: Subnet | undefined;
  internal: boolean;
}

/** All bridges of ours are in this group of interfaces, so that a rule can name the others: ip-link(8), group. */
export const group = 24842;

/** What a published port is called in comments: what comes before the blank is taken, whoever it leads to. */
const wordsOf = ({ host, hostPort, protocol, port }: Port) =>
  `${host === undefined ? '*' : host.includes(':') ? `[${host}]` : host}:${hostPort}/${protocol} ${port}`;

/** The functions of shell that know the firewall. $bridge, $link, $note, $address and $address6 are the caller's. */
export function firewallFunctions(tool: Firewall): string {
  return tool === 'nft'
    ? `# the firewall: each bridge has a table, and each container with published ports; ours begin with barehand-
rules() { nft list ruleset 2>/dev/null; }   # it warns of those that iptables-nft has made
tables() { rules | sed -n 's/^table inet barehand-\\(.*\\) {$/\\1/p'; }
forget() { nft delete table inet "barehand-$1" 2>/dev/null || :; }`
    : `# the firewall: each bridge has chains, and each container with published ports; ours begin with barehand-
iptables() { command iptables -w "$@"; }   # somebody else's call may have the lock
ip6tables() { command ip6tables -w "$@"; }
rules() { iptables-save; [ ! -d /proc/sys/net/ipv6 ] || ip6tables-save; } 2>/dev/null
tables() { rules | sed -n 's/^:barehand-\\([^ ]*\\) .*/\\1/p' | sort -u; }
forget() {
  for command in iptables ip6tables; do
    # what jumps there, then what is there, then the chain itself
    for table in raw nat filter; do
      $command -t $table -S | sed -n "s/^-A \\(.* -j barehand-$1\\)$/-D \\1/p" | while read -r rule; do $command -t $table $rule; done
      $command -t $table -F "barehand-$1" && $command -t $table -X "barehand-$1" || :
    done
  done 2>/dev/null
}`;
}

/** Makes the rules of a bridge, with the $note in them. */
export function bridgeProgram(tool: Firewall, rules: BridgeRules): string {
  const { bridge, subnet, subnet6, internal } = rules;
  if (tool === 'iptables') return iptablesProgram(rules);
  const nat = [subnet, subnet6].flatMap((net) => {
    if (!net) return [];
    const [ip, saddr] = [net.version === 4 ? 'ip' : 'ip6', formatSubnet(net)];
    return [
      ...(internal ? [] : [`${ip} saddr ${saddr} oifname != "${bridge}" masquerade`]),
      `${ip} saddr ${saddr} oifname "${bridge}" ct status dnat masquerade`,
    ];
  });
  const forward = internal
    ? [`iifname "${bridge}" oifname != "${bridge}" drop`, `oifname "${bridge}" iifname != "${bridge}" drop`]
    : [
        `oifname "${bridge}" iifname != "${bridge}" iifgroup ${group} ct state new ct status & dnat == 0 drop`,
      ];
  return `nft -f - <<END
table inet barehand-${bridge}
delete table inet barehand-${bridge}
table inet barehand-${bridge} {
  chain note {
$(for setting in $note; do echo "    return comment \\"barehand note ${bridge} $setting\\""; done)
  }
  chain prerouting {
    type filter hook prerouting priority -300
    iifname "${bridge}" ip daddr 127.0.0.0/8 drop
  }
  chain postrouting {
    type nat hook postrouting priority 100
    ip saddr 127.0.0.0/8 oifname "${bridge}" masquerade
${nat.map((line) => `    ${line}\n`).join('')}  }
  chain forward {
    type filter hook forward priority 0
${forward.map((line) => `    ${line}\n`).join('')}  }
}
END`;
}

function iptablesProgram({ bridge, subnet, subnet6, internal }: BridgeRules): string {
  const chain = `barehand-${bridge}`;
  const restore = (
    command: string,
    net: Subnet,
    first: string[],
    nat: string[],
    filter: string[],
    note = '',
  ) =>
    `${command}-restore -w --noflush <<END
*raw
:${chain} - [0:0]
-I PREROUTING -j ${chain}
${first.join('\n')}
COMMIT
*nat
:${chain} - [0:0]
-I POSTROUTING -j ${chain}
${[...nat, `-s ${formatSubnet(net)} -o ${bridge} -m conntrack --ctstate DNAT -j MASQUERADE`, ...(internal ? [] : [`-s ${formatSubnet(net)} ! -o ${bridge} -j MASQUERADE`])].map((rule) => `-A ${chain} ${rule}`).join('\n')}
COMMIT
*filter
:${chain} - [0:0]
-I FORWARD -j ${chain}
${note ? `${note}\n` : ''}${filter.map((rule) => `-A ${chain} ${rule}`).join('\n')}
COMMIT
END`;
  const filter = internal
    ? [`-i ${bridge} ! -o ${bridge} -j DROP`, `-o ${bridge} ! -i ${bridge} -j DROP`]
    : [
        `-o ${bridge} -i ${bridge} -j ACCEPT`,
        `-o ${bridge} -m devgroup --src-group ${group} -m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT -j DROP`,
        `-i ${bridge} -j ACCEPT`,
        `-o ${bridge} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT`,
      ];
  return [
    `forget ${bridge}`,
    restore(
      'iptables',
      subnet,
      [`-A ${chain} -i ${bridge} -d 127.0.0.0/8 -j DROP`],
      [`-s 127.0.0.0/8 -o ${bridge} -j MASQUERADE`],
      filter,
      `$(for setting in $note; do echo "-A ${chain} -i lo -o lo -m comment --comment \\"barehand note ${bridge} $setting\\" -j RETURN"; done)`,
    ),
    ...(subnet6 ? [restore('ip6tables', subnet6, [], [], filter)] : []),
  ].join('\n');
}

/** Publishes ports of the container with $address and $address6 behind $link. Fails for one that is taken. */
export function publishProgram(tool: Firewall, ports: Port[]): string {
  const checks = ports.map((port) => {
    const { host, hostPort, protocol } = port;
    const [own = ''] = wordsOf(port).split(' ');
    const words =
      host === undefined ? [`:${hostPort}/${protocol} `] : [` ${own} `, ` *:${hostPort}/${protocol} `];
    return `! printf '%s\\n' "$taken" | grep -qF ${words.map((word) => `-e ${quote(word)}`).join(' ')} ||
  fail "port ${hostPort}/${protocol} of the host is published already: ls shows where it leads"`;
  });
  const rules = ports.flatMap((port) =>
    ([4, 6] as const).flatMap((version) => {
      const isOther = port.host !== undefined && port.host.includes(':') !== (version === 6);
      return isOther ? [] : [{ ...port, version, comment: `barehand $link ${wordsOf(port)}` }];
    }),
  );
  const lines = [
    `taken=$(rules | sed -n 's/.*comment "barehand bh[0-9-]* \\(.*\\)".*/ \\1/p')`,
    ...checks,
    '# with br_netfilter what a container sends to its own published port goes out where it came in',
    'ip link set dev "$link" type bridge_slave hairpin on',
  ];
  if (tool === 'nft') {
    const line = (
      { version, host, hostPort, port, protocol, comment }: (typeof rules)[number],
      chain: string,
    ) => {
      const [ip, target] = version === 4 ? ['ip', '$address'] : ['ip6', '[$address6]'];
      const to =
        host === undefined ? `meta nfproto ipv${version} fib daddr type local` : `${ip} daddr ${host}`;
      return `add rule inet barehand-$link ${chain} ${to} ${protocol} dport ${hostPort} dnat ${ip} to ${target}:${port} comment "${comment}"`;
    };
    const all = (version: 4 | 6) =>
      rules
        .filter((rule) => rule.version === version)
        .flatMap((rule) => ['prerouting', 'output'].map((chain) => line(rule, chain)))
        .join('\n');
    return [
      ...lines,
      `{ cat <<END
add table inet barehand-$link
add chain inet barehand-$link prerouting { type nat hook prerouting priority -100; }
add chain inet barehand-$link output { type nat hook output priority -100; }
${all(4)}
END
[ -z "$address6" ] || cat <<END
${all(6)}
END
} | nft -f -`,
    ].join('\n');
  }
  const chain = '"barehand-$link"';
  const commands = ([4, 6] as const).map((version) => {
    const [command, target] = version === 4 ? ['iptables', '$address'] : ['ip6tables', '[$address6]'];
    const own = rules.filter((rule) => rule.version === version);
    return `${version === 4 ? '' : '[ -z "$address6" ] || '}{
  ${command} -t nat -N ${chain} 2>/dev/null && ${command} -t nat -I PREROUTING -j ${chain} && ${command} -t nat -I OUTPUT -j ${chain} || :
${own.map(({ host, hostPort, port, protocol, comment }) => `  ${command} -t nat -A ${chain} ${host === undefined ? '-m addrtype --dst-type LOCAL' : `-d ${host}`} -p ${protocol} --dport ${hostPort} -m comment --comment "${comment}" -j DNAT --to-destination "${target}:${port}"`).join('\n')}
}`;
  });
  return [...lines, ...commands].join('\n');
}

/** The published ports in what `rules` prints, by the container's link. */
export function readPorts(text: string): Map<string, Port[]> {
  const found = new Map<string, Port[]>();
  const seen = new Set<string>();
  for (const [comment, link = '', host = '', hostPort, protocol, port] of text.matchAll(
    /comment "barehand (bh[\d-]+) (\S*):(\d+)\/(tcp|udp) (\d+)"/g,
  )) {
    if (seen.has(comment)) continue;
    seen.add(comment);
    const address = host === '*' ? undefined : host.replace(/^\[|\]$/g, '');
    const entry = { host: address, hostPort: Number(hostPort), protocol, port: Number(port) } as Port;
    found.set(link, [...(found.get(link) ?? []), entry]);
  }
  return found;
}
