"""Locate numbers in the data that are not finite."""

from __future__ import annotations

from torch import Tensor


def where_not_finite(values: Tensor) -> str:
    """Say how many numbers are not finite, and which sample has the first, as the end of a sentence.

    Args:
        values: (N, …), not all of them finite.
    """
    wrong = ~values.isfinite()
    samples = wrong.reshape(len(wrong), -1).any(1).nonzero().flatten()
    return (
        f": {int(wrong.sum()):,} of {values.numel():,}, the first in sample {int(samples[0])}, counted from 0"
    )
