# shellcheck shell=sh
# COMMAND...: an init for the container's own sh. Starts COMMAND, forwards signals to it, and returns its exit code.
# A background job of sh ignores SIGINT and SIGQUIT, and reads from /dev/null. env(1) resets these signals, if it can do
# that; descriptor 3 keeps standard input.
# A trap uses $!, not a variable: a signal may come before an assignment that follows the start of COMMAND.

# shellcheck disable=SC2064 # $signal is expanded now, $! when a signal comes
for signal in HUP INT QUIT USR1 USR2 TERM; do trap "kill -$signal \$! 2>/dev/null" "$signal"; done
! env --default-signal=INT,QUIT true 2>/dev/null || set -- env --default-signal=INT,QUIT "$@"
exec 3<&0; "$@" <&3 3<&- & exec 3<&-
while wait "$!"; code=$?; kill -0 "$!" 2>/dev/null; do :; done
[ "$code" -le 128 ] || { wait "$!" 2>/dev/null; again=$?; [ "$again" = 127 ] || code=$again; }
exit "$code"
