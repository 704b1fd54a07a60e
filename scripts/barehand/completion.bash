# Completion of barehand for bash: the first word is a script, then come its options, and names that exist at the moment.
# The arrays _barehand_options and _barehand_values, by script, stand before this.
# shellcheck shell=bash disable=SC2154 # they are in the data
_barehand() {
  local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]} script=${COMP_WORDS[1]} words
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    words="${!_barehand_options[*]} completion manual"
  elif [ "$script" = completion ]; then
    words='bash zsh fish'
  elif [[ $word == -* ]]; then
    words=${_barehand_options[$script]-}
  elif [[ " ${_barehand_values[$script]-} " == *" $last "* ]]; then
    return # a value: files, by -o default
  else
    words=$("${COMP_WORDS[0]}" completion names "$script" 2>/dev/null)
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -o bashdefault -F _barehand barehand
