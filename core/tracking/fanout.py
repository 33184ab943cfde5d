"""Tell several observers what happens in a run."""

# ruff: noqa: D102 - each method is told of in ``Observer``, and passes on

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..hooks.errors import RunAbortedError
from ..hooks.types import Batch, Report, StepInfo
from ..plugins.interface import Plugin
from ..plugins.observer import Observer, RunInfo
from .run_folder import explain_disk

_LOST = "the run's folder could not be written at its end ({}): the last events or curves are missing in it"


class Fanout(Observer):
    """An observer that passes everything on.

    Args:
        keeper: The one whose record is rolled back with the run; its position is the run's.
        others: Told the same.
    """

    def __init__(self, keeper: Observer, others: Sequence[Observer]) -> None:
        self._keeper = keeper
        self._all = (keeper, *others)
        self._is_over = self._is_loss_told = False

    def training_over(self) -> None:
        """Note that what cannot be written from now on is told, and ends nothing: that is done already."""
        self._is_over = True

    @contextlib.contextmanager
    def loss_told(self) -> Iterator[None]:
        """Tell the others, once, what cannot be written; while training goes on, raise it.

        Raises:
            RunAbortedError: Training goes on.
        """
        try:
            yield
        except RunAbortedError as error:
            if not self._is_over:
                raise
            cause = error.__cause__
            if not self._is_loss_told:
                self._is_loss_told = True
                self.event(_LOST.format(explain_disk(cause) if isinstance(cause, OSError) else error))

    def plugins_started(self, plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> None:
        for observer in self._all:
            observer.plugins_started(plugins, order)

    def started(self, info: RunInfo) -> None:
        for observer in self._all:
            observer.started(info)

    def sampled(self, batch: Batch, step: StepInfo) -> None:
        for observer in self._all:
            observer.sampled(batch, step)

    def wants_loss(self, step: StepInfo) -> bool:
        return any(observer.wants_loss(step) for observer in self._all)

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:
        for observer in self._all:
            observer.step(step, loss, samples)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, float], *, best: bool) -> None:
        for observer in self._all:
            observer.evaluated(step, epoch, metrics, best=best)

    def wants_predictions(self) -> bool:
        return any(observer.wants_predictions() for observer in self._all)

    def predicted(self, part: str, batch: Batch, outputs: Tensor) -> None:
        for observer in self._all:
            observer.predicted(part, batch, outputs)

    def tested(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        for observer in self._all:
            observer.tested(step, epoch, metrics)

    def evaluated_beside(
        self, step: int, epoch: int, metrics: Mapping[str, float], *, part: str, name: str
    ) -> None:
        for observer in self._all:
            observer.evaluated_beside(step, epoch, metrics, part=part, name=name)

    def checkpointed(self, step: int, path: Path) -> None:
        for observer in self._all:
            observer.checkpointed(step, path)

    def position(self) -> Any:
        return self._keeper.position()

    def rolled_back(self, to_step: int, position: Any) -> None:
        for observer in self._all:
            observer.rolled_back(to_step, position)

    def event(self, message: str) -> None:
        for observer in self._all:
            with self.loss_told():
                observer.event(message)

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        for observer in self._all:
            observer.reported(plugin, step, scalars, report)
