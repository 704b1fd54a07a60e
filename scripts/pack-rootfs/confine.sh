# shellcheck shell=dash
# TOOLS FILES COMMAND...: runs COMMAND in a chroot, in a mount namespace that ends with it. The working directory is the
# root file system to read. The new root is a tmpfs: in TOOLS it has FILES, tar(1) and its libraries, and in /rootfs that
# directory, without anything that is mounted below it, and nothing of the host.
set -e
exec 9<.
# the root of the mount namespace, or of this process: nobody can move it, and its .. is what is mounted last on it
until [ . -ef .. ]; do cd -P ..; done
mount --no-canonicalize --make-rprivate .
mount --no-canonicalize -t tmpfs -o mode=755,size=64m tar .
mkdir ../rootfs "../$1"
# shellcheck disable=SC2086 # several words
cp -L $2 "../$1"
mount --no-canonicalize --bind /proc/self/fd/9/. ../rootfs
shift 2
exec chroot .. "$@" 9<&-
