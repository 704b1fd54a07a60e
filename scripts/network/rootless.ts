// The network of a container without root: pasta(1) or slirp4netns(1), a process that carries its packets over sockets
// of the user's. It is found again by its command line, and ended when the container has.
import { accessSync, constants, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
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
import { type Attachment, readInside } from './host.ts';

/** What can carry packets here. */
export type Carrier = 'pasta' | 'slirp4netns';
export const findCarrier = (): Carrier | undefined =>
  (['pasta', 'slirp4netns'] as const).find((program) => findInPath(program) !== undefined);

/** Where a carrier answers questions to a name server: it asks those of the host, on its loopback too. */
export const forwarder: Record<Carrier, string> = { pasta: '169.254.1.1', slirp4netns: '10.0.2.3' };

/**
 * The words that connect the namespaces of a process. Throws Failure for ports that cannot be published: by this
 * carrier, or by this user, ip(7).
 */
export function carrierWords(carrier: Carrier, ports: Port[], pid: string): Command {
  const setting = '/proc/sys/net/ipv4/ip_unprivileged_port_start';
  const firstPort = Number(attempt(() => readFileSync(setting, 'utf8')) ?? 1024);
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
  const publish = (protocol: 'tcp' | 'udp') => {
    const own = ports.filter((port) => port.protocol === protocol);
    const words = own.map(
      ({ host, hostPort, port }) => `${host === undefined ? '' : `${host}/`}${hostPort}:${port}`,
    );
    return (words.length > 0 ? words : ['none']).flatMap((word) => [protocol === 'tcp' ? '-t' : '-u', word]);
  };
  const ways = [...publish('tcp'), ...publish('udp')];
  // what listens on the host's loopback is not the container's to reach: neither by its own ports, nor by the gateway
  const closed = sh`-T none -U none --no-map-gw`;
  return sh`pasta --foreground --config-net --quiet ${ways} ${closed} --dns-forward ${forwarder.pasta} ${pid}`;
}

/** Throws Failure where this user may not make the interface that a carrier reads and writes. */
export function checkTun(): void {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    throw new Failure(`cannot open /dev/net/tun: ${reason(error)}: as root: chmod 666 /dev/net/tun`);
  }
}

/**
 * The step that starts a carrier, which ends with the process that it is for: by itself it would go on, as it keeps
 * that network namespace alive. It has nothing of the caller's: neither its terminal's keys, nor its standard streams.
 */
export const planCarry = (carrier: Carrier, ports: Port[], pid: string): Step => ({
  why: `${carrier} carries the packets, until the container ends`,
  run: sh`setsid --fork sh -c ${watch} ${pid} ${carrierWords(carrier, ports, pid)}`,
});
const watch =
  'exec </dev/null >/dev/null 2>&1; "$@" & tail --pid="$0" --sleep-interval=0.2 -f /dev/null; kill $!';

/** What carries the packets of a process of ours now. */
const carriers = () =>
  [...readProcesses().values()].flatMap((process_) => {
    const words = readProc(process_.pid, 'cmdline')?.split('\0') ?? [];
    const [program = ''] = words;
    if (!/(^|\/)(pasta(\.avx2)?|slirp4netns)$/.test(program)) return [];
    const pid = Number(words.filter(Boolean).findLast((word) => /^\d+$/.test(word)));
    return namespaceInode(pid, 'net') === undefined ? [] : [{ process_, pid, program, words }];
  });

const isConnected = (pid: number) => {
  const { hasRoute, hasRoute6 } = readInside(pid);
  return hasRoute || hasRoute6;
};

/** Starts a carrier for a process, and waits until its interface is up. Throws Failure where it does not come up. */
export async function carry(carrier: Carrier, ports: Port[], pid: number): Promise<void> {
  checkTun();
  await perform([planCarry(carrier, ports, String(pid))]);
  for (let tries = 0; !isConnected(pid); tries++) {
    // it has given up already where it ended, or the container has
    if (tries === 100 || (tries > 20 && carriersOf(pid).length === 0)) {
      endCarriers(pid);
      const words = carrierWords(carrier, ports, String(pid)).map(quote).join(' ');
      throw new Failure(`${carrier} has not brought up a network: for the reason type: ${words}`);
    }
    await sleep(50);
  }
}

const carriersOf = (pid: number) => carriers().filter((carrier) => carrier.pid === pid);

/** What ends the carriers that a process has now, and waits for their end; the process may have ended before. */
export function endCarriersOf(pid: number): () => Promise<void> {
  const own = carriersOf(pid).map(({ process_ }) => ({ pid: process_.pid, since: startTicks(process_.pid) }));
  const left = () => own.filter((one) => startTicks(one.pid) === one.since && !readProcess(one.pid)?.zombie);
  return async () => {
    for (const one of left()) attempt(() => process.kill(one.pid, 'SIGTERM'));
    for (let tries = 0; tries < 50 && left().length > 0; tries++) await sleep(20);
  };
}

/** Ends the carriers of a process. */
export function endCarriers(pid: number): void {
  for (const { process_ } of carriersOf(pid)) attempt(() => process.kill(process_.pid, 'SIGTERM'));
}

/** attach without root. */
export async function attachRootless(
  pid: number,
  label: string,
  ports: Port[],
  dryRun: boolean,
): Promise<void> {
  const carrier = findCarrier();
  if (!carrier)
    throw new Failure(
      `a network without root needs pasta(1) or slirp4netns(1): ${installCommand(['pasta'])}`,
    );
  if (dryRun) {
    process.stdout.write(toShell([planCarry(carrier, ports, String(pid))]));
    return;
  }
  if (carriersOf(pid).length > 0) throw new Failure(`${label} has a network already`);
  await carry(carrier, ports, pid);
  console.log(`${label}: carried by ${carrier}`);
}

/** detach without root. */
export function detachRootless(pid: number, label: string, dryRun: boolean): void {
  const found = carriersOf(pid);
  if (found.length === 0) throw new Failure(`${label} has no network: network.ts attach ${label}`);
  const steps = found.map(({ process_ }) => ({ why: commandLine(process_), run: sh`kill ${process_.pid}` }));
  if (dryRun) process.stdout.write(toShell(steps));
  else endCarriers(pid);
}

/** The ports among a carrier's words: -t for TCP, -u for UDP. */
const portsIn = (words: string[]): Port[] =>
  words.flatMap((word, index) => {
    const [, host, hostPort, port] = /^(?:([^/]+)\/)?(\d+):(\d+)$/.exec(word) ?? [];
    const protocol = { '-t': 'tcp', '-u': 'udp' }[words[index - 1] ?? ''];
    return port && protocol
      ? [{ host, hostPort: Number(hostPort), port: Number(port), protocol } as Port]
      : [];
  });

/** The same as readAttachments, of containers without root. */
export function readRootless(): Attachment[] {
  const names = new Map(ownContainers([]).map((name) => [namedContainer([], name).first?.pid, name]));
  return carriers().map(({ process_, pid, program, words }) => ({
    name: names.get(pid) ?? `pid-${pid}`,
    pid,
    link: `${program.split('/').at(-1)} ${process_.pid}`,
    bridge: undefined,
    interface: '',
    address: '-',
    address6: undefined,
    ports: portsIn(words),
  }));
}
