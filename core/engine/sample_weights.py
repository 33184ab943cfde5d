"""Weights by which the samples of an epoch are drawn, with replacement."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..hooks.errors import DataError
from .data import order_generator

#: More than ``torch.multinomial`` draws from.
MOST_SAMPLES = 1 << 24
_DIGITS = 16


@dataclass(frozen=True, slots=True, eq=False)
class SampleWeights:
    """The order of an epoch in which each place is drawn by weight, as ``WeightedRandomSampler`` draws them.

    Attributes:
        weights: (N,) float64, each finite and >= 0, in any unit: twice the weight comes twice as often.
        told: How they were made, in words.

    Raises:
        DataError: They are no such weights, or nothing could be drawn by them.
    """

    weights: Tensor
    told: str

    def __post_init__(self) -> None:
        weights = self.weights
        wrong = ~(weights.isfinite() & (weights >= 0))
        if wrong.any():
            place = int(wrong.nonzero()[0])
            raise DataError(f"sample {place} has the weight {float(weights[place]):g}; expected 0 or more")
        total = float(weights.sum())
        if not 0 < total < float("inf"):
            raise DataError(f"the weights of {len(weights):,} training samples add up to {total:g}")
        if len(weights) > MOST_SAMPLES:
            raise DataError(
                f"{len(weights):,} training samples are more than the {MOST_SAMPLES:,} that torch draws from "
                "by weight; give fewer, or draw in a data function of your own"
            )

    def __call__(self, samples: int, seed: int, epoch: int) -> Tensor:
        """Return the places of one epoch, (N,) int64; they depend on nothing but weights and arguments."""
        generator = order_generator(seed, epoch)
        return torch.multinomial(self.weights, samples, replacement=True, generator=generator)

    @property
    def distinct(self) -> int:
        """How many different samples an epoch is expected to hold, rounded."""
        shares = self.weights / self.weights.sum()
        return round(float(-torch.expm1(len(shares) * torch.log1p(-shares)).sum()))

    def digest(self) -> str:
        """Return what a resumed run must find again."""
        whole = hashlib.sha256(self.weights.numpy().tobytes()).hexdigest()
        return f"{len(self.weights)} weights, {whole[:_DIGITS]}"
