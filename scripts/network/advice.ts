// Firewalls of others that drop forwarded packets. Our rules cannot overrule them, nft(8), so the user is told which they
// are, and the commands that let the packets of a bridge through.
import { readFileSync } from 'node:fs';
import { attempt, groupBy } from '../helpers/pids.ts';
import { findInPath, runProgram } from '../helpers/shell.ts';
import { type Expression, type NftObject, prefix, type Rules } from './rules.ts';

/** A chain that sees forwarded packets. */
interface Chain {
  kind: 'nft' | 'iptables' | 'iptables-legacy';
  family: string;
  table: string;
  name: string;
}

const isOurs = (table: string) => table.startsWith(prefix);

/** REJECT of iptables-nft, which nft shows as a target of xtables. */
const isReject = ({ xt }: Expression) => (xt as { name?: string } | null | undefined)?.name === 'REJECT';

/** The chains of nft that drop forwarded packets: by their policy, or by a rule for all packets. */
function droppingChains(objects: NftObject[]): Chain[] {
  const rules = objects.flatMap(({ rule }) => rule ?? []);
  return objects.flatMap(({ chain }): Chain[] => {
    if (chain?.hook !== 'forward' || isOurs(chain.table)) return [];
    const { family, table, name, policy } = chain;
    const own = rules.filter((one) => one.family === family && one.table === table && one.chain === name);
    const dropsAll = own.some(({ expr }) => {
      const [only, ...more] = expr.filter((part) => !('counter' in part));
      return only && more.length === 0 && ('drop' in only || 'reject' in only || isReject(only));
    });
    if (policy !== 'drop' && !dropsAll) return [];
    // iptables-nft keeps its chains in tables of these names
    const isIptables = /^(ip|ip6)$/.test(family) && table === 'filter' && name === 'FORWARD';
    return [{ kind: table === legacy ? legacy : isIptables ? 'iptables' : 'nft', family, table, name }];
  });
}

/** Whom a chain belongs to, and the commands that let the packets of a bridge through; `names`: all chains there are. */
function remedy(bridge: string, { kind, family, table, name }: Chain, names: string[]) {
  const iptables = family === 'ip6' ? kind.replace('ip', 'ip6') : kind;
  const accept = (chain: string) =>
    ['-i', '-o'].map((way) => `${iptables} -I ${chain} ${way} ${bridge} -j ACCEPT`);
  if (kind !== 'nft' && names.includes('DOCKER-USER') && family !== 'ip6')
    return { owner: 'Docker', commands: accept('DOCKER-USER') };
  if (kind !== 'nft' && names.some((chain) => /^ufw6?-/.test(chain)))
    return { owner: 'ufw', commands: ['in', 'out'].map((way) => `ufw route allow ${way} on ${bridge}`) };
  // the other flavour of iptables(8) drops what this one accepts
  if (kind !== 'nft') return { owner: kind, commands: accept('FORWARD') };
  // for now, and for after the next --reload, which forgets the former: firewall-cmd(1)
  const firewalld = ['firewall-cmd', 'firewall-cmd --permanent'];
  if (table === 'firewalld')
    return {
      owner: 'firewalld',
      commands: firewalld.map((command) => `${command} --zone=trusted --add-interface=${bridge}`),
    };
  const insert = `nft insert rule ${family} ${table} ${name}`;
  return {
    owner: `nft's table ${family} ${table}`,
    commands: ['iifname', 'oifname'].map((way) => `${insert} ${way} ${bridge} accept`),
  };
}

/** A line for each owner of chains that drop forwarded packets. */
export function advice(bridge: string, objects: NftObject[]): string[] {
  const names = objects.flatMap(({ chain }) => chain?.name ?? []);
  const remedies = droppingChains(objects).map((chain) => remedy(bridge, chain, names));
  return [...groupBy(remedies, ({ owner }) => owner)].map(([owner, own]) => {
    const commands = new Set(own.flatMap((one) => one.commands));
    return `${owner} drops what is forwarded, so nothing gets in or out: ${[...commands].join('; ')}`;
  });
}

/** The rules of iptables-legacy, which nft does not show, in the form of nft. */
async function readLegacy(family: 'ip' | 'ip6'): Promise<NftObject[]> {
  const command = `${family}tables-legacy`;
  // iptables-legacy creates a table that it is asked for
  const tables = attempt(() => readFileSync(`/proc/net/${family}_tables_names`, 'utf8')) ?? '';
  if (!/^filter$/m.test(tables) || !findInPath(command)) return [];
  const { stdout } = await runProgram([command, '-S']);
  return stdout
    .trim()
    .split('\n')
    .map((line): NftObject => {
      const [option, name = '', ...words] = line.split(' ');
      const own = { family, table: legacy };
      if (option === '-A') {
        const isForAll = /^-j (DROP|REJECT)\b/.test(words.join(' '));
        return { rule: { ...own, chain: name, expr: [isForAll ? { drop: null } : { words }] } };
      }
      const hook =
        name === 'FORWARD' ? { hook: 'forward', policy: words[0] === 'DROP' ? 'drop' : 'accept' } : {};
      return { chain: { ...own, name, ...hook } };
    });
}
const legacy = 'iptables-legacy';

/**
 * Lines for the user about this host's firewall; none if it lets a bridge through, or has rules for the bridge already.
 * Under iptables our own rules come before those of others, and accept.
 */
export async function firewallAdvice(bridge: string, { objects }: Rules): Promise<string[]> {
  if (!objects) return [];
  const all = [...objects, ...(await readLegacy('ip')), ...(await readLegacy('ip6'))];
  const isKnown = ({ rule }: NftObject) =>
    rule && !isOurs(rule.table) && JSON.stringify(rule.expr).includes(JSON.stringify(bridge));
  return all.some(isKnown) ? [] : advice(bridge, all);
}
