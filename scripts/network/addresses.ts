// IP addresses, subnets and ports: reading and writing them, which subnets overlap, which one is free.
import { createRequire } from 'node:module';
import { isIPv4 } from 'node:net';
import { UsageError } from '../helpers/cli.ts';
import { attempt } from '../helpers/pids.ts';

/** A subnet: its first address as a number, and how many leading bits all its addresses have in common. */
export interface Subnet {
  version: 4 | 6;
  first: bigint;
  prefix: number;
}

const bitsOf = (version: 4 | 6) => (version === 4 ? 32 : 128);

/** An IPv6 address as RFC 5952 writes it, by node's parser of URLs; undefined if the text is no IPv6 address. */
const canonical = (text: string) =>
  /^[\da-f:.]+$/i.test(text)
    ? attempt(() => new URL(`http://[${text}]`).hostname.replace(/[[\]]/g, ''))
    : undefined;

/** The number of an IP address; undefined if the text is no IP address. */
export function parseAddress(text: string): { version: 4 | 6; number: bigint } | undefined {
  if (isIPv4(text))
    return { version: 4, number: text.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n) };
  // isIPv6 of node 20 takes milliseconds to compile its pattern
  const groups = canonical(text)
    ?.split('::')
    .map((half) => half.split(':').filter(Boolean));
  if (!groups) return undefined;
  const [left = [], right = []] = groups;
  const zeros = Array<string>(8 - left.length - right.length).fill('0');
  const digits = [...left, ...zeros, ...right].map((group) => group.padStart(4, '0'));
  return { version: 6, number: BigInt(`0x${digits.join('')}`) };
}

/** The text of an address; an IPv6 address is shortened as in RFC 5952. */
export function formatAddress(version: 4 | 6, number: bigint): string {
  const digits = number.toString(16).padStart(bitsOf(version) / 4, '0');
  if (version === 4) return (digits.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)).join('.');
  return canonical((digits.match(/.{4}/g) ?? []).join(':')) as string;
}

/** The address at this position in a subnet, counted from 0, which is the address of the subnet itself. */
export const addressAt = ({ version, first }: Subnet, position: number) =>
  formatAddress(version, first + BigInt(position));

/** Reads `10.88.0.0/16`; an address without a prefix is a subnet of one address. undefined for any other text. */
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

export const formatSubnet = (subnet: Subnet) => `${addressAt(subnet, 0)}/${subnet.prefix}`;

/** How many addresses a subnet has. */
export const sizeOf = ({ version, prefix }: Subnet) => 1n << BigInt(bitsOf(version) - prefix);

export function overlap(one: Subnet, other: Subnet): boolean {
  if (one.version !== other.version) return false;
  const shift = BigInt(bitsOf(one.version) - Math.min(one.prefix, other.prefix));
  return one.first >> shift === other.first >> shift;
}

/** The first private subnet, RFC 1918, that overlaps with none of those in use; undefined if all do. */
export function freeSubnet(used: Subnet[]): Subnet | undefined {
  const candidates = [
    ...Array.from({ length: 40 }, (_, index) => `10.${88 + index}.0.0/16`),
    ...Array.from({ length: 16 }, (_, index) => `172.${16 + index}.0.0/16`),
    ...Array.from({ length: 256 }, (_, index) => `192.168.${255 - index}.0/24`),
  ];
  return candidates
    .map((text) => parseSubnet(text) as Subnet)
    .find((subnet) => !used.some((other) => overlap(subnet, other)));
}

/**
 * A private IPv6 subnet that most likely nobody else has, RFC 4193: 40 bits of a hash of `seed`, which names this host
 * and a bridge. The same seed gives the same subnet.
 */
export function localSubnet(seed: string): Subnet {
  // run.ts loads this file, and seldom needs a hash
  const { createHash } = createRequire(import.meta.url)('node:crypto') as typeof import('node:crypto');
  const bits = createHash('sha256').update(seed).digest('hex').slice(0, 10);
  return { version: 6, first: BigInt(`0xfd${bits}0000`) << 64n, prefix: 64 };
}

/** A port of the host that is forwarded to a port of a container. */
export interface Port {
  /** the address of the host; undefined: all */
  host: string | undefined;
  hostPort: number;
  port: number;
  protocol: 'tcp' | 'udp';
}

/** Reads [IP:]HOSTPORT:PORT[/tcp|/udp], an IPv6 address in brackets. Throws UsageError for any other text. */
export function parsePort(text: string): Port {
  const [, host, hostPort = '', port = '', protocol = 'tcp'] =
    /^(?:(\[[^\]]+\]|[\d.]+):)?(\d{1,5}):(\d{1,5})(?:\/(tcp|udp))?$/.exec(text) ?? [];
  const address = host?.replace(/^\[|\]$/g, '');
  const inRange = [hostPort, port].every((word) => Number(word) >= 1 && Number(word) <= 65535);
  if (!inRange || (address !== undefined && !parseAddress(address)))
    throw new UsageError(`a port is [IP:]HOSTPORT:PORT[/udp], as 8080:80, not ${text}`);
  return {
    host: address === '0.0.0.0' || address === '::' ? undefined : address,
    hostPort: Number(hostPort),
    port: Number(port),
    protocol: protocol as 'tcp' | 'udp',
  };
}

/** The text that parsePort reads. */
export const formatPort = ({ host, hostPort, port, protocol }: Port) =>
  [
    ...(host === undefined ? [] : [host.includes(':') ? `[${host}]` : host]),
    `${hostPort}:${port}${protocol === 'udp' ? '/udp' : ''}`,
  ].join(':');

/** The URL of a published port, as a client on this host types it: http or https only for usual ports of web servers. */
export function publishedUrl({ host = '127.0.0.1', hostPort, port, protocol }: Port): string {
  const web = [80, 8080, 8000, 3000].includes(port) ? 'http' : port === 443 ? 'https' : 'tcp';
  const address = host.includes(':') ? `[${host}]` : host;
  return `${protocol === 'udp' ? 'udp' : web}://${address}:${hostPort}`;
}
