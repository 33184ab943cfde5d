"""Arguments into shared memory, results out of it: the host's side of one worker."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....hooks.specs import HOOKS
from ....hooks.trees import Tree, tensors_of
from ....hooks.types import Batch, Histogram, Report, TensorMap, TensorSpec
from ....plugins.machine_memory import MIB
from ....plugins.result_kinds import ResultKind, as_map
from ....tensors.buffer_pool import BufferPool
from ....tensors.byte_batch import ByteBatch
from ...transport.messages import (
    Argument,
    BatchAt,
    DictAt,
    Done,
    ListAt,
    MapAt,
    MessageError,
    Node,
    Number,
    Numbers,
    TensorAt,
    TensorRef,
    TreesAt,
    WireImage,
    WireReport,
)
from ...transport.shared_memory import Region, aligned
from .checked_copy import CheckedCopy
from .worker_memory import _MAX_LAYOUT_ALIASES, WorkerMemory, _dtype_name

#: A reply that is larger than a message goes here: histograms and pictures of a monitor.
#: Larger than any report that the check admits, once encoded.
OUTBOX_BYTES = 12 * MIB
SMALL_OUTBOX_BYTES = 256 * 1024
_RGB = 3


class CallMemory:
    """Memory for one call in flight: copies of arguments, the result, and a large reply.

    Args:
        exchange: The worker's.
        outbox_bytes: Size of the largest reply.
        spares: Memory for results that are no maps, which whoever gets them may keep; one for all slots of
            a plugin, since each would keep some.
    """

    def __init__(self, exchange: WorkerMemory, outbox_bytes: int, spares: BufferPool) -> None:
        self._exchange = exchange
        self._staging: Region | None = None
        self._result: Region | None = None
        self._staged = 0
        #: Host-owned memory for results that are maps.
        self._copy: Tensor | None = None
        #: The layout of what is in it.
        self._copied_specs: tuple[TensorSpec, ...] = ()
        #: By the identities of a layout and of the memory that its tensors are copied to.
        self._copies: dict[tuple[int, int], tuple[tuple[TensorSpec, ...], Tensor, CheckedCopy]] = {}
        self._spares = spares
        self.outbox = exchange.new_region(outbox_bytes, writable=True)

    def pack(
        self, names: tuple[str, ...], arguments: Mapping[str, Any], *, snapshot: bool
    ) -> dict[str, Argument]:
        """Place the arguments where the worker can read them.

        Args:
            names: Those to place; ``step`` travels by itself.
            snapshot: Copy even what lies in shared memory, because it changes before the worker reads it.
        """
        self._exchange.forget_released()
        packed: dict[str, Argument] = {}
        to_copy: dict[str, Any] = {}
        for name in names:
            value = arguments[name]
            if isinstance(value, Mapping) and name not in _named("Tree"):
                if name in _named("Metrics"):
                    packed[name] = Numbers({key: float(number) for key, number in value.items()})
                    continue
                value = as_map(value)
                place = None if snapshot else self._exchange.place(value)
                if place is not None:
                    packed[name] = place
                    continue
            to_copy[name] = value
        if to_copy:
            self._stage(to_copy, packed, snapshot=snapshot)
        return packed

    def _stage(self, values: Mapping[str, Any], packed: dict[str, Argument], *, snapshot: bool) -> None:
        """Place what does not lie in shared memory as a whole."""
        tensors = [tensor for value in values.values() for tensor in _tensors(value)]
        places = [None if snapshot else self._exchange.locate(tensor) for tensor in tensors]
        needed = sum(
            aligned(tensor.nbytes) for tensor, place in zip(tensors, places, strict=True) if place is None
        )
        self._staging = self._ensure(self._staging, needed, writable=False)
        self._staged = 0
        refs = iter([self._put(tensor, place) for tensor, place in zip(tensors, places, strict=True)])
        for name, value in values.items():
            packed[name] = self._describe(value, refs)

    def place_result(self, kind: ResultKind, arguments: Mapping[str, Any]) -> int:
        """Make room for what the method may return; returns the region's number, or 0."""
        sizes = kind.room(arguments)
        if not sizes:
            return 0
        nbytes = 0
        for size in sizes:
            nbytes = aligned(nbytes) + size
        self._result = self._ensure(self._result, nbytes, writable=True)
        return self._result.id if self._result else 0

    def unpack(
        self,
        done: Done,
        kind: ResultKind,
        arguments: Mapping[str, Any],
        into: TensorMap | None = None,
    ) -> Any:
        """Copy the result out of what the worker can still write, before anyone looks at it.

        Args:
            done: What the worker said of it.
            kind: Of what it may be.
            arguments: Of the call.
            into: Where a map goes, of the argument's layout; memory of the slot's by default.

        Returns:
            The result. A map is one whose numbers are all finite; it is valid until the next call.

        Raises:
            MessageError: The reply names a result that this hook does not have.
            ResultError: There can be no such result; or a map holds a number that is not finite, and
                ``into`` is then undefined.
        """
        if done.result == "none":
            return None
        if done.result not in kind.forms:
            raise MessageError(f"a result of kind {done.result!r:.40}; expected {' or '.join(kind.forms)}")
        return kind.read(done.result, done.value, arguments, _ResultReader(self, done.report, into))

    def copy_tensor(self, example: Tensor, offset: int) -> Tensor:
        """Return a copy of what lies at ``offset`` of the result, as ``example`` lies."""
        assert self._result is not None  # noqa: S101 - place_result has run for this call
        place = self._result.buffer[offset : offset + example.nbytes]
        if example.dtype == torch.bool:
            # A byte that is neither 0 nor 1 is no bool, and what torch does with it is not defined.
            return place.ne(0).view(example.shape)
        written = place.view(example.dtype).view(example.shape)
        return self._spares.take(example.shape, example.dtype).copy_(written)

    def copy_map(self, argument: TensorMap, what: str, into: TensorMap | None) -> TensorMap:
        """Return a checked copy of the result, which lies as ``argument``; see ``unpack``."""
        size = argument.buffer.numel()
        target = self._own_copy(size) if into is None else into.buffer
        if into is None and argument.specs is not self._copied_specs:
            # What one layout has, another may lack: that must not show in a flat pass.
            target.zero_()
            self._copied_specs = argument.specs
        key = (id(argument.specs), id(target))
        known = self._copies.get(key)
        if known is None:
            if len(self._copies) >= _MAX_LAYOUT_ALIASES:
                self._copies.clear()
            assert self._result is not None  # noqa: S101 - place_result has run for this call
            # Holding the tuple and the target keeps their ids from being given to others.
            copy = CheckedCopy(argument.specs, self._result.buffer[:size], target[:size])
            known = self._copies[key] = (argument.specs, target, copy)
        copied = known[2].run(what)
        return copied if into is None else into

    def close(self) -> None:
        """Let go of all memory at once: the error that ended its worker may hold the slot for long."""
        self._staging = self._result = self._copy = None
        self._copied_specs = ()
        self._copies.clear()

    # inside

    def _ensure(self, region: Region | None, nbytes: int, *, writable: bool) -> Region | None:
        if nbytes == 0 or (region is not None and region.nbytes >= nbytes):
            return region
        if region is not None:
            self._copies.clear()
            self._exchange.drop_region(region)
        return self._exchange.new_region(nbytes, writable=writable)

    def _describe(self, value: Any, refs: Iterator[TensorRef]) -> Argument:
        """Describe an argument by what ``_put`` returned for each of its tensors."""
        match value:
            case Batch(inputs=Tensor(), targets=Tensor()):
                in_bytes = isinstance(value, ByteBatch)
                return BatchAt(next(refs), next(refs), next(refs), value.num_classes, in_bytes)
            case Batch():
                inputs, targets = _node(value.inputs, refs), _node(value.targets, refs)
                return TreesAt(inputs, targets, next(refs), value.num_classes)
            case TensorMap():
                region, offset, _, _ = next(refs)
                return MapAt(self._exchange.layout(value.specs), region, offset, value.buffer.numel())
            case Tensor() | dict() | list():
                return _node(value, refs)
        return Number(float(value))

    def _put(self, tensor: Tensor, place: tuple[Region, int] | None) -> TensorRef:
        """Copy a tensor unless it lies in shared memory; return where the worker finds it."""
        dtype, shape = _dtype_name(tensor.dtype), tuple(tensor.shape)
        if place is not None:
            return (place[0].id, place[1], dtype, shape)
        offset, nbytes = self._staged, tensor.nbytes
        self._staged += aligned(nbytes)
        if self._staging is None:
            return (self._exchange_empty(), 0, dtype, shape)
        self._staging.buffer[offset : offset + nbytes].view(tensor.dtype).view(shape).copy_(tensor.detach())
        return (self._staging.id, offset, dtype, shape)

    def _exchange_empty(self) -> int:
        """Return a region for a tensor without elements, which needs an address all the same."""
        self._staging = self._exchange.new_region(1, writable=False)
        return self._staging.id

    def _own_copy(self, size: int) -> Tensor:
        """Return memory for a map that is to be handed on, in which other plugins can read it.

        The next call of this slot uses it again.
        """
        if self._copy is None or self._copy.numel() < size:
            if self._copy is not None:
                self._exchange.release(self._copy)
            self._copies.clear()
            self._copied_specs = ()
            self._copy = self._exchange.allocate((size,), torch.uint8)
        return self._copy


