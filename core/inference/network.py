"""Build the network of a run again, and give it the weights that the run left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..engine.buffers import restore_buffers, shared_buffers
from ..engine.checkpoints.checkpoint import NetworkState
from ..engine.extra_state import load_extra_state
from ..engine.forward import forward
from ..engine.tensor_names import named_buffers, named_parameters
from ..hooks.errors import CheckpointError, JobError, visible
from ..hooks.trees import Tree
from ..hooks.types import derive_seed
from ..imports.user_frames import user_frame
from ..job.user_code import is_import_path
from ..models.data_shape import Shape
from ..models.model_registry import build_for
from ..reproducibility.generator_states import preserved_rng
from ..reproducibility.seeding import seed_everything
from ..tracking.model_record import InputForm, ModelChoice, ModelRecord

_NAMED = 5
_CPU = torch.device("cpu")


def build_network(choice: ModelChoice, record: ModelRecord, base: Path) -> nn.Module:
    """Build a network as the run did that ``record`` is of, in training mode; its weights are yet to come.

    A builtin one has no memory yet (it is on torch's device ``meta``), however large its record says it is.
    One of the user's is on the CPU, made from the seed that the run had; random generators stand where they
    stood.

    Args:
        choice: What to call, which somebody has permitted.
        record: What it is for.
        base: Folder where modules are looked for too.

    Raises:
        JobError: It cannot be imported or built.
        CheckpointError: No network can be of such a size.
        DataError: It does not fit the shape of the data.
    """
    shape = _shape(record)
    if not is_import_path(choice.name):
        try:
            with torch.device("meta"):
                return build_for(choice.name, choice.options, shape, base=base)
        except RuntimeError as error:
            raise CheckpointError(f"model '{choice.name}' of such a size cannot be: {error}") from error
    with preserved_rng(_CPU):
        seed_everything(derive_seed(choice.seed, "model"))
        network = build_for(choice.name, choice.options, shape, base=base)
        if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
            _give_shapes(network, record)
    return network


def _shape(record: ModelRecord) -> Shape:
    """Return what a model is told of its data as it is built."""
    output = () if record.task == "other" else record.output.shape
    named = {str(form.path[0]): form for form in record.inputs if len(form.path) == 1}
    values = {name: form.values for name, form in named.items() if form.values}
    return Shape(
        record.input.shape,
        output[0] if output else 0,
        {name: form.shape for name, form in named.items()},
        values if record.input.path else ({"": record.input.values} if record.input.values else {}),
        positions=len(output) > 1,
    )


def nbytes(network: nn.Module) -> int:
    """Return how many bytes the parameters and buffers of a network take."""
    return sum(tensor.nbytes for tensor in _tensors(network).values())


def fill(network: nn.Module, state: NetworkState, device: torch.device, *, whose: str) -> None:
    """Give a network the weights of a run, move it to ``device`` and set it to evaluation mode.

    Args:
        network: From ``build_network``.
        state: Of the run.
        device: Where it is to be.
        whose: The run and its model, for messages.

    Raises:
        CheckpointError: The network has other tensors than the run's; the message names them.
        JobError: A module does not take the extra state that it gave.
    """
    built = _tensors(network)
    _check_same(built, state.tensors, whose)
    has_place = not any(tensor.is_meta for tensor in built.values())
    if not has_place:
        network.to_empty(device=device)
    parameters = named_parameters(network)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if 0 in parameter.stride():
                # An expanded view, which cannot be written to.
                parameter.data = state.tensors[name].clone()
            else:
                parameter.copy_(state.tensors[name])
    # After them, since a buffer may be a view of a parameter.
    restore_buffers(
        network, {name: state.tensors[name] for name in named_buffers(network)}, shared_buffers(network)
    )
    _telling(f"{whose}: set_extra_state() failed", lambda: load_extra_state(network, state.extra_state))
    if has_place:
        network.to(device)
    network.eval()


def zero_inputs(record: ModelRecord, samples: int, device: torch.device) -> Tree:
    """Return a batch of zeros in the form in which a network is given its inputs."""

    def zeros(form: InputForm) -> Tensor:
        dtype = torch.float32 if record.scale is not None else getattr(torch, form.dtype)
        return torch.zeros(samples, *form.shape, dtype=dtype, device=device)

    return record.input_tree(zeros)


def _give_shapes(network: nn.Module, record: ModelRecord) -> None:
    """Let lazy modules see a batch of zeros, as they saw the data's first one in training."""
    network.eval()
    inputs = zero_inputs(record, 2, _CPU)
    with torch.no_grad():
        _telling(
            "the network failed on a batch of zeros, which it is to take its shapes from",
            lambda: forward(network, inputs),
        )
    network.train()


def _telling(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except Exception as error:
        raise JobError(f"{what}: {type(error).__name__}: {error}; at {user_frame(error)}") from error


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**named_parameters(network), **named_buffers(network)}


def _check_same(built: Mapping[str, Tensor], saved: Mapping[str, Tensor], whose: str) -> None:
    """Check that what was built has the tensors that were saved.

    Raises:
        CheckpointError: It has not.
    """
    differing = [
        f"'{name}' is {_form(saved[name])} in the run and {_form(tensor)} now"
        for name, tensor in built.items()
        if name in saved and _form(saved[name]) != _form(tensor)
    ]
    differing += [f"'{name}' {_form(saved[name])} is there no more" for name in saved if name not in built]
    differing += [f"'{name}' {_form(built[name])} is new" for name in built if name not in saved]
    if differing:
        more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise CheckpointError(
            visible(
                f"{whose} has changed since the run: {'; '.join(differing[:_NAMED])}{more}. Load it with the "
                "code as it was then"
            )
        )


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
