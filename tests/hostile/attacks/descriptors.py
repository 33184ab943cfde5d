"""Use descriptors that the trainer has open, and use up those that there are."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import select
import socket
import stat

_ENOUGH = 1500
_LAST = 4096
_F_GET_SEALS, _SEAL_SHRINK, _SEAL_GROW, _SEAL_SEAL = 1034, 0x2, 0x4, 0x1
_KEPT_SEALS = _SEAL_SHRINK | _SEAL_GROW | _SEAL_SEAL
_SO_ACCEPTCONN = 30


def _open_ones():
    """Yield every descriptor beyond standard input and output, and what it is."""
    for fd in range(3, _LAST):
        with contextlib.suppress(OSError):
            yield fd, os.fstat(fd)


def _sealed(fd):
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS) & _KEPT_SEALS == _KEPT_SEALS
    except OSError:
        return False


def undocumented():
    """Return descriptors that are not the control socket, a name only, or memory that the host sealed."""
    sockets = [fd for fd, info in _open_ones() if stat.S_ISSOCK(info.st_mode)]
    others = [
        fd
        for fd, info in _open_ones()
        if not stat.S_ISSOCK(info.st_mode)
        and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
        and not _sealed(fd)
    ]
    return [*sockets[1:], *others]


def _listens(fd):
    with socket.socket(fileno=os.dup(fd)) as found:
        return bool(found.getsockopt(socket.SOL_SOCKET, _SO_ACCEPTCONN))


def inherited(aim):
    """Use what the trainer has open."""

    def through(path):
        with open(path, "rb") as file:
            return file.read() == aim.secret.encode()

    def mapped():
        with mmap.mmap(aim.open_fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as memory:
            return memory[:] == aim.secret.encode()

    def sent():
        reader, writer = os.pipe()
        try:
            return os.sendfile(writer, aim.open_fd, 0, 64) == len(aim.secret)
        finally:
            os.close(reader)
            os.close(writer)

    return {
        "read": lambda: os.pread(aim.open_fd, 64, 0) == aim.secret.encode(),
        "duplicate": lambda: os.close(os.dup(aim.open_fd)),
        "about": lambda: os.fstat(aim.open_fd),
        "send": sent,
        "map": mapped,
        "own_proc": lambda: through(f"/proc/self/fd/{aim.open_fd}"),
        "device": lambda: through(f"/dev/fd/{aim.open_fd}"),
        "listener": lambda: any(stat.S_ISSOCK(info.st_mode) and _listens(fd) for fd, info in _open_ones()),
        "pipe": lambda: any(stat.S_ISFIFO(info.st_mode) for _, info in _open_ones()),
        "file": lambda: any(stat.S_ISREG(info.st_mode) and info.st_nlink for _, info in _named_files()),
        "undocumented": lambda: bool(undocumented()),
        "standard_input": lambda: os.fstat(0).st_rdev != os.stat(os.devnull).st_rdev,
    }


def _named_files():
    """Yield open files that have a name and can be read."""
    return ((fd, info) for fd, info in _open_ones() if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)


def exhausted(aim):
    """Open more and more, in every way that something is opened."""

    def many(make):
        with contextlib.suppress(OSError, ValueError):
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        made = []
        try:
            while len(made) < _ENOUGH:
                made += make()
        finally:
            for fd in made:
                os.close(fd)
        return True

    def polls():
        made = select.epoll()
        return [os.dup(made.fileno())]

    def listening():
        made = socket.socket()
        return [made.detach()]

    def signals():
        mask = ctypes.create_string_buffer(128)
        fd = ctypes.CDLL(None, use_errno=True).signalfd(-1, mask, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "signalfd")
        return [fd]

    return {
        "open": lambda: many(lambda: [os.open(os.devnull, os.O_RDONLY)]),
        "handle": lambda: many(lambda: [os.open("/", os.O_PATH)]),
        "duplicate": lambda: many(lambda: [os.dup(0)]),
        "pipe": lambda: many(lambda: list(os.pipe())),
        "event": lambda: many(lambda: [os.eventfd(0)]),
        "epoll": lambda: many(polls),
        "signals": lambda: many(signals),
        "socket": lambda: many(listening),
        "high_number": lambda: os.close(fcntl.fcntl(0, fcntl.F_DUPFD, _ENOUGH)),
        "higher_number": lambda: os.dup2(0, _ENOUGH) == _ENOUGH and os.close(_ENOUGH),
    }
