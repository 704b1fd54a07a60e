# shellcheck shell=dash
# DIRECTORY CGROUP SINCE: prints what is known of the processes in the memory cgroup DIRECTORY, and below it, that the
# kernel has killed for lack of memory; nothing if there are none. CGROUP is the path of DIRECTORY in the whole tree, which
# the kernel's log has; SINCE is the start of the container in seconds since boot.
# parseOomKills of limit/oom-kills.ts reads this.
cd -- "$1" 2>/dev/null || exit 0
count=0
# v2's counter includes the cgroups below, v1's does not
for file in memory.events memory.oom_control */memory.oom_control */*/memory.oom_control; do
  [ -e "$file" ] || continue
  while read -r key value; do [ "$key" != oom_kill ] || count=$((count + value)); done <"$file"
done
[ "$count" -gt 0 ] || exit 0
echo "oom_kill $count"
echo "cgroup $2"
echo "since $3"
for file in memory.max memory.limit_in_bytes; do
  [ ! -e "$file" ] || echo "limit $(cat "$file")"
done
# how often the limit of this very cgroup was exceeded
grep '^oom ' memory.events.local 2>/dev/null
# the log may be readable for root only
kill=$(dmesg --raw 2>/dev/null | grep -F -e ",task_memcg=$2," -e ",task_memcg=$2/" | tail -n 1)
pid=${kill##*,pid=}
[ -z "$kill" ] || echo "$kill"
[ -z "$kill" ] || dmesg --raw | grep "Killed process ${pid%%,*} " | tail -n 1
