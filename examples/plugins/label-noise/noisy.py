"""The digits that come with ringfence, some of them with a wrong label: to see what is found of these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ringfence.datasets.dataset_registry import load_data
from ringfence.engine.data import Data


def load(*, share: float = 0.05, seed: int = 0, limit: int | None = None) -> Data:
    """Return the digits, with ``share`` of the training labels made wrong."""
    data = load_data("mnist10k", {"limit": limit}, base=Path())
    labels = data.train.targets.clone()
    wrong, shift = flipped(len(labels), share, seed)
    labels[wrong] = (labels[wrong] + shift) % 10
    return replace(data, train=replace(data.train, targets=labels))


def flipped(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return which of ``count`` samples get a wrong label, and by how many classes each is moved."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(count, generator=generator)[: round(count * share)]
    return wrong, torch.randint(1, 10, (len(wrong),), generator=generator)
