# Completion of barehand for zsh: the first word is a script, then come its options, and names that exist at the moment.
# The arrays _barehand_scripts and _barehand_SCRIPT stand before this.
_barehand_names() {
  local -a names
  names=(${(f)"$(barehand completion names $1 2>/dev/null)"})
  compadd -a names
  _files
}
_barehand() {
  local script=$words[2]
  if (( CURRENT == 2 )); then
    _describe script _barehand_scripts
    compadd completion manual
    return
  fi
  if [[ $script == completion ]]; then
    compadd bash zsh fish
    return
  fi
  shift words
  (( CURRENT-- ))
  local specs=_barehand_${script//-/_}
  _arguments -S "${(@P)specs}" "*: :{_barehand_names $script}"
}
if [[ $funcstack[1] == _barehand ]]; then
  _barehand "$@"
else
  compdef _barehand barehand
fi
