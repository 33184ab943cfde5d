"""What plugins have cost a loop that is not ours, what they logged, and how they failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..hooks.types import Report, StepInfo
from ..plugins.failure_policy import FaultRecord
from ..plugins.interface import Plugin
from ..plugins.number_words import counted
from ..plugins.observer import Observer

#: Takes what a plugin logged or reported: its name, the step, numbers by name, and a monitor's report.
OnReport = Callable[[str, StepInfo, Mapping[str, float], Report | None], None]


@dataclass(frozen=True, slots=True)
class PluginCost:
    """What one plugin has cost so far; every figure is measured by the host.

    Attributes:
        name: As it was asked for.
        role: ``"augment"``, ``"gradient"``, ``"optimizer"``, ….
        isolation: ``"sandbox"``, or ``"trusted"``.
        state: ``"running"``, ``"disabled"``, ``"failed"`` or ``"closed"``.
        calls: Calls of its methods.
        seconds: Time that it spent inside them; of those that run ahead most hides behind the loop.
        peak_bytes: The most memory of its own that its processes had together.
        budget_bytes: The most that they may have; 0 if it is trusted.
        restarts: Times it was started anew after a fault.
        skipped: Snapshots that it was too busy to take.
    """

    name: str
    role: str
    isolation: str
    state: str
    calls: int
    seconds: float
    peak_bytes: int
    budget_bytes: int
    restarts: int
    skipped: int

    @classmethod
    def of(cls, plugin: Plugin) -> PluginCost:
        """Return what ``plugin`` has cost."""
        spec, usage = plugin.spec, plugin.usage
        return cls(
            spec.name,
            spec.role,
            spec.isolation,
            usage.state,
            usage.calls,
            usage.seconds,
            usage.peak_bytes,
            usage.budget_bytes,
            usage.restarts,
            usage.skipped,
        )


@dataclass(frozen=True, slots=True)
class HostReport:
    """How the plugins of a loop have fared.

    Attributes:
        steps: Steps finished.
        plugins: What each has cost, in their order.
        logged: ``"<plugin>/<name>"`` to the number that was logged or reported last.
        faults: Faults and what was decided, the first and the last 200.
        told: What the user should know, as sentences.
    """

    steps: int
    plugins: tuple[PluginCost, ...]
    logged: Mapping[str, float]
    faults: tuple[FaultRecord, ...]
    told: tuple[str, ...]

    def __str__(self) -> str:
        lines = [counted(self.steps, "step")]
        for plugin in self.plugins:
            calls = counted(plugin.calls, "call")
            memory = f", at most {plugin.peak_bytes >> 20} of {plugin.budget_bytes >> 20} MiB"
            lines.append(
                f"  {plugin.name} ({plugin.role}, {plugin.isolation}): {plugin.state}, {calls}, "
                f"{plugin.seconds:.3f} s inside{memory if plugin.budget_bytes else ''}"
            )
        lines += [f"  {fault.decision} at step {fault.step}: {fault.message}" for fault in self.faults]
        return "\n".join(lines)


class ReportKeeper(Observer):
    """Keeps what plugins log, and tells it on.

    Args:
        tell: Takes sentences for the user.
        on_report: Takes what plugins log and report.
    """

    def __init__(self, tell: Callable[[str], None], on_report: OnReport | None) -> None:
        self.logged: dict[str, float] = {}
        self.told: list[str] = []
        self._tell = tell
        self._on_report = on_report

    def event(self, message: str) -> None:
        """Keep a sentence, and tell it."""
        self.told.append(message)
        self._tell(message)

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Keep the numbers."""
        found = {**scalars, **({} if report is None else report.scalars)}
        self.logged.update({f"{plugin}/{name}": value for name, value in found.items()})
        if self._on_report is not None:
            self._on_report(plugin, step, dict(scalars), report)
