"""Parts of a data set by the names of their folders or files: to train on, to judge by, to test on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..hooks.errors import DataError

#: What the parts of a data set are called.
_NAMES = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))
_LISTED = 5


class FoundParts(NamedTuple):
    """Where the parts of a data set lie.

    Attributes:
        train: To train on; of a data set without parts, which is to be split, all of it.
        validation: To judge by, if there is such.
        test: To test on at the end, if there is such.
        notes: What to tell of the choice.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[Path | None, Path | None]:
        """What is not trained on."""
        return self.validation, self.test


def find_parts(
    path: Path, candidates: Sequence[Path], is_part: Callable[[Path], bool], *, lacks: str, alone: str
) -> FoundParts:
    """Return where the parts of the data set at ``path`` lie, which is a folder.

    Args:
        path: The data set.
        candidates: What of it can be a part, by name without an ending.
        is_part: Tells a part from something else that has the name of one.
        lacks: What one that is no part lacks, for messages.
        alone: What to name as 'path' instead, where there is nothing but a part to judge by.

    Raises:
        DataError: One part is there without the other, or twice.
    """
    named = [item for item in candidates if any(_stem(item) in part for part in _NAMES)]
    found = [[item for item in named if _stem(item) in part and is_part(item)] for part in _NAMES]
    if not any(found):
        if named and named == list(candidates):
            raise DataError(f"{named[0]}: holds no {lacks}")
        return FoundParts(path)
    for twice in (part for part in found if len(part) > 1):
        raise DataError(f"{path}: holds both '{twice[0].name}' and '{twice[1].name}'; keep one of them")
    train, validation, test = [part[0] if part else None for part in found]
    others = [part for part in (validation, test) if part is not None]
    if train is None:
        kind = "folder" if others[0].is_dir() else "file"
        raise DataError(
            f"{path}: holds '{others[0].name}' and no {kind} 'train' beside it; "
            f"add that, or name as 'path' {alone}"
        )
    if not others:
        raise DataError(
            f"{path}: holds '{train.name}' and neither 'val' nor 'test' beside it; "
            f"add one of them, or name {train} as 'path': it is then split"
        )
    told = f"{path}: trains on '{train.name}'"
    told += "" if validation is None else f", is judged by '{validation.name}'"
    told += "" if test is None else f", tests on '{test.name}' at the end"
    unused = [item.name for item in candidates if item not in (train, *others)]
    if unused:
        told += f"; {', '.join(map(repr, unused[:_LISTED]))} is not read"
    return FoundParts(train, validation, test, (told,))


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder whose names do not begin with a dot, by name."""
    return sorted(sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def part_of(name: str) -> str | None:
    """Return ``train``, ``val`` or ``test`` for the name of a file that begins so, as ``valid-003.tar``."""
    begin = "".join(itertools.takewhile(str.isalpha, name.lower()))
    return next((part[0] for part in _NAMES if begin in part), None)


def _stem(path: Path) -> str:
    return (path.name if path.is_dir() else path.stem).lower()
