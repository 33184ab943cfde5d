"""Train PyTorch models with plugins you do not have to trust.

This is the public API for authors of plugins: what hooks receive and return,
and the errors. Users of the command line need none of it.
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
from .version import __version__

if TYPE_CHECKING:
    from .hooks.connect import connect
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

__all__ = [
    "AnotherPass",
    "Batch",
    "CheckpointError",
    "DataError",
    "Gradients",
    "Histogram",
    "IncompatiblePluginError",
    "JobError",
    "LossScale",
    "LossTerm",
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
    "RunAbortedError",
    "SandboxUnavailableError",
    "StepInfo",
    "TensorMap",
    "TensorSpec",
    "__version__",
    "connect",
    "derive_seed",
    "passthrough",
]


def __getattr__(name: str) -> object:
    """Import what plugins use on first use.

    What hooks receive needs torch, whose import takes seconds; the command line,
    which imports this package too, must answer ``--help`` at once.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .imports.import_guard import guard_imports  # noqa: PLC0415 - the point of this function

    with guard_imports():
        if name == "connect":
            from .hooks.connect import connect as value  # noqa: PLC0415
        else:
            from .hooks import types  # noqa: PLC0415

            value = getattr(types, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
