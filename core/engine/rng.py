"""The states of torch's random generators."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..hooks.types import derive_seed


@dataclass(frozen=True, slots=True)
class TorchRng:
    """States of the generators that a forward pass may draw from.

    Attributes:
        cpu: uint8 bytes.
        cuda: uint8 bytes of the loop's device, None on the CPU.
    """

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> TorchRng:
        """Copy the present states; takes about 1 µs on the CPU."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Make them the present states; a run that moved to another kind of device keeps what fits."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)


def seed_run(seed: int) -> None:
    """Seed torch, on all devices, and ``random``, for a run with the job's ``seed``."""
    run_seed = derive_seed(seed, "run")
    torch.manual_seed(run_seed)
    random.seed(run_seed)
