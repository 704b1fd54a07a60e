import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { capabilities } from '../scripts/helpers/capabilities.ts';
import {
  callsPerl,
  callsPython,
  deniedCalls,
  perlWords,
  pythonWords,
  seccompFilter,
  seccompLoader,
  seccompRules,
} from '../scripts/helpers/seccomp/seccomp.ts';
import { findProgram, systemDirectories } from '../scripts/helpers/shell.ts';
import { callTables } from '../scripts/helpers/system-calls.ts';
import { defaultCapabilities } from '../scripts/run/capabilities.ts';
import { scratchFolder } from './helpers/leftovers.ts';
import { needs } from './helpers/needs.ts';
import { execute } from './helpers/script.ts';

/** Runs a filter as the kernel does, for one call; the answer in words. */
function verdict(filter: Buffer, number: number, { audit = 0xc000003e, argument = 0n } = {}): string {
  const data = Buffer.alloc(64); // struct seccomp_data
  data.writeUInt32LE(number, 0);
  data.writeUInt32LE(audit, 4);
  data.writeBigUInt64LE(argument, 16);
  for (let at = 0, word = 0; ; at += 8) {
    const value = filter.readUInt32LE(at + 4);
    const jump = (taken: boolean) => filter[at + (taken ? 2 : 3)] as number;
    const code = filter.readUInt16LE(at);
    if (code === 0x20) word = data.readUInt32LE(value);
    else if (code === 0x15) at += 8 * jump(word === value);
    else if (code === 0x35) at += 8 * jump(word >= value);
    else if (code === 0x25) at += 8 * jump(word > value);
    else if (code === 0x45) at += 8 * jump((word & value) !== 0);
    else {
      assert.equal(code, 0x06);
      return { 2147418112: 'allow', 327681: 'EPERM', 327718: 'ENOSYS' }[value] ?? `${value}`;
    }
  }
}

const rulesFor = (architecture: string, kept: string[]) => seccompRules(architecture, kept) as string[];
const make = (architecture: string, kept: string[]) => seccompFilter(rulesFor(architecture, kept));
const rules = rulesFor('x64', defaultCapabilities);
const filter = seccompFilter(rules);
const words = (text: string) => text.trim().split(/\s+/);

/** What Docker's default profile denies with all capabilities, and what else with those that are the default. */
const denied = {
  always:
    words(`_sysctl add_key afs_syscall create_module get_kernel_syms getpmsg io_uring_enter io_uring_register
    io_uring_setup kexec_file_load kexec_load keyctl migrate_pages move_pages nfsservctl pivot_root putpmsg
    query_module request_key security swapoff swapon sysfs tuxcall uselib userfaultfd ustat vserver`),
  byDefault:
    words(`acct bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
    get_mempolicy init_module ioperm iopl kcmp lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr
    mbind mount mount_setattr move_mount open_by_handle_at open_tree perf_event_open pidfd_getfd process_madvise
    quotactl quotactl_fd reboot set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday
    syslog umount2 unshare vhangup`),
};

/** The architectures, and where Debian's linux-libc-dev has their numbers: from 6.12 on, and before. */
const headers = {
  x64: {
    audit: 0xc000003e,
    files: ['/usr/lib/linux/uapi/x86/asm/unistd_64.h', '/usr/include/x86_64-linux-gnu/asm/unistd_64.h'],
  },
  arm64: {
    audit: 0xc00000b7,
    files: ['/usr/lib/linux/uapi/arm64/asm/unistd_64.h', '/usr/include/asm-generic/unistd.h'],
  },
};

