"""The tests that every plugin must pass; a subclass that names its plugin inherits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from packaging.version import Version

from ..compat.version_range import window
from ..hooks.permissions import MAX_MEMORY_FRACTION, VERBS
from ..hooks.series import Index
from ..isolation.host.limits.memory_budget import total_bytes
from ..version import __version__
from .job_runs import JobRun, SmallJob, run_jobs

if TYPE_CHECKING:
    import torch

    from .fixture_types import StartPlugin
    from .plugin_host import StartedPlugin

#: Workers that share the work of an augment plugin where their number is to make no difference.
WORKERS = 3
_STEPS = 4
_SPLIT = 2


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one class of tests.

    Attributes:
        sandboxed: The plugin in its sandbox.
        trusted: The same job with the plugin in the trainer's process; None if the class does not allow it.
    """

    sandboxed: JobRun
    trusted: JobRun | None = None


class Conformance:
    """Hold a plugin to what ringfence expects of each; subclass it under a name that pytest collects.

    Attributes:
        plugin: Name of the plugin, which has to be installed (``pip install -e .``).
        options: Its options in all of the tests, as a job has them.
        settings: What stands beside its name in a job, such as the grants that it needs.
        job: Keys of the small job that are to differ: ``model``, ``data``, ``steps`` …
        trusted: Whether it may run outside its sandbox too, to compare the two. Say so of your own code only.
        dtypes: Of inputs, outputs, parameters and gradients, as torch calls them.
        batch_sizes: Samples of a batch; a run's last batch may have but one.
        memory_bytes: Memory that has to be enough for it in the small job.
        deadline_s: Longest that one call may take.
    """

    plugin: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    settings: ClassVar[Mapping[str, Any]] = {}
    job: ClassVar[Mapping[str, Any]] = {}
    trusted: ClassVar[bool] = False
    dtypes: ClassVar[Sequence[str]] = ("float32", "float64")
    batch_sizes: ClassVar[Sequence[int]] = (8, 1)
    memory_bytes: ClassVar[int] = 512 * 2**20
    deadline_s: ClassVar[float] = 5.0

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test of each series, dtype and size of a batch."""
        if not metafunc.function.__qualname__.startswith(f"{Conformance.__qualname__}."):
            return  # a subclass's own test, which may use these names for something else
        if "series" in metafunc.fixturenames:
            needed = window(Index.read(), Version(__version__))
            metafunc.parametrize("series", [known.name for known in needed])
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", self.dtypes)
        if "batch_size" in metafunc.fixturenames:
            metafunc.parametrize("batch_size", self.batch_sizes)

    def test_it_fits_each_series(self, ringfence_plugin: StartPlugin, series: str) -> None:
        """By its declared range, its source and its loaded class; a core refuses it otherwise."""
        verdict = self._start(ringfence_plugin).verdict

        if series not in verdict.window:
            pytest.skip(
                f"it need not fit {series}: it is released in step with ringfence, or {series} lacks its role"
            )
        assert verdict.decision == "accepted", verdict.message()

    def test_its_class_is_what_its_source_says(self, ringfence_plugin: StartPlugin) -> None:
        """Both methods are there, a pass-through is told as such, and not both are."""
        plugin = self._start(ringfence_plugin)
        written = {
            method.name: None if method.passthrough else method.arguments
            for method in plugin.item.source.methods.values()
        }

        assert plugin.accepts, "forward and backward are both pass-throughs, so it does nothing"
        assert written.keys() <= {"forward", "backward"}
        for method, arguments in written.items():
            assert (plugin.accepts.get(method) is None) == (arguments is None), (
                f"{method} is a pass-through in one of source and loaded class, and not in the other"
            )

    def test_its_results_fit(self, ringfence_plugin: StartPlugin, dtype: str, batch_size: int) -> None:
        """Names, shapes and dtypes are those that the hook asks for, and every number is finite."""
        from .drive import drive  # noqa: PLC0415 - imports torch

        plugin = self._start(ringfence_plugin)

        assert drive(plugin, range(_SPLIT), size=batch_size, dtype=_dtype(dtype))

    def test_the_same_steps_give_the_same_bits(self, ringfence_plugin: StartPlugin) -> None:
        """What it draws comes from ``step.generator()`` or ``step.sample_seeds()``, not from elsewhere."""
        from .drive import drive  # noqa: PLC0415 - imports torch

        first, second = (drive(self._start(ringfence_plugin), range(_STEPS)) for _ in range(2))

        assert first == second, "two fresh processes came to other results for the same steps"

    def test_the_number_of_workers_changes_nothing(self, ringfence_plugin: StartPlugin) -> None:
        """What a worker does to a batch depends on the batch and its step, not on what it did before."""
        from . import samples  # noqa: PLC0415 - imports torch
        from .drive import digest  # noqa: PLC0415 - imports torch

        one = self._start(ringfence_plugin, workers=1)
        if not one.item.spec.role_info.runs_ahead or "backward" in one.accepts:
            pytest.skip("it runs in one process; only augment plugins that do not learn are shared out")
        many = self._start(ringfence_plugin, workers=WORKERS)
        batches = [samples.batch(seed=seed) for seed in range(3 * WORKERS)]

        alone, shared = ([digest(called) for called in plugin.stream(batches)] for plugin in (one, many))

        assert alone == shared, (
            f"{WORKERS} workers came to other results than one; draw from the step, by sample"
        )

    def test_it_takes_trees(self, ringfence_plugin: StartPlugin, batch_size: int) -> None:
        """Inputs and outputs that are dicts and lists, as its class says with ``takes_trees = True``."""
        from .drive import drive  # noqa: PLC0415 - imports torch

        plugin = self._start(ringfence_plugin)
        if not plugin.takes_trees:
            pytest.skip(
                "its class does not say 'takes_trees = True', so it is refused where data are no tensor"
            )

        sandboxed = drive(plugin, range(_SPLIT), size=batch_size, kind="tree")

        assert sandboxed
        if self.trusted:
            trusted = drive(plugin.trusted(), range(_SPLIT), size=batch_size, kind="tree")
            assert sandboxed == trusted, "it came to other results without its sandbox"

    def test_its_state_is_whole(self, ringfence_plugin: StartPlugin) -> None:
        """Given its state, it goes on as if it had never stopped; without any, it has nothing to keep."""
        from .drive import drive  # noqa: PLC0415 - imports torch

        straight, resumed = self._start(ringfence_plugin), self._start(ringfence_plugin)
        drive(straight, range(_SPLIT))
        state = straight.state()
        if state is not None:
            resumed.load_state(state)
            assert _bytes(resumed.state()) == _bytes(state), (
                "state_dict() gives back another state than was loaded"
            )
        rest = range(_SPLIT, _STEPS)

        assert drive(resumed, rest) == drive(straight, rest), (
            "its results depend on what it keeps from the steps before; state_dict() and load_state_dict() "
            + ("are missing" if state is None else "leave some of that out")
        )
        assert _bytes(resumed.state()) == _bytes(straight.state())

    def test_it_trains_in_its_sandbox(self, ringfence_runs: Runs) -> None:
        """Every step of a small job, without one fault."""
        run = ringfence_runs.sandboxed

        assert run.completed, run.error
        assert run.usage["isolation"] == "sandbox"
        assert run.usage["layers"]
        assert run.usage["calls"] > 0

    def test_it_keeps_within_its_budget(self, ringfence_runs: Runs) -> None:
        """``memory_bytes`` are enough, all its workers together."""
        run = ringfence_runs.sandboxed

        assert not _faults(run, "PluginMemoryError"), run.error
        assert run.usage["peak_bytes"] <= run.usage["budget_bytes"]

    def test_it_answers_in_time(self, ringfence_runs: Runs) -> None:
        """No call takes longer than ``deadline_s``."""
        run = ringfence_runs.sandboxed

        assert not _faults(run, "PluginTimeoutError"), run.error

    def test_the_host_never_imports_it(self, ringfence_runs: Runs) -> None:
        """The trainer reads it as text; what it installs does not run there by itself either."""
        assert ringfence_runs.sandboxed.host_imported == ()

    def test_the_sandbox_changes_no_bit(self, ringfence_runs: Runs) -> None:
        """The same weights and the same numbers as in the trainer's own process."""
        sandboxed, trusted = ringfence_runs.sandboxed, ringfence_runs.trusted
        if trusted is None:
            pytest.skip(
                "write 'trusted = True' in the class to have your own plugin run without its sandbox too"
            )

        assert sandboxed.completed, sandboxed.error
        assert trusted.completed, trusted.error
        assert trusted.usage["isolation"] == "trusted"
        assert sandboxed.weights_sha256 == trusted.weights_sha256
        assert sandboxed.everything_logged() == trusted.everything_logged()

    def _start(self, start: StartPlugin, **settings: Any) -> StartedPlugin:
        return start(
            self.plugin, self.options, settings={"deadline_s": self.deadline_s, **self.settings, **settings}
        )


