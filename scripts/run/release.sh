# shellcheck shell=dash
# CONSOLE WORKDIR VARIABLE... -- COMMAND...: PID 1 without privileges. It waits until it is shut in, then becomes COMMAND.
# Descriptors 3 and 4 are COMMAND's standard input and error. The VARIABLEs are for the dynamic loader, ld.so(8): set any earlier they would
# make the host's own programs load the container's libraries.
nulls=
for fd in 3 1 4; do [ ! "/proc/self/fd/$fd" -ef /dev/null ] || nulls="$nulls $fd"; done
echo ready >&2
read -r _ || exit 125
exec <&3 2>&4 3<&- 4>&- 6<&-
# chmod(2) of a descriptor would change the host's null device: the container's own takes its place
for fd in $nulls; do
  case $fd in 3) exec </dev/null ;; 1) exec >/dev/null ;; 4) exec 2>/dev/null ;; esac
done
# CONSOLE is its terminal, by the name that it has in the container, for ttyname(3)
[ -z "$1" ] || exec <>"$1" >&0 2>&0
shift
if [ "$1" ] && ! cd -- "$1" 2>/dev/null; then
  echo "run: can't cd to the working directory $1: it is missing, or not for this user" >&2
  exit 125
fi
shift
while [ "$1" != -- ]; do
  export "${1?}"
  shift
done
shift
unset nulls fd _ PWD OLDPWD SHLVL
exec "$@"
