// A laboratory for networks: a network namespace stands for the host, with a mount namespace so that its files may be
// others; a second one is the internet. This machine's own interfaces and firewall are never touched.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { after, afterEach, before } from 'node:test';
import { namespace, newName } from './container.ts';
import { scratchFolder } from './leftovers.ts';
import { needs } from './needs.ts';
import { execute, rootfs, script, until } from './script.ts';

export const skip = needs('root', 'namespaces', 'ip', 'nft', 'socat', 'ping');
export const lab = { skip };
/** For those that start a lot and depend little on the kernel. */
export const slow = { skip: skip || needs('speed') };
/** The flavours of iptables(8), each with the reason why it can't be tried on this machine. */
export const flavours = ['iptables-nft', 'iptables-legacy'].map((flavour) => {
  // this also loads what iptables-legacy would look for in files that the host may have others of
  const works = (command: string) => spawnSync('unshare', ['--net', command, '-t', 'nat', '-S']).status === 0;
  const missing = skip || needs('iptables', flavour);
  const hasTables = !missing && [flavour, flavour.replace('ip', 'ip6')].every(works);
  return { flavour, missing: missing || (!hasTables && `needs a kernel with ${flavour}`) };
});
/** Makes one of them the iptables of the host while `run` does. */
export async function withIptables(flavour: string, run: () => Promise<void>): Promise<void> {
  const file = (program: string) => `"$(readlink -f "$(command -v ${program})")"`;
  assert.notEqual(await sh(host, `mount --bind ${file(flavour)} ${file('iptables')}`), undefined);
  try {
    await run();
  } finally {
    await sh(host, `umount ${file('iptables')}`);
  }
}
export const folder = scratchFolder('network');

const children: ChildProcess[] = [];
/** Starts a process that ends with this file at the latest. */
export function start(argv: string[]): ChildProcess {
  const [program = '', ...words] = argv;
  const child = spawn('setpriv', ['--pdeathsig=KILL', program, ...words], { stdio: 'ignore', cwd: '/' });
  children.push(child);
  return child;
}

export let host = 0;
export let internet = 0;
export const enter = (pid: number) => [
  'nsenter',
  '--target',
  String(pid),
  '--net',
  ...(pid === host ? ['--mount'] : []),
];

/** Runs a shell program in the network of a process, and gives what it says, trimmed; where it fails, undefined. */
export async function sh(pid: number, program: string): Promise<string | undefined> {
  const { code, stdout } = await execute([...enter(pid), 'sh', '-c', program]);
  return code === 0 ? stdout.trim() : undefined;
}

export const network = (...words: string[]) => execute([...enter(host), script('network'), ...words]);

