"""Arguments into shared memory, results out of it: the host's side of one worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..hooks.types import (
    AnotherPass,
    Batch,
    Histogram,
    LossScale,
    LossTerm,
    Report,
    TensorMap,
    TensorSpec,
)
from .channel import Channel
from .memory import Arena, Region, aligned
from .protocol import (
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

#: A reply that is larger than a message goes here: histograms and pictures of a monitor.
#: Larger than any report that the check admits, once encoded.
OUTBOX_BYTES = 12 * 1024 * 1024
SMALL_OUTBOX_BYTES = 256 * 1024
_MAX_LAYOUT_ALIASES = 64
_MAX_LAYOUTS = 256
_RGB = 3


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Exchange:
    """Regions and layouts that one worker knows.

    Args:
        channel: Where it is told of new ones.
        arena: Memory that needs no copy.
    """

    def __init__(self, channel: Channel, arena: Arena) -> None:
        self._channel = channel
        self._arena = arena
        self._attached: set[int] = set()
        self._own: dict[int, Region] = {}
        self._shared: list[Tensor] = []
        self._releases_seen = len(arena.released)
        self._layouts: dict[tuple[TensorSpec, ...], int] = {}
        # Hashing thousands of specs for every call would cost more than the call.
        self._layout_aliases: dict[int, tuple[tuple[TensorSpec, ...], int]] = {}

    def attach(self, region: Region) -> None:
        """Let the worker map ``region``, if it has not yet."""
        if region.id not in self._attached:
            self._channel.tell(Attach(region.id, region.nbytes, region.writable), (region.fd,))
            self._attached.add(region.id)

    def new_region(self, nbytes: int, *, writable: bool) -> Region:
        """Make a region of this worker's own."""
        region = Region(nbytes, writable=writable)
        self._own[region.id] = region
        self.attach(region)
        return region

    def drop_region(self, region: Region) -> None:
        """Let the worker forget a region of its own and free it."""
        self._channel.tell(Detach(region.id))
        self._attached.discard(region.id)
        self._own.pop(region.id).close()

    @property
    def result_bytes(self) -> int:
        """Memory that the worker writes results to; it counts towards the plugin's budget."""
        return sum(region.nbytes for region in self._own.values() if region.writable)

    def close(self) -> None:
        """Free this worker's regions."""
        for region in self._own.values():
            region.close()
        self._own.clear()
        for tensor in self._shared:
            self._arena.release(tensor)
        self._shared.clear()

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
        if number is None:
            number = self._layouts[specs] = len(self._layouts) + 1
            data = encoder.encode(
                [
                    (
                        spec.name,
                        str(spec.dtype).removeprefix("torch."),
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
        for region in released[self._releases_seen :]:
            if region in self._attached:
                self._channel.tell(Detach(region))
                self._attached.discard(region)
        self._releases_seen = len(released)

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
    """

    def __init__(self, exchange: Exchange, outbox_bytes: int) -> None:
        self._exchange = exchange
        self._staging: Region | None = None
        self._result: Region | None = None
        self._staged = 0
        #: Host-owned memory for results that are maps, and views of it and the result region by layout.
        self._copy: Tensor | None = None
        self._copy_specs: tuple[TensorSpec, ...] = ()
        self._result_maps: dict[int, tuple[TensorMap, TensorMap]] = {}
        self.outbox = exchange.new_region(outbox_bytes, writable=True)

    def pack(
        self, names: tuple[str, ...], arguments: Mapping[str, Any], *, snapshot: bool
    ) -> dict[str, Argument]:
        """Place the arguments where the worker can read them.

        Args:
            names: Those to place; ``step`` travels by itself.
            snapshot: Copy even what lies in shared memory, because it changes before the worker reads it.
        """
        wanted = {
            name: _as_map(value) if isinstance(value := arguments[name], Mapping) else value for name in names
        }
        self._exchange.forget_released()
        needed = sum(self._staging_bytes(value, snapshot=snapshot) for value in wanted.values())
        self._staging = self._ensure(self._staging, needed, writable=False)
        self._staged = 0
        return {name: self._pack(value, snapshot=snapshot) for name, value in wanted.items()}

    def place_result(self, changes: str | None, arguments: Mapping[str, Any]) -> int:
        """Make room for what the method may change; returns the region's number, or 0."""
        match changes:
            case None:
                return 0
            case "batch":
                batch: Batch = arguments["batch"]
                soft = len(batch) * (batch.num_classes or 0) * torch.float32.itemsize
                nbytes = aligned(_nbytes(batch.inputs)) + max(_nbytes(batch.targets), soft)
            case "loss":
                nbytes = _nbytes(arguments["outputs"])
            case _:
                nbytes = _as_map(arguments[changes]).buffer.numel()
        self._result = self._ensure(self._result, nbytes, writable=True)
        return self._result.id if self._result else 0

    def unpack(self, done: Done, changes: str | None, arguments: Mapping[str, Any]) -> Any:
        """Copy the result out of what the worker can still write, before anyone looks at it.

        Raises:
            MessageError: The reply names a result that this hook does not have.
        """
        expected = {
            None: ("report",),
            "batch": ("batch", "soft_batch"),
            "loss": ("loss_term", "loss_scale"),
            "gradients": ("map",),
            "parameters": ("map", "another_pass"),
        }[changes]
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
                return AnotherPass(self._copy_map(_as_map(arguments["parameters"])))
            case "map":
                return self._copy_map(_as_map(arguments[str(changes)]))
        return self._copy_batch(arguments["batch"], soft=done.result == "soft_batch")

    # inside

    def _ensure(self, region: Region | None, nbytes: int, *, writable: bool) -> Region | None:
        if nbytes == 0 or (region is not None and region.nbytes >= nbytes):
            return region
        if region is not None:
            self._result_maps.clear()
            self._exchange.drop_region(region)
        return self._exchange.new_region(nbytes, writable=writable)

    def _staging_bytes(self, value: Any, *, snapshot: bool) -> int:
        match value:
            case Batch():
                tensors = [value.inputs, value.targets, value.indices]
            case TensorMap():
                tensors = [value.buffer]
            case Tensor():
                tensors = [value]
            case _:
                return 0
        return sum(
            aligned(_nbytes(tensor))
            for tensor in tensors
            if snapshot or self._exchange.locate(tensor) is None
        )

    def _pack(self, value: Any, *, snapshot: bool) -> Argument:
        match value:
            case Batch(inputs, targets, indices, num_classes):
                return BatchAt(
                    self._pack_tensor(inputs, snapshot=snapshot),
                    self._pack_tensor(targets, snapshot=snapshot),
                    self._pack_tensor(indices, snapshot=snapshot),
                    num_classes,
                )
            case TensorMap():
                layout = self._exchange.layout(value.specs)
                region, offset, _, _ = self._pack_tensor(value.buffer, snapshot=snapshot)
                return MapAt(layout, region, offset, value.buffer.numel())
            case Tensor():
                return TensorAt(self._pack_tensor(value, snapshot=snapshot))
        return Number(float(value))

    def _pack_tensor(self, tensor: Tensor, *, snapshot: bool) -> TensorRef:
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        place = None if snapshot else self._exchange.locate(tensor)
        if place is not None:
            return (place[0].id, place[1], dtype, shape)
        offset, nbytes = self._staged, _nbytes(tensor)
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
        place = self._result.buffer[offset : offset + _nbytes(example)]
        return place.view(example.dtype).view(example.shape).clone()

    def _copy_batch(self, batch: Batch, *, soft: bool) -> Batch:
        inputs = self._copy_like(batch.inputs, 0)
        example = batch.targets
        if soft:
            if batch.num_classes is None:
                raise MessageError("class probabilities for a regression")
            example = torch.empty((len(batch), batch.num_classes), dtype=torch.float32)
        return batch.with_(inputs=inputs, targets=self._copy_like(example, aligned(_nbytes(inputs))))

    def _copy_map(self, argument: TensorMap) -> TensorMap:
        """Copy tensor by tensor, so that gaps keep the host's zeros.

        The memory of the copy is used again by the next call of this slot.
        """
        written, copy = self._maps_of(argument)
        if argument.specs is not self._copy_specs:
            # Gaps lie elsewhere in another layout.
            copy.buffer.zero_()
            self._copy_specs = argument.specs
        if len(copy):
            torch._foreach_copy_(list(copy.values()), list(written.values()))
        return copy

    def _maps_of(self, argument: TensorMap) -> tuple[TensorMap, TensorMap]:
        assert self._result is not None  # noqa: S101 - place_result has run for this call
        size = argument.buffer.numel()
        if self._copy is None or self._copy.numel() < size:
            if self._copy is not None:
                self._exchange.release(self._copy)
            self._copy = self._exchange.allocate((size,), torch.uint8)
            self._copy_specs = ()
            self._result_maps.clear()
        pair = self._result_maps.get(id(argument.specs))
        if pair is None:
            if len(self._result_maps) >= _MAX_LAYOUT_ALIASES:
                self._result_maps.clear()
            pair = self._result_maps[id(argument.specs)] = (
                TensorMap(argument.specs, self._result.buffer[:size]),
                TensorMap(argument.specs, self._copy[:size]),
            )
        return pair


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
