# USERNS TREE COMMAND...: mounts the directory TREE over itself, as an ID-mapped mount, and becomes COMMAND. The file
# USERNS is a user namespace, whose ID maps apply: mount_setattr(2). These system calls have the same numbers on all
# processors.
use strict;

my ($userns, $tree) = (shift, shift);
open my $ns, "<", $userns or die "$userns: $!\n";
my $none = "\0";
my $fd = syscall 428, -100, "$tree\0", 0x80001;            # open_tree(AT_FDCWD, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
my $attributes = pack "Q4", 0x100000, 0, 0, fileno $ns;    # MOUNT_ATTR_IDMAP
if ( $fd < 0
  || syscall(442, $fd, $none, 0x1000, $attributes, 32) != 0            # mount_setattr(AT_EMPTY_PATH)
  || syscall(429, $fd, $none, -100, "$tree\0", 4) != 0)                # move_mount(MOVE_MOUNT_F_EMPTY_PATH)
{
  die "$tree can't be mounted with mapped IDs: $!: ext4, xfs, btrfs and tmpfs can, if the kernel is new enough\n";
}
exec @ARGV or die "run: $ARGV[0]: $!\n";
