#!/bin/sh
# ROOT DIRECTORY [SOURCE TARGET...] -- COMMAND...: runs COMMAND in ROOT, a user space, under the kernel, network and cgroups of
# this machine; each SOURCE is mounted on TARGET there. The mount namespace has to be its own: unshare --mount.
set -eu
root=$1 directory=$2
shift 2
# pivot_root(2) wants a mount point; with chroot(2) only, unshare(2) would refuse user namespaces: EPERM
mount --bind "$root" "$root"
for place in /proc /sys /dev; do mount --rbind $place "$root$place"; done
mount -t tmpfs -o mode=755 run "$root/run"
while [ "$1" != -- ]; do
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  shift 2
done
shift
cd "$root"
pivot_root . .
umount --lazy .
cd "$directory"
exec "$@"
