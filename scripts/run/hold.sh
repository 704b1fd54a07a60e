# shellcheck shell=dash
# ROOTFS HOSTNAME COMMAND...: the future PID 1 while it is a shell of the host. It mounts the stage over ROOTFS, sets
# the host name, prints its PID, waits until it is in its cgroups, and becomes COMMAND.
# Standard input is the pipe that it waits on. node reads standard error.

cd -- "$1" 2>/dev/null || {
  echo "the container's root may not enter ROOTFS: type chmod a+x on it and on each directory above it" >&2
  exit 125
}
# unbindable: a volume that contains ROOTFS must not contain the stage, mount_namespaces(7)
mount -n -t tmpfs -o mode=755,unbindable tmpfs "$1" || exit 125
# in a user namespace, the kernel's file is not writable, but hostname(1) works: it calls sethostname(2)
[ -z "$2" ] || { echo "$2" >/proc/sys/kernel/hostname; } 2>/dev/null || hostname "$2" || exit 125
shift 2
read -r pid _ _ unshare _ </proc/self/stat
# if the parent ended before setpriv(1) set the death signal, no signal comes, prctl(2)
read -r _ _ _ launcher _ <"/proc/$unshare/stat"
# shellcheck disable=SC2154 # the environment has parent
[ "$launcher" = "$parent" ] || exit 125
echo "$pid" >&2
read -r _ || exit 125
# pivot_root(2) changes a working directory only if it is the old root; any other would be a way back to the host
cd / || exit 125
exec "$@"
