# shellcheck shell=dash
# COMMAND...: becomes COMMAND without descriptor 5, which was for nsenter(1) only.
exec "$@" 5<&-
