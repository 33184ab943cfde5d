"""Read image folders: one sub folder a class."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError
from .preparation import Fraction, Limit, Normalize, Parts, SplitSeed
from .split import split_dataset

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
#: What such files hold. Pillow goes by their contents, and would start Ghostscript for a page of PostScript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: One image may not be larger; a file of a few bytes can claim any size.
MAX_PIXELS = 64 * 2**20
#: Modes that pillow turns into 8 bits a channel without loss of range.
_MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
)

#: What the parts of a data set are called: to train on, to judge by, and to test on at the end.
_NAMES = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))
_LISTED = 5

Side = Annotated[int, Field(ge=1, le=4096)]


def folder(
    *,
    path: Path,
    size: Side | tuple[Side, Side] | None = None,
    greyscale: bool = False,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read ``path/train/CLASS/x.png``, ``path/val/…`` and ``path/test/…``, or ``path/CLASS/x.png`` and split.

    ``training`` is as good as ``train``, ``testing`` as ``test``, ``valid`` and ``validation`` as ``val``;
    one of ``val`` and ``test`` will do. Classes are numbered by name; files are read in the order of theirs.

    Args:
        path: The folder.
        size: Height and width, or one number for both; needed if the images differ in size.
        greyscale: Read one channel instead of three.
        test_fraction: Share of the test samples, if the folder has no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: There are no images, one cannot be read, or they differ in size.
    """
    if not path.is_dir():
        raise DataError(f"{path}: option 'path' is no folder; name one with a sub folder for each class")
    height_width = (size, size) if isinstance(size, int) else size
    root, others, notes = _find_parts(path)
    classes = [sub.name for sub in _folders(root)]
    if not classes:
        raise DataError(f"{root}: holds no sub folders; expected one for each class")
    train = _read_classes(root, classes, height_width, greyscale=greyscale)
    if not any(others):
        rest, drawn = split_dataset(train, test_fraction, split_seed, str(path))
        return Parts(train=rest, test=drawn, limit=limit, normalize=normalize, source=str(path))
    size_of_train = (train.inputs.shape[2], train.inputs.shape[3])
    validation, test = (
        None
        if part is None
        else _read_part(part, root, classes, size_of_train, height_width, greyscale=greyscale)
        for part in others
    )
    return Parts(
        train=train,
        test=test,
        validation=validation,
        limit=limit,
        normalize=normalize,
        source=str(path),
        notes=notes,
    )


def _read_part(
    folder: Path,
    root: Path,
    classes: list[str],
    size_of_train: tuple[int, int],
    size: tuple[int, int] | None,
    *,
    greyscale: bool,
) -> Dataset:
    """Read a part whose classes are those of ``root``, which is trained on."""
    unknown = [sub.name for sub in _folders(folder) if sub.name not in classes]
    if unknown:
        raise DataError(f"{folder / unknown[0]}: is a class without training images in {root}")
    present = [name for name in classes if (folder / name).is_dir()]
    return _read_classes(folder, classes, size, greyscale=greyscale, present=present, expected=size_of_train)


def _find_parts(path: Path) -> tuple[Path, tuple[Path | None, Path | None], tuple[str, ...]]:
    """Return the folder to train on, those to judge by and to test on, and what to tell of the choice.

    Of a folder without parts, which is to be split, that is the folder itself, and None for both.

    Raises:
        DataError: One part is there without the other, or twice.
    """
    folders = _folders(path)
    named = [sub for sub in folders if any(sub.name.lower() in part for part in _NAMES)]
    found = [[sub for sub in named if sub.name.lower() in part and _has_classes(sub)] for part in _NAMES]
    if not any(found):
        if named and named == folders:
            raise DataError(f"{named[0]}: holds no sub folders; expected one for each class")
        return path, (None, None), ()
    for twice in (part for part in found if len(part) > 1):
        raise DataError(f"{path}: holds both '{twice[0].name}' and '{twice[1].name}'; keep one of them")
    train, validation, test = [part[0] if part else None for part in found]
    others = [part for part in (validation, test) if part is not None]
    if train is None:
        raise DataError(
            f"{path}: holds '{others[0].name}' and no folder 'train' beside it; "
            "add that, or name as 'path' a folder that holds one sub folder a class"
        )
    if not others:
        raise DataError(
            f"{path}: holds '{train.name}' and neither 'val' nor 'test' beside it; "
            f"add one of them, or name {train} as 'path': it is then split"
        )
    told = f"{path}: trains on '{train.name}'"
    told += "" if validation is None else f", is judged by '{validation.name}'"
    told += "" if test is None else f", tests on '{test.name}' at the end"
    unused = [sub.name for sub in folders if sub not in (train, *others)]
    if unused:
        told += f"; {', '.join(map(repr, unused[:_LISTED]))} is not read"
    return train, (validation, test), (told,)


