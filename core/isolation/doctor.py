"""Examine the sandbox on this machine, by locking up a process that loads no plugin."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..hooks.errors import PluginError, SandboxUnavailableError
from ..hooks.permissions import MAX_MEMORY_FRACTION
from ..plugins.interface import PluginSpec, PluginUsage
from .coverage import NOT_COVERED
from .host.limits.memory_budget import budget_bytes, total_bytes
from .host.processes.layer_report import grade, is_held, way_out
from .host.processes.worker_group import WorkerGroup
from .policy.layer_status import CONSEQUENCES, REQUIRED, LayerStatus
from .sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The diagnosis of this machine as a place for plugins that nobody has to trust.

    Attributes:
        layers: Each layer as it stands, verified by trying to get past it; empty, or of few layers, where
            no process could be locked up.
        total_bytes: Memory that is ours to share out; 0 if the machine does not tell.
        budget_bytes: The most that one plugin may have of it; 0 likewise.
        fault: Why no process could be locked up at all; ``""`` if one could.
    """

    layers: tuple[LayerStatus, ...]
    total_bytes: int
    budget_bytes: int
    fault: str = ""

    @property
    def usable(self) -> bool:
        """Tell whether untrusted plugins can run here."""
        return not self.fault and self._held.issuperset(REQUIRED)

    @property
    def missing(self) -> tuple[LayerStatus, ...]:
        """Layers that do not hold, or hold less than they might."""
        return tuple(status for status in self.layers if status.status != "active")

    @property
    def memory_is_held_by(self) -> tuple[str, ...]:
        """The limits that keep a plugin within its budget here, in the order in which they act."""
        by_layer: Mapping[str, str] = {
            "rlimits": "a limit of each process (RLIMIT_DATA)",
            "watchdog": "a watchdog that adds all of them up",
            "cgroup": "a control group (cgroup) of the plugin",
        }
        return tuple(words for name, words in by_layer.items() if name in self._held)

    @property
    def _held(self) -> frozenset[str]:
        return frozenset(status.name for status in self.layers if is_held(status))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "usable": self.usable,
            "grade": self.grade,
            "fault": self.fault,
            "kernel": platform.release(),
            "total_bytes": self.total_bytes,
            "budget_bytes": self.budget_bytes,
            "memory_is_held_by": list(self.memory_is_held_by),
            "required": list(REQUIRED),
            "layers": [
                {
                    **msgspec.to_builtins(status),
                    "without_it": CONSEQUENCES[status.name],
                    "way_out": "" if is_held(status) else way_out(status),
                }
                for status in self.layers
            ],
            "not_covered": NOT_COVERED,
        }

    @property
    def grade(self) -> str:
        """The worth of the layers together, in a sentence."""
        return grade(self.layers)


def examine(*, skip_layers: tuple[str, ...] = (), sandbox: Sandbox | None = None) -> tuple[LayerStatus, ...]:
    """Lock up a process, have it try to get out, and return how each layer stands.

    Args:
        skip_layers: Layers to leave out, to show what is said of them.
        sandbox: Where; by default in one of its own, which ends with it. One that is given leaves out what
            it was made to leave out.

    Raises:
        SandboxUnavailableError: No process could be started or locked up at all.
        PluginError: The process ended as it was locked up, or its budget is too small to start in.
        ValueError: There is no such layer to leave out.
    """
    if sandbox is None:
        with Sandbox(skip_layers=skip_layers) as own:
            return examine(sandbox=own)
    spec = PluginSpec("any plugin", "ringfence", "", "", "", role="monitor")
    return WorkerGroup(spec, PluginUsage(budget_bytes=budget_bytes(MAX_MEMORY_FRACTION)), sandbox).examine()


def diagnose(*, skip_layers: tuple[str, ...] = (), sandbox: Sandbox | None = None) -> Diagnosis:
    """Examine this machine and work out what that means.

    Args:
        skip_layers: As for ``examine``.
        sandbox: As for ``examine``.

    Raises:
        ValueError: There is no such layer to leave out.
    """
    layers: tuple[LayerStatus, ...] = ()
    fault = ""
    try:
        layers = examine(skip_layers=skip_layers, sandbox=sandbox)
    except SandboxUnavailableError as error:
        fault = str(error)
        layers = tuple(layer for layer in error.layers if isinstance(layer, LayerStatus))
    except PluginError as error:
        fault = str(error)
    try:
        return Diagnosis(layers, total_bytes(), budget_bytes(MAX_MEMORY_FRACTION), fault)
    except (OSError, ValueError):
        return Diagnosis(layers, 0, 0, fault)
