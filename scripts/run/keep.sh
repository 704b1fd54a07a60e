# shellcheck shell=dash
# FOLDER BYTES LOCK COMMAND...: runs COMMAND in the background, and keeps in FOLDER its exit status and the last of what it
# says: log and log.1 have no more than BYTES each. Then FOLDER/cleanup, under the lock on LOCK if there is one, removes what COMMAND had.
# Whoever waits for the lock on FOLDER, which
# descriptor 7 is open on, waits until all of that is done. Who started this reads descriptor 2.
trap '' HUP INT QUIT TERM USR1 USR2 TSTP
folder=$1 bytes=$2 lock=$3
shift 3
# a pipe for what COMMAND says, 1 to 0, and one for what is said about it, 8 to 4. fifo(7): a first open for both
# directions does not wait for the other end
cd -- "$folder" && mkfifo -m 600 output said || exit 125
exec 3<&0 8<>said 1<>output
exec 4<said 0<output
rm output said
flock 7 || exit 125
parent=$$ "$@" <&3 3</dev/null 4>&1 2>&8 7<&- 8>&- &
child=$!
exec >/dev/null 3<&- 5<&- 6<&- 8>&-

# the last word before COMMAND runs; without it there is nothing to keep
while read -r said <&4; do
  echo "$said" >&2
  [ "$said" != ready ] || break
done
exec 2>/dev/null

: >log
while stdbuf -o0 head -c "$bytes" >log 4<&- 7<&-; do
  [ "$(stat -c %s log)" -ge "$bytes" ] || break
  mv log log.1
done
# the log can't be written, if anything is left: that is lost then, but nobody waits to be heard
cat 4<&- 7<&-
wait "$child"
code=$?
# unshare(1) before 2.40 takes a SIGKILL of its child for a failure of its own
while read -r said <&4; do
  case $said in *sigprocmask*) code=137 ;; esac
done
echo "$code" >status
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ -e cleanup ] || break
  if [ "$lock" ]; then flock "$lock" sh ./cleanup; else sh ./cleanup; fi && break
  sleep 0.1
done
