// Entering a container: one program in perl, as POSIX shell that starts it. docs/exec.md explains it.

import type { User } from '../helpers/rootfs.ts';
import { quote } from '../helpers/shell.ts';
import { capabilities } from '../run/capabilities.ts';

/** What is to be run, and in what. */
export interface Entry {
  /** the container's first process, and when it started: a later one may get its PID */
  pid: number;
  startTicks: number;
  /** those that differ from the caller's, in the order in which they can be entered */
  namespaces: string[];
  /** the first process's in each hierarchy */
  cgroups: string[];
  command: string[];
  /** KEY=VALUE, beside those of the first process */
  environment: string[];
  /** undefined: where the first process is */
  workdir: string | undefined;
  /** undefined: with the host's root directory, and as the caller is */
  inside: Inside | undefined;
  /** the caller may make mounts, and what they must not write to is theirs */
  isRoot: boolean;
  perl: string;
}

/** Who the command is in the container, and what it may do. */
export interface Inside {
  /** as the container numbers them; `hostUid` is the same user outside */
  user: User;
  hostUid: number;
  /** user_namespaces(7): nobody in there may call setgroups(2) */
  setgroupsDenied: boolean;
  /** a bit for each capability that may be had at all; undefined: privileged */
  bounding: bigint | undefined;
  noNewPrivileges: boolean;
  filter: Buffer | undefined;
  /** the first process is confined by AppArmor or SELinux otherwise than the caller */
  confined: boolean;
}

/** The system calls that perl has no functions for, with their numbers on x86-64 and on arm64. */
const systemCalls = `capset 126 91, clone 56 220, keyctl 250 219, prctl 157 167, prlimit64 302 261, seccomp 317 277,
  setgroups 116 159, setns 308 268, setresgid 119 149, setresuid 117 147, setsid 112 157`;
const columns: Record<string, number> = { x64: 1, arm64: 2 };
/** The processors whose numbers are known, as process.arch. */
export const numbered = Object.keys(columns);

/** The lines that take a process's privileges down to those of the container, in perl. */
function dropLines({ user, setgroupsDenied, bounding, noNewPrivileges, filter }: Inside): string {
  const may = user.uid === 0 ? (bounding ?? 0n) : 0n;
  const halves = [may & 0xffffffffn, may >> 32n];
  const lines = [
    'call("keyctl", 1, 0);                    # not the session keyring of the caller: keyrings(7)',
  ];
  if (noNewPrivileges) lines.push('prctl(38, 1) == 0 or fail "set no_new_privs";');
  // seccomp(2) asks for no_new_privs or CAP_SYS_ADMIN, which is still there
  if (filter)
    lines.push(
      `my $filter = pack "H*", "${filter.toString('hex')}";`,
      'my $program = pack "S x6 P", length($filter) / 8, $filter;',
      'call("seccomp", 1, 0, $program) == 0 or fail "load the seccomp filter";',
    );
  if (bounding !== undefined)
    lines.push(
      `# capabilities(7): ${capabilities.filter((_, bit) => (bounding >> BigInt(bit)) & 1n).join(' ') || 'none'}`,
      'for my $bit (0 .. 63) {',
      `  0x${bounding.toString(16)} >> $bit & 1 or prctl(24, $bit) == 0 or $! == 22 or fail "drop capability $bit";`,
      '}',
      'prctl(47, 4);                            # ambient ones',
    );
  if (!setgroupsDenied)
    lines.push(
      `my $groups = pack "L*", ${user.groups.join(', ') || '()'};`,
      `call("setgroups", ${user.groups.length}, $groups) == 0 or fail "set its groups";`,
    );
  lines.push(
    `call("setresgid", (${user.gid}) x 3) == 0 or fail "become group ${user.gid}";`,
    `call("setresuid", (${user.uid}) x 3) == 0 or fail "become user ${user.uid}";`,
  );
  if (bounding !== undefined)
    lines.push(
      'my ($header, $sets) = (pack("L2", 0x20080522, 0), pack "L6", ' +
        `${halves[0]}, ${halves[0]}, 0, ${halves[1]}, ${halves[1]}, 0);`,
      'call("capset", $header, $sets) == 0 or fail "drop capabilities";',
    );
  return lines.join('\n');
}

