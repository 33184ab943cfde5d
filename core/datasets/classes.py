"""Class numbers: what may be one, how many classes they make, and what the user is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..engine.data import Data, Dataset
from ..hooks.errors import DataError
from .non_finite import where_not_finite

#: Up to so many classes are taken as they come; more must be in proportion to the samples.
_MANY_CLASSES = 1000
_SAMPLES_A_CLASS = 2
_LISTED = 10
_RENUMBER = "np.unique(targets, return_inverse=True)[1] numbers them"
_AS_NUMBERS = "to predict numbers write loss: mse (l1, huber or smooth_l1) and metric: mse (mae or r2)"
#: Where 0 alone is empty, and nobody has named it.
_FROM_ONE = ". Do your targets start at 1? Classes start at 0: subtract 1"
#: What is larger cannot be a class number, and may not fit an integer.
_LARGEST = 2.0**53


def to_classes(targets: Tensor, source: str) -> Tensor:
    """Return class numbers, (N,) int64.

    Args:
        targets: (N,) or (N, 1), whole numbers of any type.
        source: For messages.

    Raises:
        DataError: They are no class numbers.
    """
    flat = targets.squeeze(1) if targets.dim() == 2 and targets.shape[1] == 1 else targets  # noqa: PLR2004
    if flat.dim() != 1:
        raise DataError(
            f"{source}: targets of shape {tuple(targets.shape)} are no classes; expected (N,): a row of "
            f"probabilities or of 0 and 1 for each sample becomes that by .argmax(1); {_AS_NUMBERS}"
        )
    if flat.is_floating_point():
        if not flat.isfinite().all():
            where = where_not_finite(flat)
            raise DataError(
                f"{source}: targets hold values that are not finite{where}; remove or replace them"
            )
        fractions = flat != flat.round()
        if fractions.any():
            raise DataError(
                f"{source}: targets hold fractions, such as {float(flat[fractions][0]):g}, which are no "
                f"classes; {_AS_NUMBERS}"
            )
        flat = flat.double().clamp(-_LARGEST, _LARGEST)
    classes = flat.to(torch.int64)
    if len(classes) and int(classes.min()) < 0:
        raise DataError(
            f"{source}: targets hold {int(classes.min())}, which is no class; classes are 0, 1, 2 …, and "
            f"{_RENUMBER}; {_AS_NUMBERS}"
        )
    return classes


def are_too_many(classes: int, samples: int) -> bool:
    """Tell whether there are far more classes than so many samples can be of."""
    return classes > max(_MANY_CLASSES, samples // _SAMPLES_A_CLASS)


def check_proportion(parts: Sequence[Dataset], source: str, more: str) -> None:
    """Check that there are not far more classes than the samples can be of.

    Args:
        parts: All that was read, of one number of classes.
        source: For messages.
        more: What to do if there are so many.

    Raises:
        DataError: There are.
    """
    count, samples = parts[0].num_classes, sum(len(part) for part in parts)
    if count is None or not are_too_many(count, samples):
        return
    different = len(set(torch.cat([part.targets for part in parts]).tolist()))
    raise DataError(
        f"{source}: targets reach to {count - 1:,}, which makes {count:,} classes, and as many outputs of "
        f"the model, of {samples:,} samples with {different:,} different targets; {_AS_NUMBERS}; if they are "
        f"classes, {_RENUMBER} without gaps; if there are so many, {more}"
    )


def describe_classes(dataset: Dataset) -> str | None:
    """Return number and names of the classes, in one line; None for a regression."""
    if dataset.num_classes is None:
        return None
    names = f": {_join_some(dataset.class_names)}" if dataset.class_names else ""
    return f"{dataset.num_classes:,} class{'es' if dataset.num_classes > 1 else ''}{names}"


def tell_empty(data: Data) -> Iterator[str]:
    """Yield a sentence for each part that has no samples of some class."""
    for name, dataset in data.parts().items():
        part, count = {"train": "training"}.get(name, name), dataset.num_classes
        if count is None or dataset.is_read or dataset.targets.dim() > 1:
            # Of probabilities, at each position, or unknown before all of them are read.
            continue
        empty = (dataset.samples_targets().bincount(minlength=count) == 0).nonzero().flatten().tolist()
        if empty:
            names = [dataset.class_names[i] if dataset.class_names else str(i) for i in empty]
            outputs = "; the model has an output for each all the same" if part == "training" else ""
            asked = _FROM_ONE if part == "training" and empty == [0] and not dataset.class_names else ""
            classes = f"{len(empty):,} of {count:,} classes: {_join_some(names)}"
            yield f"no {part} samples of {classes}{outputs}{asked}"


def _join_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