def _has_classes(folder: Path) -> bool:
    """Tell a part, which holds folders of images, from a class, which holds images."""
    return any(_folders(folder)) and not any(f.suffix.lower() in SUFFIXES for f in folder.iterdir())


def _folders(path: Path) -> list[Path]:
    return sorted(sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _read_classes(
    root: Path,
    classes: list[str],
    size: tuple[int, int] | None,
    *,
    greyscale: bool,
    present: list[str] | None = None,
    expected: tuple[int, int] | None = None,
) -> Dataset:
    """Read all images below ``root``; ``expected`` is the size they must have if ``size`` is not given."""
    images: list[Tensor] = []
    targets: list[int] = []
    first: Path | None = None
    for name in classes if present is None else present:
        files = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{root / name}: holds no images ({', '.join(sorted(SUFFIXES))})")
        for file in files:
            array = read_image(file, size, greyscale=greyscale).pixels
            image = torch.from_numpy(np.array(array.transpose(2, 0, 1)))
            expected = expected or (image.shape[1], image.shape[2])
            if image.shape[1:] != expected:
                other = "the training images" if first is None else str(first)
                raise DataError(
                    f"{file}: is {image.shape[1]}x{image.shape[2]} pixels (height x width), {other} "
                    f"{expected[0]}x{expected[1]}; give option 'size', as in size: {min(expected)}"
                )
            first = first or file
            images.append(image)
            targets.append(classes.index(name))
    if not images:
        raise DataError(f"{root}: holds no images of the classes {', '.join(classes)}")
    return Dataset(
        torch.stack(images), torch.tensor(targets, dtype=torch.int64), len(classes), tuple(classes)
    )


class Photo(NamedTuple):
    """One image as it was read.

    Attributes:
        pixels: (H, W, C) uint8, upright; only to be read.
        size: Height and width that it had in its file, upright.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    size: tuple[int, int]


def read_image(
    file: Path,
    size: tuple[int, int] | None,
    *,
    greyscale: bool,
    hold: Callable[[int], AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
) -> Photo:
    """Read one image, of 8 bits a channel, and resize it if ``size``, height and width, is another.

    Args:
        file: May be anybody's.
        size: None leaves it as large as it is.
        greyscale: One channel instead of three.
        hold: Is given the pixels of the file before any is read, and entered for as long as they take memory.

    Raises:
        DataError: It cannot be read, or has too many pixels.
    """
    mode = "L" if greyscale else "RGB"
    try:
        with Image.open(file, formats=_FORMATS) as image:
            count = image.width * image.height
            if count > MAX_PIXELS:
                raise DataError(
                    f"{file}: has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read"
                )
            if image.mode not in _MODES:
                raise DataError(f"{file}: is of mode {image.mode}; convert it to 8 bits a channel")
            with hold(count):
                # What returns a copy is called for what it changes only.
                ImageOps.exif_transpose(image, in_place=True)
                upright: Image.Image = image if image.mode == mode else image.convert(mode)
                found = (upright.height, upright.width)
                if size is not None and found != size:
                    upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                array = np.asarray(upright)
    except UnidentifiedImageError as error:
        raise DataError(f"{file}: is no image that can be read; remove or replace it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: is damaged: {error}; remove or replace it") from error
    return Photo(array[..., None] if greyscale else array, found)
