// The firewall of a network: NAT for a bridge, published ports, and a note of the earlier sysctls. With nft(8) each bridge,
// and each container with published ports, has a table; without it, chains of iptables(8). Their names begin with
// barehand-, and the comments of their rules are the record of what they are for.
import { existsSync } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { attempt, groupBy } from '../helpers/pids.ts';
import { installCommand, requirePrograms } from '../helpers/programs.ts';
import { findInPath, runProgram, sh } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import { formatPort, formatSubnet, type Port, parsePort, type Subnet } from './addresses.ts';

/** What the rules of a bridge depend on. */
export interface BridgeRules {
  bridge: string;
  subnet: Subnet;
  subnet6: Subnet | undefined;
  /** nothing is forwarded from or to the bridge */
  internal: boolean;
  /** settings as they were before, `net/ipv4/ip_forward=0` */
  note: string[];
}

/** What the rules of published ports depend on. */
export interface PortRules {
  link: string;
  address: string;
  address6: string | undefined;
  ports: Port[];
}

/** An object of nft's ruleset, libnftables-json(5). */
export interface NftObject {
  table?: { family: string; name: string };
  chain?: { family: string; table: string; name: string; hook?: string; policy?: string };
  rule?: { family: string; table: string; chain: string; comment?: string; expr: Expression[] };
}
export type Expression = Record<string, unknown>;

/** A line of iptables-save(8) or iptables-restore(8), and the program and table that it belongs to. */
interface Line {
  program: 'iptables' | 'ip6tables';
  table: string;
  line: string;
}

/** The firewall as it is. */
export interface Rules {
  /** the name of each table, or chain, of ours without barehand-, and the last words of the comments in it */
  tables: Map<string, string[]>;
  /** all objects of nft; undefined: the firewall is iptables */
  objects: NftObject[] | undefined;
  /** all lines of iptables-save */
  saved: Line[];
}

/** The interface group of all bridges of ours, by which a rule means all of them: ip-link(8), group. */
export const group = 24842;

export const prefix = 'barehand-';

/** Runs a program that reads something, and returns its output. Throws Failure with the program's own reason. */
export async function output(argv: string[], input?: string): Promise<string> {
  const { exitCode, stdout, stderr } = await runProgram(argv, input);
  if (exitCode === 0) return stdout;
  const [line = ''] = stderr.split('\n').filter((text) => text.trim());
  const cause = /permi|not allowed|must be root/i.test(stderr)
    ? ': this needs root with CAP_NET_ADMIN, which a container has only with --privileged'
    : '';
  throw new Failure(`cannot run ${argv.join(' ')}: ${line.trim() || `exit code ${exitCode}`}${cause}`);
}

/** Whether this kernel has IPv6. */
export const hasIpv6 = () => existsSync('/proc/sys/net/ipv6');

/** Reads all rules. Throws Failure if a program is missing, or this process may not read them. */
export async function readRules(): Promise<Rules> {
  requirePrograms(['ip', 'nsenter', 'flock'], 'look at networks');
  if (findInPath('nft')) return parseNft(await output(sh`nft -j list ruleset`));
  if (!findInPath('iptables'))
    throw new Failure(`neither nft(8) nor iptables(8) is installed: ${installCommand(['nft'])}`);
  const saved = versions
    .filter(({ version }) => version === 4 || hasIpv6())
    .map(async ({ program }) => parseSaved(program, await output([`${program}-save`])));
  return parseIptables((await Promise.all(saved)).flat());
}

function parseNft(json: string): Rules {
  const { nftables: objects = [] } = JSON.parse(json.trim() || '{}') as { nftables?: NftObject[] };
  const found = objects.flatMap(({ table, rule }): Found[] => {
    if ((table ?? rule)?.family !== 'inet') return [];
    return [{ name: table?.name ?? rule?.table, comment: rule?.comment }];
  });
  return { tables: tablesOf(found), objects, saved: [] };
}

function parseSaved(program: Line['program'], text: string): Line[] {
  let table = '';
  return text.split('\n').flatMap((line) => {
    if (line.startsWith('*')) table = line.slice(1);
    return /^[:-]/.test(line) ? { program, table, line } : [];
  });
}

const parseIptables = (saved: Line[]): Rules => ({
  tables: tablesOf(
    saved.map(({ line }) => ({
      name: /^(?::|-A )(\S+)/.exec(line)?.[1],
      comment: /--comment "(.*?)"/.exec(line)?.[1],
    })),
  ),
  objects: undefined,
  saved,
});

/** A table or chain that was found, or a rule in it with its comment. */
interface Found {
  name: string | undefined;
  comment: string | undefined;
}

