"""Take memory until there is no more, by everything that hands it out; or all at once."""

import ctypes
import mmap
import threading

import numpy as np
import torch

MIB = 1 << 20
#: More than any budget that these are tried with; bounded, for the sake of whoever has no sandbox.
LEAK = 768 * MIB
PIECE = 8 * MIB
SPIKE = 3 * 1024 * MIB
KEPT = []
_POPULATE = 0x8000
_FAILED = ctypes.c_void_p(-1).value


def _all(take):
    KEPT.extend(take() for _ in range(LEAK // PIECE))


def by_torch(aim, gradients, step):
    _all(lambda: torch.ones(PIECE // 4))


def by_numpy(aim, gradients, step):
    _all(lambda: np.ones(PIECE // 8))


def by_python(aim, gradients, step):
    _all(lambda: [bytes([number % 256]) * 1000 for number in range(PIECE // 1040)])


def by_malloc(aim, gradients, step):
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p

    def take():
        address = libc.malloc(ctypes.c_size_t(PIECE))
        if not address:
            raise MemoryError("malloc")
        ctypes.memset(address, 1, PIECE)
        return address

    _all(take)


def by_mapping(aim, gradients, step):
    def take():
        mapping = mmap.mmap(-1, PIECE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for start in range(0, PIECE, mmap.PAGESIZE):
            mapping[start] = 1
        return mapping

    try:
        _all(take)
    except OSError as error:
        raise MemoryError("mmap") from error


def spike(aim, gradients, step):
    """All at once, in one array."""
    KEPT.append(np.ones(SPIKE // 8))


def spike_of_threads(aim, gradients, step):
    """All at once, by native code in four threads: there is no time to look."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(16 * MIB)
    refused, all_there = [], threading.Event()

    def take():
        all_there.wait()
        for _ in range(SPIKE // 4 // (16 * MIB)):
            got = libc.mmap(None, size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _POPULATE, -1, 0)
            if got == _FAILED:
                refused.append(got)
                return

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    all_there.set()
    for taker in takers:
        taker.join()
    if refused:
        raise MemoryError("mmap")
