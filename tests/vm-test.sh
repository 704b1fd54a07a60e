#!/bin/bash
# vm-test.sh [KIND...] [FILE...] [--test-...]: the tests that meet the kernel, in throw-away VMs with cgroups of each KIND:
# v2 and v1 unless said otherwise, or hybrid. FILEs are names in tests/, as run.test.ts; all unless said otherwise.
# What begins with --test- goes to node, as --test-name-pattern='same moment'.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

kinds=() files=() options=()
for word; do
  case $word in
    v1 | v2 | hybrid) kinds+=("$word") ;;
    --test-*) options+=("$word") ;;
    *.test.ts) files+=("tests/$(basename "$word")") ;;
    *) echo "vm-test: neither v1, v2, hybrid nor a test file: $word" >&2 && exit 2 ;;
  esac
done
[ ${#kinds[@]} -gt 0 ] || kinds=(v2 v1)
[ ${#files[@]} -gt 0 ] || for file in tests/*.test.ts; do
  case ${file#tests/} in
    # what these test does not depend on the kernel, and would be slow here
    build.* | cgroup.* | cli.* | docs.* | fetch-rootfs* | plan.* | scripts.* | units.*) ;;
    *) files+=("$file") ;;
  esac
done

# what tests share is made here, where it is fast; the VM sees this machine's files
npm run --silent build
[ -d rootfs/host ] || scripts/fetch-rootfs.ts host: rootfs/host

results=$(mktemp -d) vm=
trap 'rm -rf "$results"' EXIT
# a VM must not outlive this
trap 'kill $vm 2>/dev/null; exit 130' INT
trap 'kill $vm 2>/dev/null; exit 143' TERM
node tests/vm/strip.mjs "$results/stripped"
node=$(command -v node)

run_kind() {
  local required=root,namespaces,cgroup-${1/hybrid/v1} start=$SECONDS status=0
  tests/vm-run.sh --cgroup "$1" --timeout 1500 --env "BAREHAND_REQUIRE=$required" --env BAREHAND_DIST=1 --env BAREHAND_SLOW=1 \
    --share "$results" --env BAREHAND_STRIPPED="$results/stripped" --env "PATH=${node%/*}:$PATH" -- \
    node --jitless --import ./tests/vm/stripped.mjs --test --test-reporter=spec --test-concurrency=2 "${options[@]}" "${files[@]}" \
    >"$results/$1" 2>&1 &
  vm=$!
  wait $vm || status=$?
  echo "$((SECONDS - start))" >"$results/$1.seconds"
  return $status
}

count() { sed -n "s/^ℹ $2 //p" "$results/$1" | tail -n 1 | grep . || echo 0; } # KIND pass|fail|cancelled|skipped

passed=0 failed=0
for kind in "${kinds[@]}"; do
  status=0
  # the emulator crashes a process now and then, as nothing else does: what fails has a second chance
  run_kind "$kind" || { cat "$results/$kind"; echo "cgroups $kind: once more"; run_kind "$kind"; } || status=$?
  pass=$(count "$kind" pass) skip=$(count "$kind" skipped)
  fail=$(($(count "$kind" fail) + $(count "$kind" cancelled)))
  # a run without an end, or with nothing in it, has failed as well
  [ $status = 0 ] && [ $pass -gt 0 ] || {
    cat "$results/$kind"
    [ $fail -gt 0 ] || fail=1
  }
  echo "cgroups $kind: $pass passed, $fail failed, $skip skipped, in $(cat "$results/$kind.seconds") s"
  grep -o '# .*$' "$results/$kind" | sort | uniq -c || true
  passed=$((passed + $pass)) failed=$((failed + fail))
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
