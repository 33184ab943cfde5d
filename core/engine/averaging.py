"""Averages of a run's weights, kept beside them: exponential moving ones, and stochastic weight averaging.

    average = weights                                               # the first update
    average = decay * average + (1 - decay) * weights               # EMA, from the second on
    average = average + (weights - average) / (updates + 1)         # SWA: the mean of all

Statistics of batch norm are averaged likewise; those of SWA are measured anew at the end, on training data.

Sources: Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ..hooks.errors import CheckpointError, CutOffError
from ..reproducibility.generator_states import preserved_rng
from .data import Plan
from .evaluate import evaluating, standing_in
from .final_evaluation import measure
from .forks import ending_forks
from .forward import forward, to_device
from .session import Session
from .setup import Setup
from .tensor_names import named_buffers, named_parameters

_Update = Callable[[list[Tensor], list[Tensor], int], None]
_STATISTICS = ("running_mean", "running_var")


class Rule(Protocol):
    """When weights go into an average, and with what share."""

    name: ClassVar[str]
    measures_statistics: ClassVar[bool]

    def is_due(self, step: int, steps_total: int, plan: Plan) -> bool:
        """Tell whether the weights after ``step`` steps go into the average."""

    def begin(self, steps_total: int) -> int:
        """Return after how many steps the average begins: there is none up to that step."""

    def update(self, updates: int) -> _Update:
        """Return what brings an average of ``updates`` updates, at least one, on."""


@dataclass(frozen=True, slots=True)
class ExponentialMovingAverage:
    """Exponential moving average.

    Attributes:
        decay: Share of the average that an update leaves, between 0 and 1.
        every: Steps between updates.
        warmup: Whether the n-th update leaves no more than (1 + n) / (10 + n): the weights at the start,
            which are no good, are forgotten sooner.
    """

    decay: float = 0.999
    every: int = 1
    warmup: bool = True
    name: ClassVar[str] = "ema"
    measures_statistics: ClassVar[bool] = False

    def is_due(self, step: int, steps_total: int, plan: Plan) -> bool:  # noqa: ARG002 - a rule's signature
        """Tell whether the weights after ``step`` steps go into the average."""
        return step % self.every == 0

    def begin(self, steps_total: int) -> int:  # noqa: ARG002 - a rule's signature
        """Return 0."""
        return 0

    def decay_at(self, updates: int) -> float:
        """Return the share that is left of an average of ``updates`` updates."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    def update(self, updates: int) -> _Update:
        """Return what brings an average of ``updates`` updates on."""
        return get_ema_multi_avg_fn(self.decay_at(updates))  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True, slots=True)
class StochasticWeightAverage:
    """Stochastic weight averaging: the mean of the weights at regular steps of the last part of a run.

    Attributes:
        start: Share of the run after which it begins, in [0, 1).
        every: Steps between updates; None: an epoch's.
    """

    start: float = 0.75
    every: int | None = None
    name: ClassVar[str] = "swa"
    measures_statistics: ClassVar[bool] = True

    def is_due(self, step: int, steps_total: int, plan: Plan) -> bool:
        """Tell whether the weights after ``step`` steps go into the average."""
        return step > self.begin(steps_total) and step % (self.every or plan.steps_per_epoch) == 0

    def begin(self, steps_total: int) -> int:
        """Return after how many steps the average begins."""
        return math.floor(self.start * steps_total)

    def update(self, updates: int) -> _Update:  # noqa: ARG002 - a rule's signature
        """Return what brings an average on."""
        return get_swa_multi_avg_fn()  # type: ignore[no-any-return, no-untyped-call]


