#!/bin/bash
# Throughput between two containers on a bridge of network.ts's beside the same pair made by hand with ip(8), and how
# long attach takes beside the plain commands and podman. All in a network namespace that stands for the host.
#
#   bench/network.sh [RUNS]    10 by default. Both pairs are measured in turns, each first every other time; all figures
#                              are medians, that of the ratio is over the runs
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
if [ -z "${BENCH_INSIDE:-}" ]; then
  for program in iperf3 nft ip; do
    command -v $program >/dev/null || { echo "bench: $program is missing: apt-get install iperf3 nftables iproute2" >&2; exit 1; }
  done
  npm run --silent build
  BENCH_INSIDE=1 exec unshare --net --mount --propagation private "$0" "$@"
fi
unset NODE_EXTRA_CA_CERTS # reading them is not what is measured
runs=${1:-10}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || :' EXIT
median() { sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
milliseconds() { local start=${EPOCHREALTIME/./}; "$@" >/dev/null 2>&1; echo $(((${EPOCHREALTIME/./} - start) / 1000)); }
holder() { # sets $pid: a process with a network namespace of its own
  unshare --net sleep 1000 &
  pid=$!
  pids+=($pid)
  until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
}

ip link set lo up
byHand() { # PID NUMBER: what a runbook would have
  ip link add name "v$2" type veth peer name eth0 netns "$1"
  ip link set dev "v$2" master br0 up
  nsenter --target "$1" --net ip link set lo up
  nsenter --target "$1" --net ip address add "10.99.0.$2/24" dev eth0
  nsenter --target "$1" --net ip link set eth0 up
  nsenter --target "$1" --net ip route add default via 10.99.0.1
}
bridgeByHand() {
  ip link add name br0 type bridge
  ip address add 10.99.0.1/24 dev br0
  ip link set br0 up
  nft -f - <<<'table ip byhand { chain post { type nat hook postrouting priority 100
    ip saddr 10.99.0.0/24 oifname != "br0" masquerade
    }
  }'
}
bridgeByHand
holder && one=$pid && holder && other=$pid && holder && third=$pid && holder && fourth=$pid
byHand "$one" 2
byHand "$other" 3
dist/network.mjs attach --no-files "$third" >/dev/null
dist/network.mjs attach --no-files "$fourth" >/dev/null
serverOf() { nsenter --target "$1" --net iperf3 -s >/dev/null 2>&1 & pids+=($!); }
serverOf "$other"
serverOf "$fourth"
sleep 0.5
throughput() { # PID ADDRESS: Gbit/s
  nsenter --target "$1" --net iperf3 -c "$2" -t 2 -O 0.3 -J | awk '/"sum_received"/ { found = 1 } found && /bits_per_second/ { gsub(/[^0-9.e+]/, "", $2); printf "%.2f\n", $2 / 1e9; exit }'
}
hand=() ours=() ratios=()
for run in $(seq "$runs"); do
  for whose in $([ $((run % 2)) = 0 ] && echo hand ours || echo ours hand); do
    case $whose in
      hand) hand+=("$(throughput "$one" 10.99.0.3)") ;;
      ours) ours+=("$(throughput "$third" 10.88.0.3)") ;;
    esac
  done
  ratios+=("$(awk -v a="${ours[-1]}" -v b="${hand[-1]}" 'BEGIN { printf "%.2f", a / b }')")
done
printf '%-44s %8s\n' 'between two containers, medians' 'Gbit/s' \
  'ip(8) by hand' "$(printf '%s\n' "${hand[@]}" | median)" 'network.mjs' "$(printf '%s\n' "${ours[@]}" | median)" \
  'ratio' "$(printf '%s\n' "${ratios[@]}" | median)"
printf '%-44s %8s\n\n' 'ratios, from and to' "$(printf '%s\n' "${ratios[@]}" | sort -g | sed -n '1p;$p' | tr '\n' ' ')"

# how long attach takes, all in turns: what is compared has had the same load
hand=() ours=() pasted=() bare=() podman=()
# podman's own way: a second network for containers that run, whose bridge is there after the first
if command -v podman >/dev/null && [ -x /usr/lib/podman/netavark ]; then
hasPodman=1
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
printf '[network]\nnetwork_backend = "netavark"\n[engine]\nevents_logger = "none"\n' >/run/containers.conf
export CONTAINERS_CONF=/run/containers.conf
podman() { command podman --runtime runc --cgroup-manager cgroupfs --network-config-dir /run/networks "$@"; }
podman network create one >/dev/null
podman network create other >/dev/null
names=() times=()
made=barehand-bench # its cgroups, and podman's own if they are not there already
[ -n "$(compgen -G '/sys/fs/cgroup/libpod_parent'; compgen -G '/sys/fs/cgroup/*/libpod_parent')" ] || made+=' libpod_parent'
cleanUp() {
  podman rm -f -t 0 "${names[@]}" >/dev/null 2>&1 || :
  for name in $made; do rmdir /sys/fs/cgroup/{,*/}"$name"/{conmon,} 2>/dev/null || :; done
  kill "${pids[@]}" 2>/dev/null || :
}
trap cleanUp EXIT
fi
for number in $(seq 10 $((10 + runs))); do
  holder && hand+=("$(milliseconds byHand "$pid" "$number")")
  holder && ours+=("$(milliseconds dist/network.mjs attach --no-files "$pid")")
  bare+=("$(milliseconds node -e 0)")
  holder && program=$(dist/network.mjs attach --dry-run --no-files "$pid") && pasted+=("$(milliseconds sh -c "$program")")
  [ "${hasPodman:-}" ] || continue
  names+=("c$number")
  podman run -d --name "c$number" --cgroup-parent /barehand-bench --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 \
    --network one --rootfs "$PWD/rootfs/host" sleep 1000 >/dev/null 2>&1 || { echo "podman runs nothing here" >&2; hasPodman=; continue; }
  podman+=("$(milliseconds podman network connect other "c$number")")
done
# the first of each makes bridges, and is not counted
report() { local -n all=$2; [ "${#all[@]}" -le 1 ] || printf '%-44s %8s\n' "$1" "$(printf '%s\n' "${all[@]:1}" | median)"; }
printf '%-44s %8s\n' 'attach to a bridge that is there, medians' ms
report 'ip(8) by hand' hand
report 'what --dry-run prints, pasted' pasted
report 'network.mjs attach' ours
report 'node -e 0' bare
report 'podman network connect' podman
