# Enters a container and becomes a command there. docs/exec.md tells why one process does all of it. It comes after
# calls.pl, in a shell's directory /proc/PID of the container's first process, with these arguments:
#
#   exec numbers... -- rules of a seccomp filter... -- parameters... -- command...
#
# Parameters are words NAME=VALUE. Those marked * may be there several times:
#   parent=PID            ends when this process does, which has to be its parent
#   enter=FILE *          enters the namespace, or the root directory, that this file of /proc/PID is; in this order
#   environment=KEY=VALUE *   for the command
#   workdir=DIR           where the command starts; otherwise where the first process is
#   detach=yes            standard error ends when the command runs; it gets the standard output in its place
#   preserve=N            N descriptors from 3 on are the command's too
#   inside=yes            the command is who the others say; otherwise it stays who the caller is
#   umask=OCTAL
#   cgroup=DIR *          joins it
#   uid=N gid=N group=N * as the container numbers them
#   host-uid=N            the same user outside
#   setgroups=deny        user_namespaces(7): setgroups(2) may not be called in there
#   confined=yes          takes over the profile of AppArmor, or the label of SELinux
#   no-new-privs=yes
#   privileges=limited    to these:
#   capability=NAME:BIT * the bounding set
use strict;
use Fcntl;
use constant O_PATH => 010000000;

