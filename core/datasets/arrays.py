"""Read arrays from ``.npz`` and safetensors files."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError
from ..job.problems import nearest, suggest, with_period
from .classes import check_proportion, to_classes
from .convert import to_float32, to_tensor
from .preparation import (
    IMAGE_DIMS,
    MAX_CHANNELS,
    Fraction,
    Limit,
    Normalize,
    Parts,
    SplitSeed,
    telling,
)
from .split import split_dataset

Task = Literal["auto", "classification", "regression"]
Layout = Literal["auto", "channels_first", "channels_last"]
Classes = Annotated[int, Field(ge=1, le=10**6)]


def arrays(
    *,
    path: Path,
    inputs: str = "inputs",
    targets: str = "targets",
    test_inputs: str = "test_inputs",
    test_targets: str = "test_targets",
    validation_inputs: str = "validation_inputs",
    validation_targets: str = "validation_targets",
    task: Task = "auto",
    classes: Classes | None = None,
    layout: Layout = "auto",
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
    normalize: Normalize = "auto",
) -> Parts:
    """Read samples and targets from one file of named arrays.

    Args:
        path: A ``.npz`` or ``.safetensors`` file.
        inputs: Key of the samples, (N, …).
        targets: Key of the targets, (N,) classes, or (N, …) numbers for a regression.
        test_inputs: Key of the test samples; if the file has none, a share of the samples is taken.
        test_targets: Key of their targets.
        validation_inputs: Key of the validation samples; a file need not have any.
        validation_targets: Key of their targets.
        task: ``auto`` is what the job's loss is for; without a loss, whole numbers are classes.
        classes: How many there are; by default one more than the largest target.
        layout: Where images have their channels; ``auto`` looks for a dimension of 1 to 4.
        test_fraction: Share of the test samples, if the file has none.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.
        normalize: ``auto``, ``none``, or ``{mean: …, std: …}``.

    Raises:
        DataError: The file or a key is missing, or the arrays do not fit.
    """
    same = functools.partial(same_classes, classes=classes, source=str(path), more="say so with 'classes'")
    with _open(path) as (keys, get):
        train = make_dataset(
            _get(path, keys, get, "inputs", inputs),
            _get(path, keys, get, "targets", targets, beside=inputs),
            task=task,
            layout=layout,
            source=f"{path}['{inputs}']",
            targets_source=f"{path}['{targets}']",
        )
        parts = {"train": train}
        for part, named in (
            ("test", (test_inputs, test_targets)),
            ("validation", (validation_inputs, validation_targets)),
        ):
            if named == (f"{part}_inputs", f"{part}_targets") and not set(named) & set(keys):
                continue
            parts[part] = make_dataset(
                _get(path, keys, get, f"{part}_inputs", named[0]),
                _get(path, keys, get, f"{part}_targets", named[1], beside=named[0]),
                task="regression" if train.num_classes is None else "classification",
                layout=layout,
                source=f"{path}['{named[0]}']",
                targets_source=f"{path}['{named[1]}']",
            )
    parts = dict(zip(parts, same(*parts.values()), strict=True))
    whole = None if "test" in parts else parts["train"]
    if whole is not None:
        parts["train"], parts["test"] = split_dataset(whole, test_fraction, split_seed, str(path))
    return Parts(
        train=parts["train"],
        test=parts["test"],
        validation=parts.get("validation"),
        source=str(path),
        limit=limit,
        normalize=normalize,
        whole=whole,
    )


def make_dataset(
    inputs: Tensor,
    targets: Tensor,
    *,
    task: Task,
    layout: Layout,
    source: str,
    targets_source: str | None = None,
    ask: str = "give option 'layout'",
) -> Dataset:
    """Bring arrays into the form that ``Dataset`` asks for.

    Args:
        inputs: (N, …); uint8 stays, other numbers become float32.
        targets: (N,) or (N, …).
        task: What to predict.
        layout: Where images have their channels.
        source: File and key for messages.
        targets_source: That of the targets, where it is another.
        ask: What to do where that cannot be told.

    Raises:
        DataError: They do not fit the task.
    """
    if inputs.dim() < 2 or targets.dim() < 1:  # noqa: PLR2004 - (N, …)
        raise DataError(
            f"{source}: inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}; "
            "expected (N, …) and (N,)"
        )
    inputs = inputs if inputs.dtype == torch.uint8 else to_float32(inputs, source)
    inputs = _channels_first(inputs, layout, source, ask)
    if task == "auto":
        task = "regression" if targets.is_floating_point() else "classification"
    if task == "regression":
        # (N,) beside outputs of (N, 1) would broadcast to (N, N) in a loss.
        values = to_float32(targets, f"{targets_source or source}: targets")
        with telling(source):
            return Dataset(inputs, values[:, None] if values.dim() == 1 else values, None)
    classes = to_classes(targets, targets_source or source)
    with telling(source):
        return Dataset(inputs, classes, int(classes.max()) + 1 if len(classes) else 1)


def same_classes(*parts: Dataset, classes: int | None = None, source: str, more: str) -> list[Dataset]:
    """Give all parts the number of classes of the one that has most, if that is in proportion.

    Args:
        parts: All that was read.
        classes: The number, if the user says it.
        source: For messages.
        more: What to do if there are more classes than are in proportion.

    Raises:
        DataError: There are more classes than ``classes`` says, or than are in proportion to the samples.
    """
    counts = [part.num_classes for part in parts if part.num_classes is not None]
    if len(counts) < len(parts):
        return list(parts)
    if classes is not None and max(counts) > classes:
        raise DataError(f"{source}: targets reach to {max(counts) - 1}, option 'classes' is {classes}")
    alike = [replace(part, num_classes=classes or max(counts)) for part in parts]
    if classes is None:
        check_proportion(alike, source, more)
    return alike


def _channels_first(inputs: Tensor, layout: Layout, source: str, ask: str) -> Tensor:
    """Return images as (N, C, H, W); other arrays as they are."""
    if inputs.dim() == IMAGE_DIMS - 1 and inputs.dtype == torch.uint8:
        return inputs[:, None]
    if inputs.dim() != IMAGE_DIMS:
        if layout != "auto":
            raise DataError(
                f"{source}: option 'layout' is for images (N, H, W, C), not for {tuple(inputs.shape)}"
            )
        return inputs
    if layout == "auto":
        layout = _layout_of(*inputs.shape[1:])
    if layout == "auto":
        raise DataError(f"{source}: shape {tuple(inputs.shape)} is ambiguous; {ask}")
    return inputs.permute(0, 3, 1, 2).contiguous() if layout == "channels_last" else inputs


def _layout_of(first: int, middle: int, last: int) -> Layout:
    """Tell where the channels of an image are: there are few of them, or else the image is square."""
    few_first, few_last = (1 <= size <= MAX_CHANNELS for size in (first, last))
    if few_first != few_last:
        return "channels_first" if few_first else "channels_last"
    if first == last == 1 or (not few_first and middle == last != first):
        return "channels_first"
    return "auto"


#: Key to the array of a file; and whether it holds targets.
_Get = Callable[[str, bool], Tensor]


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
            yield (
                file.files,
                lambda key, is_targets: to_tensor(
                    _member(file, key, path), f"{path}['{key}']", is_targets=is_targets
                ),
            )
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error


@contextmanager
def _open_safetensors(path: Path) -> Iterator[tuple[Collection[str], _Get]]:
    try:
        with safe_open(path, framework="pt") as file:
            yield list(file.keys()), lambda key, _: to_tensor(file.get_tensor(key), f"{path}['{key}']")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read as safetensors: {error}") from error


def _get(
    path: Path, keys: Collection[str], get: _Get, option: str, key: str, beside: str | None = None
) -> Tensor:
    """Return an array; ``beside`` is the key of the inputs, for targets."""
    if key not in keys:
        # What is to be written, as an example: the name that is near, or the first that is not taken.
        example = nearest(key, keys) or next((name for name in keys if name != beside), None)
        write = "" if example is None else f" Write '{option}: {example}' if that is it"
        raise DataError(
            f"{path}: option '{option}' is '{key}', which the file does not hold; "
            f"{with_period(suggest(key, keys))}{write}"
        )
    return get(key, beside is not None)


def _member(file: Any, key: str, path: Path) -> Any:
    try:
        return file[key]
    except ValueError as error:
        # That of numpy would be to unpickle it.
        raise DataError(
            f"{path}['{key}']: cannot be read as .npz: {error}; nothing is unpickled: save an array of "
            "numbers, such as np.stack(rows)"
        ) from error
