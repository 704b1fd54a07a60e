// Mounts with mapped IDs: files of the host's root belong to the root of a user namespace. See mount_setattr(2).
import { Failure } from '../helpers/cli.ts';
import { installCommand } from '../helpers/programs.ts';
import { findProgram, runProgram } from '../helpers/shell.ts';

/** open_tree(2), mount_setattr(2) and move_mount(2), whose numbers are the same on all processors. */
const perl = `my ($userns, $tree) = (shift, shift);
open my $ns, "<", $userns or die "$userns: $!\\n";
my $none = "\\0";
my $fd = syscall 428, -100, "$tree\\0", 0x80001; # AT_FDCWD, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
my $attributes = pack "Q4", 0x100000, 0, 0, fileno $ns; # MOUNT_ATTR_IDMAP
$fd >= 0 and syscall(442, $fd, $none, 0x1000, $attributes, 32) == 0 # AT_EMPTY_PATH
  and syscall(429, $fd, $none, -100, "$tree\\0", 4) == 0 # MOVE_MOUNT_F_EMPTY_PATH
  or die "$tree can't be mounted with mapped IDs: $!: ext4, xfs, btrfs and tmpfs can, if the kernel is new enough\\n";
exec @ARGV or die "run: $ARGV[0]: $!\\n"`;

const mount = `mount --bind -o X-mount.idmap="$1" -- "$2" "$2" && shift 2 && exec "$@"`;

/**
 * The words of a command whose arguments are the file of a user namespace, a directory and another command: it mounts
 * the directory over itself with the IDs of that namespace, then becomes the other command. It uses mount(8) of
 * util-linux 2.39 or later, else perl. Throws Failure if neither is present.
 */
export async function idmapWords(): Promise<string[]> {
  const { stdout } = await runProgram(['mount', '--version']);
  const [, major = '0', minor = '0'] = /util-linux (\d+)\.(\d+)/.exec(stdout) ?? [];
  if (Number(major) > 2 || Number(minor) >= 39) return ['sh', '-c', mount, 'run'];
  if (findProgram('perl')) return ['perl', '-e', perl];
  throw new Failure(
    `--userns needs mount(8) of util-linux 2.39 or later, or perl: ${installCommand(['perl'])}`,
  );
}
