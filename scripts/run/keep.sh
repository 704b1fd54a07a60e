# shellcheck shell=dash
# FOLDER BYTES LOCK COMMAND...: runs COMMAND in the background. Keeps its exit status and the end of its output in
# FOLDER: log and log.1 have at most BYTES each. When COMMAND has ended, runs FOLDER/oom-kills, whose output is kept with
# the exit status, and FOLDER/cleanup, which removes cgroups and network of the container, under the lock on LOCK if that
# is not empty.
# Descriptor 7 is open on FOLDER and holds its lock until this program ends: other programs wait for that.
# Descriptor 0 is the pipe that COMMAND waits on. The process that started this program reads descriptor 2.
trap '' HUP INT QUIT TERM USR1 USR2 TSTP
folder=$1 bytes=$2 lock=$3
shift 3
# two pipes: from 1 to 0 for the output of COMMAND, from 8 to 4 for messages of the chain that becomes COMMAND.
# A first open for reading and writing does not wait for the other end, fifo(7).
cd -- "$folder" && mkfifo -m 600 output messages || exit 125
exec 3<&0 8<>messages 1<>output
exec 4<messages 0<output
rm output messages
flock 7 || exit 125
parent=$$ "$@" <&3 3</dev/null 4>&1 2>&8 7<&- 8>&- &
child=$!
exec >/dev/null 3<&- 5<&- 6<&- 8>&-

# forwards messages up to "ready", which is the last one before COMMAND runs
while read -r message <&4; do
  echo "$message" >&2
  [ "$message" != ready ] || break
done
exec 2>/dev/null

# Copies standard input, now descriptor 5, to log. Meanwhile head(1) holds a lock on log: flock(1) waits for its end, and in
# between it is noted how long log is and when it was written to: each second, in a silence up to 8 seconds apart. times.0
# and times.1 have that for log and log.1 in turns, below the number of files so far.
exec 5<&0 0</dev/null
note() {
  read -r _ size </proc/self/fdinfo/1
  wait=$((wait < 8 ? wait * 2 : 8))
  [ "$size" != "$noted" ] || return
  noted=$size wait=1
  # many short lines must not make times much longer than log
  [ "$length" -gt $((size / 2 + bytes / 4)) ] || {
    line="$size $(stat -c %Y log 6>&-)"
    echo "$line" >&6
    length=$((length + ${#line} + 1))
  }
}
count=0
while {
  echo "$count" >&6
  noted=0 length=0 wait=1
  flock --no-fork /proc/self/fd/1 stdbuf -o0 head -c "$bytes" <&5 4<&- 5<&- 6>&- 7<&- &
  # flock(1) returns at once while head has no lock yet
  while read -r _ _ _ parent _ </proc/"$!"/stat && [ "$parent" = $$ ]; do
    flock --timeout "$wait" 8 8</proc/self/fd/1 4<&- 5<&- 6>&- 7<&- || note
  done
  read -r _ size </proc/self/fdinfo/1
  [ "$size" -ge "$bytes" ]
} >log 6>"times.$((count % 2))"; do
  mv log log.1
  count=$((count + 1))
done
# if the log could not be written, the rest of the output is discarded, so that COMMAND does not block
cat <&5 4<&- 5<&- 7<&-
wait "$child"
code=$?
# unshare(1) before 2.40 reports an error of its own if SIGKILL ended its child
while read -r message <&4; do
  case $message in *sigprocmask*) code=137 ;; esac
done
{ echo "$code"; [ ! -e oom-kills ] || sh ./oom-kills; } >status.new
mv status.new status
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ -e cleanup ] || break
  if [ "$lock" ]; then flock "$lock" sh ./cleanup; else sh ./cleanup; fi && break
  sleep 0.1
done
