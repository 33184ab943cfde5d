"""Prepare data of any reader: the limit, what is held out, the checks and the normalisation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from ..engine.data import Data, Dataset
from ..engine.preprocessing import Preprocessing
from ..hooks.errors import DataError
from ..hooks.trees import tensors_of
from ..tensors.finite import is_finite
from ..tensors.tree_form import named_tensors
from .classes import describe_classes, tell_empty
from .non_finite import where_not_finite
from .row_samples import Learner, encode_parts
from .split import HeldOut, HoldOut, hold_out, take

GREY_LEVELS = 256
IMAGE_DIMS = 4
MAX_CHANNELS = 4
#: Images whose grey levels are counted at once.
_AT_ONCE = 4096


class Numbers(BaseModel, extra="forbid", allow_inf_nan=False):
    """Mean and standard deviation, one number or one a channel, in units of inputs in [0, 1]."""

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]


#: ``auto``: the training images' own mean and spread if they are uint8; ``none``; or numbers.
Normalize = Literal["auto", "none"] | Numbers
#: At most so many samples of each part that is read, spread evenly over it.
Limit = Annotated[int, Field(ge=1)] | None
#: Share of the samples to keep for the test.
Fraction = Annotated[float, Field(gt=0, lt=1)]
#: Processes that read samples; 0: the trainer.
Workers = Annotated[int, Field(ge=0, le=256)]
#: Which samples these are; a number of its own, so that the job's seed never moves a test sample.
SplitSeed = Annotated[int, Field(ge=0, lt=2**63)]


@contextlib.contextmanager
def telling(source: str) -> Iterator[None]:
    """Put ``source``, a file or folder, before the message of a ``DataError``."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that a reader has read: nothing is cut, held out, checked or normalised yet.

    Attributes:
        train: What to train on.
        test: What to test on, if there is such.
        validation: What to judge by while a run goes on, if the data bring it.
        source: File or folder for messages.
        limit: See ``Limit``.
        normalize: See ``Normalize``.
        notes: What the user should know of how they were read.
        whole: What training and test part were drawn from, if they were.
        scaled: Inputs of float32 are images in [0, 1], of which ``normalize: auto`` takes the statistics.
        preprocessing: What is to be known to read other files alike.
        learner: Learns from the rows that are trained on how samples are made of rows; None: they are
            samples.
    """

    train: Dataset
    test: Dataset | None
    validation: Dataset | None = None
    source: str
    limit: Limit = None
    normalize: Normalize = "auto"
    notes: tuple[str, ...] = ()
    whole: Dataset | None = None
    scaled: bool = False
    preprocessing: Preprocessing | None = None
    learner: Learner | None = None


def finish(
    parts: Parts,
    asked: HoldOut = HoldOut(),  # noqa: B008 - it is frozen
    known: Preprocessing | None = None,
) -> Data:
    """Cut the parts to their limit, check them, hold out what is asked for and add the normalisation.

    The normalisation is that of the samples that are trained on.

    Args:
        parts: What was read.
        asked: What to hold out for validation.
        known: What an earlier run has learned of its rows, to be used instead of learning it.

    Raises:
        DataError: The parts do not fit each other, hold numbers that are not finite, or are too small.
    """
    train, whole = _limit(parts.train, parts.limit), parts.whole
    others = [None if part is None else _limit(part, parts.limit) for part in (parts.validation, parts.test)]
    with telling(parts.source):
        check_finite(train, "training", whole or parts.train)
        for name, part, read in zip(
            ("validation", "test"), others, (parts.validation, parts.test), strict=True
        ):
            if part is not None and read is not None:
                check_finite(part, name, (whole if name == "test" else None) or read)
        validation, test = others
        held = hold_out(train, validation, asked)
    if parts.learner is not None:
        # Its messages name the file themselves.
        return _encoded(parts, parts.learner, held, test, known)
    with telling(parts.source):
        statistics = normalisation(held.train, parts.normalize, scaled=parts.scaled)
        notes = (*parts.notes, *held.told)
        return with_notes(
            Data(
                held.train,
                test,
                *statistics,
                notes,
                validation=held.validation,
                held_out=held.fraction,
                preprocessing=parts.preprocessing,
            )
        )


def _encoded(
    parts: Parts, learner: Learner, held: HeldOut, test: Dataset | None, known: Preprocessing | None
) -> Data:
    """Return the data of a reader that learns."""
    found = encode_parts(learner, held.train, held.validation, test, known)
    train, validation, test = found.parts
    return with_notes(
        Data(
            train,
            test,
            notes=(*parts.notes, *held.told, found.encoder.learned, *found.encoder.gaps),
            validation=validation,
            held_out=held.fraction,
            preprocessing=found.preprocessing,
            values=found.encoder.values,
        )
    )


def with_notes(data: Data) -> Data:
    """Add to the notes of ``data`` what there is to say of its classes."""
    classes = describe_classes(data.train)
    told = () if classes is None else (classes,)
    return replace(data, notes=(*data.notes, *told, *tell_empty(data)))


def _limit(dataset: Dataset, limit: int | None) -> Dataset:
    count = len(dataset)
    if limit is None or limit >= count:
        return dataset
    # Evenly spread: samples that lie sorted by class keep all their classes.
    return take(dataset, torch.arange(limit) * count // limit)


def check_finite(dataset: Dataset, part: str, read: Dataset) -> None:
    """Check that every number is finite.

    Args:
        dataset: What is used.
        part: Which part of the data that is.
        read: What it was taken from, by whose places its samples are known to the user.

    Raises:
        DataError: One is not.
    """
    for what, tree, all_read in (
        ("inputs", dataset.inputs, read.inputs),
        ("targets", dataset.targets, read.targets),
    ):
        pairs = zip(named_tensors(tree, what), tensors_of(all_read), strict=True)
        for (path, values), whole in pairs:
            if not is_finite(values):
                where = where_not_finite(whole)
                raise DataError(
                    f"{part} {path} hold values that are not finite{where}; remove or replace them"
                )


def normalisation(
    train: Dataset, normalize: Normalize, *, scaled: bool = False
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and standard deviation for each channel, or None twice.

    Args:
        train: The training samples, (N, C, …).
        normalize: What the job asks for.
        scaled: Inputs of float32 are images in [0, 1].

    Raises:
        DataError: The job's numbers do not fit the channels.
    """
    inputs = train.inputs
    if normalize == "none" or (
        normalize == "auto" and (train.is_read or (not train.in_bytes and not scaled))
    ):
        return None, None
    if not isinstance(inputs, Tensor):
        raise DataError("option 'normalize' is for inputs that are one tensor; the data have several")
    if isinstance(normalize, Numbers):
        channels = inputs.shape[1] if inputs.dim() > 1 else 1
        return _numbers(normalize, channels)
    return channel_statistics(inputs, train.rows)