for (const [architecture, { audit, files }] of Object.entries(headers)) {
  const header = files.find((file) => existsSync(file));
  const skip = header === undefined && 'needs linux-libc-dev';
  test(`on ${architecture} the filter denies what Docker's does, and no other call of the kernel's headers`, {
    skip,
  }, () => {
    const text = readFileSync(header as string, 'utf8').replace(
      /^#if defined\(__SYSCALL_COMPAT\) \|\| __BITS_PER_LONG == 32$.*?^#endif$/gms, // 32-bit ones
      '',
    );
    const numbers = [...text.matchAll(/^#define __NR(?:3264)?_(\w+)\s+(\d+)$/gm)]
      .map(([, name = '', number]): [string, number] => [name, Number(number)])
      .filter(([name]) => !['syscalls', 'arch_specific_syscall'].includes(name));
    assert.ok(numbers.length > 300, header);
    const isKnown = (name: string) => numbers.some(([known]) => known === name);

    const among = (kept: string[], answer: string) =>
      numbers.filter(([, number]) => verdict(make(architecture, kept), number, { audit }) === answer);
    const names = (rows: [string, number][]) => rows.map(([name]) => name).sort();
    const { always, byDefault } = denied;
    assert.deepEqual(names(among(capabilities, 'EPERM')), always.filter(isKnown).sort());
    assert.deepEqual(
      names(among(defaultCapabilities, 'EPERM')),
      [...always, ...byDefault].filter(isKnown).sort(),
    );
    // 467 is the first that the profile doesn't know; uprobe is behind the numbers of x86-64's own
    const isNew = ([name, number]: [string, number]) => number >= 467 || name === 'uprobe';
    assert.deepEqual(among(capabilities, 'ENOSYS'), numbers.filter(isNew));
    assert.deepEqual(
      among(defaultCapabilities, 'ENOSYS'),
      numbers.filter((row) => isNew(row) || row[0] === 'clone3'),
    );
  });
}

test('a capability lifts the calls that are its own', () => {
  const lifts: [string, Record<string, number>][] = [
    ['dac_read_search', { open_by_handle_at: 304 }],
    ['sys_admin', { mount: 165, umount2: 166, unshare: 272, setns: 308, clone3: 435, bpf: 321, syslog: 103 }],
    ['sys_boot', { reboot: 169 }],
    ['sys_chroot', { chroot: 161 }],
    ['sys_module', { init_module: 175, finit_module: 313, delete_module: 176 }],
    ['sys_nice', { mbind: 237, set_mempolicy_home_node: 450 }],
    ['sys_pacct', { acct: 163 }],
    ['sys_ptrace', { kcmp: 312, pidfd_getfd: 438, process_madvise: 440 }],
    ['sys_rawio', { iopl: 172, ioperm: 173 }],
    ['sys_time', { settimeofday: 164, clock_settime: 227 }],
    ['sys_tty_config', { vhangup: 153 }],
    ['syslog', { syslog: 103 }],
    ['perfmon', { perf_event_open: 298 }],
    ['bpf', { bpf: 321 }],
  ];
  const without = make('x64', []);
  for (const [capability, calls] of lifts)
    for (const [name, number] of Object.entries(calls)) {
      assert.notEqual(verdict(without, number), 'allow', name);
      assert.equal(verdict(make('x64', [capability]), number), 'allow', `${name} with ${capability}`);
    }
});

test('of an argument the lower half decides, as for the kernel', () => {
  const cases: [number: number, argument: bigint, answer: string][] = [
    [41, 1n, 'allow'], // socket: AF_UNIX, AF_NETLINK, AF_ALG, AF_VSOCK
    [41, 16n, 'allow'],
    [41, 38n, 'EPERM'],
    [41, 40n, 'EPERM'],
    [41, 0x1_0000_0028n, 'EPERM'],
    [41, 46n, 'EPERM'],
    [41, 0xffff_ffffn, 'EPERM'],
    [135, 0n, 'allow'], // personality
    [135, 0x20008n, 'allow'],
    [135, 0xffff_ffffn, 'allow'],
    [135, 0x40000n, 'EPERM'],
    [135, 0xffff_fffen, 'EPERM'],
    [56, 0x0120_0011n, 'allow'], // clone: fork(3)'s, with one namespace, and with a stray bit above
    [56, 0x1000_0011n, 'EPERM'],
    [56, 0x1_0002_0011n, 'EPERM'],
    [56, 0x1_0000_0011n, 'allow'],
  ];
  for (const [number, argument, answer] of cases)
    assert.equal(verdict(filter, number, { argument }), answer, `${number}(${argument})`);
  assert.equal(verdict(make('x64', ['sys_admin']), 56, { argument: 0x1000_0011n }), 'allow');
});

test('what is unknown gives ENOSYS: a number, an architecture, x32', () => {
  for (const number of [350, 467, 1000, 0x40000000 + 39, 0xffffffff])
    assert.equal(verdict(filter, number), 'ENOSYS', `${number}`);
  for (const audit of [0x40000003, 0xc00000b7]) assert.equal(verdict(filter, 39, { audit }), 'ENOSYS');
  assert.equal(seccompRules('riscv64', []), undefined);
});

test('the names of what is denied are those of the rules', () => {
  const named = (kept: string[]) => deniedCalls('x64', kept);
  assert.ok(named(defaultCapabilities).includes('mount') && !named([...capabilities]).includes('mount'));
  assert.deepEqual(
    rules.map((rule) => rule.split(':')[0]),
    ['audit', ...named(defaultCapabilities), 'unassigned', 'unassigned'],
  );
  assert.ok(!deniedCalls('arm64', []).includes('iopl'), 'arm64 has no such call');
});

for (const [by, program, words, print] of [
  ['perl', callsPerl, perlWords, '\nprint unpack "H*", filter(list());'],
  ['python3', callsPython, pythonWords, '\nprint(make_filter(*take_list()).hex())'],
] as const)
  test(`${by} makes the same instructions of the rules`, { skip: needs(by) }, async () => {
    for (const architecture of ['x64', 'arm64'])
      for (const kept of [[], defaultCapabilities, capabilities]) {
        const argv = words(findProgram(by) as string, program + print);
        const given = rulesFor(architecture, kept);
        const { stdout, stderr } = await execute([...argv, 'test', '--', ...given, '--']);
        assert.deepEqual([stdout.trim(), stderr], [seccompFilter(given).toString('hex'), '']);

        // the same by name, with a table of numbers
        const named = given.map((rule) =>
          /^(audit|unassigned):/.test(rule) ? rule : rule.replace(/:\d+/, ''),
        );
        const table = (callTables[architecture] as string).trim().split(/\s+/);
        assert.equal(
          (await execute([...argv, 'test', ...table, '--', ...named, '--'])).stdout.trim(),
          stdout.trim(),
        );
        const unknown = await execute([...argv, 'test', ...table, '--', ...named, 'no_such_call', '--']);
        assert.notEqual(unknown.code, 0);
        assert.match(unknown.stderr, /no_such_call/);
      }
  });

// from here on the kernel runs the filter

const folder = scratchFolder('seccomp');

/** Whether this machine's setpriv(1) loads filters. */
const path = '/proc/self/fd/0';
const setprivLoads = seccompLoader('x64', rules, (name) => findProgram(name), path)?.file !== undefined;
const skip = process.arch === 'x64' ? needs('setpriv', 'perl') : 'needs x86-64';

/** Runs a command with a filter, loaded by one program of the host; through a shell that feeds setpriv(1). */
function filtered(
  command: string[],
  { by = 'perl', load = rules, options = ['--no-new-privs'], env = {} } = {},
) {
  const loader = seccompLoader('x64', load, (name) => (name === by ? findProgram(name) : undefined), path);
  assert.ok(loader, by);
  // it may be longer than an argument can be
  const file = join(folder, `filter-${by}`);
  writeFileSync(file, loader.file ?? '');
  const feed = ['sh', '-c', 'file=$1; shift; cat "$file" | "$@"', 'sh', file];
  return execute([...feed, 'setpriv', ...options, ...loader.words, ...command], {
    env: { ...process.env, ...env },
  });
}

/** Options of setpriv(1) for a user without capabilities. */
const nobody =
  process.getuid?.() === 0 ? ['--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all'] : [];

/** Makes one system call in perl: what becomes of it, as errno or 0. */
const callProgram =
  '$! = 0; my ($number, @words) = map { $_ + 0 } @ARGV; syscall($number, @words); print $! + 0';
const call = (...numbers: number[]) => ['perl', '-e', callProgram, ...numbers.map(String)];

// calls that the kernel refuses for what they are given, with other errors than EPERM, or that change nothing
const calls: Record<string, { call: number[]; errno: number; unfiltered: number[] }> = {
  'keyctl(KEYCTL_GET_KEYRING_ID, nothing)': { call: [250, 0, 0, 0], errno: 1, unfiltered: [22, 126] },
  'add_key(NULL)': { call: [248, 0, 0, 0, 0, 0], errno: 1, unfiltered: [14] },
  'bpf(-1)': { call: [321, -1, 0, 0], errno: 1, unfiltered: [22] },
  'userfaultfd(-1)': { call: [323, -1], errno: 1, unfiltered: [22] },
  'unshare(1)': { call: [272, 1], errno: 1, unfiltered: [22] },
  'setns(-1)': { call: [308, -1, 0], errno: 1, unfiltered: [9] },
  'mount(NULL)': { call: [165, 0, 0, 0, 0, 0], errno: 1, unfiltered: [14] },
  'pivot_root(NULL)': { call: [155, 0, 0], errno: 1, unfiltered: [14] },
  'swapon(NULL)': { call: [167, 0, 0], errno: 1, unfiltered: [14] },
  'reboot(0)': { call: [169, 0, 0, 0, 0], errno: 1, unfiltered: [22] },
  'io_uring_setup(0, NULL)': { call: [425, 0, 0], errno: 1, unfiltered: [14, 22] },
  'clone3(NULL, 0)': { call: [435, 0, 0], errno: 38, unfiltered: [22] },
  'clone(CLONE_NEWUSER and CLONE_FS)': { call: [56, 0x10000200, 0, 0, 0, 0], errno: 1, unfiltered: [22] },
  'clone(CLONE_THREAD alone)': { call: [56, 0x10000, 0, 0, 0, 0], errno: 22, unfiltered: [22] },
  'personality(0x40000)': { call: [135, 0x40000], errno: 1, unfiltered: [0] },
  'personality(0xffffffff)': { call: [135, 0xffffffff], errno: 0, unfiltered: [0] },
  'socket(AF_VSOCK)': { call: [41, 40, 1, 0], errno: 1, unfiltered: [0, 97] },
  'socket(AF_ALG)': { call: [41, 38, 5, 0], errno: 1, unfiltered: [0, 97] },
  'socket(AF_UNIX)': { call: [41, 1, 1, 0], errno: 0, unfiltered: [0] },
  'an unknown call': { call: [1000], errno: 38, unfiltered: [38] },
  'getpid of x32': { call: [0x40000000 + 39], errno: 38, unfiltered: [0, 38] },
};

test('the kernel denies these calls, with the right error', { skip }, async () => {
  for (const [name, { call: numbers, errno }] of Object.entries(calls)) {
    const result = await filtered(call(...numbers), { options: [...nobody, '--no-new-privs'] });
    assert.deepEqual([result.stdout, result.stderr], [`${errno}`, ''], name);
  }
});

/** A test process that is in a filter already says nothing about one of ours. */
const bare = /^Seccomp:\t0$/m.test(readFileSync('/proc/self/status', 'utf8'));

test('it is the filter that does', {
  skip: skip || needs('root') || (!bare && 'is filtered itself'),
}, async () => {
  for (const [name, { call: numbers, unfiltered }] of Object.entries(calls)) {
    const result = await execute(['setpriv', '--no-new-privs', ...call(...numbers)]);
    // ENOSYS: this kernel was built without it; kernel.io_uring_disabled=2 is EPERM
    const also = numbers[0] === 425 ? [38, 1] : [38];
    assert.ok([...unfiltered, ...also].includes(Number(result.stdout)), `${name}: ${result.stdout}`);
  }
});

test('a 32-bit call gets ENOSYS', { skip }, async (t) => {
  // elf(5), one page at 4 MiB: close(-1) by int $0x80, and exit(2) with its error
  const code = Buffer.from('b806000000bbffffffffcd8089c7f7dfb83c0000000f05', 'hex');
  const size = 120 + code.length;
  const [file, program] = [Buffer.alloc(64), Buffer.alloc(56)];
  file.write('\x7fELF\x02\x01\x01', 'latin1');
  file.writeUInt16LE(2, 16); // ET_EXEC
  file.writeUInt16LE(62, 18); // EM_X86_64
  file.writeUInt32LE(1, 20);
  file.writeUInt32LE(0x400078, 24); // e_entry
  file.writeUInt32LE(64, 32); // e_phoff
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56); // e_phnum
  program.writeUInt32LE(1, 0); // PT_LOAD
  program.writeUInt32LE(5, 4); // readable and executable
  program.writeUInt32LE(0x400000, 16);
  program.writeUInt32LE(size, 32);
  program.writeUInt32LE(size, 40);
  program.writeUInt32LE(4096, 48);
  const path = join(folder, 'int80');
  writeFileSync(path, Buffer.concat([file, program, code]), { mode: 0o755 });
  // EBADF; a kernel without CONFIG_IA32_EMULATION ends it, with the filter or without
  const { code: unfiltered, signal } = await execute([path]);
  if (signal === 'SIGSEGV') return t.skip('this kernel has no 32-bit system calls');
  assert.ok(unfiltered === 9 || !bare, `${unfiltered} ${signal}`);
  assert.equal((await filtered([path])).code, 38);
});

test('ordinary programs work', { skip: skip || needs('python3', 'ps') }, async () => {
  const threads =
    'import threading; t = threading.Thread(target=print, args=("thread",)); t.start(); t.join()';
  const worker = `new (require("worker_threads").Worker)("console.log('worker')", { eval: true })`;
  const commands: [string[], string][] = [
    [['sh', '-c', '(echo a; echo b) | sort -r | tr -d "\\n"; true & wait'], 'ba'],
    [['sh', '-c', 'ps -o comm= -p $$'], 'sh\n'],
    [[findProgram('python3') as string, '-c', threads], 'thread\n'],
    [['perl', '-e', 'my $pid = fork; exit 3 if !$pid; waitpid $pid, 0; print $? >> 8'], '3'],
    [[process.execPath, '-e', worker], 'worker\n'],
  ];
  for (const [command, stdout] of commands) {
    const result = await filtered(command);
    assert.deepEqual(result, { code: 0, signal: null, stdout, stderr: '' }, command.join(' '));
  }
});

test('mounting takes CAP_SYS_ADMIN', { skip: skip || needs('root', 'namespaces') }, async () => {
  const mount = ['unshare', '--mount', 'mount', '-t', 'tmpfs', 'none', folder];
  const kept = [...defaultCapabilities, 'sys_admin'];
  assert.deepEqual(await filtered(mount, { load: rulesFor('x64', kept) }), {
    code: 0,
    signal: null,
    stdout: '',
    stderr: '',
  });
  const refused = await filtered(mount);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /^unshare: unshare failed: Operation not permitted$/m);
});