/** The same, which has to end well and without a word on stderr. */
export async function done(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await network(...words);
  assert.deepEqual(
    { code, stderr: stderr.replace(/^.*(has the host's root directory|may have CAP_NET_ADMIN).*\n/, '') },
    { code: 0, stderr: '' },
  );
  return stdout;
}

/** A process with a network namespace of its own. */
export async function container(): Promise<number> {
  const { pid = 0 } = start([...enter(host), 'unshare', '--net', 'sleep', '1000']);
  await until('its namespace', () => isSleeping(pid) && namespace(pid, 'net') !== namespace(host, 'net'));
  return pid;
}
const isSleeping = (pid: number) => readFileSync(`/proc/${pid}/comm`, 'utf8') === 'sleep\n';

/** Kills them, and waits until their interfaces have gone with them. */
export async function endAll(pids: number[]): Promise<void> {
  const inodes = pids.map((pid) => /\d+/.exec(namespace(pid, 'net'))?.[0]);
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  await until('their interfaces to go', async () => {
    const links = await sh(host, 'ip -o link');
    return !inodes.some((inode) => links?.includes(`bh${inode}`));
  });
}

/** All that a network changes: links, addresses, routes, rules and settings. */
export async function snapshot(pid = host): Promise<string> {
  const said = await sh(
    pid,
    `ip -o link | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/ link-netnsid.*//'
    ip -o address | sed 's/^[0-9]*: //; s/ *valid_lft.*//'
    ip route show table all; ip -6 route show table all; ip rule
    nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'
    cd /proc/sys/net; grep -rs . ipv4 ipv6 | grep -v '/route/flush\\|_key\\|udp_mem\\|/neigh/.*_time\\|stat_refresh' | sort`,
  );
  assert(said);
  return said;
}

/** Compares two of these, and names only the lines that differ. */
export function same(is: string, was: string, message = ''): void {
  const [now, before] = [is.split('\n'), was.split('\n')];
  const more = now.filter((line) => !before.includes(line)).map((line) => `+ ${line}`);
  const less = before.filter((line) => !now.includes(line)).map((line) => `- ${line}`);
  assert.equal([...more, ...less].join('\n'), '', message);
}

/** Has something listen in a network that answers each with `text` and the address that it comes from. */
export function serve(pid: number, how: string, text: string): ChildProcess {
  return start([...enter(pid), 'socat', `${how},fork,reuseaddr`, `SYSTEM:echo ${text} $SOCAT_PEERADDR`]);
}

/** Asks, until there is an answer: what serves may be about to start. */
export async function ask(pid: number, target: string): Promise<string> {
  const input = target.startsWith('UDP') ? 'echo ?; sleep 0.1' : 'true';
  for (let tries = 0; tries < 50; tries++) {
    const said = await sh(
      pid,
      `(${input}) | timeout 3 socat -t${target.startsWith('UDP') ? 0.2 : 2} - ${target} 2>/dev/null`,
    );
    if (said) return said;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`no answer of ${target}`);
}
/** Whether a connection is refused, or lost. Where the processor is emulated it takes longer to know. */
export const isClosed = async (pid: number, target: string) =>
  !(await sh(pid, `timeout ${patience} socat -t1 - ${target},connect-timeout=${patience / 2} </dev/null`));
const patience = needs('speed') ? 10 : 1;

/** The network of this machine: addresses, routes, rules, forwarding. */
const readReal = async () =>
  (
    await execute([
      'sh',
      '-c',
      'ip -o addr; ip route; ip -6 route; nft list ruleset; sysctl -a 2>/dev/null | grep forwarding',
    ])
  ).stdout;
// other test files attach containers to a bridge of this machine at the same time: they are waited for
const realBefore = skip
  ? ''
  : await until('the end of bridges of others', async () => {
      const found = await readReal();
      return found.includes('barehand') ? undefined : found;
    }).catch(readReal); // one that is there for good

before(async () => {
  if (skip) return;
  host = start(['unshare', '--net', '--mount', '--propagation', 'private', 'sleep', '1000']).pid ?? 0;
  internet = start(['unshare', '--net', 'sleep', '1000']).pid ?? 0;
  await until('the namespaces', () =>
    [host, internet].every((pid) => isSleeping(pid) && namespace(pid, 'net') !== namespace('self', 'net')),
  );
  await sh(
    host,
    `ip link add eth0 mtu 1400 type veth peer name eth0 mtu 1400 netns ${internet}
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set lo up; ip address add 198.51.100.2/24 dev eth0; ip address add 2001:db8::2/64 dev eth0 nodad
    ip link set eth0 up; ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8::1`,
  );
  await sh(
    internet,
    `ip link set lo up; ip address add 198.51.100.1/24 dev eth0; ip address add 2001:db8::1/64 dev eth0 nodad
    ip address add 203.0.113.1/32 dev lo; ip link set eth0 up`,
  );
  await until('the link', () => sh(internet, 'ping -c 1 -W 1 198.51.100.2 && ping -c 1 -W 1 2001:db8::2'));
});

// a test that fails leaves nothing for the next
afterEach(async () => {
  if (skip || !(await sh(host, 'nft list tables'))?.includes('barehand-')) return;
  for (const { pid } of JSON.parse((await network('ls', '--json')).stdout))
    await network('detach', String(pid));
  await network('sweep');
});

after(async () => {
  for (const child of children.reverse())
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  if (skip) return;
  await until('the end of bridges of others', async () => (await readReal()) === realBefore).catch(() => {});
  assert.equal(await readReal(), realBefore, "this machine's own network is as it was");
});

/** The address that `attach` says. */
export const addressIn = (said: string) => / has ([\d.]+)/.exec(said)?.[1] ?? '';
export const address6In = (said: string) => / and ([\da-f:]+)/.exec(said)?.[1] ?? '';

/** A container of run.ts's in the host's stead, on a root whose changes go into memory. */
export async function runContainer(
  options: string[] = [],
  root = rootfs,
): Promise<{ name: string; pid: number }> {
  const name = newName();
  start([
    ...enter(host),
    script('run'),
    '--network',
    'none',
    '--name',
    name,
    ...options,
    root,
    'sleep',
    '1000',
  ]);
  const pid = await until(name, async () => {
    const { stdout } = await execute([
      'sh',
      '-c',
      `grep -lsx "Name:.sleep" /proc/[0-9]*/status | while read -r file; do grep -q '/${name}$' "\${file%status}cgroup" && echo "$file"; done`,
    ]);
    return Number(/\/proc\/(\d+)/.exec(stdout)?.[1]) || undefined;
  });
  return { name, pid };
}
export const inside = async (pid: number, program: string) =>
  (await execute(['nsenter', '--target', String(pid), '--all', 'sh', '-c', program])).stdout;
