// IP addresses, subnets and ports: reading them, telling which overlap, choosing one that is free.
import { isIP, isIPv4, SocketAddress } from 'node:net';
import { UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';

/** A subnet: the number that its first address is, and how many bits all its addresses have in common. */
export interface Subnet {
  version: 4 | 6;
  first: bigint;
  prefix: number;
}

const bitsOf = (version: 4 | 6) => (version === 4 ? 32 : 128);

/** The number that an IP address is; undefined for what is none. */
export function parseAddress(text: string): { version: 4 | 6; number: bigint } | undefined {
  if (isIPv4(text))
    return { version: 4, number: text.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n) };
  // isIPv6 of node 20 takes milliseconds to compile its pattern
  const isIPv6 = () => attempt(() => new SocketAddress({ address: text, family: 'ipv6' })) !== undefined;
  if (!text.includes(':') || text.includes('%') || !isIPv6()) return undefined;
  // the last 32 bits may be written as IPv4, RFC 4291
  const [, head = '', tail] = /^(.*:)([\d.]+\.[\d.]+)$/.exec(text) ?? [];
  const low = tail === undefined ? undefined : parseAddress(tail)?.number;
  const plain =
    low === undefined ? text : `${head}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  const [left = '', right] = plain.split('::');
  const groups = (part: string | undefined) => (part ? part.split(':') : []);
  const missing = 8 - groups(left).length - groups(right).length;
  const all = [
    ...groups(left),
    ...Array<string>(right === undefined ? 0 : missing).fill('0'),
    ...groups(right),
  ];
  return { version: 6, number: all.reduce((sum, group) => sum * 65536n + BigInt(`0x${group}`), 0n) };
}

/** An address as it is written; of the zeros of IPv6 the first longest run is left out, RFC 5952. */
export function formatAddress(version: 4 | 6, number: bigint): string {
  const count = version === 4 ? 4 : 8;
  const size = version === 4 ? 8n : 16n;
  const parts = Array.from({ length: count }, (_, index) =>
    ((number >> (BigInt(count - 1 - index) * size)) & ((1n << size) - 1n)).toString(version === 4 ? 10 : 16),
  );
  if (version === 4) return parts.join('.');
  const runs = parts.join(':').match(/\b0(?::0)+\b/g) ?? [];
  const longest = runs.reduce((one, other) => (other.length > one.length ? other : one), '');
  if (longest === '') return parts.join(':');
  const text = `:${parts.join(':')}:`;
  const [before = '', ...after] = text.split(`:${longest}:`);
  return `${before.slice(1)}::${after.join(`:${longest}:`).slice(0, -1)}`;
}

/** Reads `10.88.0.0/16`; an address without a prefix is a subnet of one. undefined for what is none. */
export function parseSubnet(text: string): Subnet | undefined {
  const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const parsed = parseAddress(address);
  if (!parsed) return undefined;
  const { version, number } = parsed;
  const prefix = bits === undefined ? bitsOf(version) : Number(bits);
  if (prefix > bitsOf(version)) return undefined;
  const shift = BigInt(bitsOf(version) - prefix);
  return { version, first: (number >> shift) << shift, prefix };
}

export const formatSubnet = ({ version, first, prefix }: Subnet) =>
  `${formatAddress(version, first)}/${prefix}`;

/** How many addresses a subnet has. */
export const sizeOf = ({ version, prefix }: Subnet) => 1n << BigInt(bitsOf(version) - prefix);

export function overlap(one: Subnet, other: Subnet): boolean {
  if (one.version !== other.version) return false;
  const shift = BigInt(bitsOf(one.version) - Math.min(one.prefix, other.prefix));
  return one.first >> shift === other.first >> shift;
}

/** The subnets that are tried when none is asked for, in this order. */
const candidates = [
  ...Array.from({ length: 40 }, (_, index) => `10.${88 + index}.0.0/16`),
  ...Array.from({ length: 16 }, (_, index) => `172.${16 + index}.0.0/16`),
  ...Array.from({ length: 256 }, (_, index) => `192.168.${255 - index}.0/24`),
].map((text) => parseSubnet(text) as Subnet);

/** The first private subnet that overlaps with none of those in use; undefined where all do. */
export const freeSubnet = (used: Subnet[]) =>
  candidates.find((subnet) => !used.some((other) => overlap(subnet, other)));

/**
 * A private IPv6 subnet that is nobody else's in all likelihood, RFC 4193: 40 bits made of what is particular to this
 * host and bridge, so that it is the same each time.
 */
export async function localSubnet(seed: string): Promise<Subnet> {
  const { createHash } = await import('node:crypto'); // not loaded where it is not needed
  const bits = createHash('sha256').update(seed).digest('hex').slice(0, 10);
  return { version: 6, first: BigInt(`0xfd${bits}0000`) << 64n, prefix: 64 };
}

/** A port of the host that leads to a port of a container. */
export interface Port {
  /** the host's address that it is reached at; undefined: all */
  host: string | undefined;
  hostPort: number;
  port: number;
  protocol: 'tcp' | 'udp';
}

/** Reads PORT, HOSTPORT:PORT or IP:HOSTPORT:PORT, with /udp perhaps. Throws UsageError for what is none. */
export function parsePort(text: string): Port {
  const [, host, hostPort = '', port = '', protocol = 'tcp'] =
    /^(?:(\[[^\]]+\]|[\d.]+):)?(\d{1,5}):(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? [];
  const address = host?.replace(/^\[|\]$/g, '');
  const inRange = [hostPort, port].every((word) => Number(word) >= 1 && Number(word) <= 65535);
  if (!inRange || (address !== undefined && isIP(address) === 0))
    throw new UsageError(`a port is [IP:]HOSTPORT:PORT[/udp], as 8080:80, not ${text}`);
  const all = address === '0.0.0.0' || address === '::';
  return {
    host: all ? undefined : address,
    hostPort: Number(hostPort),
    port: Number(port),
    protocol: protocol as 'tcp' | 'udp',
  };
}
