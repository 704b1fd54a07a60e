# shellcheck shell=dash
# LAUNCHER COMMAND...: runs COMMAND on the terminal that script(1) has made. Forwards SIGINT and SIGQUIT of that
# terminal to the process LAUNCHER, since the kernel may drop them for PID 1, pid_namespaces(7).
# Descriptor 3 is the pipe that COMMAND waits on. LAUNCHER reads descriptor 4.
launcher=$1
shift
trap 'kill -INT "$launcher"' INT
trap 'kill -QUIT "$launcher"' QUIT
trap '' TSTP
exec 8<&0
parent=$$ "$@" <&3 3<&8 7>&4 4>&2 2>&7 7>&- 8<&- &
child=$!
exec 3<&- 4>&- 5<&- 6<&- 8<&-
# a signal interrupts wait, which then returns more than 128; a second wait returns the exit status of COMMAND
while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done
if [ "$code" -gt 128 ]; then
  wait "$child" 2>/dev/null
  again=$?
  [ "$again" = 127 ] || code=$again
fi
exit "$code"
