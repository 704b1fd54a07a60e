# Enters a container and becomes a command there: enter.pl, which says what the arguments are, for hosts that have no
# perl. It comes after calls.py. Nothing may be imported, and no traceback printed, once it is in the container: both
# would open files of the container's.
import fcntl
import select
import stat
import termios

rules = take_list()
given = {}
for name, _, text in (word.partition("=") for word in take_list()):
    given.setdefault(name, []).append(text)


def values(name):
    return given.get(name, [])


def value(name):
    return values(name)[0] if name in given else None


inside = value("inside")
as_root = os.getuid() == 0


class doing:
    """What is being done, for the message of an OSError."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError):
            fail(self.what, error)


def slurp(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def put(path, content):
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, content)
    finally:
        os.close(file)


def die_with(parent):
    """credentials(7): the signal is for the death of what started this process, which may have happened already."""
    prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(125)


def set_title():
    """For ps(1): in place of the arguments. proc(5) says where they are."""
    fields = slurp("/proc/self/stat").rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])
    title = os.fsencode("exec.ts: " + " ".join(arguments))[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, len(title))


def make_terminal():
    """
    On a terminal the command gets another, pty(7): one of the container, or else of the host. The file is
    examined before it is opened: it may be any device.
    """
    reason = OSError(2, os.strerror(2))
    for path in ["root/dev/pts/ptmx", "/dev/pts/ptmx"]:
        try:
            node = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            status = os.fstat(node)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
                continue
            master = os.open(f"/proc/self/fd/{node}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
            slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER
        except OSError as error:
            reason = error
            continue
        os.set_inheritable(slave, False)
        try:
            os.fchown(slave, int(value("host-uid")), -1)
        except OSError:
            pass
        mode = termios.tcgetattr(0)
        termios.tcsetattr(slave, termios.TCSANOW, mode)
        return master, slave, mode
    return fail("make a terminal", reason)


def enter():
    """The process that enters. It first opens what it needs for that, while it sees the host's files only."""
    parts = []
    for path in values("enter"):
        with doing(f"open the container's {path}"):
            parts.append((path, os.open(path, os.O_RDONLY)))
    workdir = value("workdir")
    directory = None
    if inside:
        # groups without an ID in the user namespace would still give access
        if value("setgroups") and as_root:
            with doing("drop groups"):
                call("setgroups", 0, 0)
        if workdir is None:
            try:
                directory = os.open("cwd", os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                pass
        if as_root:
            replace_null()
            give_streams(int(value("host-uid")))
        environment = slurp("environ")
        take_over_surroundings()
    for path, file in parts:
        with doing(f"enter the container's {path}"):
            if path == "root":
                os.chdir(file)
                os.chroot(".")
            else:
                call("setns", file, 0)
        os.close(file)
    if inside:
        os.umask(int(value("umask"), 8))
        if not as_root:
            give_streams(int(value("uid")))
        drop_privileges()
    # only now: a symlink in the container leads no further than the command itself could go
    if workdir is not None:
        with doing(f"enter the directory {workdir}"):
            os.chdir(workdir)
    else:
        try:
            os.chdir("/" if directory is None else directory)
        except OSError:
            os.chdir("/")
    if directory is not None:
        os.close(directory)

    # setns(2) puts only children into a PID namespace. The parent is the process outside: CLONE_PARENT, clone(2)
    with doing("start a process in there"):
        pid = call("clone", 0x8000 | 17, 0, 0, 0, 0)
    if pid > 0:
        os.write(tell, b"%d\n" % pid)
        os._exit(0)
    prctl(1, signal.SIGKILL)  # if the parent has ended before, the pipe has no writer
    if not os.read(go, 1):
        os._exit(125)
    if inside:
        call("setsid")  # the command must not control a terminal of the caller
        if slave is not None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            talks = os.isatty(2)
            for stream in [0, 1, 2] if talks else [0, 1]:
                os.dup2(slave, stream)
        os.environb.clear()
        set_variables(environment.split(b"\0"))
        for name in [b"PWD", b"OLDPWD"]:
            os.environb.pop(name, None)
    set_variables(map(os.fsencode, values("environment")))
    if value("detach"):
        keep_messages()
        os.dup2(1, 2)
    for name in "HUP INT QUIT TERM USR1 USR2 CHLD TSTP TTIN TTOU".split():
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
    become(arguments)


def set_variables(pairs):
    for name, sign, text in (pair.partition(b"=") for pair in pairs):
        if name and sign:
            os.environb[name] = text


def replace_null():
    """Puts the container's /dev/null in place of the host's, whose mode fchmod(2) of a descriptor would change."""
    host = os.stat("/dev/null").st_ino
    null = os.makedev(1, 3)
    for stream in [0, 1, 2]:
        try:
            status = os.fstat(stream)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != null or status.st_ino != host:
                continue
            node = os.open("root/dev/null", os.O_PATH | os.O_NOFOLLOW)
            its = os.fstat(node)
            if not stat.S_ISCHR(its.st_mode) or its.st_rdev != null:
                continue
            file = os.open(f"/proc/self/fd/{node}", os.O_WRONLY if stream else os.O_RDONLY)
        except OSError:
            continue
        os.dup2(file, stream)
        os.close(file)
        os.close(node)


def give_streams(uid):
    """
    Gives pipes, and files that can be written through, to the command's user, who could not open /dev/stdout otherwise.
    A file that is only read keeps its owner.
    """
    if uid == 0:
        return
    for stream in [0, 1, 2]:
        try:
            mode = os.fstat(stream).st_mode
            writes = fcntl.fcntl(stream, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR)
            if stat.S_ISFIFO(mode) or (stat.S_ISREG(mode) and writes):
                os.fchown(stream, uid, -1)
        except OSError:
            pass


def take_over_surroundings():
    """
    Joins the cgroups first: from then on the limits of the container apply. Then takes over what else the first process
    has that is kept in no namespace.
    """
    limits = slurp("limits").decode()
    if value("confined"):
        label = slurp("attr/current").rstrip(b"\n\0")
        profile = re.sub(rb" \(\w+\)$", b"", label)  # AppArmor's
        if profile != label:
            label = b"exec " + profile
        with doing(f"take over the label {os.fsdecode(label)}"):
            put("/proc/self/attr/exec", label)
    for path in values("cgroup"):
        with doing(f"join the cgroup {path}"):
            put(f"{path}/cgroup.procs", b"0")
    try:
        put("/proc/self/oom_score_adj", slurp("oom_score_adj"))
    except OSError:
        pass
    infinity = 2**64 - 1
    rows = [line[26:].split()[:2] for line in limits.split("\n") if line.startswith("Max")]
    for kind, row in enumerate(rows):
        soft, hard = [infinity if word == "unlimited" else int(word) for word in row]
        own = ctypes.create_string_buffer(16)
        try:
            call("prlimit64", 0, kind, struct.pack("QQ", soft, hard), 0)
        except OSError:  # getrlimit(2): as near as this process is permitted
            call("prlimit64", 0, kind, 0, own)
            hard = min(hard, struct.unpack("QQ", own)[1])
            try:
                call("prlimit64", 0, kind, struct.pack("QQ", min(soft, hard), hard), 0)
            except OSError:
                pass


def drop_privileges():
    """Becomes the command's user, with no more privileges than the container has."""
    limited = value("privileges")
    uid, gid = int(value("uid")), int(value("gid"))
    leave_keyring()
    if value("no-new-privs"):
        with doing("set no_new_privs"):
            prctl(38, 1)
    # seccomp(2) asks for no_new_privs or CAP_SYS_ADMIN, which is still there
    if rules:
        load_filter(rules)
    kept = {int(word.rpartition(":")[2]) for word in values("capability")}
    if limited:
        for bit in range(64):
            try:
                if bit not in kept:
                    prctl(24, bit)
            except OSError as error:
                if error.errno != 22:
                    fail(f"drop capability {bit}", error)
        try:
            prctl(47, 4)  # PR_CAP_AMBIENT_CLEAR_ALL
        except OSError:
            pass
    if not value("setgroups"):
        groups = [int(group) for group in values("group")]
        with doing("set its groups"):
            call("setgroups", len(groups), struct.pack(f"{len(groups)}I", *groups))
    with doing(f"become group {gid}"):
        call("setresgid", gid, gid, gid)
    with doing(f"become user {uid}"):
        call("setresuid", uid, uid, uid)
    if limited:
        sets = sum(1 << bit for bit in kept) if uid == 0 else 0
        low, high = sets & 0xFFFFFFFF, sets >> 32
        with doing("drop capabilities"):
            call("capset", struct.pack("II", 0x20080522, 0), struct.pack("6I", low, low, 0, high, high, 0))


def wait_outside():
    """The process that stays outside: it waits, passes on signals, and copies input and output of a terminal."""
    os.chdir("/")
    told = b""
    while not told.endswith(b"\n"):
        some = os.read(ready, 32)
        if not some:
            break
        told += some
    _, status = os.waitpid(child, 0)
    if not told:
        if os.WIFSIGNALED(status):
            say("killed on its way in: is the container at a limit?")
        os._exit(125)
    pid = int(told)
    # a terminal sends SIGINT and SIGQUIT to both processes
    keys = [] if inside or not os.isatty(0) else [signal.SIGINT, signal.SIGQUIT]
    # not those that the kernel sends for what this process does itself
    own = "KILL STOP CHLD PIPE TTIN TTOU ILL BUS FPE SEGV".split()
    for number in signal.valid_signals() - {getattr(signal, f"SIG{name}") for name in own}:
        handler = (lambda *_: None) if number in keys else (lambda got, _: kill(pid, got))
        signal.signal(number, handler)

    def stop(*_):
        kill(pid, signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGSTOP)
        kill(pid, signal.SIGCONT)

    signal.signal(signal.SIGTSTP, stop)
    if master is not None:
        raw_terminal()
    os.write(release, b".")
    os.close(release)
    if value("detach"):
        os.dup2(1, 2)
    status = relay(pid) if master is not None else os.waitpid(pid, 0)[1]
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def kill(pid, got):
    try:
        os.kill(pid, got)
    except OSError:
        pass


def raw_terminal():
    """Makes the caller's terminal raw, as cfmakeraw(3), and gives its size to that of the command."""

    def resize(*_):
        try:
            fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            pass

    signal.signal(signal.SIGWINCH, resize)
    resize()
    input_, output, control, local, *rest = mode
    raw = [input_ & ~0x5EB, output & ~1, control & ~0x130 | 0x30, local & ~0x804B, *rest]
    termios.tcsetattr(0, termios.TCSANOW, raw)


def show(shown):
    try:
        while shown:
            shown = shown[os.write(1, shown) :]
    except OSError:
        pass


def relay(pid):
    """Copies input and output until the command ends. Returns its wait status."""
    typed, reads = b"", True
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        wanted = [master, 0] if reads and len(typed) < 65536 else [master]
        readable, writable, _ = select.select(wanted, [master] if typed else [], [], 0.2)
        if 0 in readable:
            try:
                some = os.read(0, 4096)
            except OSError:
                some = b""
            reads = some != b""
            typed += some
            if not reads:
                kill(pid, signal.SIGHUP)  # the terminal of the caller is gone
        if writable:
            try:
                typed = typed[os.write(master, typed) :]
            except OSError:
                pass
        if master in readable:
            try:
                show(os.read(master, 65536))
            except OSError:  # EIO: no process has the other side open
                select.select([], [], [], 0.01)
    try:
        for _ in range(1000):  # the rest; other processes may write without end
            show(os.read(master, 65536))
    except OSError:
        pass
    try:
        termios.tcsetattr(0, termios.TCSANOW, mode)
    except termios.error:
        pass
    return status


if value("parent"):
    die_with(int(value("parent")))
set_title()

# the container gets no other descriptor of the caller, and may not trace this process, ptrace(2)
for descriptor in os.listdir("/proc/self/fd"):
    try:
        if int(descriptor) > 2 + int(value("preserve") or 0):
            os.close(int(descriptor))
    except OSError:
        pass
prctl(4, 0)

master = slave = mode = None
if inside and os.isatty(0) and os.isatty(1):
    master, slave, mode = make_terminal()

ready, tell = os.pipe()
go, release = os.pipe()
outside = os.getpid()
child = os.fork()
if child == 0:
    die_with(outside)
    for descriptor in [ready, release, master]:
        if descriptor is not None:
            os.close(descriptor)
    enter()
for descriptor in [tell, go, slave]:
    if descriptor is not None:
        os.close(descriptor)
wait_outside()
