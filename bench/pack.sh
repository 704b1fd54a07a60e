#!/bin/bash
# How long pack-rootfs takes, beside `tar -czf` and `tar -cf`, in turns, as ratios; and the memory that it takes at most.
#
#   bench/pack.sh [ROOTFS] [ROUNDS]      with the node in PATH; NODE=/path/to/node takes another
#
# Without ROOTFS it is a debootstrap'ed Debian where the tests have left one or one can be made, else rootfs/host. All
# write into /dev/shm where that is a tmpfs, so that no disk has a say in it.
set -eu
unset NODE_EXTRA_CA_CERTS
rootfs=${1:+$(realpath "$1")}
cd "$(dirname "$(readlink -f "$0")")/.."
rounds=${2:-10}
node=${NODE:-$(command -v node)}
. bench/helpers/peak.sh

npm run --silent build
scratch=$(mktemp -d -p "$([ "$(stat -f -c %T /dev/shm)" = tmpfs ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT

if [ -z "$rootfs" ]; then
  cached=${TMPDIR:-/tmp}/barehand-test-cache/debian-minbase.tar.gz
  rootfs=$scratch/rootfs
  if [ -f "$cached" ]; then
    dist/fetch-rootfs.mjs --quiet "$cached" "$rootfs" >/dev/null
  elif ! { command -v debootstrap && debootstrap --variant=minbase bookworm "$rootfs"; } >/dev/null; then
    scripts/fetch-rootfs.ts --quiet host: "$rootfs" >/dev/null
  fi
fi
echo "$rootfs: $(du -sm "$rootfs" | cut -f 1) MiB, $(find "$rootfs" | wc -l) entries; node $("$node" --version)"

out=$scratch/out
exact=(--format=posix --sort=name --numeric-owner --xattrs --xattrs-include='*' -C "$rootfs")
names=('tar -czf' 'tar -czf, all that pack-rootfs keeps' 'pack-rootfs .tar.gz' 'pack-rootfs --oci'
  'tar -cf' 'pack-rootfs .tar')
run() {
  rm -rf "$out"*
  case $1 in
    0) tar -C "$rootfs" -czf "$out.tar.gz" . ;;
    1) tar "${exact[@]}" -czf "$out.tar.gz" . ;;
    2) "$node" dist/pack-rootfs.mjs -q "$rootfs" "$out.tar.gz" ;;
    3) "$node" dist/pack-rootfs.mjs -q "$rootfs" --oci "$out" ;;
    4) tar -C "$rootfs" -cf "$out.tar" . ;;
    5) "$node" dist/pack-rootfs.mjs -q "$rootfs" "$out.tar" ;;
  esac >/dev/null
}

export -f run
export out rootfs node
export EXACT="${exact[*]}"

times=()
for ((round = 0; round <= rounds; round++)); do
  for index in "${!names[@]}"; do
    begun=$(date +%s%N)
    run "$index"
    # the first round warms up
    [ "$round" = 0 ] || times[index]+="$(($(date +%s%N) - begun)) "
  done
done
peaks=()
for index in "${!names[@]}"; do
  # shellcheck disable=SC2016 # the shell that is started expands it
  setsid bash -c 'read -ra exact <<<"$EXACT"; run "$1"' run "$index" &
  peak $!
  peaks+=("$((kibibytes / 1024))")
done

"$node" -e '
  const lists = process.argv[1].split("\n").filter(Boolean).map((line) => line.trim().split(" ").map((ns) => ns / 1e9).sort((a, b) => a - b));
  const rest = process.argv.slice(2), names = rest.slice(0, lists.length), peaks = rest.slice(lists.length);
  const median = (list) => list[list.length >> 1];
  const line = (...cells) => console.log(cells[0].padEnd(40) + cells.slice(1).map((cell) => cell.padStart(12)).join(""));
  line("", "median s", "fastest s", "ratio", "peak MiB");
  lists.forEach((list, index) => {
    const beside = median(lists[index < 4 ? 0 : 4]);
    line(names[index], median(list).toFixed(2), list[0].toFixed(2), (median(list) / beside).toFixed(2), peaks[index]);
  });
' "$(printf '%s\n' "${times[@]}")" "${names[@]}" "${peaks[@]}"