for (const by of ['setpriv', 'perl', 'python3']) {
  const missing = by === 'setpriv' ? !setprivLoads && 'needs setpriv of util-linux 2.41' : needs(by);
  test(`${by} loads a filter and becomes the command`, { skip: skip || missing }, async () => {
    const state = await filtered(['grep', '-E', 'Seccomp:|SigIgn:', '/proc/self/status'], { by });
    assert.equal(state.stdout, 'SigIgn:\t0000000000000000\nSeccomp:\t2\n');
    assert.equal(state.stderr, '');
    const odd = ['', 'a b', '$x\n', 'é'];
    assert.equal(
      (await filtered(['printf', '[%s]', ...odd], { by })).stdout,
      odd.map((word) => `[${word}]`).join(''),
    );
    assert.equal((await filtered(['sh', '-c', 'exit 42'], { by })).code, 42);
    assert.equal((await filtered(['sh', '-c', 'kill -TERM $$'], { by })).code, 143);

    // execvp(3): EACCES would be what it says if PATH had a directory that this user may not search
    const env = { PATH: systemDirectories.join(':') };
    const notFound = await filtered(['no-such-command'], { by, env });
    assert.equal(notFound.code, 127);
    assert.match(
      notFound.stderr,
      /^(setpriv: .*no-such-command: No such file or directory|run: no-such-command: not found in PATH \S+)\n$/,
    );
    const notExecutable = await filtered(['/etc/passwd'], { by });
    assert.equal(notExecutable.code, 126);
    assert.match(
      notExecutable.stderr,
      /^(setpriv: .*\/etc\/passwd: Permission denied|run: \/etc\/passwd is not executable for this user: its mode is 644)\n$/,
    );
  });

  test(`${by} fails where the kernel takes no filter`, { skip: skip || missing }, async () => {
    const failed = by === 'setpriv' ? 127 : 125;
    // more instructions than there may be; then no no_new_privs, which setpriv(1) sets by itself with a filter
    const broken = { load: [...rules, ...Array(5000).fill('mount:165')] }; // BPF_MAXINSNS is 4096
    const unprepared = { options: [...nobody, '--pdeathsig=clear'] };
    for (const options of by === 'setpriv' ? [broken] : [broken, unprepared]) {
      const result = await filtered(['echo', 'unfiltered'], { by, ...options });
      assert.deepEqual([result.code, result.stdout], [failed, '']);
      assert.match(
        result.stderr,
        by === 'setpriv' ? /^setpriv: .*\n$/ : /^run: cannot load the seccomp filter: .*\n$/,
      );
    }
  });

  test(`${by} does not do what variables of the caller say`, { skip: skip || missing }, async () => {
    const env = {
      PERL5OPT: '-Mno_such_module',
      PERL5LIB: folder,
      PERL_UNICODE: 'A',
      PYTHONPATH: folder,
      PYTHONHOME: folder,
      PYTHONINSPECT: '1',
    };
    for (const name of ['strict.pm', 'os.py', 'ctypes.py', 'sitecustomize.py'])
      writeFileSync(join(folder, name), 'exit(99)');
    assert.deepEqual(await filtered(['printf', '%s', 'é'], { by, env }), {
      code: 0,
      signal: null,
      stdout: 'é',
      stderr: '',
    });
  });
}

test('the host says which loader it is: setpriv before perl before python, or none', () => {
  const found = (...names: string[]) =>
    seccompLoader('x64', rules, (name) => (names.includes(name) ? `${folder}/${name}` : undefined), path);
  writeFileSync(join(folder, 'setpriv'), '--seccomp-filter <file>');
  assert.deepEqual(found('setpriv', 'perl', 'python3'), { words: ['--seccomp-filter', path], file: filter });
  writeFileSync(join(folder, 'setpriv'), '--landlock-access <access>');
  const perl = found('setpriv', 'perl', 'python3');
  assert.ok(perl?.words.includes(`${folder}/perl`) && perl.words.includes('mount:165'));
  assert.equal(found('setpriv', 'python3')?.words[0], `${folder}/python3`);
  assert.equal(found('setpriv'), undefined);
});
