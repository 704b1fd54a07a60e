# System calls, seccomp filters, and becoming a command. This comes before load.pl or enter.pl in one program, whose
# arguments are lists that end with "--". The first list is handled here: the name of the script, for its messages, and
# the numbers of system calls, as setns:308.
use strict;

# Takes the next list from the arguments.
sub list {
  my @words;
  while (@ARGV) {
    my $word = shift @ARGV;
    last if $word eq "--";
    push @words, $word;
  }
  return @words;
}

my ($script, @numbers) = list();
my %number = map { /^(\w+):(\d+)$/ ? ($1, $2 + 0) : () } @numbers;

my $messages = \*STDERR;
# What a message quotes may hold anything: it stays one line, and nothing that a terminal acts on.
sub say_line {
  my ($text) = @_;
  $text =~ s/\n/\\n/g;
  $text =~ s/([\x00-\x1f\x7f])/sprintf "\\x%02x", ord $1/ge;
  print $messages "$script: $text\n";
}

# Keeps what is standard error now for messages, until execve(2) closes it.
sub keep_messages { open my $copy, ">&", STDERR; $messages = $copy }

# Says what failed and why, and ends with what tells that no command was run.
sub fail {
  say_line("cannot @_: $!");
  exit 125;
}

# Makes a system call. Numbers are passed as such, strings as pointers to what the kernel may write to, perlfunc(1).
sub call {
  my $name = shift;
  my $number = $number{$name} // die "no number was given for $name\n";    # undefined it would be read(2)
  return syscall $number, @_;
}

sub prctl { return call("prctl", @_, (0) x (5 - @_)) }

# keyrings(7): a session keyring that is not the caller's. Where there are none, none can be reached.
sub leave_keyring { call("keyctl", 1, 0) }

# The rules of seccomp.ts as instructions, struct sock_filter of linux/filter.h. A rule with no number gets that of its call.
sub filter {
  my ($audit, @rules) = @_;
  my $code   = sub { pack "S C C L", @_ };
  my $load   = sub { $code->(0x20, 0, 0, $_[0]) };    # a word of struct seccomp_data, seccomp(2)
  my $answer = sub { $code->(0x06, 0, 0, $_[0]) };
  my ($allow, $eperm, $enosys) = map { $answer->($_) } 0x7fff0000, 0x50000 | 1, 0x50000 | 38;
  my $within = sub {                                  # for 31, 0-11 or 467- only
    my ($span, $then) = @_;
    my ($first, $range, $last) = $span =~ /^(\d+)(-?)(\d*)$/;
    my $length = length($then) / 8;
    return $code->(0x15, 0, $length, $first) . $then if !$range;
    $last = 0xffffffff if $last eq "";
    return $code->(0x35, 0, $length + 1, $first) . $code->(0x25, $length, 0, $last) . $then;
  };
  my $program = $load->(4) . $code->(0x15, 1, 0, $audit =~ /(\d+)/) . $enosys . $load->(0);
  for (@rules) {
    my ($name, $numbers, $mask, $values, $error) = /^(\w+)(?::([\d-]+))?(?:&(\d+)|!([\d,-]+)|(=ENOSYS))?$/;
    $numbers //= $number{$name} // die "no number was given for $name\n";
    my $then = $error ? $enosys : $eperm;
    $then = $load->(16) . $code->(0x45, 0, 1, $mask) . $eperm . $allow if $mask;
    $then = join "", $load->(16), (map { $within->($_, $allow) } split /,/, $values), $eperm if $values;
    $program .= $within->($numbers, $then);
  }
  return $program . $allow;
}

# Loads the filter for this process and all that it becomes. Takes CAP_SYS_ADMIN or no_new_privs, seccomp(2).
sub load_filter {
  my $filter = filter(@_);
  my $program = pack "S x6 P", length($filter) / 8, $filter;
  prctl(22, 2, $program) == 0 or fail("load the seccomp filter");
}

# What the kernel looked for to run this file: the interpreter of a script, or the loader of a program.
sub interpreter {
  open my $in, "<", $_[0] or return "an interpreter or loader";
  sysread $in, my $begin, 256;
  return $begin =~ /^#![ \t]*([^ \t\n]+)/ ? "the interpreter $1" : "the loader of another C library";
}

# Becomes a command, or ends as env(1) does where that can't be.
sub become {
  my @command = @_;
  exec { $command[0] } @command or my $why = $!;
  my $path = $ENV{PATH} // "";
  my ($file) = grep { -e } $command[0] =~ m{/} ? $command[0] : map { "$_/$command[0]" } split /:/, $path;
  if (!defined $file && $why == 2) {
    say_line("$command[0]: not found" . ($command[0] =~ m{/} ? "" : " in PATH $path"));
    exit 127;
  }
  $file //= $command[0];
  my $what =
      -d $file           ? "is a directory"
    : -e _ && !-x $file  ? sprintf "is not executable for this user: its mode is %o", (stat $file)[2] & 07777
    : -f $file && $why == 2 ? "needs " . interpreter($file) . ", which is missing"
    :                      "can't be executed: $why";
  say_line("$file $what");
  exit 126;
}
