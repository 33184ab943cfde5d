"""Read one grey image of a DICOM file, as medical scanners write them, with pydicom."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..hooks.errors import DataError, shorten, visible

DICOM = "DICOM"
#: ``file``: that of each file; or centre and width, in the unit of the files (Hounsfield units for CT).
Window = Literal["file"] | tuple[float, Annotated[float, Field(gt=0)]]

#: Besides its pixels a file tells of patient and machine.
_HEADER_BYTES = 64 << 20
_MOST_BYTES_A_PIXEL = 4
_BITS = (8, 16, 32)
_SHOWN = 100
#: What is needed of a file; the rest, which is of the patient, is not looked at.
_TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
]
#: Numbers that lie in the file as they are: implicit, explicit, and of the other byte order.
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def read_dicom(
    file: Path,
    window: Window | None,
    max_pixels: int,
    hold: Callable[[int], AbstractContextManager[None]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return one grey image, (H, W), in [0, 1]; where large numbers mean dark it is turned round.

    Args:
        file: May be anybody's.
        window: What becomes 0 to 1: from half the width below the centre to half above; what lies
            beyond is cut. None: all that a file's numbers can be.
        max_pixels: More are not read.
        hold: As in ``read_image``.

    Raises:
        DataError: pydicom is not installed; or the file is none, is damaged, compressed, in colour, has
            several images or too many pixels, or no window where its own is asked for.
    """
    pydicom = _import_pydicom(file)
    if file.stat().st_size > _HEADER_BYTES + _MOST_BYTES_A_PIXEL * max_pixels:
        raise DataError(f"{file}: is too large for one image of {max_pixels} pixels, the most that is read")
    try:
        # It would warn of values in a stranger's words.
        with pydicom.config.disable_value_validation():
            _check_syntax(pydicom.filereader.read_file_meta_info(file).TransferSyntaxUID, file)
            image = pydicom.dcmread(file, specific_tags=_TAGS)
            with hold(_check(image, file, max_pixels)):
                return _in_window(image, window, file)
    except pydicom.errors.InvalidDicomError as error:
        raise DataError(f"{file}: is no DICOM file; remove or replace it") from error
    except (
        *(AttributeError, EOFError, KeyError, NotImplementedError, OSError, OverflowError),
        *(RecursionError, TypeError, ValueError, struct.error, pydicom.errors.BytesLengthException),
    ) as error:
        told = visible(shorten(str(error), _SHOWN))
        raise DataError(f"{file}: is damaged: {told}; remove or replace it") from error


def _import_pydicom(file: str | os.PathLike[str]) -> Any:
    try:
        import pydicom  # noqa: PLC0415 - an extra, which nobody else waits for
        import pydicom.filereader  # noqa: PLC0415
    except ImportError:
        raise DataError(
            f"{file}: is read with pydicom, which is not installed: pip install 'ringfence[dicom]'"
        ) from None
    return pydicom


def _check_syntax(syntax: Any, file: Path) -> None:
    """Check that nothing has to be unpacked: a file of a few bytes can claim any size."""
    if syntax not in _PLAIN:
        raise DataError(
            f"{file}: is compressed ({visible(shorten(syntax.name, _SHOWN))}), and only plain DICOM is "
            "read; write it anew, as gdcmconv --raw or dcmdjpeg do"
        )


def _check(image: Any, file: Path, max_pixels: int) -> int:
    """Check that a file holds one grey image, and return how many pixels it has."""
    count = int(image.Rows) * int(image.Columns)
    if count > max_pixels:
        raise DataError(f"{file}: has {image.Columns}x{image.Rows} pixels; at most {max_pixels} are read")
    frames = int(image.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(f"{file}: holds {frames} images; write each to a file of its own")
    meaning = str(image.get("PhotometricInterpretation", "")).strip()
    if image.get("SamplesPerPixel", 1) != 1 or meaning not in {"MONOCHROME1", "MONOCHROME2"}:
        told = visible(shorten(meaning, _SHOWN)) or "untold"
        raise DataError(f"{file}: is in colour ({told}); only grey DICOM images are read")
    if image.BitsAllocated not in _BITS or not 1 <= image.BitsStored <= image.BitsAllocated:
        raise DataError(
            f"{file}: has {image.BitsStored} of {image.BitsAllocated} bits a pixel; expected 8, 16 or 32"
        )
    if "ModalityLUTSequence" in image:
        raise DataError(f"{file}: means its numbers by a table (ModalityLUTSequence), which is not read")
    return count


def _in_window(
    image: Any, window: Window | None, file: Path
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    slope, intercept = (_first(image.get(f"Rescale{name}")) for name in ("Slope", "Intercept"))
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if not (slope and math.isfinite(slope) and math.isfinite(intercept)):
        raise DataError(f"{file}: is damaged: its slope is {slope:g}, its intercept {intercept:g}")
    values = image.pixel_array.astype(np.float64) * slope + intercept
    low, high = _bounds(image, window, slope, intercept, file)
    shares = np.clip((values - low) / (high - low), 0, 1)
    if image.PhotometricInterpretation.strip() == "MONOCHROME1":
        shares = 1 - shares
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = shares.astype(np.float32)
    return found


def _bounds(
    image: Any, window: Window | None, slope: float, intercept: float, file: Path
) -> tuple[float, float]:
    """Return which numbers become 0 and 1."""
    if window is None:
        least = -(2 ** (image.BitsStored - 1)) if image.PixelRepresentation else 0
        ends = (least * slope + intercept, (least + 2**image.BitsStored - 1) * slope + intercept)
        return min(ends), max(ends)
    if window == "file":
        center, width = (_first(image.get(f"Window{name}")) for name in ("Center", "Width"))
        if center is None or width is None or not (math.isfinite(center) and 0 < width < math.inf):
            raise DataError(
                f"{file}: tells no window of its own; give option 'window', as in window: [40, 400]"
            )
    else:
        center, width = window
    return center - width / 2, center + width / 2


def _first(value: Any) -> float | None:
    """Return the first of several windows, or the only one."""
    if value is None or isinstance(value, int | float | str):
        return None if value in {None, ""} else float(value)
    return float(value[0]) if len(value) else None
