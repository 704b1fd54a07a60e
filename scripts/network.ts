#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
network.ts: give a container a network of its own: veth, bridge, NAT, published ports

USAGE
  network.ts attach [OPTION...] TARGET
  network.ts publish [OPTION...] TARGET [IP:]HOSTPORT:PORT[/udp]...
  network.ts limit [OPTION...] TARGET --rate RATE
  network.ts detach [OPTION...] TARGET
  network.ts ls [--json]
  network.ts sweep [--dry-run] [INODE]

  TARGET is a container's name, or the PID of any process that has a network namespace of its own.

  attach   connects TARGET to a bridge: interface, address, default route, name servers, names of the other members
  publish  forwards a port of the host to a port of TARGET, for other hosts and for this one
  limit    limits the bit rate of TARGET to RATE, such as 10M: 10 * 1000^2 bits per second; 0 removes the limit
  detach   undoes attach, publish and limit
  ls       lists attached containers
  sweep    removes what killed calls and ended containers have left behind; with INODE, what the
           network namespace of that number had, even if a process still uses it, network_namespaces(7)

OPTIONS
  --bridge NAME     attach: the bridge; attach makes it if it is missing (default: barehand0)
                    publish, limit, detach: only the interface on this bridge
  --subnet CIDR     IPv4 subnet of a new bridge, /16 to /29 (default: 10.88.0.0/16, or the next free one)
  --subnet6 CIDR    IPv6 subnet of a new bridge, /64 (default: a private one derived from the host's machine-id)
  --no-ipv6         IPv4 only
  --internal        a new bridge has no route to the outside
  --ip ADDRESS      IPv4 address of TARGET (default: the first free one)
  --isolated        TARGET and other isolated members cannot reach each other
  --name NAME       name of TARGET on the bridge (default: the container's name, or pid-PID)
  --dns ADDRESS     name server for its /etc/resolv.conf (default: those of the host); may be repeated
  --no-files        leave its /etc/resolv.conf and /etc/hosts unchanged
  -p, --publish PORT  publish a port, like the command publish; may be repeated
  --rate RATE       limit: both directions
  --rate-in RATE    limit: what TARGET receives
  --rate-out RATE   limit: what TARGET sends
  --json            ls: print a JSON array of objects
  --dry-run         print the steps as shell commands instead of performing them
  -h, --help        print this text

  Without root, attach uses pasta(1) or slirp4netns(1), if installed. There is no bridge then.

EXAMPLES
  network.ts attach web
  network.ts attach -p 8080:80 10028
  network.ts publish web 127.0.0.1:5353:53/udp
  network.ts limit web --rate-in 10M --rate-out 1M
  network.ts attach --dry-run web | less

CHANGES
  A bridge, and a veth pair for each container. nftables tables named barehand-*, or iptables chains of these names if
  nft is not installed. The sysctl ip_forward and related ones, until the last bridge is removed. In the container: an
  interface, routes, /etc/resolv.conf and /etc/hosts, which belong to its root file system unless they are mounted.

UNDO
  network.ts detach TARGET. The kernel removes the interface of a container that has ended; sweep removes the rest.

SEE ALSO
  ip-link(8), veth(4), bridge(8), nft(8), tc-tbf(8), network_namespaces(7), pasta(1), slirp4netns(1), stop.ts
*/
import { hasCapability } from './helpers/capabilities.ts';
import { Failure, isGiven, kebab, main, UsageError, type Values } from './helpers/cli.ts';
import { printable } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { runProgram, sh } from './helpers/shell.ts';
import { perform, type Step, toShell } from './helpers/steps.ts';
import { isName } from './helpers/target.ts';
import { parseNumber } from './helpers/units.ts';
import { type Port, parseAddress, parsePort, parseSubnet, type Subnet } from './network/addresses.ts';
import { firewallAdvice } from './network/advice.ts';
import { hasHostRoot } from './network/files.ts';
import { isListening } from './network/host.ts';
import {
  attach as attachContainer,
  detach as detachContainer,
  leaveAll,
  listAttachments,
  printAttach,
  printDetach,
  printPublish,
  printSweep,
  publish as publishPorts,
  readAttachments,
  sweepNetworks,
} from './network/network.ts';
import { checkInternal, checkPublished, defaultBridge, parseBridge } from './network/plan.ts';
import { attachRootless, detachRootless, readRootless } from './network/rootless.ts';
import { findNetwork } from './network/target.ts';

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

/** The steps that limit what comes out of an interface; `bits` 0: no more limit. `enter`: how to get to it. */
export function planRate(enter: string[], dev: string, bits: number, isLimited: boolean): Step[] {
  if (bits === 0) return isLimited ? [{ run: sh`${enter} tc qdisc del dev ${dev} root` }] : [];
  // what may go at once: 10 ms of the rate, and no less than one packet as the kernel joins them, 64 KiB
  const burst = Math.max(65536, Math.ceil(bits / 8 / 100));
  return [
    {
      run: sh`${enter} tc qdisc replace dev ${dev} root tbf rate ${bits}bit burst ${burst}b latency 100ms`,
    },
  ];
}

/** Throws for ports that cannot be published as they are, or while a process of the host has them. */
function checkPorts(ports: Port[]): void {
  checkPublished(ports);
  for (const port of ports)
    if (isListening(port))
      throw new Failure(
        `port ${port.hostPort}/${port.protocol} is in use by a process of this host: ss -lnp shows which`,
      );
}

async function attach(text: string, values: Values<typeof options>): Promise<void> {
  const { dryRun, ip, isolated, noFiles, publish: ports } = values;
  if (process.getuid?.() !== 0) return attachRootless(findNetwork(text).pid, text, ports, dryRun);
  checkInternal(ports, values.internal);
  checkPorts(ports);
  const bridge = values.bridge ?? defaultBridge;
  const wishes = { ...values, bridge };
  const wanted = { ip, isolated, ports, noFiles };
  const find = () => {
    const found = findNetwork(text);
    return { ...found, name: values.name ?? found.name };
  };
  if (dryRun) {
    process.stdout.write(toShell(await printAttach(wishes, wanted, find)));
    return;
  }
  const say = (line: string) => console.error(`network: ${line}`);
  const { attachment, network, rules, warnings } = await attachContainer(wishes, wanted, find);
  if (hasHostRoot(attachment.pid) && !noFiles)
    say(`${text} has the host's root directory: its /etc/resolv.conf and /etc/hosts stay as they are`);
  else if (network.nameservers.length === 0 && !noFiles && !network.internal)
    say('this host has no name server that a container could reach: --dns ADDRESS names one');
  for (const line of warnings) say(line);
  const { interface: inside, address, address6 } = attachment;
  console.log(`${text}: ${inside} has ${[address, address6].filter(Boolean).join(' and ')} on ${bridge}`);
  if (!network.internal) for (const line of await firewallAdvice(bridge, rules)) say(line);
}

async function publish(
  text: string,
  words: string[],
  { bridge, dryRun }: Values<typeof options>,
): Promise<void> {
  const ports = words.map(parsePort);
  checkPorts(ports);
  const { pid } = findNetwork(text);
  if (dryRun) process.stdout.write(toShell(await printPublish(pid, text, ports, bridge)));
  else await publishPorts(pid, text, ports, bridge);
}

async function limit(text: string, values: Values<typeof options>): Promise<void> {
  const rateIn = values.rateIn ?? values.rate;
  const rateOut = values.rateOut ?? values.rate;
  if (rateIn === undefined && rateOut === undefined)
    throw new UsageError('limit needs --rate, --rate-in or --rate-out');
  requirePrograms(['tc', 'nsenter'], 'limit the rate');
  const steps: Step[] = [];
  const { pid } = findNetwork(text);
  for (const { link, interface: inside } of await listAttachments(pid, text, values.bridge)) {
    const ways: [string[], string, number | undefined][] = [
      [[], link, rateIn],
      [sh`nsenter --net=/proc/${pid}/ns/net`, inside, rateOut],
    ];
    for (const [enter, dev, bits] of ways) {
      if (bits === undefined) continue;
      const { stdout } = await runProgram(sh`${enter} tc -j qdisc show dev ${dev} root`);
      steps.push(...planRate(enter, dev, bits, stdout.includes('"tbf"')));
    }
    if (rateOut && hasCapability(pid, 'CapBnd', 'net_admin'))
      console.error(`network: ${text} may have CAP_NET_ADMIN: root in it can lift what limits its sending`);
  }
  if (values.dryRun) process.stdout.write(toShell(steps));
  else await perform(steps);
}

async function detach(text: string, { bridge, dryRun }: Values<typeof options>): Promise<void> {
  const { pid } = findNetwork(text);
  if (process.getuid?.() !== 0) return detachRootless(pid, text, dryRun);
  if (dryRun) process.stdout.write(toShell(await printDetach(pid, text, bridge)));
  else await detachContainer(pid, text, bridge);
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
  const head = ['NAME', 'PID', 'BRIDGE', 'INTERFACE', 'ADDRESS', 'ADDRESS6', 'PORTS'];
  const rows = all.map(({ name, pid, bridge, link, address, address6, ports }) => [
    ...[printable(name), pid, bridge ?? '-', link, address, address6 ?? '-'],
    ports.map(portText).join(' '),
  ]);
  const { table } = await import('./helpers/table.ts'); // not loaded where it is not needed
  console.log(table(head, rows));
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
    const takes = command === 'ls' ? 0 : command === 'publish' ? Infinity : 1;
    if (operands.length > takes) throw new UsageError(`one operand too many: ${operands[takes]}`);
    if (takes > 0 && command !== 'sweep' && target === '') throw new UsageError(`${command} needs a TARGET`);
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
    else if (values.dryRun && target) throw new UsageError('sweep --dry-run takes no INODE');
    else if (values.dryRun) process.stdout.write(toShell(await printSweep()));
    else if (target) await leaveAll(parseNumber('INODE', target, 1, 4_294_967_295));
    else for (const what of await sweepNetworks()) console.log(`${what}: removed`);
    return 0;
  },
);
