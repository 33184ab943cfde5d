"""Read IDX files, the format of MNIST and its kin, plain or gzip-compressed."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError
from .preparation import Limit, Normalize, Parts

#: Third byte of an IDX file to its numbers' type; all are big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 4
#: With 255 dimensions.
MAX_HEADER_BYTES = _HEADER_BYTES + 4 * 255
_IMAGES_DIMS = 3

_STANDARD_NAMES = {
    "train_images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train_labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test_images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test_labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}

_SHIPPED = Path(__file__).parent / "mnist10k"


def read_idx(path: Path) -> Tensor:
    """Return the array of an IDX file; its own type, bytes as uint8.

    Raises:
        DataError: The file is missing, cut short, too long, or no IDX.

    Source: LeCun, Cortes and Burges, "The MNIST database", section "file formats".
    """
    data = _read(path)
    start, shape, dtype = read_header(data, path)
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - start
    if found != expected:
        fault = "is cut short" if found < expected else "has more than its header says"
        raise DataError(
            f"{path}: {fault}: shape {'x'.join(map(str, shape))} needs {expected} bytes, "
            f"it holds {found}; fetch it again"
        )
    array = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("=")))


def read_header(data: bytes, path: Path) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Return where the numbers of an IDX file begin, its shape, and the type of its numbers.

    Args:
        data: Its first ``MAX_HEADER_BYTES``, or more.
        path: For messages.

    Raises:
        DataError: It is cut short, or no IDX.
    """
    if len(data) < _HEADER_BYTES or data[0] or data[1] or data[2] not in _TYPES or not data[3]:
        raise DataError(
            f"{path}: starts with {data[:4].hex(' ') or 'nothing'}; an IDX file starts with 00 00, "
            "a type (08 for bytes) and the number of dimensions"
        )
    dims = data[3]
    start = _HEADER_BYTES + 4 * dims
    if len(data) < start:
        raise DataError(f"{path}: is cut short in its header; fetch it again")
    return start, struct.unpack(f">{dims}I", data[_HEADER_BYTES:start]), np.dtype(_TYPES[data[2]])


def idx(
    *,
    path: Path | None = None,
    train_images: Path | None = None,
    train_labels: Path | None = None,
    test_images: Path | None = None,
    test_labels: Path | None = None,
    validation_images: Path | None = None,
    validation_labels: Path | None = None,
    class_names: tuple[str, ...] = (),
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read grey images and their classes from four IDX files, or six.

    Args:
        path: Folder that holds the four files under MNIST's standard names.
        train_images: (N, H, W) bytes; each file given by name beats the folder's.
        train_labels: (N,) bytes.
        test_images: (M, H, W) bytes.
        test_labels: (M,) bytes.
        validation_images: (K, H, W) bytes, if there is a validation part; no folder holds it under a name.
        validation_labels: (K,) bytes.
        class_names: Names of classes 0, 1, …, for people.
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: A file is missing, damaged or does not fit the others.
    """
    given = {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    files = {key: _locate(key, file, path) for key, file in given.items()}
    read = {
        "train": _part(files["train_images"], files["train_labels"]),
        "test": _part(files["test_images"], files["test_labels"]),
    }
    if validation_images is not None and validation_labels is not None:
        read["validation"] = _part(validation_images, validation_labels)
    elif (validation_images is None) != (validation_labels is None):
        missing = "labels" if validation_labels is None else "images"
        raise DataError(f"data 'idx': option 'validation_{missing}' is missing; give both, or neither")
    classes = int(max(labels.max() for _, labels in read.values())) + 1
    if class_names and len(class_names) < classes:
        raise DataError(
            f"{files['train_labels']}: has {classes} classes, option 'class_names' names {len(class_names)}"
        )
    count = len(class_names) or classes
    parts = {part: Dataset(*pair, count, class_names) for part, pair in read.items()}
    return Parts(
        train=parts["train"],
        test=parts["test"],
        validation=parts.get("validation"),
        limit=limit,
        normalize=normalize,
        source=str(files["train_images"].parent),
    )


def mnist10k(*, limit: Limit = None, normalize: Normalize = "auto") -> Parts:
    """Read the data set inside the package: 8,000 + 2,000 of MNIST's digits, 28x28.

    Args:
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.
    """
    names = tuple(str(digit) for digit in range(10))
    return idx(path=_SHIPPED, class_names=names, limit=limit, normalize=normalize)


def _locate(key: str, file: Path | None, folder: Path | None) -> Path:
    if file is not None:
        return file
    if folder is None:
        raise DataError(
            f"data 'idx': option '{key}' is missing; name the file, or a folder with option 'path'"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: option 'path' is no folder; name the one that holds the IDX files")
    names = [name + suffix for name in _STANDARD_NAMES[key] for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: holds no {names[0]}, plain or .gz; name the file with option '{key}'")


def _part(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, dims, what in (
        (images_path, images, _IMAGES_DIMS, "images"),
        (labels_path, labels, 1, "labels"),
    ):
        if array.dtype != torch.uint8 or array.dim() != dims:
            raise DataError(
                f"{path}: holds {array.dtype} of {array.dim()} dimensions; {what} are bytes of {dims}"
            )
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: holds {len(labels)} labels for {len(images)} images in {images_path}"
        )
    if not images.numel():
        raise DataError(f"{images_path}: holds no images")
    return images[:, None], labels.to(torch.int64)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == GZIP_MAGIC else data
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged or cut short: {error}; fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
