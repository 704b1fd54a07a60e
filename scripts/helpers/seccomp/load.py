# Loads a seccomp filter and becomes a command: run numbers... -- rules... -- command...
leave_keyring()
load_filter(take_list())
become(arguments)
