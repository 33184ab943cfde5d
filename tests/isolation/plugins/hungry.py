"""Memory, taken in ways that a process's limits were not made for; each as fast as native code can."""

import ctypes
import mmap
import socket
import tempfile
import threading

import numpy as np
import torch

import ringfence
from ringfence import passthrough

MIB = 1 << 20
PIECE = 4 * MIB
#: More than any budget here; bounded, for the sake of whoever has no sandbox.
ALL = 1536 * MIB
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_POPULATE, _NORESERVE, _HUGE = 0x8000, 0x4000, 14
_FAILED = ctypes.c_void_p(-1).value
KEPT = []

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.mprotect.argtypes = libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.malloc.argtypes = (ctypes.c_size_t,)
libc.sbrk.argtypes = (ctypes.c_long,)


def _map(nbytes, protection=3, flags=0):
    address = libc.mmap(None, nbytes, protection, _ANONYMOUS | flags, -1, 0)
    if address == _FAILED:
        raise MemoryError("mmap")
    return address


def read_only(nbytes=ALL):
    """What may no longer be written is no data any more, as RLIMIT_DATA sees it."""
    for _ in range(nbytes // PIECE):
        libc.mprotect(_map(PIECE, flags=_POPULATE), PIECE, mmap.PROT_READ)


def read_only_huge():
    """The same in huge pages, which the kernel hands out fastest."""
    for _ in range(ALL // (16 * MIB)):
        address = _map(16 * MIB)
        libc.madvise(address, 16 * MIB, _HUGE)
        ctypes.memset(address, 1, 16 * MIB)
        libc.mprotect(address, 16 * MIB, mmap.PROT_READ)


def read_only_threads():
    takers = [threading.Thread(target=read_only, args=(ALL // 4,)) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()


def page_tables():
    """One byte of every 2 MiB: a page of page tables each, and no page of its own."""
    step = 2 * MIB
    for _ in range(512):
        nbytes = 1 << 30
        address = _map(nbytes, mmap.PROT_READ, _NORESERVE)
        np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)[::step].sum()


def untouched():
    """First what was mapped before, touched or not; then all that there is."""
    with open("/proc/self/maps") as file:  # noqa: PTH123 - as a plugin might
        lines = [line.split() for line in file]
    for words in lines:
        if words[1] == "rw-p" and words[-1] not in ("[stack]", "[heap]"):
            start, end = (int(text, 16) for text in words[0].split("-"))
            for page in range(start, end, mmap.PAGESIZE):
                ctypes.memmove(page, ctypes.string_at(page, 1), 1)
    malloc()


def malloc():
    for _ in range(ALL // PIECE):
        address = libc.malloc(PIECE)
        if not address:
            raise MemoryError("malloc")
        ctypes.memset(address, 1, PIECE)


def private_mapping():
    for _ in range(ALL // PIECE):
        ctypes.memset(_map(PIECE), 1, PIECE)


def program_break():
    for _ in range(ALL // PIECE):
        address = libc.sbrk(PIECE)
        if address == _FAILED:
            raise MemoryError("sbrk")
        ctypes.memset(address, 1, PIECE)


def stacks():
    """Threads whose stacks are written to from end to end."""
    threading.stack_size(32 * MIB)
    wait = threading.Event()

    def fill():
        ctypes.memset(_stack_start(), 1, 24 * MIB)
        wait.wait()

    for _ in range(64):
        try:
            threading.Thread(target=fill, daemon=True).start()
        except RuntimeError as error:
            raise MemoryError("thread") from error


def _stack_start():
    """Return an address well inside this thread's stack, and below all that it uses."""
    attributes = (ctypes.c_char * 64)()
    address, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.pthread_self.restype = ctypes.c_void_p
    libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes)
    libc.pthread_attr_getstack(attributes, ctypes.byref(address), ctypes.byref(size))
    return address.value + MIB


def torch_spike():
    KEPT.append(torch.ones(3 << 28))


def file_mapping():
    """Pages of a file's private mapping, made its own by writing."""
    for _ in range(ALL // (32 * MIB)):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - kept
        file.truncate(32 * MIB)
        address = libc.mmap(None, 32 * MIB, 3, mmap.MAP_PRIVATE, file.fileno(), 0)
        file.close()
        if address == _FAILED:
            raise MemoryError("mmap")
        ctypes.memset(address, 1, 32 * MIB)


class _ZeroCopy(ctypes.Structure):
    """struct tcp_zerocopy_receive."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("length", "skip", "left", "error")),
        ("copy", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("copy_length", "flags")),
        *((name, ctypes.c_uint64) for name in ("control", "control_length", "reserved")),
    )


def received(connection):
    """Map what was received instead of reading it, until the other end closes; returns how many bytes."""
    tcp_zerocopy_receive, total = 35, 0
    while connection.recv(1, socket.MSG_PEEK):
        address = libc.mmap(None, MIB, mmap.PROT_READ, mmap.MAP_SHARED, connection.fileno(), 0)
        asked = _ZeroCopy(address, MIB)
        size = ctypes.c_uint32(ctypes.sizeof(asked))
        option = (socket.IPPROTO_TCP, tcp_zerocopy_receive, ctypes.byref(asked), ctypes.byref(size))
        if libc.getsockopt(connection.fileno(), *option):
            break
        total += asked.length
        if asked.skip:  # no whole page
            connection.recv(asked.skip)
    return total


class Hungry:
    """Takes memory at its first call."""

    role = "gradient"
    forward = passthrough

    def __init__(self, way: str):
        self.way = globals()[way]

    def backward(self, gradients, step):
        self.way()


class Mapper:
    """Maps a connection that it was given, again and again, and waits for what comes of it."""

    role = "gradient"
    forward = passthrough

    def __init__(self, port: int):
        self.port = port

    def backward(self, gradients, step):
        with ringfence.connect("127.0.0.1", self.port) as connection:
            for _ in range(ALL // (64 * MIB)):
                address = libc.mmap(None, 64 * MIB, mmap.PROT_READ, mmap.MAP_SHARED, connection.fileno(), 0)
                if address == _FAILED:
                    raise OSError(ctypes.get_errno(), "mmap")
            threading.Event().wait(5)


class HungryTwin:
    """The same in several workers at once."""

    role = "augment"
    backward = passthrough

    def __init__(self, way: str):
        self.way = globals()[way]

    def forward(self, batch, step):
        self.way()


class Holder:
    """Holds memory from the start; its result and its state ask for more."""

    role = "gradient"
    forward = passthrough

    def __init__(self, mib: int = 0, state_mib: int = 0):
        self.held = torch.ones(mib * MIB // 4)
        self.state_mib = state_mib

    def backward(self, gradients, step):
        return gradients.clone() if self.state_mib == 0 else None

    def state_dict(self):
        return {"held": torch.ones(self.state_mib * MIB // 4)}

    def load_state_dict(self, state):
        pass


class Hoarder:
    """Saves ever larger states, and lets go of nothing that it was given to save them in."""

    role = "gradient"
    forward = passthrough

    def __init__(self):
        self.saves = 0

    def backward(self, gradients, step):
        pass

    def state_dict(self):
        self.saves += 1
        _keep_mappings()
        return {"state": torch.ones(self.saves * 3 * MIB // 4)}

    def load_state_dict(self, state):
        pass


def _keep_mappings():
    """Hold on to all regions of the worker that this plugin runs in."""
    import sys

    frame = sys._getframe()
    while frame is not None:
        worker = frame.f_locals.get("self")
        if type(worker).__name__ == "Worker":
            KEPT.append(list(worker._regions.values()))
            return
        frame = frame.f_back
