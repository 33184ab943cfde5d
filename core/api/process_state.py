"""The state of a process that training changes, put back when it is over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ..imports.entry_point_autoload import forbid_autoload
from ..run.process_setup import share_processors

if TYPE_CHECKING:
    from torch import nn

    from ..reproducibility.generator_states import RunRng

_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "OMP_WAIT_POLICY",
    "PYDANTIC_DISABLE_PLUGINS",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
)


@contextlib.contextmanager
def own_environment() -> Iterator[None]:
    """Have what is imported meanwhile find the environment that the command sets; put it back at the end."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    forbid_autoload()
    share_processors()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def given_model(model: object) -> Iterator[None]:
    """Leave a module that a program has given in the modes it had, in memory of its own, without gradients.

    Args:
        model: Nothing is done with what is no module.
    """
    modes = [(module, module.training) for module in getattr(model, "modules", tuple)()]
    try:
        yield
    finally:
        if modes:
            for module, training in modes:
                module.training = training
            for parameter in cast("nn.Module", model).parameters():
                # What plugins could read has been the run's, and counts as shared.
                parameter.data, parameter.grad = parameter.data.clone(), None


class TorchState:
    """The state of torch in this process: threads, modes, defaults, and all global random generators.

    Meanwhile torch is as it is in a process of its own: a job gets the weights that the command gives it.
    """

    def __init__(self) -> None:
        self._stack: contextlib.ExitStack | None = None

    def keep(self) -> None:
        """Note it, and make torch as it is in a process of its own; called once torch is imported."""
        import torch  # noqa: PLC0415 - a second, which the caller has spent by then

        self._stack = stack = contextlib.ExitStack()
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.enter_context(_preserved_generators())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        device_before = torch.get_default_device()
        if device_before.type != "cpu":
            stack.callback(torch.set_default_device, device_before)
            torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)

    def restore(self) -> None:
        """Put it back; nothing where nothing was noted."""
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()


@contextlib.contextmanager
def _preserved_generators() -> Iterator[None]:
    import torch  # noqa: PLC0415 - as above

    from ..reproducibility.generator_states import RunRng  # noqa: PLC0415 - as above

    cpu = torch.device("cpu")
    rng: RunRng = RunRng.capture(cpu)
    # One that was never used has no state yet, and is seeded when it is.
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    on_gpus: list[Any] = torch.cuda.get_rng_state_all() if used else []
    try:
        yield
    finally:
        rng.restore(cpu)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
