"""Settings of the engine, apart from model, data and plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..hooks.errors import JobError
from ..plugins.number_words import counted
from .alternation import Turn
from .loss import Loss
from .losses import CrossEntropy
from .metrics import Metric
from .schedules import Constant, Schedule


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stop when the job's metric no longer improves.

    Attributes:
        patience: Evaluations in a row without a gain, >= 1.
        min_delta: Gain that counts, in units of the metric, >= 0.
    """

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        _at_least("early_stopping.patience", self.patience, 1)
        _at_least("early_stopping.min_delta", self.min_delta, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the training loop.

    Attributes:
        batch_size: Samples of one forward pass.
        epochs: Passes over the training data; exactly one of this and ``steps``.
        steps: Optimizer steps.
        grad_accum_steps: Batches whose gradients make one step.
        eval_batch_size: Samples of one forward pass in evaluation.
        loss: What to minimise.
        turns: Parts of the model that are trained by turns, each with its own loss; ``loss`` is then that of
            evaluations alone.
        metric: What to judge by, a key of ``METRICS`` or of ``metrics``.
        metrics: Metrics to measure, by name.
        schedule: Factor of the optimizer's learning rate.
        early_stopping: When to stop before the end; None never stops.
        restore_best: Whether the run ends with the weights of its best checkpoint.
        eval_every: Steps between evaluations; None means one epoch.
        checkpoint_every: Steps between checkpoints; None means one epoch.
        snapshot_every: Steps between snapshots in memory, which a plugin's restart goes back to.
        keep_checkpoints: How many of the latest checkpoints stay.
        seed: Of the run.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        JobError: A value is out of range.
    """

    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    grad_accum_steps: int = 1
    eval_batch_size: int = 512
    loss: Loss = field(default_factory=CrossEntropy)
    turns: tuple[Turn, ...] = ()
    metric: str = "accuracy"
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Constant)
    early_stopping: EarlyStopping | None = None
    restore_best: bool = False
    eval_every: int | None = None
    checkpoint_every: int | None = None
    snapshot_every: int = 100
    keep_checkpoints: int = 3
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise JobError("give exactly one of epochs and steps")
        for name in (
            "batch_size", "epochs", "steps", "grad_accum_steps", "eval_batch_size", "eval_every",
            "checkpoint_every", "snapshot_every", "keep_checkpoints",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 1)

    def steps_total(self, steps_per_epoch: int) -> int:
        """Return how many steps the run has.

        Raises:
            JobError: The warm-up does not fit into them.
        """
        total = self.steps or (self.epochs or 0) * steps_per_epoch
        if self.schedule.warmup_steps >= total:
            raise JobError(
                f"schedule.warmup_steps is {self.schedule.warmup_steps}, but the run has "
                f"{counted(total, 'step')}; it must be smaller"
            )
        return total


def resolve_device(name: str) -> torch.device:
    """Return the device that a job's ``device`` means.

    Args:
        name: ``"auto"`` takes a GPU where there is one.

    Raises:
        JobError: There is no such device on this machine.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise JobError(f"device is '{name}'; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise JobError(f"device is '{name}'; expected auto, cpu, cuda or cuda:N")
    index = device.index or 0
    if index >= count:
        raise JobError(f"device is '{name}', but torch finds {count} CUDA devices here; choose cpu or auto")
    return torch.device("cuda", index)


def _at_least(name: str, value: float, low: int) -> None:
    if value < low:
        raise JobError(f"{name} is {value}; it must be at least {low}")
