# shellcheck shell=dash
# COMMAND...: closes descriptor 5, the network namespace that nsenter(1) has joined, and becomes COMMAND.
exec "$@" 5<&-