/** What enters: a program in perl, for no program of the container's must run before it has its privileges only. */
export function enterProgram({ namespaces, inside, workdir, isRoot }: Entry, architecture: string): string {
  const userLast = isRoot && namespaces.at(-1) === 'user';
  const table = systemCalls
    .split(',')
    .map((row) => row.trim().split(' '))
    .map((row) => `${row[0]} => ${row[columns[architecture] ?? 1]}`);
  const go = inside
    ? [
        // user_namespaces(7): groups that the namespace does not know would still count
        inside.setgroupsDenied && isRoot && 'call("setgroups", 0, 0) == 0 or fail "drop groups";',
        `opendir my $root, "root" or fail "open its root directory";${workdir === undefined ? ' opendir my $cwd, "cwd";' : ''}`,
        isRoot && nullLines,
        'my ($environ, $limits) = (slurp("environ"), slurp("limits"));',
        inside.confined &&
          `# the profile of AppArmor, or label of SELinux, that execve(2) is to give
my $label = slurp("attr/current"); $label =~ s/[\\n\\0]+$//;
$label = "exec $label" if $label =~ s/ \\(\\w+\\)$//;
put("/proc/self/attr/exec", $label) or fail "take over the label $label";`,
        `# limits first: from here on all that is used counts as that of the container
for (@cgroups) { put("$_/cgroup.procs", 0) or fail "join the cgroup $_"; }
put("/proc/self/oom_score_adj", slurp("oom_score_adj"));
my $kind = 0;                            # getrlimit(2): as near as this process may come
for (grep /^Max/, split /\\n/, $limits) {
  my ($soft, $hard) = map { /unl/ ? ~0 : $_ + 0 } unpack "x26 A21 A21", $_;
  my $new = pack "Q2", $soft, $hard;
  if (call("prlimit64", 0, $kind, $new, 0) < 0) {
    my $own = " " x 16; call("prlimit64", 0, $kind, 0, $own); my (undef, $most) = unpack "Q2", $own;
    $hard = $most if $hard > $most; $soft = $hard if $soft > $hard;
    $new = pack "Q2", $soft, $hard; call("prlimit64", 0, $kind, $new, 0);
  }
  $kind++;
}`,
      ]
    : [];
  return [
    `use strict; use Fcntl;
my %number = (${table.join(', ')});
sub call { my $name = shift; syscall($number{$name}, @_) }
sub prctl { call("prctl", @_, (0) x (5 - @_)) }
sub fail { print STDERR "exec: cannot @_: $!\\n"; exit 125 }
sub slurp { open my $file, "<", $_[0] or return ""; local $/; readline $file }
sub put { open my $file, ">", $_[0] or return; syswrite $file, $_[1] }
sub list { my @words; while (@ARGV) { my $word = shift @ARGV; last if $word eq "--"; push @words, $word } @words }
my @cgroups = list(); my @variables = list(); my ($workdir) = list();
$0 = "exec.ts: @ARGV";                   # for ps(1)

# no descriptor of the caller gets in but 0, 1 and 2; and nobody in there may look into this process, ptrace(2)
opendir my $dir, "/proc/self/fd"; my @open = grep { $_ > 2 } readdir $dir; closedir $dir;
for (@open) { open my $file, "<&=", $_ or next; close $file }
prctl(4, 0);`,
    inside && terminalLines(inside.hostUid),
    `
pipe my $ready, my $tell; pipe my $go, my $release;
my $child = fork; defined $child or fail "fork";
if ($child == 0) {
# this process goes in. What leads there is opened first, while all that it sees is still of the host
prctl(1, 9);                             # prctl(2): it gets SIGKILL when its parent ends
close $ready; close $release;${inside ? ' close $master if $master;' : ''}
my @in;
for (qw(${namespaces.join(' ')})) { open my $file, "<", "ns/$_" or fail "open its namespace $_"; push @in, [$_, $file]; }`,
    ...go,
    // user_namespaces(7): the last, which takes root's privileges over all that is not in it
    userLast && 'my $user = pop @in;',
    'for (@in) { call("setns", fileno $_->[1], 0) == 0 or fail "enter its namespace $_->[0]"; }',
    inside && 'chdir $root and chroot "." or fail "enter its root directory";',
    userLast && 'call("setns", fileno $user->[1], 0) == 0 or fail "enter its namespace user"; undef $user;',
    inside &&
      `undef @in; closedir $root;

# who it is, credentials(7); and what it may do
umask 022;
${dropLines(inside)}`,
    workdir === undefined
      ? 'chdir $cwd or chdir "/"; closedir $cwd;'
      : `chdir $workdir or fail "enter the directory $workdir";`,
    `
# a PID namespace is for children only: this one is a child of the parent of this one, CLONE_PARENT of clone(2)
my $pid = call("clone", 0x8000 | 17, 0, 0, 0, 0);
$pid >= 0 or fail "start a process in there";
if ($pid > 0) { syswrite $tell, "$pid\\n"; exit }
prctl(1, 9);
sysread $go, my $word, 1 or exit 125;`,
    inside &&
      `call("setsid");                          # a terminal of the caller is not for the command to control
if ($slave) {
  ioctl $slave, 0x540e, 0;               # ioctl_tty(2): TIOCSCTTY
  my $talks = -t STDERR;
  open STDIN, "<&", $slave; open STDOUT, ">&", $slave; open STDERR, ">&", $slave if $talks;
}
%ENV = map { /^([^=]+)=(.*)/s } split /\\0/, $environ;
delete @ENV{qw(PWD OLDPWD)};`,
    `for (@variables) { /^([^=]+)=(.*)/s and $ENV{$1} = $2; }
$SIG{$_} = "DEFAULT" for qw(HUP INT QUIT PIPE XFSZ TERM USR1 USR2 CHLD TSTP TTIN TTOU);
exec { $ARGV[0] } @ARGV;
my $code = $! == 2 ? 127 : 126;
print STDERR "exec: $ARGV[0]: $!\\n"; exit $code;
}

# this process stays outside. It waits, and passes on signals
close $tell; close $go;${inside ? ' close $slave if $slave;' : ''} chdir "/";
my $pid = readline $ready;
waitpid $child, 0;
if (!$pid) {
  print STDERR "exec: killed on its way in: is the container at a limit?\\n" if $? & 127;
  exit 125;
}
chomp $pid;
$SIG{$_} = sub { kill $_[0], $pid } for qw(HUP INT QUIT TERM USR1 USR2);`,
    !inside && '$SIG{$_} = sub {} for -t STDIN ? qw(INT QUIT) : ();   # the keys of a terminal reach both',
    inside
      ? relayLines
      : `syswrite $release, "."; close $release;
waitpid $pid, 0; my $status = $?;`,
    'exit($status & 127 ? 128 + ($status & 127) : $status >> 8);',
  ]
    .filter((line) => typeof line === 'string')
    .join('\n');
}

