#!/bin/sh
// 2>/dev/null; self=$(readlink -f "$0"); . "${self%/*}/helpers/node-ts"
/*
network.ts: give a container a network of its own: bridge, NAT, published ports

USAGE
  network.ts attach [OPTION...] TARGET
  network.ts publish [OPTION...] TARGET [IP:]HOSTPORT:PORT[/udp]...
  network.ts limit [OPTION...] TARGET --rate RATE
  network.ts detach [OPTION...] TARGET
  network.ts ls [--json]
  network.ts sweep [--dry-run] [INODE]

  TARGET is a container's name, or the PID of any process that has a network
  namespace of its own. The PID of a process in the middle of a container means
  the container, which a message on stderr names.

  attach   connects TARGET to a bridge: interface, address, default route, name
           servers, names of the other members
  publish  forwards a port of the host to a port of TARGET, for other hosts and
           for this one
  limit    limits the bit rate of TARGET to RATE, such as 10M: 10 * 1000^2 bits
           per second; 0 removes the limit
  detach   undoes attach, publish and limit
  ls       lists attached containers
  sweep    removes what killed calls and ended containers have left behind; with
           INODE, what the network namespace of that number had, even if a
           process still uses it, network_namespaces(7)

  Without root, attach uses pasta(1) or slirp4netns(1), if installed. There is
  no bridge then.

EXAMPLES
  network.ts attach -p 8080:80 web
  network.ts limit web --rate-in 10M --rate-out 1M
  network.ts attach --dry-run 10028 | less

OPTIONS
* --bridge NAME     attach: the bridge (default: barehand0), made if missing
                    publish, limit, detach: only the interface on this bridge
  --subnet CIDR     IPv4 subnet of a new bridge, /16 to /29 (default:
                    10.88.0.0/16, or the next free one)
  --subnet6 CIDR    IPv6 subnet of a new bridge, /64 (default: a private one
                    derived from the host's machine-id)
  --no-ipv6         IPv4 only
  --internal        a new bridge has no route to the outside
* --ip ADDRESS      IPv4 address of TARGET (default: the first free one)
  --isolated        TARGET and other isolated members cannot reach each other
  --name NAME       name of TARGET on the bridge (default: the container's name,
                    or pid-PID)
  --dns ADDRESS     name server for its /etc/resolv.conf (default: those of the
                    host); may be repeated
  --no-files        leave its /etc/resolv.conf and /etc/hosts unchanged
* -p, --publish PORT  publish a port, like the command publish; may be repeated
* --rate RATE       limit: both directions
  --rate-in RATE    limit: what TARGET receives
  --rate-out RATE   limit: what TARGET sends
  --json            ls: print a JSON array of objects
* --dry-run         print the steps as shell, and change nothing
  -h, --help        print the usual options; --help all prints all of this
  --version         print name and version

MORE EXAMPLES
  network.ts attach web
  network.ts publish web 127.0.0.1:5353:53/udp

CHANGES
  A bridge, and a veth pair for each container. nftables tables named
  barehand-*, or iptables chains of these names if nft is not installed. The
  sysctl ip_forward and related ones, until the last bridge is removed. In the
  container: an interface, routes, /etc/resolv.conf and /etc/hosts, which belong
  to its root file system unless they are mounted.

UNDO
  network.ts detach TARGET. The kernel removes the interface of a container that
  has ended; sweep removes the rest.

EXIT CODES
  0 done; 1 failed; 2 wrong usage.

SEE ALSO
  ip-link(8), veth(4), bridge(8), nft(8), tc-tbf(8), network_namespaces(7),
  pasta(1), slirp4netns(1), stop.ts
*/
import { scriptPath, typedLine } from './helpers/called.ts';
import { hasCapability } from './helpers/capabilities.ts';
import { Failure, HelpNeeded, isGiven, kebab, main, UsageError, type Values } from './helpers/cli.ts';
import { didYouMean } from './helpers/messages.ts';
import { toJson } from './helpers/output.ts';
import { printable } from './helpers/pids.ts';
import { requirePrograms } from './helpers/programs.ts';
import { runProgram, sh } from './helpers/shell.ts';
import { perform, type Step, toShell } from './helpers/steps.ts';
import { isName } from './helpers/target.ts';
import { parseNumber } from './helpers/units.ts';
import { formatPort, parseAddress, parsePort, parseSubnet, type Subnet } from './network/addresses.ts';
import { firewallAdvice } from './network/advice.ts';
import { hasHostRoot } from './network/files.ts';
import { checkPorts } from './network/host.ts';
import {
  attach as attachContainer,
  change,
  type Plan,
  print,
  printAttach,
  printSweep,
  readAttachments,
  sweepNetworks,
} from './network/network.ts';
import { attachmentsOf, defaultBridge, planDetach, planLeave, planPublish } from './network/plan.ts';
import { attachRootless, planUncarry, readRootless } from './network/rootless.ts';
import { findNetwork, type NetworkTarget } from './network/target.ts';

