"""The rows of a data set with its parts: one file that is split, or one for each part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..hooks.errors import DataError
from .part_names import FoundParts, find_parts
from .preparation import Parts
from .row_file import SUFFIXES, Rows, read_rows
from .row_samples import Learner, placeholder
from .saved_dataset import has_splits, is_saved, split_folders
from .split import split_dataset
from .target_column import TargetColumn

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class RowParts:
    """All rows, and which of them are of which part.

    Attributes:
        rows: Of all files.
        ranges: ``train``, ``validation`` and ``test`` to the numbers of their rows, those that there are.
        notes: What to tell of the choice.
    """

    rows: Rows
    ranges: dict[str, range]
    notes: tuple[str, ...]

    def for_learner(
        self,
        learner: Learner,
        target: TargetColumn | None,
        *,
        source: Path,
        test_fraction: float,
        split_seed: int,
        limit: int | None,
    ) -> Parts:
        """Return the parts, of which samples are made once it is clear which rows are trained on.

        Args:
            learner: Of the reader.
            target: The column to predict; without one nothing tells which samples are alike.
            source: Where the rows come from, for messages.
            test_fraction: Share of the test samples, if there are no parts.
            split_seed: Which samples these are.
            limit: At most so many samples of each part.

        Raises:
            DataError: A cell of the target does not fit, or there are too few rows to split.
        """
        parts = {
            part: placeholder(rows, torch.zeros(len(rows), 1), None)
            if target is None
            else target.placeholder(self.rows, rows)
            for part, rows in self.ranges.items()
        }
        if len(parts) == 1:
            parts["train"], parts["test"] = split_dataset(
                parts["train"], test_fraction, split_seed, str(source)
            )
        return Parts(
            train=parts["train"],
            test=parts.get("test"),
            validation=parts.get("validation"),
            source=str(source),
            limit=limit,
            normalize="none",
            notes=self.notes,
            learner=learner,
        )


def read_row_parts(path: Path, validation_path: Path | None, test_path: Path | None) -> RowParts:
    """Read ``path/train.csv`` and ``path/val.csv`` or ``path/test.csv``, or files by name.

    What Hugging Face's datasets has saved is as good: a data set as a file, one with splits as a folder.

    Args:
        path: A folder of such, or the file to train on.
        validation_path: File to judge by.
        test_path: File to test on at the end; without one the samples of ``path`` are split.

    Raises:
        DataError: One is missing or cannot be read, or they have other columns.
    """
    files = {"train": path, "validation": validation_path, "test": test_path}
    notes: tuple[str, ...] = ()
    if path.is_dir() and not is_saved(path):
        found = _find_files(path)
        if validation_path is not None or test_path is not None:
            raise DataError(
                f"{path}: is a folder with parts; options 'validation_path' and 'test_path' go with a file"
            )
        files, notes = dict(zip(_PARTS, (found.train, *found.others), strict=True)), found.notes
    rows, ranges = Rows(), {}
    for part, file in files.items():
        if file is not None:
            begin = len(rows)
            rows.extend(read_rows(file))
            ranges[part] = range(begin, len(rows))
    return RowParts(rows, ranges, notes)


def _find_files(path: Path) -> FoundParts:
    """Return the file of each part in a folder, or the folder of each split."""
    saved = has_splits(path)
    candidates = (
        split_folders(path)
        if saved
        else sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
    )
    what, kinds = ("a split", "dataset_dict.json") if saved else ("a file", ", ".join(sorted(SUFFIXES)))
    found = find_parts(path, candidates, Path.exists, lacks="rows", alone=f"{what}: it is then split")
    if found.train == path:
        raise DataError(
            f"{path}: holds no {what[2:]} 'train' ({kinds}); name {what} as 'path', or have 'train' "
            "beside 'val' or 'test' in the folder"
        )
    return found
