"""Three ways to clip gradients; each returns new gradients and leaves what it was given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ringfence import Gradients, Parameters

#: What torch.nn.utils.clip_grad_norm_ adds to the norm.
_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Clip:
    """The result of clipping.

    Attributes:
        gradients: The clipped gradients; None if all were within the bound.
        clipped_units: Share of the units that were scaled, in [0, 1]; None where there are no units.
    """

    gradients: Gradients | None
    clipped_units: float | None = None


def total_norm(gradients: Gradients, norm_type: float) -> float:
    """Return the joint norm of all gradients, as ``torch.nn.utils.get_total_norm`` does.

    Args:
        gradients: Parameter name to gradient, any shape.
        norm_type: The p of the norm, > 0; infinity for the largest entry.

    Raises:
        ValueError: A gradient is not finite; the message names its parameter.
    """
    tensors = list(gradients.values())
    norm = float(torch.nn.utils.get_total_norm(tensors, norm_type))
    if math.isfinite(norm):
        return norm
    for name, gradient in gradients.items():
        bad = gradient.numel() - int(torch.isfinite(gradient).sum())
        if bad:
            raise ValueError(
                f"the gradient of '{name}' has {bad} of {gradient.numel()} values that are not finite; "
                "lower the learning rate, or look for a division by zero or an overflow in the model"
            )
    # Every number is finite: the squares ran over. Twice the digits hold them.
    return float(torch.nn.utils.get_total_norm([tensor.double() for tensor in tensors], norm_type))


def by_norm(gradients: Gradients, norm: float, max_norm: float) -> Clip:
    """Scale all gradients so that their joint norm is at most ``max_norm``.

    Args:
        gradients: Parameter name to gradient, any shape.
        norm: Their joint norm, finite.
        max_norm: Upper bound, > 0, in units of the loss per unit of parameter.

    Source: Pascanu et al. 2013, algorithm 1, arXiv:1211.5063.
    """
    if not gradients:
        return Clip(None)
    coefficient = max_norm / (torch.tensor(norm, dtype=_norm_dtype(gradients, norm)) + _NORM_EPS)
    if not coefficient < 1.0:
        return Clip(None)
    scaled = writable(gradients)
    torch._foreach_mul_(list(scaled.values()), coefficient)
    return Clip(scaled)


def by_value(gradients: Gradients, max_value: float) -> Clip:
    """Clamp every number to ``[-max_value, max_value]``.

    Args:
        gradients: Parameter name to gradient, any shape.
        max_value: Upper bound of each number's size, > 0.
    """
    bounds = [tensor.aminmax() for tensor in gradients.values() if tensor.numel()]
    if all(-max_value <= low and high <= max_value for low, high in bounds):
        return Clip(None)
    clamped = writable(gradients)
    for tensor in clamped.values():
        tensor.clamp_(-max_value, max_value)
    return Clip(clamped)


def adaptive(
    gradients: Gradients,
    parameters: Parameters,
    clip_factor: float,
    eps: float,
    exclude: Sequence[str] = (),
) -> Clip:
    """Scale each unit's gradient so that its norm is at most a share of its weights' norm.

    A unit is a row of a weight: what makes one output, (O, …) → O units. Vectors and
    scalars, biases and norms among them, are one unit each.

    Args:
        gradients: Parameter name to gradient, any shape.
        parameters: Parameter name to value.
        clip_factor: That share, λ > 0.
        eps: Least weight norm that counts, > 0.
        exclude: Patterns of names to leave alone.

    Source: Brock et al. 2021, equation 3, arXiv:2102.06171.
    """
    scales: dict[str, Tensor] = {}
    units = clipped = 0
    for name, gradient in gradients.items():
        if any(fnmatchcase(name, pattern) for pattern in exclude):
            continue
        limit = unit_norms(parameters[name]).clamp_(min=eps).mul_(clip_factor)
        norms = unit_norms(gradient)
        over = norms > limit
        units += over.numel()
        count = int(over.sum())
        if count:
            clipped += count
            scales[name] = torch.where(over, limit / norms, 1.0)
    share = clipped / units if units else 0.0
    if not scales:
        return Clip(None, share)
    result = writable(gradients)
    for name, scale in scales.items():
        result[name].mul_(scale)
    return Clip(result, share)


def writable(gradients: Gradients) -> Gradients:
    """Return a copy to change and return; where the core lays out a place for the result, there."""
    draft: Callable[[], Gradients] = getattr(gradients, "draft", gradients.clone)
    return draft()


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the L2 norm of each unit, shaped to multiply ``tensor``: (O, …) → (O, 1, …), (N,) → ()."""
    inside = tuple(range(1, tensor.dim())) if tensor.dim() > 1 else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=inside, keepdim=inside is not None)
    return norms


def check_patterns(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a pattern that matches nothing.

    Raises:
        ValueError: It names the pattern and some of the names.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"exclude has '{pattern}', which matches no parameter; there are {names[:5]}")


def _norm_dtype(gradients: Gradients, norm: float) -> torch.dtype:
    """Return the dtype in which torch would divide by the norm, or float64 if that cannot hold it."""
    dtype = next(iter(gradients.values())).dtype
    return dtype if norm <= torch.finfo(dtype).max else torch.float64
