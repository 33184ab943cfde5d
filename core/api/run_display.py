"""Show a run while it goes on: bars and a table on a terminal, a plain log anywhere else.

``RunDisplay`` takes what the engine and the plugins tell, and works out rates; a
``View`` shows it. The views never see the engine.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..hooks.errors import visible
from ..hooks.types import StepInfo
from ..plugins.interface import Plugin
from ..plugins.machine_memory import MIB
from ..plugins.number_words import counted
from ..plugins.observer import Observer, RunInfo

RATE_WINDOW_S = 10.0
#: Reading the loss makes the host wait for a GPU, and drawing costs time: not at every step.
REFRESH_S = 0.25


@dataclass
class Status:
    """The status of a run, as it is shown.

    Attributes:
        info: What is known before the first step; None until then.
        plugins: The plugins, in order; their ``usage`` is live.
        step: Steps finished.
        epoch: Passes over the training data, with the part of the present one.
        loss: The last that was read; NaN before.
        metrics: Of the last evaluation.
        best: The best value of the job's metric so far.
        averaged: Average of the weights to part of the data to its last figures there.
        steps_per_s: Over the last seconds; 0 if not known yet.
    """

    info: RunInfo | None = None
    plugins: Sequence[Plugin] = ()
    step: int = 0
    epoch: float = 0.0
    loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    averaged: dict[str, dict[str, Mapping[str, float]]] = field(default_factory=dict)
    steps_per_s: float = 0.0

    @property
    def is_last(self) -> bool:
        """Whether no step is left; an evaluation follows, which is shown anyway."""
        return self.info is not None and self.step >= self.info.steps_total

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at the present rate, or None if not known yet."""
        if self.info is None or self.steps_per_s <= 0:
            return None
        return (self.info.steps_total - self.step) / self.steps_per_s


class View(Protocol):
    """Shows a run."""

    def line(self, text: str) -> None:
        """Show one message for good."""

    def refresh(self, status: Status, *, evaluated: bool) -> None:
        """Show where the run stands; ``evaluated`` is True right after an evaluation."""

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""


