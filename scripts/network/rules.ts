// The firewall of a network: NAT for a bridge, published ports, and a note of the kernel's settings as they were. With
// nft(8) these are tables of our own; without it, chains of iptables(8). All names begin with barehand-.
import { existsSync } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { installCommand, requirePrograms } from '../helpers/programs.ts';
import { findInPath, runProgram, sh } from '../helpers/shell.ts';
import type { Step } from '../helpers/steps.ts';
import { formatSubnet, type Port, type Subnet } from './addresses.ts';

export type Firewall = 'nft' | 'iptables';

/** What the rules of a bridge depend on. */
export interface BridgeRules {
  bridge: string;
  subnet: Subnet;
  subnet6: Subnet | undefined;
  internal: boolean;
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

/** The lines that iptables-save(8) prints, by table. */
type Saved = Map<string, string[]>;
type Iptables = 'iptables' | 'ip6tables';

/** The firewall as it is. */
export interface Rules {
  firewall: Firewall;
  /** our tables, or chains, without barehand- in front: bridges, and links of containers with published ports */
  tables: string[];
  /** the comments of our rules, without barehand in front */
  comments: string[];
  /** the bridges that nothing is forwarded from or to */
  internal: string[];
  /** all objects of nft's */
  objects: NftObject[];
  /** all rules of iptables' */
  saved: Map<Iptables, Saved>;
}

/** The interface group of all bridges of ours, so that a rule can name the others: ip-link(8), group. */
export const group = 24842;

const prefix = 'barehand-';

/** A published port in a comment: two ports of the host are the same where this is the same up to the blank. */
export const wordsOf = ({ host, hostPort, protocol, port }: Port) =>
  `${host === undefined ? '*' : host.includes(':') ? `[${host}]` : host}:${hostPort}/${protocol} ${port}`;

/** Which firewall this host has. Throws Failure where programs are missing that a network is made with. */
export function findFirewall(): Firewall {
  requirePrograms(['ip', 'nsenter', 'flock'], 'look at networks');
  if (findInPath('nft')) return 'nft';
  if (findInPath('iptables')) return 'iptables';
  throw new Failure(`neither nft(8) nor iptables(8) is here: ${installCommand(['nft'])}`);
}

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

/** Reads all rules. Throws Failure where this process may not. */
export async function readRules(firewall: Firewall): Promise<Rules> {
  if (firewall === 'nft') return parseNft(await output(sh`nft -j list ruleset`));
  const commands: Iptables[] = existsSync('/proc/sys/net/ipv6') ? ['iptables', 'ip6tables'] : ['iptables'];
  const saved = commands.map(
    async (command) => [command, parseSaved(await output([`${command}-save`]))] as const,
  );
  return parseIptables(new Map(await Promise.all(saved)));
}

function parseNft(json: string): Rules {
  const { nftables: objects = [] } = JSON.parse(json.trim() || '{}') as { nftables?: NftObject[] };
  const tables = objects.flatMap(({ table }) =>
    table?.family === 'inet' && table.name.startsWith(prefix) ? table.name.slice(prefix.length) : [],
  );
  const rules = objects.flatMap(({ rule }) => (rule?.table.startsWith(prefix) ? rule : []));
  return {
    firewall: 'nft',
    tables,
    comments: rules.flatMap(({ comment }) => comment?.match(/^barehand (.*)$/)?.[1] ?? []),
    // all that leaves the bridge is dropped, whatever it is: the rule asks for the interfaces and nothing more
    internal: rules.flatMap(({ chain, table, expr }) =>
      chain === 'forward' && expr.length === 3 && 'drop' in (expr[2] ?? {}) ? table.slice(prefix.length) : [],
    ),
    objects,
    saved: new Map(),
  };
}

function parseSaved(text: string): Saved {
  const tables: Saved = new Map();
  let table = '';
  for (const line of text.split('\n'))
    if (line.startsWith('*')) {
      table = line.slice(1);
      tables.set(table, []);
    } else if (/^[:-]/.test(line)) tables.get(table)?.push(line);
  return tables;
}

function parseIptables(saved: Map<Iptables, Saved>): Rules {
  const lines = [...saved.values()].flatMap((tables) => [...tables.values()]).flat();
  const found = (pattern: RegExp) => [...new Set(lines.flatMap((line) => pattern.exec(line)?.[1] ?? []))];
  return {
    firewall: 'iptables',
    tables: found(/^:barehand-(\S+) /),
    comments: found(/--comment "barehand (.*?)"/),
    internal: found(/^-A barehand-(\S+) -i \S+ ! -o \S+ -j DROP$/),
    objects: [],
    saved,
  };
}

/** The notes of a bridge, or of all: the settings, `net/ipv4/ip_forward=0`, as they were before. */
export const notesOf = ({ comments }: Rules, bridge?: string): string[] =>
  comments.flatMap((comment) => {
    const [kind, name, setting] = comment.split(' ');
    return kind === 'note' && setting && (bridge === undefined || name === bridge) ? setting : [];
  });

/** The published ports by the link of their container, each once. */
export function portsOf({ comments }: Rules): Map<string, Port[]> {
  const found = new Map<string, Port[]>();
  for (const comment of new Set(comments)) {
    const [, link, host = '', hostPort, protocol, port] =
      /^(bh[\d-]+) (\S*):(\d+)\/(tcp|udp) (\d+)$/.exec(comment) ?? [];
    if (!link) continue;
    const address = host === '*' ? undefined : host.replace(/^\[|\]$/g, '');
    const entry = { host: address, hostPort: Number(hostPort), protocol, port: Number(port) } as Port;
    found.set(link, [...(found.get(link) ?? []), entry]);
  }
  return found;
}

/** The rules as they are when the tables or chains of these names have been removed. */
export function withoutRules(rules: Rules, names: string[]): Rules {
  const isOf = (line: string) => names.some((name) => line.split(' ').includes(`${prefix}${name}`));
  return {
    ...rules,
    tables: rules.tables.filter((name) => !names.includes(name)),
    comments: rules.comments.filter(
      (comment) => !names.includes(comment.replace(/^note /, '').split(' ')[0] ?? ''),
    ),
    saved: new Map(
      [...rules.saved].map(([command, tables]) => [
        command,
        new Map(
          [...tables].map(([table, lines]) => [table, lines.filter((line) => !isOf(line.replace(/^:/, '')))]),
        ),
      ]),
    ),
  };
}

/** The steps that make the rules of a bridge, with its note, and those of ports: whichever is asked for. */
export function planRules(
  rules: Rules,
  bridge: (BridgeRules & { note: string[] }) | undefined,
  ports: PortRules | undefined,
): Step[] {
  const old = bridge && rules.tables.includes(bridge.bridge) ? [bridge.bridge] : [];
  if (rules.firewall === 'iptables')
    return [...planForget(rules, old), ...planIptables(rules, bridge, ports)];
  const deletion = old.map((name) => `delete table inet ${prefix}${name}\n`).join('');
  const text = deletion + (bridge ? nftBridge(bridge) : '') + (ports ? nftPorts(ports) : '');
  if (text === '') return [];
  return [
    {
      why: [bridge && 'NAT for the bridge, and a note of the settings', ports && 'published ports']
        .filter(Boolean)
        .join('; '),
      run: sh`nft -f -`,
      input: text,
    },
  ];
}

function nftBridge({ bridge, subnet, subnet6, internal, note }: BridgeRules & { note: string[] }): string {
  const nat = [subnet, subnet6].flatMap((net) => {
    if (!net) return [];
    const from = `${net.version === 4 ? 'ip' : 'ip6'} saddr ${formatSubnet(net)}`;
    return [
      ...(internal ? [] : [`${from} oifname != "${bridge}" masquerade`]),
      `${from} oifname "${bridge}" ct status dnat masquerade`,
    ];
  });
  const forward = internal
    ? [`iifname "${bridge}" oifname != "${bridge}" drop`, `oifname "${bridge}" iifname != "${bridge}" drop`]
    : [
        `oifname "${bridge}" iifname != "${bridge}" iifgroup ${group} ct state new ct status & dnat == 0 drop`,
      ];
  return nftTable(bridge, {
    note: note.map((setting) => `return comment "barehand note ${bridge} ${setting}"`),
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
  const lines = portTargets(rules).map(({ port: { host, hostPort, protocol }, version, to, comment }) => {
    const ip = version === 4 ? 'ip' : 'ip6';
    const at = host === undefined ? `meta nfproto ipv${version} fib daddr type local` : `${ip} daddr ${host}`;
    return `${at} ${protocol} dport ${hostPort} dnat ${ip} to ${to} comment "${comment}"`;
  });
  return nftTable(rules.link, {
    prerouting: ['type nat hook prerouting priority -100', ...lines],
    output: ['type nat hook output priority -100', ...lines],
  });
}

/** A table as nft(8) reads it. A chain that is short stands on one line. */
const nftTable = (name: string, chains: Record<string, string[]>) =>
  `table inet ${prefix}${name} {\n${Object.entries(chains).map(nftChain).join('')}}\n`;

function nftChain([chain, lines]: [string, string[]]): string {
  const short = `  chain ${chain} { ${lines.map((line) => `${line};`).join(' ')} }\n`;
  if (lines.length <= 2 && short.length <= 160) return short;
  const isType = lines[0]?.startsWith('type ');
  const head = `  chain ${chain} {${isType ? ` ${lines[0]};` : ''}\n`;
  return `${head}${lines
    .slice(isType ? 1 : 0)
    .map((line) => `    ${line}\n`)
    .join('')}  }\n`;
}

/** What each published port leads to, by version of IP. */
const portTargets = ({ link, address, address6, ports }: PortRules) =>
  ([4, 6] as const).flatMap((version) =>
    ports.flatMap((port) => {
      if (version === 6 && address6 === undefined) return [];
      if (port.host !== undefined && port.host.includes(':') !== (version === 6)) return [];
      const to = version === 4 ? `${address}:${port.port}` : `[${address6}]:${port.port}`;
      return { port, version, to, comment: `barehand ${link} ${wordsOf(port)}` };
    }),
  );

/** Commands of iptables-restore(8), by table. */
type Commands = Record<string, string[]>;

/** One call of iptables-restore(8), whose tables change each in one piece. */
function restore(command: Iptables, commands: Commands, why?: string): Step[] {
  const tables = Object.entries(commands).filter(([, lines]) => lines.length > 0);
  if (tables.length === 0) return [];
  const input = tables.map(([table, lines]) => `*${table}\n${lines.join('\n')}\nCOMMIT\n`).join('');
  // somebody else's call may have the lock: -w waits
  return [{ ...(why ? { why } : {}), run: [`${command}-restore`, '-w', '--noflush'], input }];
}

function planIptables(
  rules: Rules,
  bridge: (BridgeRules & { note: string[] }) | undefined,
  ports: PortRules | undefined,
): Step[] {
  return ([4, 6] as const).flatMap((version) => {
    const command = version === 4 ? 'iptables' : 'ip6tables';
    const commands: Commands = { raw: [], nat: [], filter: [] };
    const add = (made: Commands) => {
      for (const [table, lines] of Object.entries(made)) commands[table]?.push(...lines);
    };
    if (bridge) add(iptablesBridge(bridge, version));
    if (ports) add({ nat: iptablesPorts(rules, ports, version) });
    return restore(command, commands, version === 4 ? 'the rules' : undefined);
  });
}

function iptablesBridge(
  { bridge, subnet, subnet6, internal, note }: BridgeRules & { note: string[] },
  version: 4 | 6,
): Commands {
  const net = version === 4 ? subnet : subnet6;
  if (!net) return {};
  const chain = prefix + bridge;
  const make = (hook: string, lines: string[]) => [
    `:${chain} - [0:0]`,
    `-I ${hook} -j ${chain}`,
    ...lines.map((line) => `-A ${chain} ${line}`),
  ];
  const from = `-s ${formatSubnet(net)}`;
  const only4 = (line: string) => (version === 4 ? [line] : []);
  const notes = note.flatMap((setting) =>
    only4(`-i lo -o lo -m comment --comment "barehand note ${bridge} ${setting}" -j RETURN`),
  );
  const filter = internal
    ? [`-i ${bridge} ! -o ${bridge} -j DROP`, `-o ${bridge} ! -i ${bridge} -j DROP`]
    : [
        `-o ${bridge} -i ${bridge} -j ACCEPT`,
        `-o ${bridge} -m devgroup --src-group ${group} -m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT -j DROP`,
        `-i ${bridge} -j ACCEPT`,
        `-o ${bridge} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT`,
      ];
  return {
    raw: make('PREROUTING', only4(`-i ${bridge} -d 127.0.0.0/8 -j DROP`)),
    nat: make('POSTROUTING', [
      ...only4(`-s 127.0.0.0/8 -o ${bridge} -j MASQUERADE`),
      `${from} -o ${bridge} -m conntrack --ctstate DNAT -j MASQUERADE`,
      ...(internal ? [] : [`${from} ! -o ${bridge} -j MASQUERADE`]),
    ]),
    filter: make('FORWARD', [...notes, ...filter]),
  };
}

function iptablesPorts({ saved }: Rules, rules: PortRules, version: 4 | 6): string[] {
  const chain = prefix + rules.link;
  const lines = portTargets(rules).flatMap(
    ({ port: { host, hostPort, protocol }, version: its, to, comment }) => {
      if (its !== version) return [];
      const at = host === undefined ? '-m addrtype --dst-type LOCAL' : `-d ${host}`;
      return `-A ${chain} ${at} -p ${protocol} --dport ${hostPort} -m comment --comment "${comment}" -j DNAT --to-destination ${to}`;
    },
  );
  const command = version === 4 ? 'iptables' : 'ip6tables';
  const isThere = saved
    .get(command)
    ?.get('nat')
    ?.some((line) => line.startsWith(`:${chain} `));
  // declaring a chain empties it
  const chains = [`:${chain} - [0:0]`, `-I PREROUTING -j ${chain}`, `-I OUTPUT -j ${chain}`];
  return lines.length === 0 ? [] : [...(isThere ? [] : chains), ...lines];
}

/** The steps that remove tables or chains of ours, all in one piece where the firewall can. */
export function planForget({ firewall, tables, saved }: Rules, names: string[]): Step[] {
  const present = names.filter((name) => tables.includes(name)).map((name) => prefix + name);
  if (present.length === 0) return [];
  if (firewall === 'nft') {
    const [only, ...more] = present;
    if (more.length === 0) return [{ run: sh`nft delete table inet ${only as string}` }];
    return [{ run: sh`nft -f -`, input: present.map((name) => `delete table inet ${name}\n`).join('') }];
  }
  return [...saved].flatMap(([command, its]) => {
    const commands = [...its].map(([table, lines]): [string, string[]] => {
      const chains = present.filter((name) => lines.some((line) => line.startsWith(`:${name} `)));
      const jumps = lines.filter((line) => chains.some((name) => line.endsWith(` -j ${name}`)));
      // what jumps there, then what is there, then the chain itself
      return [
        table,
        [
          ...jumps.map((line) => line.replace(/^-A/, '-D')),
          ...chains.flatMap((name) => [`-F ${name}`, `-X ${name}`]),
        ],
      ];
    });
    return restore(command, Object.fromEntries(commands));
  });
}
