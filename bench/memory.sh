#!/bin/bash
# What is kept running for a container in the background, outside of it: proportional set size (PSS, proc(5)
# smaps_rollup) and processes; barehand beside podman's conmon and containerd's shim where these are installed.
#
#   bench/memory.sh [COUNT]    as many containers of each kind at once, 10 by default; the figures are for one
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
count=${1:-10}
rootfs=$PWD/rootfs/host
[ -d "$rootfs" ] || scripts/fetch-rootfs.ts host: "$rootfs" >/dev/null
npm run --silent build
scratch=$(mktemp -d)
ended=()
trap 'for command in "${ended[@]}"; do $command; done >/dev/null 2>&1; rm -rf "$scratch"' EXIT
names=() && for i in $(seq "$count"); do names+=("bench-$$-$i"); done

# PIDs as arguments: their number and PSS for each of the containers
line() {
  local title=$1 pid sum=0
  shift
  for pid; do sum=$((sum + $(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$pid/smaps_rollup"))); done
  awk -v title="$title" -v sum=$sum -v pids=$# -v count="$count" \
    'BEGIN { printf "%-34s %8.1f %10.0f\n", title, pids / count, sum / count }'
}
children() { for pid; do grep -ls "^PPid:[[:space:]]$pid$" /proc/[0-9]*/status | cut -d/ -f3; done; }

printf '%-34s %8s %10s\n' "kept for each of $count containers" processes 'PSS in KiB'
for name in "${names[@]}"; do dist/run.mjs -d --name "$name" "$rootfs" sleep 600 >/dev/null; done
ended+=("dist/stop.mjs ${names[*]}")
keepers=()
for name in "${names[@]}"; do
  read -r first <"$(find /sys/fs/cgroup -path "*/barehand/$name/cgroup.procs" | head -n 1)"
  unshare=$(sed -n 's/^PPid:\t//p' "/proc/$first/status")
  keepers+=("$(sed -n 's/^PPid:\t//p' "/proc/$unshare/status")")
done
line 'run.mjs -d (sh, unshare, head, flock)' "${keepers[@]}" $(children "${keepers[@]}")

if command -v podman conmon >/dev/null; then
  podman="podman --runtime runc --cgroup-manager cgroupfs"
  options="--ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network host --rootfs $rootfs /bin/sleep 600"
  if $podman run -d --name "${names[0]}" $options >/dev/null 2>&1; then
    ended+=("$podman rm -f -t 0 ${names[*]}")
    for name in "${names[@]:1}"; do $podman run -d --name "$name" $options >/dev/null 2>&1; done
    conmons=() && for name in "${names[@]}"; do conmons+=("$($podman inspect --format '{{.State.ConmonPid}}' "$name")"); done
    line 'podman run -d (conmon)' "${conmons[@]}"
  else
    echo 'podman is installed, but runs nothing here' >&2
    $podman rm -f "${names[0]}" >/dev/null 2>&1 || true
  fi
fi

if command -v containerd ctr >/dev/null; then
  printf 'version = 2\nroot = "%s/root"\nstate = "%s/state"\n[grpc]\naddress = "%s/socket"\n' "$scratch" "$scratch" "$scratch" >"$scratch/config"
  containerd --config "$scratch/config" >"$scratch/log" 2>&1 &
  daemon=$!
  ended+=("kill $daemon" "find /sys/fs/cgroup -maxdepth 2 -name bench-$$ -type d -exec rmdir {} +")
  ctr="ctr --address $scratch/socket --namespace bench-$$"   # which is a cgroup too
  for _ in $(seq 50); do [ ! -S "$scratch/socket" ] || break && sleep 0.1; done
  shims=()
  for name in "${names[@]}"; do
    $ctr run -d --rootfs --net-host "$rootfs" "$name" /bin/sleep 600 >/dev/null || break
    ended=("$ctr task kill -s KILL $name" "$ctr task rm -f $name" "$ctr container rm $name" "${ended[@]}")
    shims+=("$(sed -n 's/^PPid:\t//p' "/proc/$($ctr task ls | awk -v name="$name" '$1 == name { print $2 }')/status")")
  done
  [ ${#shims[@]} -lt "$count" ] || line 'ctr run -d (containerd-shim)' "${shims[@]}"
  [ ${#shims[@]} -lt "$count" ] || line 'the same, and its containerd' "${shims[@]}" "$daemon"
fi
