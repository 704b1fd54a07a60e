// Ways out of a container, for sh(1) in one: tests/escape.test.ts shows that they are, and that they are closed.
//
// They know these variables: $CANARY a file of the host's with $SECRET in it, $DISK (major and minor number) a disk with
// that file, $HANDLE its number in the file system; $PID a process, $ADDRESS where its program begins, $SEGMENT shared
// memory, $KEY a key in the caller's session keyring; $HOSTNAME, $UTS its namespace, $NULL the host's /dev/null; and
// $dir, an empty directory.
import { existsSync, readFileSync } from 'node:fs';
import { attempt as orUndefined } from '../../scripts/helpers/pids.ts';
import { type Attempt, perl } from './attempts.ts';
import { memory } from './container.ts';

const isV1 = memory.version === 1;
const mountCgroup = isV1 ? `mount -t cgroup -o ${memory.controllers} none` : 'mount -t cgroup2 none';
const read = (path: string) => orUndefined(() => readFileSync(path, 'utf8')) ?? '';
const kernelLacks = (path: string) => !existsSync(path) && `this kernel has no ${path}`;
const hasCapability = (bit: bigint) =>
  ((BigInt(`0x${/CapBnd:\t(\w+)/.exec(read('/proc/self/status'))?.[1]}`) >> bit) & 1n) === 1n;
/** Writes what is in there already. */
const rewrite = (file: string) => `value=$(cat ${file}) && echo "$value" >${file}`;
const setting = ['/sys/kernel/uevent_helper', '/sys/kernel/mm/ksm/sleep_millisecs'].find((path) =>
  existsSync(path),
);
const denied = /Operation not permitted/;

