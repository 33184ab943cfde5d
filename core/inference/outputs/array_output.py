"""Predictions as arrays of numpy, in one ``.npz``."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ...hooks.errors import DataError
from ...tensors.tree_form import paths_of
from .output import Output
from .predictions import OutputMeaning, Predictions

_COPY_BYTES = 1 << 20
_NAMES_AT_ONCE = 4096


class ArrayOutput(Output):
    """Writes ``index``, ``outputs``, and of classes ``class``, ``probabilities`` and ``class_names``.

    Of a model that returns several tensors ``outputs`` are as many arrays, called by their keys and places:
    ``outputs.boxes``. The names of files are ``file``, where there are such. ``probabilities`` are always
    written, but where there is a class at each position.

    An array begins with its length, known at the end: till then each grows in a file that has no name.
    """

    def __init__(self, file: BinaryIO, meaning: OutputMeaning, *, probabilities: bool) -> None:
        super().__init__(file, meaning, probabilities=probabilities)
        self._folder = Path(file.name).parent
        self._arrays: dict[str, _GrowingArray] = {}
        self._names: _GrowingNames | None = None

    def write(self, part: Predictions) -> None:
        """Take some more."""
        leaves = {".".join(("outputs", *map(str, path))): leaf for path, leaf in paths_of(part.outputs)}
        arrays = {"index": part.indices, **leaves}
        if self.meaning.is_classes:
            arrays |= {"class": part.classes, "probabilities": part.probabilities}
        elif self.meaning.by_position:
            arrays["class"] = part.classes
        for name, tensor in arrays.items():
            if name not in self._arrays:
                self._arrays[name] = _GrowingArray(self._folder)
            self._arrays[name].add(name, tensor.numpy())
        if part.files is not None:
            self._names = self._names or _GrowingNames(self._folder)
            self._names.add(part.files)

    def finish(self) -> None:
        """Write the arrays, now that it is known how long they are."""
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, array in self._arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    array.write_to(member)
            if self.meaning.is_classes or self.meaning.by_position:
                with archive.open("class_names.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(self.meaning.names), allow_pickle=False)
            if self._names is not None:
                with archive.open(_packed("file.npy"), "w", force_zip64=True) as member:
                    self._names.write_to(member)

    def close(self) -> None:
        """Let go of the files without a name."""
        for array in self._arrays.values():
            array.spool.close()
        if self._names is not None:
            self._names.spool.close()


class _GrowingArray:
    """Rows of numbers on disk, in a file that has no name in any folder."""

    def __init__(self, folder: Path) -> None:
        self.spool: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by ArrayOutput
        self._length = 0
        self._row: np.ndarray[Any, Any] | None = None

    def add(self, name: str, rows: np.ndarray[Any, Any]) -> None:
        before = self._row
        if before is not None and (before.shape[1:], before.dtype) != (rows.shape[1:], rows.dtype):
            raise DataError(
                f"'{name}' of one sample is of shape {before.shape[1:]}, of another {rows.shape[1:]}: that "
                "is no one array; write .jsonl, or name no file: ringfence.predict returns those of each"
            )
        self._row = rows[:0]
        self._length += len(rows)
        self.spool.write(np.ascontiguousarray(rows).data)

    def write_to(self, member: IO[bytes]) -> None:
        """Write it as a ``.npy`` file."""
        row = np.empty(0) if self._row is None else self._row
        _write_header(member, row.dtype, (self._length, *row.shape[1:]))
        self.spool.seek(0)
        shutil.copyfileobj(self.spool, member, _COPY_BYTES)


class _GrowingNames:
    """Names on disk, one a line; numpy gives each as much room as the longest one needs."""

    def __init__(self, folder: Path) -> None:
        self.spool: IO[str] = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", newline="\n")  # noqa: SIM115 - as above
        self._length, self._longest = 0, 1

    def add(self, names: Sequence[str]) -> None:
        self._length += len(names)
        self._longest = max(self._longest, *map(len, names))
        self.spool.writelines(f"{name}\n" for name in names)

    def write_to(self, member: IO[bytes]) -> None:
        """Write them as a ``.npy`` file."""
        dtype = np.dtype(f"<U{self._longest}")
        _write_header(member, dtype, (self._length,))
        self.spool.seek(0)
        names = (line.removesuffix("\n") for line in self.spool)
        while part := list(itertools.islice(names, _NAMES_AT_ONCE)):
            member.write(np.array(part, dtype).tobytes())


def _write_header(member: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)


def _packed(name: str) -> zipfile.ZipInfo:
    """Return a member that is packed: names are mostly shorter than the longest one."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
