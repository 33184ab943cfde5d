"""Objects of a program in the place of what a job names: a model, data, a loss, a metric."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..datasets.convert import to_tensor
from ..datasets.split import split
from ..engine.data import Data
from ..hooks.errors import DataError, visible
from ..imports.user_frames import user_frame

#: Share of the samples that are for testing where there is no such part, and which: as of arrays in files.
_TEST_FRACTION, _SPLIT_SEED = 0.2, 0
_PAIR = 2
#: Most of the free memory that samples of a data set may take.
_MOST_OF_MEMORY = 0.8


def told_of(objects: Mapping[str, str]) -> list[str]:
    """Return what cannot be done later with a run of such objects, in one line; nothing if there are none.

    Args:
        objects: Key of the job to the job's name for the object.
    """
    if not objects:
        return []
    named = ", ".join(f"{key} {name}" for key, name in objects.items())
    arguments = ", ".join(f"{key}=…" for key in dict.fromkeys(key.partition("[")[0] for key in objects))
    loading = ", and load(…, model=…) is given a model to fill" if "model" in objects else ""
    sentence = (
        f"given as objects, which no file can name: {named}. To resume the run they are given again, "
        f"ringfence.train(out=…, resume=True, {arguments}){loading}"
    )
    return [sentence]


def model_maker(value: Any) -> Callable[..., Any]:
    """Return a function that gives the model: ``value``, or one that returns it if it is a module."""
    return (lambda: value) if isinstance(value, nn.Module) else value


def data_maker(value: Any, name: str) -> Callable[..., Any]:
    """Return a function that gives the data in one of the forms that a function of the user's returns.

    Args:
        value: ``Data``; a function; a data set of torch, or (inputs, targets), from which a test set is
            drawn; or two or three of either: for training, validation and test.
        name: For messages.
    """
    if isinstance(value, Data) or (callable(value) and not _is_dataset(value)):
        return value if callable(value) else lambda: value
    return lambda: _parts(value, f"data '{name}'")


def _is_dataset(value: object) -> bool:
    if isinstance(value, Tensor | np.ndarray | str | bytes | Sequence | Mapping):
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__")


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _parts(value: Any, source: str) -> Any:
    """Return ((inputs, targets), …) of two or three parts; a test set is drawn if there is one part."""
    if _is_dataset(value):
        inputs, targets = _arrays(value, source)
        return _drawn(inputs, targets, source)
    if isinstance(value, tuple | list):
        if len(value) == _PAIR and all(map(_is_array, value)):
            return _drawn(value[0], value[1], source)
        return tuple(_arrays(part, source) if _is_dataset(part) else part for part in value)
    return value  # of no form, which is told where forms are known


def _drawn(inputs: Any, targets: Any, source: str) -> Any:
    """Return a training and a test part."""
    wanted = to_tensor(inputs, f"{source}: inputs")
    told = to_tensor(targets, f"{source}: targets", is_targets=True)
    if wanted.dim() == 0 or told.dim() == 0 or len(wanted) != len(told):
        raise DataError(
            f"{source}: inputs of shape {tuple(wanted.shape)} and targets of shape {tuple(told.shape)}; "
            "expected (N, …) and (N,)"
        )
    is_classes = not told.is_floating_point() and told.dim() == 1 and len(told) > 0 and int(told.min()) >= 0
    classes = told.long() if is_classes else told
    train, test = split(classes, int(classes.max()) + 1 if is_classes else None, _TEST_FRACTION, _SPLIT_SEED)
    return (wanted[train], told[train]), (wanted[test], told[test])


def _arrays(dataset: Any, source: str) -> tuple[Any, Any]:
    """Return all samples of a data set of torch, stacked.

    Raises:
        DataError: One is no pair, or of another shape than the first; or they do not fit into memory.
    """
    count = len(dataset)
    if not count:
        raise DataError(f"{source}: the data are empty; at least one sample is needed")
    first = _sample(dataset, 0, source)
    needed, free = count * sum(part.nbytes for part in first), _free_bytes()
    if needed > _MOST_OF_MEMORY * free:
        raise DataError(
            f"{source}: its {count} samples take {needed >> 20} MiB, and {free >> 20} MiB of memory are "
            "free; give fewer, or smaller ones"
        )
    stacked = tuple(np.empty((count, *part.shape), part.dtype) for part in first)
    for place in range(count):
        sample = _sample(dataset, place, source) if place else first
        for whole, part, like in zip(stacked, sample, first, strict=True):
            if (part.shape, part.dtype) != (like.shape, like.dtype):
                raise DataError(
                    f"{source}: sample {place} has {part.dtype} of shape {part.shape}, sample 0 {like.dtype} "
                    f"of shape {like.shape}; all must be alike: resize or pad them in the data set"
                )
            whole[place] = part
    return stacked[0], stacked[1]


def _sample(dataset: Any, place: int, source: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        sample = dataset[place]
    except Exception as error:
        raise DataError(
            f"{source}: sample {place} raised {type(error).__name__}: {error}; at {user_frame(error)}"
        ) from error
    if not isinstance(sample, tuple | list) or len(sample) != _PAIR:
        raise DataError(
            f"{source}: sample {place} is a {visible(type(sample).__name__)}; expected (input, target)"
        )
    inputs, target = (_array(part) for part in sample)
    return inputs, target


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    array = np.asarray(value)
    # A number of Python's is no double: targets of a regression are float32 anyway.
    return array.astype(np.float32) if isinstance(value, float) else array


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
