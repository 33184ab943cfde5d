"""Arrays in ``.npz``, ``.npy``, safetensors and IDX files, told by their headers before a number is read."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from ...datasets.convert import to_tensor
from ...datasets.idx import GZIP_MAGIC, MAX_HEADER_BYTES, read_header
from ...hooks.errors import DataError, shorten, visible
from ...job.problems import suggest
from ...tensors import tensor_file
from .sample_form import SampleForm
from .source import Source
from .stored_array import StoredArray, StoredSource, fit_array

#: Of arrays in the order of columns, which cannot be read in pieces.
_MAX_WHOLE_BYTES = 1 << 30
#: What numpy writes. Of other ways to pack, Python unpacks as much at once as somebody likes.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: Of an array of numbers it has some hundred.
_MAX_NPY_HEADER = 10_000
_NPY_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
#: Taken without a word if there are several: it is what the reader of training takes.
_USUAL = "inputs"
_MOST_TRIED = 100
_LISTED = 10
_FAULTS_SHOWN = 3
_SHOWN = 300
#: What zipfile and numpy raise of a file that is damaged; the last two of a member that is encrypted or
#: compressed in a way that zipfile cannot read.
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError)

_Open = Callable[[], AbstractContextManager[BinaryIO]]
#: Name of an array to what reads its header.
_Arrays = Mapping[str, Callable[[], StoredArray]]


def open_keyed(path: Path, form: SampleForm, key: str | None) -> Source:
    """Return the samples of an array of a ``.npz`` or safetensors file.

    Args:
        path: May be anybody's; ends in one of ``KEYED``.
        form: What the model takes.
        key: Which array; None takes the only one that fits.

    Raises:
        DataError: There is no such array, or it does not fit.
    """
    return _choose(path, KEYED[path.suffix.lower()](path), form, key)


def read_array(path: Path, key: str, count: int | None) -> Tensor:
    """Return an array of a ``.npz`` or safetensors file, read as a whole.

    Args:
        path: As in ``open_keyed``.
        key: Which array.
        count: Its length, as far as that is known.

    Raises:
        DataError: There is no such array, it is of another length, or it cannot be read.
    """
    arrays = KEYED[path.suffix.lower()](path)
    if key not in arrays:
        raise DataError(f"{path}: holds no array '{key}'; {suggest(key, arrays)}")
    array = arrays[key]()
    if count is not None and array.shape[:1] != (count,):
        raise DataError(f"{array.source}: is of shape {array.shape}; expected {count} rows")
    array.check_plausible()
    with array.open() as file:
        return array.decode(array.read(file, 0, math.prod(array.shape[:1]))).reshape(array.shape)


def open_npy(path: Path, form: SampleForm) -> Source:
    """Return the samples of a ``.npy`` file; raises as ``open_keyed``."""
    with _explained(path, ".npy"):
        size = path.stat().st_size
        stored = _npy_array(str(path), functools.partial(_at, path, 0), size, size)
    return StoredSource(stored, form, [])


def is_idx(path: Path) -> bool:
    """Tell whether a file begins as an IDX file does, or is packed with gzip."""
    with _explained(path, "IDX"), path.open("rb") as file:
        begin = file.read(2)
    return begin in (GZIP_MAGIC, b"\0\0")


def open_idx(path: Path, form: SampleForm) -> Source:
    """Return the samples of an IDX file, plain or gzip-compressed; raises as ``open_keyed``."""
    with _unpacked(path, 0) as file:
        start, shape, dtype = read_header(file.read(MAX_HEADER_BYTES), path)
    stored = StoredArray(
        source=str(path),
        shape=shape,
        dtype=_torch_dtype(dtype, str(path)),
        itemsize=dtype.itemsize,
        open=functools.partial(_unpacked, path, start),
        decode=lambda data: to_tensor(np.frombuffer(data, dtype), str(path)),
        packed_bytes=path.stat().st_size,
    )
    return StoredSource(stored, form, [])


def _npz_arrays(path: Path) -> _Arrays:
    with _explained(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    return {
        info.filename.removesuffix(".npy"): functools.partial(_npz_member, path, info) for info in members
    }


def _tensor_arrays(path: Path) -> _Arrays:
    with _explained(path, "safetensors"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin = file.read(tensor_file.SIZE_BYTES)
        end = tensor_file.head_bytes(begin, size)
        head = begin + file.read(end - len(begin))
        tensor_file.check_head(head)
        extents = tensor_file.extents(head, size - end)
    return {name: functools.partial(_tensor, path, name, extent, end) for name, extent in extents.items()}


#: Ending of a file's name to what lists its arrays.
KEYED: dict[str, Callable[[Path], _Arrays]] = {".npz": _npz_arrays, ".safetensors": _tensor_arrays}


def _choose(path: Path, arrays: _Arrays, form: SampleForm, key: str | None) -> Source:
    """Return the array that is asked for, or the only one that fits the model."""
    names = list(arrays)
    if not names:
        raise DataError(f"{path}: holds no arrays")
    if key is not None and key not in arrays:
        raise DataError(f"{path}: holds no array '{key}'; {suggest(key, names)}")
    if key is not None or len(names) == 1:
        return StoredSource(arrays[key or names[0]](), form, [])
    if _USUAL in arrays:
        note = f"{path}: '{_USUAL}' is read, and not {_list([n for n in names if n != _USUAL])} (--key)"
        return StoredSource(arrays[_USUAL](), form, [note])
    array = _only_fitting(path, list(arrays.values())[:_MOST_TRIED], form)
    return StoredSource(array, form, [f"{array.source} is read, the only array that fits the model"])


def _only_fitting(path: Path, arrays: Sequence[Callable[[], StoredArray]], form: SampleForm) -> StoredArray:
    fitting, faults = [], []
    for read in arrays:
        try:
            array = read()
            fit_array(form, array.shape, array.dtype, array.source)
        except DataError as error:
            faults.append(str(error))
        else:
            fitting.append(array)
    if not fitting:
        raise DataError(f"{path}: no array fits the model: {'; '.join(faults[:_FAULTS_SHOWN])}")
    if len(fitting) > 1:
        several = ", ".join(array.source for array in fitting[:_LISTED])
        raise DataError(f"several arrays fit the model: {several}; name one with --key (key=…)")
    return fitting[0]


def _list(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{visible(name)}'" for name in names[:_LISTED])
    return listed + (", …" if len(names) > _LISTED else "")


def _npz_member(path: Path, info: zipfile.ZipInfo) -> StoredArray:
    source = f"{path}['{visible(info.filename.removesuffix('.npy'))}']"
    if info.compress_type not in _PACKED:
        raise DataError(f"{source}: is packed in a way that numpy does not write; save it with np.savez")
    with _explained(source, ".npz"):
        opened = functools.partial(_opened_member, path, info.filename)
        # What a member says of its packed size may be a lie; the file is no larger than it is.
        packed_bytes = min(info.compress_size, path.stat().st_size)
        return _npy_array(source, opened, info.file_size, packed_bytes)


def _npy_array(source: str, opened: _Open, size: int, packed_bytes: int) -> StoredArray:
    """Read the header of a ``.npy`` file of ``size`` bytes."""
    with opened() as file:
        version = np.lib.format.read_magic(file)
        read = _NPY_HEADERS.get(version)
        if read is None:
            raise DataError(f"{source}: is of .npy version {version}; save it as an array of numbers")
        shape, by_columns, dtype = read(file, max_header_size=_MAX_NPY_HEADER)
        start = file.tell()
    torch_dtype = _torch_dtype(dtype, source)
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - start or any(side < 0 for side in shape):
        raise DataError(
            f"{source}: shape {shape} needs {needed:,} bytes, it holds {size - start:,}; fetch it again"
        )
    begin = functools.partial(_past, opened, start, source)
    whole = functools.partial(_by_rows, begin, source, shape, dtype)
    return StoredArray(
        source=source,
        shape=shape,
        dtype=torch_dtype,
        itemsize=dtype.itemsize,
        open=whole if by_columns and len(shape) > 1 else begin,
        decode=lambda data: to_tensor(np.frombuffer(data, dtype), source),
        packed_bytes=packed_bytes,
    )


@contextlib.contextmanager
def _by_rows(begin: _Open, source: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[BinaryIO]:
    """Give in the order of rows what lies in that of columns, which has to be read as a whole."""
    size = math.prod(shape) * dtype.itemsize
    if size > _MAX_WHOLE_BYTES:
        raise DataError(
            f"{source}: lies in the order of columns, which has to be read as a whole, and has {size:,} "
            "bytes; save np.ascontiguousarray(…) of it"
        )
    with begin() as file:
        data = file.read(size)
        if len(data) < size or file.read(1):
            raise DataError(f"{source}: is not as long as its header says; fetch it again")
    yield io.BytesIO(np.frombuffer(data, dtype).reshape(shape, order="F").tobytes())


def _tensor(path: Path, name: str, extent: tensor_file.Extent, head_bytes: int) -> StoredArray:
    source = f"{path}['{visible(name)}']"
    return StoredArray(
        source=source,
        shape=extent.shape,
        dtype=extent.dtype,
        itemsize=extent.dtype.itemsize,
        open=functools.partial(_at, path, head_bytes + extent.begin),
        decode=lambda data: to_tensor(torch.frombuffer(data, dtype=extent.dtype), source),
        packed_bytes=extent.end - extent.begin,
        is_last=False,
    )


@contextlib.contextmanager
def _opened_member(path: Path, name: str) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        yield cast("BinaryIO", member)


@contextlib.contextmanager
def _past(opened: _Open, start: int, source: str) -> Iterator[BinaryIO]:
    """Open a file where its numbers begin."""
    with _explained(source, ".npy"), opened() as file:
        file.read(start)
        yield file


@contextlib.contextmanager
def _at(path: Path, start: int) -> Iterator[BinaryIO]:
    with _explained(path, "an array"), path.open("rb") as file:
        file.seek(start)
        yield file


@contextlib.contextmanager
def _unpacked(path: Path, start: int) -> Iterator[BinaryIO]:
    with _explained(path, "IDX"), path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        unpacked: BinaryIO = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
        unpacked.read(start)
        yield unpacked


@contextlib.contextmanager
def _explained(path: Path | str, kind: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _FAULTS as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: cannot be read as {kind}: {visible(shorten(said, _SHOWN))}") from error


def _torch_dtype(dtype: np.dtype[Any], source: str) -> torch.dtype:
    """Return what ``to_tensor`` makes of such numbers; raises as it does where it makes nothing."""
    return to_tensor(np.empty(0, dtype), source).dtype