class RunDisplay(Observer):
    """Takes what happens in a run and has ``view`` show it.

    Args:
        view: Where to show it.
        clock: Seconds, never going back.
        resumed: Whether the run goes on from a checkpoint, be it the first.
        start: Lines that tell what is run, on what.
        trace: Takes the traceback of a plugin's fault after which the run goes on; None shows none.
    """

    def __init__(
        self,
        view: View,
        clock: Callable[[], float] = time.monotonic,
        *,
        resumed: bool = False,
        start: Sequence[str] = (),
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.view = view
        self._resumed = resumed
        self._start = start
        self._trace = trace
        self._traced: dict[str, str] = {}
        self.status = Status()
        self._clock = clock
        self._times: deque[tuple[float, int]] = deque()
        self._refreshed = -math.inf

    def plugins_started(self, plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> None:
        """Show what runs where, before the first step."""
        self.status.plugins = list(plugins)
        for line in describe_plugins(plugins, order):
            self.view.line(line)

    def started(self, info: RunInfo) -> None:
        """Show what is run."""
        self.status.info = info
        # The rate is counted from the end of the first step, which is slower than any that follows.
        self.status.step = info.first_step
        for line in self._start:
            self.view.line(line)
        if self._resumed or info.first_step:
            self.view.line(f"resumed after step {info.first_step}")

    def wants_loss(self, step: StepInfo) -> bool:  # noqa: ARG002 - an observer's signature
        """Ask for the loss when something is to be drawn."""
        return self._clock() - self._refreshed >= REFRESH_S

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:  # noqa: ARG002 - an observer's signature
        """Count, and draw if it is time."""
        status = self.status
        status.step = step.global_step + 1
        if status.info is not None:
            status.epoch = status.step / max(status.info.steps_per_epoch, 1)
        now = self._clock()
        self._times.append((now, status.step))
        while len(self._times) > 2 and now - self._times[0][0] > RATE_WINDOW_S:  # noqa: PLR2004 - a rate needs two points
            self._times.popleft()
        elapsed = now - self._times[0][0]
        if elapsed > 0:
            status.steps_per_s = (status.step - self._times[0][1]) / elapsed
        if loss is not None:
            status.loss = loss
        if now - self._refreshed >= REFRESH_S:
            self._refreshed = now
            self.view.refresh(status, evaluated=False)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, float], *, best: bool) -> None:  # noqa: ARG002 - an observer's signature
        """Show the metrics."""
        self.status.metrics = dict(metrics)
        if best and self.status.info is not None:
            self.status.best = metrics.get(self.status.info.metric)
        self.view.refresh(self.status, evaluated=True)
        # An evaluation is no step: the rate starts anew after it.
        self._times.clear()
        self._times.append((self._clock(), self.status.step))

    def evaluated_beside(
        self,
        step: int,  # noqa: ARG002 - an observer's signature
        epoch: int,  # noqa: ARG002 - as above
        metrics: Mapping[str, float],
        *,
        part: str,
        name: str,
    ) -> None:
        """Show the metrics of an average of the weights; how the run ended tells those on the test data."""
        self.status.averaged.setdefault(name, {})[part] = dict(metrics)
        if part == _judged_by(self.status):
            self.view.line(f"  {name}  {'  '.join(metric_words(part, metrics))}")

    def rolled_back(self, to_step: int, position: Any) -> None:  # noqa: ARG002 - an observer's signature
        """Go back to ``to_step``."""
        self.status.step = to_step
        self._times.clear()
        self._times.append((self._clock(), to_step))

    def event(self, message: str) -> None:
        """Show what the user should know, and where a plugin's fault came from if that is asked for."""
        # It may quote the folder of another run.
        self.view.line(visible(message))
        for plugin in self.status.plugins if self._trace is not None else ():
            self._show_traceback(plugin.spec.name, plugin.usage.traceback)

    def _show_traceback(self, plugin: str, traceback: str) -> None:
        if self._trace is not None and traceback and traceback != self._traced.get(plugin):
            self._traced[plugin] = traceback
            # Indented, so that no line of the plugin's can pass for one of ours.
            told = visible(traceback.rstrip()).replace("\n", "\n    ")
            self._trace(f"traceback of plugin '{plugin}':\n    {told}")


class PlainView:
    """A log line every few seconds and at each evaluation.

    Args:
        write: Takes one line.
        every_s: Seconds between lines.
        clock: Seconds, never going back.
    """

    def __init__(
        self, write: Callable[[str], None], every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._every_s = every_s
        self._clock = clock
        self._written = clock()
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})

    def line(self, text: str) -> None:
        """Write it."""
        self._write(text)

    def refresh(self, status: Status, *, evaluated: bool) -> None:
        """Write a line if it is time."""
        now = self._clock()
        if not evaluated and (now - self._written < self._every_s or status.is_last):
            return
        if evaluated and self._evaluated == (status.step, status.metrics):
            return
        if evaluated:
            self._evaluated = (status.step, dict(status.metrics))
        self._written = now
        self._write("  ".join(status_words(status, with_metrics=evaluated)))
        if not evaluated and status.plugins:
            self._write("  " + "; ".join(plugin_words(plugin, status) for plugin in status.plugins))

    def close(self) -> None:
        """Nothing to put back."""


