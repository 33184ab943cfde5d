"""Read images with boxes, as COCO's JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError, shorten, visible
from ..hooks.types import IGNORED
from ..plugins.machine_memory import machine_bytes
from ..plugins.number_words import counted
from .image_set import ImageSet, Size, height_width, image_parts
from .part_names import FoundParts, find_parts, folders
from .preparation import Fraction, Limit, Normalize, Parts, SplitSeed

#: Names that the boxes of a folder of images have.
_NAMES = ("annotations.json", "_annotations.coco.json")
#: A box that is none.
_NO_BOX = -1.0
_MOST_BOXES = 10_000
#: The part of this machine's memory that a file may take.
_SHARE = 32
_SHOWN = 200
_CORNERS = 4


class _Image(msgspec.Struct, frozen=True):
    id: int
    file_name: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    width: Annotated[int, msgspec.Meta(gt=0)]
    height: Annotated[int, msgspec.Meta(gt=0)]


class _Annotation(msgspec.Struct, frozen=True):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct, frozen=True):
    id: int
    name: Annotated[str, msgspec.Meta(max_length=1000)]


class _Coco(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def detection(
    *,
    path: Path,
    annotations: Path | None = None,
    size: Size = None,
    greyscale: bool = False,
    max_boxes: int | None = None,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read images with boxes: a folder with ``annotations.json`` as COCO writes it, or one for each part.

    Targets are a dict: ``boxes``, (M, 4) float32, left, top, right and bottom in pixels of the image as it
    is read, and ``labels``, (M,) int64, categories in the order of their numbers, from 0 on. An image with
    fewer boxes is filled up with boxes of -1 and labels of -100. Loss and metric are the user's own.

    Args:
        path: The folder; parts are ``path/train`` and so on, named as those of ``folder``.
        annotations: The file, where the folder holds only images; it is then split.
        size: Height and width, or one number for both; boxes move along.
        greyscale: Read one channel instead of three.
        max_boxes: Boxes of an image, at most; by default those of the one that has most.
        test_fraction: Share of the test samples, if there are no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: A file is missing or damaged, or names what is not there.
    """
    if not path.is_dir():
        raise DataError(f"{path}: option 'path' is no folder; name one with images and {_NAMES[0]}")
    found = FoundParts(path)
    if annotations is None:
        found = find_parts(
            path, folders(path), _has_boxes, lacks=_NAMES[0], alone=f"a folder of images with {_NAMES[0]}"
        )
    files = [
        None if part is None else (part, annotations or _file_of(part))
        for part in (found.train, *found.others)
    ]
    images = ImageSet(height_width(size), greyscale=greyscale)
    named: dict[int, str] = {}
    read = [None if part is None else _read(*part, images, named) for part in files]
    most = max(len(labels) for part in read if part is not None for _, _, labels in part)
    if max_boxes is not None and most > max_boxes:
        raise DataError(f"{path}: an image has {most} boxes, and option 'max_boxes' is {max_boxes}")
    told = ", ".join(f"{label} {visible(name)}" for label, name in enumerate(named.values()))
    return image_parts(
        [None if part is None else _padded(part, max_boxes or max(1, most)) for part in read],
        images,
        path=path,
        test_fraction=test_fraction,
        split_seed=split_seed,
        limit=limit,
        normalize=normalize,
        notes=(
            *found.notes,
            *images.notes,
            f"{counted(len(named), 'label')}: {shorten(told, _SHOWN)}; images have up to {most:,} of them",
        ),
    )


def _has_boxes(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _NAMES)


def _file_of(folder: Path) -> Path:
    found = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if found is None:
        raise DataError(
            f"{folder}: holds no {_NAMES[0]}, which tells the boxes of its images; name the file with option "
            "'annotations'"
        )
    return found


def _read(
    folder: Path, file: Path, images: ImageSet, named: dict[int, str]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return each image, (C, H, W), with its boxes, (M, 4), and labels, (M,).

    Args:
        folder: Of the images.
        file: Of the boxes.
        images: Reads them.
        named: Number of a category to its name, of the part that was read first; empty before.
    """
    coco = _decode(file)
    categories = {item.id: item.name for item in sorted(coco.categories, key=lambda item: item.id)}
    named.update({} if named else categories)
    if categories != named:
        raise DataError(f"{file}: has other categories than the training part")
    labels = {number: label for label, number in enumerate(named)}
    by_image: dict[int, list[_Annotation]] = {item.id: [] for item in coco.images}
    if len(by_image) < len(coco.images):
        raise DataError(f"{file}: two images have one id")
    for place, item in enumerate(coco.annotations):
        where = f"{file}: annotation {place}, counted from 0"
        if item.image_id not in by_image or item.category_id not in labels:
            what = "image" if item.image_id not in by_image else "category"
            raise DataError(f"{where}: is of a {what} that the file does not hold")
        if not (item.bbox[2] > 0 and item.bbox[3] > 0):
            raise DataError(f"{where}: its box is {list(item.bbox)}; width and height have to be above 0")
        if not item.iscrowd:
            by_image[item.image_id].append(item)
    if not coco.images:
        raise DataError(f"{file}: names no images")
    found = []
    for told in sorted(coco.images, key=lambda item: item.file_name):
        path = _beneath(folder, told.file_name, file)
        image, size = images.read_sized(path)
        if size != (told.height, told.width):
            raise DataError(
                f"{path}: is {size[0]}x{size[1]} pixels (height x width), and {file} says "
                f"{told.height}x{told.width}"
            )
        boxes = _boxes(by_image[told.id], told, (image.shape[1], image.shape[2]), file)
        found.append((image, boxes, torch.tensor([labels[a.category_id] for a in by_image[told.id]]).long()))
    return found


def _decode(file: Path) -> _Coco:
    try:
        size, most = file.stat().st_size, machine_bytes() // _SHARE
        if size > most:
            raise DataError(f"{file}: has {size:,} bytes, and at most {most:,} are read")
        return msgspec.json.decode(file.read_bytes(), type=_Coco, strict=False)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: is not as COCO writes boxes: {shorten(str(error), _SHOWN)}") from error


def _beneath(folder: Path, name: str, file: Path) -> Path:
    """Return where an image lies, which has to be below the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{file}: names the image '{visible(name)}', which does not lie below {folder}")
    found = folder / path
    if not found.is_file():
        raise DataError(f"{file}: names the image '{visible(name)}', and there is no {found}")
    return found


def _boxes(annotations: list[_Annotation], told: _Image, size: tuple[int, int], file: Path) -> Tensor:
    """Return boxes as corners in pixels of the image as it was read, (M, 4)."""
    if len(annotations) > _MOST_BOXES:
        raise DataError(
            f"{file}: image '{visible(told.file_name)}' has {len(annotations):,} boxes; at most "
            f"{_MOST_BOXES:,} are read"
        )
    boxes = torch.tensor([item.bbox for item in annotations], dtype=torch.float32).reshape(-1, _CORNERS)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    height, width = size
    return corners * torch.tensor([width / told.width, height / told.height] * 2)


def _padded(samples: list[tuple[Tensor, Tensor, Tensor]], count: int) -> Dataset:
    boxes = torch.full((len(samples), count, _CORNERS), _NO_BOX)
    labels = torch.full((len(samples), count), IGNORED, dtype=torch.int64)
    for row, (_, found, numbers) in enumerate(samples):
        boxes[row, : len(found)], labels[row, : len(found)] = found, numbers
    targets: Mapping[str, Tensor] = {"boxes": boxes, "labels": labels}
    return Dataset(torch.stack([image for image, _, _ in samples]), dict(targets), None)
