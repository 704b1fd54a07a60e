// The seccomp filter of a container: the system calls that Docker's default profile denies, as a BPF program for
// seccomp(2), and the program of the host that loads it.
import { readFileSync } from 'node:fs';

/**
 * Calls that a container may make only with a capability. Those of `numbers` that are not here are always denied.
 * This is moby's default profile of 2026, the other way round: there, what is allowed is listed.
 */
const lifted: Record<string, string> = {
  dac_read_search: 'open_by_handle_at',
  sys_module: 'init_module finit_module delete_module',
  sys_rawio: 'iopl ioperm',
  sys_chroot: 'chroot',
  sys_ptrace: 'kcmp pidfd_getfd process_madvise',
  sys_pacct: 'acct',
  sys_admin: `bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
    lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd
    setdomainname sethostname setns syslog umount2 unshare`,
  sys_boot: 'reboot',
  sys_nice: 'get_mempolicy mbind set_mempolicy set_mempolicy_home_node',
  sys_time: 'clock_settime settimeofday',
  sys_tty_config: 'vhangup',
  syslog: 'syslog',
  perfmon: 'perf_event_open',
  bpf: 'bpf',
};

/** Every call that is denied to some container, with its number on x86-64 and on arm64. */
const numbers = `
  _sysctl 156 -, acct 163 89, add_key 248 217, afs_syscall 183 -, bpf 321 280, chroot 161 51, clock_settime 227 112,
  clone 56 220, clone3 435 435, create_module 174 -, delete_module 176 106, fanotify_init 300 262,
  finit_module 313 273, fsconfig 431 431, fsmount 432 432, fsopen 430 430, fspick 433 433, get_kernel_syms 177 -,
  get_mempolicy 239 236, getpmsg 181 -, init_module 175 105, io_uring_enter 426 426, io_uring_register 427 427,
  io_uring_setup 425 425, ioperm 173 -, iopl 172 -, kcmp 312 272, kexec_file_load 320 294, kexec_load 246 104,
  keyctl 250 219, lookup_dcookie 212 18, lsm_get_self_attr 459 459, lsm_list_modules 461 461,
  lsm_set_self_attr 460 460, mbind 237 235, migrate_pages 256 238, mount 165 40, mount_setattr 442 442,
  move_mount 429 429, move_pages 279 239, nfsservctl 180 42, open_by_handle_at 304 265, open_tree 428 428,
  perf_event_open 298 241, personality 135 92, pidfd_getfd 438 438, pivot_root 155 41, process_madvise 440 440,
  putpmsg 182 -, query_module 178 -, quotactl 179 60, quotactl_fd 443 443, reboot 169 142, request_key 249 218,
  security 185 -, set_mempolicy 238 237, set_mempolicy_home_node 450 450, setdomainname 171 162,
  sethostname 170 161, setns 308 268, settimeofday 164 170, socket 41 198, swapoff 168 225, swapon 167 224,
  sysfs 139 -, syslog 103 116, tuxcall 184 -, umount2 166 39, unshare 272 97, uselib 134 -, userfaultfd 323 282,
  ustat 136 -, vhangup 153 58, vserver 236 -`;

/** Where an architecture's numbers are in the table, its name in linux/audit.h, and numbers that no call has yet. */
const architectures: Record<string, { column: number; audit: number; unknown: string }> = {
  x64: { column: 1, audit: 0xc000003e, unknown: '336-423 467-' },
  arm64: { column: 2, audit: 0xc00000b7, unknown: '244-259 295-423 467-' },
};

/** One instruction, struct sock_filter of linux/filter.h. */
type Instruction = [code: number, ifTrue: number, ifFalse: number, value: number];
/** Instructions that come to an answer. */
type Code = Instruction[];

/** Loads a word of struct seccomp_data, seccomp(2): 0 the call's number, 4 the architecture, 16 its first argument. */
const load = (offset: number): Instruction => [0x20, 0, 0, offset];
const answer = (value: number): Code => [[0x06, 0, 0, value]];
const allow = answer(0x7fff0000);
const EPERM = answer(0x00050000 | 1);
const ENOSYS = answer(0x00050000 | 38);

