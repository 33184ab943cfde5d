"""The sandbox of the plugins of one run, or of a loop that is not ours: started if one of them needs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ..hooks.errors import RingfenceError
from ..hooks.roles.optimizer import OPTIMIZER
from ..isolation.host.processes.zygote_process import EarlyZygote
from ..isolation.sandbox import Sandbox
from ..plugins.interface import Plugin, PluginSpec
from ..plugins.stop_request import StopRequest
from .load_plugins import Planned, Start


def open_sandbox(
    planned: Sequence[Planned],
    stack: ExitStack,
    *,
    stop: StopRequest | None = None,
    zygote: EarlyZygote | None = None,
) -> Sandbox | None:
    """Start a sandbox, which ends with ``stack``; None if every plugin is trusted.

    Args:
        planned: The plugins.
        stack: Ends it.
        stop: Cuts off what is waited for, once the user wants the run to end.
        zygote: Taken if it is there still.

    Raises:
        SandboxUnavailableError: This machine has not what every sandbox needs.
    """
    roles = [item.spec.role for item in planned if item.spec.isolation == "sandbox"]
    if not roles:
        return None
    optimizer = OPTIMIZER.name in roles
    return stack.enter_context(Sandbox(plugins=len(roles), optimizer=optimizer, stop=stop, zygote=zygote))


def starter(sandbox: Sandbox | None) -> Start:
    """Return what starts plugins in ``sandbox``, as ``load`` takes it."""

    def start(spec: PluginSpec) -> Plugin:
        if sandbox is None:
            raise RingfenceError(f"plugin '{spec.name}' is to be sandboxed, but no sandbox was started")
        return sandbox.start(spec)

    return start
