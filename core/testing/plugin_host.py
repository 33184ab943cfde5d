"""Call a plugin's methods in its sandbox, without a job around it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ..compat.findings import Verdict
from ..hooks.errors import IncompatiblePluginError, PluginError
from ..hooks.types import Batch, StepInfo
from ..imports.import_guard import current
from ..isolation.sandbox import Sandbox
from ..job.job_file import check_job
from ..job.yaml_document import dump_yaml, parse_yaml
from ..plugins.interface import Plugin, PluginUsage
from ..plugins.local_plugin import LocalPlugin
from ..plugins.result_kinds import kinds_of
from ..run.load_plugins import Planned, confirm, plan
from ..tensors import pytree
from .job_runs import SmallJob


@dataclass(frozen=True, slots=True)
class Called:
    """What became of one call.

    Attributes:
        result: What the method returned, as the host has checked it; the caller's own.
        logged: What it logged, by name.
    """

    result: Any
    logged: Mapping[str, float]


class StartedPlugin:
    """A plugin that runs in a sandbox of its own.

    Args:
        item: How it was found and checked.
        plugin: The plugin, started.
        verdict: What its class was judged to be, once loaded.
    """

    def __init__(self, item: Planned, plugin: Plugin, verdict: Verdict) -> None:
        self.item = item
        self.verdict = verdict
        self._plugin = plugin

    @property
    def accepts(self) -> Mapping[str, tuple[str, ...]]:
        """Method to the arguments that it takes; a pass-through is absent."""
        return self._plugin.accepts

    @property
    def usage(self) -> PluginUsage:
        """What it has cost so far."""
        return self._plugin.usage

    @property
    def keeps_state(self) -> bool:
        """Whether it has both ``state_dict`` and ``load_state_dict``."""
        return self._plugin.keeps_state

    @property
    def takes_trees(self) -> bool:
        """Whether it says that it knows inputs, targets and outputs that are dicts and lists of tensors."""
        return self._plugin.takes_trees

    def trusted(self) -> StartedPlugin:
        """Return the same plugin, loaded anew in this process: its code runs without a sandbox."""
        if (guard := current()) is not None:
            guard.allow(self.item.spec.distribution)
        return StartedPlugin(self.item, LocalPlugin(self.item.spec), self.verdict)

    def call(self, method: str, *, step: StepInfo | int = 0, **arguments: Any) -> Called:
        """Call ``forward`` or ``backward`` and return what came back, checked as in a run.

        Args:
            method: Its name.
            step: The job's step, or only its number.
            arguments: At least those that the method takes, and the one that its result replaces: a result
                is held to that one's shape.

        Raises:
            PluginError: It failed.
            ValueError: It is a pass-through, or an argument is missing; ``samples`` has all.
        """
        spec = self.item.spec
        taken = self.accepts.get(method)
        if taken is None:
            raise ValueError(f"'{spec.name}' has nothing to call; its {method} is a pass-through")
        needed = dict.fromkeys([*taken, kinds_of(spec.role_info)[method].measured_by])
        missing = [name for name in needed if name not in {"step", "", *arguments}]
        if missing:
            raise ValueError(f"{spec.role}.{method} of '{spec.name}' needs {', '.join(missing)} too")
        own = _job_step(step).for_plugin(spec.job_seed, spec.name)
        result = self._plugin.call(method, arguments, own)
        # A run uses a result before the next call, which may come in the same memory; a test compares two.
        return Called(copy.deepcopy(result), dict(own.scalars))

    def stream(self, batches: Iterable[Batch]) -> list[Called]:
        """Run ``forward`` of an augment plugin over batches of successive steps, on all its workers.

        Raises:
            PluginError: It failed.
        """
        steps = ((batch, StepInfo(number)) for number, batch in enumerate(batches))
        logged: list[Mapping[str, float]] = []
        results = self._plugin.stream(
            steps, done=lambda step: logged.append(dict(step.scalars)), failed=_raise
        )
        return [Called(batch, logged[number]) for number, (batch, _) in enumerate(results)]

    def state(self) -> Any:
        """Return what ``state_dict()`` gives, after its way out of the sandbox; None if it keeps none."""
        state = self._plugin.state_dict()
        return None if state is None else pytree.decode(state)

    def load_state(self, state: Any) -> None:
        """Give it a state that ``state`` returned."""
        self._plugin.load_state_dict(pytree.encode(state))

    def close(self) -> None:
        """End its processes; safe to call twice."""
        self._plugin.close()


class PluginHost:
    """Starts plugins in sandboxes; a context manager.

    Raises:
        SandboxUnavailableError: This machine lacks what every sandbox needs.
    """

    def __init__(self) -> None:
        self._sandbox = Sandbox()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(
        self,
        plugin: str,
        options: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> StartedPlugin:
        """Find a plugin, check it, start it in a sandbox and check its class, as a run does.

        Args:
            plugin: Its name; it has to be installed.
            options: Its options, as a job has them.
            settings: What stands beside its name in a job: ``workers``, ``read``, ``deadline_s`` …

        Raises:
            JobError: It is not installed, or an option or setting is wrong.
            IncompatiblePluginError: It does not fit a series that it must work with.
            PluginError: It could not be loaded within its limits.
            SandboxUnavailableError: It cannot be isolated on this machine.
            ValueError: It is to be trusted; only a run can do that.
        """
        document = SmallJob(plugin, options or {}, settings or {}).document()
        job = check_job(parse_yaml(dump_yaml(document), f"a job with '{plugin}'"))
        item = next(found for found in plan(job, command=None) if found.spec.name == plugin)
        if item.spec.isolation == "trusted":
            raise ValueError(
                f"'{plugin}' is to be trusted, and what is started here is not; run a job with it"
            )
        started = self._sandbox.start(item.spec)
        verdict = confirm(item, started.accepts)
        if verdict.decision != "accepted":
            started.close()
            raise IncompatiblePluginError(verdict.message())
        return StartedPlugin(item, started, verdict)

    def close(self) -> None:
        """End all plugins; safe to call twice."""
        self._sandbox.close()


def _job_step(step: StepInfo | int) -> StepInfo:
    return StepInfo(step) if isinstance(step, int) else step


def _raise(error: PluginError) -> None:
    raise error
