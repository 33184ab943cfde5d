"""Prepare data of any reader: the split, the limit, the checks and the normalisation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from ..engine.data import Data, Dataset
from ..hooks.errors import DataError
from ..tensors.finite import is_finite
from .classes import describe_classes, tell_empty
from .non_finite import where_not_finite

GREY_LEVELS = 256
IMAGE_DIMS = 4
MAX_CHANNELS = 4


class Numbers(BaseModel, extra="forbid", allow_inf_nan=False):
    """Mean and standard deviation, one number or one a channel, in units of inputs in [0, 1]."""

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]


#: ``auto``: the training images' own mean and spread if they are uint8; ``none``; or numbers.
Normalize = Literal["auto", "none"] | Numbers
#: At most so many samples of each part, spread evenly over it.
Limit = Annotated[int, Field(ge=1)] | None
#: Share of the samples to keep for the test.
Fraction = Annotated[float, Field(gt=0, lt=1)]
#: Which samples these are; a number of its own, so that the job's seed never moves a test sample.
SplitSeed = Annotated[int, Field(ge=0, lt=2**63)]


def split(targets: Tensor, num_classes: int | None, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a test set, of each class its share, and shuffle both parts.

    Args:
        targets: (N,) int64 classes, or (N, …) for regression.
        num_classes: None for regression, which is drawn without regard to the targets.
        fraction: Share of the test set.
        seed: Which samples.

    Returns:
        Positions of the training and of the test samples, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(targets), generator=generator)
    if num_classes is None:
        groups = [shuffled]
    else:
        by_class = targets[shuffled].argsort(stable=True)
        sizes = targets.bincount(minlength=num_classes).tolist()
        groups = list(torch.split(shuffled[by_class], sizes))
    counts = _shares([len(group) for group in groups], fraction)
    is_test = torch.zeros(len(targets), dtype=torch.bool)
    for group, count in zip(groups, counts, strict=True):
        is_test[group[:count]] = True
    # A new order: the old one has what its classes gave to the test missing at its front.
    mixed = torch.randperm(len(targets), generator=generator)
    return mixed[~is_test[mixed]], mixed[is_test[mixed]]


def _shares(sizes: list[int], fraction: float) -> list[int]:
    """Round shares by largest remainder; a group never gives its last sample."""
    exact = [size * fraction for size in sizes]
    counts = [int(share) for share in exact]
    missing = max(1, round(sum(exact))) - sum(counts)
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[:missing]:
        counts[i] += 1
    return [min(count, max(size - 1, 0)) for count, size in zip(counts, sizes, strict=True)]


def take(dataset: Dataset, positions: Tensor) -> Dataset:
    """Return the samples at ``positions``, (M,) int64, in that order."""
    return replace(dataset, inputs=dataset.inputs[positions], targets=dataset.targets[positions])


def split_dataset(dataset: Dataset, fraction: float, seed: int, source: str) -> tuple[Dataset, Dataset]:
    """Return training and test samples of ``dataset``.

    Raises:
        DataError: There are too few samples for two parts.
    """
    train, test = split(dataset.targets, dataset.num_classes, fraction, seed)
    if not len(train) or not len(test):
        raise DataError(
            f"{source}: {len(dataset)} samples cannot be split with test_fraction {fraction}; "
            "give more samples, or test samples of their own"
        )
    return take(dataset, train), take(dataset, test)


@contextlib.contextmanager
def telling(source: str) -> Iterator[None]:
    """Put ``source``, a file or folder, before the message of a ``DataError``."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def finish(
    train: Dataset,
    test: Dataset,
    *,
    limit: Limit,
    normalize: Normalize,
    source: str,
    notes: tuple[str, ...] = (),
    whole: Dataset | None = None,
) -> Data:
    """Check both parts, cut them to ``limit`` and add the normalisation.

    Args:
        train: What to train on.
        test: What to test on.
        limit: See ``Limit``.
        normalize: See ``Normalize``.
        source: File or folder for messages.
        notes: What the user should know of how they were read.
        whole: What both parts were drawn from, if they were.

    Raises:
        DataError: The parts do not fit each other, or hold numbers that are not finite.
    """
    read = (whole or train, whole or test)
    train, test = _limit(train, limit), _limit(test, limit)
    with telling(source):
        for part, dataset, all_read in zip(("training", "test"), (train, test), read, strict=True):
            check_finite(dataset, part, all_read)
        return with_notes(Data(train, test, *normalisation(train.inputs, normalize), notes))


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
    for what, values, all_read in (
        ("inputs", dataset.inputs, read.inputs),
        ("targets", dataset.targets, read.targets),
    ):
        if not is_finite(values):
            where = where_not_finite(all_read)
            raise DataError(f"{part} {what} hold values that are not finite{where}; remove or replace them")


def normalisation(
    inputs: Tensor, normalize: Normalize
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and standard deviation for each channel, or None twice.

    Args:
        inputs: (N, C, …), the training samples.
        normalize: What the job asks for.

    Raises:
        DataError: The job's numbers do not fit the channels.
    """
    if normalize == "none" or (normalize == "auto" and inputs.dtype != torch.uint8):
        return None, None
    if isinstance(normalize, Numbers):
        channels = inputs.shape[1] if inputs.dim() > 1 else 1
        return _numbers(normalize, channels)
    return channel_statistics(inputs)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of uint8 ``images``, (N, C, …), scaled to [0, 1].

    Grey levels are counted, which is exact and needs no copy as floats. A channel
    without any spread gets 1, so that it stays finite.
    """
    levels = torch.arange(GREY_LEVELS, dtype=torch.float64) / (GREY_LEVELS - 1)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.zeros(GREY_LEVELS, dtype=torch.float64)
        for chunk in torch.split(images[:, channel], 4096):
            counts += torch.bincount(chunk.flatten(), minlength=GREY_LEVELS)
        shares = counts / counts.sum()
        mean = float((shares * levels).sum())
        std = float((shares * (levels - mean) ** 2).sum()) ** 0.5
        means.append(mean)
        stds.append(std if std > 0 else 1.0)
    return tuple(means), tuple(stds)


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
