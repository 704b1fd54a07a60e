// Names of capabilities(7), in the kernel's order, and those that a container keeps.
import { UsageError } from '../helpers/cli.ts';

/** All capabilities up to kernel 6.x, in the order of linux/capability.h: the index is the bit. */
export const capabilities =
  `chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
   net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin
   sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override
   mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore`.split(/\s+/);

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
