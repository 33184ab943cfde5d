"""Arguments into shared memory, results out of it: the host's side of one worker."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ....hooks.types import AnotherPass, Batch, Histogram, LossScale, LossTerm, Report, TensorMap, TensorSpec
from ....tensors.buffer_pool import Spares
from ...transport.messages import (
    Argument,
    Attach,
    BatchAt,
    Detach,
    Done,
    Layout,
    MapAt,
    MessageError,
    Number,
    TensorAt,
    TensorRef,
    WireImage,
    WireReport,
    encoder,
)
from ...transport.shared_memory import Arena, Region, aligned, whole_pages
from .channel import Channel
from .checked_copy import CheckedCopy

#: A reply that is larger than a message goes here: histograms and pictures of a monitor.
#: Larger than any report that the check admits, once encoded.
OUTBOX_BYTES = 12 * 1024 * 1024
SMALL_OUTBOX_BYTES = 256 * 1024
_MAX_LAYOUT_ALIASES = 64
_MAX_LAYOUTS = 256
_RGB = 3

#: The argument that a method changes to the kinds of result that it may have.
_RESULTS: Mapping[str | None, tuple[str, ...]] = {
    None: ("report",),
    "batch": ("batch", "soft_batch"),
    "loss": ("loss_term", "loss_scale"),
    "gradients": ("map",),
    "parameters": ("map", "another_pass"),
}
_SINGULAR = {"gradients": "gradient", "parameters": "parameter"}


class Exchange:
    """Regions and layouts that one worker knows.

    Args:
        channel: Where it is told of new ones.
        arena: Memory that needs no copy.
        left: Regions of a worker of the same plugin that is gone; this one takes what it can use.
    """

    def __init__(self, channel: Channel, arena: Arena, left: list[Region]) -> None:
        self._channel = channel
        self._arena = arena
        self._left = left
        self._attached: dict[int, int] = {}  # number to size in bytes
        self._own: dict[int, Region] = {}
        #: Memory that the worker writes results to; it counts towards the plugin's budget. What was replaced
        #: by something larger stays in the count: nothing makes a worker let go of it.
        self.result_bytes = 0
        self._shared: list[Tensor] = []
        self._releases_seen = len(arena.released)
        self._layouts: dict[tuple[TensorSpec, ...], int] = {}
        # Hashing thousands of specs for every call would cost more than the call.
        self._layout_aliases: dict[int, tuple[tuple[TensorSpec, ...], int]] = {}
        # Maps in shared memory, by identity: a run hands over the same two or three at every step.
        self._places: dict[int, tuple[TensorMap, MapAt]] = {}

    def place(self, tensors: TensorMap) -> MapAt | None:
        """Return where the worker can read a map without a copy, None if it cannot."""
        buffer = tensors.buffer  # what was not there yet comes there now
        known = self._places.get(id(tensors))
        if known is not None:
            return known[1]
        found = self.locate(buffer)
        if found is None:
            return None
        at = MapAt(self.layout(tensors.specs), found[0].id, found[1], buffer.numel())
        if len(self._places) >= _MAX_LAYOUT_ALIASES:
            self._places.clear()
        # Holding the map keeps its id from being given to another.
        self._places[id(tensors)] = (tensors, at)
        return at

    def attach(self, region: Region) -> None:
        """Let the worker map ``region``, if it has not yet."""
        if region.id not in self._attached:
            self._channel.widen(region.nbytes)
            with region.handed_out() as fd:
                self._channel.tell(Attach(region.id, region.nbytes, region.writable), (fd,))
            self._attached[region.id] = region.nbytes

    def new_region(self, nbytes: int, *, writable: bool) -> Region:
        """Make a region of this worker's own.

        Raises:
            PluginMemoryError: A writable one does not fit into what is left of the budget.
        """
        if writable:
            self._reserve(whole_pages(nbytes))
        region = self._take(whole_pages(nbytes), writable=writable) or Region(nbytes, writable=writable)
        self._own[region.id] = region
        self.attach(region)
        return region

    def _take(self, nbytes: int, *, writable: bool) -> Region | None:
        # To free hundreds of MiB and to ask for as many takes longer than to start a worker.
        for at, region in enumerate(self._left):
            if region.nbytes == nbytes and region.writable == writable:
                return self._left.pop(at)
        return None

    def _reserve(self, nbytes: int) -> None:
        self._channel.reserve(self.result_bytes + nbytes)
        self.result_bytes += nbytes

    def drop_region(self, region: Region) -> None:
        """Let the worker forget a region of its own and free it."""
        self.detach(region.id)
        self._own.pop(region.id).close()

    def close(self) -> list[Region]:
        """Return this worker's regions, which are the caller's to close from now on."""
        regions = list(self._own.values())
        self._own.clear()
        self.result_bytes = 0
        for tensor in self._shared:
            self._arena.release(tensor)
        self._shared.clear()
        self._places.clear()
        return regions

    def layout(self, specs: tuple[TensorSpec, ...]) -> int:
        """Return the number by which the worker knows ``specs``."""
        alias = self._layout_aliases.get(id(specs))
        if alias is not None:
            return alias[1]
        number = self._layouts.get(specs)
        if number is None and len(self._layouts) >= _MAX_LAYOUTS:
            # Numbers start again; the worker drops what it knew by them.
            self._layouts.clear()
            self._layout_aliases.clear()
            self._places.clear()
        if number is None:
            number = self._layouts[specs] = len(self._layouts) + 1
            data = encoder.encode(
                [
                    (
                        spec.name,
                        _dtype_name(spec.dtype),
                        spec.shape,
                        spec.offset_bytes,
                        spec.nbytes,
                    )
                    for spec in specs
                ]
            )
            region = self.new_region(len(data), writable=False)
            region.buffer[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            self._channel.tell(Layout(number, region.id, len(data)))
            self.drop_region(region)
        if len(self._layout_aliases) >= _MAX_LAYOUT_ALIASES:
            self._layout_aliases.clear()
        # Holding the tuple keeps its id from being given to another.
        self._layout_aliases[id(specs)] = (specs, number)
        return number

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a host-owned tensor that other plugins can read without a copy."""
        tensor = self._arena.allocate(shape, dtype)
        self._shared.append(tensor)
        return tensor

    def release(self, tensor: Tensor) -> None:
        """Give up a tensor that ``allocate`` returned."""
        self._shared = [other for other in self._shared if other is not tensor]
        self._arena.release(tensor)

    def forget_released(self) -> None:
        """Let the worker unmap what others have given up."""
        released = self._arena.released
        if len(released) == self._releases_seen:
            return
        # A map that is kept here would keep the memory under it.
        self._places.clear()
        for region in released[self._releases_seen :]:
            if region in self._attached:
                self.detach(region)
        self._releases_seen = len(released)

    def detach(self, region: int) -> None:
        """Let the worker forget the region of that number."""
        self._channel.tell(Detach(region))
        self._channel.widen(-self._attached.pop(region))

    def locate(self, tensor: Tensor) -> tuple[Region, int] | None:
        """Return where the worker can read ``tensor`` without a copy, if anywhere."""
        place = self._arena.locate(tensor)
        if place is not None:
            self.attach(place[0])
        return place


