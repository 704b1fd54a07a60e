#!/bin/bash
# How long /bin/true takes in a container: barehand beside what else is installed, in one run, as ratios.
#
#   bench/start.sh [RUNS]      with the node in PATH; NODE=/path/to/node takes another
#
# Every peer is also measured behind `node -e 0`. That is the fair comparison with run.mjs, which starts node first:
# the kernel's first move of a process between cgroups after some idle milliseconds waits for an RCU grace period, some
# 10 ms, and programs that are measured back to back are spared it. "to runc" is the ratio to runc behind a node.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
unset NODE_EXTRA_CA_CERTS
runs=${1:-30}
node=${NODE:-$(command -v node)}
rootfs=$PWD/rootfs/host

command -v hyperfine >/dev/null || { echo "bench: hyperfine is missing: apt-get install hyperfine" >&2; exit 1; }
[ -d "$rootfs" ] || scripts/fetch-rootfs.ts host: "$rootfs" >/dev/null
npm run --silent build
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

names=() commands=()
add() { names+=("$1") commands+=("$2"); }
peer() { add "$1" "$2" && add "node; $1" "sh -c '$node -e 0; exec $2'"; }

add 'node' "$node -e 0"
peer 'unshare + chroot' "unshare -pf --mount-proc=$rootfs/proc chroot $rootfs /bin/true"
add 'run.ts' "env PATH=${node%/*}:$PATH scripts/run.ts $rootfs /bin/true"
add 'run.mjs' "$node dist/run.mjs $rootfs /bin/true"
scripts/run.ts --dry-run --name bench "$rootfs" /bin/true >"$scratch/launch"
peer 'its shell program' "sh $scratch/launch"
if command -v runc >/dev/null; then
  (cd "$scratch" && runc spec)
  "$node" -e '
    const [file, rootfs] = process.argv.slice(1), config = JSON.parse(fs.readFileSync(file));
    Object.assign(config.process, { terminal: false, args: ["/bin/true"] });
    config.root = { path: rootfs };
    config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== "network");
    fs.writeFileSync(file, JSON.stringify(config))' "$scratch/config.json" "$rootfs"
  peer 'runc run' "runc run --bundle $scratch barehand-bench"
fi
! command -v bwrap >/dev/null ||
  peer 'bwrap' "bwrap --bind $rootfs / --proc /proc --dev /dev --unshare-pid --unshare-uts --unshare-ipc --unshare-cgroup /bin/true"
! command -v systemd-nspawn >/dev/null ||
  peer 'systemd-nspawn' "systemd-nspawn -q -D $rootfs --register=no --keep-unit /bin/true"
podman="podman --runtime runc --cgroup-manager cgroupfs run --rm --network host --rootfs $rootfs /bin/true"
if command -v podman >/dev/null; then
  if $podman >/dev/null 2>&1; then peer 'podman run' "$podman"; else echo "podman is installed, but runs nothing here" >&2; fi
fi

hyperfine --shell=none --warmup 3 --runs "$runs" --export-json "$scratch/result" "${commands[@]}" >/dev/null 2>&1 ||
  { echo "bench: one of the commands failed: hyperfine --shell=none '${commands[*]}'" >&2; exit 1; }
"$node" -e '
  const [file, ...names] = process.argv.slice(1);
  const { results } = JSON.parse(fs.readFileSync(file));
  const times = Object.fromEntries(names.map((name, i) => [name, results[i]]));
  const milliseconds = (name) => times[name] && times[name].median * 1000;
  const floor = milliseconds("node"), runc = milliseconds("node; runc run");
  console.log(`/bin/true in a container; medians of ${results[0].times.length} runs, node ${process.version}\n`);
  const line = (what, ...cells) => console.log(what.padEnd(24), cells.map((cell) => cell.padStart(12)).join("").trimEnd());
  line("", "median ms", "fastest ms", "less node", "to runc");
  for (const name of names) {
    const ms = milliseconds(name);
    const nodes = name === "node" || name.startsWith("node;") || name.startsWith("run.");
    line(name, ms.toFixed(1), (times[name].min * 1000).toFixed(1), nodes ? (ms - floor).toFixed(1) : "",
      runc && nodes && name !== "node" ? (ms / runc).toFixed(2) : "");
  }' "$scratch/result" "${names[@]}"
