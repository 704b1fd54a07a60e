# shellcheck shell=sh
# COMMAND...: an init for the container's own sh. Starts COMMAND, forwards signals to its process group, and returns its
# exit code.
# Without a terminal, setsid(1) makes a process group for COMMAND, if the container has it; else COMMAND alone gets them.
# A background job of sh ignores SIGINT and SIGQUIT, and reads from /dev/null. env(1) resets these signals, if it can do
# that; descriptor 3 keeps standard input.
# A trap uses $!, not a variable: a signal may come before an assignment that follows the start of COMMAND.

signals='HUP INT QUIT TRAP ABRT USR1 USR2 ALRM TERM CONT TSTP URG XCPU XFSZ VTALRM PROF SYS 16 28 29 30'
number=34
while [ "$number" -le 64 ]; do signals="$signals $number" number=$((number + 1)); done
# shellcheck disable=SC2064 # $signal is expanded now, $! when a signal comes
for signal in $signals; do
  trap "kill -$signal -\$! 2>/dev/null || kill -$signal \$! 2>/dev/null" "$signal"
done
! env --default-signal=INT,QUIT true 2>/dev/null || set -- env --default-signal=INT,QUIT "$@"
[ -t 0 ] || ! setsid true 2>/dev/null || set -- setsid "$@"
exec 3<&0; "$@" <&3 3<&- & exec 3<&-
while wait "$!"; code=$?; kill -0 "$!" 2>/dev/null; do :; done
[ "$code" -le 128 ] || { wait "$!" 2>/dev/null; again=$?; [ "$again" = 127 ] || code=$again; }
exit "$code"
