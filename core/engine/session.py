"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..plugins.manager import Hooks
from ..plugins.observer import Observer
from ..plugins.stop_request import StopRequest
from .checkpoints.fingerprint import Fingerprint
from .config import TrainConfig
from .data import Data, Plan
from .objective import Objective
from .progress import Progress
from .state import Snapshot, TrainState
from .step import Stepper
from .trial import Tried


@dataclass(slots=True)
class Run:
    """The objects of one run, and where it stands.

    Attributes:
        config: How to train.
        data: What to train and test on.
        plan: Which samples make which step.
        steps_total: Optimizer steps that were asked for.
        objective: Loss and metric.
        hooks: The plugins.
        state: What training changes.
        stepper: What one step works on.
        observer: Told what happens.
        checkpoints: Folder for checkpoints; None writes none.
        course: What a resumed run must agree with.
        stop: Looked at between steps, and between the batches of a step and of an evaluation.
        tried: What was found before the start.
        steps_given_up: Those that a call which was cut off has cost.
        snapshot: The last one.
        checkpoint: The last one written.
        checkpointed_step: Its step; -1 if there is none.
        told: What the user knows already.
        resumed: It goes on from a checkpoint.
        first_step: Steps that it had taken then.
        raised: What each plugin last raised in its first step.
        eval_every: Steps from one evaluation to the next; an epoch's if the job does not say.
        checkpoint_every: Likewise, of checkpoints.
    """

    config: TrainConfig
    data: Data
    plan: Plan
    steps_total: int
    objective: Objective
    hooks: Hooks
    state: TrainState
    stepper: Stepper
    observer: Observer
    checkpoints: Path | None
    course: Fingerprint
    stop: StopRequest
    tried: Tried
    steps_given_up: int = 0
    snapshot: Snapshot | None = None
    checkpoint: Path | None = None
    checkpointed_step: int = -1
    told: set[str] = field(default_factory=set)
    resumed: bool = False
    first_step: int = 0
    raised: dict[str, str] = field(default_factory=dict)
    eval_every: int = field(init=False)
    checkpoint_every: int = field(init=False)

    def __post_init__(self) -> None:
        self.eval_every = self.config.eval_every or self.plan.steps_per_epoch
        self.checkpoint_every = self.config.checkpoint_every or self.plan.steps_per_epoch

    @property
    def progress(self) -> Progress:
        """Counters."""
        return self.state.progress
