// The network of a container without root: pasta(1) or slirp4netns(1), a process that carries its packets over sockets
// of the user's. It is found again by its command line, and ended when the container has.
import { accessSync, constants } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure, reason } from './cli.ts';
import type { Attachment } from './network.ts';
import type { Port } from './network-rules.ts';
import { commandLine, namespaceInode, readProc, readProcesses } from './proc.ts';
import { findInPath, quote, runProgram } from './programs.ts';

/** The words that connect the namespaces of `pid`, or why there are none. Throws Failure with what to install. */
export function rootlessWords(pid: number | string, ports: Port[]): string[] {
  if (findInPath('pasta')) {
    const publish = ports.flatMap(({ host, hostPort, port, protocol }) => [
      protocol === 'udp' ? '-u' : '-t',
      `${host === undefined ? '' : `${host}/`}${hostPort}:${port}`,
    ]);
    const rest = ['tcp', 'udp'].flatMap((protocol) =>
      ports.some((port) => port.protocol === protocol) ? [] : [protocol === 'udp' ? '-u' : '-t', 'none'],
    );
    return [
      'pasta',
      '--foreground',
      '--config-net',
      '--quiet',
      ...publish,
      ...rest,
      '-T',
      'none',
      '-U',
      'none',
      String(pid),
    ];
  }
  if (findInPath('slirp4netns')) {
    if (ports.length > 0) throw new Failure('slirp4netns publishes no ports here: apt-get install passt');
    return ['slirp4netns', '--configure', '--disable-host-loopback', String(pid), 'tap0'];
  }
  throw new Failure('a network without root needs pasta(1) or slirp4netns(1): apt-get install passt');
}

/** What carries the packets of a process of ours now. */
const carriers = () =>
  [...readProcesses().values()].flatMap((process_) => {
    const words = readProc(process_.pid, 'cmdline')?.split('\0') ?? [];
    const [program = ''] = words;
    if (!/(^|\/)(pasta(\.avx2)?|slirp4netns)$/.test(program)) return [];
    const pid = Number(words.filter(Boolean).findLast((word) => /^\d+$/.test(word)));
    return namespaceInode(pid, 'net') === undefined ? [] : [{ process_, pid, program }];
  });

export async function attachRootless(
  pid: number,
  label: string,
  ports: Port[],
  dryRun: boolean,
): Promise<void> {
  const words = rootlessWords(pid, ports).map(quote).join(' ');
  // it would go on when the container has ended, since it is in that network namespace itself
  const shell = `(${words} & carrier=$!; tail --pid=${pid} -f /dev/null; kill "$carrier") </dev/null >/dev/null 2>&1 &\n`;
  if (dryRun) {
    process.stdout.write(shell);
    return;
  }
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    throw new Failure(`cannot open /dev/net/tun: ${reason(error)}: as root: chmod 666 /dev/net/tun`);
  }
  if (carriers().some((carrier) => carrier.pid === pid)) throw new Failure(`${label} has a network already`);
  await runProgram(['sh', '-c', shell]);
  const isUp = () => /^ *(?!lo:)\S+:/m.test(readProc(pid, 'net/dev') ?? '');
  for (let tries = 0; !isUp(); tries++) {
    if (tries === 100) throw new Failure(`no interface has come up: for the reason type: ${words}`);
    await sleep(50);
  }
  console.log(`${label}: carried by ${words.split(' ')[0]}`);
}

export async function detachRootless(pid: number, label: string, dryRun: boolean): Promise<void> {
  const found = carriers().filter((carrier) => carrier.pid === pid);
  if (found.length === 0) throw new Failure(`${label} has no network: network.ts attach ${label}`);
  for (const { process_ } of found) {
    if (dryRun) console.log(`kill ${process_.pid}   # ${commandLine(process_)}`);
    else process.kill(process_.pid, 'SIGTERM');
  }
}

/** The same as readAttachments, of containers without root. */
export const readRootless = (): Attachment[] =>
  carriers().map(({ process_, pid, program }) => ({
    name: `pid-${pid}`,
    pid,
    link: `${program.split('/').at(-1)} ${process_.pid}`,
    bridge: undefined,
    interface: '',
    address: '-',
    address6: undefined,
    ports: [],
  }));
