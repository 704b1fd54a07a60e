// Firewalls of others that drop what is forwarded: an accept in a table of ours can't overrule them, nft(8): so they
// are named, with the command that lets a bridge's packets through.

import { readFileSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';
import { findInPath, runProgram } from '../helpers/shell.ts';
import type { Firewall } from './rules.ts';

/** A chain that sees forwarded packets, as `nft list ruleset` or `iptables-save` has it. */
interface Chain {
  kind: 'nft' | 'iptables' | 'iptables-legacy';
  family: string;
  table: string;
  name: string;
}

/** The chains in the text of nft's ruleset that drop forwarded packets at their end. */
export function droppingChains(text: string): Chain[] {
  const found: Chain[] = [];
  let table: string[] = [];
  let chain = '';
  let forwards = false;
  for (const line of text.split('\n')) {
    const words = line.trim().split(/\s+/);
    if (words[0] === 'table') table = words.slice(1, 3);
    else if (words[0] === 'chain') {
      chain = words[1] ?? '';
      forwards = false;
    } else if (/hook forward /.test(line)) {
      forwards = true;
      if (/policy drop/.test(line)) add();
    } else if (forwards && /^\s*(counter packets \d+ bytes \d+ )?(drop|reject\b.*)$/.test(line)) add();
  }
  return found;

  function add(): void {
    const [family = '', name = ''] = table;
    if (
      name.startsWith('barehand-') ||
      found.some((one) => one.table === name && one.name === chain && one.family === family)
    )
      return;
    // iptables-nft keeps its chains in tables of these names
    const isIptables = /^(ip|ip6)$/.test(family) && name === 'filter' && chain === 'FORWARD';
    found.push({ kind: isIptables ? 'iptables' : 'nft', family, table: name, name: chain });
  }
}

/** The same for the rules of iptables-legacy, as `iptables-legacy -S FORWARD` says them. */
const legacyDrops = (text: string) =>
  /^-P FORWARD DROP$/m.test(text) || /^-A FORWARD -j (DROP|REJECT)/m.test(text);

/** The commands that let a bridge's packets through, for whom the chains belong to. */
export function advice(bridge: string, chains: Chain[], all: string): string[] {
  const families = [...new Set(chains.map(({ family, name }) => `${family} ${name}`))];
  if (families.length === 0) return [];
  const commandsFor = ({ kind, family, table, name }: Chain): [owner: string, commands: string[]] => {
    const iptables = family === 'ip6' ? kind.replace('ip', 'ip6') : kind;
    const both = (chain: string, command = iptables) =>
      ['-i', '-o'].map((way) => `${command} -I ${chain} ${way} ${bridge} -j ACCEPT`);
    if (kind !== 'nft' && /\bDOCKER-USER\b/.test(all) && family !== 'ip6')
      return ['Docker', both('DOCKER-USER')];
    if (kind !== 'nft' && /\bufw6?-/.test(all))
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
 * What is to be said of this host's firewall, whose `rules` are as readRules has them: nothing where it lets a bridge
 * through, or knows it already.
 */
export async function firewallAdvice(bridge: string, firewall: Firewall, rules: string): Promise<string[]> {
  const read = async (argv: string[]) =>
    findInPath(argv[0] as string) ? (await runProgram(argv)).stdout : '';
  const nft = firewall === 'nft' ? rules : '';
  const legacy = await Promise.all(
    (['ip', 'ip6'] as const).map(async (family) => {
      // asked for a table that is not there iptables-legacy makes it
      const names = attempt(() => readFileSync(`/proc/net/${family}_tables_names`, 'utf8')) ?? '';
      const command = `${family}tables${firewall === 'nft' ? '-legacy' : ''}`;
      const asks = firewall === 'iptables' || /^filter$/m.test(names);
      return [command, asks ? await read([command, '-S']) : ''] as const;
    }),
  );
  const others = nft.replace(/^table inet barehand-[\s\S]*?^}$/gm, '');
  const texts = others + legacy.map(([, text]) => text.replace(/^.*barehand-.*$/gm, '')).join('');
  if (new RegExp(`(-[io] |[io]ifname "?)${bridge}\\b`).test(texts)) return [];
  const chains = droppingChains(others);
  // where it is iptables that our own rules are in, they stand before the policy
  for (const [command, text] of legacy)
    if (firewall === 'nft' && legacyDrops(text))
      chains.push({
        kind: 'iptables-legacy',
        family: command.startsWith('ip6') ? 'ip6' : 'ip',
        table: 'filter',
        name: 'FORWARD',
      });
  return advice(bridge, chains, texts);
}
