"""State that modules give with ``get_extra_state`` and take with ``set_extra_state``, as in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..hooks.errors import DataError
from ..tensors import pytree
from ..tensors.tensor_file import TensorFile
from .tensor_names import plain_name

#: Of one module's tensors. Large ones belong into buffers, which a checkpoint keeps beside the parameters.
MAX_BYTES = 16 << 20
#: Of all modules; they share a file of a checkpoint with the engine's own state, of which 64 MiB are read.
MAX_ALL_BYTES = 48 << 20


def has_extra_state(module: nn.Module) -> bool:
    """Tell whether a module says what it keeps beside its parameters and buffers."""
    return type(module).get_extra_state is not nn.Module.get_extra_state


def gives_extra_state(model: nn.Module) -> bool:
    """Tell whether any module of a model does."""
    return any(map(has_extra_state, model.modules()))


def copy_extra_state(model: nn.Module) -> dict[str, Any]:
    """Return name of a module to a copy of what it gives, for those that give something.

    Raises:
        DataError: It is no plain data, or too much.
    """
    copies, nbytes = {}, 0
    for name, module in _givers(model).items():
        whose = f"get_extra_state() of {type(module).__name__} '{name}'"
        encoded = _encode(module.get_extra_state(), whose)
        nbytes += encoded.nbytes
        if nbytes > MAX_ALL_BYTES:
            raise DataError(
                f"{whose} and of the modules before it returned {nbytes >> 20} MiB together, more than "
                f"{MAX_ALL_BYTES >> 20}; make what is large buffers"
            )
        copies[name] = pytree.decode(encoded)
    return copies


def load_extra_state(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Give each module a copy of its own back; one that has none in ``saved`` keeps what it has."""
    for name, module in _givers(model).items():
        if name in saved:
            module.set_extra_state(pytree.decode(_encode(saved[name], name)))


def _givers(model: nn.Module) -> dict[str, nn.Module]:
    return {plain_name(name): module for name, module in model.named_modules() if has_extra_state(module)}


def _encode(state: Any, whose: str) -> TensorFile:
    try:
        too_much = pytree.at_most(MAX_BYTES, "; make them buffers")
        return pytree.encode(state, copy=False, refuse=too_much)
    except pytree.PlainDataError as error:
        raise DataError(f"{whose} returned what cannot be saved: {error}") from error
