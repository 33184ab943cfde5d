"""Folders that plugins may write to: made, looked at and removed by the host, whatever lies in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ....hooks.errors import shorten, visible
from ....plugins.machine_memory import MIB
from .deleted_files import MAX_MAPPINGS_BYTES, TooManyMappingsError, unlinked_bytes
from .owner import is_stale, owner_prefix
from .scratch_place import scratch_parent, scratch_parents

MAX_SCRATCH_BYTES = 256 * MIB
MAX_SCRATCH_FILES = 10_000
#: Instead, of one worker, where there is no disk for it; taken from the worker's budget beforehand.
MAX_IN_MEMORY_BYTES = 32 * MIB
#: Largest file that the kernel lets a worker make.
MAX_FILE_BYTES = 64 * MIB
#: Each level costs a look two descriptors.
MAX_SCRATCH_DEPTH = 32
_BLOCK_BYTES = 512
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The longest that removing one tree may take; what is left is for the next trainer to sweep.
_REMOVE_S = 30.0
_NAMES_AT_ONCE = 1000
#: Names in a message, and the characters of each.
_NAMES_SHOWN = 3
_NAME_SHOWN = 60


class ScratchRoot:
    """The folder of one run, removed by ``close`` or, if this process is killed, by the next run.

    Attributes:
        path: Where it is; named after this process.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=owner_prefix(), dir=scratch_parent()))
        # Process ids mean nothing in another container that shares the folder; a lock does.
        self._lock = os.open(self.path, _OPEN_FOLDER)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self, *, remove: bool = True) -> None:
        """Remove it, or leave that to the next run; safe to call twice."""
        if self._lock >= 0:
            if remove:
                remove_tree(self.path)
            os.close(self._lock)
            self._lock = -1


def names_in(folder: str) -> str:
    """Return the first few names in a scratch folder, for a message; ``""`` if it is empty or gone."""
    try:
        with os.scandir(folder) as entries:
            found = [visible(entry.name).replace("\n", "\\n") for entry in islice(entries, _NAMES_SHOWN + 1)]
    except OSError:
        return ""
    names = sorted(shorten(name, _NAME_SHOWN) for name in found[:_NAMES_SHOWN])
    return ", ".join([*names, *["…"] * (len(found) > _NAMES_SHOWN)])


def sweep_stale_folders(parent: Path | None = None) -> int:
    """Remove folders of our own user's runs that no longer go on; return how many.

    Args:
        parent: Where to look; wherever a run's folder may have been made by default.
    """
    swept = 0
    for path in _stale_in(scratch_parents() if parent is None else (parent,)):
        with contextlib.suppress(OSError), _opened(path) as folder:
            if os.fstat(folder).st_uid == os.geteuid():
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                swept += remove_tree(Path(path))
    return swept


def _stale_in(parents: Iterable[Path]) -> list[str]:
    found = []
    for parent in parents:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError),
            os.scandir(parent) as entries,
        ):
            found += [entry.path for entry in entries if is_stale(entry.name)]
    return found


@dataclass(frozen=True, slots=True)
class ScratchUse:
    """The use of a scratch folder, and what there is too much of.

    Attributes:
        used_bytes: All files together, as the disk counts; as far as was looked if there is too much.
        too_much: What there is too much of, as the end of a sentence about its owner, or ``""``.
    """

    used_bytes: int
    too_much: str = ""


