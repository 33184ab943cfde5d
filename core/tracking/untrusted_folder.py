"""The files below a folder that may be anybody's, such as a run's: no link is followed, whatever lies there.

Every part of a name below the folder is opened by itself, relative to the one before, and only regular
files are read or written: a FIFO would make us wait, a device may do anything, and a link leads away. So
does a second name of a file (a hard link), since what is read or written here is then a file elsewhere.

The folder itself is the user's choice, and may well be a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

#: A run of months has some thousands.
MAX_ENTRIES = 100_000
MAX_DEPTH = 16
_CALM = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "is a symbolic link, and none is followed",
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFBLK: "is a device",
    stat.S_IFCHR: "is a device",
}


class OddFileError(OSError):
    """An entry is not what it may be; ``strerror`` names it and says what it is."""


class Tree:
    """The files below a folder; they are named relative to it, with slashes.

    Every method raises ``OddFileError`` for what is not what it may be, and other ``OSError`` as usual.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str, flags: int) -> int:
        """Return a descriptor of a regular file.

        Args:
            name: The file.
            flags: Without O_TRUNC, which would act before the check.
        """
        with self._parent(name) as (folder, last):
            with contextlib.suppress(FileNotFoundError):
                # Before it is opened: with a device, opening may be an act.
                _check_file(os.stat(last, dir_fd=folder, follow_symlinks=False), name)
            descriptor = os.open(last, flags | _CALM, 0o666, dir_fd=folder)
        try:
            _check_file(os.fstat(descriptor), name)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def read(self, name: str, most: int) -> bytes:
        """Return what a file holds, which is at most ``most`` bytes."""
        with os.fdopen(self.open(name, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size <= most:
                data = file.read(most + 1)
                if len(data) <= most:
                    return data
        raise OddFileError(errno.EFBIG, f"{name} has more than {most} bytes")

    def write(self, name: str, chunks: Iterable[bytes | memoryview], *, sync: bool = False) -> None:
        """Replace a file, whatever has its name; a crash leaves the old one or the new one."""
        with self._parent(name) as (folder, last):
            temporary = f".{last}-{secrets.token_hex(4)}"
            made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CALM, 0o666, dir_fd=folder)
            try:
                with os.fdopen(made, "wb") as file:
                    file.writelines(chunks)
                    file.flush()
                    if sync:
                        os.fsync(made)
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def names(self, folder: str = "") -> list[str]:
        """Return what a folder holds, sorted; nothing if it is not there."""
        try:
            with self._folder(folder) as descriptor:
                return sorted(os.listdir(descriptor))  # noqa: PTH208 - by descriptor
        except FileNotFoundError:
            return []

    def make(self, folder: str) -> None:
        """Make a folder, if it is not there."""
        with self._parent(folder) as (parent, last):
            try:
                os.mkdir(last, dir_fd=parent)
            except FileExistsError:
                os.close(_open_folder(last, parent, folder))

    def rename(self, name: str, last: str) -> None:
        """Give what has a name another one in the same folder, which nothing there has."""
        with self._parent(name) as (folder, old):
            os.rename(old, last, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, name: str) -> None:
        """Remove what is no folder; a link goes, and what it leads to stays."""
        with self._parent(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and what it holds, if it is there."""
        with self._parent(folder) as (parent, last), contextlib.suppress(FileNotFoundError):
            os.close(_open_folder(last, parent, folder))
            shutil.rmtree(last, dir_fd=parent)

    def odd(self, *, several_names: Iterable[str] = ()) -> Iterator[str]:
        """Yield one sentence for each entry that is neither a regular file nor a folder.

        Args:
            several_names: Folders whose files may have other names as well.
        """
        shared = tuple(f"{folder}/" for folder in several_names)
        count, waiting = 0, [""]
        while waiting:
            folder = waiting.pop()
            if folder.count("/") >= MAX_DEPTH:
                yield f"{folder} lies more than {MAX_DEPTH} folders deep"
                continue
            for name, found in self._entries(folder):
                count += 1
                if count > MAX_ENTRIES:
                    yield f"it holds more than {MAX_ENTRIES} files"
                    return
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(name)
                elif what := _oddness(found, shared=name.startswith(shared)):
                    yield f"{name} {what}"

    def _entries(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        prefix = f"{folder}/" if folder else ""
        with self._folder(folder) as descriptor, os.scandir(descriptor) as entries:
            for entry in entries:
                # What is removed meanwhile is nothing to tell of.
                with contextlib.suppress(FileNotFoundError):
                    yield prefix + entry.name, entry.stat(follow_symlinks=False)

    @contextlib.contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        """Give the folder that holds ``name``, and the last part of it."""
        folder, _, last = name.rpartition("/")
        if last in {"", ".", ".."}:
            raise OddFileError(errno.EINVAL, f"{name!r} is no name of a file")
        with self._folder(folder) as descriptor:
            yield descriptor, last

    @contextlib.contextmanager
    def _folder(self, folder: str) -> Iterator[int]:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folder.split("/") if folder else ():
                if part in {"", ".", ".."}:
                    raise OddFileError(errno.EINVAL, f"{folder!r} is no name of a folder")
                above = descriptor
                descriptor = _open_folder(part, above, folder)
                os.close(above)
            yield descriptor
        finally:
            os.close(descriptor)


def _open_folder(part: str, above: int, name: str) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        found = os.stat(part, dir_fd=above, follow_symlinks=False)
        raise OddFileError(errno.ELOOP, f"{name} {_kind(found) or 'is no folder'}") from error


def _check_file(found: os.stat_result, name: str) -> None:
    if what := _oddness(found):
        raise OddFileError(errno.ELOOP, f"{name} {what}")


def _oddness(found: os.stat_result, *, shared: bool = False) -> str:
    """Return what keeps a file from being read and written; ``""`` if nothing does."""
    if not shared and stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return "has another name as well (a hard link): a file of its own is needed, as 'cp -r' makes it"
    return _kind(found)


def _kind(found: os.stat_result) -> str:
    """Return what is no regular file; ``""`` for one."""
    if stat.S_ISREG(found.st_mode):
        return ""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "is no regular file")
