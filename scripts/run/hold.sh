# shellcheck shell=dash
# ROOTFS HOSTNAME COMMAND...: PID 1, while it is still a shell of the host's. It mounts what the root is put together
# on, says its PID on the host, and goes on when it is in its cgroups. Standard input is what it waits on, and
# standard error what is read by who waits for it. Unbindable: a volume that ROOTFS lies in must not contain it, mount_namespaces(7).
cd -- "$1" && mount -n -t tmpfs -o mode=755,unbindable tmpfs "$1" || exit 125
# that file is the host root's; sethostname(2) is for root of a user namespace too
[ -z "$2" ] || { echo "$2" >/proc/sys/kernel/hostname; } 2>/dev/null || hostname "$2" || exit 125
shift 2
read -r pid _ _ unshare _ </proc/self/stat
# a parent that ended before setpriv(1) had set the death signal is not noticed, prctl(2)
read -r _ _ _ launcher _ <"/proc/$unshare/stat"
# shellcheck disable=SC2154 # parent comes from whoever starts the chain
[ "$launcher" = "$parent" ] || exit 125
echo "$pid" >&2
read -r _ || exit 125
# pivot_root(2) moves those who are in the root directory, and from nowhere else may there be a way back
cd / || exit 125
exec "$@"
