// The firewall of a network: NAT for a bridge, published ports, and a note of the earlier sysctls. Each bridge, and each
// container with published ports, has a table of nft(8), or chains of iptables(8) on hosts without nft. Their names begin
// with barehand-. The comments of rules hold ports and sysctls, and are read back.
import { existsSync } from 'node:fs';
import { Failure } from '../helpers/cli.ts';
import { attempt, groupBy } from '../helpers/pids.ts';
import { installCommand, requirePrograms } from '../helpers/programs.ts';
import { findInPath, runProgram, sh } from '../helpers/shell.ts';
import { packWords, type Step } from '../helpers/steps.ts';
import { formatPort, formatSubnet, type Port, parsePort, type Subnet } from './addresses.ts';
import { textOf } from './files.ts';
import type { Attachment } from './host.ts';

/** A bridge, as its rules need it. */
interface BridgeRules {
  bridge: string;
  subnet: Subnet;
  subnet6: Subnet | undefined;
  /** nothing is forwarded from or to the bridge */
  internal: boolean;
  /** settings as they were before, `net/ipv4/ip_forward=0` */
  note: string[];
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
  program: string;
  table: string;
  line: string;
}

/** The firewall as it is. */
export interface Rules {
  /** the name of each table, or chain, of ours without barehand-, and the words of the comments in it */
  tables: Map<string, string[]>;
  /** all objects of nft; undefined: the firewall is iptables */
  objects: NftObject[] | undefined;
  /** all lines of iptables-save */
  saved: Line[];
}

/** The interface group of all our bridges, ip-link(8): a rule can match all of them. */
export const group = 24842;

export const prefix = 'barehand-';

/** Runs a program and returns its output. Throws Failure with the program's own reason. */
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
  requirePrograms(['ip', 'nsenter', 'flock'], 'manage networks');
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
  const found = objects
    .filter(({ table, rule }) => (table ?? rule)?.family === 'inet')
    .map(({ table, rule }): Found => [table?.name ?? rule?.table, rule?.comment]);
  return { tables: tablesOf(found), objects, saved: [] };
}

function parseSaved(program: string, text: string): Line[] {
  let table = '';
  return text.split('\n').flatMap((line) => {
    if (line.startsWith('*')) table = line.slice(1);
    return /^[:-]/.test(line) ? { program, table, line } : [];
  });
}

function parseIptables(saved: Line[]): Rules {
  const found = saved.map(
    ({ line }): Found => [/^(?::|-A )(\S+)/.exec(line)?.[1], /--comment "(.*?)"/.exec(line)?.[1]],
  );
  return { tables: tablesOf(found), objects: undefined, saved };
}

/** A table or chain, or a rule in it with its comment. */
type Found = [name: string | undefined, comment: string | undefined];

function tablesOf(found: Found[]): Rules['tables'] {
  const tables: Rules['tables'] = new Map();
  for (const [name, comment = ''] of found) {
    if (!name?.startsWith(prefix)) continue;
    const words = /^barehand (.+)$/.exec(comment)?.[1]?.split(' ') ?? [];
    const known = tables.get(name.slice(prefix.length)) ?? [];
    tables.set(name.slice(prefix.length), [...new Set([...known, ...words])]);
  }
  return tables;
}

/** Facts from the comments in the table of a bridge, or of a container. */
export const isInternal = ({ tables }: Rules, bridge: string) =>
  tables.get(bridge)?.includes('internal') === true;
export const notesOf = ({ tables }: Rules, bridges: string[]): string[] => [
  ...new Set(bridges.flatMap((bridge) => tables.get(bridge) ?? []).filter((word) => word.includes('='))),
];
export const portsOf = ({ tables }: Rules, link: string): Port[] =>
  (tables.get(link) ?? []).flatMap((word) => attempt(() => parsePort(word)) ?? []);

/** The versions of IP, with nft's word and the program of iptables for each. */
const versions = [
  { version: 4, ip: 'ip', program: 'iptables' },
  { version: 6, ip: 'ip6', program: 'ip6tables' },
] as const;

/** A chain for one hook or more, with its rules in nft's syntax. `forIptables`: rules that only iptables needs. */
interface Chain {
  name: string;
  table: 'raw' | 'nat' | 'filter';
  hooks: string[];
  rules: string[];
  forIptables?: string[];
}

