"""The state of a run in progress: model, data, plugins, counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..plugins.manager import Hooks
from ..plugins.observer import Observer
from ..plugins.stop_request import StopRequest
from .alternation import Alternation
from .checkpoints.checkpoint import Describe
from .checkpoints.fingerprint import Fingerprint
from .progress import Progress
from .setup import Setup
from .state import Snapshot, TrainState
from .step import Stepper


@dataclass(frozen=True, slots=True)
class BestWeights:
    """The checkpoint whose weights a run ends with, if not with its last.

    Attributes:
        path: Its folder.
        progress: The counters in it.
    """

    path: Path
    progress: Progress


@dataclass(slots=True)
class Session:
    """The objects of one run, and where it stands.

    Attributes:
        setup: What is trained, on what, where and how.
        hooks: The plugins.
        state: What training changes.
        stepper: What one step works on.
        observer: Told what happens.
        checkpoints: Folder for checkpoints; None writes none.
        fingerprint: What a resumed run must agree with.
        describe: Gives the ``model.json`` of a checkpoint; None writes none.
        stop: Looked at between steps, and between the batches of a step and of an evaluation.
        steps_given_up: Those that a call which was cut off has cost.
        snapshot: The last one.
        checkpoint: The last one written.
        checkpointed_step: Its step; -1 if there is none.
        told: What the user knows already.
        resumed: It goes on from a checkpoint.
        first_step: Steps that it had taken then.
        raised: What each plugin last raised in its first step.
        best: Where the best checkpoint stood, once its weights are those of the model; None before.
        test_metrics: What the test at the end has come to; empty before it, and without test data.
        alternation: Whose turn it is, where parts of the model take turns.
        uncounted: Loss and weight of steps that ``progress.epoch_loss`` lacks; to read each at once makes
            the host wait for a GPU.
        eval_every: Steps from one evaluation to the next; an epoch's if the job does not say.
        checkpoint_every: Likewise, of checkpoints.
    """

    setup: Setup
    hooks: Hooks
    state: TrainState
    stepper: Stepper
    observer: Observer
    checkpoints: Path | None
    fingerprint: Fingerprint
    stop: StopRequest
    describe: Describe | None = None
    steps_given_up: int = 0
    snapshot: Snapshot | None = None
    checkpoint: Path | None = None
    checkpointed_step: int = -1
    told: set[str] = field(default_factory=set)
    resumed: bool = False
    first_step: int = 0
    raised: dict[str, str] = field(default_factory=dict)
    best: BestWeights | None = None
    test_metrics: dict[str, float] = field(default_factory=dict)
    uncounted: list[tuple[Tensor, float]] = field(default_factory=list)
    alternation: Alternation | None = field(init=False)
    eval_every: int = field(init=False)
    checkpoint_every: int = field(init=False)

    def __post_init__(self) -> None:
        turns = self.setup.config.turns
        self.alternation = Alternation(turns, self.setup.model) if turns else None
        self.eval_every = self.setup.config.eval_every or self.setup.plan.steps_per_epoch
        self.checkpoint_every = self.setup.config.checkpoint_every or self.setup.plan.steps_per_epoch

    def count_losses(self) -> None:
        """Count those that are not yet."""
        counted = ((loss.item(), weight) for loss, weight in self.uncounted)
        self.progress.epoch_loss = self.progress.epoch_loss.plus(counted)
        self.uncounted.clear()

    @property
    def progress(self) -> Progress:
        """Counters."""
        return self.state.progress
