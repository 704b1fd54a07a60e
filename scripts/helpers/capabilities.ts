// The names of capabilities(7), in the kernel's order, and who has one.
import { hasBit, statusField } from './pids.ts';

/** All capabilities up to kernel 6.x, in the order of linux/capability.h: the index is the bit. */
export const capabilities =
  `chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
   net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin
   sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override
   mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore`.split(/\s+/);

/** The names of the bits that are set in a mask of /proc/PID/status; a bit without a name is its number. */
export const capabilitiesIn = (mask: string): string[] =>
  Array.from({ length: 64 }, (_, bit) => bit).flatMap((bit) =>
    hasBit(mask, bit) ? (capabilities[bit] ?? String(bit)) : [],
  );

/** The options of setpriv(1) that limit a command to these capabilities: execve(2) gives root all of the bounding set. */
export const boundingOptions = (names: string[]): string[] => [
  '--inh-caps=-all',
  `--bounding-set=-all${names.map((name) => `,+${name}`).join('')}`,
];

/** Whether a process has a capability: now (`CapEff`), or may ever get it (`CapBnd`). See proc(5). */
export const hasCapability = (pid: number | 'self', set: 'CapEff' | 'CapBnd', name: string): boolean =>
  hasBit(statusField(pid, set), capabilities.indexOf(name));
