"""Tell several takers what happens in a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..hooks.errors import RunAbortedError
from ..hooks.types import Batch, Report, StepInfo
from ..plugins.interface import Plugin
from ..plugins.listener import Listener
from ..plugins.observer import Recorder, RunInfo
from .run_folder import explain_disk

_LOST = "the run's folder could not be written at its end ({}): the last events or curves are missing in it"


class Keeper(Recorder, Listener, Protocol):
    """Takes what the engine tells and what plugins report."""


class Watcher(Keeper, Protocol):
    """A ``Keeper`` that is told which plugins run, too."""

    def plugins_started(self, plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> None:
        """Take the plugins, in the job's order, once all run; ``order`` is hook to names, in firing order."""


class Fanout:
    """A ``Keeper`` that passes everything on.

    Args:
        keeper: The one whose record is rolled back with the run; its position is the run's.
        others: Told the same.
    """

    def __init__(self, keeper: Keeper, others: Sequence[Keeper]) -> None:
        self._keeper = keeper
        self._others = others
        self._all: tuple[Keeper, ...] = (keeper, *others)
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

    def started(self, info: RunInfo) -> None:
        """Pass it on."""
        for watcher in self._all:
            watcher.started(info)

    def sampled(self, batch: Batch, step: StepInfo) -> None:
        """Pass it on."""
        for watcher in self._all:
            watcher.sampled(batch, step)

    def wants_loss(self, step: StepInfo) -> bool:
        """Tell whether anybody wants the loss."""
        return any(watcher.wants_loss(step) for watcher in self._all)

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:
        """Pass it on."""
        for watcher in self._all:
            watcher.step(step, loss, samples)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, float], *, best: bool) -> None:
        """Pass it on."""
        for watcher in self._all:
            watcher.evaluated(step, epoch, metrics, best=best)

    def checkpointed(self, step: int, path: Path) -> None:
        """Pass it on."""
        for watcher in self._all:
            watcher.checkpointed(step, path)

    def position(self) -> Any:
        """Return the keeper's."""
        return self._keeper.position()

    def rolled_back(self, to_step: int, position: Any) -> None:
        """Pass it on; the position means something to the keeper only."""
        for watcher in self._all:
            watcher.rolled_back(to_step, position)

    def event(self, message: str) -> None:
        """Pass it on."""
        for watcher in self._all:
            with self.loss_told():
                watcher.event(message)

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Pass it on."""
        for watcher in self._all:
            watcher.reported(plugin, step, scalars, report)
