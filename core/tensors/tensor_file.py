"""The safetensors format, written in pieces and read in place.

The package of that name holds a second copy of all tensors to write them, and another to
read them. Here a file is its head and the tensors themselves, which go to a disk, into a
hash or into shared memory as they lie.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

MAX_DIMS = 64
MAX_TENSORS = 100_000
#: Names, shapes and metadata together; the tensors' own bytes come after them.
MAX_HEADER_BYTES = 8 << 20
#: The length of the header, before it.
SIZE_BYTES = 8

_METADATA = "__metadata__"
#: Brackets, braces and commas of a tensor's entry, besides one for each dimension.
NODES_PER_TENSOR = 8
#: Numbers of a tensor that is not empty; its bytes could still be counted in 64 bits.
_MAX_NUMBERS = 2**59
_MAX_DIMENSION = 2**63

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class TensorFileError(ValueError):
    """Tensors cannot be written in this format, or bytes are not of it."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TensorFile:
    """A safetensors file in memory.

    Attributes:
        head: Everything before the tensors: the length of the header, and the header.
        tensors: Name to tensor, in the order of the file; in host memory and contiguous.
    """

    head: bytes
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> TensorFile:
        """Lay out ``tensors``; those in host memory that are contiguous are not copied.

        Raises:
            TensorFileError: A tensor is of a kind that the format does not have, or there are too many.
        """
        ready = {name: _on_host(name, tensor) for name, tensor in tensors.items()}
        # The widest first, so that each starts at a multiple of its own width.
        order = sorted(ready, key=lambda name: -ready[name].element_size())
        header: dict[str, object] = {} if metadata is None else {_METADATA: dict(metadata)}
        offset = 0
        for name in order:
            tensor = ready[name]
            if name == _METADATA:
                raise TensorFileError(f"no tensor can be called '{_METADATA}'")
            header[name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + tensor.nbytes],
            }
            offset += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % SIZE_BYTES)
        if len(text) > MAX_HEADER_BYTES:
            raise TensorFileError(
                f"{len(text)} bytes beside its tensors; at most {MAX_HEADER_BYTES}. "
                "Keep long lists of numbers in tensors"
            )
        if len(order) > MAX_TENSORS:
            raise TensorFileError(f"{len(order)} tensors; at most {MAX_TENSORS}")
        return cls(len(text).to_bytes(SIZE_BYTES, "little") + text, {name: ready[name] for name in order})

    @property
    def nbytes(self) -> int:
        """Length of the file."""
        return len(self.head) + sum(tensor.nbytes for tensor in self.tensors.values())

    def chunks(self) -> Iterator[memoryview]:
        """Yield the file's bytes in order, as they lie in memory."""
        yield memoryview(self.head)
        for tensor in self.tensors.values():
            if tensor.numel():
                yield tensor.reshape(-1).view(torch.uint8).numpy().data

    def copy_to(self, target: memoryview) -> None:
        """Write the file's bytes to ``target``, which holds at least ``nbytes``."""
        at = 0
        for chunk in self.chunks():
            target[at : at + len(chunk)] = chunk
            at += len(chunk)

    def to_bytes(self) -> bytes:
        """Return the whole file: one more copy of all tensors."""
        return b"".join(self.chunks())


def head_bytes(begin: bytes, file_bytes: int) -> int:
    """Return how long the head of a file is, from its first eight bytes and its length.

    Raises:
        TensorFileError: The file is cut off, or its header is too long.
    """
    size = int.from_bytes(begin, "little")
    if len(begin) < SIZE_BYTES or size > file_bytes - SIZE_BYTES:
        raise TensorFileError("it is cut off")
    if size > MAX_HEADER_BYTES:
        raise TensorFileError(
            f"it has {size} bytes beside its tensors; at most {MAX_HEADER_BYTES}. "
            "Keep long lists of numbers in tensors"
        )
    return SIZE_BYTES + size


def split_file(data: Tensor) -> tuple[bytes, Tensor]:
    """Part a file into its head and the bytes of its tensors; nothing is parsed yet.

    Args:
        data: (N,) uint8.

    Raises:
        TensorFileError: As ``head_bytes``.
    """
    end = head_bytes(data[:SIZE_BYTES].numpy().tobytes(), data.numel())
    return data[:end].numpy().tobytes(), data[end:]


