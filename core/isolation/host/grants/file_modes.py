"""File modes that a worker asks to change, changed by the host: below its scratch folder only.

A filter sees the number of a file, or where its name lies, but not which file it is. The host finds that out,
opens the file anew from the scratch folder downwards, following no link, and changes what it opened: whatever
the worker exchanges meanwhile, it is a file of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...policy import kernel

_MARKS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_MODE_ARGUMENT = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
_INT = 0xFFFFFFFF
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100 & _INT, 0x100
_MAX_PATH_BYTES = 4096
_MAX_OFFSET = (1 << 63) - 1
# struct open_how: flags, mode, how to walk: not to another file system, along no link, not out of the folder.
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08
_OPEN_HOW = struct.pack("3Q", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE)


def change_mode(
    scratch: str, thread: int, call: str, arguments: Sequence[int], is_asked: Callable[[], bool]
) -> int:
    """Change a file's mode as a system call asks; returns 0, or the error that the call gets.

    Only what its owner may do is changed. To make it set-uid, set-gid or sticky is refused, and so is
    everything but a regular file that has a name below ``scratch``.

    Args:
        scratch: Of the worker; a path without links.
        thread: Of the worker; the one that made the call and waits.
        call: One of ``calls.BY_HOST``.
        arguments: Of the call.
        is_asked: Tells whether the thread still waits, so that its number is still its own.
    """
    mode = arguments[_MODE_ARGUMENT[call]]
    try:
        with _opened_below(scratch, _path(thread, call, arguments)) as file:
            info = os.fstat(file)
            is_meant = call != "fchmod" or os.path.samestat(info, _open_file(thread, arguments[0]).stat())
            if mode & _MARKS or not stat.S_ISREG(info.st_mode) or not is_meant or not is_asked():
                return errno.EPERM
            Path(f"/proc/self/fd/{file}").chmod(mode & stat.S_IRWXU)
    except FileNotFoundError:
        return errno.ENOENT
    except OSError:
        return errno.EPERM
    return 0


def _path(thread: int, call: str, arguments: Sequence[int]) -> Path:
    """Return the absolute path of the file that a call names, as it is now."""
    if call == "fchmod":
        return _open_file(thread, arguments[0]).readlink()
    folder, address = (_AT_FDCWD, arguments[0]) if call == "chmod" else arguments[:2]
    if call == "fchmodat2" and arguments[3] & _INT & ~_AT_SYMLINK_NOFOLLOW:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    at = Path(f"/proc/{thread}/cwd") if folder & _INT == _AT_FDCWD else _open_file(thread, folder)
    return at.readlink() / _text(thread, address)


def _open_file(thread: int, number: int) -> Path:
    return Path(f"/proc/{thread}/fd/{number & _INT}")


def _text(thread: int, address: int) -> str:
    """Read a path from a worker's memory; a machine may forbid it to all but root."""
    memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text, end, _ = os.pread(memory, _MAX_PATH_BYTES, min(address, _MAX_OFFSET)).partition(b"\0")
    finally:
        os.close(memory)
    if not end:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return os.fsdecode(text)


@contextlib.contextmanager
def _opened_below(scratch: str, path: Path) -> Iterator[int]:
    """Open what a path leads to, for nothing but to be looked at; only below ``scratch``, along no link."""
    if not path.is_relative_to(scratch):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
    below = ctypes.create_string_buffer(bytes(path.relative_to(scratch)))
    how = ctypes.create_string_buffer(_OPEN_HOW, len(_OPEN_HOW))
    with contextlib.ExitStack() as opened:
        folder = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        file = kernel.syscall("openat2", folder, below, how, len(_OPEN_HOW))
        opened.callback(os.close, file)
        yield file
