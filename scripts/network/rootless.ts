// The network of a container without root: pasta(1) or slirp4netns(1), a process that carries its packets over sockets
// of the user's. It is found again by its command line, and ended when the container has.
import { accessSync, constants, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure, reason } from '../helpers/cli.ts';
import { attempt, commandLine, namespaceInode, readProc, readProcesses } from '../helpers/pids.ts';
import { installCommand } from '../helpers/programs.ts';
import { findInPath, quote, runProgram } from '../helpers/shell.ts';
import { namedContainer, ownContainers } from '../helpers/target.ts';
import type { Attachment } from './network.ts';
import type { Port } from './rules.ts';

/** What can carry packets here. */
export type Carrier = 'pasta' | 'slirp4netns';
export const findCarrier = (): Carrier | undefined =>
  (['pasta', 'slirp4netns'] as const).find((program) => findInPath(program) !== undefined);

/** Where a carrier answers questions to a name server: it asks those of the host, on its loopback too. */
export const forwarder: Record<Carrier, string> = { pasta: '169.254.1.1', slirp4netns: '10.0.2.3' };

/** The process that is meant, which is known only when the words are used. */
const target = '$pid';

/**
 * The words that connect the namespaces of `$pid`. Throws Failure for ports that can't be published: by this carrier, or
 * by this user, ip(7).
 */
function carrierWords(carrier: Carrier, ports: Port[]): string[] {
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
    const closed = ['--disable-host-loopback', '--enable-sandbox', '--enable-seccomp'];
    return ['slirp4netns', '--configure', ...closed, target, 'tap0'];
  }
  const publish = (protocol: 'tcp' | 'udp') => {
    const own = ports.filter((port) => port.protocol === protocol);
    const words = own.map(
      ({ host, hostPort, port }) => `${host === undefined ? '' : `${host}/`}${hostPort}:${port}`,
    );
    return (words.length > 0 ? words : ['none']).flatMap((word) => [protocol === 'tcp' ? '-t' : '-u', word]);
  };
  // what listens on the host's loopback is not the container's to reach: neither by its own ports, nor by the gateway
  const closed = ['-T', 'none', '-U', 'none', '--no-map-gw'];
  const names = ['--dns-forward', forwarder.pasta];
  return [
    'pasta',
    '--foreground',
    '--config-net',
    '--quiet',
    ...publish('tcp'),
    ...publish('udp'),
    ...closed,
    ...names,
    target,
  ];
}

/** The same as shell, which has the process in $pid. */
const carrierShell = (words: string[]) =>
  words.map((word) => (word === target ? '"$pid"' : quote(word))).join(' ');

/** Throws Failure where this user may not make the interface that a carrier reads and writes. */
function checkTun(): void {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    throw new Failure(`cannot open /dev/net/tun: ${reason(error)}: as root: chmod 666 /dev/net/tun`);
  }
}

/** The lines for a launch: as those of launchLines in network.ts, but for a user without root. */
export function carrierLines(carrier: Carrier, ports: Port[]) {
  checkTun();
  const words = carrierShell(carrierWords(carrier, ports));
  return {
    define: `carry() {
  # a process that carries its packets, away from the terminal's keys; it ends with this shell, however that ends
  read -r self _ </proc/self/stat
  setpriv --pdeathsig=TERM setsid sh -c 'trap "kill \\$!; wait; exit" TERM; [ "$PPID" = "$1" ] || exit; shift; "$@" & wait' \\
    run "$self" ${words} </dev/null >/dev/null 2>&1 3<&- 5<&- 7<&- 8>&- 9<&- &
  carrier=$!
  # it is there when it has a route to the outside, proc(5)
  tries=0
  until grep -Eqs '^[^[:blank:]]+[[:blank:]]0{8}[[:blank:]]' "/proc/$pid/net/route" ||
    grep -Es '^0{32} 00 ' "/proc/$pid/net/ipv6_route" | grep -qv ' lo$'; do
    tries=$((tries + 1)); [ $tries -lt 100 ] && kill -0 "$carrier" 2>/dev/null || return
    sleep 0.05
  done
  network=${carrier}
}`,
    attach: `carry
[ "$network" ] || echo ${quote(`run: ${carrier} has not brought up a network: for the reason type:`)} ${words.split(' ').slice(0, -1).join(' ')} "$pid" >&2`,
    leave: 'kill "$carrier"; wait "$carrier" 2>/dev/null',
  };
}

/** What carries the packets of a process of ours now. */
const carriers = () =>
  [...readProcesses().values()].flatMap((process_) => {
    const words = readProc(process_.pid, 'cmdline')?.split('\0') ?? [];
    const [program = ''] = words;
    if (!/(^|\/)(pasta(\.avx2)?|slirp4netns)$/.test(program)) return [];
    const pid = Number(words.filter(Boolean).findLast((word) => /^\d+$/.test(word)));
    return namespaceInode(pid, 'net') === undefined ? [] : [{ process_, pid, program, words }];
  });

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
  const words = carrierShell(carrierWords(carrier, ports));
  // it would go on when the container has ended, since it is in that network namespace itself
  const shell = `pid=${pid}\n(${words} & carrier=$!; tail --pid="$pid" -f /dev/null; kill "$carrier") </dev/null >/dev/null 2>&1 &\n`;
  if (dryRun) {
    process.stdout.write(shell);
    return;
  }
  checkTun();
  if (carriers().some((carrier) => carrier.pid === pid)) throw new Failure(`${label} has a network already`);
  await runProgram(['sh', '-c', shell]);
  const isUp = () => /^ *(?!lo:)\S+:/m.test(readProc(pid, 'net/dev') ?? '');
  for (let tries = 0; !isUp(); tries++) {
    if (tries === 100)
      throw new Failure(
        `no interface has come up: for the reason type: ${words.replace('"$pid"', String(pid))}`,
      );
    await sleep(50);
  }
  console.log(`${label}: carried by ${carrier}`);
}

export async function detachRootless(pid: number, label: string, dryRun: boolean): Promise<void> {
  const found = carriers().filter((carrier) => carrier.pid === pid);
  if (found.length === 0) throw new Failure(`${label} has no network: network.ts attach ${label}`);
  for (const { process_ } of found) {
    if (dryRun) console.log(`kill ${process_.pid}   # ${commandLine(process_)}`);
    else process.kill(process_.pid, 'SIGTERM');
  }
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
