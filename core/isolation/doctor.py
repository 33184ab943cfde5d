"""What the sandbox holds on this machine, found by locking up a process that loads no plugin."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import msgspec

from ..hooks.errors import SandboxUnavailableError
from ..hooks.plugin import PluginSpec, PluginUsage
from .budget import MAX_FRACTION, budget_bytes, total_bytes
from .crew import Crew
from .pool import Sandbox
from .report import grade, is_held, table
from .status import REQUIRED, LayerStatus

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How this machine does as a place for plugins that nobody has to trust.

    Attributes:
        layers: Each layer as it stands, verified by trying to get past it.
        total_bytes: Memory that is ours to share out.
        budget_bytes: The most that one plugin may have of it.
        fault: Why no process could be locked up at all; ``""`` if one could.
    """

    layers: tuple[LayerStatus, ...]
    total_bytes: int
    budget_bytes: int
    fault: str = ""

    @property
    def usable(self) -> bool:
        """Tell whether untrusted plugins can run here."""
        held = {status.name for status in self.layers if is_held(status)}
        return held.issuperset(REQUIRED)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "usable": self.usable,
            "grade": grade(self.layers),
            "fault": self.fault,
            "kernel": platform.release(),
            "total_bytes": self.total_bytes,
            "budget_bytes": self.budget_bytes,
            "required": list(REQUIRED),
            "layers": [msgspec.to_builtins(status) for status in self.layers],
        }

    def lines(self) -> list[str]:
        """Return the diagnosis for people."""
        lines = [f"{name:<12} {status:<12} {detail}" for name, status, detail, _ in table(self.layers)]
        lines += [
            f"{name} is {status}{' (REQUIRED)' if name in REQUIRED else ''}: {consequence}"
            for name, status, _, consequence in table(self.layers)
            if consequence
        ]
        lines += [self.fault] if self.fault else []
        budget, total = self.budget_bytes / _GIB, self.total_bytes / _GIB
        lines += [
            f"memory: {budget:.2f} GiB for each plugin, {MAX_FRACTION:.0%} of {total:.2f} GiB",
            f"kernel {platform.release()}",
            f"grade {grade(self.layers)}",
        ]
        if not self.usable:
            lines.append("ringfence refuses to run untrusted plugins here")
        return lines


def examine(*, skip_layers: tuple[str, ...] = ()) -> tuple[LayerStatus, ...]:
    """Lock up a process, have it try to get out, and return how each layer stands.

    Args:
        skip_layers: Layers to leave out, to show what is said of them.

    Raises:
        SandboxUnavailableError: No process could be started at all.
    """
    spec = PluginSpec("doctor", "ringfence", "", "", "", role="monitor")
    with Sandbox(skip_layers=skip_layers) as sandbox:
        return Crew(spec, PluginUsage(budget_bytes=budget_bytes(MAX_FRACTION)), sandbox).examine()


def diagnose(*, skip_layers: tuple[str, ...] = ()) -> Diagnosis:
    """Examine this machine and work out what that means.

    Args:
        skip_layers: As for ``examine``.
    """
    layers: tuple[LayerStatus, ...] = ()
    fault = ""
    try:
        layers = examine(skip_layers=skip_layers)
    except SandboxUnavailableError as error:
        fault = str(error)
    return Diagnosis(layers, total_bytes(), budget_bytes(MAX_FRACTION), fault)
