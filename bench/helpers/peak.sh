# shellcheck shell=bash
# peak PID: waits for a child that leads a session of its own, as setsid(1) starts it. `kibibytes` is then the most that all
# processes of the session ever had in memory together, sampled, without the `bash -c` that a bench starts them by.
peak() {
  local now
  kibibytes=0
  while kill -0 "$1" 2>/dev/null; do
    now=$(ps -o rss=,args= -s "$1" | awk '!/^ *[0-9]+ bash -c/ { sum += $1 } END { print sum + 0 }')
    [ "$now" -le "$kibibytes" ] || kibibytes=$now
    sleep 0.02
  done
  wait "$1"
}
