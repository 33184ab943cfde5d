"""Which of many numbers is to be named in a message."""

from __future__ import annotations

from torch import Tensor


def first_wrong(values: Tensor, wrong: Tensor) -> tuple[int, float]:
    """Return the first sample that has a wrong number, counted from 0, and that number.

    Args:
        values: (N, …).
        wrong: Of the same shape, bool; true somewhere.
    """
    sample = int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0])
    return sample, values[sample][wrong[sample]].reshape(-1)[0].item()