function bridgeChains({ bridge: name, subnet, subnet6, internal, note }: BridgeRules): Chain[] {
  const [from, to] = [`iifname "${name}"`, `oifname "${name}"`];
  const [fromOthers, toOthers] = [`iifname != "${name}"`, `oifname != "${name}"`];
  const net = `ip saddr ${formatSubnet(subnet)}`;
  const net6 = subnet6 ? [`ip6 saddr ${formatSubnet(subnet6)}`] : [];
  // a comment of nft(8) has at most 128 bytes
  const notes = packWords(note, 110).map((settings) => `return comment "barehand note ${settings}"`);
  const raw = [`${from} ip daddr 127.0.0.0/8 drop`];
  const nat = [
    // published ports, from this host and from the members themselves
    ...[`ip saddr {127.0.0.0/8,${formatSubnet(subnet)}}`, ...net6].map(
      (from) => `${from} ${to} ct status dnat masquerade`,
    ),
    ...(internal ? [] : [net, ...net6].map((from) => `${from} ${toOthers} masquerade`)),
    ...notes,
  ];
  const filter = internal
    ? [`${from} ${toOthers}`, `${to} ${fromOthers}`].map((both) => `${both} drop comment "barehand internal"`)
    : [`${to} ${fromOthers} iifgroup ${group} ct state new ct status & dnat == 0 drop`];
  // accepted before rules of others may drop them; packets to another bridge of ours are left to that one's chain
  const accepted = [
    `${from} ${to}`,
    `${from} oifgroup != ${group}`,
    `${to} ct state established,related`,
    `${to} ct status dnat`,
  ];
  const forIptables = internal ? [] : accepted.map((packets) => `${packets} accept`);
  return [
    { name, table: 'raw', hooks: ['prerouting'], rules: raw },
    { name, table: 'nat', hooks: ['postrouting'], rules: nat },
    { name, table: 'filter', hooks: ['forward'], rules: filter, forIptables },
  ];
}

function portChains({ link: name, address, address6, ports }: Attachment): Chain[] {
  const rules = versions.flatMap(({ version, ip }) => {
    const to = version === 4 ? address : address6 && `[${address6}]`;
    return ports
      .filter(({ host }) => to && (host === undefined || host.includes(':') === (version === 6)))
      .map((port) => {
        const at = port.host === undefined ? 'fib daddr type local' : `${ip} daddr ${port.host}`;
        const target = `dnat ${ip} to ${to}:${port.port} comment "barehand port ${formatPort(port)}"`;
        return `${at} ${port.protocol} dport ${port.hostPort} ${target}`;
      });
  });
  return [{ name, table: 'nat', hooks: ['prerouting', 'output'], rules }];
}