def channel_statistics(
    images: Tensor, rows: Tensor | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of ``images``, (N, C, …), in [0, 1]; of ``rows`` only.

    Of uint8 grey levels are counted, which is exact and needs no copy as floats. A channel
    without any spread gets 1, so that it stays finite.
    """
    statistics = _of_bytes if images.dtype == torch.uint8 else _of_numbers
    found = [statistics(images[:, channel], rows) for channel in range(images.shape[1])]
    return tuple(mean for mean, _ in found), tuple(std if std > 0 else 1.0 for _, std in found)


def _of_bytes(channel: Tensor, rows: Tensor | None) -> tuple[float, float]:
    levels = torch.arange(GREY_LEVELS, dtype=torch.float64) / (GREY_LEVELS - 1)
    counts = torch.zeros(GREY_LEVELS, dtype=torch.float64)
    for chunk in _chunks(channel, rows):
        counts += torch.bincount(chunk.flatten(), minlength=GREY_LEVELS)
    shares = counts / counts.sum()
    mean = float((shares * levels).sum())
    return mean, float((shares * (levels - mean) ** 2).sum()) ** 0.5


def _of_numbers(channel: Tensor, rows: Tensor | None) -> tuple[float, float]:
    count = channel[:1].numel() * (len(channel) if rows is None else len(rows))
    mean = sum(float(chunk.sum(dtype=torch.float64)) for chunk in _chunks(channel, rows)) / count
    # Twice, since squares of large means would leave nothing of a small spread.
    spread = sum(float((chunk.double() - mean).square().sum()) for chunk in _chunks(channel, rows))
    return mean, (spread / count) ** 0.5


def _chunks(values: Tensor, rows: Tensor | None) -> Iterator[Tensor]:
    if rows is None:
        yield from torch.split(values, _AT_ONCE)
    else:
        yield from (values.index_select(0, part) for part in torch.split(rows, _AT_ONCE))


def _numbers(numbers: Numbers, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (
        (value,) * channels if isinstance(value, float | int) else value
        for value in (numbers.mean, numbers.std)
    )
    if len(mean) != channels or len(std) != channels:
        raise DataError(
            f"option 'normalize' has {len(mean)} means and {len(std)} standard deviations; "
            f"the data has {channels} channels"
        )
    if min(std) <= 0:
        raise DataError(f"option 'normalize' has a std of {min(std)}; each must be above 0")
    return mean, std
