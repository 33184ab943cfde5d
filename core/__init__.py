"""Train PyTorch models with plugins you do not have to trust.

This is the public API: ``train``, ``open_run``, ``load``, ``evaluate`` and ``predict`` for programs, what
hooks receive and return for authors of plugins, and the errors. Users of the command line need none of it.
"""

from typing import TYPE_CHECKING

from .hooks.errors import (
    CheckpointError,
    DataError,
    IncompatiblePluginError,
    JobError,
    PluginCrashedError,
    PluginError,
    PluginLoadError,
    PluginMemoryError,
    PluginProtocolError,
    PluginRaisedError,
    PluginTimeoutError,
    RingfenceError,
    RunAbortedError,
    SandboxUnavailableError,
)
from .imports.import_guard import guard_program
from .version import __version__

if TYPE_CHECKING:
    from .api.finished_run import Run, Series, open_run
    from .api.training import train
    from .engine.schedules import make_schedule
    from .hooks.connect import connect
    from .hooks.trees import map_tensors, tensors_of
    from .hooks.types import (
        AnotherPass,
        Batch,
        Gradients,
        Histogram,
        LossScale,
        LossTerm,
        Parameters,
        Report,
        StepInfo,
        TensorMap,
        TensorSpec,
        derive_seed,
        passthrough,
    )
    from .inference.evaluate_run import evaluate
    from .inference.load import load
    from .inference.predict import predict
    from .integrations.open_host import plugin_host
    from .job.job_file import Job
    from .plugins.observer import Observer, RunInfo

#: Public names that lie elsewhere than most, each with its module.
_ELSEWHERE = {
    "Job": "job.job_file",
    "Observer": "plugins.observer",
    "Run": "api.finished_run",
    "RunInfo": "plugins.observer",
    "Series": "api.finished_run",
    "connect": "hooks.connect",
    "evaluate": "inference.evaluate_run",
    "load": "inference.load",
    "make_schedule": "engine.schedules",
    "map_tensors": "hooks.trees",
    "open_run": "api.finished_run",
    "plugin_host": "integrations.open_host",
    "predict": "inference.predict",
    "tensors_of": "hooks.trees",
    "train": "api.training",
}

__all__ = [
    "AnotherPass",
    "Batch",
    "CheckpointError",
    "DataError",
    "Gradients",
    "Histogram",
    "IncompatiblePluginError",
    "Job",
    "JobError",
    "LossScale",
    "LossTerm",
    "Observer",
    "Parameters",
    "PluginCrashedError",
    "PluginError",
    "PluginLoadError",
    "PluginMemoryError",
    "PluginProtocolError",
    "PluginRaisedError",
    "PluginTimeoutError",
    "Report",
    "RingfenceError",
    "Run",
    "RunAbortedError",
    "RunInfo",
    "SandboxUnavailableError",
    "Series",
    "StepInfo",
    "TensorMap",
    "TensorSpec",
    "__version__",
    "connect",
    "derive_seed",
    "evaluate",
    "load",
    "make_schedule",
    "map_tensors",
    "open_run",
    "passthrough",
    "plugin_host",
    "predict",
    "tensors_of",
    "train",
]


def __getattr__(name: str) -> object:
    """Import what plugins and programs use on first use.

    What hooks receive needs torch, whose import takes seconds; the command line,
    which imports this package too, must answer ``--help`` at once.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - the point of this function

    module = import_module(f".{_ELSEWHERE.get(name, 'hooks.types')}", __name__)
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Before anything else of the user's program is imported: later nothing would be prevented.
guard_program()
