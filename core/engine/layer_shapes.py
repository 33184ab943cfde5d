"""What a model is made of: the shapes that its modules return, and how much it multiplies."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.errors import shorten

#: By it a module is known that ``torch.compile`` made: below it hooks would have all compiled anew.
_COMPILED = "_orig_mod"
_MAX_REPR = 100


@contextlib.contextmanager
def noting_shapes(model: nn.Module) -> Iterator[dict[str, tuple[int, ...]]]:
    """Give name of a module to the shape of what it first returned in a batch, without the batch's dimension.

    One that returns something else than a tensor is not among them, nor one that is compiled or a script.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    with contextlib.ExitStack() as stack:
        for name, module in _plain_modules(model):

            def note(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor) and output.dim():
                    shapes.setdefault(name, tuple(output.shape[1:]))

            stack.callback(module.register_forward_hook(note).remove)
        yield shapes


def failing_layer(model: nn.Module, call: Callable[[], object]) -> str:
    """Return which layer of ``model`` fails in ``call``, and what it was given, as a part of a sentence.

    Empty where it is the model itself, or nothing fails.
    """
    entered: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
    with contextlib.ExitStack() as stack, contextlib.suppress(Exception):
        # What is raised is known: it was called before.
        for name, module in _plain_modules(model):

            def enter(module: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                entered.append((name, module, inputs))

            def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
                entered.pop()

            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        call()
    if not entered or not entered[-1][0]:
        return ""
    name, module, inputs = entered[-1]
    kind = shorten(" ".join(repr(module).split()), _MAX_REPR)
    shapes = " and ".join(str(tuple(value.shape)) for value in inputs if isinstance(value, Tensor))
    return f", in layer '{name}', {kind}" + (f", given {shapes}" if shapes else "")


def count_macs(call: Callable[[], object]) -> int:
    """Return how often ``call``, a model's, multiplies and adds in matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - for who asks

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    macs: int = counter.get_total_flops() // 2
    return macs


def layer_rows(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], most: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the modules of a model as the rows of a table, as deep as ``most`` rows allow.

    Neighbours that are alike make one row with a ``count``; where even the outermost modules are too many,
    those in the middle are left out.

    Args:
        model: What to describe.
        shapes: As ``noting_shapes`` gives them.
        most: Rows of the table, at least two.

    Returns:
        Rows of ``name``, ``kind``, ``output`` (a shape or None), ``parameters`` and ``count``; and how many
        were left out in the middle.
    """
    best: list[dict[str, Any]] = []
    rows = list(_rows(model, "", 1, shapes, set()))
    for depth in itertools.count(2):
        merged = _merged(rows)
        if best and len(merged) > most:
            break
        before, best = rows, merged
        rows = list(_rows(model, "", depth, shapes, set()))
        if rows == before:
            break
    if len(best) <= most:
        return best, 0
    head = most - most // 2
    return best[:head] + best[len(best) - most // 2 :], len(best) - most


def _plain_modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, torch.jit.ScriptModule) or _COMPILED in module._modules:  # noqa: SLF001 - as torch marks it
        return
    yield prefix, module
    for name, child in module.named_children():
        yield from _plain_modules(child, f"{prefix}.{name}" if prefix else name)


def _rows(
    module: nn.Module, prefix: str, depth: int, shapes: Mapping[str, tuple[int, ...]], seen: set[int]
) -> Iterator[dict[str, Any]]:
    children = list(module.named_children())
    is_whole = not depth or not children
    own = _count(module, seen, recurse=is_whole)
    if is_whole or own:
        yield {
            "name": prefix,
            "kind": type(module).__name__,
            "output": shapes.get(prefix) if is_whole else None,
            "parameters": own,
            "count": 1,
        }
    for name, child in () if is_whole else children:
        yield from _rows(child, f"{prefix}.{name}" if prefix else name, depth - 1, shapes, seen)


def _count(module: nn.Module, seen: set[int], *, recurse: bool) -> int:
    """Return the numbers in a module's parameters, but for those that were counted before."""
    own = [p for p in module.parameters(recurse=recurse) if id(p) not in seen]
    seen.update(map(id, own))
    return sum(parameter.numel() for parameter in own)


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with neighbours that differ in nothing but their name as one."""
    merged: list[dict[str, Any]] = []
    for row in rows:
        before = merged[-1] if merged else {}
        if before and {**before, "name": "", "count": 1} == {**row, "name": ""}:
            before["count"] += 1
        else:
            merged.append(dict(row))
    return merged
