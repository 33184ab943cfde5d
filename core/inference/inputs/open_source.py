"""Tell what kind of data somebody gives, and open it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...datasets.image_file import SUFFIXES
from ...datasets.row_file import holds_rows
from ...datasets.run_encoder import row_encoder
from ...hooks.errors import DataError
from .array_file import KEYED, is_idx, open_idx, open_keyed, open_npy
from .in_memory import ArraySource, BatchSource, TreeSource, as_tensor
from .number_table import DELIMITERS, TableSource
from .photos import PhotoSource, find_photos
from .row_source import RowSource
from .sample_form import SampleForm
from .source import Source

_KNOWN = (
    "an image, a folder of images, .npz, .npy, .safetensors, .csv or .tsv with a sample a line, "
    "or an IDX file"
)


def open_source(
    data: Any, form: SampleForm, *, key: str | None = None, skip_unreadable: bool = False
) -> Source:
    """Return the samples of ``data``; its header is read, and the rest as it is asked for.

    Args:
        data: A path, several of images, a tensor or array (N, …), or batches of those.
        form: What the model takes.
        key: Which array of a file that holds several.
        skip_unreadable: Pass over photos that cannot be read.

    Raises:
        DataError: It is of no kind that can be read, or does not fit the model.
    """
    if isinstance(data, str | os.PathLike):
        source = _open_path(Path(data).expanduser(), form, key, skip_unreadable=skip_unreadable)
        keyed = Path(data).suffix.lower() in KEYED
    else:
        source, keyed = _open_values(data, form, skip_unreadable=skip_unreadable), False
    if key is not None and not keyed:
        raise DataError(f"key '{key}' is given, which names an array of a {' or '.join(KEYED)} file")
    return source


def _open_path(path: Path, form: SampleForm, key: str | None, *, skip_unreadable: bool) -> Source:
    make = row_encoder(form.preprocessing) if holds_rows(path) else None
    if path.is_dir() and make is None:
        files, notes = find_photos(path)
        return PhotoSource(files, form, root=path, skip_unreadable=skip_unreadable, notes=notes)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if make is not None:
        return RowSource(path, make)
    if not path.is_file():
        raise DataError(f"{path}: is neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return PhotoSource([path], form, skip_unreadable=skip_unreadable)
    if suffix in KEYED:
        return open_keyed(path, form, key)
    if suffix == ".npy":
        return open_npy(path, form)
    if suffix in DELIMITERS:
        return TableSource(path, form)
    if is_idx(path):
        return open_idx(path, form)
    raise DataError(f"{path}: is of no kind that can be read; expected {_KNOWN}")


def _open_values(data: Any, form: SampleForm, *, skip_unreadable: bool) -> Source:
    if isinstance(data, Tensor | np.ndarray) or hasattr(data, "__array__"):
        return ArraySource(as_tensor(data, "the data"), form, "the data")
    if form.tree and isinstance(data, Mapping if isinstance(form.tree[0].path[0], str) else list | tuple):
        return TreeSource(data, form, "the data")
    if _are_paths(data):
        return _open_paths([Path(path).expanduser() for path in data], form, skip_unreadable=skip_unreadable)
    if isinstance(data, Iterable) and not isinstance(data, bytes | dict):
        return BatchSource(data, form)
    raise DataError(
        f"the data are a {type(data).__name__}; give a path, several of images, a tensor or array (N, …), or "
        "batches of those"
    )


def _are_paths(data: Any) -> bool:
    return (
        isinstance(data, Sequence)
        and bool(data)
        and all(isinstance(item, str | os.PathLike) for item in data)
    )


def _open_paths(paths: list[Path], form: SampleForm, *, skip_unreadable: bool) -> Source:
    if len(paths) == 1:
        return _open_path(paths[0], form, None, skip_unreadable=skip_unreadable)
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: of several files each has to be an image; give {_KNOWN}")
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    return PhotoSource(paths, form, skip_unreadable=skip_unreadable)
