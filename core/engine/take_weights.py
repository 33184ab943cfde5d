"""Give a model weights that were trained before, tensor by tensor, as far as they fit it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from .buffers import unsaved_buffers
from .tensor_names import named_buffers, named_parameters, plain_names, tied_names


@dataclass(frozen=True, slots=True)
class TakenWeights:
    """What became of each tensor.

    Attributes:
        taken: Parameters and buffers of the model that have other values now.
        missing: Those that there are no values for.
        other_form: Those whose values are of another shape or kind, with both.
        excluded: Those that were to be left out.
        extra: Values of no parameter and no buffer of the model.
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    other_form: tuple[str, ...]
    excluded: tuple[str, ...]
    extra: tuple[str, ...]


def take_weights(
    model: nn.Module, values: Mapping[str, Tensor], exclude: Collection[str] = ()
) -> TakenWeights:
    """Write ``values`` to the parameters and buffers of the same names; what does not fit is left alone.

    Args:
        model: With its final shapes.
        values: Name to tensor, in host memory; of a tied parameter any of its names will do.
        exclude: Patterns of names, as of ``fnmatch``, that are left as they are.
    """
    plain = plain_names(values)
    found = {plain[name]: value for name, value in values.items()}
    for name, first in tied_names(model).items():
        value = found.pop(name, None)
        if value is not None:
            found.setdefault(first, value)
    own = {**named_parameters(model), **named_buffers(model)}
    excluded = [name for name in own if any(fnmatchcase(name, pattern) for pattern in exclude)]
    wanted = [name for name in own if name not in excluded]
    fitting = [name for name in wanted if name in found and _fits(own[name], found[name])]
    with torch.no_grad():
        for name in fitting:
            # A buffer may be part of a parameter's memory, or expanded, and then cannot be written to.
            if 0 not in own[name].stride():
                own[name].copy_(found[name])
    unsaved = unsaved_buffers(model)
    return TakenWeights(
        tuple(fitting),
        tuple(name for name in wanted if name not in found and name not in unsaved),
        tuple(
            f"{name} ({_form(found[name])} there, {_form(own[name])} here)"
            for name in wanted
            if name in found and name not in fitting
        ),
        tuple(excluded),
        tuple(name for name in found if name not in own),
    )


def _fits(own: Tensor, value: Tensor) -> bool:
    alike = own.dtype == value.dtype or (own.is_floating_point() and value.is_floating_point())
    return alike and own.shape == value.shape


def _form(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "one number"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