class QuietView:
    """Shows nothing."""

    def line(self, text: str) -> None:
        """Drop it."""

    def refresh(self, status: Status, *, evaluated: bool) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing to put back."""


def evaluation_words(status: Status) -> list[str]:
    """Return what the last evaluation has come to, in parts of one line."""
    total = status.info.steps_total if status.info else 0
    return [f"step {status.step}/{total}", f"epoch {status.epoch:.2f}", *_judgement_words(status)]


def metric_words(part: str, metrics: Mapping[str, float]) -> list[str]:
    """Return the figures on one part of the data, a phrase each."""
    return [f"{part} {name} {value:.4f}" for name, value in metrics.items()]


def _judged_by(status: Status) -> str:
    return status.info.judged_by if status.info else "validation"


def _judgement_words(status: Status) -> list[str]:
    return metric_words(_judged_by(status), status.metrics)


def status_words(status: Status, *, with_metrics: bool = True) -> list[str]:
    """Return where a run stands, in parts of one line."""
    total = status.info.steps_total if status.info else 0
    words = [f"step {status.step}/{total}", f"epoch {status.epoch:.2f}"]
    if not math.isnan(status.loss):
        words.append(f"loss {status.loss:.4f}")
    if with_metrics:
        words += _judgement_words(status)
    if status.steps_per_s > 0:
        words.append(rate_words(status.steps_per_s))
    if status.eta_s is not None:
        words.append(f"{duration(status.eta_s)} left")
    return words


def rate_words(steps_per_s: float) -> str:
    """Return a rate, with the digits that it needs; nothing if it is not known."""
    if steps_per_s <= 0:
        return ""
    return f"{steps_per_s:.1f} steps/s" if steps_per_s >= 1 else f"{steps_per_s:.2g} steps/s"


def plugin_words(plugin: Plugin, status: Status) -> str:
    """Return one plugin's state and cost as a phrase."""
    usage = plugin.usage
    words = f"{plugin.spec.name} {usage.state} {memory_words(plugin)} {step_ms(plugin, status):.1f} ms/step"
    return words + (f", {counted(usage.restarts, 'restart')}" if usage.restarts else "")


def memory_words(plugin: Plugin) -> str:
    """Return memory against budget."""
    usage = plugin.usage
    if not usage.budget_bytes:
        return "no bound"
    return f"{usage.memory_bytes / MIB:.0f}/{usage.budget_bytes / MIB:.0f} MiB"


def call_ms(plugin: Plugin) -> float:
    """Return the mean time of one call so far, in milliseconds."""
    return 1000 * plugin.usage.seconds / max(plugin.usage.calls, 1)


def step_ms(plugin: Plugin, status: Status) -> float:
    """Return the mean time inside the plugin for each step of this process, in milliseconds."""
    first = status.info.first_step if status.info else 0
    return 1000 * plugin.usage.seconds / max(status.step - first, 1)


def duration(seconds: float) -> str:
    """Return a span as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def describe_plugins(plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what runs where and in which order, a line each."""
    lines = ["hooks, in firing order:"]
    lines += [f"  {hook.replace('_', '.', 1)}: {' → '.join(names)}" for hook, names in order.items()]
    lines.append("plugins:")
    every = list(dict.fromkeys(layer for plugin in plugins for layer in plugin.usage.layers))
    for plugin in plugins:
        spec, usage = plugin.spec, plugin.usage
        title = f"  {spec.name} {spec.version} ({spec.role})"
        if spec.isolation == "trusted":
            lines.append(f"{title}: TRUSTED: runs in the trainer's own process, with no protection at all")
            continue
        workers = f", {spec.workers} workers" if spec.workers > 1 else ""
        lacking = _lacking(usage.layers, every)
        lines.append(f"{title}: sandboxed{workers}, at most {usage.budget_bytes / MIB:.0f} MiB{lacking}")
        lines += [f"    GRANTED: {grant}" for grant in spec.permissions.lines()]
    if every:
        lines.append(f"  layers of each sandbox: {', '.join(every)}")
    return lines


def _lacking(layers: Sequence[str], every: Sequence[str]) -> str:
    """Return what a sandbox lacks of the layers that hold elsewhere in the run."""
    missing = [layer for layer in every if layer not in layers]
    return f", WITHOUT {', '.join(missing)}" if missing else ""