/** The steps that make the rules of a bridge, in place of those that it has, and of ports; undefined: none of these. */
export function planRules(
  rules: Rules,
  bridge: BridgeRules | undefined,
  ports: Attachment | undefined,
): Step[] {
  const old = bridge ? [bridge.bridge] : [];
  const chains = [...(bridge ? bridgeChains(bridge) : []), ...(ports ? portChains(ports) : [])];
  const isNew = ({ name }: Chain) => old.includes(name) || !rules.tables.has(name);
  const has6 = (bridge?.subnet6 ?? ports?.address6) !== undefined;
  const steps = rules.objects
    ? nft(nftDeletions(rules, old) + nftTables(chains, isNew))
    : [
        ...planForget(rules, old),
        ...restore(chains.flatMap((chain) => iptablesLines(chain, isNew(chain), has6))),
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

/** One call of nft(8), which is one transaction. */
const nft = (text: string): Step[] => (text ? [{ run: sh`nft -f -`, input: text }] : []);

const nftDeletions = ({ tables }: Rules, names: string[]) =>
  names
    .filter((name) => tables.has(name))
    .map((name) => `delete table inet ${prefix}${name}\n`)
    .join('');

/** The tables of these chains, for nft(8), which adds them to a table and to chains that exist. */
function nftTables(chains: Chain[], isNew: (chain: Chain) => boolean): string {
  const chainText = (name: string, type: string, rules: string[]) => {
    const short = `  chain ${name} {${type} ${rules.join('; ')}; }\n`;
    // several rules, or a long one, are a line each
    if (type && rules.length === 1 && short.length <= 160) return short;
    return `  chain ${name} {${type}\n${rules.map((rule) => `    ${rule}\n`).join('')}  }\n`;
  };
  const hookText = (table: Chain['table'], hook: string, rules: string[]) => {
    // the priorities of iptables' own hooks
    const priority = { raw: -300, nat: hook === 'postrouting' ? 100 : -100, filter: 0 }[table];
    return chainText(
      hook,
      ` type ${table === 'nat' ? 'nat' : 'filter'} hook ${hook} priority ${priority};`,
      rules,
    );
  };
  const tables = [...groupBy(chains, ({ name }) => name)].map(([name, own]) => {
    const texts = own.flatMap((chain) => {
      const { table, hooks, rules } = chain;
      const [only = '', ...more] = hooks;
      if (more.length === 0) return hookText(table, only, rules);
      const jumps = isNew(chain) ? hooks.map((hook) => hookText(table, hook, ['jump rules'])) : [];
      return [chainText('rules', '', rules), ...jumps];
    });
    return `table inet ${prefix}${name} {\n${texts.join('')}}\n`;
  });
  return tables.join('');
}

/** Matches and targets of nft(8), and their words in iptables-extensions(8). */
const translations: [nft: RegExp, iptables: string][] = [
  [/([io])ifname != "(\S+)"/, '! -$1 $2'],
  [/([io])ifname "(\S+)"/g, '-$1 $2'],
  [/iifgroup (\d+)/, '-m devgroup --src-group $1'],
  [/oifgroup != (\d+)/, '-m devgroup ! --dst-group $1'],
  [/ip6? ([sd])addr \{?([^\s}]+)\}?/, '-$1 $2'],
  [/fib daddr type local/, '-m addrtype --dst-type LOCAL'],
  [/(tcp|udp) dport (\d+)/, '-p $1 --dport $2'],
  [/ct state (\S+)/, '-m conntrack --ctstate $1'],
  [/ct status & dnat == 0/, '-m conntrack ! --ctstate DNAT'],
  [/ct status dnat/, '-m conntrack --ctstate DNAT'],
  [/dnat ip6? to (\S+)/, '-j DNAT --to-destination $1'],
  [/comment (".*")/, '-m comment --comment $1'],
];

function toIptables(rule: string): string {
  const verdict = /\b(masquerade|drop|accept|return)(?= comment|$)/;
  const start = rule.replace(verdict, (word) => `-j ${word.toUpperCase()}`);
  return translations.reduce((text, [nft, iptables]) => text.replace(nft, iptables), start);
}

/** The lines of a chain for the versions of IP that it has. A chain that is not `made` anew only gets more rules. */
function iptablesLines({ name, table, hooks, rules, forIptables = [] }: Chain, made: boolean, has6: boolean) {
  const chain = prefix + name;
  // declaring a chain empties it
  const head = [`:${chain} - [0:0]`, ...hooks.map((hook) => `-I ${hook.toUpperCase()} -j ${chain}`)];
  return versions.slice(0, has6 ? 2 : 1).flatMap(({ version, program }): Line[] => {
    const other = version === 4 ? /\bip6 / : /\bip /;
    const own = [...rules, ...forIptables].filter((rule) => !other.test(rule));
    const lines = [...(made ? head : []), ...own.map((rule) => `-A ${chain} ${toIptables(rule)}`)];
    return lines.map((line) => ({ program, table, line }));
  });
}

/** Calls of iptables-restore(8), one for each program, in which each table changes in one transaction. */
const restore = (lines: Line[]): Step[] =>
  [...groupBy(lines, ({ program }) => program)].map(([program, own]) => ({
    // somebody else's call may have the lock: -w waits
    run: [`${program}-restore`, '-w', '--noflush'],
    input: [...groupBy(own, ({ table }) => table)]
      .map(([table, its]) => `*${table}\n${textOf(its.map(({ line }) => line))}COMMIT\n`)
      .join(''),
  }));
