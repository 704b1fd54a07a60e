#!/bin/bash
# all.sh [FILE...] [--test-...]: runs tests. FILEs are names in tests/, as run.test.ts; all unless said otherwise. Words with
# --test- go to node, as --test-name-pattern=volume. npm test and npm run test:all build before, and pass their words on.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."
files=() options=(--test-reporter=spec --test-timeout=900000 --test-concurrency=4)
for word; do
  case $word in
    --test-*) options+=("$word") ;;
    *.test.ts) files+=("tests/$(basename "$word")") ;;
    *) echo "all: neither a test file, as run.test.ts, nor an option --test-...: $word" >&2 && exit 2 ;;
  esac
done
[ ${#files[@]} -gt 0 ] || files=(tests/*.test.ts)
node tests/strip/strip.mjs
exec node --import ./tests/strip/stripped.mjs --test "${options[@]}" "${files[@]}"
