// Firewalls of others that drop what is forwarded: an accept in a table of ours can't overrule them, nft(8): so they
// are named, with the command that lets a bridge's packets through.

import { readFileSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';
import { findInPath, runProgram } from '../helpers/shell.ts';
import type { Expression, NftObject, Rules } from './rules.ts';

/** A chain that sees forwarded packets. */
interface Chain {
  kind: 'nft' | 'iptables' | 'iptables-legacy';
  family: string;
  table: string;
  name: string;
}

const isOurs = (table: string) => table.startsWith('barehand-');

/** REJECT of iptables-nft, which nft shows as a target of xtables'. */
const isReject = ({ xt }: Expression) => (xt as { name?: string } | null | undefined)?.name === 'REJECT';

/** The chains of nft's that drop forwarded packets: by their policy, or by a rule for all packets. */
export function droppingChains(objects: NftObject[]): Chain[] {
  const rules = objects.flatMap(({ rule }) => rule ?? []);
  return objects.flatMap(({ chain }): Chain[] => {
    if (chain?.hook !== 'forward' || isOurs(chain.table)) return [];
    const { family, table, name, policy } = chain;
    const own = rules.filter((one) => one.family === family && one.table === table && one.chain === name);
    const dropsAll = own.some(({ expr }) => {
      const rest = expr.filter((part) => !('counter' in part));
      return rest.length === 1 && rest.some((part) => 'drop' in part || 'reject' in part || isReject(part));
    });
    if (policy !== 'drop' && !dropsAll) return [];
    // iptables-nft keeps its chains in tables of these names
    const isIptables = /^(ip|ip6)$/.test(family) && table === 'filter' && name === 'FORWARD';
    return [{ kind: isIptables ? 'iptables' : 'nft', family, table, name }];
  });
}

/** The same for the rules of iptables-legacy, as `iptables-legacy -S FORWARD` says them. */
const legacyDrops = (text: string) =>
  /^-P FORWARD DROP$/m.test(text) || /^-A FORWARD -j (DROP|REJECT)/m.test(text);

/** The commands that let a bridge's packets through, by whom the chains belong to; `names`: all chains there are. */
export function advice(bridge: string, chains: Chain[], names: string[]): string[] {
  const commandsFor = ({ kind, family, table, name }: Chain): [owner: string, commands: string[]] => {
    const iptables = family === 'ip6' ? kind.replace('ip', 'ip6') : kind;
    const both = (chain: string, command = iptables) =>
      ['-i', '-o'].map((way) => `${command} -I ${chain} ${way} ${bridge} -j ACCEPT`);
    if (kind !== 'nft' && names.includes('DOCKER-USER') && family !== 'ip6')
      return ['Docker', both('DOCKER-USER')];
    if (kind !== 'nft' && names.some((name) => /^ufw6?-/.test(name)))
      return ['ufw', ['in', 'out'].map((way) => `ufw route allow ${way} on ${bridge}`)];
    if (table === 'firewalld') {
      // for now, and for after the next --reload, which forgets what was for now only: firewall-cmd(1)
      const ways = ['firewall-cmd', 'firewall-cmd --permanent'];
      return ['firewalld', ways.map((command) => `${command} --zone=trusted --add-interface=${bridge}`)];
    }
    // what the other flavour of iptables(8) accepts is dropped all the same
    if (kind !== 'nft') return [kind, both('FORWARD')];
    return [
      `nft's table ${family} ${table}`,
      ['iifname', 'oifname'].map(
        (way) => `nft insert rule ${family} ${table} ${name} ${way} ${bridge} accept`,
      ),
    ];
  };
  const seen = new Map<string, string[]>();
  for (const chain of chains) {
    const [owner, commands] = commandsFor(chain);
    seen.set(owner, [...new Set([...(seen.get(owner) ?? []), ...commands])]);
  }
  return [...seen].map(
    ([owner, commands]) =>
      `${owner} drops what is forwarded, so nothing gets in or out: ${commands.join('; ')}`,
  );
}

/**
 * What is to be said of this host's firewall: nothing where it lets a bridge through, or has rules for it already. With
 * iptables alone our own rules stand before the others and let it through.
 */
export async function firewallAdvice(bridge: string, { firewall, objects }: Rules): Promise<string[]> {
  if (firewall === 'iptables') return [];
  const legacy = await Promise.all(
    (['ip', 'ip6'] as const).map(async (family) => {
      const command = `${family}tables-legacy`;
      // asked for a table that is not there iptables-legacy makes it
      const tables = attempt(() => readFileSync(`/proc/net/${family}_tables_names`, 'utf8')) ?? '';
      const asks = /^filter$/m.test(tables) && findInPath(command);
      return { family, text: asks ? (await runProgram([command, '-S'])).stdout : '' };
    }),
  );
  const word = JSON.stringify(bridge);
  const known = objects.some(
    ({ rule }) => rule && !isOurs(rule.table) && JSON.stringify(rule.expr).includes(word),
  );
  if (known || legacy.some(({ text }) => new RegExp(` -[io] ${bridge} `).test(text))) return [];
  const chains = droppingChains(objects);
  for (const { family, text } of legacy)
    if (legacyDrops(text)) chains.push({ kind: 'iptables-legacy', family, table: 'filter', name: 'FORWARD' });
  const names = [
    ...objects.flatMap(({ chain }) => chain?.name ?? []),
    ...legacy.flatMap(({ text }) => [...text.matchAll(/^-[NP] (\S+)/gm)].flatMap(([, name]) => name ?? [])),
  ];
  return advice(bridge, chains, names);
}
