"""Digest of an installed distribution: what of its files can run or be read in a sandbox, as they are now.

Of a stranger's every such file is read, once; of what ringfence itself requires, which runs in the trainer
too and may have gigabytes, only the list of files is, in which the installer has noted their digests.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from importlib_metadata import Distribution

from ..imports.digested_imports import Identity, identity_of
from .installed_layout import Environment, InstalledLayout, check_files, read_small
from .requirements import MAX_LIST_BYTES

#: Of one distribution.
MAX_FILES = 20_000
MAX_BYTES = 2**30
MAX_DEPTH = 32
#: For all distributions of a job together.
MAX_SECONDS = 120.0

_CHUNK = 2**20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: What Python has compiled, which no sandbox takes. One without a second dot is a module by itself.
_CACHED = re.compile(r"(?:^|/)__pycache__/[^/]+\.[^/.]+(?:\.opt-\d)?\.pyc$")
#: Of the metadata, as they differ between two installations of the same.
_NOTED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_NOTES = re.compile(rf"[^/]+\.dist-info/(?:{'|'.join(map(re.escape, _NOTED))})$")
_TOP = re.compile(rb"^\"?([^/,\n]+)", re.MULTILINE)
#: Of an editable install, whose other files name folders of this machine.
_TOLD = re.compile(r"[^/]+\.(?:dist|egg)-info/(?:METADATA|entry_points\.txt)$")
_EDITABLE = "it is installed with -e, so that its files may change at any time"


class UndigestedError(ValueError):
    """A distribution is not digested; the message is a clause."""


class ReadFile(NamedTuple):
    """A file that was read.

    Attributes:
        sha256: Of its bytes.
        path: Where it lies, without links.
        identity: What tells it from another.
    """

    sha256: str
    path: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class DistributionDigest:
    """What is installed of one distribution.

    Attributes:
        name: As names are compared.
        version: ``""`` where it is not installed.
        files: Path from the folder that it is found in to what was read there.
        record: SHA-256 of its list of files, where that stands for them, or ``""``.
        gap: Why it is not digested, as a clause, or ``""``.
        provides: Files and folders that it brings, without links, where they are not read.
    """

    name: str
    version: str
    files: Mapping[str, ReadFile] = field(default_factory=dict)
    record: str = ""
    gap: str = ""
    provides: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of all of it; ``""`` where there is none."""
        if self.gap or self.record:
            return self.record
        lines = (f"{file.sha256}  {name}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


class Effort:
    """The time for all distributions of a job."""

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def look(self) -> None:
        """Look at the clock.

        Raises:
            UndigestedError: No time is left.
        """
        if time.monotonic() > self._until:
            raise UndigestedError(
                f"to read all that the job's plugins bring takes more than {self._seconds:g} s"
            )


def digest_files(
    name: str, version: str, distribution: Distribution, environment: Environment, effort: Effort
) -> DistributionDigest:
    """Read every file of a distribution that a sandbox may import or read, whoever has put it there.

    Those are the files of its list in the folder that it is installed to, and all that lies in its own
    packages, listed or not. What Python has compiled is left out, and what differs between two
    installations of the same.
    """
    try:
        check_files(
            distribution, "METADATA", "PKG-INFO", "entry_points.txt", "direct_url.json", "top_level.txt"
        )
        _check_list(distribution)
        read = _read_all(InstalledLayout(distribution, environment), effort)
    except UndigestedError as error:
        return DistributionDigest(name, version, gap=str(error))
    except OSError as error:
        return DistributionDigest(name, version, gap=f"it cannot be read: {error.strerror or error}")
    # What metadata of a stranger make the library raise that parses them.
    except (
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        SyntaxError,
        RecursionError,
        MemoryError,
    ) as error:
        return DistributionDigest(name, version, gap=f"its metadata are damaged: {error}")
    gap = "" if read else "it has no file that is known"
    return DistributionDigest(name, version, read, gap=gap)


def digest_list(name: str, version: str, distribution: Distribution) -> DistributionDigest:
    """Read the list of files of a distribution, not the files.

    Rows that differ between two installations of the same are left out.
    """
    folder = getattr(distribution, "_path", None)
    base = os.path.realpath(str(distribution.locate_file("")))
    gap, listed = "", b""
    try:
        listed = _listed(folder)
    except UndigestedError as error:
        gap = str(error)
    except (OSError, ValueError) as error:
        gap = f"its list of files cannot be read: {error}"
    record = "" if gap else hashlib.sha256(listed).hexdigest()
    tops = {top.decode(errors="surrogateescape") for top in _TOP.findall(listed)}
    # Of one without a list, what it is most likely to bring.
    tops = tops or {name.replace("-", "_"), *(distribution.read_text("top_level.txt") or "").split()}
    provides = tuple(sorted(f"{base}/{top}" for top in tops))
    return DistributionDigest(name, version, record=record, gap=gap, provides=provides)


def _listed(folder: object) -> bytes:
    if not isinstance(folder, Path) or not folder.name.endswith(".dist-info"):
        raise UndigestedError("it has no list of files with their digests")
    if (folder / "direct_url.json").exists() and b'"editable"' in read_small(folder / "direct_url.json"):
        raise UndigestedError(_EDITABLE)
    rows = read_small(folder / "RECORD", MAX_LIST_BYTES).replace(b"\r", b"").split(b"\n")
    # Those of caches, of programs, which name a folder of this machine, and of notes.
    others = (b"..", b"/", *(f"{folder.name}/{name},".encode() for name in _NOTED))
    return b"\n".join(
        sorted(row for row in rows if row and b"__pycache__/" not in row and not row.startswith(others))
    )


def _check_list(distribution: Distribution) -> None:
    folder = getattr(distribution, "_path", None)
    if isinstance(folder, Path) and folder.is_dir():
        found = next(
            (folder / name for name in ("RECORD", "installed-files.txt") if (folder / name).exists()), None
        )
        if found is None:
            raise UndigestedError("it has no list of files")
        read_small(found, MAX_LIST_BYTES)


def _read_all(layout: InstalledLayout, effort: Effort) -> dict[str, ReadFile]:
    # A file may be both listed and in a package.
    places = {name: layout.base for name in layout.listed() if not _is_left_out(name)}
    if layout.project is not None:
        places = {name: base for name, base in places.items() if _TOLD.fullmatch(name)}
    for folder, top in layout.code():
        for name in _names_below(folder, top):
            places[name] = folder
            _check_count(places)
    _check_count(places)
    read: dict[str, ReadFile] = {}
    left = MAX_BYTES
    for name, folder in sorted(places.items()):
        effort.look()
        try:
            read[name], size = _read(folder, name, left, effort)
        except FileNotFoundError:
            continue  # it is listed, and was removed: a comparison tells that
        left -= size
    return read


def _check_count(places: Mapping[str, Path]) -> None:
    if len(places) > MAX_FILES:
        raise UndigestedError(f"it has more than {MAX_FILES} files")


def _is_left_out(name: str) -> bool:
    return bool(_CACHED.search(name) or _NOTES.fullmatch(name))


def _names_below(folder: Path, top: str, depth: int = 0) -> Iterator[str]:
    """Yield the files that a module or package at ``top`` has, as paths from ``folder``."""
    path = folder / top
    if path.is_symlink():
        raise UndigestedError(f"{top} is a symbolic link, and none is followed")
    if not path.is_dir():
        yield top
        return
    if depth > MAX_DEPTH:
        raise UndigestedError(f"{top} lies more than {MAX_DEPTH} folders deep")
    for entry in sorted(os.listdir(path)):  # noqa: PTH208 - names alone
        inner = f"{top}/{entry}"
        if not _is_left_out(inner):
            yield from _names_below(folder, inner, depth + 1)


def _read(folder: Path, name: str, most: int, effort: Effort) -> tuple[ReadFile, int]:
    """Return a file's digest and size."""
    with os.fdopen(_open(folder, name), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UndigestedError(f"{name} is no regular file")
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if size > most:
                raise UndigestedError(f"its files have more than {MAX_BYTES} bytes together")
            effort.look()
    path = f"{os.path.realpath(folder)}/{name}"
    return ReadFile(digest.hexdigest(), path, identity_of(found)), size


def _open(folder: Path, name: str) -> int:
    """Open a regular file, with no link between it and ``folder``."""
    *parts, last = name.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            above, at = at, os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(above)
        # Before it is opened: with a device, opening may be an act.
        if not stat.S_ISREG(os.stat(last, dir_fd=at, follow_symlinks=False).st_mode):
            raise UndigestedError(f"{name} is no regular file")
        return os.open(last, _FLAGS, dir_fd=at)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise UndigestedError(f"{name} is reached by a symbolic link, and none is followed") from error
        raise
    finally:
        os.close(at)