export const options = {
  bridge: {
    parse: checked(
      'bridge',
      'a name of at most 15 letters, digits and - that begins with a letter',
      (text) => /^[a-z][\w-]{0,14}$/i.test(text) && !/^bh\d/.test(text),
    ),
  },
  subnet: { parse: (text: string) => readSubnet('subnet', text, 4, 16, 29) },
  subnet6: { parse: (text: string) => readSubnet('subnet6', text, 6, 64, 64) },
  noIpv6: {},
  internal: {},
  ip: { parse: checked('ip', 'an IPv4 address', (text) => parseAddress(text)?.version === 4) },
  isolated: {},
  name: {
    parse: checked(
      'name',
      'of at most 63 letters, digits, - . and _',
      (text) => isName(text) && text.length <= 63,
    ),
  },
  dns: { parse: checked('dns', 'an IP address', (text) => parseAddress(text) !== undefined), many: true },
  noFiles: {},
  publish: { short: 'p', parse: parsePort, many: true },
  rate: { parse: parseRate },
  rateIn: { parse: parseRate },
  rateOut: { parse: parseRate },
  json: {},
  dryRun: {},
} as const;
type Given = Values<typeof options>;

type Run = (values: Given, target: string, words: string[]) => Promise<void>;

/** The commands: what each does, how many operands it takes, and the options that go with it. */
const commands: Record<string, { run: Run; operands: number; options: string }> = {
  attach: {
    run: attach,
    operands: 1,
    options: 'bridge subnet subnet6 noIpv6 internal ip isolated name dns noFiles publish dryRun',
  },
  publish: { run: publish, operands: Infinity, options: 'bridge dryRun' },
  limit: { run: limit, operands: 1, options: 'bridge rate rateIn rateOut dryRun' },
  detach: { run: detach, operands: 1, options: 'bridge dryRun' },
  ls: { run: list, operands: 0, options: 'json' },
  sweep: { run: sweep, operands: 1, options: 'dryRun' },
};

const isRoot = () => process.getuid?.() === 0;

/** What parses an option's value: the text itself if it is right. Throws UsageError. */
function checked(option: string, form: string, isRight: (text: string) => boolean) {
  return (text: string): string => {
    if (isRight(text)) return text;
    throw new UsageError(`--${option} is ${form}, not ${text}`);
  };
}

function readSubnet(option: string, text: string, version: 4 | 6, min: number, max: number): Subnet {
  const subnet = text.includes('/') ? parseSubnet(text) : undefined;
  if (subnet?.version === version && subnet.prefix >= min && subnet.prefix <= max) return subnet;
  const form = version === 4 ? `10.88.0.0/16, with /${min} to /${max}` : 'fd00:1:2:3::/64';
  throw new UsageError(`--${option} is like ${form}, not ${text}`);
}

/** Bits per second; K, M and G are powers of 1000, as in tc(8). Throws UsageError for any other text. */
export function parseRate(text: string): number {
  const [, number, unit = ''] = /^(\d+(?:\.\d+)?)([KMG]?)(?:bit)?$/i.exec(text) ?? [];
  const factor = { '': 1, K: 1e3, M: 1e6, G: 1e9 }[unit.toUpperCase()] ?? 1;
  const bits = Math.round(Number(number) * factor);
  if (number !== undefined && (bits === 0 || (bits >= 8000 && bits <= 400e9))) return bits;
  throw new UsageError(
    `a rate is bits per second from 8K to 400G, such as 10M, or 0 for no limit; not ${text}`,
  );
}

/** The steps that limit what an interface sends; `bits` 0 removes the limit. `enter`: the words that reach it. */
export function planRate(enter: string[], dev: string, bits: number, isLimited: boolean): Step[] {
  if (bits === 0) return isLimited ? [{ run: sh`${enter} tc qdisc del dev ${dev} root` }] : [];
  // 10 ms of the rate may be sent at once, and no less than one packet as the kernel joins them, 64 KiB
  const burst = Math.max(65536, Math.ceil(bits / 8 / 100));
  const bucket = sh`tbf rate ${bits}bit burst ${burst}b latency 100ms`;
  return [{ run: sh`${enter} tc qdisc replace dev ${dev} root ${bucket}` }];
}

const say = (line: string) => console.error(`network: ${line}`);

/** Finds the target, and says which container it is if that is not what the user gave. */
function findTarget(text: string): NetworkTarget {
  const target = findNetwork(text);
  if (target.remark) say(target.remark);
  return target;
}

const show = (steps: Step[]) => void process.stdout.write(toShell(steps));

/** Performs a plan, or prints it. */
const carryOut = async (plan: Plan, dryRun: boolean) => (dryRun ? show(await print(plan)) : change(plan));

