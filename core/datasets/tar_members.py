"""Members of tar files by where they lie: nothing is unpacked, no name becomes a path."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ..hooks.errors import DataError, shorten, visible

_BLOCK = tarfile.BLOCKSIZE
#: Of a header that says more of the member that follows, such as a long name.
_MOST_HEADER = 1 << 20
#: Of what fills a file up behind its end.
_MOST_FILLING = 1 << 20
_SHOWN = 100


class Member(NamedTuple):
    """A file in a tar file.

    Attributes:
        name: With its folders.
        offset: Where its first byte lies.
        size: In bytes.
    """

    name: str
    offset: int
    size: int


def members(shard: Path) -> Iterator[Member]:
    """Yield the files of a tar file in order; folders are passed over.

    Raises:
        DataError: It is no tar file, packed, cut short, or holds a link, a device or a file with holes.
    """
    try:
        with shard.open("rb") as file:
            yield from _walk(shard, file, shard.stat().st_size)
    except (tarfile.HeaderError, ValueError) as error:
        raise DataError(
            f"{shard}: is damaged, or no plain tar file ({error}); one that is packed (.tar.gz) has to be "
            "unpacked once, as its samples are read in any order"
        ) from error
    except OSError as error:
        raise DataError(f"{shard}: cannot be read: {error.strerror or error}") from error


def _walk(shard: Path, file: IO[bytes], end: int) -> Iterator[Member]:
    place, told = 0, dict[str, str]()
    while True:
        file.seek(place)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise _cut_short(shard)
        if not block.strip(b"\0"):
            _check_filling(shard, file, end)
            return
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        name, begin = told.pop("path", info.name), place + _BLOCK
        size = int(told.pop("size", info.size))
        if size < 0 or begin + size > end:
            raise _cut_short(shard)
        place = begin + -(-size // _BLOCK) * _BLOCK
        if info.type in {tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME}:
            if size > _MOST_HEADER:
                raise DataError(f"{shard}: has a header of {size:,} bytes, as no writer of samples makes one")
            data = file.read(size)
            told = _records(data) if info.type == tarfile.XHDTYPE else {"path": _text(data.rstrip(b"\0"))}
            continue
        if info.isreg() and not info.issparse() and not any(key.startswith("GNU.sparse") for key in told):
            yield Member(name, begin, size)
        elif info.type not in {tarfile.DIRTYPE, tarfile.XGLTYPE}:
            raise DataError(
                f"{shard}: '{visible(shorten(name, _SHOWN))}' is a link, a device or has holes; write "
                "the shard anew with plain files"
            )
        told = {}


def _records(data: bytes) -> dict[str, str]:
    """Return what an extended header says: records of their length, a key and a value."""
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        count = int(length)
        if not len(length) + 1 < count <= len(data):
            raise ValueError("a header is damaged")
        key, _, value = data[len(length) + 1 : count - 1].partition(b"=")
        found[_text(key)], data = _text(value), data[count:]
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _cut_short(shard: Path) -> DataError:
    return DataError(f"{shard}: was cut short: a member or the end of the tar file is missing; copy it anew")


def _check_filling(shard: Path, file: IO[bytes], end: int) -> None:
    """Check that behind the end there is nothing, such as another tar file, whose samples would be lost."""
    if end - file.tell() > _MOST_FILLING or file.read().strip(b"\0"):
        raise DataError(
            f"{shard}: holds more behind its end, such as another tar file; keep them as two files"
        )


def read_member(shard: Path, offset: int, size: int) -> tuple[str, bytes]:
    """Return the name, for messages, and the bytes of a member.

    Raises:
        DataError: The file has changed since it was looked through.
    """
    try:
        with shard.open("rb", buffering=0) as file:
            file.seek(offset - _BLOCK)
            data = file.read(_BLOCK + size)
        name = tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "replace").name
    except (tarfile.HeaderError, OSError) as error:
        raise DataError(f"{shard}: has changed since the run was prepared: {error}") from error
    if len(data) != _BLOCK + size:
        raise DataError(f"{shard}: has changed since the run was prepared: it is shorter")
    return visible(shorten(name, _SHOWN)), data[_BLOCK:]
