# shellcheck shell=dash
# CONSOLE WORKDIR [--preserve-fds=N] VARIABLE... -- COMMAND...: PID 1 after it has dropped privileges. It waits until it is shut in, then
# becomes COMMAND.
# CONSOLE is the path of its terminal, or empty. Each VARIABLE, KEY=VALUE, is for the dynamic loader, ld.so(8): the
# host's programs must not see it, as they would load libraries of the container.
# Descriptors 3 and 4 become standard input and error of COMMAND, N descriptors from 9 on those from 3 on: then this shell is
# bash, as others can't redirect descriptors above 9.
nulls=
for fd in 3 1 4; do [ ! "/proc/self/fd/$fd" -ef /dev/null ] || nulls="$nulls $fd"; done
# in a subshell: dash makes descriptor 1 a copy of 2 while it runs echo, and node may change the owner of 1 then
(echo ready >&2)
read -r _ || exit 125
exec <&3 2>&4 3<&- 4>&- 6<&-
# the container's null device replaces the host's, which fchmod(2) would change
for fd in $nulls; do
  case $fd in 3) exec </dev/null ;; 1) exec >/dev/null ;; 4) exec 2>/dev/null ;; esac
done
# opened by its name in the container, which ttyname(3) then finds
[ -z "$1" ] || exec <>"$1" >&0 2>&0
shift
if [ "$1" ] && ! cd -- "$1" 2>/dev/null; then
  echo "run: can't cd to the working directory: it is missing, or closed to the user of the command: choose another -w or -u" >&2
  exit 125
fi
shift
case $1 in --preserve-fds=*)
  fd=3
  while [ "$fd" -lt $((3 + ${1#*=})) ]; do
    eval "exec $fd<&$((fd + 6)) $((fd + 6))<&-"
    fd=$((fd + 1))
  done
  shift
  ;;
esac
while [ "$1" != -- ]; do
  export "${1?}"
  shift
done
shift
# node has looked for COMMAND; only here it shows whether this user may execute it
case $1 in
  */*) [ -x "$1" ] ;;
  *) command -v -- "$1" >/dev/null ;;
esac || {
  echo "run: the user of the command may not execute it: choose another -u, or type chmod a+rx for it" >&2
  exit 126
}
unset nulls fd _ PWD OLDPWD SHLVL
exec "$@"