async function attach(values: Given, text: string): Promise<void> {
  const { dryRun, noFiles, publish: ports, bridge = defaultBridge } = values;
  checkPorts(ports);
  const found = findTarget(text);
  if (!isRoot()) return attachRootless(found.pid, text, ports, dryRun);
  const target = { ...found, name: values.name ?? found.name };
  const request = { ...values, bridge, ports };
  if (dryRun) return show(await printAttach(request, target));
  const { attachment, network, rules, warnings } = await attachContainer(request, target);
  if (hasHostRoot(target.pid) && !noFiles)
    say(`${text} has the host's root directory: its /etc/resolv.conf and /etc/hosts stay as they are`);
  else if (network.nameservers.length === 0 && !noFiles && !network.internal)
    say('this host has no name server that a container could reach: --dns ADDRESS names one');
  for (const line of warnings) say(line);
  const { interface: inside, address, address6 } = attachment;
  console.log(`${text}: ${inside} has ${[address, address6].filter(Boolean).join(' and ')} on ${bridge}`);
  if (!network.internal) for (const line of await firewallAdvice(bridge, rules)) say(line);
}

async function publish({ bridge, dryRun }: Given, text: string, words: string[]): Promise<void> {
  if (words.length === 0) throw new UsageError(`publish needs a port: type ${typedLine()} 8080:80`);
  const ports = words.map(parsePort);
  checkPorts(ports);
  const target = findTarget(text);
  await carryOut((facts) => planPublish(facts, target, ports, bridge), dryRun);
}

async function limit({ bridge, dryRun, rate, rateIn = rate, rateOut = rate }: Given, text: string) {
  if (rateIn === undefined && rateOut === undefined)
    throw new UsageError(`limit needs --rate, --rate-in or --rate-out: type ${typedLine()} --rate 10M`);
  requirePrograms(['tc', 'nsenter'], 'limit the rate');
  const target = findTarget(text);
  const { pid } = target;
  const enter = sh`nsenter --net=/proc/${pid}/ns/net`;
  await carryOut(async (facts) => {
    const ends = attachmentsOf(facts, target, bridge).flatMap(({ link, interface: inside }) => [
      { enter: [], dev: link, bits: rateIn },
      { enter, dev: inside, bits: rateOut },
    ]);
    const steps: Step[] = [];
    for (const { enter, dev, bits } of ends) {
      if (bits === undefined) continue;
      const { stdout } = await runProgram(sh`${enter} tc -j qdisc show dev ${dev} root`);
      steps.push(...planRate(enter, dev, bits, stdout.includes('"tbf"')));
    }
    return steps;
  }, dryRun);
  if (rateOut && hasCapability(pid, 'CapBnd', 'net_admin'))
    say(`${text} may have CAP_NET_ADMIN: root in it can remove the limit on what it sends`);
}

async function detach({ bridge, dryRun }: Given, text: string): Promise<void> {
  const target = findTarget(text);
  if (isRoot()) return carryOut((facts) => planDetach(facts, target, bridge), dryRun);
  const steps = planUncarry(target.pid, text);
  return dryRun ? show(steps) : perform(steps);
}

async function list({ json }: Given): Promise<void> {
  const all = isRoot() ? await readAttachments() : readRootless();
  if (json) return console.log(toJson(all, 2));
  if (all.length === 0) return say(`no container is attached: type ${scriptPath()} attach TARGET`);
  const head = ['NAME', 'PID', 'BRIDGE', 'INTERFACE', 'ADDRESS', 'ADDRESS6', 'PORTS'];
  const rows = all.map(({ name, pid, bridge, link, address, address6, ports }) => [
    ...[printable(name), pid, bridge ?? '-', link, address, address6 ?? '-'],
    ports.map(formatPort).join(' '),
  ]);
  const { table } = await import('./helpers/table.ts'); // not loaded where it is not needed
  console.log(table(head, rows));
}

async function sweep({ dryRun }: Given, inode: string): Promise<void> {
  if (inode) {
    const number = parseNumber('INODE', inode, 1, 4_294_967_295);
    await carryOut((facts) => planLeave(facts, number), dryRun);
  } else if (dryRun) show(await printSweep());
  else for (const what of await sweepNetworks()) console.log(`${what}: removed`);
}

await main(
  import.meta.url,
  { options, operands: [1, Infinity] },
  async (values, [name = '', ...operands]) => {
    const command = commands[name];
    if (!command) {
      const names = Object.keys(commands);
      throw new UsageError(
        `there is no command ${name}${didYouMean(name, names) || `: ${names.join(', ')}`}`,
      );
    }
    const allowed = command.options.split(' ');
    const wrong = Object.entries(values).find(
      ([option, value]) => isGiven(value) && !allowed.includes(option),
    );
    if (wrong) throw new HelpNeeded(`--${kebab(wrong[0])} does not go with ${name}`);
    const { operands: max, run } = command;
    if (operands.length > max) throw new HelpNeeded(`one operand too many: ${operands[max]}`);
    const [target = '', ...words] = operands;
    if (target === '' && max > 0 && run !== sweep)
      throw new UsageError(`${name} needs a TARGET: ${scriptPath('ps')} shows containers`);
    if (!isRoot() && [publish, limit, sweep].includes(run))
      throw new Failure(
        `${name} needs root: type sudo ${typedLine()}${run === publish ? '; without root give ports to attach' : ''}`,
      );
    await run(values, target, words);
    return 0;
  },
);
