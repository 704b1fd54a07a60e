// The capabilities that a container keeps, capabilities(7).
import { capabilities } from '../helpers/capabilities.ts';
import { UsageError } from '../helpers/cli.ts';
import { didYouMean } from '../helpers/messages.ts';

/** Capabilities that Docker keeps by default. */
export const defaultCapabilities =
  `chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service
   net_raw sys_chroot mknod audit_write setfcap`.split(/\s+/);

/** Parses names such as `NET_ADMIN`, `cap_net_admin,sys_time` or `ALL`. Throws UsageError for an unknown name. */
export function parseCapabilities(text: string): string[] {
  return text.split(',').flatMap((word) => {
    const name = word.toLowerCase().replace(/^cap_/, '');
    if (name === 'all') return capabilities;
    if (!capabilities.includes(name))
      throw new UsageError(
        `no such capability: ${word}${didYouMean(name, capabilities) || ': see capabilities(7)'}`,
      );
    return [name];
  });
}

/**
 * The capabilities to keep, by Docker's rules. With `--cap-add ALL`: all except the dropped ones. Otherwise: the added
 * ones, and the default ones except the dropped ones.
 */
export function keptCapabilities(add: string[], drop: string[]): string[] {
  const all = capabilities.every((name) => add.includes(name));
  const base = (all ? capabilities : defaultCapabilities).filter((name) => !drop.includes(name));
  return capabilities.filter((name) => base.includes(name) || (!all && add.includes(name)));
}
