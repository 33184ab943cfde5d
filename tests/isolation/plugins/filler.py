"""Files on the disk, made so that no walk through folders finds them."""

import ctypes
import mmap
import os
import select
import socket
import tempfile
import time
from pathlib import Path

from ringfence import passthrough
from ringfence.hooks import connect
from ringfence.isolation.transport.connect_messages import REQUEST

MIB = 1 << 20
FILE = 24 * MIB
DATA = bytes(4 * MIB)
KEPT = []

libc = ctypes.CDLL(None)
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


def _file():
    descriptor, path = tempfile.mkstemp()
    for _ in range(FILE // len(DATA)):
        os.write(descriptor, DATA)
    return descriptor, path


def named():
    for _ in range(40):
        os.close(_file()[0])


def opened():
    for _ in range(40):
        descriptor, path = _file()
        Path(path).unlink()
        KEPT.append(descriptor)


def mapped():
    for _ in range(40):
        descriptor, path = _file()
        Path(path).unlink()
        # Python's own mapping would keep the file open as well.
        libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, 0)
        os.close(descriptor)


def stores():
    for _ in range(40):
        descriptor, _ = tempfile.mkstemp()
        os.ftruncate(descriptor, FILE)
        mapping = mmap.mmap(descriptor, FILE)
        os.close(descriptor)
        mapping[:] = bytes(FILE)
        KEPT.append(mapping)


def queued():
    """Send files in messages that the host does not read while it connects."""
    end = connect._Route.opener._line
    end.settimeout(5)
    end.send(REQUEST.pack(1, 0, 60_000))
    time.sleep(0.2)
    _send(end)


def answered():
    """Send files as if they were answers, which the host does not read while the trainer is at work."""
    for number in range(3, 64):
        if Path(f"/proc/self/fd/{number}").is_socket():
            _send(socket.socket(fileno=os.dup(number)))


def _send(end):
    for _ in range(40):
        descriptor, path = _file()
        Path(path).unlink()
        socket.send_fds(end, [b"x"], [descriptor])
        os.close(descriptor)


def locks():
    import fcntl

    with tempfile.TemporaryFile() as file:
        for number in range(200_000):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * number, 0)


def mappings(folder=None, pieces=20_000):
    """Map one page of a file with a long name again and again, and stay so."""
    descriptor, path = tempfile.mkstemp(suffix="x" * 200, dir=folder)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    for _ in range(pieces):
        libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, 0)
    os.close(descriptor)
    return path


def watches(files=36, numbers=75):
    """Have one epoll watch each file under many numbers; it goes on when a number is closed."""
    poll, kept = select.epoll(), [os.eventfd(0) for _ in range(files)]
    for file in kept:
        for number in range(180, 180 + numbers):
            os.dup2(file, number)
            poll.register(number)
            os.close(number)
    return poll, kept


def watches_and_wait():
    KEPT.append([watches() for _ in range(4)])
    time.sleep(60)


def mappings_and_wait():
    mappings()
    time.sleep(60)


class Filler:
    role = "gradient"
    forward = passthrough

    def __init__(self, way: str):
        self.way = globals()[way]

    def backward(self, gradients, step):
        self.way()


class Watcher(Filler):
    role = "monitor"
    backward = passthrough

    def forward(self, outputs, step):
        self.way()
