"""Read images with masks: a class for each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError
from ..hooks.types import IGNORED
from .dicom import Window
from .image_file import MAX_PIXELS, SUFFIXES
from .image_set import ImageSet, Size, height_width, image_parts
from .part_names import find_parts, folders
from .preparation import Fraction, Limit, Normalize, Parts, SplitSeed

_IMAGES, _MASKS = "images", "masks"
#: What masks are written in: a number a pixel, which nothing rounds.
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_MASK_SUFFIXES = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm"))
_MODES = frozenset(("1", "L", "P", "I;16", "I;16B", "I"))
_LARGEST_BYTE = 255
_LISTED = 3
Names = tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...]


def segmentation(
    *,
    path: Path,
    size: Size = None,
    greyscale: bool = False,
    window: Window | None = None,
    classes: Names = (),
    ignore: Annotated[int, Field(ge=0, le=65535)] | None = _LARGEST_BYTE,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read ``path/images/x.jpg`` with ``path/masks/x.png``, or such a pair of folders for each part.

    Parts are ``path/train/images``, ``path/train/masks`` and so on, named as those of ``folder``. The
    number of a pixel in a mask is its class; of one with a palette the place in it. Masks are resized to the
    nearest pixel.

    Args:
        path: The folder.
        size: Height and width, or one number for both; needed if the images differ in size.
        greyscale: Read one channel instead of three.
        window: Of DICOM files; see ``folder``.
        classes: Names of classes 0, 1, …; without them there are as many as the largest number says.
        ignore: Number of pixels that are not counted.
        test_fraction: Share of the test samples, if the folder has no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: An image has no mask, or a mask no image; one cannot be read, or they differ in size.
    """
    if not path.is_dir():
        raise DataError(f"{path}: option 'path' is no folder; name one with '{_IMAGES}' and '{_MASKS}'")
    parts = find_parts(
        path,
        folders(path),
        _has_both,
        lacks=f"folders '{_IMAGES}' and '{_MASKS}'",
        alone=f"a folder that holds '{_IMAGES}' and '{_MASKS}'",
    )
    images = ImageSet(height_width(size), greyscale=greyscale, window=window)
    masks = _MaskReader(height_width(size), ignore)
    read = [None if part is None else _read(part, images, masks) for part in (parts.train, *parts.others)]
    count = max(masks.count, len(classes))
    if classes and masks.count > len(classes):
        raise DataError(
            f"{masks.largest}: holds class {masks.count - 1}, and option 'classes' names {len(classes)}, "
            "from 0 on"
        )
    return image_parts(
        [None if part is None else Dataset(*part, count, classes) for part in read],
        images,
        path=path,
        test_fraction=test_fraction,
        split_seed=split_seed,
        limit=limit,
        normalize=normalize,
        notes=(*parts.notes, *images.notes),
        preprocessing=images.preprocessing("segmentation"),
    )


def _has_both(folder: Path) -> bool:
    return (folder / _IMAGES).is_dir() and (folder / _MASKS).is_dir()


def _read(folder: Path, images: ImageSet, masks: _MaskReader) -> tuple[Tensor, Tensor]:
    """Return the images of a part, (N, C, H, W), and their masks, (N, H, W) int64."""
    if not _has_both(folder):
        raise DataError(f"{folder}: holds no folders '{_IMAGES}' and '{_MASKS}'")
    files = _by_stem(folder / _IMAGES, SUFFIXES)
    targets = _by_stem(folder / _MASKS, _MASK_SUFFIXES)
    for what, lacking in (
        (f"no mask in {folder / _MASKS}", [files[stem] for stem in files if stem not in targets]),
        (f"no image in {folder / _IMAGES}", [targets[stem] for stem in targets if stem not in files]),
    ):
        if lacking:
            more = f", nor have {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            raise DataError(f"{lacking[0]}: has {what} of the same name{more}")
    pairs = [(images.read(files[stem]), masks.read(targets[stem], files[stem])) for stem in files]
    for stem, (image, mask) in zip(files, pairs, strict=True):
        if image.shape[1:] != mask.shape:
            raise DataError(
                f"{targets[stem]}: is {mask.shape[0]}x{mask.shape[1]} pixels (height x width), its image "
                f"{image.shape[1]}x{image.shape[2]}"
            )
    return torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Return the files of a folder by their names without an ending, sorted.

    Raises:
        DataError: There are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in suffixes and not file.name.startswith("."):
            if file.stem in found:
                raise DataError(f"{folder}: holds both '{found[file.stem].name}' and '{file.name}'; keep one")
            found[file.stem] = file
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(suffixes))})")
    return found


class _MaskReader:
    """Reads masks, and keeps how many classes they make.

    Args:
        size: To resize to.
        ignore: Number of pixels that are not counted.
    """

    def __init__(self, size: tuple[int, int] | None, ignore: int | None) -> None:
        self._size, self._ignore = size, ignore
        self.count = 1
        self.largest: Path | None = None

    def read(self, file: Path, image: Path) -> Tensor:
        """Return (H, W) int64."""
        found = _read_mask(file, image, self._size)
        mask = torch.from_numpy(found.astype(np.int64))
        if self._ignore is not None:
            mask[mask == self._ignore] = IGNORED
        count = int(mask.max()) + 1
        if count > self.count:
            self.count, self.largest = count, file
        return mask


def _read_mask(file: Path, image_file: Path, size: tuple[int, int] | None) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        with Image.open(file, formats=_FORMATS) as mask:
            if mask.width * mask.height > MAX_PIXELS:
                raise DataError(
                    f"{file}: has {mask.width}x{mask.height} pixels; at most {MAX_PIXELS} are read"
                )
            if mask.mode not in _MODES:
                raise DataError(
                    f"{file}: is of mode {mask.mode}, and the mask of {image_file.name}; expected one "
                    "number a pixel, its class, as a grey image or one with a palette holds"
                )
            if mask.mode == "1":
                return _nearest(mask.convert("L").point(lambda value: value // _LARGEST_BYTE), size)
            return _nearest(mask, size)
    except UnidentifiedImageError as error:
        raise DataError(f"{file}: is no mask that can be read; expected {', '.join(_FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: is damaged: {error}; remove or replace it") from error


def _nearest(mask: Image.Image, size: tuple[int, int] | None) -> np.ndarray[Any, np.dtype[Any]]:
    if size is not None and (mask.height, mask.width) != size:
        mask = mask.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(mask)
