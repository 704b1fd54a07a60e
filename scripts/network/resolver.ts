// The name servers of this host, resolv.conf(5).
import { existsSync, readFileSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';

/** The addresses of the name servers in a resolv.conf(5). */
export const serversIn = (text: string): string[] =>
  [...text.matchAll(/^[ \t]*nameserver[ \t]+(\S+)/gm)].map(([, server = '']) => server);

/**
 * The text of the host's /etc/resolv.conf. If that names systemd-resolved on the loopback, the file with the name servers
 * that systemd-resolved asks: systemd-resolved.service(8).
 */
export function readResolver(): string {
  const read = (file: string) => attempt(() => readFileSync(file, 'utf8')) ?? '';
  const text = read('/etc/resolv.conf');
  const upstream = '/run/systemd/resolve/resolv.conf';
  const isStub = serversIn(text).some((server) => server.startsWith('127.0.0.5'));
  return isStub && existsSync(upstream) ? read(upstream) : text;
}

/** The host's name servers that a container can reach, which are those not on the host's loopback; and search domains. */
export function readNameservers(): { nameservers: string[]; search: string[] } {
  const isLoopback = (server: string) => /^127\.|^::1$|%/.test(server);
  const text = readResolver();
  const search = [...text.matchAll(/^[ \t]*search[ \t]+(.*)$/gm)].at(-1)?.[1]?.trim().split(/\s+/) ?? [];
  return { nameservers: serversIn(text).filter((server) => !isLoopback(server)), search };
}

/** The lines of a resolv.conf(5). */
export const resolverLines = (nameservers: string[], search: string[]) => [
  ...nameservers.map((server) => `nameserver ${server}`),
  ...(search.length > 0 ? [`search ${search.join(' ')}`] : []),
];