def look_into(
    path: str,
    *,
    pid: int | None = None,
    max_bytes: int = MAX_SCRATCH_BYTES,
    max_files: int = MAX_SCRATCH_FILES,
) -> ScratchUse:
    """Return what a scratch folder holds, and what of it is too much.

    Looks at no more than ``max_files`` entries and follows no link: its owner may
    change it meanwhile.

    Args:
        path: The folder; one that is gone holds nothing.
        pid: Its owner, who may keep files in it that have no name.
        max_bytes: For all files together, as the disk counts.
        max_files: Files, folders and whatever else has a name.

    Raises:
        PermissionError: The owner is another user's process.
    """
    files = used = 0
    try:
        for info in _walk(path):
            files += 1
            used += info.st_blocks * _BLOCK_BYTES
            if files > max_files:
                return ScratchUse(used, f"has over {max_files:,} files in its scratch folder")
            if used > max_bytes:
                break
    except _TooDeepError:
        return ScratchUse(used, f"has folders in its scratch folder nested over {MAX_SCRATCH_DEPTH} deep")
    except PermissionError:
        return ScratchUse(used, "has a folder in its scratch folder that cannot be looked into")
    # After the names: a file that loses its name meanwhile is counted twice rather than not at all.
    try:
        nameless = 0 if pid is None else unlinked_bytes(pid, path, min(MAX_FILE_BYTES, max_bytes))
    except TooManyMappingsError:
        most = MAX_MAPPINGS_BYTES // MIB
        return ScratchUse(used, f"has so much mapped that the list of it is longer than {most} MiB")
    used += nameless
    if used <= max_bytes:
        return ScratchUse(used)
    among = f", {nameless / MIB:.0f} MiB of it in deleted files that it keeps" if nameless else ""
    limit = f"at most {max_bytes / MIB:.0f} MiB"
    return ScratchUse(used, f"has {used / MIB:.0f} MiB in its scratch folder{among}; {limit}")


def remove_tree(path: Path) -> bool:
    """Remove a folder and all in it; tell whether nothing is left.

    No process may write there any more. Follows no link, and needs neither a stack
    nor a path as long as the folders are deep: subfolders are moved up before their
    parent goes.
    """
    deadline = time.monotonic() + _REMOVE_S
    try:
        with _opened(path) as root:
            numbers = iter(range(1 << 62))
            while names := _some_names(root):
                gone = [_remove_entry(root, name, numbers) for name in names]
                if not any(gone) or time.monotonic() > deadline:
                    return False
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


class _TooDeepError(Exception):
    """Folders are nested deeper than anybody looks."""


def _walk(path: str) -> Iterator[os.stat_result]:
    """Yield what the kernel tells of everything below ``path``, and of nothing twice."""
    with contextlib.ExitStack() as everything:
        levels: list[tuple[int, Iterator[os.DirEntry[str]], contextlib.ExitStack]] = []
        with contextlib.suppress(FileNotFoundError):
            levels.append(_enter(everything, path, None))
        while levels:
            folder, entries, level = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                level.close()
                continue
            # What was renamed or removed since its name was read is left to the next look.
            with contextlib.suppress(FileNotFoundError):
                info = entry.stat(follow_symlinks=False)
                yield info
                if stat.S_ISDIR(info.st_mode):
                    if len(levels) > MAX_SCRATCH_DEPTH:
                        raise _TooDeepError
                    levels.append(_enter(everything, entry.name, folder))


def _enter(
    everything: contextlib.ExitStack, name: str, parent: int | None
) -> tuple[int, Iterator[os.DirEntry[str]], contextlib.ExitStack]:
    level = everything.enter_context(contextlib.ExitStack())
    folder = level.enter_context(_opened(name, parent))
    return folder, level.enter_context(os.scandir(folder)), level


@contextlib.contextmanager
def _opened(path: str | Path, parent: int | None = None) -> Iterator[int]:
    try:
        folder = os.open(path, _OPEN_FOLDER, dir_fd=parent)
    except OSError as error:
        # A link or file has taken the place of the folder.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FileNotFoundError(error.errno, os.strerror(error.errno), path) from error
        raise
    try:
        yield folder
    finally:
        os.close(folder)


def _some_names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, _NAMES_AT_ONCE)]


def _remove_entry(root: int, name: str, numbers: Iterator[int]) -> bool:
    """Remove one entry of ``root`` or, of a folder, as much as one pass can; tell whether that was any."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=root)
            return True
        os.chmod(name, stat.S_IRWXU, dir_fd=root)
        with _opened(name, root) as folder:
            gone = [_lift(root, folder, each, numbers) for each in _some_names(folder)]
        if len(gone) < _NAMES_AT_ONCE and all(gone):
            os.rmdir(name, dir_fd=root)
            return True
        return any(gone)
    except OSError:
        return False


def _lift(root: int, folder: int, name: str, numbers: Iterator[int]) -> bool:
    """Remove a file of ``folder``, or move a subfolder up to ``root``."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=folder)
            return True
        # To be moved, a folder must be writable itself.
        os.chmod(name, stat.S_IRWXU, dir_fd=folder)
        os.rename(name, f".lifted-{next(numbers)}", src_dir_fd=folder, dst_dir_fd=root)
    except OSError:
        return False
    return True