class _ResultReader:
    """What one call has left in its memory; a ``Reader``."""

    def __init__(self, memory: CallMemory, report: WireReport | None, into: TensorMap | None) -> None:
        self._memory = memory
        self._report = report
        self._into = into
        self._end = 0

    def tensor(self, example: Tensor) -> Tensor:
        offset = aligned(self._end)
        self._end = offset + example.nbytes
        return self._memory.copy_tensor(example, offset)

    def map(self, argument: Mapping[str, Tensor], what: str) -> TensorMap:
        return self._memory.copy_map(as_map(argument), what, self._into)

    def report(self) -> Report:
        return _report(self._report)


@functools.cache
def _named(kind: str) -> frozenset[str]:
    """Return the names of arguments of a kind that is a mapping and no map: trees, or numbers by name."""
    annotations = [hook.__annotations__ for hook in HOOKS]
    return frozenset(name for each in annotations for name, found in each.items() if found == kind)


def _node(tree: Tree, refs: Iterator[TensorRef]) -> Node:
    """Describe a tree as ``CallMemory`` does any argument."""
    match tree:
        case dict():
            return DictAt({name: _node(item, refs) for name, item in tree.items()})
        case list():
            return ListAt([_node(item, refs) for item in tree])
    return TensorAt(next(refs))


