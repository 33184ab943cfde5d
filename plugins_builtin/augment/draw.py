"""Random draws of one call, all from the step's own generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ringfence import StepInfo


class Draw:
    """The randomness of one batch.

    Everything comes from ``step.generator()`` in the order in which it is asked
    for, so that one seed and step give the same numbers in any process.

    Args:
        step: The call's step.
    """

    def __init__(self, step: StepInfo) -> None:
        self.step = step
        self._generator = step.generator()

    @property
    def progress(self) -> float:
        """Share of the job's steps that are done, 0 to 1; 1 if the job does not say how many there are."""
        total = self.step.steps_total
        return min(1.0, self.step.global_step / total) if total > 0 else 1.0

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return float32 numbers from [low, high)."""
        return torch.rand(shape, generator=self._generator) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Return float32 numbers of a standard normal distribution."""
        return torch.randn(shape, generator=self._generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return int64 numbers from ``low`` to ``high - 1``."""
        return torch.randint(low, high, shape, generator=self._generator)

    def integer(self, low: int, high: int) -> int:
        """Return one number from ``low`` to ``high - 1``."""
        return int(self.integers(low, high, 1).item())

    def below(self, limits: Tensor) -> Tensor:
        """Return for each of ``limits`` a whole number from 0 to limit - 1, int64."""
        draws = (torch.rand(limits.shape, generator=self._generator) * limits).long()
        return torch.minimum(draws, limits.long() - 1)  # the product may round up to the limit itself

    def signs(self, count: int) -> Tensor:
        """Return -1 or 1 each, float32."""
        return self.integers(0, 2, count).float() * 2 - 1

    def beta(self, alpha: float, *shape: int) -> Tensor:
        """Return float32 numbers of Beta(alpha, alpha)."""
        return torch.from_numpy(self._numpy().beta(alpha, alpha, shape)).float()

    def dirichlet(self, alpha: float, size: int, count: int) -> Tensor:
        """Return ``count`` weight vectors of a symmetric Dirichlet distribution, (count, size) float32."""
        return torch.from_numpy(self._numpy().dirichlet([alpha] * size, count)).float()

    def permutation(self, count: int) -> Tensor:
        """Return 0 … count - 1 in random order, int64."""
        return torch.randperm(count, generator=self._generator)

    def happens(self, p: float) -> bool:
        """Return True with probability ``p``."""
        if p in (0.0, 1.0):
            return p == 1.0
        return bool(torch.rand((), generator=self._generator) < p)

    def choose(self, p: float, count: int) -> Tensor:
        """Return the positions, out of ``count``, that each were chosen with probability ``p``, int64."""
        if p in (0.0, 1.0):
            return torch.arange(count if p == 1.0 else 0)
        return (torch.rand(count, generator=self._generator) < p).nonzero().squeeze(1)

    def _numpy(self) -> np.random.Generator:
        # torch samples Beta and Dirichlet from its global generator only.
        return np.random.default_rng(self.integer(0, 2**62))
