# shellcheck shell=dash
# COMMAND...: becomes COMMAND, unless $parent has ended before the death signal was set, of which prctl(2) tells nobody.
# Descriptor 5 was for nsenter(1) only.
# shellcheck disable=SC2154 # parent comes from whoever starts this
[ "$PPID" = "$parent" ] || exit 125
exec "$@" 5<&-
