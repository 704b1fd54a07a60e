# shellcheck shell=dash
# ROOT TOOLS FILES COMMAND...: runs COMMAND in a chroot, in a mount namespace that ends with it. FILES, programs and their
# libraries, are on a read-only tmpfs in the new root: after the chroot no path leads to the host.
set -e
cd -- "$1"
mkdir "$2"
mount -t tmpfs -o mode=755,size=64m tar "$2"
# shellcheck disable=SC2086 # several words
cp -L $3 "$2"
mount -o remount,ro tar "$2"
shift 3
exec chroot . "$@"
