"""Plain data with tensors, as bytes: the form of plugin state on the wire and on disk.

The bytes are a safetensors file whose metadata holds the structure as JSON.
Reading them runs no code, and every limit is checked before memory is spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

MAX_DEPTH = 32
MAX_NODES = 1_000_000
_KEY = "ringfence"


class PlainDataError(ValueError):
    """A value is not plain data, or bytes do not hold any."""


def dumps(value: object) -> bytes:
    """Encode dicts, lists, tuples, str, int, float, bool, None and tensors.

    Args:
        value: Nested at most 32 deep; dict keys are str, int, float, bool or None. Tuples come back as lists.

    Raises:
        PlainDataError: ``value`` holds something else; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(value, tensors, "state", 0)
    return safetensors.torch.save(tensors, metadata={_KEY: json.dumps(structure)})


def loads(data: bytes) -> Any:
    """Decode what ``dumps`` made; tensors are private copies.

    Raises:
        PlainDataError: The bytes are damaged, too deeply nested or not ours.
    """
    try:
        tensors = safetensors.torch.load(data)
        header_size = int.from_bytes(data[:8], "little")
        structure = json.loads(json.loads(data[8 : 8 + header_size])["__metadata__"][_KEY])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise PlainDataError(f"not a state that ringfence wrote: {error}") from error
    budget = [MAX_NODES]
    return _decode(structure, tensors, 0, budget)


def _encode(value: object, tensors: dict[str, Tensor], where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PlainDataError(f"{where} is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # Views into one storage would be written twice or refused; a copy of its own is neither.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"t": name}
    if isinstance(value, (list, tuple)):
        return [_encode(item, tensors, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        items = []
        for key, item in value.items():
            if key is not None and not isinstance(key, (str, int, float, bool)):
                raise PlainDataError(f"{where} has a key of type {type(key).__name__}; use str or int")
            items.append([key, _encode(item, tensors, f"{where}[{key!r}]", depth + 1)])
        return {"d": items}
    raise PlainDataError(
        f"{where} is of type {type(value).__name__}; "
        "state may hold dicts, lists, str, int, float, bool, None and tensors"
    )


def _decode(node: Any, tensors: Mapping[str, Tensor], depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise PlainDataError(f"state is nested more than {MAX_DEPTH} deep or has over {MAX_NODES} values")
    if isinstance(node, list):
        return [_decode(item, tensors, depth + 1, budget) for item in node]
    if isinstance(node, dict):
        match node:
            case {"t": str(name)} if len(node) == 1 and name in tensors:
                return tensors[name]
            case {"d": list(items)} if len(node) == 1:
                return dict(_pair(item, tensors, depth, budget) for item in items)
        raise PlainDataError("state has a node that is neither a tensor nor a dict")
    return node


def _pair(item: Any, tensors: Mapping[str, Tensor], depth: int, budget: list[int]) -> tuple[Any, Any]:
    match item:
        case [str() | int() | float() | None as key, value]:
            return key, _decode(value, tensors, depth + 1, budget)
    raise PlainDataError("state has a dict entry that is not a key and a value")