function tablesOf(found: Found[]): Rules['tables'] {
  const tables: Rules['tables'] = new Map();
  for (const { name, comment } of found) {
    if (!name?.startsWith(prefix)) continue;
    const word = /^barehand (?:.* )?(\S+)$/.exec(comment ?? '')?.[1];
    const words = tables.get(name.slice(prefix.length)) ?? [];
    tables.set(name.slice(prefix.length), word && !words.includes(word) ? [...words, word] : words);
  }
  return tables;
}

/** What the comments in the table of a bridge, or of a container, say. */
export const isInternal = ({ tables }: Rules, bridge: string) =>
  tables.get(bridge)?.includes('internal') === true;
export const notesOf = ({ tables }: Rules, bridges: string[]): string[] => [
  ...new Set(bridges.flatMap((bridge) => tables.get(bridge) ?? []).filter((word) => word.includes('='))),
];
export const portsOf = ({ tables }: Rules, link: string): Port[] =>
  (tables.get(link) ?? []).flatMap((word) => attempt(() => parsePort(word)) ?? []);

/** The steps that make the rules of a bridge, instead of those that it had, and those of ports: whichever is given. */
export function planRules(
  rules: Rules,
  bridge: BridgeRules | undefined,
  ports: PortRules | undefined,
): Step[] {
  const old = bridge ? [bridge.bridge] : [];
  const steps = rules.objects
    ? nft(nftDeletions(rules, old), bridge ? nftBridge(bridge) : '', ports ? nftPorts(ports) : '')
    : [
        ...planForget(rules, old),
        ...restore(
          versions.flatMap((version) => [
            ...(bridge ? iptablesBridge(bridge, version) : []),
            ...(ports ? iptablesPorts(rules, ports, version) : []),
          ]),
        ),
      ];
  const why = [bridge && 'NAT for the bridge, and a note of the settings', ports && 'published ports'];
  return steps.map((step, index) => (index > 0 ? step : { why: why.filter(Boolean).join('; '), ...step }));
}

/** The steps that remove tables or chains of ours, all in one transaction if the firewall can. */
export function planForget(rules: Rules, names: string[]): Step[] {
  if (rules.objects) return nft(nftDeletions(rules, names));
  const chains = names.map((name) => prefix + name);
  // what jumps there, then what is there, then the chain itself
  const jumps = rules.saved.filter(({ line }) => chains.some((chain) => line.endsWith(` -j ${chain}`)));
  const own = rules.saved.flatMap(({ line, ...rest }) => {
    const chain = chains.find((name) => line.startsWith(`:${name} `));
    return chain ? [`-F ${chain}`, `-X ${chain}`].map((deletion) => ({ ...rest, line: deletion })) : [];
  });
  return restore([...jumps.map((jump) => ({ ...jump, line: jump.line.replace(/^-A/, '-D') })), ...own]);
}

/** The versions of IP: what nft calls them, and the program of iptables for each. */
const versions = [
  { version: 4, ip: 'ip', program: 'iptables' },
  { version: 6, ip: 'ip6', program: 'ip6tables' },
] as const;
type Version = (typeof versions)[number];

/** One call of nft(8), which is one transaction. */
const nft = (...texts: string[]): Step[] =>
  texts.some(Boolean) ? [{ run: sh`nft -f -`, input: texts.join('') }] : [];

const nftDeletions = ({ tables }: Rules, names: string[]) =>
  names
    .filter((name) => tables.has(name))
    .map((name) => `delete table inet ${prefix}${name}\n`)
    .join('');

function nftBridge({ bridge, subnet, subnet6, internal, note }: BridgeRules): string {
  const nat = [subnet, subnet6].flatMap((net) => {
    if (!net) return [];
    const from = `${net.version === 4 ? 'ip' : 'ip6'} saddr ${formatSubnet(net)}`;
    return [
      ...(internal ? [] : [`${from} oifname != "${bridge}" masquerade`]),
      `${from} oifname "${bridge}" ct status dnat masquerade`,
    ];
  });
  const forward = internal
    ? ['iifname "@" oifname != "@" drop', 'oifname "@" iifname != "@" drop'].map(
        (rule) => `${rule.replaceAll('@', bridge)} comment "barehand internal"`,
      )
    : [
        `oifname "${bridge}" iifname != "${bridge}" iifgroup ${group} ct state new ct status & dnat == 0 drop`,
      ];
  return nftTable(bridge, {
    note: note.map((setting) => `return comment "barehand note ${setting}"`),
    prerouting: [
      'type filter hook prerouting priority -300',
      `iifname "${bridge}" ip daddr 127.0.0.0/8 drop`,
    ],
    postrouting: [
      'type nat hook postrouting priority 100',
      `ip saddr 127.0.0.0/8 oifname "${bridge}" masquerade`,
      ...nat,
    ],
    forward: ['type filter hook forward priority 0', ...forward],
  });
}

