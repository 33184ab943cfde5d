"""Files that survive a kill and a power cut once they are said to be written, and reading without trust."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

_BYTES_PER_CALL = 512 << 10
_WRITEBACK_BYTES = 4 << 20
_NO_CALL_BACK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UnreadableError(Exception):
    """A file is not what it should be; the message completes ``NAME: ``."""


@dataclass(frozen=True, slots=True)
class Written:
    """The length and the digest of a written file.

    Attributes:
        nbytes: Its length.
        sha256: Of its bytes, in hexadecimal.
    """

    nbytes: int
    sha256: str


class NewFiles:
    """New files that are synced together: a file system then has one transaction to commit, not one each.

    A context: at its end nothing is left open.
    """

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            os.close(self._open.pop())

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> Written:
        """Write a file that does not exist; nothing is copied.

        Args:
            path: Must not exist.
            chunks: Its bytes in order; they must not change meanwhile.

        Raises:
            OSError: It cannot be written.
        """
        digest, nbytes, sent = hashlib.sha256(), 0, 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._open.append(descriptor)
        for piece in (piece for chunk in chunks for piece in _pieces(memoryview(chunk))):
            # One after the other while it is in the processor's cache: a thread for the hash gains nothing.
            digest.update(piece)
            _write_all(descriptor, piece)
            nbytes += len(piece)
            if nbytes - sent >= _WRITEBACK_BYTES:
                sent = _send(descriptor, sent, nbytes)
        _send(descriptor, sent, nbytes)
        return Written(nbytes, digest.hexdigest())

    def sync(self) -> None:
        """Make what was written survive a power cut.

        Raises:
            OSError: It may not.
        """
        for descriptor in self._open:
            os.fsync(descriptor)


def read_file(path: Path, max_bytes: int) -> tuple[Tensor, str]:
    """Read a regular file that may be anything else, in bounded time and memory.

    Args:
        path: Its last part is not followed if it is a link.
        max_bytes: The longest that it may be.

    Returns:
        (N,) uint8 in memory of its own, and its SHA-256 in hexadecimal.

    Raises:
        UnreadableError: It is missing, no regular file, too long, or cannot be read.
    """
    try:
        _check_regular(os.lstat(path))
        # Not blocking: a FIFO that takes the file's place meanwhile must not make us wait.
        descriptor = os.open(path, os.O_RDONLY | _NO_CALL_BACK)
        try:
            return read_descriptor(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def check_folder(path: Path) -> None:
    """Check that ``path`` is a folder and no link to one.

    Raises:
        UnreadableError: It is not.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    if stat.S_ISLNK(mode):
        raise UnreadableError("it is a symbolic link, and none is followed")
    if not stat.S_ISDIR(mode):
        raise UnreadableError("it is not a folder")


def length(path: Path) -> int:
    """Return the length of a regular file; -1 if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def make_folder(path: Path) -> None:
    """Make ``path`` and what of its parents is missing, so that they survive a power cut.

    The folder above the first that was made is synced as well, so that its name is on disk.

    Raises:
        OSError: It cannot be made, or something else is there.
    """
    missing: list[Path] = []
    for folder in (path, *path.parents):
        if folder.is_dir() or (missing and os.path.lexists(folder)):
            break
        missing.append(folder)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut, where its file system can be told to.

    Raises:
        OSError: They may not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no sync of folders; there is no other way to ask.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _send(descriptor: int, start: int, end: int) -> int:
    """Let the disk begin with what was written, rather than at the sync; return ``end``."""
    os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
    return end


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(data), _BYTES_PER_CALL):
        yield data[at : at + _BYTES_PER_CALL]


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        # A nearly full disk takes a part; the rest then raises.
        data = data[os.write(descriptor, data) :]


def read_descriptor(descriptor: int, max_bytes: int) -> tuple[Tensor, str]:
    """Read an open file as ``read_file`` does."""
    found = os.fstat(descriptor)
    _check_regular(found)
    if found.st_size > max_bytes:
        raise UnreadableError(f"it has {found.st_size} bytes; at most {max_bytes} can belong there")
    data = torch.empty(found.st_size, dtype=torch.uint8)
    view, at, digest = data.numpy().data, 0, hashlib.sha256()
    while at < len(view):
        count = os.readv(descriptor, [view[at : at + _BYTES_PER_CALL]])
        if count == 0:
            raise UnreadableError("it became shorter while it was read")
        digest.update(view[at : at + count])
        at += count
    return data, digest.hexdigest()


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnreadableError("it is a symbolic link, and none is followed")
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("it is not a regular file")
