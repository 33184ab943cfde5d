"""Names of a model's parameters and buffers, as plugins, checkpoints and messages spell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

_TORCH_COMPILE_PREFIX = "_orig_mod."

_Named = TypeVar("_Named", bound=Tensor)


def plain_name(name: str) -> str:
    """Return a name as it is without ``torch.compile``: a run may go on with or without it."""
    return name.replace(_TORCH_COMPILE_PREFIX, "")


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name and its plain one; those of which two would become one stay as they are."""
    plain = {name: plain_name(name) for name in names}
    return plain if len(set(plain.values())) == len(plain) else {name: name for name in plain}


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name to parameter; one that several modules share comes once, under its first name."""
    return _plainly(model.named_parameters())


def named_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return name to buffer; one that several modules share comes once, under its first name."""
    return _plainly(model.named_buffers())


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return each further name of a shared parameter, and the first, which alone is a key of the others."""
    first = {id(parameter): name for name, parameter in named_parameters(model).items()}
    every = model.named_parameters(remove_duplicate=False)
    names = {plain_name(name): first[id(parameter)] for name, parameter in every}
    return {name: own for name, own in names.items() if name != own}


def _plainly(named: Iterable[tuple[str, _Named]]) -> dict[str, _Named]:
    listed = dict(named)
    plain = plain_names(listed)
    return {plain[name]: value for name, value in listed.items()}
