"""The kit for authors: run a plugin in a real sandbox, and hold it to what every plugin must do.

    from ringfence.testing import run_job

    def test_it_trains(tmp_path):
        run = run_job("halve", {"factor": 0.25}, folder=tmp_path)
        assert run.completed, run.error

``Conformance`` has the tests that every plugin must pass; a subclass that names its
plugin inherits them. ``PluginHost`` calls a plugin's methods in its sandbox, without a
job. Fixtures for pytest are in ``fixtures.py``, which pytest finds by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..imports.entry_point_autoload import forbid_autoload
from ..imports.import_guard import guard_imports

if TYPE_CHECKING:
    from . import samples
    from .conformance import Conformance
    from .fixture_types import RunJob, StartPlugin
    from .job_runs import JobRun, SmallJob, run_job, run_jobs
    from .plugin_host import Called, PluginHost, StartedPlugin

#: Name to the module that has it; ``samples`` is one itself.
_HOMES = {
    "Called": "plugin_host",
    "Conformance": "conformance",
    "JobRun": "job_runs",
    "PluginHost": "plugin_host",
    "RunJob": "fixtures",
    "SmallJob": "job_runs",
    "StartPlugin": "fixtures",
    "StartedPlugin": "plugin_host",
    "run_job": "job_runs",
    "run_jobs": "job_runs",
    "samples": "samples",
}

__all__ = [
    "Called",
    "Conformance",
    "JobRun",
    "PluginHost",
    "RunJob",
    "SmallJob",
    "StartPlugin",
    "StartedPlugin",
    "run_job",
    "run_jobs",
    "samples",
]


def __getattr__(name: str) -> object:
    """Import what is used on first use: pytest imports this package whenever ringfence is installed.

    What needs torch is imported as the command imports it: with nobody's plugin in it.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    forbid_autoload()
    with guard_imports():
        module = import_module(f".{_HOMES[name]}", __name__)
    value = module if name == _HOMES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