def runs_of(cls: type[Conformance] | None, folder: Path) -> Runs:
    """Make the runs of a class of tests.

    Args:
        cls: The class.
        folder: Where they are left.
    """
    if cls is None or not issubclass(cls, Conformance):
        raise TypeError("ringfence_runs is for the tests of a Conformance; ringfence_job runs any job")
    settings = {
        "deadline_s": cls.deadline_s,
        "memory_fraction": min(MAX_MEMORY_FRACTION, cls.memory_bytes / total_bytes()),
        "on_failure": "abort",
        **cls.settings,
    }
    jobs = [SmallJob(cls.plugin, cls.options, settings, cls.job)]
    if cls.trusted:
        # What is trusted may do all that the trainer may, so it can be granted nothing.
        free = {key: value for key, value in settings.items() if key not in VERBS}
        jobs.append(SmallJob(cls.plugin, cls.options, {**free, "isolation": "trusted"}, cls.job))
    return Runs(*run_jobs(jobs, folder))


def _faults(run: JobRun, error: str) -> list[Mapping[str, Any]]:
    return [fault for fault in run.faults if fault["error"] == error and fault["plugin"] == run.plugin]


def _bytes(state: object) -> bytes:
    from ..tensors import pytree  # noqa: PLC0415 - imports torch

    return pytree.encode(state).to_bytes()


def _dtype(name: str) -> torch.dtype:
    import torch  # noqa: PLC0415 - not before it is needed

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"dtypes has '{name}', which is no dtype of torch")
    return found