/** Puts the container's /dev/null in place of the host's, whose mode fchmod(2) of a descriptor would change. */
const nullLines = `for my $stream (\\*STDIN, \\*STDOUT, \\*STDERR) {
  -c $stream and (stat _)[6] == 0x103 and (stat _)[1] == (stat "/dev/null")[1] or next;
  sysopen my $node, "root/dev/null", O_NOFOLLOW | 010000000 or next;             # O_PATH
  -c $node and (stat _)[6] == 0x103 or next;
  open $stream, $stream == \\*STDIN ? "<" : ">", "/proc/self/fd/" . fileno $node;
}`;

/** Makes a terminal for the command. */
const terminalLines = (hostUid: number) => `
# on a terminal the command gets another, pty(7): one of the container, or else of the host. What is there is looked
# at before it is opened: it may be any device
my ($master, $slave, $mode, $unlocked);
$unlocked = pack "i", 0;
if (-t STDIN and -t STDOUT) {
  for my $path ("root/dev/pts/ptmx", "/dev/pts/ptmx") {
    sysopen my $node, $path, O_NOFOLLOW | 010000000 or next;                     # O_PATH
    -c $node and (stat $node)[6] == 0x502 or next;
    sysopen $master, "/proc/self/fd/" . fileno $node, O_RDWR | O_NOCTTY | O_NONBLOCK or next;
    ioctl $master, 0x40045431, $unlocked or next;                                # TIOCSPTLCK
    my $fd = ioctl $master, 0x5441, O_RDWR | O_NOCTTY or next;                   # TIOCGPTPEER
    open $slave, "+<&=", $fd and last;
  }
  $slave or fail "make a terminal";
  chown ${hostUid}, -1, $slave;
  ioctl STDIN, 0x5401, $mode = " " x 64 and ioctl $slave, 0x5402, $mode;         # TCGETS, TCSETS
}`;

