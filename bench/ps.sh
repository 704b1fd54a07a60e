#!/bin/bash
# How long it takes to list the containers of a host: ps.mjs beside lsns, ps and podman, with 0, 10 and 100 containers.
#
#   bench/ps.sh [RUNS]         with the node in PATH; NODE=/path/to/node takes another
#
# What is compared is the time on the processor, user and system: on a busy machine it varies least. "less node" leaves
# out what `node -e 0` takes, "to lsns" is the ratio of that to lsns with as many containers. The last line is what one
# look of --watch takes. Podman knows only its own, so it gets containers of its own; a hundred take it minutes, so ten.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
unset NODE_EXTRA_CA_CERTS
runs=${1:-20}
node=${NODE:-$(command -v node)}
rootfs=$PWD/rootfs/host

command -v hyperfine >/dev/null || { echo "bench: hyperfine is missing: apt-get install hyperfine" >&2; exit 1; }
[ -d "$rootfs" ] || scripts/fetch-rootfs.ts host: "$rootfs" >/dev/null
npm run --silent build
scratch=$(mktemp -d)
cp dist/{run,stop,ps}.mjs "$scratch" # another build meanwhile changes nothing
names=() podmen=()
podman="podman --runtime runc --cgroup-manager cgroupfs"
cleanup() {
  [ ${#names[@]} = 0 ] || "$node" "$scratch/stop.mjs" --timeout 0 "${names[@]}" || true
  [ ${#podmen[@]} = 0 ] || $podman rm -f -t 0 "${podmen[@]}" || true
  rm -rf "$scratch"
}
trap 'cleanup >/dev/null 2>&1' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# COUNT COMMAND...: one line for each, "COUNT NAME median milliseconds of user + system, and of the clock"
measure() {
  local count=$1
  shift
  hyperfine --shell=none --warmup 2 --runs "$runs" --export-json "$scratch/result" "$@" >/dev/null 2>"$scratch/errors" ||
    { cat "$scratch/errors" >&2 && echo "bench: one of the commands failed: hyperfine --shell=none '$*'" >&2; exit 1; }
  "$node" -e '
    const [file, count] = process.argv.slice(1);
    for (const { command, user, system, median } of JSON.parse(fs.readFileSync(file)).results)
      console.log([count, ((user + system) * 1000).toFixed(1), (median * 1000).toFixed(1), command].join("\t"));
  ' "$scratch/result" "$count" >>"$scratch/all"
}

for count in 0 10 100; do
  while [ ${#names[@]} -lt "$count" ]; do
    names+=("bench-$$-${#names[@]}")
    "$node" "$scratch/run.mjs" -d --name "${names[-1]}" "$rootfs" sleep 600 >/dev/null
  done
  measure "$count" "$node -e 0" lsns 'ps ax' "$node $scratch/ps.mjs" "$node $scratch/ps.mjs --json"
  # the difference of these two is ten looks
  measure "$count" "$node $scratch/ps.mjs --watch --json --interval 0.1 --count 1" \
    "$node $scratch/ps.mjs --watch --json --interval 0.1 --count 11"
done

if command -v podman >/dev/null; then
  options="--ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network host --rootfs $rootfs /bin/sleep 600"
  for count in 0 10; do
    while [ ${#podmen[@]} -lt "$count" ]; do
      podmen+=("bench-$$-podman-${#podmen[@]}")
      $podman run -d --name "${podmen[-1]}" $options >/dev/null 2>&1 || { echo 'podman is installed, but runs nothing here' >&2; break 2; }
    done
    measure "$count" "$podman ps"
  done
fi

"$node" -e '
  const lines = fs.readFileSync(process.argv[1], "utf8").trim().split("\n").map((line) => line.split("\t"));
  const [node, runs, scratch] = process.argv.slice(2);
  const short = (command) => command.replace(node, "node").replace(`node ${scratch}/`, "")
    .replace(/^podman .* ps$/, "podman ps");
  const found = (count, command) => lines.find(([its, , , name]) => its === count && short(name) === command);
  const time = (count, command) => Number(found(count, command)?.[1] ?? NaN);
  const print = (...cells) => console.log(cells.map((cell, i) => i ? cell.padStart(12) : cell.padEnd(18)).join("").trimEnd());
  console.log(`CPU time in ms to list containers; means of ${runs} runs, node ${process.version}\n`);
  print("", "containers", "CPU ms", "clock ms", "less node", "to lsns");
  for (const command of ["node -e 0", "lsns", "ps ax", "podman ps", "ps.mjs", "ps.mjs --json"])
    for (const count of ["0", "10", "100"]) {
      if (!found(count, command)) continue;
      const own = time(count, command) - time(count, "node -e 0");
      const ours = command.startsWith("ps.mjs");
      print(command, count, time(count, command).toFixed(1), found(count, command)[2],
        ours ? own.toFixed(1) : "", ours ? (own / time(count, "lsns")).toFixed(2) : "");
    }
  const watch = "ps.mjs --watch --json --interval 0.1 --count";
  for (const count of ["0", "10", "100"])
    print("one look of --watch", count, ((time(count, `${watch} 11`) - time(count, `${watch} 1`)) / 10).toFixed(1));
' "$scratch/all" "$node" "$runs" "$scratch"
