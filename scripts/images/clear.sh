# shellcheck shell=dash
# KIND TOOLS RUN PATH...: removes what a layer hides of the layers below it; / is the root file system. KIND: each path
# itself, the contents of a directory, or a directory but nothing else. RUN starts the programs in /TOOLS.
kind=$1 tools=$2 run=$3
shift 3
for path do
  shift
  case $kind in
    contents) # also of a directory behind a link
      path=$path/.
      [ -d "$path" ] || continue
      ;;
    directory) if [ -L "$path" ] || [ ! -d "$path" ]; then continue; fi ;;
  esac
  set -- "$@" "$path"
done
[ $# -gt 0 ] || exit 0
# shellcheck disable=SC2086 # several words
case $kind in
  contents) exec $run/find "$@" -mindepth 1 -maxdepth 1 ! -name "$tools" -exec $run/rm -rf -- {} + ;;
  *) exec $run/rm -rf -- "$@" ;;
esac