class WeightAverage:
    """A driver that averages a run's weights; the run itself takes no notice of it.

    Averaged are the parameters that are trained and the statistics of batch norm, in float32 at least. All
    other parameters and buffers are the model's own.

    Args:
        rule: When, and with what share.
        setup: Of the run; its model has its final shapes.

    Attributes:
        result: Parameters and buffers of the whole model with the average in their place, in host memory;
            None until the run has come to its end, and where nothing was averaged.
    """

    def __init__(self, rule: Rule, setup: Setup) -> None:
        self._rule = rule
        self._parameters = {
            name: parameter
            for name, parameter in named_parameters(setup.model).items()
            if name not in setup.frozen and parameter.requires_grad and 0 not in parameter.stride()
        }
        self._norms = _norms(setup.model)
        self._begin = 0
        self._updates = 0
        self._averages: dict[str, Tensor] = {}
        self.result: dict[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """``ema`` or ``swa``."""
        return self._rule.name

    def between_steps(self, run: Session) -> None:
        """Take the weights into the average if it is time."""
        step, total = run.progress.step, run.setup.steps_total
        if self._begin != self._rule.begin(total):
            # Of a run that was made longer, what went in so far is not of its last part.
            self._begin, self._updates, self._averages = self._rule.begin(total), 0, {}
        if self._rule.is_due(step, total, run.setup.plan):
            self._update()

    def beside(self) -> Mapping[str, Tensor] | None:
        """Return the average, in the dtypes of the model; None as long as there is none."""
        own = self._own()
        return {n: average.to(own[n].dtype) for n, average in self._averages.items()} or None

    def trained(self, run: Session) -> None:
        """Measure what the average is worth at the end of the run, and keep it.

        Raises:
            CutOffError: The user wants the run to end before that is done; a resumed run does it.
        """
        average = self.beside()
        if average is None:
            run.observer.event(
                f"{self.name}: the run ended before the first weights were averaged: there are none"
            )
            return
        with standing_in(run.state.model, average):
            if self._rule.measures_statistics and self._norms:
                measure_statistics(run, list(self._norms.values()))
                self._tell(run, run.setup.data.judged_by)
            if run.setup.data.judged_by != "test":
                self._tell(run, "test")
            tensors = {**named_parameters(run.state.model), **named_buffers(run.state.model)}
            self.result = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def state_dict(self) -> Mapping[str, Any]:
        """Return the average, how many updates made it, and after how many steps it begins."""
        averages = {name: average.cpu() for name, average in self._averages.items()}
        return {"begin": self._begin, "updates": self._updates, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises:
            CheckpointError: It is of another model.
        """
        begin, updates, averages = (state.get(key) for key in ("begin", "updates", "averages"))
        if (
            not (isinstance(begin, int) and isinstance(updates, int))
            or not isinstance(averages, dict)
            or not self._fits(updates, averages)
        ):
            raise CheckpointError(
                f"the average '{self.name}' in the checkpoint is of another model, or damaged; resume with "
                "the model that the run started with"
            )
        own = self._own()
        self._begin, self._updates = begin, updates
        self._averages = {name: average.to(own[name].device) for name, average in averages.items()}

    def _update(self) -> None:
        own = self._own()
        with torch.no_grad():
            if not self._averages:
                self._averages = {n: t.detach().to(_wide(t.dtype), copy=True) for n, t in own.items()}
            else:
                averages = [self._averages[name] for name in own]
                weights = [t.detach().to(a.dtype) for t, a in zip(own.values(), averages, strict=True)]
                self._rule.update(self._updates)(averages, weights, self._updates)
        self._updates += 1

    def _own(self) -> dict[str, Tensor]:
        """Return what is averaged, as the model has it now."""
        buffers = {
            f"{name}{key}": getattr(norm, key) for name, norm in self._norms.items() for key in _STATISTICS
        }
        return {**self._parameters, **buffers}

    def _fits(self, updates: int, averages: Mapping[Any, Any]) -> bool:
        own = self._own() if updates else {}
        return averages.keys() == own.keys() and all(
            isinstance(averages[name], Tensor)
            and (averages[name].shape, averages[name].dtype) == (tensor.shape, _wide(tensor.dtype))
            for name, tensor in own.items()
        )

    def _tell(self, run: Session, part: str) -> None:
        """Evaluate the average, which stands in for the weights, on a part of the data, if there is one."""
        dataset = run.setup.data.parts().get(part)
        if dataset is None:
            return
        metrics = measure(run, dataset)
        if metrics is None:
            raise CutOffError(f"the evaluation of the average '{self.name}'")
        step = run.progress.step
        run.observer.evaluated_beside(step, run.setup.plan.epoch(step), metrics, part=part, name=self.name)


def first_update(rule: Rule, setup: Setup) -> int | None:
    """Return after which step of a run an average is first updated; None if never."""
    begin, total = rule.begin(setup.steps_total), setup.steps_total
    return next((s for s in range(begin + 1, total + 1) if rule.is_due(s, total, setup.plan)), None)


def measure_statistics(run: Session, norms: list[_BatchNorm]) -> None:
    """Set the statistics of batch norm to the mean over the training data, as they are read, not augmented.

    As ``torch.optim.swa_utils.update_bn``, but that all else is in evaluation mode: nothing is dropped, and
    batch norm that is frozen keeps its statistics.

    Raises:
        CutOffError: The user wants the run to end before that is done.
    """
    model, dataset, size = run.state.model, run.setup.data.train, run.setup.plan.batch_size
    momenta = [norm.momentum for norm in norms]
    with preserved_rng(run.state.device), evaluating(model), ending_forks(), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for batch in dataset.in_order(size):
                if run.stop.is_made():
                    raise CutOffError("measuring the statistics of batch norm for the averaged weights")
                forward(model, run.stepper.normalise(to_device(batch.inputs, run.state.device)))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norm that gathers statistics, by what the names of its buffers begin with."""
    gathering = {
        id(module.running_mean): module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
    }
    return {
        name.removesuffix(_STATISTICS[0]): gathering[id(buffer)]
        for name, buffer in named_buffers(model).items()
        if id(buffer) in gathering
    }


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return what is averaged in: in 16 bits, small shares would be lost."""
    return torch.promote_types(dtype, torch.float32)
