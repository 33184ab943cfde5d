"""Seed torch, numpy and random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..hooks.types import derive_seed

if TYPE_CHECKING:
    pass


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random, so that a plugin that uses them is repeatable too.

    Only torch's CPU generator: ``torch.manual_seed`` would take 0.4 ms, and in the trainer's
    process it would seed the GPU that the model draws its dropout from.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - plugins may use the old global generator
    random.seed(seed)


def seed_all(seed: int) -> None:
    """Seed torch, on all devices, ``random`` and numpy's global generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def seed_run(seed: int) -> None:
    """Seed all generators for a run with the job's ``seed``."""
    seed_all(derive_seed(seed, "run"))
