"""Read one image file: of 8 bits a channel as bytes, a deeper grey one or DICOM as numbers in [0, 1]."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..hooks.errors import DataError
from .dicom import DICOM, Window, read_dicom

SUFFIXES = frozenset(
    (".bmp", ".dcm", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
#: What such files hold. Pillow goes by their contents, and would start Ghostscript for a page of PostScript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: One image may not be larger; a file of a few bytes can claim any size.
MAX_PIXELS = 64 * 2**20
#: Modes that pillow turns into 8 bits a channel without loss of range.
_MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
)
#: Modes of 16 bits, and of what formats pillow makes whole numbers up to 65,535 that are wider in memory.
_DEEP_MODES = frozenset(("I;16", "I;16B", "I;16L", "I;16N"))
_DEEP_FORMATS = frozenset(("PNG", "PPM"))
_LARGEST = 2**16 - 1
_LARGEST_BYTE = 255

#: What an image was in its file; those of one data set are all alike. The third is ``dicom.DICOM``.
BYTES, DEEP = "8 bits a channel", "16 bits a channel"
KINDS = (BYTES, DEEP, DICOM)


class Photo(NamedTuple):
    """One image as it was read.

    Attributes:
        pixels: (H, W, C), upright; only to be read. uint8 of ``BYTES``, otherwise float32 in [0, 1].
        size: Height and width that it had in its file, upright.
        kind: One of ``KINDS``.
        is_cut: It is of ``BYTES``, and had more bits in its file.
    """

    pixels: np.ndarray[Any, np.dtype[Any]]
    size: tuple[int, int]
    kind: str = BYTES
    is_cut: bool = False


def read_image(
    file: Path,
    size: tuple[int, int] | None,
    *,
    greyscale: bool,
    data: bytes | None = None,
    window: Window | None = None,
    hold: Callable[[int], AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
) -> Photo:
    """Read one image, and resize it if ``size``, height and width, is another.

    Grey images of 16 bits keep their depth, as value / 65535. Those in colour become 8 bits a channel.

    Args:
        file: May be anybody's.
        size: None leaves it as large as it is.
        greyscale: One channel instead of three.
        data: The bytes of an image that is none of DICOM, where ``file`` is but its name in messages.
        window: Of DICOM files; see ``read_dicom``.
        hold: Is given the pixels of the file before any is read, and entered for as long as they take memory.

    Raises:
        DataError: It cannot be read, or has too many pixels.
    """
    if data is None and file.suffix.lower() == ".dcm":
        numbers = read_dicom(file, window, MAX_PIXELS, hold)
        return Photo(_resized(numbers, size, greyscale=greyscale), numbers.shape, DICOM)
    try:
        with Image.open(file if data is None else io.BytesIO(data), formats=_FORMATS) as image:
            count = image.width * image.height
            if count > MAX_PIXELS:
                raise DataError(
                    f"{file}: has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read"
                )
            is_deep = image.mode in _DEEP_MODES or (image.mode == "I" and image.format in _DEEP_FORMATS)
            if not is_deep and image.mode not in _MODES:
                raise DataError(f"{file}: is of mode {image.mode}; convert it to 8 or 16 bits a channel")
            is_cut = not is_deep and _has_more_bits(image)
            with hold(count):
                # What returns a copy is called for what it changes only.
                ImageOps.exif_transpose(image, in_place=True)
                found = (image.height, image.width)
                if is_deep:
                    numbers = np.asarray(image).astype(np.float32) / np.float32(_LARGEST)
                    return Photo(_resized(numbers, size, greyscale=greyscale), found, DEEP)
                mode = "L" if greyscale else "RGB"
                upright: Image.Image = image if image.mode == mode else image.convert(mode)
                if size is not None and found != size:
                    upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                array = np.asarray(upright)
    except UnidentifiedImageError as error:
        raise DataError(f"{file}: is no image that can be read; remove or replace it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: is damaged: {error}; remove or replace it") from error
    return Photo(array[..., None] if greyscale else array, found, is_cut=is_cut)


def _resized(
    numbers: np.ndarray[Any, np.dtype[np.float32]], size: tuple[int, int] | None, *, greyscale: bool
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return grey numbers, (H, W), as (H', W', C)."""
    if size is not None and numbers.shape != size:
        grey = Image.fromarray(numbers).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        numbers = np.asarray(grey)
    return np.broadcast_to(numbers[..., None], (*numbers.shape, 1 if greyscale else 3))


def _has_more_bits(image: ImageFile.ImageFile) -> bool:
    """Tell whether pillow will leave out the low bits, which its mode does not say."""
    for tile in image.tile:
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        deep = any(isinstance(argument, str) and ";16" in argument for argument in arguments)
        # Of a pixmap the largest number of its header.
        large = tile.codec_name.startswith("ppm") and any(
            isinstance(argument, int) and argument > _LARGEST_BYTE for argument in arguments
        )
        if deep or large:
            return True
    return False
