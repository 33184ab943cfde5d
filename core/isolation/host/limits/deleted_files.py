"""Files without a name: deleted, or made without one, and kept by being open or mapped.

No walk through folders finds them. The kernel tells of each through the process that
keeps it: through its open files, and through its memory once it has closed them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...policy.procfs import while_there

_PROC = Path("/proc")
_BLOCK_BYTES = 512
_DELETED = b" (deleted)\n"
#: Of the list of a process's mappings: 20 times what one has that uses torch, scipy and matplotlib. Its owner
#: decides how long it is, up to 65,530 lines of a path each, and it is read in the trainer.
MAX_MAPPINGS_BYTES = 4 << 20


class TooManyMappingsError(Exception):
    """A process has more memory mapped, piece by piece, than is looked through."""


def unlinked_bytes(pid: int, scratch: str, file_bytes: int) -> int:
    """Return what files without a name take up on the disk of a scratch folder.

    Open files are looked at before mappings: a file can go from the one to the other
    unseen, and without a name never back.

    Args:
        pid: The process that may keep some; one that is gone keeps none.
        scratch: Its scratch folder, the only place where it could make them.
        file_bytes: Largest file that it may make. One that is mapped and closed counts as so
            large where only a privileged host may look at it.

    Raises:
        PermissionError: The process belongs to another user.
        TooManyMappingsError: It cannot be told, since the list of what it has mapped is too long.
    """
    return while_there(pid, lambda: _unlinked_bytes(pid, scratch, file_bytes))


def _unlinked_bytes(pid: int, scratch: str, file_bytes: int) -> int:
    device = os.stat(scratch).st_dev  # noqa: PTH116 - called often
    found = {(info.st_dev, info.st_ino): info for info in _open_files(pid)}
    total = sum(
        info.st_blocks * _BLOCK_BYTES
        for (where, _), info in found.items()
        if where == device and not info.st_nlink and stat.S_ISREG(info.st_mode)
    )
    known = {inode for _, inode in found}
    return total + sum(_mapped(pid, scratch, known, file_bytes))


def _open_files(pid: int) -> Iterator[os.stat_result]:
    folder = f"{_PROC}/{pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208 - a Path adds nothing here
        try:
            yield os.stat(f"{folder}/{name}")  # noqa: PTH116 - called often
        except FileNotFoundError:
            continue


def _mapped(pid: int, scratch: str, known: set[int], file_bytes: int) -> Iterator[int]:
    """Yield the bytes of each mapped file of the folder that has no name and is not open."""
    seen = set(known)
    inside = scratch.encode() + b"/"
    for line in mappings(pid):
        if not line.endswith(_DELETED) or inside not in line:
            continue
        where, _, _, _, inode = line.split(maxsplit=5)[:5]
        if int(inode) not in seen:
            seen.add(int(inode))
            yield _bytes_at(pid, where.decode(), file_bytes)


def mappings(pid: int) -> Iterator[bytes]:
    """Yield the lines of what a process has mapped.

    Raises:
        TooManyMappingsError: They are too long.
    """
    left = MAX_MAPPINGS_BYTES
    with (_PROC / str(pid) / "maps").open("rb") as lines:
        for line in lines:
            left -= len(line)
            if left < 0:
                raise TooManyMappingsError
            yield line


def _bytes_at(pid: int, where: str, file_bytes: int) -> int:
    try:
        return os.stat(f"{_PROC}/{pid}/map_files/{where}").st_blocks * _BLOCK_BYTES  # noqa: PTH116 - called often
    except OSError:
        return file_bytes
