"""Retention of checkpoints: which stay, and how the others go, never half of one under its name.

Beside ``step-00000123`` a folder of checkpoints holds ``best``: the files of the best of them under a second
name each, or copies where a file has but one. It is made anew whenever another is the best, and read by
nobody who goes on with the run. After a kill there may be:

    .writing-…     one that was being written: worthless
    .removing-…    one that was being removed: worthless
    .replaced-step-00000123    the old one of a step that was being written again: whole, and read
                               for as long as there is no new one
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from ...hooks.errors import CheckpointError
from . import durable_files
from .manifest import NAME, DamagedError, Manifest, load, step_of

WRITING = ".writing-"
REMOVING = ".removing-"
REPLACED = ".replaced-"

Note = Callable[[str], None]

#: Of the manifests of a folder, which may be anybody's; one has some KiB.
MAX_LOOKED_AT_BYTES = 16 << 20


class _Judged(NamedTuple):
    """The metric of a checkpoint, what it is called in the job, and its direction."""

    metric: float | None
    name: object
    higher_is_better: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return what is kept of a manifest."""
        return cls(manifest.metric, manifest.fingerprint.get("metric"), manifest.higher_is_better)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder`` by rising step, intact or not.

    Raises:
        CheckpointError: The folder cannot be read.
    """
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint folder {folder} cannot be read: {error.strerror or error}; check its permissions"
        ) from error
    found: dict[int, Path] = {}
    for entry in sorted(entries, reverse=True):
        # Those set aside come last: they count where a kill came before the new one had its name.
        if (step := step_of(entry)) >= 0:
            found.setdefault(step, entry)
    return [found[step] for step in sorted(found)]


def free_name(folder: Path, name: str) -> Path:
    """Return the first of ``name``, ``name.1``, ``name.2``, … that does not exist in ``folder``."""
    candidates = (folder / (name if n == 0 else f"{name}.{n}") for n in itertools.count())
    return next(path for path in candidates if not os.path.lexists(path))


def clear(folder: Path, note: Note) -> None:
    """Remove what a killed run left, and give a checkpoint that was set aside its name back.

    Args:
        folder: Holds all checkpoints of the run.
        note: Told of what cannot be removed; that ends no run.

    Raises:
        OSError: The folder cannot be read.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((WRITING, REMOVING)):
            _delete(entry, note)
        elif entry.name.startswith(REPLACED) and step_of(entry) >= 0:
            final = folder / f"step-{step_of(entry):08d}"
            if os.path.lexists(final):
                remove(entry, note)
            else:
                entry.rename(final)


def replace(temporary: Path, final: Path, note: Note) -> None:
    """Give a checkpoint its name; one that has it already is there until the new one is on disk.

    Raises:
        OSError: It cannot be renamed; what had the name before has it again, or is read in its place.
    """
    if not os.path.lexists(final):
        temporary.rename(final)
        durable_files.sync_folder(final.parent)
        return
    # Only an empty folder can be replaced, so the older one moves away first.
    aside = free_name(final.parent, f"{REPLACED}{final.name}")
    final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        aside.rename(final)
        raise
    durable_files.sync_folder(final.parent)
    remove(aside, note)


def prune(folder: Path, current: Path, keep: int, note: Note) -> Path | None:
    """Remove all but ``current``, the latest that look whole, and the best of those.

    One of a later step than ``current`` was passed over when the run was resumed. It does not
    count, and is left for the run to write anew. A damaged one is removed with those that
    it is among by its step, never in place of one that is whole.

    Args:
        folder: Holds all checkpoints of the run.
        current: The one that has just been written.
        keep: How many of the latest stay, ``current`` among them.
        note: Told of what cannot be removed; that ends no run.

    Returns:
        The best of those that look whole; None if none was evaluated.
    """
    earlier = [path for path in list_checkpoints(folder) if step_of(path) <= step_of(current)]
    whole = {path: _Judged.of(manifest) for path in earlier if (manifest := _whole(path)) is not None}
    latest, best = list(whole)[-keep:], next(iter(_by_metric(whole)), None)
    stay = {*latest, current, best}
    for path in earlier if len(latest) == keep else ():
        if path not in stay and step_of(path) < step_of(latest[0]):
            remove(path, note)
    return best


def list_by_metric(folder: Path, note: Note) -> list[Path]:
    """Return the checkpoints that were evaluated, the best first, of two equals the earlier.

    Those that were judged by another metric than the latest one are left out.

    Args:
        folder: Holds all checkpoints of the run.
        note: Told of each that does not say how good it is, being damaged; others may be and say so.

    Raises:
        CheckpointError: The folder cannot be read, or one is of a later series.
    """
    found, room = {}, MAX_LOOKED_AT_BYTES
    for path in reversed(list_checkpoints(folder)):
        room -= max(0, durable_files.length(path / NAME))
        if room < 0:
            note(f"{path.name} and those before are too many to look which is the best; they are passed over")
            break
        try:
            manifest = load(path)
        except DamagedError as error:
            note(f"{error}; it is passed over")
        else:
            found[path] = _Judged.of(manifest)
    return _by_metric(dict(reversed(found.items())))


def _by_metric(whole: Mapping[Path, _Judged]) -> list[Path]:
    """Return those of ``whole``, by rising step, that can be compared with the last, the best first."""
    if not whole:
        return []
    *_, last = whole.values()
    # The user may have changed the metric when the run was resumed: values of two cannot be compared.
    judged = [
        (path, one.metric) for path, one in whole.items() if one.metric is not None and one.name == last.name
    ]
    sign = -1 if last.higher_is_better else 1
    return [path for path, _ in sorted(judged, key=lambda entry: sign * entry[1])]


def remove(path: Path, note: Note) -> None:
    """Remove a checkpoint: first its name, so that no half of one is ever taken for it."""
    going = free_name(path.parent, f"{REMOVING}{path.name.lstrip('.')}")
    try:
        path.rename(going)
    except OSError as error:
        _tell(path, error, note)
    else:
        _delete(going, note)


def _delete(path: Path, note: Note) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        _tell(path, error, note)


def _tell(path: Path, error: OSError, note: Note) -> None:
    note(f"{path} is no longer needed and cannot be removed: {error.strerror or error}; remove it yourself")


def _whole(path: Path) -> Manifest | None:
    """Return what ``state.json`` says if every file is there with its length; its bytes are not read."""
    try:
        manifest = load(path)
    except CheckpointError:
        return None
    lengths: dict[str, int] = manifest.lengths or {}
    found = {name: durable_files.length(path / name) for name in manifest.digests}
    return manifest if all(0 <= n == lengths.get(name, n) for name, n in found.items()) else None
