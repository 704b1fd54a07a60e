#!/bin/bash
# How long fetch-rootfs docker://… takes from a registry to a root file system, beside `skopeo copy` and `umoci unpack` of the
# same image from the same registry, in turns; and the memory that each takes at most.
#
#   bench/pull.sh [RUNS]      with the node in PATH; NODE=/path/to/node takes another
#
# The image has four layers with node, and what this host has in /usr/share and /usr/lib/python3. The registry is docker-registry on
# the loopback interface; all else is in /dev/shm where that is a tmpfs.
set -eu
unset NODE_EXTRA_CA_CERTS
cd "$(dirname "$(readlink -f "$0")")/.."
runs=${1:-5}
node=${NODE:-$(command -v node)}
. bench/helpers/peak.sh
for program in docker-registry skopeo umoci; do
  command -v $program >/dev/null || { echo "bench: $program is missing: apt-get install $program" >&2; exit 1; }
done
npm run --silent build
scratch=$(mktemp -d -p "$([ "$(stat -f -c %T /dev/shm)" = tmpfs ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
registry=
trap '[ -z "$registry" ] || kill "$registry"; rm -rf "$scratch"' EXIT

cat >"$scratch/config.yml" <<END
version: 0.1
log: {accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $scratch/registry}}
http: {addr: '127.0.0.1:0', secret: bench}
END
docker-registry serve "$scratch/config.yml" 2>"$scratch/log" &
registry=$!
until host=$(grep -o '127\.0\.0\.1:[1-9][0-9]*' "$scratch/log"); do sleep 0.1; done
host=${host%%$'\n'*}

umoci init --layout "$scratch/layout"
umoci new --image "$scratch/layout:1"
for part in "$(readlink -f "$node")" /usr/share/perl /usr/share/doc /usr/lib/python3; do
  [ -e "$part" ] || continue
  tar -C / -cf "$scratch/layer.tar" "${part#/}" # umoci insert leaves out the end marker
  umoci raw add-layer --image "$scratch/layout:1" "$scratch/layer.tar"
done
skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$scratch/layout:1" "docker://$host/bench:1"
rm -r "$scratch/layout" "$scratch/layer.tar"
image=docker://$host/bench:1
echo "$(skopeo inspect --raw --tls-verify=false "$image" | grep -o tar+gzip | wc -l) layers, $(du -sm "$scratch/registry" | cut -f 1) MiB; node $("$node" --version)"

export XDG_CACHE_HOME=$scratch/cache DOCKER_CONFIG=$scratch
names=(skopeo+umoci fetch-rootfs.mjs 'fetch-rootfs.mjs, layers in the cache')
by_others() { skopeo --insecure-policy copy --quiet --src-tls-verify=false "$image" "oci:$scratch/copy:1" && umoci --log error raw unpack --image "$scratch/copy:1" "$scratch/into"; }
by_us() { "$node" dist/fetch-rootfs.mjs -q "$image" "$scratch/into" >/dev/null; }
turn() { # INDEX: one of the three, from a clean start
  rm -rf "$scratch/into" "$scratch/copy"
  [ "$1" = 2 ] || rm -rf "$scratch/cache"
  if [ "$1" = 0 ]; then echo by_others; else echo by_us; fi
}
export -f by_others by_us
export image scratch node

times=('' '' '') peaks=(0 0 0)
for ((run = 0; run < runs; run++)); do
  for index in 0 1 2; do
    how=$(turn "$index")
    start=$(date +%s%N)
    setsid bash -c "$how" &
    peak $!
    [ "$kibibytes" -le "${peaks[index]}" ] || peaks[index]=$kibibytes
    times[index]+=" $((($(date +%s%N) - start) / 1000000))"
  done
done
for index in 0 1 2; do
  echo "${names[index]}:${peaks[index]}:${times[index]}"
done | "$node" -e '
  const rows = fs.readFileSync(0, "utf8").trim().split("\n").map((line) => line.split(":"));
  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1] / 1000;
  const all = rows.map(([name, peak, times]) => ({ name, peak: peak >> 10, seconds: times.trim().split(" ").map(Number) }));
  const line = (...cells) => console.log(cells[0].padEnd(40) + cells.slice(1).map((cell) => String(cell).padStart(12)).join(""));
  line("", "median s", "fastest s", "ratio", "peak MiB");
  for (const { name, peak, seconds } of all)
    line(name, median(seconds).toFixed(2), (seconds[0] / 1000).toFixed(2), (median(seconds) / median(all[0].seconds)).toFixed(2), peak);
'
