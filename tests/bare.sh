#!/bin/bash
# bare.sh [COMMAND...]: runs COMMAND (default: npm test) as a newcomer does, on a Debian 12 that has its base packages,
# node and npm, and nothing else. Needs root and debootstrap.
#
# Only the user space is another: the kernel, its cgroups and the network are this machine's. The user space is kept in
# $BAREHAND_HOSTS_CACHE (default: ~/.cache/barehand-tests); COMMAND runs in a copy of it, on a copy of the project.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
[ $# -gt 0 ] || set -- npm test

cache=${BAREHAND_HOSTS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/barehand-tests}
base=$cache/bookworm-base
mkdir -p "$cache"
if ! [ -d "$base" ]; then
  echo "bare: making Debian 12 in $base" >&2
  rm -rf --one-file-system "$base.partial"
  debootstrap --variant=minbase bookworm "$base.partial" >"$base.log" 2>&1 ||
    { tail -n 5 "$base.log" >&2 && echo "bare: is a mirror of Debian reachable? see $base.log" >&2 && exit 3; }
  rm -rf "$base.partial"/var/cache/apt/archives/*.deb "$base.partial/var/lib/apt/lists"
  mv "$base.partial" "$base" # what was interrupted is not taken for whole
fi

run=$(mktemp -d "$cache/run.XXXXXX")
# mounts are made in a namespace of COMMAND's only, so that here there are none to cross
trap 'rm -rf --one-file-system "$run"' EXIT
cp -a "$base" "$run/root"
local=$run/root/usr/local
cp -L "$(command -v node)" "$local/bin/node"
npm=$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")
mkdir -p "$local/lib/node_modules" "$run/root/barehand"
cp -a "$npm" "$local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$local/bin/npm"
# all but what is made here: that is made there anew
tar -c --exclude=./.git --exclude=./rootfs/?* --exclude=./dist . | tar -x -C "$run/root/barehand"

# shellcheck disable=SC2016 # a program for the shell in there
enter='
root=$1
shift
# pivot_root(2) wants a mount point; with chroot(2) only, unshare(2) would refuse user namespaces: EPERM
mount --bind "$root" "$root"
for directory in /proc /sys /dev; do mount --rbind $directory "$root$directory"; done
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
cd "$root"
pivot_root . .
umount --lazy .
cd /barehand
exec "$@"
'
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb)
environment+=(npm_config_update_notifier=false "BAREHAND_REQUIRE=root,namespaces,cgroup" ${BAREHAND_CI:+"BAREHAND_CI=$BAREHAND_CI"})
unshare --mount --propagation private sh -ec "$enter" enter "$run/root" env -i "${environment[@]}" "$@" </dev/null
