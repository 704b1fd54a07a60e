// The network of a container without root: pasta(1) or slirp4netns(1) carries the packets over sockets of the user. Such a
// process, a carrier, is found again by its command line, and ends when the container has ended.
import { accessSync, constants } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { scriptPath } from '../helpers/called.ts';
import { Failure, reason } from '../helpers/cli.ts';
import {
  attempt,
  commandLine,
  namespaceInode,
  readProc,
  readProcess,
  readProcesses,
  startTicks,
} from '../helpers/pids.ts';
import { installCommand } from '../helpers/programs.ts';
import { type Command, findInPath, quote, sh } from '../helpers/shell.ts';
import { perform, type Step, toShell } from '../helpers/steps.ts';
import { namedContainer, ownContainers } from '../helpers/target.ts';
import type { Port } from './addresses.ts';
import { type Attachment, readInside, readSetting } from './host.ts';

/** The programs that can carry packets. */
type Carrier = 'pasta' | 'slirp4netns';
export const findCarrier = (): Carrier | undefined =>
  (['pasta', 'slirp4netns'] as const).find((program) => findInPath(program) !== undefined);
export const noCarrier = () =>
  `without root it needs pasta(1) or slirp4netns(1): ${installCommand(['pasta'])}`;

/** The address at which a carrier answers as a name server. It asks those of the host, also on the host's loopback. */
export const forwarder: Record<Carrier, string> = { pasta: '169.254.1.1', slirp4netns: '10.0.2.3' };

/**
 * The command that connects a process to the host's network. Throws Failure for ports that this carrier, or this user,
 * cannot publish, ip(7).
 */
function carrierCommand(carrier: Carrier, ports: Port[], pid: string): Command {
  const firstPort = Number(readSetting('net/ipv4/ip_unprivileged_port_start') ?? 1024);
  const low = ports.find(({ hostPort }) => hostPort < firstPort);
  if (low)
    throw new Failure(
      `only root may publish port ${low.hostPort}: take one from ${firstPort} on, or as root: sysctl net.ipv4.ip_unprivileged_port_start=${low.hostPort}`,
    );
  if (carrier === 'slirp4netns') {
    if (ports.length > 0)
      throw new Failure(`slirp4netns publishes no ports here: ${installCommand(['pasta'])}`);
    return sh`slirp4netns --configure --disable-host-loopback --enable-sandbox --enable-seccomp ${pid} tap0`;
  }
  const published = Object.entries(portOptions).flatMap(([option, protocol]) => {
    const own = ports.filter((port) => port.protocol === protocol);
    const words = own.map(({ host, hostPort, port }) => `${host ? `${host}/` : ''}${hostPort}:${port}`);
    return (words.length > 0 ? words : ['none']).flatMap((word) => [option, word]);
  });
  // what listens on the host's loopback is not the container's to reach: neither by its own ports, nor by the gateway
  const closed = sh`-T none -U none --no-map-gw`;
  return sh`pasta --foreground --config-net --quiet ${published} ${closed} --dns-forward ${forwarder.pasta} ${pid}`;
}

/** The options of pasta(1) that publish a port. */
const portOptions: Record<string, Port['protocol']> = { '-t': 'tcp', '-u': 'udp' };

/** The ports that a carrier's command publishes. */
const portsIn = (command: Command): Port[] =>
  command.flatMap((word, index) => {
    const [, host, hostPort, port] = /^(?:([^/]+)\/)?(\d+):(\d+)$/.exec(word) ?? [];
    const protocol = portOptions[command[index - 1] ?? ''];
    return port && protocol ? [{ host, hostPort: Number(hostPort), port: Number(port), protocol }] : [];
  });

/**
 * The step that starts a carrier. The carrier keeps the network namespace alive, so by itself it would not end: the shell
 * ends it with the process that it is for. It has neither the terminal nor the standard streams of the caller.
 */
