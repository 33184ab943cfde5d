"""Splits: a test part drawn from all samples, and a validation part held out from those to train on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError
from ..hooks.trees import map_tensors
from ..hooks.types import derive_seed

#: Share of the training samples that is held out for validation where neither job nor data say anything.
DEFAULT_FRACTION = 0.1
#: Of its own: neither the job's seed nor that of a test part moves a validation sample.
_SEED = derive_seed(0, "validation")
#: How runs go on as they did before there was a validation part.
_WITHOUT = "to hold out none, and be judged by the test data as before 0.4, write validation_fraction: 0"


@dataclass(frozen=True, slots=True)
class HoldOut:
    """What to hold out for validation.

    Attributes:
        fraction: Share of the training samples where the data bring no validation part; 0 holds out none;
            None: ``DEFAULT_FRACTION``, if there are enough, and the user is told.
        own_part: Whether a validation part that the data bring is used.
        why: What to tell where nothing is held out and nobody said so.
    """

    fraction: float | None = 0.0
    own_part: bool = True
    why: str = ""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The parts to train on and to judge by.

    Attributes:
        train: What is left to train on.
        validation: None: the test data judge.
        fraction: Share that was held out; 0 if none was.
        told: What the user should know of it, as sentences.
    """

    train: Dataset
    validation: Dataset | None
    fraction: float = 0.0
    told: tuple[str, ...] = ()


def hold_out(train: Dataset, validation: Dataset | None, asked: HoldOut) -> HeldOut:
    """Return ``train`` without a validation part drawn from it, where the data bring none.

    The samples stay in their order and in the memory that they are in; both parts are rows of it.

    Args:
        train: All samples to train on.
        validation: What the data bring.
        asked: What to hold out.

    Raises:
        DataError: There are too few samples for the share that is asked for.
    """
    if validation is not None and asked.own_part:
        told = f"validation_fraction {asked.fraction} is not used: the data bring validation samples"
        return HeldOut(train, validation, told=(told,) if asked.fraction else ())
    if train.is_stream:
        why = "the training data have no length, so that none of them are held out: the test data judge"
        return HeldOut(train, None, told=(why,) if asked.fraction != 0 else ())
    if asked.fraction == 0:
        return HeldOut(train, None, told=(asked.why,) if asked.why else ())
    fraction = DEFAULT_FRACTION if asked.fraction is None else asked.fraction
    classes = train.num_classes if has_class_each(train) else None
    rows = [rows.sort().values for rows in split(_classes(train), classes, fraction, _SEED)]
    if not all(len(part) for part in rows):
        if asked.fraction is None:
            few = f"{len(train)} training samples are too few to hold any out: the test data judge"
            return HeldOut(train, None, told=(few,))
        raise DataError(
            f"{len(train)} training samples cannot be split with validation_fraction {fraction}; give more "
            "samples, or validation samples of their own, or write validation_fraction: 0"
        )
    kept, held = (replace(train, rows=train.rows_at(part)) for part in rows)
    told = f"{len(held):,} of {len(train):,} training samples are held out for validation"
    told += f"; {_WITHOUT}" if asked.fraction is None else ""
    return HeldOut(kept, held, fraction, (told,))


def has_class_each(dataset: Dataset) -> bool:
    """Tell whether each sample is known to have one class, or probabilities of them."""
    # Of samples that are read nobody has seen all.
    return dataset.num_classes is not None and not dataset.is_read and not dataset.at_positions


def _classes(dataset: Dataset) -> Tensor:
    """Return the class numbers of the samples, (N,), or the likeliest; zeros where they have none."""
    targets: Tensor = dataset.samples_targets()
    if not has_class_each(dataset):
        return torch.zeros(len(dataset), dtype=torch.int64)
    return targets.argmax(1) if targets.dim() > 1 else targets


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
    if dataset.is_read:
        return replace(dataset, rows=dataset.rows_at(positions))
    inputs, targets = (
        map_tensors(lambda tensor: tensor[positions], tree) for tree in (dataset.inputs, dataset.targets)
    )
    return replace(dataset, inputs=inputs, targets=targets)


def split_dataset(dataset: Dataset, fraction: float, seed: int, source: str) -> tuple[Dataset, Dataset]:
    """Return training and test samples of ``dataset``.

    Raises:
        DataError: There are too few samples for two parts.
    """
    train, test = split(
        _classes(dataset), dataset.num_classes if has_class_each(dataset) else None, fraction, seed
    )
    if not len(train) or not len(test):
        raise DataError(
            f"{source}: {len(dataset)} samples cannot be split with test_fraction {fraction}; "
            "give more samples, or test samples of their own"
        )
    return take(dataset, train), take(dataset, test)
