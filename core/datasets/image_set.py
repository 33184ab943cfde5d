"""Images of one data set, which all have to be alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..engine.data import Dataset
from ..engine.preprocessing import Preprocessing, damaged, read_state
from ..hooks.errors import DataError
from ..plugins.number_words import counted
from .dicom import DICOM, Window
from .image_file import BYTES, DEEP, read_image
from .preparation import Limit, Normalize, Parts
from .split import split_dataset

#: Which readers make samples of images.
_READERS = frozenset(("folder", "segmentation", "webdataset"))
Side = Annotated[int, Field(ge=1, le=4096)]
Size = Side | tuple[Side, Side] | None


def height_width(size: Size) -> tuple[int, int] | None:
    """Return height and width of the option ``size``, which is one number where they are the same."""
    return (size, size) if isinstance(size, int) else size


class ImageSet:
    """Reads images one after the other, and holds each to size and kind of the first.

    Args:
        size: Height and width to resize to; None: as they are, which is alike.
        greyscale: One channel instead of three.
        window: Of DICOM files.
    """

    def __init__(
        self, size: tuple[int, int] | None, *, greyscale: bool, window: Window | None = None
    ) -> None:
        self._size, self._greyscale, self._window = size, greyscale, window
        self._first: tuple[Path, tuple[int, int], str] | None = None
        self._cut: list[Path] = []

    def read(self, file: Path, data: bytes | None = None) -> Tensor:
        """Return an image, (C, H, W), uint8, or float32 in [0, 1] if deeper; as ``read_sized`` otherwise."""
        return self.read_sized(file, data)[0]

    def read_sized(self, file: Path, data: bytes | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Return an image as ``read`` does, and height and width that it had in its file.

        Args:
            file: Where it lies.
            data: Its bytes, where ``file`` is but its name.

        Raises:
            DataError: It cannot be read, or is unlike the first.
        """
        photo = read_image(file, self._size, greyscale=self._greyscale, data=data, window=self._window)
        image = torch.from_numpy(np.array(photo.pixels.transpose(2, 0, 1)))
        size = (image.shape[1], image.shape[2])
        first, expected, kind = self._first = self._first or (file, size, photo.kind)
        if size != expected:
            raise DataError(
                f"{file}: is {size[0]}x{size[1]} pixels (height x width), {first} "
                f"{expected[0]}x{expected[1]}; give option 'size', as in size: {min(expected)}"
            )
        if photo.kind != kind:
            raise DataError(
                f"{file}: is of {photo.kind}, {first} of {kind}; write all images in one of the two"
            )
        if photo.is_cut:
            self._cut.append(file)
        return image, photo.size

    @property
    def kind(self) -> str:
        """One of ``image_file.KINDS``."""
        return self._first[2] if self._first else BYTES

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how they were read."""
        told = []
        if self._cut:
            told.append(
                f"{counted(len(self._cut), 'image')} in colour of 16 bits a channel, read as 8: the first is "
                f"{self._cut[0]}"
            )
        if self.kind == DICOM:
            told.append(f"images are DICOM: {_told(self._window)}")
        elif self.kind != BYTES:
            told.append(f"images are of {self.kind}: numbers are value / 65535, and keep that depth")
        return tuple(told)

    def preprocessing(self, reader: str) -> Preprocessing | None:
        """Return what is to be known to read others alike; None of images of bytes, as all are by default."""
        if self.kind == BYTES:
            return None
        return Preprocessing(reader, msgspec.to_builtins(DeepPhotos(self.kind, self._window)))


def image_parts(
    read: Sequence[Dataset | None],
    images: ImageSet,
    *,
    path: Path,
    test_fraction: float,
    split_seed: int,
    limit: Limit,
    normalize: Normalize,
    notes: Sequence[str],
    preprocessing: Preprocessing | None = None,
) -> Parts:
    """Return what a reader of images has read, with a test part drawn where the folder brings none.

    Args:
        read: Training, validation and test part.
        images: What read them.
        path: The folder.
        test_fraction: Share of the test samples, if they are drawn.
        split_seed: Which samples these are.
        limit: As in ``Parts``.
        normalize: As in ``Parts``.
        notes: As in ``Parts``.
        preprocessing: As in ``Parts``.

    Raises:
        DataError: There is no training part, or too little of it.
    """
    train, validation, test = read
    if train is None:
        raise DataError(f"{path}: holds no images")
    if validation is test is None:
        train, test = split_dataset(train, test_fraction, split_seed, str(path))
    return Parts(
        train=train,
        test=test,
        validation=validation,
        limit=limit,
        normalize=normalize,
        source=str(path),
        notes=tuple(notes),
        scaled=images.kind != BYTES,
        preprocessing=preprocessing,
    )


class DeepPhotos(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``preprocessing.json`` says of images that are no bytes.

    Attributes:
        kind: As ``image_file`` has it.
        window: Of DICOM files.
    """

    kind: Annotated[str, msgspec.Meta(max_length=100)]
    window: Literal["file"] | tuple[float, float] | None = None


def deep_photos(preprocessing: Preprocessing | None) -> DeepPhotos | None:
    """Return of which images a run made its samples, where that were images deeper than bytes.

    Args:
        preprocessing: May be anybody's.

    Raises:
        DataError: It says what no reader of images does.
    """
    if preprocessing is None or preprocessing.reader not in _READERS:
        return None
    found = read_state(preprocessing.state, DeepPhotos)
    is_window = not isinstance(found.window, tuple) or (
        all(map(math.isfinite, found.window)) and found.window[1] > 0
    )
    if found.kind not in {DEEP, DICOM} or not is_window:
        raise damaged("it tells of no kind of images")
    return found


def _told(window: Window | None) -> str:
    if window is None:
        return "all that the numbers of a file can be becomes 0 to 1; a window, as in window: [40, 400], cuts"
    if window == "file":
        return "each file's own window becomes 0 to 1"
    center, width = window
    return f"{center - width / 2:g} to {center + width / 2:g} in the files' unit become 0 to 1"