/** Numbers from one to another, and the code for them. */
type Span = [first: number, last: number, code: Code];

/** Parses `0-11 13 467-` into spans. */
const spans = (text: string, code: Code): Span[] =>
  text.split(' ').map((word) => {
    const [first, last = first] = word.split('-');
    return [Number(first), last === '' ? 0xffffffff : Number(last), code];
  });

/** Code for the number that is loaded: that of its span, or `otherwise`. A binary search, since this is for each call. */
function choose(among: Span[], otherwise: Code): Code {
  const rows: [from: number, code: Code][] = [];
  const row = (from: number, code: Code) => {
    if (rows.at(-1)?.[1] !== code) rows.push([from, code]);
  };
  let next = 0;
  for (const [first, last, code] of among.toSorted((a, b) => a[0] - b[0])) {
    if (first > next) row(next, otherwise);
    row(first, code);
    next = last + 1;
  }
  if (next <= 0xffffffff) row(next, otherwise);
  const search = (part: typeof rows): Code => {
    const middle = part.length >> 1;
    const [from, code] = part[middle] as [number, Code];
    if (middle === 0) return code;
    const below = search(part.slice(0, middle));
    return [[0x35, below.length, 0, from], ...below, ...search(part.slice(middle))];
  };
  return search(rows);
}

/** What is asked of a call's first argument. The kernel, too, looks at the lower half of these only. */
const argument = (allowed: string): Code => [load(16), ...choose(spans(allowed, allow), EPERM)];

/** Calls that are not simply denied. */
const special: Record<string, Code> = {
  // CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET
  clone: [load(16), [0x45, 0, 1, 0x7e020000], ...EPERM, ...allow],
  // its flags are in memory, where no filter can look; without it libc uses clone(2)
  clone3: ENOSYS,
  // Linux and Linux32, each also without randomised addresses; 0xffffffff asks
  personality: argument('0 8 131072 131080 4294967295'),
  // not AF_ALG, AF_VSOCK, nor families that kernels have no more, or not yet
  socket: argument('0-11 13-18 21-22 24 26-33 35-36 39 41-45'),
};

/**
 * The filter for a container that keeps these capabilities: an array of struct sock_filter, or undefined for an
 * architecture that the table doesn't know (`architecture` is process.arch).
 *
 * What Docker's default profile denies is EPERM here too, and a number that it doesn't know ENOSYS, as runc has it, so
 * that programs fall back to what there was before. Unlike there, 32-bit and x32 programs don't work: ENOSYS is the
 * answer to each of their calls.
 */
export function seccompFilter(architecture: string, capabilities: string[]): Buffer | undefined {
  const table = architectures[architecture];
  if (!table) return undefined;
  const mayCall = new Set(capabilities.flatMap((name) => lifted[name]?.split(/\s+/) ?? []));
  const denied = numbers
    .split(',')
    .map((row) => row.trim().split(' '))
    .filter(([name = '', ...columns]) => columns[table.column - 1] !== '-' && !mayCall.has(name))
    .map((row): Span => {
      const number = Number(row[table.column]);
      return [number, number, special[row[0] as string] ?? EPERM];
    });
  const program: Code = [
    load(4),
    [0x15, 1, 0, table.audit],
    ...ENOSYS,
    load(0),
    ...choose([...denied, ...spans(table.unknown, ENOSYS)], allow),
  ];
  const filter = Buffer.alloc(program.length * 8);
  for (const [index, [code, ifTrue, ifFalse, value]] of program.entries()) {
    filter.writeUInt16LE(code, index * 8);
    filter.writeUInt8(ifTrue, index * 8 + 2);
    filter.writeUInt8(ifFalse, index * 8 + 3);
    filter.writeUInt32LE(value, index * 8 + 4);
  }
  return filter;
}

