"""Read arrays from ``.npz`` and safetensors files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.data import Data, Dataset
from ..hooks.errors import DataError
from ..problems import suggest
from .common import (
    IMAGE_DIMS,
    MAX_CHANNELS,
    Fraction,
    Limit,
    Normalize,
    SplitSeed,
    finish,
    split_dataset,
    telling,
)

Task = Literal["auto", "classification", "regression"]
Layout = Literal["auto", "channels_first", "channels_last"]


def arrays(
    *,
    path: Path,
    inputs: str = "inputs",
    targets: str = "targets",
    test_inputs: str = "test_inputs",
    test_targets: str = "test_targets",
    task: Task = "auto",
    layout: Layout = "auto",
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Data:
    """Read samples and targets from one file of named arrays.

    Args:
        path: A ``.npz`` or ``.safetensors`` file.
        inputs: Key of the samples, (N, …).
        targets: Key of the targets, (N,) classes, or (N, …) numbers for a regression.
        test_inputs: Key of the test samples; if the file has none, a share of the samples is taken.
        test_targets: Key of their targets.
        task: ``auto`` takes whole numbers as classes and others as a regression.
        layout: Where images have their channels; ``auto`` looks for a dimension of 1, 3 or 4.
        test_fraction: Share of the test samples, if the file has none.
        split_seed: Which samples these are.
        limit: At most so many training and so many test samples.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: The file or a key is missing, or the arrays do not fit.
    """
    with _open(path) as (keys, get):
        train = make_dataset(
            _get(path, keys, get, "inputs", inputs),
            _get(path, keys, get, "targets", targets),
            task=task,
            layout=layout,
            source=f"{path}['{inputs}']",
        )
        named = test_inputs != "test_inputs" or test_targets != "test_targets"
        if not named and not {test_inputs, test_targets} & set(keys):
            train, test = split_dataset(train, test_fraction, split_seed, str(path))
        else:
            test = make_dataset(
                _get(path, keys, get, "test_inputs", test_inputs),
                _get(path, keys, get, "test_targets", test_targets),
                task="regression" if train.num_classes is None else "classification",
                layout=layout,
                source=f"{path}['{test_inputs}']",
            )
    train, test = same_classes(train, test)
    return finish(train, test, limit=limit, normalize=normalize, source=str(path))


def make_dataset(inputs: Tensor, targets: Tensor, *, task: Task, layout: Layout, source: str) -> Dataset:
    """Bring arrays into the form that ``Dataset`` asks for.

    Args:
        inputs: (N, …); uint8 stays, other numbers become float32.
        targets: (N,) or (N, …).
        task: What to predict.
        layout: Where images have their channels.
        source: File and key for messages.

    Raises:
        DataError: They do not fit the task.
    """
    if inputs.dim() < 2 or targets.dim() < 1:  # noqa: PLR2004 - (N, …)
        raise DataError(
            f"{source}: inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}; "
            "expected (N, …) and (N,)"
        )
    if inputs.is_complex() or targets.is_complex():
        raise DataError(f"{source}: holds complex numbers; give real and imaginary parts as channels")
    inputs = inputs if inputs.dtype == torch.uint8 else inputs.to(torch.float32)
    inputs = _channels_first(inputs, layout, source)
    if task == "auto":
        task = "regression" if targets.is_floating_point() else "classification"
    if task == "regression":
        # (N,) beside outputs of (N, 1) would broadcast to (N, N) in a loss.
        values = targets.to(torch.float32)
        with telling(source):
            return Dataset(inputs, values[:, None] if values.dim() == 1 else values, None)
    classes = targets.squeeze(1) if targets.dim() == 2 and targets.shape[1] == 1 else targets  # noqa: PLR2004
    if classes.dim() != 1:
        raise DataError(
            f"{source}: targets of shape {tuple(targets.shape)} are no classes; expected (N,), "
            "or task: regression"
        )
    if classes.is_floating_point() and not (classes == classes.round()).all():
        raise DataError(f"{source}: targets hold fractions, which are no classes; give task: regression")
    classes = classes.to(torch.int64)
    with telling(source):
        return Dataset(inputs, classes, int(classes.max()) + 1 if len(classes) else 1)


def same_classes(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Give both parts the number of classes of the one that has more."""
    if train.num_classes is None or test.num_classes is None:
        return train, test
    count = max(train.num_classes, test.num_classes)
    return (
        Dataset(train.inputs, train.targets, count, train.class_names),
        Dataset(test.inputs, test.targets, count, test.class_names),
    )


def _channels_first(inputs: Tensor, layout: Layout, source: str) -> Tensor:
    """Return images as (N, C, H, W); other arrays as they are."""
    if inputs.dim() == IMAGE_DIMS - 1 and inputs.dtype == torch.uint8:
        return inputs[:, None]
    if inputs.dim() != IMAGE_DIMS:
        if layout != "auto":
            raise DataError(
                f"{source}: option 'layout' is for images (N, H, W, C), not for {tuple(inputs.shape)}"
            )
        return inputs
    few = tuple(1 <= inputs.shape[dim] <= MAX_CHANNELS for dim in (1, 3))
    if layout == "auto" and few == (True, True) and inputs.shape[1] != inputs.shape[3]:
        raise DataError(f"{source}: shape {tuple(inputs.shape)} is ambiguous; give option 'layout'")
    last = layout == "channels_last" or (layout == "auto" and few == (False, True))
    return inputs.permute(0, 3, 1, 2).contiguous() if last else inputs


_Get = Callable[[str], Tensor]


def _open(path: Path) -> AbstractContextManager[tuple[Collection[str], _Get]]:
    readers = {".npz": _open_npz, ".safetensors": _open_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: option 'path' ends in '{path.suffix}'; expected .npz or .safetensors")
    if not path.is_file():
        raise DataError(f"{path}: no such file; option 'path' names a .npz or .safetensors file")
    return reader(path)


@contextmanager
def _open_npz(path: Path) -> Iterator[tuple[Collection[str], _Get]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file.files, lambda key: _to_tensor(file[key], f"{path}['{key}']")
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error


@contextmanager
def _open_safetensors(path: Path) -> Iterator[tuple[Collection[str], _Get]]:
    try:
        with safe_open(path, framework="pt") as file:
            yield list(file.keys()), file.get_tensor
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read as safetensors: {error}") from error


def _get(path: Path, keys: Collection[str], get: _Get, option: str, key: str) -> Tensor:
    if key not in keys:
        raise DataError(
            f"{path}: option '{option}' is '{key}', which the file does not hold; {suggest(key, keys)}"
        )
    return get(key)


def _to_tensor(array: Any, source: str) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{source}: has dtype {array.dtype}; expected numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
