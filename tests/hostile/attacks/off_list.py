"""Attacks that are on nobody's list: found by trying what the filter let through."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import socket
import struct
import threading

from lowlevel import opens, past

from ringfence.isolation.policy import kernel

_CLOSE_RANGE_UNSHARE = 2
_HIGH = 1 << 32
_FAR = 4000  # beyond every open file
_GETFLAGS, _SETFLAGS, _EXTENTS = 0x80086601, 0x40086602, 0x80000
_GETVERSION, _SETVERSION = 0x80087601, 0x40087602
_IFCONF, _IFNAME, _IFHWADDR, _FIOASYNC = 0x8912, 0x8910, 0x8927, 0x5452
_FASTOPEN = 0x20000000
_PEERCRED, _PEERGROUPS, _PEERPIDFD = 17, 59, 77
_OPTIONS = {"memory": (55, 64), "cookie": (57, 8), "network": (71, 8), "processor": (49, 4)}
_ZEROCOPY_RECEIVE = 35
_CPU_CLOCK = 2
_BY_PROCESS = 1  # of ioprio_get()
_TIMER_IS_SILENT = 1
_kept = []
#: Name to arguments that change nothing that a plugin needs.
_PRCTLS = {
    "subreaper": (36, 1),
    "keep_capabilities": (8, 0),
    "memory_errors": (33, 1, 2, 0, 0),
    "performance_events": (31,),
    "dumpable": (4, 1),
    "dispatch": (59, 0),
}


def _others(aim):
    return {"host": aim.host_pid, "zygote": aim.zygote_pid, "sibling": aim.sibling_pid, "first": 1}


def _socket():
    """Return the socket that this process was given; where it has none, one of its own."""
    for fd in range(3, 64):
        try:
            found = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if found.family == socket.AF_UNIX:
            return found
        found.close()
    end, other = socket.socketpair()
    _kept.append(other)  # one whose other end is closed refuses everything
    return end


def _buffer(data):
    return ctypes.create_string_buffer(data, len(data))


def _in_a_thread(attempt):
    """Make an attempt where it binds one thread only; the error is raised here."""
    came_of_it = []

    def run():
        try:
            came_of_it.append(attempt())
        except OSError as error:
            came_of_it.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(came_of_it[0], OSError):
        raise came_of_it[0]
    return came_of_it[0]


def file_tables(aim):
    """Give a thread open files of its own, which neither a limit nor a look at the process counts."""

    def more(flags):
        kernel.syscall("close_range", _FAR, _FAR + 1, flags)
        return True

    return {
        "unshare": lambda: _in_a_thread(lambda: more(_CLOSE_RANGE_UNSHARE)),
        "high_bits": lambda: _in_a_thread(lambda: more(_CLOSE_RANGE_UNSHARE | _HIGH)),
        "with_close_on_exec": lambda: _in_a_thread(lambda: more(_CLOSE_RANGE_UNSHARE | 4)),
    }


def file_flags(aim):
    """Set a file's attributes through a descriptor that may only read it; to what they are."""
    path = os.path.join(aim.code, "off_list.py")

    def same(get, put, otherwise):
        fd = os.open(path, os.O_RDONLY)
        try:
            value = _buffer(struct.pack("q", otherwise))
            # Asking is refused as well; what is to be seen is whether setting is.
            with contextlib.suppress(PermissionError):
                kernel.syscall("ioctl", fd, get, value)
            kernel.syscall("ioctl", fd, put, value)
        finally:
            os.close(fd)
        return True

    return {
        "flags": lambda: same(_GETFLAGS, _SETFLAGS, _EXTENTS),
        "flags_high_bits": lambda: same(_GETFLAGS, _SETFLAGS | _HIGH, _EXTENTS),
        "version": lambda: same(_GETVERSION, _SETVERSION, 0),
    }


def peer(aim):
    """Ask the socket who is at its other end."""

    def asks(option, size):
        with _socket() as end:
            return bool(end.getsockopt(socket.SOL_SOCKET, option, size))

    return {
        "process": lambda: asks(_PEERPIDFD, 4),
        "credentials": lambda: asks(_PEERCRED, 12),
        "groups": lambda: past(lambda: asks(_PEERGROUPS, 4), errno.ERANGE),
    }


def interfaces(aim):
    """Ask the socket, made in the trainer's network, for that network's interfaces."""

    def asks(request, argument):
        with _socket() as end:
            fcntl.ioctl(end, request, argument)
        return True

    first = struct.pack("16si20x", b"", 1)
    return {
        "names": lambda: asks(_IFNAME, first),
        "addresses": lambda: asks(_IFCONF, struct.pack("iP", 0, 0)),
        "hardware": lambda: asks(_IFHWADDR, struct.pack("16s24x", b"lo")),
        "signals": lambda: asks(_FIOASYNC, struct.pack("i", 0)),
    }


def options(aim):
    """Ask sockets for what the kernel keeps of them, and map what one receives past every count of memory."""

    def asks(option, size):
        with _socket() as end:
            return bool(end.getsockopt(socket.SOL_SOCKET, option, size))

    def maps_what_comes():
        with socket.create_connection(("127.0.0.1", aim.tcp_port)) as end:
            return bool(end.getsockopt(socket.IPPROTO_TCP, _ZEROCOPY_RECEIVE, 64))

    return {
        **{name: lambda option=option: asks(*option) for name, option in _OPTIONS.items()},
        "cookie_high_bits": lambda: _ask_with_high_bits(*_OPTIONS["cookie"]),
        "zero_copy": maps_what_comes,
    }


