"""A job on its way to a run, whoever has asked for it: the command line or a Python program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..plugins.stop_request import StopRequest
from .train_request import TrainRequest

if TYPE_CHECKING:
    from ..job.job_file import JobFile
    from .run_display import RunDisplay, View


class Interruption(Protocol):
    """How the user ends a run, by signals as a rule.

    Attributes:
        request: Given to the run, and to whatever waits.
        within_s: How long the step under way may take.
        has_begun: Tells whether training has begun.
        tell: Takes a message, from any thread.
    """

    request: StopRequest
    within_s: float
    has_begun: Callable[[], bool]
    tell: Callable[[str], None]

    def starting(self) -> None:
        """Note that plugins are about to be started: from now on there is something to end in order."""


@dataclass
class Launch:
    """A job on its way to a run.

    Attributes:
        request: What is asked for.
        stop: How the user ends it.
        tell: Takes what is said of what takes long, before there is a view.
        make_view: Makes what shows the run, and what takes messages beside it, from any thread.
        imported: Called once what runs a job is imported.
        check: Looks at the job before anything is started, and raises what is wrong with this process.
        folder: The run's, as the user would write it; None until it is chosen.
        display: Shows the run; None until it is prepared.
        is_started: Whether plugins have been started, or are about to be.
    """

    request: TrainRequest
    stop: Interruption
    tell: Callable[[str], None]
    make_view: Callable[[], tuple[View, Callable[[str], None]]]
    imported: Callable[[], None] = lambda: None
    check: Callable[[JobFile], None] = lambda _: None
    folder: Path | None = field(default=None, init=False)
    display: RunDisplay | None = field(default=None, init=False)
    is_started: bool = field(default=False, init=False)

    @property
    def has_begun(self) -> bool:
        """Whether training has begun."""
        return self.display is not None and self.display.status.info is not None
