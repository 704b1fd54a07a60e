#!/bin/bash
# How long fetch-rootfs takes to unpack, beside `tar -xzf`, in one run, as ratios; and the memory that it takes at most.
#
#   bench/unpack.sh [TARBALL.tar.gz] [RUNS]      with the node in PATH; NODE=/path/to/node takes another
#
# Without TARBALL it is a debootstrap'ed Debian where the tests have left one or one can be made, else rootfs/host,
# packed. All unpack into /dev/shm where that is a tmpfs, so that no disk has a say in it.
set -eu
unset NODE_EXTRA_CA_CERTS
tarball=${1:+$(realpath "$1")}
cd "$(dirname "$(readlink -f "$0")")/.."
runs=${2:-10}
node=${NODE:-$(command -v node)}
. bench/helpers/peak.sh

command -v hyperfine >/dev/null || { echo "bench: hyperfine is missing: apt-get install hyperfine" >&2; exit 1; }
npm run --silent build
scratch=$(mktemp -d -p "$([ "$(stat -f -c %T /dev/shm)" = tmpfs ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT

if [ -z "$tarball" ]; then
  cached=${TMPDIR:-/tmp}/barehand-test-cache/debian-minbase.tar.gz
  tarball=$scratch/rootfs.tar.gz
  if [ -f "$cached" ]; then
    tarball=$cached
  elif command -v debootstrap >/dev/null && debootstrap --variant=minbase bookworm "$scratch/debian" >/dev/null; then
    tar --numeric-owner --xattrs --xattrs-include='*' -C "$scratch/debian" -czf "$tarball" .
  else
    scripts/fetch-rootfs.ts --quiet host: "$scratch/host" >/dev/null
    tar -C "$scratch/host" -czf "$tarball" .
  fi
fi
echo "$tarball: $(($(stat -c %s "$tarball") >> 20)) MiB, $(tar -tzf "$tarball" | wc -l) entries; node $("$node" --version)"

into=$scratch/into
exact="tar --numeric-owner --xattrs --xattrs-include=* -xpzf $tarball -C $into"
names=('tar -xzf' 'tar, with all that fetch-rootfs keeps' 'fetch-rootfs.mjs' 'fetch-rootfs.ts')
commands=(
  "tar -xzf $tarball -C $into"
  "$exact"
  "$node dist/fetch-rootfs.mjs -q $tarball $into"
  "env PATH=${node%/*}:$PATH scripts/fetch-rootfs.ts -q $tarball $into"
)
hyperfine --shell=none --warmup 1 --runs "$runs" --prepare "sh -c 'rm -rf $into; mkdir $into'" \
  --export-json "$scratch/result" "${commands[@]}" >/dev/null 2>&1 ||
  { echo "bench: one of the commands failed: ${commands[*]}" >&2; exit 1; }

peaks=()
for index in "${!commands[@]}"; do
  read -ra words <<<"${commands[index]}"
  rm -rf "$into" && mkdir "$into"
  setsid "${words[@]}" >/dev/null &
  peak $!
  peaks+=("$((kibibytes / 1024))")
done

"$node" -e '
  const [file, ...rest] = process.argv.slice(1);
  const results = JSON.parse(fs.readFileSync(file)).results;
  const names = rest.slice(0, results.length), peaks = rest.slice(results.length);
  const line = (...cells) => console.log(cells[0].padEnd(40) + cells.slice(1).map((cell) => cell.padStart(12)).join(""));
  line("", "median s", "fastest s", "ratio", "peak MiB");
  results.forEach(({ median, min }, index) =>
    line(names[index], median.toFixed(2), min.toFixed(2), (median / results[0].median).toFixed(2), peaks[index]));
' "$scratch/result" "${names[@]}" "${peaks[@]}"
