"""What the engine and the manager know of a plugin, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .errors import PluginError
from .specs import ROLES, OnFailure, Role
from .types import Batch, StepInfo


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """One plugin of one job, before it is started.

    Attributes:
        name: Entry-point name, unique in the job.
        distribution: Name of the installed distribution that declares it.
        version: Version of that distribution.
        module: Module of the entry point; imported inside the sandbox only.
        qualname: Class within the module.
        role: Key of ``ROLES``.
        options: Keyword arguments of the constructor; plain data.
        isolation: ``"sandbox"``, or ``"trusted"`` for the trainer's own process.
        workers: Processes that share the budget; > 1 only where the role runs ahead.
        threads: Threads that torch may use inside one call, isolated or not.
        every: Steps between calls of an observing plugin.
        deadline_s: Longest that one call may take.
        start_deadline_s: Longest that importing and constructing may take.
        on_failure: What happens after a fault.
        memory_fraction: Share of the machine's memory, at most 0.15.
        search_path: Folders that hold its code: put on ``sys.path``.
        readable: Files and folders of its code that it may read; the search path if empty.
        roots: Dotted module to its file, for code whose surrounding folder the sandbox may not list.
        job_seed: Seed of the job.
    """

    name: str
    distribution: str
    version: str
    module: str
    qualname: str
    role: str
    options: Mapping[str, Any] = field(default_factory=dict)
    isolation: Literal["sandbox", "trusted"] = "sandbox"
    workers: int = 1
    threads: int = 1
    every: int = 1
    deadline_s: float = 30.0
    start_deadline_s: float = 60.0
    on_failure: OnFailure = "restart"
    memory_fraction: float = 0.15
    search_path: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)
    job_seed: int = 0

    @property
    def role_info(self) -> Role:
        """The role's properties."""
        return ROLES[self.role]


@dataclass(slots=True)
class PluginUsage:
    """What a plugin has cost so far; every figure is measured by the host.

    Attributes:
        state: ``"running"``, ``"disabled"``, ``"failed"`` or ``"closed"``.
        layers: Sandbox layers verified as active, in the order of application.
        budget_bytes: Memory that all its workers may use together; 0 if not bounded.
        memory_bytes: Memory of its own that its workers use now, together.
        peak_bytes: The most of it so far.
        calls: Calls of its hooks.
        seconds: Time that it spent inside them.
        restarts: Times it was started anew after a fault.
        skipped: Snapshots that it was too busy to take.
    """

    state: Literal["running", "disabled", "failed", "closed"] = "running"
    layers: tuple[str, ...] = ()
    budget_bytes: int = 0
    memory_bytes: int = 0
    peak_bytes: int = 0
    calls: int = 0
    seconds: float = 0.0
    restarts: int = 0
    skipped: int = 0


class Plugin(Protocol):
    """A started plugin: a stand-in for one in a sandbox, or one in this process.

    ``call`` is synchronous. Results are host-owned and checked: names, shapes and
    dtypes as the hook's documentation says, every number finite. A fault is
    raised as the ``PluginError`` that fits, with plugin, hook and step filled in.
    """

    spec: PluginSpec
    usage: PluginUsage
    #: Method to the arguments that it takes, in its own order; a pass-through is absent.
    accepts: Mapping[str, tuple[str, ...]]

    def call(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> Any:
        """Run ``forward`` or ``backward`` and return its checked result.

        Args:
            method: ``"forward"`` or ``"backward"``; must be in ``accepts``.
            arguments: At least those of ``accepts[method]``, without ``step``.
            step: Made by ``StepInfo.for_plugin``; afterwards ``step.scalars`` holds what was logged.
        """

    def stream(
        self,
        batches: Iterable[tuple[Batch, StepInfo]],
        *,
        done: Callable[[StepInfo], None],
        failed: Callable[[PluginError], None],
    ) -> Iterator[tuple[Batch, StepInfo]]:
        """Run ``forward`` over ``batches`` ahead of the caller and yield the results in order.

        Args:
            batches: Pulled ahead of need. Each ``StepInfo`` is the job's, not yet the plugin's.
            done: Called with the plugin's own step, once its call has finished and before it is yielded.
            failed: Called with a fault. If it returns, this batch and all that follow pass unchanged.

        Closing the iterator waits for calls in flight, at most ``deadline_s``, and forgets them.
        """

    def post(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> bool:
        """Start a call on a copy of ``arguments`` without waiting; False if the plugin is still busy."""

    def poll(self) -> list[tuple[StepInfo, Any]]:
        """Return (step, Report or None) of posted calls that have finished; never blocks."""

    def drain(self) -> list[tuple[StepInfo, Any]]:
        """Wait for posted calls, at most ``deadline_s``, and return them as ``poll`` does."""

    def state_dict(self) -> Any:
        """Return the plugin's state as plain data; None if it keeps none."""

    def load_state_dict(self, state: Any) -> None:
        """Give back a state that ``state_dict`` returned."""

    def restart(self) -> None:
        """Replace its processes by fresh ones, with nothing loaded."""

    def close(self) -> None:
        """End its processes and free what it held; safe to call twice."""