def _ask_with_high_bits(option, size):
    room, length = _buffer(bytes(size)), _buffer(struct.pack("i", size))
    with _socket() as end:
        kernel.syscall("getsockopt", end.fileno(), socket.SOL_SOCKET | _HIGH, option | _HIGH, room, length)
    return True


def itself(aim):
    """Change what the kernel does for this process; who is a reaper gets others' orphans."""
    return {
        name: lambda arguments=arguments: kernel.prctl(*arguments) == 0 for name, arguments in _PRCTLS.items()
    }


def library_locks(aim):
    """Lock files that everybody reads, for which reading is enough."""

    def locks(kind):
        fd = os.open(__file__, os.O_RDONLY)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        return True

    return {"shared": lambda: locks(fcntl.LOCK_SH), "exclusive": lambda: locks(fcntl.LOCK_EX)}


def clocks(aim):
    """Read how much processor time others take, and be woken by it."""
    attempts = {}
    for who, pid in _others(aim).items():
        clock = ~pid << 3 | _CPU_CLOCK
        silent = _buffer(struct.pack("Qii48x", 0, 0, _TIMER_IS_SILENT))
        attempts |= {
            f"read_{who}": lambda c=clock: kernel.syscall("clock_gettime", c, _buffer(bytes(16))) == 0,
            f"precision_{who}": lambda c=clock: kernel.syscall("clock_getres", c, _buffer(bytes(16))) == 0,
            f"timer_{who}": lambda c=clock, s=silent: (
                kernel.syscall("timer_create", c, s, _buffer(bytes(4))) == 0
            ),
            f"high_bits_{who}": lambda c=clock: (
                kernel.syscall("clock_gettime", c & 0xFFFFFFFF, _buffer(bytes(16))) == 0
            ),
        }
    return attempts


def told_of_others(aim):
    """Ask for the group, the session, the limits and the priorities of others."""
    attempts = {}
    for who, pid in _others(aim).items():
        attempts |= {
            f"group_{who}": lambda pid=pid: os.getpgid(pid) >= 0,
            f"session_{who}": lambda pid=pid: os.getsid(pid) >= 0,
            f"priority_{who}": lambda pid=pid: os.getpriority(os.PRIO_PROCESS, pid) < 20,
            f"io_priority_{who}": lambda pid=pid: kernel.syscall("ioprio_get", _BY_PROCESS, pid) >= 0,
            f"limit_{who}": lambda pid=pid: bool(resource.prlimit(pid, resource.RLIMIT_NOFILE)),
            f"group_high_bits_{who}": lambda pid=pid: kernel.syscall("getpgid", pid | _HIGH) >= 0,
        }
    return attempts


def fast_open(aim):
    """Connect by sending, without a call that connects."""

    def sends():
        with socket.socket() as end:
            return end.sendto(b"x", _FASTOPEN, ("127.0.0.1", aim.tcp_port)) == 1

    def on_what_there_is():
        with _socket() as end:
            return end.send(b"", _FASTOPEN) == 0

    return {"new_socket": sends, "given_socket": on_what_there_is}


def nameless(aim):
    """Make files that no look into the scratch folder finds."""
    return {
        "here": lambda: opens(".", os.O_TMPFILE | os.O_RDWR),
        "to_be_linked_never": lambda: opens(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL),
    }


def outlive(aim):
    """Have the kernel, when memory is short, end the trainer instead; writes what holds already."""

    def writes(pid):
        # Not read first: it is the opening that is to be refused.
        with open(f"/proc/{pid}/oom_score_adj", "r+", encoding="ascii") as file:
            value = file.read()
            file.seek(0)
            return file.write(value) > 0

    return {"own": lambda: writes("self"), "host": lambda: writes(aim.host_pid)}


def uncounted(aim):
    """Have memory that is in no figure: it may be dropped at any time, and is gone when it is measured."""

    def maps(flags):
        kernel.syscall("mmap", 0, mmap.PAGESIZE, 3, flags | kernel.MAP_ANONYMOUS, -1, 0)
        return True

    return {
        "droppable": lambda: maps(kernel.MAP_DROPPABLE),
        "droppable_high_bits": lambda: maps(kernel.MAP_DROPPABLE | _HIGH),
        "downwards": lambda: maps(kernel.MAP_PRIVATE | kernel.MAP_GROWSDOWN),
    }


def interrupts(aim):
    """Interrupt the processors that the trainer runs on, again and again."""
    return {
        "all": lambda: kernel.syscall("membarrier", 1, 0, 0) == 0,
        "all_at_once": lambda: kernel.syscall("membarrier", 2, 0, 0) == 0,
        "take_part": lambda: kernel.syscall("membarrier", 4, 0, 0) == 0,
    }


def pages_of_others(aim):
    """Throw pages of libraries out of everybody's memory, and make one of what is equal."""
    library = os.open(os.__file__, os.O_RDONLY)
    size = mmap.PAGESIZE
    shared = mmap.mmap(library, size, mmap.MAP_PRIVATE, mmap.PROT_READ)
    os.close(library)

    def advise(number):
        shared.madvise(number)
        return True

    return {"cold": lambda: advise(20), "page_out": lambda: advise(21)}


def host_name(aim):
    """Read what the machine is called."""
    return {"name": lambda: os.uname().nodename != "plugin"}


def record_locks(aim, gradients, step):
    """Take one lock after another: each is memory of the kernel's."""
    file = os.open("locks", os.O_RDWR | os.O_CREAT, 0o600)
    place = 0
    while True:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        place += 2


def names_without_end(aim, gradients, step):
    """Log under ever new names, each of which a report would hold a series for."""
    for number in range(1 << 20):
        step.log(f"name-{number}", 0.0)
