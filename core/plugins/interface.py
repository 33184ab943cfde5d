"""The interface of a plugin to the engine and the manager, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..hooks.errors import PluginError
from ..hooks.permissions import MAX_MEMORY_FRACTION, Permissions
from ..hooks.role import DEADLINE_S, OnFailure, Role
from ..hooks.specs import ROLES
from ..hooks.types import Batch, StepInfo, TensorMap
from ..imports.digested_imports import DigestedFiles
from ..tensors.tensor_file import TensorFile
from .earlier_series import Lack
from .machine_memory import machine_bytes
from .printed_output import Output

#: Share of the machine's memory that all sandboxed plugins of a job may have together; the rest is the
#: trainer's and the system's.
MAX_FRACTION_TOGETHER = 0.9
#: How often a plugin's state may lie in memory at one time: in the plugin, on its way out of it, and in the
#: run's snapshots, the old one and the new. More than this share of its memory it cannot have.
COPIES_OF_STATE = 4

#: What an observing plugin may ask for, and what the number begins with that says so.
ASKS = ("stop", "evaluate")
ASKED = "ask/"


def excess_state(nbytes: int, memory_bytes: int) -> str | None:
    """Return why a plugin's state of ``nbytes`` is too large, None if it is not.

    Args:
        nbytes: What the state takes as ``hooks.plain`` encodes it.
        memory_bytes: What the plugin may use: its budget, or the whole machine if it has none.
    """
    limit = memory_bytes // COPIES_OF_STATE
    if nbytes <= limit:
        return None
    return (
        f"its state takes {nbytes} bytes; at most {limit}, a quarter of the memory that it may use, as "
        f"saving takes up to {COPIES_OF_STATE} copies. Keep less in state_dict(), give it a larger "
        "memory_fraction, or use a machine with more memory"
    )


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
        allow: What an observing plugin may ask for, of ``ASKS``.
        deadline_s: Longest that one call may take.
        start_deadline_s: Longest that importing and constructing may take.
        on_failure: What happens after a fault.
        memory_fraction: Share of the machine's memory, at most 0.15.
        search_path: Folders that hold its code: put on ``sys.path``.
        readable: Files and folders of its code that it may read.
        roots: Dotted module to its file, for code whose surrounding folder the sandbox may not list.
        job_seed: Seed of the job.
        lack: What is to be hidden from it, so that it runs as with an earlier series; None as a rule.
        permissions: What it says that it needs, and what the job grants it; a trusted plugin needs no grant.
        digested: What it is made of, to which a sandbox holds what it imports; None if nobody has looked.
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
    allow: tuple[str, ...] = ()
    deadline_s: float = DEADLINE_S
    start_deadline_s: float = 60.0
    on_failure: OnFailure = "restart"
    memory_fraction: float = MAX_MEMORY_FRACTION
    search_path: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)
    job_seed: int = 0
    lack: Lack | None = None
    permissions: Permissions = Permissions()  # noqa: RUF009 - frozen
    digested: DigestedFiles | None = field(default=None, repr=False)

    @property
    def role_info(self) -> Role:
        """The role's properties."""
        return ROLES[self.role]


@dataclass(slots=True)
class PluginUsage:
    """The cost of a plugin so far; every figure is measured by the host.

    Attributes:
        state: ``"running"``, ``"disabled"``, ``"failed"`` or ``"closed"``.
        layers: Sandbox layers verified as active, in the order of application.
        budget_bytes: Memory that all its workers may use together; 0 if not bounded.
        state_of_bytes: The memory that ``excess_state`` holds its state against.
        memory_bytes: Memory of its own that its workers use now, together.
        peak_bytes: The most of it so far.
        calls: Calls of its hooks.
        seconds: Time that it spent inside them.
        restarts: Times it was started anew after a fault.
        skipped: Snapshots that it was too busy to take.
        demoted: Why it gets only the processor time that nobody else wants, as the end of a sentence
            about it; ``""`` as long as it takes no more than the job allows.
        attempts: What it tried and was refused, in words with the system call's name, to how often;
            None where that cannot be told.
        attempts_at_least: Whether there were more than were counted.
        output: What it printed; nothing of a trusted one, whose lines go where the trainer's go.
        traceback: Of its own code at its last fault, as text; ``""`` if none is known.
        left_files: What lay in its working folder as a process of it ended, in words; ``""`` if nothing did.
    """

    state: Literal["running", "disabled", "failed", "closed"] = "running"
    layers: tuple[str, ...] = ()
    budget_bytes: int = 0
    state_of_bytes: int = field(default_factory=machine_bytes)
    memory_bytes: int = 0
    peak_bytes: int = 0
    calls: int = 0
    seconds: float = 0.0
    restarts: int = 0
    skipped: int = 0
    demoted: str = ""
    attempts: Mapping[str, int] | None = None
    attempts_at_least: bool = False
    output: Output = field(default_factory=Output)
    traceback: str = ""
    left_files: str = ""


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

    @property
    def keeps_state(self) -> bool:
        """Whether its class has both ``state_dict`` and ``load_state_dict``."""

    @property
    def reads_bytes(self) -> bool:
        """Whether it is given images of bytes as a ``ByteBatch``; it returns numbers all the same."""

    @property
    def takes_trees(self) -> bool:
        """Whether it knows inputs, targets and outputs that are dicts and lists of tensors."""

    @property
    def one_pass(self) -> bool:
        """Whether it never asks for ``AnotherPass``, so that nothing need be kept for one."""

    def call(
        self, method: str, arguments: Mapping[str, Any], step: StepInfo, into: TensorMap | None = None
    ) -> Any:
        """Run ``forward`` or ``backward`` and return its checked result.

        Args:
            method: ``"forward"`` or ``"backward"``; must be in ``accepts``.
            arguments: At least those of ``accepts[method]``, without ``step``.
            step: Made by ``StepInfo.for_plugin``; afterwards ``step.scalars`` holds what was logged, a
                result that is a number by the name of its method.
            into: Where a map goes that replaces an argument, laid out like that argument and maybe the
                argument itself; the result then is this. A fault leaves it undefined. By default the result
                is valid until the next call, and a fault changes nothing.
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

    def state_dict(self) -> TensorFile | None:
        """Return a copy of the plugin's state, as ``hooks.plain`` encodes it; None if it keeps none.

        It is of a size that ``excess_state`` admits.
        """

    def load_state_dict(self, state: TensorFile) -> None:
        """Give back a state that ``state_dict`` returned; ``state`` stays as it is."""

    def restart(self) -> None:
        """Replace its processes by fresh ones, with nothing loaded."""

    def close(self) -> None:
        """End its processes and free what it held; safe to call twice."""
