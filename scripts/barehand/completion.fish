# Completion of barehand for fish: the first word is a script, then come its options, and names that exist at the moment.
# What follows this are the scripts and their options.
function __barehand_needs_script
    test (count (commandline -opc)) -eq 1
end
function __barehand_uses
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = $argv[1]
end
function __barehand_names
    set -l words (commandline -opc)
    test (count $words) -ge 2; and barehand completion names $words[2] 2>/dev/null
end
complete -c barehand -n 'not __barehand_needs_script' -a '(__barehand_names)'
complete -c barehand -n '__barehand_uses completion' -a 'bash zsh fish'
complete -c barehand -n __barehand_needs_script -a 'completion manual'