/** nft adds to a table and to chains that are there already. */
function nftPorts(rules: PortRules): string {
  const lines = versions.flatMap((version) =>
    targetsOf(rules, version).map(({ port: { host, hostPort, protocol }, to, comment }) => {
      const { ip } = version;
      const at =
        host === undefined
          ? `meta nfproto ipv${version.version} fib daddr type local`
          : `${ip} daddr ${host}`;
      return `${at} ${protocol} dport ${hostPort} dnat ${ip} to ${to} comment "${comment}"`;
    }),
  );
  return nftTable(rules.link, {
    prerouting: ['type nat hook prerouting priority -100', ...lines],
    output: ['type nat hook output priority -100', ...lines],
  });
}

const nftTable = (name: string, chains: Record<string, string[]>) =>
  `table inet ${prefix}${name} {\n${Object.entries(chains)
    .map(([chain, lines]) => `  chain ${chain} {\n${lines.map((line) => `    ${line}\n`).join('')}  }\n`)
    .join('')}}\n`;

/** Where each published port leads with a version of IP. */
function targetsOf({ address, address6, ports }: PortRules, { version }: Version) {
  const to = version === 4 ? address : address6 && `[${address6}]`;
  return ports
    .filter(({ host }) => to && (host === undefined || host.includes(':') === (version === 6)))
    .map((port) => ({ port, to: `${to}:${port.port}`, comment: `barehand port ${formatPort(port)}` }));
}

/** Calls of iptables-restore(8), one for each program, in which each table changes in one transaction. */
const restore = (lines: Line[]): Step[] =>
  [...groupBy(lines, ({ program }) => program)].map(([program, own]) => ({
    // somebody else's call may have the lock: -w waits
    run: [`${program}-restore`, '-w', '--noflush'],
    input: [...groupBy(own, ({ table }) => table)]
      .map(([table, its]) => `*${table}\n${its.map(({ line }) => `${line}\n`).join('')}COMMIT\n`)
      .join(''),
  }));

/** The lines that make a chain, to which `hooks` jump, and its rules. A chain that `exists` only gets the rules. */
function chainLines(
  { program }: Version,
  [table, name, hooks]: [table: string, name: string, hooks: string[]],
  rules: string[],
  exists = false,
): Line[] {
  const chain = prefix + name;
  // declaring a chain empties it
  const made = exists ? [] : [`:${chain} - [0:0]`, ...hooks.map((hook) => `-I ${hook} -j ${chain}`)];
  const all = [...made, ...rules.map((rule) => `-A ${chain} ${rule}`)];
  return all.map((line) => ({ program, table, line }));
}

function iptablesBridge({ bridge, subnet, subnet6, internal, note }: BridgeRules, version: Version): Line[] {
  const is4 = version.version === 4;
  const net = is4 ? subnet : subnet6;
  if (!net) return [];
  const from = `-s ${formatSubnet(net)}`;
  const comment = (words: string) => `-m comment --comment "barehand ${words}"`;
  const notes = is4 ? note.map((setting) => `-i lo -o lo ${comment(`note ${setting}`)} -j RETURN`) : [];
  const forward = internal
    ? [
        `-i ${bridge} ! -o ${bridge} ${comment('internal')} -j DROP`,
        `-o ${bridge} ! -i ${bridge} ${comment('internal')} -j DROP`,
      ]
    : [
        `-o ${bridge} -i ${bridge} -j ACCEPT`,
        `-o ${bridge} -m devgroup --src-group ${group} -m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT -j DROP`,
        `-i ${bridge} -j ACCEPT`,
        `-o ${bridge} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT`,
      ];
  const nat = [
    ...(is4 ? [`-s 127.0.0.0/8 -o ${bridge} -j MASQUERADE`] : []),
    `${from} -o ${bridge} -m conntrack --ctstate DNAT -j MASQUERADE`,
    ...(internal ? [] : [`${from} ! -o ${bridge} -j MASQUERADE`]),
  ];
  return [
    ...chainLines(
      version,
      ['raw', bridge, ['PREROUTING']],
      is4 ? [`-i ${bridge} -d 127.0.0.0/8 -j DROP`] : [],
    ),
    ...chainLines(version, ['nat', bridge, ['POSTROUTING']], nat),
    ...chainLines(version, ['filter', bridge, ['FORWARD']], [...notes, ...forward]),
  ];
}

function iptablesPorts({ tables }: Rules, rules: PortRules, version: Version): Line[] {
  const lines = targetsOf(rules, version).map(({ port: { host, hostPort, protocol }, to, comment }) => {
    const at = host === undefined ? '-m addrtype --dst-type LOCAL' : `-d ${host}`;
    return `${at} -p ${protocol} --dport ${hostPort} -m comment --comment "${comment}" -j DNAT --to-destination ${to}`;
  });
  if (version.version === 6 && !rules.address6) return [];
  return chainLines(version, ['nat', rules.link, ['PREROUTING', 'OUTPUT']], lines, tables.has(rules.link));
}
