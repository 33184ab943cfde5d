"""Read image folders: one sub folder a class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError
from .dicom import Window
from .image_file import SUFFIXES
from .image_set import ImageSet, Size, height_width, image_parts
from .part_names import find_parts, folders
from .preparation import Fraction, Limit, Normalize, Parts, SplitSeed
from .saved_dataset import holds_saved
from .saved_images import read_saved_images


def folder(
    *,
    path: Path,
    size: Size = None,
    greyscale: bool = False,
    window: Window | None = None,
    image: str | None = None,
    target: str | None = None,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read ``path/train/CLASS/x.png``, ``path/val/…`` and ``path/test/…``, or ``path/CLASS/x.png`` and split.

    ``training`` is as good as ``train``, ``testing`` as ``test``, ``valid`` and ``validation`` as ``val``;
    one of ``val`` and ``test`` will do. Classes are numbered by name; files are read in the order of theirs.
    Images are bytes; grey ones of 16 bits and DICOM files become float32 in [0, 1]. A folder that
    ``save_to_disk`` of Hugging Face's datasets wrote is read as well.

    Args:
        path: The folder.
        size: Height and width, or one number for both; needed if the images differ in size.
        greyscale: Read one channel instead of three.
        window: Of DICOM files: centre and width of what becomes 0 to 1, in their unit, or ``file`` for each
            file's own.
        image: Column of the images in a saved data set; by default the only one of Image.
        target: Column of the classes in it; by default the only one of ClassLabel.
        test_fraction: Share of the test samples, if the folder has no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: There are no images, one cannot be read, or they differ in size or depth.
    """
    if not path.is_dir():
        raise DataError(f"{path}: option 'path' is no folder; name one with a sub folder for each class")
    images = ImageSet(height_width(size), greyscale=greyscale, window=window)
    if holds_saved(path):
        read, notes = read_saved_images(path, images, image, target)
    elif image is not None or target is not None:
        raise DataError(
            f"{path}: options 'image' and 'target' name columns of what save_to_disk of Hugging Face's "
            "datasets wrote, which this folder is not"
        )
    else:
        read, notes = _read_folders(path, images)
    return image_parts(
        read,
        images,
        path=path,
        test_fraction=test_fraction,
        split_seed=split_seed,
        limit=limit,
        normalize=normalize,
        notes=(*notes, *images.notes),
        preprocessing=images.preprocessing("folder"),
    )


def _read_folders(
    path: Path, images: ImageSet
) -> tuple[tuple[Dataset, Dataset | None, Dataset | None], tuple[str, ...]]:
    """Read the folders of all parts; return what to tell of their choice, too."""
    parts = find_parts(
        path,
        folders(path),
        _has_classes,
        lacks="sub folders; expected one for each class",
        alone="a folder that holds one sub folder a class",
    )
    classes = [sub.name for sub in folders(parts.train)]
    if not classes:
        raise DataError(f"{parts.train}: holds no sub folders; expected one for each class")
    train = _read_classes(parts.train, classes, images)
    validation, test = (
        None if part is None else _read_part(part, parts.train, classes, images) for part in parts.others
    )
    return (train, validation, test), parts.notes


def _read_part(part: Path, root: Path, classes: list[str], images: ImageSet) -> Dataset:
    """Read a part whose classes are those of ``root``, which is trained on."""
    unknown = [sub.name for sub in folders(part) if sub.name not in classes]
    if unknown:
        raise DataError(f"{part / unknown[0]}: is a class without training images in {root}")
    present = [name for name in classes if (part / name).is_dir()]
    return _read_classes(part, classes, images, present)


def _has_classes(folder: Path) -> bool:
    """Tell a part, which holds folders of images, from a class, which holds images."""
    return any(folders(folder)) and not any(f.suffix.lower() in SUFFIXES for f in folder.iterdir())


def _read_classes(
    root: Path, classes: list[str], images: ImageSet, present: list[str] | None = None
) -> Dataset:
    """Read all images below ``root``, which holds the classes ``present``, by default all."""
    inputs: list[Tensor] = []
    targets: list[int] = []
    for name in classes if present is None else present:
        files = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{root / name}: holds no images ({', '.join(sorted(SUFFIXES))})")
        inputs += map(images.read, files)
        targets += [classes.index(name)] * len(files)
    if not inputs:
        raise DataError(f"{root}: holds no images of the classes {', '.join(classes)}")
    return Dataset(
        torch.stack(inputs), torch.tensor(targets, dtype=torch.int64), len(classes), tuple(classes)
    )
