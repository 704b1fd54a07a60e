# shellcheck shell=bash
# For bare.sh and hosts.sh, which set `cache`: user spaces made by debootstrap, and folders and environments of
# their runs.
set -eu
# shellcheck disable=SC2034 # for those
cache=${BAREHAND_HOSTS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/barehand-tests}
mkdir -p "$cache"
cache=$(readlink -f "$cache")

# All that a command in a user space has of an environment.
# shellcheck disable=SC2034 # for those
environment=(
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
  "BAREHAND_REQUIRE=root,namespaces,cgroup" ${BAREHAND_CI:+"BAREHAND_CI=$BAREHAND_CI"}
)

# Makes $cache/NAME, but for what was interrupted: that is not taken for whole.
make_user_space() { # NAME RELEASE [OPTION OF DEBOOTSTRAP...]
  local partial=$cache/$1.partial log=$cache/$1.log name=$1 release=$2
  shift 2
  echo "making $release in $cache/$name" >&2
  rm -rf --one-file-system "${cache:?}/$name" "$partial"
  # it mounts /proc there: in a mount namespace of its own no such mount is left, or seen by others
  unshare --mount --propagation private debootstrap --variant=minbase "$@" "$release" "$partial" >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    echo "cannot make $release: is a mirror of Debian reachable, and does debootstrap know $release? see $log" >&2
    return 1
  }
  rm -rf "$partial"/var/cache/apt/archives/*.deb "$partial/var/lib/apt/lists"
  mv "$partial" "$cache/$name"
}

# Makes a folder for a run, `run`. Those of runs that were killed are removed: nobody has a lock on them.
make_run_folder() {
  local old
  exec 9>"$cache/runs.lock"
  flock 9
  for old in "$cache"/run.*/; do
    [ ! -d "$old" ] || flock --nonblock "$old" rm -rf --one-file-system "$old" || true
  done
  run=$(mktemp -d "$cache/run.XXXXXX")
  exec 8<"$run" 9>&-
  flock 8
}