def read(data: Tensor) -> TensorFile:
    """Read a file without metadata of any length; its tensors are views into ``data``.

    Args:
        data: (N,) uint8.

    Raises:
        TensorFileError: It is damaged, or holds more than a limit allows.
    """
    head, body = split_file(data)
    check_head(head)
    return TensorFile(head, views(head, body))


def views(head: bytes, body: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a file as views into ``body``, in its order.

    The caller has made sure that the header is small enough to parse.

    Raises:
        TensorFileError: As ``extents``.
    """
    return {name: _view(extent, body) for name, extent in extents(head, body.numel()).items()}


class Extent(NamedTuple):
    """Where a tensor lies in a file, from the end of the head.

    Attributes:
        dtype: Of its numbers.
        shape: Any.
        begin: Its first byte.
        end: The one after its last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def check_head(head: bytes) -> None:
    """Check that a head is of no more than can be parsed.

    Raises:
        TensorFileError: It is.
    """
    marks = sum(head.count(mark) for mark in (b"[", b"{", b","))
    if head.count(b"{") > MAX_TENSORS + 2 or marks > MAX_TENSORS * NODES_PER_TENSOR:
        raise TensorFileError(f"it has over {MAX_TENSORS} tensors, or ones of far too many dimensions")


def extents(head: bytes, body_bytes: int) -> dict[str, Extent]:
    """Return name to extent of the tensors of a file, in its order.

    Args:
        head: Small enough to parse, as ``check_head`` sees to.
        body_bytes: Length of what comes after it.

    Raises:
        TensorFileError: The header is damaged, or does not fit the bytes: what it claims has to
            cover all of them, each once.
    """
    try:
        raw = msgspec.json.decode(memoryview(head)[SIZE_BYTES:], type=dict[str, msgspec.Raw])
        raw.pop(_METADATA, None)
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TensorFileError(shorten(error)) from error
    found, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.data_offsets[0] != end:
            raise TensorFileError("its tensors overlap, or leave bytes between them")
        end = entry.data_offsets[1]
        found[name] = _extent(entry, body_bytes)
    if end != body_bytes:
        raise TensorFileError(f"its header tells of {end} bytes of tensors; it has {body_bytes}")
    return found


def shorten(error: Exception) -> str:
    """Return what a parser says, fit for a terminal: it may quote names that an attacker has chosen."""
    text = "".join(c for c in str(error) if c.isprintable())[:200]
    return text or type(error).__name__


def _extent(entry: _Entry, body_bytes: int) -> Extent:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise TensorFileError("it has a tensor of a type that is not known here")
    if len(entry.shape) > MAX_DIMS:
        raise TensorFileError(f"it has a tensor of over {MAX_DIMS} dimensions")
    if not all(0 <= n < _MAX_DIMENSION for n in entry.shape):
        raise TensorFileError("it has a tensor whose shape is impossible")
    begin, end = entry.data_offsets
    if math.prod(n for n in entry.shape if n) > _MAX_NUMBERS or begin < 0 or end > body_bytes:
        raise TensorFileError("it has a tensor that is larger than the file")
    if math.prod(entry.shape) * dtype.itemsize != end - begin:
        raise TensorFileError("it has a tensor whose shape and length do not fit")
    return Extent(dtype, tuple(entry.shape), begin, end)


def _view(extent: Extent, body: Tensor) -> Tensor:
    part = body[extent.begin : extent.end]
    if extent.dtype is torch.bool and bool((part > 1).any()):
        raise TensorFileError("it has a truth value that is neither true nor false")
    if part.storage_offset() % extent.dtype.itemsize:
        part = part.clone()
    return part.view(extent.dtype).view(extent.shape)


def _on_host(name: str, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.dtype not in _NAMES or tensor.is_meta:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device.type}".replace("torch.", "")
        raise TensorFileError(f"tensor '{name}' is of a kind that cannot be saved ({kind})")
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
