"""Plain data with tensors, as bytes: the form of plugin state on the wire and on disk.

The bytes are a safetensors file whose metadata holds the structure as JSON.
Reading them runs no code, and every limit is checked before memory is spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

MAX_DEPTH = 32
#: Brackets, braces and commas of the structure: each costs some 40 to 300 bytes once it is parsed.
MAX_NODES = 500_000
MAX_TENSORS = 100_000
MAX_DIMS = 64
#: Names, shapes and structure together; the tensors' own bytes come after them.
MAX_HEADER_BYTES = 8 << 20
_SIZE_BYTES = 8
_MAX_DETAIL = 200
#: Brackets, braces and commas of a tensor's entry, besides one for each dimension.
_NODES_PER_TENSOR = 8
_KEY_RANGE = range(-(2**63), 2**63)
_KEY = "ringfence"


class PlainDataError(ValueError):
    """A value is not plain data, or bytes do not hold any."""


class _Header(msgspec.Struct, frozen=True):
    """What of a safetensors header is ours; all else is skipped, not built."""

    metadata: msgspec.Raw = msgspec.field(name="__metadata__")


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    structure: str = msgspec.field(name=_KEY)


def dumps(value: object) -> bytes:
    """Encode dicts, lists, tuples, str, int, float, bool, None and tensors.

    Args:
        value: Nested at most 32 deep; dict keys are str, int of 64 bits, float, bool or None.
            Tuples come back as lists.

    Raises:
        PlainDataError: ``value`` holds something else, the message says where; or so
            much beside its tensors that ``loads`` would refuse it.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(value, tensors, "state", 0)
    data: bytes = safetensors.torch.save(tensors, metadata={_KEY: json.dumps(structure)})
    _read_structure(data)
    return data


def loads(data: bytes) -> Any:
    """Decode what ``dumps`` made; tensors are private copies, and none comes twice.

    Raises:
        PlainDataError: The bytes are damaged, hold more than a limit allows, or are not ours.
    """
    structure = _read_structure(data)
    try:
        parsed = json.loads(structure)
        tensors = safetensors.torch.load(data)
    except (
        safetensors.SafetensorError,
        AssertionError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
        # What torch says of shapes that no tensor can have.
        RuntimeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise _not_ours(error) from error
    if any(tensor.dim() > MAX_DIMS for tensor in tensors.values()):
        raise PlainDataError(f"state has a tensor of over {MAX_DIMS} dimensions")
    value = _decode(parsed, tensors, 0)
    if tensors:
        raise PlainDataError(f"state has {len(tensors)} tensors that stand nowhere in it")
    return value


def _read_structure(data: bytes) -> str:
    """Return the structure's JSON once header and structure are known to be small enough to parse."""
    size = int.from_bytes(data[:_SIZE_BYTES], "little")
    if len(data) < _SIZE_BYTES or size > len(data) - _SIZE_BYTES:
        raise PlainDataError("not a state that ringfence wrote: it is cut off")
    if size > MAX_HEADER_BYTES:
        raise PlainDataError(
            f"state has {size} bytes beside its tensors; at most {MAX_HEADER_BYTES}. "
            "Keep long lists of numbers in tensors"
        )
    # Counted where it lies: a copy of the header would cost as much again.
    start, end = _SIZE_BYTES, _SIZE_BYTES + size
    header = memoryview(data)[start:end]
    try:
        metadata = bytes(msgspec.json.decode(header, type=_Header).metadata)
        structure = msgspec.json.decode(metadata, type=_Metadata).structure
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _not_ours(error) from error
    nodes = sum(structure.count(mark) for mark in "[{,")
    if nodes > MAX_NODES:
        raise PlainDataError(
            f"state has over {MAX_NODES} values beside its tensors. Keep long lists of numbers in tensors"
        )
    if data.count(b"__metadata__", start, end) != 1 or data.count(b"\\", start, end) != metadata.count(b"\\"):
        raise PlainDataError("not a state that ringfence wrote: it names its tensors otherwise")
    # All marks outside the metadata are the tensors'.
    tensors = data.count(b"{", start, end) - metadata.count(b"{") - 1
    marks = sum(data.count(mark, start, end) - metadata.count(mark) for mark in (b"[", b"{", b","))
    if tensors > MAX_TENSORS or marks > MAX_TENSORS * _NODES_PER_TENSOR + MAX_NODES:
        raise PlainDataError(f"state has over {MAX_TENSORS} tensors, or ones of far too many dimensions")
    return structure


def _not_ours(error: Exception) -> PlainDataError:
    # Names that whoever made the bytes has chosen come back in messages of the parsers.
    text = "".join(c for c in str(error) if c.isprintable())[:_MAX_DETAIL]
    return PlainDataError(f"not a state that ringfence wrote: {text or type(error).__name__}")


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
            if isinstance(key, int) and key not in _KEY_RANGE:
                raise PlainDataError(f"{where} has an int of more than 64 bits as a key")
            items.append([key, _encode(item, tensors, f"{where}[{key!r}]", depth + 1)])
        return {"d": items}
    raise PlainDataError(
        f"{where} is of type {type(value).__name__}; "
        "state may hold dicts, lists, str, int, float, bool, None and tensors"
    )


def _decode(node: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    """Build the value of a node; each tensor is taken out, so that it costs its memory once."""
    if depth > MAX_DEPTH:
        raise PlainDataError(f"state is nested more than {MAX_DEPTH} deep")
    if isinstance(node, list):
        return [_decode(item, tensors, depth + 1) for item in node]
    if isinstance(node, dict):
        match node:
            case {"t": str(name)} if len(node) == 1 and name in tensors:
                return tensors.pop(name)
            case {"d": list(items)} if len(node) == 1:
                return dict(_pair(item, tensors, depth) for item in items)
        raise PlainDataError("state has a node that is neither a dict nor a tensor of its own")
    return node


def _pair(item: Any, tensors: dict[str, Tensor], depth: int) -> tuple[Any, Any]:
    match item:
        # Larger ints can be chosen to share one hash, which makes a dict of them take minutes.
        case [int(key), value] if key in _KEY_RANGE:
            return key, _decode(value, tensors, depth + 1)
        case [str() | float() | None as key, value]:
            return key, _decode(value, tensors, depth + 1)
    raise PlainDataError("state has a dict entry that is not a key and a value")
