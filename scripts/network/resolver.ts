// The host's own resolv.conf(5), and what it says.
import { existsSync, readFileSync } from 'node:fs';
import { attempt } from '../helpers/pids.ts';

/** The addresses of the name servers in a resolv.conf(5). */
export const serversIn = (text: string): string[] =>
  [...text.matchAll(/^[ \t]*nameserver[ \t]+(\S+)/gm)].map(([, server = '']) => server);

/**
 * What this host's /etc/resolv.conf says; where that leads to systemd-resolved on the loopback, what that one asks
 * itself: systemd-resolved.service(8).
 */
export function readResolver(): string {
  const read = (file: string) => attempt(() => readFileSync(file, 'utf8')) ?? '';
  const text = read('/etc/resolv.conf');
  const upstream = '/run/systemd/resolve/resolv.conf';
  const isStub = serversIn(text).some((server) => server.startsWith('127.0.0.5'));
  return isStub && existsSync(upstream) ? read(upstream) : text;
}
