#!/bin/bash
# How long it takes to put a running tree of processes under a limit: limit-pids.mjs beside a plain loop of the shell's over
# cgroup.procs, which finds the tree with one ps(1). The loop takes no second look, so what forks meanwhile gets away.
#
#   bench/attach.sh [PROCESSES [RUNS]]    1000 and 10 by default
set -eu
unset NODE_EXTRA_CA_CERTS
cd "$(dirname "$(readlink -f "$0")")/.."
processes=${1:-1000} runs=${2:-10}
npm run --silent build

cgroups=/sys/fs/cgroup/pids
[ -d $cgroups ] || cgroups=/sys/fs/cgroup
folder=$cgroups/bench-attach-$$ scratch=$(mktemp -d)
setsid sh -c 'i=1; while [ $i -lt "$1" ]; do sleep 3600 & i=$((i + 1)); done; wait' sh "$processes" &
tree=$!
ended() {
  kill -- -$tree || :
  wait || :
  for try in 1 2 3 4 5; do rmdir "$folder" && break || sleep 0.2; done
  rm -rf "$scratch"
} 2>/dev/null
trap ended EXIT
until [ "$(pgrep -g $tree | wc -l)" = "$processes" ]; do sleep 0.1; done

cat >"$scratch/loop" <<END
mkdir -p $folder
[ $cgroups != /sys/fs/cgroup ] || echo +pids >$cgroups/cgroup.subtree_control
echo 5000 >$folder/pids.max
for pid in \$(ps -eo pid=,pgid= | awk '\$2 == $tree { print \$1 }'); do echo \$pid >$folder/cgroup.procs; done
END
back=$(sed -n 's/^[0-9]*:pids:\|^0:://p' /proc/$tree/cgroup | head -n 1)
cat >"$scratch/back" <<END
dist/limit-pids.mjs --reset $tree >/dev/null 2>&1
[ ! -d $folder ] || while read -r pid; do echo \$pid >$cgroups$back/cgroup.procs; done <$folder/cgroup.procs; :
END

hyperfine --shell=none --warmup 1 --runs "$runs" --export-json "$scratch/json" \
  -n loop --prepare "sh $scratch/back" "sh $scratch/loop" \
  -n limit-pids.mjs --prepare "sh $scratch/back" "dist/limit-pids.mjs $tree 5000" \
  -n 'limit-pids.mjs, in place' --prepare true "dist/limit-pids.mjs $tree 5000" \
  -n 'node -e 0' --prepare true 'node -e 0' >/dev/null 2>"$scratch/error" || { cat "$scratch/error" >&2; exit 1; }
dist/limit-pids.mjs --reset $tree >/dev/null
node -e '
  const { results } = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
  const loop = results[0].median;
  console.log(`${process.argv[2]} processes`.padEnd(28), "median ms".padStart(10), "to the loop".padStart(12));
  for (const { command, median } of results)
    console.log(command.padEnd(28), (median * 1000).toFixed(1).padStart(10), (median / loop).toFixed(2).padStart(12));
' "$scratch/json" "$processes"
