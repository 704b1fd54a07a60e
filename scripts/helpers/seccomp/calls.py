# System calls, seccomp filters, and becoming a command: calls.pl for hosts that have no perl. This comes before load.py
# or enter.py in one program, whose arguments are lists that end with "--". The first list is handled here: the name of
# the script, for its messages, and the numbers of system calls, as setns:308.
import os
import re
import signal
import struct
import sys

arguments = sys.argv[1:]


def take_list():
    """Takes the next list from the arguments."""
    words = []
    while arguments:
        word = arguments.pop(0)
        if word == "--":
            break
        words.append(word)
    return words


# python sets this where the locale is C, PEP 538; it is nothing that a command should get
with open("/proc/self/environ", "rb") as environ:
    if b"\0LC_CTYPE=" not in b"\0" + environ.read():
        os.environ.pop("LC_CTYPE", None)

script, *numbers = take_list()
number = {name: int(value) for name, value in (word.split(":") for word in numbers)}


messages = 2


def keep_messages():
    """Keeps what is standard error now for messages, until execve(2) closes it."""
    global messages
    messages = os.dup(2)


# what a message quotes may hold anything: it stays one line, and nothing that a terminal acts on
escapes = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {10: "\\n"}


def say(text):
    os.write(messages, os.fsencode(f"{script}: {text.translate(escapes)}\n"))


def fail(what, error):
    """Says what failed and why, and ends with what tells that no command was run."""
    say(f"cannot {what}: {error.strerror if isinstance(error, OSError) else error}")
    os._exit(125)


# a traceback would open files, which may be the container's by then
sys.excepthook = lambda kind, error, trace: fail("go on", f"{kind.__name__}: {error}")

try:
    import ctypes
except ImportError as missing:
    fail("use python3 (apt-get install perl-base, or python3 in full)", missing)

# PyDLL: what returns from clone(2) in a child must still have the interpreter's lock
libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def checked(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def call(name, *values):
    """Makes a system call. Integers are passed as such, all else as pointers. Raises OSError where it fails."""
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
    return checked(libc.syscall(ctypes.c_long(number[name]), *words))


def prctl(*values):
    return call("prctl", *values, *[0] * (5 - len(values)))


def leave_keyring():
    """keyrings(7): a session keyring that is not the caller's. Where there are none, none can be reached."""
    try:
        call("keyctl", 1, 0)
    except OSError:
        pass


def code(operation, if_true, if_false, value):
    """One instruction, struct sock_filter of linux/filter.h."""
    return struct.pack("=HBBL", operation, if_true, if_false, value)


def load(offset):
    """Loads a word of struct seccomp_data, seccomp(2)."""
    return code(0x20, 0, 0, offset)


allow, eperm, enosys = [code(0x06, 0, 0, answer) for answer in (0x7FFF0000, 0x50000 | 1, 0x50000 | 38)]


def within(span, then):
    """Code that runs for 31, 0-11 or 467- only."""
    first, dash, last = span.partition("-")
    length = len(then) // 8
    if not dash:
        return code(0x15, 0, length, int(first)) + then
    return code(0x35, 0, length + 1, int(first)) + code(0x25, length, 0, int(last or 0xFFFFFFFF)) + then


def make_filter(audit, *rules):
    """The rules of seccomp.ts as instructions. A rule with no number gets that of its call."""
    program = load(4) + code(0x15, 1, 0, int(audit.split(":")[1])) + enosys + load(0)
    for rule in rules:
        form = r"(\w+)(?::([\d-]+))?(?:&(\d+)|!([\d,-]+)|(=ENOSYS))?$"
        name, numbers, mask, values, error = re.match(form, rule).groups()
        numbers = numbers or str(number[name])
        then = enosys if error else eperm
        if mask:
            then = load(16) + code(0x45, 0, 1, int(mask)) + eperm + allow
        if values:
            then = load(16) + b"".join(within(span, allow) for span in values.split(",")) + eperm
        program += within(numbers, then)
    return program + allow


def load_filter(rules):
    """Loads the filter for this process and all that it becomes. Takes CAP_SYS_ADMIN or no_new_privs, seccomp(2)."""
    try:
        instructions = ctypes.create_string_buffer(make_filter(*rules))
        program = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(instructions))
        prctl(22, 2, program)
    except OSError as error:
        fail("load the seccomp filter", error)


def interpreter(file):
    """What the kernel looked for to run this file: the interpreter of a script, or the loader of a program."""
    try:
        with open(file, "rb") as script_file:
            begin = script_file.read(256)
    except OSError:
        return "an interpreter or loader"
    if begin[:2] != b"#!":
        return "the loader of another C library"
    words = begin[2:].split(b"\n")[0].replace(b"\t", b" ").split(b" ")
    return "the interpreter " + os.fsdecode(next(filter(None, words), b""))


def explain(name, error):
    """Says why a command could not be executed, and ends as env(1) does."""
    path = os.environ.get("PATH", "")
    names = [name] if "/" in name else [f"{folder}/{name}" for folder in path.split(":")]
    file = next(filter(os.path.exists, names), None)
    if file is None and error.errno == 2:
        say(f"{name}: not found" + ("" if "/" in name else f" in PATH {path}"))
        os._exit(127)
    file = file or name
    if os.path.isdir(file):
        say(f"{file} is a directory")
    elif os.path.exists(file) and not os.access(file, os.X_OK):
        say(f"{file} is not executable for this user: its mode is {os.stat(file).st_mode & 0o7777:o}")
    elif os.path.isfile(file) and error.errno == 2:
        say(f"{file} needs {interpreter(file)}, which is missing")
    else:
        say(f"{file} can't be executed: {error.strerror}")
    os._exit(126)


def become(command):
    """Becomes a command, or ends as env(1) does where that can't be."""
    # python ignores these, and execve(2) would hand that on
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    words = [os.fsencode(word) for word in command]
    try:
        checked(libc.execvp(words[0], (ctypes.c_char_p * (len(words) + 1))(*words)))
    except OSError as error:
        explain(command[0], error)