/** How a launch loads a filter. */
export interface SeccompLoader {
  /** what goes before the command; where there is a `file`, options of setpriv(1) */
  words: string[];
  /** what setpriv(1) is to find at the path that was given */
  file?: Buffer;
}

/** The number of prctl(2), which perl has no other way to call. */
const prctl: Record<string, number> = { x64: 157, arm64: 167 };

/** The number of keyctl(2). */
const keyctl: Record<string, number> = { x64: 250, arm64: 219 };

/** prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, struct sock_fprog *), then execvp(3), with env(1)'s exit codes. */
const perlProgram = (
  architecture: string,
) => `syscall(${keyctl[architecture]}, 1, 0); # keyrings(7): a session keyring that is not the caller's
my $filter = pack "H*", shift;
my $fprog = pack "S x6 P", length($filter) / 8, $filter;
if (syscall(${prctl[architecture]}, 22, 2, $fprog, 0, 0) != 0) {
  print STDERR "run: cannot load the seccomp filter: $!\\n";
  exit 125;
}
exec { $ARGV[0] } @ARGV;
print STDERR "run: $ARGV[0]: $!\\n";
exit($! == 2 ? 127 : 126);`;

/** The same. Python ignores two signals, which the command would inherit. It may also set LC_CTYPE. */
const pythonProgram = `import os, signal, sys
try:
    import ctypes, struct
    code = ctypes.create_string_buffer(bytes.fromhex(sys.argv[1]))
    fprog = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code))
    if ctypes.CDLL(None, use_errno=True).prctl(22, ctypes.c_ulong(2), fprog, 0, 0) != 0:
        raise RuntimeError(os.strerror(ctypes.get_errno()))
except Exception as error:
    print("run: cannot load the seccomp filter:", error, file=sys.stderr)
    sys.exit(125)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print("run: " + sys.argv[2] + ": " + error.strerror, file=sys.stderr)
    sys.exit(127 if error.errno == 2 else 126)`;

/**
 * How this host loads a filter, or undefined where it has nothing that does. In any case `setpriv OPTION... WORDS
 * COMMAND` loads it and becomes COMMAND. The kernel asks for no_new_privs or CAP_SYS_ADMIN, seccomp(2). `find` says
 * where a program is, as findProgram does; it should not follow PATH, for a wrapper of python's looks at the working
 * directory. `path` is where setpriv(1) is to find the filter, such as /proc/self/fd/5; without it that one isn't used.
 *
 * A setpriv(1) of util-linux 2.41 or later needs nothing else, and always sets no_new_privs with it. Then perl(1):
 * perl-base is enough, in 2 ms. Then python, which needs 12 ms and ctypes. Neither heeds the caller's variables that
 * would have it load more. Where the kernel refuses, perl and python exit with 125, setpriv(1) with 127.
 */
export function seccompLoader(
  architecture: string,
  filter: Buffer,
  find: (program: string) => string | undefined,
  path?: string,
): SeccompLoader | undefined {
  const setpriv = find('setpriv');
  // asking it for --help would take as long as a loader does
  if (path && setpriv && readFileSync(setpriv).includes('--seccomp-filter'))
    return { words: ['--seccomp-filter', path], file: filter };
  const perl = find('perl');
  if (perl && prctl[architecture]) {
    const unset = ['PERL5OPT', 'PERL5LIB', 'PERLLIB', 'PERL_UNICODE'].flatMap((name) => ['-u', name]);
    return { words: ['env', ...unset, perl, '-e', perlProgram(architecture), filter.toString('hex')] };
  }
  const python = find('python3');
  return python ? { words: [python, '-I', '-S', '-c', pythonProgram, filter.toString('hex')] } : undefined;
}

/** Bytes as a format of printf(1): what a shell can write to the file that a loader reads. */
export const printfFormat = (bytes: Buffer) => Array.from(bytes, (byte) => `\\${byte.toString(8)}`).join('');
