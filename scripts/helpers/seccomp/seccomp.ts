// The seccomp filter of a container: the system calls that Docker's default profile denies, as words that people can
// read, as a BPF program for seccomp(2), and as the program of the host that loads it.
import { readFileSync } from 'node:fs';
import { embedded } from '../embedded.ts';
import { callNumber, callWords, numberedArchitectures } from '../system-calls.ts';

// This is moby's default profile of 2026, the other way round: there, what is allowed is listed.

/** Calls that no container may make. */
const denied = `_sysctl add_key afs_syscall clone3 create_module get_kernel_syms getpmsg io_uring_enter
  io_uring_register io_uring_setup kexec_file_load kexec_load keyctl migrate_pages move_pages nfsservctl personality
  pivot_root putpmsg query_module request_key security socket swapoff swapon sysfs tuxcall uselib userfaultfd ustat
  vserver`;

/** Calls that a container may make only with a capability. */
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

/** Calls that are not simply denied, as the end of their rule, see seccompRules. */
const conditions: Record<string, string> = {
  // CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET
  clone: `&${0x7e020000}`,
  // its flags are in memory, where no filter can look; without it libc uses clone(2)
  clone3: '=ENOSYS',
  // Linux and Linux32, each also without randomised addresses; 0xffffffff asks
  personality: `!0,8,${0x20000},${0x20008},${0xffffffff}`,
  // not AF_ALG, AF_VSOCK, nor families that kernels have no more, or not yet
  socket: '!0-11,13-18,21-22,24,26-33,35-36,39,41-45',
};

/** An architecture's name in linux/audit.h, and numbers that no call has yet. */
const architectures: Record<string, { audit: number; unassigned: string[] }> = {
  x64: { audit: 0xc000003e, unassigned: ['336-423', '467-'] },
  arm64: { audit: 0xc00000b7, unassigned: ['244-259', '295-423', '467-'] },
};

const words = (text: string) => text.split(/\s+/);

/** The names of the calls that a container with these capabilities may not make, or not in every way, sorted. */
export function deniedCalls(architecture: string, capabilities: string[]): string[] {
  const mayCall = new Set(capabilities.flatMap((name) => words(lifted[name] ?? '')));
  const names = new Set([denied, ...Object.values(lifted)].flatMap(words));
  return [...names]
    .filter((name) => !mayCall.has(name) && callNumber(architecture, name) !== undefined)
    .sort();
}

/**
 * The filter for a container that keeps these capabilities, in words; undefined for an architecture whose numbers are
 * not known (`architecture` is process.arch). The first word is the architecture, each of the others a rule:
 *
 *     mount:165                EPERM
 *     clone3:435=ENOSYS        that error
 *     unassigned:467-=ENOSYS   the same for all numbers from 467 on
 *     clone:56&2114060288      EPERM where the first argument has one of these bits
 *     personality:135!0,8      EPERM where the first argument is none of these
 *
 * What Docker's default profile denies is EPERM here too, and a number that it doesn't know ENOSYS, as runc has it, so
 * that programs fall back to what there was before. Unlike there, 32-bit and x32 programs don't work: ENOSYS is the
 * answer to each of their calls.
 */
export function seccompRules(architecture: string, capabilities: string[]): string[] | undefined {
  const { audit, unassigned } = architectures[architecture] ?? {};
  if (!unassigned) return undefined;
  const rules = deniedCalls(architecture, capabilities).map(
    (name) => `${name}:${callNumber(architecture, name)}${conditions[name] ?? ''}`,
  );
  return [`audit:${audit}`, ...rules, ...unassigned.map((numbers) => `unassigned:${numbers}=ENOSYS`)];
}

/** One instruction, struct sock_filter of linux/filter.h. */
type Instruction = [code: number, ifTrue: number, ifFalse: number, value: number];

/** Loads a word of struct seccomp_data, seccomp(2): 0 the call's number, 4 the architecture, 16 its first argument. */
const load = (offset: number): Instruction => [0x20, 0, 0, offset];
const answer = (value: number): Instruction => [0x06, 0, 0, value];
const allow = answer(0x7fff0000);
const EPERM = answer(0x00050000 | 1);
const ENOSYS = answer(0x00050000 | 38);

