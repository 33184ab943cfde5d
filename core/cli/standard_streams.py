"""The standard streams of a command: none is missing, and losing one ends nothing.

Imports nothing that takes time: it is there before all else.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STANDARD = (0, 1, 2)
_STDERR = 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def secure_streams() -> None:
    """Open what is closed (``>&-``) nowhere, and let no write to stdout or stderr raise.

    A descriptor from 0 to 2 that is closed would be the next file's that is opened: what is printed would
    end up in a checkpoint.
    """
    for fd in _STANDARD:
        _open_missing(fd)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    sys.stdout, sys.stderr = _with_escapes(sys.stdout, 1), _with_escapes(sys.stderr, 2)


def _open_missing(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        lead_nowhere(fd)


def lead_nowhere(fd: int) -> None:
    """Let ``fd`` lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if null == fd:
        os.set_inheritable(fd, True)
        return
    os.dup2(null, fd)
    os.close(null)


def _with_escapes(stream: TextIO | None, fd: int) -> TextIO:
    """Return a stream on ``fd`` like ``stream``, to which everything can be written."""
    if stream is not None and not (isinstance(stream, io.TextIOWrapper) and stream.fileno() == fd):
        return stream  # somebody else's, such as a notebook's
    output = LastingOutput(fd, "w", closefd=False)
    # PYTHONUNBUFFERED wants it so.
    unbuffered = stream is not None and isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        output if unbuffered else io.BufferedWriter(output),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="replace",
        line_buffering=stream is not None and stream.line_buffering,
        write_through=stream is not None and stream.write_through,
    )


class LastingOutput(io.FileIO):
    """A descriptor to write to; once it takes no more, what is written to it goes nowhere.

    Its reader may end (``| head``), its terminal close, its disk be full.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of ``data``, and return how much that is."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left:
                written = super().write(left)
                if written is None:
                    # Whoever shares it has made it so that it does not wait.
                    select.select((), (self,), ())
                left = left[written or 0 :]
        except OSError as error:
            lead_nowhere(self.fileno())
            if error.errno in _FULL and self.fileno() != _STDERR:
                # Whoever leaves knows it; of a file that was cut short nobody would.
                sys.stderr.write(f"error: standard output cannot be written: {error.strerror}\n")
        return size
