# Loads a seccomp filter and becomes a command: run numbers... -- rules... -- command...
use strict;

leave_keyring();
load_filter(list());
become(@ARGV);
