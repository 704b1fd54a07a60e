# shellcheck shell=dash
# FILE VALUE: writes VALUE to FILE, which thaws a cgroup, when standard input ends: pack-rootfs.ts is done, or was killed.
# The keys of a terminal, and who ends all of a session, do not end it.
trap '' HUP INT QUIT TERM
echo ready
read -r _ || :
echo "$2" >"$1"
