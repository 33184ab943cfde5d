"""Interrupt a writer after each of its operations on the disk; work out what a power cut could leave."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: What changes a disk, or orders what does.
NAMES = ("open", "write", "fsync", "rename", "mkdir", "rmdir", "unlink")


@contextlib.contextmanager
def watched(before: Callable[..., None], after: Callable[..., None]) -> Iterator[None]:
    """Call ``before`` and ``after`` around each operation, with its name, its arguments and its result."""
    originals = {name: getattr(os, name) for name in NAMES}

    def around(name: str) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                result = originals[name](*args, **kwargs)
                after("look", result, *args, **kwargs)
                return result
            before(name, *args, **kwargs)
            result = originals[name](*args, **kwargs)
            after(name, result, *args, **kwargs)
            return result

        return operation

    for name in NAMES:
        setattr(os, name, around(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def killed_at(count: int, action: Callable[[], object], *, half: bool = False) -> bool:
    """Run ``action`` in a child that is killed after its operation ``count``, counted from 1.

    Args:
        count: Where to kill.
        action: Must not use torch's threads: the child is a fork.
        half: Kill in the middle of a ``write`` in its place, once half of the bytes are out.

    Returns:
        False if it came to its end before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads
        child = os.fork()
    if child == 0:
        _be_killed(count, action, half=half)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the writer failed"
    return False


def _be_killed(count: int, action: Callable[[], object], *, half: bool) -> None:
    done = 0
    write = os.write

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(name: str, *args: Any, **_: Any) -> None:
        if half and name == "write" and done + 1 == count:
            write(args[0], args[1][: len(args[1]) // 2])
            die()

    def after(name: str, *_: Any, **__: Any) -> None:
        nonlocal done
        done += name != "look"
        if done == count:
            die()

    try:
        with watched(before, after):
            action()
    except BaseException as error:  # noqa: BLE001 - the parent fails the test
        sys.__stderr__.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


class Disk:
    """What has been done below ``root``, and what of it a power cut may leave.

    A file keeps what it held when it was last synced, or anything up to what was written. A
    folder keeps each change of its names that came before its last sync, and any of the others.
    """

    def __init__(self, root: Path) -> None:
        self._numbers = itertools.count()
        self._known: dict[int, int] = {}  # inode, which is used again, to a number of its own
        self._open: dict[int, Path] = {}
        self.files: dict[int, tuple[bytes, bytes]] = {}  # what is on disk, what was written
        self.folders: dict[int, dict[str, int]] = {}  # on disk
        self.pending: list[tuple[int, dict[str, int | None]]] = []  # folder, and changes that come together
        self.top = self._scan(root)

    def before(self, name: str, *args: Any, dir_fd: int | None = None, **_: Any) -> None:
        """Note what is about to lose its name."""
        if name in {"unlink", "rmdir"}:
            path = Path(args[0]) if dir_fd is None else self._open[dir_fd] / args[0]
            self.pending.append((self._of(path.parent), {path.name: None}))
        if name == "rename":
            source, target = Path(args[0]), Path(args[1])
            self.pending.append((self._of(source.parent), {source.name: None, target.name: self._of(source)}))

    def after(self, name: str, result: Any, *args: Any, dir_fd: int | None = None, **_: Any) -> None:
        """Note what was done."""
        if name == "look":
            self._open[result] = Path(args[0]) if dir_fd is None else self._open[dir_fd] / args[0]
        elif name in {"open", "mkdir"}:
            path = Path(args[0])
            number = self._known[path.stat().st_ino] = next(self._numbers)
            if name == "open":
                self.files[number] = (b"", b"")
            else:
                self.folders[number] = {}
            self.pending.append((self._of(path.parent), {path.name: number}))
        elif name == "write":
            number = self._known[os.fstat(args[0]).st_ino]
            self.files[number] = (self.files[number][0], self.files[number][1] + bytes(args[1]))
        elif name == "fsync":
            self._sync(self._known[os.fstat(args[0]).st_ino])

    def states(self, samples: int, source: random.Random) -> Iterator[tuple[Any, Any]]:
        """Yield what a power cut now could leave: the least, all names but the least inside, samples."""
        on_disk = {number: held[0] for number, held in self.files.items()}
        yield self._names(lambda: False), on_disk
        yield self._names(lambda: True), on_disk
        for _ in range(samples):
            cut = {
                number: written[: source.randint(len(held), len(written))]
                for number, (held, written) in self.files.items()
            }
            yield self._names(lambda: source.random() < 0.5), cut

    def lay_out(self, state: tuple[Any, Any], target: Path) -> None:
        """Write a state to a folder that does not exist."""
        folders, files = state

        def make(number: int, path: Path) -> None:
            if number in folders:
                path.mkdir()
                for name, inside in folders[number].items():
                    make(inside, path / name)
            else:
                path.write_bytes(files[number])

        make(self.top, target)

    def _of(self, path: Path) -> int:
        return self._known[path.stat().st_ino]

    def _scan(self, path: Path) -> int:
        number = self._known[path.stat().st_ino] = next(self._numbers)
        if path.is_dir():
            self.folders[number] = {entry.name: self._scan(entry) for entry in path.iterdir()}
        else:
            self.files[number] = (path.read_bytes(), path.read_bytes())
        return number

    def _sync(self, number: int) -> None:
        if number in self.files:
            self.files[number] = (self.files[number][1],) * 2
            return
        for folder, changes in self.pending:
            if folder == number:
                _apply(self.folders[folder], changes)
        self.pending = [change for change in self.pending if change[0] != number]

    def _names(self, arrived: Callable[[], bool]) -> dict[int, dict[str, int]]:
        folders = {number: dict(names) for number, names in self.folders.items()}
        for folder, changes in self.pending:
            if arrived():
                _apply(folders[folder], changes)
        return folders


def _apply(names: dict[str, int], changes: dict[str, int | None]) -> None:
    for name, number in changes.items():
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number
