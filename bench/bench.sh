#!/bin/bash
# npm run bench: every measurement in this folder, one after the other.
set -eu
cd "$(dirname "$(readlink -f "$0")")"
for part in *.sh; do
  [ "$part" = bench.sh ] || { echo "== $part"; "./$part"; echo; }
done