class Slot:
    """Memory for one call in flight: copies of arguments, the result, and a large reply.

    Args:
        exchange: The worker's.
        outbox_bytes: Size of the largest reply.
        spares: Memory for results that are no maps, which whoever gets them may keep; one for all slots of
            a plugin, since each would keep some.
    """

    def __init__(self, exchange: Exchange, outbox_bytes: int, spares: Spares) -> None:
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
            if isinstance(value, Mapping):
                value = _as_map(value)
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

    def place_result(self, changes: str | None, arguments: Mapping[str, Any]) -> int:
        """Make room for what the method may change; returns the region's number, or 0."""
        match changes:
            case None:
                return 0
            case "batch":
                batch: Batch = arguments["batch"]
                soft = len(batch) * (batch.num_classes or 0) * torch.float32.itemsize
                nbytes = aligned(batch.inputs.nbytes) + max(batch.targets.nbytes, soft)
            case "loss":
                nbytes = arguments["outputs"].nbytes
            case _:
                nbytes = _as_map(arguments[changes]).buffer.numel()
        self._result = self._ensure(self._result, nbytes, writable=True)
        return self._result.id if self._result else 0

    def unpack(
        self,
        done: Done,
        changes: str | None,
        arguments: Mapping[str, Any],
        into: TensorMap | None = None,
    ) -> Any:
        """Copy the result out of what the worker can still write, before anyone looks at it.

        Args:
            done: What the worker said of it.
            changes: The argument that it replaces.
            arguments: Of the call.
            into: Where a map goes, of the argument's layout; memory of the slot's by default.

        Returns:
            The result. A map is one whose numbers are all finite; it is valid until the next call.

        Raises:
            MessageError: The reply names a result that this hook does not have.
            ResultError: A map holds a number that is not finite; ``into`` is then undefined.
        """
        expected = _RESULTS[changes]
        if done.result == "none":
            return None
        if done.result not in expected:
            raise MessageError(f"a result of kind {done.result!r:.40}; expected {' or '.join(expected)}")
        match done.result:
            case "report":
                return _report(done.report)
            case "loss_scale":
                return LossScale(done.value)
            case "loss_term":
                return LossTerm(done.value, self._copy_like(arguments["outputs"], 0))
            case "another_pass":
                return AnotherPass(self._copy_map("parameters", arguments, into))
            case "map":
                return self._copy_map(str(changes), arguments, into)
        return self._copy_batch(arguments["batch"], soft=done.result == "soft_batch")

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
            case Batch():
                return BatchAt(next(refs), next(refs), next(refs), value.num_classes)
            case TensorMap():
                region, offset, _, _ = next(refs)
                return MapAt(self._exchange.layout(value.specs), region, offset, value.buffer.numel())
            case Tensor():
                return TensorAt(next(refs))
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

    def _copy_like(self, example: Tensor, offset: int) -> Tensor:
        assert self._result is not None  # noqa: S101 - place_result has run for this call
        place = self._result.buffer[offset : offset + example.nbytes]
        if example.dtype == torch.bool:
            # A byte that is neither 0 nor 1 is no bool, and what torch does with it is not defined.
            return place.ne(0).view(example.shape)
        written = place.view(example.dtype).view(example.shape)
        return self._spares.take(example.shape, example.dtype).copy_(written)

    def _copy_batch(self, batch: Batch, *, soft: bool) -> Batch:
        inputs = self._copy_like(batch.inputs, 0)
        example = batch.targets
        if soft:
            if batch.num_classes is None:
                raise MessageError("class probabilities for a regression")
            example = torch.empty((len(batch), batch.num_classes), dtype=torch.float32)
        return batch.with_(inputs=inputs, targets=self._copy_like(example, aligned(inputs.nbytes)))

    def _copy_map(self, changes: str, arguments: Mapping[str, Any], into: TensorMap | None) -> TensorMap:
        argument = _as_map(arguments[changes])
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
        copied = known[2].run(_SINGULAR[changes])
        return copied if into is None else into

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


def _tensors(value: Any) -> tuple[Tensor, ...]:
    match value:
        case Batch():
            return (value.inputs, value.targets, value.indices)
        case TensorMap():
            return (value.buffer,)
        case Tensor():
            return (value,)
    return ()


@functools.cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _as_map(value: Mapping[str, Tensor]) -> TensorMap:
    """Lay out a mapping that a trusted plugin returned, so that it can be shared."""
    if isinstance(value, TensorMap):
        return value
    tensors = TensorMap.like(value)
    for name, tensor in value.items():
        tensors[name].copy_(tensor)
    return tensors


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
