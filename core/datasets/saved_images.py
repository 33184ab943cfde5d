"""Images with their classes in what Hugging Face's datasets has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError, shorten, visible
from .image_set import ImageSet
from .part_names import FoundParts, find_parts
from .saved_dataset import SavedDataset, has_splits, is_saved, split_folders

#: Rows whose images are taken out of a file at once.
_AT_ONCE = 64
_SHOWN = 200


def read_saved_images(
    path: Path, images: ImageSet, image: str | None, target: str | None
) -> tuple[tuple[Dataset, Dataset | None, Dataset | None], tuple[str, ...]]:
    """Return the images of each split with their classes, and what to tell of the choice of splits.

    Args:
        path: The folder.
        images: Reads them.
        image: Column of the images; None: the one that there is.
        target: Column of the classes, likewise.

    Raises:
        DataError: A column is missing, not told or of another kind, an image cannot be read or does not lie
            in the file, or another split has other classes.
    """
    found = FoundParts(path)
    if has_splits(path):
        found = find_parts(
            path, split_folders(path), is_saved, lacks="images", alone="a split: it is then split"
        )
        if found.train == path:
            raise DataError(f"{path}: holds no split 'train'; name a split as 'path': it is then split")
    first = SavedDataset.opened(found.train)
    columns = (_choose(first, image, "image", "Image"), _choose(first, target, "target", "ClassLabel"))
    train = _read(first, columns, images)
    validation, test = (
        None if part is None else _read(SavedDataset.opened(part), columns, images) for part in found.others
    )
    for place, part in zip(found.others, (validation, test), strict=True):
        if part is not None and part.class_names != train.class_names:
            raise DataError(f"{place}: names other classes than {found.train}; save both with the same names")
    return (train, validation, test), found.notes


def _choose(data: SavedDataset, name: str | None, option: str, kind: str) -> str:
    """Return the column that an option names, or the only one of its kind."""
    fitting = [column for column in data.features if data.kind(column) == kind]
    if name is None and len(fitting) == 1:
        return fitting[0]
    if name is not None and name in fitting:
        return name
    held = ", ".join(
        f"'{visible(shorten(column, _SHOWN))}' ({data.kind(column)})" for column in data.features
    )
    said = f"{len(fitting)} columns of {kind}" if name is None else f"no column '{visible(name)}' of {kind}"
    raise DataError(
        f"{data.path}: has {said}, but {shorten(held, _SHOWN)}; name one as '{option}', or make one with "
        "cast_column and save the data set anew"
    )


def _read(data: SavedDataset, columns: tuple[str, str], images: ImageSet) -> Dataset:
    for column, kind in zip(columns, ("Image", "ClassLabel"), strict=True):
        if data.kind(column) != kind:
            raise DataError(
                f"{data.path}: has no column '{visible(column)}' of {kind}, as the training part has"
            )
    names = data.class_names(columns[1]) or ()
    inputs: list[Tensor] = []
    targets: list[int] = []
    for rows in data.rows(_AT_ONCE):
        found, classes = (rows.batch.column(column).to_pylist() for column in columns)
        for i, (cell, number) in enumerate(zip(found, classes, strict=True)):
            place = f"{rows.file}: row {rows.begin + i}"
            if type(number) is not int or not 0 <= number < len(names):
                raise DataError(
                    f"{place}: has the class {visible(shorten(str(number), _SHOWN))} in column "
                    f"'{visible(columns[1])}', which has {len(names)}; remove the row, or correct it"
                )
            inputs.append(images.read(Path(place), _bytes(cell, place)))
            targets.append(number)
    if not inputs:
        raise DataError(f"{data.path}: holds no images")
    return Dataset(torch.stack(inputs), torch.tensor(targets, dtype=torch.int64), len(names), names)


def _bytes(cell: Any, place: str) -> bytes:
    """Return the bytes of an image; no path is followed, which could lead anywhere."""
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if isinstance(data, bytes):
        return data
    path = cell.get("path") if isinstance(cell, dict) else None
    if path is None:
        raise DataError(f"{place}: holds no image; remove the row")
    raise DataError(
        f"{place}: holds only the path of an image, '{visible(shorten(str(path), _SHOWN))}', which is not "
        "followed; save_to_disk stores the images themselves where they are there as it writes"
    )
