"""Weights of the training samples, from what a job says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.data import Dataset
from ..engine.read_data import ReadDataset
from ..engine.sample_weights import SampleWeights
from ..hooks.errors import DataError, shorten
from ..imports.user_frames import user_frame
from ..job.object_names import label_of
from ..job.problems import suggest
from ..job.user_code import load_function
from .classes import to_classes

#: Draws each class equally often.
BALANCED = "balanced"
_OWN = "give a function of your own, sample_weights: module:function, which returns a weight for each sample"
_MOST_TOLD = 200


def weigh_samples(
    asked: str | Mapping[str | int, float], train: Dataset, base: Path, given: Any = None
) -> SampleWeights:
    """Return the weights by which the training samples of an epoch are drawn.

    Args:
        asked: ``balanced``; class to the weight of each of its samples, 1 for classes that are not in it; or
            ``module:function``.
        train: What there is to train on.
        base: Folder of the job; modules beside it can be imported.
        given: What a program gives in place of it: the function itself, or a weight for each sample that the
            data bring to train on.

    Raises:
        DataError: They cannot be told, or they are no weights; or there is no end to the samples.
    """
    if train.is_stream:
        raise DataError(
            "the training data have no length, so that nothing can be drawn from all of them; "
            "draw in the data set itself"
        )
    if isinstance(asked, Mapping):
        return SampleWeights(*_by_class(asked, train))
    if asked == BALANCED:
        classes = _classes_of(train)
        counts = classes.bincount(minlength=train.num_classes or 0)
        return SampleWeights(counts.double().reciprocal()[classes], f"{BALANCED}, each class equally often")
    if given is not None and not callable(given):
        return SampleWeights(
            _of_samples(_as_weights(given, "the object is"), train, "the object"), label_of(asked)
        )
    try:
        function = given or load_function(asked, base)
    except ValueError as error:
        raise DataError(f"'{asked}': {error}") from error
    return SampleWeights(_called(function, train, f"'{asked}'"), label_of(asked))


def _by_class(asked: Mapping[str | int, float], train: Dataset) -> tuple[Tensor, str]:
    """Return the weights, and how they were made."""
    classes = _classes_of(train)
    names = train.class_names or tuple(map(str, range(train.num_classes or 0)))
    unknown = [str(key) for key in asked if str(key) not in names]
    if unknown:
        raise DataError(f"names the class '{unknown[0]}', which is unknown; {suggest(unknown[0], names)}")
    of_class = {str(key): weight for key, weight in asked.items()}
    by_class = torch.tensor([of_class.get(name, 1.0) for name in names], dtype=torch.float64)
    told = ", ".join(f"{key} {weight:g}" for key, weight in of_class.items())
    others = ", the others 1" if len(of_class) < len(names) else ""
    return by_class[classes], f"{shorten(told, _MOST_TOLD)}{others}"


def _classes_of(train: Dataset) -> Tensor:
    """Return the class of each training sample, (N,) int64.

    Raises:
        DataError: Not each has one that is known before it is read.
    """
    if train.num_classes is None:
        raise DataError(f"by class: targets of these data are no classes; {_OWN}")
    if isinstance(train, ReadDataset):
        return _classes_of_read(train)
    targets: Tensor = train.samples_targets()
    if targets.dim() != 1:
        how = "are a class at each position" if train.at_positions else "are shares of several classes"
        raise DataError(f"by class: targets of a sample {how}; {_OWN}")
    return targets


def _classes_of_read(train: ReadDataset) -> Tensor:
    """Return what the data set says in ``targets``, as those of torchvision do, if that is what it gives."""
    samples: Any = train.reader.samples
    try:
        classes = to_classes(torch.as_tensor(samples.targets), "targets")
    except (AttributeError, DataError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"by class: the {type(samples).__name__} has no 'targets' that would tell the class "
            f"of each sample before it is read; {_OWN}, called with the data set"
        ) from error
    first = train.targets
    if len(classes) != train.stored_rows or not (
        isinstance(first, Tensor) and torch.equal(classes[: len(first)], first)
    ):
        raise DataError(
            f"by class: the 'targets' of the {type(samples).__name__} are not those of the "
            f"samples that it gives; {_OWN}, called with the data set"
        )
    found = classes[train.rows_at(torch.arange(len(train)))]
    if int(found.max()) >= (train.num_classes or 0):
        raise DataError(
            f"by class: 'targets' reach to {int(found.max())}; with {train.num_classes} classes "
            f"they lie in 0 … {(train.num_classes or 0) - 1}"
        )
    return found


def _called(function: Callable[..., Any], train: Dataset, source: str) -> Tensor:
    """Return what a function of the user's says of the targets, or of a data set that is read."""
    argument = train.reader.samples if isinstance(train, ReadDataset) else train.samples_targets()
    try:
        result = function(argument)
    except Exception as error:
        raise DataError(
            f"{source}: raised {type(error).__name__}: {error}; at {user_frame(error)}"
        ) from error
    weights = _as_weights(result, f"{source} returned")
    if train.is_read:
        return _of_samples(weights, train, source)
    _check_count(weights, len(train), source, "training samples")
    return weights


def _as_weights(value: Any, source: str) -> Tensor:
    try:
        weights = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{source} a {type(value).__name__}; expected one number for each sample") from error
    return weights.contiguous()


def _of_samples(weights: Tensor, train: Dataset, source: str) -> Tensor:
    """Return the weights of the samples that are left to train on, of those of all that the data bring."""
    _check_count(weights, train.stored_rows, source, "samples, those that are held out from them included")
    return weights if train.rows is None else weights[train.rows]


def _check_count(weights: Tensor, count: int, source: str, of_what: str) -> None:
    if tuple(weights.shape) != (count,):
        raise DataError(
            f"{source} gives weights of shape {tuple(weights.shape)} for {count:,} {of_what}; "
            f"expected ({count},)"
        )
