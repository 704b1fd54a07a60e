#!/bin/bash
# vm-test.sh [KIND...] [FILE...] [KIND:FILE...] [--test-...]: the tests that meet the kernel, in throw-away VMs with cgroups of each KIND:
# v2 and v1 unless said otherwise, or hybrid. FILEs are names in tests/, as run.test.ts; all unless said otherwise,
# but for cgroups such as this machine has itself: there only what is about cgroups, as the rest runs here, faster.
# KIND:FILE is one of them by itself. What begins with --test- goes to node, as --test-name-pattern='same moment'.
set -eu
cd "$(dirname "$(readlink -f "$0")")/.."

kinds=() files=() options=()
jobs=() # "KIND FILE", each in a VM of its own, the longest first
for word; do
  case $word in
    v1 | v2 | hybrid) kinds+=("$word") ;;
    --test-*) options+=("$word") ;;
    v1:*.test.ts | v2:*.test.ts | hybrid:*.test.ts) jobs+=("${word%%:*} tests/${word#*:}") ;;
    *.test.ts) files+=("tests/$(basename "$word")") ;;
    *) echo "vm-test: neither v1, v2, hybrid nor a test file: $word" >&2 && exit 2 ;;
  esac
done
[ ${#kinds[@]} -gt 0 ] || [ ${#jobs[@]} -gt 0 ] || kinds=(v2 v1)
native=v2
[ ! -d /sys/fs/cgroup/memory ] || native=v1

for kind in "${kinds[@]}"; do
  for file in ${files[*]:-$(ls -S tests/*.test.ts)}; do
    [ ${#files[@]} -gt 0 ] || case $kind:${file#tests/} in
      # what these test does not depend on the kernel, and would be slow here
      *:build.* | *:cgroups.* | *:cli.* | *:container-options.* | *:docs.* | *:fetch-rootfs* | *:network-plan.* | *:steps.*) continue ;;
      *:leftovers.* | *:run-crash.* | *:scripts.* | *:units.*) continue ;;
      "$native":limit-*.* | "$native":stop.*) ;;
      "$native":*) continue ;;
    esac
    jobs+=("$kind $file")
  done
done

# what tests share is made here, where it is fast; the VM sees this machine's files
npm run --silent build
[ -d rootfs/host ] || scripts/fetch-rootfs.ts host: rootfs/host

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
# no VM must outlive this
trap 'kill $(jobs -pr) 2>/dev/null; wait; exit 130' INT
trap 'kill $(jobs -pr) 2>/dev/null; wait; exit 143' TERM
node tests/strip/strip.mjs
node=$(command -v node)

run() { # KIND FILE: its output into $log
  tests/vm-run.sh --cgroup "$1" --timeout 2400 \
    --env "BAREHAND_REQUIRE=root,namespaces,cgroup-${1/hybrid/v1}" --env BAREHAND_SLOW=1 \
    --env "PATH=${node%/*}:$PATH" -- node --jitless --import ./tests/strip/stripped.mjs --test-reporter=spec \
    "${options[@]}" "$2" >"$log" 2>&1 &
  vm=$!
  wait $vm
}

count() { sed -n "s/^ℹ $1 //p" "$log" | tail -n 1 | grep . || echo 0; } # pass|fail|cancelled|skipped

run_job() { # KIND FILE: leaves "PASSED FAILED" in $log.counts
  local log=$results/$1-${2##*/} status=0 start=$SECONDS again=
  trap 'kill $vm 2>/dev/null; exit 143' TERM
  # the emulator crashes a process now and then, as nothing else does: what fails has a second chance
  run "$1" "$2" || { mv "$log" "$log.first"; again=', the second time'; run "$1" "$2"; } || status=$?
  local pass=$(count pass) skip=$(count skipped) fail=$(($(count fail) + $(count cancelled)))
  # a run without an end, or with nothing in it, has failed as well
  if [ $status != 0 ] || [ $((pass + skip)) = 0 ]; then
    [ $fail -gt 0 ] || fail=1
    touch "$log.failed"
  fi
  echo "cgroups $1, ${2##*/}: $pass passed, $fail failed, $skip skipped, in $((SECONDS - start)) s$again"
  echo "$pass $fail" >"$log.counts"
}

for job in "${jobs[@]}"; do
  while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  run_job $job &
done
wait

passed=0 failed=0
for job in "${jobs[@]}"; do
  log=$results/${job/ tests\//-}
  [ ! -e "$log.first" ] || { echo "== $job, the first time" && cat "$log.first"; }
  [ ! -e "$log.failed" ] || { echo "== $job" && cat "$log"; }
  read -r pass fail <"$log.counts"
  passed=$((passed + pass)) failed=$((failed + fail))
done
cat "$results"/*.ts | sed -n 's/.*# \(needs .*\)/skipped: \1/p' | sort | uniq -c
echo "$passed passed, $failed failed, in $SECONDS s"
[ $failed = 0 ]
