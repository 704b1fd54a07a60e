#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
network.ts: a network of its own for a container: veth, bridge, NAT, ports

USAGE
  network.ts attach [OPTION...] TARGET
  network.ts publish TARGET [IP:]HOSTPORT:PORT[/udp]...
  network.ts limit TARGET --rate RATE
  network.ts detach TARGET
  network.ts ls [--json]
  network.ts sweep

  TARGET is a container's name, or the PID of a process that has a network namespace of its own, whoever made it.

  attach   gives it an interface on a bridge, an address, a way outside, name servers and the names of the others
  publish  leads a port of the host's to one of the container's, from other hosts and from this one
  limit    no more than RATE, as 10M: 10 * 1000^2 bits a second; 0 is no limit
  detach   takes all of that away
  ls       shows who is attached
  sweep    removes what killed calls and containers that have ended have left

OPTIONS
  --bridge NAME     the bridge; it is made where it is missing (default: barehand0)
  --subnet CIDR     the bridge's addresses, from /16 to /29 (default: 10.88.0.0/16, or the next that is free)
  --subnet6 CIDR    the same of IPv6, a /64 (default: a private one made from this host's machine-id)
  --no-ipv6         IPv4 only
  --internal        the bridge has no way outside
  --ip ADDRESS      the container's address (default: the first that is free)
  --isolated        it can't reach the others on the bridge, nor they it, but for those that are not isolated
  --name NAME       what the others on the bridge call it (default: the container's name, or pid-PID)
  --dns ADDRESS     a name server in its /etc/resolv.conf (default: the host's); may be repeated
  --no-files        its /etc/resolv.conf and /etc/hosts stay as they are
  -p, --publish PORT  publish a port at once, as with publish; may be repeated
  --rate RATE       limit: both ways
  --rate-in RATE    limit: what it receives
  --rate-out RATE   limit: what it sends
  --json            ls: an array of objects
  --dry-run         print what would be done, as shell
  -h, --help        this text

  Without root, attach takes pasta(1) or slirp4netns(1) where one of them is installed; there is no bridge then.

EXAMPLES
  network.ts attach web
  network.ts attach -p 8080:80 10028
  network.ts publish web 127.0.0.1:5353:53/udp
  network.ts limit web --rate-in 10M --rate-out 1M
  network.ts attach --dry-run web | less

CHANGES
  A bridge, and a veth for each container; nftables' tables barehand-NAME, or chains of iptables' where there is no
  nft; ip_forward and its like, which are put back with the last bridge. In the container an interface, routes, and
  /etc/resolv.conf and /etc/hosts, which are of the root file system unless something is mounted there.

UNDO
  network.ts detach TARGET. An ended container's interface is gone by itself; the rest goes with the next sweep.

SEE ALSO
  ip-link(8), veth(4), bridge(8), nft(8), tc-tbf(8), network_namespaces(7), pasta(1), slirp4netns(1), stop.ts
*/
import Table from 'cli-table3';
import { Failure, isGiven, kebab, main, UsageError, type Values } from './helpers/cli.ts';
import { printable, readProc } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { runProgram } from './helpers/shell.ts';
import { perform, type Step, toShell } from './helpers/steps.ts';
import { isName } from './helpers/target.ts';
import { parseAddress, parseSubnet, type Subnet } from './network/addresses.ts';
import { firewallAdvice } from './network/advice.ts';
import {
  type Attachment,
  attachProgram,
  checkPublished,
  defaultBridge,
  detachProgram,
  findFirewall,
  findNetwork,
  hasHostRoot,
  isListening,
  linksOf,
  parseBridge,
  publishPortsProgram,
  readAttachments,
  readNetwork,
  runShell,
  sweepNetworks,
  sweepProgram,
} from './network/network.ts';
import { attachRootless, detachRootless, readRootless } from './network/rootless.ts';
import type { Port } from './network/rules.ts';
import { parsePort } from './run/options.ts';

export const options = {
  bridge: { parse: parseBridge },
  subnet: { parse: (text: string) => readSubnet('subnet', text, 4, 16, 29) },
  subnet6: { parse: (text: string) => readSubnet('subnet6', text, 6, 64, 64) },
  noIpv6: {},
  internal: {},
  ip: { parse: readIp },
  isolated: {},
  name: { parse: readName },
  dns: { parse: readDns, many: true },
  noFiles: {},
  publish: { short: 'p', parse: parsePort, many: true },
  rate: { parse: parseRate },
  rateIn: { parse: parseRate },
  rateOut: { parse: parseRate },
  json: {},
  dryRun: {},
} as const;

/** Which options go with which command; --dry-run goes with all that change something. */
const commands: Record<string, (keyof typeof options)[]> = {
  attach: 'bridge subnet subnet6 noIpv6 internal ip isolated name dns noFiles publish dryRun'.split(
    ' ',
  ) as (keyof typeof options)[],
  publish: ['bridge', 'dryRun'],
  limit: ['bridge', 'rate', 'rateIn', 'rateOut', 'dryRun'],
  detach: ['bridge', 'dryRun'],
  ls: ['json'],
  sweep: ['dryRun'],
};

function readSubnet(option: string, text: string, version: 4 | 6, min: number, max: number): Subnet {
  const subnet = text.includes('/') ? parseSubnet(text) : undefined;
  if (subnet?.version === version && subnet.prefix >= min && subnet.prefix <= max) return subnet;
  const form = version === 4 ? `10.88.0.0/16, with /${min} to /${max}` : 'fd00:1:2:3::/64';
  throw new UsageError(`--${option} is like ${form}, not ${text}`);
}

function readIp(text: string): string {
  if (parseAddress(text)?.version === 4) return text;
  throw new UsageError(`--ip is an IPv4 address, not ${text}`);
}

function readDns(text: string): string {
  if (parseAddress(text)) return text;
  throw new UsageError(`--dns is an IP address, not ${text}`);
}

function readName(text: string): string {
  if (isName(text) && text.length <= 63) return text;
  throw new UsageError(`--name is of letters, digits, - . and _, not ${text}`);
}

/** Bits in a second; K, M and G are powers of 1000, as with tc(8). Throws UsageError for what is none. */
export function parseRate(text: string): number {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?)([KMG]?)(?:bit)?$/i.exec(text) ?? [];
  const factor = { '': 1, K: 1e3, M: 1e6, G: 1e9 }[unit.toUpperCase()] ?? 1;
  const bits = Math.round(Number(number) * factor);
  if (number !== undefined && (bits === 0 || (bits >= 8000 && bits <= 400e9))) return bits;
  throw new UsageError(`a rate is bits in a second from 8K to 400G, as 10M, or 0 for no limit; not ${text}`);
}

/** The attachments of a process, on one bridge or all; `text` is what the user calls it. Throws Failure where there are none. */
async function attached(pid: number, text: string, bridge: string | undefined): Promise<Attachment[]> {
  const own = linksOf(await readAttachments(), pid);
  const chosen = own.filter((one) => bridge === undefined || one.bridge === bridge);
  if (chosen.length === 0)
    throw new Failure(`${text} is on no bridge${bridge ? ` ${bridge}` : ''}: network.ts attach ${text}`);
  return chosen;
}

/** The steps that limit what comes out of an interface; `bits` 0: no more limit. `enter`: how to get to it. */
export function planRate(enter: string[], dev: string, bits: number, isLimited: boolean): Step[] {
  const qdisc = ['tc', 'qdisc'];
  if (bits === 0) return isLimited ? [{ run: [...enter, ...qdisc, 'del', 'dev', dev, 'root'] }] : [];
  // what may go at once: 10 ms of the rate, and no less than one packet as the kernel joins them, 64 KiB
  const burst = Math.max(65536, Math.ceil(bits / 8 / 100));
  const rate = ['rate', `${bits}bit`, 'burst', `${burst}b`, 'latency', '100ms'];
  return [{ run: [...enter, ...qdisc, 'replace', 'dev', dev, 'root', 'tbf', ...rate] }];
}

/** Throws Failure for ports that can't be published: on this network, or as they are, or while somebody has them. */
function checkPorts(ports: Port[], internal: boolean): void {
  if (internal && ports.length > 0)
    throw new Failure('an --internal network has no way in from outside: it publishes no ports');
  checkPublished(ports);
  for (const port of ports)
    if (isListening(port))
      throw new Failure(
        `port ${port.hostPort}/${port.protocol} is in use by a process of this host: ss -lnp shows which`,
      );
}

async function attach(text: string, values: Values<typeof options>): Promise<void> {
  const target = findNetwork(text);
  const { pid } = target;
  if (process.getuid?.() !== 0) return attachRootless(pid, text, values.publish, values.dryRun);
  const bridge = values.bridge ?? defaultBridge;
  const network = await readNetwork({ ...values, bridge });
  checkPorts(values.publish, network.internal);
  const noFiles = values.noFiles || hasHostRoot(pid);
  const wanted = { ip: values.ip, isolated: values.isolated, ports: values.publish, noFiles };
  const program = attachProgram(network, wanted, { ...target, name: values.name ?? target.name });
  if (values.dryRun) {
    process.stdout.write(program);
    return;
  }
  if (hasHostRoot(pid) && !values.noFiles)
    console.error(
      `network: ${text} has the host's root directory: its /etc/resolv.conf and /etc/hosts stay as they are`,
    );
  else if (network.nameservers.length === 0 && !values.noFiles && !network.internal)
    console.error(
      'network: this host has no name server that a container could reach: --dns ADDRESS names one',
    );
  let said = '';
  try {
    said = await runShell(program);
  } catch (error) {
    await sweepNetworks().catch(() => {}); // a bridge that was made for nobody
    throw error;
  }
  const [, inside, address, address6] = said.split(' ');
  console.log(`${text}: ${inside} has ${[address, address6].filter(Boolean).join(' and ')} on ${bridge}`);
  if (!network.internal)
    for (const line of await firewallAdvice(bridge, network.firewall, network.rules))
      console.error(`network: ${line}`);
}

async function publish(text: string, words: string[], values: Values<typeof options>): Promise<void> {
  const ports = words.map(parsePort);
  const [first] = (await attached(findNetwork(text).pid, text, values.bridge)) as [Attachment];
  const { internal, firewall } = await readNetwork({ bridge: first.bridge ?? defaultBridge });
  checkPorts(ports, internal);
  const program = publishPortsProgram(firewall, first, ports);
  if (values.dryRun) process.stdout.write(program);
  else await runShell(program);
}

async function limit(text: string, values: Values<typeof options>): Promise<void> {
  const rateIn = values.rateIn ?? values.rate;
  const rateOut = values.rateOut ?? values.rate;
  if (rateIn === undefined && rateOut === undefined)
    throw new UsageError('limit needs --rate, --rate-in or --rate-out');
  requirePrograms(['tc', 'nsenter'], 'limit the rate');
  const steps: Step[] = [];
  const { pid } = findNetwork(text);
  for (const { link, interface: inside } of await attached(pid, text, values.bridge)) {
    const ways: [string[], string, number | undefined][] = [
      [[], link, rateIn],
      [['nsenter', '--target', String(pid), '--net'], inside, rateOut],
    ];
    for (const [enter, dev, bits] of ways) {
      if (bits === undefined) continue;
      const { stdout } = await runProgram([...enter, 'tc', 'qdisc', 'show', 'dev', dev, 'root']);
      steps.push(...planRate(enter, dev, bits, stdout.includes('tbf')));
    }
    const effective = BigInt(`0x${/^CapBnd:\t(\w+)$/m.exec(readProc(pid, 'status') ?? '')?.[1] ?? '0'}`);
    if (rateOut && (effective >> 12n) & 1n)
      console.error(`network: ${text} may have CAP_NET_ADMIN: root in it can lift what limits its sending`);
  }
  if (values.dryRun) process.stdout.write(toShell(steps));
  else await perform(steps);
}

async function detach(text: string, values: Values<typeof options>): Promise<void> {
  if (process.getuid?.() !== 0) return detachRootless(findNetwork(text).pid, text, values.dryRun);
  const program = detachProgram(findFirewall(), await attached(findNetwork(text).pid, text, values.bridge));
  if (values.dryRun) process.stdout.write(program);
  else await runShell(program);
}

const portText = ({ host, hostPort, port, protocol }: Port) =>
  `${host === undefined ? '' : `${host.includes(':') ? `[${host}]` : host}:`}${hostPort}:${port}${protocol === 'udp' ? '/udp' : ''}`;

async function list(json: boolean): Promise<void> {
  const all = process.getuid?.() === 0 ? await readAttachments() : readRootless();
  if (json) {
    console.log(JSON.stringify(all, null, 2));
    return;
  }
  if (all.length === 0) return console.error('network: no container is attached: network.ts attach TARGET');
  const table = new Table({
    head: ['NAME', 'PID', 'BRIDGE', 'INTERFACE', 'ADDRESS', 'ADDRESS6', 'PORTS'],
    chars: Object.fromEntries(
      'top,top-mid,top-left,top-right,bottom,bottom-mid,bottom-left,bottom-right,left,left-mid,mid,mid-mid,right,right-mid,middle'
        .split(',')
        .map((name) => [name, '']),
    ),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 3 },
  });
  for (const { name, pid, bridge, link, address, address6, ports } of all)
    table.push([
      printable(name),
      pid,
      bridge ?? '-',
      link,
      address,
      address6 ?? '-',
      ports.map(portText).join(' '),
    ]);
  console.log(String(table).replace(/ +$/gm, ''));
}

await main(
  import.meta.url,
  { options, operands: [1, Infinity] },
  async (values, [command = '', ...operands]) => {
    const allowed = commands[command];
    if (!allowed) throw new UsageError(`there is no command ${command}: ${Object.keys(commands).join(', ')}`);
    for (const [option, value] of Object.entries(values)) {
      if (isGiven(value) && !allowed.includes(option as keyof typeof options))
        throw new UsageError(`--${kebab(option)} does not go with ${command}`);
    }
    const [target = '', ...rest] = operands;
    const takes = command === 'ls' || command === 'sweep' ? 0 : command === 'publish' ? Infinity : 1;
    if (operands.length > takes) throw new UsageError(`one operand too many: ${operands[takes]}`);
    if (takes > 0 && target === '') throw new UsageError(`${command} needs a TARGET`);
    if (command === 'publish' && rest.length === 0) throw new UsageError('publish needs a port, as 8080:80');
    if (process.getuid?.() !== 0 && ['publish', 'limit', 'sweep'].includes(command))
      throw new Failure(
        `${command} needs root: sudo network.ts ${command}${command === 'publish' ? '; without root give ports to attach' : ''}`,
      );
    if (command === 'attach') await attach(target, values);
    else if (command === 'publish') await publish(target, rest, values);
    else if (command === 'limit') await limit(target, values);
    else if (command === 'detach') await detach(target, values);
    else if (command === 'ls') await list(values.json);
    else if (values.dryRun) process.stdout.write(sweepProgram(findFirewall()));
    else for (const what of await sweepNetworks()) console.log(`${what}: removed`);
    return 0;
  },
);
