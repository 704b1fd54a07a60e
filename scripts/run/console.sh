# shellcheck shell=dash
# LAUNCHER COMMAND...: runs COMMAND on the terminal that script(1) has made, and tells the process LAUNCHER of the keys of
# that terminal: the kernel may spare PID 1, pid_namespaces(7). Descriptor 4 is what LAUNCHER reads.
launcher=$1
shift
trap 'kill -INT "$launcher"' INT
trap 'kill -QUIT "$launcher"' QUIT
trap '' TSTP
exec 8<&0
parent=$$ "$@" <&3 3<&8 7>&4 4>&2 2>&7 7>&- 8<&- &
child=$!
exec 3<&- 4>&- 5<&- 6<&- 8<&-
# wait ends early for a trap, with more than 128; the status of the command may be there all the same
while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done
if [ "$code" -gt 128 ]; then
  wait "$child" 2>/dev/null
  again=$?
  [ "$again" = 127 ] || code=$again
fi
exit "$code"
