#!/bin/bash
# bare.sh [--prepare] [RELEASE] [COMMAND...]: runs npm ci and COMMAND (default: npm test) as a newcomer does, on a Debian that
# has its base packages, node and npm, and nothing else. RELEASE is bookworm (Debian 12, the default) or trixie (Debian 13); node and
# npm are those of this machine. With --prepare the user space is made and nothing is run. Needs root and debootstrap.
#
# Only the user space is another: the kernel, its cgroups and the network are this machine's. The user space is kept in
# $BAREHAND_HOSTS_CACHE (default: ~/.cache/barehand-tests); COMMAND runs in a copy of it, on a copy of the project. Packages come
# from this machine's cache of npm, where they are in it.
# The exit code is that of COMMAND, or 3 where the user space can't be made.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
prepare='' release=bookworm
[ "${1-}" != --prepare ] || { prepare=1 && shift; }
case ${1-} in bookworm | trixie) release=$1 && shift ;; esac
[ $# -gt 0 ] || set -- npm test

. tests/helpers/user-spaces.sh
base=$cache/$release-base
exec 7>"$base.lock"
flock 7 # another may be making it
[ -d "$base" ] || make_user_space "$release-base" "$release" || exit 3
exec 7>&-
[ -z "$prepare" ] || exit 0

make_run_folder
# mounts are made in a namespace of COMMAND's only, so that here there are none to cross
trap 'rm -rf --one-file-system "$run"' EXIT
cp -a "$base" "$run/root"
local=$run/root/usr/local
cp -L "$(command -v node)" "$local/bin/node"
npm=$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")
npm_cache=$(npm config get cache)
mkdir -p "$local/lib/node_modules" "$run/root/barehand" "$npm_cache"
cp -a "$npm" "$local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$local/bin/npm"
# all but what is made here: that is made there anew
tar -c --exclude=./.git --exclude=./rootfs/?* --exclude=./dist --exclude=./node_modules . | tar -x -C "$run/root/barehand"

environment+=(npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false)
environment+=(npm_config_cache=/var/cache/npm npm_config_prefer_offline=true)
cp /etc/resolv.conf /etc/hosts "$run/root/etc/"
# into the root of the cgroup tree: in a cgroup to itself it would be a container, whose limits hold for what its tests limit
for file in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
  { echo $$ >"$file"; } 2>/dev/null || :
done
unshare --mount --propagation private tests/helpers/enter-root.sh "$run/root" /barehand \
  "$npm_cache" /var/cache/npm -- env -i "${environment[@]}" sh -ec 'npm ci && exec "$@"' sh "$@" </dev/null 7>&- 8>&-
