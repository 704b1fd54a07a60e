# shellcheck shell=dash
# PREFIX NODE ID [STALE_ID...]: removes what test processes have left that were killed: at once what those have that ended
# before, then, when standard input has ended, what that of ID has. See leftovers.ts for the IDs; PREFIXID is a
# process's folder. NODE runs stop.ts.
prefix=$1 node=$2 own=$3
shift 3

# The first process of ID's containers has an environment of its own. Names of cgroups begin with ID's PID only: where
# that is another process's by now, they are that one's.
cgroups() { # ID
  pid=${1%-*}
  ticks=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d ' ' -f 20)
  [ "${ticks:-${1#*-}}" != "${1#*-}" ] ||
    find /sys/fs/cgroup -maxdepth 3 -type d \( -name "test-$pid-*" -o -name "barehand-test-$pid-*" \) 2>/dev/null
}

processes() { # ID
  grep -slzx "BAREHAND_TEST=$1" /proc/[0-9]*/environ | tr -cd '0-9\n'
  cgroups "$1" | while read -r cgroup; do
    # a frozen v1 cgroup's processes end only when it is thawed
    [ ! -e "$cgroup/freezer.state" ] || echo THAWED >"$cgroup/freezer.state"
    find "$cgroup" -name cgroup.procs -exec cat {} +
  done 2>/dev/null
}

clean_up() { # ID
  folder=$prefix$1
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    pids=$(processes "$1")
    [ "$pids" ] || break
    # shellcheck disable=SC2086 # a list of numbers
    kill -KILL $pids 2>/dev/null
    sleep 0.1
  done
  cgroups "$1" | while read -r cgroup; do
    rm -rf "/run/barehand/${cgroup##*/}" "/run/runc/${cgroup##*/}"
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  losetup --noheadings --raw --output NAME,BACK-FILE | while read -r disk file; do
    case $file in "$folder"/*) losetup --detach "$disk" ;; esac
  done 2>/dev/null
  rm -rf --one-file-system "$folder"
  # cgroups of limit-*.ts, and networks
  "$node" "$(dirname "$0")/../../dist/stop.mjs" --sweep >/dev/null 2>&1
}

for id; do clean_up "$id"; done
read -r _
[ ! -d "$prefix$own" ] || clean_up "$own"