def _tensors(value: Any) -> Sequence[Tensor]:
    match value:
        case Batch(inputs=Tensor(), targets=Tensor()):
            return (value.inputs, value.targets, value.indices)
        case Batch():
            return (*tensors_of(value.inputs), *tensors_of(value.targets), value.indices)
        case dict() | list():
            return tensors_of(value)
        case TensorMap():
            return (value.buffer,)
        case Tensor():
            return (value,)
    return ()


def _report(report: WireReport | None) -> Report:
    if report is None:
        raise MessageError("a report without one")
    return Report(
        dict(report.scalars),
        {name: Histogram(wire.counts, wire.edges) for name, wire in report.histograms.items()},
        {name: _image(wire) for name, wire in report.images.items()},
    )


def _image(wire: WireImage) -> Tensor:
    if wire.channels not in (0, _RGB) or min(wire.height, wire.width) < 1:
        raise MessageError("an image that is neither (H, W) nor (H, W, 3)")
    if len(wire.data) != wire.height * wire.width * max(wire.channels, 1):
        raise MessageError("an image whose data do not fit its size")
    shape = (wire.height, wire.width, wire.channels) if wire.channels else (wire.height, wire.width)
    return torch.frombuffer(bytearray(wire.data), dtype=torch.uint8).view(shape)