my @rules = list();
my %given;
for (list()) {
  my ($name, $value) = /^([\w-]+)=(.*)$/s or die "$_ is no parameter\n";
  push @{ $given{$name} }, $value;
}
sub given { return @{ $given{ $_[0] } // [] } }
sub value { return (given(@_))[0] }

my $inside = value("inside");
my $as_root = $< == 0;

sub slurp { open my $file, "<", $_[0] or return ""; local $/; return readline $file }
sub put   { open my $file, ">", $_[0] or return;    return syswrite $file, $_[1] }
# credentials(7): the signal is for the death of the thread that started this one, which may have happened already
sub die_with { prctl(1, 9); getppid() == $_[0] or exit 125 }

die_with(value("parent")) if value("parent");
$0 = "exec.ts: @ARGV";    # for ps(1)

# the container gets no other descriptor of the caller, and may not trace this process, ptrace(2)
opendir my $descriptors, "/proc/self/fd" or fail("read /proc/self/fd");
my @open = grep { $_ > 2 + (value("preserve") // 0) } readdir $descriptors;
closedir $descriptors;
for (@open) { open my $file, "<&=", $_ or next; close $file }
prctl(4, 0);

my ($master, $slave, $mode) = $inside && -t STDIN && -t STDOUT ? make_terminal() : ();

pipe my $ready, my $tell;
pipe my $go, my $release;
my $outside = $$;
my $child = fork;
defined $child or fail("fork");
if ($child == 0) {
  die_with($outside);
  close $_ for $ready, $release, $master // ();
  enter();
}
close $_ for $tell, $go, $slave // ();
wait_outside();

# On a terminal the command gets another, pty(7): one of the container, or else of the host. The file is examined
# before it is opened: it may be any device.
sub make_terminal {
  my $unlocked = pack "i", 0;
  for my $path ("root/dev/pts/ptmx", "/dev/pts/ptmx") {
    sysopen my $node, $path, O_NOFOLLOW | O_PATH or next;
    -c $node and (stat $node)[6] == 0x502 or next;
    sysopen my $master, "/proc/self/fd/" . fileno $node, O_RDWR | O_NOCTTY | O_NONBLOCK or next;
    ioctl $master, 0x40045431, $unlocked or next;                   # TIOCSPTLCK
    my $fd = ioctl $master, 0x5441, O_RDWR | O_NOCTTY or next;      # TIOCGPTPEER
    open my $slave, "+<&=", $fd or next;
    chown value("host-uid"), -1, $slave;
    my $mode = " " x 64;
    ioctl STDIN, 0x5401, $mode and ioctl $slave, 0x5402, $mode;     # TCGETS, TCSETS
    return ($master, $slave, $mode);
  }
  fail("make a terminal");
}

# The process that enters. It first opens what it needs for that, while it sees the host's files only.
sub enter {
  my @parts = map { open my $file, "<", $_ or fail("open the container's $_"); [$_, $file] } given("enter");
  my $workdir = value("workdir");
  my ($directory, $environment);
  if ($inside) {
    # groups without an ID in the user namespace would still give access
    if (value("setgroups") && $as_root) { call("setgroups", 0, 0) == 0 or fail("drop groups") }
    if (!defined $workdir) { opendir $directory, "cwd" }
    if ($as_root) { replace_null(); give_streams(value("host-uid")) }
    $environment = slurp("environ");
    take_over_surroundings();
  }
  while (my $part = shift @parts) {
    my ($path, $file) = @$part;
    my $entered = $path eq "root" ? chdir $file && chroot "." : call("setns", fileno $file, 0) == 0;
    $entered or fail("enter the container's $path");
  }
  if ($inside) {
    umask oct value("umask");
    give_streams(value("uid")) if !$as_root;
    drop_privileges();
  }
  # only now: a symlink in the container leads no further than the command itself could go
  if (defined $workdir) { chdir $workdir or fail("enter the directory $workdir") }
  else { ($directory && chdir $directory) or chdir "/" }
  closedir $directory if $directory;

  # setns(2) puts only children into a PID namespace. The parent is the process outside: CLONE_PARENT, clone(2)
  my $pid = call("clone", 0x8000 | 17, 0, 0, 0, 0);
  $pid >= 0 or fail("start a process in there");
  if ($pid > 0) { syswrite $tell, "$pid\n"; exit }
  prctl(1, 9);                              # if the parent has ended before, the pipe has no writer
  sysread $go, my $word, 1 or exit 125;
  if ($inside) {
    call("setsid");                         # the command must not control a terminal of the caller
    if ($slave) {
      ioctl $slave, 0x540e, 0;              # TIOCSCTTY
      my $talks = -t STDERR;
      open STDIN,  "<&", $slave;
      open STDOUT, ">&", $slave;
      open STDERR, ">&", $slave if $talks;
    }
    %ENV = map { /^([^=]+)=(.*)/s } split /\0/, $environment;
    delete @ENV{qw(PWD OLDPWD)};
  }
  for (given("environment")) { /^([^=]+)=(.*)/s and $ENV{$1} = $2 }
  if (value("detach")) {
    keep_messages();
    open STDERR, ">&", STDOUT;
  }
  $SIG{$_} = "DEFAULT" for qw(HUP INT QUIT PIPE XFSZ TERM USR1 USR2 CHLD TSTP TTIN TTOU);
  become(@ARGV);
}

# Puts the container's /dev/null in place of the host's, whose mode fchmod(2) of a descriptor would change.
sub replace_null {
  my $host = (stat "/dev/null")[1];
  for my $stream (\*STDIN, \*STDOUT, \*STDERR) {
    my ($inode, $device) = (stat $stream)[1, 6];
    -c $stream && $device == 0x103 && $inode == $host or next;
    sysopen my $node, "root/dev/null", O_NOFOLLOW | O_PATH or next;
    -c $node && (stat $node)[6] == 0x103 or next;
    open $stream, $stream == \*STDIN ? "<" : ">", "/proc/self/fd/" . fileno $node;
  }
}

# Gives pipes, and files that can be written through, to the command's user, who could not open /dev/stdout otherwise.
# A file that is only read keeps its owner.
sub give_streams {
  my ($uid) = @_;
  return if $uid == 0;
  for my $stream (\*STDIN, \*STDOUT, \*STDERR) {
    my $writes = (fcntl $stream, F_GETFL, 0) & (O_WRONLY | O_RDWR);
    chown $uid, -1, $stream if -p $stream || -f $stream && $writes;
  }
}

# Joins the cgroups first: from then on the limits of the container apply. Then takes over what else the first process has
# that is kept in no namespace.
sub take_over_surroundings {
  my $limits = slurp("limits");
  if (value("confined")) {
    my $label = slurp("attr/current");
    $label =~ s/[\n\0]+$//;
    $label = "exec $label" if $label =~ s/ \(\w+\)$//;    # AppArmor's
    put("/proc/self/attr/exec", $label) or fail("take over the label $label");
  }
  for (given("cgroup")) { put("$_/cgroup.procs", 0) or fail("join the cgroup $_") }
  put("/proc/self/oom_score_adj", slurp("oom_score_adj"));
  my $kind = 0;
  for (grep /^Max/, split /\n/, $limits) {
    my ($soft, $hard) = map { /unl/ ? ~0 : $_ + 0 } unpack "x26 A21 A21", $_;
    my $new = pack "Q2", $soft, $hard;
    if (call("prlimit64", 0, $kind, $new, 0) < 0) {       # getrlimit(2): as near as this process is permitted
      my $own = " " x 16;
      call("prlimit64", 0, $kind, 0, $own);
      my (undef, $most) = unpack "Q2", $own;
      $hard = $most if $hard > $most;
      $soft = $hard if $soft > $hard;
      $new = pack "Q2", $soft, $hard;
      call("prlimit64", 0, $kind, $new, 0);
    }
    $kind++;
  }
}

# Becomes the command's user, with no more privileges than the container has.
sub drop_privileges {
  my $limited = value("privileges");
  my ($uid, $gid) = map { $_ + 0 } value("uid"), value("gid");
  leave_keyring();
  if (value("no-new-privs")) { prctl(38, 1) == 0 or fail("set no_new_privs") }
  # seccomp(2) asks for no_new_privs or CAP_SYS_ADMIN, which is still there
  load_filter(@rules) if @rules;
  my @kept = (0) x 64;
  $kept[$_] = 1 for map { /:(\d+)$/ } given("capability");
  if ($limited) {
    for my $bit (0 .. 63) {
      $kept[$bit] or prctl(24, $bit) == 0 or $! == 22 or fail("drop capability $bit");
    }
    prctl(47, 4);                                         # PR_CAP_AMBIENT_CLEAR_ALL
  }
  if (!value("setgroups")) {
    my @groups = given("group");
    my $groups = pack "L*", @groups;
    call("setgroups", scalar @groups, $groups) == 0 or fail("set its groups");
  }
  call("setresgid", ($gid) x 3) == 0 or fail("become group $gid");
  call("setresuid", ($uid) x 3) == 0 or fail("become user $uid");
  if ($limited) {
    my ($low, $high) = $uid == 0 ? unpack "L2", pack "b64", join "", @kept : (0, 0);
    my $header = pack "L2", 0x20080522, 0;
    my $sets = pack "L6", $low, $low, 0, $high, $high, 0;
    call("capset", $header, $sets) == 0 or fail("drop capabilities");
  }
}

# The process that stays outside: it waits, passes on signals, and copies input and output of a terminal.
sub wait_outside {
  chdir "/";
  my $pid = readline $ready;
  waitpid $child, 0;
  if (!$pid) {
    say_line("killed on its way in: is the container at a limit?") if $? & 127;
    exit 125;
  }
  chomp $pid;
  # all that can come from outside; perl knows real-time signals by these names
  my @names = qw(HUP INT QUIT TRAP ABRT USR1 USR2 ALRM TERM STKFLT CONT URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS);
  $SIG{$_} = sub { kill $_[0], $pid } for @names, "RTMIN", (map { "NUM$_" } 35 .. 63), "RTMAX";
  $SIG{TSTP} = sub { kill "TSTP", $pid; kill "STOP", $$; kill "CONT", $pid };
  # a terminal sends SIGINT and SIGQUIT to both processes
  if (!$inside && -t STDIN) { $SIG{$_} = sub { } for qw(INT QUIT) }
  raw_terminal() if $master;
  syswrite $release, ".";
  close $release;
  open STDERR, ">&", STDOUT if value("detach");
  my $status = $master ? relay($pid) : do { waitpid $pid, 0; $? };
  exit($status & 127 ? 128 + ($status & 127) : $status >> 8);
}

# Makes the caller's terminal raw, as cfmakeraw(3), and gives its size to that of the command.
sub raw_terminal {
  my $size = " " x 8;
  my $resize = sub { ioctl STDIN, 0x5413, $size and ioctl $master, 0x5414, $size };    # TIOCGWINSZ, TIOCSWINSZ
  $SIG{WINCH} = $resize;
  $resize->();
  my ($input, $output, $control, $local, $rest) = unpack "L4 a*", $mode;
  ioctl STDIN, 0x5402, pack "L4 a*", $input & ~0x5eb, $output & ~1, $control & ~0x130 | 0x30, $local & ~0x804b, $rest;
}

# Copies input and output until the command ends. Returns its wait status.
sub relay {
  my ($pid) = @_;
  $| = 1;
  my ($typed, $reads) = ("", 1);
  until (waitpid($pid, 1) == $pid) {                      # WNOHANG
    my ($in, $out) = ("", "");
    vec($in, fileno $master, 1) = 1;
    vec($in, 0, 1) = 1 if $reads and length $typed < 65536;
    vec($out, fileno $master, 1) = 1 if length $typed;
    select($in, $out, undef, 0.2) > 0 or next;
    if (vec $in, 0, 1) {
      $reads = sysread STDIN, $typed, 4096, length $typed;
      kill "HUP", $pid if !$reads;                        # the terminal of the caller is gone
    }
    if (vec $out, fileno $master, 1) {
      my $count = syswrite $master, $typed;
      substr $typed, 0, $count // 0, "";
    }
    if (vec $in, fileno $master, 1) {
      # EIO: no process has the other side open
      if (sysread $master, my $shown, 65536) { print $shown } else { select undef, undef, undef, 0.01 }
    }
  }
  my $status = $?;
  for (1 .. 1000) { sysread $master, my $shown, 65536 or last; print $shown }    # the rest; other processes may write without end
  ioctl STDIN, 0x5402, $mode;
  return $status;
}
