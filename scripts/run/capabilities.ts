// The capabilities(7) that a container keeps.
import { capabilities } from '../helpers/capabilities.ts';
import { UsageError } from '../helpers/cli.ts';

/** Capabilities that Docker keeps by default. */
export const defaultCapabilities =
  `chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service
   net_raw sys_chroot mknod audit_write setfcap`.split(/\s+/);

/** Parses `NET_ADMIN`, `cap_net_admin,sys_time` or `ALL` into the table's names. Throws UsageError for others. */
export function parseCapabilities(text: string): string[] {
  return text.split(',').flatMap((word) => {
    const name = word.toLowerCase().replace(/^cap_/, '');
    if (name === 'all') return capabilities;
    if (!capabilities.includes(name))
      throw new UsageError(`no such capability: ${word}: see capabilities(7)`);
    return [name];
  });
}

/** The capabilities to keep, as in Docker: added ones stay, unless `--cap-add ALL` is given, less those that are dropped. */
export function keptCapabilities(add: string[], drop: string[]): string[] {
  const all = capabilities.every((name) => add.includes(name));
  return capabilities.filter((name) => {
    if (all || !add.includes(name))
      return (all || defaultCapabilities.includes(name)) && !drop.includes(name);
    return true;
  });
}
