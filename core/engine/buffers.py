"""A model's buffers, such as the statistics of batch norm: copies of them, and the way back to those."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .tensor_names import named_buffers, plain_name


def copy_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return name to a copy of each buffer, on its device."""
    return {name: buffer.detach().clone() for name, buffer in named_buffers(model).items()}


def shared_buffers(model: nn.Module) -> dict[str, str]:
    """Return each further name of a buffer that modules share, and the first, under which it is saved."""
    first = {id(buffer): name for name, buffer in named_buffers(model).items()}
    names = {
        name: first[id(buffers[key])] for name, buffers, key in _slots(model) if id(buffers[key]) in first
    }
    return {name: own for name, own in names.items() if name != own}


def unsaved_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of the buffers that the model's ``state_dict`` leaves out."""
    return frozenset(
        plain_name(f"{prefix}.{key}" if prefix else key)
        for prefix, module in model.named_modules()
        for key in module._non_persistent_buffers_set  # noqa: SLF001 - torch has no public way to ask
    )


def restore_buffers(
    model: nn.Module, saved: Mapping[str, Tensor], shared: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Make the buffers those of ``saved``: a tensor of the same shape is written to, another is replaced.

    Args:
        model: Whose buffers may have been replaced, grown, added or removed since.
        saved: Name to tensor, on any device; is only read. What it says of a buffer that is part of a
            parameter's memory is left to whoever restores that.
        shared: What ``shared_buffers`` returned when that was saved: the model may have replaced one of them.
    """
    parameters = {address(parameter) for parameter in model.parameters()} - {-1}
    # What several modules share is saved under its first name; where it is replaced, it is for all of them.
    replaced: dict[int, tuple[Tensor, Tensor]] = {}
    done: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, buffers, key in list(_slots(model)):
            buffer, value = buffers[key], saved.get(name)
            if value is not None:
                buffers[key] = done[name] = _restore(buffer, value, parameters)
                # The old one as well: its number must not become another's meanwhile.
                if buffer is not None:
                    replaced[id(buffer)] = buffer, done[name]
            elif shared.get(name) in done:
                buffers[key] = done[shared[name]]
            elif id(buffer) in replaced:
                _, buffers[key] = replaced[id(buffer)]
            elif buffer is not None:
                del buffers[key]  # it came since


def _restore(buffer: Tensor | None, value: Tensor, parameters: Container[int]) -> Tensor:
    """Return a buffer that holds ``value``: the same one where it can be written to."""
    if buffer is None or _layout(buffer) != _layout(value):
        return value.to(value.device if buffer is None else buffer.device, copy=True)
    # Constant buffers may be expanded views, which cannot be written to. Equal is not enough for the others:
    # 0.0 equals -0.0.
    is_writable = 0 not in buffer.stride() or not torch.equal(buffer, value.to(buffer.device))
    if address(buffer) not in parameters and is_writable:
        buffer.copy_(value)
    return buffer


def changed_layouts(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield a sentence on each buffer that has come, gone, or changed its shape or dtype."""
    for name in sorted(before.keys() | now.keys()):
        then, since = before.get(name), now.get(name)
        if then is None or since is None or _layout(then) != _layout(since):
            yield (
                f"the model's buffer '{name}' comes, goes, or changes its shape or dtype in training: such a "
                "run cannot be resumed. Give it its final form when the model is made"
            )


def address(tensor: Tensor) -> int:
    """Return where the memory begins that a tensor lies in; -1 if it has none."""
    return tensor.untyped_storage().data_ptr() or -1


def _slots(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield name, owner's buffers and key there of each buffer; a registered None is one too."""
    for prefix, module in model.named_modules():
        buffers = module._buffers  # noqa: SLF001 - torch has no public way to replace or remove one
        for key in buffers:
            yield plain_name(f"{prefix}.{key}" if prefix else key), buffers, key


def _layout(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