/** Code that runs for the loaded values `31`, `0-11` or `467-`, and is passed over for others. */
function within(span: string, code: Instruction[]): Instruction[] {
  const [first = '', last = first] = span.split('-');
  if (last === first) return [[0x15, 0, code.length, Number(first)], ...code];
  const most = last === '' ? 0xffffffff : Number(last);
  return [[0x35, 0, code.length + 1, Number(first)], [0x25, code.length, 0, most], ...code];
}

/** What one rule does. The kernel, too, looks only at the lower half of the arguments that are asked about. */
function ruleCode(rule: string): Instruction[] {
  const [, numbers = '', mask, values, error] =
    /^\w+:([\d-]+)(?:&(\d+)|!([\d,-]+)|(=ENOSYS))?$/.exec(rule) ?? [];
  if (mask) return within(numbers, [load(16), [0x45, 0, 1, Number(mask)], EPERM, allow]);
  if (values)
    return within(numbers, [load(16), ...values.split(',').flatMap((span) => within(span, [allow])), EPERM]);
  return within(numbers, [error ? ENOSYS : EPERM]);
}

/** The rules of seccompRules as an array of struct sock_filter. calls.pl and calls.py make the same of them. */
export function seccompFilter([audit = '', ...rules]: string[]): Buffer {
  const program = [
    load(4),
    [0x15, 1, 0, Number(audit.split(':')[1])] as Instruction,
    ENOSYS,
    load(0),
    ...rules.flatMap(ruleCode),
    allow,
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

/** What every program of these begins with: system calls, filters, becoming a command. In perl and in python. */
export const callsPerl = embedded(import.meta.url, './calls.pl');
export const callsPython = embedded(import.meta.url, './calls.py');

/** load.pl and load.py with all that they need: they take `run`, numbers, `--`, rules, `--` and a command. */
export const loadPerl = `${callsPerl}\n${embedded(import.meta.url, './load.pl')}`;
export const loadPython = `${callsPython}\n${embedded(import.meta.url, './load.py')}`;

/** What has perl(1) run a text, whatever variables of the caller's would have it load besides. */
export const perlWords = (perl: string, text: string) => {
  const unset = ['PERL5OPT', 'PERL5LIB', 'PERLLIB', 'PERL_UNICODE'].flatMap((name) => ['-u', name]);
  return ['env', ...unset, perl, '-e', text, '--'];
};

/** The same for python3: nothing of the caller's variables, directory or packages. */
export const pythonWords = (python: string, text: string) => [python, '-I', '-S', '-c', text];

/** How a launch loads a filter. */
export interface SeccompLoader {
  /** what goes before the command; where there is a `file`, options of setpriv(1) */
  words: string[];
  /** what setpriv(1) is to find at the path that was given */
  file?: Buffer;
}

/**
 * How this host loads a filter of seccompRules, or undefined where it has nothing that does. In any case `setpriv
 * OPTION... WORDS COMMAND` loads it and becomes COMMAND. The kernel asks for no_new_privs or CAP_SYS_ADMIN, seccomp(2).
 * `find` says where a program is, as findProgram does; it should not follow PATH, for a wrapper of python's looks at the
 * working directory. `path` is where setpriv(1) is to find the filter, such as /proc/self/fd/5; without it that one
 * isn't used.
 *
 * A setpriv(1) of util-linux 2.41 or later needs nothing else, and always sets no_new_privs with it. Then perl(1):
 * perl-base is enough, in 2 ms. Then python, which needs 12 ms and ctypes. Neither heeds the caller's variables that
 * would have it load more. Where the kernel refuses, perl and python exit with 125, setpriv(1) with 127.
 */
export function seccompLoader(
  architecture: string,
  rules: string[],
  find: (program: string) => string | undefined,
  path?: string,
): SeccompLoader | undefined {
  const setpriv = find('setpriv');
  // asking it for --help would take as long as a loader does
  if (path && setpriv && readFileSync(setpriv).includes('--seccomp-filter'))
    return { words: ['--seccomp-filter', path], file: seccompFilter(rules) };
  if (!numberedArchitectures.includes(architecture)) return undefined;
  const parameters = ['run', ...callWords(architecture, ['keyctl', 'prctl']), '--', ...rules, '--'];
  const perl = find('perl');
  if (perl) return { words: [...perlWords(perl, loadPerl), ...parameters] };
  const python = find('python3');
  return python ? { words: [...pythonWords(python, loadPython), ...parameters] } : undefined;
}