export const planCarry = (carrier: Carrier, ports: Port[], pid: string): Step => ({
  why: `${carrier} carries the packets, until the container ends`,
  run: sh`setsid --fork sh -c ${watch} ${pid} ${carrierCommand(carrier, ports, pid)}`,
});
const watch =
  'exec </dev/null >/dev/null 2>&1; "$@" & tail --pid="$0" --sleep-interval=0.2 -f /dev/null; kill $!';

/** The carriers of this user, with the PIDs of their containers. */
const carriers = () =>
  [...readProcesses().values()].flatMap((process_) => {
    const command = readProc(process_.pid, 'cmdline')?.split('\0') ?? [];
    const [program = ''] = command;
    if (!/(^|\/)(pasta(\.avx2)?|slirp4netns)$/.test(program)) return [];
    const pid = Number(command.filter(Boolean).findLast((word) => /^\d+$/.test(word)));
    return namespaceInode(pid, 'net') === undefined ? [] : [{ process_, pid, command }];
  });
const carriersOf = (pid: number) => carriers().filter((carrier) => carrier.pid === pid);

/** Starts a carrier for a process, and waits until its interface is up. Throws Failure if it does not come up. */
export async function carry(carrier: Carrier, ports: Port[], pid: number): Promise<void> {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    throw new Failure(`cannot open /dev/net/tun: ${reason(error)}: as root: chmod 666 /dev/net/tun`);
  }
  await perform([planCarry(carrier, ports, String(pid))]);
  const isConnected = () => {
    const { hasRoute, hasRoute6 } = readInside(pid);
    return hasRoute || hasRoute6;
  };
  for (let tries = 0; !isConnected(); tries++) {
    // it has given up already if it has ended, or the container has
    if (tries === 100 || (tries > 20 && carriersOf(pid).length === 0)) {
      await carriersEnd(pid)();
      const command = carrierCommand(carrier, ports, String(pid)).map(quote).join(' ');
      throw new Failure(`${carrier} has not brought up a network: for the reason type: ${command}`);
    }
    await sleep(50);
  }
}

/**
 * Finds the carriers of a process now, and returns what ends them and waits for their end. By then the process may have
 * ended, and another one may have the PID of a carrier.
 */
export function carriersEnd(pid: number): () => Promise<void> {
  const own = carriersOf(pid).map(({ process_ }) => ({ pid: process_.pid, since: startTicks(process_.pid) }));
  const left = () => own.filter((one) => startTicks(one.pid) === one.since && !readProcess(one.pid)?.zombie);
  return async () => {
    for (const one of left()) attempt(() => process.kill(one.pid, 'SIGTERM'));
    for (let tries = 0; tries < 50 && left().length > 0; tries++) await sleep(20);
  };
}

/** attach without root. */
export async function attachRootless(
  pid: number,
  text: string,
  ports: Port[],
  dryRun: boolean,
): Promise<void> {
  const carrier = findCarrier();
  if (!carrier) throw new Failure(`cannot attach ${text}: ${noCarrier()}`);
  if (dryRun) return void process.stdout.write(toShell([planCarry(carrier, ports, String(pid))]));
  if (carriersOf(pid).length > 0) throw new Failure(`${text} has a network already`);
  await carry(carrier, ports, pid);
  console.log(`${text}: carried by ${carrier}`);
}

/** The steps of detach without root. Throws Failure if nothing carries packets for the process. */
export function planUncarry(pid: number, text: string): Step[] {
  const found = carriersOf(pid);
  if (found.length === 0)
    throw new Failure(`${text} has no network: type ${scriptPath('network')} attach ${text}`);
  return found.map(({ process_ }) => ({ why: commandLine(process_), run: sh`kill ${process_.pid}` }));
}

/** The same as readAttachments, of containers without root. */
export function readRootless(): Attachment[] {
  const names = new Map(ownContainers([]).map((name) => [namedContainer([], name).first?.pid, name]));
  return carriers().map(({ process_, pid, command }) => ({
    name: names.get(pid) ?? `pid-${pid}`,
    pid,
    link: `${command[0]?.split('/').at(-1)} ${process_.pid}`,
    bridge: undefined,
    interface: '',
    address: '-',
    address6: undefined,
    ports: portsIn(command),
    isolated: false,
    noFiles: true,
  }));
}
