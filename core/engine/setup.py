"""What is trained, on what, where and how: worked out once, before anything is started."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import nn

from .config import TrainConfig, resolve_device
from .data import Data, Plan, epoch_order
from .freezing import freeze
from .objective import Objective
from .sample_weights import SampleWeights


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial found.

    Attributes:
        told: What the user should know, as sentences.
        unsteady: Names of the parameters and buffers that evaluation changes, unless they are put back.
        shapes: What the modules return for one sample, by ``noting_shapes``.
        outputs: What the model returned in words, where that was no tensor; ``""`` otherwise.
    """

    told: tuple[str, ...] = ()
    unsteady: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is trained, on what, where and how.

    Attributes:
        model: On ``device``, in training mode.
        data: What to train and test on.
        config: How.
        device: Where the loop runs.
        plan: Which samples make which step.
        steps_total: Optimizer steps that are asked for.
        objective: Loss and metrics.
        frozen: Names of the parameters that stay as they are.
        tried: What was found as they were tried together.
        weights: By which the samples of an epoch are drawn; None: each comes once.
    """

    model: nn.Module
    data: Data
    config: TrainConfig
    device: torch.device
    plan: Plan
    steps_total: int
    objective: Objective
    frozen: frozenset[str] = frozenset()
    tried: Tried = Tried()
    weights: SampleWeights | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: Data,
        config: TrainConfig,
        frozen: Collection[str] = (),
        weights: SampleWeights | None = None,
    ) -> Self:
        """Work out what follows from these; the model is moved to the device and set to training mode.

        Args:
            model: What to train.
            data: What to train and test on.
            config: How.
            frozen: Names of parameters that are to stay as they are.
            weights: By which to draw the samples of an epoch.

        Raises:
            JobError: The configuration does not fit the data or this machine.
        """
        order = epoch_order if weights is None else weights
        plan = Plan(len(data.train), config.batch_size, config.grad_accum_steps, order)
        steps_total = config.steps_total(plan.steps_per_epoch)
        device = resolve_device(config.device)
        model.to(device)
        model.train()
        freeze(model, frozen)
        objective = Objective(config.loss, config.metric, config.metrics)
        named = frozenset(frozen)
        return cls(model, data, config, device, plan, steps_total, objective, named, weights=weights)
