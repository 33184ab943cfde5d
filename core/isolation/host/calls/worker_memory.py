"""Memory that one worker knows: regions, and layouts of tensors in them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ....hooks.types import TensorMap, TensorSpec
from ...transport.messages import (
    Attach,
    Detach,
    MapAt,
    MapLayout,
    encoder,
)
from ...transport.shared_memory import Arena, Region, whole_pages
from .channel import Channel

_MAX_LAYOUT_ALIASES = 64
_MAX_LAYOUTS = 256


class WorkerMemory:
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
            self._channel.tell(MapLayout(number, region.id, len(data)))
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


@functools.cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
