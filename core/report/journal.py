"""A file of JSON lines that survives kills and can be cut back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
        text = _TO_JSON(_spelled(record))
    return text.encode() + b"\n"


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _NAMES.get(value, "NaN")
    return value


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; a last line that a kill cut short is left out.

    A file that is missing has no records. A line that is no JSON object is
    skipped: the report must be readable whatever happened to the file.
    """
    for _, record in read_journal_places(path):
        yield record


def read_journal_places(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield where each line begins, in bytes, and its record, as ``read_journal`` does."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = 0
        for line in file:
            begin, end = end, end + len(line)
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield begin, record


class Journal:
    """A file of JSON lines that only grows, except when it is cut back.

    Every line goes to the kernel at once: after a kill all but the line being
    written is there. An incomplete last line is removed on opening.

    Args:
        path: The file; made with the first line. Its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def open(self) -> None:
        """Make the file, if it is not there."""
        if self._handle is None:
            self._handle = self._open()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line."""
        if self._handle is None:
            self._handle = self._open()
        data = memoryview(encode(record))
        while data:
            # A nearly full disk may take a part; the rest then raises.
            data = data[os.write(self._handle, data) :]

    def size(self) -> int:
        """Return the length of the file in bytes."""
        if self._handle is None:
            self._handle = self._open()
        return os.fstat(self._handle).st_size

    def truncate(self, size: int) -> bool:
        """Drop what follows the first ``size`` bytes; False if no line ends there."""
        if not 0 <= size <= self.size():
            return False
        with self.path.open("rb") as file:
            file.seek(max(size - 1, 0))
            if size and file.read(1) != b"\n":
                return False
        os.truncate(self.path, size)
        return True

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that are not ``wanted``; a kill leaves the old file or the new one."""
        kept = b"".join(encode(record) for record in read_journal(self.path) if wanted(record))
        self.close()
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.write_bytes(kept)
        temporary.replace(self.path)

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        _repair(handle)
        return handle


def _repair(handle: int) -> None:
    """Cut the file after its last line feed."""
    end = os.fstat(handle).st_size
    block = 4096
    while end:
        start = max(0, end - block)
        data = os.pread(handle, end - start, start)
        found = data.rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != os.fstat(handle).st_size:
        os.ftruncate(handle, end)
