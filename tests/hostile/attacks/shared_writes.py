"""Write into memory that the trainer hands out to be read."""

import ctypes
import errno
import mmap
import os

from lowlevel import past
from regions import mapping, reopened, try_all
from search import mappings

from ringfence.isolation.policy import kernel

_PAGE = mmap.PAGESIZE
_MAYMOVE = 1
_READ, _WRITE = 1, 2


def through_descriptors(aim):
    """Write by every call that takes a descriptor."""
    changes = {
        "write": lambda fd: os.pwrite(fd, b"x", 0),
        "write_here": _writes_here,
        "write_vector": lambda fd: os.pwritev(fd, [b"x"], 0),
        "write_again": _again(lambda fd: os.pwrite(fd, b"x", 0)),
        "map": _maps,
        "map_again": _again(_maps),
        "map_then_protect": _maps_then_protects,
        "copy": lambda fd: os.copy_file_range(fd, fd, 8, _PAGE // 2, 0) == 8,
        "send": _sends,
        "splice": _splices,
    }
    return {name: try_all(change, inputs=True) for name, change in changes.items()}


def through_mappings(aim):
    """Write into what is mapped to be read."""
    changes = {
        "protect": lambda start, end: _protects(start),
        "protect_copy": _doubles,
        "process": _writes_by_process,
        "map_files": _opens_mapping,
    }
    attempts = {name: lambda change=change: change(*mapping("r--s")) for name, change in changes.items()}
    return attempts | {"own_memory": lambda: os.close(os.open("/proc/self/mem", os.O_RDWR))}


def _again(use):
    def change(fd):
        with reopened(fd) as other:
            return use(other)

    return change


def _writes_here(fd):
    os.lseek(fd, 0, os.SEEK_SET)
    return os.write(fd, b"x") == 1


def _maps(fd):
    mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, _READ | _WRITE).close()


def _maps_then_protects(fd):
    with mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, _READ):
        # Python tells no address of what may not be written.
        return _protects(next(at for at, end, has, _ in mappings() if has == "r--s" and end - at == _PAGE))


def _sends(fd):
    with open("source", "w+b") as source:
        os.unlink("source")
        source.write(b"x" * 64)
        source.flush()
        os.lseek(fd, 0, os.SEEK_SET)
        return os.sendfile(fd, source.fileno(), 0, 8) == 8


def _splices(fd):
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x" * 8)
        return os.splice(reader, fd, 8, offset_dst=0) == 8
    finally:
        os.close(reader)
        os.close(writer)


def _doubles(start, _):
    # With an old size of 0 a shared mapping is not moved but mapped once more.
    other = kernel.syscall("mremap", start, 0, _PAGE, _MAYMOVE, 0)
    try:
        return _protects(other)
    finally:
        kernel.syscall("munmap", other, _PAGE)


def _opens_mapping(start, end):
    os.close(os.open(f"/proc/self/map_files/{start:x}-{end:x}", os.O_RDWR))


def _protects(start):
    return kernel.syscall("mprotect", start, _PAGE, _READ | _WRITE) == 0


def _writes_by_process(start, _):
    """Have the kernel write; it would not into a page that is not to be written, but says so only then."""
    source = ctypes.create_string_buffer(8)
    ours = (ctypes.c_size_t * 2)(ctypes.addressof(source), 8)
    theirs = (ctypes.c_size_t * 2)(start, 8)
    return past(lambda: kernel.syscall("process_vm_writev", os.getpid(), ours, 1, theirs, 1, 0), errno.EFAULT)