/** Waits for the command; between its terminal and the caller's, carries what is typed and what is shown. */
const relayLines = `if ($master) {
  my $size = " " x 8;
  my $resize = sub { ioctl STDIN, 0x5413, $size and ioctl $master, 0x5414, $size };   # TIOCGWINSZ, TIOCSWINSZ
  $SIG{WINCH} = $resize; $resize->();
  my ($i, $o, $c, $l, $rest) = unpack "L4 a*", $mode;                            # raw, as cfmakeraw(3) makes it
  ioctl STDIN, 0x5402, pack "L4 a*", $i & ~0x5eb, $o & ~1, $c & ~0x130 | 0x30, $l & ~0x804b, $rest;
}
syswrite $release, "."; close $release;
my $status;
if ($master) {
  $| = 1;
  my ($typed, $reads) = ("", 1);
  until (waitpid($pid, 1) == $pid) {     # WNOHANG
    my ($in, $out) = ("", "");
    vec($in, fileno $master, 1) = 1;
    vec($in, 0, 1) = 1 if $reads and length $typed < 65536;
    vec($out, fileno $master, 1) = 1 if length $typed;
    select($in, $out, undef, 0.2) > 0 or next;
    if (vec $in, 0, 1) {
      $reads = sysread STDIN, $typed, 4096, length $typed;
      kill "HUP", $pid if !$reads;       # the terminal of the caller is gone
    }
    if (vec $out, fileno $master, 1) { my $n = syswrite $master, $typed; substr $typed, 0, $n // 0, ""; }
    if (vec $in, fileno $master, 1) {
      if (sysread $master, my $shown, 65536) { print $shown } else { select undef, undef, undef, 0.01 }   # EIO: nobody has it open
    }
  }
  $status = $?;
  for (1 .. 1000) { sysread $master, my $shown, 65536 or last; print $shown }   # what is left; others may write on
  ioctl STDIN, 0x5402, $mode;
} else { waitpid $pid, 0; $status = $?; }`;

/** The whole as POSIX shell that is to have a shell of its own: it ends with the command's exit code, or 125. */
export function execProgram(entry: Entry, architecture: string): string {
  const { pid, startTicks, inside, isRoot, namespaces, cgroups, environment, workdir, command } = entry;
  const perl = quote(entry.perl);
  const words = (list: string[]) => [...list, '--'].map(quote).join(' ');
  const lists = [cgroups, environment, workdir === undefined ? [] : [workdir]].map(words).join(' ');
  const shield = `# nothing in there can write to perl through /proc/PID/exe: it is on a read-only mount that nobody else sees
exec unshare --mount --propagation slave sh -c 'mount --bind -o ro "$0" "$0" || exit 125; exec "$@"' ${perl} \\
  `;
  const start = [
    `${inside && isRoot ? shield : 'exec '}${inside ? 'env -i PATH="$PATH" ' : ''}${perl} -e "$enter" -- ${lists}`,
    // unshare(1): so that ps and the like see the container's processes, in a /proc that nobody else sees
    ...(!inside && namespaces.includes('pid') ? ['unshare --mount --mount-proc --propagation slave'] : []),
    command.map(quote).join(' '),
  ];
  return `PATH=${inside ? '/usr/sbin:/usr/bin:/sbin:/bin:$PATH' : '$PATH:/usr/sbin:/usr/bin:/sbin:/bin'}
fail() { echo "exec: $*" >&2; exit 125; }

# what is opened from this directory is of this very process: once it has ended there is nothing to open, proc(5)
cd /proc/${pid} 2>/dev/null && stat=$(cat stat) || fail "process ${pid} has ended"
set -- \${stat##*) }
[ "\${20}" = ${startTicks} ] || fail "process ${pid} has ended, and another has its PID"

# what enters, in perl(1)
enter=${quote(enterProgram(entry, architecture))}

${start.join(' \\\n  ')}
`;
}
