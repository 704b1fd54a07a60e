#!/bin/bash
# hosts.sh [HOST:NODE[:VARIANT]...] [FILE...] [--test-...]: the tests that start programs of the host, on other hosts.
# HOST is trixie (Debian 13) or sid. NODE is a major version of node. VARIANT is `bare`, without perl and python3, or
# `bash`, with bash as /bin/sh. FILEs are names in tests/, as run.test.ts. Words with --test- go to node, as
# --test-name-pattern=volume. The defaults are `jobs` and `files` below. Needs root, debootstrap and npm.
#
# A host is a user space made by debootstrap under the kernel, network and cgroups of this machine. It is kept, as are
# the versions of node, in $BAREHAND_HOSTS_CACHE (default: ~/.cache/barehand-tests), and made anew where it is broken
# or lacks a package. Tests run on a copy. BAREHAND_HOSTS_TIMEOUT is how many seconds a job may take (default: 1800).
#
# The exit code is 1 where a test failed, 3 where a host or a node can't be made, 2 for wrong usage.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
project=$PWD

fail() { echo "hosts: $2" >&2 && exit "$1"; } # CODE MESSAGE

jobs=() files=() options=()
for word; do
  case $word in
    trixie:*:bare | trixie:*:bash | sid:*:bare | sid:*:bash) jobs+=("$word") ;;
    *:*:*) fail 2 "no such variant: $word: it is HOST:NODE, HOST:NODE:bare or HOST:NODE:bash" ;;
    trixie:[1-9]* | sid:[1-9]*) jobs+=("$word") ;;
    --test-*) options+=("$word") ;;
    *.test.ts)
      files+=("tests/$(basename "$word")")
      [ -e "${files[-1]}" ] || fail 2 "no such test file: ${files[-1]}"
      ;;
    *) fail 2 "neither HOST:NODE, as trixie:24, nor a test file: $word" ;;
  esac
done
[ ${#jobs[@]} -gt 0 ] || jobs=(trixie:22 trixie:24 sid:22 sid:24 trixie:22:bare trixie:24:bash)
[ ${#files[@]} -gt 0 ] ||
  for name in run run-options container-options exec ps stop logs limit-memory fetch-rootfs programs; do
    files+=("tests/$name.test.ts")
  done

[ "$(id -u)" = 0 ] || fail 2 'must be root, to make a user space: sudo'
for program in debootstrap npm flock unshare pivot_root; do
  command -v $program >/dev/null || fail 3 "$program is missing: apt-get install debootstrap npm util-linux"
done
. tests/helpers/user-spaces.sh
case $cache/ in "$project"/*) fail 2 "the cache $cache is in the project's folder: set BAREHAND_HOSTS_CACHE" ;; esac

# what the tests compare with and run in, beside what every Debian has
packages=ca-certificates,util-linux-extra,procps,iproute2,libcap2-bin,expect,python3,tini,uidmap,nftables
packages+=,busybox-static,zstd,xz-utils,bzip2,attr,e2fsprogs,openssl,socat,runc,bubblewrap

# ---- a user space and a node: made once, kept

# The stamp is written last, so that what was interrupted is not taken for whole.
is_whole() { # HOST
  [ "$(cat "$cache/$1/.stamp" 2>/dev/null)" = "$packages" ] &&
    [ -z "$(chroot "$cache/$1" dpkg --audit 2>&1)" ] && chroot "$cache/$1" unshare --version >/dev/null 2>&1
}

make_host() { # HOST
  ! is_whole "$1" || return 0
  make_user_space "$1" "$1" --include="$packages" || return
  echo "$packages" >"$cache/$1/.stamp"
}

make_node() { # MAJOR
  local folder=$cache/node-$1
  case $("$folder/node_modules/node/bin/node" --version 2>/dev/null) in "v$1".*) return ;; esac
  rm -rf "$folder"
  npm install --silent --no-save --prefix "$folder" "node@$1" >&2
}

made=()
for job in "${jobs[@]}"; do
  IFS=: read -r host node _ <<<"$job"
  case " ${made[*]} " in *" $host "*) ;; *)
    (flock 9 && make_host "$host") 9>"$cache/lock" ||
      fail 3 "no tests were run: cannot make $host: is a mirror of Debian reachable, and does debootstrap know $host? see $cache/$host.log"
    ;;
  esac
  case " ${made[*]} " in *" node-$node "*) ;; *)
    (flock 9 && make_node "$node") 9>"$cache/lock" ||
      fail 3 "no tests were run: cannot install node $node: is the registry of npm reachable? npm view node@$node version"
    ;;
  esac
  made+=("$host" "node-$node")
done

# what tests share is made here, once; each host makes its own rootfs/host of its own programs
npm run --silent build
node tests/strip/strip.mjs

make_run_folder
job_pid=

# processes that a job has left, by a variable that they inherit
left() { grep -slzx "BAREHAND_HOSTS=$run" /proc/[0-9]*/environ | tr -cd '0-9\n'; }
left_behind() {
  local pid
  for pid in $(left); do echo "$pid ($(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline"))"; done
}
# a test may have paused it: SIGKILL ends a process of a frozen v1 cgroup only when that is thawed
thaw() { # PID
  local path
  path=$(sed -n 's/^[0-9]*:freezer:\(.*\/barehand\/.*\)/\1/p' "/proc/$1/cgroup" 2>/dev/null) || return 0
  [ -z "$path" ] || echo THAWED >"/sys/fs/cgroup/freezer$path/freezer.state" || true
}
end_left() {
  local pid
  for _ in 1 2 3 4 5; do
    for pid in $(left); do
      kill -KILL "$pid" 2>/dev/null || true
      thaw "$pid"
    done
    [ -n "$(left)" ] || return 0
    sleep 0.2
  done
}

# mounts are made in a namespace of the job's only, so that here there are none to cross
clean_up() { rm -rf --one-file-system "$run"; }
stop_job() {
  [ -z "$job_pid" ] || { kill "$job_pid" 2>/dev/null && wait "$job_pid"; } || true
  end_left
}
trap clean_up EXIT
trap 'stop_job; exit 130' INT
trap 'stop_job; exit 143' TERM

# ---- a job: in mount namespaces of its own, on a copy of the user space

# shellcheck disable=SC2016
tests='
scripts/fetch-rootfs.ts --quiet host: rootfs/host >/dev/null
exec tests/all.sh --test-concurrency=2 "$@"
'

prepare_root() { # ROOT VARIANT
  local root=$1 program
  cp -a "$cache/$host" "$root"
  rm -f "$root/etc/resolv.conf"
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  case $2 in
    bash) ln -sf bash "$root/usr/bin/sh" ;;
    bare) for program in "$root"/usr/bin/{perl,python}*; do rm -f "$program"; done ;;
  esac
}

