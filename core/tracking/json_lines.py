"""A file of JSON lines that survives kills and can be cut back."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .untrusted_folder import Tree

#: The longest are those of a plugin that logs as many numbers, under names as long, as it may.
MAX_LINE_BYTES = 4 << 20
#: Of ``metrics.jsonl``, the longest journal.
MAX_METRICS_BYTES = 512 << 20
#: What a run writes takes at least as many bytes a line: shorter ones cost a reader no more for being many.
LEAST_LINE_BYTES = 64
_COPIED_BYTES = 1 << 20

_TO_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


def encode(record: Mapping[str, Any]) -> bytes:
    """Return ``record`` as one line of JSON.

    JSON has no numbers that are not finite: they become the strings "NaN",
    "Infinity" and "-Infinity", which ``float()`` reads back.
    """
    try:
        text = _TO_JSON(record)
    except ValueError:
        text = _TO_JSON(_spell_non_finite(record))
    return text.encode() + b"\n"


def _spell_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spell_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spell_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _NAMES.get(value, "NaN")
    return value


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on how far a journal is read: the file may be anybody's.

    Attributes:
        nbytes: Of all lines.
        lines: Their number, damaged ones included.
    """

    nbytes: int
    lines: int


def bounds_of(nbytes: int) -> Bounds:
    """Return the bounds of a journal of so many bytes, with as many lines as a run would write."""
    return Bounds(nbytes, nbytes // LEAST_LINE_BYTES)


class LongJournalError(Exception):
    """A journal is longer than it is read; the message says so, and how far that was."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal.

    Attributes:
        begin: Where it begins, in bytes.
        end: Where the next one begins.
        record: What it holds; None if that is no JSON object, or it is too long.
    """

    begin: int
    end: int
    record: dict[str, Any] | None


def read_lines(tree: Tree, name: str, most: Bounds, *, begin: int = 0) -> Iterator[Line]:
    """Yield the whole lines of a file below ``tree``, from byte ``begin`` on; none if it is missing.

    Raises:
        LongJournalError: There are more, after those that lie within the bounds.
        OSError: It cannot be read.
    """
    try:
        handle = tree.open(name, os.O_RDONLY)
    except FileNotFoundError:
        return
    with os.fdopen(handle, "rb") as file:
        end = file.seek(begin)
        for number in itertools.count():
            line = piece = file.readline(MAX_LINE_BYTES)
            begin, is_whole = end, len(piece) < MAX_LINE_BYTES or piece.endswith(b"\n")
            end += len(piece)
            while piece and not piece.endswith(b"\n") and end <= most.nbytes:
                piece = file.readline(MAX_LINE_BYTES)
                end += len(piece)
            if not piece:
                return
            if end > most.nbytes:
                raise LongJournalError(f"{name} is read up to {most.nbytes >> 20} MiB")
            if number == most.lines:
                raise LongJournalError(f"{name} is read up to line {most.lines}")
            yield Line(begin, end, _decode(line) if is_whole else None)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


class Journal:
    """A file of JSON lines that only grows, except when it is cut back.

    Every line goes to the kernel at once: after a kill all but the line being
    written is there. An incomplete last line is removed on opening.

    Args:
        tree: The run's folder.
        name: The file in it; made with the first line. Its folder exists.
    """

    def __init__(self, tree: Tree, name: str) -> None:
        self.tree = tree
        self.name = name
        self._handle: int | None = None

    def open(self) -> int:
        """Make the file, if it is not there; return its descriptor."""
        if self._handle is None:
            self._handle = self._open()
        return self._handle

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line."""
        self.write(encode(record))

    def write(self, line: bytes) -> None:
        """Write one line that is encoded already."""
        if self._handle is None:
            self._handle = self._open()
        data = memoryview(line)
        while data:
            # A nearly full disk may take a part; the rest then raises.
            data = data[os.write(self._handle, data) :]

    def size(self) -> int:
        """Return the length of the file in bytes."""
        return os.fstat(self.open()).st_size

    def lines(self, most: Bounds) -> Iterator[Line]:
        """Yield what is there; none if the file is not.

        Raises:
            LongJournalError: As ``read_lines``.
        """
        return read_lines(self.tree, self.name, most)

    def truncate(self, size: int) -> bool:
        """Drop what follows the first ``size`` bytes; False if no line ends there."""
        if not 0 <= size <= self.size():
            return False
        if size and os.pread(self.open(), 1, size - 1) != b"\n":
            return False
        os.ftruncate(self.open(), size)
        return True

    def set_aside(self) -> str:
        """Give the file a name beside its own, and return that; what ``keep`` keeps is still read from it."""
        self.open()
        folder, _, last = self.name.rpartition("/")
        taken = set(self.tree.names(folder))
        number = next(n for n in itertools.count(1) if f"{last}.{n}" not in taken)
        self.tree.rename(self.name, f"{last}.{number}")
        return f"{self.name}.{number}"

    def keep(self, lines: Iterable[tuple[int, int]]) -> None:
        """Drop all but these lines; a kill leaves the old file or the new one.

        Args:
            lines: Where each begins and ends, in bytes.
        """
        self.tree.write(self.name, self._parts(self.open(), lines))
        self.close()

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        handle = self.tree.open(self.name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            _repair(handle)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _parts(self, handle: int, lines: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        for begin, end in lines:
            for at in range(begin, end, _COPIED_BYTES):
                yield os.pread(handle, min(_COPIED_BYTES, end - at), at)


def _repair(handle: int) -> None:
    """Cut the file after its last line feed; what is longer than a line is ended by one, and stays."""
    end = os.fstat(handle).st_size
    lowest = max(0, end - MAX_LINE_BYTES)
    block = 4096
    while end:
        if end == lowest:
            os.write(handle, b"\n")
            return
        start = max(lowest, end - block)
        data = os.pread(handle, end - start, start)
        found = data.rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != os.fstat(handle).st_size:
        os.ftruncate(handle, end)