export const waysOut: Record<string, Attempt> = {
  // files
  'climbing out of a chroot in the chroot': {
    program: perl(
      `mkdir "/x"; opendir my $out, "/"; chroot "/x" or die; chdir $out; chdir ".." for 1 .. 99;
      chroot "." or die; open my $f, "<", shift or die "$!\\n"; print <$f>`,
      '$CANARY',
    ),
    lifted: ['--privileged', '--isolate', 'chroot'],
    even: ['--privileged'],
    refused: /No such file/,
  },
  'a working directory that is outside': {
    program: 'cat ../../../../../../../..$CANARY',
    lifted: 'chroot',
    refused: /No such file/,
  },
  'what is mounted over its root': { program: 'cat /../$CANARY', lifted: 'pivot', refused: /No such file/ },
  'the root of its own mount namespace': {
    program: 'nsenter --mount=/proc/1/ns/mnt cat $CANARY',
    lifted: ['--isolate', 'pid,chroot', '--cap-add', 'sys_admin'],
    even: ['--privileged'],
    refused: /Operation not permitted|No such file/,
  },
  'a directory that the caller has open': {
    program: 'for fd in /proc/self/fd/* /proc/1/fd/*; do cat $fd/$CANARY && exit; done; exit 1',
    lifted: 'chroot',
    refused: /Not a directory/,
  },
  'a namespace that the caller has open': {
    program: 'for fd in /proc/$$/fd/*; do nsenter --mount=$fd cat $CANARY && exit; done; exit 1',
    lifted: 'chroot',
    even: ['--privileged'],
    refused: /Operation not permitted|Invalid argument/,
  },
  "a file by its number in the file system, open_by_handle_at(2): Docker's shocker": {
    program: perl(
      `opendir my $root, "/"; my $fd = call("open_by_handle_at", fileno $root, pack("H*", shift), 0);
      open my $file, "<&=", $fd; print <$file>`,
      '$HANDLE',
    ),
    lifted: ['--cap-add', 'dac_read_search'],
    refused: denied,
  },
  'a disk, by a device file': {
    program: `for at in / /dev /dev/shm /dev/pts /dev/mqueue /tmp; do mknod $at/disk b $DISK || continue
      grep -qa $SECRET $at/disk; found=$?; rm $at/disk; [ $found != 0 ] || exit 0; done; exit 1`,
    lifted: ['--privileged'],
    refused: /Permission denied/,
  },
  'mounting a disk': {
    program: `mount -t tmpfs none $dir && mknod $dir/disk b $DISK && mkdir $dir/on &&
      mount -t ext2 -o ro $dir/disk $dir/on && grep $SECRET $dir/on/canary`,
    lifted: ['--cap-add', 'sys_admin'],
    refused: /permission denied|must be superuser/,
  },
  "the kernel's log and memory, the console, a terminal and fuse, by device files": {
    program: `for numbers in '1 11' '1 1' '5 1' '4 1' '10 229'; do for at in / /dev; do mknod $at/file c $numbers
      (: >>$at/file); opened=$?; rm $at/file; [ $opened != 0 ] || exit 0; done; done; exit 1`,
    lifted: ['--privileged'],
    refused: /Permission denied/,
  },
  "the mode of the host's /dev/null, which is mounted over files": {
    program: `for file in /null /dev/* /proc/*; do
      [ "$(stat -c %Hd:%Ld:%i $file)" != "$NULL" ] || { chmod 666 $file && exit; }; done; exit 1`,
    lifted: ['-v', '/dev/null:/null'],
    refused: /^$|Read-only|No such file/,
  },
  "the mode of the host's /dev/null, which is its standard input": {
    program: `[ "$(stat -L -c %Hd:%Ld:%i /proc/1/fd/0)" = "$NULL" ] && chmod 666 /proc/1/fd/0`,
    lifted: 'chroot',
    refused: /^$/,
  },

  // processes
  "a process's root directory": {
    program: 'cat /proc/$PID/root$CANARY',
    lifted: ['--isolate', 'mount', '--cap-add', 'sys_ptrace'],
    even: ['--privileged'],
    refused: /No such file/,
  },
  "a process's namespaces": {
    program: 'nsenter --target $PID --mount cat $CANARY',
    lifted: ['--isolate', 'mount', '--cap-add', 'sys_admin,sys_ptrace'],
    even: ['--privileged'],
    refused: /No such file/,
  },
  'a signal for a process': {
    program: 'kill -0 $PID',
    lifted: ['--isolate', 'mount'],
    even: ['--privileged'],
    refused: /No such process/,
  },
  'ptrace(2) of a process': {
    program: perl('call("ptrace", 0x4206, shift() + 0, 0, 0)', '$PID'), // PTRACE_SEIZE
    lifted: ['--isolate', 'mount', '--cap-add', 'sys_ptrace'],
    even: ['--privileged'],
    refused: /No such process/,
  },
  "a process's memory": {
    program: perl(
      `my $text = "\\0" x 4; my ($here, $there) = (pack("P Q", $text, 4), pack "Q2", hex $ARGV[1], 4);
      call("process_vm_readv", $ARGV[0] + 0, $here, 1, $there, 1, 0); exit $text ne "\\x7fELF"`,
      '$PID $ADDRESS',
    ),
    lifted: ['--isolate', 'mount', '--cap-add', 'sys_ptrace'],
    even: ['--privileged'],
    refused: /No such process/,
  },
  'shared memory': {
    program: perl('defined shmget(shift, 0, 0) or die "$!\\n"', '$SEGMENT'),
    lifted: ['--isolate', 'mount,pid'],
    even: ['--privileged'],
    refused: /No such file/,
  },
  "a key in the caller's session keyring": {
    program: perl(
      `my $id = call("keyctl", 10, -3, "user", shift, 0); call("keyctl", 11, $id, " " x 9, 9)`,
      '$KEY',
    ),
    lifted: ['--security-opt', 'seccomp=unconfined'],
    refused: denied,
  },

  // settings of the kernel
  'the core pattern': {
    program: rewrite('/proc/sys/kernel/core_pattern'),
    lifted: ['--privileged'],
    refused: /Read-only/,
  },
  'mounting /proc/sys anew, writable': {
    program: `mount -o remount,bind,rw /proc/sys && ${rewrite('/proc/sys/kernel/core_pattern')}`,
    lifted: ['--cap-add', 'sys_admin'],
    refused: /permission denied|must be superuser/,
  },
  'taking off what is mounted over /proc/keys': {
    program: 'umount /proc/keys && grep -q . /proc/keys',
    lifted: ['--cap-add', 'sys_admin'],
    unproved: kernelLacks('/proc/keys'),
    refused: /must be superuser|not permitted|not mounted|no mount point/,
  },
  'the sysrq trigger, which is opened only': {
    program: ': >>/proc/sysrq-trigger',
    lifted: ['--privileged'],
    unproved: kernelLacks('/proc/sysrq-trigger'),
    refused: /Read-only|cannot create/,
  },
  'a setting in /sys': {
    program: rewrite(setting ?? '/sys/kernel/uevent_helper'),
    lifted: ['--privileged'],
    unproved: !setting && 'this kernel has none of those',
    refused: /Read-only|No such file/,
  },
  "the host's own name": {
    program: '[ $(readlink /proc/self/ns/uts) = $UTS ] && hostname $HOSTNAME',
    lifted: ['--isolate', 'mount', '--cap-add', 'sys_admin'],
    even: ['--privileged'],
    refused: /^$/,
  },
  'a release_agent, which the kernel starts as root': {
    // a hierarchy of its own goes when it is mounted no more
    program: `mount -t cgroup -o ${isV1 ? memory.controllers : 'none,name=barehand'} none $dir && ${rewrite('$dir/release_agent')}`,
    lifted: ['--isolate', 'mount,pid', '--cap-add', 'sys_admin'],
    even: ['--privileged'],
    unproved: !isV1 && 'v2 has none, and the kernel may not have v1',
    refused: /permission denied|must be superuser|No such file|does not exist|unknown filesystem/,
  },
  'a cgroup mount in a user namespace, CVE-2022-0492': {
    program: `unshare --user --map-root-user --mount --cgroup ${mountCgroup} $dir`,
    lifted: ['--security-opt', 'seccomp=unconfined'],
    refused: denied,
  },
  'joining the root of all cgroups': {
    program: `${mountCgroup} $dir && [ ${isV1 ? '-e $dir/release_agent' : '! -e $dir/cgroup.events'} ] && echo 0 >$dir/cgroup.procs`,
    lifted: ['--isolate', 'mount,pid', '--cap-add', 'sys_admin'],
    even: ['--privileged'],
    refused: /permission denied|must be superuser|^$/,
  },

  // system calls
  'mounting in a user namespace': {
    program: 'unshare --user --map-root-user --mount mount -t tmpfs none $dir',
    lifted: ['--security-opt', 'seccomp=unconfined'],
    refused: denied,
  },
  'clone(2) of a user namespace': {
    program: perl('call("clone", 0x10000011, 0, 0, 0, 0) or exit; wait'),
    lifted: ['--security-opt', 'seccomp=unconfined'],
    refused: denied,
  },
  'clone3(2) of a user namespace, whose flags no filter sees': {
    program: perl('call("clone3", pack("Q11", 0x10000000, (0) x 3, 17, (0) x 6), 88) or exit; wait'),
    lifted: ['--security-opt', 'seccomp=unconfined'],
    refused: /Function not implemented/,
  },
  'bpf(2)': {
    program: perl('call("bpf", 0, pack("L4", 2, 4, 4, 1) . "\\0" x 104, 72)'),
    lifted: ['--cap-add', 'bpf'],
    refused: denied,
  },
  'userfaultfd(2)': {
    program: perl('call("userfaultfd", 1)'),
    lifted: ['--security-opt', 'seccomp=unconfined'],
    refused: denied,
  },
  'perf_event_open(2) of a whole processor': {
    program: perl('call("perf_event_open", pack("L2 Q", 1, 112, 0) . "\\0" x 96, -1, 0, -1, 0)'),
    // Debian's kernel asks for more
    lifted: ['--cap-add', 'perfmon,sys_admin'],
    refused: denied,
  },
  'io_uring_setup(2), whose calls no filter sees': {
    program: perl('call("io_uring_setup", 1, "\\0" x 120)'),
    lifted: ['--security-opt', 'seccomp=unconfined'],
    unproved:
      !/^[01]\n/.test(read('/proc/sys/kernel/io_uring_disabled') || '0\n') && 'it is off on this host',
    refused: denied,
  },
  'a module for the kernel, which finds out that it is none': {
    program: perl('$expected = 8; call("init_module", "no module", 9, "")'), // ENOEXEC
    lifted: ['--cap-add', 'sys_module'],
    refused: denied,
  },
  'another kernel, kexec_load(2), with flags that it does not know': {
    program: perl('$expected = 22; call("kexec_load", 0, 0, 0, 0xdead)'), // EINVAL
    lifted: ['--cap-add', 'sys_boot', '--security-opt', 'seccomp=unconfined'],
    refused: denied,
  },
  "the kernel's log, syslog(2)": {
    program: perl('call("syslog", 3, " " x 99, 99)'),
    lifted: ['--cap-add', 'syslog'],
    refused: denied,
  },
  'ports of the hardware, ioperm(2)': {
    program: perl('call("ioperm", 0x80, 1, 1)'),
    lifted: ['--cap-add', 'sys_rawio'],
    refused: denied,
  },
  'the hypervisor, vsock(7)': {
    program: perl('call("socket", 40, 1, 0)'),
    lifted: ['--security-opt', 'seccomp=unconfined'],
    unproved: !/VSOCK/.test(read('/proc/net/protocols')) && 'this kernel has no vsock',
    refused: denied,
  },

  // privileges
  'a set-user-ID program': {
    given: ['-u', '1000'],
    program: '[ "$(/root-id -u)" = 0 ]',
    lifted: ['--security-opt', 'no-new-privileges=false'],
    refused: /^$/,
  },
  'a higher limit than the caller has': {
    program: 'ulimit -n 5000',
    lifted: ['--cap-add', 'sys_resource'],
    unproved: !hasCapability(24n) && 'this host has no CAP_SYS_RESOURCE itself',
    refused: denied,
  },
};