run_job() { # JOB: its output into $log
  local host node variant root=$run/root
  IFS=: read -r host node variant <<<"$1"
  rm -rf --one-file-system "$root" "$run/rootfs"
  mkdir "$run/rootfs"
  prepare_root "$root" "$variant"
  timeout --kill-after=10 "${BAREHAND_HOSTS_TIMEOUT:-1800}" unshare --mount --propagation private \
    tests/helpers/enter-root.sh "$root" "$project" "$project" "$project" "$run/rootfs" "$project/rootfs" \
    "$cache/node-$node/node_modules/node/bin" /usr/local/bin -- \
    env -i "${environment[@]}" BAREHAND_HOSTS="$run" bash -ec "$tests" tests "${options[@]}" "${files[@]}" </dev/null >"$log" 2>&1 8>&- &
  job_pid=$!
  wait "$job_pid"
}

count() { sed -n "s/^ℹ $1 //p" "$log" | tail -n 1 | grep . || echo 0; } # pass|fail|cancelled|skipped

failed=0
for job in "${jobs[@]}"; do
  log=$run/log status=0 start=$SECONDS
  run_job "$job" || status=$?
  job_pid=
  pass=$(count pass) skip=$(count skipped) fail=$(($(count fail) + $(count cancelled)))
  left=$(left_behind)
  # a run without an end, or with nothing in it, has failed as well
  if [ $status != 0 ] || [ "$left" ] || [ $((pass + skip)) = 0 ]; then
    failed=$((failed + 1))
    cat "$log"
    [ $status != 124 ] || echo "hosts: $job: not done after ${BAREHAND_HOSTS_TIMEOUT:-1800} s" >&2
    [ -z "$left" ] || echo "hosts: $job: left behind: $left" >&2
    end_left
  fi
  echo "$job: $pass passed, $fail failed, $skip skipped, in $((SECONDS - start)) s"
  sed -n 's/.*# \(needs .*\)/skipped: \1/p' "$log" | sort | uniq -c
done
[ $failed = 0 ]
