"""Nested containers of tensors and plain data, as bytes: plugin state on the wire and on disk.

The bytes are a safetensors file whose metadata holds the structure as JSON.
Reading them runs no code, and every limit is checked before memory is spent.

Numbers come back as they were, infinities and NaN included (which NaN it was is
kept in tensors only): what a state may hold is its plugin's affair. What a plugin
does with it is checked where it comes back, as parameters or gradients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from . import tensor_file
from .tensor_file import MAX_TENSORS, NODES_PER_TENSOR, SIZE_BYTES, TensorFile, TensorFileError, shorten

MAX_DEPTH = 32
#: Brackets, braces and commas of the structure: each costs some 40 to 300 bytes once it is parsed.
MAX_NODES = 500_000
#: Keys of one dict that are no strings. Their hashes are known beforehand, so that they can be chosen
#: to lie in each other's way: n of them then cost n * n / 4 looks, 0.1 s at this many.
MAX_NUMBER_KEYS = 16_384
_KEY_RANGE = range(-(2**63), 2**63)
_KEY = "ringfence"
_USE_STR = "Use str keys, or tensors"


class PlainDataError(ValueError):
    """A value is not plain data, or bytes do not hold any."""


class _Header(msgspec.Struct, frozen=True):
    """The part of a safetensors header that is ours; all else is skipped, not built."""

    metadata: msgspec.Raw = msgspec.field(name="__metadata__")


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    structure: str = msgspec.field(name=_KEY)


def encode(
    value: object, *, copy: bool = True, refuse: Callable[[int], str | None] = lambda _: None
) -> TensorFile:
    """Encode dicts, lists, tuples, str, int, float, bool, None and tensors.

    Args:
        value: Nested at most 32 deep; dict keys are str, int of 64 bits, float, bool or None, and
            at most 16,384 of one dict are no str. Tuples come back as lists.
        copy: Whether the tensors of the result are copies, so that no one else can change them.
        refuse: Given the bytes that the tensors take, before any is copied; returns why that is
            too much, or None.

    Raises:
        PlainDataError: ``value`` holds something else, the message says where; or so
            much beside its tensors that ``decode`` would refuse it; or ``refuse`` did.
    """
    found: dict[str, Tensor] = {}
    structure = _encode(value, found, "state", 0)
    why = refuse(sum(tensor.nbytes for tensor in found.values()))
    if why is not None:
        raise PlainDataError(why)
    try:
        text = json.dumps(structure)
        tensors = {name: _own_copy(tensor) for name, tensor in found.items()} if copy else found
        file = TensorFile.of(tensors, {_KEY: text})
    except TensorFileError as error:
        raise PlainDataError(f"state has {error}") from error
    except ValueError as error:
        # Of an int with more digits than Python writes.
        raise PlainDataError(f"state cannot be written: {error}") from error
    _read_structure(file.head)
    return file


def at_most(most_bytes: int, remedy: str = "") -> Callable[[int], str | None]:
    """Return what has ``encode`` refuse tensors of more than so many bytes, whole MiB, and say what to do."""

    def refuse(nbytes: int) -> str | None:
        if nbytes <= most_bytes:
            return None
        return f"tensors of {nbytes >> 20} MiB, more than {most_bytes >> 20}{remedy}"

    return refuse


def copied(value: object, refuse: Callable[[int], str | None] = lambda _: None) -> Any:
    """Return a copy of plain data that shares nothing with it; arguments and errors as ``encode``."""
    return decode(encode(value, copy=False, refuse=refuse))


def decode(file: TensorFile, *, copy: bool = True) -> Any:
    """Decode what ``encode`` made; none of its tensors comes twice.

    Args:
        file: What to decode.
        copy: Whether the tensors are private copies, or those of ``file``.

    Raises:
        PlainDataError: It is damaged, holds more than a limit allows, or is not ours.
    """
    structure = _read_structure(file.head)
    try:
        parsed = json.loads(structure)
    except (ValueError, RecursionError) as error:
        raise _not_ours(error) from error
    tensors = dict(file.tensors)
    value = _decode(parsed, tensors, 0, copy=copy)
    if tensors:
        raise PlainDataError(f"state has {len(tensors)} tensors that stand nowhere in it")
    return value


def read(data: Tensor) -> TensorFile:
    """Check bytes from outside; the tensors of the result are views into ``data``.

    Args:
        data: (N,) uint8, which nobody else can change.

    Raises:
        PlainDataError: They are damaged, hold more than a limit allows, or are not ours.
    """
    try:
        head, body = tensor_file.split_file(data)
        _read_structure(head)
        file = TensorFile(head, tensor_file.views(head, body))
    except TensorFileError as error:
        raise PlainDataError(f"not a state that ringfence wrote: {error}") from error
    except (RuntimeError, OverflowError, MemoryError) as error:
        # What torch says of shapes that no tensor can have.
        raise _not_ours(error) from error
    decode(file, copy=False)
    return file


def dumps(value: object) -> bytes:
    """Return ``encode``'s file as bytes.

    Raises:
        PlainDataError: As ``encode``.
    """
    return encode(value, copy=False).to_bytes()


def loads(data: bytes) -> Any:
    """Decode the bytes of such a file; tensors are private copies, and none comes twice.

    Raises:
        PlainDataError: As ``read``.
    """
    try:
        _read_structure(data)
    except TensorFileError as error:
        raise PlainDataError(f"not a state that ringfence wrote: {error}") from error
    return decode(read(torch.frombuffer(bytearray(data), dtype=torch.uint8)), copy=False)


def _read_structure(data: bytes) -> str:
    """Return the structure's JSON once header and structure are known to be small enough to parse.

    Args:
        data: Begins with the head of a file; what follows it is not looked at.
    """
    end = tensor_file.head_bytes(data[:SIZE_BYTES], len(data))
    # Looked at where it lies: each copy of a header or of a structure would cost as much again.
    header = memoryview(data)[SIZE_BYTES:end]
    try:
        metadata = memoryview(msgspec.json.decode(header, type=_Header).metadata)
        structure = msgspec.json.decode(metadata, type=_Metadata).structure
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _not_ours(error) from error
    nodes = sum(structure.count(mark) for mark in "[{,")
    if nodes > MAX_NODES:
        raise PlainDataError(
            f"state has over {MAX_NODES} values beside its tensors. Keep long lists of numbers in tensors"
        )
    begins = data.find(metadata, data.find(b"__metadata__", SIZE_BYTES))
    ends = begins + len(metadata)

    def outside(mark: bytes) -> int:
        return data.count(mark, SIZE_BYTES, begins) + data.count(mark, ends, end)

    if outside(b"__metadata__") != 1 or outside(b"\\"):
        raise PlainDataError("not a state that ringfence wrote: it names its tensors otherwise")
    # All marks outside the metadata are the tensors'.
    tensors = outside(b"{") - 1
    marks = sum(outside(mark) for mark in (b"[", b"{", b","))
    if tensors > MAX_TENSORS or marks > MAX_TENSORS * NODES_PER_TENSOR + MAX_NODES:
        raise PlainDataError(f"state has over {MAX_TENSORS} tensors, or ones of far too many dimensions")
    return structure


def _not_ours(error: Exception) -> PlainDataError:
    return PlainDataError(f"not a state that ringfence wrote: {shorten(error)}")


def _own_copy(tensor: Tensor) -> Tensor:
    """Return a contiguous copy: views into one storage would keep all of it."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _encode(value: object, tensors: dict[str, Tensor], where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PlainDataError(f"{where} is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"t": name}
    if isinstance(value, (list, tuple)):
        return [_encode(item, tensors, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        if _has_too_many_numbers(value):
            raise PlainDataError(f"{where} has over {MAX_NUMBER_KEYS} keys that are no str. {_USE_STR}")
        items = []
        for key, item in value.items():
            _check_key(key, where)
            items.append([key, _encode(item, tensors, f"{where}[{key!r}]", depth + 1)])
        return {"d": items}
    raise PlainDataError(
        f"{where} is of type {type(value).__name__}; "
        "state may hold dicts, lists, str, int, float, bool, None and tensors"
    )


def _check_key(key: object, where: str) -> None:
    if key is not None and not isinstance(key, (str, int, float, bool)):
        raise PlainDataError(f"{where} has a key of type {type(key).__name__}; use str or int")
    if isinstance(key, int) and key not in _KEY_RANGE:
        raise PlainDataError(f"{where} has an int of more than 64 bits as a key")


def _decode(node: Any, tensors: dict[str, Tensor], depth: int, *, copy: bool) -> Any:
    """Build the value of a node; each tensor is taken out, so that it costs its memory once."""
    if depth > MAX_DEPTH:
        raise PlainDataError(f"state is nested more than {MAX_DEPTH} deep")
    if isinstance(node, list):
        return [_decode(item, tensors, depth + 1, copy=copy) for item in node]
    if isinstance(node, dict):
        match node:
            case {"t": str(name)} if len(node) == 1 and name in tensors:
                tensor = tensors.pop(name)
                return tensor.clone() if copy else tensor
            case {"d": list(items)} if len(node) == 1:
                if _has_too_many_numbers(item[0] for item in items if isinstance(item, list) and item):
                    raise PlainDataError(
                        f"state has a dict of over {MAX_NUMBER_KEYS} keys that are no str. {_USE_STR}"
                    )
                return dict(_pair(item, tensors, depth, copy=copy) for item in items)
        raise PlainDataError("state has a node that is neither a dict nor a tensor of its own")
    return node


def _has_too_many_numbers(keys: Iterable[object]) -> bool:
    return sum(not isinstance(key, str) for key in keys) > MAX_NUMBER_KEYS


def _pair(item: Any, tensors: dict[str, Tensor], depth: int, *, copy: bool) -> tuple[Any, Any]:
    match item:
        # Larger ints can be chosen to share one hash, which makes a dict of them take minutes.
        case [int(key), value] if key in _KEY_RANGE:
            return key, _decode(value, tensors, depth + 1, copy=copy)
        case [str() | float() | None as key, value]:
            return key, _decode(value, tensors, depth + 1, copy=copy)
    raise PlainDataError("state has a dict entry that is not a key and a value")
