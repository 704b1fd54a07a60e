// System calls by number: the one table of them.

/** The numbers of system calls on x86-64 and on arm64, as in asm/unistd.h; `-`: there is no such call. */
const table = `
  _sysctl 156 -, acct 163 89, add_key 248 217, afs_syscall 183 -, bpf 321 280, capset 126 91, chroot 161 51,
  clock_settime 227 112, clone 56 220, clone3 435 435, create_module 174 -, delete_module 176 106,
  fanotify_init 300 262, finit_module 313 273, fsconfig 431 431, fsmount 432 432, fsopen 430 430, fspick 433 433,
  get_kernel_syms 177 -, get_mempolicy 239 236, getpmsg 181 -, init_module 175 105, io_uring_enter 426 426,
  io_uring_register 427 427, io_uring_setup 425 425, ioperm 173 -, iopl 172 -, kcmp 312 272, kexec_file_load 320 294,
  kexec_load 246 104, keyctl 250 219, lookup_dcookie 212 18, lsm_get_self_attr 459 459, lsm_list_modules 461 461,
  lsm_set_self_attr 460 460, mbind 237 235, migrate_pages 256 238, mount 165 40, mount_setattr 442 442,
  move_mount 429 429, move_pages 279 239, nfsservctl 180 42, open_by_handle_at 304 265, open_tree 428 428,
  perf_event_open 298 241, personality 135 92, pidfd_getfd 438 438, pivot_root 155 41, prctl 157 167,
  prlimit64 302 261, process_madvise 440 440, putpmsg 182 -, query_module 178 -, quotactl 179 60, quotactl_fd 443 443,
  reboot 169 142, request_key 249 218, security 185 -, set_mempolicy 238 237, set_mempolicy_home_node 450 450,
  setdomainname 171 162, setgroups 116 159, sethostname 170 161, setns 308 268, setresgid 119 149, setresuid 117 147,
  setsid 112 157, settimeofday 164 170, socket 41 198, swapoff 168 225, swapon 167 224, sysfs 139 -, syslog 103 116,
  tuxcall 184 -, umount2 166 39, unshare 272 97, uselib 134 -, userfaultfd 323 282, ustat 136 -, vhangup 153 58,
  vserver 236 -`;

const columns: Record<string, number> = { x64: 1, arm64: 2 };

/** The processors whose numbers are known, as process.arch calls them. */
export const numberedArchitectures = Object.keys(columns);

const rows = new Map(table.split(',').map((row) => [/\w+/.exec(row)?.[0] ?? '', row.trim().split(' ')]));

/** The number of a system call, or undefined where this processor has no such call. Throws for an unknown name. */
export function callNumber(architecture: string, name: string): number | undefined {
  const row = rows.get(name);
  if (!row) throw new Error(`no system call ${name} in the table`);
  const number = Number(row[columns[architecture] ?? 0]);
  return Number.isNaN(number) ? undefined : number;
}

/** The words that tell a program of another language these calls' numbers: `setns:308`. */
export const callWords = (architecture: string, names: string[]) =>
  names.map((name) => `${name}:${callNumber(architecture, name)}`);
