"""Memory that no limit of a process counts: files without a name, shared mappings, kernel objects."""

import ctypes
import errno
import mmap
import os
from multiprocessing import shared_memory

import torch

_MIB = 1 << 20
#: What each attempt fills, and frees again if it could.
SIZE = 64 * _MIB
_LIBC = ctypes.CDLL(None, use_errno=True)
_NR_MEMFD_SECRET = 447


def _checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def _fill(fd):
    """Write to a file until it holds ``SIZE`` bytes; it is mapped nowhere."""
    try:
        for _ in range(SIZE // _MIB):
            os.write(fd, bytes(_MIB))
    finally:
        os.close(fd)
    return True


def _touch(mapping):
    with mapping:
        for start in range(0, SIZE, mmap.PAGESIZE):
            mapping[start] = 1
    return True


def _file(folder):
    def attempt():
        path = f"{folder}/ringfence-hostile-{os.getpid()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(path)
        return _fill(fd)

    return attempt


def _without_name(folder):
    return lambda: _fill(os.open(folder, os.O_RDWR | os.O_TMPFILE))


def _system_v():
    made = _checked(_LIBC.shmget(0, SIZE, 0o1600))
    _LIBC.shmat.restype = ctypes.c_void_p
    address = _LIBC.shmat(made, None, 0)
    ctypes.memset(address, 1, SIZE)
    _LIBC.shmctl(made, 0, None)
    _LIBC.shmdt(ctypes.c_void_p(address))
    return True


def _secret():
    fd = _checked(_LIBC.syscall(_NR_MEMFD_SECRET, 0))
    os.ftruncate(fd, 2 * _MIB)
    with mmap.mmap(fd, 2 * _MIB) as mapping:
        mapping[0] = 1
    os.close(fd)
    return True


def _posix():
    made = shared_memory.SharedMemory(create=True, size=SIZE)
    made.buf[:] = bytes(SIZE)
    made.close()
    made.unlink()
    return True


def _queue():
    return _LIBC.msgctl(_checked(_LIBC.msgget(0, 0o1600)), 0, None) == 0


def _torch():
    try:
        shared = torch.ones(SIZE // 4).share_memory_()
    except RuntimeError as error:
        if os.strerror(errno.EPERM) in str(error) or os.strerror(errno.EACCES) in str(error):
            raise PermissionError(errno.EACCES, "refused") from error
        raise
    return bool(shared[-1])


def attempts(aim):
    shared = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    folders = {"run": "/run", "tmp": "/tmp"}
    return {
        "memfd_by_write": lambda: _fill(os.memfd_create("hidden")),
        "memfd_secret": _secret,
        "system_v": _system_v,
        "system_v_queue": _queue,
        "shared_mapping": lambda: _touch(mmap.mmap(-1, SIZE, shared)),
        "shared_zeros": lambda: _touch(mmap.mmap(os.open("/dev/zero", os.O_RDWR), SIZE, mmap.MAP_SHARED)),
        "dev_shm": _file("/dev/shm"),
        "dev_shm_without_name": _without_name("/dev/shm"),
        **{name: _file(folder) for name, folder in folders.items() if os.path.isdir(folder)},
        "posix_shared_memory": _posix,
        "torch_shared_memory": _torch,
    }
