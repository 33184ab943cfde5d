"""Change the size and the seals of memory that the trainer shares, and run what lies in it."""

import ctypes
import errno
import fcntl
import mmap
import os

import machine
import seccompy
from lowlevel import past
from regions import mapping, regions, reopened, try_all

from ringfence.isolation.policy import kernel

_ADD_SEALS = 1033
_SEAL_GROW, _SEAL_WRITE, _SEAL_EXEC = 0x4, 0x8, 0x20
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_PAGE = mmap.PAGESIZE
_REMOVE, _PAGEOUT = 9, 21
_READ, _WRITE, _EXEC = 1, 2, 4


def _kinds(changes):
    """Return attempts to make each change, through what is to be read and through what is to be written."""
    return {
        f"{name}_{kind}": try_all(change, inputs=kind == "inputs")
        for name, change in changes.items()
        for kind in ("inputs", "results")
    }


def grow(aim):
    """Make a region longer, put holes into it, seal it against the trainer, and run what it holds."""

    def size(fd):
        return os.fstat(fd).st_size

    def longer(fd):
        os.ftruncate(fd, size(fd) + _PAGE)

    def allocates(mode, at=0):
        return lambda fd: kernel.syscall("fallocate", fd, mode, at, _PAGE)

    def beyond(fd):
        return os.pwrite(fd, b"x", size(fd) + 8 * _PAGE) == 1

    def longer_again(fd):
        with reopened(fd) as other:
            longer(other)

    def advises(permissions, advice):
        start, _ = mapping(permissions)
        return kernel.syscall("madvise", start, _PAGE, advice) == 0

    return _kinds(
        {
            "longer": longer,
            "longer_again": longer_again,
            "beyond": beyond,
            "allocate": lambda fd: kernel.syscall("fallocate", fd, 0, size(fd), _PAGE),
            "posix_allocate": lambda fd: os.posix_fallocate(fd, size(fd), _PAGE),
            "hole": allocates(_PUNCH_HOLE | _KEEP_SIZE),
            "seal_grow": lambda fd: fcntl.fcntl(fd, _ADD_SEALS, _SEAL_GROW),
            # It seals against writing too, and the trainer has it mapped to be written.
            "seal_exec": lambda fd: past(
                lambda: fcntl.fcntl(fd, _ADD_SEALS, _SEAL_EXEC), errno.EBUSY, errno.EINVAL
            ),
            "seal_nothing": lambda fd: fcntl.fcntl(fd, _ADD_SEALS, 0),
            "seal_write": lambda fd: past(lambda: fcntl.fcntl(fd, _ADD_SEALS, _SEAL_WRITE), errno.EBUSY),
        }
    ) | {
        "remove_results": lambda: advises("rw-s", _REMOVE),
        "page_out_inputs": lambda: advises("r--s", _PAGEOUT),
        "page_out_results": lambda: advises("rw-s", _PAGEOUT),
    }


def run(aim):
    """Run code that lies in a region: it may be mapped so, and is told the same as any other."""

    def call():
        memory = _executable(regions(inputs=False)[0])
        return machine.in_mapping(memory)

    def program():
        fd = regions(inputs=False)[0]
        empty = ctypes.create_string_buffer(1)
        return past(lambda: kernel.syscall("execveat", fd, empty, 1, 0, 0x1000), errno.EFAULT, errno.ENOEXEC)

    return {
        "kill": lambda: call()(_number("kill"), aim.host_pid, 0) == 0,
        "socket": lambda: os.close(call()(_number("socket"), 2, 1, 0)),
        "program": program,
    }


def _number(name):
    return seccompy.syscall_nr(name)


def _executable(fd):
    """Map the last page of a region so that what is written there can run."""
    last = os.fstat(fd).st_size - _PAGE
    memory = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, _READ | _WRITE | _EXEC, offset=last)
    memory[:64] = machine.code("call").ljust(64, b"\0")
    return memory


def shrink(aim):
    """Take pages from under the trainer: when it next reads them, it dies."""

    def there_and_back(fd):
        before = os.fstat(fd).st_size
        os.ftruncate(fd, 0)
        os.ftruncate(fd, before)

    def by_a_page(fd):
        before = os.fstat(fd).st_size
        os.ftruncate(fd, before - _PAGE)
        os.ftruncate(fd, before)

    def by_name(fd):
        before = os.fstat(fd).st_size
        os.truncate(f"/proc/self/fd/{fd}", 0)
        os.ftruncate(fd, before)

    def again(fd):
        with reopened(fd) as other:
            there_and_back(other)

    def opened(flags):
        def change(fd):
            before = os.fstat(fd).st_size
            with reopened(fd, flags | os.O_TRUNC):
                os.ftruncate(fd, before)

        return change

    return _kinds(
        {
            "to_nothing_and_back": there_and_back,
            "by_a_page": by_a_page,
            "by_name": by_name,
            "again": again,
            "opened_for_writing": opened(os.O_RDWR),
            "opened_for_reading": opened(os.O_RDONLY),
            "to_nothing": lambda fd: os.ftruncate(fd, 0),
        }
    )
