"""``checkpoints/best``: the files of the best checkpoint under a name that can be told beforehand.

Each file has a second name there (a hard link), or is copied where a file system knows only one. Whoever
goes on with the run reads checkpoints by their steps, and never this.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from . import durable_files
from .manifest import BEST, MAX_BYTES, NAME
from .retention import WRITING, Note, free_name, remove

#: What a file system says that gives a file no second name.
_NO_LINKS = frozenset((errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV))


def name_best(folder: Path, best: Path | None, note: Note) -> None:
    """Have ``folder/best`` hold the files of a checkpoint.

    Args:
        folder: Holds all checkpoints of the run.
        best: Which; None removes the name, since what had it cannot be compared any more.
        note: Told if that cannot be done; it ends no run.
    """
    named = folder / BEST
    try:
        if best is None:
            if os.path.lexists(named):
                remove(named, note)
        elif not _is_same(named, best):
            _replace_best(folder, best, note)
    except OSError as error:
        note(f"{named} could not be made of {best.name if best else 'nothing'}: {error.strerror or error}")


def _is_same(named: Path, best: Path) -> bool:
    """Tell whether ``named`` has the files of ``best``: a manifest vouches for all of them."""
    try:
        durable_files.check_folder(named)
        found, expected = (durable_files.read_file(path / NAME, MAX_BYTES)[1] for path in (named, best))
    except durable_files.UnreadableError:
        return False
    return found == expected


def _replace_best(folder: Path, best: Path, note: Note) -> None:
    made = free_name(folder, f"{WRITING}{BEST}")
    made.mkdir()
    for file in best.iterdir():
        _give_second_name(file, made / file.name)
    durable_files.sync_folder(made)
    if os.path.lexists(folder / BEST):
        remove(folder / BEST, note)
    made.rename(folder / BEST)
    durable_files.sync_folder(folder)


def _give_second_name(file: Path, name: Path) -> None:
    try:
        os.link(file, name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(file, name, follow_symlinks=False)
